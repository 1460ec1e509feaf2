"""Two network namespaces as two hosts: one `accelerate launch` on each, the failure of one, and going on from there.

All traffic stays on a pair of virtual interfaces that the test makes and removes; processes join by gloo.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tiny

from kit import launch, runs
from kit.engine import distributed
from kit.errors import SettingsError

PROJECT = Path(__file__).parents[2]
ACCELERATE = Path(sys.executable).with_name("accelerate")
HOSTS = [
    (f"kit-{os.getpid()}-{k}", f"kit{os.getpid() % 10**6}v{k}", f"10.77.0.{k + 1}") for k in (0, 1)
]
LESSON = "tests/helpers/lesson.py"
ROWS, BATCH, STEPS, NEAR = 200, 8, 10, 1e-5  # rows; rows per step; steps; nats


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def hosts():
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip(
            "network namespaces need root and the command ip (iproute2); this user or machine lacks them"
        )
    try:
        for name, _, _ in HOSTS:
            ip("netns", "add", name)
        (a, va, _), (b, vb, _) = HOSTS
        ip("link", "add", va, "netns", a, "type", "veth", "peer", "name", vb, "netns", b)
    except subprocess.CalledProcessError as error:
        remove()
        pytest.skip(
            f"this kernel or container makes no network namespaces ({error.stderr.strip()})"
        )
    for name, interface, address in HOSTS:
        ip("-n", name, "addr", "add", f"{address}/24", "dev", interface)
        ip("-n", name, "link", "set", interface, "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield HOSTS
    remove()


def remove():
    for name, _, _ in HOSTS:
        for pid in inside(name):
            os.kill(pid, signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def inside(name):
    done = subprocess.run(
        ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in done.stdout.split()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with tiny.first_chats(tmp_path_factory.mktemp("nodes"), ROWS, STEPS) as path:
        yield path


def flags(folder, run):
    return [
        f"--task={folder / 'chat.jsonl'}",
        f"--run={run}",
        f"--batch-size={BATCH}",
        "--save-steps=2",
    ]


def start(folder, *script, **environment):
    """The line of configs/two_nodes.yaml on each host; the two processes, whose output goes to files."""
    started = []
    for k, (name, interface, _) in enumerate(HOSTS):
        command = [
            "ip",
            "netns",
            "exec",
            name,
            ACCELERATE,
            "launch",
            "--config_file",
            "configs/two_nodes.yaml",
            "--machine_rank",
            str(k),
            "--num_processes",
            "2",
            "--main_process_ip",
            HOSTS[0][2],
            *script,
        ]
        with open(folder / f"host{k}.txt", "w", encoding="utf-8") as out:
            started.append(
                subprocess.Popen(
                    command,
                    cwd=PROJECT,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={
                        **os.environ,
                        **launch._environment(2),
                        **environment,
                        "GLOO_SOCKET_IFNAME": interface,
                    },
                )
            )
    return started


def told(folder, k):
    return (folder / f"host{k}.txt").read_text(encoding="utf-8")


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def check_equal(run, alone):
    ours, theirs = metrics(run), metrics(alone)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    assert [row["batch_hash"] for row in ours] == [row["batch_hash"] for row in theirs]
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(ours, theirs, strict=True)) <= NEAR


def wait_for_step(run, step, processes, seconds=90):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        path = run / "metrics.jsonl"
        if path.is_file() and len(path.read_text().splitlines()) >= step:
            return
        assert all(process.poll() is None for process in processes), (
            "a host ended before the failure"
        )
        time.sleep(0.02)
    raise AssertionError(f"step {step} did not come within {seconds} s")


def lose(hosts, folder, k, run, how):
    """Start both hosts, make host k fail after step 3, return (exit code of the other, seconds it took to end)."""
    processes = start(folder, LESSON, *flags(folder, run), KIT_TIMEOUT="15")
    wait_for_step(runs.root() / f"{run}-pocket", 3, processes)
    began = time.monotonic()
    if how == "killed":
        for pid in inside(hosts[k][0]):
            os.kill(pid, signal.SIGKILL)
    else:
        ip("-n", hosts[k][0], "link", "set", hosts[k][1], "down")
    try:
        return processes[1 - k].wait(timeout=90), time.monotonic() - began
    finally:
        for pid in inside(hosts[k][0]):
            os.kill(pid, signal.SIGKILL)
        for process in processes:
            process.wait(timeout=30)
        ip("-n", hosts[k][0], "link", "set", hosts[k][1], "up")


def test_a_lost_host_ends_the_other_and_the_run_goes_on(hosts, folder):
    """Host 1 is killed; host 0 says so and ends; the same command on both goes on and equals one host's run."""
    code, seconds = lose(hosts, folder, 1, "lost", "killed")
    assert code != 0 and seconds < 30
    assert "LostError: runs/lost-pocket: process 0: another process or host is gone" in told(
        folder, 0
    )
    run = runs.root() / "lost-pocket"
    assert not (run / "model").exists()
    processes = start(folder, LESSON, *flags(folder, "lost"))
    assert [process.wait(timeout=120) for process in processes] == [0, 0], told(folder, 1)[-2000:]
    assert "resuming from checkpoint-" in told(folder, 0) and "trained" not in told(folder, 1)
    launch.run(PROJECT / LESSON, 1, task=folder / "chat.jsonl", run="alone", batch_size=BATCH)
    assert json.loads((run / "run.json").read_text())["world_size"] == 2
    check_equal(run, runs.root() / "alone-pocket")


def test_a_host_that_does_not_see_the_run_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "DISK_SECONDS", 0.1)
    with pytest.raises(
        SettingsError,
        match="expected a run folder that every host sees, got none on this host; set KIT_RUNS",
    ):
        distributed.meet(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    distributed.meet(tmp_path)


@pytest.mark.parametrize(
    "text, world, lost",
    [
        (
            "[/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.77.0.2]:4242",
            2,
            True,
        ),
        (
            "[Rank 1] Watchdog caught collective operation timeout: NCCL, Timeout(ms)=600000",
            2,
            True,
        ),
        (
            "[/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.77.0.2]:4242",
            1,
            False,
        ),
        ("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)", 2, False),
    ],
)
def test_what_means_that_a_process_is_gone(tmp_path, monkeypatch, text, world, lost):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setenv("RANK", "1")
    with (
        pytest.raises(RuntimeError if not lost else distributed.LostError) as raised,
        distributed.watched(tmp_path),
    ):
        raise RuntimeError(text)
    assert not lost or "process 1: another process or host is gone" in str(raised.value)
    assert lost or str(raised.value) == text


@pytest.mark.long
@pytest.mark.parametrize("k, how", [(0, "killed"), (1, "cut off"), (0, "cut off")])
def test_each_failure_of_a_host_ends_the_other_in_time(hosts, folder, k, how):
    """Host 0 holds the meeting point, so its end is another failure; a cut wire shows by KIT_TIMEOUT alone."""
    run = f"end-{k}-{how.replace(' ', '-')}"
    code, seconds = lose(hosts, folder, k, run, how)
    assert code != 0 and seconds < 60
    assert (
        f"LostError: runs/{run}-pocket: process {1 - k}: another process or host is gone"
        in told(folder, 1 - k)
    )
