"""What a task is: one Python file beside its rows, with a system message, the files, and a judge. Lesson 06 writes one.

A task file may define `system`, `train`, `test`, `validation`, `completions`, `pairs`, `max_new_tokens`, `judge(reply, right)`,
`prefers(reply, right)` and `kind(reply)`; only `train` is needed. Files are named from the folder of the task file.
A bare file of rows is a task as well: a tenth of its rows is the test, the judge is `exact`.
"""

import ast
import copy
import csv
import difflib
import hashlib
import json
import math
import re
import sys
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kit import records
from kit.engine import row_checks
from kit.errors import DataError, KitError, MissingError, SettingsError

SHIPPED = Path(__file__).parents[1] / "data_samples"
ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
SHARES = {"test": 0.1, "validation": 0.05}  # of train, where the task names no file
SAMPLE = 100  # questions whose judge is tried on replies of other rows
FIELDS = {"system": (str, "text"), "train": (str, "a file name"), "test": ((str, list, tuple, float), "a file, files or a share"),
          "validation": ((str, float), "a file or a share of train"), "completions": (str, "a file name"),
          "pairs": (str, "a file name"), "max_new_tokens": (int, "an integer above 0"),
          **dict.fromkeys(("judge", "prefers", "kind"), (Callable, "a function"))}


@dataclass(frozen=True)
class Task:
    """A task as `load` returns it. `tests` and `validation`: files, or a share of train by hash of the prompt."""

    name: str
    file: Path
    system: str
    train: Path
    tests: tuple[Path, ...] | float
    validation: Path | float
    completions: Path | None
    pairs: Path | None
    max_new_tokens: int
    judge: Callable
    prefers: Callable | None
    kind: Callable | None
    module: types.ModuleType
    source: str  # text of the task file; a run keeps it as task.py


@dataclass(frozen=True)
class Question:
    """Messages that end with a user turn, the right reply, its line of the scoreboard, and the whole row."""

    messages: list
    right: str
    group: str
    row: dict
    place: tuple = ("", 0)  # file and line


# Ready-made judges


def exact(reply, right):
    """Return whether two texts are equal without white space at their ends."""
    return reply.strip() == right.strip()


def one_of(*labels):
    """Return a judge: the reply names exactly one of `labels`, in any sentence and case, and it is the right one."""
    patterns = {label: re.compile(rf"(?<!\w){re.escape(label)}(?!\w)", re.IGNORECASE) for label in labels}

    def judge(reply, right):
        return [label for label in labels if patterns[label].search(reply)] == [right.strip()]
    return judge


def json_object(text):
    """Return the one JSON object in `text`, bare or inside a sentence, or None."""
    try:
        value = json.loads(text[text.index("{") : text.rindex("}") + 1])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def json_fields(*fields):
    """Return a judge: the reply holds one JSON object whose `fields` (default: all) have the right values and types."""
    def judge(reply, right):
        values, right_values = json_object(reply), json_object(right)
        if values is None or right_values is None:
            return False
        chosen = fields or sorted({*values, *right_values})
        absent = object()
        # As JSON, because Python takes 1, 1.0 and True for the same.
        return all(json.dumps(values.get(name, absent), default=str, sort_keys=True) ==
                   json.dumps(right_values.get(name, None), sort_keys=True) for name in chosen)
    return judge


def regex(pattern):
    """Return a judge: `pattern` finds the same groups (or the same text, without groups) in the reply as in the right one."""
    compiled = re.compile(pattern)

    def judge(reply, right):
        match, right_match = compiled.search(reply), compiled.search(right)
        return None not in (match, right_match) and (match.groups() or match[0]) == (right_match.groups() or right_match[0])
    return judge


def number(tolerance=0.0):
    """Return a judge: the last number of the reply differs from that of the right one by at most `tolerance`."""
    def last(text):
        numbers = re.findall(r"-?\d[\d,]*\.?\d*(?:[eE][-+]?\d+)?", text)
        return float(numbers[-1].replace(",", "")) if numbers else math.nan
    return lambda reply, right: abs(last(reply) - last(right)) <= tolerance


