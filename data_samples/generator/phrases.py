"""Schedules with an English phrase: a time part, a day part, an order, a request around them.

Conventions, where English leaves a choice: a bare hour is read on the 24-hour clock, "from 9 to
17" includes the whole hour 17 for minute steps, "every other day" is `*/2`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from target import canonical, is_valid
from wordings import (
    NUMBERS,
    TENS,
    Voice,
    day_name,
    listed,
    month_name,
    noisy,
    number,
    ordinal,
    wrapped,
)

MINUTE_STEPS = (2, 3, 4, 5, 5, 6, 10, 10, 12, 15, 15, 20, 30, 30)
HOUR_STEPS = (2, 2, 3, 4, 6, 8, 12)


@dataclass(frozen=True)
class Part:
    """A piece of a phrase: `text`, the cron fields it says, and the kind of its grammar."""

    text: str
    fields: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Ask:
    """A user's words and the schedule they mean, as a canonical cron line."""

    text: str
    cron: str


# Times of day


def minute_words(voice: Voice, m: int) -> str:
    """Write the minutes of a spoken time: thirty, oh five, forty-five."""
    if m < 10:
        return f"oh {NUMBERS[m]}"
    if m <= 30:
        return NUMBERS[m]
    tens = m // 10 * 10
    return TENS[tens] + (f"-{NUMBERS[m - tens]}" if m > tens else "")


def day_half(h: int) -> str:
    """Return the words that fix the half of the day of an hour."""
    if h < 12:
        return "in the morning"
    return "in the afternoon" if h < 18 else "in the evening" if h < 22 else "at night"


def twelve(h: int) -> int:
    """Return the hour on a 12-hour dial."""
    return (h + 11) % 12 + 1


def clock_24(voice: Voice, h: int, m: int) -> str:
    """Write a time on the 24-hour clock."""
    forms = [f"{h:02}:{m:02}"] * 4 + [f"{h:02}{m:02}", f"{h:02}.{m:02}", f"{h:02}:{m:02}h"]
    if 6 <= h < 24:
        forms += [f"{h}:{m:02}"] * 3 + [f"{h}.{m:02}"]
    if m == 0 and (6 <= h <= 11 or h > 12):
        forms += [f"{h}h"]
    held = [f"{h:02}:{m:02} hours", f"{h:02}h{m:02}", f"{h:02}:{m:02} local time"]
    return voice.pick(forms, held, voice.wide and military(voice, h, m))


def military(voice: Voice, h: int, m: int) -> list[str]:
    """Write a time as timetables, soldiers and loudspeakers do."""
    forms = [
        f"{h:02}{m:02}h",
        f"{h:02}{m:02} hrs",
        f"{h:02}:{m:02} h",
        f"{h:02}:{m:02}hrs",
        f"{h:02}:{m:02}:00",
    ]
    if h > 12:
        said = "hundred" if m == 0 else minute_words(voice, m)
        forms += [f"{NUMBERS[h]} {said}"] * 2
    if 0 < h < 10:
        forms += [
            f"{voice.pick(('oh', 'zero'))} {NUMBERS[h]} {'hundred' if m == 0 else minute_words(voice, m)}"
        ]
    if h == m == 0:
        forms += ["24:00", "0:00"]
    return forms


def clock_12(voice: Voice, h: int, m: int) -> str:
    """Write a time with am or pm."""
    half = "am" if h < 12 else "pm"
    if h % 12 == 0 and m == 0:
        return (
            voice.pick(
                (
                    "noon",
                    "12 noon",
                    "12pm",
                    "midday",
                    "12:00 noon",
                    "12:00 pm",
                    "12 pm",
                    "high noon",
                )
                if h
                else ("midnight", "12am", "12 midnight", "12:00 am", "12 am")
            )
            if voice.wide
            else "noon"
            if h
            else "midnight"
        )
    shown = twelve(h)
    mark = voice.pick(
        (
            half,
            half,
            half,
            f" {half}",
            f" {half}",
            f" {half.upper()}",
            half.upper(),
            f" {half[0]}.m.",
        ),
        (),
        (f"{half[0]}.m.", f" {half[0].upper()}.M.", half[0]),
    )
    if m == 0:
        return voice.pick(
            (f"{shown}{mark}",) * 4 + (f"{shown}:00{mark}", f"{NUMBERS[shown]} {half}"),
            (),
            (
                f"{shown} o'clock {day_half(h)}",
                f"{NUMBERS[shown]} {day_half(h)}",
                f"{shown}:00 {day_half(h)}",
                f"{shown}.00{mark}",
                f"{NUMBERS[shown]} o'clock {half}",
            ),
        )
    spoken = f"{NUMBERS[shown]} {minute_words(voice, m)}"
    return voice.pick(
        (f"{shown}:{m:02}{mark}",) * 4 + (f"{shown}.{m:02}{mark}",),
        (),
        (
            f"{shown} {m:02} {half}",
            f"{shown}{m:02}{half}",
            f"{spoken} {half}",
            f"{spoken} {day_half(h)}",
            f"{shown}:{m:02} {day_half(h)}",
        ),
    )


def clock_words(voice: Voice, h: int, m: int) -> str:
    """Write a time in words, with the half of the day unless the hour is 6 to 11 in the morning."""
    if h % 12 == 0 and m == 0:
        return voice.pick(
            ("noon", "midday", "12 noon", "12pm") if h else ("midnight", "midnight", "12am")
        )
    hour, after = number(voice, twelve(h)), number(voice, twelve(h + 1))
    if voice.wide and (h + (m > 30)) % 12 == 0 and m % 5 == 0:
        # Around noon and midnight people name them: quarter past midnight, ten to noon.
        away = {15: "quarter", 30: "half"}.get(min(m, 60 - m), number(voice, min(m, 60 - m)))
        return f"{away} {'past' if m <= 30 else voice.pick(('to', 'till'))} {'midnight' if h in (0, 23) else 'noon'}"
    held = []
    if m == 0:
        forms = [f"{hour} o'clock", f"{NUMBERS[twelve(h)]}", f"{hour} {day_half(h)}"]
        if not 6 <= h <= 11:
            forms = [f"{hour} {day_half(h)}", f"{hour} o'clock {day_half(h)}"]
        return voice.pick(
            forms,
            [f"{hour} o'clock sharp {day_half(h)}"],
            (
                f"{hour} {'am' if h < 12 else 'pm'} on the dot",
                f"{hour} o clock {day_half(h)}",
                f"{NUMBERS[twelve(h)]} {day_half(h)}",
                f"{hour} {day_half(h)} on the dot",
            ),
        )
    if m == 15:
        forms = [f"quarter past {hour}", f"a quarter past {hour}", f"{NUMBERS[twelve(h)]} fifteen"]
    elif m == 30:
        forms = [f"half past {hour}", f"half past {hour}", f"{NUMBERS[twelve(h)]} thirty"]
    elif m == 45:
        forms = [f"quarter to {after}", f"a quarter to {after}", f"{NUMBERS[twelve(h)]} forty-five"]
    elif m in (5, 10, 20, 25):
        forms = [
            f"{number(voice, m)} past {hour}",
            f"{NUMBERS[twelve(h)]} {minute_words(voice, m)}",
        ]
        held = [f"{number(voice, m)} minutes past {hour}"]
    elif m in (35, 40, 50, 55):
        forms = [
            f"{number(voice, 60 - m)} to {after}",
            f"{NUMBERS[twelve(h)]} {minute_words(voice, m)}",
        ]
        held = [
            f"{number(voice, 60 - m)} minutes to {after}",
            f"{number(voice, 60 - m)} before {after}",
        ]
    else:
        return clock_12(voice, h, m)
    around = voice.wide and {
        15: (f"quarter after {hour}", f"a quarter after {hour}"),
        30: (f"half-past {hour}",),
        45: (f"quarter till {after}", f"a quarter till {after}", f"quarter of {after}"),
    }.get(
        m,
        (f"{number(voice, m)} after {hour}",)
        if m < 30
        else (f"{number(voice, 60 - m)} till {after}",),
    )
    text = voice.pick(forms, held, around)
    if 7 <= h <= 10 and voice.chance(0.5):
        return text
    half = "am" if h < 12 else "pm"
    return (
        f"{text} {voice.pick((half, day_half(h)))}" if h % 12 or m < 31 else clock_12(voice, h, m)
    )


def clock(voice: Voice, h: int, m: int, style=None) -> str:
    """Write a time of day in some style."""
    style = style or voice.pick((clock_24, clock_24, clock_12, clock_12, clock_12, clock_words))
    return style(voice, h, m)


