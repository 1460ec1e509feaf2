"""Rows are used verbatim or reported: file, line, field, what was expected, what came."""

import csv
import hashlib
import importlib.util
import io
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kit import records
from kit.errors import DataError, MissingError, Problem, SettingsError

ROOT = Path(records.__file__).parents[1]
GOOD = {"completion": {"prompt": "every day at 8", "completion": "0 8 * * *"},
        "chat": {"messages": [{"role": "user", "content": "at noon"},
                              {"role": "assistant", "content": "0 12 * * *"}]},
        "preferences": {"prompt": "at noon", "chosen": "0 12 * * *", "rejected": "12 0 * * *"}}


def write(path, rows):
    lines = [row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row))
             .encode("utf-8", "surrogatepass") + b"\n" for row in rows]
    path.write_bytes(b"".join(lines))
    return path


def said(error, file):
    return str(error).replace(str(file), file.name)


def stopped(file, *args, **options):
    with pytest.raises(DataError) as caught:
        records.read(file, *args, **options)
    return caught.value


def faults(tmp_path, kind, row, **options):
    """[(field, expected, came)] of one row beside a good one; the good one must be used."""
    file = write(tmp_path / "rows.jsonl", [GOOD[kind], row])
    found = records.read(file, kind, on_bad="skip", **options)
    assert (found.rows_in, found.rows_used, len(found.rejected)) == (2, 1, 1)
    assert list(found) == [GOOD[kind]] and {p.line for p in found.problems} == {2}
    return [(p.field, p.expected, p.came) for p in found.problems]


def chat(*turns):
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


# Kinds and files

@pytest.mark.parametrize("kind", GOOD)
def test_each_kind_is_read_back_and_found_by_auto(tmp_path, kind):
    file = write(tmp_path / "rows.jsonl", [GOOD[kind]] * 3)
    for asked in (kind, "auto"):
        rows = records.read(file, asked)
        assert (rows.kind, len(rows), rows[0], rows[-1], rows[1:]) == (
            kind, 3, GOOD[kind], GOOD[kind], [GOOD[kind]] * 2)
    with pytest.raises(IndexError):
        rows[3]


def test_text_alone_and_preferences_as_messages(tmp_path):
    text = {"text": "plain"}
    pair = {"prompt": chat(("system", "s"), ("user", "u"))["messages"],
            "chosen": chat(("assistant", "a"))["messages"],
            "rejected": chat(("assistant", "b"))["messages"]}
    for kind, row in (("completion", text), ("preferences", pair)):
        assert list(records.read(write(tmp_path / "a.jsonl", [row]))) == [row]
        assert records.read(tmp_path / "a.jsonl").kind == kind


def test_lines_hash_and_counts(tmp_path):
    file = write(tmp_path / "a.jsonl", ["", GOOD["chat"], "  \t", GOOD["chat"]])
    rows = records.read(file, "chat")
    assert [rows.line(i) for i in range(2)] == [2, 4]
    assert rows.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (rows.rows_in, rows.rows_used, rows.rejected, rows.file) == (2, 2, [], str(file))


def test_the_last_line_needs_no_line_end_and_limit_reads_no_further(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "a"}\n{"text": "b"}\nnot read\n{"text": "c"}')
    rows = records.read(file, limit=2)
    assert list(rows) == [{"text": "a"}, {"text": "b"}]
    assert rows.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_same_rows_from_every_format(tmp_path):
    import datasets
    import pyarrow
    from pyarrow import parquet

    want = [{"prompt": text, "completion": answer} for text, answer in (
        ("NA", "null"), ("007", "2024-01-01"), (" a ", "1e5"), ('q"uo,te', "two\r\nlines"),
        ("nan", "True"), ("späť\u2028", "\ufeff日"))]
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
    assert [records.read(tmp_path / "a.csv").line(i) for i in range(6)] == [2, 3, 4, 5, 7, 8]
    assert [records.read(tmp_path / "a.parquet").line(i) for i in (0, 5)] == [1, 6]
    file = tmp_path / "a.parquet"
    assert records.read(file).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_chat_cell_of_a_csv_file_is_json(tmp_path):
    file = tmp_path / "a.csv"
    with open(file, "w", newline="") as out:
        csv.writer(out).writerows([["messages"], [json.dumps(GOOD["chat"]["messages"])], ["hello"]])
    error = stopped(file, "chat")
    assert said(error, file) == (
        "a.csv:3: messages: expected JSON, came Expecting value at character 1 (1 of 2 rows is "
        'bad); correct these rows or read with on_bad="skip"')
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


