"""The task of the course: plain English to one line of five-field cron, judged by firing times.

The judge is cronsim: two lines are equal when they fire at the same minutes, never when their
texts match. Extensions that five-field cron does not have (`L`, `#`, `W`, a seconds field) are
not valid here, although cronsim reads some of them. A question, a refusal and a decline are
judged by their kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import product

from cronsim import CronSim, CronSimError

from kit.errors import DataError

system = "Write a cron line."
train = "chat.jsonl"
completions = "completion.jsonl"
test = ["test.jsonl", "by_hand.jsonl"]
validation = "validation.jsonl"
pairs = "preferences.jsonl"
max_new_tokens = 48

# Two years and two months, with 29 February 2028 inside.
FIRST_DAY, LAST_DAY = date(2027, 1, 1), date(2029, 2, 28)

_NAME = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat"
_ITEM = rf"(?:\*|(?:\d{{1,2}}|{_NAME})(?:-(?:\d{{1,2}}|{_NAME}))?)(?:/\d{{1,2}})?"
_FIELD = re.compile(rf"{_ITEM}(?:,{_ITEM})*", re.IGNORECASE)
_ASTERISK_LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


def find_cron(text: str) -> str | None:
    """Return the one five-field line in `text`: bare, in backticks or inside a sentence.

    The line looks like cron but may be out of range: `is_valid` checks that. Two different lines, or
    six fields in a row, give None.
    """
    runs: list[list[str]] = [[]]
    for word in re.sub(r"[`\"\n]", " ; ", text).split():
        field = word.strip("()'.,;:!?")
        if word[0] in "('" or not _FIELD.fullmatch(field):
            runs.append([])
        if _FIELD.fullmatch(field):
            runs[-1].append(field)
            if not word.endswith(field):
                runs.append([])
    lines = {" ".join(run) for run in runs if len(run) >= 5}
    line = lines.pop() if len(lines) == 1 else ""
    return line if len(line.split()) == 5 else None


@lru_cache(maxsize=50_000)
def _parse(cron: str) -> CronSim | None:
    fields = cron.split()
    if len(fields) != 5 or not all(_FIELD.fullmatch(field) for field in fields):
        return None
    try:
        return CronSim(" ".join(fields), datetime.combine(FIRST_DAY, datetime.min.time()))
    except CronSimError:
        return None


def is_valid(cron: str) -> bool:
    """Return whether `cron` is five standard fields that cronsim accepts."""
    return _parse(cron) is not None


def _parsed(cron: str) -> CronSim:
    parsed = _parse(cron)
    if parsed is None:
        raise DataError(
            f"expected five cron fields like '30 9 * * 1-5', got {cron!r}; correct the line"
        )
    return parsed


def firing_times(cron: str, start: datetime, end: datetime) -> list[datetime]:
    """Return the minutes of [start, end) at which `cron` fires, from cronsim itself.

    Raises DataError for an invalid line.
    """
    _parsed(cron)
    times = []
    for moment in CronSim(cron, start - timedelta(seconds=1)):
        if moment >= end:
            break
        times.append(moment)
    return times


@lru_cache(maxsize=50_000)
def _firing_days(dom: str, month: str, dow: str) -> frozenset[date]:
    parsed = _parsed(f"0 0 {dom} {month} {dow}")
    days = (FIRST_DAY + timedelta(n) for n in range((LAST_DAY - FIRST_DAY).days + 1))
    return frozenset(d for d in days if d.month in parsed.months and parsed.match_day(d))


def _sets(parsed: CronSim) -> list[set[int]]:
    sunday_once = {day % 7 for day in parsed.weekdays}
    return [parsed.minutes, parsed.hours, parsed.days, parsed.months, sunday_once]


def same_schedule(a: str, b: str) -> bool:
    """Return whether `a` and `b` fire at the same minutes from 2027-01-01 to 2029-02-28.

    A line fires at (its days) x (its hours) x (its minutes), so comparing the three sets is
    exact and needs no walk over a million minutes. Days come from cronsim's own matching,
    which joins day of month and day of week with OR when both are restricted.
    Raises DataError for an invalid line.
    """
    left, right = _parsed(a), _parsed(b)
    if _sets(left) == _sets(right) and left.day_and == right.day_and:
        return True
    days = [_firing_days(*cron.split()[2:]) for cron in (a, b)]
    if days[0] != days[1]:
        return False
    return not days[0] or (left.hours, left.minutes) == (right.hours, right.minutes)


def _runs(values: list[int]) -> str:
    """Write sorted values as a list in which three or more neighbours become a range."""
    groups: list[list[int]] = []
    for value in values:
        if groups and value == groups[-1][-1] + 1:
            groups[-1].append(value)
        else:
            groups.append([value])
    parts = ([f"{g[0]}-{g[-1]}"] if len(g) > 2 else [str(value) for value in g] for g in groups)
    return ",".join(part for group in parts for part in group)


def _shortest(values: Iterable[int], field: int, star: bool) -> str:
    """Write one field's values in the shortest usual form; `star` allows `*` and `*/n`."""
    low, high = _ASTERISK_LIMITS[field]
    ordered = sorted(values)
    step = ordered[1] - ordered[0] if len(ordered) > 1 else 0
    if star and ordered == list(range(low, high + 1)):
        return "*"
    forms = [_runs(ordered)]
    even = step > 1 and ordered == list(range(ordered[0], ordered[-1] + 1, step))
    if even and field < 4:
        fills = ordered[0] == low and ordered[-1] + step > high
        if star and fills and ((high + 1 - low) % step == 0 or field == 2 and len(ordered) > 2):
            return f"*/{step}"
        if len(ordered) > 3:
            forms.append(f"{ordered[0]}-{ordered[-1]}/{step}")
    if field == 4 and 0 in ordered:
        # Sunday as 7 makes Friday to Sunday a range; 0 wins when both are equally long.
        forms.append(_runs([*ordered[1:], 7]))
    return min(forms, key=len)