def draw_time(voice: Voice) -> tuple[int, int]:
    """Draw an hour and a minute, round ones more often."""
    h = voice.pick(
        (
            0,
            1,
            2,
            3,
            4,
            5,
            6,
            6,
            7,
            7,
            8,
            8,
            9,
            9,
            9,
            10,
            11,
            12,
            12,
            13,
            14,
            15,
            16,
            17,
            17,
            18,
            18,
            19,
            20,
            21,
            22,
            22,
            23,
        )
    )
    minutes = (0,) * 9 + (30,) * 4 + (15, 15, 45, 45, 5, 10, 20, 25, 35, 40, 50, 55)
    m = voice.rng.randrange(60) if voice.chance(0.12) else voice.pick(minutes)
    return h, m


def at(voice: Voice, text: str) -> str:
    """Put "at" before a time, or leave it out where a bare time is still read as one."""
    marked = ":" in text or text.endswith(("am", "pm", "AM", "PM")) or text in ("noon", "midnight")
    if marked and voice.chance(0.3):
        return text
    return voice.pick(("at ",) * 7 + ("@ ", "@"), ("at exactly ", "at precisely ")) + text


def one_time(voice: Voice) -> Part:
    """Say one time of day."""
    h, m = draw_time(voice)
    if m == 0 and (6 <= h <= 11 or h > 12) and voice.chance(0.12):
        text = voice.pick(("at ", "at ", "@ ", "@")) + str(h)
    else:
        text = at(voice, clock(voice, h, m))
    return Part(text, (str(m), str(h)), "clock")


def several_times(voice: Voice) -> Part:
    """Say two or three times of day that share the minute, or two of one hour."""
    style = voice.pick((clock_24, clock_12, clock_12))
    h, m = draw_time(voice)
    if voice.chance(0.15):
        minutes = voice.pick(((0, 30), (0, 15), (15, 45), (10, 40), (0, 20), (5, 35), (0, 45)))
        text = listed(voice, [style(voice, h, minute) for minute in minutes])
        return Part(f"at {text}", (",".join(map(str, minutes)), str(h)), "clock")
    m = m if m % 5 == 0 else 0
    hours = sorted(voice.rng.sample(range(5, 24), voice.pick((2, 2, 2, 3, 3, 4))))
    if m == 0 and style is clock_24 and hours[0] >= 6 and voice.chance(0.3):
        names = [str(hour) for hour in hours]
        text = "at " + listed(voice, names)
    else:
        state = voice.rng.getstate()
        names = []
        for hour in hours:
            voice.rng.setstate(state)
            names.append(style(voice, hour, m))
        text = at(voice, listed(voice, names))
    count = {2: "twice a day", 3: "three times a day", 4: "four times a day"}[len(hours)]
    count = voice.pick(
        (count, count.replace("a day", "daily"), count.replace("three times", "3x")),
        (),
        (
            count.replace("a day", "per day"),
            count.replace("a day", "every day"),
            f"{len(hours)} times a day",
            f"{len(hours)}x a day",
            f"{len(hours)}x daily",
        ),
    )
    if voice.chance(0.15) and text.startswith("at"):
        return Part(
            count + voice.pick((" ", ", ")) + text, (str(m), ",".join(map(str, hours))), "daily"
        )
    return Part(text, (str(m), ",".join(map(str, hours))), "clock")


# Steps of minutes and hours


def every_minutes(voice: Voice, n: int) -> str:
    """Say every n minutes."""
    unit = voice.pick(("minutes",) * 5 + ("min", "mins"))
    count = number(voice, n)
    forms = [f"every {count} {unit}"] * 8 + [
        f"each {count} {unit}",
        f"once every {count} {unit}",
        f"every {n}min",
        f"every {n}m",
        f"every {n} min",
        f"at {n}-minute intervals",
        f"in {n} minute intervals",
        f"every {ordinal(voice, n)} minute",
        f"once per {count} {unit}",
        f"every {n}-minute interval",
    ]
    forms += {
        2: ["every other minute", "every second minute"],
        15: [
            "every quarter of an hour",
            "every quarter hour",
            "four times an hour",
            "4 times per hour",
        ],
        30: [
            "every half hour",
            "every half an hour",
            "half-hourly",
            "twice an hour",
            "every half-hour",
            "on the hour and half hour",
            "two times per hour",
        ],
        20: ["three times an hour"],
        10: ["six times an hour"],
    }.get(n, []) * 2
    held = [
        f"with {n} minutes between runs",
        f"each time {count} minutes have passed",
        f"on a {n}-minute interval",
        f"{60 // n} times every hour",
        f"per {n} minutes",
    ]
    return voice.pick(
        forms,
        held,
        voice.wide
        and (
            f"each {n} {unit}",
            f"once in {count} {unit}",
            f"one time every {n} {unit}",
            f"ev {n} {unit}",
            f"every {n} minute",
            f"interval of {n} minutes",
            f"after every {n} {unit}",
            f"at every {ordinal(voice, n)} minute",
            f"every {n} mins.",
            f"in intervals of {n} {unit}",
            f"{n} minute intervals",
            f"at an interval of {n} {unit}",
            f"every {n}mins",
            *{
                2: ("each second minute", "every two min"),
                5: ("twelve times an hour", "12x an hour"),
                6: ("ten times an hour", "10x per hour"),
                10: ("6x an hour", "six times per hour"),
                12: ("five times an hour", "5 times per hour"),
                15: (
                    "every quarter-hour",
                    "quarter-hourly",
                    "each quarter of an hour",
                    "on the quarter hours",
                    "on every quarter hour",
                    "at :00, :15, :30 and :45",
                    "at 0, 15, 30 and 45 past",
                    "4x an hour",
                ),
                20: (
                    "at :00, :20 and :40",
                    "at 0, 20 and 40 minutes past",
                    "3x an hour",
                    "three times per hour",
                ),
                30: (
                    "each half hour",
                    "once per half hour",
                    "at :00 and :30",
                    "on the hour and on the half hour",
                    "at 0 and 30 past",
                    "every half-an-hour",
                    "every 1/2 hour",
                    "2x an hour",
                ),
            }.get(n, ()),
        ),
    )


def window(voice: Voice) -> tuple[str, str]:
    """Say a range of hours; return the words and the hour field."""
    first, last = voice.pick(
        (
            (9, 17),
            (9, 17),
            (8, 18),
            (8, 16),
            (8, 20),
            (10, 16),
            (6, 22),
            (7, 19),
            (9, 12),
            (13, 17),
            (18, 23),
            (0, 6),
            (1, 5),
            (6, 9),
            (7, 9),
            (9, 18),
            (12, 14),
            (14, 18),
            (20, 23),
            (10, 18),
            (0, 5),
            (9, 21),
        )
    )
    if voice.wide and voice.chance(0.4):
        return any_window(voice)
    if voice.chance(0.2):
        span = f"{first}-{last}" if voice.chance(0.7) else str(first)
        end = last if "-" in span else first
        said = (f"{first:02}:00", f"{end:02}:59")
    else:
        span = f"{first}-{last}"
        style = voice.pick((clock_24, clock_12, clock_12, None))
        state = voice.rng.getstate()
        said = []
        for hour in (first, last):
            voice.rng.setstate(state)
            said.append(style(voice, hour, 0) if style else str(hour))
        if style is None and first < 6:
            said = [f"{first:02}:00", f"{last:02}:00"]
    forms = (
        [f"between {said[0]} and {said[1]}"] * 4
        + [f"from {said[0]} to {said[1]}"] * 4
        + [
            f"{said[0]} to {said[1]}",
            f"{said[0]}-{said[1]}",
            f"from {said[0]} until {said[1]}",
            f"from {said[0]} till {said[1]}",
            f"{said[0]} - {said[1]}",
            f"from {said[0]} through {said[1]}",
            f"during {said[0]}-{said[1]}",
        ]
    )
    if (first, last) == (9, 17) and span == "9-17":
        forms += [
            "from 9 to 5",
            "9 to 5",
            "9-5",
            "during business hours (9-17)",
            "nine to five",
            "between 9 and 5",
        ]
    held = [f"in the hours {said[0]} to {said[1]}", f"starting {said[0]}, ending {said[1]}"]
    return voice.pick(forms, held, voice.wide and between(*said)), span


