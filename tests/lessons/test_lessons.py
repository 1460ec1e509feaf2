"""Every lesson has its parts and is fit to commit, and its exercises tell right from wrong.

An exercise is a cell `exercise` (a function whose body is `...`, or `name = ...`), a cell
`exercise-check` (defines check_NAME and calls `show.answer(NAME, check_NAME)`), and at the end of
the lesson a folded cell `solution` that defines solution_NAME and calls check_NAME on it. The
notebook's metadata stores wrong answers: {"kit": {"wrong_answers": {"NAME": ["<source>", ...]}}}.

`pytest tests/lessons/test_lessons.py -k "NN_ and not outputs"` tests a lesson that has not run yet.
"""

import ast
import contextlib
import io
import json
import linecache
import re
import symtable
import tempfile
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from kit import show
from kit.errors import MissingError

PROJECT = Path(__file__).parents[2]
LESSONS = [PROJECT / "notebooks" / f"{name}.ipynb" for name in show.LESSONS]
TAGS = {
    "parameters",
    "export",
    "run",
    "check",
    "dial",
    "exercise",
    "exercise-check",
    "solution",
    "nbval-skip",
}
ASSERTING = {"check", "exercise-check", "solution"}
CHECK = re.compile(r"^\s*(?:assert\b|check\w*\(|[\w.]+\.check\w*\()", re.MULTILINE)
AVOID = re.compile(
    r"\b(simply|just|powerful|easy|easily|obviously|as we can see|let's)\b|"
    r"[\U0001F300-\U0001FAFF]",
    re.IGNORECASE,
)
PLACE = re.compile(r"(?<![\w.])/(root|home|tmp|Users)/\w")
PROGRESS = re.compile(r"it/s[\],]|%\|[█▏▎▍▌▋▊▉ ]")
RAW = re.compile(r"\d\.\d{14,}")
CHANGING = r"(^|\.)(add|set|update|append|extend|insert|pop|sort|shuffle|register|resize)\w*$"
EXERCISE = re.compile(r"\*\*\d · .+?\*\* \([●○]{3}, \d+ minutes?\)")
NO_FIGURE = {
    "table",
    "answer",
    "checks",
    "course_map",
    "environment",
    "scores",
    "scoreboard",
    "progress",
    "Progress",
    "chat_box",
    "before_after",
    "in_notebook",
    "Shown",
    "token_losses",
}
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
MOST_LINES, MOST_LINES_TAGGED, MOST_WIDTH = 12, 15, 100
FEWEST_CHECKS, FEWEST_FIGURES, MOST_OUTPUT = 8, 2, 200 * 1024


