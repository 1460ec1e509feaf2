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
        (
            f"can you do {said}?",
            f"{said}, not the old time",
            f"let's go with {said}",
            f"reschedule to {said}",
            f"push it to {said}",
            f"update it to {said}",
            f"the time should be {said}",
            f"start at {said}",
            f"rather at {said}",
            f"it has to be {said} now",
            f"the time is wrong, it's {said}",
            f"new time: {said}",
            f"could you set it to {said}?",
            f"what about {said}?",
            f"we moved it to {said}",
            f"keep the days but use {said}",
            f"same thing at {said}",
            f"only the time changes: {said}",
            f"just change the time: {said}",
            f"not at that time, {said}",
            f"{said} then",
            f"replace the time with {said}",
            f"correct the time to {said}",
            f"go for {said}",
            f"{said} works better for me",
            f"at {said}, the days are fine",
            f"everything as it is, but at {said}",
            f"instead of that time use {said}",
        ),
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
        ),
        (),
        (
            f"{said} {word} than that",
            f"start {said} {word}",
            f"let it start {said} {word}",
            f"shift it {said} {word}",
            f"can it be {said} {word}?",
            f"do it {said} {word}",
            f"it should be {said} {word}",
            f"same but {said} {word}",
            f"we need it {said} {word}",
            f"set it {said} {word}",
            f"reschedule it {said} {word}",
            f"{said} {word} is better",
            f"change the time, {said} {word}",
            f"the same days, {said} {word}",
            *(
                (
                    f"push it back {said}",
                    f"delay it by {said}",
                    f"postpone it by {said}",
                    f"add {said} to the time",
                    f"wait {said} more",
                )
                if later
                else (
                    f"bring it forward {said}",
                    f"pull it forward by {said}",
                    f"take {said} off the time",
                    f"start it {said} before that",
                )
            ),
        ),
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
        (
            f"{said} too",
            f"{said} as well",
            f"and {said}",
            f"and also {said}",
            f"keep that and add {said}",
            f"include {said}",
            f"one more run at {said}",
            f"once more at {said}",
            f"again at {said}",
            f"both then and at {said}",
            f"in addition at {said}",
            f"additionally at {said}",
            f"do it at {said} too",
            f"another one at {said}",
            f"extra run at {said}",
            f"twice: then and at {said}",
            f"it should also run at {said}",
            f"we also need {said}",
            f"not only then, also at {said}",
            f"repeat it at {said}",
            f"plus another at {said}",
            f"add a run at {said} as well",
        ),
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
    plain = text.removeprefix("on ")
    wide = (
        f"the days are {plain}",
        f"days: {plain}",
        f"restrict it to {plain}",
        f"limit it to {plain}",
        f"{text}, same time",
        f"keep the time, {text}",
        f"the same time {text}",
        f"{text} then",
        f"{text} please, nothing else",
        f"no, {text} only",
        f"rather {text}",
        f"new days: {plain}",
        f"the rest is fine but {text}",
        f"we only need it {text}",
        f"do it {text} instead",
        f"it is meant to run {text}",
        f"{text}, not the other days",
        f"not those days, {text}",
    )
    return voice.pick(forms, (), wide).replace("only weekdays only", "weekdays only"), " ".join(
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
        (
            f"take {name} out",
            f"take out {name}s",
            f"{name} is a day off",
            f"{name}s off",
            f"don't run it on {name}",
            f"don't run on {name}s",
            f"do not do it {name}s",
            f"every day of those except {name}",
            f"all but {name}",
            f"cancel {name}s",
            f"cancel the {name} run",
            f"{name} is not needed",
            f"we don't need {name}",
            f"no run on {name}",
            f"stop it on {name}s",
            f"pause on {name}s",
            f"minus {name}",
            f"ignore {name}s",
            f"omit {name}",
            f"kick out {name}",
            f"delete {name}",
            f"the {name} one can go",
            f"keep the rest but no {name}",
            f"not {name}s",
            f"free on {name}s",
            f"same but without {name}",
            f"but leave {name} free",
        ),
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
        ),
        (),
        (
            f"{name} too",
            f"and {name}",
            f"and also {name}s",
            f"put {name} in too",
            f"{name} needs it too",
            f"we need {name} as well",
            f"run it {name}s too",
            f"do it on {name} as well",
            f"one more day: {name}",
            f"extra day {name}",
            f"keep those and add {name}",
            f"append {name}",
            f"not only those, {name} too",
            f"it should also run on {name}",
            f"additionally {name}s",
            f"in addition on {name}s",
            f"those days and {name}",
            f"with {name} too",
            f"{name} is missing",
        ),
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
        ),
        (),
        (
            f"{words}, not the whole year",
            f"not all year, {words}",
            f"run it only {words}",
            f"keep it {words}",
            f"but {words}",
            f"restrict it: {words}",
            f"do this {words}",
            f"the rest of the year off, {words} on",
            f"we need it {words} only",
            f"{words} please",
            f"same schedule {words}",
            f"nothing outside that, {words}",
        ),
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
    wide = (
        "run it every day",
        "every single day",
        "all days",
        "any day, not just those",
        "each day instead",
        "seven days a week",
        "no, every day",
        "let it be every day",
        "not only those days, every day",
        "the whole week",
        "forget the days, every day",
        "on every day please",
        "it should go every day",
        "extend it to every day",
        "without the day restriction",
        "drop the days, every day",
    )
    text = voice.pick(forms, (), wide)
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
            ),
            (),
            (
                "double it",
                "double the rate",
                "2x as often",
                "make it run double as often",
                "I need it twice as often",
                "twice as frequently",
                "half the interval",
                "halve the interval",
                "with half the gap",
                "cut the interval in half",
            ),
        )
    elif how == "half":
        text = voice.pick(
            (
                "half as often",
                "make it half as often",
                "halve the frequency",
                "run it half as often",
            ),
            (),
            (
                "half the rate",
                "only half as often",
                "half as frequently",
                "double the interval",
                "twice the interval",
                "with twice the gap",
                "that is too often, half of it",
                "do it half as often",
            ),
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
            ),
            (),
            (
                f"rather {said}",
                f"{said} please",
                f"{said} will do",
                f"not that often, {said}" if k > n else f"more often: {said}",
                f"the interval should be {said}",
                f"let it run {said}",
                f"let's say {said}",
                f"new interval: {said}",
                f"{said} would be better",
                f"I meant {said}",
                f"it should be {said}",
                f"just {said}",
                f"set it to {said}",
                f"switch to {said}",
            ),
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
        ),
        (),
        (
            f"not all day, {words}",
            f"restrict it to {words}",
            f"only needed {words}",
            f"but {words}",
            f"keep it {words}",
            f"run it {words}",
            f"{words} please",
            f"do it {words} only",
            f"not at other hours, {words}",
            f"the hours are {words}",
            f"same but {words}",
            f"silent otherwise, {words}",
        ),
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
    wide = (
        "all wrong, I want {p}",
        "no, forget it: {p}",
        "something else: {p}",
        "scratch that: {p}",
        "replace it by {p}",
        "drop this and do {p}",
        "let's begin again: {p}",
        "new schedule: {p}",
        "delete that, {p}",
        "ignore what I said, {p}",
        "everything changes: {p}",
        "we decided on {p}",
        "the new plan is {p}",
        "completely different: {p}",
        "throw that away, {p}",
        "not that, {p}",
    )
    form = voice.pick(forms, (), wide if cron.split()[3] == "*" else wide[:8])
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
        ),
        (),
        (
            f"the {nth} please",
            f"no, the {nth}",
            f"on the {nth} rather",
            f"not then, the {nth}",
            f"the date is the {nth}",
            f"move the date to the {nth}",
            f"shift it to the {nth}",
            f"the {nth} is better",
            f"it should be the {nth}",
            f"let's take the {nth}",
            f"use the {nth}",
            f"day {n} instead",
            f"same time on the {nth}",
            f"the {nth} then",
        ),
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
WIDE_UNDO = (
    "undo it",
    "undo please",
    "ctrl z",
    "ctrl+z",
    "rollback",
    "roll it back",
    "roll back the change",
    "cancel that change",
    "cancel the last change",
    "cancel that",
    "discard that",
    "discard the last change",
    "no, go back",
    "go back one step",
    "one step back",
    "step back",
    "back",
    "take it back",
    "I take that back",
    "I changed my mind, the one before",
    "the one before",
    "the old one please",
    "the old one was better",
    "the earlier version",
    "return to the previous version",
    "back to the previous version",
    "give me the previous one",
    "keep what we had",
    "what we had before",
    "like before",
    "as before",
    "as it was",
    "make it like it was",
    "the way it was before",
    "leave it as before",
    "restore it",
    "restore the old one",
    "reset that",
    "reverse that",
    "reverse the last change",
    "that was wrong, undo",
    "no no, undo that",
    "forget what I just said",
    "forget the last thing",
    "ignore my last message",
    "ignore that",
    "ignore the last change",
    "don't change it after all",
    "no change after all",
    "let's keep the old one",
    "stay with the first one",
    "stick with the previous line",
    "the former one",
    "the version before that",
    "before that change it was right",
    "it was right before",
    "it was fine before",
    "remove that change",
    "drop the last change",
    "can you undo that?",
    "could you revert it?",
    "please bring back the old one",
    "that last change was a mistake",
    "my mistake, back to what it was",
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
WIDE_EDIT_WRAPPERS = ("{e}",) * 12 + (
    "hmm wait, {e}",
    "sorry to bother you, {e}",
    "my boss changed his mind: {e}",
    "ah, {e}",
    "perfect, now {e}",
    "nice. {e}",
    "and {e}",
    "also, {e}",
    "next: {e}",
    "then {e}",
    "can you change that? {e}",
    "I forgot: {e}",
    "forgot to say, {e}",
    "hold on, {e}",
    "one more thing, {e}",
    "last thing: {e}",
    "update: {e}",
    "edit: {e}",
    "correction: {e}",
    "{e}, sorry",
    "{e}, ok?",
    "{e} thx",
    "{e}, that's better",
    "{e}, please and thank you",
    "good but {e}",
    "not quite, {e}",
    "nearly right, {e}",
    "no wait, {e}",
    "nope, {e}",
    "yeah, {e}",
    "right, {e}",
    "alright, {e}",
    "thank you. {e}",
    "I'd rather have this: {e}",
    "let me correct that: {e}",
    "the client called, {e}",
    "new info: {e}",
    "so, {e}",
    "but {e}",
)
HELD_EDIT_WRAPPERS = ("the boss says {e}", "let us tweak it: {e}", "small correction, {e}")


def edited(voice: Voice, cron: str) -> Ask:
    """Draw a follow-up that changes `cron`."""
    while True:
        drawn = voice.pick(EDITS)(voice, cron)
        if drawn and canonical(drawn[1]) != cron:
            wrappers = voice.pick(EDIT_WRAPPERS, HELD_EDIT_WRAPPERS, WIDE_EDIT_WRAPPERS)
            text = wrappers.format(e=drawn[0])
            return Ask(noisy(voice, text), canonical(drawn[1]))


def undone(voice: Voice, before: str) -> Ask:
    """Draw a follow-up that takes the last change back."""
    wrapper = voice.pick(EDIT_WRAPPERS, (), WIDE_EDIT_WRAPPERS)
    return Ask(noisy(voice, wrapper.format(e=voice.pick(UNDO, (), WIDE_UNDO))), before)


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
        ),
        (),
        ("{p}",) * 8
        + (
            "oh right, {p}",
            "I forgot: {p}",
            "{p} I guess",
            "maybe {p}",
            "{p}, ok?",
            "say {p}",
            "{p} works",
            "{p} sounds good",
            "{p} would be great",
            "it should be {p}",
            "I'd say {p}",
            "best {p}",
            "preferably {p}",
            "{p}, sorry",
            "ah, {p}",
            "sure, {p}",
            "well {p}",
            "good question, {p}",
            "take {p}",
            "{p} then",
        ),
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
            ),
            (),
            (
                (f"in the {name}", "*"),
                (f"every day in the {name}", "*"),
                (f"some time in the {name} every day", "*"),
                (f"each {DAYS[d]} {name}", str(d)),
                (f"{DAYS[d]} in the {name}", str(d)),
                (f"late in the {name}, daily", "*"),
                (f"early in the {name} on {DAYS[d]}s", str(d)),
                (f"weekday {name}s", "1-5"),
                (f"weekend {name}s", "0,6"),
                (f"{name}s at the weekend", "0,6"),
                (f"one {name} a week, {DAYS[d]}", str(d)),
                (f"before the {name} is over, every {DAYS[d]}", str(d)),
            ),
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
            ),
            (),
            (
                "remind me to {t}",
                "don't forget to {t}",
                "could you {t} for me",
                "I have to {t}",
                "we need to {t}",
                "let's {t}",
                "{t} for me",
                "{t}, please",
                "{t} thanks",
                "new job: {t}",
                "automate it: {t}",
                "we want to {t} from now on",
                "need to {t}",
                "I need something that can {t}",
                "schedule: {t}",
                "write me a cron job to {t}",
                "crontab to {t}",
                "cron for this: {t}",
                "it should {t}",
                "hi, can you {t}?",
                "set a reminder to {t}",
                "add a task: {t}",
                "the server should {t}",
                "{t} again",
                "would you {t}?",
                "make sure to {t}",
                "I want you to {t}",
                "plan to {t}",
            ),
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


