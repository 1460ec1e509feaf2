"""A stranger's rows go from a file to a scored, chatting, shipped model by the README's lines.

The training is the real one, to its last step.
"""

import json
import os
import re
import resource
from pathlib import Path

import pytest
import readme

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Your own task in five lines")[2].partition("\n## ")[0]
LINES = readme.commands(SECTION)
ROWS, TESTS, MOST_SECONDS = 300, 40, 300
TASK = """from kit.tasks import json_fields

system = "Write JSON."
train, test = "train.jsonl", "test.jsonl"
max_new_tokens = 64
judge = json_fields("item", "size", "count", "name")
"""


def rows(name, count):
    """Rows of the orders task, evenly spaced, as a stranger writes them."""
    lines = (PROJECT / "data_samples" / "orders" / name).read_text(encoding="utf-8").splitlines()
    every = [json.loads(line) for line in lines[:: max(1, len(lines) // count)][:count]]
    columns = [{"group": row["group"]} if "group" in row else {} for row in every]
    texts = [[turn["content"] for turn in row["messages"][-2:]] for row in every]
    return [{"prompt": p, "completion": c} | more for (p, c), more in zip(texts, columns)]


def processor_seconds():
    """Processor time of the commands so far, which a busy machine hardly changes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each line prints, with the stranger's task for the shipped one, and the seconds."""
    folder = tmp_path_factory.mktemp("stranger")
    for name, count in (("train.jsonl", ROWS), ("test.jsonl", TESTS)):
        lines = (f"{json.dumps(row)}\n" for row in rows(name, count))
        (folder / name).write_text("".join(lines), encoding="utf-8")
    (folder / "pizza.py").write_text(TASK, encoding="utf-8")
    environment = readme.short_environment(folder / "runs")
    del environment["KIT_MAX_STEPS"]
    kit = folder / "bin" / "kit"  # last in PATH, for a checkout that is not installed
    kit.parent.mkdir()
    kit.write_text('#!/bin/sh\nexec python -m kit "$@"\n')
    kit.chmod(0o755)
    environment["PATH"] += f"{os.pathsep}{kit.parent}"
    begin, done = processor_seconds(), {}
    for line in LINES:
        typed = line.replace("data_samples/orders/orders.py", str(folder / "pizza.py"))
        typed = re.sub(r"--out \S+", f"--out {folder / 'out'}", typed)
        if typed.startswith("kit chat"):
            typed = f"echo 'Two large calzone for Anna' | {typed}"
        done[" ".join(line.split()[:2])] = readme.run(typed, environment, seconds=500)
    return done, processor_seconds() - begin


def test_there_are_at_most_five_lines():
    assert 4 <= len(LINES) <= 5 and LINES[0].startswith("kit check")


def test_every_line_succeeds(outputs):
    failures = {name: result.output[-600:] for name, result in outputs[0].items() if result.code}
    assert failures == {}


def test_the_whole_way_takes_at_most_five_minutes(outputs):
    print(f"{outputs[1]:.0f} s of one processor")
    assert outputs[1] < MOST_SECONDS


def test_the_model_is_much_better_than_before(outputs):
    text = outputs[0]["python scripts/sft_chat.py"].output
    gain = re.search(r"difference: \+([\d.]+)% \[\+([\d.]+)%", text)
    assert float(gain[1]) >= 40 and float(gain[2]) > 20, text[-400:]
    scores = outputs[0]["kit score"].output
    assert re.search(r"orders-pocket minus pocket, \w+.*: \+", scores)


def test_the_model_chats_in_the_form_of_the_rows(outputs):
    reply = re.search(r'\{"item":.*?\}', outputs[0]["kit chat"].output)
    assert {"item", "size", "count", "name"} <= json.loads(reply[0]).keys()
