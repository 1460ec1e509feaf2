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
