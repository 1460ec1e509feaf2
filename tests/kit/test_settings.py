"""Settings: comments as help, limits, flags, config files, and the same in a notebook."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import pytest

from kit import settings
from kit.errors import MissingError, SettingsError

MaybeInt = Optional[int]  # noqa: UP045  the older spelling is part of the promise


@dataclass
class Params:
    """Settings of a test.

    More words."""

    base: str = "pocket"  # model to start from: a name, "#tag" or folder
    micro_batch_size: int = 4  # examples, one process at a time [1 .. 64]
    epochs: float = 1.0  # passes over the data, 100% [> 0]
    beta: float = 0.1  # strength of the pull to the reference [>= 0, < 1]
    dtype: str = "auto"  # dtype of the weights [auto | float32 | bfloat16]
    pack: bool = True  # join short rows
    limit: MaybeInt = None  # rows [> 0]
    adapter: str | None = None
    data: Path = Path("a.jsonl")  # rows


SCRIPT = '''from __future__ import annotations
import sys
from dataclasses import dataclass
from kit import errors, settings
@dataclass
class Params:
    lr: float = 1e-3  # step size [> 0]
    rows: int | None = None  # rows to read [> 0]
def main():
    print(settings.describe(settings.from_flags(Params)))
if __name__ == "__main__":
    sys.exit(errors.exit_code(main))
'''


def refused(function, *args):
    with pytest.raises(SettingsError) as caught:
        function(*args)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_describe_gives_value_and_comment_in_order():
    told = settings.describe(Params(epochs=2.0))
    assert list(told) == ["base", "micro_batch_size", "epochs", "beta", "dtype", "pack", "limit",
                          "adapter", "data"]
    assert told["base"] == ("pocket", 'model to start from: a name, "#tag" or folder')
    assert told["epochs"] == (2.0, "passes over the data, 100% [> 0]")
    assert told["adapter"] == (None, "")


def test_no_flags_give_the_defaults_of_the_class_or_of_the_instance():
    assert settings.from_flags(Params, []) == Params()
    assert settings.from_flags(Params(beta=0.5), ["--limit", "3"]) == Params(beta=0.5, limit=3)


def test_flags_of_every_type_with_dash_or_underscore():
    given = settings.from_flags(Params, [
        "--micro-batch-size", "8", "--epochs=1e-1", "--no-pack", "--limit", "10",
        "--adapter", "none", "--data", "b.jsonl", "--base", "007"])
    assert given == Params(base="007", micro_batch_size=8, epochs=0.1, pack=False, limit=10,
                           data=Path("b.jsonl"))
    for size in (1, 64):
        assert settings.from_flags(
            Params, ["--micro_batch_size", str(size), "--pack"]).micro_batch_size == size


@pytest.mark.parametrize("argv, said", [
    (["--epochs", "0"], "epochs: expected > 0, came 0.0"),
    (["--epochs", "nan"], "epochs: expected a finite number, came nan"),
    (["--epochs", "many"], "epochs: expected float, came 'many'"),
    (["--micro-batch-size", "2.5"], "micro_batch_size: expected int, came '2.5'"),
    (["--micro-batch-size", "65"], "micro_batch_size: expected 1 to 64, came 65"),
    (["--micro-batch-size", "0"], "micro_batch_size: expected 1 to 64, came 0"),
    (["--beta", "-0.1"], "beta: expected >= 0, came -0.1"),
    (["--beta", "1"], "beta: expected < 1, came 1.0"),
    (["--dtype", "Float32"], "dtype: expected auto, float32, bfloat16, came 'Float32'"),
    (["--limit", "0"], "limit: expected > 0, came 0"),
    (["--epoch", "2"], "expected a setting, came --epoch; did you mean epochs?"),
    (["--micro-batchsize=2"],
     "expected a setting, came --micro-batchsize=2; did you mean micro_batch_size?"),
    (["stray"], ("expected a setting, came stray; the settings are base, micro_batch_size, "
                 "epochs, beta, dtype, pack, limit, adapter, data, config")),
    (["--epochs"], "argument --epochs: expected one argument; --help lists the flags"),
])
def test_a_bad_flag_is_refused_in_one_sentence(argv, said):
    assert refused(settings.from_flags, Params, argv) == said


def test_help_shows_comments_limits_and_defaults(capsys):
    with pytest.raises(SystemExit) as stopped:
        settings.from_flags(Params, ["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    assert "Settings of a test." in said and "More words" not in said
    assert "--epochs FLOAT passes over the data, 100% [> 0] (default: 1.0)" in said
    assert "--pack, --no-pack join short rows (default: True)" in said


@pytest.mark.parametrize("change, said", [
    ({"micro_batch_size": 2.0}, "micro_batch_size: expected int, came 2.0"),
    ({"micro_batch_size": True}, "micro_batch_size: expected int, came True"),
    ({"pack": 1}, "pack: expected bool, came 1"),
    ({"base": None}, "base: expected str, came None"),
    ({"epochs": 0}, "epochs: expected > 0, came 0"),
    ({"epochs": float("inf")}, "epochs: expected a finite number, came inf"),
])
def test_instances_of_a_notebook_are_checked_too(change, said):
    assert refused(settings.check, Params(**change)) == said


def test_check_returns_the_instance_and_takes_whole_numbers_for_float():
    kept = Params(epochs=2, data="b.jsonl")
    assert settings.check(kept) is kept


def test_config_files_and_flags_above_them(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("epochs: 1e-1\nmicro_batch_size: 2\npack: false\nadapter: null\n")
    assert settings.from_flags(Params, ["--config", str(path), "--micro-batch-size", "3"]) == Params(
        epochs=0.1, micro_batch_size=3, pack=False)
    as_json = tmp_path / "a.json"
    as_json.write_text('{"beta": 0, "data": "c.jsonl"}')
    assert settings.from_flags(Params, ["--config", str(as_json)]) == Params(
        beta=0, data=Path("c.jsonl"))


@pytest.mark.parametrize("name, text, said", [
    ("a.json", '{"beta2": 1}', "{}: expected a setting, came beta2; did you mean beta?"),
    ("a.json", '{"beta": 1, "beta": 0}', "{}: expected each setting once, came beta twice"),
    ("a.json", "[1]", "{}: expected settings by name, came list"),
    ("a.json", "{", ("{}: expected JSON or YAML, came Expecting property name enclosed in double "
                     "quotes: line 1 column 2 (char 1)")),
    ("a.yaml", "beta: 1\nbeta: 0\n", "{}: expected each setting once, came beta twice"),
    ("a.yaml", "base: on\n", "base: expected str, came True"),
    ("a.yaml", "epochs: '3'\nmicro_batch_size: '3'\n", "micro_batch_size: expected int, came '3'"),
])
def test_a_bad_config_is_refused(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)
    assert refused(settings.from_flags, Params, ["--config", str(path)]) == said.format(path)


def test_a_config_that_is_not_there():
    with pytest.raises(MissingError) as caught:
        settings.from_flags(Params, ["--config", "nowhere.yaml"])
    assert str(caught.value) == ("nowhere.yaml: expected a file of settings, came nothing at this "
                                 "path; correct the path")


def test_save_and_load_give_an_equal_instance(tmp_path):
    kept = Params(limit=3, data=Path("x/y.jsonl"), adapter="a")
    settings.save(kept, tmp_path / "params.json")
    assert settings.load(Params, tmp_path / "params.json") == kept
    assert [file.name for file in tmp_path.iterdir()] == ["params.json"]


def test_load_refuses_what_the_file_lacks_or_adds(tmp_path):
    path = tmp_path / "params.json"
    settings.save(Params(), path)
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"old": 1}))
    assert refused(settings.load, Params, path).startswith(f"{path}: expected a setting, came old; ")
    del values["beta"]
    path.write_text(json.dumps(values))
    assert refused(settings.load, Params, path) == (
        f"{path}: beta: expected a value, came none; give one")


def test_save_refuses_what_check_refuses(tmp_path):
    assert refused(settings.save, Params(epochs=-1.0), tmp_path / "p.json")
    assert not list(tmp_path.iterdir())


def test_a_script_with_future_annotations(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def run(*argv):
        done = subprocess.run([sys.executable, script, *argv], capture_output=True, text=True,
                              cwd=Path(settings.__file__).parents[1], check=False,
                              env={"PYTHONPATH": str(Path(settings.__file__).parents[1])})
        return done.returncode, done.stdout, done.stderr

    assert run("--rows", "3") == (
        0, "{'lr': (0.001, 'step size [> 0]'), 'rows': (3, 'rows to read [> 0]')}\n", "")
    assert run("--lr", "0") == (2, "", "SettingsError: lr: expected > 0, came 0.0\n")


def test_a_notebook_cell_and_its_edited_copy():
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    cell = SCRIPT.split("def main")[0] + "PARAMS = settings.check(Params())"
    try:
        for word in ("step size", "learning rate", "step size"):
            assert shell.run_cell(cell.replace("step size", word), store_history=True).success
            told = shell.run_cell("settings.describe(settings.check(PARAMS))", store_history=True)
            assert told.result == {"lr": (0.001, f"{word} [> 0]"),
                                   "rows": (None, "rows to read [> 0]")}
        bad = shell.run_cell("PARAMS.lr = 0\nparams.check(PARAMS)", store_history=True)
        assert str(bad.error_in_exec) == "lr: expected > 0, came 0"
    finally:
        InteractiveShell.clear_instance()


def test_without_source_the_limits_are_not_dropped_in_silence():
    space = {"dataclass": dataclass, "__name__": __name__}
    exec("@dataclass\nclass Hidden:\n    lr: float = 1.0  # step [> 0]\n", space)  # noqa: S102
    assert refused(settings.check, space["Hidden"]()) == (
        "expected to read the comments of Hidden, came no source; define it in a file or a "
        "notebook cell")


@dataclass
class Child(Params):
    """Adds a field and changes one."""

    beta: float = 0.2  # pull [0 .. 10]
    extra: int = 1  # more


def test_a_subclass_keeps_the_comments_of_its_base():
    assert settings.describe(Child())["epochs"] == (1.0, "passes over the data, 100% [> 0]")
    assert settings.check(Child(beta=9.0)).beta == 9.0


@dataclass
class Unreadable:
    lr: float = 1.0  # step [>> 0]


@dataclass
class WrongType:
    names: list = None  # names


@dataclass
class TextRange:
    name: str = "a"  # name [> 0]


@dataclass
class Needed:
    lr: float  # step


@pytest.mark.parametrize("make, said", [
    (Unreadable, "lr: expected limits as [> 0], [0 .. 1] or [a | b] in the comment, came [>> 0]"),
    (TextRange, "name: expected limits as [> 0], [0 .. 1] or [a | b] in the comment, came [> 0]"),
    (WrongType, ("names: expected the type bool, int, float, str or Path, or one of them or None, "
                 "came <class 'list'>")),
])
def test_a_class_that_cannot_be_checked_is_refused(make, said):
    assert refused(settings.check, make()) == said


def test_a_field_without_default_must_be_given():
    assert refused(settings.from_flags, Needed, []) == "lr: expected a value, came none; give one"
    assert settings.from_flags(Needed, ["--lr", "2"]) == Needed(2.0)