def test_columns_left_out_on_purpose(tmp_path):
    import datasets

    row = {"id": 7} | GOOD["completion"] | {"text": "t"}
    write(tmp_path / "a.jsonl", [row])
    (tmp_path / "a.csv").write_text("id,prompt,text,completion\n7,every day at 8,t,0 8 * * *\n")
    for source in (tmp_path / "a.jsonl", tmp_path / "a.csv", datasets.Dataset.from_list([row])):
        assert list(records.read(source, ignore=("id", "text"))) == [GOOD["completion"]]
        assert "came the columns" in str(stopped(source, ignore="id"))


def test_what_is_no_single_dataset_is_refused():
    import datasets

    split = datasets.DatasetDict({"train": datasets.Dataset.from_list([GOOD["chat"]])})
    assert str(stopped(split)) == ("expected a path or a datasets.Dataset of one split, came "
                                   "DatasetDict; pass one split of it")


def test_the_dataset_made_of_records_holds_the_same_rows(tmp_path):
    for kind, row in GOOD.items():
        rows = records.read(write(tmp_path / "a.jsonl", ["", row, row]), kind)
        made = records.to_dataset(rows)
        assert made.to_list() == [row, row] and not made.cache_files
        assert records.to_dataset(rows, with_line=True)["line"] == [2, 3]


def test_paths_and_settings_are_checked(tmp_path):
    with pytest.raises(MissingError, match="expected a readable file, came nothing"):
        records.read(tmp_path / "a.jsonl")
    (tmp_path / "a.gz").write_bytes(b"x")
    error = stopped(tmp_path / "a.gz")
    assert said(error, tmp_path / "a.gz") == (
        "a.gz: expected a file that ends in .parquet, .csv, .tsv, .jsonl, .ndjson, .json, "
        "came .gz; convert it")
    assert "came a folder or device" in str(stopped(tmp_path))
    for options in ({"kind": "sft"}, {"on_bad": "ignore"}):
        with pytest.raises(SettingsError):
            records.read(tmp_path / "a.gz", **options)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_an_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert said(stopped(tmp_path / name), tmp_path / name) == (
        f"{name}: expected at least one good row, came no row; correct the file")


def test_a_file_of_bad_rows_only_is_refused_even_with_skip(tmp_path):
    file = write(tmp_path / "a.jsonl", ["x", "y"])
    error = stopped(file, "chat", on_bad="skip")
    assert said(error, file) == (
        "a.jsonl: expected at least one good row, came 2 bad rows; correct the file")
    assert len(error.problems) == 2


# Every problem in one report

def test_all_problems_of_a_file_in_one_error(tmp_path):
    rows = [GOOD["completion"], {"prompt": "", "completion": 7}, "{",
            {"question": "a", "answer": "b"}, GOOD["completion"], "null"]
    file = write(tmp_path / "a.jsonl", rows)
    error = stopped(file, "completion")
    name = str(file)
    assert error.problems == [
        Problem(name, 2, "prompt", "text that is not empty", "''"),
        Problem(name, 2, "completion", "text", "the number 7"),
        Problem(name, 3, None, "JSON",
                "Expecting property name enclosed in double quotes at character 2"),
        Problem(name, 4, None, "exactly prompt, completion or text",
                "the columns question, answer"),
        Problem(name, 6, None, "an object", "null")]
    assert said(error, file) == (
        "a.jsonl:2: prompt: expected text that is not empty, came ''; line 2: completion: expected "
        "text, came the number 7; line 3: expected JSON, came Expecting property name enclosed in "
        "double quotes at character 2; and 2 more in .problems (4 of 6 rows are bad); correct "
        'these rows or read with on_bad="skip"')
    assert (error.file, error.line, error.field, error.exit_code) == (name, 2, "prompt", 2)


