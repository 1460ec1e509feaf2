"""No token of the environment reaches a notebook, a run or a repr, in a kernel as a learner starts it."""

import importlib.util
import json
import os
import re
from pathlib import Path

import nbformat
import pytest

from kit import show

PROJECT = Path(__file__).parents[2]
LESSONS = [PROJECT / "notebooks" / f"{name}.ipynb" for name in show.LESSONS]
spec = importlib.util.spec_from_file_location("execute", PROJECT / "tools" / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)

CANARY = "canary7Xq0TokenOfNobody42"
NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "GITHUB_TOKEN")
TOKENS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bAKIA[A-Z0-9]{16}\b|"
    r"\b(?:api[_-]?key|token|password)['\"]?\s*[:=]\s*['\"][A-Za-z0-9_-]{16,}"
)
CELLS = [
    """
import sys
sys.path.insert(0, TESTS + "/helpers")
import tiny
from kit import runs, show
from kit.errors import SettingsError""",
    """
params = tiny.Params(max_steps=1)
run = runs.start({**vars(params), "hub_token": HUB, "note": f"my key is {HUB}"})
trainer = tiny.trainer(run, params, hub_token=HUB)
run.train(trainer, tiny.tokenizer())
run""",
    """
print(run.facts, run.report, trainer.args, vars(trainer.args), trainer.args.to_json_string())
show.environment()""",
    """
try:
    runs.start({"run": "a", "seed": 5, "hub_token": HUB + "new"})
except SettingsError as error:
    refusal = str(error)
refusal""",
]


@pytest.fixture
def canaries(monkeypatch, tmp_path):
    for name in NAMES:
        monkeypatch.setenv(name, f"{CANARY}{name}")
    monkeypatch.setenv("KIT_RUNS", str(tmp_path / "runs"))
    return tmp_path


def told(folder, *notebooks):
    """Places in which a canary stands: cells of notebooks, and files below the folder."""
    texts = {
        f"cell {number}": json.dumps(cell, ensure_ascii=False)
        for book in notebooks
        for number, cell in enumerate(book.cells)
        for cell in cell.get("outputs", ())
    }
    files = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and CANARY.encode() in path.read_bytes()
    ]
    return [name for name, text in texts.items() if CANARY in text] + files


def test_a_kernel_tells_no_token(canaries):
    header = f"TESTS, HUB = {str(PROJECT / 'tests')!r}, __import__('os').environ['HF_TOKEN']"
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in (header, *CELLS)]
    )
    folder = canaries / "books"
    folder.mkdir()
    nbformat.write(book, folder / "01.ipynb")
    done, failed = execute.execute(folder / "01.ipynb")
    assert failed is None, failed
    assert (canaries / "runs" / "a" / "report.json").is_file()
    assert told(canaries, done) == []


def test_the_search_finds_a_token(canaries):
    (canaries / "runs").mkdir()
    (canaries / "runs" / "x.json").write_text(f"{CANARY}HF_TOKEN")
    book = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "1", outputs=[nbformat.v4.new_output("stream", text=os.environ["HF_TOKEN"])]
            )
        ]
    )
    assert told(canaries, book) == ["cell 0", "runs/x.json"]


@pytest.mark.parametrize("file", LESSONS, ids=lambda file: file.stem)
def test_no_token_is_committed(file):
    assert TOKENS.findall(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text", ["hf_" + "a1" * 12, "sk-" + "b2" * 12, "ghp_" + "c3" * 12, '"api_key": "' + "d4" * 12]
)
def test_a_token_is_recognised(text):
    assert TOKENS.search(text)


@pytest.mark.long
def test_the_lessons_tell_no_token(canaries):
    """Every lesson, from the first to the last, in kernels whose environment holds tokens."""
    books = []
    for file in LESSONS:
        done, failed = execute.execute(file)
        assert failed is None, (file.stem, failed)
        books.append(done)
    assert len(books) >= 6 and len(list((canaries / "runs").glob("*/report.json"))) >= 3
    assert told(canaries, *books) == []
