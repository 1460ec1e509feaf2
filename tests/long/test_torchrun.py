"""torchrun starts all processes again when one is killed; the run ends with the same weights."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny

from kit import launch, runs

pytestmark = pytest.mark.long
PROJECT = Path(__file__).parents[2]
SCRIPT = "scripts/sft_completion.py"
STEPS, SEEN, SECONDS = 12, 5, 300


def rows(folder):
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def kill(launcher, rank):
    """Kill the process of a rank, as a machine without memory would."""
    for child in psutil.Process(launcher.pid).children(recursive=True):
        if child.environ().get("RANK") == str(rank):
            child.kill()


@pytest.mark.parametrize("rank", [1, 0])
def test_a_killed_process_is_started_again(tmp_path, rank):
    """The plain command of lesson 10; the only variable is the folder of the runs."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE")}
    with tiny.first_chats(tmp_path, 400, STEPS) as folder:
        settings = {"task": str(folder / "chat.jsonl"), "batch_size": 8, "save_steps": 2}
        launch.run("sft_completion", 2, run="whole", **settings)
        flags = [f"--{name}={value}" for name, value in settings.items()]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
        command = [*torchrun, "--max-restarts=1", "--", SCRIPT, "--run=again", *flags]
        variables = {"KIT_RUNS": str(runs.root()), "KIT_MAX_STEPS": str(STEPS)}
        environment = {**clean, **variables, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        whole, again = (runs.root() / f"{name}-pocket" for name in ("whole", "again"))
        with open(tmp_path / "printed", "w", encoding="utf-8") as printed:
            process = subprocess.Popen(
                command, cwd=PROJECT, env=environment, stdout=printed, stderr=printed
            )
        until = time.monotonic() + SECONDS
        while len(rows(again)) < SEEN and time.monotonic() < until and process.poll() is None:
            time.sleep(0.01)
        kill(process, rank)
        code = process.wait(timeout=SECONDS)
        text = (tmp_path / "printed").read_text()
        assert code == 0, text[-3000:]
        assert "resuming from checkpoint-" in text and len(rows(again)) == STEPS
        assert rows(again) == rows(whole)
        weights = [(each / "model" / "model.safetensors").read_bytes() for each in (whole, again)]
        assert weights[0] == weights[1]
