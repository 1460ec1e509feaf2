"""Every lesson has its parts, is fit to commit, and its exercises' checks tell right from wrong.

An exercise is three cells: `exercise` defines a function whose body is `...`; `exercise-check` defines (or calls) a
check_... function that takes it; `solution`, folded, defines it again. The notebook's metadata stores wrong answers:
{"kit": {"wrong_answers": {"<function>": ["<source>", ...]}}}.
"""

import ast
import json
import re
import symtable
import tempfile
from pathlib import Path

import nbformat
import pytest

from kit.errors import KitError

PROJECT = Path(__file__).parents[2]
LESSONS = sorted((PROJECT / "notebooks").glob("[0-9]*.ipynb"))
TAGS = {"parameters", "export", "check", "look", "exercise", "exercise-check", "solution", "raises-exception",
        "nbval-check-output", "nbval-ignore-output", "nbval-skip"}
CHECK = re.compile(r"^\s*(?:assert\b|check\w*\(|[\w.]+\.check\w*\()", re.MULTILINE)
AVOID = re.compile(r"\b(simply|just|powerful|easy|easily|obviously|as we can see|let's)\b|[\U0001F300-\U0001FAFF]",
                   re.IGNORECASE)
PLACE = re.compile(r"(?<![\w.])/(root|home|tmp|Users)/\w")
PROGRESS = re.compile(r"it/s[\],]|%\|[█▏▎▍▌▋▊▉ ]")
CHANGING = r"(^|\.)(add|set|update|append|extend|insert|pop|sort|shuffle|register|resize)\w*$"
MOST_LINES, FEWEST_CHECKS, MOST_OUTPUT = 15, 8, 200 * 1024


