"""What a task is: one Python file beside its rows, with files and a judge. Lesson 06 writes one.

A task file may define `system`, `train`, `test`, `validation`, `completions`, `pairs`,
`max_new_tokens`, `judge(reply, right)`, `prefers(reply, right)` and `kind(reply)`; only `train` is
needed. It names its files from its own folder. A bare file of rows is a task as well: a tenth of
the rows is the test, and the judge is `exact`.
"""

import contextlib
import difflib
import hashlib
import itertools
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
from kit.engine import checkpoints, row_checks
from kit.errors import DataError, KitError, MissingError, SettingsError

SHIPPED = Path(__file__).parents[1] / "data_samples"
TEST, VALIDATION = 0.1, 0.1  # shares of train, where the task names no file
SAMPLE = 100  # questions whose judge is tried on the reply of another row
FILE, FUNCTION = (str, "a file name"), (Callable, "a function")
FIELDS = {"system": (str, "text"), "train": FILE, "completions": FILE, "pairs": FILE,
          "test": ((str, list, tuple, float), "a file name, a list of them, or a share of train"),
          "validation": ((str, float), "a file name or a share of train"),
          "max_new_tokens": (int, "a whole number above 0"),
          "judge": FUNCTION, "prefers": FUNCTION, "kind": FUNCTION}


@dataclass(frozen=True)
class Task:
    """A task as `load` returns it. tests, validation: files, or a share of train by hash."""

    name: str
    file: Path
    source: str  # text of the task file, which a run keeps as task.py
    module: types.ModuleType
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


@dataclass(frozen=True)
class Question:
    """Messages that end with a user turn, and what is known of them."""

    messages: list
    right: str  # the right reply
    group: str  # its line of the scoreboard
    row: dict  # the row's other columns
    place: tuple = (None, None)  # file and line


def exact(reply, right):
    """Return whether two texts are equal without the white space at their ends."""
    return reply.strip() == right.strip()


def one_of(*labels):
    """Return a judge: the reply names exactly one of `labels`, in any case, and it is right."""
    def names(label, text):
        return re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text, re.IGNORECASE)
    return lambda reply, right: [x for x in labels if names(x, reply)] == [right.strip()]


def json_object(text):
    """Return the one JSON object in `text`, bare or inside a sentence, or None."""
    try:
        value = json.loads(text[text.index("{") : text.rindex("}") + 1])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def json_fields(*fields):
    """Return a judge: the reply holds one JSON object whose `fields` (default: all) are right."""
    def judge(reply, right):
        pair = [json_object(text) for text in (reply, right)]
        if None in pair or any(set(fields) - values.keys() for values in pair):
            return False
        # Compared as JSON text, because Python takes 1, 1.0 and True for equal.
        chosen = [{name: values[name] for name in fields or values} for values in pair]
        return len({json.dumps(values, sort_keys=True) for values in chosen}) == 1
    return judge


def regex(pattern):
    """Return a judge: `pattern` finds the same groups (or text, without groups) in both replies."""
    def judge(reply, right):
        matches = [re.search(pattern, text) for text in (reply, right)]
        return None not in matches and len({m.groups() or m[0] for m in matches}) == 1
    return judge


def number(tolerance=0.0):
    """Return a judge: the last numbers of both replies differ by at most `tolerance`."""
    def last(text):
        numbers = re.findall(r"-?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", text)
        return float(numbers[-1].replace(",", "")) if numbers else math.nan
    return lambda reply, right: abs(last(reply) - last(right)) <= tolerance


def find(name) -> Path:
    """Return the file of a shipped task's name, or the file `name`, here or in the project."""
    if Path(name).suffix in (".py", *records.ENDINGS):
        return records.find(name)
    names = sorted(f.stem for f in SHIPPED.glob("*/*.py") if f.stem == f.parent.name)
    if name in names:
        return records.find(Path(SHIPPED.name) / name / f"{name}.py")
    raise SettingsError(f"expected {', '.join(names)}, a task file (.py) or a file of rows "
                        f"({', '.join(records.ENDINGS)}), got {str(name)!r}; "
                        f"{_did_you_mean(str(name), names) or 'correct the name'}", field="task")


def _did_you_mean(name, names):
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.75)
    return f"did you mean {close[0]}?" if close else ""


def module(name):
    """Return the module of a task file. Its names are checked, its rows are not read."""
    return _module(find(name))[1]


