"""Tests of settings: comments as help and limits, flags, config files, notebook cells."""

import runpy
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kit import settings
from kit.errors import SettingsError
from kit.settings import Settings, from_flags

PROJECT = Path(settings.__file__).parents[1]


@dataclass(frozen=True)
class Params(Settings):
    epochs: float = 2.0  # passes over the data, 100% [> 0]
    base: str = "x"  # a name, "#tag" or folder
    share: float = 0.5  # of the rows [0 .. 1]
    size: int = 4  # rows per file [1 .. 64]
    pack: bool = True  # join short rows
    plain: str = "a#b"


SCRIPT = '''"""Train something.

Example: python script.py --rate 0.1
"""
from __future__ import annotations
from dataclasses import dataclass
from kit.errors import exits
from kit.settings import Settings, from_flags

@dataclass(frozen=True)
class Params(Settings):
    rate: float = 1e-3  # step size [> 0]

if __name__ == "__main__":
    with exits():
        print(from_flags(Params).rate)
'''


def refused(function, *args, **options):
    with pytest.raises(SettingsError) as caught:
        function(*args, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def change(name):
    return f"; change {name} in PARAMS or by --{name}"


def test_no_flags_give_the_defaults_of_the_class_or_of_the_instance():
    assert from_flags(Params, []) == Params()
    assert from_flags(Params(share=0.25), ["--size", "3"]) == Params(share=0.25, size=3)


def test_flags_of_every_type_with_dash_or_underscore():
    assert from_flags(
        Params,
        [
            "--batch-size",
            "8",
            "--epochs=1e-1",
            "--no-pack",
            "--base",
            "007",
            "--micro_batch_size",
            "4",
        ],
    ) == Params(batch_size=8, epochs=0.1, pack=False, base="007", micro_batch_size=4)
    for size in (1, 64):
        assert from_flags(Params, ["--size", str(size), "--pack"]).size == size


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (["--epochs", "0"], "epochs: expected > 0, got 0.0" + change("epochs")),
        (["--epochs", "nan"], "epochs: expected a finite number, got nan" + change("epochs")),
        (["--epochs", "many"], "epochs: expected a number, got 'many'" + change("epochs")),
        (["--size", "2.5"], "size: expected a whole number, got '2.5'" + change("size")),
        (["--size", "65"], "size: expected 1 .. 64, got 65" + change("size")),
        (
            ["--warmup_ratio", "1"],
            "warmup_ratio: expected >= 0, < 1, got 1.0" + change("warmup_ratio"),
        ),
        (["--on_bad", "Stop"], "on_bad: expected stop | skip, got 'Stop'" + change("on_bad")),
        (["--epoch", "2"], "expected a setting, got --epoch; did you mean epochs?"),
        (
            ["--micro-batchsize=2"],
            "expected a setting, got --micro-batchsize=2; did you mean micro_batch_size?",
        ),
        (["--epochs"], "argument --epochs: expected one argument; --help lists the flags"),
    ],
)
def test_a_bad_flag_is_refused_in_one_sentence(argv, sentence):
    assert refused(from_flags, Params, argv) == sentence


def test_a_word_that_is_like_no_setting_gets_their_names():
    assert refused(from_flags, Params, ["zzzz"]).startswith(
        "expected a setting, got zzzz; choose among model, task, "
    )


def test_help_shows_comments_limits_choices_and_defaults(capsys):
    with pytest.raises(SystemExit) as stopped:
        from_flags(Params(share=0.25), ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0 and "Tests of settings" in text
    assert "FLOAT passes over the data, 100% [> 0] (default: 2.0)" in text
    assert "--pack, --no-pack join short rows (default: True)" in text
    assert "what a bad row does [stop | skip] (default: 'stop')" in text
    assert "of the rows [0 .. 1] (default: 0.25)" in text


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"size": 2.0}, "size: expected a whole number, got 2.0" + change("size")),
        ({"size": True}, "size: expected a whole number, got True" + change("size")),
        ({"pack": 1}, "pack: expected True or False, got 1" + change("pack")),
        ({"base": None}, "base: expected text, got None" + change("base")),
        ({"epochs": 0}, "epochs: expected > 0, got 0" + change("epochs")),
        ({"epochs": float("inf")}, "epochs: expected a finite number, got inf" + change("epochs")),
        ({"learning_rate": 0.0}, "learning_rate: expected > 0, got 0.0" + change("learning_rate")),
        (
            {"learning_rate": "1e-3"},
            "learning_rate: expected a number, got '1e-3'" + change("learning_rate"),
        ),
        (
            {"lora_dropout": 0.1},
            "lora_rank: expected > 0 because lora_alpha or lora_dropout is set, got 0"
            + change("lora_rank"),
        ),
    ],
)
def test_an_instance_is_checked_when_it_is_made(values, sentence):
    assert refused(Params, **values) == sentence
    assert refused(replace, Params(), **values) == sentence


def test_trackers_are_names_that_transformers_knows():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(settings.TRACKERS) - {"all", "none"} == set(INTEGRATION_TO_CALLBACK)
    assert Params(report_to="wandb, tensorboard").report_to == "wandb, tensorboard"
    assert "got 'wanb'; change report_to" in refused(Params, report_to="wanb")


