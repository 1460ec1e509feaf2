"""What is said of a file of rows: its counts, its faults, its lengths."""

from kit.engine import row_checks

SHOWN = 20  # duplicates and leaks that are spelled out; the JSON report holds all


def length_quantiles(lengths, max_length=None) -> dict:
    """Data of a length chart: rows, the length at each twentieth of the rows, rows dropped."""
    ordered = sorted(lengths)
    last = len(ordered) - 1
    return {"rows": len(ordered),
            "quantiles": {step / 20: ordered[round(step / 20 * last)] for step in range(21)}
            if ordered else {},
            "max_length": max_length,
            "dropped": sum(max_length is not None and n > max_length for n in ordered)}


def report(records, against=None) -> dict:
    """What the command line says about a file, as plain values."""
    found = {name: getattr(records, name) for name in
             ("file", "kind", "sha256", "rows_in", "rows_used")}
    return found | {
        "rows_rejected": len(records.rejected),
        "problems": [problem._asdict() for problem in records.problems],
        "duplicates": records.duplicates,
        "characters": length_quantiles(map(row_checks.characters, records)),
        "leakage": None if against is None else [leak._asdict() for leak in row_checks.leakage(records, against)]}


def summary(told, problems):
    """Lines of the report for a reader."""
    yield f"{told['file']}: {told['kind']}, sha256 {told['sha256'][:12]}"
    yield f"rows: {told['rows_in']} in, {told['rows_used']} used, {told['rows_rejected']} rejected"
    yield from map(str, problems)
    yield f"duplicates: {len(told['duplicates'])}"
    yield from (f"  line {line} equals line {first}{row_checks.alike(exact)}"
                for line, first, exact in told["duplicates"][:SHOWN])
    points = told["characters"]["quantiles"]
    yield "characters a row: " + ", ".join(f"{name} {points[at]}" for name, at in (
        ("shortest", 0.0), ("median", 0.5), ("95 of 100 at most", 0.95), ("longest", 1.0)))
    if told["leakage"] is not None:
        yield f"prompts shared with the evaluation rows: {len(told['leakage'])}"
        yield from (f"  line {leak['train_line']} = evaluation line {leak['evaluation_line']}"
                    f"{row_checks.alike(leak['exact'])}: {leak['prompt'][:60]!r}" for leak in told["leakage"][:SHOWN])
