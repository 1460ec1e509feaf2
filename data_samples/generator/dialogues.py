"""Everything that is not one phrase and one line: edits, missing parts, what cron cannot say, small
talk."""

from __future__ import annotations

from dataclasses import dataclass

from phrases import (
    MINUTE_STEPS,
    Ask,
    at,
    bare_schedule,
    clock,
    clock_12,
    clock_24,
    dates,
    day_part,
    draw_time,
    every_minutes,
    joined,
    month_days,
    months,
    one_time,
    several_times,
    weekday_range,
    weekday_set,
    window,
)
from target import canonical, is_valid
from wordings import DAYS, Voice, day_name, month_name, noisy, number, ordinal, task, wrapped

CHATTER = (
    "Sure! {c}",
    "Sure: {c}",
    "Here you go: {c}",
    "Of course! {c}",
    "The line is {c}",
    "Use {c}",
    "Try {c}",
    "{c} should do it.",
    "{c} will do.",
    "That would be {c}",
    "You can use {c}",
    "Done: {c}",
    "This works: {c}",
    "Okay, {c}",
    "`{c}`",
    "Use `{c}` for that.",
    "Happy to help! {c}",
    "{c} is what you need.",
    "I would write {c}",
    "Good question! Use {c}",
    "Your cron line: {c}",
    "Here is your cron line: {c}",
    "{c} does exactly that.",
    "No problem: {c}",
    "Certainly! The line is {c}",
    "{c}. Hope this helps!",
    "I think it is {c}",
    "Got it: {c}",
)


@dataclass(frozen=True)
class Question:
    """A request that is not one line of cron: its one-sentence reply and a tempting wrong line."""

    text: str
    reply: str
    guess: str
    follow: Ask | None = None


# Follow-up edits: each takes a voice and the line so far and returns words and a line, or None.


def new_time(voice: Voice, cron: str) -> tuple[str, str] | None:
    """Move a daily time."""
    minute, hour, *days = cron.split()
    if not (minute.isdigit() and hour.isdigit()):
        return None
    h, m = draw_time(voice)
    said = clock(voice, h, m)
    text = voice.pick(
        (
            f"make it {said}",
            f"make it {said}",
            f"change the time to {said}",
            f"move it to {said}",
            f"at {said} instead",
            f"{said} instead",
            f"change it to {said}",
            f"same but at {said}",
            f"same days but {said}",
            f"{said} is better",
            f"set the time to {said}",
            f"run it at {said} instead",
            f"not then, at {said}",
            f"switch to {said}",
            f"use {said} instead",
            f"let it be {said}",
            f"I meant {said}",
            f"it should be {said}",
            f"shift it to {said}",
        ),
        (f"{said} suits us better", f"could we do {said} rather", f"put it at {said}"),
    )
    return text, " ".join((str(m), str(h), *days))