def between(first: str, last: str) -> tuple[str, ...]:
    """Say a range from one end to the other, both ends in."""
    return (
        f"between {first} & {last}",
        f"{first} thru {last}",
        f"{first} – {last}",
        f"from {first} to {last} inclusive",
        f"from {first} up to {last}",
        f"{first} until {last}",
        f"{first} till {last}",
        f"only from {first} to {last}",
        f"between the hours of {first} and {last}",
        f"{first} to {last}, both included",
        f"within {first}-{last}",
        f"only between {first} and {last}",
        f"from {first} thru {last}",
        f"({first} to {last})",
        f"({first}-{last})",
        f"{first} through {last}",
        f"from {first} on until {last}",
        f"in the window {first}-{last}",
    )


def any_window(voice: Voice) -> tuple[str, str]:
    """Say any range of hours: one hour, hours of one half of the day, a night over midnight."""
    draw = voice.rng.random()
    if draw < 0.2:
        h = voice.rng.randrange(24)
        said = clock_12(voice, h, 0) if h % 12 else f"{h:02}:00"
        text = voice.pick(
            (
                f"between {h:02}:00 and {h:02}:59",
                f"from {h:02}:00 to {h:02}:59",
                f"in the {said} hour",
                f"during the {said} hour",
                f"in the hour from {said}",
                f"within the hour of {said}",
                f"in the hour that begins at {said}",
                f"only in the {said} hour",
            )
        )
        return text, f"{h}"
    if draw < 0.35:
        first, last = voice.pick(
            ((22, 5), (22, 6), (20, 4), (23, 3), (21, 5), (18, 2), (19, 6), (23, 5), (20, 6))
        )
        style = voice.pick((clock_24, clock_12))
        said = style(voice, first, 0), style(voice, last, 0)
        text = voice.pick(
            (
                f"from {said[0]} to {said[1]}",
                f"between {said[0]} and {said[1]}",
                f"overnight from {said[0]} to {said[1]}",
                f"at night from {said[0]} until {said[1]}",
                *between(*said),
            )
        )
        return text, f"{first}-23,0-{last}"
    first = voice.rng.randrange(0, 22)
    last = voice.rng.randrange(first + 1, 24)
    half = day_half(first)
    if draw < 0.65 and half == day_half(last) and first % 12:
        a, b = twelve(first), twelve(last)
        short = "am" if first < 12 else "pm"
        return voice.pick(
            (
                f"from {a} to {b} {half}",
                f"between {a} and {b} {half}",
                f"{a}-{b}{short}",
                f"{a} to {b} {short}",
                f"from {a} to {b}{short}",
                f"{half} from {a} to {b}",
                f"between {a} and {b} {short}",
            )
        ), f"{first}-{last}"
    style = voice.pick((clock_24, clock_12, clock_12))
    return voice.pick(between(style(voice, first, 0), style(voice, last, 0))), f"{first}-{last}"


def minute_step(voice: Voice) -> Part:
    """Say every minute or every n minutes, sometimes within hours."""
    if voice.chance(0.08):
        text = voice.pick(
            (
                "every minute",
                "each minute",
                "once a minute",
                "every single minute",
                "every 1 minute",
                "minutely",
                "once per minute",
                "every min",
                "1x per minute",
            ),
            (),
            (
                "each and every minute",
                "every one minute",
                "each min",
                "at every minute",
                "60 times an hour",
                "on every minute",
                "every 60 seconds",
            ),
        )
        field = "*"
    else:
        n = voice.pick(MINUTE_STEPS)
        text, field = every_minutes(voice, n), f"*/{n}"
    if voice.chance(0.42):
        words, span = window(voice)
        text = voice.pick(
            (f"{text} {words}",) * 5 + (f"{text}, {words}", f"{words} {text}", f"{words}, {text}")
        )
        return Part(text, (field, span), "step")
    return Part(text, (field, "*"), "step")


def past_the_hour(voice: Voice, m: int) -> str:
    """Say hourly at minute m."""
    if m == 0:
        return voice.pick(
            (
                "every hour",
                "every hour",
                "hourly",
                "hourly",
                "each hour",
                "once an hour",
                "on the hour",
                "every hour on the hour",
                "at the top of every hour",
                "every 60 minutes",
                "once per hour",
                "every full hour",
                "every 1 hour",
                "at the start of every hour",
                "every hour at :00",
            ),
            ("whenever a new hour begins", "24 times a day, on the hour"),
            (
                "top of the hour",
                "at the top of each hour",
                "at the top of the hour",
                "hourly on the hour",
                "each hour, on the hour",
                "every hour, on the hour",
                "at every full hour",
                "hourly, at :00",
                "once hourly",
                "every one hour",
                "1x per hour",
                "one time per hour",
                "each full hour",
                "on the hour, every hour",
                "every single hour",
                "every hr",
                "every 1h",
                "each hour at :00",
            ),
        )
    forms = [
        f"at {m} past every hour",
        f"hourly at :{m:02}",
        f"every hour at minute {m}",
        f"{m} minutes past every hour",
        f"{m} minutes after every hour",
        f"every hour at :{m:02}",
        f"at minute {m} of every hour",
        f"{m} past the hour",
        f"hourly, {m} minutes past the hour",
        f"every hour at {m} past",
        f"once an hour at minute {m}",
        f"at {m} minutes past the hour",
        f"each hour at minute {m}",
        f"every hour at xx:{m:02}",
        f"at :{m:02} every hour",
    ]
    if m == 30:
        forms += ["at half past every hour", "every hour at half past", "on the half hour"]
    if m == 15:
        forms += ["at quarter past every hour", "every hour at quarter past"]
    if m == 45:
        forms += [
            "at quarter to every hour",
            "every hour at quarter to",
            "15 minutes before every hour",
        ]
    if m in (50, 55):
        forms += [f"{60 - m} minutes before every hour", f"at {60 - m} to every hour"]
    return voice.pick(
        forms,
        (f"when the minute hand shows {m}", f"each time the clock reads xx:{m:02}"),
        lambda: more_past(voice, m),
    )


def more_past(voice: Voice, m: int) -> list[str]:
    """Say hourly at minute m in notes and in words."""
    n, left = number(voice, m), number(voice, 60 - m) if m > 30 else ""
    wide = [
        f"{n} past each hour",
        f"every hour, {m} past",
        f"at {n} past each hour",
        f"hourly at {m} past",
        f"each hour at :{m:02}",
        f"every hour, at :{m:02}",
        f"hourly (:{m:02})",
        f"{n} minutes past each hour",
        f"at {n} minutes after each hour",
        f"once an hour, at :{m:02}",
        f"each hour, {m} past",
        f":{m:02} every hour",
        f"every hour on minute {m}",
        f"once per hour at minute {m}",
        f"{n} after every hour",
        f"on minute {m} hourly",
    ]
    wide += {
        15: [
            "quarter past each hour",
            "hourly at quarter past",
            "a quarter past every hour",
            "each hour at a quarter past",
        ],
        30: [
            "half past each hour",
            "hourly at half past",
            "at the bottom of the hour",
            "each hour, half past",
        ],
        45: ["quarter to each hour", "a quarter before every hour", "hourly at quarter to"],
    }.get(m, [])
    if left:
        wide += [
            f"{left} to every hour",
            f"{left} minutes before each hour",
            f"{left} min before the hour",
            f"every hour, {left} minutes before the next",
            f"hourly at {left} to",
        ]
    return wide


def hourly(voice: Voice) -> Part:
    """Say hourly, at one or several minutes, sometimes within hours."""
    if voice.chance(0.22):
        minutes = sorted(voice.rng.sample(range(0, 60, 5), voice.pick((2, 2, 3))))
        names = listed(voice, [str(m) for m in minutes])
        text = voice.pick(
            (
                f"at {names} past every hour",
                f"at minutes {names} of every hour",
                f"every hour at minutes {names}",
                f"at {names} minutes past each hour",
                "hourly at " + listed(voice, [f":{m:02}" for m in minutes]),
            ),
            (),
            lambda: (
                listed(voice, [f"{m} past" for m in minutes]) + " every hour",
                "at " + listed(voice, [f"{m} past" for m in minutes]) + " each hour",
                listed(voice, [f":{m:02}" for m in minutes]) + " every hour",
                "every hour at " + listed(voice, [f":{m:02}" for m in minutes]),
                "each hour at " + listed(voice, [f"xx:{m:02}" for m in minutes]),
                f"{ {2: 'twice', 3: 'three times'}[len(minutes)] } an hour, at {names} past",
            ),
        )
        if voice.wide and voice.chance(0.35):
            words, span = window(voice)
            return Part(f"{text} {words}", (",".join(map(str, minutes)), span), "step")
        return Part(text, (",".join(map(str, minutes)), "*"), "step")
    m = (
        0
        if voice.chance(0.5)
        else voice.pick((5, 10, 15, 15, 20, 30, 30, 45, 45, 50, 55, voice.rng.randrange(60)))
    )
    text = past_the_hour(voice, m)
    if voice.chance(0.35):
        words, span = window(voice)
        if "-" in span:
            return Part(f"{text} {words}", (str(m), span), "step")
    return Part(text, (str(m), "*"), "step")


