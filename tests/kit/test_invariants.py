"""One loss trajectory, whatever way a step's examples are spread: over micro batches, over processes, in a script."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tiny

from kit import export, launch, runs

PROJECT = Path(__file__).parents[2]
DATA = {"sft_completion": "completion", "sft_chat": "chat", "dpo": "preferences"}
NOTEBOOKS = {name: next(iter((PROJECT / "notebooks").glob(f"0?_{name}.ipynb")), None) for name in DATA}
LESSONS = [name for name, notebook in NOTEBOOKS.items() if notebook]
BATCH, STEPS = 8, 3
ROWS = 1600  # enough that grouping by length sorts in more than one piece
NEAR = 1e-5  # nats


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("invariants")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_RUNS", str(made / "runs"))
        yield made


class Lesson:
    """An exported script for a few steps on uneven rows; each way of running it is one `run`."""

    def __init__(self, name, folder):
        script, text = export.script(NOTEBOOKS[name])
        self.name, self.script = name, folder / script
        self.script.write_text(text)
        spec = importlib.util.spec_from_file_location(name, self.script)
        self.module = importlib.util.module_from_spec(spec)
        sys.modules[name] = self.module
        spec.loader.exec_module(self.module)
        self.data = folder / f"{DATA[name]}.jsonl"
        with open(PROJECT / "data_samples" / "cron" / self.data.name, encoding="utf-8") as source:
            self.data.write_text("".join(itertools.islice(source, ROWS)))

    def settings(self, run, **changes):
        return {"model": "pocket", "start": "", "data": str(self.data), "run": f"{run}_{self.name}", "warmup_steps": 0,
                "epochs": BATCH * STEPS / ROWS, "batch_size": BATCH, "micro_batch_size": BATCH, **changes}

    def here(self, run, **changes):
        params = replace(self.module.Params(), **self.settings(run, **changes))
        made = self.module.start_run(params)
        self.module.train(params, made)
        return made

    def there(self, run, processes, **changes):
        """As a script; returns the folder of its run."""
        report = launch.run(self.script, processes, **self.settings(run, **changes))
        assert report["weights_sha256"]
        return runs.root() / f"{run}_{self.name}-pocket"


@pytest.fixture(scope="module", params=LESSONS)
def lesson(request, folder):
    return Lesson(request.param, folder)


@pytest.fixture(scope="module")
def whole(lesson):
    """The run that the others must equal: each step is one micro batch of one process."""
    return lesson.here("whole")


def rows(run):
    folder = Path(getattr(run, "folder", run))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def check_same(run, whole, near=NEAR, steps=STEPS):
    ours, theirs = rows(run), rows(whole)
    assert len(ours) == len(theirs) == steps
    assert [row["batch_hash"] for row in ours] == [row["batch_hash"] for row in theirs], "a step saw other examples"
    for a, b in zip(ours, theirs, strict=True):
        assert abs(a["loss"] - b["loss"]) <= near, (a["step"], a["loss"], b["loss"])
        assert abs(a["grad_norm"] / b["grad_norm"] - 1) <= 100 * near


def test_rows_are_uneven(lesson):
    lengths = [len(line) for line in lesson.data.read_text().splitlines()]
    assert max(lengths) > 1.5 * min(lengths)


def test_accumulation_changes_nothing(lesson, whole):
    check_same(lesson.here("ones", micro_batch_size=1), whole)


def test_two_processes_are_one(lesson, whole):
    check_same(lesson.there("two", 2, micro_batch_size=BATCH // 2), whole)


def test_the_script_is_the_notebook(lesson, whole):
    script = lesson.there("script", 1)
    check_same(script, whole, near=0.0)
    report = json.loads((script / "report.json").read_text())
    assert report["weights_sha256"] == whole.report["weights_sha256"]


def test_another_seed_is_another_run(lesson, whole):
    other = rows(lesson.here("seed", seed=1))
    assert [row["batch_hash"] for row in other] != [row["batch_hash"] for row in rows(whole)]


def test_packed_rows_on_two_processes_are_one(folder):
    """TRL's own packing: a row is a pack of uneven documents, and a process has another number of trained ids."""
    same = {"packing": True, "dropout": 0.0, "rows": 60, "max_steps": 4}
    one = tiny.train("packs1", accumulation=2, **same)
    two = tiny.train_on("packs2", 2, accumulation=1, **same)
    assert json.loads((two / "run.json").read_text())["world_size"] == 2
    check_same(two, one, steps=4)
    assert sum(row["tokens"] for row in rows(one)) / (4 * 4) > 20  # of the 32 that fit: packs, not rows
