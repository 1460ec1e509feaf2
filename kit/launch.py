"""Train on several processes from a notebook: a lesson's script, or a function of a cell.

`run` starts `accelerate launch` on a script. It shares nothing with the kernel, so it always works.
`notebook` forks the kernel by accelerate's notebook_launcher. That launcher hangs or trains copies
in silence in some states of a kernel; these states are refused here (lesson 10). Started by hand,
`accelerate launch` ends with 1 and prints the script's own exit code in its report; `run` raises
the script's error with its exit code.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import pickle
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import psutil

from kit import errors
from kit.engine.distributed import LOST, join
from kit.errors import KitError, MissingError, SettingsError

SCRIPTS = Path(__file__).parents[1] / "scripts"
CONFIGS = SCRIPTS.with_name("configs")
GRACE = 40  # seconds for a save after an interrupt; torch's launcher kills its processes after 30
PROBE_SECONDS = 20
PROGRESS_SECONDS = 5  # between two progress lines of a script
LAUNCHER_NOISE = re.compile(r"[EWF]\d{4} \S+ +\d+ .*torch/distributed/")
SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT


class ChildError(KitError):
    """A process ended with an error that is not a KitError; its traceback is printed above."""

    exit_code = 1


def run(script, num_processes=1, *, strategy="ddp", echo=print, **params) -> dict:
    """Train scripts/<script>.py (or a path) and return its run's report.json, {} without a run.

    params: the script's settings by name. strategy: a file in configs/. echo: called with each
    line of process 0 as soon as it is printed. A KitError of any process is raised here. Any other
    error prints its traceback and raises ChildError. An interrupt stops all processes after the
    run has saved its state. Processes on CPUs communicate by gloo.
    """
    script = Path(script) if str(script).endswith(".py") else SCRIPTS / f"{script}.py"
    config = CONFIGS / f"{strategy}.yaml"
    for file in (script, config):
        if not file.is_file():
            raise MissingError("expected a script and an accelerate config, got no such file; "
                               "write scripts by python -m kit.export", file=file.name)
    launcher = ["accelerate.commands.launch", f"--config_file={config}", "--module",
                f"--num_processes={num_processes}", "--main_process_port=0"]
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "settings.json")
        settings.write_text(json.dumps(params, default=str))
        command = [sys.executable, "-m", *launcher * (num_processes > 1), "kit.launch",
                   str(num_processes), folder, str(script), *["--config", settings] * bool(params)]
        if _live(command, _environment(num_processes), echo, Path(folder)):
            raise _failure(folder, num_processes, echo)
        report = Path(folder, "report.json")  # a link to the report of the run
        return json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}


def notebook(function, num_processes, *args):
    """Fork this kernel into processes that call function(*args); return what process 0 returns.

    Only process 0 prints. SettingsError says in one sentence why this kernel cannot be forked.
    """
    if num_processes == 1:
        return function(*args)
    environment = _environment(num_processes)
    if reason := _unforkable():
        raise SettingsError(f"expected a kernel that can be forked, got one in which {reason}; "
                            "restart the kernel and call kit.launch.notebook first, or use "
                            "kit.launch.run, which needs no restart")
    from accelerate import notebook_launcher
    from accelerate.utils import patch_environment
    from accelerate.utils.other import get_free_port
    from torch.distributed.elastic.multiprocessing.api import SignalException

    handlers = [signal.getsignal(number) for number in SIGNALS]
    logging.disable(logging.CRITICAL)  # the launcher's own lines say less than our sentence
    reader, writer = os.pipe()  # a fork that prints through the kernel's stream mixes its words
    printer = threading.Thread(target=_print_lines, args=(reader, sys.stdout), daemon=True)
    printer.start()
    with tempfile.TemporaryDirectory() as folder:
        try:
            job = (function, num_processes, folder, writer, args)
            with patch_environment(**environment), contextlib.redirect_stdout(None):
                notebook_launcher(_forked, job, num_processes, use_port=str(get_free_port()))
            return pickle.loads(Path(folder, "result.pickle").read_bytes())
        except SignalException:
            raise KeyboardInterrupt from None
        except Exception:
            raise _failure(folder, num_processes, print) from None
        finally:
            os.close(writer)
            printer.join()
            logging.disable(logging.NOTSET)
            for number, handler in zip(SIGNALS, handlers, strict=True):
                signal.signal(number, handler)  # torch replaces them and does not put them back


def _print_lines(reader, stream):
    with open(reader, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            print(line, end="", file=stream, flush=True)


def _environment(num_processes):
    import torch

    gpus = torch.cuda.device_count()  # does not start CUDA
    if 0 < gpus < num_processes:
        raise SettingsError(f"expected a GPU for each of {num_processes} processes, got {gpus} "
                            f"GPUs; set num_processes to {gpus}")
    threads = os.environ.get("OMP_NUM_THREADS", max(1, (os.cpu_count() or 1) // num_processes))
    cpu = {"ACCELERATE_USE_CPU": "true"} if num_processes > 1 and not gpus else {}
    return {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads)} | cpu


def _live(command, environment, echo, folder):
    """Run the command, hand on its lines, return its exit code; none of its processes stays."""
    progress, ended = folder / "progress.txt", threading.Event()
    # `make course` sets KIT_PROGRESS and reads that file itself.
    environment = {"KIT_PROGRESS": str(progress)} | os.environ | environment
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.STDOUT, errors="replace", start_new_session=True)
    threading.Thread(target=_hand_on, args=(progress, ended, echo), daemon=True).start()
    try:
        for line in process.stdout:
            if LAUNCHER_NOISE.match(line):  # it says less than the file of the failed process
                process.stdout.read()
            else:
                echo(line.rstrip("\n"))
        return process.wait()
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=GRACE)
        raise
    finally:
        ended.set()
        with contextlib.suppress(psutil.NoSuchProcess):  # torch gives each process its own session
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.wait()


def _hand_on(progress, ended, echo):
    """Call echo with the progress line of process 0 every few seconds while it changes."""
    line = ""
    while not ended.wait(PROGRESS_SECONDS):
        text = progress.read_text(encoding="utf-8").strip() if progress.exists() else ""
        if text not in ("", line):
            echo(line := text)


def _failure(folder, num_processes, echo):
    """Return the error of the process that failed first; the others failed because of it."""
    failures = [json.loads(file.read_text()) for file in Path(folder).glob("failure-*.json")]
    causes = [failure for failure in failures
              if failure["kind"] != "LostError" and not LOST.search(failure["text"])]
    if not causes:
        return ChildError("expected every process to end by itself, got one that the system ended "
                          "(often because memory was full) or that did not answer within "
                          "KIT_TIMEOUT seconds; lower micro_batch_size, or read the system's log")
    first = min(causes, key=lambda failure: failure["time"])
    if kind := getattr(errors, first["kind"], None):
        return kind(first["text"])
    echo(first["traceback"].rstrip())
    return ChildError(f"process {first['rank']} of {num_processes} ended with {first['kind']}: "
                      f"{first['text']}; its traceback is printed above")


def _unforkable():
    """Return why a fork of this kernel would hang or train alone, None where it works."""
    import torch

    if torch.cuda.is_initialized():
        return "CUDA is in use"
    state = sys.modules.get("accelerate.state")
    if state and (state.PartialState._shared_state or state.AcceleratorState._shared_state):
        return "an Accelerator or a Trainer's arguments exist (make them inside the function)"
    probe = multiprocessing.get_context("fork").Process(target=_probe, daemon=True)
    probe.start()
    probe.join(PROBE_SECONDS)
    probe.kill()
    return None if probe.exitcode == 0 else "torch has started threads, which a fork does not have"


def _probe():
    """Compute a product and its gradient, which hang in a fork without torch's threads."""
    import torch

    weight = torch.ones((256, 256), requires_grad=True)
    (weight @ weight).exp().sum().backward()