def shifted(voice: Voice, cron: str) -> tuple[str, str] | None:
    """Move a daily time by some minutes or hours, within the day."""
    minute, hour, *days = cron.split()
    if not (minute.isdigit() and hour.isdigit()):
        return None
    amount, said = voice.pick(
        (
            (60, "an hour"),
            (60, "one hour"),
            (30, "half an hour"),
            (120, "two hours"),
            (15, "15 minutes"),
            (30, "30 minutes"),
            (10, "10 minutes"),
            (180, "3 hours"),
        )
    )
    later = voice.chance(0.5)
    moved = int(hour) * 60 + int(minute) + (amount if later else -amount)
    if not 0 <= moved < 1440:
        return None
    word = "later" if later else "earlier"
    text = voice.pick(
        (
            f"{said} {word}",
            f"{said} {word} please",
            f"make it {said} {word}",
            f"run it {said} {word}",
            f"move it {said} {word}",
        )
    )
    return text, " ".join((str(moved % 60), str(moved // 60), *days))


def added_time(voice: Voice, cron: str) -> tuple[str, str] | None:
    """Run at one more time with the same minute."""
    minute, hour, *days = cron.split()
    if not (minute.isdigit() and hour.isdigit()):
        return None
    h = voice.pick([h for h in range(24) if h != int(hour)])
    said = clock(voice, h, int(minute), voice.pick((clock_24, clock_12)))
    text = voice.pick(
        (
            f"also at {said}",
            f"and also at {said}",
            f"add {said}",
            f"and at {said} too",
            f"at {said} as well",
            f"add another run at {said}",
            f"also run it at {said}",
            f"plus {said}",
            f"a second time at {said}",
        ),
        (f"throw in {said} too", f"on top of that, at {said}"),
    )
    return text, " ".join((minute, ",".join(map(str, sorted((h, int(hour))))), *days))


def weekdays_of(field: str) -> list[int]:
    """Return the weekdays that a canonical day-of-week field names, Sunday being 0."""
    if field == "*":
        return list(range(7))
    days = set()
    for item in field.split(","):
        first, _, last = item.partition("-")
        days.update(d % 7 for d in range(int(first), int(last or first) + 1))
    return sorted(days)


def new_days(voice: Voice, cron: str) -> tuple[str, str] | None:
    """Change the weekdays."""
    minute, hour, dom, month, _ = cron.split()
    if dom != "*":
        return None
    day = voice.pick((weekday_set, weekday_range))(voice)
    text = day.text.removeprefix("from ")
    forms = (
        f"make it {text}",
        f"change it to {text}",
        f"{text} instead",
        f"only {text}",
        f"just {text}",
        f"{text} only",
        f"change the days to {text.removeprefix('on ')}",
        f"run it {text} instead",
        f"I meant {text}",
        f"but {text}",
        f"same time but {text}",
    )
    if text.startswith(("on ", "at ")):
        forms = (
            f"only {text}",
            f"{text} instead",
            f"just {text}",
            f"{text} only",
            f"but only {text}",
            f"run it {text} instead",
            f"same time, {text}",
        )
    return voice.pick(forms).replace("only weekdays only", "weekdays only"), " ".join(
        (minute, hour, dom, month, day.fields[2])
    )


def skipped_day(voice: Voice, cron: str) -> tuple[str, str] | None:
    """Leave out a weekday."""
    minute, hour, dom, month, dow = cron.split()
    days = weekdays_of(dow)
    if dom != "*" or len(days) < 3:
        return None
    day = voice.pick(days)
    name = DAYS[day]
    text = voice.pick(
        (
            f"skip {name}s",
            f"skip {name}",
            f"but not on {name}s",
            f"not on {name}",
            f"except {name}s",
            f"except {name}",
            f"leave out {name}",
            f"without {name}s",
            f"drop {name}",
            f"exclude {name}s",
            f"no {name}s",
            f"remove {name}",
            f"but skip {name}s",
        ),
        (f"give {name}s a miss", f"we are closed on {name}s, leave that day out"),
    )
    return text, " ".join((minute, hour, dom, month, ",".join(str(d) for d in days if d != day)))


def added_day(voice: Voice, cron: str) -> tuple[str, str] | None:
    """Add a weekday."""
    minute, hour, dom, month, dow = cron.split()
    if dom != "*" or dow == "*":
        return None
    days = weekdays_of(dow)
    day = voice.pick([d for d in range(7) if d not in days])
    name = DAYS[day]
    text = voice.pick(
        (
            f"also on {name}s",
            f"also on {name}",
            f"add {name}",
            f"and {name}s too",
            f"{name}s as well",
            f"include {name}s",
            f"plus {name}s",
            f"and on {name} too",
            f"add {name}s as well",
            f"also {name}",
        )
    )
    return text, " ".join((minute, hour, dom, month, ",".join(map(str, sorted((*days, day))))))


def in_months(voice: Voice, cron: str) -> tuple[str, str] | None:
    """Restrict to months."""
    minute, hour, dom, month, dow = cron.split()
    if month != "*":
        return None
    words, field = months(voice)
    words = words.removeprefix("only ")
    if not is_valid(f"0 0 {dom} {field} {dow}") or not words.startswith(
        ("in ", "from ", "during ", "between ")
    ):
        return None
    text = voice.pick(
        (
            f"only {words}",
            f"but only {words}",
            f"just {words}",
            f"only do it {words}",
            f"limit it to runs {words}",
            f"{words} only",
        )
    )
    return text, f"{minute} {hour} {dom} {field} {dow}"


def every_day_again(voice: Voice, cron: str) -> tuple[str, str] | None:
    """Drop the restriction to some days."""
    minute, hour, dom, month, dow = cron.split()
    if (dom, dow) == ("*", "*") or month != "*":
        return None
    forms = (
        "every day instead",
        "make it every day",
        "change it to every day",
        "run it every day instead",
        "actually every day",
    )
    if (minute + hour).isdigit():
        # "daily" after "every ten minutes" could also mean once a day.
        forms += ("make it daily", "daily instead", "same time but every day")
    text = voice.pick(forms)
    return text, f"{minute} {hour} * * *"


def new_step(voice: Voice, cron: str) -> tuple[str, str] | None:
    """Change how often a step fires: another step, twice or half as often."""
    minute, hour, *days = cron.split()
    if not minute.startswith("*/"):
        return None
    n = int(minute[2:])
    choices = [("new", k) for k in set(MINUTE_STEPS) if k != n]
    choices += [("twice", n // 2)] * 6 if n % 2 == 0 and n > 2 and 60 % (n // 2) == 0 else []
    choices += [("half", n * 2)] * 4 if n <= 15 and 60 % (2 * n) == 0 else []
    how, k = voice.pick(sorted(choices))
    if how == "twice":
        text = voice.pick(
            (
                "twice as often",
                "make it twice as often",
                "double the frequency",
                "run it twice as often",
                "two times as often",
                "do it twice as often",
            )
        )
    elif how == "half":
        text = voice.pick(
            (
                "half as often",
                "make it half as often",
                "halve the frequency",
                "run it half as often",
            )
        )
    else:
        said = every_minutes(voice, k)
        text = voice.pick(
            (
                f"make it {said}",
                f"{said} instead",
                f"change it to {said}",
                f"{said} is enough",
                f"run it {said} instead",
            )
        )
    return text, " ".join((f"*/{k}", hour, *days))


def new_window(voice: Voice, cron: str) -> tuple[str, str] | None:
    """Restrict a step to hours."""
    minute, hour, *days = cron.split()
    if hour != "*":
        return None
    words, span = window(voice)
    if "-" not in span:
        return None
    text = voice.pick(
        (
            f"only {words}",
            f"but only {words}",
            f"just {words}",
            f"{words} only",
            f"limit it: {words}",
            f"only run it {words}",
        )
    )
    return text, " ".join((minute, span, *days))


def time_and_days(voice: Voice, cron: str) -> tuple[str, str] | None:
    """Change the time and the days at once: make it 8:30 and skip Fridays."""
    first = new_time(voice, cron)
    second = first and voice.pick((skipped_day, skipped_day, new_days))(voice, canonical(first[1]))
    if not second:
        return None
    head, tail = first[0].replace("same days but", "make it"), second[0].removeprefix("but ")
    return voice.pick((f"{head} and {tail}", f"{head} and {tail}", f"{head}, {tail}")), second[1]


def replaced(voice: Voice, cron: str) -> tuple[str, str]:
    """Replace the whole schedule, days and time both named; this edit fits every line."""
    when, day = one_time(voice), day_part(voice, False)
    said = joined(voice, when, day).removeprefix("at ")
    forms = ("forget that, {p}", "start over: {p}", "new plan: {p}", "forget all that, make it {p}")
    if cron.split()[3] == "*":
        forms = (
            "no, {p}",
            "{p} instead",
            "make it {p}",
            "change it to {p}",
            "I want {p} instead",
            "forget that, {p}",
        )
    form = voice.pick(forms)
    return form.format(p=said), " ".join((*when.fields, *day.fields))


def new_date(voice: Voice, cron: str) -> tuple[str, str] | None:
    """Move the day of the month."""
    minute, hour, dom, month, dow = cron.split()
    if not dom.isdigit() or dow != "*":
        return None
    n = voice.rng.randrange(1, 29)
    nth = ordinal(voice, n)
    text = voice.pick(
        (
            f"on the {nth} instead",
            f"make it the {nth}",
            f"move it to the {nth}",
            f"the {nth} instead",
            f"change the day to the {nth}",
            f"I meant the {nth}",
        )
    )
    return text, f"{minute} {hour} {n} {month} {dow}"


EDITS = (
    replaced,
    new_date,
    new_date,
    new_time,
    new_time,
    new_time,
    shifted,
    added_time,
    new_days,
    new_days,
    skipped_day,
    skipped_day,
    added_day,
    in_months,
    every_day_again,
    new_step,
    new_step,
    new_window,
    time_and_days,
    time_and_days,
)
UNDO = (
    "undo that",
    "undo",
    "go back",
    "revert that",
    "no, the previous one",
    "as it was before",
    "take that back",
    "back to the one before",
    "undo the last change",
    "never mind, the old one",
    "revert the change",
    "use the previous one",
    "forget that change",
    "go back to the last one",
    "the one before was right",
    "put it back",
    "restore the previous line",
    "no, leave it as it was",
    "scratch that, keep the earlier one",
)
EDIT_WRAPPERS = ("{e}",) * 12 + (
    "actually, {e}",
    "ok, now {e}",
    "please {e}",
    "{e} please",
    "hmm, {e}",
    "no, {e}",
    "sorry, {e}",
    "change of plan: {e}",
    "oh, and {e}",
    "thanks, {e}",
    "ok {e}",
    "wait, {e}",
    "good, now {e}",
    "{e}, thanks",
    "one change: {e}",
    "pls {e}",
    "now {e}",
    "actually {e}",
    "great. {e}",
    "on second thought, {e}",
    "cool, {e}",
    "well, {e}",
    "oops, {e}",
    "almost, {e}",
    "{e} if possible",
    "yes, {e}",
    "hm no, {e}",
    "my mistake: {e}",
)
HELD_EDIT_WRAPPERS = ("the boss says {e}", "let us tweak it: {e}", "small correction, {e}")


def edited(voice: Voice, cron: str) -> Ask:
    """Draw a follow-up that changes `cron`."""
    while True:
        drawn = voice.pick(EDITS)(voice, cron)
        if drawn and canonical(drawn[1]) != cron:
            text = voice.pick(EDIT_WRAPPERS, HELD_EDIT_WRAPPERS).format(e=drawn[0])
            return Ask(noisy(voice, text), canonical(drawn[1]))


def undone(voice: Voice, before: str) -> Ask:
    """Draw a follow-up that takes the last change back."""
    return Ask(noisy(voice, voice.pick(EDIT_WRAPPERS).format(e=voice.pick(UNDO))), before)


# Missing parts


def supplied(voice: Voice, text: str, cron: str) -> Ask:
    """Word the answer to a question back."""
    form = voice.pick(
        ("{p}",) * 8
        + (
            "{p} please",
            "{p} is fine",
            "let's say {p}",
            "{p} would be good",
            "make it {p}",
            "hmm, {p}",
            "oh sorry, {p}",
            "{p}, thanks",
            "ok {p}",
        )
    )
    return Ask(noisy(voice, form.format(p=text)), canonical(cron))


def missing_time(voice: Voice) -> Question:
    """Name days without a time."""
    if voice.chance(0.25):
        name, hour = voice.pick((("morning", 9), ("evening", 18), ("night", 22), ("afternoon", 15)))
        d = voice.rng.randrange(7)
        text, dow = voice.pick(
            (
                (f"every {name}", "*"),
                (f"each {name}", "*"),
                (f"{name}s", "*"),
                (f"daily in the {name}" if name != "night" else "nightly", "*"),
                (f"every {DAYS[d]} {name}", str(d)),
                (f"on {DAYS[d]} {name}s", str(d)),
                (f"{name}s on weekdays", "1-5"),
                (f"every weekday {name}", "1-5"),
            )
        )
        minute = voice.pick((0, 0, 30))
        answer = at(voice, clock(voice, hour, minute, voice.pick((clock_24, clock_12))))
        follow = supplied(voice, answer, f"{minute} {hour} * * {dow}")
        return Question(
            noisy(voice, wrapped(voice, text)), "At what time?", f"0 {hour} * * {dow}", follow
        )
    day = voice.pick((day_part, day_part, dates, month_days))
    day = day(voice, False) if day is day_part else day(voice)
    when = voice.pick((one_time, one_time, one_time, several_times))(voice)
    if when.kind == "daily":
        when = one_time(voice)
    follow = supplied(voice, when.text, " ".join((*when.fields, *day.fields)))
    return Question(
        noisy(voice, wrapped(voice, day.text)),
        "At what time?",
        canonical(" ".join(("0", voice.pick("90"), *day.fields))),
        follow,
    )


def missing_day(voice: Voice) -> Question:
    """Name a week, a month or a year and a time, without the day."""
    unit = voice.pick(("week", "week", "month", "month", "year"))
    often = voice.pick(
        (f"once a {unit}", f"every {unit}", f"{unit}ly", f"each {unit}", f"one time per {unit}")
    )
    when = one_time(voice)
    text = voice.pick(
        (
            f"{often} {when.text}",
            f"{often} {when.text}",
            f"{when.text} {often}",
            f"{often}, {when.text}",
        )
    )
    if unit == "week":
        day = weekday_set(voice)
        reply, guess, answer, fields = "On which day?", "* * 1", day.text, day.fields
    elif unit == "month":
        n = voice.rng.randrange(1, 29)
        reply, guess, answer, fields = (
            "On which day of the month?",
            "1 * *",
            voice.pick(("on the ", "the ", "")) + ordinal(voice, n),
            (str(n), "*", "*"),
        )
    else:
        n, m = voice.rng.randrange(1, 29), voice.rng.randrange(1, 13)
        answer = voice.pick(
            (
                f"on {month_name(voice, m)} {n}",
                f"{n} {month_name(voice, m)}",
                f"the {ordinal(voice, n)} of {month_name(voice, m)}",
            )
        )
        reply, guess, fields = "On which date?", "1 1 *", (str(n), str(m), "*")
    time = " ".join(when.fields)
    return Question(
        noisy(voice, wrapped(voice, text)),
        reply,
        canonical(f"{time} {guess}"),
        supplied(voice, answer, f"{time} {' '.join(fields)}"),
    )


def missing_both(voice: Voice) -> Question:
    """Name a task without a schedule, or a week without day and time."""
    drawn = bare_schedule(voice)
    if voice.chance(0.5):
        job = task(voice)
        text = voice.pick(
            (
                "{t}",
                "please {t}",
                "can you {t}?",
                "cron to {t}",
                "i want to {t}",
                "schedule a job to {t}",
                "set up a cron to {t}",
                "{t} on a schedule",
                "i need a cron job to {t}",
                "{t} automatically",
                "make a job that should {t}",
            )
        ).format(t=job)
        reply, guess = "When should it run?", "0 9 * * *"
    else:
        unit, guess = voice.pick(
            (
                ("weekly", "0 9 * * 1"),
                ("once a week", "0 0 * * 0"),
                ("every week", "0 9 * * 1"),
                ("monthly", "0 0 1 * *"),
                ("every month", "0 9 1 * *"),
                ("once a month", "0 0 1 * *"),
                ("quarterly", "0 0 1 */3 *"),
                ("yearly", "0 0 1 1 *"),
                ("once a year", "0 0 1 1 *"),
                ("every quarter", "0 9 1 */3 *"),
                ("annually", "0 0 1 1 *"),
                ("each week", "0 9 * * 1"),
            )
        )
        if "quarter" in unit or "year" in unit or unit == "annually":
            return Question(
                noisy(voice, wrapped(voice, unit)), "On which day and at what time?", guess
            )
        if "week" in unit:
            day, when = weekday_set(voice), one_time(voice)
        else:
            day, when = month_days(voice), one_time(voice)
        drawn = Ask(f"{day.text} {when.text}", canonical(" ".join((*when.fields, *day.fields))))
        text, reply = wrapped(voice, unit), "On which day and at what time?"
    return Question(noisy(voice, text), reply, guess, supplied(voice, drawn.text, drawn.cron))


def vague(voice: Voice) -> Question:
    """Say how often without a number."""
    if voice.chance(0.3):
        n = voice.pick((5, 10, 15, 20, 30))
        hours = voice.pick(
            (
                "working hours",
                "business hours",
                "office hours",
                "opening hours",
                "the day",
                "the night",
                "peak hours",
                "lunch",
            )
        )
        text = voice.pick(
            (
                f"{every_minutes(voice, n)} during {hours}",
                f"during {hours} {every_minutes(voice, n)}",
            )
        )
        words, span = window(voice)
        return Question(
            noisy(voice, wrapped(voice, text)),
            "From which hour to which hour?",
            f"*/{n} 9-17 * * *",
            supplied(voice, words, f"*/{n} {span} * * *"),
        )
    text, reply, guess = voice.pick(
        (
            ("every few minutes", "How often?", "*/5 * * * *"),
            ("regularly", "How often?", "0 * * * *"),
            ("often", "How often?", "*/10 * * * *"),
            ("every now and then", "How often?", "0 */6 * * *"),
            ("every so often", "How often?", "0 */6 * * *"),
            ("from time to time", "How often?", "0 */6 * * *"),
            ("every few hours", "How often?", "0 */3 * * *"),
            ("very frequently", "How often?", "* * * * *"),
            ("a few times an hour", "How often?", "*/20 * * * *"),
            ("periodically", "How often?", "0 * * * *"),
            ("twice a day", "At what times?", "0 9,17 * * *"),
            ("three times a day", "At what times?", "0 9,13,17 * * *"),
            ("several times a day", "At what times?", "0 */6 * * *"),
            ("twice daily", "At what times?", "0 9,17 * * *"),
            ("on some days at 9am", "On which days?", "0 9 * * 1-5"),
            ("a few days a week at noon", "On which days?", "0 12 * * 1,3,5"),
            ("twice a week at 8am", "On which days?", "0 8 * * 1,4"),
            ("three days a week at 18:00", "On which days?", "0 18 * * 1,3,5"),
        )
    )
    return Question(noisy(voice, wrapped(voice, text)), reply, guess)


def asking(voice: Voice) -> Question:
    """Draw a request in which something is missing."""
    return voice.pick(
        (
            missing_time,
            missing_time,
            missing_time,
            missing_time,
            missing_day,
            missing_day,
            missing_both,
            vague,
        )
    )(voice)


# What five fields cannot say


def uneven(voice: Voice) -> tuple[str, str, str]:
    """Steps that do not divide the hour or the day."""
    if voice.chance(0.35):
        n = voice.pick((5, 7, 9, 10, 11, 14, 16, 18, 30, 36, 36))
        said = voice.pick(
            (
                f"every {number(voice, n)} hours",
                f"every {n} hours",
                f"every {n}h",
                f"once every {n} hours",
            )
        )
        return said, f"every {n} hours", f"0 */{n} * * *" if n < 24 else "0 0 */2 * *"
    n = voice.pick((45, 45, 90, 90, 25, 35, 40, 50, 55, 75, 80, 100, 70, 110, 150, 65, 95, 130))
    forms = [f"every {n} minutes"] * 4 + [
        f"every {n} min",
        f"every {n} mins",
        f"each {n} minutes",
        f"once every {n} minutes",
        f"every {n}m",
        f"at {n}-minute intervals",
    ]
    forms += {
        45: ["every three quarters of an hour", "every forty-five minutes", "every 3/4 of an hour"],
        90: [
            "every hour and a half",
            "every one and a half hours",
            "every 1.5 hours",
            "every ninety minutes",
        ],
        150: ["every 2.5 hours", "every two and a half hours"],
    }.get(n, []) * 2
    guess = f"*/{n} * * * *" if n < 60 else f"0 */{n // 60 + 1} * * *"
    return voice.pick(forms), f"every {n} minutes", guess


def weeks(voice: Voice) -> tuple[str, str, str]:
    """Every other week, every three weeks."""
    d = voice.rng.randrange(7)
    when, name = one_time(voice), day_name(voice, d, voice.chance(0.2))
    n = voice.pick((3, 4, 5, 6))
    said = voice.pick(
        (
            f"every other {name}",
            f"every other {name}",
            f"every two weeks on {name}",
            f"biweekly on {name}",
            f"fortnightly on {name}s",
            f"every second week on {name}",
            f"every {number(voice, n)} weeks on {name}",
            f"{name} every other week",
            f"once a fortnight on {name}",
            f"every 2 weeks on {name}",
            f"bi-weekly, {name}s",
            f"on alternate {DAYS[d]}s",
            f"every {n} weeks",
            "every other week",
            "every fortnight",
            f"on {name}s in even weeks",
            f"on {name} of odd calendar weeks",
        )
    )
    return (
        voice.pick((f"{said} {when.text}", f"{said} {when.text}", f"{when.text} {said}", said)),
        "every other week" if "other" in said or "2" in said else "every few weeks",
        f"{' '.join(when.fields)} * * {d}",
    )


def month_ends(voice: Voice) -> tuple[str, str, str]:
    """The last day of the month, the last Friday, the second Monday."""
    d, when = voice.rng.randrange(7), one_time(voice)
    time, month = (
        " ".join(when.fields),
        voice.pick(
            ("of the month", "of every month", "of each month", "every month", "in the month")
        ),
    )
    if voice.chance(0.4):
        what, dom = voice.pick(
            (
                ("last day", "28"),
                ("last day", "31"),
                ("last working day", "28"),
                ("second to last day", "27"),
                ("last weekday", "28"),
            )
        )
        said = voice.pick(
            (
                f"on the {what} {month}",
                f"the {what} {month}",
                f"every {what} {month}",
                f"on the very {what} {month}",
            )
        )
        if what == "last day" and voice.chance(0.3):
            said = voice.pick(
                (
                    "at the end of the month",
                    "at the end of every month",
                    "at month end",
                    "on the final day of the month",
                    "end of month",
                )
            )
        return (
            voice.pick((f"{said} {when.text}", f"{when.text} {said}", said)),
            f"the {what}",
            f"{time} {dom} * *",
        )
    nth, days = voice.pick(
        (
            ("first", "1-7"),
            ("second", "8-14"),
            ("third", "15-21"),
            ("fourth", "22-28"),
            ("last", "22-28"),
        )
    )
    shown = (
        {"first": "1st", "second": "2nd", "third": "3rd", "fourth": "4th"}.get(nth, nth)
        if voice.chance(0.3)
        else nth
    )
    said = voice.pick(
        (
            f"on the {shown} {DAYS[d]} {month}",
            f"the {shown} {DAYS[d]} {month}",
            f"every {shown} {DAYS[d]} {month}",
            f"on every {shown} {DAYS[d]} {month}",
        )
    )
    return (
        voice.pick((f"{said} {when.text}", f"{when.text} {said}", said)),
        f"the {nth} {DAYS[d]}",
        f"{time} {days} * {d}",
    )


def seconds(voice: Voice) -> tuple[str, str, str]:
    """Anything finer than a minute."""
    n = voice.pick((1, 2, 3, 5, 10, 15, 20, 30, 45, 90))
    said = voice.pick(
        (
            f"every {number(voice, n)} seconds",
            f"every {n} sec",
            f"every {n}s",
            f"once every {n} seconds",
            "every second",
            "each second",
            "twice a minute",
            "every half minute",
            f"at {n} seconds past every minute",
            f"{voice.pick((2, 3, 4, 6))} times a minute",
            "at 12:00:30 every day",
            "every half a minute",
        )
    )
    return said, "seconds", "* * * * *"


def sky(voice: Voice) -> tuple[str, str, str]:
    """Events that no clock shows, and chance."""
    what, said, guess = voice.pick(
        (
            ("sunset", "at sunset", "0 18 * * *"),
            ("sunrise", "at sunrise", "0 6 * * *"),
            ("sunset", "when the sun goes down", "0 18 * * *"),
            ("sunrise", "at dawn", "0 6 * * *"),
            ("sunset", "at dusk", "0 18 * * *"),
            ("sunset", "an hour before sunset", "0 17 * * *"),
            ("sunrise", "30 minutes after sunrise", "30 6 * * *"),
            ("moon phases", "at every full moon", "0 0 15 * *"),
            ("Easter", "on Easter Sunday", "0 9 * 4 0"),
            ("a random time", "at a random time", "17 9 * * *"),
            ("a random time", "at random minutes", "*/7 * * * *"),
            ("events", "when a file arrives", "* * * * *"),
            ("events", "after the backup is done", "0 3 * * *"),
            ("events", "when it rains", "0 * * * *"),
            ("events", "when the disk is full", "*/5 * * * *"),
            ("events", "at system startup", "0 0 * * *"),
            ("events", "whenever someone logs in", "* * * * *"),
            ("moon phases", "at new moon", "0 0 1 * *"),
        )
    )
    tail = (
        voice.pick(("", " every day", " daily", " on weekdays", " on Mondays", " each day"))
        if what in ("sunset", "sunrise", "a random time")
        else ""
    )
    dow = {" on weekdays": "1-5", " on Mondays": "1"}.get(tail)
    return said + tail, what, guess[:-1] + dow if dow else guess


def once(voice: Voice) -> tuple[str, str, str]:
    """One run only, or a year."""
    d, m, year, when = (
        voice.rng.randrange(1, 29),
        voice.rng.randrange(1, 13),
        voice.rng.randrange(2027, 2036),
        one_time(voice),
    )
    name, time = month_name(voice, m), " ".join(when.fields)
    if voice.chance(0.5):
        said = voice.pick(
            (
                f"on {d} {name} {year}",
                f"on {name} {d}, {year}",
                f"only in {year}",
                f"every day in {year}",
                f"on the {ordinal(voice, d)} of {name} {year}",
                f"until the end of {year}",
                f"every Monday until {year}",
                f"starting in {year}, every day",
            )
        )
        dated = str(d) in said and name in said
        return f"{said} {when.text}", "a year", f"{time} {d} {m} *" if dated else f"{time} * * *"
    said = voice.pick(
        (
            "only once, tomorrow",
            "tomorrow",
            "just once",
            "one time only",
            "once, next Monday",
            "today only",
            "exactly once",
            "a single time, on Friday",
            "once and never again",
            "next week only",
            "the day after tomorrow",
        )
    )
    return f"{said} {when.text}", "a single run", f"{time} * * *"


def calendars(voice: Voice) -> tuple[str, str, str]:
    """Holidays, a date that is also a weekday, two times that share no line."""
    when, draw = one_time(voice), voice.rng.random()
    time = " ".join(when.fields)
    if draw < 0.4:
        said, what, guess = voice.pick(
            (
                ("on business days except holidays", "holidays", "* * 1-5"),
                ("on public holidays", "holidays", "25 12 *"),
                ("every weekday that is not a holiday", "holidays", "* * 1-5"),
                ("on bank holidays", "holidays", "1 1 *"),
                ("weekdays but not on holidays", "holidays", "* * 1-5"),
                ("on trading days", "holidays", "* * 1-5"),
                ("on working days, skipping public holidays", "holidays", "* * 1-5"),
                ("every day except bank holidays", "holidays", "* * *"),
                ("the day after a holiday", "holidays", "26 12 *"),
                ("on school days excluding holidays", "holidays", "* * 1-5"),
                ("during the school holidays", "holidays", "* 7,8 *"),
                ("on the first business day of the month", "the first business day", "1 * *"),
                ("on the first working day of every month", "the first business day", "1 * *"),
            )
        )
        return voice.pick((f"{said} {when.text}", f"{when.text} {said}")), what, f"{time} {guess}"
    if draw < 0.6:
        n, d = voice.pick((13, 13, 1, 15, 10)), voice.pick((5, 5, 1, 2))
        nth, name = ordinal(voice, n), DAYS[d]
        said = voice.pick(
            (
                f"every {name} the {nth}",
                f"on the {nth} if it is a {name}",
                f"on {name} the {nth}",
                f"on the {nth} but only if it is a {name}",
                f"when the {nth} falls on a {name}",
            )
        )
        text = voice.pick((f"{said} {when.text}", f"{when.text} {said}"))
        return text, "a date that is also a weekday", f"{time} {n} * {d}"
    (h, m), (g, k) = draw_time(voice), draw_time(voice)
    style = voice.pick((clock_24, clock_12))
    if h == g or m == k:
        g, k = (h + 3) % 24, (m + 30) % 60
    a, b = style(voice, h, m), style(voice, g, k)
    said, guess = voice.pick(
        (
            (f"at {a} on weekdays and {b} on weekends", f"{m} {h} * * *"),
            (f"weekdays at {a}, weekends at {b}", f"{m} {h} * * *"),
            (f"every day at {a} and {b}", f"{m} {h},{g} * * *"),
            (f"Mondays at {a} and Fridays at {b}", f"{m} {h} * * 1,5"),
            (f"daily at {a} and at {b}", f"{m} {h},{g} * * *"),
        )
    )
    return said, "two different times in one line", guess


def impossible(voice: Voice) -> Question:
    """Draw a request that one five-field line cannot say."""
    said, what, guess = voice.pick(
        (uneven, uneven, weeks, weeks, month_ends, month_ends, seconds, sky, once, calendars)
    )(voice)
    return Question(
        noisy(voice, wrapped(voice, said)), f"Five-field cron cannot say {what}.", canonical(guess)
    )


# Small talk

_THINGS = (
    "cats",
    "the sea",
    "coffee",
    "robots",
    "winter",
    "trains",
    "my dog",
    "penguins",
    "autumn leaves",
    "bread",
    "the moon",
    "mountains",
    "bicycles",
    "rain",
    "databases",
    "tea",
    "spiders",
    "pirates",
    "clouds",
    "tomatoes",
    "chess",
    "owls",
    "volcanoes",
    "islands",
    "guitars",
    "honey",
    "dinosaurs",
    "football",
    "rivers",
    "llamas",
    "castles",
    "snow",
    "old books",
    "lighthouses",
    "jazz",
    "cheese",
)
_PLACES = (
    "France",
    "Japan",
    "Peru",
    "Kenya",
    "Norway",
    "Canada",
    "Brazil",
    "India",
    "Spain",
    "Egypt",
    "Poland",
    "Chile",
    "Ghana",
    "Turkey",
    "Vietnam",
    "Iceland",
    "Cuba",
    "Nepal",
    "Greece",
    "Mexico",
)
_FOODS = (
    "rice",
    "lasagna",
    "an omelette",
    "pancakes",
    "soup",
    "curry",
    "a pizza",
    "bread",
    "risotto",
    "tofu",
    "beans",
    "pasta",
    "a birthday cake",
    "dumplings",
    "fish",
    "scones",
    "salad",
    "tacos",
)
_TONGUES = (
    "French",
    "German",
    "Spanish",
    "Italian",
    "Latin",
    "Dutch",
    "Polish",
    "Greek",
    "Turkish",
    "Japanese",
)
_WORDS = (
    "cat",
    "house",
    "bread",
    "friend",
    "thank you",
    "water",
    "good luck",
    "tree",
    "window",
    "book",
    "apple",
    "bridge",
    "summer",
    "dog",
)
_PEOPLE = (
    "Mozart",
    "Marie Curie",
    "Shakespeare",
    "Darwin",
    "Einstein",
    "Ada Lovelace",
    "Napoleon",
    "Gandhi",
    "Galileo",
    "Picasso",
    "Newton",
    "Cleopatra",
)
_TALK = (
    "tell me a joke about {t}",
    "write a poem about {t}",
    "write a haiku about {t}",
    "a short story about {t}",
    "what do you think about {t}?",
    "do you like {t}?",
    "tell me something about {t}",
    "sing a song about {t}",
    "why do people love {t}?",
    "explain {t} to a child",
    "are {t} dangerous?",
    "draw {t}",
    "i like {t}",
    "i hate {t}",
    "give me three facts about {t}",
    "describe {t}",
    "what is the capital of {l}?",
    "how big is {l}?",
    "where is {l}?",
    "what language do they speak in {l}?",
    "how many people live in {l}?",
    "what's the weather in {l}?",
    "who is the president of {l}?",
    "is it cold in {l}?",
    "recommend a book about {l}",
    "how do i cook {f}?",
    "recipe for {f}",
    "is {f} healthy?",
    "what goes well with {f}?",
    "who invented {f}?",
    "how long do i bake {f}?",
    "what is {w} in {g}?",
    "translate {w} into {g}",
    "how do you say {w} in {g}",
    "who was {p}?",
    "when was {p} born?",
    "what is {p} known for?",
    "tell me about {p}",
    "what is {a} + {b}?",
    "{a} times {b}",
    "{a}+{b}",
    "what's {a} minus {b}",
    "calculate {a} x {b}",
    "is {a} a prime number?",
    "what is the square root of {a}",
    "divide {a} by {b}",
    "convert {a} miles to km",
    "how many days are {a} weeks?",
    "write python code to sort {w}s",
    "spell {w}",
    "rhymes with {w}",
    "a synonym for {w}",
)
_CHAT = (
    "how are you",
    "hello",
    "hi there",
    "good morning",
    "good night",
    "thank you",
    "who are you",
    "what can you do",
    "are you a robot",
    "how old are you",
    "i am tired",
    "what a day",
    "you are funny",
    "i love you",
    "bye",
    "see you later",
    "that was great",
    "what is your name",
    "are you human",
    "sing me a song",
    "who made you",
    "can you help me with homework",
    "do you sleep",
    "i'm bored",
    "nice to meet you",
    "where do you live",
    "tell me a secret",
    "what's up",
    "ok",
    "lol",
    "happy birthday",
    "merry christmas",
    "what is the meaning of life",
    "i lost my keys",
    "my computer is slow",
    "what is love",
    "fix my printer",
    "good job",
    "never mind",
)
NOT_A_SCHEDULE = ("That is not a schedule.", "That is not a schedule.", "I only write cron lines.")


def small_talk(voice: Voice) -> Question:
    """Draw a message that is no schedule at all."""
    if voice.chance(0.08):
        text = voice.pick(_CHAT) + voice.pick(("", "", "!", "?", " :)", " friend"))
    else:
        text = voice.pick(_TALK).format(
            t=voice.pick(_THINGS),
            l=voice.pick(_PLACES),
            f=voice.pick(_FOODS),
            w=voice.pick(_WORDS),
            g=voice.pick(_TONGUES),
            p=voice.pick(_PEOPLE),
            a=voice.rng.randrange(2, 100),
            b=voice.rng.randrange(2, 30),
        )
    lead = voice.pick(("",) * 9 + ("hey, ", "so, ", "one more thing: ", "question: ", "hi! "))
    return Question(noisy(voice, lead + text), voice.pick(NOT_A_SCHEDULE), "0 9 * * *")