@lru_cache(maxsize=50_000)
def canonical(cron: str) -> str:
    """Return the shortest usual form: `*/15` not `0,15,30,45`, `1-5` not `1,2,3,4,5` or MON-FRI.

    A day field keeps its leading star only where that keeps the firing times: the star decides
    between AND and OR of the two day fields. Raises DataError for an invalid line.
    """
    sets = _sets(_parsed(cron))
    fixed = [_shortest(sets[n], n, star=True) for n in (0, 1, 3)]
    for dom_star, dow_star in product((True, False), repeat=2):
        dom, dow = _shortest(sets[2], 2, dom_star), _shortest(sets[4], 4, dow_star)
        line = f"{fixed[0]} {fixed[1]} {dom} {fixed[2]} {dow}"
        if is_valid(line) and same_schedule(line, cron):
            return line
    return " ".join(cron.upper().split())


def kind(reply: str) -> str:
    """Return "cron", "ask", "cannot", "decline" or "other": what a reply is."""
    if find_cron(reply) is not None:
        return "cron"
    words = reply.casefold().replace("’", "'")
    if re.search(r"[*0-9/,-]+ +[*0-9/,-]+ +[*0-9/,-]+", words):
        return "other"
    if re.search(r"\b(?:cannot|can't|can not|no cron line)\b", words):
        return "cannot"
    if re.search(r"\bnot (?:a|about a) schedule\b|\bonly (?:write|do|answer)\b", words):
        return "decline"
    return "ask" if words.rstrip().endswith("?") else "other"


def judge(reply: str, right: str) -> bool:
    """Return whether `reply` fires when the line in `right` fires, or is of the same other kind.

    Raises DataError when `right` is no reply that can be right.
    """
    due = kind(right)
    if due == "other":
        raise DataError(
            "expected a right reply with one cron line, a question, a refusal or a decline, "
            f"got {right!r}; correct the row"
        )
    if due != "cron":
        return kind(reply) == due
    line, right_line = find_cron(reply), find_cron(right)
    _parsed(right_line)
    return line is not None and is_valid(line) and same_schedule(line, right_line)


def prefers(reply: str, right: str) -> bool:
    """Return whether `reply` is right and in the form that the rules of this task rank first.

    For a schedule: the canonical line and nothing else. For a question, a refusal or a decline:
    one sentence without a cron line.
    """
    if not judge(reply, right):
        return False
    if kind(right) == "cron":
        return reply.strip() == canonical(find_cron(reply))
    return len(re.findall(r"[.!?](?:\s|$)", reply.strip())) == 1