def hour_step(voice: Voice) -> Part:
    """Say every n hours, on the hour or at a minute."""
    n = voice.pick(HOUR_STEPS)
    count, unit = number(voice, n), voice.pick(("hours", "hours", "hours", "hrs"))
    forms = [f"every {count} {unit}"] * 6 + [
        f"once every {count} hours",
        f"each {count} hours",
        f"every {n}h",
        f"every {ordinal(voice, n)} hour",
        f"at {n}-hour intervals",
    ]
    if n == 2:
        forms += ["every other hour", "every second hour", "every even hour"]
    text = voice.pick(
        forms,
        (
            f"with {n} hours between runs",
            f"on a {n}-hour interval",
            f"{24 // n} times a day, every {n} hours",
        ),
        (
            f"every {n} h",
            f"every {n} hr",
            f"once in {n} hours",
            f"{n}-hourly",
            f"one time every {count} hours",
            f"every {n} hour",
            f"each {n}h",
            f"in {n}-hour intervals",
            f"every {n}hrs",
            *{
                2: (
                    "on even hours",
                    "on every even hour",
                    "every even-numbered hour",
                    "each second hour",
                    "at even hours",
                ),
                3: ("every third hour", "each third hour"),
                12: ("every half day", "every twelve hrs"),
            }.get(n, ()),
        ),
    )
    m = 0
    if voice.chance(0.35):
        m = voice.pick((5, 10, 15, 15, 20, 30, 30, 45))
        tail = [f"at minute {m}", f"at {m} past", f"at :{m:02}", f"at {m} minutes past the hour"]
        tail += {30: ["at half past", "on the half hour"], 15: ["at quarter past"]}.get(m, [])
        text += voice.pick((" ", " ", ", ")) + voice.pick(tail)
    elif voice.chance(0.15):
        text += voice.pick((" on the hour", ", on the hour", " at minute 0"))
    hours = f"*/{n}"
    if n in (2, 3) and voice.chance(0.15):
        first, last = voice.pick(
            {2: ((8, 18), (6, 22), (8, 20), (10, 18)), 3: ((9, 18), (6, 21), (9, 21))}[n]
        )
        said = [clock_12(voice, first, 0), clock_12(voice, last, 0)]
        text += voice.pick((f" from {said[0]} to {said[1]}", f" between {said[0]} and {said[1]}"))
        hours = f"{first}-{last}/{n}"
    return Part(text, (str(m), hours), "step")


def time_part(voice: Voice) -> Part:
    """Say when within a day."""
    draw = voice.rng.random()
    if draw < 0.58:
        return one_time(voice)
    if draw < 0.71:
        return several_times(voice)
    if draw < 0.85:
        return minute_step(voice)
    return hourly(voice) if draw < 0.93 else hour_step(voice)


# Days


def every_day(voice: Voice) -> Part:
    """Say every day."""
    text = voice.pick(
        (
            "every day",
            "every day",
            "every day",
            "daily",
            "daily",
            "daily",
            "each day",
            "everyday",
            "every single day",
            "7 days a week",
            "seven days a week",
            "all days",
            "once a day",
            "once daily",
            "day after day",
            "Monday to Sunday",
            "all week",
        ),
        ("day in, day out", "on all seven days", "on a daily basis"),
        (
            "every day of the week",
            "each and every day",
            "every day, weekends included",
            "every day incl. weekends",
            "every day, weekends too",
            "Mon-Sun",
            "Monday through Sunday",
            "all 7 days",
            "on every day",
            "each day of the week",
            "every calendar day",
            "7 days/week",
            "on all days",
            "Sunday to Saturday",
            "Sun-Sat",
            "daily (incl. weekends)",
            "every days",
            "once per day",
            "once each day",
            "once every day",
            "daily, also on weekends",
            "all days of the week",
        ),
    )
    return Part(text, ("*", "*", "*"), "once" if text.startswith("once") else "day")


def day_list(voice: Voice, days: list[int]) -> str:
    """Say a set of weekdays: on Mondays and Fridays, every Mon, Wed & Fri."""
    short = voice.chance(0.3)
    if short and voice.chance(0.25) and len(days) > 1:
        names = "/".join(day_name(voice, d, True) for d in days)
        return voice.pick((names, f"every {names}", f"on {names}"))
    single = listed(voice, [day_name(voice, d, short) for d in days])
    plural = single if short else listed(voice, [day_name(voice, d) + "s" for d in days])
    return voice.pick(
        (
            f"on {plural}",
            f"on {plural}",
            f"every {single}",
            f"every {single}",
            f"every {single}",
            f"each {single}",
            plural,
            f"every week on {single}",
            f"weekly on {single}",
            f"{single} each week",
            f"on {single}",
            f"every {single} of the week" if len(days) > 1 else f"once a week on {single}",
        ),
        (
            f"whenever it is {single}",
            f"{single} of every week",
            f"when {single} comes around" if len(days) == 1 else f"on any {single}",
        ),
        voice.wide and more_days(voice, days, single, plural),
    )


def more_days(voice: Voice, days: list[int], single: str, plural: str) -> list[str]:
    """Say a set of weekdays in notes, lists and loose grammar."""
    forms = [
        f"every single {single}",
        f"all {plural}",
        f"only on {plural}",
        f"{plural} only",
        f"on every {single}",
        f"each and every {single}",
        f"{single} only",
        f"{single} weekly",
        f"weekly, {single}",
        f"weekly on {plural}",
        f"every week, {plural}",
        f"just {plural}",
        f"only {plural}",
        f"on {single} each week",
        f"on {plural} only",
        f"{single} every week",
        f"weekly: {single}",
        f"on each {single}",
        f"all the {plural}",
        f"each week {single}",
        f"every week {single}",
        f"each week on {plural}",
        single,
        single,
        f"in {plural}",
        f"at {plural}",
    ]
    if len(days) == 1:
        forms += [
            f"once a week, {plural}",
            f"once weekly on {single}",
            f"once a week {single}",
            f"1x a week on {single}",
            f"every weeks {single}",
            f"weekly {single}",
        ]
    else:
        slashed = "/".join(day_name(voice, d, True) for d in days)
        count = {2: "twice", 3: "three times", 4: "four times"}[len(days)]
        forms += [
            f"{count} a week, on {plural}",
            f"{count} a week: {single}",
            f"{count} weekly on {single}",
            slashed,
            f"{len(days)}x a week ({single})",
            ", ".join(day_name(voice, d, True) for d in days),
            " ".join(day_name(voice, d, True) for d in days),
            "+".join(day_name(voice, d, True) for d in days),
        ]
    return (
        forms
        + {
            (1, 3, 5): ["MWF", "M/W/F", "Mon-Wed-Fri"],
            (2, 4): ["Tue/Thu", "T/Th", "Tues & Thurs"],
        }.get(tuple(days), [])
        * 3
    )


def weekday_set(voice: Voice) -> Part:
    """Say one or several weekdays."""
    count = voice.pick((1, 1, 1, 1, 2, 2, 2, 3), (), (3, 4))
    days = sorted(voice.rng.sample(range(7), count), key=lambda d: d or 7)
    if voice.wide and voice.chance(0.03):
        days = voice.pick(([1, 3, 5], [2, 4]))
    return Part(day_list(voice, days), ("*", "*", ",".join(map(str, days))), "day")


