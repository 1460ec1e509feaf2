"""Where rows come from: lines of a text file, or an Arrow table. Every row keeps its place.

A source yields (line, place, row, faults) once and finds a row or its bytes again by its place.
"""

import csv
import hashlib
import json
import os
import sys
import zlib
from contextlib import contextmanager
from itertools import islice

from kit import shapes
from kit.errors import DataError, MissingError

MAX_ROW = 1 << 24  # bytes; a longer "row" is a file without line ends or with an open quote
DELIMITERS = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".ndjson": None, ".json": None}


def open_source(source):
    """A TextFile or Table for a path or a datasets.Dataset."""
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        suffix = os.path.splitext(name)[1].lower()
        if not os.path.exists(name):
            raise MissingError(f"expected a file, came nothing at this path; the working folder is "
                               f"{os.getcwd()}", file=name)
        if os.path.isfile(name) and suffix == ".parquet":
            return Table(name, parquet(name))
        if os.path.isfile(name) and suffix in DELIMITERS:
            return TextFile(name, DELIMITERS[suffix])
        raise DataError(f"expected a file that ends in .parquet, {', '.join(DELIMITERS)}, came "
                        f"{suffix if os.path.isfile(name) else 'a folder or device'}; "
                        "convert or unpack it", file=name)
    if not isinstance(getattr(source, "num_rows", None), int):
        raise DataError(f"expected a path or a datasets.Dataset of one split, came "
                        f"{type(source).__name__}; pass one split of it")
    return Table("Dataset", source.with_format("arrow"))


def refusal(name, expected, came, advice, line=None, field=None):
    """The DataError for a file that cannot be read at all, whatever `on_bad` says."""
    return DataError(f"expected {expected}, came {came}; {advice}", file=name, line=line,
                     field=field)


class RefusedJSON(ValueError):
    """JSON that Python would accept although part of it is lost or no JSON."""


def distinct(pairs):
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RefusedJSON("each field once", f"{shapes.named([twice])} twice")
    return fields


def no_constant(name):
    raise RefusedJSON("JSON values", name)


def parse_json(raw, field=None):
    """(value, None) of one line of bytes, or (None, [fault])."""
    try:
        text = raw.decode()
        return json.loads(text.rstrip("\r\n"), object_pairs_hook=distinct,
                          parse_constant=no_constant), None
    except UnicodeDecodeError as error:
        fault = not_utf8(raw, error)
    except json.JSONDecodeError as error:
        fault = field, "JSON", f"{error.msg.split(' (')[0]} at character {error.pos + 1}"
    except RefusedJSON as error:
        fault = field, *error.args
    except RecursionError:
        fault = field, "a flat JSON object", "JSON nested too deep"
    except ValueError:  # Python refuses integers of over 4,300 digits
        fault = field, "JSON values", "an integer of thousands of digits"
    return None, [fault]


def not_utf8(raw, error):
    return None, "UTF-8 text", f"the byte 0x{raw[error.start]:02x} at byte {error.start + 1}"


@contextmanager
def wide_cells():
    # The csv module's limit of 131,072 characters a cell is global; it is put back.
    before = csv.field_size_limit(MAX_ROW)
    try:
        yield
    finally:
        csv.field_size_limit(before)


