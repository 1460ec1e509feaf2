"""One loss trajectory, whatever way a step's examples are spread: over micro batches, over processes, in a script."""

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import lesson
import tiny

from kit import launch, runs

BATCH, STEPS = 8, 3
NEAR = 1e-5  # nats


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with tiny.first_chats(tmp_path_factory.mktemp("invariants"), 1600, STEPS) as path:
        yield path


def settings(kind, folder, run, **changes):
    task = "cron" if kind == "dpo" else str(folder / "chat.jsonl")
    return {"kind": kind, "task": task, "run": f"{run}_{kind}", "batch_size": BATCH, **changes}


class Lesson:
    """A short lesson of one kind; each way of running it is one `run`."""

    def __init__(self, kind, folder):
        self.kind, self.folder = kind, folder

    def here(self, run, **changes):
        return lesson.train(lesson.Params(**settings(self.kind, self.folder, run, **changes)))

    def there(self, run, processes, **changes):
        """As a script; returns the folder of its run."""
        report = launch.run(
            lesson.__file__, processes, **settings(self.kind, self.folder, run, **changes)
        )
        assert report["weights_sha256"]
        return runs.root() / f"{run}_{self.kind}-pocket"


@pytest.fixture(scope="module", params=["sft", "dpo"])
def short(request, folder):
    return Lesson(request.param, folder)


@pytest.fixture(scope="module")
def whole(short):
    """The run that the others must equal: each step is one micro batch of one process."""
    return short.here("whole")


def rows(run):
    folder = Path(getattr(run, "folder", run))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def check_same(run, whole, near=NEAR, steps=STEPS):
    ours, theirs = rows(run), rows(whole)
    assert len(ours) == len(theirs) == steps
    assert [row["batch_hash"] for row in ours] == [row["batch_hash"] for row in theirs], (
        "a step saw other examples"
    )
    for a, b in zip(ours, theirs, strict=True):
        assert abs(a["loss"] - b["loss"]) <= near, (a["step"], a["loss"], b["loss"])
        assert abs(a["grad_norm"] / b["grad_norm"] - 1) <= 100 * near


def test_rows_are_uneven(folder):
    lengths = [len(line) for line in (folder / "chat.jsonl").read_text().splitlines()]
    assert max(lengths) > 1.5 * min(lengths)


def test_accumulation_changes_nothing(short, whole):
    check_same(short.here("ones", micro_batch_size=1), whole)


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_are_one(short, whole, processes):
    """With default settings; three do not divide a step of eight, which is then dealt out as 3, 2 and 3."""
    check_same(short.there(f"on{processes}", processes), whole)


def test_a_script_is_the_notebook(short, whole):
    script = short.there("script", 1)
    check_same(script, whole, near=0.0)
    report = json.loads((script / "report.json").read_text())
    assert report["weights_sha256"] == whole.report["weights_sha256"]


def test_another_seed_is_another_run(short, whole):
    other = rows(short.here("seed", seed=1))
    assert [row["batch_hash"] for row in other] != [row["batch_hash"] for row in rows(whole)]


def test_packed_rows_on_two_processes_are_one(folder):
    """TRL's own packing: a row is a pack of uneven documents, and a process has another number of trained ids."""
    same = {"packing": True, "dropout": 0.0, "rows": 60, "max_steps": 4}
    one = tiny.train("packs1", accumulation=2, **same)
    two = tiny.train_on("packs2", 2, accumulation=1, **same)
    assert json.loads((two / "run.json").read_text())["world_size"] == 2
    check_same(two, one, steps=4)
    assert (
        sum(row["tokens"] for row in rows(one)) / (4 * 4) > 20
    )  # of the 32 that fit: packs, not rows
