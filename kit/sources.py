"""Lines of a text file as rows: JSON Lines, CSV and TSV. Every row keeps its place.

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

from kit import tables
from kit.engine import row_checks
from kit.errors import MissingError, refusal

STRIDE = 1 << 23  # bytes between two lines of progress
MAX_ROW = 1 << 24  # bytes; a longer "row" is a file without line ends or with an open quote
DELIMITERS = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".ndjson": None, ".json": None}


def open_source(source):
    """The TextFile or Table of a path or a datasets.Dataset."""
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        suffix = os.path.splitext(name)[1].lower()
        if not os.access(name, os.R_OK):
            raise MissingError("expected a readable file, came nothing at this path; the working "
                               f"folder is {os.getcwd()}", file=name)
        if os.path.isfile(name) and suffix == ".parquet":
            return tables.parquet(name)
        if os.path.isfile(name) and suffix in DELIMITERS:
            return TextFile(name, DELIMITERS[suffix])
        raise refusal(name, f"a file that ends in .parquet, {', '.join(DELIMITERS)}",
                      suffix if os.path.isfile(name) else "a folder or device", "convert it")
    if not isinstance(getattr(source, "num_rows", None), int):
        raise refusal(None, "a path or a datasets.Dataset of one split", type(source).__name__,
                      "pass one split of it")
    return tables.Table("Dataset", source.with_format("arrow"))


class RefusedJSON(ValueError):
    """What Python's reader accepts although it loses a field or is no JSON."""


def distinct(pairs):
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RefusedJSON("each field once", f"{row_checks.named([twice])} twice")
    return fields


def no_constant(name):
    raise RefusedJSON("JSON values", name)


def parse_json(raw, field=None):
    """(value, None) of one line of bytes, or (None, [fault])."""
    try:
        text = raw.decode()
        return json.loads(text.rstrip("\r\n"), object_pairs_hook=distinct,
                          parse_constant=no_constant), None
    except UnicodeDecodeError:
        return None, not_utf8(raw)
    except json.JSONDecodeError as error:
        fault = field, "JSON", f"{error.msg.split(' (')[0]} at character {error.pos + 1}"
    except RefusedJSON as error:
        fault = field, *error.args
    except RecursionError:
        fault = field, "a flat JSON object", "JSON nested too deep"
    except ValueError:  # Python refuses integers of over 4,300 digits
        fault = field, "JSON values", "an integer of thousands of digits"
    return None, [fault]


def not_utf8(raw):
    """None, or the fault of the first byte that is not UTF-8."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return [(None, "UTF-8", f"the byte 0x{raw[error.start]:02x} at byte {error.start + 1}")]


def watched(size) -> bool:
    """Whether to show progress: on a terminal, and in a notebook for files that take seconds to read."""
    return sys.stderr.isatty() or ("ipykernel" in sys.modules and size > 4 * STRIDE)


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

    def scan(self, kind, limit, ignore):
        lines = self.lines()
        rows = self.csv_rows(lines, kind, ignore) if self.delimiter else self.json_rows(lines)
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
                if offset - told > STRIDE and watched(size):
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

    def csv_rows(self, lines, kind, ignore):
        for number, offset, raw, cells in self.csv_records(lines):
            row, found = None, not_utf8(raw)
            if self.header is None:
                self.header = self.checked_header(cells, kind, number, ignore)
                continue
            if isinstance(cells, csv.Error):
                spread = f" in lines {number} to {number + raw.count(10) - 1}"
                found = found or [(None, "quotes that are closed, and doubled inside a cell",
                                   str(cells).split(" - ")[0] + spread)]
            elif not found:
                row, found = self.from_cells(cells)
            yield number, (offset, len(raw), zlib.crc32(raw)), row, found

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

    def checked_header(self, cells, kind, number, ignore):
        cells = [str(cells)] if isinstance(cells, csv.Error) else cells
        if fault := row_checks.column_fault(cells, kind, ignore):
            other = next((d for d in ";\t|," if len(cells) == 1 and d in cells[0]), None)
            hint = f" (delimiter {other!r}?)" if other else ""
            raise refusal(self.name, f"{fault[1]}, delimited by {self.delimiter!r}",
                          fault[2] + hint, "correct the first line", number)
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
        try:
            with open(self.path, "rb") as file:
                file.seek(offset)
                raw = file.read(size)
        except OSError:
            raw = b""
        if len(raw) != size or zlib.crc32(raw) != crc:
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
