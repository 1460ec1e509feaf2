"""Read and check training rows: every row is used verbatim, or reported with file, line and reason.

`read` goes through a file once. Rows stay where they are; only their places are kept, and a row
whose bytes changed since then is refused. Text files must be UTF-8. Blank lines are no rows.
"""

import argparse
import base64
import copy
import hashlib
import json
import os
import sys
from array import array
from pathlib import Path

from kit.engine import row_checks
from kit.errors import DataError, MissingError, Problem, SettingsError, bad_rows, exit_code, refusal
from kit.reports import length_quantiles, report, summary  # noqa: F401
from kit.engine.row_checks import Duplicate, leakage  # noqa: F401
from kit.sources import open_source
from kit.tables import to_dataset  # noqa: F401

CONTENT = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode


def digest(value) -> bytes:
    return hashlib.blake2b(CONTENT(value).encode(), digest_size=8).digest()


def find(path) -> Path:
    """`path` from here, or else from the project's folder: one value for notebook and script."""
    for folder in (Path(), Path(__file__).parents[1]):
        if (folder / path).exists():
            return Path(os.path.relpath(folder / path))
    raise MissingError("expected a data file, came none; correct the path, or run "
                       "`python data_samples/make.py` if it is one of the course's", file=str(path))


def read(source, kind="auto", *, on_bad="stop", rejected_path=None, limit=None, ignore=(),
         allow_last_user=False):
    """Records of a .jsonl, .csv, .tsv or .parquet file or a datasets.Dataset.

    kind: completion (prompt and completion, or text), chat (messages), preferences (prompt,
    chosen, rejected: texts or lists of messages), or auto. A chat cell of a CSV file holds JSON.
    limit: read at most so many rows. ignore: columns left out of the rows; any other column is
    refused. allow_last_user: a chat may end with a question.
    Bad rows raise one DataError that lists them all; with on_bad="skip" they are left out and
    stand in `.rejected` and, byte for byte, in the file `rejected_path`.
    """
    if kind not in ("auto", *row_checks.FIELDS) or on_bad not in ("stop", "skip"):
        raise SettingsError(f"expected kind {', '.join(row_checks.FIELDS)} or auto and on_bad stop or "
                            f"skip, came {kind!r} and {on_bad!r}")
    opened, ignore = open_source(source), [ignore] if isinstance(ignore, str) else ignore
    records, problems, seen = Records(opened, kind, rejected_path, ignore), [], {}
    for line, place, row, found in opened.scan(kind, limit, ignore):
        records.rows_in += 1
        found = found or records.accept(line, place, row, seen, allow_last_user)
        if found:
            problems += [Problem(opened.name, line, *fault) for fault in found]
            records.rejected.append(Problem(opened.name, line, *found[0]))
            records.rejected_places[line] = place
    records.problems, records.sha256 = problems, opened.sha256
    if problems and on_bad == "stop":
        raise bad_rows(opened.name, problems, records.rows_in,
                       'correct these rows or read with on_bad="skip"')
    return records.checked()


class Records:
    """Rows of one kind, read on access; `len`, index, slice and iteration as in a list.

    .kind .file .sha256 (of the content) .rows_in .rows_used .rejected (one Problem a rejected
    row) .problems (all of them) .duplicates (a Duplicate a row that an earlier one equals).
    """

    def __init__(self, source, kind, rejected_path=None, ignore=()):
        self.source, self.kind, self.rejected_path = source, kind, rejected_path
        self.ignore = frozenset(ignore)
        self.file, self.sha256, self.rows_in, self.form = source.name, None, 0, None
        self.rejected, self.problems, self.duplicates = [], [], []
        self.lines, self.rejected_places = array("Q"), {}
        self.places = array("Q")  # three numbers a row, see kit.sources

    def accept(self, line, place, row, seen, allow_last_user):
        """Keep a good row and return []; otherwise return its faults."""
        if self.ignore and isinstance(row, dict):
            row = {name: value for name, value in row.items() if name not in self.ignore}
        if self.kind == "auto" and isinstance(row, dict):
            self.kind = row_checks.kind_of(row) or "auto"
        if found := row_checks.faults(row, self.kind, allow_last_user):
            return found
        self.form = self.form or row_checks.form_of(row)
        if row_checks.form_of(row) != self.form:
            return [(None, f"{self.form} as in line {self.lines[0]}", row_checks.form_of(row))]
        first, alike = (seen.setdefault(digest(value), line)
                        for value in (row, [row_checks.levelled_row(row)]))
        if alike != line:
            exact = first != line
            self.duplicates.append(Duplicate(line, first if exact else alike, exact))
        self.lines.append(line)
        self.places.extend(place)
        return []

    rows_used = property(lambda self: len(self.lines))

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        row = self.source.row(*self.place(index))
        return {name: row[name] for fields in row_checks.FIELDS[self.kind] for name in fields
                if name in row and name not in self.ignore}

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def place(self, index):
        return self.places[3 * index:3 * index + 3]

    def line(self, index) -> int:
        """Line of the file where row `index` starts; row number (from 1) of Parquet and Dataset."""
        return self.lines[index]

    def reject(self, faults) -> "Records":
        """New Records without the rows of `faults` = {index: (field, expected, came)}."""
        kept = copy.copy(self)
        new = [Problem(self.file, self.lines[i], *faults[i]) for i in faults]
        kept.rejected, kept.problems = (sorted(old + new, key=lambda problem: problem.line)
                                        for old in (self.rejected, self.problems))
        kept.rejected_places = self.rejected_places | {self.lines[i]: self.place(i) for i in faults}
        left = [i for i in range(len(self)) if i not in faults]
        kept.lines = array("Q", (self.lines[i] for i in left))
        kept.places = array("Q", (number for i in left for number in self.place(i)))
        lines = set(kept.lines)
        kept.duplicates = [pair for pair in self.duplicates if lines.issuperset(pair[:2])]
        return kept.checked()

    def checked(self) -> "Records":
        """Write the rejected rows where asked to; refuse to go on with no row at all."""
        if self.rejected_path is not None:
            self.write_rejected(self.rejected_path)
        if not self.lines:
            error = refusal(self.file, "at least one good row", f"{self.rows_in} bad rows"
                            if self.rows_in else "no row", "correct the file")
            error.problems = self.problems
            raise error
        return self

    def write_rejected(self, path):
        """One JSON object a rejected row: file, line, field, expected, came, and its bytes.

        `raw` holds the bytes as text if they are UTF-8, else `raw_base64` holds them.
        """
        with open(path, "w", encoding="utf-8") as out:
            for problem in self.rejected:
                raw = self.source.raw(*self.rejected_places[problem.line])
                try:
                    kept = {"raw": raw.decode()}
                except UnicodeDecodeError:
                    kept = {"raw_base64": base64.b64encode(raw).decode()}
                out.write(json.dumps(problem._asdict() | kept) + "\n")


