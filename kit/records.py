"""Read and check rows: each is used verbatim, or reported with file, line and reason. Lesson 02.

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
from kit.engine.row_checks import Duplicate
from kit.errors import MissingError, Problem, SettingsError, bad_rows, exits, refusal

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
MARKS = {  # first bytes of files that are no rows of text, whatever their ending says
    b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip or Excel", b"PAR1": "Parquet", b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16", b"[": "a JSON array"}
ADVICE = "correct these rows"
SKIP = ' or use on_bad="skip"'  # helps only where another row is left


def find(path) -> Path:
    """Return `path` from here, or else from the project's folder, for notebook and script alike."""
    course = Path(__file__).parents[1] / path
    if os.path.exists(path) or os.path.exists(course):
        return Path(path) if os.path.exists(path) else Path(os.path.relpath(course))
    advice = f"correct the path (the working folder is {os.getcwd()})"
    raise MissingError(f"expected a data file, got nothing; {advice}", file=str(path))


@contextlib.contextmanager
def attempt(action, file, advice):
    """Turn an OSError into a sentence: the file, what was tried, why it failed, what to do."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).split("\n")[0]
        raise refusal(str(file), f"to {action} this file", repr(reason), advice) from None


def read(source, kind="auto", *, on_bad="stop"):
    """Return the Records of a .jsonl, .csv, .tsv or .parquet file or a datasets.Dataset.

    kind: completion (prompt and completion, or text), chat (messages), preferences (prompt,
    chosen, rejected: texts or lists of messages), or auto. A chat cell of a CSV file holds JSON.
    Other columns are in `Records.extras`; only tools are refused.
    Bad rows raise one DataError that lists them all; with on_bad="skip" they are in `.rejected`.
    """
    if kind not in ("auto", *row_checks.KINDS) or on_bad not in ("stop", "skip"):
        raise SettingsError(f"expected kind {', '.join(row_checks.KINDS)} or auto and on_bad stop "
                            f"or skip, got {kind!r} and {on_bad!r}; correct the setting")
    return scan(source, kind).checked(on_bad)


def scan(source, kind):
    """Return the Records of a source, where all rows may be bad; refuse what is no source."""
    name, reader, digest = "Dataset", arrow_rows, hashlib.sha256()
    if isinstance(source, (str, os.PathLike)):
        name = source = os.fspath(find(source))
        ending = os.path.splitext(name)[1].lower()
        reader = {".parquet": arrow_rows, ".csv": csv_rows, ".tsv": csv_rows}.get(ending, json_rows)
        if not os.path.isfile(name):
            raise refusal(name, "a file", "a folder or device", "correct the path")
        if ending not in ENDINGS:
            raise refusal(name, f"one of {', '.join(ENDINGS)}", ending or "no ending", "convert it")
    elif not isinstance(getattr(source, "num_rows", None), int):
        raise refusal(None, "a path or a datasets.Dataset of one split", type(source).__name__,
                      "pass one split")
    rows = Records(name, kind)
    with attempt("read", name, "check that the file is whole and that you may read it"):
        rows.add(reader(source, digest))
    rows.sha256 = digest.hexdigest()
    return rows


class Records:
    """Rows of one kind; `len`, index, slice and iteration work as in a list.

    .kind .file .sha256 (of the content) .lines (of the file; row numbers of a table) .rows_in
    .problems (each Problem of a rejected row) .duplicates (one Duplicate for each row of the file
    that equals an earlier one).
    """

    def __init__(self, file, kind):
        self.file, self.kind, self.sha256, self.rows_in = file, kind, None, 0
        self.form, self.changes = None, []  # form: (columns, these in words and as messages or not)
        self.others = set()  # names of further columns
        self.content, self.lines = [], array("Q")  # JSON and line of each good row
        self.raw, self.problems, self.duplicates = {}, [], []  # raw: {line: bytes} of all rows

    @property
    def rejected(self):
        """The first Problem of each rejected row."""
        return list({p.line: p for p in self.problems[::-1]}.values())[::-1]

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
        row = {name: columns[name] for name in self.form[0]}
        for change in self.changes:
            row = change(row)
        return row

    @property
    def extras(self):
        """Yield the other columns of each row."""
        for row in map(json.loads, self.content):
            yield {name: row[name] for name in row if name not in self.form[0]}

    def add(self, rows):
        """Sort (line, bytes, JSON, faults) of each row into good rows and rejected ones."""
        exact, similar = {}, {}  # {hash of a row's texts: line of the first such row}
        for line, raw, content, faults in rows:
            self.rows_in += 1
            self.raw[line] = raw
            row, faults = (None, faults) if faults else row_checks.parse(content)
            if faults := faults or self.faults(row):
                self.problems += [Problem(self.file, line, *fault) for fault in faults]
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
        kind, columns, fault = row_checks.form_of(row, self.kind)
        if fault:
            return [fault]
        self.kind, self.others = kind, self.others | row.keys() - {*columns}
        if faults := row_checks.faults({name: row[name] for name in columns}, kind):
            return faults
        form = columns, ", ".join(columns) + " as messages" * isinstance(row.get("prompt"), list)
        self.form = self.form or form
        if form != self.form:
            return [(None, f"{self.form[1]} as in line {self.lines[0]}", form[1])]
        return []

    def reject(self, faults, on_bad="skip", advice=ADVICE):
        """Return Records without the rows of `faults` = {index: (field, expected, got)}.

        on_bad="stop" raises one DataError that names them all; "skip" adds them to `.problems`.
        """
        new = [Problem(self.file, self.lines[i], *faults[i]) for i in sorted(faults)]
        rest = self.only([i for i in range(len(self)) if i not in faults])
        rest.problems = sorted(self.problems + new, key=lambda problem: problem.line)
        return rest.checked(on_bad if new else "skip", advice)

    def mapped(self, kind, change):
        """Return Records of `kind` with change(row) for each row; None leaves out the row."""
        rest = self.only([i for i, row in enumerate(self) if change(row) is not None])
        rest.kind, rest.changes = kind, [*self.changes, change]
        rest.rows_in = len(rest) + len(rest.rejected)
        return rest

    def only(self, used):
        """Return Records with the rows of these indices."""
        rest = copy.copy(self)
        rest.content = [self.content[i] for i in used]
        rest.lines = array("Q", (self.lines[i] for i in used))
        return rest

    def checked(self, on_bad, advice=ADVICE):
        """Return these Records; refuse bad rows if on_bad is "stop", and to go on without any row.

        The `.records` of the DataError can still write the rejected rows.
        """
        if self.content and (on_bad == "skip" or not self.problems):
            return self
        error = refusal(self.file, "at least one row", "none", "correct the file")
        if self.problems:
            advice += SKIP * bool(self.content)
            error = bad_rows(self.file, self.problems, self.rows_in, advice)
        error.records = self
        raise error

    def write_rejected(self, file, inputs=()):
        """Write one JSON object for each rejected row: file, line, field, expected, got, raw.

        `json.loads(line)["raw"].encode(errors="surrogateescape")` are the bytes of the row.
        """
        rows = ({**p._asdict(), "raw": self.raw[p.line].decode(errors="surrogateescape")}
                for p in self.rejected)
        write_lines(file, map(json.dumps, rows), [self.file, *inputs])


def write_lines(file, lines, inputs=()):
    """Write lines of text to a temporary file and rename it; never write one of the `inputs`."""
    target = os.path.realpath(file)
    part = f"{target}.{os.getpid()}.part"
    with attempt("write", file, "choose a folder that exists, has room and may be written"):
        if os.path.exists(target) and (not os.path.isfile(target) or any(
                os.path.samefile(name, target) for name in inputs if os.path.exists(name))):
            raise refusal(str(file), "a file to write", "an input file, a folder or a device",
                          "choose another name")
        try:
            with open(part, "w", encoding="utf-8") as out:
                out.writelines(f"{line}\n" for line in lines)
            os.replace(part, target)
        finally:
            Path(part).unlink(missing_ok=True)


def split_too_long(rows, lengths, max_length) -> Records:
    """Return Records without the rows of over `max_length` tokens; print what is not as expected.

    lengths: tokens of each row, the stop token included. A DataError says that no row fits.
    """
    long, notes = {i: n for i, n in enumerate(lengths) if n > max_length}, []
    if rows.rejected:
        notes.append(f"rejected: {len(rows.rejected)} of {rows.rows_in} rows")
    if rows.duplicates:
        notes.append(f"equal to an earlier row: {len(rows.duplicates)} ({rows.duplicates[0]})")
    if long:
        shortest, longest = min(long.values()), max(long.values())
        notes.append(f"left out as longer than max_length = {max_length}: {len(long)} of "
                     f"{len(rows)} rows ({shortest} to {longest} tokens)")
        limit = f"at most max_length = {max_length} tokens"
        faults = {i: (None, limit, f"{n} tokens") for i, n in long.items()}
        rows = rows.reject(faults, advice=f"set max_length to {shortest} or more")
    if notes and os.environ.get("RANK", "0") == "0":
        print(f"{rows.file}: {'; '.join(notes)}.")
    return rows


def split_leaked(rows, questions, on_bad="stop") -> Records:
    """Return Records without the rows that hold a prompt of `questions`, see row_checks.leakage.

    One DataError lists all rows with such a prompt; with on_bad="skip" they are rejected.
    """
    return rows.reject(row_checks.leakage(rows, questions), on_bad,
                       "remove them from one of the files")


def text_lines(file, digest):
    """Yield (line number, bytes) of a UTF-8 file without its byte order mark."""
    with open(file, "rb") as lines:
        start = lines.peek(1)[:100].lstrip()
        name = next((MARKS[mark] for mark in MARKS if start.startswith(mark)), None)
        if name := name or (b"\0" in start[:4] and "UTF-16 or UTF-32"):
            raise refusal(file, "UTF-8 text with one row per line", name, "convert the file", 1)
        for number, raw in enumerate(lines, 1):
            digest.update(raw)
            yield number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw


def json_rows(file, digest):
    """Yield (line, bytes, JSON, None) of each line of a file that is not blank."""
    return ((n, raw, raw, None) for n, raw in text_lines(file, digest) if raw.strip())


def csv_rows(file, digest):
    """Yield (line, bytes, JSON, faults) of each record of a CSV file; a record may span lines."""
    csv.field_size_limit(2**31 - 1)  # the module's own limit is 131,072 characters per cell
    lines, header = [raw for _, raw in text_lines(file, digest)], None
    texts = (raw.decode(errors="surrogateescape") for raw in lines)
    reader = csv.reader(texts, delimiter=",\t"[file.lower().endswith(".tsv")], strict=True)
    while (start := reader.line_num) < len(lines):
        try:
            cells, faults = next(reader), None
        except csv.Error as error:
            fault = "quotes that are closed, and doubled in a cell", str(error)
            if header is None or "end of data" in str(error):
                raise refusal(file, *fault, "correct this quote", start + 1) from None
            cells, faults = None, [(None, *fault)]
        if header and cells and len(cells) != len(header):
            faults = [(None, f"{len(header)} columns", f"{len(cells)} columns")]
        if header and cells != []:
            raw = b"".join(lines[start : reader.line_num])
            yield start + 1, raw, as_json(header, cells or []), faults
        header = header or cells


def as_json(header, cells):
    """Return the JSON of a CSV record; a cell of messages is JSON already."""
    cells = [cell if name == "messages" else json.dumps(cell, ensure_ascii=False)
             for name, cell in zip(header, cells)]
    pairs = (f"{json.dumps(name)}: {cell}" for name, cell in zip(header, cells))
    return f"{{{', '.join(pairs)}}}\n".encode(errors="surrogateescape")


def arrow_rows(source, digest):
    """Yield (line, bytes, JSON, None) of the rows of a Parquet file or a datasets.Dataset."""
    import pyarrow
    from pyarrow import parquet

    try:
        if isinstance(source, str):
            content = Path(source).read_bytes()
            digest.update(content)
            table, digest = parquet.read_table(pyarrow.BufferReader(content)), hashlib.sha256()
        else:
            table = source.with_format("arrow")[:]
        rows = (row for part in table.to_batches(1000) for row in part.to_pylist())
        for line, row in enumerate(rows, 1):
            text = json.dumps(row, default=lambda value: {type(value).__name__: str(value)})
            row = json.loads(text, object_hook=without_nulls)
            content = json.dumps(row).encode() + b"\n"
            digest.update(content)
            yield line, content, content, None
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        file, reason = source if isinstance(source, str) else None, str(error).split("\n")[0]
        raise refusal(file, "a table of text", reason, "write it again") from None


def without_nulls(item):
    """Return a message without null fields: Arrow adds a field of one message to all."""
    return {name: item[name] for name in item if "role" not in item or item[name] is not None}


def main(argv=None):
    """Check a file of rows without training: `kit check FILE` or `python -m kit.records FILE`."""
    parser = argparse.ArgumentParser("kit check", description="Name every bad row of a file.")
    parser.add_argument("file")
    parser.add_argument("--kind", default="auto", choices=["auto", *row_checks.KINDS])
    parser.add_argument("--against", metavar="FILE", help="test rows, whose prompts are refused")
    parser.add_argument("--rejected", metavar="FILE", help="write the rejected rows here")
    options = parser.parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")
    rows = scan(options.file, options.kind)
    if options.rejected:
        rows.write_rejected(options.rejected, [options.against or rows.file])
    tests = read(options.against) if options.against else []
    leaks = [Problem(rows.file, rows.lines[i], *fault)
             for i, fault in row_checks.leakage(rows, tests).items()]
    print(f"{rows.file}: {rows.kind}, {rows.rows_in} rows, {len(rows)} used, "
          f"{len(rows.rejected)} rejected, {len(rows.duplicates)} equal to an earlier row, "
          f"{len(leaks)} with a prompt of the test rows")
    if rows.others:
        print(f"columns that are not trained: {', '.join(sorted(map(repr, rows.others)))}")
    print(*rows.problems, *rows.duplicates, *leaks, sep="\n")
    split_leaked(rows.checked("stop"), tests)


if __name__ == "__main__":
    with exits():
        main()
