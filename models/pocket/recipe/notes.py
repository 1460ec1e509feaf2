"""Write calendar notes from a seed: plans in English with their parts, changed and compared.

A share of them, `course`, is in the phrases of the course's training rows (rows.py), the others in
our own words.

`documents(seed, course)` is the whole interface. The numbers are computed, so each note is true. No
cron is written: parts are listed with their names ("minute 30, hour 6, any date, month 3, weekdays
1 and 4"), and Sunday is weekday 0.

    python models/pocket/recipe/notes.py 5     prints five documents
"""

import random
import sys
from dataclasses import replace

from documents import CRON, load_phrases
from plans import draw_minute, draw_months, draw_plan, draw_weekdays, run
from replies import dress, missing, talk, uneven
from rows import conversations
from spoken import every, say, say_months, say_weekdays
from words import (
    DAYS,
    MONTHS,
    SHORT_DAYS,
    THINGS,
    VERBS,
    WRONG_DAYS,
    clock,
    day_name,
    join,
    month_name,
    nth,
    spread,
    word,
)

LABELS = (
    ("minute", "minutes"),
    ("hour", "hours"),
    ("date", "dates"),
    ("month", "months"),
    ("weekday", "weekdays"),
)


def list_parts(plan, rng):
    """Return the parts: 'minute 30, hour 6, any date, month 3', or without the parts that are
    any."""
    full, out = rng.random() < 0.75, []
    for (one, many), values in zip(LABELS, plan.parts()):
        if values is None:
            out += [rng.choice([f"any {one}", f"every {one}"])] if full else []
        elif one == "minute" and len(values) > 1 and values[0] == 0:
            out += [rng.choice([f"every {values[1]} minutes", f"minutes {spread(values, rng)}"])]
        elif (
            one == "hour"
            and len(values) > 1
            and values == tuple(range(0, 24, values[1] or 1))
            and values[1] > 1
        ):
            out += [rng.choice([f"every {values[1]} hours", f"hours {spread(values, rng)}"])]
        else:
            out += [f"{one if len(values) == 1 else many} {spread(values, rng)}"]
    return rng.choice([", ", ", ", "; ", "\n", " / "]).join(out)


def ask_for(plan, rng):
    """Return the plan, alone or inside a request, a title or a question."""
    when, task = say(plan, rng), f"{rng.choice(VERBS).replace('_', ' ')} {rng.choice(THINGS)}"
    text = rng.choice(
        [
            "{w}",
            "{w}",
            "{w}",
            "{t} {w}",
            "{w} {t}",
            "{w}, {t}",
            "please {t} {w}",
            "can you {t} {w}?",
            "{t}: {w}",
            "{w}: {t}",
            "remind me to {t} {w}",
            "I want to {t} {w}",
            "could you please {t} {w}?",
            "{t} {w}, please",
            "we {t} {w}",
            "pls {t} {w} thx",
            "make it {w}",
            "set it for {w}",
            "hi, {t} {w}",
            "I would like you to {t} {w}",
            "need to {t} {w}",
            "let it run {w}",
        ]
    ).format(w=when, t=task)
    return dress(text, rng)


FORMS = (
    "{0} = {1}",
    "{0} -> {1}",
    "{0} -> {1}",
    "{0}\n{1}",
    "{0} That is {1}.",
    "{0} ({1})",
    "{0}: {1}",
    "Q: {0}\nA: {1}",
    "User: {0}\nAssistant: {1}.",
    "- {0}\n- {1}",
    "Note: {0}\nIts numbers: {1}",
    "{0} Parts: {1}.",
)


def composition(rng):
    plan = draw_plan(rng)
    asked, parts = ask_for(plan, rng), list_parts(plan, rng)
    if rng.random() < 0.25:
        parts = rng.choice(
            ["{0}. That is {1}", "{0}, in other words {1}", "{1}, that is {0}"]
        ).format(parts, say(plan, rng))
    return rng.choice(FORMS).format(asked, parts)


def same_time(rng):
    h, m = (rng.randrange(24), draw_minute(rng))
    a, b = (clock(h, m, rng) if rng.random() < 0.7 else f"{clock(h, m, rng)}" for _ in range(2))
    fact = f"hour {h}, minute {m}"
    fact = rng.choice(
        [fact, f"minute {m}, hour {h}", f"{h:02d}:{m:02d}", f"minute {m} of hour {h}"]
    )
    return rng.choice(
        [
            f"{a} = {b}: {fact}",
            f"{a} is {fact}",
            f"{a} is the same as {h}:{m:02d}.",
            f"{b} -> {fact}",
            f"Q: which hour is {a}? A: {h}",
            f"Q: What minute is {a}?\nA: {m}",
            f"at {a}, {h}:{m:02d}, {fact}",
        ]
    )


def weekday_fact(rng):
    days = draw_weekdays(rng)
    said, num = say_weekdays(days, rng), spread(days, rng)
    d = rng.randrange(7)
    alias = rng.choice([DAYS[d], DAYS[d].lower(), *SHORT_DAYS[d], *WRONG_DAYS[d], DAYS[d] + "s"])
    return rng.choice(
        [
            f"{said}: weekday{'s' * (len(days) > 1)} {num}",
            f"{said} = {num}",
            f"{alias} is day {d}",
            f"{alias} = {d}",
            f"{alias} -> {DAYS[d]} -> {d}",
            f"{said} means {join([DAYS[x] for x in days], rng)}: {num}",
            f"Which days are left {said}? {num}.",
        ]
    )


