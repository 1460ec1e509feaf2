"""The last step of an epoch: each row once, whatever is left for the processes, and the loss of one process."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tiny

from kit.engine import distributed

NEAR = 1e-5  # nats


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_RUNS", str(tmp_path / "runs"))


@pytest.mark.parametrize(
    "rows, batches",
    [
        (8, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (11, [[0, 1], [2, 3], [4, 5], [6, 7], [8], [9, 10]]),
        (10, [[0, 1], [2, 3], [4, 5], [6, 7], [8], [9]]),
        (3, [[0], [1, 2]]),
        (5, [[0, 1], [2, 3], [4], [0]]),
    ],
)
def test_what_is_left_is_shared_out(rows, batches):
    made = distributed.Shared(range(rows), size=2, count=2)
    assert list(made) == batches and len(made) == len(batches)


def settled(rows, world=4, main=True, **changes):
    """share_last_rows of a trainer with micro batches of 2; whether its rows are shared."""
    args = {
        "world_size": world,
        "per_device_train_batch_size": 2,
    }
    extra = {name: changes.pop(name) for name in ("ref_model",) if name in changes}
    trainer = SimpleNamespace(
        args=SimpleNamespace(**args | changes),
        train_dataset=range(rows),
        get_train_dataloader=None,
        is_world_process_zero=lambda: main,
        **extra,
    )
    distributed.share_last_rows(trainer)
    return trainer.get_train_dataloader is not None


@pytest.mark.parametrize(
    "rows, changes, shared, told",
    [
        (
            18,
            {},
            True,
            "18 rows leave 2 for 4 processes: the last step of an epoch takes 2 of them",
        ),
        (18, {"main": False}, True, ""),
        (18, {"world": 1}, False, ""),
        (16, {}, True, ""),
        (21, {}, True, ""),
        (21, {"ref_model": None}, False, ""),
        (20, {"ref_model": None}, True, ""),
    ],
)
def test_what_cannot_be_shared_is_told(capsys, rows, changes, shared, told):
    assert settled(rows, **changes) == shared
    printed = capsys.readouterr().out
    assert told in printed and bool(told) == bool(printed)


def rows_of(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind, rows", [("sft", 19), ("dpo", 18)])
def test_a_whole_epoch_on_two_processes_is_that_of_one(kind, rows):
    """Batches of 2: the fifth step has 3 rows for two processes, or 2 pairs. accelerate would take 1 or 2 again."""
    same = {"kind": kind, "rows": rows, "dropout": 0.0, "max_steps": 7}
    one = rows_of(tiny.train("one", accumulation=2, **same).folder)
    two = rows_of(tiny.train_on("two", 2, accumulation=1, **same))
    assert [row["batch_hash"] for row in two] == [row["batch_hash"] for row in one] and len(
        one
    ) == 7
    assert [row["tokens"] for row in two] == [row["tokens"] for row in one]
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(one, two, strict=True)) <= NEAR
