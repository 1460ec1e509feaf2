"""The rule of benchmarks/dpo_sweep.py on numbers made by hand, and the choice that is committed."""

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
spec = importlib.util.spec_from_file_location("dpo_sweep", FOLDER / "dpo_sweep.py")
dpo_sweep = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dpo_sweep)


def scores(right, liked, groups=("test split", "edits")):
    return {"scores": {"groups": [group for group in groups for _ in range(len(right) // len(groups))], "right": right,
                       "valid": right, "liked": right, "sampled liked": liked, "sampled right": liked}}


START = scores([1, 1, 1, 0, 1, 0, 1, 0], [0.0] * 8)


def row(name, right, liked, **setting):
    told = dpo_sweep.verdict(START, [scores(right, liked)])
    return {"told": told, "setting": {"name": name, "steps": 24, "batch": 32, **setting}}


def test_change_is_paired_and_averages_over_seeds():
    one, two = scores([1, 1, 1, 1, 1, 0, 1, 0], [0.5] * 8), scores([1, 1, 1, 0, 1, 0, 1, 1], [0.25] * 8)
    told = dpo_sweep.verdict(START, [one, two])
    assert told["right, all"][0] == pytest.approx(1 / 8) and told["right, test split"][0] == pytest.approx(1 / 8)
    assert told["right, edits"][0] == pytest.approx(1 / 8) and "right, by hand" not in told
    assert told["preferred, sampled"] == pytest.approx((0.375, 0.375, 0.375))


def test_the_rule_takes_the_largest_gain_that_loses_nothing():
    better = row("better", [1, 1, 1, 1, 1, 0, 1, 0], [0.4] * 8)
    costly = row("costly", [1, 1, 1, 0, 0, 0, 1, 0], [0.9] * 8)
    long = row("long", [1] * 8, [0.8] * 8, steps=47)
    small = row("small", [1, 1, 1, 0, 1, 0, 1, 0], [0.1] * 8)
    assert [dpo_sweep.admissible(r["told"]) for r in (better, costly, long, small)] == [True, False, True, True]
    assert dpo_sweep.best([small, costly, long, better])["name"] == "better"
    assert dpo_sweep.best([costly, long])["name"] == "costly"  # where all lose something, the largest gain


def test_a_line_that_falls_by_more_than_its_interval_is_seen():
    """Accuracy over all rises, and still the edits pay for it."""
    start = scores([0] * 100 + [1] * 100, [0.0] * 200)
    told = dpo_sweep.verdict(start, [scores([1] * 100 + [0] * 30 + [1] * 70, [0.5] * 200)])
    assert told["right, all"][0] > 0 and told["right, edits"][2] < 0 and not dpo_sweep.admissible(told)


@pytest.mark.parametrize("name,least", [("dpo_sweep", 11), ("dpo_verdict", 3)])
def test_the_committed_choice_follows_the_rule(name, least):
    summary = json.loads((FOLDER / "results" / f"{name}.json").read_text())
    rows = [r for r in summary["table"] if r["on"] == "validation" and r["seeds"] == 3 and r["setting"]["loss"] != "sft"]
    assert len(rows) >= least and dpo_sweep.best(rows) == summary["chosen"]