def code_cells(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def tagged(book, tag):
    return [cell for cell in code_cells(book) if tag in cell.metadata.get("tags", ())]


def problems(book, stem):
    """Everything that is wrong with a lesson, a sentence each."""
    return [*head(book), *params(book), *cells(book, stem), *outputs(book), *words(book), *exercise_parts(book)]


def head(book):
    lines = book.cells[0].source.splitlines() if book.cells[0].cell_type == "markdown" else [""]
    facts = next((line for line in lines if line.count("·") >= 2 and "2 cores" in line), "")
    if not re.match(r"# \S", lines[0]):
        yield "the first cell must start with `# title`"
    if not re.search(r"2 cores.*·.*\bneeds\b.*·.*\bmakes\b", facts):
        yield "the first cell has no fact line `time on 2 cores · needs lesson N · makes ...`"
    will, have = bullets(book, "You will"), bullets(book, "You have")
    if not will or len(will) != len(have):
        yield f"`You will` has {len(will)} points and `You have` {len(have)}"
    for goal, result in zip(will, have, strict=False):
        # The verb changes its form (keep, kept): compare its first letter, and the stems of the other words.
        verb, *others = re.findall(r"\w+", goal.lower())
        stems = {word[:4] for word in others if len(word) > 3}
        if not re.match(rf"\W*{verb[0]}", result.lower()) or not any(stem in result.lower() for stem in stems):
            yield f"`You have` does not answer {goal!r}"


def bullets(book, title):
    for cell in book.cells:
        if cell.cell_type == "markdown" and title in cell.source:
            return re.findall(r"^\s*(?:[-*]|\d+\.)\s+(.+)", cell.source.split(title, 1)[1], re.MULTILINE)
    return []


def params(book):
    found = tagged(book, "parameters")
    if book.metadata.get("kit", {}).get("script") and len(found) != 1:
        yield f"one cell must be tagged parameters, {len(found)} are"
    for cell in found:
        if "PARAMS = " not in cell.source:
            yield "the parameters cell does not make PARAMS"
        lines = cell.source.splitlines()
        for node in (n for c in ast.parse(cell.source).body if isinstance(c, ast.ClassDef) for n in c.body):
            if isinstance(node, ast.AnnAssign) and not re.search(r"#\s*\S", lines[node.end_lineno - 1]):
                yield f"field {node.target.id} of the parameters has no comment"


def cells(book, stem):
    for number, cell in enumerate(code_cells(book), 1):
        length = sum(bool(line.strip()) for line in cell.source.splitlines())
        if length > MOST_LINES and "parameters" not in cell.metadata.get("tags", ()):  # one field a line
            yield f"code cell {number} has {length} lines"
        unknown = set(cell.metadata.get("tags", ())) - TAGS
        if unknown:
            yield f"code cell {number} has the unknown tag {min(unknown)}"
        if cell.execution_count != number:
            yield f"code cell {number} has execution count {cell.execution_count}"
    checks = sum(len(CHECK.findall(cell.source)) for cell in code_cells(book))
    if "01" <= stem[:2] <= "05" and checks < FEWEST_CHECKS:
        yield f"{checks} checks, at least {FEWEST_CHECKS} are expected"


def outputs(book):
    told = json.dumps([cell.outputs for cell in code_cells(book)], ensure_ascii=False)
    if len(told.encode()) > MOST_OUTPUT:
        yield f"outputs hold {len(told.encode())} bytes, more than {MOST_OUTPUT}"
    if '"output_type": "error"' in told:
        yield "a cell ended in an error"
    if '"name": "stderr"' in told:
        yield "a warning is stored"
    if "widgets" in book.metadata:
        yield "widget state is stored"
    if PROGRESS.search(told):
        yield "a progress bar is stored"
    machine = {str(PROJECT), str(Path.home()), tempfile.gettempdir()} - {"/"}
    whole = told + "".join(cell.source for cell in book.cells)
    if PLACE.search(whole) or any(re.search(rf"(?<![\w.]){re.escape(place)}\b", whole) for place in machine):
        yield "a path of a machine is stored"


def words(book):
    for cell in book.cells:
        if cell.cell_type == "markdown":
            yield from (f"word to avoid: {found[0]!r}" for found in AVOID.finditer(cell.source))


def exercises(book):
    """(function's name, exercise cell, cells up to the next exercise)."""
    code = code_cells(book)
    starts = [i for i, cell in enumerate(code) if "exercise" in cell.metadata.get("tags", ())]
    for start, end in zip(starts, [*starts[1:], len(code)], strict=True):
        defs = [node.name for node in ast.parse(code[start].source).body if isinstance(node, ast.FunctionDef)]
        yield (defs or [None])[-1], code[start], code[start + 1 : end]


def exercise_parts(book):
    wrong = book.metadata.get("kit", {}).get("wrong_answers", {})
    names = [name for name, _, _ in exercises(book)]
    for name, stub, rest in exercises(book):
        tags = [tag for cell in rest for tag in cell.metadata.get("tags", ())]
        if name is None or "..." not in stub.source:
            yield f"an exercise must define a function with a body of `...`: {stub.source[:40]!r}"
        if tags[:2] not in (["exercise-check", "solution"], ["solution", "exercise-check"]):
            yield f"exercise {name} must be followed by an exercise-check and a solution"
        if not all(cell.metadata.get("jupyter", {}).get("source_hidden") for cell in rest
                   if "solution" in cell.metadata.get("tags", ())):
            yield f"the solution of {name} is not folded (metadata jupyter.source_hidden)"
        if not wrong.get(name):
            yield f"exercise {name} has no stored wrong answer"
    yield from (f"wrong answers are stored for {name}, which is no exercise" for name in sorted(set(wrong) - {*names}))


def names(source):
    """(names that `source` reads from outside, names it binds at the top)."""
    top = symtable.symtable(source, "cell", "exec")
    tables, read = [top], set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        read |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (table is top or s.is_global())}
    return read, {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}


def needed(book, last, source):
    """The statements before cell `last` that `source` needs, in order: a check runs without the whole lesson."""
    before = [node for cell in code_cells(book)[: code_cells(book).index(last)]
              for node in ast.parse(re.sub(r"^[%!].*", "", cell.source, flags=re.MULTILINE)).body]
    wanted, chosen = names(source)[0], []
    for node in reversed(before):
        statement = ast.unparse(node)
        read, bound = names(statement)
        if bound & wanted or changes(node) & wanted:
            wanted = (wanted - bound) | read
            chosen.append(statement)
    return "\n".join(reversed(chosen))