def test_skip_uses_the_good_rows_alone_and_keeps_the_others_byte_for_byte(tmp_path):
    bad = [b'{"text": "caf\xe9"}\r\n', '{"text": "späť\u2028"  , "text": "b"}\n'.encode(),
           b'\xff\x00\x01\n', b'{"text": "cut']
    good = [b'{"text": "a"}\n', b'{"text": "b"}\r\n']
    file = write(tmp_path / "a.jsonl", [good[0], bad[0], bad[1], good[1], bad[2], bad[3]])
    alone = write(tmp_path / "alone.jsonl", good)
    rows = records.read(file, on_bad="skip", rejected_path=tmp_path / "rejected.jsonl")
    assert list(rows) == list(records.read(alone)) == [{"text": "a"}, {"text": "b"}]
    assert rows.rows_in == rows.rows_used + len(rows.rejected) == 6
    kept = records.read_rejected(tmp_path / "rejected.jsonl")
    assert [raw for _, raw in kept] == bad
    assert [problem for problem, _ in kept] == rows.rejected
    assert [(p.line, p.expected, p.came) for p in rows.rejected] == [
        (2, "UTF-8", "the byte 0xe9 at byte 14"), (3, "each field once", "text twice"),
        (5, "UTF-8", "the byte 0xff at byte 1"),
        (6, "JSON", "Unterminated string starting at at character 10")]
    lines = (tmp_path / "rejected.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])) == {"file", "line", "field", "expected", "came", "raw_base64"}
    assert json.loads(lines[1])["raw"] == bad[1].decode()


def test_a_rejected_csv_record_keeps_its_lines(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b'prompt,completion\r\n"a\r\nb",\r\nc,d\r\ne,"f"g\r\nh,i,j\r\nk\r\n\r\nl,\xe9\r\n')
    rows = records.read(file, on_bad="skip", rejected_path=tmp_path / "r.jsonl")
    assert list(rows) == [{"prompt": "c", "completion": "d"}]
    assert [(p.line, p.field, p.expected, p.came, raw)
            for p, raw in records.read_rejected(tmp_path / "r.jsonl")] == [
        (2, "completion", "text that is not empty", "''", b'"a\r\nb",\r\n'),
        (5, None, "quotes that are closed, and doubled inside a cell",
         "',' expected after '\"' in lines 5 to 5", b'e,"f"g\r\n'),
        (6, None, "2 columns", "3 columns", b"h,i,j\r\n"),
        (7, None, "2 columns", "1 columns", b"k\r\n"),
        (9, None, "UTF-8", "the byte 0xe9 at byte 3", b"l,\xe9\r\n")]


def test_rejected_rows_of_a_parquet_file_are_json(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["a", None, "b"]}), tmp_path / "a.parquet")
    rows = records.read(tmp_path / "a.parquet", on_bad="skip", rejected_path=tmp_path / "r.jsonl")
    (problem, raw), = records.read_rejected(tmp_path / "r.jsonl")
    assert (problem[1:], raw) == ((2, "text", "text", "null"), b'{"text": null}\n')
    assert [rows.line(i) for i in range(2)] == [1, 3]


def test_other_types_and_bad_utf8_of_a_parquet_file(tmp_path):
    import pyarrow
    from pyarrow import parquet

    bad = pyarrow.array([b"ok", b"caf\xe9", b"also"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"prompt": bad, "completion": ["x", "y", "z"]}),
                        tmp_path / "a.parquet")
    rows = records.read(tmp_path / "a.parquet", on_bad="skip")
    assert [row["prompt"] for row in rows] == ["ok", "also"]
    assert rows.rejected[0].line == 2 and "0xe9" in rows.rejected[0].came
    parquet.write_table(pyarrow.table({"text": pyarrow.array([1], pyarrow.timestamp("ns"))}),
                        tmp_path / "b.parquet")
    assert stopped(tmp_path / "b.parquet").problems[0].expected == "text"
    (tmp_path / "c.parquet").write_bytes(b"PAR1 no")
    assert "expected a Parquet file, came " in str(stopped(tmp_path / "c.parquet"))


# Rows