def load(name, *, folder=None, on_bad="stop", check=True) -> Task:
    """Return the task of a shipped name, a `.py` file or a file of rows, and check it.

    Every right reply must pass its own judge, replies of other rows must not, and test and train
    must share no prompt; else a KitError names file and line. folder: where the files are (default:
    beside the task file). on_bad: "skip" leaves bad training rows to the caller. check: False reads
    no rows.
    """
    file = find(name)
    source, code = _module(file)
    defaults = {"system": "", "validation": VALIDATION, "judge": exact}
    values = {field: getattr(code, field, defaults.get(field)) for field in FIELDS}

    def path(field, value):
        target = Path(folder or file.parent) / value if isinstance(value, str) else value
        if isinstance(target, Path) and check and not target.is_file():
            raise _refusal(file, source, field, "a file", f"nothing at {target}",
                           "correct the path", MissingError)
        return target

    tests = values.pop("test") or TEST
    if not isinstance(tests, float):
        tests = tuple(path("test", test) for test in ([tests] if isinstance(tests, str) else tests))
    values |= {field: path(field, values[field])
               for field in ("train", "validation", "completions", "pairs")}
    task = Task(name=file.stem, file=file, source=source, module=code, tests=tests, **values)
    if check:
        _check(task, on_bad)
    return task if task.max_new_tokens else replace(task, max_new_tokens=_longest(task))


def of_run(folder, check=True):
    """Return the task of a run folder, its task.py with the rows beside the original; or None."""
    params = checkpoints.read_json(folder / "run.json").get("params")
    name = str(params.get("task") or "") if isinstance(params, dict) else ""
    if not name or not (folder / "task.py").is_file():
        return load(name, check=check) if name else None
    original = folder
    with contextlib.nullcontext() if check else contextlib.suppress(KitError):
        original = find(name).parent
    return replace(load(folder / "task.py", folder=original, check=check), name=Path(name).stem)


def _longest(task):
    """Return a length that cuts no right reply, because an id is at least one byte."""
    try:
        replies = (q.right for split in ("train", "test") for q in _questions(task, split))
        return max(len(reply.encode()) for reply in replies) + 2
    except (KitError, ValueError):  # files that are missing or bad and were not to be checked
        return 256


def _refusal(file, source, name, expected, got, advice, error=DataError):
    """Return an error with the line of a task file that assigns or defines `name`."""
    match = re.search(rf"(?m)^(?=[^\s#]).*?\b{name}\b", source)
    line = source.count("\n", 0, match.end()) + 1 if match else None
    return error(f"expected {expected}, got {got}; {advice}", file=str(file), line=line, field=name)


def _raised(error, file):
    """Return the line of `file` that raised an error, or None."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    return lines[-1] if lines else getattr(error, "lineno", None)


def _module(file):
    """Run a task file and check its names; return its text and module. Rows get the text of one."""
    code = types.ModuleType(f"kit_task_{file.stem}")
    code.__file__, sys.modules[code.__name__] = str(file), code
    source = f"train = {file.name!r}\ntest = {TEST}\n"
    if file.suffix not in records.ENDINGS:
        with records.attempt("read", file, "name a task file"):
            source = file.read_text("utf-8", "replace")
    try:
        exec(compile(source, str(file), "exec"), code.__dict__)
    except (Exception, SystemExit) as error:
        kind, advice = ((MissingError, "install it with pip") if isinstance(error, ImportError)
                        else (DataError, "correct this line"))
        raise kind(f"expected Python that runs, got {type(error).__name__}: "
                   f"{getattr(error, 'msg', error)}; {advice}", file=str(file),
                   line=_raised(error, file)) from None
    for name, value in vars(code).copy().items():
        own = getattr(value, "__module__", code.__name__) == code.__name__
        if name in FIELDS or own and name[0] != "_" and not isinstance(value, types.ModuleType):
            _check_name(file, source, name, value)
    if not hasattr(code, "train"):
        raise DataError("expected the name train, got none; name the file of training rows",
                        file=str(file))
    return source, code


def _check_name(file, source, name, value):
    """Refuse a misspelt field, a lower-case value of no field, and a value of the wrong type."""
    advice = _did_you_mean(name, FIELDS)
    if name in FIELDS:
        kind, words = FIELDS[name]
        names = value if isinstance(value, (list, tuple)) else []
        if (not isinstance(value, kind) or kind is int and value < 1
                or isinstance(value, float) and not 0 <= value < 1
                or not all(isinstance(name, str) for name in names)):
            raise _refusal(file, source, name, words, row_checks.describe(value),
                           "correct this line")
    elif advice or name.islower() and not callable(value):
        raise _refusal(file, source, name, f"a name out of {', '.join(FIELDS)}", name,
                       advice or "write a name of your own in capitals or with _ in front")


def rows(task, split="train", kind=None, on_bad="stop"):
    """Return the Records of "train", "validation", "completions" or "pairs".

    The task's system message is put in front of rows without one. kind: "chat" (default), or
    "completion", which leaves out conversations of several questions; pairs are preferences.
    """
    file = getattr(task, split)
    if split == "pairs" and file is None:
        raise SettingsError(f"expected a task with pairs, got {task.file}; name their file there",
                            field="task")
    file = file if isinstance(file, Path) else task.train
    kind = kind or {"pairs": "preferences", "completions": "completion"}.get(split, "chat")
    read = _read(task, file, kind, split if split == "validation" else "train", on_bad)
    if not len(read):
        raise DataError(f"expected {kind} rows for {split}, got none; add rows, or name a file for "
                        f"{split} in {task.file}", file=str(file))
    return read


def _read(task, file, kind, part, on_bad="stop"):
    """Return the Records of a file as rows of `kind`; of train, only the rows of one part."""
    def change(row):
        used = file != task.train or _part(task, row) == part
        return shaped(task, row, kind) if used else None
    return records.read(file, on_bad=on_bad).mapped(kind, change)


def shaped(task, row, kind):
    """Return a row as `kind`, with the task's system message in front, or None if it is no such."""
    def turn(name):
        return [{"role": "user" if name == "prompt" else "assistant", "content": row[name]}]

    def with_system(turns):
        new = task.system and turns[0]["role"] != "system"
        return [{"role": "system", "content": task.system}, *turns] if new else turns

    if kind == "preferences":
        row = {name: turn(name) for name in row} if isinstance(row["prompt"], str) else row
        return row | {"prompt": with_system(row["prompt"])}
    if kind == "completion" and "messages" in row:
        texts = [turn["content"] for turn in row["messages"] if turn["role"] != "system"]
        return {"prompt": texts[0], "completion": texts[1]} if len(texts) == 2 else None
    if kind == "completion":
        return row
    if "text" in row:
        return None
    turns = row["messages"] if "messages" in row else [*turn("prompt"), *turn("completion")]
    return {"messages": with_system(turns)}