class TextFile:
    """JSON Lines, CSV or TSV; a place is (offset, size, crc32) of the row's bytes."""

    def __init__(self, name, delimiter):
        self.name, self.delimiter, self.path = name, delimiter, os.path.abspath(name)
        self.header, self.sha256 = None, None

    def scan(self, kind, limit):
        lines = self.lines()
        rows = self.csv_rows(lines, kind) if self.delimiter else self.json_rows(lines)
        yield from islice(rows, limit)
        for _ in lines:  # the rest counts for sha256 only
            pass

    def lines(self):
        """(line number, offset, bytes) of each line, without a byte order mark."""
        digest, offset, told, size = hashlib.sha256(), 0, 0, os.path.getsize(self.path) or 1
        with open(self.path, "rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(MAX_ROW + 1), b""), 1):
                digest.update(raw)
                if len(raw) > MAX_ROW:
                    raise refusal(self.name, "a row a line", f"a line of over {MAX_ROW} bytes",
                                  "check the line ends and the file's format", number)
                if number == 1:
                    raw, offset = self.without_mark(raw)
                yield number, offset, raw
                offset += len(raw)
                if offset - told > 1 << 23 and sys.stderr.isatty():
                    told = offset
                    print(f"\rreading {self.name}: {100 * offset // size}%", end="",
                          file=sys.stderr, flush=True)
        if told:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        self.sha256 = digest.hexdigest()

    def without_mark(self, raw):
        """(bytes, offset) of the first line after a UTF-8 mark; UTF-16 and UTF-32 are refused."""
        if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in raw[:4]:
            wide = "UTF-32" if b"\0\0" in raw[:4] else "UTF-16"
            raise refusal(self.name, "UTF-8", wide, "save the file as UTF-8", 1)
        mark = 3 if raw.startswith(b"\xef\xbb\xbf") else 0
        return raw[mark:], mark

    def json_rows(self, lines):
        rows = ((number, offset, raw) for number, offset, raw in lines if raw.strip())
        for count, (number, offset, raw) in enumerate(rows):
            if count == 0 and raw.lstrip().startswith(b"["):
                raise refusal(self.name, "one JSON object a line", "a JSON array",
                              "write each of its objects on a line of its own", number)
            yield number, (offset, len(raw), zlib.crc32(raw)), *parse_json(raw)

    def csv_rows(self, lines, kind):
        for number, offset, raw, cells in self.csv_records(lines):
            place = offset, len(raw), zlib.crc32(raw)
            if isinstance(cells, csv.Error):
                spread = f" in lines {number} to {number + raw.count(10) - 1}"
                yield number, place, None, [(None, "cells with quotes closed and doubled inside",
                                             str(cells).split(" - ")[0] + spread)]
                continue
            try:
                raw.decode()
            except UnicodeDecodeError as error:
                if self.header:
                    yield number, place, None, [not_utf8(raw, error)]
                    continue
            if self.header:
                yield number, place, *self.from_cells(cells)
            else:
                self.header = self.checked_header(cells, kind, number)

    def csv_records(self, lines):
        """(line, offset, bytes, cells or csv.Error) of each record; it may span lines."""
        pulled = []

        def text():
            for line in lines:
                pulled.append(line)
                yield line[2].decode(errors="surrogateescape")

        reader = csv.reader(text(), delimiter=self.delimiter, strict=True)
        with wide_cells():
            while True:
                pulled.clear()
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    cells = error
                    if "end of data" in str(error) or "limit" in str(error):
                        raise refusal(self.name, "every quote closed", "one that never closes",
                                      "close it or double it", pulled[0][0]) from None
                if cells:
                    yield *pulled[0][:2], b"".join(raw for _, _, raw in pulled), cells

    def checked_header(self, cells, kind, number):
        fault = shapes.column_fault(cells, kind)
        if fault or len(set(cells)) != len(cells):
            expected = fault[1] if fault else "each column once"
            other = next((d for d in ";\t|," if len(cells) == 1 and d in cells[0]), None)
            hint = f" (delimiter {other!r}?)" if other else ""
            raise refusal(self.name, f"{expected}, delimited by {self.delimiter!r}",
                          f"the columns {shapes.named(cells)}{hint}",
                          "correct the first line", number)
        return cells

    def from_cells(self, cells):
        if len(cells) != len(self.header):
            return None, [(None, f"{len(self.header)} columns", f"{len(cells)} columns")]
        row = dict(zip(self.header, cells))
        if "messages" in row:
            row["messages"], found = parse_json(row["messages"].encode(), "messages")
            return row, found
        return row, None

    def raw(self, offset, size, crc):
        """The bytes of a row, refused if they changed since the file was read."""
        with open(self.path, "rb") as file:
            file.seek(offset)
            raw = file.read(size)
        if zlib.crc32(raw) != crc:
            raise refusal(self.name, "the bytes that were checked", "others",
                          "the file changed: read it again")
        return raw

    def row(self, *place):
        raw = self.raw(*place)
        if self.delimiter is None:
            return parse_json(raw)[0]
        with wide_cells():
            return self.from_cells(next(csv.reader([raw.decode()], delimiter=self.delimiter,
                                                   strict=True)))[0]


def parquet(name):
    """The file as an Arrow table."""
    import pyarrow
    from pyarrow import parquet as reader

    try:
        return reader.read_table(name, partitioning=None)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise refusal(name, "a Parquet file", reason.rstrip("."), "write it again") from None


class Table:
    """A Parquet file or a datasets.Dataset; a place is (row, 0, 0)."""

    def __init__(self, name, table):
        self.name, self.table, self.sha256 = name, table, None

    def part(self, start, count):
        if hasattr(self.table, "slice"):
            return self.table.slice(start, count)
        return self.table[start:start + count]

    def scan(self, kind, limit):
        columns = self.table.column_names
        fault = shapes.column_fault(columns, kind)
        if fault or len(set(columns)) != len(columns):
            raise refusal(self.name, fault[1] if fault else "each column once",
                          f"the columns {shapes.named(columns)}", "rename or remove columns")
        digest = hashlib.sha256()
        for i in range(self.table.num_rows):
            row, found = self.parsed(i)
            digest.update(self.raw(i) + b"\n")
            if limit is None or i < limit:
                yield i + 1, (i, 0, 0), row, found
        self.sha256 = digest.hexdigest()

    def parsed(self, i):
        try:
            return without_nulls(self.part(i, 1).to_pylist()[0]), None
        except (ValueError, OverflowError) as error:
            return None, [(None, "readable text", str(error).splitlines()[0])]

    def row(self, i, *_):
        return self.parsed(i)[0]

    def raw(self, i, *_):
        """The row as JSON; a table has no bytes of its own for a row."""
        return json.dumps(self.parsed(i)[0], default=str).encode()


def without_nulls(row):
    """The row without null fields of its messages: Arrow adds a field of one to all."""
    return {name: [{key: value for key, value in item.items()
                    if value is not None or key in ("role", "content")}
                   if isinstance(item, dict) else item for item in cell]
            if isinstance(cell, list) else cell for name, cell in row.items()}
