"""benchmarks/README.md says what the committed results say."""

import json
import statistics
from pathlib import Path

import pytest

from benchmarks import memory_gpu
from kit import memory

PROJECT = Path(__file__).parents[2]


def rows(name):
    return [
        json.loads(line)
        for line in (PROJECT / "benchmarks/results" / name).read_text().splitlines()
    ]


def test_an_interrupted_run_on_a_gpu_is_the_whole_one():
    """Batches, rates, counts, random states, losses and weights, of SFT and DPO, stopped by a signal and killed."""
    found = rows("resume_gpu.jsonl")
    assert {(row["kind"], row["run"]) for row in found} == {
        (k, r) for k in ("sft", "dpo") for r in ("again", "stopped", "killed")
    }
    for row in found:
        assert "H100" in row["device"] and row["loss apart"] == 0.0
        assert all(
            row[key] for key in ("step", "batch_hash", "lr", "tokens", "random states", "weights")
        )


def rates_of(found):
    """{(task, shape, way): median of the newest call}, and {(task, shape): all first losses}."""
    rates, losses = {}, {}
    for row in (row for row in found if "loss" in row):
        losses.setdefault((row["task"], row["shape"]), []).append(row["loss"])
        rates.setdefault((row["task"], row["shape"], row["way"]), {}).setdefault(
            row.get("call", 1), []
        ).append(row.get("pairs_per_s", row.get("ids_per_s")))
    return {key: statistics.median(calls[max(calls)]) for key, calls in rates.items()}, losses


def as_told(rates, told, *lines):
    """Each line's rate and its ratios to the two ways of TRL stand in one row of the table."""
    for task, shape, name, times, documented in lines:
        ours = rates[task, shape, "ours, fused"]
        line = next(line for line in told.splitlines() if line.startswith("|") and name in line)
        assert name in (f"{ours:,.0f}", f"{ours:.1f}") and shape in line
        for way, ratio, digits in (
            ("TRL defaults", times, 1),
            ("TRL documented, flex", documented, 2),
        ):
            if ratio:
                assert f"{ours / rates[task, shape, way]:.{digits}f}" == ratio and ratio in line


def test_speed_on_a_gpu_is_at_equal_loss_and_as_told():
    """Losses of a training agree, and ours is as many times the others as benchmarks/README.md says."""
    rates, losses = rates_of(rows("speed_gpu.jsonl"))
    assert all(max(each) / min(each) - 1 < 1e-3 for each in losses.values())
    as_told(
        rates,
        (PROJECT / "benchmarks/README.md").read_text(),
        ("sft", "135M", "249,641", "55.4", "1.60"),
        ("sft", "0.6B", "65,835", "13.4", "1.11"),
        ("sft", "1.7B", "39,647", "9.6", "1.34"),
        ("lora", "8B", "11,330", "5.2", ""),
        ("dpo", "135M", "127.8", "7.1", ""),
        ("dpo", "0.6B", "67.8", "5.7", ""),
    )


def test_unsloth_is_behind_in_its_call():
    text = (PROJECT / "benchmarks/README.md").read_text()
    lines = [
        row for row in rows("unsloth_gpu.jsonl") if "ids_per_s" in row and "H100" in row["gpu"]
    ]
    row = next(row for row in lines if row["weights"] == "bfloat16")
    ours, losses = rates_of([r for r in rows("speed_gpu.jsonl") if r.get("call") == 5])
    ratio = row["ids_per_s"] / ours["sft", "135M", "ours, fused"]
    assert f"{row['ids_per_s']:,.0f}" in text and f"{ratio:.2f} of ours" in text
    assert row["loss"] == pytest.approx(losses["sft", "135M"][0], rel=1e-3)


def test_the_planner_is_as_near_as_the_table_says():
    errors = {}
    for row in rows("memory_gpu.jsonl"):
        shape, setting, packed = memory_gpu.setting_of(row["setting"])
        if packed:
            setting = memory_gpu.as_packed(setting, memory.SHAPES[shape].vocab)
        errors[row["setting"]] = abs(memory.plan(shape, setting).peak / row["measured"] - 1)
    padded = errors.pop("135M full, padded rows")
    text = (PROJECT / "benchmarks/README.md").read_text()
    assert f"largest error {padded:.1%} with today's formulas, {max(errors.values()):.1%} " in text


def test_8b_and_the_course_are_as_the_table_says():
    text = (PROJECT / "benchmarks/README.md").read_text()
    record = json.loads((PROJECT / "benchmarks/results/scaling.json").read_text())
    for row in (row for row in record["results"] if row["job"] == "memory"):
        assert f"{row['result']['peak_gb']:.1f} GB" in text
    course, dpo = (
        json.loads((PROJECT / f"benchmarks/results/{name}.json").read_text())
        for name in ("course_gpu_long", "dpo_gpu")
    )
    for name in ("completion SFT", "chat SFT"):
        assert f"{course['stages'][name]['rows']:,}" in text
    for key in ("asked", "pairs"):
        assert f"{sum(shard[key] for shard in dpo['sampled']):,}" in text


def test_the_goals_of_smollm2_are_reached_after_dpo():
    """90% by hand, 98% of the test split, 90% of edits, 95% of the kinds of reply, each seed."""
    record = json.loads((PROJECT / "benchmarks/results/dpo_gpu.json").read_text())["test"][0]
    assert record["seeds"] == 3 and record["setting"]["loss"] == "sigmoid"
    goals = {"by hand": 0.9, "test split": 0.98, "edits": 0.9, "right kind": 0.95}
    for row in record["results"]:
        assert all(row[group]["rate"] >= goal for group, goal in goals.items())
