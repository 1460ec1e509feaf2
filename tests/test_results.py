"""What benchmarks/README.md and the lessons say of committed results is what the results say."""

import json

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
    assert f"its first loss is {max(unequal['dpo', '0.6B']):.4f}" in told
    assert "59.5 pairs a second against 3.57" in told and not any("59.5" in line for line in told.splitlines() if line[0:1] == "|")
    assert [round(rates["dpo", "0.6B", way], 2) for way in ("ours, fused", "TRL defaults")] == [59.52, 3.57]
    for task, shape, name, times, documented in (
            ("sft", "135M", "217,183", "30.2", "1.77"), ("sft", "0.6B", "74,634", "13.9", ""),
            ("sft", "1.7B", "37,209", "9.5", "1.24"), ("lora", "8B", "10,528", "4.9", ""),
            ("dpo", "135M", "72.9", "5.9", "")):
        ours = rates[task, shape, "ours, fused"]
        line = next(line for line in told.splitlines() if line.startswith("|") and name in line)
        assert name in (f"{ours:,.0f}", f"{ours:.1f}") and shape in line
        assert f"{ours / rates[task, shape, 'TRL defaults']:.1f}" == times and times in line
        if documented:
            assert f"{ours / rates[task, shape, 'TRL documented, flex']:.2f}" == documented and documented in line


def test_a_step_on_a_gpu_is_as_told():
    told = (records.find("benchmarks/README.md")).read_text()
    for row in (row for row in rows("speed_gpu.jsonl") if row["task"] == "profile"):
        assert f"for {row['busy_ms']:.0f}" in told and f"{row['kinds_ms']['matrix products']:.0f}" in told
        assert sum(row["kinds_ms"].values()) <= row["busy_ms"] + 0.5 < row["wall_ms"]
