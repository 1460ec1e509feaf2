"""Tests of the committed scripts: they are what the notebooks export to, and behave as programs."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from kit import export

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = export.lessons()
SCRIPTS = sorted((PROJECT / "scripts").glob("*.py"))
MOST_LINES, HELP_SECONDS = 85, 2


def run(*command, **options):
    return subprocess.run(
        [sys.executable, *map(str, command)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


@pytest.fixture(params=SCRIPTS, ids=lambda file: file.stem)
def script(request):
    return request.param


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_committed_script_is_the_export(notebook):
    name, text = export.script(notebook)
    file = PROJECT / "scripts" / name
    assert file.read_text(encoding="utf-8") == text, "run python -m kit.export"


def test_no_script_without_a_notebook():
    makers = {re.search(r"from (\S+\.ipynb):", file.read_text())[1] for file in SCRIPTS}
    assert makers == {notebook.name for notebook in NOTEBOOKS}


def test_importing_does_nothing(script, tmp_path):
    code = f"import sys; sys.path.insert(0, {str(script.parent)!r}); import {script.stem}"
    environment = {
        "KIT_RUNS": str(tmp_path / "runs"),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(PROJECT),
    }
    done = run("-c", code, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout) == (0, "")
    assert not list(tmp_path.iterdir())


def test_help_says_what_the_script_does_in_two_seconds(script, tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(script, "--help", cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert f"Example: python scripts/{script.name} --" in done.stdout
    assert "--learning_rate" in done.stdout and "peak step size" in done.stdout
    # Processor time, because a busy machine lets any program wait.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < HELP_SECONDS


def test_a_typo_costs_no_import_of_torch(script, tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(script, "--epoch", "2", cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert done.stderr == "SettingsError: expected a setting, got --epoch; did you mean epochs?\n"
    assert after.ru_utime - before.ru_utime < HELP_SECONDS


def test_a_script_can_be_handed_over_alone(script):
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert not re.search(r"\bshow\b|tests/|sys\.path", text)
