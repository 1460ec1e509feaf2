"""configs/slurm.sh on a real Slurm of one host, and configs/skypilot.yaml by SkyPilot's own parser.

Neither is installed by the course: `apt-get install slurm-wlm`, `pip install skypilot`. Without them
the tests are skipped.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from kit import launch, runs

pytestmark = pytest.mark.long
PROJECT = Path(__file__).parents[2]
SKYPILOT = PROJECT / "configs" / "skypilot.yaml"
ROWS, BATCH, STEPS, NEAR = 200, 8, 12, 1e-5  # rows; rows per step; steps; nats
PROGRAMS = "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel"
CONF = """
ClusterName=course
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4
PartitionName=all Nodes=ALL Default=YES
"""


def wait_until(condition, what, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"expected {what} within {seconds} s")


def slurm(*command):
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """One host with Slurm's two daemons, of which nothing stays."""
    if os.geteuid() or not all(map(shutil.which, PROGRAMS)):
        pytest.skip("a Slurm of its own needs root and apt-get install slurm-wlm")
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    host = socket.gethostname().partition(".")[0]
    conf = tmp_path / "slurm.conf"
    conf.write_text(CONF.format(host=host, ports=ports, folder=tmp_path))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    daemons = []
    for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "localhost"]):
        with open(tmp_path / f"{command[0]}.txt", "w") as log:
            daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
    try:
        idle = lambda: "State=IDLE" in slurm("scontrol", "show", "node", "localhost")  # noqa: E731
        wait_until(idle, "an idle node")
        yield tmp_path
    finally:
        subprocess.run(["scancel", "--user=root"], check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=60)


def metrics(run):
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def submit(folder, output, *options):
    """The line of configs/slurm.sh, with two tasks on one host instead of eight GPUs on two."""
    flags = [f"--task={folder / 'chat.jsonl'}", "--run=slurm", f"--batch_size={BATCH}"]
    size = ["--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "--gres=none"]
    command = ["sbatch", "--parsable", *size, f"--output={output}", *options, "configs/slurm.sh"]
    return slurm(*command, *flags, "--save_steps=100").strip()


def test_slurm_trains_stops_by_its_signal_and_goes_on(cluster, monkeypatch):
    """Two tasks train what one process trains; TERM, as before the end of the time, saves."""
    variables = {
        **launch._environment(2),
        "GPUS_PER_NODE": "1",
        "SCRIPT": "tests/helpers/lesson.py",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    first, second = cluster / "first.txt", cluster / "second.txt"
    with tiny.first_chats(cluster, ROWS, STEPS) as folder:
        run = runs.root() / "slurm-pocket"
        job = submit(folder, first)
        wait_until(lambda: len(metrics(run)) >= 3, "three steps")
        slurm("scancel", "--signal=TERM", job)
        state = ["scontrol", "show", "job", job]
        wait_until(lambda: "JobState=FAILED" in slurm(*state), "the end of the stopped job")
        assert 3 <= len(metrics(run)) < STEPS and not (run / "model").exists(), first.read_text()
        submit(folder, second, "--wait")
        assert "resuming from checkpoint-" in second.read_text()
        launch.run(
            PROJECT / variables["SCRIPT"], task=folder / "chat.jsonl", run="alone", batch_size=BATCH
        )
        alone = runs.root() / "alone-pocket"
    assert json.loads((run / "run.json").read_text())["world_size"] == 2
    ours, theirs = metrics(run), metrics(alone)
    assert [row["batch_hash"] for row in ours] == [row["batch_hash"] for row in theirs]
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(ours, theirs, strict=True)) <= NEAR


def test_skypilot_reads_its_file(tmp_path):
    """SkyPilot's parser reads two hosts of eight GPUs, and refuses a field that it does not know."""
    sky = pytest.importorskip("sky", reason="pip install skypilot to test by its own parser")
    task = sky.Task.from_yaml(str(SKYPILOT))
    (resources,) = task.resources
    assert task.num_nodes == 2 and resources.accelerators == {"H100": 8}
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(SKYPILOT.read_text().replace("num_nodes:", "nodes:"))
    with pytest.raises(ValueError, match="nodes"):
        sky.Task.from_yaml(str(wrong))