@pytest.mark.parametrize("kind, row, want", [
    ("preferences", {"question": "a", "chosen": "b", "rejected": "c"},
     [(None, "exactly prompt, chosen, rejected", "the columns question, chosen, rejected")]),
    ("preferences", GOOD["preferences"] | {"score": 1},
     [(None, "exactly prompt, chosen, rejected", "the columns prompt, chosen, rejected, score")]),
    ("preferences", {"prompt": "a", "chosen": "b", "rejected": "b"},
     [("rejected", "an answer that differs from chosen", "the same answer")]),
    ("preferences", {"prompt": chat(("user", "u"))["messages"], "chosen": chat(("assistant", "a"))["messages"],
                     "rejected": chat(("assistant", "b"), ("user", "c"), ("assistant", "d"))["messages"]},
     [("rejected", "one message", "a list of 3")]),
    ("preferences", {"prompt": "a", "chosen": [], "rejected": "b"},
     [("chosen", "text as in prompt", "a list of 0")]),
    ("preferences", {"prompt": chat(("user", "u"))["messages"], "chosen": "a", "rejected": "b"},
     [("chosen", "a list of messages as in prompt", "'a'"),
      ("rejected", "a list of messages as in prompt", "'b'")]),
    ("preferences", {"prompt": chat(("user", "u"), ("assistant", "a"))["messages"],
                     "chosen": chat(("user", "u"))["messages"],
                     "rejected": chat(("assistant", " "))["messages"]},
     [("prompt[1].role", "user in the last message", "'assistant'"),
      ("chosen[0].role", "assistant", "'user'"),
      ("chosen[0].role", "assistant in the last message", "'user'"),
      ("rejected[0].content", "text that is not empty", "' '")]),
    ("completion", {"prompt": "a", "completion": "b", "text": "c"},
     [(None, "exactly prompt, completion or text", "the columns prompt, completion, text")]),
    ("completion", {"text": "a"}, [(None, "completion, prompt as in line 1", "text")]),
    ("completion", {"prompt": "a\ud800", "completion": "é\udfff"},
     [("prompt", "valid Unicode", "the lone surrogate '\\ud800' at character 2"),
      ("completion", "valid Unicode", "the lone surrogate '\\udfff' at character 2")]),
    ("chat", GOOD["chat"] | {"tools": []},
     [(None, "exactly messages", "the columns messages, tools (tool calls are not supported)")]),
    ("chat", {"conversations": []}, [(None, "exactly messages", "the columns conversations")]),
    ("chat", {"messages": []}, [("messages", "a list of messages", "an empty list")]),
    ("chat", {"messages": "hi"}, [("messages", "a list of messages", "'hi'")]),
    ("chat", chat(("user", "u"), ("bot", "b")),
     [("messages[1].role", "system, user or assistant", "'bot'")]),
    ("chat", chat(("bot", "u"), ("assistant", "b")),
     [("messages[0].role", "system, user or assistant", "'bot'")]),
    ("chat", chat(("user", "u"), ("Assistant", "b")),
     [("messages[1].role", "system, user or assistant", "'Assistant'")]),
    ("chat", chat(("user", "u"), ([], "b")),
     [("messages[1].role", "system, user or assistant", "a list of 0")]),
    ("chat", chat(("user", "u"), ("system", "s"), ("assistant", "a")),
     [("messages[1].role", "assistant", "'system'")]),
    ("chat", chat(("system", "s"), ("assistant", "a")),
     [("messages[1].role", "user", "'assistant'")]),
    ("chat", chat(("assistant", "a"), ("user", "u"), ("assistant", "a")),
     [("messages[0].role", "system or user", "'assistant'")]),
    ("chat", chat(("user", "u"), ("user", "v"), ("assistant", "a")),
     [("messages[1].role", "assistant", "'user'")]),
    ("chat", chat(("user", "u"), ("assistant", "a"), ("assistant", "a")),
     [("messages[2].role", "user", "'assistant'")]),
    ("chat", chat(("user", "u")),
     [("messages[0].role", "assistant in the last message", "'user'")]),
    ("chat", chat(("system", "s")),
     [("messages[0].role", "assistant in the last message", "'system'")]),
    ("chat", chat(("user", " \n"), ("assistant", None)),
     [("messages[0].content", "text that is not empty", "' \\n'"),
      ("messages[1].content", "text", "null")]),
    ("chat", chat(("user", [{"type": "text", "text": "x"}]), ("assistant", True)),
     [("messages[0].content", "text", "a list of 1"), ("messages[1].content", "text", "true")]),
    ("chat", {"messages": [{"role": "user", "content": "u"},
                           {"role": "assistant", "content": "a", "tool_calls": []}, 5]},
     [("messages[1]", "an object with exactly role and content",
       "an object with role, content, tool_calls"),
      ("messages[2]", "an object with exactly role and content", "the number 5")]),
    ("chat", {"messages": [{"from": "human", "value": "u"}]},
     [("messages[0]", "an object with exactly role and content", "an object with from, value")]),
])
def test_bad_rows(tmp_path, kind, row, want):
    assert faults(tmp_path, kind, row) == want


