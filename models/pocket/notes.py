"""Calendar notes without end, seeded: plans in English with their parts listed, changed, questioned and compared.

`documents(seed)` is the whole interface. The numbers are computed, so each note is true. No cron is written: parts are
listed with their names ("minute 30, hour 6, any date, month 3, weekdays 1 and 4"), and Sunday is weekday 0.

    python models/pocket/notes.py 5     prints five documents
"""

import random
import re
import sys
from dataclasses import dataclass, replace

from spoken import (DAYS, MONTHS, SHORT_DAYS, THINGS, VERBS, WRONG_DAYS, clock, day_name, day_part, every, join, month_name, nth,
                    say, say_months, say_weekdays, spread, word)

LABELS = (("minute", "minutes"), ("hour", "hours"), ("date", "dates"), ("month", "months"), ("weekday", "weekdays"))
FIVE_NUMBERS = re.compile(r"(?<!\S)[\d*/,-]+(?:\s+[\d*/,-]+){4}|\*")


@dataclass(frozen=True)
class Plan:
    """Sorted numbers of a plan, None for any."""

    minute: tuple = (0,)
    hour: tuple = None
    date: tuple = None
    month: tuple = None
    weekday: tuple = None

    def parts(self):
        return self.minute, self.hour, self.date, self.month, self.weekday


def subset(low, high, size, rng):
    return tuple(sorted(rng.sample(range(low, high + 1), size)))


def run(low, high, least, rng):
    """A random run of at least `least` neighbours."""
    first = rng.randint(low, high - least + 1)
    return tuple(range(first, rng.randint(first + least - 1, high) + 1))


def draw_minute(rng):
    return rng.choice([0, 0, 0, 15, 30, 30, 45, rng.randrange(0, 60, 5), rng.randrange(0, 60, 5), rng.randrange(60)])


def draw_time(rng):
    """(minute, hour) of a plan."""
    kind = rng.random()
    hour = rng.randrange(24) if rng.random() < 0.5 else rng.randrange(6, 22)
    if kind < 0.52:
        return (draw_minute(rng),), (hour,)
    if kind < 0.66:
        return (draw_minute(rng),), subset(0, 23, rng.choice([2, 2, 2, 3, 3, 4]), rng)
    if kind < 0.80:
        step = rng.choice([None, 2, 3, 4, 5, 6, 10, 12, 15, 15, 20, 30])
        minutes = tuple(range(0, 60, step)) if step else None
        hours = run(0, 23, 3, rng) if rng.random() < 0.45 else (hour,) if rng.random() < 0.15 else None
        return minutes, hours
    if kind < 0.88:
        return (draw_minute(rng),), run(0, 23, 3, rng)
    if kind < 0.94:
        step = rng.choice([2, 3, 4, 6, 8, 12])
        return (draw_minute(rng) if rng.random() < 0.3 else 0,), tuple(range(0, 24, step))
    return ((draw_minute(rng),) if rng.random() < 0.7 else subset(1, 59, 2, rng)), None


def draw_weekdays(rng):
    kind = rng.random()
    if kind < 0.28:
        return (rng.randrange(7),)
    if kind < 0.44:
        return (1, 2, 3, 4, 5)
    if kind < 0.54:
        return (0, 6)
    if kind < 0.68:
        return run(0, 6, 3, rng)
    if kind < 0.80:
        gone = subset(0, 6, rng.choice([1, 1, 2]), rng)
        return tuple(d for d in range(7) if d not in gone)
    return subset(0, 6, rng.choice([2, 2, 3]), rng)


def draw_dates(rng):
    kind = rng.random()
    if kind < 0.6:
        return (1,) if kind < 0.12 else (rng.randint(1, 28),)
    return subset(1, 28, 2 if kind < 0.8 else 3, rng) if kind < 0.85 else run(1, 28, 3, rng)


def draw_months(rng):
    kind = rng.random()
    if kind < 0.5:
        return (rng.randint(1, 12),)
    return subset(1, 12, 2 if kind < 0.62 else 3, rng) if kind < 0.68 else (1, 4, 7, 10) if kind < 0.74 else run(1, 12, 3, rng)


def draw_plan(rng):
    minute, hour = draw_time(rng)
    kind = rng.random()
    weekday = draw_weekdays(rng) if kind < 0.55 else None
    date = draw_dates(rng) if 0.55 <= kind < 0.78 else None
    return Plan(minute, hour, date, draw_months(rng) if rng.random() < 0.24 else None, weekday)


