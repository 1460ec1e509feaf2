"""benchmarks/scaling.py: its jobs and how it goes on, and the committed results behind the words of its README."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
spec = importlib.util.spec_from_file_location("scaling", FOLDER / "scaling.py")
scaling = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scaling)
RECORD = json.loads((FOLDER / "results" / "scaling.json").read_text(encoding="utf-8"))
FOUND = {
    (row["job"], *row["arguments"]): row["result"] for row in RECORD["results"] if "result" in row
}
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")


def losses(*job, found=FOUND):
    return found[job]["losses"]


@pytest.mark.parametrize("script", ["sft_chat", "dpo"])
def test_two_gpus_under_ddp_have_the_losses_of_one(script):
    """To the last bit, when one GPU takes the same 16 rows at once; 32 at once change its own kernels' sums."""
    assert losses("losses", script, "ddp", 2, 16) == losses("losses", script, "ddp", 1, 16)
    other = scaling.apart(
        losses("losses", script, "ddp", 1, 32), losses("losses", script, "ddp", 1, 16)
    )
    assert 0 < other < 0.01 and (
        script == "sft_chat" or f"is {other:.4f} nats from itself in DPO" in TEXT
    )
    assert len(losses("losses", script, "ddp", 2, 16)) == scaling.LOSS_STEPS


def test_fsdp2_is_as_near_as_its_rounded_weights_allow():
    sft, dpo = (
        scaling.apart(
            losses("losses", script, "fsdp2", 2, 16), losses("losses", script, "ddp", 1, 16)
        )
        for script in ("sft_chat", "dpo")
    )
    assert sft < 0.01 < dpo and "over the limit of 0.01" in TEXT
    assert f"FSDP2: within {sft:.4f} nats (SFT) and {dpo:.4f} nats (DPO" in TEXT


def test_tokens_per_second_are_those_of_the_timed_epoch():
    timed = [result for key, result in FOUND.items() if key[0] == "speed"]
    assert len(timed) == 6
    for result in timed:
        assert result["tokens_per_s"] == pytest.approx(
            result["tokens"] / (scaling.BATCHES * result["s_a_step"])
        )


def test_the_words_say_what_the_rows_say():
    rates = {key[1:]: result["tokens_per_s"] for key, result in FOUND.items() if key[0] == "speed"}
    for strategy, name in (("ddp", "DDP"), ("fsdp2", "FSDP2")):
        shares = [
            rates[shape, strategy, 2] / rates[shape, "ddp", 1] / 2 for shape in ("0.6B", "1.7B")
        ]
        assert f"{shares[0]:.0%} (0.6B) and {shares[1]:.0%} (1.7B) under {name}" in TEXT
    assert RECORD["machine"]["date"] in TEXT


def test_the_table_shows_the_efficiency(capsys):
    scaling.table(RECORD["results"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(RECORD["results"])
    assert "efficiency 94.7%" in next(line for line in lines if line.startswith("speed 0.6B ddp 2"))


def options(gpus, only=scaling.KINDS):
    return SimpleNamespace(gpus=gpus, toy=False, only=only)


def test_one_gpu_is_compared_with_nothing():
    assert [job[0] for job in scaling.jobs(options([1]))] == ["losses", "losses", "speed", "speed"]


def test_jobs_at_once_never_share_a_timed_gpu():
    jobs = scaling.jobs(options([1, 2, 4, 8]))
    for wave in {job[-1] for job in jobs if job[0] in ("speed", "memory")}:
        cards = [job[3] for job in jobs if job[-1] == wave]
        assert len(cards) == 1 or None not in cards and len(set(cards)) == len(cards)
    assert {tuple(job[2][1:]) for job in jobs if job[0] == "speed"} == {
        ("ddp", 1),
        *((strategy, n) for strategy in ("ddp", "fsdp2") for n in (2, 4, 8)),
    }


def test_a_second_call_does_what_is_missing():
    jobs = scaling.jobs(options([1, 2], ["speed", "kill"]))
    done = [
        {"job": "kill", "arguments": [2], "result": {}},
        {"job": "speed", "arguments": ["0.6B", "ddp", 2], "result": {}},
        {"job": "speed", "arguments": ["1.7B", "ddp", 2], "error": "out of memory"},
        {"job": "speed", "arguments": ["0.6B", "ddp", 1], "result": {}},
    ]
    left = [(kind, arguments) for kind, _, arguments, _, _ in scaling.wanted(jobs, done)]
    assert left == [
        ("speed", ["1.7B", "ddp", 1]),
        ("speed", ["1.7B", "ddp", 2]),
        ("speed", ["0.6B,1.7B", "fsdp2", 2]),
    ]
