"""Each promise of the readers, broken once: `promises` holds for kit.records and must fail for every mutant."""

import json
import unicodedata

import pytest

from kit import records, sources, tables
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
    b'{"prompt": "extra", "completion": "x", "label": 1}\n',
    b'{"prompt": "\\ud800", "completion": "x"}\n',
    b'{"prompt": "2024-01-01", "completion": "1e5\\r\\n"}\n',
    b'{"prompt": " NA ", "completion": "null"}\n',
    b'{"prompt": "na", "completion": "NULL"}',
]
GOOD = [(1, " NA ", "null"), (2, "caf\u00e9 \ufb01ve", "007"), (10, "2024-01-01", "1e5\r\n"), (11, " NA ", "null"),
        (12, "na", "NULL")]
FAULTS = [(4, None, "prompt twice"), (5, None, "NaN"), (6, None, "the byte 0xe9 at byte 19"), (7, "completion", "'  '"),
          (8, None, "the columns prompt, completion, label"),
          (9, "prompt", "the lone surrogate '\\ud800' at character 1")]
BAD = [line for line, *_ in FAULTS]
CHATS = [[("user", "u"), ("assistant", "a")], [("user", "u"), ("bot", "a")], [("user", "u")],
         [("user", "u"), ("user", "v"), ("assistant", "a")], [("user", "u"), ("assistant", "a"), ("bot", "b")]]


def promises(folder):
    """Assert what reading promises, each part by an exact value."""
    file, kept = folder / "rows.jsonl", folder / "rejected.jsonl"
    file.write_bytes(b"".join(LINES))
    rows = records.read(file, "completion", on_bad="skip", rejected_path=kept)
    assert [(rows.line(i), row["prompt"], row["completion"]) for i, row in enumerate(rows)] == GOOD
    assert rows.rows_in == rows.rows_used + len(rows.rejected) == 11
    assert [(problem.line, raw) for problem, raw in records.read_rejected(kept)] == [(n, LINES[n - 1]) for n in BAD]
    assert [(p.line, p.field, p.came) for p in rows.problems] == FAULTS
    assert rows.duplicates == [(11, 1, True), (12, 1, False)]
    with pytest.raises(DataError) as caught:
        records.read(file, "completion")
    assert [p.line for p in caught.value.problems] == BAD and caught.value.line == 4
    table_promises(folder)
    chat_promises(folder)
    changed = [{"prompt": "A  Day", "completion": "x"}, {"prompt": "b", "completion": "x"}]
    assert [leak[:2] for leak in records.leakage(changed, [{"prompt": "a day", "completion": "y"}])] == [(1, 1)]
    kept = records.split_too_long(rows, [3, 9, 3, 3, 4], 3)
    assert [kept.line(i) for i in range(len(kept))] == [1, 10, 11] and {2, 12} <= {p.line for p in kept.rejected}
    file.write_bytes(b"".join(LINES).replace(b"2024", b"2025"))
    with pytest.raises(DataError, match="the file changed"):
        rows[2]


def table_promises(folder):
    """CSV cells are text as written, and a Dataset or Parquet file gives what JSON Lines gives."""
    import datasets
    import pyarrow
    from pyarrow import parquet

    want = [{"prompt": p, "completion": c} for _, p, c in GOOD[:3]]
    (folder / "a.csv").write_bytes(b"\xef\xbb\xbfprompt,completion\r\n" + "".join(
        f'{p},"{c}"\r\n' for _, p, c in GOOD[:3]).encode())
    parquet.write_table(pyarrow.Table.from_pylist(want), folder / "a.parquet")
    assert list(records.read(folder / "a.csv")) == want
    assert list(records.read(folder / "a.parquet")) == want == list(records.read(datasets.Dataset.from_list(want)))
    with pytest.raises(KitError, match="delimiter ';'"):
        (folder / "b.csv").write_text("prompt;completion\na;b\n")
        records.read(folder / "b.csv")


