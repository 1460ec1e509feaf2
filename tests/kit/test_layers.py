"""Each kit module stands on the layers below it and on nothing above, starts fast, and is small."""

import ast
import io
import subprocess
import sys
import time
import tokenize
from pathlib import Path

import pytest

import kit

FOLDER = Path(kit.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))
NAMES = [file.stem for file in FILES if file.stem != "__init__"]
LAYERS = [{"errors"}, {"params"}, {"shapes", "tables", "sources", "reports", "records", "memory"}, {"schedules"},
          {"embeddings", "chat", "attention", "decoding"},
          {"checkpoints", "identity", "models", "recorder", "runs", "speed", "fits", "preflight", "training", "pairs",
           "scoring", "export", "processes", "shares", "launch"},
          {"show", "planner", "commands"}]
LIGHT = ("errors", "params", "memory", "records", "schedules")
HEAVY = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "pyarrow", "pandas", "numpy",
         "matplotlib", "ipywidgets", "IPython")
PROBE = """
import sys, time
start = time.perf_counter()
import {module}
took = time.perf_counter() - start
print(took, *sorted(sys.modules))
"""


def layer(name):
    return next(i for i, names in enumerate(LAYERS) if name in names)


def imported(*modules):
    """[(seconds, names loaded)] of each module, every one alone in a process of its own, two processes at a time."""
    running, done = [], []
    for at, module in enumerate(modules):
        running.append(subprocess.Popen([sys.executable, "-c", PROBE.format(module=module)], stdout=subprocess.PIPE,
                                        text=True))
        if at >= 1:
            done.append(running.pop(0).communicate()[0].split())
    done += [process.communicate()[0].split() for process in running]
    return [(float(took), set(names)) for took, *names in done]


@pytest.fixture(scope="module")
def loaded():
    return dict(zip(NAMES, imported(*[f"kit.{name}" for name in NAMES]), strict=True))


def test_each_module_has_a_layer():
    assert sorted(NAMES) == sorted(name for names in LAYERS for name in names)


@pytest.mark.parametrize("name", NAMES)
def test_imports_nothing_from_above(loaded, name):
    mine = {m.removeprefix("kit.") for m in loaded[name][1] if m.startswith("kit.")}
    assert {other for other in mine if layer(other) > layer(name)} == set()
    assert name in mine


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_load_nothing_heavy(loaded, name):
    assert {m for m in loaded[name][1] if m.split(".")[0] in HEAVY} == set()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("recorder", *LIGHT)])
def test_the_rest_loads_torch_when_it_is_used(loaded, name):
    assert {m for m in loaded[name][1] if m.split(".")[0] in HEAVY} == set()


def test_only_show_draws():
    for file in FILES:
        drawing = {name.split(".")[0] for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)
                   for name in [node.module or ""]} & {"matplotlib", "ipywidgets"}
        assert not drawing or file.stem in LAYERS[-1]


def test_import_kit_is_fast():
    assert min(took for took, _ in imported("kit", "kit", "kit")) < 0.2


def test_only_schedules_knows_the_task():
    """The task is one module: everywhere else, no name and no string of the code speaks of it."""
    told = [(file.stem, token.start[0]) for file in FILES if file.stem != "schedules"
            for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline)
            if token.type != tokenize.COMMENT and "cron" in token.string.lower()]
    assert told == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_modules_and_functions_are_small(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 250
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno >= 40} == {}


def test_the_probe_sees_an_import(tmp_path, monkeypatch):
    """A module that imports a later layer is seen: the mutant of the tests above."""
    (tmp_path / "early.py").write_text("from kit import show\nimport json\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    start = time.perf_counter()
    (took, names), = imported("early")
    assert {"kit.show", "kit.chat", "json"} <= names and 0 < took < time.perf_counter() - start
