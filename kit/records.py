"""Read and check rows: every row is used verbatim, or reported with file, line and reason. Lesson 02.

Files are JSON Lines, CSV, TSV or Parquet; text files must be UTF-8. Blank lines are no rows. Rows
stay in memory as JSON bytes and are parsed on access: as Python objects they need five times more.
"""

import argparse
import contextlib
import copy
import csv
import hashlib
import json
import os
import sys
from array import array
from pathlib import Path

from kit.engine import row_checks
from kit.engine.row_checks import Duplicate, leakage
from kit.errors import DataError, MissingError, Problem, SettingsError, bad_rows, exits, refusal

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
BINARY = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip or Excel", b"PAR1": "Parquet", b"\xff\xfe": "UTF-16",
          b"\xfe\xff": "UTF-16"}
LISTED = 20  # duplicates and leaks that the command prints; its JSON holds all
MAX_ROW = 16_000_000  # bytes; a longer row takes minutes to encode and is never trained on
ADVICE = 'correct these rows or read with on_bad="skip"'


def find(path) -> Path:
    """Return `path` from here, or else from the project's folder, for notebook and script alike."""
    for folder in (Path(), Path(__file__).parents[1]):
        if (folder / path).exists():
            return Path(os.path.relpath(folder / path))
    raise MissingError("expected a data file, got nothing at this path; correct the path (the "
                       f"working folder is {os.getcwd()})", file=str(path))