@pytest.mark.parametrize("line, want", [
    ('{"text": "a", "text": "b"}', (None, "each field once", "text twice")),
    ('{"text": NaN}', (None, "JSON values", "NaN")),
    ('{"text": -Infinity}', (None, "JSON values", "-Infinity")),
    ('{"text": ' + "9" * 5000 + "}", (None, "JSON values", "an integer of thousands of digits")),
    ("[" * 100_000, (None, "a flat JSON object", "JSON nested too deep")),
    ('{"a":' * 100_000, (None, "a flat JSON object", "JSON nested too deep")),
    ('{"text": "a"} {"text": "b"}', (None, "JSON", "Extra data at character 15")),
    ("{'text': 'a'}", (None, "JSON",
                       "Expecting property name enclosed in double quotes at character 2")),
    ("\ufeff" + '{"text": "a"}', (None, "JSON", "Unexpected UTF-8 BOM at character 1")),
    ('{"text": "a\tb"}', (None, "JSON", "Invalid control character at at character 12")),
    ('{"text": 1e999}', ("text", "text", "the number inf")),
])
def test_bad_lines(tmp_path, line, want):
    assert faults(tmp_path, "completion", line) == [want]


def test_a_chat_for_evaluation_may_end_with_a_question(tmp_path):
    file = write(tmp_path / "a.jsonl", [chat(("system", "s"), ("user", "u")), GOOD["chat"]])
    assert len(records.read(file, "chat", allow_last_user=True)) == 2
    assert len(stopped(file, "chat").problems) == 1


# Encodings and formats

def test_byte_order_mark_and_line_ends_are_no_content(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"text": "a\\r\\n"}\r\n\r\n{"text": "\\ufeffb"}\r\n')
    rows = records.read(file)
    assert list(rows) == [{"text": "a\r\n"}, {"text": "\ufeffb"}]
    table = tmp_path / "a.csv"
    table.write_bytes(b"\xef\xbb\xbftext\r\na\r\n\r\n b \r\n")
    assert list(records.read(table)) == [{"text": "a"}, {"text": " b "}]
    assert [records.read(table).line(i) for i in range(2)] == [2, 4]


