"""The sample data sets: gold judged by its own judge, splits disjoint, bytes reproducible."""

import json
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from kit import tasks

schedules = tasks.module("cron")
FOLDER = Path(__file__).parents[2] / "data_samples" / "cron"
MAKE = FOLDER.parent / "generator" / "make.py"
NAMES = ("completion", "chat", "preferences", "validation", "test")
TRAINING = NAMES[:3]


@pytest.fixture(scope="module")
def rows():
    texts = {name: (FOLDER / f"{name}.jsonl").read_text("utf-8") for name in NAMES}
    return {name: [json.loads(line) for line in text.splitlines()] for name, text in texts.items()}


def normalised(phrase):
    return " ".join(unicodedata.normalize("NFKC", phrase).casefold().split())


def messages_of(row):
    """All messages of a row of any of the files, the asked-for answer included."""
    if "completion" in row:
        return [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"]},
        ]
    return [m for key in ("messages", "prompt", "chosen", "rejected") for m in row.get(key, ())]


def phrases(rows):
    return {
        normalised(m["content"]) for row in rows for m in messages_of(row) if m["role"] == "user"
    }


def lines(rows):
    found = (
        schedules.find_cron(m["content"])
        for row in rows
        for m in messages_of(row)
        if m["role"] == "assistant"
    )
    return {line for line in found if line}


def right(row):
    return row["messages"][-1]["content"]


def shape(cron):
    """Field kinds of the canonical line, written here anew."""
    fields = schedules.canonical(cron).split()
    marks = {"step": "/", "list": ",", "range": "-", "any": "*"}
    return " ".join(
        next((kind for kind, mark in marks.items() if mark in field), "value") for field in fields
    )


def kind_of(row):
    """The kind of a training conversation by its last answer."""
    return schedules.kind(row["messages"][-1]["content"])


def test_counts(rows):
    assert {name: len(rows[name]) for name in NAMES} == {
        "completion": 9000,
        "chat": 9000,
        "preferences": 1500,
        "validation": 400,
        "test": 600,
    }
    assert Counter(row["kind"] for row in rows["validation"]) == {
        "translate": 240,
        "edit": 64,
        "ask": 32,
        "cannot": 32,
        "decline": 32,
    }
    assert Counter(row["kind"] for row in rows["test"]) == {
        "translate": 360,
        "edit": 96,
        "ask": 48,
        "cannot": 48,
        "decline": 48,
    }
    assert Counter(row["held_out"] for row in rows["test"]) == {
        "none": 420,
        "wording": 120,
        "shape": 60,
    }
    assert {row["held_out"] for row in rows["validation"]} == {"none"}


def test_row_shapes(rows):
    assert {tuple(row) for row in rows["completion"]} == {("prompt", "completion")}
    assert {tuple(row) for row in rows["preferences"]} == {("prompt", "chosen", "rejected")}
    assert {tuple(row) for row in rows["validation"] + rows["test"]} == {
        ("messages", "group", "kind", "held_out")
    }
    for row in rows["chat"] + rows["validation"] + rows["test"] + rows["preferences"]:
        turns = row.get("messages") or row["prompt"]
        assert turns[0] == {"role": "system", "content": schedules.system}
        roles = [m["role"] for m in turns[1:]]
        assert roles == (["user", "assistant"] * 3)[: len(roles)]
        assert roles[-1] == ("assistant" if "messages" in row else "user")


def test_completions_are_bare_canonical_lines(rows):
    assert all(
        schedules.prefers(row["completion"], row["completion"]) for row in rows["completion"]
    )
    assert all(schedules.kind(row["completion"]) == "cron" for row in rows["completion"])


def test_right_replies_are_of_their_kind_and_preferred(rows):
    groups = {"translate": "test split", "edit": "edits"}
    for row in rows["validation"] + rows["test"]:
        assert schedules.kind(right(row)) == ("cron" if row["kind"] in groups else row["kind"]), row
        assert schedules.prefers(right(row), right(row)), row
        assert row["group"] == groups.get(row["kind"], "right kind")


