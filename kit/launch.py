"""Run a lesson's training on several processes from a notebook: as its exported script, or as a function of a cell.

`run` starts `accelerate launch` on a script: nothing of the kernel is shared, so it always works. `notebook` forks the
kernel by accelerate's notebook_launcher, which hangs or silently trains copies in states refused here (lesson 06).
"""

import contextlib
import itertools
import json
import logging
import multiprocessing
import os
import pickle
import re
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import psutil

from kit import errors
from kit.errors import KitError, MissingError, SettingsError
from kit.engine.distributed import LOST, join

SCRIPTS = Path(__file__).parents[1] / "scripts"
CONFIGS = SCRIPTS.with_name("configs")
GRACE = 40  # seconds for a save after an interrupt; torch's launcher kills its processes after 30
PROBE_SECONDS = 20
LAUNCHER_NOISE = re.compile(r"[EWF]\d{4} \S+ +\d+ .*torch/distributed/")


class ChildError(KitError):
    """A process ended with an error that is not a KitError; its traceback is printed above."""

    exit_code = 1


def run(script, num_processes=1, *, strategy="ddp", echo=print, **params) -> dict:
    """Train scripts/<script>.py (or a path) on `num_processes`; returns the report.json of its run, {} without a run.

    params are the script's settings by name; strategy is the name of a file in configs/, or a path. `echo` gets each
    line of process 0 as it comes. A KitError of any process is raised here, any other error prints its traceback and
    raises ChildError. An interrupt stops all processes; the run saves its state first. CPU processes join by gloo.
    """
    script = Path(script) if str(script).endswith(".py") else SCRIPTS / f"{script}.py"
    if not script.is_file():
        raise MissingError("this script is not there; write it by python -m kit.export", file=script.name)
    flags = [f"--{'' if value is not False else 'no-'}{name.replace('_', '-')}"
             + ("" if isinstance(value, bool) else f"={value}") for name, value in params.items()]
    launcher = [] if num_processes == 1 else [
        "accelerate.commands.launch", f"--config_file={_config(strategy)}", f"--num_processes={num_processes}",
        f"--main_process_port={_port()}", "--module"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", *launcher, "kit.launch", str(num_processes), folder, str(script), *flags]
        code = _live(command, os.environ | _environment(num_processes), echo)
        if code:
            raise _failure(Path(folder), num_processes, echo)
        result = Path(folder, "run.txt")
        report = Path(result.read_text(), "report.json") if result.exists() else result
        return json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}


def notebook(function, num_processes, *args, port=None):
    """Fork this kernel into `num_processes` that call function(*args); returns what process 0 returns.

    Only process 0 prints. SettingsError says in one sentence why forking is not safe now: CUDA in use, an Accelerator
    made, torch's threads started, a busy port.
    """
    if num_processes == 1:
        return function(*args)
    environment = _environment(num_processes)
    _check_forkable(port)
    from accelerate import notebook_launcher
    from accelerate.utils import patch_environment

    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    logging.disable(logging.CRITICAL)  # the launcher's own lines say less than our sentence, and "2 CUDAs" on a CPU
    with tempfile.TemporaryDirectory() as folder:
        try:
            stdout = sys.stdout
            with patch_environment(**environment), contextlib.redirect_stdout(None):
                notebook_launcher(_forked, (function, num_processes, folder, stdout, args), num_processes,
                                  use_port=str(port or _port()))
            return pickle.loads(Path(folder, "result.pickle").read_bytes())
        except Exception as error:  # noqa: BLE001  torch has its own for a failed process and for the stop button
            if type(error).__name__ == "SignalException":
                raise KeyboardInterrupt from None
            raise _failure(Path(folder), num_processes, print) from None
        finally:
            logging.disable(logging.NOTSET)
            for number, handler in handlers.items():
                signal.signal(number, handler)  # torch leaves its own behind


def _environment(num_processes):
    import torch

    gpus = torch.cuda.device_count()  # does not start CUDA
    if 0 < gpus < num_processes:
        raise SettingsError(f"{num_processes} processes need as many GPUs, {gpus} came; set num_processes to {gpus}")
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    return {"PYTHONUNBUFFERED": "1", "KIT_LIVE": "1", "OMP_NUM_THREADS": threads,
            **({"ACCELERATE_USE_CPU": "true"} if num_processes > 1 and not gpus else {})}


def _config(strategy):
    file = Path(strategy) if str(strategy).endswith(".yaml") else CONFIGS / f"{strategy}.yaml"
    if not file.is_file():
        raise MissingError("this strategy is not there; name ddp, fsdp2 or an accelerate config", file=file.name)
    return file


