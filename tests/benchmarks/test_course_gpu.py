"""The benchmark of the whole course: its plan fits the time, its flags are those of the scripts."""

import argparse
import ast
import importlib.util
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def course():
    spec = importlib.util.spec_from_file_location("course_gpu", PROJECT / "benchmarks" / "course_gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options(tmp_path, **more):
    for folder, rows in (("a", 3), ("b", 4)):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in ("chat", "completion"):
            text = "".join(f"{folder}{n} {'a word ' * (20 if name == 'chat' else 8)}\n" for n in range(rows))
            (tmp_path / folder / f"{name}.jsonl").write_text(text)
    given = {"data": [tmp_path / "a", tmp_path / "b"], "out": tmp_path, "seconds": 420.0, "chat_rows": 0,
             "follow_ups": 0.0, "batch_size": 256, "learning_rate": 1e-3, "dpo_learning_rate": 1e-5}
    return argparse.Namespace(**{**given, **more})


def test_rows_come_from_one_folder_after_the_other(course, tmp_path):
    file, count = course.head(options(tmp_path), "chat", 5)
    assert count == 5
    assert [line.split()[0] for line in file.read_text().splitlines()] == ["a0", "a1", "a2", "b0", "b1"]
    assert course.head(options(tmp_path), "chat", 50)[1] == 7


def test_the_plan_fits_what_is_left(course, tmp_path, monkeypatch):
    monkeypatch.setattr(course.time, "monotonic", lambda: course.STARTED + 80.0)
    done = {"rows": 50_000, "wall_seconds": 70.0, "train_seconds": 45.0}
    rows = course.chat_rows(options(tmp_path), done)
    left = 420 - 80 - course.RESERVED - course.START_UP
    assert rows % 256 == 0
    assert 0.5 * left < rows * done["train_seconds"] / done["rows"] < left
    assert course.chat_rows(options(tmp_path, seconds=300.0), done) < 0.5 * rows
    assert course.chat_rows(options(tmp_path, seconds=10.0), done) == 256
    assert course.chat_rows(options(tmp_path, chat_rows=77), done) == 77


def test_flags_are_those_of_the_scripts(course, tmp_path):
    for stage, script in course.SCRIPTS.items():
        tree = ast.parse((PROJECT / "scripts" / f"{script}.py").read_text(encoding="utf-8"))
        params = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Params")
        known = {part.target.id for part in params.body if isinstance(part, ast.AnnAssign)}
        assert {"model", "data", "start", *course.settings(stage, options(tmp_path))} <= known, stage


def test_follow_ups_get_their_share_and_keep_their_order(course):
    lines = [b'{"role": "user"} %d' % n + (b' {"role": "user"}' if n % 5 == 0 else b"") for n in range(1000)]
    kept = list(course.with_follow_ups(lines, 400, 0.3))
    more = [line.count(b"user") > 1 for line in kept]
    assert len(kept) == 400 == len(set(kept)) and sum(more) == 120 and sum(more[:100]) == 30
    assert [int(line.split()[2]) for line in kept] == sorted(int(line.split()[2]) for line in kept)
    assert list(course.with_follow_ups(lines, 400, 0)) == lines[:400]