def test_every_training_reply_is_a_known_kind_and_every_line_valid(rows):
    messages = [m for name in TRAINING for row in rows[name] for m in messages_of(row)]
    replies = [m["content"] for m in messages if m["role"] == "assistant"]
    kinds = Counter(map(schedules.kind, replies))
    assert kinds["other"] == 0
    crons = [schedules.find_cron(reply) for reply in replies if schedules.kind(reply) == "cron"]
    assert all(map(schedules.is_valid, crons))
    assert len({reply for reply in replies if schedules.kind(reply) in ("ask", "decline")}) <= 12
    assert max(map(len, replies)) <= 100


def test_chat_mixes_kinds_and_habits_as_its_readme_says(rows):
    last = Counter(map(kind_of, rows["chat"]))
    assert last["decline"] == 630
    assert 0.60 < last["cannot"] / 630 < 0.80
    asked = sum(schedules.kind(row["messages"][2]["content"]) == "ask" for row in rows["chat"])
    assert 0.24 < 1 - asked / 720 < 0.36
    crons = [row["messages"][-1]["content"] for row in rows["chat"] if kind_of(row) == "cron"]
    assert 0.46 < sum(schedules.find_cron(text) == text for text in crons) / len(crons) < 0.54
    short = [schedules.find_cron(text) for text in crons]
    short = [line for line in short if any(mark in schedules.canonical(line) for mark in "-/")]
    assert 0.20 < sum(schedules.canonical(line) != line for line in short) / len(short) < 0.32
    assert sum(len(row["messages"]) > 3 for row in rows["chat"]) > 1620


def test_prefers_takes_chosen_and_refuses_rejected(rows):
    for row in rows["preferences"]:
        (chosen,), (rejected,) = row["chosen"], row["rejected"]
        assert schedules.prefers(chosen["content"], chosen["content"]), row
        assert not schedules.prefers(rejected["content"], chosen["content"]), row


def test_pairs_are_about_behaviour_in_the_shares_of_the_readme(rows):
    """A rejected reply never fires at other times than the line that is due."""
    about, declined = Counter(), Counter()
    for row in rows["preferences"]:
        chosen, other = row["chosen"][0]["content"], row["rejected"][0]["content"]
        kind, got = schedules.kind(chosen), schedules.kind(other)
        if kind != "cron":
            about[kind] += 1
            declined[got] += kind == "decline"
            assert got != kind
        elif got == "cron":
            assert schedules.judge(other, chosen), row
            about["short" if schedules.find_cron(other) == other else "bare"] += 1
        else:
            about["answer"] += 1
    assert about == {
        "bare": 600,
        "short": 210,
        "answer": 180,
        "ask": 180,
        "cannot": 180,
        "decline": 150,
    }
    assert 0.3 < 1 - declined["cron"] / 150 < 0.5


def test_no_phrase_is_in_two_splits(rows):
    train = set().union(*(phrases(rows[name]) for name in TRAINING))
    validation, test = phrases(rows["validation"]), phrases(rows["test"])
    assert not train & validation and not train & test and not validation & test


def test_requests_do_not_repeat_within_a_file(rows):
    for name in ("completion", "chat", "validation", "test"):
        first = [
            normalised(next(m["content"] for m in messages_of(row) if m["role"] == "user"))
            for row in rows[name]
        ]
        assert len(first) == len(set(first)), name


def test_held_out_shapes_are_only_in_their_test_rows(rows):
    held = {shape(right(row)) for row in rows["test"] if row["held_out"] == "shape"}
    assert len(held) == 6
    seen = {shape(line) for name in (*TRAINING, "validation") for line in lines(rows[name])}
    seen |= {
        shape(line) for line in lines([row for row in rows["test"] if row["held_out"] != "shape"])
    }
    assert len(seen) > 60
    assert not held & seen


def test_held_out_wordings_are_not_in_training(rows):
    """Marks that only held-out templates write."""
    marks = (
        "with the exception of",
        "up to and including",
        "my boss wants us to",
        "which five fields mean",
        "minutes between runs",
        "the boss says",
    )
    train = " \n ".join(set().union(*(phrases(rows[name]) for name in TRAINING)))
    held = " \n ".join(phrases([row for row in rows["test"] if row["held_out"] == "wording"]))
    assert [mark for mark in marks if mark in train] == []
    assert sum(mark in held for mark in marks) >= 5