@contextlib.contextmanager
def _process(num_processes, folder, file):
    """Inside a process: join the others, silence all but process 0, write a failure to a file."""
    rank = int(os.environ.get("RANK", "0"))
    try:
        if rank:
            sys.stdout = sys.stderr = open(os.devnull, "w")
        if num_processes > 1:
            join(cpu=os.environ.get("ACCELERATE_USE_CPU") == "true")
        yield rank
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            return
        cause = error.__context__ or error if isinstance(error, SystemExit) else error
        trace = cause.__traceback__
        while trace and trace.tb_frame.f_code.co_filename != file:
            trace = trace.tb_next  # start at the user's own file
        lines = traceback.format_exception(type(cause), cause, trace or cause.__traceback__)
        failure = {"time": time.time(), "rank": rank, "kind": type(cause).__name__,
                   "text": str(cause), "traceback": "".join(lines)}
        Path(folder, f"failure-{rank}.json").write_text(json.dumps(failure))
        sys.stdout.flush()
        os._exit(1) if num_processes > 1 else sys.exit(1)


def _forked(function, num_processes, folder, writer, args):
    sys.stdout = open(writer, "w", buffering=1, encoding="utf-8")
    logging.disable(logging.NOTSET)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # torch's handler hangs in a fork
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with _process(num_processes, folder, function.__code__.co_filename) as rank:
        result = function(*args)
        if rank == 0:
            Path(folder, "result.pickle").write_bytes(pickle.dumps(result))


def _script(num_processes, folder, script, *flags):
    with _process(num_processes, folder, script) as rank:
        sys.argv = [script, *flags]
        values = runpy.run_path(script, run_name="__main__").values()
        folders = [value.folder for value in values if type(value).__module__ == "kit.runs"]
        if rank == 0 and folders:
            Path(folder, "report.json").symlink_to(Path(folders[-1], "report.json").absolute())


if __name__ == "__main__":
    _script(int(sys.argv[1]), *sys.argv[2:])
