"""Tests of the house: which module may import which, what an import loads, and how large kit/ is.

Imports are read from the source, those inside functions included. Each rule has a mutant: a small
tree of files that breaks the rule, and the reader finds it.
"""

import ast
import io
import os
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import kit

FOLDER = Path(kit.__file__).parent
ORDER = """errors settings models show chat records tasks scoring memory speed runs preflight sft
dpo grpo ship launch export cli __main__""".split()
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "pyarrow"}
HEAVY |= {"pandas", "numpy", "matplotlib", "ipywidgets", "IPython", "liger_kernel", "wandb"}
TORCH_AT_THE_TOP = {"engine.recorder"}
# The goal is 2,500 lines. kit/ holds nearly twice as many; this limit keeps it from growing.
MOST_LINES, MOST_OF_A_FUNCTION = 4660, 40
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
NO_CODE |= {tokenize.ENDMARKER, tokenize.ENCODING}
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def modules(folder):
    """Return {dotted name: syntax tree} of a package's files, without __init__."""
    trees = {}
    for file in sorted(folder.rglob("*.py")):
        if file.stem != "__init__":
            name = ".".join(file.relative_to(folder).with_suffix("").parts)
            trees[name] = ast.parse(file.read_text(encoding="utf-8"))
    return trees


def imports(trees):
    """Return {module: modules of the package that it imports anywhere}."""
    graph = {}
    for name, tree in trees.items():
        targets = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                package = ["kit", *name.split(".")][: -node.level] if node.level else []
                base = ".".join([*package, *filter(None, [node.module])])
                targets |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        targets = {target.removeprefix("kit.") for target in targets if target.startswith("kit.")}
        graph[name] = targets & set(trees) - {name}
    return graph


def circles(graph):
    """Return the modules that reach themselves by following imports."""
    reach = {name: set(targets) for name, targets in graph.items()}
    for _ in graph:
        for targets in reach.values():
            targets |= set().union(*(reach[target] for target in targets))
    return sorted(name for name in reach if name in reach[name])


def backward(graph):
    """Return the imports that break the order, as sentences."""
    sentences = []
    for name, targets in graph.items():
        for target in targets - {"errors"}:
            inside = name.startswith("engine."), target.startswith("engine.")
            if inside == (True, False):
                sentences.append(f"{name} imports {target}, which is not in engine")
            if inside == (False, False) and ORDER.index(target) > ORDER.index(name):
                sentences.append(f"{name} imports {target}, which comes later")
    return sorted(sentences)


