"""The committed scripts are what the notebooks export to, and behave as programs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kit import export

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = [file for file in sorted((PROJECT / "notebooks").glob("[0-9]*.ipynb"))
             if "script" in json.loads(file.read_text(encoding="utf-8"))["metadata"].get("kit", {})]


def run(*command, **options):
    return subprocess.run([sys.executable, *map(str, command)], check=False, capture_output=True, text=True,
                          timeout=120, **options)


@pytest.fixture(params=NOTEBOOKS, ids=lambda file: file.stem)
def script(request):
    return PROJECT / "scripts" / export.script(request.param)[0]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_committed_script_is_the_export(notebook):
    name, text = export.script(notebook)
    assert (PROJECT / "scripts" / name).read_text(encoding="utf-8") == text, "stale; run python -m kit.export"


def test_no_script_without_a_notebook():
    known = {export.script(notebook)[0] for notebook in NOTEBOOKS}
    assert {file.name for file in (PROJECT / "scripts").glob("*.py")} == known


def test_importing_does_nothing(script, tmp_path):
    done = run("-c", f"import sys; sys.path.insert(0, {str(script.parent)!r}); import {script.stem}",
               cwd=tmp_path, env={"KIT_RUNS": str(tmp_path / "runs"), "PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stdout) == (0, "")
    assert not list(tmp_path.iterdir())


def test_help_tells_the_units(script, tmp_path):
    told = run(script, "--help", cwd=tmp_path)
    assert told.returncode == 0 and "--learning-rate" in told.stdout and "peak step size" in told.stdout