def test_values_stay_as_they_are():
    assert Params(epochs=2) == Params(epochs=2.0) and Params().plain == "a#b"
    with pytest.raises(AttributeError):
        Params().epochs = 3


def test_config_files_and_flags_above_them(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("epochs: 1e-1\nsize: 2\npack: false\n")
    assert from_flags(Params, ["--config", str(path), "--size", "3"]) == Params(
        epochs=0.1, size=3, pack=False
    )
    path = tmp_path / "a.json"
    path.write_text('{"share": 0,\n "learning_rate": 1e-4}')
    assert from_flags(Params, ["--config", str(path)]) == Params(share=0, learning_rate=1e-4)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ('{"shares": 1}', "expected a setting, got shares; did you mean share?"),
        ("[1]", "expected settings as `name: value` lines or JSON, got [1]; correct the file"),
        ("{", "expected settings as `name: value` lines or JSON, got "),
        ("", "expected settings as `name: value` lines or JSON, got None"),
        ("base: on\n", "base: expected text, got True"),
    ],
)
def test_a_bad_config_is_refused(tmp_path, text, sentence):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    message = refused(from_flags, Params, ["--config", str(path)])
    assert sentence in message and "\n" not in message


def test_a_config_that_is_not_there():
    assert refused(from_flags, Params, ["--config", "nowhere.yaml"]).startswith(
        "nowhere.yaml: expected settings as"
    )


def test_a_script_is_a_program(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def run(*argv):
        done = subprocess.run(
            [sys.executable, script, *argv],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": str(PROJECT)},
        )
        return done.returncode, done.stdout, done.stderr

    assert run("--rate", "3") == (0, "3.0\n", "")
    assert run("--rate", "0") == (
        2,
        "",
        "SettingsError: rate: expected > 0, got 0.0; change rate in PARAMS or by --rate\n",
    )
    assert "Train something.\n\nExample: python script.py --rate 0.1\n" in run("--help")[1]


def test_help_needs_less_than_two_seconds_of_processor_time(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + "\nimport torch\n")
    timed = (
        "import resource, subprocess, sys\nsubprocess.run(sys.argv[1:], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime)"
    )
    done = subprocess.run(
        [sys.executable, "-c", timed, sys.executable, script, "--help"],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(PROJECT)},
    )
    assert float(done.stdout.split()[-1]) < 2


def test_a_notebook_cell_and_its_edited_copy():
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    cell = SCRIPT.split("if __name__")[0].split('"""')[2] + "PARAMS = Params(rate=0.5)"
    try:
        for limit in ("> 0", "> 0.7", "> 0.2"):
            outcome = shell.run_cell(cell.replace("> 0", limit), store_history=True)
            assert outcome.success == (limit != "> 0.7")
        again = shell.run_cell(
            "import dataclasses\ndataclasses.replace(PARAMS, rate=0.2)", store_history=True
        )
        assert str(again.error_in_exec).startswith("rate: expected > 0.2, got 0.2; ")
    finally:
        InteractiveShell.clear_instance()


def test_without_source_the_limits_are_not_dropped_in_silence():
    space = {"dataclass": dataclass, "Settings": Settings, "__name__": "elsewhere"}
    exec("@dataclass(frozen=True)\nclass Hidden(Settings):\n    lr: float = 1.0  # [> 0]\n", space)
    with pytest.raises((OSError, TypeError), match="source|built-in"):
        space["Hidden"]()


@dataclass(frozen=True)
class Unreadable(Settings):
    lr: float = 1.0  # step [>> 0]


@dataclass(frozen=True)
class TextRange(Settings):
    name: str = "a"  # name [> 0]


@dataclass(frozen=True)
class WrongType(Settings):
    names: list = None  # names


class Undecorated(Settings):
    epochs: float = 3.0  # passes


@pytest.mark.parametrize(
    "make, sentence",
    [
        (Unreadable, "expected limits as [> 0], [0 .. 1] or [a | b] in a comment, got [>> 0]"),
        (TextRange, "expected limits as [> 0], [0 .. 1] or [a | b] in a comment, got [> 0]"),
        (WrongType, "names: expected a bool, int, float or str, got None"),
        (
            Undecorated,
            "Undecorated: expected @dataclass(frozen=True) above the class, got none; add it",
        ),
    ],
)
def test_a_class_that_cannot_be_checked_is_refused(make, sentence):
    assert refused(make).startswith(sentence)


def test_a_class_of_a_script_that_ran_here(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    cls = runpy.run_path(str(script))["Params"]
    assert cls(rate=0.5).rate == 0.5
    assert refused(cls, rate=0.0).startswith("rate: expected > 0, got 0.0")


def test_two_classes_of_one_name_keep_their_own_limits():
    @dataclass(frozen=True)
    class Twin(Settings):
        size: int = 1  # rows [> 0]

    first = Twin

    @dataclass(frozen=True)
    class Twin(Settings):
        size: int = 9  # rows [> 8]

    assert first(size=1).size == 1
    assert "size: expected > 8, got 1" in refused(Twin, size=1)
