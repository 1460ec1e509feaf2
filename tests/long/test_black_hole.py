"""A network that swallows every packet: no answer, no error, no name server. Nothing may hang in it.

Each program runs in a network namespace of its own, whose only way out ends at an interface that
drops what it gets. All traffic stays on a pair of virtual interfaces that ends with the program.
"""

import importlib.util
import os
import subprocess
import sys
import time

import pytest
import tiny

from kit import runs

pytestmark = pytest.mark.long
HOLE = """
ip link set lo up
ip link add hole0 type veth peer name hole1
ip addr add 10.78.0.2/24 dev hole0
ip link set hole0 up
ip link set hole1 up
ip neigh add 10.78.0.1 lladdr 02:00:00:00:00:01 dev hole0
ip route add default via 10.78.0.1
exec "$@"
"""
CONNECTS = """
import socket, time
began = time.monotonic()
try:
    socket.create_connection(("192.0.2.1", 443), timeout=2)
except TimeoutError:
    print("dropped")
"""
HUB = """
import time
from kit import models
from kit.errors import MissingError
began = time.monotonic()
try:
    models.load("owner/name")
except MissingError as error:
    print(error)
print(f"seconds: {time.monotonic() - began:.1f}")
"""
SECONDS = (
    180  # W&B: 20 to begin, 12 to end; a hub id: 30; the rest is for imports on a busy machine
)


def inside(*command, **environment):
    """Run a command in the hole; return (its exit code, what it printed, the seconds it took)."""
    began = time.monotonic()
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-ec", HOLE, "sh", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=2 * SECONDS,
        env={key: text for key, text in os.environ.items() if not key.startswith("WANDB")}
        | environment,
    )
    return done.returncode, done.stdout, time.monotonic() - began


@pytest.fixture(autouse=True, scope="module")
def hole():
    try:
        code, printed, _ = inside(sys.executable, "-c", CONNECTS)
    except OSError as error:
        pytest.skip(f"this machine has no unshare (util-linux): {error}")
    if code or "dropped" not in printed:
        pytest.skip(f"this user or machine makes no network namespaces: {printed.strip()[-200:]}")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_RUNS", str(tmp_path / "runs"))


def test_wandb_online_goes_on_offline(tmp_path):
    """With a key, so that W&B tries; the weights are those of a run without W&B."""
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("the package wandb is not installed")
    script = (sys.executable, tiny.__file__)
    environment = {"HOME": str(tmp_path), "WANDB_API_KEY": "x" * 40, "OMP_NUM_THREADS": "1"}
    code, printed, seconds = inside(*script, '{"name": "a", "report_to": "wandb"}', **environment)
    print(f"W&B in a hole: {seconds:.0f} s with imports\n{printed}")
    assert code == 0, printed
    assert "W&B cannot be reached" in printed and "so this run goes on offline" in printed
    assert "`wandb sync a/wandb/offline-run-" in printed and seconds < SECONDS
    subprocess.run([*script, '{"name": "b"}'], check=True, env={**os.environ, **environment})
    one, other = (runs.Run(runs.root() / name, {}) for name in "ab")
    assert tiny.outcome(one) == tiny.outcome(other)


def test_a_hub_id_is_one_sentence():
    code, printed, seconds = inside(sys.executable, "-c", HUB, HF_HUB_OFFLINE="0")
    print(f"a hub id in a hole: {seconds:.0f} s with imports\n{printed}")
    assert code == 0, printed
    assert "owner/name: expected an answer of the hub" in printed and "go online" in printed
    assert seconds < SECONDS
