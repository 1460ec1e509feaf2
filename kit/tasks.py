"""What a task is: one Python file beside its rows, with a system message, files and a judge. Lesson 06 writes one.

A task file may define `system`, `train`, `test`, `validation`, `completions`, `pairs`, `max_new_tokens`,
`judge(reply, right)`, `prefers(reply, right)` and `kind(reply)`; only `train` is needed. Its files are named from its
own folder. A bare file of rows is a task as well: a tenth of its rows is the test, and the judge is `exact`.
"""

import copy
import difflib
import hashlib
import json
import math
import re
import sys
import traceback
import types
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kit import records
from kit.engine import row_checks
from kit.errors import DataError, KitError, MissingError, SettingsError

SHIPPED = Path(__file__).parents[1] / "data_samples"
TEST, VALIDATION = 0.1, 0.05  # shares of train, where the task names no file
SAMPLE = 100  # questions whose judge is tried on the reply of another row
FIELDS = {"system": str, "train": str, "test": (str, list, tuple, float), "validation": (str, float), "completions": str,
          "pairs": str, "max_new_tokens": int, "judge": Callable, "prefers": Callable, "kind": Callable}


@dataclass(frozen=True)
class Task:
    """A task as `load` returns it. tests, validation: files, or a share of train by hash of the prompt."""

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
    """Messages that end with a user turn, the right reply, its line of the scoreboard, and the row's other columns."""

    messages: list
    right: str
    group: str
    row: dict
    place: tuple = (None, None)  # file and line


def exact(reply, right):
    """Return whether two texts are equal without the white space at their ends."""
    return reply.strip() == right.strip()


def one_of(*labels):
    """Return a judge: the reply names exactly one of `labels`, in any sentence and case, and it is the right one."""
    def judge(reply, right):
        return [label for label in labels
                if re.search(rf"(?<!\w){re.escape(label)}(?!\w)", reply, re.IGNORECASE)] == [right.strip()]
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
        if values is None or right_values is None or not right_values.keys() >= set(fields):
            return False
        return all(name in values and name in right_values and _same(values[name], right_values[name])
                   for name in fields or {*values, *right_values})
    return judge


def _same(a, b):
    # As JSON text, because Python takes 1, 1.0 and True for equal.
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def regex(pattern):
    """Return a judge: `pattern` finds the same groups (without groups: the same text) in the reply as in the right one."""
    def judge(reply, right):
        matches = [re.search(pattern, text) for text in (reply, right)]
        return None not in matches and len({match.groups() or match[0] for match in matches}) == 1
    return judge


def number(tolerance=0.0):
    """Return a judge: the last number of the reply differs from that of the right one by at most `tolerance`."""
    def last(text):
        numbers = re.findall(r"-?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", text)
        return float(numbers[-1].replace(",", "")) if numbers else math.nan
    return lambda reply, right: abs(last(reply) - last(right)) <= tolerance


def find(name) -> Path:
    """Return the file of a shipped task's name, or `name` itself, which may also be in the project's folder."""
    if Path(name).suffix in (".py", *records.ENDINGS):
        return records.find(name)
    names = sorted(file.stem for file in SHIPPED.glob("*/*.py") if file.stem == file.parent.name)
    if name in names:
        return SHIPPED / name / f"{name}.py"
    close = difflib.get_close_matches(str(name), names, n=1)
    raise SettingsError(f"expected {', '.join(names)}, a task file (.py) or a file of rows ({', '.join(records.ENDINGS)}), got "
                        f"{str(name)!r}; {f'did you mean {close[0]}?' if close else 'correct the name'}", field="task")


def module(name):
    """Return the module of a task file. Its names are checked, its rows are not read."""
    return _module(find(name))[1]


def load(name, *, folder=None, on_bad="stop", check=True) -> Task:
    """Return the task of a shipped name, a `.py` file or a file of rows, and check it.

    folder: where its files are, by default beside the task file. on_bad="skip" leaves bad training rows to the caller.
    check: every right reply passes its own judge, replies of other rows do not, and test and train share no prompt;
    without it no rows are read. Raises a KitError with file and line.
    """
    file = find(name)
    source, code = _module(file)
    values, folder = {field: getattr(code, field, None) for field in FIELDS}, Path(folder or file.parent)

    def path(field, value):
        if isinstance(value, str) and check and not (folder / value).is_file():
            raise _refusal(file, source, field, "a file", f"nothing at {folder / value}", "correct the path", MissingError)
        return folder / value if isinstance(value, str) else value

    tests = values.pop("test") or TEST
    tests = [tests] if isinstance(tests, str) else tests
    values |= {field: path(field, values[field]) for field in ("train", "completions", "pairs")}
    validation = path("validation", VALIDATION if values["validation"] is None else values["validation"])
    values |= {"tests": tests if isinstance(tests, float) else tuple(path("test", test) for test in tests),
               "validation": validation, "system": values["system"] or "", "judge": values["judge"] or exact}
    task = Task(name=file.stem, file=file, source=source, module=code, **values)
    return _checked(task, on_bad) if check else task if task.max_new_tokens else replace(task, max_new_tokens=256)


