"""The README tells the truth: its commands run, its files exist, its numbers are computed."""

import json
import os
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
import pytest
import readme

from kit import show
from kit.engine import checkpoints

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
PAGES = [README, (PROJECT / "docs" / "when_training_goes_wrong.md").read_text(encoding="utf-8")]
MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")
LINES = readme.commands(README)
SCRIPTS = [line for line in LINES if "scripts/" in line]
LAUNCHED = [line for line in SCRIPTS if "accelerate launch" in line and "configs/" not in line]


def outputs(name):
    book = nbformat.read(PROJECT / "notebooks" / name, as_version=4)
    texts = []
    for cell in book.cells:
        for output in cell.get("outputs", []):
            texts.append(
                str(output.get("text", "") or output.get("data", {}).get("text/plain", ""))
            )
    return "\n".join(texts)


def test_make_targets_exist():
    named = set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", README, re.MULTILINE))
    assert {"course", "chat", "lab", "help"} <= named
    assert named <= set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))


def test_links_and_pictures_lead_somewhere():
    for folder, page in zip((PROJECT, *[PROJECT / "docs"] * len(PAGES[1:])), PAGES, strict=True):
        links = re.findall(r"\]\(([^)#:]+)\)", page)
        assert len(links) >= 7
        assert [link for link in links if not (folder / link).exists()] == []


def test_the_picture_is_drawn_from_replies():
    picture = ET.parse(PROJECT / "docs" / "before_after.svg").getroot()
    texts = ["".join(part.itertext()) for part in picture.iter() if part.tag.endswith("text")]
    assert len(texts) >= 8 and "Right after the course" in texts[-1]
    title = next(part.text for part in picture.iter() if part.tag.endswith("title"))
    assert "before" in title and "after" in title


def test_every_module_is_in_the_tree_and_only_those():
    tree = README[README.index("kit/             the lib") : README.index("scripts/         gen")]
    named = set(re.findall(r"^  +(\w+)\.py", tree, re.MULTILINE))
    files = [*(PROJECT / "kit").glob("*.py"), *(PROJECT / "kit" / "engine").glob("*.py")]
    assert named == {file.stem for file in files} - {"__init__", "__main__"}


def test_every_lesson_is_in_the_table_with_its_minutes():
    table = dict(re.findall(r"^\| \[(\d\d) [^\]]+\]\([^)]+\) \| ([\d.]+) \|", README, re.MULTILINE))
    assert list(table) == [name[:2] for name in show.LESSONS]
    total = sum(map(float, table.values()))
    promised = float(re.search(r"right in (\d+) minutes", README)[1])
    assert abs(total - promised) <= 0.15 * promised


def test_scores_are_those_of_lesson_05():
    scores = README[README.index("## Scores") : README.index("## Your own task")]
    rows = [line.strip("|").split("|") for line in scores.splitlines() if line.startswith("| ")]
    stages = [[cell.strip() for cell in row] for row in rows if "[" in row[1]]
    assert len(stages) >= 4
    computed = re.sub(r"\s+", " ", outputs("05_evaluate.ipynb"))
    for stage in stages:
        assert " ".join(stage) in computed, stage


def test_the_best_number_is_in_the_table():
    best = re.search(r"\*\*0% to ([\d.]+)% of unseen", README)[1]
    row = [line for line in README.splitlines() if line.startswith("| DPO")][0]
    assert round(float(re.search(r"\| ([\d.]+)% \[", row)[1])) == round(float(best))


def environment(runs, processes="1"):
    return readme.short_environment(runs, NUM_GPUS=processes)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Runs of the three launch lines in their order, with one process, as printed."""
    runs = tmp_path_factory.mktemp("runs")
    for line in LAUNCHED:
        done = readme.run(line, environment(runs))
        assert done.code == 0, (line, done.output[-3000:])
    return runs


def fresh_copy(chain, folder, name):
    """A copy of the chain's runs in which the run `name` is not trained yet."""
    shutil.copytree(chain, folder)
    shutil.rmtree(folder / name)
    return folder


def test_three_launch_lines_are_printed():
    names = [re.search(r"scripts/(\w+)\.py", line)[1] for line in LAUNCHED]
    assert names == ["sft_completion", "sft_chat", "dpo"]


def test_one_process_trains_every_lesson(chain):
    for name in ("02_sft_completion", "03_sft_chat", "04_dpo"):
        report = json.loads((chain / f"{name}-pocket" / "report.json").read_text())
        assert report["steps"] == 2