def weekday_range(voice: Voice) -> Part:
    """Say working days, a weekend or a range of weekdays."""
    draw = voice.rng.random()
    if draw < 0.42:
        text = voice.pick(
            (
                "on weekdays",
                "on weekdays",
                "every weekday",
                "every weekday",
                "weekdays",
                "Monday to Friday",
                "Mon-Fri",
                "Monday through Friday",
                "from Monday to Friday",
                "Mondays to Fridays",
                "Mon to Fri",
                "on workdays",
                "on working days",
                "every working day",
                "every workday",
                "each weekday",
                "on business days",
                "weekdays only",
                "Monday-Friday",
                "mon–fri",
                "on week days",
                "M-F",
                "Monday till Friday",
                "during the week (Mon-Fri)",
                "every business day",
                "work days",
                "every day except weekends",
                "except on weekends",
                "not on weekends",
                "every day except Saturday and Sunday",
                "every Monday to Friday",
                "Monday, Tuesday, Wednesday, Thursday and Friday",
                "each working day",
            ),
            (
                "on all five working days",
                "Monday up to and including Friday",
                "only when it is a weekday",
            ),
            (
                "Mon - Fri",
                "Mon thru Fri",
                "Monday thru Friday",
                "Mo-Fr",
                "all weekdays",
                "on every weekday",
                "each business day",
                "all working days",
                "during the work week",
                "on weekdays only",
                "only on weekdays",
                "just weekdays",
                "only weekdays",
                "only on working days",
                "Monday to Friday only",
                "every day from Monday to Friday",
                "weekdays (Mon-Fri)",
                "workdays only",
                "every day Mon-Fri",
                "daily Mon-Fri",
                "daily except weekends",
                "every day, no weekends",
                "no weekends",
                "excluding weekends",
                "weekends excluded",
                "but not on weekends",
                "every day but the weekend",
                "Monday until Friday",
                "from Mon to Fri",
                "from Mon till Fri",
                "on each weekday",
                "5 days a week, Monday to Friday",
                "in weekdays",
                "weekday",
                "M - F",
                "(Mon-Fri)",
                "mon to fri",
                "mon-fri only",
                "each workday",
                "on work days",
                "all business days",
                "daily on weekdays",
                "every day on weekdays",
                "wkdays",
            ),
        )
        return Part(text, ("*", "*", "1-5"), "day")
    if draw < 0.62:
        text = voice.pick(
            (
                "on weekends",
                "on weekends",
                "on the weekend",
                "at the weekend",
                "weekends",
                "at weekends",
                "every weekend",
                "on Saturdays and Sundays",
                "every Saturday and Sunday",
                "Sat & Sun",
                "Sat and Sun",
                "weekends only",
                "Saturday and Sunday",
                "on weekend days",
                "Sat/Sun",
                "each weekend",
                "both weekend days",
                "on Saturday and Sunday",
                "Sundays and Saturdays",
            ),
            ("on both days of the weekend", "only when it is the weekend"),
            (
                "every Sat and Sun",
                "Sat+Sun",
                "Saturdays & Sundays",
                "Sat & Sun only",
                "only on weekends",
                "just weekends",
                "on Sat and Sun",
                "Saturdays and Sundays",
                "each Saturday and Sunday",
                "every weekend day",
                "wkends",
                "on non-working days",
                "during the weekend",
                "over the weekend",
                "Sat-Sun",
                "on the weekends",
                "all weekends",
                "weekend days only",
                "Saturday + Sunday",
                "in weekends",
                "weekend",
                "on weekends only",
                "at weekends only",
                "only at the weekend",
                "each weekend day",
                "daily on weekends",
                "not on weekdays",
                "every day but weekdays",
            ),
        )
        return Part(text, ("*", "*", "0,6"), "day")
    first, last = voice.pick(
        (
            (1, 4),
            (1, 3),
            (2, 5),
            (2, 4),
            (3, 5),
            (1, 6),
            (2, 6),
            (4, 6),
            (3, 6),
            (4, 7),
            (5, 7),
            (0, 4),
        ),
        (),
        ((1, 2), (2, 3), (0, 5), (3, 7), (5, 7), (5, 8), (6, 8), (6, 9), (0, 3), (0, 2)),
    )
    short = voice.chance(0.4)
    names = [day_name(voice, d % 7, short) for d in (first, last)]
    forms = [
        f"{names[0]} to {names[1]}",
        f"from {names[0]} to {names[1]}",
        f"{names[0]} through {names[1]}",
        f"{names[0]}-{names[1]}",
        f"every day from {names[0]} to {names[1]}",
        f"{names[0]} - {names[1]}",
        f"every {names[0]} to {names[1]}",
        f"{names[0]} till {names[1]}",
        f"from {names[0]} until {names[1]}",
    ]
    if not short:
        forms += [f"{names[0]}s to {names[1]}s", f"{names[0]}s through {names[1]}s"]
    held = (
        f"{names[0]} up to and including {names[1]}",
        f"starting {names[0]}, last run {names[1]}",
    )
    wide = (
        f"{names[0]} thru {names[1]}",
        f"{names[0]}–{names[1]}",
        f"every day {names[0]} to {names[1]}",
        f"daily {names[0]}-{names[1]}",
        f"each day from {names[0]} to {names[1]}",
        f"{names[0]} to {names[1]} inclusive",
        f"from {names[0]} through {names[1]}",
        f"between {names[0]} and {names[1]}",
        f"{names[0]} until {names[1]}",
        f"daily, {names[0]} to {names[1]}",
        f"only {names[0]} to {names[1]}",
        f"({names[0]}-{names[1]})",
        f"from {names[0]} till {names[1]}",
        f"{names[0]}-{names[1]} only",
    )
    field = (
        f"{first}-{last}"
        if last < 8
        else ",".join(str(d) for d in sorted(d % 7 for d in range(first, last + 1)))
    )
    return Part(voice.pick(forms, held[:1], wide), ("*", "*", field), "day")


def except_days(voice: Voice) -> Part:
    """Say every day, or every working day, but some."""
    if voice.chance(0.25):
        skip, base = voice.pick((1, 2, 3, 4, 5)), "weekday"
        left = [d for d in range(1, 6) if d != skip]
        name = day_name(voice, skip)
        text = voice.pick(
            (
                f"on weekdays except {name}",
                f"every weekday except {name}s",
                f"Mon-Fri but not {name}",
                f"every {base} but {name}",
                f"weekdays, except on {name}s",
            )
        )
        return Part(text, ("*", "*", ",".join(map(str, left))), "day")
    skip = [voice.pick((0, 0, 0, 1, 2, 3, 4, 5, 6, 6))]
    if voice.chance(0.2):
        skip = sorted(voice.rng.sample(range(7), 2))
    left = [d for d in range(7) if d not in skip]
    single, plural = (listed(voice, [day_name(voice, d) + s for d in skip]) for s in ("", "s"))
    text = voice.pick(
        (
            f"every day except {single}",
            f"every day except {plural}",
            f"daily except {plural}",
            f"every day but {single}",
            f"daily but not on {plural}",
            f"each day except {single}",
            f"all days except {single}",
            f"every day, except on {plural}",
            f"daily excluding {plural}",
            f"every day but not {single}",
            f"any day but {single}",
            f"every day other than {single}",
            f"all week except {single}",
            f"every day apart from {plural}",
            f"every day except for {single}",
        ),
        (
            f"every day bar {single}",
            f"daily, never on {plural}",
            f"every day with the exception of {plural}",
        ),
        (
            f"every day save {single}",
            f"every day minus {plural}",
            f"daily, no {plural}",
            f"every day, not {plural}",
            f"all days but {single}",
            f"daily, except {single}",
            f"every day, skipping {plural}",
            f"every day, no {plural}",
            f"not on {plural}",
            f"all days excluding {single}",
            f"every day excl. {plural}",
            f"every day (not {single})",
            f"daily without {plural}",
            f"each day but {single}",
            f"any day except {single}",
            f"every day, but never {single}",
            f"all days besides {single}",
            f"every day of the week but {single}",
            f"daily, {plural} excluded",
        ),
    )
    return Part(text, ("*", "*", ",".join(map(str, left))), "day")


def month_days(voice: Voice) -> Part:
    """Say one or several days of the month."""
    count = voice.pick((1, 1, 1, 1, 2, 2, 3))
    days = sorted(voice.rng.sample(range(1, 29 if voice.chance(0.9) else 32), count))
    if count == 1 and voice.chance(0.4):
        days = [1]
    if count == 2 and voice.chance(0.4):
        days = [1, 15]
    names = listed(voice, [ordinal(voice, d) for d in days])
    month = voice.pick(
        (
            "of every month",
            "of every month",
            "of each month",
            "of the month",
            "every month",
            "of any month",
        )
    )
    forms = [f"on the {names} {month}"] * 3 + [
        f"the {names} {month}",
        f"every month on the {names}",
        f"monthly on the {names}",
        f"on the {names}",
        f"every {names} of the month",
        f"each month on the {names}",
        f"{names} {month}",
        f"every month, on the {names}",
    ]
    plain = listed(voice, [str(d) for d in days])
    forms += [f"on day {plain} of the month" if count == 1 else f"on days {plain} of the month"]
    if days == [1]:
        forms += [
            "on the first day of the month",
            "on the first day of every month",
            "on the first of the month",
            "every first of the month",
            "at the beginning of each month, on the 1st",
            "first day of each month",
            "once a month on the 1st",
            "first of every month",
        ]
    if count == 1:
        forms += [f"once a month on the {names}"]
    held = (
        f"when the date is the {names}",
        f"monthly, day {plain}",
        f"on every {names} in the calendar",
    )
    return Part(
        voice.pick(forms, held, lambda: more_dates(voice, days, names, plain)),
        (",".join(map(str, days)), "*", "*"),
        "day",
    )