def chat_promises(folder):
    """Roles are known and take turns; a pair has two answers."""
    file = folder / "chat.jsonl"
    rows = [{"messages": [{"role": r, "content": c} for r, c in row]} for row in CHATS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [p.line for p in records.read(file, "chat", on_bad="skip").rejected] == [2, 3, 4, 5]
    file.write_text("".join(json.dumps({"prompt": "p", "chosen": "a", "rejected": r}) + "\n" for r in "ab"))
    assert [p.line for p in records.read(file, "preferences", on_bad="skip").rejected] == [1]


def test_the_promises_hold(tmp_path):
    promises(tmp_path)


def rows_dropped(patch):
    """A bad row is passed over without a word, as a loader's `errors="ignore"` does."""
    scan = sources.TextFile.scan
    patch.setattr(sources.TextFile, "scan", lambda *a: (found for found in scan(*a) if not found[3]))


def lines_counted_without_blanks(patch):
    scan = sources.TextFile.scan
    patch.setattr(sources.TextFile, "scan", lambda *a: ((n, *rest) for n, (_, *rest) in enumerate(scan(*a), 1)))


def last_of_two_fields_wins(patch):
    patch.setattr(sources, "distinct", dict)


def nan_is_read(patch):
    patch.setattr(sources, "no_constant", float)


def bytes_replaced(patch):
    def parse(raw, field=None):
        try:
            return json.loads(raw.decode(errors="replace"), object_pairs_hook=sources.distinct,
                              parse_constant=sources.no_constant), None
        except ValueError as error:
            return None, [(field, "JSON", str(error))]

    patch.setattr(sources, "parse_json", parse)


def mark_kept(patch):
    patch.setattr(sources.TextFile, "without_mark", lambda self, raw: (raw, 0))


def text_stripped(patch):
    parse = sources.parse_json
    patch.setattr(sources, "parse_json", lambda *a: stripped(*parse(*a)))


def stripped(value, found):
    if isinstance(value, dict):
        value = {k: v.strip() if isinstance(v, str) else v for k, v in value.items()}
    return value, found


def text_normalised(patch):
    parse = sources.parse_json

    def normalised(raw, field=None):
        value, found = parse(raw, field)
        return ({k: unicodedata.normalize("NFKC", v) if isinstance(v, str) else v for k, v in value.items()}
                if isinstance(value, dict) else value), found

    patch.setattr(sources, "parse_json", normalised)


def cells_guessed(patch):
    """What pandas makes of NA, null and 007."""
    cells = sources.TextFile.from_cells

    def guessed(self, values):
        return cells(self, [str(int(v)) if v.isdigit() else v for v in values])

    patch.setattr(sources.TextFile, "from_cells", guessed)


def empty_accepted(patch):
    faults = row_checks.text_faults
    patch.setattr(row_checks, "text_faults", lambda *a: [f for f in faults(*a) if f[1] != "text that is not empty"])


def columns_ignored(patch):
    fault = row_checks.column_fault
    patch.setattr(row_checks, "column_fault", lambda columns, kind, ignore=(): fault(
        [name for name in columns if name != "label"], kind, ignore))


def roles_dropped(patch):
    faults = row_checks.turn_faults
    patch.setattr(row_checks, "turn_faults", lambda messages, *a, **k: faults(
        [m for m in messages if m["role"] in row_checks.ROLES], *a, **k))


def last_turn_unchecked(patch):
    faults = row_checks.turn_faults
    patch.setattr(row_checks, "turn_faults", lambda messages, field, first, allow_last_user=False, last="assistant": faults(
        messages, field, first, True, last))


def equal_pairs_accepted(patch):
    patch.setattr(row_checks, "pair_faults", lambda row: [])


def first_problem_only(patch):
    sent = records.bad_rows
    patch.setattr(records, "bad_rows", lambda file, problems, *a: sent(file, problems[:1], *a))


def rejected_as_parsed(patch):
    raw = sources.TextFile.raw
    patch.setattr(sources.TextFile, "raw", lambda *a: raw(*a).strip())


def changed_file_unseen(patch):
    patch.setattr(sources.zlib, "crc32", lambda raw: 0)


def duplicates_by_bytes(patch):
    patch.setattr(row_checks, "levelled_row", lambda row: row)


def leaks_by_bytes(patch):
    patch.setattr(row_checks, "levelled", lambda text: text)


def too_long_cut(patch):
    patch.setattr(records.Records, "reject", lambda self, faults: self)


def nulls_for_text(patch):
    patch.setattr(tables, "without_nulls", lambda row: {k: None if v == "null" else v for k, v in row.items()})


MUTANTS = [rows_dropped, lines_counted_without_blanks, last_of_two_fields_wins, nan_is_read, bytes_replaced, mark_kept,
           text_stripped, text_normalised, cells_guessed, empty_accepted, columns_ignored, roles_dropped,
           last_turn_unchecked, equal_pairs_accepted, first_problem_only, rejected_as_parsed, changed_file_unseen,
           duplicates_by_bytes, leaks_by_bytes, too_long_cut, nulls_for_text]


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda f: f.__name__)
def test_mutants_of_reading_are_seen(tmp_path, monkeypatch, mutate):
    mutate(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception, KitError)):
        promises(tmp_path)
