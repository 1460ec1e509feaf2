"""Schedules that the narrow grammar does not say: the last run as an end, a first run, unions of
days, split tasks."""

from __future__ import annotations

from phrases import (
    HOUR_STEPS,
    MINUTE_STEPS,
    Ask,
    Part,
    at,
    bare_schedule,
    between,
    clock,
    clock_12,
    clock_24,
    day_part,
    draw_time,
    every_minutes,
    joined,
    minute_step,
    past_the_hour,
)
from target import canonical, is_valid
from wordings import Voice, day_name, noisy, number, task, wrapped

ALWAYS = (
    "round the clock",
    "around the clock",
    "all day",
    "all day long",
    "day and night",
    "24/7",
    "24 hours a day",
    "at all hours",
    "the whole day",
    "without a break",
    "nonstop",
    "all the time",
    "continuously",
)


def last_run(voice: Voice) -> Part:
    """Every n minutes, or hourly at a minute, between a first and a last run."""
    first = voice.rng.randrange(0, 22)
    last = voice.rng.randrange(first, 24)
    style = voice.pick((clock_24, clock_12, clock_12))
    if last == first or voice.chance(0.65):
        n = voice.pick((5, 10, 10, 15, 15, 20, 30, 30, 12, 6))
        start, end, field = 0, 60 - n, f"*/{n}"
        text = every_minutes(voice, n)
    else:
        start = end = voice.pick((0, 5, 10, 15, 15, 20, 30, 30, 40, 45, 45, 50, 55))
        text, field = past_the_hour(voice, start), str(start)
    state = voice.rng.getstate()
    said = []
    for h, m in ((first, start), (last, end)):
        voice.rng.setstate(state)
        said.append(style(voice, h, m))
    forms = (
        f"from {said[0]} to {said[1]}",
        f"from {said[0]} until {said[1]}",
        f"between {said[0]} and {said[1]}",
        f"first at {said[0]} and last at {said[1]}",
        f"first run {said[0]}, last run {said[1]}",
        f"{said[0]}-{said[1]}",
        f"from {said[0]}, the last one at {said[1]}",
        f"{said[0]} .. {said[1]}",
        *between(*said),
    )
    text = voice.pick((f"{text} {voice.pick(forms)}", f"{text}, {voice.pick(forms)}"))
    return Part(text, (field, f"{first}-{last}" if last > first else str(first)), "step")