def heavy_imports(tree):
    """Return the heavy packages that a module imports outside of its functions."""
    packages, nodes = set(), list(tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            packages.add(node.module.split(".")[0])
        elif not isinstance(node, FUNCTION):
            nodes += ast.iter_child_nodes(node)
    return packages & HEAVY


def code_lines(text):
    """Return how many lines hold code: no blank lines, comments and docstrings."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | FUNCTION) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def long_functions(trees):
    lengths = {}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, FUNCTION):
                lengths[f"{name}.{node.name}"] = node.end_lineno - node.lineno + 1
    return {name: length for name, length in lengths.items() if length > MOST_OF_A_FUNCTION}


def import_seconds(module, folder=FOLDER.parent):
    """Return the fastest of three imports in fresh processes, and the packages that it loads."""
    probe = (
        "import sys, time\nstart = time.perf_counter()\n"
        f"import {module}\nprint(time.perf_counter() - start, *sys.modules)"
    )
    runs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", probe],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": str(folder)},
        )
        seconds, *names = done.stdout.split()
        runs.append((float(seconds), {name.split(".")[0] for name in names}))
    return min(run[0] for run in runs), runs[0][1]


TREES = modules(FOLDER)
GRAPH = imports(TREES)


def test_each_module_has_its_place():
    assert {name for name in GRAPH if not name.startswith("engine.")} <= set(ORDER)


def test_no_circle():
    assert circles(GRAPH) == []


def test_imports_point_one_way():
    assert backward(GRAPH) == []


@pytest.mark.parametrize("name", TREES)
def test_heavy_packages_are_imported_inside_functions(name):
    expected = {"torch", "transformers"} if name in TORCH_AT_THE_TOP else set()
    assert heavy_imports(TREES[name]) <= expected


def test_only_show_draws():
    for name, tree in TREES.items():
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import)]
        text = " ".join(ast.unparse(node) for node in nodes)
        if name not in ("show", "memory"):
            assert "matplotlib" not in text and "ipywidgets" not in text, name


def test_import_is_fast_and_light():
    seconds, packages = import_seconds("kit")
    assert seconds < 0.2 and not packages & HEAVY


@pytest.mark.parametrize(
    "name", ["errors", "settings", "records", "tasks", "memory", "export", "cli"]
)
def test_commands_that_need_no_model_load_nothing_heavy(name):
    if name in TREES:
        assert not import_seconds(f"kit.{name}")[1] & HEAVY


def test_kit_is_thin():
    files = sorted(FOLDER.rglob("*.py"))
    counts = {file.stem: code_lines(file.read_text(encoding="utf-8")) for file in files}
    assert sum(counts.values()) <= MOST_LINES, (sum(counts.values()), counts)


def test_functions_fit_on_a_screen():
    assert long_functions(TREES) == {}


def test_only_tasks_knows_a_task():
    for file in [*FOLDER.rglob("*.py"), *(FOLDER.parent / "scripts").glob("*.py")]:
        text = file.read_text(encoding="utf-8").replace('task: str = "cron"', "")
        assert file.stem == "tasks" or "cron" not in text.lower(), file


# Mutants: each tree breaks one rule.


def tree(folder, **files):
    for name, text in files.items():
        file = folder / "kit" / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return modules(folder / "kit")


def test_a_circle_through_a_function_is_seen(tmp_path):
    trees = tree(
        tmp_path,
        chat="def f():\n    from kit.show import g\n",
        show="import kit.runs\n",
        runs="from kit import chat as talk\n",
        errors="import json\n",
    )
    assert circles(imports(trees)) == ["chat", "runs", "show"]


@pytest.mark.parametrize(
    "line",
    [
        "import kit.cli",
        "from kit import cli",
        "from kit.cli import x",
        "from . import cli",
        "from .cli import x",
    ],
)
def test_every_way_to_import_a_later_module_is_seen(tmp_path, line):
    trees = tree(tmp_path, chat=f"class A:\n    def f(self):\n        {line}\n", cli="x = 1\n")
    assert backward(imports(trees)) == ["chat imports cli, which comes later"]


def test_an_import_out_of_engine_is_seen(tmp_path):
    trees = tree(
        tmp_path,
        engine__a="from ..runs import x\nfrom kit.errors import KitError\n",
        engine__b="from .a import x\n",
        runs="from kit.engine import a\n",
        errors="",
    )
    assert backward(imports(trees)) == ["engine.a imports runs, which is not in engine"]


def test_a_heavy_import_is_seen(tmp_path):
    text = "try:\n    import torch.nn\nexcept ImportError:\n    pass\ndef f():\n    import trl\n"
    assert heavy_imports(tree(tmp_path, chat=text)["chat"]) == {"torch"}
    (tmp_path / "slow.py").write_text("import time, matplotlib\ntime.sleep(0.2)\n")
    seconds, packages = import_seconds("slow", tmp_path)
    assert seconds > 0.2 and "matplotlib" in packages


def test_lines_are_counted_as_a_reader_counts_them(tmp_path):
    text = '"""Doc.\n\nMore."""\n\nimport os  # why\n# a comment\n\ndef f():\n    """Doc."""\n'
    text += '    return """a\nb"""\n'
    assert code_lines(text) == 4
    trees = tree(
        tmp_path, chat="def f():\n" + "    x = 1\n" * 40, show="def f():\n" + "    x = 1\n" * 39
    )
    assert long_functions(trees) == {"chat.f": 41}