def read_rejected(path) -> list:
    """(Problem, original bytes) of each row of a file of rejected rows."""
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [(Problem(*(row[name] for name in Problem._fields)),
             row["raw"].encode() if "raw" in row else base64.b64decode(row["raw_base64"]))
            for row in rows]


def split_too_long(records, lengths, max_length) -> Records:
    """Records without the rows of over `max_length` tokens; these are rejections now.

    lengths: tokens of each row (stop token included), or a function of a row.
    """
    counts = [lengths(row) for row in records] if callable(lengths) else list(lengths)
    if len(counts) != len(records):
        raise SettingsError(f"expected {len(records)} lengths, came {len(counts)}; give one a row")
    return records.reject({i: (None, f"at most {max_length} tokens", f"{n} tokens")
                           for i, n in enumerate(counts) if n > max_length})


def split_leaked(records, evaluation, on_bad="stop") -> Records:
    """Records without a prompt of the evaluation rows, which are Records or lists of rows.

    One DataError lists all rows with such a prompt; with on_bad="skip" they are rejections now.
    """
    faults = row_checks.leaked_rows(records, evaluation)
    if faults and on_bad == "stop":
        raise bad_rows(records.file, [Problem(records.file, records.line(i), *fault)
                                      for i, fault in faults.items()], records.rows_in,
                       'take them out of one of the files or read with on_bad="skip"')
    return records.reject(faults)


def main(arguments=None):
    """`python -m kit.records FILE --kind chat`: the report of a file, without training."""
    parser = argparse.ArgumentParser("python -m kit.records", description="Check training rows.")
    parser.add_argument("file")
    parser.add_argument("--kind", default="auto", choices=["auto", *row_checks.FIELDS])
    parser.add_argument("--on-bad", default="stop", choices=["stop", "skip"])
    parser.add_argument("--rejected", metavar="FILE", help="rejected rows go here")
    parser.add_argument("--against", metavar="FILE", help="evaluation rows; a shared prompt fails")
    parser.add_argument("--allow-last-user", action="store_true", help="a chat may end with user")
    parser.add_argument("--ignore", metavar="A,B", default="", help="leave out these columns")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    ignore = given.ignore.split(",")
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        rows = read(given.file, given.kind, on_bad="skip", rejected_path=given.rejected,
                    ignore=ignore, allow_last_user=given.allow_last_user)
    except DataError as error:
        print(*error.problems, sep="\n", end="\n" * bool(error.problems))
        raise
    against = given.against and read(given.against, ignore=ignore, allow_last_user=True)
    told = report(rows, against or None)
    print(json.dumps(told, indent=1) if given.json else "\n".join(summary(told, rows.problems)))
    if rows.problems and given.on_bad == "stop":
        raise bad_rows(given.file, rows.problems, rows.rows_in, "correct these rows or skip them")
    if leaks := told["leakage"]:
        raise refusal(given.file, f"no prompt of {given.against}", f"{len(leaks)} of them",
                      "take them out of one of the files", leaks[0]["train_line"])


if __name__ == "__main__":
    sys.exit(exit_code(main))
