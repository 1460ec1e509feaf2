"""Tests of the runner of the lessons: its lines, the first failure, notebooks fit to commit."""

import gc
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest

PROJECT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("execute", PROJECT / "tools" / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)
GOOD = [
    "import sys, warnings",
    "warnings.warn('old')\nprint('real', file=sys.stderr)\nsys.stderr.flush()\n1 + 1",
    "from pathlib import Path\nassert Path('here').exists()\nprint(sys.executable == PYTHON)",
]


def notebook(folder, name, *cells):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    book.metadata = {
        "kit": {"script": "a.py"},
        "widgets": {"state": 1},
        "kernelspec": {"name": "elsewhere", "display_name": "?"},
    }
    nbformat.write(book, folder / name)
    return folder / name


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = execute.main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return call


def good(folder):
    (folder / "here").touch()
    return notebook(
        folder,
        "01_good.ipynb",
        f"PYTHON = {os.path.basename(sys.executable)!r}",
        *GOOD[:2],
        GOOD[2].replace("== PYTHON", ".endswith(PYTHON)"),
    )


def test_in_place_is_clean_and_stable(tmp_path, run, monkeypatch):
    monkeypatch.setenv("KIT_RUNS", str(tmp_path))
    file = good(tmp_path)
    (tmp_path / "scoreboard.txt").write_text("exact 9 of 10\n")
    code, out, err = run("--in-place", file)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["01_good", "runs"]
    assert lines[1].split()[0] == "01_good" and lines[1].endswith("1 checks in   4 cells")
    assert re.fullmatch(r"total +0 min \d\d s", lines[2]) and lines[-1] == "exact 9 of 10"
    first = file.read_text()
    book = json.loads(first)
    assert book["metadata"] == {
        "kit": {"script": "a.py"},
        "language_info": {"name": "python"},
        "kernelspec": {
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "name": "python3",
        },
    }
    assert [c["execution_count"] for c in book["cells"]] == [1, 2, 3, 4]
    assert all(c["metadata"] == {} for c in book["cells"])
    assert [
        o.get("text") or o["data"]["text/plain"] for c in book["cells"] for o in c["outputs"]
    ] == [["real\n"], ["2"], ["True\n"]]
    run("--in-place", file)
    assert file.read_text() == first


def test_lessons_are_chosen_by_their_numbers(tmp_path, run, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    for name in execute.show.LESSONS[:3]:
        notebook(tmp_path / "notebooks", f"{name}.ipynb", "1")
    monkeypatch.setattr(execute, "PROJECT", tmp_path)
    monkeypatch.setenv("KIT_LESSONS", "02 00")
    code, out, _ = run("--out", tmp_path / "out")
    assert code == 0 and [line[:4] for line in out.splitlines() if " checks in" in line] == [
        "00_s",
        "02_s",
    ]
    monkeypatch.setenv("KIT_LESSONS", "2")
    with pytest.raises(SystemExit):
        execute.main([])


def test_stops_at_the_first_failure_with_its_last_lines(tmp_path, run):
    bad = notebook(
        tmp_path, "02_bad.ipynb", "x = 1", "def f():\n    return 1 / 0\nf()", "print('not reached')"
    )
    before = bad.read_text()
    code, out, err = run("--in-place", bad, good(tmp_path))
    assert code == 1 and "01_good" not in out and "total" not in out
    assert err.startswith("02_bad.ipynb: cell [2]: ") and "ZeroDivisionError" in err
    assert len(err.splitlines()) <= 4 and "\x1b" not in err
    assert bad.read_text() == before


def test_a_kit_error_is_one_sentence(tmp_path, run):
    bad = notebook(
        tmp_path,
        "02_bad.ipynb",
        "from kit.errors import DataError\nraise DataError('bad row', line=7)",
    )
    code, _, err = run("--out", tmp_path / "out", bad)
    assert code == 1 and err == "02_bad.ipynb: cell [1]: DataError: 7: bad row\n"
    assert json.loads((tmp_path / "out" / "02_bad.ipynb").read_text())["cells"][0]["outputs"]


@pytest.mark.parametrize(
    "cell, sentence",
    [
        (
            f"print({str(PROJECT)!r})",
            "cell [1]: expected no path of this machine in an output, got ",
        ),
        (
            "from pathlib import Path\nPath.home() / 'x'",
            "cell [1]: expected no path of this machine in an output, got ",
        ),
        ("import os; os._exit(1)", "cell [1]: Kernel died"),
    ],
)
def test_what_cannot_be_committed_or_run(tmp_path, run, cell, sentence):
    file = notebook(tmp_path, "03_x.ipynb", cell)
    before = file.read_text()
    code, _, err = run("--in-place", file)
    assert code == 1 and sentence in err
    assert file.read_text() == before


def test_a_widget_leaves_only_its_twin(tmp_path, run):
    twin = "from IPython.display import display\n"
    twin += "display({'application/vnd.jupyter.widget-view+json': {'model_id': 'a'}"
    file = notebook(
        tmp_path,
        "04_w.ipynb",
        twin + ", 'text/plain': 'HBox()'}, raw=True)",
        twin + ", 'text/plain': 'x', 'text/html': '<b>x</b>'}, raw=True)",
    )
    assert run("--in-place", file)[0] == 0
    first, second = json.loads(file.read_text())["cells"]
    assert first["outputs"] == []
    assert second["outputs"][0]["data"] == {"text/plain": ["x"], "text/html": ["<b>x</b>"]}


def test_a_copy_is_cleaned_too_and_says_what_to_do_next(tmp_path, run):
    twin = "from IPython.display import display\n"
    twin += "display({'application/vnd.jupyter.widget-view+json': 1, "
    file = notebook(tmp_path, "04_w.ipynb", twin + "'text/html': '<b>x</b>'}, raw=True)")
    code, out, err = run("--out", tmp_path / "out", file)
    assert (code, err) == (0, "") and "make chat" in out and "make lab" in out
    (cell,) = json.loads((tmp_path / "out" / file.name).read_text())["cells"]
    assert cell["outputs"][0]["data"] == {"text/html": ["<b>x</b>"]}


def test_the_progress_of_a_lesson_is_shown(tmp_path, run, monkeypatch):
    monkeypatch.setattr(execute, "LOG_SECONDS", 0.2)
    file = notebook(
        tmp_path,
        "02_p.ipynb",
        "import os, pathlib, time\n"
        "pathlib.Path(os.environ['KIT_PROGRESS']).write_text('step 3/9')\ntime.sleep(1)",
    )
    code, out, err = run("--out", tmp_path / "out", file)
    assert (code, err) == (0, "") and out.count("step 3/9") == 1
    assert re.search(r"02_p +0:\d\d  step 3/9", out)
    assert "KIT_PROGRESS" not in os.environ


def test_changed_settings_of_an_own_run_get_advice(tmp_path, run):
    file = notebook(
        tmp_path,
        "02_bad.ipynb",
        "from kit.errors import SettingsError\n"
        "raise SettingsError('expected epochs 1.0, got 2.0; choose another name')",
    )
    code, _, err = run("--out", tmp_path / "out", file)
    assert code == 1 and "KIT_RUNS=runs/course make course" in err.splitlines()[-1]


def test_a_kernel_prints_no_warning_and_leaves_no_socket(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(execute.tempfile, "tempdir", str(tmp_path))
    file = notebook(tmp_path, "01_x.ipynb", "1")
    assert execute.main(["--out", str(tmp_path / "out"), str(file)]) == 0
    gc.collect()
    assert capfd.readouterr().err == ""
    assert {path.name for path in tmp_path.iterdir()} == {"01_x.ipynb", "out"}