def changes(node):
    """Names in a statement's calls of add_..., append and the like, which may change them."""
    if not isinstance(node, ast.Expr | ast.Assign):
        return set()
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
    changing = [call for call in calls if re.search(CHANGING, ast.unparse(call.func))]
    return {part.id for call in changing for part in ast.walk(call) if isinstance(part, ast.Name)}


def judge(book):
    """Sentences for answers that the checks get wrong: stub and wrong answers must fail, the solution must pass."""
    wrong = book.metadata.get("kit", {}).get("wrong_answers", {})
    for name, stub, rest in exercises(book):
        solution, check = (next(cell.source for cell in rest if tag in cell.metadata.get("tags", ()))
                           for tag in ("solution", "exercise-check"))
        calls = {solution: "solution", stub.source: "stub", **dict.fromkeys(wrong.get(name, []), "wrong answer")}
        definitions, call = checking(check, name)
        made = {}
        run(needed(book, stub, "\n".join([definitions, call, *map(only_definitions, calls)])), made)
        for source, kind in calls.items():
            space = dict(made)
            try:
                run("\n".join([definitions, only_definitions(source), call]), space)
            except Exception as error:  # noqa: BLE001  a stub's None fails in its own way
                if kind == "solution":
                    yield f"the solution of {name} fails its check: {error!r}"
                elif kind == "wrong answer" and not (str(error) and isinstance(error, AssertionError | KitError)):
                    yield f"the check of {name} fails without a sentence that teaches: {error!r}"
            else:
                if kind != "solution":
                    yield f"the check of {name} passes the {kind} {source!r}"


def run(source, space):
    space["__name__"] = "lesson"
    exec(compile(source, "lesson", "exec"), space)  # noqa: S102


def only_definitions(source):
    return "\n".join(ast.unparse(node) for node in ast.parse(source).body if not isinstance(node, ast.Expr))


def checking(source, name):
    """(definitions of an exercise-check cell, the call of its check for the function `name`)."""
    tree = ast.parse(source)
    made = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("check")]
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)
              and any(isinstance(a, ast.Name) and a.id == name for a in node.args)]
    definitions = "\n".join(ast.unparse(n) for n in tree.body if not isinstance(n, ast.Expr | ast.Try | ast.If))
    return definitions, f"{(made or called)[0]}({name})"


def sample():
    """A small lesson with all parts."""
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    made = ("from dataclasses import dataclass\n\n@dataclass\nclass Params:\n"
            "    epochs: float = 1.0  # passes over the data\n\nPARAMS = Params()")
    check = ("def check_count(function):\n    came = function([1, IGNORED])\n"
             "    assert came == len(keep([1])), f'one id is kept, {came} came'")
    tags = [("parameters", made),
            ("export", "IGNORED = -100\n\ndef keep(ids):\n    return [i for i in ids if i != IGNORED]"),
            ("", "raise_if_run = 1 / 1\n%matplotlib inline"),
            *(("check", f"assert keep([{i}, IGNORED]) == [{i}]") for i in range(8)),
            ("exercise", "def count(ids):\n    ..."),
            ("exercise-check", check),
            ("solution", "def count(ids):\n    return len(keep(ids))\n\ncheck_count(count)")]
    book = nbformat.v4.new_notebook(cells=[
        markdown("# 03 · Masks\n\nWe mask.\n\n*10 s on 2 cores · needs lesson 02 · makes runs/03/model*"),
        markdown("**You will**\n\n- write the loss mask by hand\n- prove it equal to the library's"),
        *(code(source, metadata={"tags": tag.split()}) for tag, source in tags),
        markdown("**You have**\n\n- written the loss mask: cell 3\n- proved it equal to the library's: cell 4")])
    book.cells[-2].metadata["jupyter"] = {"source_hidden": True}
    book.metadata["kit"] = {"script": "a.py", "wrong_answers": {"count": ["def count(ids):\n    return len(ids)"]}}
    for number, cell in enumerate(code_cells(book), 1):
        cell.execution_count = number
    return book


def test_the_sample_is_right():
    assert list(problems(sample(), "03_sample")) == []
    assert list(judge(sample())) == []


def edit(index, old, new):
    def change(book):
        assert old in book.cells[index].source
        book.cells[index].source = book.cells[index].source.replace(old, new)
    return change