# Loading


def find(name) -> Path:
    """Return the file of a shipped task's name, a `.py` file or a file of rows; it may lie in the project's folder."""
    shipped = SHIPPED / str(name) / f"{name}.py"
    if Path(name).suffix not in (".py", *ROWS):
        if re.fullmatch(r"\w+", str(name)) and shipped.is_file():
            return shipped
        names = sorted(file.stem for file in SHIPPED.glob("*/*.py") if file.stem == file.parent.name)
        close = difflib.get_close_matches(str(name), names, n=1)
        raise SettingsError(f"expected {', '.join(names)}, a task file (.py) or a file of rows ({', '.join(ROWS)}), got "
                            f"{str(name)!r}; {f'did you mean {close[0]}?' if close else 'correct the name'}", field="task")
    for file in (Path(name), SHIPPED.parent / name):
        if file.is_file():
            return file
    raise MissingError(f"expected a file, got nothing at this path; correct the path (the working folder is {Path.cwd()})",
                       file=str(name), field="task")


def module(name):
    """Return the module of a task file, its names checked and its rows unread."""
    return _module(*_source(find(name)))


def load(name, *, folder=None, on_bad="stop", check=True) -> Task:
    """Return the task of a shipped name, a `.py` file or a file of rows, and check it (see `check`).

    folder: where its files lie, by default beside the task file. on_bad: "skip" leaves bad rows to the caller.
    check: False reads no rows, for who only needs the system message and the judge.
    """
    file, source = _source(find(name))
    code = _module(file, source)
    folder = Path(folder or file.parent)
    lines = _lines(source)

    def path(field, value):
        if not isinstance(value, str):
            return value
        if check and not (folder / value).is_file():
            raise MissingError(f"expected a file, got nothing at {folder / value}; correct the path", file=str(file),
                               line=lines.get(field), field=field)
        return folder / value

    values = {name: getattr(code, name, None) for name in FIELDS}
    tests = values.pop("test") or SHARES["test"]
    tests = tests if isinstance(tests, float) else tuple(path("test", t) for t in ([tests] if isinstance(tests, str) else tests))
    paths = {name: path(name, values[name]) for name in ("train", "completions", "pairs")}
    validation = path("validation", SHARES["validation"] if values["validation"] is None else values["validation"])
    values |= paths | {"system": values["system"] or "", "judge": values["judge"] or exact, "tests": tests,
                       "validation": validation, "max_new_tokens": values["max_new_tokens"] or 256}
    task = Task(name=file.stem, file=file, module=code, source=source, **values)
    return _checked(task, on_bad, lines) if check else task


def _source(file):
    """(file, its text); a file of rows gets the text of the task file that would say the same."""
    if file.suffix in ROWS:
        return file, f"train = {file.name!r}\ntest = {SHARES['test']}\n"
    try:
        return file, file.read_text(encoding="utf-8-sig")
    except ValueError:
        raise DataError("expected UTF-8 text, got other bytes; save the file as UTF-8", file=str(file)) from None


def _module(file, source):
    """Run a task file; an error is one sentence with its line."""
    code = types.ModuleType(f"kit_task_{file.stem}")
    code.__file__, sys.modules[code.__name__] = str(file), code
    try:
        exec(compile(source, str(file), "exec"), code.__dict__)
    except KitError:
        raise
    except ImportError as error:
        raise MissingError(f"expected the package {error.name}, got {error}; install it with pip", file=str(file)) from None
    except Exception as error:
        frames = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1] if frames else None
        raise DataError(f"expected Python that runs, got {type(error).__name__}: {getattr(error, 'msg', error)}; correct "
                        "the line", file=str(file), line=line) from None
    _check_names(code, file, _lines(source))
    return code


