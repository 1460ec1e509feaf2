"""benchmarks/scaling.py: its variants on a CPU, and the committed results behind the words of its README."""

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks import scaling

FOLDER = Path(__file__).parents[2] / "benchmarks"
RECORD = json.loads((FOLDER / "results" / "scaling.json").read_text(encoding="utf-8"))
RESULTS = {
    (row["job"], *row["arguments"]): row["result"] for row in RECORD["results"] if "result" in row
}
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")


def losses(*job):
    return RESULTS[job]["losses"]


@pytest.mark.parametrize("script", ["sft_chat", "dpo"])
def test_two_gpus_under_ddp_have_the_losses_of_one(script):
    """To the last bit, when one GPU takes the same 16 rows at once; 32 at once change its own kernels' sums."""
    assert losses("losses", script, "ddp", 2, 16) == losses("losses", script, "ddp", 1, 16)
    other = scaling.apart(
        losses("losses", script, "ddp", 1, 32), losses("losses", script, "ddp", 1, 16)
    )
    assert 0 < other < 0.01
    assert script == "sft_chat" or f"is {other:.4f} nats from itself in DPO" in TEXT


def test_fsdp2_is_as_near_as_its_rounded_weights_allow():
    sft, dpo = (
        scaling.apart(
            losses("losses", script, "fsdp2", 2, 16), losses("losses", script, "ddp", 1, 16)
        )
        for script in ("sft_chat", "dpo")
    )
    assert sft < 0.01 < dpo and "over the limit of 0.01" in TEXT
    assert f"FSDP2: within {sft:.4f} nats (SFT) and {dpo:.4f} nats (DPO" in TEXT


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_each_process_has_as_many_ids_as_the_others(processes):
    batches = scaling.micro_batches("1.7B", processes, 2)
    ids = [sum(map(len, part)) for part in batches]
    shares = [sum(ids[rank::processes]) for rank in range(processes)]
    assert len(batches) == 2 * 2 * processes and max(shares) / min(shares) < 1.02


def test_adamw_on_local_parts_is_adamw(monkeypatch):
    """Without DTensors, the exchanged lists are the same tensors: the same weights."""
    weights = []
    for local in (False, True):
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 3)
        with scaling.open_variant({"local": local}):
            optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
            for _ in range(3):
                layer(torch.ones(2, 4)).square().sum().backward()
                optimizer.step()
        weights.append(layer.weight)
    assert torch.equal(*weights)
    assert torch.optim.Adam._init_group.__name__ == "_init_group"


def result(rate, losses, **more):
    return {"tokens_per_s": rate, "rates": [rate, rate], "losses": losses, "peak_gb": 1.0, **more}


def test_the_table_has_shares_of_single_gpus_and_distances_of_losses(capsys):
    rows = {
        ("speed", "1.7B", "ddp", 1): result(100.0, [2.0]),
        ("losses", "1.7B", "ddp", 1): {"losses": [2.0, 1.5, 1.0], "peak_gb": 1.0},
        ("speed", "1.7B", "fsdp2 keep", 4): result(360.0, [2.0, 1.75], retries=3),
    }
    scaling.table(
        [{"job": job, "arguments": names, "result": row} for (job, *names), row in rows.items()]
    )
    _, one, four = capsys.readouterr().out.splitlines()
    assert one.split() == ["1.7B", "ddp", "1", "100", "100", "100", "100.0%", "nan", "1.0", "0"]
    assert four.split()[3:8] == ["4", "90", "90", "90", "90.0%"]
    assert "2.5e-01" in four and math.isclose(scaling.apart([1, 2], [1, 4, 9]), 2)


def test_a_start_that_fails_loses_one_measurement(tmp_path, monkeypatch):
    """The next start goes on behind the failed job, and what was measured is not measured again."""
    starts = []

    def run(script, processes, strategy, child):
        spec = json.loads(child)
        starts.append([name for name, _ in spec["jobs"]])
        for name, shape in spec["jobs"]:
            if name == "ddp bf16":
                raise scaling.KitError("crash")
            Path(spec["folder"], f"speed {name} {shape}.json").write_text("{}")

    monkeypatch.setattr(scaling.launch, "run", run)
    options = type("Options", (), {"gpus": 2, "profile": [], "out": tmp_path / "out.json"})
    jobs = [[name, "tiny"] for name in ("ddp", "ddp bf16", "ddp buckets")]
    scaling.together(options, tmp_path, "speed", jobs, until=math.inf)
    assert starts == [["ddp", "ddp bf16", "ddp buckets"], ["ddp buckets"]]
    names = [row["arguments"] for row in json.loads(options.out.read_text())["results"]]
    assert sorted(names) == [["tiny", "ddp", 2], ["tiny", "ddp buckets", 2]]
