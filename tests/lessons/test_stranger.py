"""A stranger's rows go from a file to a scored, chatting, shipped model by the README's own lines, nothing cut short."""

import json
import re
import time
from pathlib import Path

import pytest
import readme

PROJECT = Path(__file__).parents[2]
SECTION = (PROJECT / "README.md").read_text(encoding="utf-8").partition("## Your own task in five lines")[2]
LINES = readme.commands(SECTION.partition("\n## ")[0])
ROWS, TESTS, MOST_SECONDS = 300, 40, 300
TASK = """from kit.tasks import json_fields

system = "Write JSON."
train, test = "train.jsonl", "test.jsonl"
max_new_tokens = 64
judge = json_fields("item", "size", "count", "name")
"""


def rows(name, count):
    """The first rows of a file of the orders task, as a stranger writes them: prompt, completion and group."""
    lines = (PROJECT / "data_samples" / "orders" / name).read_text(encoding="utf-8").splitlines()
    every = [json.loads(line) for line in lines[:: max(1, len(lines) // count)][:count]]
    return [{"prompt": row["messages"][-2]["content"], "completion": row["messages"][-1]["content"],
             **{key: row[key] for key in row if key == "group"}} for row in every]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each line of the README prints, with the stranger's task in place of the shipped one; and the seconds."""
    folder = tmp_path_factory.mktemp("stranger")
    for name, count in (("train.jsonl", ROWS), ("test.jsonl", TESTS)):
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows(name, count)), encoding="utf-8")
    (folder / "pizza.py").write_text(TASK, encoding="utf-8")
    environment = readme.short_environment(folder / "runs")
    del environment["KIT_MAX_STEPS"]  # the real training, to its last step
    begin, done = time.monotonic(), {}
    for line in LINES:
        typed = line.replace("data_samples/orders/orders.py", str(folder / "pizza.py"))
        typed = re.sub(r"--out \S+", f"--out {folder / 'out'}", typed)
        if typed.startswith("kit chat"):
            typed = f"echo 'Two large calzone for Anna' | {typed}"
        done[" ".join(line.split()[:2])] = readme.run(typed, environment, seconds=500)
    return done, time.monotonic() - begin


def test_there_are_at_most_five_lines():
    assert 4 <= len(LINES) <= 5 and LINES[0].startswith("kit check")


def test_every_line_succeeds(outputs):
    failures = {name: result.output[-600:] for name, result in outputs[0].items() if result.code}
    assert failures == {}


def test_the_whole_way_takes_at_most_five_minutes(outputs):
    print(f"{outputs[1]:.0f} s")
    assert outputs[1] < MOST_SECONDS


def test_the_model_is_much_better_than_before(outputs):
    text = outputs[0]["python scripts/sft_chat.py"].output
    gain = re.search(r"difference \+([\d.]+)% \[\+([\d.]+)%", text)
    assert float(gain[1]) >= 40 and float(gain[2]) > 20, text[-400:]
    scores = outputs[0]["kit score"].output
    assert re.search(r"orders-pocket minus pocket, \w+.*: \+", scores)


def test_the_model_chats_in_the_form_of_the_rows(outputs):
    reply = re.search(r'\{"item":.*?\}', outputs[0]["kit chat"].output)
    assert {"item", "size", "count", "name"} <= json.loads(reply[0]).keys()
