"""Run the lessons in order, each in a fresh kernel, and stop at the first that fails.

python tools/execute.py [--out DIR | --in-place] [NOTEBOOK ...]

A line says which lesson runs and where its training or scoring is. Runs go to runs/, or to the
folder that KIT_RUNS names. KIT_LESSONS="00 05" runs these lessons alone.
"""

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
from ipykernel.kernelspec import get_kernel_dict, make_ipkernel_cmd
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from traitlets import default

from kit import show

PROJECT = Path(__file__).resolve().parents[1]
CELL_SECONDS, LAST_LINES = 900, 4  # limit of a cell; lines shown of a traceback
TERMINAL_SECONDS, LOG_SECONDS = 0.5, 20  # between two progress lines
CHECK = re.compile(r"^\s*(?:assert\b|check\w*\(|[\w.]+\.check\w*\()", re.MULTILINE)
ANSI = re.compile(r"\x1b\[[0-9;]*m")
WARNING = re.compile(r"^.*\w*Warning: .*\n(?:  .*\n)?", re.MULTILINE)
WIDGET = "application/vnd.jupyter.widget-view+json"
NEXT = """
Talk to your model:   make chat
Open the lessons:     make lab
Score another model:  .venv/bin/kit score --help
"""
OTHER_RUNS = (
    "Your runs are as they were. Give your own run another name in PARAMS, or run the "
    "course beside it: KIT_RUNS=runs/course make course"
)


class ThisInterpreter(AsyncKernelManager):
    """A kernel of the running Python. It talks through files, which other users cannot read."""

    kernel_spec = KernelSpec(**get_kernel_dict() | {"argv": make_ipkernel_cmd()})

    @default("transport")
    def _transport(self):
        return "tcp" if os.name == "nt" else "ipc"

    @default("ip")
    def _ip(self):
        self._folder = tempfile.TemporaryDirectory(prefix="kernel-")  # removed with this object
        return "127.0.0.1" if os.name == "nt" else f"{self._folder.name}/socket"


@contextlib.contextmanager
def progress(title):
    """Print the title, and while the block runs the line that the lesson writes to KIT_PROGRESS."""
    terminal, done, start = sys.stdout.isatty(), threading.Event(), time.monotonic()

    def watch(file):
        text = ""
        while not done.wait(TERMINAL_SECONDS if terminal else LOG_SECONDS):
            line = file.read_text(encoding="utf-8").strip() if file.exists() else ""
            minutes, seconds = divmod(int(time.monotonic() - start), 60)
            if terminal:
                print(f"\r{title:20} {minutes:3}:{seconds:02}  {line:60.60}", end="", flush=True)
            elif line not in ("", text):
                print(f"{title:20} {minutes:3}:{seconds:02}  {line}", flush=True)
            text = line

    print(f"{title:20} runs", end="" if terminal else "\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KIT_PROGRESS"] = str(Path(folder, "progress.txt"))
        thread = threading.Thread(
            target=watch, args=[Path(os.environ["KIT_PROGRESS"])], daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            os.environ.pop("KIT_PROGRESS", None)
            print("\r" + " " * 90 + "\r" if terminal else "", end="")


def execute(file):
    """Run `file` in its folder; return (notebook with outputs, sentence of the failure or None)."""
    notebook = nbformat.read(file, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        kernel_manager_class=ThisInterpreter,
        resources={"metadata": {"path": str(file.parent)}},
    )
    try:
        client.execute()
    except (CellControlSignal, DeadKernelError) as error:
        # The traceback of a KitError is its one sentence already.
        errors = [o for cell in code for o in cell.outputs if o.output_type == "error"]
        text = ANSI.sub("", "\n".join(errors[0].traceback)) if errors else str(error)
        last = "\n".join(text.strip().splitlines()[-LAST_LINES:])
        return notebook, f"cell [{max(cell.execution_count or 1 for cell in code)}]: {last}"
    return notebook, None


def clean(notebook, stem):
    """Remove from a notebook what depends on this run alone: times, widget states, warnings."""
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.kernelspec = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata.language_info = {"name": "python"}
    for number, cell in enumerate(notebook.cells, 1):
        cell.setdefault("id", f"{stem[:2]}-{number:02d}")
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            outputs = map(clean_output, cell.outputs)
            cell.outputs = [output for output in outputs if output is not None]


def clean_output(output):
    """Return the output without warnings; None for a widget without a twin and an empty stream."""
    if output.output_type == "stream" and output.name == "stderr":
        output.text = WARNING.sub("", output.text)
        return output if output.text.strip() else None
    data = output.get("data", {})
    if data.pop(WIDGET, None) and not set(data) - {"text/plain"}:
        return None
    return output


def uncommittable(notebook):
    """Return the sentence that says why a cleaned notebook cannot be committed, None if it can."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    for cell in code:
        outputs = json.dumps(cell.outputs, ensure_ascii=False)
        for path in {str(PROJECT), str(Path.home())} - {"/"}:
            if path in outputs:
                return (
                    f"cell [{cell.execution_count}]: expected no path of this machine in an "
                    f"output, got {path}; print it relative to the project"
                )
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(counts) + 1)):
        return f"expected the execution counts 1 to {len(counts)}, got {counts}; run all cells"
    return None


def run(file, options):
    """Run one notebook, write it where the options say, and return whether it passed."""
    start = time.monotonic()
    with progress(file.stem):
        notebook, failure = execute(file.resolve())
    clean(notebook, file.stem)
    failure = failure or (uncommittable(notebook) if options.in_place else None)
    if options.out or options.in_place and not failure:
        target = (options.out or file.parent) / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    checks = sum(len(CHECK.findall(source)) for source in code)
    print(
        f"{file.stem:20} {time.monotonic() - start:6.1f} s  {checks:3} checks in {len(code):3} "
        "cells",
        flush=True,
    )
    if failure:
        print(f"{file.name}: {failure}", file=sys.stderr)
    if failure and "SettingsError: " in failure:
        print(OTHER_RUNS, file=sys.stderr)
    return not failure


def main(argv=None):
    """Run notebooks one after another; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK", help="default: all")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--out", type=Path, metavar="DIR", help="folder for the executed notebooks")
    place.add_argument("--in-place", action="store_true", help="write into the notebooks")
    options, start = parser.parse_args(argv), time.monotonic()
    numbers = os.environ.get("KIT_LESSONS", "").split()
    lessons = [PROJECT / "notebooks" / f"{name}.ipynb" for name in show.LESSONS]
    lessons = [file for file in lessons if not numbers or file.stem[:2] in numbers]
    if not lessons:
        parser.error(f"expected numbers of lessons such as 00 05 in KIT_LESSONS, got {numbers}")
    for file in options.notebooks or lessons:
        if not run(file, options):
            return 1
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    print(f"{'total':20} {minutes} min {seconds:02} s")
    scoreboard = Path(os.environ.get("KIT_RUNS") or PROJECT / "runs") / "scoreboard.txt"
    if scoreboard.exists():
        print("\n" + scoreboard.read_text(encoding="utf-8").rstrip())
    if options.out:
        print(NEXT, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
