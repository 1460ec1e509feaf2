"""Minutes, not seconds: random kills, every damaged file resumed, disks of several sizes, two processes."""

import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
import tiny

from kit import runs

pytestmark = pytest.mark.long
KILLS = 30


@pytest.fixture(scope="session")
def forks():
    forks = tiny.Forks()
    yield forks
    forks.server.stdin.close()
    forks.server.wait(10)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


def outcome(root, name):
    return tiny.outcome(runs.Run(root / name, {}))


def test_random_kills(forks, root):
    fields = {"max_steps": 24, "save_steps": 2}
    draw, killed = random.Random(5), 0
    assert forks.train(root, name="whole", **fields)[0] == 0
    whole = outcome(root, "whole")
    number = 0
    while killed < KILLS:
        number += 1
        code = -signal.SIGKILL
        while code:
            after = draw.uniform(0.1, 2.0) if killed < KILLS else None
            code, printed = forks.train(root, kill_after=after, name=f"r{number}", **fields)
            assert code in (0, -signal.SIGKILL), printed
            killed += code != 0
        assert outcome(root, f"r{number}") == whole, number
    assert number >= 3


@pytest.mark.parametrize("how", ["flipped", "truncated", "deleted"])
def test_each_damaged_file_resumes_from_the_one_before(forks, root, how):
    assert forks.train(root, "model@6", name="half")[0] == -signal.SIGKILL
    assert forks.train(root, name="whole")[0] == 0
    names = sorted(path.name for path in (root / "half" / "checkpoint-4").iterdir())
    assert len(names) >= 10
    for name in names:
        shutil.rmtree(root / "a", ignore_errors=True)
        shutil.copytree(root / "half", root / "a")
        tiny.damage(root / "a" / "checkpoint-4" / name, how)
        code, printed = forks.train(root, name="a")
        assert code == 0 and "resuming from checkpoint-2" in printed, (name, printed)
        assert outcome(root, "a") == outcome(root, "whole"), name


@pytest.mark.parametrize("times, code", [(1.2, 4), (2.0, 4), (3.8, 0)])
def test_small_disks(forks, root, tmp_path, times, code):
    fields = {"hidden": 256, "max_steps": 8}
    assert forks.train(root, name="whole", **fields)[0] == 0
    size = sum(file.stat().st_size for file in (root / "whole" / "checkpoint-8").iterdir())
    assert size > 8e6
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(size * times)}", "none", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        ended, printed = forks.train(disk, name="a", **fields)
        assert ended == code, printed
        if code:
            assert "disk" in printed and "checkpoint-2" in os.listdir(disk / "a")
            subprocess.run(["mount", "-o", f"remount,size={int(size * 5)}", str(disk)], check=True)
            ended, printed = forks.train(disk, name="a", **fields)
            assert ended == 0 and "resuming from checkpoint-2" in printed, printed
        assert outcome(disk, "a") == outcome(root, "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def launch(root, name, *more, **env):
    fields = f'{{"name": "{name}", "accumulation": 1}}'
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        tiny.__file__,
        fields,
        *more,
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ
        | env
        | {
            "KIT_RUNS": str(root),
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        },
    )


def test_two_processes_stop_together_and_resume_the_same(root):
    done = launch(root, "whole")
    assert done.returncode == 0 and done.stdout.count("trained 6 steps") == 1, done.stderr[-2000:]
    assert runs.Run(root / "whole", {}).facts["settings"]["world_size"] == 2
    stopped = launch(root, "a", "2")  # rank 1 alone gets the signal
    assert stopped.returncode != 0 and "stopped after step" in stopped.stderr, stopped.stderr[
        -2000:
    ]
    assert launch(root, "b", TINY_FAULT="unsealed@4").returncode != 0
    for name in "ab":
        done = launch(root, name)
        assert "resuming from checkpoint-" in done.stdout, done.stderr[-2000:]
        assert outcome(root, name) == outcome(root, "whole")