def put(value, *path):
    def change(book):
        for step in path[:-1]:
            book = book[step]
        book[path[-1]] = value
    return change


def printed(text):
    return put([nbformat.v4.new_output("stream", text=text)], "cells", 4, "outputs")


@pytest.mark.parametrize("change, told", [
    (edit(0, "# 03", "03"), "must start with `# title`"),
    (edit(0, "needs", "after"), "no fact line"),
    (edit(-1, "- proved", "proved"), "`You will` has 2 points and `You have` 1"),
    (edit(-1, "written the loss mask", "written a picture"), "does not answer 'write the loss mask by hand'"),
    (edit(-1, "written the loss mask", "seen the loss mask"), "does not answer 'write the loss"),
    (edit(2, "  # passes over the data", ""), "field epochs"),
    (edit(2, "PARAMS = ", "P = "), "does not make PARAMS"),
    (put(["look"], "cells", 2, "metadata", "tags"), "one cell must be tagged parameters, 0 are"),
    (edit(4, "raise_if_run", "x = 1\n" * 15 + "y"), "code cell 3 has 17 lines"),
    (put(["exprot"], "cells", 4, "metadata", "tags"), "unknown tag exprot"),
    (put(None, "cells", 4, "execution_count"), "code cell 3 has execution count None"),
    (edit(5, "assert", "print"), "9 checks, at least 10"),
    (printed("x" * MOST_OUTPUT), "more than 204800"),
    (put([nbformat.v4.new_output("error")], "cells", 4, "outputs"), "ended in an error"),
    (put([nbformat.v4.new_output("stream", name="stderr", text="old")], "cells", 4, "outputs"), "a warning is stored"),
    (put({}, "metadata", "widgets"), "widget state"),
    (printed(" 50%|█████     | 1/2 [00:01<00:01, 1.0it/s]"), "progress bar"),
    (printed(str(PROJECT / "runs")), "path of a machine"),
    (printed("saved to /home/ada/runs"), "path of a machine"),
    (edit(0, "We mask", "We simply mask"), "word to avoid: 'simply'"),
    (edit(13, "...", "return 1"), "body of `...`"),
    (put(["look"], "cells", 14, "metadata", "tags"), "followed by an exercise-check and a solution"),
    (put({}, "cells", -2, "metadata", "jupyter"), "not folded"),
    (put({}, "metadata", "kit", "wrong_answers"), "no stored wrong answer"),
    (put({"count": ["x"], "size": []}, "metadata", "kit", "wrong_answers"), "stored for size, which is no exercise"),
])
def test_a_defect_is_named(change, told, monkeypatch):
    monkeypatch.setitem(globals(), "FEWEST_CHECKS", 10)
    book = sample()
    assert list(problems(book, "03_sample")) == []
    change(book)
    found = list(problems(book, "03_sample"))
    assert len(found) == 1 and told in found[0]


def test_a_slice_has_what_changes_its_names():
    book = sample()
    book.cells[3].source += "\n\nextra = []\nextra.append(0)\nlist.extend(extra, [1])\nprint(extra)\nother = 1 / 0"
    book.cells[14].source += "\n    assert extra == [0, 1], extra"
    assert list(judge(book)) == []


@pytest.mark.parametrize("change, told", [
    (edit(15, "len(keep(ids))", "len(ids)"), "the solution of count fails its check: AssertionError("),
    (edit(14, "== len(keep([1]))", "is not None"), "passes the wrong answer 'def count(ids):\\n    return len(ids)'"),
    (edit(14, "assert came == len(keep([1]))", "assert True"), "passes the stub 'def count(ids):\\n    ...'"),
    (edit(14, ", f'one id is kept, {came} came'", ""), "fails without a sentence"),
])
def test_a_check_that_cannot_tell_is_named(change, told):
    book = sample()
    change(book)
    assert told in " ".join(judge(book))


@pytest.mark.parametrize("file", LESSONS, ids=lambda file: file.stem)
def test_lesson(file):
    assert list(problems(nbformat.read(file, as_version=4), file.stem)) == []


@pytest.mark.parametrize("file", LESSONS, ids=lambda file: file.stem)
def test_exercises(file):
    assert list(judge(nbformat.read(file, as_version=4))) == []
