"""The two commands: a conversation in the terminal or a pipe, and the scoreboard for people and for machines."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from bases import base

from kit import chat, cli, schedules, scoring
from kit.errors import DataError, MissingError, SettingsError

PROJECT = Path(__file__).parents[2]
LINES = {"at noon": "0 12 * * *", "hourly": "0 * * * *", "at 9": "0 9 * * *"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved chat model that knows nothing."""
    made = tmp_path_factory.mktemp("command") / "model"
    model, tokenizer = base()
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


@pytest.fixture
def phrases(tmp_path):
    file = tmp_path / "mine.tsv"
    file.write_text("".join(f"{phrase}\t{line}\n" for phrase, line in LINES.items()))
    return file


def answers(monkeypatch, told):
    """Every model answers a question with told[model name][phrase]."""
    monkeypatch.setattr(cli, "load", lambda name: (name, None))
    monkeypatch.setattr(scoring, "replies", lambda model, _, conversations, **options: [
        told[model][messages[-1]["content"]] for messages in conversations])


# Talking


def said(monkeypatch, capsys, folder, text, *flags):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    cli.talk([str(folder), *flags])
    return capsys.readouterr().out.splitlines()


def test_a_pipe_gets_one_reply_a_line(monkeypatch, capsys, folder):
    monkeypatch.setattr(scoring, "generate", lambda model, _, prompts, **options: [
        f"{len(prompts[0])} ids, {options['max_new_tokens']} at most"])
    model, tokenizer = cli.load(folder)
    start = [{"role": "system", "content": "S"}]
    one = cli.answer(model, tokenizer, start, "every day", max_new_tokens=4)
    two = cli.answer(model, tokenizer, one, "at one", max_new_tokens=4)
    flags = ("--system", "S", "--max_new_tokens", "4")
    assert [m["role"] for m in two] == ["system", "user", "assistant", "user", "assistant"]
    told = said(monkeypatch, capsys, folder, "every day\n\nat one\n", *flags)
    assert told == [one[-1]["content"], two[-1]["content"]]
    # /new forgets: the third reply is that of a first turn; nothing is read after /quit.
    new = cli.answer(model, tokenizer, start, "at one", max_new_tokens=4)[-1]["content"]
    assert new != two[-1]["content"]
    told = said(monkeypatch, capsys, folder, "every day\n/new\nat one\n/quit\nevery day\n", *flags)
    assert told == [one[-1]["content"], new]


def test_the_oldest_turns_go_when_the_conversation_is_too_long(folder):
    model, tokenizer = cli.load(folder)
    messages = [{"role": "system", "content": "S"}]
    for number in range(12):
        messages = cli.answer(model, tokenizer, messages, f"every day at {number}", max_new_tokens=8)
        ids = chat.encode(tokenizer, messages[:-1], reply_next=True).input_ids
        assert len(ids) + 8 <= model.config.max_position_embeddings
    assert messages[0] == {"role": "system", "content": "S"} and messages[1]["role"] == "user"
    assert 3 < len(messages) < 25 and messages[-2]["content"] == "every day at 11"
    with pytest.raises(SettingsError, match=r"at most 120 ids was expected, \d+ came"):
        cli.answer(model, tokenizer, messages, "day " * 200, max_new_tokens=8)


def test_a_base_model_is_refused_in_one_sentence():
    done = subprocess.run([sys.executable, "-m", "kit.chat", "pocket"], cwd=PROJECT, input="hi\n", text=True,
                          capture_output=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("SettingsError: the tokenizer must hold <system> as one token")


def test_a_run_is_known_by_its_name(folder, monkeypatch):
    monkeypatch.setenv("KIT_RUNS", str(folder.parents[1]))
    model, _ = cli.load(folder.parent.name)
    other, _ = cli.load(str(folder))
    assert model.state_dict()["model.norm.weight"].equal(other.state_dict()["model.norm.weight"])
    with pytest.raises(MissingError, match="no model 'nothing'"):
        cli.load("nothing")


# Scoring


def test_a_users_phrases(monkeypatch, capsys, phrases):
    answers(monkeypatch, {"a": {**LINES, "hourly": "At what time?"}, "b": LINES})
    cli.score(["a", "b", "--phrases", str(phrases)])
    change = scoring.paired_difference([1, 0, 1], [1, 1, 1])
    assert capsys.readouterr().out.splitlines() == [
        "miss: 'hourly' -> 'At what time?', right: 0 * * * *",
        f"a: accuracy {scoring.Score(2, 3)}", f"b: accuracy {scoring.Score(3, 3)}",
        "b minus a, by hand: {:+.1%}  [{:+.1%}, {:+.1%}]".format(*change)]


def test_machines_read_standard_output(monkeypatch, capsys, phrases):
    answers(monkeypatch, {"a": {**LINES, "hourly": "0 0 * * *"}})
    cli.score(["a", "--phrases", str(phrases), "--jsonl"])
    told = capsys.readouterr()
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [row["correct"] for row in rows] == [True, False, True]
    prompt = [{"role": "system", "content": schedules.SYSTEM}, {"role": "user", "content": "hourly"}]
    assert rows[1] == {"model": "a", "reply": "0 0 * * *", "correct": False, "prompt": prompt,
                       "right": {"kind": "translate", "cron": "0 * * * *"}}
    assert "a: accuracy" in told.err


def test_the_course_scoreboard(monkeypatch, capsys):
    questions = scoring.read_questions(schedules, "data_samples/cron/test.jsonl", "data_samples/cron/phrases_by_hand.tsv")
    gold = {q.messages[-1]["content"]: q.facts["cron"] or "At what time?" for q in questions}
    answers(monkeypatch, {"right": gold, "silent": dict.fromkeys(gold, "")})
    cli.score(["right", "silent"])
    told = capsys.readouterr().out
    # An edit's last turn may repeat with another line, so only groups of single turns are exact.
    assert "test split (n=360)" in told and "by hand (n=346)" in told
    assert "silent minus right, by hand: -100.0%  [-100.0%, -100.0%]" in told


def test_a_completion_model_gets_the_bare_phrase(monkeypatch, capsys, phrases):
    asked = []
    monkeypatch.setattr(cli, "load", lambda name: (name, None))
    monkeypatch.setattr(scoring, "completions", lambda model, _, prompts: asked.extend(prompts) or list(LINES.values()))
    cli.score(["a", "--phrases", str(phrases), "--separator", " -> "])
    assert asked == [f"{phrase} -> " for phrase in LINES]
    assert "a: accuracy 100.0%" in capsys.readouterr().out


def test_no_question_is_refused(monkeypatch, tmp_path):
    (tmp_path / "empty.tsv").write_text("phrase\tcron\n")
    with pytest.raises(DataError, match=r"empty\.tsv: at least one question was expected, none came"):
        cli.score(["a", "--phrases", str(tmp_path / "empty.tsv")])


def test_the_command_scores_a_real_folder(folder, phrases):
    done = subprocess.run([sys.executable, "-m", "kit.scoring", str(folder), "--phrases", str(phrases)], cwd=PROJECT,
                          text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("miss: ")]) == 3
    assert done.stdout.splitlines()[-1] == f"{folder}: accuracy {scoring.Score(0, 3)}"
