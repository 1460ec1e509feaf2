"""Errors that say where they happened, what was expected, what was found, and how to fix it.

One grammar for all of them: `FILE:LINE: FIELD: expected X, got Y; do Z`. A script ends with the
error's `exit_code`. A notebook shows the sentence without a stack.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

LISTED = 3  # problems spelled out in one sentence; all of them stay in `.problems`


class KitError(Exception):
    """Base of all errors. `str()` is "file:line: field: message" with the parts that are known."""

    exit_code = 2

    def __init__(self, message, *, file=None, line=None, field=None, problems=()):
        super().__init__(message)
        self.message, self.file, self.line, self.field = message, file, line, field
        self.problems = list(problems)

    def __str__(self):
        return located(self.message, self.file, self.line, self.field)

    def _render_traceback_(self):
        # IPython shows this list in place of the stack.
        return [f"{type(self).__name__}: {self}"]


class DataError(KitError):
    """A file or its rows are bad. `.problems` lists every Problem of the file."""


class SettingsError(KitError):
    """A setting has the wrong name, type or value."""


class MissingError(KitError):
    """A result of an earlier lesson or command is missing; the message names what makes it."""


class DivergedError(KitError):
    """Training produced a loss or gradient that is not finite."""

    exit_code = 3


class CheckpointError(KitError):
    """No checkpoint of the run can be verified."""

    exit_code = 4


class Problem(NamedTuple):
    """One defect of one row. `field` is None for a defect of the whole row."""

    file: str
    line: int
    field: str | None
    expected: str
    got: str

    def __str__(self):
        return located(f"expected {self.expected}, got {self.got}", *self[:3])


def located(message, file=None, line=None, field=None) -> str:
    """Return the message with the known parts of its place in front."""
    place = ":".join(str(part) for part in (file, line) if part is not None)
    return ": ".join(str(part) for part in (place, field, message) if part not in ("", None))


def bad_rows(file, problems, rows, advice) -> DataError:
    """Return one DataError for all problems of a file; its place is that of the first problem."""
    first, lines = problems[0], len({problem.line for problem in problems})
    parts = [f"expected {first.expected}, got {first.got}"]
    for problem in problems[1:LISTED]:
        parts.append(str(problem._replace(file=None, line=f"line {problem.line}")))
    more = len(problems) - len(parts)
    parts += [f"and {more} more in .problems"] if more else []
    count = f"{lines} of {rows} row{'s' * (rows != 1)} {'is' if lines == 1 else 'are'} bad"
    return DataError(f"{'; '.join(parts)} ({count}); {advice}", file=file, line=first.line,
                     field=first.field, problems=problems)


def refusal(file, expected, got, advice, line=None) -> DataError:
    """Return the DataError of a file that cannot be read at all."""
    return DataError(f"expected {expected}, got {got}; {advice}", file=file, line=line)


@contextlib.contextmanager
def exits():
    """Around the actions of a script: print a KitError as one sentence and exit with its code.

    `accelerate launch` of several processes itself exits with 1, but its report ends with the
    sentence and the exit code of the first process that failed. An interrupt exits with 130, a
    reader of our output that ended with 141.
    """
    try:
        yield
    except KitError as error:
        sentence = f"{type(error).__name__}: {error}"
        print(sentence, file=sys.stderr)
        if report := os.environ.get("TORCHELASTIC_ERROR_FILE"):
            message = {"message": sentence, "extraInfo": {"timestamp": str(int(time.time()))}}
            Path(report).write_text(json.dumps({"message": message}), encoding="utf-8")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # `kit ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except OSError as error:
        print(f"expected a file that can be read or written, got {error}; correct the path or free "
              "space", file=sys.stderr)
        raise SystemExit(2) from None