def of_run(folder, check=True) -> Task:
    """Return the task of a run folder: its task.py, with the rows beside the file that task.py was copied from."""
    name, copied = json.loads((folder / "run.json").read_text(encoding="utf-8"))["params"]["task"], folder / "task.py"
    if not copied.is_file():
        return load(name, check=check)
    beside = find(name).parent if check else folder
    return replace(load(copied, folder=beside, check=check), name=Path(name).stem)


def _refusal(file, source, name, expected, got, advice, error=DataError):
    """Return an error with the line of a task file that assigns or defines `name`."""
    match = re.search(rf"(?m)^(?=[^\s#]).*?\b{name}\b", source)
    line = source.count("\n", 0, match.end()) + 1 if match else None
    return error(f"expected {expected}, got {got}; {advice}", file=str(file), line=line, field=name)


def _module(file):
    """Run a task file and check its names; return its text and its module. A file of rows gets the text that says it."""
    code = types.ModuleType(f"kit_task_{file.stem}")
    code.__file__, sys.modules[code.__name__] = str(file), code
    source = f"train = {file.name!r}\ntest = {TEST}\n" if file.suffix in records.ENDINGS else file.read_text("utf-8", "replace")
    try:
        exec(compile(source, str(file), "exec"), code.__dict__)
    except KitError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        kind, advice = (MissingError, "install it with pip") if isinstance(error, ImportError) else (
            DataError, "correct this line")
        raise kind(f"expected Python that runs, got {type(error).__name__}: {getattr(error, 'msg', error)}; {advice}",
                   file=str(file), line=getattr(error, "lineno", None) or lines[-1:] and lines[-1]) from None
    for name, value in vars(code).copy().items():
        _check_name(file, source, name, value, imported=getattr(value, "__module__", code.__name__) != code.__name__)
    if not hasattr(code, "train"):
        raise DataError("expected the name train, got none; name the file of training rows", file=str(file))
    return source, code


def _check_name(file, source, name, value, imported):
    """Refuse a misspelt field, a lower-case value of no field, and a value of the wrong type."""
    if name in FIELDS:
        if not isinstance(value, FIELDS[name]) or name == "max_new_tokens" and value < 1:
            kinds = FIELDS[name] if isinstance(FIELDS[name], tuple) else (FIELDS[name],)
            words = {str: "text", int: "an integer above 0", float: "a share", Callable: "a function", list: "a list"}
            expected = " or ".join(words[kind] for kind in kinds if kind in words)
            raise _refusal(file, source, name, expected, row_checks.describe(value), "correct this line")
    elif not (name.startswith("_") or imported or isinstance(value, types.ModuleType)):
        close = difflib.get_close_matches(name.lower(), FIELDS, n=1, cutoff=0.75)
        if close or name.islower() and not callable(value):
            advice = f"did you mean {close[0]}?" if close else "write a name of your own in capitals or with _ in front"
            raise _refusal(file, source, name, f"a name out of {', '.join(FIELDS)}", name, advice)


def rows(task, split="train", kind=None, on_bad="stop"):
    """Return the Records of "train", "validation", "completions" or "pairs", with the task's system message in front.

    A row with a system message of its own keeps it. kind: "chat" (default), or "completion", which leaves out
    conversations of more than one question; pairs are always preferences.
    """
    file = getattr(task, split)
    if split == "pairs" and file is None:
        raise SettingsError(f"expected a task with pairs, got {task.file}; name their file there", field="task")
    file = file if isinstance(file, Path) else task.train
    kind = "preferences" if split == "pairs" else kind or ("completion" if split == "completions" else "chat")
    read, part = records.read(file, on_bad=on_bad, extra=True), "validation" if split == "validation" else "train"
    shaped = [(_SHAPES[kind](task, row), line) for row, line in zip(read, read.lines, strict=True)
              if file != task.train or _part(task, row) == part]
    shaped = [(row, line) for row, line in shaped if row]
    if not shaped:
        raise DataError(f"expected {kind} rows for {split}, got none; add rows", file=str(file))
    read = copy.copy(read)
    read.kind, read.form = kind, (tuple(shaped[0][0]), kind)
    read.content, read.lines = [json.dumps(row) for row, _ in shaped], array("Q", (line for _, line in shaped))
    return read


