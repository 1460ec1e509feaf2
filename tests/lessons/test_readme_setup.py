"""The README's lines that install, run the course and open JupyterLab, typed as printed.

They run in a folder that looks like a fresh clone. KIT_LESSONS makes the course one lesson long.
Jupyter's own variables give the server a port, and BROWSER a program that prints what it opens. In the quick tests the new
environment finds the installed packages of this one; a `long` test installs them.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path

import pytest
import readme

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = [readme.commands(f"```bash\n{block}```") for block in readme.blocks(README)]
WITH_MAKE = next(block for block in BLOCKS if "make course" in block)
WITHOUT_MAKE = next(block for block in BLOCKS if "python3 -m venv .venv" in block)
(ACTIVATE,) = [line for block in BLOCKS for line in block if line.startswith(". ")]
TITLE = "# 00 · Start here"


@pytest.fixture
def clone(tmp_path):
    return readme.clone(tmp_path)


def environment(clone, **variables):
    """The environment of a shell in which nothing is activated and one lesson is the course."""
    folder = clone.parent
    config = {"ServerApp": {"allow_root": True}}
    (folder / "jupyter_server_config.json").write_text(json.dumps(config))
    (folder / "browser").write_text('#!/bin/sh\nexec cat "${1#file://}"\n')
    (folder / "browser").chmod(0o755)
    variables = {"KIT_RUNS": str(clone / "runs"), "OMP_NUM_THREADS": "1", **variables}
    jupyter = {"JUPYTER_CONFIG_DIR": str(folder), "BROWSER": f"{folder / 'browser'} %s"}
    return readme.fresh_shell() | {"KIT_LESSONS": "00"} | jupyter | variables


def run(line, clone, **variables):
    done = readme.run(line, environment(clone, **variables), folder=clone, seconds=1500)
    assert done.code == 0, (line, done.output[-3000:])
    return done.output


def check_course(output, folder):
    assert re.search(r"^00_start_here +[\d.]+ s +\d+ checks", output, re.MULTILINE)
    assert "make chat" in output and "01_tokenizer" not in output
    assert TITLE in (folder / "00_start_here.ipynb").read_text(encoding="utf-8")


def check_lab(line, clone, path, **variables):
    """Start JupyterLab by the line, load the page that it opens, read the lesson, and stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = environment(clone, JUPYTER_PORT=str(port), JUPYTER_TOKEN="token", **variables)
    log = clone.parent / "lab.txt"
    with log.open("w") as out:
        server = subprocess.Popen(
            ["bash", "-c", line], cwd=clone, env=place, stdout=out, stderr=out, process_group=0
        )
    address = f"http://localhost:{port}"
    try:
        text = fetch(f"{address}/api/contents/{path}?token=token", server, log)
        page = fetch(f"{address}/lab/tree/{path}?token=token", server, log)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)
    assert json.loads(text)["content"]["cells"][0]["source"].startswith(TITLE)
    assert "<title>JupyterLab</title>" in page
    assert f'url={address}/lab/tree/{path}?token=token"' in log.read_text()


def fetch(address, server, log, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=30) as answer:
            return answer.read().decode()
        time.sleep(0.3)
    raise AssertionError(f"expected an answer within {seconds} s, got none: {log.read_text()}")


def test_the_lines_are_those_of_the_readme():
    assert WITH_MAKE == ["make course", "make chat", "make lab"]  # test_readme.py types make chat
    programs = [re.split("[ /]", line)[0] for line in WITHOUT_MAKE]
    assert programs == ["python3", *[".venv"] * 3, "JUPYTER_CONFIG_PATH=configs"]


def test_make_course(clone):
    output = run("make course", clone, **readme.link_environment(clone))
    check_course(output, clone / "runs" / "notebooks")


def test_make_lab(clone):
    variables = readme.link_environment(clone)
    check_lab("make lab", clone, "notebooks/00_start_here.ipynb", **variables)


def test_make_help_lists_every_target(clone):
    targets = re.findall(r"^([a-z0-9-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    output = run("make help", clone)
    assert re.findall(r"^  ([a-z0-9-]+) ", output, re.MULTILINE) == targets
    assert not (clone / ".venv").exists()


def without_make(clone, *, installed):
    """Type the five lines and the activation; `installed`: the packages are here already."""
    variables = {"PYTHONPATH": "", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environments, requirements, kit, course, lab = WITHOUT_MAKE
    run(environments, clone, **variables)
    if installed:
        variables |= {"PYTHONPATH": sysconfig.get_path("purelib"), "PIP_NO_INDEX": "1"}
        variables["PIP_NO_BUILD_ISOLATION"] = "0"  # pip's way to say: none
        jupyter = Path(sys.executable).with_name("jupyter")
        (clone / ".venv" / "bin" / "jupyter").symlink_to(jupyter)
    output = run(requirements, clone, **variables)
    assert not installed or "Requirement already satisfied: torch==" in output
    run(kit, clone, **variables)
    output = run(f"{ACTIVATE} && command -v kit && kit --help", clone, **variables)
    assert output.startswith(str(clone / ".venv" / "bin" / "kit")) and "usage: kit" in output
    check_course(run(course, clone, **variables), clone / "runs" / "notebooks")
    check_lab(lab, clone, "00_start_here.ipynb", **variables)


def test_the_five_lines_without_make(clone):
    without_make(clone, installed=True)


@pytest.mark.long
def test_the_five_lines_without_make_install_everything(clone):
    without_make(clone, installed=False)
