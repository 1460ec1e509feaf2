"""Tests of errors: one sentence with its place, exit codes, no stack in a notebook."""

import copy
import pickle

import pytest

from kit import errors
from kit.errors import KitError, Problem


@pytest.mark.parametrize(
    "place, said",
    [
        ({}, "expected text, got 7"),
        ({"file": "a.jsonl"}, "a.jsonl: expected text, got 7"),
        ({"file": "a.jsonl", "line": 17}, "a.jsonl:17: expected text, got 7"),
        (
            {"file": "a.jsonl", "line": 17, "field": "prompt"},
            "a.jsonl:17: prompt: expected text, got 7",
        ),
        ({"field": "lr"}, "lr: expected text, got 7"),
    ],
)
def test_the_sentence_carries_the_parts_that_are_known(place, said):
    error = KitError("expected text, got 7", **place)
    assert str(error) == said
    assert (error.file, error.line, error.field) == (
        place.get("file"),
        place.get("line"),
        place.get("field"),
    )


def test_exit_codes():
    assert {
        kind.__name__: kind("x").exit_code
        for kind in (
            errors.DataError,
            errors.SettingsError,
            errors.MissingError,
            errors.DivergedError,
            errors.CheckpointError,
        )
    } == {
        "DataError": 2,
        "SettingsError": 2,
        "MissingError": 2,
        "DivergedError": 3,
        "CheckpointError": 4,
    }


@pytest.mark.parametrize("twin", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_an_error_survives_the_way_to_another_process(twin):
    error = errors.DataError("m", file="f", line=1, problems=[Problem("f", 1, "x", "a", "b")])
    assert (str(twin(error)), twin(error).problems) == ("f:1: m", error.problems)


def test_a_notebook_shows_the_sentence_and_no_stack(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.run_cell(
        "from kit.errors import DataError\ndef deep():\n"
        "    raise DataError('expected a, got b', file='c', line=1)\ndeep()"
    )
    said = capsys.readouterr().out
    InteractiveShell.clear_instance()
    assert said.strip() == "DataError: c:1: expected a, got b"


def test_one_sentence_for_all_problems_of_a_file():
    problems = [
        Problem("c.jsonl", line, field, "text", got)
        for line, field, got in (
            (2, "prompt", "null"),
            (2, "completion", "true"),
            (5, None, "'x'"),
            (9, "prompt", "''"),
        )
    ]
    error = errors.bad_rows("c.jsonl", problems, 20, "correct them")
    assert str(error) == (
        "c.jsonl:2: prompt: expected text, got null; "
        "line 2: completion: expected text, got true; "
        "line 5: expected text, got 'x'; and 1 more in .problems "
        "(3 of 20 rows are bad); correct them"
    )
    assert error.problems == problems
    assert str(errors.bad_rows("c.jsonl", problems[3:], 1, "correct it")) == (
        "c.jsonl:9: prompt: expected text, got '' (1 of 1 row is bad); correct it"
    )


def ends(action):
    """Return the exit code of a script that runs the action."""
    with pytest.raises(SystemExit) as end, errors.exits():
        action()
    return end.value.code


def test_a_script_ends_with_one_sentence_and_the_code_of_the_error(capsys):
    def diverge():
        raise errors.DivergedError("expected a finite loss at step 7, got nan; lower learning_rate")

    assert ends(diverge) == 3
    output = capsys.readouterr()
    assert output.err == (
        "DivergedError: expected a finite loss at step 7, got nan; lower learning_rate\n"
    )
    assert output.out == ""


def test_an_interrupt_ends_with_130_and_other_errors_keep_their_traceback():
    def interrupt():
        raise KeyboardInterrupt

    assert ends(interrupt) == 130
    with errors.exits():
        pass
    with pytest.raises(ZeroDivisionError), errors.exits():
        print(1 / 0)


def test_the_report_of_accelerate_launch_holds_the_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))

    def refuse():
        raise errors.SettingsError("expected a, got b; do c", field="epochs")

    assert ends(refuse) == 2
    from torch.distributed.elastic.multiprocessing.api import ProcessFailure

    file = str(tmp_path / "error.json")
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=file)
    assert failure.message["message"] == "SettingsError: epochs: expected a, got b; do c"