def questions(task, split="test"):
    """Return the questions of "test", "validation" or "train": the last answer of a row is right."""
    files = {"test": task.tests, "validation": task.validation}.get(split, task.train)
    files = files if isinstance(files, tuple) else (files if isinstance(files, Path) else task.train,)
    made = []
    for file in files:
        read = records.read(file, extra=True)
        for row, line, extra in zip(read, read.lines, read.extras, strict=True):
            turns = (_chat(task, row) or {}).get("messages")
            if turns and (file != task.train or _part(task, row) == split):
                made.append(Question(turns[:-1], turns[-1]["content"], extra.get("group") or split, extra, (str(file), line)))
    if not made:
        raise DataError(f"expected at least one question for {split}, got none; add rows", file=str(files[0]))
    return made


def _part(task, row):
    """Return the split of a row of train: by a hash of its first question, so that no conversation is in two splits."""
    first = " ".join(("kit", *row_checks.levelled(row_checks.prompts_of(row)[0])))  # not the bare hash: files may be cut by it
    place = int.from_bytes(hashlib.sha256(first.encode()).digest()[:4], "big") / 2**32
    test, validation = (share if isinstance(share, float) else 0 for share in (task.tests, task.validation))
    return "test" if place < test else "validation" if place < test + validation else "train"


def _system(task, turns):
    new = task.system and turns[0]["role"] != "system"
    return [{"role": "system", "content": task.system}, *turns] if new else turns


def _chat(task, row):
    if "text" in row:
        return None
    return {"messages": _system(task, row.get("messages") or [
        {"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}])}


def _completion(task, row):
    turns = [message["content"] for message in row.get("messages", ()) if message["role"] != "system"]
    return row if "messages" not in row else dict(zip(("prompt", "completion"), turns)) if len(turns) == 2 else None


def _preference(task, row):
    if isinstance(row["prompt"], list):
        return row | {"prompt": _system(task, row["prompt"])}
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    row = {name: [{"role": role, "content": row[name]}] for name, role in roles.items()}
    return row | {"prompt": _system(task, row["prompt"])}


_SHAPES = {"chat": _chat, "completion": _completion, "preferences": _preference}


def _checked(task, on_bad):
    """Check a task; return it with `max_new_tokens`: an id is at least one byte, so that no right reply is cut."""
    tests = questions(task)
    held_out = tests + (questions(task, "validation") if isinstance(task.validation, Path) else [])
    if on_bad == "stop":
        for split in ("train", *(name for name in ("completions", "pairs") if getattr(task, name))):
            records.split_leaked(rows(task, split), held_out)
        held_out += questions(task, "train")
    for question in held_out:
        if not accepts(task, question.right, question):
            raise DataError(f"expected a right reply that its own judge accepts, got {question.right!r}; correct this row "
                            f"or the judge in {task.file}", file=question.place[0], line=question.place[1])
    _check_judge(task, tests)
    longest = max(len(question.right.encode()) for question in held_out)
    return task if task.max_new_tokens else replace(task, max_new_tokens=longest + 2)


def accepts(task, reply, question, judge=None):
    """Return whether the judge accepts a reply; a judge that raises becomes one sentence with its line."""
    judge = judge or task.judge
    try:
        return bool(judge(reply, question.right))
    except KitError as error:
        error.file, error.line = question.place
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(task.file)]
        raise DataError(f"expected True or False for the reply {reply!r} where {question.right!r} is right, got "
                        f"{type(error).__name__}: {error}; correct the function", file=str(task.file),
                        line=lines[-1] if lines else None, field=getattr(judge, "__name__", "judge")) from None


def _check_judge(task, tests):
    """Refuse a judge that raises, or accepts an empty reply and the reply of another row every time."""
    verdicts = []
    for at, question in enumerate(tests[:SAMPLE]):
        others = (other.right for other in tests[at:] + tests[:at] if not exact(other.right, question.right))
        for reply in ("", next(others, "?")):
            verdicts.append(accepts(task, reply, question))
            accepts(task, reply, question, task.prefers)
    if all(verdicts):
        raise _refusal(task.file, task.source, "judge", "a judge that refuses the reply of another row",
                       f"one that accepts each of {len(verdicts)}", "correct the judge")
