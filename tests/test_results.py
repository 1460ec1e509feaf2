"""What benchmarks/README.md and the lessons say of committed results is what the results say."""

import json
import statistics

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
        rates.setdefault((*key, row["way"]), []).append(row.get("pairs_per_s", row.get("ids_per_s")))
        losses.setdefault(key, []).append(row["loss"])
    assert all(max(each) / min(each) - 1 < 1e-3 for each in losses.values())
    rate = {key: statistics.median(each) for key, each in rates.items()}
    for task, shape, name, times, documented in (
            ("sft", "135M", "169,547", "23.6", "1.38"), ("sft", "0.6B", "69,224", "12.9", ""),
            ("sft", "1.7B", "37,209", "9.5", "1.24"), ("lora", "8B", "10,528", "4.9", ""), ("dpo", "135M", "72.9", "5.9", "")):
        ours = rate[task, shape, "ours, fused"]
        line = next(line for line in told.splitlines() if line.startswith("|") and name in line)
        assert name in (f"{ours:,.0f}", f"{ours:.1f}") and shape in line
        assert f"{ours / rate[task, shape, 'TRL defaults']:.1f}" == times and times in line
        if documented:
            assert f"{ours / rate[task, shape, 'TRL documented, flex']:.2f}" == documented and documented in line


def test_a_step_on_a_gpu_is_as_told():
    told = (records.find("benchmarks/README.md")).read_text()
    for row in (row for row in rows("speed_gpu.jsonl") if row["task"] == "profile"):
        assert f"for {row['busy_ms']:.0f}" in told and f"{row['kinds_ms']['matrix products']:.0f}" in told
        assert sum(row["kinds_ms"].values()) <= row["busy_ms"] + 0.5 < row["wall_ms"]
