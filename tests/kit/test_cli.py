"""The command `kit`: check a task, score and compare models, talk in a terminal or a pipe."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bases import base

from kit import chat, cli, models, scoring, tasks
from kit.errors import MissingError, SettingsError

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
def task(tmp_path):
    """A task file with three test questions in two groups."""
    rows = [
        {"prompt": text, "completion": line, "group": "hours" if "*" == line[2] else "days"}
        for text, line in LINES.items()
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"prompt": f"every {n} minutes", "completion": f"*/{n} * * * *"} for n in range(2, 50)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "lines.py"
    file.write_text('system = "S"\ntrain, test = "train.jsonl", "test.jsonl"\nmax_new_tokens = 5\n')
    return file


def answers(monkeypatch, replies):
    """Every model answers a question with replies[model name][question]."""
    monkeypatch.setattr(cli, "load", lambda name: (name, None))
    monkeypatch.setattr(
        scoring,
        "evaluate",
        lambda model, _, questions, task, **options: scoring.judged(
            questions, [replies[model][q.messages[-1]["content"]] for q in questions], task, cut=2
        ),
    )


def run(*words, **options):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.run(
        [sys.executable, "-m", "kit", *map(str, words)],
        cwd=PROJECT,
        capture_output=True,
        timeout=120,
        env=environment,
        **options,
    )


# Commands


def test_help_names_every_command(capsys):
    cli.main([])
    text = capsys.readouterr().out
    assert all(
        f"  {name} " in text for name in ("check", "score", "chat", "ship", "serve", "export")
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["chek"], "expected one of check, score, chat, ship, serve, export, got 'chek'; see kit"),
        (["check", "corn"], "did you mean cron?"),
        (["score", "pocket"], "expected a task, got none from pocket; pass --task"),
        (
            ["chat", "pocket", "--temperature", "-1"],
            "--temperature: expected a finite number of at least 0, got -1.0",
        ),
        (["chat", "pocket", "--temperature", "nan"], "--temperature: expected a finite number"),
        (
            ["chat", "pocket", "--max_new_tokens", "0"],
            "--max_new_tokens: expected a finite number of at least 1, got 0",
        ),
        (
            ["score", "pocket", "--task", "orders", "--max_new_tokens", "-3"],
            "--max_new_tokens: expected",
        ),
    ],
)
def test_a_wrong_word_is_one_sentence(words, sentence, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and sentence in error and len(error.splitlines()) == 1


def test_check_a_task_and_a_file_of_rows(task, capsys):
    cli.main(["check", str(task)])
    out = capsys.readouterr().out
    assert "replies of at most 5 ids" in out and "test: 3 questions (days 2, hours 1)" in out
    cli.main(["check", str(task.parent / "train.jsonl")])
    assert "completion, 48 rows, 48 used, 0 rejected" in capsys.readouterr().out


def test_help_answers_before_torch_loads():
    code = (
        "import sys\nfrom kit import cli\ncli.main([])\n"
        "print(sorted({'torch', 'transformers', 'trl'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert done.stdout.splitlines()[-1] == "[]"


# Scoring


def test_scores_misses_and_differences(monkeypatch, capsys, task):
    answers(monkeypatch, {"a": {**LINES, "hourly": "At what time?"}, "b": LINES})
    cli.score(["a", "b", "--task", str(task)])
    out = capsys.readouterr().out
    change = scoring.paired_difference([0], [1])
    assert (
        f"{task.parent / 'test.jsonl'}:2: 'hourly': a replied 'At what time?', right is '0 * * * *'"
        in out
    )
    assert "b minus a, hours: {:+.1%}  [{:+.1%}, {:+.1%}]".format(*change) in out
    assert "b minus a, days: +0.0%" in out and "a: 2 of 3 replies were cut at 5 ids" in out
    assert "days (n=2)" in out and "preferred" not in out


def test_many_misses_are_not_all_printed(monkeypatch, capsys, task):
    answers(monkeypatch, {"a": dict.fromkeys(LINES, "no")})
    cli.score(["a", "--task", str(task), "--misses", "1"])
    out = capsys.readouterr().out
    assert out.count("replied 'no'") == 1 and "a: 2 more wrong replies, --misses 3 prints" in out
    cli.score(["a", "--task", str(task), "--misses", "3"])
    assert capsys.readouterr().out.count("replied 'no'") == 3


def test_a_run_brings_its_task(folder, task, monkeypatch, capsys, tmp_path):
    place = tmp_path / "runs" / "mine"
    place.mkdir(parents=True)
    (place / "task.py").write_text(task.read_text())
    (place / "run.json").write_text(json.dumps({"params": {"task": str(task)}}))
    monkeypatch.setenv("KIT_RUNS", str(place.parent))
    answers(monkeypatch, {"mine": LINES})
    cli.score(["mine"])
    assert "days (n=2)" in capsys.readouterr().out
    assert cli.task_of("mine", check=False).max_new_tokens == 5 and cli.task_of("pocket") is None
    with pytest.raises(MissingError, match="mine"):
        models.load("ours")


def test_an_untrained_base_can_be_scored_and_asked(task):
    done = run("score", "pocket", "--task", task, "--max_new_tokens", 2, text=True)
    assert done.returncode == 0, done.stderr
    assert "pocket  0.0% [0.0%, 65.8%]" in " ".join(done.stdout.split()).replace(
        "pocket ", "pocket  "
    )
    assert "pocket: 3 of 3 replies were cut at 2 ids" in done.stdout


# Talking


def said(monkeypatch, capsys, folder, text, *flags):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    cli.talk([str(folder), *flags])
    return capsys.readouterr()


def test_a_pipe_gets_one_reply_per_line(monkeypatch, capsys, folder):
    monkeypatch.setattr(
        scoring,
        "generate",
        lambda model, _, prompts, **options: [
            f"{len(prompts[0])} ids, {options['max_new_tokens']} at most"
        ],
    )
    model, tokenizer = cli.load(folder)
    start = [{"role": "system", "content": "S"}]
    one = scoring.answer(model, tokenizer, start, "every day", max_new_tokens=4)
    two = scoring.answer(model, tokenizer, one, "at one", max_new_tokens=4)
    flags = ("--system", "S", "--max_new_tokens", "4")
    assert [m["role"] for m in two] == ["system", "user", "assistant", "user", "assistant"]
    printed = said(monkeypatch, capsys, folder, "every day\n\n  \nat one\n", *flags)
    assert printed.out.splitlines() == [one[-1]["content"], two[-1]["content"]]
    assert "Replies may be wrong" in printed.err
    # /new forgets: the third reply is that of a first turn; nothing is read after /quit.
    new = scoring.answer(model, tokenizer, start, "at one", max_new_tokens=4)[-1]["content"]
    assert new != two[-1]["content"]
    printed = said(
        monkeypatch, capsys, folder, "every day\n/new\nat one\n/help\n/quit\nevery day\n", *flags
    )
    assert printed.out.splitlines() == [one[-1]["content"], new, cli.HELP]


def test_system_message_and_length_are_those_of_the_run(
    monkeypatch, capsys, folder, task, tmp_path
):
    place = tmp_path / "runs" / "mine"
    place.mkdir(parents=True)
    (place / "model").symlink_to(folder)
    (place / "task.py").write_text(task.read_text())
    (place / "run.json").write_text(json.dumps({"params": {"task": str(task)}}))
    task.unlink()  # the run folder is enough for a chat
    monkeypatch.setenv("KIT_RUNS", str(place.parent))
    calls = []
    monkeypatch.setattr(
        scoring,
        "answer",
        lambda model, tokenizer, messages, text, **options: (
            calls.append((messages, options))
            or [*messages, {"role": "user", "content": text}, {"role": "assistant", "content": "y"}]
        ),
    )
    monkeypatch.setattr(cli, "load", lambda name: (None, None))
    said(monkeypatch, capsys, "mine", "x\n")
    assert calls[0] == (
        [{"role": "system", "content": "S"}],
        {"max_new_tokens": 5, "temperature": 0.0, "seed": 0},
    )
    said(
        monkeypatch,
        capsys,
        "mine",
        "x\n",
        "--system",
        "",
        "--max_new_tokens",
        "9",
        "--temperature",
        "0.5",
    )
    assert calls[1] == ([], {"max_new_tokens": 9, "temperature": 0.5, "seed": 0})


def test_a_long_line_and_binary_garbage_do_not_end_the_chat(folder):
    lines = [
        b"at noon",
        b"day " * 250_000,
        os.urandom(3000).replace(b"\n", b"") + b"\xff\xfe\0",
        b"\x1b[2J\x04",
        b"at noon",
    ]
    done = run("chat", folder, "--max_new_tokens", 2, input=b"\n".join(lines) + b"\n/quit\n")
    assert done.returncode == 0, done.stderr
    errors = done.stderr.decode()
    assert "expected a message of at most 126 ids, got" in errors and "Traceback" not in errors
    assert len(done.stdout.splitlines()) >= 2


def test_an_unknown_run_names_those_that_exist(monkeypatch, capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text('{"params": {}}')
    monkeypatch.setenv("KIT_RUNS", str(tmp_path))
    with pytest.raises(SystemExit):
        cli.main(["chat", "yours"])
    assert "mine" in capsys.readouterr().err
    assert cli.task_of("mine") is None
    with pytest.raises(SettingsError, match="--task"):
        cli.at_least(1, "--task", float("inf"))


def test_chat_and_scoring_need_no_trained_model(folder):
    model, tokenizer = cli.load("pocket")
    assert chat.stop_token(tokenizer) == tokenizer.eos_token_id
    assert tasks.exact("a", "a ") and model.config.max_position_embeddings > 0


@pytest.mark.parametrize("line", [
    "{kit} check {bad} | head -1",  # a reader that has read enough
    "{kit} chat {folder} <&-",  # no standard input
    "printf 'at noon\\n' | {kit} chat {folder} --max_new_tokens 4 --system $'\\xff'",
])  # fmt: skip
def test_streams_that_end_and_odd_bytes_are_no_traceback(line, folder, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": 1, "completion": "x"}\n' * 30_000)
    line = line.format(kit=f"{sys.executable} -m kit", bad=bad, folder=folder)
    done = subprocess.run(["bash", "-c", line], cwd=PROJECT, text=True, capture_output=True)
    assert "Traceback" not in done.stderr and "Error:" not in done.stderr, done.stderr[-800:]


def test_a_full_disk_behind_standard_output_is_a_sentence(task):
    line = f"{sys.executable} -u -m kit check {task} > /dev/full"
    done = subprocess.run(["bash", "-c", line], cwd=PROJECT, text=True, capture_output=True)
    assert done.returncode == 2 and "No space left" in done.stderr
    assert "Traceback" not in done.stderr
