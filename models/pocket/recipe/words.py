"""Write numbers, times, weekdays and months in words, in the forms that people use."""

from itertools import pairwise

ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty"]
DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
SHORT_DAYS = [
    ["Sun"],
    ["Mon"],
    ["Tue", "Tues"],
    ["Wed", "Weds"],
    ["Thu", "Thur", "Thurs"],
    ["Fri"],
    ["Sat"],
]
WRONG_DAYS = [
    ["sundy", "suday"],
    ["munday", "mondy"],
    ["tusday", "teusday"],
    ["wensday", "wendesday"],
    ["thrusday", "thursdy"],
    ["firday", "fridy"],
    ["saterday", "satuday"],
]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
    "twentieth",
    "twenty-first",
    "twenty-second",
    "twenty-third",
    "twenty-fourth",
    "twenty-fifth",
    "twenty-sixth",
    "twenty-seventh",
    "twenty-eighth",
    "twenty-ninth",
    "thirtieth",
]
VERBS = [
    "send",
    "run",
    "start",
    "check",
    "back_up",
    "restart",
    "clean",
    "print",
    "mail",
    "sync",
    "update",
    "rotate",
    "collect",
    "publish",
    "pull",
    "open",
    "close",
    "water",
    "feed",
    "call",
    "clear",
    "test",
    "import",
    "export",
    "copy",
    "move",
    "rebuild",
    "refresh",
    "scan",
    "ping",
    "archive",
    "charge",
    "wash",
    "build",
    "fetch",
]
THINGS = [
    "the report",
    "the backup",
    "the server",
    "the logs",
    "the plants",
    "the cat",
    "the newsletter",
    "the invoices",
    "the database",
    "my inbox",
    "the tests",
    "the photos",
    "the shop list",
    "the heating",
    "the lights",
    "the website",
    "the index",
    "our stats",
    "the queue",
    "a summary",
    "the news",
    "the prices",
    "old files",
    "the printer",
    "the pump",
    "the blog",
    "the orders",
    "the door",
    "the team",
    "mum",
    "the cache",
]


def word(n):
    return ONES[n] if n < 20 else TENS[n // 10 - 2] + (f"-{ONES[n % 10]}" if n % 10 else "")


def nth(n, rng):
    if rng.random() < 0.3 and n < 31:
        return ORDINALS[n - 1]
    return f"{n}" + ("th" if 10 < n < 14 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th"))


def join(items, rng, last="and"):
    """Join: ['a', 'b', 'c'] -> 'a, b and c', or another usual form."""
    items = list(items)
    end = rng.choice(
        [f" {last} ", f" {last} ", ", ", f", {last} ", " & " if last == "and" else f" {last} "]
    )
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + end + items[-1]


def spread(values, rng):
    """Join numbers: (1, 2, 3, 4, 6) -> '1-4 and 6'; never five numbers in a row."""
    step = values[1] - values[0] if len(values) > 1 else 0
    if len(values) > 3 and step > 1 and all(b - a == step for a, b in pairwise(values)):
        return f"{', '.join(map(str, values[:4]))}" + (
            f" and so on, in steps of {step}" if len(values) > 4 else ""
        )
    runs = []
    for v in values:
        runs = [*runs[:-1], [*runs[-1], v]] if runs and runs[-1][-1] + 1 == v else [*runs, [v]]
    dash = rng.choice(["-", "-", " to "])
    said = [s for r in runs for s in ([f"{r[0]}{dash}{r[-1]}"] if len(r) > 2 else map(str, r))]
    return said[0] if len(said) == 1 else ", ".join(said[:-1]) + " and " + said[-1]


def day_part(hour, rng):
    if hour < 4:
        return rng.choice(["at night", "in the morning"])
    if hour < 12:
        return "in the morning"
    return (
        "in the afternoon"
        if hour < 17 or hour == 17 and rng.random() < 0.5
        else ("in the evening" if hour < 21 or rng.random() < 0.4 else "at night")
    )


def clock(hour, minute, rng):
    """Return one of many ways to write a time of day."""
    twelve, half = (hour - 1) % 12 + 1, rng.choice(["am", "am", " am", " a.m.", "AM", " AM", "a"])
    half = half.replace("a", "p", 1).replace("A", "P", 1) if hour >= 12 else half
    if minute == 0 and hour % 12 == 0 and rng.random() < 0.5:
        return rng.choice(
            [["midnight", "12 midnight", "twelve at night"], ["noon", "midday", "12 noon"]][
                hour // 12
            ]
        )
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(
            [
                "{0}:{1:02d}",
                "{0:02d}:{1:02d}",
                "{0:02d}:{1:02d}",
                "{0:02d}{1:02d}",
                "{0}.{1:02d}",
                "{0:02d}:{1:02d} hours",
                "{0}h{1:02d}",
            ]
        ).format(hour, minute)
    if kind < 0.5:
        return (
            f"{twelve}{half}"
            if minute == 0 and rng.random() < 0.8
            else f"{twelve}{rng.choice('::.')}{minute:02d}{half}"
        )
    late = half if rng.random() < 0.2 else " " + day_part(hour, rng)
    late = "" if 0 < hour < 13 and rng.random() < 0.35 else late
    say = word if rng.random() < 0.6 else str
    here, after = say(twelve), say(hour % 12 + 1)
    if minute == 0:
        return (
            here + rng.choice([" o'clock", " oclock", " sharp", "", "", ""]) + late
            if late
            else f"{here} o'clock"
        )
    if minute == 30 and rng.random() < 0.6:
        return f"half past {here}{late}"
    past = {15: rng.choice(["quarter", "a quarter", "15"])}
    if minute in (5, 10, 15, 20, 25) and rng.random() < 0.7:
        return f"{past.get(minute, word(minute) if say is word else minute)} {rng.choice(['past', 'past', 'after'])} {here}{late}"
    if minute in (35, 40, 45, 50, 55) and rng.random() < 0.7:
        rest = 60 - minute
        return f"{past.get(rest, word(rest) if say is word else rest)} {rng.choice(['to', 'to', 'to', 'before', 'till'])} {after}{late}"
    small = f"{word(minute)}" if minute > 9 else f"oh {word(minute)}"
    return f"{here} {small}{late}" if say is word else f"{twelve}:{minute:02d}{late}"


def day_name(d, rng):
    name = rng.choice(
        [DAYS[d]] * 4
        + SHORT_DAYS[d]
        + SHORT_DAYS[d]
        + [WRONG_DAYS[d][rng.random() < 0.5]] * (rng.random() < 0.3)
    )
    return name.lower() if rng.random() < 0.4 else name


def month_name(m, rng):
    name = MONTHS[m - 1]
    name = rng.choice([name, name, name[:3], "Sept" if m == 9 else name])
    return name.lower() if rng.random() < 0.35 else name