def test_files_are_what_make_writes(tmp_path):
    subprocess.run([sys.executable, MAKE, "--out", tmp_path], check=True, timeout=150)
    files = [f"{name}.jsonl" for name in NAMES]
    assert [
        file for file in files if (tmp_path / file).read_bytes() != (FOLDER / file).read_bytes()
    ] == []


def test_another_size_and_seed_keep_the_held_out_rows(tmp_path, rows):
    subprocess.run(
        [sys.executable, MAKE, "--rows", "90", "--seed", "8", "--out", tmp_path],
        check=True,
        timeout=60,
    )
    for name in ("validation", "test"):
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (FOLDER / f"{name}.jsonl").read_bytes()
    chat = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text("utf-8").splitlines()]
    assert len(chat) == 90
    assert not phrases(chat) & (phrases(rows["validation"]) | phrases(rows["test"]))
    assert chat != rows["chat"][:90]


@pytest.fixture(scope="module")
def by_hand():
    return [json.loads(line) for line in (FOLDER / "by_hand.jsonl").read_text("utf-8").splitlines()]


def test_hand_written_phrases_are_valid(by_hand):
    assert len(by_hand) >= 300 and {tuple(row) for row in by_hand} == {
        ("prompt", "completion", "group")
    }
    assert {row["group"] for row in by_hand} == {"by hand"}
    assert [row["prompt"] for row in by_hand if not schedules.is_valid(row["completion"])] == []


def test_hand_written_phrases_are_in_no_other_file(by_hand, rows):
    others = set().union(*(phrases(rows[name]) for name in NAMES))
    assert [row["prompt"] for row in by_hand if normalised(row["prompt"]) in others] == []


# Marks that only held-out templates write; every list of held-out wordings has one here.
HELD_MARKS = (
    "with the exception of",
    "up to and including",
    "my boss wants us to",
    "which five fields mean",
    "minutes between runs",
    "the boss says",
    "o'clock sharp",
    "local time",
    "at precisely",
    "in the hours ",
    "day in, day out",
    "on a daily basis",
    "all seven days",
    "of every week",
    "whenever it is",
    "comes around",
    "when the date is",
    "throughout ",
    "for the whole of",
    "every day bar ",
    "never on ",
    "the minute hand",
    "clock reads",
    "a new hour begins",
    "on a 15-minute",
    "times every hour",
    "hours between runs",
    "todo: ",
    "automate this",
    "the plan is to",
    "it would be great",
    "arrange to",
    "put this in crontab",
    "is there a way",
    " | ",
    "->",
    "suits us better",
    "throw in ",
    "on top of that",
    " a miss",
    "let us tweak",
    "small correction",
    "in the calendar",
    "defrost the freezer",
    "feed the chickens",
    "flush the dns",
    "publish the podcast",
    "reindex the wiki",
    "send the timesheets",
    "bird feeder",
    "mirror the repository",
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    subprocess.run(
        [
            sys.executable,
            MAKE,
            "--rows",
            "1500",
            "--seed",
            "8",
            "--wording",
            "wide",
            "--out",
            folder,
        ],
        check=True,
        timeout=120,
    )
    assert (folder / "test.jsonl").read_bytes() == (FOLDER / "test.jsonl").read_bytes()
    assert (folder / "validation.jsonl").read_bytes() == (FOLDER / "validation.jsonl").read_bytes()
    return {
        name: [
            json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()
        ]
        for name in TRAINING
    }


def words(rows):
    return {word for phrase in phrases(rows) for word in phrase.split()}


def test_wide_wording_is_wider(wide, rows):
    narrow = {name: rows[name][: len(wide[name])] for name in TRAINING}
    assert len(words(wide["completion"])) > 1.25 * len(words(narrow["completion"]))


def test_wide_wording_keeps_what_is_held_out(wide, rows, by_hand):
    trained = set().union(*map(phrases, wide.values()))
    assert not trained & (phrases(rows["validation"]) | phrases(rows["test"]))
    assert not trained & {normalised(row["prompt"]) for row in by_hand}
    held = {shape(right(row)) for row in rows["test"] if row["held_out"] == "shape"}
    assert not held & {shape(line) for name in TRAINING for line in lines(wide[name])}
    text = " \n ".join(trained)
    assert [mark for mark in HELD_MARKS if mark in text] == []
    told = " \n ".join(phrases([row for row in rows["test"] if row["held_out"] == "wording"]))
    assert sum(mark in told for mark in HELD_MARKS) > 20


def test_wide_completions_are_bare_canonical_lines(wide):
    assert all(
        schedules.prefers(row["completion"], row["completion"]) for row in wide["completion"]
    )
    assert all(
        schedules.kind(m["content"]) != "other"
        for row in wide["chat"]
        for m in row["messages"]
        if m["role"] == "assistant"
    )


def test_the_mix_of_changes_has_more_follow_ups_and_the_same_held_out_rows(tmp_path, rows):
    subprocess.run(
        [sys.executable, MAKE, "--rows", "1000", "--mix", "changes", "--out", tmp_path],
        check=True,
        timeout=120,
    )
    for name in ("validation", "test"):
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (FOLDER / f"{name}.jsonl").read_bytes()
    chat = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text("utf-8").splitlines()]
    turns = Counter(sum(m["role"] == "user" for m in row["messages"]) for row in chat)
    assert turns[2] + turns[3] >= 270 and turns[3] > 100
    before = Counter(sum(m["role"] == "user" for m in row["messages"]) for row in rows["chat"])
    assert turns[3] / 1000 > 1.8 * before[3] / 9000
    assert not phrases(chat) & (phrases(rows["validation"]) | phrases(rows["test"]))