@pytest.mark.parametrize(
    "script, run, processes, folder",
    [
        ("sft_completion", "02_sft_completion-pocket", "4", "scripts"),
        ("sft_chat", "03_sft_chat-pocket", "3", "."),
        ("dpo", "04_dpo-pocket", "2", "scripts"),
    ],
)
def test_several_processes_train_with_default_settings(
    chain, tmp_path, script, run, processes, folder
):
    """The line as printed, on CPU processes, from the project and from inside scripts/."""
    runs = fresh_copy(chain, tmp_path / "runs", run)
    line = next(line for line in LAUNCHED if f"scripts/{script}.py" in line)
    config = "--config_file " + str(PROJECT / "configs" / "ddp.yaml")
    line = line.replace("accelerate launch", f"ACCELERATE_USE_CPU=true accelerate launch {config}")
    if folder == "scripts":
        line = line.replace("scripts/", "")
    done = readme.run(line, environment(runs, processes), folder=PROJECT / folder)
    assert done.code == 0, done.output[-3000:]
    report = json.loads((runs / run / "report.json").read_text())
    assert report["steps"] == 2
    assert json.loads((runs / run / "run.json").read_text())["world_size"] == int(processes)


def test_the_two_process_line_of_the_readme(chain):
    (line,) = [line for line in SCRIPTS if "ACCELERATE_USE_CPU" in line]
    done = readme.run(line, environment(chain))
    assert done.code == 0, done.output[-3000:]
    one, two = (
        checkpoints.read_json(chain / name / "report.json")
        for name in ("03_sft_chat-pocket", "two-pocket")
    )
    assert two["loss_first"] == pytest.approx(one["loss_first"], abs=2e-5)


def test_own_task_lines(tmp_path):
    """The five lines of an own task, on few steps; test_stranger.py runs them in full."""
    lines = [line for line in LINES if "orders" in line]
    assert [line.split()[0] for line in lines] == ["kit", "python", "kit", "kit", "kit"]
    for line in lines[:4]:
        done = readme.run(line, environment(tmp_path / "runs"))
        assert done.code == 0, (line, done.output[-3000:])


def test_help_answers(tmp_path):
    line = next(line for line in LINES if line.endswith("--help"))
    done = readme.run(line, environment(tmp_path / "runs"))
    assert done.code == 0 and "--learning_rate" in done.output


def test_every_command_is_typed():
    """Each command is typed by a test here or, below, in test_readme_setup.py."""
    here = {*LAUNCHED, *(line for line in SCRIPTS if "configs/" in line), "make chat"}
    here |= {line for line in LINES if "orders" in line or line.endswith("--help")}
    assert [line for line in LINES if line not in here] == [
        "make course",
        "make lab",
        "python3 -m venv .venv",
        ".venv/bin/pip install -r requirements.lock",
        ".venv/bin/pip install --no-deps --editable .",
        ".venv/bin/python tools/execute.py --out runs/notebooks",
        "JUPYTER_CONFIG_PATH=configs .venv/bin/jupyter lab notebooks/00_start_here.ipynb",
        ". .venv/bin/activate",
    ]


def test_make_chat(chain, tmp_path):
    """It talks with the model of lesson 04. `make` finds the environment of this test ready."""
    clone = readme.clone(tmp_path)
    readme.link_environment(clone)
    text = "every day at noon\n/new\n\n/quit\n"
    done = readme.run("make chat", environment(chain), folder=clone, text=text)
    lines = done.output.splitlines()
    assert done.code == 0 and lines[0] == ".venv/bin/kit chat 04_dpo-pocket", done.output[-3000:]
    assert lines[1].startswith("Each line is a message.") and len(lines) == 3


def test_make_chat_before_the_course_says_what_is_missing(tmp_path):
    clone = readme.clone(tmp_path)
    readme.link_environment(clone)
    done = readme.run("make chat", environment(tmp_path / "runs"), folder=clone, text="hi\n")
    assert done.code == 2 and "MissingError: " in done.output and "Traceback" not in done.output


def test_fsdp2_line_on_a_cpu(chain):
    line = next(line for line in LINES if "configs/fsdp2.yaml" in line)
    done = readme.run(f"ACCELERATE_USE_CPU=true {line}", environment(chain, "2"))
    assert done.code == 0, done.output[-3000:]


@pytest.mark.long
def test_the_cell_for_colab(tmp_path):
    """The cell as printed, in an empty folder and a new environment, with this clone as source.

    pip takes the versions of the lock, because Colab has its own torch and a new one is large.
    """
    cell = re.search(r"```python\n(REPOSITORY.*?)```", README, re.DOTALL)[1]
    lines = [line.lstrip("!%") for line in cell.splitlines()[1:]]
    lines += ["KIT_LESSONS=00 python tools/execute.py --out executed", "ls executed"]
    start = ["set -e", f"{sys.executable} -m venv env", ". env/bin/activate"]
    environment = os.environ | {"PIP_CONSTRAINT": str(PROJECT / "requirements.lock")}
    environment.pop("PYTHONPATH", None)  # the clone must find its own kit
    script = "\n".join([*start, f"REPOSITORY={PROJECT}", *lines])
    done = readme.run(script, environment, folder=tmp_path, seconds=1500)
    assert done.code == 0, done.output[-3000:]
    assert done.output.rstrip().endswith("00_start_here.ipynb")