def hour_steps(voice: Voice) -> Part:
    """Every n hours from a first hour on, within hours, on odd hours, or all day long."""
    draw, n = voice.rng.random(), voice.pick(HOUR_STEPS)
    count = number(voice, n)
    style = voice.pick((clock_24, clock_12))
    if draw < 0.3:
        first = voice.rng.randrange(1, n) if n > 2 else 1
        said = style(voice, first, 0)
        hours = ",".join(str(h) for h in range(first, 24, n))
        text = voice.pick(
            (
                f"every {count} hours starting at {said}",
                f"every {count} hours from {said}",
                f"every {count} hours, first at {said}",
                f"every {n}h beginning {said}",
                f"every {count} hours, {said} onwards",
                f"every {count} hours, counting from {said}",
            )
        )
        return Part(text, ("0", hours), "step")
    if draw < 0.45:
        text = voice.pick(
            (
                f"every {count} hours starting at midnight",
                f"every {count} hours from midnight",
                f"every {n} hours beginning at 00:00",
                f"every {count} hours, first at midnight",
                f"every {count} hours, midnight first",
                f"every {n} hours on the hour from 0:00",
            )
        )
        return Part(text, ("0", f"*/{n}"), "step")
    if draw < 0.6:
        m = voice.pick((0, 0, 15, 30, 45, 5, 10))
        tail = (
            voice.pick(("on the hour", ""))
            if m == 0
            else voice.pick((f"at {m} past", f"at :{m:02}", f"at minute {m}"))
        )
        every = voice.pick(
            ("every odd hour", "on odd hours", "every odd-numbered hour", "at odd hours")
        )
        text = f"{every} {tail}".strip()
        return Part(text, (str(m), "1-23/2"), "step")
    if draw < 0.8:
        n = voice.pick((2, 2, 3, 4))
        first = voice.rng.randrange(0, 14)
        last = first + n * voice.rng.randrange(2, (23 - first) // n + 1)
        said = style(voice, first, 0), style(voice, last, 0)
        return Part(
            f"every {number(voice, n)} hours {voice.pick(between(*said))}",
            ("0", f"{first}-{last}/{n}"),
            "step",
        )
    every = voice.pick(
        (f"every {count} hours", f"every {n}h", f"every {n} hrs", f"once every {count} hours")
    )
    return Part(f"{every} {voice.pick(ALWAYS)}", ("0", f"*/{n}"), "step")


def minutes_of_hours(voice: Voice) -> Part:
    """Every minute of a short span, the first minutes of each hour, steps all day long or from a
    minute on."""
    draw = voice.rng.random()
    if draw < 0.25:
        h, n = voice.rng.randrange(24), voice.pick((5, 10, 10, 15, 20, 30, 29, 45))
        style = voice.pick((clock_24, clock_12))
        said = (
            f"{h:02}:00" if style is clock_24 or h % 12 == 0 else style(voice, h, 0),
            style(voice, h, n),
        )
        text = voice.pick(("every minute", "each minute", "once a minute", "every min"))
        return Part(f"{text} {voice.pick(between(*said))}", (f"0-{n}", str(h)), "step")
    if draw < 0.4:
        n = voice.pick((5, 10, 15, 20, 30))
        text = voice.pick(
            (
                f"every minute in the first {n} minutes of each hour",
                f"during the first {n} minutes of every hour",
                f"the first {number(voice, n)} minutes of every hour",
                f"every minute from :00 to :{n - 1:02} of each hour",
            )
        )
        return Part(text, (f"0-{n - 1}", "*"), "step")
    if draw < 0.6:
        n = voice.pick((10, 15, 15, 20, 30))
        first = voice.rng.randrange(1, n)
        text = voice.pick(
            (
                f"every {number(voice, n)} minutes starting at {first} past",
                f"every {n} minutes from minute {first}",
                f"every {n} minutes, starting {first} minutes past the hour",
                f"every {n} min starting at minute {first}",
                f"every {n} minutes, first at :{first:02}",
            )
        )
        return Part(text, (",".join(str(m) for m in range(first, 60, n)), "*"), "step")
    n = voice.pick(MINUTE_STEPS)
    return Part(f"{every_minutes(voice, n)} {voice.pick(ALWAYS)}", (f"*/{n}", "*"), "step")


def twice(voice: Voice) -> Part:
    """Two times of day said one after the other."""
    h = sorted(voice.rng.sample(range(24), 2))
    m = voice.pick((0, 0, 0, 30, 15, 45, draw_time(voice)[1]))
    style = voice.pick((clock_24, clock_12, clock_12))
    state = voice.rng.getstate()
    said = []
    for hour in h:
        voice.rng.setstate(state)
        said.append(style(voice, hour, m))
    text = voice.pick(
        (
            "at {a} and again at {b}",
            "at {a} and at {b}",
            "both at {a} and {b}",
            "once at {a} and once at {b}",
            "{a} and {b}",
            "first at {a}, then at {b}",
            "at {a}, then again at {b}",
            "twice: {a} and {b}",
            "at {a} plus at {b}",
            "at {a} as well as {b}",
            "at {a} and also {b}",
            "{a} + {b}",
            "{a}/{b}",
            "at {a}, {b}",
        )
    ).format(a=said[0], b=said[1])
    return Part(text, (str(m), ",".join(map(str, h))), "clock")


def more_days(voice: Voice) -> Part:
    """Unions of days: weekdays and Saturday, Monday to Wednesday and Friday."""
    if voice.chance(0.5):
        extra = voice.pick((0, 6))
        name = day_name(voice, extra, voice.chance(0.4))
        base = voice.pick(
            (
                "weekdays",
                "Mon-Fri",
                "Monday to Friday",
                "on weekdays",
                "every weekday",
                "working days",
            )
        )
        field = "1-6" if extra else "0-5"
        text = voice.pick(
            (
                f"{base} and {name}",
                f"{base} plus {name}",
                f"{base} and also {name}",
                f"{base} & {name}",
                f"{base} and on {name}",
                f"{base} + {name}",
                f"{base}, and {name} too",
            )
        )
        return Part(text, ("*", "*", field), "day")
    first = voice.pick((1, 1, 1, 2))
    last = first + voice.pick((1, 2))
    other = voice.pick([d for d in (0, 4, 5, 6) if d == 0 or d > last + 1])
    short = voice.chance(0.5)
    a, b, c = (day_name(voice, d, short) for d in (first, last, other))
    text = voice.pick(
        (
            f"{a}-{b} and {c}",
            f"{a} to {b} and {c}",
            f"from {a} to {b} and on {c}",
            f"{a} through {b} plus {c}",
            f"{a} to {b} and also {c}",
            f"{a}-{b}, {c}",
        )
    )
    return Part(text, ("*", "*", f"{first}-{last},{other}"), "day")


TIMES = (last_run, last_run, hour_steps, minutes_of_hours, twice, twice)


def parts(voice: Voice) -> tuple[Part, Part]:
    """Draw the time and the days of a schedule, at least one of them from this module."""
    if voice.chance(0.8):
        when = voice.pick(TIMES)(voice)
        day = day_part(voice, when.kind == "step")
    else:
        h, m = draw_time(voice)
        when = (
            minute_step(voice)
            if voice.chance(0.3)
            else Part(at(voice, clock(voice, h, m)), (str(m), str(h)), "clock")
        )
        day = more_days(voice)
    if day.kind == "once" and (when.kind != "clock" or "," in "".join(when.fields)):
        day = Part("every day", day.fields, "day")
    return when, day


def split(voice: Voice) -> Ask:
    """Say the task between the days and the time: on Mondays water the plants at 9."""
    h, m = draw_time(voice)
    when, day = (
        Part(at(voice, clock(voice, h, m)), (str(m), str(h)), "clock"),
        day_part(voice, False),
    )
    what = task(voice)
    text = voice.pick(
        (
            "{d} {t} {w}",
            "{d} {t} {w}",
            "{w} {t} {d}",
            "{d}, {t} {w}",
            "{d}: {t} {w}",
            "{t} {d}, {w}",
            "{t} {w}, {d}",
            "{w}, {t}, {d}",
            "please {t} {d} - {w}",
            "{d} i have to {t} {w}",
            "{t}. {d}. {w}.",
            "{d} please {t} {w}",
            "{t}: {d}, {w}",
            "{t}, {w}, {d}",
            "{d} we {t} {w}",
        )
    ).format(d=day.text, t=what, w=when.text)
    return Ask(text, canonical(" ".join((*when.fields, *day.fields))))


def schedule(voice: Voice, request: bool = True) -> Ask:
    """Draw a schedule as a user types it, from the narrow grammar with more words or from this
    module."""
    draw = voice.rng.random()
    if request and draw < 0.12:
        drawn = split(voice)
        return Ask(noisy(voice, drawn.text), drawn.cron)
    if draw < 0.70:
        drawn = bare_schedule(voice)
    else:
        when, day = parts(voice)
        line = " ".join((*when.fields, *day.fields))
        drawn = (
            Ask(joined(voice, when, day), canonical(line))
            if is_valid(line)
            else bare_schedule(voice)
        )
    return Ask(noisy(voice, wrapped(voice, drawn.text) if request else drawn.text), drawn.cron)
