"""One sentence a failure: where, what was expected, what came, what to do.

A script ends with the error's `exit_code`; a notebook shows its sentence without a stack.
"""

import sys
from typing import NamedTuple

SHOWN = 3  # problems spelled out in one sentence; all of them stay in `.problems`


class KitError(Exception):
    """`str()` is "file:line: field: message" with the parts that are known."""

    exit_code = 2

    def __init__(self, message, *, file=None, line=None, field=None):
        super().__init__(message)
        self.message, self.file, self.line, self.field = message, file, line, field

    def __str__(self):
        return located(self.message, self.file, self.line, self.field)

    def _render_traceback_(self):
        # IPython shows this list in place of the stack.
        return [f"{type(self).__name__}: {self}"]


class DataError(KitError):
    """Bad rows or a bad file. `.problems` lists every Problem of the file."""

    def __init__(self, message, *, file=None, line=None, field=None, problems=()):
        super().__init__(message, file=file, line=line, field=field)
        self.problems = list(problems)


class SettingsError(KitError):
    """A setting has the wrong name, type or value."""


class MissingError(KitError):
    """Something an earlier lesson or command makes is not there; the message names its maker."""


class DivergedError(KitError):
    """Training produced a loss or gradient that is not finite."""

    exit_code = 3


class CheckpointError(KitError):
    """No checkpoint of the run can be verified."""

    exit_code = 4


class Problem(NamedTuple):
    """One defect of one row; `field` is None for a defect of the whole row."""

    file: str
    line: int
    field: str | None
    expected: str
    came: str

    def __str__(self):
        return located(f"expected {self.expected}, came {self.came}", *self[:3])


def located(message, file=None, line=None, field=None) -> str:
    """Put the known parts of a place in front of a message."""
    place = ":".join(str(part) for part in (file, line) if part is not None)
    return ": ".join(str(part) for part in (place, field, message) if part not in ("", None))


def bad_rows(file, problems, rows, what_to_do) -> DataError:
    """One DataError for all problems of a file; its place is that of the first."""
    first, lines = problems[0], len({problem.line for problem in problems})
    rest = [located(f"expected {p.expected}, came {p.came}", None, f"line {p.line}", p.field)
            for p in problems[1:SHOWN]]
    more = len(problems) - 1 - len(rest)
    rest += [f"and {more} more in .problems"] if more else []
    told = "; ".join([f"expected {first.expected}, came {first.came}", *rest])
    count = f"{lines} of {rows} row{'s' * (rows != 1)} {'is' if lines == 1 else 'are'} bad"
    return DataError(f"{told} ({count}); {what_to_do}", file=file, line=first.line,
                     field=first.field, problems=problems)


def refusal(file, expected, came, advice, line=None) -> DataError:
    """The DataError of a file that cannot be read at all."""
    return DataError(f"expected {expected}, came {came}; {advice}", file=file, line=line)


def exit_code(main, *args) -> int:
    """Run a script's main; a KitError becomes one sentence on stderr and its exit code, else 0."""
    try:
        main(*args)
    except KitError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0