def month_fact(rng):
    months, d = draw_months(rng), rng.randint(1, 31)
    m = months[0]
    hours = run(0, 23, 3, rng)
    n = rng.choice([2, 3, 4, 5, 6, 10, 12, 15, 20, 30])
    return rng.choice(
        [
            f"{say_months(months, rng)}: month{'s' * (len(months) > 1)} {spread(months, rng)}",
            f"{month_name(m, rng)} = month {m}",
            f"{MONTHS[m - 1]} is number {m}",
            f"the {nth(d, rng)} is date {d}",
            f"{word(d)} = {d}",
            f"between {clock(hours[0], 0, rng)} and {clock(hours[-1], 0, rng)}: hours {hours[0]}-{hours[-1]}",
            f"{every(n, 'minute', rng)}: minutes {spread(tuple(range(0, 60, n)), rng)}",
        ]
    )


def change(plan, rng):
    """Return (words, new plan) for one small edit."""
    kind = rng.randrange(8)
    one_time = (
        plan.minute is not None
        and len(plan.minute) == 1
        and plan.hour is not None
        and len(plan.hour) == 1
    )
    if kind < 2 and one_time:
        by = rng.choice([15, 30, 30, 60, 60, 120, 5, 10])
        later = rng.random() < 0.5
        total = plan.hour[0] * 60 + plan.minute[0] + (by if later else -by)
        said = {60: "an hour", 120: "two hours", 30: "half an hour"}.get(by, f"{by} minutes")
        if 0 <= total < 1440:
            text = rng.choice(
                [
                    f"{said} {'later' if later else 'earlier'}",
                    f"make it {said} {'later' if later else 'earlier'}, please",
                ]
            )
            return text, replace(plan, minute=(total % 60,), hour=(total // 60,))
    if kind < 4:
        minute, hour = (draw_minute(rng),), (rng.randrange(24),)
        t = clock(hour[0], minute[0], rng)
        return rng.choice(
            [
                f"at {t} instead",
                f"move it to {t}",
                f"no, {t}",
                f"change the time to {t}",
                f"make that {t}",
                f"{t} rather",
            ]
        ), replace(plan, minute=minute, hour=hour)
    if kind == 4 and plan.weekday and len(plan.weekday) < 6 and not plan.date:
        d = rng.choice([d for d in range(7) if d not in plan.weekday])
        name = day_name(d, rng)
        days = tuple(sorted((*plan.weekday, d)))
        return rng.choice(
            [f"also on {name}", f"add {name}", f"{name} too", f"and {name} as well"]
        ), replace(plan, weekday=days)
    if kind == 5 and (plan.weekday or not plan.date) and len(plan.weekday or range(7)) > 2:
        old = plan.weekday or tuple(range(7))
        d = rng.choice(old)
        name = day_name(d, rng)
        return rng.choice(
            [
                f"skip {name}",
                f"not on {name}",
                f"but never on {name}",
                f"leave out {name}",
                f"drop {name}",
            ]
        ), replace(plan, weekday=tuple(x for x in old if x != d))
    if kind == 6:
        months = draw_months(rng)
        return rng.choice(["only ", "but ", "", "just "]) + say_months(months, rng), replace(
            plan, month=months
        )
    days = draw_weekdays(rng)
    return rng.choice(
        [
            f"{say_weekdays(days, rng)} instead",
            f"only {say_weekdays(days, rng)}",
            f"make it {say_weekdays(days, rng)}",
        ]
    ), replace(plan, date=None, weekday=days)


SPEAKERS = (
    ("User: ", "Assistant: "),
    ("Q: ", "A: "),
    ("- ", "- "),
    ("", ""),
    ("", "Now: "),
    ("A: ", "B: "),
)


def dialogue(lines, rng):
    ask, answer = rng.choice(SPEAKERS)
    return "\n".join((answer if i % 2 else ask) + line for i, line in enumerate(lines))


def edited(rng):
    plan = draw_plan(rng)
    lines = [ask_for(plan, rng), list_parts(plan, rng)]
    for _ in range(rng.choice([1, 1, 2])):
        text, plan = change(plan, rng)
        lines += [
            dress(text, rng),
            rng.choice([list_parts, list_parts, list_parts, say])(plan, rng),
        ]
    return dialogue(lines, rng)


KINDS = (
    (composition, 58),
    (edited, 16),
    (same_time, 9),
    (weekday_fact, 5),
    (month_fact, 4),
    (missing, 4),
    (uneven, 3),
    (talk, 1),
)


def listed(rows, rng):
    """Return one conversation in the course's training phrases, each plan as its parts."""
    lines = [turn if isinstance(turn, str) else list_parts(turn, rng) for turn in next(rows)]
    return rng.choice(FORMS).format(*lines) if len(lines) == 2 else dialogue(lines, rng)


def note(rng, rows, course, phrases=()):
    """Return one note without cron lines and without the lower-case `phrases` of the test."""
    while True:
        kind = rng.choices([k for k, _ in KINDS], [w for _, w in KINDS])[0]
        text = listed(rows, rng) if course and rng.random() < course else kind(rng)
        low = text.lower()
        if "*" not in text and not CRON.search(text) and not any(p in low for p in phrases):
            return text


def documents(seed, course=0.5):
    """Yield documents of one to five notes, a share `course` of them in training phrases."""
    rng, rows, phrases = random.Random(seed), conversations(seed), load_phrases()
    while True:
        yield "\n".join(
            note(rng, rows, course, phrases) for _ in range(rng.choice([1, 1, 2, 3, 5]))
        )


if __name__ == "__main__":
    stream = documents(20261123)
    print("\n\n".join(next(stream) for _ in range(int(sys.argv[1]))))