@contextlib.contextmanager
def attempt(file, action, advice):
    """Turn an OSError into a sentence: the file, what was tried, why it failed, what to do."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).split("\n")[0]
        raise refusal(str(file), f"to {action} this file", repr(reason), advice) from None


def read(source, kind="auto", *, on_bad="stop", extra=False):
    """Return the Records of a .jsonl, .csv, .tsv or .parquet file or a datasets.Dataset.

    kind: completion (prompt and completion, or text), chat (messages), preferences (prompt,
    chosen, rejected: texts or lists of messages), or auto. A chat cell of a CSV file holds JSON.
    extra: other columns are allowed and are in `Records.extras`; otherwise they are refused.
    Bad rows raise one DataError that lists them all; with on_bad="skip" they are in `.rejected`.
    """
    if kind not in ("auto", *row_checks.FIELDS) or on_bad not in ("stop", "skip"):
        raise SettingsError(f"expected kind {', '.join(row_checks.FIELDS)} or auto and on_bad stop "
                            f"or skip, got {kind!r} and {on_bad!r}; correct the setting")
    rows = scan(source, kind, extra)
    if rows.problems and on_bad == "stop":
        raise bad_rows(rows.file, rows.problems, rows.rows_in, ADVICE)
    return rows.not_empty()


def scan(source, kind, extra=False):
    """Return the Records of a source, where all rows may be bad; refuse what is no source."""
    digest, suffix = hashlib.sha256(), None
    if isinstance(source, (str, os.PathLike)):
        source, suffix = os.fspath(source), os.path.splitext(source)[1].lower()
        if not os.path.exists(source):
            raise MissingError("expected a file, got nothing at this path; correct the path (the "
                               f"working folder is {os.getcwd()})", file=source)
        if not os.path.isfile(source) or suffix not in ENDINGS:
            raise refusal(source, f"a file that ends in {', '.join(ENDINGS)}", repr(suffix)
                          if os.path.isfile(source) else "a folder or device", "convert or rename it")
    elif not isinstance(getattr(source, "num_rows", None), int):
        raise refusal(None, "a path or a datasets.Dataset of one split", type(source).__name__,
                      "pass one split of it")
    reader = {".parquet": arrow_rows, None: arrow_rows, ".csv": csv_rows, ".tsv": csv_rows}
    rows = Records(source if suffix else "Dataset", kind, extra)
    with attempt(rows.file, "read", "check that it is whole and that you may read it"):
        rows.add(reader.get(suffix, json_rows)(source, digest))
    rows.sha256 = digest.hexdigest()
    return rows


class Records:
    """Rows of one kind; `len`, index, slice and iteration work as in a list.

    .kind .file .sha256 (of the content) .lines (of the file; row numbers of a table) .rows_in
    .rejected (one Problem for each rejected row) .problems (all of them) .duplicates (one
    Duplicate for each row that equals an earlier one).
    """

    def __init__(self, file, kind, extra):
        self.file, self.kind, self.extra, self.sha256, self.rows_in = file, kind, extra, None, 0
        self.form = None  # (columns, whether they hold messages): the same in all rows
        self.content, self.lines, self.rejected_bytes = [], array("Q"), {}
        self.rejected, self.problems, self.duplicates = [], [], []

    rows_used = property(lambda self: len(self.content))

    def __len__(self):
        return len(self.content)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self.row(content) for content in self.content[index]]
        return self.row(self.content[index])

    def __iter__(self):
        return map(self.row, self.content)

    def row(self, content):
        columns = json.loads(content)
        return {name: columns[name] for name in self.form[0]}

    @property
    def extras(self) -> list:
        """The other columns of each row, for `extra=True`."""
        rows = map(json.loads, self.content)
        return [{name: row[name] for name in row if name not in self.form[0]} for row in rows]

    def add(self, rows):
        """Sort (line, bytes, JSON, faults) of each row into good rows and rejected ones."""
        exact, similar = {}, {}  # {hash of a row's texts: line of the first such row}
        for line, raw, content, faults in rows:
            self.rows_in += 1
            if faults := faults or size_and_utf8_faults(raw):
                self.note(line, raw, faults)
                continue
            row, faults = row_checks.parse(content)
            if faults := faults or self.faults(row):
                self.note(line, raw, faults)
                continue
            texts = row_checks.texts([row[name] for name in self.form[0]])
            first = exact.setdefault(hash(tuple(texts)), line)
            like = similar.setdefault(hash(row_checks.levelled(texts)), line)
            if like != line:
                same = first != line
                self.duplicates.append(Duplicate(line, first if same else like, same))
            self.content.append(content)
            self.lines.append(line)

    def faults(self, row) -> list:
        """Return the faults of a parsed row; the first good row decides the form of all."""
        if fault := row_checks.column_fault(row, self.kind, self.extra):
            return [fault]
        self.kind, names = row_checks.columns_of(row, self.kind, self.extra)
        if faults := row_checks.faults({name: row[name] for name in names}, self.kind):
            return faults
        form = row_checks.named(names) + " as messages" * isinstance(row.get("prompt"), list)
        self.form = self.form or (names, form)
        if form != self.form[1]:
            return [(None, f"{self.form[1]} as in line {self.lines[0]}", form)]
        return []

    def note(self, line, raw, faults):
        self.problems += [Problem(self.file, line, *fault) for fault in faults]
        self.rejected.append(Problem(self.file, line, *faults[0]))
        self.rejected_bytes[line] = raw

    def reject(self, faults, on_bad="skip", advice=ADVICE):
        """Return Records without the rows of `faults` = {index: (field, expected, got)}.

        on_bad="stop" raises one DataError that names them all; "skip" adds them to `.rejected`.
        """
        rest = copy.copy(self)
        rest.rejected, rest.problems, rest.rejected_bytes = [], [], self.rejected_bytes.copy()
        for i in sorted(faults):
            rest.note(self.lines[i], self.content[i], [faults[i]])
        if faults and on_bad == "stop":
            raise bad_rows(self.file, rest.problems, self.rows_in, advice)
        rest.rejected = sorted(self.rejected + rest.rejected, key=lambda problem: problem.line)
        rest.problems = sorted(self.problems + rest.problems, key=lambda problem: problem.line)
        rest.content = [row for i, row in enumerate(self.content) if i not in faults]
        rest.lines = array("Q", (line for i, line in enumerate(self.lines) if i not in faults))
        lines = set(rest.lines)
        rest.duplicates = [pair for pair in self.duplicates if lines.issuperset(pair[:2])]
        return rest.not_empty()

    def not_empty(self):
        """Return these Records, or raise a DataError; its `.records` can write the rejected rows."""
        if not self.content:
            error = refusal(self.file, "at least one row", "none", "correct the file")
            if self.problems:
                error = bad_rows(self.file, self.problems, self.rows_in, "no good row is left")
            error.records = self
            raise error
        return self

    def write_rejected(self, file, inputs=()):
        """Write one JSON object for each rejected row: file, line, field, expected, got, raw.

        `raw` holds the bytes of the row: `json.loads(line)["raw"].encode(errors="surrogateescape")`.
        """
        rows = (problem._asdict() | {"raw": self.rejected_bytes[problem.line].decode(
            errors="surrogateescape")} for problem in self.rejected)
        write_lines(file, map(json.dumps, rows), [self.file, *inputs])


reject = Records.reject


def write_lines(file, lines, inputs=()):
    """Write lines of text to a temporary file and rename it; never write one of the `inputs`."""
    target = os.path.realpath(file)
    part = f"{target}.{os.getpid()}.part"
    with attempt(file, "write", "choose a folder that exists, has room and is not write-protected"):
        if os.path.exists(target) and not os.path.isfile(target):
            raise refusal(str(file), "a file", "a folder or device", "choose another name")
        if os.path.exists(target) and any(
                os.path.exists(name) and os.path.samefile(name, target) for name in inputs):
            raise refusal(str(file), "a file to write", "a file that is read", "choose another name")
        try:
            with open(part, "w", encoding="utf-8") as out:
                out.writelines(f"{line}\n" for line in lines)
            os.replace(part, target)
        finally:
            Path(part).unlink(missing_ok=True)


def split_too_long(rows, lengths, max_length) -> Records:
    """Return Records without the rows of over `max_length` tokens; print how many rows these are.

    lengths: tokens of each row, the stop token included. A DataError says that no row fits.
    """
    lengths = dict(enumerate(lengths))
    if len(lengths) != len(rows):
        raise SettingsError(f"expected {len(rows)} lengths, got {len(lengths)}; pass one per row")
    long = {i: n for i, n in lengths.items() if n > max_length}
    faults = {i: (None, f"at most {max_length} tokens", f"{n} tokens") for i, n in long.items()}
    span = long and f"{min(long.values())} to {max(long.values())} tokens"
    try:
        rest = rows.reject(faults)
    except DataError as error:
        error.message = (f"expected rows of at most max_length = {max_length} tokens, got {len(long)} "
                         f"rows of {span}; set max_length to {min(long.values())} or more")
        raise
    if long and os.environ.get("RANK", "0") == "0":
        print(f"{rows.file}: {len(long)} of {len(rows)} rows are left out because they are longer "
              f"than max_length = {max_length} ({span}).")
    return rest


def split_leaked(rows, questions, on_bad="stop") -> Records:
    """Return Records without the rows that hold a prompt of `questions`, see row_checks.leakage.

    One DataError lists all rows with such a prompt; with on_bad="skip" they are rejected.
    """
    faults = {i: (None, "no prompt of the test rows", f"{row_checks.describe(leak.prompt)}, equal to "
                  f"test row {leak.test_line}{row_checks.up_to(leak.exact)}")
              for i, leak in leakage(rows, questions).items()}
    return rows.reject(faults, on_bad, 'remove them from one of the files or use on_bad="skip"')


def length_quantiles(lengths, max_length=None) -> dict:
    """Return rows, the length at each twentieth of the rows, and how many rows are too long."""
    ordered, points = sorted(lengths), [step / 20 for step in range(21)]
    quantiles = {at: ordered[round(at * (len(ordered) - 1))] for at in points if ordered}
    return {"rows": len(ordered), "max_length": max_length, "quantiles": quantiles,
            "dropped": sum(max_length is not None and n > max_length for n in ordered)}


def text_lines(file, digest):
    """Yield (line number, bytes) of a UTF-8 file without its byte order mark."""
    with open(file, "rb") as lines:
        start = lines.peek(4)[:4]
        name = next((BINARY[mark] for mark in BINARY if start.startswith(mark)), None)
        if name := name or (b"\0" in start and "UTF-16 or UTF-32"):
            raise refusal(file, "UTF-8 text", name, "unpack it or save it as UTF-8", 1)
        for number, raw in enumerate(lines, 1):
            digest.update(raw)
            yield number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw


def json_rows(file, digest):
    array_possible = True
    for number, raw in text_lines(file, digest):
        if raw.strip():
            if array_possible and raw.lstrip().startswith(b"["):
                raise refusal(file, "one JSON object per line", "a JSON array",
                              "write each of its objects on a line of its own", number)
            array_possible = False
            yield number, raw, raw, None


def csv_rows(file, digest):
    """Yield the records of a CSV file; a record may span lines."""
    csv.field_size_limit(2**31 - 1)  # the module's own limit is 131,072 characters per cell
    record, header = [], None

    def text():
        for line in text_lines(file, digest):
            record.append(line)
            yield line[1].decode(errors="surrogateescape")

    reader = csv.reader(text(), delimiter="\t" if file.lower().endswith("tsv") else ",", strict=True)
    while cells := next_cells(reader, record):
        number, raw = record[0][0], b"".join(line for _, line in record)
        if isinstance(cells, csv.Error) and (header is None or "end of data" in str(cells)):
            raise refusal(file, "closed quotes", str(cells), "close or double each quote", number)
        if header is None:
            header = cells
            continue
        yield number, raw, *csv_content(header, cells, number, raw)


def next_cells(reader, record):
    """Return the cells of the next record that is not blank, its csv.Error, or None at the end."""
    cells = []
    while cells == []:
        record.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            return error
    return cells


def csv_content(header, cells, number, raw):
    """Return (JSON, None) or (None, faults) of the cells of one record."""
    if isinstance(cells, csv.Error):
        place = f" in lines {number} to {number + raw.count(10) - 1}"
        return None, [(None, "quotes that are closed, and doubled inside a cell",
                       str(cells).split(" - ")[0] + place)]
    if len(cells) != len(header):
        return None, [(None, f"{len(header)} columns", f"{len(cells)} columns")]
    row, faults = dict(zip(header, cells)), None
    if len(row) < len(header):
        return None, [(None, "each column once", f"the columns {row_checks.named(header)}")]
    if "messages" in row:
        row["messages"], faults = row_checks.parse(row["messages"].encode(errors="replace"), "messages")
    return json.dumps(row).encode() + b"\n", faults


def arrow_rows(source, digest):
    """Yield the rows of a Parquet file or a datasets.Dataset; their bytes are their JSON."""
    import pyarrow
    from pyarrow import parquet

    try:
        if isinstance(source, str):
            content = Path(source).read_bytes()
            digest.update(content)
            table = parquet.read_table(pyarrow.BufferReader(content))
        else:
            table = source.with_format("arrow")[:]
        row_checks.distinct([(name, None) for name in table.column_names])
        rows = (row for part in table.to_batches(1000) for row in part.to_pylist())
        for line, row in enumerate(rows, 1):
            raw = json.dumps(without_nulls(row), default=str).encode() + b"\n"
            if not isinstance(source, str):
                digest.update(raw)
            yield line, raw, raw, None
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise refusal(source if isinstance(source, str) else "Dataset", "a table of text",
                      str(error).split("\n")[0], "write it again") from None


def without_nulls(value):
    """Return messages without null fields: Arrow adds a field of one message to all."""
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {name: without_nulls(part) for name, part in value.items()
                if part is not None or name in ("role", "content") or "role" not in value}
    return value


def size_and_utf8_faults(raw):
    """Return None, or the fault of a row that is too large or not UTF-8."""
    if len(raw) > MAX_ROW:
        return [(None, f"a row of at most {MAX_ROW / 1e6:.0f} MB", f"{len(raw) / 1e6:.1f} MB")]
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return [(None, "UTF-8", f"the byte 0x{raw[error.start]:02x} at byte {error.start + 1}")]


def summary(rows, leaks):
    """Yield the lines of a report for a reader."""
    yield f"{rows.file}: {rows.kind}, sha256 {rows.sha256[:12]}"
    yield f"rows: {rows.rows_in} in, {len(rows)} used, {len(rows.rejected)} rejected"
    yield from map(str, rows.problems)
    yield f"rows that repeat an earlier row: {len(rows.duplicates)}"
    for pair in rows.duplicates[:LISTED]:
        yield f"  line {pair.line} equals line {pair.first}{row_checks.up_to(pair.exact)}"
    points = characters(rows)["quantiles"] or dict.fromkeys((0.0, 0.5, 0.95, 1.0), 0)
    yield (f"characters per row: shortest {points[0.0]}, median {points[0.5]}, 95% have at most "
           f"{points[0.95]}, longest {points[1.0]}")
    yield f"rows with a prompt of the test rows: {'not checked' if leaks is None else len(leaks)}"
    for leak in (leaks or [])[:LISTED]:
        yield (f"  line {leak.line} equals test line {leak.test_line}{row_checks.up_to(leak.exact)}: "
               f"{leak.prompt[:60]!r}")


def characters(rows):
    return length_quantiles(sum(map(len, row_checks.texts(row))) for row in rows)


def main(argv=None):
    """Check a file of rows without training: `kit check FILE` or `python -m kit.records FILE`."""
    parser = argparse.ArgumentParser("kit check", description="Name every bad row of a file.")
    parser.add_argument("file")
    parser.add_argument("--kind", default="auto", choices=["auto", *row_checks.FIELDS])
    parser.add_argument("--against", metavar="FILE", help="test rows, whose prompts are refused")
    parser.add_argument("--rejected", metavar="FILE", help="write the rejected rows here")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")
    rows, tests = scan(options.file, options.kind), options.against
    if options.rejected:
        rows.write_rejected(options.rejected, [tests] if tests else [])
    tests = tests and read(tests, extra=True)
    leaks = list(leakage(rows, tests).values()) if tests else None
    if options.json:
        print(json.dumps(report(rows, leaks), indent=1))
    else:
        print(*summary(rows, leaks), sep="\n")
    if rows.problems:
        raise bad_rows(rows.file, rows.problems, rows.rows_in, "correct these rows")
    split_leaked(rows.not_empty(), tests or [])


def report(rows, leaks):
    """Return what `summary` says as plain values, with all duplicates and leaks."""
    facts = {name: getattr(rows, name) for name in ("file", "kind", "sha256", "rows_in", "rows_used")}
    lists = {"problems": rows.problems, "duplicates": rows.duplicates, "leakage": leaks or []}
    return facts | {"rows_rejected": len(rows.rejected), "characters": characters(rows)} | {
        name: [item._asdict() for item in items] for name, items in lists.items()}


if __name__ == "__main__":
    with exits():
        main()
