"""torchrun starts all processes again when one is killed; the run ends with the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from kit import launch, runs

pytestmark = pytest.mark.long
PROJECT = Path(__file__).parents[2]
LESSON = PROJECT / "tests" / "helpers" / "lesson.py"
STEPS = 5
# Process 1 is killed in step 4, once; checkpoint-2 is the newest.
KILLS = """
import os, runpy, signal, sys
from pathlib import Path
from transformers import Trainer

once, plain = Path(sys.argv.pop(1)), Trainer.training_step


def training_step(self, *args, **options):
    if self.state.global_step == 3 and os.environ["RANK"] == "1" and not once.exists():
        once.write_text("killed")
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, *args, **options)


Trainer.training_step = training_step
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_process_is_started_again(tmp_path):
    script, once = tmp_path / "kills.py", tmp_path / "once"
    script.write_text(KILLS)
    with tiny.first_chats(tmp_path, 200, STEPS) as folder:
        settings = {"task": str(folder / "chat.jsonl"), "batch_size": 8, "save_steps": 2}
        launch.run(LESSON, 2, run="whole", **settings)
        flags = [f"--{name}={value}" for name, value in settings.items()]
        # torch 2.13 shares one store between restarts, and gloo then connects to the dead process.
        environment = {
            **os.environ,
            **launch._environment(2),
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "--max-restarts=1",
            "--",
            script,
            once,
            LESSON,
            "--run=again",
            *flags,
        ]
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert process.returncode == 0, process.stderr[-2000:]
        assert once.exists() and "resuming from checkpoint-2" in process.stdout
        whole, again = (runs.root() / f"{name}-pocket" for name in ("whole", "again"))
        assert [row["loss"] for row in rows(again)] == [row["loss"] for row in rows(whole)]
        weights = [(each / "model" / "model.safetensors").read_bytes() for each in (whole, again)]
        assert weights[0] == weights[1]