def more_dates(voice: Voice, days: list[int], names: str, plain: str) -> list[str]:
    """Say days of the month in notes and loose grammar."""
    count = len(days)
    wide = [
        f"{names} monthly",
        f"monthly, {names}",
        f"each {names}",
        f"every {names}",
        f"{names} of month",
        f"on the {names}, monthly",
        f"the {names} monthly",
        f"every month: {names}",
        f"on day {plain} each month",
        f"day {plain} of each month",
        f"on {names} of each month",
        f"the {names} day of the month",
        f"on the {names} day of every month",
        f"{names} of the month, every month",
        f"month's {names}",
        f"every month the {names}",
        f"on every month's {names}",
        f"monthly: {names}",
        f"monthly ({names})",
        f"on the {names} of all months",
        f"at the {names} of each month",
        f"in the {names} of every month",
    ]
    if count > 1:
        wide += [
            f"{ {2: 'twice', 3: 'three times'}[count] } a month, on the {names}",
            f"{count}x a month: {names}",
            f"days {plain} of each month",
            f"{ {2: 'twice', 3: 'three times'}[count] } monthly on the {names}",
            "on the "
            + listed(voice, [ordinal(voice, d) for d in days]).replace(" and ", " and the "),
        ]
    if days == [1]:
        wide += [
            "every 1st",
            "first of month",
            "day one of every month",
            "first day of month",
            "on day one of the month",
            "at the start of each month, on the 1st",
            "start of the month (1st)",
            "beginning of the month, day 1",
        ]
    return wide


def month_day_span(voice: Voice) -> Part:
    """Say a range or a step of days of the month."""
    if voice.chance(0.5):
        forms = (
            (
                (
                    "every other day",
                    "every 2 days",
                    "every two days",
                    "every second day",
                    "on odd days of the month",
                    "on odd-numbered days",
                    "on odd dates",
                    "once every two days",
                    *(
                        (
                            "every 2nd day",
                            "on odd days",
                            "each second day",
                            "on every odd day of the month",
                            "odd days only",
                        )
                        if voice.wide
                        else ()
                    ),
                ),
                "*/2",
            ),
            (
                (
                    "every 3 days",
                    "every three days",
                    "every third day",
                    "once every 3 days",
                    "each third day",
                ),
                "*/3",
            ),
            (
                (
                    "on even days of the month",
                    "on even-numbered days",
                    "on even dates",
                    *(
                        (
                            "on even days",
                            "even days only",
                            "on every even day of the month",
                            "all even dates",
                        )
                        if voice.wide
                        else ()
                    ),
                ),
                "2-30/2",
            ),
            (("every 5 days", "every five days", "every fifth day"), "*/5"),
            (("every 10 days", "every ten days"), "*/10"),
            (("every 4 days", "every four days", "every fourth day"), "*/4"),
        )
        texts, field = voice.pick(forms)
        return Part(voice.pick(texts), (field, "*", "*"), "day")
    first, last = voice.pick(
        (
            (1, 7),
            (1, 7),
            (1, 5),
            (1, 10),
            (10, 20),
            (15, 21),
            (20, 25),
            (8, 14),
            (1, 3),
            (5, 10),
            (1, 15),
            (22, 28),
        )
    )
    if voice.wide and voice.chance(0.4):
        first = voice.rng.randrange(1, 24)
        last = voice.rng.randrange(first + 2, 29)
    names = [ordinal(voice, d) for d in (first, last)]
    month = voice.pick(("of every month", "of each month", "of the month", "every month"))
    forms = [
        f"from the {names[0]} to the {names[1]} {month}",
        f"{names[0]} to {names[1]} {month}",
        f"on days {first}-{last} of the month",
        f"on the {names[0]} through {names[1]} {month}",
        f"between the {names[0]} and the {names[1]} {month}",
        f"on days {first} to {last} {month}",
        f"from the {names[0]} through the {names[1]} {month}",
        f"every day from the {names[0]} to the {names[1]} {month}",
    ]
    if first == 1:
        forms += [
            f"on the first {number(voice, last)} days {month}",
            f"the first {number(voice, last)} days {month}",
        ]
        wide = voice.wide and (
            f"during the first {number(voice, last)} days {month}",
            f"first {last} days {month}",
            f"every day for the first {number(voice, last)} days {month}",
            f"days 1 to {last} {month}",
        )
    else:
        wide = (
            f"from the {names[0]} till the {names[1]} {month}",
            f"days {first}-{last} {month}",
            f"the {names[0]} to the {names[1]} {month}",
            f"daily from the {names[0]} to the {names[1]} {month}",
        )
    return Part(voice.pick(forms, (), wide), (f"{first}-{last}", "*", "*"), "day")


def quarters(voice: Voice) -> Part:
    """Say a day of every quarter, of every second or every sixth month."""
    if voice.chance(0.7):
        d = voice.pick((1, 1, 1, 1, 2, 5, 10, 15))
        nth = ordinal(voice, d)
        forms = [
            f"every quarter on the {nth}",
            f"quarterly on the {nth}",
            f"every 3 months on the {nth}",
            f"every three months on the {nth}",
            f"on the {nth} of every third month",
            f"on the {nth} of January, April, July and October",
            f"on the {nth} of Jan, Apr, Jul and Oct",
        ]
        if d == 1:
            forms += [
                "on the first day of every quarter",
                "on the first day of each quarter",
                "at the start of every quarter, on the 1st",
                "on the 1st of each quarter",
                "quarterly, on the first day",
            ]
        repeated = [
            f"{d} {month_name(voice, m, short)}" for short in (False, True) for m in (1, 4, 7, 10)
        ]
        return Part(
            voice.pick(
                forms,
                (f"four times a year, on the {nth} of Jan, Apr, Jul and Oct",),
                lambda: (
                    f"each quarter on the {nth}",
                    f"each quarter, {nth}",
                    f"every 3rd month on the {nth}",
                    f"quarterly ({nth})",
                    f"{nth} of Jan/Apr/Jul/Oct",
                    "on " + listed(voice, repeated[:4]),
                    "on " + listed(voice, repeated[4:]),
                    f"once a quarter on the {nth}",
                    f"on the {nth} of January, April, July, October",
                ),
            ),
            (str(d), "*/3", "*"),
            "day",
        )
    n, count = voice.pick(((2, "two"), (6, "six"))), voice.pick((1, 1, 5, 15))
    nth = ordinal(voice, count)
    forms = [
        f"every {voice.pick(n)} months on the {nth}",
        f"on the {nth} of every {'second' if n[0] == 2 else 'sixth'} month",
    ]
    if n[0] == 6:
        forms += [
            f"twice a year, on the {nth} of January and July",
            f"on {count} January and {count} July",
        ]
    return Part(voice.pick(forms), (str(count), f"*/{n[0]}", "*"), "day")