def list_parts(plan, rng):
    """'minute 30, hour 6, any date, month 3, weekdays 1 and 4' or, shorter, without the parts that may be any."""
    full, out = rng.random() < 0.75, []
    for (one, many), values in zip(LABELS, plan.parts()):
        if values is None:
            out += [rng.choice([f"any {one}", f"every {one}"])] if full else []
        elif one == "minute" and len(values) > 1 and values[0] == 0:
            out += [rng.choice([f"every {values[1]} minutes", f"minutes {spread(values, rng)}"])]
        elif one == "hour" and len(values) > 1 and values == tuple(range(0, 24, values[1] or 1)) and values[1] > 1:
            out += [rng.choice([f"every {values[1]} hours", f"hours {spread(values, rng)}"])]
        else:
            out += [f"{one if len(values) == 1 else many} {spread(values, rng)}"]
    return rng.choice([", ", ", ", "; ", "\n", " / "]).join(out)


def ask_for(plan, rng):
    """The plan inside a request, a title, a question or nothing at all."""
    when, task = say(plan, rng), f"{rng.choice(VERBS).replace('_', ' ')} {rng.choice(THINGS)}"
    text = rng.choice(["{w}", "{w}", "{w}", "{t} {w}", "{w} {t}", "{w}, {t}", "please {t} {w}", "can you {t} {w}?", "{t}: {w}", "{w}: {t}",
                       "remind me to {t} {w}", "I want to {t} {w}", "could you please {t} {w}?", "{t} {w}, please", "we {t} {w}",
                       "pls {t} {w} thx", "make it {w}", "set it for {w}", "hi, {t} {w}", "I would like you to {t} {w}",
                       "need to {t} {w}", "let it run {w}"]).format(w=when, t=task)
    return dress(text, rng)


def dress(text, rng):
    """Case, a slip of the finger, a mark at the end."""
    if rng.random() < 0.1:
        words = text.split(" ")
        i = rng.randrange(len(words))
        if len(words[i]) > 4 and words[i].isalpha():
            k = rng.randrange(1, len(words[i]) - 1)
            w = words[i]
            words[i] = rng.choice([w[:k] + w[k + 1:], w[:k] + w[k + 1] + w[k] + w[k + 2:], w[:k] + w[k] + w[k:]])
        text = " ".join(words)
    style = rng.random()
    text = text.lower() if style < 0.35 else text.upper() if style < 0.37 else text[0].upper() + text[1:] if style < 0.75 else text
    return text + (rng.choice([".", ".", "!", ""]) if text[-1].isalnum() and rng.random() < 0.6 else "")


def composition(rng):
    plan = draw_plan(rng)
    asked, parts = ask_for(plan, rng), list_parts(plan, rng)
    if rng.random() < 0.25:
        parts = rng.choice(["{0}. That is {1}", "{0}, in other words {1}", "{1}, that is {0}"]).format(parts, say(plan, rng))
    return rng.choice(["{0} = {1}", "{0} -> {1}", "{0} -> {1}", "{0}\n{1}", "{0} That is {1}.", "{0} ({1})", "{0}: {1}", "Q: {0}\nA: {1}",
                       "User: {0}\nAssistant: {1}.", "- {0}\n- {1}", "Note: {0}\nIts numbers: {1}", "{0} Parts: {1}."]).format(asked, parts)


def same_time(rng):
    h, m = (rng.randrange(24), draw_minute(rng))
    a, b = (clock(h, m, rng) if rng.random() < 0.7 else f"{clock(h, m, rng)}" for _ in range(2))
    fact = f"hour {h}, minute {m}"
    fact = rng.choice([fact, f"minute {m}, hour {h}", f"{h:02d}:{m:02d}", f"minute {m} of hour {h}"])
    return rng.choice([f"{a} = {b}: {fact}", f"{a} is {fact}", f"{a} is the same as {h}:{m:02d}.", f"{b} -> {fact}", f"Q: which hour is {a}? A: {h}",
                       f"Q: What minute is {a}?\nA: {m}", f"at {a}, {h}:{m:02d}, {fact}"])


