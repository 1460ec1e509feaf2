"""Run the lessons in order, each in a fresh kernel of this interpreter, and stop at the first that fails.

python notebooks/execute.py [--out DIR | --in-place] [NOTEBOOK ...]
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from ipykernel.kernelspec import get_kernel_dict, make_ipkernel_cmd
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError

PROJECT = Path(__file__).resolve().parents[1]
CELL_SECONDS, LAST_LINES = 600, 4  # limit of a cell; lines shown of a traceback
CHECK = re.compile(r"^\s*(?:assert\b|check\w*\(|[\w.]+\.check\w*\()", re.MULTILINE)
ANSI = re.compile(r"\x1b\[[0-9;]*m")
WARNING = re.compile(r"^.*\w*Warning: .*\n(?:  .*\n)?", re.MULTILINE)
WIDGET = "application/vnd.jupyter.widget-view+json"


class ThisInterpreter(AsyncKernelManager):
    """A kernel of the running Python, whatever kernel specifications the machine has."""

    kernel_spec = KernelSpec(**get_kernel_dict() | {"argv": make_ipkernel_cmd()})


def execute(file):
    """Run `file` in its folder; return (notebook with outputs, sentence of the failure or None)."""
    notebook = nbformat.read(file, as_version=4)
    for cell in (code := [cell for cell in notebook.cells if cell.cell_type == "code"]):
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(notebook, timeout=CELL_SECONDS, record_timing=False, store_widget_state=False,
                            coalesce_streams=True, kernel_manager_class=ThisInterpreter,
                            resources={"metadata": {"path": str(file.parent)}})
    try:
        client.execute()
    except (CellControlSignal, DeadKernelError) as error:
        # A KitError's traceback is its one sentence already.
        errors = [o for cell in code for o in cell.outputs if o.output_type == "error"]
        told = ANSI.sub("", "\n".join(errors[0].traceback)) if errors else str(error)
        last = "\n".join(told.strip().splitlines()[-LAST_LINES:])
        return notebook, f"cell [{max(cell.execution_count or 1 for cell in code)}]: {last}"
    return notebook, None


def clean(notebook, stem):
    """Make what is committed depend on the lesson alone; raises ValueError when an output cannot be committed."""
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata.language_info = {"name": "python"}
    for number, cell in enumerate(notebook.cells, 1):
        cell.setdefault("id", f"{stem[:2]}-{number:02d}")
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in map(clean_output, cell.outputs) if o is not None]
            told = json.dumps(cell.outputs, ensure_ascii=False)
            for path in {str(PROJECT), str(Path.home())} - {"/"}:
                if path in told:
                    raise ValueError(f"cell [{cell.execution_count}]: an output holds {path}, a path of this machine; "
                                     "print it relative to the project")
    counts = [c.execution_count for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    if counts != list(range(1, len(counts) + 1)):
        raise ValueError(f"execution counts must be 1 to {len(counts)}, came {counts}")


def clean_output(output):
    """`output` without warnings, and None for a widget whose state is not kept or a stream with nothing left."""
    if output.output_type == "stream" and output.name == "stderr":
        output.text = WARNING.sub("", output.text)
        return output if output.text.strip() else None
    data = output.get("data", {})
    if data.pop(WIDGET, None) and not set(data) - {"text/plain"}:
        return None
    return output


def main(argv=None):
    """Run notebooks one after another; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK", help="default: all lessons")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--out", type=Path, metavar="DIR", help="folder for the executed notebooks")
    place.add_argument("--in-place", action="store_true", help="write cleaned outputs into the notebooks")
    options, began = parser.parse_args(argv), time.monotonic()
    for file in options.notebooks or sorted(PROJECT.glob("notebooks/[0-9]*.ipynb")):
        start = time.monotonic()
        notebook, failed = execute(file.resolve())
        if options.in_place and not failed:
            try:
                clean(notebook, file.stem)
            except ValueError as error:
                failed = str(error)
        if options.out or options.in_place and not failed:
            target = (options.out or file.parent) / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, target)
        code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        checks = sum(len(CHECK.findall(source)) for source in code)
        print(f"{file.stem:20} {time.monotonic() - start:6.1f} s  {checks:3} checks in {len(code):3} cells", flush=True)
        if failed:
            print(f"{file.name}: {failed}", file=sys.stderr)
            return 1
    print(f"{'total':20} {time.monotonic() - began:6.1f} s")
    scoreboard = Path(os.environ.get("KIT_RUNS") or PROJECT / "runs" / "course") / "scoreboard.txt"
    if scoreboard.exists():
        print("\n" + scoreboard.read_text(encoding="utf-8").rstrip())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