def dates(voice: Voice) -> Part:
    """Say yearly dates and days of quarters."""
    draw = voice.rng.random()
    if draw < 0.12:
        text, dom, month = voice.pick(
            (
                ("on Christmas Day", 25, 12),
                ("on New Year's Day", 1, 1),
                ("on Christmas Eve", 24, 12),
                ("on Halloween", 31, 10),
                ("on New Year's Eve", 31, 12),
                ("on Valentine's Day", 14, 2),
                ("on the 4th of July", 4, 7),
                ("every Christmas Day", 25, 12),
            )
        )
        return Part(text + voice.pick(("", "", " every year")), (str(dom), str(month), "*"), "day")
    if draw < 0.52:
        return quarters(voice)
    d = voice.rng.randrange(1, 29)
    if voice.wide and voice.chance(0.5):
        return yearly(voice)
    if draw < 0.68:
        months = sorted(voice.rng.sample(range(1, 13), voice.pick((2, 2, 3))))
        short = voice.chance(0.3)
        names = listed(voice, [month_name(voice, m, short) for m in months])
        return Part(
            voice.pick(
                (f"on the {ordinal(voice, d)} of {names}", f"in {names} on the {ordinal(voice, d)}")
            ),
            (str(d), ",".join(map(str, months)), "*"),
            "day",
        )
    m = voice.rng.randrange(1, 13)
    name, nth = month_name(voice, m), ordinal(voice, d)
    text = voice.pick(
        (
            f"on {d} {name}",
            f"on {name} {d}",
            f"on {name} {nth}",
            f"on the {nth} of {name}",
            f"on the {nth} of {name}",
        ),
        (f"when {name} {nth} comes around",),
    )
    year = voice.pick(("", "", "every year ", "each year ", "yearly ", "once a year ", "annually "))
    text = f"{text} {year}".strip() if voice.chance(0.5) else f"{year}{text}"
    if voice.chance(0.15):
        text = voice.pick((f"every {d} {name}", f"every {name} {nth}", f"each {name} {d}"))
    return Part(text, (str(d), str(m), "*"), "day")


def yearly(voice: Voice) -> Part:
    """Say a date of every year, or one day of several months, as calendars and notes do."""
    m = voice.rng.randrange(1, 13)
    d = voice.rng.randrange(1, 30 if m == 2 else 31 if m in (4, 6, 9, 11) else 32)
    if voice.chance(0.12):
        text, d, m = voice.pick(
            (
                ("on St Patrick's Day", 17, 3),
                ("on April Fools' Day", 1, 4),
                ("on Boxing Day", 26, 12),
                ("on May Day", 1, 5),
                ("on Xmas", 25, 12),
                ("on New Year's", 1, 1),
                ("on the 14th of February", 14, 2),
                ("every Halloween", 31, 10),
                ("every New Year's Eve", 31, 12),
                ("on leap day", 29, 2),
                ("on the last day of the year", 31, 12),
                ("on the first day of the year", 1, 1),
            )
        )
    elif voice.chance(0.3):
        months = sorted(
            voice.rng.sample(
                [n for n in range(1, 13) if n != 2 and (d < 31 or n not in (4, 6, 9, 11))],
                voice.pick((2, 2, 3, 4)),
            )
        )
        short, nth = voice.chance(0.4), ordinal(voice, d)
        names = [month_name(voice, n, short) for n in months]
        text = voice.pick(
            (
                "on " + listed(voice, [f"{d} {n}" for n in names]),
                "on " + listed(voice, [f"{n} {d}" for n in names]),
                listed(voice, [f"the {nth} of {n}" for n in names]),
                listed(voice, [f"{n} {nth}" for n in names]),
                f"the {nth} of {listed(voice, names)}",
                f"each {nth} of {listed(voice, names)}",
            )
        )
        return Part(text, (str(d), ",".join(map(str, months)), "*"), "day")
    else:
        name, nth = month_name(voice, m), ordinal(voice, d)
        text = voice.pick(
            (
                f"{d} {name}",
                f"{name} {d}",
                f"{name} {nth}",
                f"every {nth} of {name}",
                f"{nth} of {name}",
                f"the {nth} of {name}",
                f"{nth} {name}",
                f"on {nth} {name}",
                f"{name} the {nth}",
                f"each {nth} of {name}",
                f"on the {nth} of {name}",
                f"on {name} {d}",
                f"on {d} {name}",
                f"on {name} the {nth}",
                f"on every {name} {nth}",
            )
        )
    if voice.chance(0.6):
        text = (
            voice.pick(
                (
                    "{t} every year",
                    "{t}, every year",
                    "{t} yearly",
                    "{t}, yearly",
                    "{t} (yearly)",
                    "yearly on {t}",
                    "{t} each year",
                    "every year {t}",
                    "{t} annually",
                    "annually {t}",
                    "{t} - yearly",
                    "{t} once a year",
                    "yearly, {t}",
                    "{t} of each year",
                    "each year {t}",
                )
            )
            .format(t=text)
            .replace("on on ", "on ")
            .replace("on the the", "on the")
            .replace("on every ", "on ")
        )
    return Part(text, (str(d), str(m), "*"), "day")


def months(voice: Voice) -> tuple[str, str]:
    """Say months; return the words and the month field."""
    draw = voice.rng.random()
    if draw < 0.45:
        m = voice.rng.randrange(1, 13)
        name = month_name(voice, m)
        return voice.pick(
            (
                f"in {name}",
                f"in {name}",
                f"during {name}",
                f"every {name}",
                f"only in {name}",
                f"each {name}",
            ),
            (f"throughout {name}", f"for the whole of {name}"),
            (
                f"in the month of {name}",
                f"in {name} only",
                f"just in {name}",
                f"{name} only",
                f"only {name}",
                f"during the month of {name}",
                f"each year in {name}",
                f"in {name} every year",
            ),
        ), str(m)
    if draw < 0.65:
        chosen = sorted(voice.rng.sample(range(1, 13), voice.pick((2, 2, 3))))
        short = voice.chance(0.3)
        names = listed(voice, [month_name(voice, m, short) for m in chosen])
        return voice.pick((f"in {names}", f"during {names}", f"only in {names}")), ",".join(
            map(str, chosen)
        )
    if draw < 0.70:
        m = voice.rng.randrange(1, 13)
        name = month_name(voice, m)
        left = ",".join(str(n) for n in range(1, 13) if n != m)
        return voice.pick(
            (
                f"except in {name}",
                f"every month except {name}",
                f"all year except {name}",
                f"but not in {name}",
            )
        ), left
    if draw < 0.77:
        quarter = voice.rng.randrange(4)
        span = f"{quarter * 3 + 1}-{quarter * 3 + 3}"
        nth = ("first", "second", "third", "fourth")[quarter]
        return voice.pick(
            (f"in Q{quarter + 1}", f"in the {nth} quarter", f"during Q{quarter + 1}")
        ), span
    first = voice.rng.randrange(1, 11)
    last = voice.rng.randrange(first + 2, 13)
    field = f"{first}-{last}"
    if voice.wide and voice.chance(0.2):
        # Over the turn of the year.
        first, last = voice.pick(
            ((11, 2), (10, 3), (12, 2), (11, 3), (9, 1), (10, 1), (12, 3), (9, 4))
        )
        field = ",".join(str(n) for n in range(1, 13) if n <= last or n >= first)
    short = voice.chance(0.3)
    names = [month_name(voice, m, short) for m in (first, last)]
    return voice.pick(
        (
            f"from {names[0]} to {names[1]}",
            f"from {names[0]} to {names[1]}",
            f"{names[0]} through {names[1]}",
            f"between {names[0]} and {names[1]}",
            f"{names[0]} to {names[1]}",
            f"from {names[0]} until {names[1]}",
            f"{names[0]}-{names[1]}",
            f"in {names[0]}-{names[1]}",
        ),
        (f"{names[0]} up to and including {names[1]}",),
        (
            f"{names[0]} thru {names[1]}",
            f"{names[0]} till {names[1]}",
            f"from {names[0]} through {names[1]}",
            f"{names[0]} to {names[1]} only",
            f"{names[0]}–{names[1]}",
            f"only {names[0]}-{names[1]}",
            f"in the months {names[0]} to {names[1]}",
            f"from {names[0]} till {names[1]}",
            f"only from {names[0]} to {names[1]}",
            f"during {names[0]} to {names[1]}",
            f"({names[0]} to {names[1]})",
        ),
    ), field


def either_day(voice: Voice) -> Part:
    """Say a day of the month and, as well, a weekday: cron joins the two with OR."""
    d, w = voice.pick((1, 1, 13, 15, 15, 10, 20)), voice.rng.randrange(7)
    nth, name = ordinal(voice, d), day_name(voice, w)
    text = voice.pick(
        (
            f"on the {nth} and on every {name}",
            f"on the {nth} of the month and also every {name}",
            f"every {name} and also on the {nth} of the month",
            f"on {name}s and also on the {nth}",
            f"on the {nth} of each month plus every {name}",
            f"every {name} as well as on the {nth}",
        )
    )
    return Part(text, (str(d), "*", str(w)), "day")


