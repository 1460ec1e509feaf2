"""What benchmarks/README.md and the lessons say of committed results is what the results say."""

import json
import math
import statistics

import pytest

from kit import records


def rows(name):
    return [json.loads(line) for line in records.find(f"benchmarks/results/{name}").read_text().splitlines()]


def test_an_interrupted_run_on_a_gpu_is_the_whole_one():
    """Batches, rates, counts, random states, losses and weights, of SFT and DPO, stopped by a signal and killed."""
    found = rows("resume_gpu.jsonl")
    assert {(row["kind"], row["run"]) for row in found} == {(k, r) for k in ("sft", "dpo") for r in ("again", "stopped", "killed")}
    for row in found:
        assert "H100" in row["device"] and row["loss apart"] == 0.0
        assert all(row[key] for key in ("step", "batch_hash", "lr", "tokens", "random states", "weights"))


def rates_of(found):
    """{(task, shape, way): median of the newest call}, and {(task, shape): all first losses}."""
    rates, losses = {}, {}
    for row in (row for row in found if "loss" in row):
        losses.setdefault((row["task"], row["shape"]), []).append(row["loss"])
        rates.setdefault((row["task"], row["shape"], row["way"]), {}).setdefault(row.get("call", 1), []).append(
            row.get("pairs_per_s", row.get("ids_per_s")))
    return {key: statistics.median(calls[max(calls)]) for key, calls in rates.items()}, losses


def as_told(rates, told, *lines):
    """Each line's rate and its ratios to the two ways of TRL stand in one row of the table."""
    for task, shape, name, times, documented in lines:
        ours = rates[task, shape, "ours, fused"]
        line = next(line for line in told.splitlines() if line.startswith("|") and name in line)
        assert name in (f"{ours:,.0f}", f"{ours:.1f}") and shape in line
        for way, ratio, digits in (("TRL defaults", times, 1), ("TRL documented, flex", documented, 2)):
            if ratio:
                assert f"{ours / rates[task, shape, way]:.{digits}f}" == ratio and ratio in line


def test_speed_on_a_gpu_is_at_equal_loss_and_as_told():
    """Losses of a training agree, and ours is as many times the others as benchmarks/README.md says."""
    rates, losses = rates_of(rows("speed_gpu.jsonl"))
    assert all(max(each) / min(each) - 1 < 1e-3 for each in losses.values())
    as_told(rates, records.find("benchmarks/README.md").read_text().split("## One H200")[0],
            ("sft", "135M", "249,641", "55.4", "1.60"), ("sft", "0.6B", "65,835", "13.4", "1.11"),
            ("sft", "1.7B", "39,647", "9.6", "1.34"), ("lora", "8B", "11,330", "5.2", ""),
            ("dpo", "135M", "127.8", "7.1", ""), ("dpo", "0.6B", "67.8", "5.7", ""))
    said = records.find("README.md").read_text()
    assert "249,641 real ids a second at 135M (55.4 times TRL's defaults and 1.60" in said
    assert "65,835 at 0.6B (13.4 and 1.11 times) and 39,647 at 1.7B (9.6 and 1.34 times)" in said
    assert "127.8 pairs a second at 135M (7.1 times) and 67.8 at 0.6B (5.7 times)" in said


def test_rates_of_an_h200_are_as_told():
    """Medians of the first call's rounds at equal first loss, which DPO begins at ln 2."""
    found = rows("speed_h200.jsonl")
    rates, _ = rates_of([row for row in found if row["call"] == 1])
    losses = rates_of(found)[1]
    assert all(max(each) / min(each) - 1 < 1e-3 for each in losses.values())
    assert losses["dpo", "0.6B"] == pytest.approx([math.log(2)] * 6, abs=1e-6)
    as_told(rates, records.find("benchmarks/README.md").read_text().split("## One H200")[1],
            ("sft", "135M", "274,232", "39.3", "1.61"), ("sft", "0.6B", "75,404", "13.2", "1.18"),
            ("sft", "1.7B", "42,221", "", ""), ("dpo", "135M", "141.6", "6.2", ""), ("dpo", "0.6B", "75.5", "6.4", ""))


def test_unsloth_is_as_told():
    told = records.find("benchmarks/README.md").read_text().split("## Unsloth")[1]
    found = {(row["gpu"], row["weights"]): row for row in rows("unsloth_gpu.jsonl") if "ids_per_s" in row}
    assert len(found) == 3
    for name, speed, call in (("NVIDIA H100 80GB HBM3", "speed_gpu.jsonl", 5), ("NVIDIA H200", "speed_h200.jsonl", 1)):
        ours, losses = rates_of([row for row in rows(speed) if row.get("call") == call])
        row = found[name, "bfloat16"]
        assert f"{row['ids_per_s']:,.0f}" in told and f"{row['ids_per_s'] / ours['sft', '135M', 'ours, fused']:.2f} of ours" in told
        assert row["loss"] == pytest.approx(losses["sft", "135M"][0], rel=1e-3)
    assert f"{found['NVIDIA H100 80GB HBM3', 'float32']['ids_per_s']:,.0f}" in told


def test_a_step_on_a_gpu_is_as_told():
    told = (records.find("benchmarks/README.md")).read_text()
    for row in (row for row in rows("speed_gpu.jsonl") if row["task"] == "profile"):
        assert f"for {row['busy_ms']:.0f}" in told and f"{row['kinds_ms']['matrix products']:.0f}" in told
        assert sum(row["kinds_ms"].values()) <= row["busy_ms"] + 0.5
        assert row["busy_ms"] < 1.1 * row["wall_ms"]  # over one where two streams overlap
    for row in (row for row in rows("speed_h200.jsonl") if row["task"] == "profile" and row["call"] == 1):
        later = told.split("## One H200")[1]
        assert all(f"{number:.0f}" in later for number in (row["busy_ms"], row["wall_ms"], row["kinds_ms"]["matrix products"]))
