"""The lever table is what the committed answers say, and pages quote it."""

import json
from pathlib import Path

from benchmarks import levers

PROJECT = Path(__file__).parents[2]
FILE = PROJECT / "benchmarks/results/levers.json"


def chain(base, rows, test=None, validation="0000", ids=100):
    record = {"base": base, "rows": rows, "seed": 0, "ids": {"sft_chat": ids}}
    record["validation"] = {"edits": validation, "wide wording": validation}
    return record | ({"test": {"edits": test, "by hand": test}} if test else {})


def result(*chains):
    bases = {"wide": {"history": [{"seconds": 12.4}]}, levers.PRESENT: {}, "earlier notes": {}}
    return {"chains": list(chains), "bases": bases}


def test_a_lever_is_read_from_the_test_where_both_sides_have_one():
    rows = levers.levers(
        result(
            chain(levers.PRESENT, levers.STANDARD, "0011"),
            chain("wide", levers.STANDARD, "0111", validation="1111", ids=120),
        )
    )
    assert [row["split"] for row in rows] == ["test"]
    assert rows[0]["edits"][0] == 0.25 and rows[0]["edits"][1] < 0.25 < rows[0]["edits"][2]
    assert rows[0]["by hand"][0] == 0.25 and rows[0]["test split"] is None
    assert rows[0]["cost"] == "+20% ids, one H100, 12 s"


def test_a_lever_without_a_test_is_read_from_validation():
    rows = levers.levers(
        result(
            chain(levers.PRESENT, levers.STANDARD, "0011"),
            chain(levers.PRESENT, levers.STANDARD + levers.QUESTIONS, validation="0001"),
        )
    )
    assert [row["split"] for row in rows] == ["validation"]
    assert rows[0]["by hand"] is None
    assert rows[0]["edits"][0] == rows[0]["wide wording"][0] == 0.25
    assert rows[0]["cost"] == "another loss in lesson 03"


def test_the_committed_tables_follow_from_the_committed_answers():
    assert FILE.stat().st_size < 150_000
    record = json.loads(FILE.read_text(encoding="utf-8"))
    assert record["levers"] == levers.levers(record)
    assert len(record["levers"]) == len(levers.LEVERS)
    assert {row["split"] for row in record["levers"]} == {"test", "validation"}
    for split in ("validation", "test"):
        assert record[split] == levers.table(record["chains"], split)


def test_the_pages_quote_the_chosen_lever():
    record = json.loads(FILE.read_text(encoding="utf-8"))
    row, log = record["levers"][0], (PROJECT / "benchmarks/LOG.md").read_text(encoding="utf-8")
    page = (PROJECT / "benchmarks/README.md").read_text(encoding="utf-8")
    for group in levers.GROUPS:
        assert f"{100 * row[group][0]:+.1f}" in page
    for row in record["levers"]:
        for group in (*levers.GROUPS, "wide wording"):
            if row.get(group):
                numbers = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * x for x in row[group]))
                assert numbers in log, (row["lever"], group)