def day_part(voice: Voice, step: bool) -> Part:
    """Say on which days; `step` is for schedules within a day, which need not name a day."""
    draw = voice.rng.random()
    if step and draw < 0.5:
        return Part("", ("*", "*", "*"), "none") if voice.chance(0.92) else every_day(voice)
    if draw < 0.2:
        part = every_day(voice)
    elif draw < 0.42 or step and draw < 0.65:
        part = weekday_set(voice)
    elif draw < 0.62 or step and draw < 0.85:
        part = weekday_range(voice)
    elif draw < 0.69:
        part = except_days(voice)
    elif draw < 0.83:
        part = month_days(voice)
    elif draw < 0.90:
        part = month_day_span(voice)
    else:
        return either_day(voice) if draw > 0.985 else dates(voice)
    if voice.chance(0.12):
        words, field = months(voice)
        if not is_valid(f"0 0 {part.fields[0]} {field} {part.fields[2]}"):
            # The 31st in February never comes.
            return part
        text = f"{words} {part.text}" if voice.chance(0.2) else f"{part.text} {words}"
        return Part(text, (part.fields[0], field, part.fields[2]), "day")
    return part


# Where a time may stand inside the words for days: "every month | on the 3rd", "every Monday | in
# June".
_SEAMS = (
    re.compile(
        r"((?:every|each) (?:month|week|year|quarter)|monthly|weekly|yearly|annually|quarterly),? (.+)"
    ),
    re.compile(
        r"(.+?)(?<! of) ((?:every|each) (?:month|year|week)|yearly|annually|"
        r"(?:only )?(?:in|during|from|between|except in) [A-Z].*)"
    ),
)


def parted(text: str) -> tuple[str, str]:
    """Split the words for days where a time may stand between them; the second part may be
    empty."""
    for seam in _SEAMS:
        found = seam.fullmatch(text)
        if found:
            return found[1], found[2]
    return text, ""


def daypart_form(voice: Voice, when: Part, day: Part) -> str | None:
    """Say the hour with a part of the day: every morning at 7, Monday evenings at 8."""
    h, m = int(when.fields[1]), int(when.fields[0])
    if day.fields[:2] != ("*", "*"):
        return None
    if h < 5:
        said = clock_12(voice, h, m)
        forms = (
            f"every night at {said}",
            f"each night at {said}",
            f"nightly at {said}",
            f"at {said} every night",
            f"{said} nightly",
        )
        return voice.pick(forms) if day.fields[2] == "*" else None
    if h == 12:
        return None
    name = "morning" if h < 12 else "afternoon" if h < 18 else "evening" if h < 22 else "night"
    shown = str(twelve(h)) + (f":{m:02}" if m else "")
    shown = voice.pick(
        (shown, shown, clock_24(voice, h, m), clock_12(voice, h, m)),
        (),
        lambda: spoken(voice, h, m),
    )
    if day.fields[2] == "*":
        return voice.pick(
            (
                f"every {name} at {shown}",
                f"at {shown} every {name}",
                f"each {name} at {shown}",
                f"{name}s at {shown}",
                f"every {name} @ {shown}",
                f"{shown} every {name}",
                f"daily at {shown} in the {name}" if name != "night" else f"nightly at {shown}",
            ),
            (),
            (
                f"every {name}, {shown}",
                f"each {name} {shown}",
                f"every {name} {shown}",
                f"in the {name} at {shown}, daily",
                f"{name}s {shown}",
                f"at {shown} each {name}",
                f"{shown}, every {name}",
                f"{name}: {shown}, daily",
                f"every {name} at around {shown}",
                f"in the {name}s at {shown}",
                f"{shown} in the {name} every day",
                f"every {name} of the week at {shown}",
                f"at {shown} in the {name}, every day",
            ),
        )
    named = {"1-5": "weekday", "0,6": "weekend"}.get(day.fields[2])
    if len(day.fields[2]) == 1:
        named = day_name(voice, int(day.fields[2]) % 7)
    if named is None and voice.wide and re.fullmatch(r"[0-6](,[0-6])+", day.fields[2]):
        named = listed(voice, [day_name(voice, int(d)) for d in day.fields[2].split(",")])
    if named is None:
        return None
    return voice.pick(
        (
            f"every {named} {name} at {shown}",
            f"on {named} {name}s at {shown}",
            f"{named} {name}s at {shown}",
            f"at {shown} every {named} {name}",
            f"{shown} on {named} {name}s",
        ),
        (),
        (
            f"{named} {name} {shown}",
            f"{named} {name}s {shown}",
            f"{named} {name} at {shown}",
            f"{named} {name}, {shown}",
            f"every {named} {name}, {shown}",
            f"each {named} {name} at {shown}",
            f"{named}, {shown} in the {name}",
            f"{shown} every {named} {name}",
            f"{named}s at {shown} in the {name}",
            f"at {shown} on {named} {name}s",
            f"on {named}s in the {name} at {shown}",
            f"at {shown} in the {name} every {named}",
        ),
    )


def spoken(voice: Voice, h: int, m: int) -> list[str]:
    """Write a time in words on a 12-hour dial, its half of the day being clear."""
    hour, after = number(voice, twelve(h)), number(voice, twelve(h + 1))
    forms = [f"{NUMBERS[twelve(h)]} {minute_words(voice, m)}" if m else NUMBERS[twelve(h)]]
    forms += {
        0: [f"{hour} o'clock", f"{hour} on the dot"],
        15: [f"quarter past {hour}", f"quarter after {hour}"],
        30: [f"half past {hour}"],
        45: [f"quarter to {after}"],
    }.get(m, [])
    if m in (5, 10, 20, 25):
        forms += [f"{number(voice, m)} past {hour}"]
    if m in (35, 40, 50, 55):
        forms += [f"{number(voice, 60 - m)} to {after}"]
    return forms


def joined(voice: Voice, when: Part, day: Part) -> str:
    """Put the time and the days in one order or the other."""
    if not day.text:
        return when.text
    if when.kind == "clock" and "," not in "".join(when.fields) and voice.chance(0.12):
        text = daypart_form(voice, when, day)
        if text:
            return text
    head, tail = parted(day.text)
    if tail and when.kind != "daily" and voice.chance(0.4):
        return f"{head} {when.text} {tail}"
    if when.kind == "daily":
        return (
            when.text
            if day.kind in ("day", "once") and day.fields == ("*", "*", "*")
            else f"{day.text}, {when.text}"
        )
    if when.kind == "step":
        order = (f"{when.text} {day.text}",) * 5 + (
            f"{day.text} {when.text}",
            f"{when.text}, {day.text}",
            f"{day.text}, {when.text}",
        )
    else:
        order = (
            (f"{day.text} {when.text}",) * 5
            + (f"{when.text} {day.text}",) * 4
            + (f"{day.text}, {when.text}", f"{when.text}, {day.text}")
        )
    return voice.pick(
        order,
        (f"{when.text}; {day.text}", f"{day.text} | {when.text}", f"{day.text} -> {when.text}"),
        lambda: note(when, day),
    )


def note(when: Part, day: Part) -> list[str]:
    """Put time and days together as in a note: no preposition, a dash, a colon, brackets."""
    time = re.sub(r"^(?:at |@ ?)", "", when.text)
    if not re.search(r"[:.]|\d ?[apAP]\.?[mM]|noon|midnight|midday|[a-z]{3}", time):
        time = when.text  # a bare number is a time only after "at"
    return [
        f"{day.text} {time}",
        f"{day.text} {time}",
        f"{time} {day.text}",
        f"{day.text} - {when.text}",
        f"{day.text}: {time}",
        f"{time} - {day.text}",
        f"{day.text}, {time}",
        f"{time}, {day.text}",
        f"{time} ({day.text})",
        f"{day.text} @ {time}",
        f"{day.text} / {time}",
        f"{day.text}, always {when.text}",
        f"{when.text}, but {day.text}",
        f"{when.text}, only {day.text}"
        if day.fields != ("*", "*", "*")
        else f"{when.text}, {day.text}",
    ]


def bare_schedule(voice: Voice) -> Ask:
    """Draw a schedule and its phrase, with no request around it."""
    when = time_part(voice)
    day = day_part(voice, when.kind == "step")
    several = "," in when.fields[0] + when.fields[1]
    if day.kind == "once" and (several or when.kind != "clock"):
        day = Part("every day", day.fields, "day")
    return Ask(joined(voice, when, day), canonical(" ".join((*when.fields, *day.fields))))


def schedule(voice: Voice, request: bool = True) -> Ask:
    """Draw a schedule as a user types it."""
    drawn = bare_schedule(voice)
    text = wrapped(voice, drawn.text) if request else drawn.text
    return Ask(noisy(voice, text), drawn.cron)
