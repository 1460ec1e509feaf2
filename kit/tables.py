"""Arrow in and out: rows of a Parquet file or a datasets.Dataset, records as a datasets.Dataset."""

import hashlib
import json

from kit.engine import row_checks
from kit.errors import refusal

BATCH = 1000  # rows decoded together


def parquet(name):
    """The Table of a Parquet file."""
    import pyarrow
    from pyarrow import parquet as reader

    try:
        with open(name, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        table = reader.read_table(name, partitioning=None)
        _ = table.column_names  # raises if a flipped byte left a name that is not UTF-8
        return Table(name, table, sha256)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise refusal(name, "a Parquet file", (str(error) or type(error).__name__).split("\n")[0],
                      "write it again") from None


class Table:
    """A Parquet file or a datasets.Dataset; a place is (row, 0, 0)."""

    def __init__(self, name, table, sha256=None):
        self.name, self.table, self.sha256 = name, table, sha256

    def scan(self, kind, limit, ignore):
        if fault := row_checks.column_fault(self.table.column_names, kind, ignore):
            raise refusal(self.name, *fault[1:], "rename or remove columns")
        digest, count = hashlib.sha256(), self.table.num_rows
        for start in range(0, count, BATCH):
            for i, (row, found) in enumerate(self.batch(start, min(BATCH, count - start)), start):
                if limit is None or i < limit:
                    yield i + 1, (i, 0, 0), row, found
                digest.update(as_json(row))
        self.sha256 = self.sha256 or digest.hexdigest()

    def batch(self, start, count):
        """(row, None) or (None, faults) of each row; one by one if together they cannot be read."""
        sliced = hasattr(self.table, "slice")
        part = self.table.slice(start, count) if sliced else self.table[start:start + count]
        try:
            return [(without_nulls(row), None) for row in part.to_pylist()]
        except (ValueError, OverflowError) as error:
            if count == 1:
                return [(None, [(None, "text", str(error).split("\n")[0])])]
            return [self.batch(i, 1)[0] for i in range(start, start + count)]

    def row(self, i, *_):
        return self.batch(i, 1)[0][0]

    def raw(self, i, *_):
        """The row as JSON; a table has no bytes of its own for a row."""
        return as_json(self.row(i))


def as_json(row):
    return json.dumps(row, default=str).encode() + b"\n"


def without_nulls(row):
    """The row without null fields of its messages: Arrow adds a field of one to all."""
    def kept(item):
        return {name: value for name, value in item.items()
                if value is not None or name in ("role", "content")}

    return {name: [kept(item) if isinstance(item, dict) else item for item in cell]
            if isinstance(cell, list) else cell for name, cell in row.items()}


def to_dataset(records, with_line=False):
    """A datasets.Dataset in memory, without a cache on disk; `with_line` adds a column `line`."""
    import pyarrow
    from datasets import Dataset
    from datasets.table import InMemoryTable

    parts = []
    for start in range(0, len(records), 10_000):
        part = pyarrow.Table.from_pylist(records[start:start + 10_000])
        if with_line:
            part = part.append_column("line", pyarrow.array(records.lines[start:start + 10_000]))
        parts.append(part)
    return Dataset(InMemoryTable(pyarrow.concat_tables(parts)))
