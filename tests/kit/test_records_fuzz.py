"""Whatever the bytes, reading ends in success or a KitError, and no row is lost or changed."""

import csv
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit import records
from kit.engine.row_checks import level
from kit.errors import KitError

FUZZ = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=120,
    suppress_health_check=list(HealthCheck),
)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
MESSAGES = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3).map(
    lambda turns: [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn)
    ]
)
ROWS = st.one_of(
    st.lists(st.fixed_dictionaries({"prompt": WORDS, "completion": WORDS}), min_size=1, max_size=4),
    st.lists(st.fixed_dictionaries({"messages": MESSAGES}), min_size=1, max_size=4),
    st.lists(
        st.fixed_dictionaries({"prompt": WORDS, "chosen": WORDS, "rejected": WORDS}).filter(
            lambda row: level(row["chosen"]) != level(row["rejected"])
        ),
        min_size=1,
        max_size=4,
    ),
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "prompt",
                    "completion",
                    "messages",
                    "role",
                    "content",
                    "chosen",
                    "rejected",
                    "user",
                    "tools",
                ]
            )
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
PIECES = st.sampled_from(
    [
        b"\n",
        b"\r",
        b'"',
        b",",
        b"{",
        b"}",
        b"[",
        b"\\",
        b"\xff",
        b"\0",
        b"\\ud800",
        b"\xef\xbb\xbf",
        b"NaN",
        b"null",
        b'"role"',
        b"messages",
        b"\xc3",
        b" ",
    ]
)


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows):
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(
        {
            name: json.dumps(value) if isinstance(value, list) else value
            for name, value in row.items()
        }
        for row in rows
    )
    return out.getvalue().encode()


def as_parquet(rows):
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


WRITERS = {"a.jsonl": jsonl, "a.csv": as_csv, "a.parquet": as_parquet}


def outcome(name, content):
    """The rows, or None after a KitError; what was read and rejected must add up."""
    with tempfile.TemporaryDirectory() as folder:
        file, rejected = Path(folder, name), Path(folder, "rejected.jsonl")
        file.write_bytes(content)
        strict = rows = None
        try:
            strict = list(records.read(file))
        except KitError as error:
            assert str(error).isprintable() or "\n" not in str(error)
        try:
            rows = records.read(file, on_bad="skip")
        except KitError:
            assert strict is None
            return None
        assert rows.rows_in == len(rows) + len(rows.rejected)
        assert len(set(rows.lines) | {p.line for p in rows.rejected}) == rows.rows_in
        assert (strict is None) == bool(rows.rejected) and strict in (None, list(rows))
        rows.write_rejected(rejected)
        lines = [json.loads(line) for line in rejected.read_text().splitlines()]
        assert [line["line"] for line in lines] == [problem.line for problem in rows.rejected]
        if name == "a.jsonl":
            content = content.removeprefix(b"\xef\xbb\xbf")
            assert rows.raw == {
                number: line for number, line in enumerate(io.BytesIO(content), 1) if line.strip()
            }
        if name == "a.csv":
            assert all(line["raw"].encode(errors="surrogateescape") in content for line in lines)
        return list(rows)


@FUZZ
@given(rows=ROWS)
@pytest.mark.parametrize("name", WRITERS)
def test_valid_rows_come_back_verbatim(name, rows):
    assert outcome(name, WRITERS[name](rows)) == rows


@FUZZ
@given(content=st.binary(max_size=300) | st.lists(PIECES | st.binary(max_size=8)).map(b"".join))
@pytest.mark.parametrize("name", WRITERS)
def test_random_bytes(name, content):
    outcome(name, content)


@FUZZ
@given(content=st.lists(PIECES | st.binary(max_size=4)).map(b"".join))
@pytest.mark.parametrize(
    "name, start",
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": "'),
        ("a.csv", b"prompt,completion\na,b\n"),
        ("a.csv", b"messages\n"),
        ("a.csv", b"text\n"),
    ],
)
def test_random_bytes_behind_a_good_start(name, start, content):
    outcome(name, start + content)


@settings(FUZZ, max_examples=80)
@given(value=ANYTHING, good=ROWS)
def test_any_json_value_as_a_row_beside_good_ones(value, good):
    line = json.dumps(value).encode() + b"\n"
    rows = outcome("a.jsonl", jsonl(good) + line)
    assert rows is not None and rows[: len(good)] == good


@FUZZ
@given(
    rows=ROWS,
    edits=st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 3), PIECES), min_size=1, max_size=4
    ),
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_mutated_text_files(name, rows, edits):
    outcome(name, edited(WRITERS[name](rows), edits))


def edited(content, edits):
    for at, dropped, piece in edits:
        at %= len(content) + 1
        content = content[:at] + piece + content[at + dropped :]
    return content


PARQUET = as_parquet([{"prompt": "a" * n, "completion": "b"} for n in range(1, 9)])


@settings(FUZZ, max_examples=60)
@given(cut=st.integers(0, len(PARQUET)))
def test_truncated_parquet(cut):
    outcome("a.parquet", PARQUET[:cut])


@settings(FUZZ, max_examples=120)
@given(at=st.integers(0, len(PARQUET) - 1), flip=st.integers(1, 255))
def test_parquet_with_a_flipped_byte(at, flip):
    outcome("a.parquet", PARQUET[:at] + bytes([PARQUET[at] ^ flip]) + PARQUET[at + 1 :])