def _lines(source):
    """{name: line} of what a task file assigns or defines; imported names are not in it."""
    lines = {}
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            lines[node.name] = node.lineno
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            names = (part for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
            lines |= {part.id: part.lineno for part in names}
    return lines


def _check_names(code, file, lines):
    """Refuse names that look like a misspelt field, lower-case values of no field, and values of the wrong type."""
    for name, line in lines.items():
        value = getattr(code, name, None)
        if name in FIELDS:
            wanted, words = FIELDS[name]
            if not isinstance(value, wanted) or isinstance(value, int) and value < 1:
                raise DataError(f"expected {words}, got {row_checks.shown(value)}; correct the line", file=str(file),
                                line=line, field=name)
        elif not name.startswith("_"):
            close = difflib.get_close_matches(name.lower(), FIELDS, n=1, cutoff=0.75)
            if close or name.islower() and not callable(value):
                advice = f"did you mean {close[0]}?" if close else "begin a name of your own with _ or write it in capitals"
                raise DataError(f"expected a name out of {', '.join(FIELDS)}, got {name}; {advice}", file=str(file), line=line)
    if not hasattr(code, "train"):
        raise DataError("expected the field train, got none; name the file of training rows", file=str(file))


# Rows and questions


def rows(task, split="train", kind=None, on_bad="stop"):
    """Return the Records of "train", "validation", "completions" or "pairs", the system message in front where a row has none.

    kind: "chat" (default) or "completion", which leaves out conversations of more than one question; pairs have their own.
    """
    files = {"train": task.train, "completions": task.completions or task.train, "pairs": task.pairs,
             "validation": task.validation if isinstance(task.validation, Path) else task.train}
    if files.get(split) is None:
        raise SettingsError(f"expected a task with {split}, got none in {task.file}; name its file there", field="task")
    kind = kind or {"completions": "completion", "pairs": "preferences"}.get(split, "chat")
    read = _read(files[split], on_bad)
    part = "validation" if split == "validation" else "train"
    used = [(row, line) for row, line in zip(read, read.lines, strict=True)
            if files[split] != task.train or _part(task, row) == part]
    shaped = [(_SHAPES[kind](task, row), line) for row, line in used]
    shaped = [(row, line) for row, line in shaped if row]
    if not shaped:
        raise DataError(f"expected rows of {split} as {kind}, got none; add rows", file=str(files[split]))
    read, read.kind = copy.copy(read), kind
    read[:], read.lines = [row for row, _ in shaped], [line for _, line in shaped]
    return read


def questions(task, split="test"):
    """Return the questions of "test", "validation" or "train" whose right reply is the last answer of a row."""
    files = {"test": task.tests, "validation": task.validation}.get(split, task.train)
    shared = not isinstance(files, (tuple, Path))
    files = files if isinstance(files, tuple) else (task.train if shared else files,)
    made = []
    for file in files:
        read = _read(file)
        for row, line, whole in zip(read, read.lines, _whole_rows(file) or read, strict=True):
            messages = "text" not in row and (file != task.train or _part(task, row) == split) and _chat(task, row)["messages"]
            if messages:
                made.append(Question(messages[:-1], messages[-1]["content"], whole.get("group") or split, whole,
                                     (str(file), line)))
    if not made:
        raise DataError(f"expected at least one question for {split}, got none; add rows", file=str(files[0]))
    return made


def _read(file, on_bad="stop"):
    known = {name for forms in row_checks.FIELDS.values() for fields in forms for name in fields}
    extra = {name for row in _whole_rows(file) for name in row if isinstance(row, dict)} - known - {"tools", "tool_calls"}
    return records.read(file, "auto", on_bad=on_bad, ignore=sorted(map(str, extra)))


def _whole_rows(file):
    """Rows with all their columns: of JSON Lines and CSV; other files have the columns of training rows only."""
    if file.suffix in (".csv", ".tsv"):
        with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
            return list(csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ","))
    if file.suffix == ".parquet":
        return []
    lines = [line for line in file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    whole = []
    for line in lines:
        try:
            whole.append(json.loads(line))
        except (ValueError, RecursionError):  # records.read names the line
            whole.append({})
    return whole


def _part(task, row):
    """The split of a row of train: by a hash of its first question, so that a conversation stays whole."""
    first = row_checks.levelled(row_checks.prompts_of(row)[0][0])
    place = int.from_bytes(hashlib.sha256(first.encode()).digest()[:4], "big") / 2**32
    test, validation = (share if isinstance(share, float) else 0.0 for share in (task.tests, task.validation))
    return "test" if place < test else "validation" if place < test + validation else "train"


def _system(task, messages):
    return messages if messages[0]["role"] == "system" or not task.system else [
        {"role": "system", "content": task.system}, *messages]


def _chat(task, row):
    if "messages" in row:
        return {"messages": _system(task, row["messages"])}
    if "text" in row:
        return None
    turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
    return {"messages": _system(task, turns)}


def _completion(task, row):
    if "messages" not in row:
        return row
    turns = [message for message in row["messages"] if message["role"] != "system"]
    return {"prompt": turns[0]["content"], "completion": turns[1]["content"]} if len(turns) == 2 else None


def _preferences(task, row):
    turns = [row["prompt"]] if isinstance(row["prompt"], dict) else row["prompt"]
    if isinstance(turns, list):
        return row | {"prompt": _system(task, turns)}
    answers = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
    return {"prompt": _system(task, [{"role": "user", "content": turns}])} | answers


_SHAPES = {"chat": _chat, "completion": _completion, "preferences": _preferences}


# Checks


def _checked(task, on_bad, lines):
    """Check a task and return it with `max_new_tokens`: test prompts are new, and the judge tells right from wrong."""
    tests = questions(task)
    held_out = [*tests, *(questions(task, "validation") if isinstance(task.validation, Path) else [])]
    sources = {"train", *(name for name in ("completions", "pairs") if getattr(task, name))}
    for split in sorted(sources) if on_bad == "stop" else ():
        _check_leaks(rows(task, split), held_out)
    for question in [*held_out, *(questions(task, "train") if on_bad == "stop" else [])]:
        if not accepts(task, question.right, question):
            file, line = question.place
            raise DataError(f"expected a right reply that its own judge accepts, got {question.right!r}; correct the row or "
                            f"the judge of {task.file}", file=file, line=line)
    _check_judge(task, tests, lines)
    if "max_new_tokens" not in lines:  # an id is at least one byte, so no right reply is cut
        longest = max(len(question.right.encode()) for question in held_out)
        task = replace(task, max_new_tokens=longest + 2)
    return task


def _check_leaks(read, held_out):
    leaks = row_checks.leakage(read, [{"messages": question.messages} for question in held_out])
    if leaks:
        first = leaks[0]
        file, line = held_out[first.evaluation_line - 1].place
        raise DataError(f"expected no prompt of the test rows, got {first.prompt!r} of {file}:{line} ({len(leaks)} in all); "
                        "take these rows out of one of the files", file=read.file, line=first.train_line)


def accepts(task, reply, question, judge=None):
    """Return what the judge says of a reply, or raise one sentence with the judge's line when it raises."""
    judge = judge or task.judge
    try:
        return bool(judge(reply, question.right))
    except KitError as error:
        error.file, error.line = question.place
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f.lineno for f in reversed(frames) if f.filename == str(task.file)), None)
        raise DataError(f"expected True or False for the reply {reply!r} where {question.right!r} is right, got "
                        f"{type(error).__name__}: {error}; correct the function", file=str(task.file), line=line,
                        field=getattr(judge, "__name__", "judge")) from None


def _check_judge(task, tests, lines):
    """Refuse a judge that accepts an empty reply and the replies of other rows every time, or that raises."""
    verdicts = []
    for at, question in enumerate(tests[:SAMPLE]):
        others = (other.right for other in tests[at:] + tests[:at] if not exact(other.right, question.right))
        for reply in ("", next(others, "?")):
            verdicts.append(accepts(task, reply, question))
            accepts(task, reply, question, task.prefers)
    if all(verdicts):
        raise DataError("expected a judge that refuses replies of other rows, got one that accepts each of "
                        f"{len(verdicts)}; correct the judge", file=str(task.file), line=lines.get("judge"), field="judge")
