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


def test_speed_on_a_gpu_is_at_equal_loss_and_as_told():
    """Losses of a training agree, and ours is as many times the others as benchmarks/README.md says."""
    found = [row for row in rows("speed_gpu.jsonl") if "loss" in row]
    told = (records.find("benchmarks/README.md")).read_text()
    rates, losses = {}, {}
    for row in found:
        key = row["task"], row["shape"]
        rates[*key, row["way"]] = row.get("pairs_per_s", row.get("ids_per_s"))  # of the newest call
        losses.setdefault(key, []).append(row["loss"])
    unequal = {key: each for key, each in losses.items() if max(each) / min(each) - 1 >= 1e-3}
    assert set(unequal) == {("dpo", "0.6B")}  # in the words, and not in the table
    assert f"its first loss was {max(unequal['dpo', '0.6B']):.4f} in rows of four" in told
    assert "59.5 pairs a second against 3.57" in told and not any("59.5" in line for line in told.splitlines() if line[0:1] == "|")
    assert [round(rates["dpo", "0.6B", way], 2) for way in ("ours, fused", "TRL defaults")] == [59.52, 3.57]
    for task, shape, name, times, documented in (
            ("sft", "135M", "217,183", "30.2", "1.77"), ("sft", "0.6B", "74,634", "13.9", ""),
            ("sft", "1.7B", "39,647", "9.6", "1.34"), ("lora", "8B", "11,330", "5.2", ""),
            ("dpo", "135M", "72.9", "5.9", "")):
        ours = rates[task, shape, "ours, fused"]
        line = next(line for line in told.splitlines() if line.startswith("|") and name in line)
        assert name in (f"{ours:,.0f}", f"{ours:.1f}") and shape in line
        assert f"{ours / rates[task, shape, 'TRL defaults']:.1f}" == times and times in line
        if documented:
            assert f"{ours / rates[task, shape, 'TRL documented, flex']:.2f}" == documented and documented in line


def test_rates_of_an_h200_are_as_told():
    """Medians of the first call's rounds at equal first loss, which DPO begins at ln 2; Unsloth's beside them."""
    told = (records.find("benchmarks/README.md")).read_text().split("## One H200")[1]
    rates, losses = {}, {}
    for row in (row for row in rows("speed_h200.jsonl") if "loss" in row):
        losses.setdefault((row["task"], row["shape"]), []).append(row["loss"])
        if row["call"] == 1:
            rates.setdefault((row["task"], row["shape"], row["way"]), []).append(row.get("pairs_per_s", row["ids_per_s"]))
    assert all(max(each) / min(each) - 1 < 1e-3 for each in losses.values())
    assert losses["dpo", "0.6B"] == pytest.approx([math.log(2)] * 6, abs=1e-6)
    for task, shape, name, times, documented in (
            ("sft", "135M", "274,232", "39.3", "1.61"), ("sft", "0.6B", "75,404", "13.2", "1.18"),
            ("sft", "1.7B", "42,221", "", ""), ("dpo", "135M", "141.6", "6.2", ""), ("dpo", "0.6B", "75.5", "6.4", "")):
        line = next(line for line in told.splitlines() if line.startswith("|") and name in line)
        assert shape in line and task.upper() in line
        ours = statistics.median(rates[task, shape, "ours, fused"])
        assert name == (f"{ours:.1f}" if task == "dpo" else f"{ours:,.0f}")
        for way, ratio, digits in (("TRL defaults", times, 1), ("TRL documented, flex", documented, 2)):
            if ratio:
                assert f"{ours / statistics.median(rates[task, shape, way]):.{digits}f}" == ratio and ratio in line
    unsloth = next(row for row in rows("unsloth_h200.jsonl") if "ids_per_s" in row)
    ours = statistics.median(rates["sft", "135M", "ours, fused"])
    assert f"read {unsloth['ids_per_s']:,.0f} ids" in told and f"{unsloth['ids_per_s'] / ours:.2f} of ours" in told
    assert unsloth["loss"] == pytest.approx(losses["sft", "135M"][0], rel=1e-3)


def test_a_step_on_a_gpu_is_as_told():
    told = (records.find("benchmarks/README.md")).read_text()
    for row in (row for row in rows("speed_gpu.jsonl") if row["task"] == "profile"):
        assert f"for {row['busy_ms']:.0f}" in told and f"{row['kinds_ms']['matrix products']:.0f}" in told
        assert sum(row["kinds_ms"].values()) <= row["busy_ms"] + 0.5 < row["wall_ms"]
    for row in (row for row in rows("speed_h200.jsonl") if row["task"] == "profile" and row["call"] == 1):
        later = told.split("## One H200")[1]
        assert all(f"{number:.0f}" in later for number in (row["busy_ms"], row["wall_ms"], row["kinds_ms"]["matrix products"]))