@pytest.mark.parametrize("encoding, named", [
    ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-32", "UTF-32")])
@pytest.mark.parametrize("name, text", [
    ("a.jsonl", '{"text": "a"}\n'), ("a.csv", "text\na\n")])
def test_wide_encodings_are_named(tmp_path, encoding, named, name, text):
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert said(stopped(tmp_path / name, on_bad="skip"), tmp_path / name) == (
        f"{name}:1: expected UTF-8, came {named}; save the file as UTF-8")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_mark_of_a_wide_encoding_is_enough(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes("\ufeff提示,答\n".encode(encoding))
    assert "expected UTF-8, came UTF-16; " in str(stopped(tmp_path / "a.csv"))


def test_a_json_array_and_a_line_without_end_are_named(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    file.write_text('[\n{"text": "a"}\n]')
    assert said(stopped(file, on_bad="skip"), file) == (
        "a.json:1: expected one JSON object a line, came a JSON array; write each of its objects "
        "on a line of its own")
    monkeypatch.setattr("kit.sources.MAX_ROW", 100)
    long = write(tmp_path / "b.jsonl", [{"text": "a"}, {"text": "a" * 100}])
    assert said(stopped(long, on_bad="skip"), long) == (
        "b.jsonl:2: expected a row a line, came a line of over 100 bytes; check the line ends and "
        "the file's format")


@pytest.mark.parametrize("text, came", [
    ("prompt;completion\na;b\n", "the columns prompt;completion (delimiter ';'?)"),
    ("prompt\tcompletion\na\tb\n", "the columns 'prompt\\tcompletion' (delimiter '\\t'?)"),
    ("every day,0 0 * * *\nat 8,0 8 * * *\n", "the columns every day, 0 0 * * *"),
    ("Prompt,Completion\na,b\n", "the columns Prompt, Completion"),
    ("id,prompt,completion\n1,a,b\n", "the columns id, prompt, completion"),
])
def test_a_wrong_delimiter_or_header_is_named_with_the_columns_found(tmp_path, text, came):
    file = tmp_path / "a.csv"
    file.write_text(text)
    assert said(stopped(file, "completion", on_bad="skip"), file) == (
        f"a.csv:1: expected exactly prompt, completion or text, delimited by ',', came {came}; "
        "correct the first line")


def test_a_column_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion,prompt\na,b,c\n")
    assert "expected each column once" in str(stopped(tmp_path / "a.csv"))


def test_an_open_quote_cannot_swallow_the_file(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('prompt,completion\na,b\nc,"d\n' + "e,f\n" * 9)
    assert said(stopped(file, on_bad="skip"), file) == (
        "a.csv:3: expected every quote closed, came one that never closes; close it or double it")


def test_cells_may_be_long_and_the_limit_of_csv_is_put_back(tmp_path):
    before = csv.field_size_limit(5000)
    try:
        (tmp_path / "a.csv").write_text("text\n" + "a" * 200_000 + "\n")
        assert len(records.read(tmp_path / "a.csv")[0]["text"]) == 200_000
        assert csv.field_size_limit() == 5000
    finally:
        csv.field_size_limit(before)


# After reading

def test_a_file_that_changed_is_not_trained_on(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"text": "aa"}, {"text": "bb"}])
    rows = records.read(file)
    twin = pickle.loads(pickle.dumps(rows))
    assert list(twin) == list(rows)
    write(file, [{"text": "aa"}, {"text": "cc"}])
    assert rows[0] == {"text": "aa"}
    with pytest.raises(DataError) as caught:
        rows[1]
    assert said(caught.value, file) == (
        "a.jsonl: expected the bytes that were checked, came others; the file changed: read it "
        "again")
    assert records.read(file)[1] == {"text": "cc"} and records.read(file).sha256 != rows.sha256


def test_duplicates_are_used_counted_and_listed(tmp_path):
    row, turned = {"prompt": "a", "completion": "b"}, {"completion": "b", "prompt": "a"}
    other = {"prompt": "a", "completion": "B"}
    rows = records.read(write(tmp_path / "a.jsonl", [row, other, turned, row]))
    assert rows.duplicates == [(2, 1, False), (3, 1, True), (4, 1, True)] and rows.rows_used == 4


def test_duplicates_by_case_space_and_unicode_form(tmp_path):
    def row(text, reply="0 8 * * *"):
        return chat(("user", text), ("assistant", reply))

    rows = records.read(write(tmp_path / "a.jsonl", [
        row("Café  ﬁve"), row("CAFE\u0301 five\u00a0"), row("cafe five"), row("café ﬁve", "0 8  * * *"),
        row("cafe five"),
        row("CAFE\u0301 five\u00a0")]))
    assert rows.duplicates == [(2, 1, False), (4, 1, False), (5, 3, True), (6, 2, True)]
    apart = [{"prompt": p, "completion": c} for p, c in (("a b", "c"), ("a", "b c"), ("a", "bc"))]
    assert records.read(write(tmp_path / "b.jsonl", apart)).duplicates == []


def test_training_rows_with_a_prompt_of_the_evaluation_rows_are_refused_or_rejected(tmp_path):
    train = [{"prompt": text, "completion": "x"} for text in ("at 8", "AT  8", "at 9")]
    file = write(tmp_path / "t.jsonl", ["", *train])
    asked, rows = [chat(("system", "s"), ("user", "at 8"))], records.read(file)
    with pytest.raises(DataError) as caught:
        records.split_leaked(rows, asked)
    assert said(caught.value, file) == (
        "t.jsonl:2: expected no prompt of the evaluation rows, came 'at 8' of evaluation row 1; line 3: expected no "
        "prompt of the evaluation rows, came 'at 8' but for case, space or Unicode form of evaluation row 1 (2 of 3 "
        'rows are bad); take them out of one of the files or read with on_bad="skip"')
    kept = records.split_leaked(rows, asked, "skip")
    assert ([row["prompt"] for row in kept], [p.line for p in kept.rejected]) == (["at 9"], [2, 3])
    assert kept.rows_in == kept.rows_used + len(kept.rejected) == 3
    assert list(records.split_leaked(rows, [chat(("user", "at 10"))])) == list(rows)


def test_leakage_by_case_space_and_unicode_form(tmp_path):
    def row(prompt):
        return {"prompt": prompt, "completion": "x"}

    train = records.read(write(tmp_path / "t.jsonl", [
        "", row("Every  day"), row("café ﬁve"), row("every day"), row("STRASSE"), row("no 5")]))
    evaluation = [row("at 8"), row("every day"), row(" every\u00a0Day"), row("CAFE\u0301 five"),
                  row("straße"), row("№ 5")]
    assert records.leakage(train, evaluation) == [
        (2, 4, "every day", True), (3, 2, " every\u00a0Day", False),
        (4, 3, "CAFE\u0301 five", False), (5, 5, "straße", False), (6, 6, "№ 5", False)]
    assert records.leakage(train, evaluation[:1]) == []


def test_leakage_of_chats_compares_the_questions_up_to_each_answer():
    train = [chat(("system", "s"), ("user", "a"), ("assistant", "x"), ("user", "b"),
                  ("assistant", "y"))]
    evaluation = [chat(("user", "A")), chat(("user", "b")), chat(("user", "a"), ("assistant", "z"),
                                                                   ("user", "b"))]
    assert records.leakage(train, evaluation) == [(1, 1, "A", False), (3, 1, "a\nb", True)]
    assert records.leakage(train, [{"prompt": "a", "completion": "q"}]) == [(1, 1, "a", True)]


def test_rows_too_long_become_rejections_with_their_line(tmp_path):
    texts = ["a", "bbb", "cc", "bbb", "dddd"]
    file = write(tmp_path / "a.jsonl", [{"text": text} for text in texts] + ["bad"])
    rows = records.read(file, on_bad="skip", rejected_path=tmp_path / "r.jsonl")
    for lengths in ([1, 3, 2, 3, 4], lambda row: len(row["text"])):
        kept = records.split_too_long(rows, lengths, 2)
        assert list(kept) == [{"text": "a"}, {"text": "cc"}] and kept.line(1) == 3
        assert [(p.line, p.expected, p.came) for p in kept.rejected[:3]] == [
            (2, "at most 2 tokens", "3 tokens"), (4, "at most 2 tokens", "3 tokens"),
            (5, "at most 2 tokens", "4 tokens")]
        assert kept.rows_in == kept.rows_used + len(kept.rejected) == 6
        assert [p.line for p, _ in records.read_rejected(tmp_path / "r.jsonl")] == [2, 4, 5, 6]
        assert (rows.duplicates, kept.duplicates) == ([(4, 2, True)], [])
    assert len(rows) == 5 and len(rows.rejected) == 1
    with pytest.raises(DataError, match="came 6 bad rows"):
        records.split_too_long(rows, [9] * 5, 2)
    with pytest.raises(SettingsError, match="expected 5 lengths, came 1"):
        records.split_too_long(rows, [1], 2)


def test_data_of_the_length_chart():
    told = records.length_quantiles(range(100, -1, -1), max_length=90)
    assert (told["rows"], told["dropped"], told["max_length"]) == (101, 10, 90)
    assert told["quantiles"][0.0] == 0 and told["quantiles"][0.95] == 95
    assert list(told["quantiles"].values()) == list(range(0, 101, 5))
    assert records.length_quantiles([])["quantiles"] == {}


# Command line, layers, memory

def command(*arguments):
    done = subprocess.run([sys.executable, "-m", "kit.records", *map(str, arguments)], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_the_command_line_reports_without_training(tmp_path):
    good = write(tmp_path / "a.jsonl", [GOOD["completion"]] * 2)
    bad = write(tmp_path / "b.jsonl", [GOOD["completion"], "x"])
    code, out, err = command(good, "--kind", "completion")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{good}: completion, sha256 {hashlib.sha256(good.read_bytes()).hexdigest()[:12]}",
        "rows: 2 in, 2 used, 0 rejected", "duplicates: 1", "  line 2 equals line 1",
        "characters a row: shortest 23, median 23, 95 of 100 at most 23, longest 23"]
    code, out, err = command(bad, "--kind", "completion")
    assert (code, out.splitlines()[1:3]) == (2, [
        "rows: 2 in, 1 used, 1 rejected", f"{bad}:2: expected JSON, came Expecting value at character 1"])
    assert err == (f"DataError: {bad}:2: expected JSON, came Expecting value at character 1 (1 of 2 rows is bad); "
                   "correct these rows or skip them\n")
    worse = write(tmp_path / "c.jsonl", ["x"] * 5)
    code, out, err = command(worse, "--kind", "chat")
    assert (code, out.splitlines()) == (2, [
        f"{worse}:{line}: expected JSON, came Expecting value at character 1" for line in range(1, 6)])
    assert err.endswith("expected at least one good row, came 5 bad rows; correct the file\n")
    code, out, err = command(bad, "--on-bad", "skip", "--json", "--rejected", tmp_path / "r.jsonl")
    told = json.loads(out)
    assert (code, told["rows_in"], told["rows_used"], told["rows_rejected"]) == (0, 2, 1, 1)
    assert told["problems"][0]["line"] == 2
    assert len(records.read_rejected(tmp_path / "r.jsonl")) == 1


def test_the_command_line_fails_on_a_shared_prompt(tmp_path):
    train = write(tmp_path / "a.jsonl", [GOOD["completion"]])
    held = write(tmp_path / "b.jsonl", [chat(("user", "Every day at 8")) | {"cron": None}])
    code, out, err = command(train, "--against", held, "--ignore", "id,cron")
    assert code == 2
    assert out.splitlines()[-1] == ("  line 1 = evaluation line 1 but for case, space or Unicode "
                                    "form: 'Every day at 8'")
    assert err == (f"DataError: {train}:1: expected no prompt of {held}, came 1 of them; take them "
                   "out of one of the files\n")


def test_importing_records_and_params_needs_the_standard_library_only():
    code = ("import sys, kit.records, kit.settings\n"
            "print(sorted({'torch', 'numpy', 'pyarrow', 'datasets', 'transformers', 'yaml'}"
            " & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_progress_is_shown_on_a_terminal_only(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    file = write(tmp_path / "a.jsonl", [{"text": "a" * 1_000_000}] * 18)
    for stream, told in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        records.read(file)
        said = stream.getvalue()
        assert ("50%" in said and "100%" in said and "\n" not in said) if told else said == ""


def test_progress_is_shown_in_a_notebook_for_long_files(tmp_path, monkeypatch):
    file = write(tmp_path / "a.jsonl", [{"text": "a" * 1_000_000}] * 36)
    for loaded, stride, told in ((True, 1 << 23, True), (False, 1 << 23, False), (True, 1 << 24, False)):
        stream = io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stderr", stream)
            patch.setattr("kit.sources.STRIDE", stride)
            patch.delitem(sys.modules, "ipykernel", raising=False)
            if loaded:
                patch.setitem(sys.modules, "ipykernel", io)
            records.read(file)
        assert (re.findall(r"(\d+)%", stream.getvalue()) == ["25", "50", "75", "100"]) == told
        assert told or stream.getvalue() == ""


def test_a_small_run_of_the_benchmark():
    path = ROOT / "benchmarks/read_records.py"
    spec = importlib.util.spec_from_file_location("read_records", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    small, large = (benchmark.measure(megabytes, ["kit.records"])[0] for megabytes in (1, 9))
    assert (small["cache"], large["cache"]) == (0, 0)
    assert large["rows"] > 8 * small["rows"] and large["last"]["messages"]
    # 8 MB more of source may cost 2 MB more of memory: rows stay on disk.
    assert large["peak"] - small["peak"] < 0.25 * (large["source"] - small["source"])