def _port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _live(command, environment, echo):
    """Run `command`, hand on its lines, return its exit code; no process of it outlives this call."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace", start_new_session=True)
    try:
        # What the launcher says about a failed process is less than the process itself left in its file.
        for line in itertools.takewhile(lambda line: not LAUNCHER_NOISE.match(line), process.stdout):
            echo(line.rstrip("\n"))
        process.stdout.read()
        return process.wait()
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=GRACE)
        raise
    finally:
        _kill(process)


def _kill(process):
    with contextlib.suppress(psutil.NoSuchProcess):  # torch gives each process a session, so the group is not enough
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
    process.kill()
    process.wait()
    process.stdout.close()


def _failure(folder, num_processes, echo):
    """The error of the process that failed first; the others fail because of it."""
    left = sorted((json.loads(f.read_text()) for f in folder.glob("failure-*.json")), key=lambda f: f["time"])
    left = [failure for failure in left if failure["kind"] != "LostError" and not LOST.search(failure["text"])]
    if not left:
        return ChildError("a process ended without an error of its own, as one does that runs out of memory, or did "
                          "not answer within KIT_TIMEOUT seconds; lower micro_batch_size, or see the system's log")
    first, kind = left[0], getattr(errors, left[0]["kind"], None)
    if kind is None:
        echo(first["traceback"].rstrip())
        return ChildError(f"process {first['rank']} of {num_processes} ended with {first['kind']}: {first['text']}; "
                          "its traceback is printed above")
    error = kind(first["text"])
    error.exit_code = first["code"]
    return error


def _check_forkable(port):
    import torch

    instead = "restart the kernel and call kit.launch.notebook first, or use kit.launch.run, which needs no restart"
    if torch.cuda.is_initialized():
        raise SettingsError(f"CUDA is in use in this kernel, and a fork of it cannot use CUDA; {instead}")
    state = sys.modules.get("accelerate.state")
    if state and (state.PartialState._shared_state or state.AcceleratorState._shared_state):
        raise SettingsError("an Accelerator or a Trainer's arguments are in this kernel, so each fork would take "
                            f"itself for the only process; make them inside the function; {instead}")
    if port is not None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise SettingsError(f"port {port} is in use by another process; leave port out to get a free one")
    if not _fork_computes():
        raise SettingsError(f"torch has started threads in this kernel, so its forks hang; {instead}")


def _fork_computes():
    """Whether a fork of this process gets through a product and its gradient, which a dead thread pool stops."""
    probe = multiprocessing.get_context("fork").Process(target=_compute, daemon=True)
    probe.start()
    probe.join(PROBE_SECONDS)
    probe.kill()
    return probe.exitcode == 0


def _compute():
    import torch

    weight = torch.ones(256, 256, requires_grad=True)
    (weight @ weight).exp().sum().backward()


@contextlib.contextmanager
def _process(num_processes, folder, file):
    """Inside a process: join the others, count them, keep all but process 0 silent, leave a failure in its file."""
    rank = int(os.environ.get("RANK", "0"))
    try:
        if rank:
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  for the whole process
        if num_processes > 1:
            join(cpu=os.environ.get("ACCELERATE_USE_CPU") == "true")
        yield rank
    except BaseException as error:  # noqa: BLE001  an interrupt and an exit are told too
        if isinstance(error, SystemExit) and not error.code:
            return
        cause = error.__context__ or error if isinstance(error, SystemExit) else error
        trace = cause.__traceback__
        while trace and trace.tb_frame.f_code.co_filename != file:
            trace = trace.tb_next  # from the user's own file on
        shown = "".join(traceback.format_exception(type(cause), cause, trace or cause.__traceback__))
        told = {"time": time.time(), "rank": rank, "kind": type(cause).__name__, "text": str(cause),
                "code": getattr(cause, "exit_code", 1), "traceback": shown}
        Path(folder, f"failure-{rank}.json").write_text(json.dumps(told))
        sys.stdout.flush()
        os._exit(1) if num_processes > 1 else sys.exit(1)


def _forked(function, num_processes, folder, stdout, args):
    sys.stdout = stdout
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
        made = runpy.run_path(script, run_name="__main__").values()
        folders = [str(value.folder) for value in made if type(value).__module__ == "kit.runs"]
        if rank == 0 and folders:
            Path(folder, "run.txt").write_text(folders[-1])


if __name__ == "__main__":
    _script(int(sys.argv[1]), *sys.argv[2:])
