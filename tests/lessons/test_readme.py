"""The README tells the truth: its commands, files and numbers exist."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")


def outputs(name):
    book = nbformat.read(PROJECT / "notebooks" / name, as_version=4)
    return "\n".join(str(o.get("text", "") or o.get("data", {}).get("text/plain", ""))
                     for cell in book.cells if cell.cell_type == "code" for o in cell.outputs)


def test_make_targets_exist():
    told = set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", README + (PROJECT / "CONTRIBUTING.md").read_text(), re.M))
    assert {"course", "test", "lab"} <= told
    assert told <= set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.M))


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) >= 7
    assert [link for link in links if not (PROJECT / link).exists()] == []


def test_every_kit_module_is_in_the_tree_and_only_those():
    told = set(re.findall(r"\b(\w+)\.py\b", README[README.index("kit/           "):README.index("scripts/       gen")]))
    assert told == {path.stem for path in (PROJECT / "kit").glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("line", [line for line in README.splitlines() if "scripts/" in line and " --" in line])
def test_flags_of_script_commands_exist(line):
    script, rest = re.search(r"(scripts/\w+\.py)(.*)", line).groups()
    told = subprocess.run([sys.executable, PROJECT / script, "--help"], capture_output=True, text=True, check=True).stdout
    for flag in re.findall(r" (--[\w-]+)", rest):
        assert flag in told, (script, flag)


def test_scores_are_those_of_lesson_05():
    rows = [line.strip("|").split("|") for line in README[README.index("## Scores"):].splitlines() if line.startswith("| ")]
    found = re.sub(r"\s+", " ", outputs("05_evaluate.ipynb"))
    stages = [[cell.strip() for cell in row] for row in rows if "[" in row[1]]
    assert [stage[0] for stage in stages] == ["base", "completion SFT", "chat SFT", "DPO"]
    for stage in stages:
        assert " ".join(stage) in found, stage
