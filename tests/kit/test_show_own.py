"""A learner's own notebooks beside the lessons are left alone by make course, test and site."""

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kit import show

PROJECT = Path(__file__).resolve().parents[2]
LESSONS = [f"notebooks/{name}.ipynb" for name in show.LESSONS]
OWN = ("mine.ipynb", "12_mine.ipynb", "03_sft_chat-Copy1.ipynb", "Untitled.ipynb")


@pytest.fixture
def project(tmp_path):
    """A project with empty lessons and four own notebooks without tags."""
    needed = ["requirements.lock", "requirements-deepspeed.txt", "pyproject.toml"]
    for name in (*needed, "Makefile", "docs/conf.py", "tools/execute.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    (tmp_path / "notebooks").mkdir()
    for name in (*LESSONS, *(f"notebooks/{name}" for name in OWN)):
        (tmp_path / name).write_text('{"cells": [], "metadata": {}, "nbformat": 4}')
    return tmp_path


def test_make_test_runs_the_lessons_alone(project):
    command = ["make", "--dry-run", f"BIN={Path(sys.executable).parent}", "test"]
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if "--nbval" in line]
    assert re.findall(r"notebooks\S*", line) == LESSONS


def test_make_course_runs_the_lessons_alone(project, monkeypatch):
    spec = importlib.util.spec_from_file_location("own_execute", project / "tools" / "execute.py")
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)
    files = []
    monkeypatch.setattr(execute, "run", lambda file, options: files.append(file) or True)
    assert execute.main([]) == 0
    assert [str(file.relative_to(project)) for file in files] == LESSONS


def test_the_site_holds_the_lessons_alone(project):
    patterns = runpy.run_path(str(project / "docs" / "conf.py"))["include_patterns"]
    assert [name for name in patterns if name.endswith("ipynb")] == LESSONS
    assert not any("*" in name for name in patterns)
