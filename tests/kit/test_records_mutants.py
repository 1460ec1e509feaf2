"""Break each promise of the readers once: `promises` holds and must fail for every mutant."""

import json
import unicodedata

import pytest

from kit import records
from kit.engine import row_checks
from kit.errors import DataError, KitError

LINES = [
    b'\xef\xbb\xbf{"prompt": " NA ", "completion": "null"}\r\n',
    b'{"prompt": "caf\\u00e9 \xef\xac\x81ve", "completion": "007"}\n',
    b"\n",
    b'{"prompt": "twice", "prompt": "gone", "completion": "x"}\n',
    b'{"prompt": "not a number", "completion": NaN}\n',
    b'{"prompt": "bytes \xe9", "completion": "x"}\n',
    b'{"prompt": "role", "completion": "  "}\n',
    b'{"prompt": "header", "Completion": "x"}\n',
    b'{"prompt": "\\ud800", "completion": "x"}\n',
    b'{"prompt": "2024-01-01", "completion": "1e5\\r\\n"}\n',
    b'{"prompt": " NA ", "completion": "null"}\n',
    b'{"prompt": "na", "completion": "NULL"}',
]
GOOD = [
    (1, " NA ", "null"),
    (2, "caf\u00e9 \ufb01ve", "007"),
    (10, "2024-01-01", "1e5\r\n"),
    (11, " NA ", "null"),
    (12, "na", "NULL"),
]
FAULTS = [
    (4, None, "the field prompt twice"),
    (5, "completion", "nan"),
    (6, None, 'the byte 0xe9 after \'{"prompt": "bytes \''),
    (7, "completion", "'  '"),
    (8, None, "the columns prompt, Completion"),
    (9, "prompt", "the lone surrogate '\\ud800'"),
]
BAD = [line for line, *_ in FAULTS]
CHATS = [
    [("user", "u"), ("assistant", "a")],
    [("user", "u"), ("bot", "a")],
    [("user", "u")],
    [("user", "u"), ("user", "v"), ("assistant", "a")],
    [("user", "u"), ("assistant", "a"), ("bot", "b")],
]


def promises(folder):
    """Assert what reading promises, each part by an exact value."""
    file, rejected = folder / "rows.jsonl", folder / "rejected.jsonl"
    file.write_bytes(b"".join(LINES))
    rows = records.read(file, "completion", on_bad="skip")
    rows.write_rejected(rejected)
    assert [(line, row["prompt"], row["completion"]) for line, row in zip(rows.lines, rows)] == GOOD
    assert rows.rows_in == len(rows) + len(rows.rejected) == 11
    lines = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert [(line["line"], line["raw"].encode(errors="surrogateescape")) for line in lines] == [
        (n, LINES[n - 1]) for n in BAD
    ]
    assert [(p.line, p.field, p.got) for p in rows.problems] == FAULTS
    assert rows.duplicates == [(11, 1, True), (12, 1, False)]
    with pytest.raises(DataError) as caught:
        records.read(file, "completion")
    assert [p.line for p in caught.value.problems] == BAD and caught.value.line == 4
    table_promises(folder)
    chat_promises(folder)
    changed = [{"prompt": "A  Day", "completion": "x"}, {"prompt": "b", "completion": "x"}]
    leaks = row_checks.leakage(changed, [{"prompt": "a day", "completion": "y"}])
    assert list(leaks) == [0]
    rest = records.split_too_long(rows, [3, 9, 3, 3, 4], 3)
    assert list(rest.lines) == [1, 10, 11] and {2, 12} <= {p.line for p in rest.rejected}
    before = file.read_bytes()
    with pytest.raises(DataError, match="an input file"):
        rows.write_rejected(file)
    assert file.read_bytes() == before


def table_promises(folder):
    """CSV cells are text as written, and a Dataset or Parquet file gives what JSON Lines gives."""
    import datasets
    import pyarrow
    from pyarrow import parquet

    want = [{"prompt": p, "completion": c} for _, p, c in GOOD[:3]]
    (folder / "a.csv").write_bytes(
        b"\xef\xbb\xbfprompt,completion\r\n"
        + "".join(f'{p},"{c}"\r\n' for _, p, c in GOOD[:3]).encode()
    )
    parquet.write_table(pyarrow.Table.from_pylist(want), folder / "a.parquet")
    assert list(records.read(folder / "a.csv")) == want
    assert (
        list(records.read(folder / "a.parquet"))
        == want
        == list(records.read(datasets.Dataset.from_list(want)))
    )
    with pytest.raises(KitError, match="the columns prompt;completion"):
        (folder / "b.csv").write_text("prompt;completion\na;b\n")
        records.read(folder / "b.csv")