VAGUE_AT_LARGE = (
    ("sometimes", "How often?", "0 */6 * * *"),
    ("occasionally", "How often?", "0 */6 * * *"),
    ("as often as possible", "How often?", "* * * * *"),
    ("every couple of minutes", "How often?", "*/5 * * * *"),
    ("every couple of hours", "How often?", "0 */3 * * *"),
    ("every several minutes", "How often?", "*/5 * * * *"),
    ("every other while", "How often?", "0 */6 * * *"),
    ("again and again", "How often?", "*/10 * * * *"),
    ("repeatedly", "How often?", "*/10 * * * *"),
    ("at regular intervals", "How often?", "0 * * * *"),
    ("frequently", "How often?", "*/10 * * * *"),
    ("rarely", "How often?", "0 0 1 * *"),
    ("not too often", "How often?", "0 */6 * * *"),
    ("once in a while", "How often?", "0 */6 * * *"),
    ("continuously but not too often", "How often?", "*/10 * * * *"),
    ("every so many minutes", "How often?", "*/10 * * * *"),
    ("several times an hour", "How often?", "*/20 * * * *"),
    ("many times a day", "How often?", "0 */2 * * *"),
    ("four times a day", "At what times?", "0 */6 * * *"),
    ("a couple of times a day", "At what times?", "0 9,17 * * *"),
    ("two times a day", "At what times?", "0 9,17 * * *"),
    ("three times daily", "At what times?", "0 9,13,17 * * *"),
    ("a few times a day", "At what times?", "0 9,13,17 * * *"),
    ("five times every day", "At what times?", "0 */5 * * *"),
    ("2x a day", "At what times?", "0 9,17 * * *"),
    ("3x daily", "At what times?", "0 9,13,17 * * *"),
    ("twice every weekday", "At what times?", "0 9,17 * * 1-5"),
    ("twice a day on weekends", "At what times?", "0 9,17 * * 0,6"),
)


