"""Rows are used verbatim or reported: file, line, field, what was expected, what was got."""

import csv
import gzip
import hashlib
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kit import records
from kit.engine import row_checks
from kit.errors import DataError, MissingError, Problem, SettingsError

ROOT = Path(records.__file__).parents[1]
GOOD = {
    "completion": {"prompt": "every day at 8", "completion": "0 8 * * *"},
    "chat": {
        "messages": [
            {"role": "user", "content": "at noon"},
            {"role": "assistant", "content": "0 12 * * *"},
        ]
    },
    "preferences": {"prompt": "at noon", "chosen": "0 12 * * *", "rejected": "12 0 * * *"},
}


def write(path, rows):
    lines = [
        row
        if isinstance(row, bytes)
        else (row if isinstance(row, str) else json.dumps(row)).encode("utf-8", "surrogatepass")
        + b"\n"
        for row in rows
    ]
    path.write_bytes(b"".join(lines))
    return path


def rejected(file):
    """(Problem, original bytes) of each line of a file of rejected rows."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [
        (
            Problem(*(row[name] for name in Problem._fields)),
            row["raw"].encode(errors="surrogateescape"),
        )
        for row in rows
    ]


def said(error, file):
    return str(error).replace(str(file), file.name)


def stopped(file, *args, **options):
    with pytest.raises(DataError) as caught:
        records.read(file, *args, **options)
    return caught.value


def faults(tmp_path, kind, row, **options):
    """[(field, expected, got)] of one row beside a good one; the good one must be used."""
    file = write(tmp_path / "rows.jsonl", [GOOD[kind], row])
    found = records.read(file, kind, on_bad="skip", **options)
    assert (found.rows_in, len(found), len(found.rejected)) == (2, 1, 1)
    assert list(found) == [GOOD[kind]] and {p.line for p in found.problems} == {2}
    return [(p.field, p.expected, p.got) for p in found.problems]


def chat(*turns):
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


# Kinds and files


@pytest.mark.parametrize("kind", GOOD)
def test_each_kind_is_read_back_and_found_by_auto(tmp_path, kind):
    file = write(tmp_path / "rows.jsonl", [GOOD[kind]] * 3)
    for asked in (kind, "auto"):
        rows = records.read(file, asked)
        assert (rows.kind, len(rows), rows[0], rows[-1], rows[1:]) == (
            kind,
            3,
            GOOD[kind],
            GOOD[kind],
            [GOOD[kind]] * 2,
        )
    with pytest.raises(IndexError):
        rows[3]


def test_text_alone_and_preferences_as_messages(tmp_path):
    text = {"text": "plain"}
    pair = {
        "prompt": chat(("system", "s"), ("user", "u"))["messages"],
        "chosen": chat(("assistant", "a"))["messages"],
        "rejected": chat(("assistant", "b"))["messages"],
    }
    for kind, row in (("completion", text), ("preferences", pair)):
        assert list(records.read(write(tmp_path / "a.jsonl", [row]))) == [row]
        assert records.read(tmp_path / "a.jsonl").kind == kind


def test_lines_hash_and_counts(tmp_path):
    file = write(tmp_path / "a.jsonl", ["", GOOD["chat"], "  \t", GOOD["chat"]])
    rows = records.read(file, "chat")
    assert list(rows.lines) == [2, 4]
    assert rows.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (rows.rows_in, len(rows), rows.rejected, rows.file) == (2, 2, [], str(file))


def test_the_last_line_needs_no_line_end(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "a"}\n{"text": "b"}')
    assert list(records.read(file)) == [{"text": "a"}, {"text": "b"}]


def test_the_same_rows_from_every_format(tmp_path):
    import datasets
    import pyarrow
    from pyarrow import parquet

    want = [
        {"prompt": text, "completion": answer}
        for text, answer in (
            ("NA", "null"),
            ("007", "2024-01-01"),
            (" a ", "1e5"),
            ('q"uo,te', "two\r\nlines"),
            ("nan", "True"),
            ("späť\u2028", "\ufeff日"),
        )
    ]
    write(tmp_path / "a.jsonl", want)
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, ["prompt", "completion"])
        writer.writeheader()
        writer.writerows(want)
    with open(tmp_path / "a.tsv", "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, ["prompt", "completion"], delimiter="\t")
        writer.writeheader()
        writer.writerows(want)
    parquet.write_table(pyarrow.Table.from_pylist(want), tmp_path / "a.parquet")
    sources = [tmp_path / f"a.{end}" for end in ("jsonl", "csv", "tsv", "parquet")]
    for source in [*sources, datasets.Dataset.from_list(want)]:
        rows = records.read(source, "completion")
        assert list(rows) == want, source
        assert rows[3] == want[3]
    assert list(records.read(tmp_path / "a.csv").lines) == [2, 3, 4, 5, 7, 8]
    assert list(records.read(tmp_path / "a.parquet").lines)[::5] == [1, 6]
    file = tmp_path / "a.parquet"
    assert records.read(file).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_chat_cell_of_a_csv_file_is_json(tmp_path):
    file = tmp_path / "a.csv"
    with open(file, "w", newline="") as out:
        csv.writer(out).writerows([["messages"], [json.dumps(GOOD["chat"]["messages"])], ["hello"]])
    error = stopped(file, "chat")
    assert said(error, file) == (
        "a.csv:3: expected JSON, got Expecting value at character 14 (1 of 2 rows is "
        'bad); correct these rows or use on_bad="skip"'
    )
    assert list(records.read(file, on_bad="skip")) == [GOOD["chat"]]


def test_dataset_views_and_null_fields_of_messages():
    import datasets

    mixed = [GOOD["chat"], chat(("user", "u"), ("assistant", "a"))]
    mixed[0]["messages"][0] = mixed[0]["messages"][0] | {"name": None}
    rows = records.read(datasets.Dataset.from_list(mixed).select([1, 0, 1]), "chat")
    plain = chat(("user", "at noon"), ("assistant", "0 12 * * *"))
    assert list(rows) == [mixed[1], plain, mixed[1]]
    assert rows.file == "Dataset" and rows.duplicates == [(3, 1, True)]
    del mixed[0]["messages"][0]["name"]


def test_other_columns_stay_beside_the_rows(tmp_path):
    import datasets

    row = {"id": "7"} | GOOD["completion"] | {"group": "g"}
    write(tmp_path / "a.jsonl", [row])
    (tmp_path / "a.csv").write_text("id,prompt,group,completion\n7,every day at 8,g,0 8 * * *\n")
    for source in (tmp_path / "a.jsonl", tmp_path / "a.csv", datasets.Dataset.from_list([row])):
        rows = records.read(source)
        assert list(rows) == [GOOD["completion"]]
        assert list(rows.extras) == [{"id": "7", "group": "g"}]
    tools = write(tmp_path / "b.jsonl", [GOOD["chat"] | {"tools": []}])
    assert "tool calls are not supported" in str(stopped(tools))


def test_what_is_no_single_dataset_is_refused():
    import datasets

    split = datasets.DatasetDict({"train": datasets.Dataset.from_list([GOOD["chat"]])})
    assert str(stopped(split)) == (
        "expected a path or a datasets.Dataset of one split, got DatasetDict; pass one split"
    )


def test_paths_and_settings_are_checked(tmp_path):
    with pytest.raises(MissingError, match="expected a data file, got nothing"):
        records.read(tmp_path / "a.jsonl")
    (tmp_path / "a.gz").write_bytes(b"x")
    error = stopped(tmp_path / "a.gz")
    assert said(error, tmp_path / "a.gz") == (
        "a.gz: expected one of .jsonl, .ndjson, .json, .csv, .tsv, .parquet, got .gz; convert it"
    )
    assert "expected a file, got a folder or device" in str(stopped(tmp_path))
    for options in ({"kind": "sft"}, {"on_bad": "ignore"}):
        with pytest.raises(SettingsError):
            records.read(tmp_path / "a.gz", **options)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_an_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert said(stopped(tmp_path / name), tmp_path / name) == (
        f"{name}: expected at least one row, got none; correct the file"
    )


def test_a_file_of_bad_rows_only_is_refused_even_with_skip(tmp_path):
    file = write(tmp_path / "a.jsonl", ["x", "y"])
    error = stopped(file, "chat", on_bad="skip")
    assert said(error, file) == (
        "a.jsonl:1: expected JSON, got Expecting value at character 1; line 2: expected JSON, got "
        "Expecting value at character 1 (2 of 2 rows are bad); correct these rows"
    )
    assert len(error.problems) == 2


# Every problem in one report


def test_all_problems_of_a_file_in_one_error(tmp_path):
    rows = [
        GOOD["completion"],
        {"prompt": "", "completion": 7},
        "{",
        {"question": "a", "answer": "b"},
        GOOD["completion"],
        "null",
    ]
    file = write(tmp_path / "a.jsonl", rows)
    error = stopped(file, "completion")
    name = str(file)
    assert error.problems == [
        Problem(name, 2, "prompt", "text that is not empty", "''"),
        Problem(name, 2, "completion", "text", "7"),
        Problem(
            name,
            3,
            None,
            "JSON",
            "Expecting property name enclosed in double quotes at character 2",
        ),
        Problem(
            name, 4, None, "the columns prompt, completion or text", "the columns question, answer"
        ),
        Problem(name, 6, None, "an object", "None"),
    ]
    assert said(error, file) == (
        "a.jsonl:2: prompt: expected text that is not empty, got ''; line 2: completion: expected "
        "text, got 7; line 3: expected JSON, got Expecting property name enclosed in "
        "double quotes at character 2; and 2 more in .problems (4 of 6 rows are bad); correct "
        'these rows or use on_bad="skip"'
    )
    assert (error.file, error.line, error.field, error.exit_code) == (name, 2, "prompt", 2)


def test_skip_uses_the_good_rows_alone_and_keeps_the_others_byte_for_byte(tmp_path):
    bad = [
        b'{"text": "caf\xe9"}\r\n',
        '{"text": "späť\u2028"  , "text": "b"}\n'.encode(),
        b"\xff\x00\x01\n",
        b'{"text": "cut',
    ]
    good = [b'{"text": "a"}\n', b'{"text": "b"}\r\n']
    file = write(tmp_path / "a.jsonl", [good[0], bad[0], bad[1], good[1], bad[2], bad[3]])
    alone = write(tmp_path / "alone.jsonl", good)
    rows = records.read(file, on_bad="skip")
    rows.write_rejected(tmp_path / "rejected.jsonl")
    assert list(rows) == list(records.read(alone)) == [{"text": "a"}, {"text": "b"}]
    assert rows.rows_in == len(rows) + len(rows.rejected) == 6
    kept = rejected(tmp_path / "rejected.jsonl")
    assert [raw for _, raw in kept] == bad
    assert [problem for problem, _ in kept] == rows.rejected
    assert [(p.line, p.expected, p.got) for p in rows.rejected] == [
        (2, "UTF-8", 'the byte 0xe9 after \'{"text": "caf\''),
        (3, "JSON", "the field text twice"),
        (5, "UTF-8", "the byte 0xff after ''"),
        (6, "JSON", "Unterminated string starting at at character 10"),
    ]
    lines = (tmp_path / "rejected.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])) == {"file", "line", "field", "expected", "got", "raw"}
    assert json.loads(lines[1])["raw"] == bad[1].decode()


def test_a_rejected_csv_record_keeps_its_lines(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(
        b'prompt,completion\r\n"a\r\nb",\r\nc,d\r\ne,"f"g\r\nh,i,j\r\nk\r\n\r\nl,\xe9\r\n'
    )
    rows = records.read(file, on_bad="skip")
    rows.write_rejected(tmp_path / "r.jsonl")
    assert list(rows) == [{"prompt": "c", "completion": "d"}]
    assert [
        (p.line, p.field, p.expected, p.got, raw) for p, raw in rejected(tmp_path / "r.jsonl")
    ] == [
        (2, "completion", "text that is not empty", "''", b'"a\r\nb",\r\n'),
        (
            5,
            None,
            "quotes that are closed, and doubled in a cell",
            "',' expected after '\"'",
            b'e,"f"g\r\n',
        ),
        (6, None, "2 columns", "3 columns", b"h,i,j\r\n"),
        (7, None, "2 columns", "1 columns", b"k\r\n"),
        (9, None, "UTF-8", 'the byte 0xe9 after \'"l", "completion": "\'', b"l,\xe9\r\n"),
    ]


def test_rejected_rows_of_a_parquet_file_are_json(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["a", None, "b"]}), tmp_path / "a.parquet")
    rows = records.read(tmp_path / "a.parquet", on_bad="skip")
    rows.write_rejected(tmp_path / "r.jsonl")
    ((problem, raw),) = rejected(tmp_path / "r.jsonl")
    assert (problem[1:], raw) == ((2, "text", "text", "None"), b'{"text": null}\n')
    assert list(rows.lines) == [1, 3]


def test_other_types_and_bad_utf8_of_a_parquet_file(tmp_path):
    import pyarrow
    from pyarrow import parquet

    bad = pyarrow.array([b"ok", b"caf\xe9", b"also"]).view(pyarrow.string())
    parquet.write_table(
        pyarrow.table({"prompt": bad, "completion": ["x", "y", "z"]}), tmp_path / "a.parquet"
    )
    assert "expected a table of text, got 'utf-8' codec can't decode byte 0xe9" in str(
        stopped(tmp_path / "a.parquet")
    )
    parquet.write_table(
        pyarrow.table({"text": pyarrow.array([1], pyarrow.timestamp("ns"))}), tmp_path / "b.parquet"
    )
    assert stopped(tmp_path / "b.parquet").problems[0].expected == "text"
    (tmp_path / "c.parquet").write_bytes(b"PAR1 no")
    assert "expected a table of text, got Could not open" in str(stopped(tmp_path / "c.parquet"))


# Rows


@pytest.mark.parametrize(
    "kind, row, want",
    [
        (
            "preferences",
            {"question": "a", "chosen": "b", "rejected": "c"},
            [
                (
                    None,
                    "the columns prompt, chosen, rejected",
                    "the columns question, chosen, rejected",
                )
            ],
        ),
        (
            "preferences",
            {"prompt": "a", "chosen": "b", "rejected": "b"},
            [
                (
                    "rejected",
                    "an answer that differs from chosen",
                    "the same answer (up to white space at its end and Unicode form)",
                )
            ],
        ),
        (
            "preferences",
            {
                "prompt": chat(("user", "u"))["messages"],
                "chosen": chat(("assistant", "a"))["messages"],
                "rejected": chat(("assistant", "b"), ("user", "c"), ("assistant", "d"))["messages"],
            },
            [
                (
                    "rejected",
                    "one message",
                    "[{'content': 'b', 'role': 'assistant'}, {'content': 'c', 'role': 'user'}, {'content': 'd', 'role': 'assistant'}]",
                )
            ],
        ),
        (
            "preferences",
            {"prompt": "a", "chosen": [], "rejected": "b"},
            [("chosen", "text as in prompt", "[]")],
        ),
        (
            "preferences",
            {"prompt": chat(("user", "u"))["messages"], "chosen": "a", "rejected": "b"},
            [
                ("chosen", "a list of messages as in prompt", "'a'"),
                ("rejected", "a list of messages as in prompt", "'b'"),
            ],
        ),
        (
            "preferences",
            {
                "prompt": chat(("user", "u"), ("assistant", "a"))["messages"],
                "chosen": chat(("user", "u"))["messages"],
                "rejected": chat(("assistant", " "))["messages"],
            },
            [
                ("prompt[1].role", "user in the last message", "'assistant'"),
                ("chosen[0].role", "assistant", "'user'"),
                ("rejected[0].content", "text that is not empty", "' '"),
            ],
        ),
        ("completion", {"text": "a"}, [(None, "prompt, completion as in line 1", "text")]),
        (
            "completion",
            {"prompt": "a\ud800", "completion": "é\udfff"},
            [
                ("prompt", "valid Unicode", "the lone surrogate '\\ud800'"),
                ("completion", "valid Unicode", "the lone surrogate '\\udfff'"),
            ],
        ),
        (
            "chat",
            GOOD["chat"] | {"tools": []},
            [
                (
                    None,
                    "the columns messages",
                    "the columns messages, tools (tool calls are not supported)",
                )
            ],
        ),
        (
            "chat",
            {"conversations": []},
            [
                (
                    None,
                    "the columns messages",
                    "the columns conversations (rename conversations, from, value, human, "
                    "gpt to messages, "
                    "role, content, user, assistant)",
                )
            ],
        ),
        ("chat", {"messages": []}, [("messages", "a list of messages", "[]")]),
        ("chat", {"messages": "hi"}, [("messages", "a list of messages", "'hi'")]),
        (
            "chat",
            chat(("user", "u"), ("bot", "b")),
            [("messages[1].role", "assistant", "'bot'")],
        ),
        (
            "chat",
            chat(("bot", "u"), ("assistant", "b")),
            [("messages[0].role", "system or user", "'bot'")],
        ),
        (
            "chat",
            chat(("user", "u"), ("Assistant", "b")),
            [("messages[1].role", "assistant", "'Assistant'")],
        ),
        (
            "chat",
            chat(("user", "u"), ([], "b")),
            [("messages[1].role", "assistant", "[]")],
        ),
        (
            "chat",
            chat(("user", "u"), ("system", "s"), ("assistant", "a")),
            [("messages[1].role", "assistant", "'system'")],
        ),
        (
            "chat",
            chat(("system", "s"), ("assistant", "a")),
            [("messages[1].role", "user", "'assistant'")],
        ),
        (
            "chat",
            chat(("assistant", "a"), ("user", "u"), ("assistant", "a")),
            [("messages[0].role", "system or user", "'assistant'")],
        ),
        (
            "chat",
            chat(("user", "u"), ("user", "v"), ("assistant", "a")),
            [("messages[1].role", "assistant", "'user'")],
        ),
        (
            "chat",
            chat(("user", "u"), ("assistant", "a"), ("assistant", "a")),
            [("messages[2].role", "user", "'assistant'")],
        ),
        (
            "chat",
            chat(("user", "u")),
            [("messages[0].role", "assistant in the last message", "'user'")],
        ),
        (
            "chat",
            chat(("system", "s")),
            [("messages[0].role", "assistant in the last message", "'system'")],
        ),
        (
            "chat",
            chat(("user", " \n"), ("assistant", None)),
            [
                ("messages[0].content", "text that is not empty", "' \\n'"),
                ("messages[1].content", "text", "None"),
            ],
        ),
        (
            "chat",
            chat(("user", [{"type": "text", "text": "x"}]), ("assistant", True)),
            [
                ("messages[0].content", "text", "[{'text': 'x', 'type': 'text'}]"),
                ("messages[1].content", "text", "True"),
            ],
        ),
        (
            "chat",
            {
                "messages": [
                    {"role": "user", "content": "u"},
                    {"role": "assistant", "content": "a", "tool_calls": []},
                    5,
                ]
            },
            [
                (
                    "messages[1]",
                    "an object with exactly role and content",
                    "the fields role, content, tool_calls (tool calls are not supported)",
                ),
            ],
        ),
        (
            "chat",
            {"messages": [{"from": "human", "value": "u"}]},
            [
                (
                    "messages[0]",
                    "an object with exactly role and content",
                    "the fields from, value (rename conversations, from, value, human, "
                    "gpt to messages, role, "
                    "content, user, assistant)",
                )
            ],
        ),
    ],
)
def test_bad_rows(tmp_path, kind, row, want):
    assert faults(tmp_path, kind, row) == want


@pytest.mark.parametrize(
    "line, want",
    [
        ('{"text": "a", "text": "b"}', (None, "JSON", "the field text twice")),
        ('{"text": NaN}', ("text", "text", "nan")),
        ('{"text": -Infinity}', ("text", "text", "-inf")),
        (
            '{"text": ' + "9" * 5000 + "}",
            (None, "JSON", "Exceeds the limit (4300 digits) for integer string conversion"),
        ),
        (
            "[" * 100_000,
            (
                None,
                "JSON",
                "maximum recursion depth exceeded while decoding a JSON array "
                "from a unicode string",
            ),
        ),
        (
            '{"a":' * 100_000,
            (
                None,
                "JSON",
                "maximum recursion depth exceeded while decoding a JSON object "
                "from a unicode string",
            ),
        ),
        ('{"text": "a"} {"text": "b"}', (None, "JSON", "Extra data at character 15")),
        (
            "{'text': 'a'}",
            (None, "JSON", "Expecting property name enclosed in double quotes at character 2"),
        ),
        (
            "\ufeff" + '{"text": "a"}',
            (None, "JSON", "Unexpected UTF-8 BOM (decode using utf-8-sig) at character 1"),
        ),
        ('{"text": "a\tb"}', (None, "JSON", "Invalid control character at at character 12")),
        ('{"text": 1e999}', ("text", "text", "inf")),
    ],
)
def test_bad_lines(tmp_path, line, want):
    assert faults(tmp_path, "completion", line) == [want]


# Encodings and formats


def test_byte_order_mark_and_line_ends_are_no_content(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"text": "a\\r\\n"}\r\n\r\n{"text": "\\ufeffb"}\r\n')
    rows = records.read(file)
    assert list(rows) == [{"text": "a\r\n"}, {"text": "\ufeffb"}]
    table = tmp_path / "a.csv"
    table.write_bytes(b"\xef\xbb\xbftext\r\na\r\n\r\n b \r\n")
    assert list(records.read(table)) == [{"text": "a"}, {"text": " b "}]
    assert list(records.read(table).lines) == [2, 4]


@pytest.mark.parametrize(
    "encoding, named",
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16 or UTF-32"),
        ("utf-16-be", "UTF-16 or UTF-32"),
        ("utf-32-be", "UTF-16 or UTF-32"),
    ],
)
@pytest.mark.parametrize("name, text", [("a.jsonl", '{"text": "a"}\n'), ("a.csv", "text\na\n")])
def test_wide_encodings_are_named(tmp_path, encoding, named, name, text):
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert said(stopped(tmp_path / name, on_bad="skip"), tmp_path / name) == (
        f"{name}:1: expected UTF-8 text with one row per line, got {named}; convert the file"
    )


@pytest.mark.parametrize(
    "content, named",
    [
        ("\ufeff提示,答\n".encode("utf-16-le"), "UTF-16"),
        ("\ufeff提示,答\n".encode("utf-16-be"), "UTF-16"),
        (gzip.compress(b'{"text": "a"}\n'), "gzip"),
        (b"PK\x03\x04 no", "zip or Excel"),
        (b"PAR1 no", "Parquet"),
        (b'\n [\n{"text": "a"}\n]', "a JSON array"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_other_files_with_the_ending_of_text_are_named(tmp_path, content, named, name):
    (tmp_path / name).write_bytes(content)
    assert f"got {named}; convert the file" in str(stopped(tmp_path / name, on_bad="skip"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_one_huge_row_does_not_take_the_file_with_it(tmp_path, name):
    huge = "a" * 20_000_000
    lines = ["prompt,completion", "p,q", f"{huge},x", "r,s"]
    if name == "a.jsonl":
        lines = [json.dumps(dict(zip(("prompt", "completion"), line.split(",")))) for line in lines]
    file = write(tmp_path / name, lines)
    rows = records.read(file, on_bad="skip")
    assert len(rows) == len(lines) - 1 - (name == "a.csv")
    (problem,) = rows.rejected
    assert problem[1:3] == (3, None) and problem.expected == "a row of at most 16 MB"
    assert problem.got.startswith("20.0 MB")
    rows.write_rejected(tmp_path / "r.jsonl")
    assert rejected(tmp_path / "r.jsonl")[0][1] == lines[2].encode() + b"\n"


@pytest.mark.parametrize(
    "text, got",
    [
        ("prompt;completion\na;b\n", "the columns prompt;completion"),
        ("prompt\tcompletion\na\tb\n", "the columns 'prompt\\tcompletion'"),
        ("every day,0 0 * * *\nat 8,0 8 * * *\n", "the columns every day, 0 0 * * *"),
        ("Prompt,Completion\na,b\n", "the columns Prompt, Completion"),
    ],
)
def test_a_wrong_delimiter_or_header_is_named_with_the_columns_found(tmp_path, text, got):
    file = tmp_path / "a.csv"
    file.write_text(text)
    rows = text.count("\n") - 1
    assert said(stopped(file, "completion", on_bad="skip"), file) == (
        f"a.csv:2: expected the columns prompt, completion or text, got {got} ({rows} of {rows} "
        f"row{'s' * (rows > 1)} {'are' if rows > 1 else 'is'} bad); correct these rows"
    )


def test_a_column_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion,prompt\na,b,c\n")
    assert "got the field prompt twice" in str(stopped(tmp_path / "a.csv"))


def test_an_open_quote_cannot_swallow_the_file(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('prompt,completion\na,b\nc,"d\n' + "e,f\n" * 9)
    assert said(stopped(file, on_bad="skip"), file) == (
        "a.csv:3: expected quotes that are closed, and doubled in a cell, got "
        "unexpected end of data; "
        "correct this quote"
    )


def test_cells_may_be_long(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "a" * 200_000 + "\n")
    assert len(records.read(tmp_path / "a.csv")[0]["text"]) == 200_000


# After reading


def test_rows_stay_as_they_were_read(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"text": "aa"}, {"text": "bb"}])
    rows = records.read(file)
    write(file, [{"text": "cc"}])
    assert list(pickle.loads(pickle.dumps(rows))) == list(rows) == [{"text": "aa"}, {"text": "bb"}]


def test_duplicates_are_used_counted_and_listed(tmp_path):
    row, turned = {"prompt": "a", "completion": "b"}, {"completion": "b", "prompt": "a"}
    other = {"prompt": "a", "completion": "B"}
    rows = records.read(write(tmp_path / "a.jsonl", [row, other, turned, row]))
    assert rows.duplicates == [(2, 1, False), (3, 1, True), (4, 1, True)] and len(rows) == 4


def test_duplicates_by_case_space_and_unicode_form(tmp_path):
    def row(text, reply="0 8 * * *"):
        return chat(("user", text), ("assistant", reply))

    rows = records.read(
        write(
            tmp_path / "a.jsonl",
            [
                row("Café  ﬁve"),
                row("CAFE\u0301 five\u00a0"),
                row("cafe five"),
                row("café ﬁve", "0 8  * * *"),
                row("cafe five"),
                row("CAFE\u0301 five\u00a0"),
            ],
        )
    )
    assert rows.duplicates == [(2, 1, False), (4, 1, False), (5, 3, True), (6, 2, True)]
    apart = [{"prompt": p, "completion": c} for p, c in (("a b", "c"), ("a", "b c"), ("a", "bc"))]
    assert records.read(write(tmp_path / "b.jsonl", apart)).duplicates == []


def test_training_rows_with_a_prompt_of_the_test_rows_are_refused_or_rejected(tmp_path):
    train = [{"prompt": text, "completion": "x"} for text in ("at 8", "AT  8", "at 9")]
    file = write(tmp_path / "t.jsonl", ["", *train])
    tests, rows = [chat(("system", "s"), ("user", "at 8"))], records.read(file)
    with pytest.raises(DataError) as caught:
        records.split_leaked(rows, tests)
    assert said(caught.value, file) == (
        "t.jsonl:2: expected no prompt of the test rows, got 'at 8', the prompt of test row 1; "
        "line 3: expected no prompt of the test rows, got 'AT  8', the prompt of test row 1 up to "
        "case, space and Unicode form (2 of 3 rows are bad); remove them from one of the files or "
        'use on_bad="skip"'
    )
    rest = records.split_leaked(rows, tests, "skip")
    assert ([row["prompt"] for row in rest], [p.line for p in rest.rejected]) == (["at 9"], [2, 3])
    assert rest.rows_in == len(rest) + len(rest.rejected) == 3
    question = SimpleNamespace(messages=[{"role": "user", "content": "at 10"}], right="x")
    assert list(records.split_leaked(rows, [question])) == list(rows)
    question.messages[0]["content"] = "at 9"
    assert [p.line for p in records.split_leaked(rows, [question], "skip").rejected] == [4]


def test_leakage_by_case_space_and_unicode_form(tmp_path):
    def row(prompt):
        return {"prompt": prompt, "completion": "x"}

    train = records.read(
        write(
            tmp_path / "t.jsonl",
            ["", row("Every  day"), row("café ﬁve"), row("every day"), row("STRASSE"), row("no 5")],
        )
    )
    tests = [
        row("at 8"),
        row("every day"),
        row(" every\u00a0Day"),
        row("CAFE\u0301 five"),
        row("straße"),
        row("№ 5"),
    ]
    same = " up to case, space and Unicode form"
    assert [got for _, _, got in row_checks.leakage(train, tests).values()] == [
        f"'Every  day', the prompt of test row 2{same}",
        f"'café ﬁve', the prompt of test row 4{same}",
        "'every day', the prompt of test row 2",
        f"'STRASSE', the prompt of test row 5{same}",
        f"'no 5', the prompt of test row 6{same}",
    ]
    assert row_checks.leakage(train, tests[:1]) == {}


def test_leakage_of_chats_compares_the_questions_up_to_each_answer():
    train = [
        chat(("system", "s"), ("user", "a"), ("assistant", "x"), ("user", "b"), ("assistant", "y"))
    ]
    first, second, both = (
        chat(("user", "A")),
        chat(("user", "b")),
        chat(("user", "a"), ("assistant", "z"), ("user", "b")),
    )
    same = " up to case, space and Unicode form"
    for tests, got in (
        ([second, first], f"'a', the prompt of test row 2{same}"),
        ([first, both], "'a\\nb', the prompt of test row 2"),
        ([{"prompt": "a", "completion": "q"}], "'a', the prompt of test row 1"),
    ):
        assert row_checks.leakage(train, tests) == {0: (None, "no prompt of the test rows", got)}
    assert row_checks.leakage(train, [second]) == {}


def test_rows_too_long_become_rejections_with_their_line(tmp_path, capsys):
    texts = ["a", "bbb", "cc", "bbb", "dddd"]
    file = write(tmp_path / "a.jsonl", [{"text": text} for text in texts] + ["bad"])
    rows = records.read(file, on_bad="skip")
    rest = records.split_too_long(rows, [1, 3, 2, 3, 4], 2)
    assert capsys.readouterr().out.replace(str(file), "a.jsonl") == (
        "a.jsonl: rejected: 1 of 6 rows; equal to an earlier row: 1 (line 4 "
        "equals line 2); left out "
        "as longer than max_length = 2: 3 of 5 rows (3 to 4 tokens).\n"
    )
    assert list(rest) == [{"text": "a"}, {"text": "cc"}] and rest.lines[1] == 3
    limit = "at most max_length = 2 tokens"
    assert [(p.line, p.expected, p.got) for p in rest.rejected[:3]] == [
        (2, limit, "3 tokens"),
        (4, limit, "3 tokens"),
        (5, limit, "4 tokens"),
    ]
    assert rest.rows_in == len(rest) + len(rest.rejected) == 6
    rest.write_rejected(tmp_path / "r.jsonl")
    raw = file.read_bytes().splitlines(keepends=True)
    assert (
        rejected(tmp_path / "r.jsonl") == [(p, raw[p.line - 1]) for p in rest.rejected]
        and len(rest.rejected) == 4
    )
    assert rows.duplicates == rest.duplicates == [(4, 2, True)]
    assert len(rows) == 5 and len(rows.rejected) == 1
    plain = records.read(write(tmp_path / "b.jsonl", [{"text": text} for text in "ab"]))
    assert records.split_too_long(plain, [1, 2], 2) is plain and capsys.readouterr().out == ""


def test_only_rows_that_are_too_long_name_max_length_and_can_still_be_written(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}])
    with pytest.raises(DataError) as caught:
        records.split_too_long(records.read(file), [7, 9], 5)
    assert said(caught.value, file) == (
        "a.jsonl:1: expected at most max_length = 5 tokens, got 7 tokens; line 2: expected at most "
        "max_length = 5 tokens, got 9 tokens (2 of 2 rows are bad); set max_length to 7 or more"
    )
    caught.value.records.write_rejected(tmp_path / "r.jsonl")
    assert [p.line for p, _ in rejected(tmp_path / "r.jsonl")] == [1, 2]


def test_rows_that_a_later_step_refuses_are_named_all_or_skipped_all(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"text": text} for text in "abcd"])
    fault = "rejected", "ids that differ from those of chosen", "the same ids"
    with pytest.raises(DataError) as caught:
        records.read(file).reject({0: fault, 2: fault}, "stop")
    assert [p.line for p in caught.value.problems] == [1, 3]
    skipped = records.read(file).reject({1: fault})
    assert list(skipped.reject({}, "stop")) == list(skipped)
    rest = records.read(file).reject({0: fault, 2: fault}, "skip")
    assert list(rest) == [{"text": "b"}, {"text": "d"}] and list(rest.lines) == [2, 4]


@pytest.mark.parametrize("as_messages", [False, True])
def test_pairs_that_differ_by_space_at_the_end_or_unicode_form_are_all_skipped(
    tmp_path, as_messages
):
    pairs = [("a", "a "), ("a\n", "a"), ("caf\u00e9", "cafe\u0301"), ("a", " a"), ("a", "A")]
    rows = [{"prompt": "p", "chosen": chosen, "rejected": other} for chosen, other in pairs]
    if as_messages:
        role = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        rows = [
            {name: [{"role": role[name], "content": row[name]}] for name in row} for row in rows
        ]
    file = write(tmp_path / "a.jsonl", rows)
    assert [p.line for p in stopped(file).problems] == [1, 2, 3]
    assert list(records.read(file, on_bad="skip")) == rows[3:]


def test_rows_of_another_kind_still_have_their_line_and_bytes(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("prompt,completion,id\na,b,1\nc,dd,2\nbad\n e ,f,3\n")
    rows = records.read(file, on_bad="skip")
    chats = rows.mapped(
        "chat",
        lambda row: (
            None
            if row["prompt"] == "a"
            else chat(("user", row["prompt"]), ("assistant", row["completion"]))
        ),
    )
    assert list(chats) == [
        chat(("user", "c"), ("assistant", "dd")),
        chat(("user", " e "), ("assistant", "f")),
    ]
    assert (chats.kind, chats.rows_in, list(chats.lines)) == ("chat", 3, [3, 5])
    records.split_too_long(chats, [9, 1], 5).write_rejected(tmp_path / "r.jsonl")
    assert [(p.line, raw) for p, raw in rejected(tmp_path / "r.jsonl")] == [
        (3, b"c,dd,2\n"),
        (4, b"bad\n"),
    ]
    assert len(rows.mapped("chat", lambda row: None)) == 0


def test_an_object_as_completion_gets_a_hint(tmp_path):
    row = {"prompt": "a", "completion": {"item": "pizza"}}
    assert faults(tmp_path, "completion", row) == [
        ("completion", "text", "{'item': 'pizza'} (write it as text with json.dumps)")
    ]


# Operating system


def test_an_input_is_never_written(tmp_path):
    file, tests = (
        write(tmp_path / name, [GOOD["completion"], "x"]) for name in ("a.jsonl", "b.jsonl")
    )
    (tmp_path / "soft.jsonl").symlink_to(file)
    (tmp_path / "hard.jsonl").hardlink_to(tests)
    before, rows = file.read_bytes(), records.read(file, on_bad="skip")
    for name in (
        "a.jsonl",
        "soft.jsonl",
        "b.jsonl",
        "hard.jsonl",
        "../" + tmp_path.name + "/a.jsonl",
    ):
        with pytest.raises(DataError, match="got an input file, a folder or a device; choose"):
            rows.write_rejected(tmp_path / name, [tests])
    assert file.read_bytes() == tests.read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path):
    old = write(tmp_path / "old.jsonl", ["old"])

    def lines():
        yield "new"
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError) as caught:
        records.write_lines(old, lines())
    assert said(caught.value, old) == (
        "old.jsonl: expected to write this file, got 'No space left on device'; choose a folder "
        "that exists, has room and may be written"
    )
    assert old.read_text() == "old\n" and list(tmp_path.iterdir()) == [old]


def test_an_error_of_the_system_is_a_sentence(tmp_path, monkeypatch):
    file = write(tmp_path / "a.jsonl", [GOOD["completion"], "x"])
    rows = records.read(file, on_bad="skip")
    for path, reason in (
        (tmp_path / "no/r.jsonl", "No such file"),
        (file / "r.jsonl", "Not a directory"),
    ):
        with pytest.raises(
            DataError, match=f"expected to write this file, got '{reason}.*; choose a"
        ):
            rows.write_rejected(path)
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(DataError, match="got an input file, a folder or a device; choose"):
            rows.write_rejected(path)

    def failing(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", failing)
    with pytest.raises(
        DataError, match="expected to read this file, got 'Permission denied'; check"
    ):
        records.read(file)


# Command line, layers, memory


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "kit.records", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_the_command_reports_without_training(tmp_path):
    good = write(tmp_path / "a.jsonl", [GOOD["completion"]] * 2)
    bad = write(tmp_path / "b.jsonl", [GOOD["completion"], "x"])
    code, out, err = command(good, "--kind", "completion")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{good}: completion, 2 rows, 2 used, 0 rejected, 1 equal to an earlier "
        f"row, 0 with a prompt "
        "of the test rows",
        "line 2 equals line 1",
    ]
    sentence = "expected JSON, got Expecting value at character 1"
    code, out, err = command(bad, "--kind", "completion")
    assert (code, out.splitlines()[1:]) == (2, [f"{bad}:2: {sentence}"])
    assert err == (
        f"DataError: {bad}:2: {sentence} (1 of 2 rows is bad); correct these rows or use "
        'on_bad="skip"\n'
    )
    worse = write(tmp_path / "c.jsonl", ["x"] * 5)
    code, out, err = command(worse, "--kind", "chat", "--rejected", tmp_path / "r.jsonl")
    assert (code, out.splitlines()[1:]) == (2, [f"{worse}:{n}: {sentence}" for n in range(1, 6)])
    assert "(5 of 5 rows are bad)" in err and len(rejected(tmp_path / "r.jsonl")) == 5
    other = write(tmp_path / "d.jsonl", [GOOD["completion"] | {"label": 1, "group": "g"}])
    assert "columns that are not trained: 'group', 'label'\n" in command(other)[1]
    code, out, err = command(bad, "--rejected", tmp_path / "r.jsonl")
    assert (code, len(rejected(tmp_path / "r.jsonl"))) == (2, 1)
    code, out, err = command(bad, "--rejected", bad)
    assert code == 2 and "got an input file" in err and bad.read_text().endswith("x\n")


def test_the_command_fails_on_a_shared_prompt(tmp_path):
    train = write(tmp_path / "a.jsonl", [GOOD["completion"]])
    tests = write(
        tmp_path / "b.jsonl",
        [chat(("user", "Every day at 8"), ("assistant", "x")) | {"group": None}],
    )
    code, out, err = command(train, "--against", tests)
    sentence = "'every day at 8', the prompt of test row 1 up to case, space and Unicode form"
    sentence = f"{train}:1: expected no prompt of the test rows, got {sentence}"
    assert code == 2 and out.splitlines()[-1] == sentence
    assert err.startswith(f"DataError: {sentence}")


def test_importing_records_needs_the_standard_library_only():
    code = (
        "import sys, kit.records\n"
        "print(sorted({'torch', 'numpy', 'pyarrow', 'datasets', 'transformers', 'yaml'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr


PEAK = """
import resource, sys
from kit import records
rows = records.read(sys.argv[1])
assert len(rows) and rows[-1]["messages"]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_a_row_costs_its_bytes_and_300_more(tmp_path):
    """40,000 rows more cost their bytes and at most 300 bytes each, because rows stay bytes."""
    peaks = []
    for count in (5_000, 45_000):
        turns = [{"role": "user", "content": "a" * 60}, {"role": "assistant", "content": "b" * 60}]
        file = tmp_path / f"{count}.jsonl"
        file.write_text(
            "".join(
                json.dumps(
                    {"messages": [{**turns[0], "content": f"{n} {turns[0]['content']}"}, turns[1]]}
                )
                + "\n"
                for n in range(count)
            )
        )
        command = [sys.executable, "-c", PEAK, str(file)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append((int(done.stdout), file.stat().st_size))
    (small, small_size), (large, large_size) = peaks
    assert large - small < large_size - small_size + 300 * 40_000


READY = """
import json, os, resource, sys
from kit import chat, models, records, sft
import datasets, torch
from transformers import AutoTokenizer

def facts():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return [used.ru_maxrss * 1024, used.ru_utime + used.ru_stime]

tokenizer = AutoTokenizer.from_pretrained(models.POCKET)
chat.prepare(tokenizer)
start = facts()
rows = records.read(sys.argv[1])
encoded = chat.encode_chats(tokenizer, (row["messages"] for row in rows))
data = sft.sft_dataset(encoded)
assert len(data) == len(rows)
print(json.dumps([start, facts()]))
"""
FILE, MEMORY, SPEED = 200e6, 2e9, 1.5e6  # bytes, bytes, bytes per second on two cores


def conversations(file, size):
    """Write chat rows of `size` bytes with words of the course's rows; return the bytes."""
    draw, words = random.Random(0), set()
    for line in open(ROOT / "data_samples" / "cron" / "chat.jsonl", encoding="utf-8"):
        words.update(
            word for turn in json.loads(line)["messages"] for word in turn["content"].split()
        )
    words, written = sorted(words), 0
    with open(file, "wb") as out:
        while written < size:
            texts = [" ".join(draw.choices(words, k=draw.randint(4, 30))) for _ in range(4)]
            row = chat(*zip(("user", "assistant") * 2, texts))
            written += out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return written


def test_200_mb_are_ready_to_train_in_2_gb(tmp_path):
    """Peak memory per byte, from two small files, says what 200 MB need. So does the time."""
    sizes, starts, ends = [], [], []
    for size in (3e6, 12e6):
        file = tmp_path / "rows.jsonl"
        sizes.append(conversations(file, size))
        done = subprocess.run(
            [sys.executable, "-c", READY, str(file)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        start, end = json.loads(done.stdout)
        starts.append(start)
        ends.append(end)
    per_byte = (ends[1][0] - ends[0][0]) / (sizes[1] - sizes[0])
    seconds = ends[1][1] - starts[1][1]
    print(f"{per_byte:.2f} bytes per byte of rows, {sizes[1] / seconds / 1e6:.2f} MB per second")
    assert starts[1][0] + per_byte * FILE < MEMORY
    # Processor seconds of one core. Two cores have two per second; a busy machine inflates them.
    assert sizes[1] / seconds > SPEED / 2