def questions(task, split="test"):
    """Return the Questions of "test", "validation" or "train"; a row's last answer is right."""
    return list(_questions(task, split))


def _questions(task, split):
    """Yield `questions` one by one, because those of a large file of rows need much memory."""
    files = {"test": task.tests, "validation": task.validation}.get(split, task.train)
    files = files if isinstance(files, tuple) else (files,)
    files = [file if isinstance(file, Path) else task.train for file in files]
    read = [_read(task, file, "chat", split) for file in files]
    if not any(map(len, read)):
        raise DataError(f"expected at least one question for {split}, got none; add rows",
                        file=str(files[0]))
    for part in read:
        for row, line, extra in zip(part, part.lines, part.extras):
            *turns, reply = row["messages"]
            yield Question(turns, reply["content"], extra.get("group") or split, extra,
                           (part.file, line))


def one_turn(task, questions):
    """Return the questions that completion rows prepare for: one turn, and a reply of their kinds.

    Without `kind` in the task file, every reply is of the same kind.
    """
    kind = task.kind or (lambda reply: None)
    taught = {kind(row.get("completion", "")) for row in rows(task, "completions", on_bad="skip")}
    return [q for q in questions if kind(q.right) in taught
            and sum(message["role"] == "user" for message in q.messages) == 1]


def _part(task, row):
    """Return the split of a row of train: by a hash of its first question, so that no conversation
    is in two splits. "kit" in front keeps it apart from cuts that were made by the bare hash."""
    first = "\n".join(("kit", *row_checks.levelled(row_checks.prompts_of(row)[0])))
    place = int.from_bytes(hashlib.sha256(first.encode()).digest()[:4], "big") / 2**32
    shares = [x if isinstance(x, float) else 0 for x in (task.tests, task.validation)]
    return "test" if place < shares[0] else "validation" if place < sum(shares) else "train"


def _check(task, on_bad):
    """Refuse shared prompts, right replies that fail their judge, and a judge that sees nothing."""
    tests = questions(task)
    held_out = tests + (questions(task, "validation") if isinstance(task.validation, Path) else [])
    for split in ("train", "completions", "pairs"):
        if on_bad == "stop" and getattr(task, split):
            records.split_leaked(rows(task, split), held_out)
    train = _questions(task, "train") if on_bad == "stop" else ()
    for question in itertools.chain(held_out, train):
        if not accepts(task, question.right, question):
            raise DataError("expected a right reply that its own judge accepts, got "
                            f"{question.right!r}; correct this row or the judge in {task.file}",
                            file=question.place[0], line=question.place[1])
    _check_judge(task, tests)


def accepts(task, reply, question, judge=None):
    """Return whether the judge accepts a reply; its exception becomes a sentence with its line."""
    judge = judge or task.judge
    try:
        return bool(judge(reply, question.right))
    except (Exception, SystemExit) as error:
        raise DataError(f"expected True or False for the reply {reply!r} where {question.right!r} "
                        f"is right, got {type(error).__name__}: {error}; correct the function",
                        file=str(task.file), line=_raised(error, task.file),
                        field=getattr(judge, "__name__", "judge")) from None


def _check_judge(task, tests):
    """Refuse a judge that raises, or that accepts an empty and another row's reply every time."""
    verdicts = []
    for at, question in enumerate(tests[:SAMPLE]):
        others = (q.right for q in tests[at:] + tests[:at] if not exact(q.right, question.right))
        for reply in ("", next(others, "?")):
            verdicts.append(accepts(task, reply, question))
            accepts(task, reply, question, task.prefers)
    if all(verdicts):
        raise _refusal(task.file, task.source, "judge", "a judge that refuses other rows' replies",
                       f"one that accepts each of {len(verdicts)}", "correct the judge")
