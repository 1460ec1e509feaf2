"""The environment files agree with each other and with what the kit imports."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]
LOCK = [line for line in (PROJECT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
PINS = {canonicalize_name(name): version for name, version in (line.split("==") for line in LOCK)}
PROMISED = ["jupyterlab", "torch", "transformers", "accelerate", "trl", "datasets", "wandb", "ipywidgets", "nbval"]


def test_lock_is_exact_and_names_no_local_build():
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in LOCK)
    assert len(PINS) == len(LOCK)
    assert not [name for name in PINS if "nvidia" in name or "cuda" in name or name == "triton"]


def test_lock_fits_the_ranges_of_the_project():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(r) for r in project["dependencies"] + project["optional-dependencies"]["test"]]
    assert {canonicalize_name(r.name) for r in wanted} >= set(PROMISED)
    for requirement in wanted:
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), requirement


def test_conda_file_takes_the_lock():
    made = yaml.safe_load((PROJECT / "environment.yml").read_text())
    python, pip, extra = made["dependencies"]
    assert (python, pip) == ("python=3.11", "pip")
    assert extra == {"pip": ["-r requirements.lock"]}
    assert (PROJECT / "requirements.lock").is_file()


def test_this_environment_is_the_locked_one():
    from importlib.metadata import version

    for name in PROMISED:
        assert version(name).split("+")[0] == PINS[name], name