def code_cells(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def tags(cell):
    return set(cell.metadata.get("tags", ()))


def tagged(book, tag):
    return [cell for cell in code_cells(book) if tag in tags(cell)]


def folded(cell):
    return cell.metadata.get("jupyter", {}).get("source_hidden", False)


def parsed(source):
    """Return the syntax tree of a cell without its lines for IPython."""
    return ast.parse(re.sub(r"^[%!].*", "", source, flags=re.MULTILINE))


def problems(book, stem):
    """Return everything that is wrong with the source of a lesson, a sentence each."""
    return [
        *head(book, stem),
        *params(book),
        *cells(book, stem),
        *parts(book, stem),
        *dials(book),
        *words(book),
        *exercise_parts(book),
    ]


def head(book, stem):
    lines = book.cells[0].source.splitlines() if book.cells[0].cell_type == "markdown" else [""]
    facts = next((line for line in lines if line.count("·") >= 2 and "2 cores" in line), "")
    if not re.match(rf"# {stem[:2]} · \S", lines[0]):
        yield f"the first cell must start with `# {stem[:2]} · title`"
    if not re.match(r"\*About \d+ (minute|second)s? on 2 cores · needs .+ · makes .+\*$", facts):
        yield "no fact line `*About N minutes on 2 cores · needs lesson NN · makes ...*`"
    will, have = bullets(book, "## You will"), bullets(book, "## You have")
    if not will or len(will) != len(have):
        yield f"`You will` has {len(will)} points and `You have` {len(have)}"
    for goal, result in zip(will, have, strict=False):
        if not re.match(r"\*\*\w+\*\*", goal):
            yield f"the point {goal!r} does not start with a bold verb"
        # The verb changes its form (keep, kept): compare its first letter and the other words.
        verb, *others = re.findall(r"\w+", goal.lower())
        stems = {word[:4] for word in others if len(word) > 3}
        starts = re.match(rf"\W*{verb[0]}", result.lower())
        if not starts or not any(stem in result.lower() for stem in stems):
            yield f"`You have` does not answer {goal!r}"


def bullets(book, title):
    for cell in book.cells:
        if cell.cell_type == "markdown" and title in cell.source:
            text = cell.source.split(title, 1)[1].split("\n## ")[0]
            return re.findall(r"^\s*(?:[-*]|\d+\.)\s+(.+)", text, re.MULTILINE)
    return []


def params(book):
    parameters = tagged(book, "parameters")
    if book.metadata.get("kit", {}).get("script") and len(parameters) != 1:
        yield f"one cell must be tagged parameters, {len(parameters)} are"
    for cell in parameters:
        if "PARAMS = " not in cell.source:
            yield "the parameters cell does not make PARAMS"
        lines = cell.source.splitlines()
        classes = [node for node in parsed(cell.source).body if isinstance(node, ast.ClassDef)]
        for each in classes:
            bases = [ast.unparse(base) for base in each.bases]
            if not any(re.fullmatch(r"(\w+\.)*Settings|Params", base) for base in bases):
                yield f"class {each.name} of the parameters does not derive from Settings"
            for node in each.body:
                comment = isinstance(node, ast.AnnAssign) and lines[node.end_lineno - 1]
                if comment is not False and not re.search(r"#\s*\S", comment):
                    yield f"field {node.target.id} of the parameters has no comment"


def cells(book, stem):
    for number, cell in enumerate(code_cells(book), 1):
        length = sum(bool(line.strip()) for line in cell.source.splitlines())
        limit = MOST_LINES_TAGGED if tags(cell) & (ASSERTING | {"export"}) else MOST_LINES
        if length > limit and "parameters" not in tags(cell) and not folded(cell):
            yield f"code cell {number} has {length} lines, at most {limit} are allowed"
        if unknown := tags(cell) - TAGS:
            yield f"code cell {number} has the unknown tag {min(unknown)}"
        yield from (
            f"code cell {number} has a line of {len(line)} characters"
            for line in cell.source.splitlines()
            if len(line) > MOST_WIDTH
        )
        tree = parsed(cell.source)
        nodes = [node for node in ast.walk(tree) if isinstance(node, COMPREHENSIONS)]
        twice = [line for line, n in Counter(node.lineno for node in nodes).items() if n > 1]
        if twice and not folded(cell):
            yield f"code cell {number} has two comprehensions in line {twice[0]}"
        asserts = any(isinstance(node, ast.Assert) for node in ast.walk(tree))
        if asserts and not tags(cell) & ASSERTING and not folded(cell):
            yield f"code cell {number} asserts; move it to a cell tagged check"
        if (
            "check" in tags(cell)
            and not tree.body
            or "check" in tags(cell)
            and not re.match(r"(print|show\.\w+|check_\w+)\(", ast.unparse(tree.body[-1]))
        ):
            yield f"the check in code cell {number} does not end with a printed sentence"
    checks = sum(len(CHECK.findall(cell.source)) for cell in code_cells(book))
    if "01" <= stem[:2] <= "05" and checks < FEWEST_CHECKS:
        yield f"{checks} checks, at least {FEWEST_CHECKS} are expected"


def parts(book, stem):
    """The map, the figures, the link to the next lesson, and the order of the last parts."""
    code = "\n".join(cell.source for cell in code_cells(book))
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    if f"show.course_map({int(stem[:2])})" not in code:
        yield f"no cell shows the map by show.course_map({int(stem[:2])})"
    figures = [name for name in re.findall(r"\bshow\.(\w+)\(", code) if name not in NO_FIGURE]
    if len(figures) < FEWEST_FIGURES:
        yield f"{len(figures)} figures by kit.show, at least {FEWEST_FIGURES} are expected"
    index = int(stem[:2]) + 1
    following = show.LESSONS[index] if index < len(show.LESSONS) else show.LESSONS[0]
    links = re.findall(r"\bNext: .*?\[.+?\]\((?:\./)?(.+?)\.ipynb\)", text)
    if links != [following]:
        yield f"expected one link `Next: [...]({following}.ipynb)`, got {links}"
    places = [text.find(f"## {title}") for title in ("Exercises", "You have", "Solutions")]
    if -1 in places or places != sorted(places):
        yield "the sections Exercises, You have, Solutions are missing or in another order"


def dials(book):
    if not tagged(book, "dial"):
        yield "no cell is tagged dial"
    for cell in tagged(book, "dial"):
        if not re.match(r"\w+ = -?[\d._]+(e-?\d+)?\s*(#.*)?$", cell.source.split("\n")[0]):
            yield f"a dial must start with one number, got {cell.source.splitlines()[0]!r}"
        above = [c for c in book.cells[: book.cells.index(cell)] if c.cell_type == "markdown"]
        if "my guess" not in above[-1].source.lower():
            yield "the text above a dial does not ask for a prediction (`My guess: ...`)"


def outputs(book):
    """Return everything that is wrong with the outputs of a lesson, a sentence each."""
    text = json.dumps([cell.outputs for cell in code_cells(book)], ensure_ascii=False)
    for number, cell in enumerate(code_cells(book), 1):
        if cell.execution_count != number:
            yield f"code cell {number} has execution count {cell.execution_count}"
        for output in cell.outputs:
            plain = output.get("text") or output.get("data", {}).get("text/plain", "")
            if RAW.search(plain):
                yield f"code cell {number} prints the raw number {RAW.search(plain)[0]}"
    if len(text.encode()) > MOST_OUTPUT:
        yield f"outputs hold {len(text.encode())} bytes, more than {MOST_OUTPUT}"
    if '"output_type": "error"' in text:
        yield "a cell ended in an error"
    if '"name": "stderr"' in text:
        yield "a warning is stored"
    if "widgets" in book.metadata:
        yield "widget state is stored"
    if PROGRESS.search(text):
        yield "a progress bar is stored"
    machine = {str(PROJECT), str(Path.home()), tempfile.gettempdir()} - {"/"}
    whole = text + "".join(cell.source for cell in book.cells)
    paths = [path for path in machine if re.search(rf"(?<![\w.]){re.escape(path)}\b", whole)]
    if PLACE.search(whole) or paths:
        yield "a path of a machine is stored"


def words(book):
    for cell in book.cells:
        if cell.cell_type == "markdown":
            yield from (f"word to avoid: {word[0]!r}" for word in AVOID.finditer(cell.source))


def exercises(book):
    """Return [(name, exercise cell, exercise-check cell or None, solution cell or None)]."""
    code, solutions, rows = code_cells(book), {}, []
    for cell in tagged(book, "solution"):
        solutions |= {name: cell for name in bound(cell.source) if name.startswith("solution_")}
    for at, cell in enumerate(code):
        if "exercise" in tags(cell):
            name = answer_name(cell.source)
            check = code[at + 1] if at + 1 < len(code) else cell
            check = check if "exercise-check" in tags(check) else None
            rows.append((name, cell, check, solutions.get(f"solution_{name}")))
    return rows


def answer_name(source):
    """Return the name of the function or value whose body is `...`, None without one."""
    for node in reversed(parsed(source).body):
        if isinstance(node, ast.FunctionDef) and ast.unparse(node.body[-1]) == "...":
            return node.name
        if isinstance(node, ast.Assign) and ast.unparse(node.value) == "...":
            return node.targets[0].id
    return None


def exercise_parts(book):
    wrong = book.metadata.get("kit", {}).get("wrong_answers", {})
    names = [name for name, *_ in exercises(book)]
    if not names:
        yield "the lesson has no exercise"
    for name, stub, check, solution in exercises(book):
        if name is None:
            yield f"an exercise must end with a body or value of `...`: {stub.source[:40]!r}"
            continue
        above = [c for c in book.cells[: book.cells.index(stub)] if c.cell_type == "markdown"][-1]
        if not EXERCISE.search(above.source):
            yield f"exercise {name} has no title `**1 · Name** (●○○, 5 minutes)`"
        if "<details><summary>Hint</summary>" not in above.source:
            yield f"exercise {name} has no hint"
        call = f"show.answer({name}, check_{name})"
        if not check or call not in check.source:
            yield f"exercise {name} must be followed by an exercise-check with {call}"
        if not solution or f"check_{name}(solution_{name})" not in solution.source:
            yield f"no cell tagged solution calls check_{name}(solution_{name})"
        elif not folded(solution):
            yield f"the solution of {name} is not folded (metadata jupyter.source_hidden)"
        elif name in bound(solution.source):
            yield f"the solution of {name} overwrites the learner's answer"
        elif not any("## Solutions" in c.source for c in book.cells[: book.cells.index(solution)]):
            yield f"the solution of {name} does not stand under Solutions"
        if not wrong.get(name):
            yield f"exercise {name} has no stored wrong answer"
    extra = sorted(set(wrong) - {*names})
    yield from (f"wrong answers are stored for {name}, which is no exercise" for name in extra)


def bound(source):
    return names(source)[1]


def names(source):
    """Return (names that `source` reads from outside, names it binds at the top)."""
    top = symtable.symtable(source, "cell", "exec")
    tables, read = [top], set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        read |= {
            s.get_name()
            for s in table.get_symbols()
            if s.is_referenced() and (table is top or s.is_global())
        }
    symbols = [
        s for s in top.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()
    ]
    return read, {s.get_name() for s in symbols}


def needed(book, last, source):
    """Return the statements before cell `last` that `source` needs, in order, and their tags.

    A check runs without the whole lesson.
    """
    before = [
        (node, tags(cell))
        for cell in code_cells(book)[: code_cells(book).index(last)]
        for node in parsed(cell.source).body
    ]
    wanted, chosen, kinds = names(source)[0], [], set()
    for node, kind in reversed(before):
        statement = ast.unparse(node)
        read, made = names(statement)
        if made & wanted or changes(node) & wanted:
            wanted = (wanted - made) | read
            chosen.append(statement)
            kinds |= kind
    return "\n".join(reversed(chosen)), kinds


def changes(node):
    """Return the names in calls of add_..., append and the like, which may change them."""
    if not isinstance(node, ast.Expr | ast.Assign):
        return set()
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
    changing = [call for call in calls if re.search(CHANGING, ast.unparse(call.func))]
    parts = [part for call in changing for part in ast.walk(call)]
    return {part.id for part in parts if isinstance(part, ast.Name)}


def judge(book, only=None):
    """Return sentences for the answers that a check gets wrong: stub, wrong answers, solution.

    Raises MissingError where a check needs the runs of a lesson that has not trained here.
    """
    wrong = book.metadata.get("kit", {}).get("wrong_answers", {})
    for name, stub, check, solution in exercises(book):
        if only in (None, name):
            answers = wrong.get(name, [])
            sources = "\n".join([check.source, solution.source, *answers])
            before, kinds = needed(book, stub, sources)
            if "run" in kinds:
                raise MissingError(f"the check of {name} needs the training of the lesson")
            space = {}
            run(before, space)
            yield from verdicts(name, stub, check, solution, answers, space)


def verdicts(name, stub, check, solution, answers, space):
    text = run(f"{stub.source}\n{check.source}", space)
    if text.strip() != "not answered yet":
        yield f"the check of {name} says {text!r} to the stub, not 'not answered yet'"
    for source in answers:
        text = run(f"{source}\n{check.source}", dict(space)).strip().splitlines()[-1]
        if text == "correct":
            yield f"the check of {name} passes the wrong answer {source!r}"
        elif not (text.startswith("not right yet: ") and "expected" in text and "got" in text):
            yield f"the check of {name} says no sentence with expected and got, but {text!r}"
    try:
        run(solution.source, space)
    except Exception as error:  # whatever a solution raises
        yield f"the solution of {name} fails its check: {error!r}"


def run(source, space):
    """Run the source and return what it prints."""
    space["__name__"] = "lesson"
    file, printed = f"lesson {len(source)}", io.StringIO()
    # kit.settings reads the comments of PARAMS from the source.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    with contextlib.redirect_stdout(printed):
        exec(compile(source, file, "exec"), space)
    return printed.getvalue()


def sample():
    """Return a small lesson with all parts."""
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    parameters = (
        "from dataclasses import dataclass\n\nfrom kit import show\n"
        "from kit.settings import Settings\n\n@dataclass(frozen=True)\n"
        "class Params(Settings):\n    epochs: float = 1.0  # passes over the data\n\n"
        "PARAMS = Params()"
    )
    check = (
        "def check_count(count):\n    got = count([1, IGNORED])\n"
        "    assert got == len(keep([1])), f'expected one id, got {got}'\n\n"
        "show.answer(count, check_count)"
    )
    solution = "def solution_count(ids):\n    return len(keep(ids))\n\ncheck_count(solution_count)"
    exercise = (
        "**1 · Count** (●○○, 5 minutes). How many?\n\n"
        "<details><summary>Hint</summary>keep</details>"
    )
    steps = [
        ("parameters", parameters),
        ("export", "IGNORED = -100\n\ndef keep(ids):\n    return [i for i in ids if i != IGNORED]"),
        ("", "raise_if_run = 1 / 1\n%matplotlib inline\nshow.course_map(3)"),
        ("", "show.curves({'a': [(0, 1)]})\nshow.boxes({'a': {'b': 1}})"),
        *(("check", f"assert keep([{i}, IGNORED]) == [{i}]\nprint('kept')") for i in range(8)),
        "What happens? My guess: ...",
        ("dial", "RATE = 1e-3\nprint(RATE)"),
        "## Exercises\n\n" + exercise,
        ("exercise", "def count(ids):\n    ..."),
        ("exercise-check", check),
        "## You have\n\n- written the loss mask: cell 3\n- proved it equal to the library's: cell 4"
        f"\n\nNext: [04]({show.LESSONS[4]}.ipynb)",
        "## Solutions",
        ("solution", solution),
    ]
    first = (
        "# 03 · Masks\n\nWe mask.\n\n*About 2 minutes on 2 cores · needs lesson 02 · "
        "makes `runs/03`*"
    )
    will = "## You will\n\n- **write** the loss mask by hand\n- **prove** it equal to the library's"
    book = nbformat.v4.new_notebook(
        cells=[
            markdown(first),
            markdown(will),
            *(
                markdown(step)
                if isinstance(step, str)
                else code(step[1], metadata={"tags": step[0].split()})
                for step in steps
            ),
        ]
    )
    book.cells[-1].metadata["jupyter"] = {"source_hidden": True}
    wrong = {"count": ["def count(ids):\n    return len(ids)"]}
    book.metadata["kit"] = {"script": "a.py", "wrong_answers": wrong}
    for number, cell in enumerate(code_cells(book), 1):
        cell.execution_count = number
    return book


def test_the_sample_is_right():
    assert problems(sample(), "03_sample") == []
    assert list(outputs(sample())) == []
    assert list(judge(sample())) == []


FIRST, WILL, PARAMETERS, EXPORT, PLAIN, FIGURES, CHECKS = range(7)
GUESS, DIAL, TITLE, STUB, CHECKING, HAVE, SOLUTION = 14, 15, 16, 17, 18, 19, -1


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


def add(name, value):
    """Return a change that defines `value` beside the solution."""
    return edit(SOLUTION, "check_count(", f"{name} = {value}\ncheck_count(")


def printed(text):
    return put([nbformat.v4.new_output("stream", text=text)], "cells", PLAIN, "outputs")


@pytest.mark.parametrize(
    "change, sentence",
    [
        (edit(FIRST, "# 03", "# 3"), "must start with `# 03 · title`"),
        (edit(FIRST, "needs", "after"), "no fact line"),
        (edit(WILL, "**prove**", "prove"), "'prove it equal to the library's\" does not start"),
        (edit(HAVE, "- proved", "proved"), "`You will` has 2 points and `You have` 1"),
        (edit(HAVE, "written the loss mask", "written a picture"), "`You have` does not answer"),
        (edit(HAVE, "written the loss mask", "seen the loss mask"), "`You have` does not answer"),
        (
            edit(HAVE, show.LESSONS[4], show.LESSONS[5]),
            "expected one link `Next: [...](04_dpo.ipynb)`",
        ),
        (edit(PARAMETERS, "  # passes over the data", ""), "field epochs"),
        (edit(PARAMETERS, "(Settings)", ""), "does not derive from Settings"),
        (edit(PARAMETERS, "PARAMS = ", "P = "), "does not make PARAMS"),
        (
            put([], "cells", PARAMETERS, "metadata", "tags"),
            "one cell must be tagged parameters, 0 are",
        ),
        (edit(PLAIN, "raise_if_run", "x = 1\n" * 10 + "y"), "has 13 lines, at most 12"),
        (edit(PLAIN, "1 / 1", "1" * 100), "a line of 115 characters"),
        (edit(PLAIN, "1 / 1", "[[i for i in j] for j in ['a']]"), "two comprehensions in line 1"),
        (edit(PLAIN, "raise_if_run", "assert 1\nr"), "asserts; move it to a cell tagged check"),
        (edit(CHECKS, "print('kept')", "x = 1"), "does not end with a printed sentence"),
        (put(["look"], "cells", PLAIN, "metadata", "tags"), "unknown tag look"),
        (edit(CHECKS, "assert keep([0, IGNORED]) == [0]\n", ""), "9 checks, at least 10"),
        (edit(PLAIN, "show.course_map(3)", "show.course_map(4)"), "no cell shows the map"),
        (edit(FIGURES, "show.boxes({'a': {'b': 1}})", ""), "1 figures by kit.show"),
        (put([], "cells", DIAL, "metadata", "tags"), "no cell is tagged dial"),
        (edit(DIAL, "RATE = 1e-3", "RATES = [1, 2]"), "a dial must start with one number"),
        (edit(GUESS, "My guess", "Look"), "does not ask for a prediction"),
        (edit(FIRST, "We mask", "We simply mask"), "word to avoid: 'simply'"),
        (edit(TITLE, "(●○○, 5 minutes)", "(5 minutes)"), "exercise count has no title"),
        (edit(TITLE, "Hint", "More"), "exercise count has no hint"),
        (edit(STUB, "...", "return 1"), "body or value of `...`"),
        (
            edit(CHECKING, "show.answer(count, check_count)", "check_count(1)"),
            "must be followed by",
        ),
        (put([], "cells", CHECKING, "metadata", "tags"), "must be followed by"),
        (edit(SOLUTION, "check_count(solution_count)", ""), "calls check_count(solution_count)"),
        (put({}, "cells", SOLUTION, "metadata", "jupyter"), "not folded"),
        (add("count", "solution_count"), "overwrites the learner's answer"),
        (edit(SOLUTION - 1, "## Solutions", "## Answers"), "Exercises, You have, Solutions"),
        (put({}, "metadata", "kit", "wrong_answers"), "no stored wrong answer"),
        (put({"count": ["x"], "size": []}, "metadata", "kit", "wrong_answers"), "stored for size"),
    ],
)
def test_a_defect_is_named(change, sentence, monkeypatch):
    monkeypatch.setitem(globals(), "FEWEST_CHECKS", 10)
    book = sample()
    assert problems(book, "03_sample") == []
    change(book)
    got = problems(book, "03_sample")
    assert sentence.replace('"', "'") in " ".join(got).replace('"', "'")
    assert len(got) <= 3, got


@pytest.mark.parametrize(
    "change, sentence",
    [
        (printed("x" * MOST_OUTPUT), "more than 204800"),
        (put(None, "cells", PLAIN, "execution_count"), "code cell 3 has execution count None"),
        (put([nbformat.v4.new_output("error")], "cells", PLAIN, "outputs"), "ended in an error"),
        (
            put(
                [nbformat.v4.new_output("stream", name="stderr", text="old")],
                "cells",
                PLAIN,
                "outputs",
            ),
            "a warning is stored",
        ),
        (put({}, "metadata", "widgets"), "widget state"),
        (
            printed("loss 0.12345678901234567"),
            "code cell 3 prints the raw number 0.12345678901234567",
        ),
        (printed(" 50%|█████     | 1/2 [00:01<00:01, 1.0it/s]"), "progress bar"),
        (printed(str(PROJECT / "runs")), "path of a machine"),
        (printed("saved to /home/ada/runs"), "path of a machine"),
    ],
)
def test_a_defect_of_an_output_is_named(change, sentence):
    book = sample()
    change(book)
    got = list(outputs(book))
    assert len(got) == 1 and sentence in got[0]


def test_a_slice_has_what_changes_its_names():
    book = sample()
    book.cells[EXPORT].source += "\nlimit = PARAMS.epochs"
    book.cells[
        EXPORT
    ].source += (
        "\n\nextra = []\nextra.append(0)\nlist.extend(extra, [1])\nprint(extra)\nother = 1 / 0"
    )
    book.cells[CHECKING].source = book.cells[CHECKING].source.replace(
        "\n\nshow", "\n    assert extra == [0, 1] and limit == 1, extra\n\nshow"
    )
    assert list(judge(book)) == []


def test_a_value_can_be_the_answer():
    book = sample()
    check = (
        "def check_count(count):\n    assert count == 2, f'expected 2, got {count}'\n\n"
        "show.answer(count, check_count)"
    )
    solution = "solution_count = 2\ncheck_count(solution_count)"
    for index, source in ((STUB, "count = ..."), (CHECKING, check), (SOLUTION, solution)):
        book.cells[index].source = source
    book.metadata["kit"]["wrong_answers"] = {"count": ["count = 1"]}
    assert problems(book, "03_sample") == [] and list(judge(book)) == []


def test_a_check_that_needs_the_training_is_left_out():
    book = sample()
    book.cells[EXPORT].metadata["tags"] = ["run"]
    with pytest.raises(MissingError, match="check of count needs the training of the lesson"):
        list(judge(book))


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            edit(SOLUTION, "len(keep(ids))", "len(ids)"),
            "the solution of count fails its check: Assert",
        ),
        (edit(CHECKING, "== len(keep([1]))", "is not None"), "passes the wrong answer 'def count("),
        (edit(CHECKING, "show.answer(count,", "show.answer(len,"), "not 'not answered yet'"),
        (edit(CHECKING, "expected one id, ", ""), "says no sentence with expected and got"),
        (edit(CHECKING, "assert got", "raise ValueError; got"), "says no sentence with expected"),
    ],
)
def test_a_check_that_cannot_tell_is_named(change, sentence):
    book = sample()
    change(book)
    assert sentence in " ".join(judge(book))


def test_the_course_is_whole():
    assert [file.name for file in LESSONS if not file.exists()] == []


@pytest.mark.parametrize("file", LESSONS, ids=lambda file: file.stem)
def test_lesson(file):
    assert problems(nbformat.read(file, as_version=4), file.stem) == []


@pytest.mark.parametrize("file", LESSONS, ids=lambda file: file.stem)
def test_outputs(file):
    assert list(outputs(nbformat.read(file, as_version=4))) == []


EXERCISES = [
    (file, name) for file in LESSONS for name, *_ in exercises(nbformat.read(file, as_version=4))
]


@pytest.mark.parametrize("file, name", EXERCISES, ids=lambda value: getattr(value, "stem", value))
def test_exercise(file, name):
    try:
        assert list(judge(nbformat.read(file, as_version=4), name)) == []
    except MissingError as error:
        pytest.skip(str(error))  # `make course` runs the check of the solution