def vague_days(voice: Voice) -> tuple[tuple[str, str, str], ...]:
    """Return requests that name a time, and days only by their number."""
    when = one_time(voice)
    often = voice.pick(
        (
            "on some days",
            "on certain days",
            "a few days a week",
            "twice a week",
            "2x a week",
            "three times a week",
            "four days a week",
            "a couple of times a week",
            "on several days",
            "every few days",
            "most days",
            "on the usual days",
            "on a couple of days each week",
            "two days per week",
            "once or twice a week",
        )
    )
    return ((f"{often} {when.text}", "On which days?", f"{' '.join(when.fields)} * * 1,3,5"),) * 10


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
        ),
        (),
        lambda: VAGUE_AT_LARGE + vague_days(voice),
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
            ),
            (),
            (
                f"each {n} hours",
                f"every {n} hrs",
                f"{n} hours apart",
                f"in {n}-hour steps",
                f"once in {n} hours",
                f"at {n}-hour intervals",
                f"every {n} hours all day",
                f"one run per {n} hours",
                f"with {n} hours in between",
                f"all {n} hours",
            ),
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
    wide = (
        f"every {n} minutes all day",
        f"{n} minutes apart",
        f"with {n} minutes in between",
        f"each {n} min",
        f"one run per {n} minutes",
        f"in steps of {n} minutes",
        f"all {n} minutes",
        f"every {n} minutes exactly",
        f"every {n}-minute interval",
        f"always {n} minutes later",
        f"every {n} minutes around the clock",
        f"once in {n} minutes",
        f"{n} min intervals",
        *(
            (
                f"every {n // 60} h {n % 60} min",
                f"every hour and {n % 60} minutes",
                f"every {n // 60}h{n % 60:02d}m",
            )
            if 60 < n < 120
            else ()
        ),
    )
    return voice.pick(forms, (), wide), f"every {n} minutes", guess


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
        ),
        (),
        lambda: (
            f"{name} of every second week",
            f"every alternate {name}",
            f"{name}, alternating weeks",
            f"one {name} yes, one {name} no",
            f"every second {name}",
            f"each second {name}",
            f"skip every other {name}",
            f"every 14 days on {name}",
            f"each other {name}",
            f"{name} once in two weeks",
            f"on {name} every 2nd week",
            "once every two weeks",
            "every second week",
            f"every {number(voice, n)} weeks",
            f"in odd weeks on {name}",
            f"only in even weeks, {name}",
            f"once every {n} weeks",
            f"{name} every {n}th week",
            f"every third {name}",
            f"every fourth {name}",
            "each fortnight",
            "bi-weekly",
        ),
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
        ),
        (),
        lambda: (
            f"each {n} seconds",
            f"{n} seconds apart",
            f"in steps of {n} seconds",
            f"{n}-second intervals",
            f"with {n} seconds in between",
            f"all {n} seconds",
            f"one run per {n} seconds",
            f"on the {n}th second of each minute",
            f"{voice.pick((2, 3, 4, 5, 6))}x per minute",
            f"{n} s after every full minute",
            f"daily at {n % 12 + 1}:15:{n % 60:02d}",
            f"every morning at 0{n % 9 + 1}:00:{n % 60:02d}",
            "several times per minute",
            "once a second",
            "nonstop, each second",
            "every few seconds",
        ),
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
        ),
        (),
        (
            ("sunset", "when it gets dark", "0 18 * * *"),
            ("sunrise", "when it gets light", "0 6 * * *"),
            ("sunrise", "with the first light", "0 6 * * *"),
            ("sunset", "half an hour after sunset", "30 18 * * *"),
            ("sunset", "just before dusk", "0 18 * * *"),
            ("sunrise", "two hours after sunrise", "0 8 * * *"),
            ("sunrise", "before the sun comes up", "0 5 * * *"),
            ("moon phases", "when the moon is full", "0 0 15 * *"),
            ("moon phases", "at low tide", "0 0 15 * *"),
            ("Easter", "on Good Friday", "0 9 * 4 5"),
            ("Easter", "on Easter Monday", "0 9 * 4 1"),
            ("a random time", "at some random hour", "17 9 * * *"),
            ("a random time", "at a different time each day", "17 9 * * *"),
            ("a random time", "whenever you like", "17 9 * * *"),
            ("events", "when the temperature drops below zero", "0 * * * *"),
            ("events", "when a new mail comes in", "*/5 * * * *"),
            ("events", "as soon as the build is green", "*/5 * * * *"),
            ("events", "after every deployment", "0 * * * *"),
            ("events", "right after the import", "0 3 * * *"),
            ("events", "before each backup", "0 2 * * *"),
            ("events", "on every reboot", "0 0 * * *"),
            ("events", "when the server starts", "0 0 * * *"),
            ("events", "if the site is down", "*/5 * * * *"),
            ("events", "when someone rings the bell", "* * * * *"),
            ("events", "when memory is low", "*/5 * * * *"),
            ("events", "when the battery is empty", "0 * * * *"),
            ("events", "every time a user signs up", "* * * * *"),
            ("events", "whenever the price falls", "*/5 * * * *"),
            ("events", "when I come home", "0 18 * * *"),
            ("events", "once the queue is empty", "*/5 * * * *"),
        ),
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
        ),
        (),
        (
            "one single time",
            "one time",
            "only this once",
            "tonight",
            "this evening",
            "this Friday only",
            "tomorrow only",
            "next Tuesday, once",
            "on this coming Saturday only",
            "once, on Monday",
            "just this one time",
            "only today",
            "in two days",
            "in a week, once",
            "next month, one time",
            "a one-off on Thursday",
            "one-time job",
            "just for today",
            "once this week",
            "only on the coming Sunday",
            "never again after the first run",
            "for the last time tomorrow",
        ),
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
        ),
        (),
        (
            (f"at {a} and {b}, every day", f"{m} {h},{g} * * *"),
            (f"{a} and {b} daily", f"{m} {h},{g} * * *"),
            (f"first at {a}, then at {b}, each day", f"{m} {h},{g} * * *"),
            (f"mon-fri {a}, sat and sun {b}", f"{m} {h} * * *"),
            (f"{a} from Monday to Friday but {b} on the weekend", f"{m} {h} * * *"),
            (f"Tuesday {a}, Thursday {b}", f"{m} {h} * * 2,4"),
            (f"on Saturday at {a} and on Sunday at {b}", f"{m} {h} * * 0,6"),
            (f"in summer at {a}, in winter at {b}", f"{m} {h} * * *"),
            (f"weekdays {a} and Saturdays {b}", f"{m} {h} * * 1-6"),
            (f"at {a} on the 1st and {b} on the 15th", f"{m} {h} 1,15 * *"),
            (f"once at {a} and once at {b} every day", f"{m} {h},{g} * * *"),
        ),
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
WIDE_TALK = (
    "can you tell me about {t}?",
    "I want to know more about {t}",
    "where can I buy {t}?",
    "how much do {t} cost?",
    "what colour are {t}?",
    "who likes {t}?",
    "my brother loves {t}",
    "have you ever seen {t}?",
    "show me a picture of {t}",
    "write me an essay about {t}",
    "write an email about {t}",
    "summarise the history of {t}",
    "what is the best thing about {t}?",
    "make up a riddle about {t}",
    "give me a slogan for {t}",
    "compare {t} and {f}",
    "plan a holiday in {l}",
    "what is the currency of {l}?",
    "is {l} in Europe?",
    "tell me the history of {l}",
    "how far is {l}?",
    "what do people eat in {l}?",
    "I was in {l} last year",
    "best hotel in {l}",
    "flag of {l}",
    "how do I get to {l}?",
    "how many calories has {f}?",
    "can I freeze {f}?",
    "what is in {f}?",
    "I am allergic to {f}",
    "order {f} for me",
    "my favourite food is {f}",
    "a wine for {f}",
    "is {f} vegan?",
    "what does {w} mean?",
    "use {w} in a sentence",
    "plural of {w}",
    "how is {w} pronounced?",
    "is {g} hard to learn?",
    "teach me some {g}",
    "say {w} in {g}",
    "{w} in {g}?",
    "how did {p} die?",
    "quote by {p}",
    "did {p} have children?",
    "where was {p} born?",
    "was {p} a good person?",
    "a film about {p}",
    "what is {a} percent of {b}?",
    "{a} / {b}",
    "{a} * {b}",
    "is {a} bigger than {b}?",
    "sum of {a} and {b}",
    "round {a}.{b}",
    "{a} in binary",
    "count to {b}",
    "flip a coin",
    "roll {b} dice",
    "convert {a} kg to pounds",
    "{a} euros in dollars",
    "write a python function for {w}",
    "fix this bug in my {w} code",
    "what is a regular expression?",
    "explain recursion",
    "write a SQL query for {w}",
    "how do I install linux?",
    "my wifi is slow",
    "play some music",
    "open the window",
    "call {p}",
    "recommend a film about {t}",
    "a joke please",
    "what is your favourite {w}?",
    "sing about {t}",
    "what rhymes with {w}?",
    "draw me a {w}",
)
WIDE_CHAT = (
    "hey",
    "yo",
    "good evening",
    "how is it going",
    "great work",
    "you are wrong",
    "that's nonsense",
    "I don't understand",
    "help",
    "what is this",
    "test",
    "are you there",
    "who is there",
    "hmm",
    "haha",
    "nice",
    "cool",
    "sorry",
    "no problem",
    "thanks a lot",
    "tell me more",
    "why",
    "really",
    "what do you do",
    "can you talk",
    "you are smart",
    "i am happy today",
    "i feel sick",
    "i love pizza",
    "what should i wear",
    "asdf",
    "hello world",
    "please help me",
    "stop",
    "quit",
)
NOT_A_SCHEDULE = ("That is not a schedule.", "That is not a schedule.", "I only write cron lines.")


def small_talk(voice: Voice) -> Question:
    """Draw a message that is no schedule at all."""
    if voice.chance(0.08):
        text = voice.pick(_CHAT, (), WIDE_CHAT) + voice.pick(("", "", "!", "?", " :)", " friend"))
    else:
        text = voice.pick(_TALK, (), WIDE_TALK).format(
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
