"""The environment files agree with each other and with what the kit imports."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]
LOCK = [
    line
    for line in (PROJECT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
]
PINS = {canonicalize_name(name): version for name, version in (line.split("==") for line in LOCK)}
PROMISED = [
    "jupyterlab",
    "torch",
    "transformers",
    "accelerate",
    "trl",
    "datasets",
    "wandb",
    "ipywidgets",
    "nbval",
]


def test_lock_is_exact_and_names_no_local_build():
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in LOCK)
    assert len(PINS) == len(LOCK)
    assert not [name for name in PINS if "nvidia" in name or "cuda" in name or name == "triton"]


def test_lock_fits_the_ranges_of_the_project():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *extras["test"], *extras["course"], *extras["ship"]]
    wanted = [Requirement(text) for text in texts]
    assert {canonicalize_name(r.name) for r in wanted} >= set(PROMISED)
    for requirement in wanted:
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), (
            requirement
        )


def test_conda_file_takes_the_lock():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    python, pip, extra = environment["dependencies"]
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert (python, pip) == (f"python{project['requires-python']}", "pip")
    assert extra == {"pip": ["-r requirements.lock"]}
    assert (PROJECT / "requirements.lock").is_file()


def test_one_range_of_python_versions_everywhere():
    makefile = (PROJECT / "Makefile").read_text()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.15"
    assert "(3, 11) <= sys.version_info < (3, 15)" in makefile and "3.11 to 3.14" in makefile


@pytest.mark.parametrize(
    "version, code", [("3.10.9", 1), ("3.11.0", 0), ("3.14.2", 0), ("3.15.0", 1)]
)
def test_another_python_is_refused_in_one_sentence(version, code):
    (check,) = re.findall(
        r"-c '(import sys; .*)'$", (PROJECT / "Makefile").read_text(), re.MULTILINE
    )
    numbers = tuple(map(int, version.split(".")))
    mock = f"import sys; sys.version = {version!r}; sys.version_info = {numbers!r}; "
    done = subprocess.run(
        [sys.executable, "-c", mock + check], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert (
        done.stderr == ""
        if code == 0
        else (f"expected Python 3.11 to 3.14, got {version}; " in done.stderr)
    )
    assert len(done.stderr.splitlines()) == code


def test_make_alone_lists_the_targets():
    done = subprocess.run(
        ["make", "--no-print-directory"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    targets = re.findall(r"^([a-z0-9-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^  ([a-z0-9-]+) ", done.stdout, re.MULTILINE) == targets


def test_ruff_is_one_version_everywhere():
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"][0]
    assert hooks["rev"] == f"v{PINS['ruff']}"
    assert f"ruff=={PINS['ruff']}" in (PROJECT / "pyproject.toml").read_text()


def test_no_committed_text_names_a_home_folder():
    command = [
        "git",
        "grep",
        "-nIE",
        r"(^|[^A-Za-z0-9._~/])/(root|home|Users)/[a-z]",
        "--",
        ":!tests",
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_this_environment_is_the_locked_one():
    from importlib.metadata import version

    for name in PROMISED:
        assert version(name).split("+")[0] == PINS[name], name
