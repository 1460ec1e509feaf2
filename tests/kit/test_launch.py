"""Several processes from a real kernel: what they return and print, and every way they can fail."""

import json
import textwrap

import nbformat
import pytest
from nbclient import NotebookClient

from kit import launch
from kit.errors import DivergedError, MissingError, SettingsError

SCRIPT = """
from dataclasses import dataclass

from kit.errors import DivergedError, exits
from kit.settings import Settings, from_flags


@dataclass(frozen=True)
class Params(Settings):
    mode: str = "train"  # what to do
    rate: float = 1e-3  # step size
    loud: bool = True  # whether to print


if __name__ == "__main__":
    with exits():
        PARAMS = from_flags(Params)
        import time

        import torch
        from accelerate import PartialState

        state = PartialState()
        total = torch.tensor(float(state.process_index + 1))
        torch.distributed.all_reduce(total)
        values = (PARAMS.mode, PARAMS.rate, PARAMS.loud)
        print(f"sum {total.item()} of {state.num_processes}, {values}", flush=True)
        if PARAMS.mode == "sleep":
            time.sleep(60)
        if PARAMS.mode == "progress" and state.process_index == 0:
            import os, pathlib
            pathlib.Path(os.environ["KIT_PROGRESS"]).write_text("step 3/9")
            time.sleep(3)
        if PARAMS.mode == "raise" and state.process_index == 1:
            raise ValueError("boom")
        if PARAMS.mode == "diverge":
            raise DivergedError("loss is nan", line=7)
        if PARAMS.mode == "run":
            from kit import runs
            run = runs.start({"run": "launched", "model": ""})
            run.add(score=0.5)
        torch.distributed.barrier()
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    file = tmp_path_factory.mktemp("launch") / "lesson.py"
    file.write_text(SCRIPT)
    return file


@pytest.fixture
def lines():
    return []


def test_two_processes_and_the_report(script, lines, tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_RUNS", str(tmp_path))
    report = launch.run(script, 2, echo=lines.append, mode="run", rate=1e-5, loud=False)
    assert report == {"score": 0.5}
    assert lines == ["sum 3.0 of 2, ('run', 1e-05, False)"]


def test_the_progress_of_process_0_is_handed_on(script, lines, monkeypatch):
    monkeypatch.setattr(launch, "PROGRESS_SECONDS", 0.5)
    launch.run(script, 2, echo=lines.append, mode="progress")
    assert lines.count("step 3/9") == 1


def test_an_error_with_an_exit_code_is_raised_here(script, lines):
    with pytest.raises(DivergedError, match="^7: loss is nan") as failed:
        launch.run(script, 2, echo=lines.append, mode="diverge")
    assert failed.value.exit_code == 3
    assert "torch/distributed" not in "\n".join(lines) and "Traceback" not in "\n".join(lines)


@pytest.mark.parametrize(
    "left, sentence",
    [
        ({}, "expected every process to end by itself"),
        ({0: "gloo: connection closed by peer"}, "expected every process to end by itself"),
        (
            {0: "gloo: connection closed by peer", 1: "boom"},
            "process 1 of 2 ended with ValueError: boom",
        ),
    ],
)
def test_the_first_cause_is_sentence(tmp_path, lines, left, sentence):
    for rank, text in left.items():
        (tmp_path / f"failure-{rank}.json").write_text(
            json.dumps(
                {
                    "time": rank,
                    "rank": rank,
                    "kind": "ValueError",
                    "text": text,
                    "code": 1,
                    "traceback": "trace\n",
                }
            )
        )
    assert sentence in str(launch._failure(tmp_path, 2, lines.append))


def test_a_script_that_is_not_there():
    with pytest.raises(
        MissingError, match=r"gone.py: expected a script and an accelerate config, got no such file"
    ):
        launch.run("gone", 2)


def test_more_processes_than_gpus(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        SettingsError, match="a GPU for each of 2 processes, got 1 GPUs; set num_processes to 1"
    ):
        launch._environment(2)
    assert "ACCELERATE_USE_CPU" not in launch._environment(1)


def test_processes_that_train_alone_are_refused(script, lines, monkeypatch):
    wrong = dict(launch._environment(2), ACCELERATE_USE_CPU="false")
    monkeypatch.setattr(launch, "_environment", lambda n: wrong)
    with pytest.raises(SettingsError, match="2 processes"):
        launch.run(script, 2, echo=lines.append)


CELLS = {
    "define": """
        import os, time
        from kit import launch

        def train(value, mode="train"):
            import time, torch
            from accelerate import PartialState
            state = PartialState()
            total = torch.tensor(float(state.process_index + 1))
            torch.distributed.all_reduce(total)
            print("process", state.process_index, "of", state.num_processes, flush=True)
            if mode == "count":
                for number in range(200):
                    print("line", number)
            if mode == "raise" and state.process_index == 1:
                raise ValueError("boom")
            if mode == "sleep":
                time.sleep(60)
            return {"sum": total.item(), "value": value}
    """,
    "train": "assert launch.notebook(train, 2, 5) == {'sum': 3.0, 'value': 5}",
    "count": "result = launch.notebook(train, 2, 5, 'count')",
    "raise": "launch.notebook(train, 2, 5, 'raise')",
    "again": "import signal\nassert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    "assert launch.notebook(train, 2, 6)['value'] == 6",
    "interrupt": """
        import psutil, signal, threading
        threading.Timer(4, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            launch.notebook(train, 2, 5, "sleep")
        except KeyboardInterrupt:
            print("interrupted,", len(psutil.Process().children()), "left")
    """,
    "cuda": """
        import unittest.mock, torch
        with unittest.mock.patch("torch.cuda.is_initialized", lambda: True):
            launch.notebook(train, 2, 5)
    """,
    "accelerator": """
        from accelerate import PartialState
        PartialState(cpu=True)
        launch.notebook(train, 2, 5)
    """,
    "threads": """
        from accelerate import PartialState
        PartialState._shared_state.clear()
        launch.PROBE_SECONDS = 3
        torch.set_num_threads(2)
        x = torch.ones(512, 512) @ torch.ones(512, 512)
        launch.notebook(train, 2, 5)
    """,
    "run": "launch.run(SCRIPT, 2, mode='train', rate=1e-5)",
    "run raises": "launch.run(SCRIPT, 2, mode='raise')",
    "run interrupted": """
        def children():
            return psutil.Process().children(recursive=True)

        before, seen = set(children()), []

        def interrupt(line):
            seen.extend(set(children()) - before)
            os.kill(os.getpid(), signal.SIGINT)

        began = time.monotonic()
        try:
            launch.run(SCRIPT, 2, echo=interrupt, mode="sleep")
        except KeyboardInterrupt:
            left = sum(process.is_running() for process in seen)
            seconds = time.monotonic() - began
            print(len(seen), "seen,", left, "left, in time:", seconds < launch.GRACE)
    """,
}


@pytest.fixture(scope="module")
def kernel(script):
    """Output text of each cell of CELLS, run in order by one kernel; an error as its rendering."""
    cells = [
        nbformat.v4.new_code_cell(
            textwrap.dedent(source).strip().replace("SCRIPT", repr(str(script)))
        )
        for source in CELLS.values()
    ]
    book = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(book, timeout=120, allow_errors=True).execute()
    return {
        name: "".join(o.get("text", "") or "\n".join(o.get("traceback", ())) for o in cell.outputs)
        for name, cell in zip(CELLS, book.cells, strict=True)
    }


def test_only_process_0_prints_and_its_result_comes_back(kernel):
    assert kernel["define"] == ""
    assert "process 0 of 2" in kernel["train"] and "process 1" not in kernel["train"]
    assert "Error" not in kernel["train"] and "CUDA" not in kernel["train"]


def test_lines_of_a_fork_keep_their_order(kernel):
    numbers = "".join(f"line {number}\n" for number in range(200))
    assert kernel["count"] == "process 0 of 2\n" + numbers


def test_a_traceback_of_a_child_is_shown_and_the_kernel_goes_on(kernel):
    assert "ValueError: boom" in kernel["raise"] and "torch/distributed" not in kernel["raise"]
    assert "ChildError: process 1 of 2 ended with ValueError: boom" in kernel["raise"]
    assert "Error" not in kernel["again"]


def test_an_interrupted_cell_leaves_no_process(kernel):
    assert kernel["interrupt"] == "process 0 of 2\ninterrupted, 0 left\n"


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("cuda", "got one in which CUDA is in use; restart the kernel"),
        ("accelerator", "got one in which an Accelerator or a Trainer's arguments exist"),
        ("threads", "torch has started threads, which a fork does not have; restart the kernel"),
    ],
)
def test_an_unsafe_kernel_is_refused_in_one_sentence(kernel, name, sentence):
    assert sentence in kernel[name] and kernel[name].startswith("SettingsError: ")
    assert len(kernel[name].splitlines()) == 1


def test_a_script_runs_whatever_state_the_kernel_is_in(kernel):
    """After threads and an Accelerator, in which no fork would live."""
    assert "sum 3.0 of 2, ('train', 1e-05, True)" in kernel["run"] and "Error" not in kernel["run"]


def test_a_script_that_raises_shows_its_traceback_in_the_cell(kernel):
    sentence = kernel["run raises"]
    assert 'raise ValueError("boom")\nValueError: boom' in sentence
    assert (
        "ChildError: process 1 of 2 ended with ValueError: boom; its traceback is printed above"
        in sentence
    )
    assert "torch/distributed" not in sentence and "kit/launch.py" not in sentence


def test_an_interrupted_script_leaves_no_process(kernel):
    count, rest = kernel["run interrupted"].strip().split(" ", 1)
    assert (
        int(count) >= 3 and rest == "seen, 0 left, in time: True"
    )  # the launcher and two processes


def test_one_process_is_a_call():
    assert launch.notebook(lambda a, b: a + b, 1, 2, 3) == 5