def test_wide_wording_is_wider_in_every_kind(wide, rows):
    """Follow-ups, questions back, refusals and small talk have words that the narrow ones lack."""
    for kind in ("ask", "cannot", "decline"):
        one, other = (
            words([row for row in some if kind_of(row) == kind])
            for some in (wide["chat"], rows["chat"])
        )
        assert len(one - other) > 30, kind
    later = [
        {m["content"] for row in some for m in row["messages"][3::2] if m["role"] == "user"}
        for some in (wide["chat"], rows["chat"])
    ]
    assert any("rollback" in text.casefold() or "ctrl" in text.casefold() for text in later[0])
    assert not any("rollback" in text.casefold() for text in later[1])


# The orders task


ORDERS = FOLDER.parent / "orders"


@pytest.fixture(scope="module")
def orders():
    names = ("train", "test", "preferences")
    return {
        name: [
            json.loads(line) for line in (ORDERS / f"{name}.jsonl").read_text("utf-8").splitlines()
        ]
        for name in names
    }


def test_orders_are_what_their_generator_writes(tmp_path):
    subprocess.run(
        [sys.executable, MAKE.with_name("orders.py"), "--out", tmp_path], check=True, timeout=60
    )
    files = [f"{name}.jsonl" for name in ("train", "test", "preferences")]
    assert [
        file for file in files if (tmp_path / file).read_bytes() != (ORDERS / file).read_bytes()
    ] == []


def test_orders_are_varied_and_their_splits_share_no_phrase(orders):
    parts = {name: phrases(rows) for name, rows in orders.items()}
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 900,
        "test": 170,
        "preferences": 240,
    }
    assert not parts["train"] & parts["test"] and not parts["preferences"] & (
        parts["train"] | parts["test"]
    )
    groups = Counter(row["group"] for row in orders["test"])
    assert groups == {"plain": 60, "typing errors": 30, "new wording": 40, "new names": 40}


def test_new_names_and_wordings_of_orders_are_not_in_training(orders):
    names = {
        row["messages"][-1]["content"].split('"')[-2]
        for row in orders["test"]
        if row["group"] == "new names"
    }
    train = " ".join(phrases(orders["train"] + orders["preferences"]))
    assert len(names) > 8 and not [name for name in names if name.casefold() in train.split()]
    marks = (
        "called and wants",
        "signed ",
        "tonight ",
        "would love",
        "table of ",
        "asked me to order",
        "put down",
        "dinner for",
    )
    assert not [mark for mark in marks if mark in train]


def test_order_replies_are_half_tidy_and_all_right(orders):
    task = tasks.load("orders")
    texts = [row["messages"][-1]["content"] for row in orders["train"]]
    assert 0.44 < sum(task.prefers(text, text) for text in texts) / len(texts) < 0.56
    assert all(task.judge(text, text) for text in texts)