def chat_promises(folder):
    """Roles are known and take turns; a pair has two answers."""
    file = folder / "chat.jsonl"
    rows = [{"messages": [{"role": r, "content": c} for r, c in row]} for row in CHATS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [p.line for p in records.read(file, "chat", on_bad="skip").rejected] == [2, 3, 4, 5]
    pairs = [{"prompt": "p", "chosen": "a", "rejected": other} for other in ("a", "b", "a ")]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    assert [p.line for p in records.read(file, "preferences", on_bad="skip").rejected] == [1, 3]


def test_the_promises_hold(tmp_path):
    promises(tmp_path)


def rows_dropped(patch):
    """A bad row is passed over without a word, as a loader's `errors="ignore"` does."""
    rows = records.json_rows
    patch.setattr(
        records,
        "json_rows",
        lambda *a: (row for row in rows(*a) if not row_checks.parse(row[2])[1]),
    )


def lines_counted_without_blanks(patch):
    rows = records.json_rows
    patch.setattr(
        records, "json_rows", lambda *a: ((n, *rest) for n, (_, *rest) in enumerate(rows(*a), 1))
    )


def last_of_two_fields_wins(patch):
    patch.setattr(row_checks, "distinct", dict)


def bytes_replaced(patch):
    rows = records.json_rows
    patch.setattr(
        records,
        "json_rows",
        lambda *a: (
            (n, raw, content.decode(errors="replace").encode(), faults)
            for n, raw, content, faults in rows(*a)
        ),
    )


def mark_not_removed(patch):
    def lines(file, digest):
        return enumerate(open(file, "rb"), 1)

    patch.setattr(records, "text_lines", lines)


def text_changed(patch, change):
    row = records.Records.row
    patch.setattr(
        records.Records,
        "row",
        lambda *a: {
            name: change(text) if isinstance(text, str) else text for name, text in row(*a).items()
        },
    )


def text_stripped(patch):
    text_changed(patch, str.strip)


def text_normalised(patch):
    text_changed(patch, lambda text: unicodedata.normalize("NFKC", text))


def cells_guessed(patch):
    """What pandas makes of NA, null and 007."""
    cells = records.as_json
    patch.setattr(
        records,
        "as_json",
        lambda header, values: cells(header, [str(int(v)) if v.isdigit() else v for v in values]),
    )


def empty_accepted(patch):
    faults = row_checks.text_faults
    patch.setattr(
        row_checks,
        "text_faults",
        lambda *a: [f for f in faults(*a) if f[1] != "text that is not empty"],
    )


def columns_ignored(patch):
    patch.setattr(row_checks, "form_of", lambda row, kind: ("completion", tuple(row), None))


def roles_dropped(patch):
    faults = row_checks.turn_faults
    patch.setattr(
        row_checks,
        "turn_faults",
        lambda messages, *a, **k: faults(
            [m for m in messages if m["role"] in ("system", "user", "assistant")], *a, **k
        ),
    )


def last_turn_unchecked(patch):
    faults = row_checks.turn_faults
    patch.setattr(
        row_checks,
        "turn_faults",
        lambda *a: [fault for fault in faults(*a) if "in the last message" not in fault[1]],
    )


def equal_pairs_accepted(patch):
    patch.setattr(row_checks, "pair_faults", lambda row: [])


def pairs_compared_by_bytes(patch):
    patch.setattr(row_checks, "visible", lambda answer: answer)


def first_problem_only(patch):
    sent = records.bad_rows
    patch.setattr(records, "bad_rows", lambda file, problems, *a: sent(file, problems[:1], *a))


def rejected_as_parsed(patch):
    rows = records.json_rows
    patch.setattr(
        records, "json_rows", lambda *a: ((n, raw.strip(), *rest) for n, raw, *rest in rows(*a))
    )


def inputs_written(patch):
    write = records.write_lines
    patch.setattr(records, "write_lines", lambda file, lines, inputs: write(file, lines))


def duplicates_by_bytes(patch):
    patch.setattr(row_checks, "levelled", tuple)


def leaks_by_bytes(patch):
    patch.setattr(row_checks, "level", lambda text: text)


def too_long_cut(patch):
    patch.setattr(records.Records, "reject", lambda self, *a, **k: self)


def nulls_for_text(patch):
    patch.setattr(
        records,
        "without_nulls",
        lambda row: {name: None if row[name] == "null" else row[name] for name in row},
    )


MUTANTS = [
    rows_dropped,
    lines_counted_without_blanks,
    last_of_two_fields_wins,
    bytes_replaced,
    mark_not_removed,
    text_stripped,
    text_normalised,
    cells_guessed,
    empty_accepted,
    columns_ignored,
    roles_dropped,
    last_turn_unchecked,
    equal_pairs_accepted,
    pairs_compared_by_bytes,
    first_problem_only,
    rejected_as_parsed,
    inputs_written,
    duplicates_by_bytes,
    leaks_by_bytes,
    too_long_cut,
    nulls_for_text,
]


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda f: f.__name__)
def test_mutants_of_reading_are_seen(tmp_path, monkeypatch, mutate):
    mutate(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception, KitError)):
        promises(tmp_path)