def weekday_fact(rng):
    days = draw_weekdays(rng)
    said, num = say_weekdays(days, rng), spread(days, rng)
    d = rng.randrange(7)
    alias = rng.choice([DAYS[d], DAYS[d].lower(), *SHORT_DAYS[d], *WRONG_DAYS[d], DAYS[d] + "s"])
    return rng.choice([f"{said}: weekday{'s' * (len(days) > 1)} {num}", f"{said} = {num}", f"{alias} is day {d}", f"{alias} = {d}", f"{alias} -> {DAYS[d]} -> {d}",
                       f"{said} means {join([DAYS[x] for x in days], rng)}: {num}", f"Which days are left {said}? {num}."])


def month_fact(rng):
    months, d = draw_months(rng), rng.randint(1, 31)
    m = months[0]
    hours = run(0, 23, 3, rng)
    n = rng.choice([2, 3, 4, 5, 6, 10, 12, 15, 20, 30])
    return rng.choice([f"{say_months(months, rng)}: month{'s' * (len(months) > 1)} {spread(months, rng)}", f"{month_name(m, rng)} = month {m}",
                       f"{MONTHS[m - 1]} is number {m}", f"the {nth(d, rng)} is date {d}", f"{word(d)} = {d}",
                       f"between {clock(hours[0], 0, rng)} and {clock(hours[-1], 0, rng)}: hours {hours[0]}-{hours[-1]}",
                       f"{every(n, 'minute', rng)}: minutes {spread(tuple(range(0, 60, n)), rng)}"])


def change(plan, rng):
    """(words, new plan) for one small edit."""
    kind = rng.randrange(8)
    one_time = plan.minute is not None and len(plan.minute) == 1 and plan.hour is not None and len(plan.hour) == 1
    if kind < 2 and one_time:
        by = rng.choice([15, 30, 30, 60, 60, 120, 5, 10])
        later = rng.random() < 0.5
        total = plan.hour[0] * 60 + plan.minute[0] + (by if later else -by)
        said = {60: "an hour", 120: "two hours", 30: "half an hour"}.get(by, f"{by} minutes")
        if 0 <= total < 1440:
            text = rng.choice([f"{said} {'later' if later else 'earlier'}", f"make it {said} {'later' if later else 'earlier'}, please"])
            return text, replace(plan, minute=(total % 60,), hour=(total // 60,))
    if kind < 4:
        minute, hour = (draw_minute(rng),), (rng.randrange(24),)
        t = clock(hour[0], minute[0], rng)
        return rng.choice([f"at {t} instead", f"move it to {t}", f"no, {t}", f"change the time to {t}", f"make that {t}", f"{t} rather"]), \
            replace(plan, minute=minute, hour=hour)
    if kind == 4 and plan.weekday and len(plan.weekday) < 6:
        d = rng.choice([d for d in range(7) if d not in plan.weekday])
        name = day_name(d, rng)
        return rng.choice([f"also on {name}", f"add {name}", f"{name} too", f"and {name} as well"]), \
            replace(plan, weekday=tuple(sorted((*plan.weekday, d))))
    if kind == 5 and (plan.weekday or not plan.date) and len(plan.weekday or range(7)) > 2:
        old = plan.weekday or tuple(range(7))
        d = rng.choice(old)
        name = day_name(d, rng)
        return rng.choice([f"skip {name}", f"not on {name}", f"but never on {name}", f"leave out {name}", f"drop {name}"]), \
            replace(plan, weekday=tuple(x for x in old if x != d))
    if kind == 6:
        months = draw_months(rng)
        return rng.choice(["only ", "but ", "", "just "]) + say_months(months, rng), replace(plan, month=months)
    days = draw_weekdays(rng)
    return rng.choice([f"{say_weekdays(days, rng)} instead", f"only {say_weekdays(days, rng)}", f"make it {say_weekdays(days, rng)}"]), \
        replace(plan, date=None, weekday=days)


def edited(rng):
    plan = draw_plan(rng)
    lines = [ask_for(plan, rng), list_parts(plan, rng)]
    for _ in range(rng.choice([1, 1, 2])):
        text, plan = change(plan, rng)
        lines += [dress(text, rng), rng.choice([list_parts, list_parts, list_parts, say])(plan, rng)]
    ask, answer = rng.choice([("User: ", "Assistant: "), ("Q: ", "A: "), ("- ", "- "), ("", ""), ("", "Now: "), ("A: ", "B: ")])
    return "\n".join((answer if i % 2 else ask) + line for i, line in enumerate(lines))
