"""Write times, dates and routines in many equal forms; all are computed, so all are true."""

NAMES = "Anna Ben Clara David Ella Farid Grace Hugo Ines Jonas Kofi Lena Maya Noah Olga Paul Rosa Sam Tara Yusuf".split()
HOURS = "twelve one two three four five six seven eight nine ten eleven".split()
MINUTES = {5: "five", 10: "ten", 15: "quarter", 20: "twenty", 25: "twenty-five"}
TENS = {
    10: "ten",
    15: "fifteen",
    20: "twenty",
    30: "thirty",
    40: "forty",
    45: "forty-five",
    50: "fifty",
}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December".split()
)
LENGTHS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth twenty-first twenty-second twenty-third "
    "twenty-fourth twenty-fifth twenty-sixth twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first"
).split()
PLACES = (
    "bakery;library;post office;pharmacy;museum;town hall;swimming pool;gym;bookshop;market;bank;clinic;cafe;school;"
    "garage;hairdresser;zoo;cinema;ticket office;bike shop;garden centre"
).split(";")
EVENTS = [
    "the bus",
    "the train",
    "the night ferry",
    "the first lesson",
    "the team meeting",
    "the concert",
    "the film",
    "the backup",
    "the report",
    "the newsletter",
    "the alarm",
    "the washing machine",
    "the heating",
    "the dentist visit",
    "the football practice",
    "the choir",
    "the night shift",
    "the delivery",
    "the street market",
    "the phone call",
    "the cleaning crew",
    "the sprinkler",
    "the yoga class",
    "the tea break",
    "the school bell",
    "the stock check",
]
CHORES = [
    "water the plants",
    "take the medicine",
    "feed the cat",
    "call Mum",
    "pay the rent",
    "take out the rubbish",
    "send the invoice",
    "charge the phone",
    "walk the dog",
    "check the mail",
    "back up the laptop",
    "clean the kitchen",
    "read the meter",
    "stretch",
    "drink a glass of water",
    "lock the door",
    "renew the library books",
    "order bread",
    "update the server",
    "practise the piano",
    "open the windows",
    "write the diary",
    "change the filter",
    "buy milk",
]
MEETINGS = [
    "meeting",
    "lesson",
    "lunch",
    "appointment",
    "call",
    "class",
    "training",
    "interview",
    "dinner",
    "rehearsal",
    "visit",
    "shift",
]


def first_upper(text):
    return text[0].upper() + text[1:]


def day_part(hour):
    return (
        "at night"
        if hour < 5
        else "in the morning"
        if hour < 12
        else "in the afternoon"
        if hour < 18
        else "in the evening"
        if hour < 22
        else "at night"
    )


def in_words(hour, minute):
    """Return a time in words: 8, 45 -> 'quarter to nine'; 8, 37 -> 'eight thirty-seven'."""
    here, after = HOURS[hour % 12], HOURS[(hour + 1) % 12]
    if minute == 0:
        return f"{here} o'clock"
    if minute == 30:
        return f"half past {here}"
    if minute in MINUTES:
        return f"{MINUTES[minute]} past {here}"
    if 60 - minute in MINUTES:
        return f"{MINUTES[60 - minute]} to {after}"
    return f"{here} {number(minute)}"


def number(n):
    small = HOURS[1:] + [
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ]
    if n < 20:
        return ("oh " if n < 10 else "") + small[n - 1]
    tens = "twenty thirty forty fifty".split()[n // 10 - 2]
    return tens + (f"-{small[n % 10 - 1]}" if n % 10 else "")


def forms(hour, minute, rng):
    """Return all ways to write one time of day."""
    half = "am" if hour < 12 else "pm"
    twelve = (hour - 1) % 12 + 1
    out = [
        f"{hour}:{minute:02d}",
        f"{hour:02d}:{minute:02d}",
        f"{twelve}:{minute:02d} {half}",
        f"{in_words(hour, minute)} {day_part(hour)}",
        in_words(hour, minute),
        f"{twelve}.{minute:02d} {half[0]}.m.",
    ]
    if minute == 0:
        out += [
            f"{twelve} {half}",
            f"{twelve}{half}",
            f"{HOURS[hour % 12]} {day_part(hour)}",
            f"{hour:02d}.00 hours",
        ]
        out += ["noon", "midday"] if hour == 12 else ["midnight"] if hour == 0 else []
    elif minute in TENS:
        out += [
            f"{HOURS[hour % 12]} {TENS[minute]} {half}",
            f"{HOURS[hour % 12]} {TENS[minute]} {day_part(hour)}",
        ]
    out = list(dict.fromkeys(out))
    rng.shuffle(out)
    return out


def any_time(rng):
    return rng.randrange(24) if rng.random() < 0.3 else rng.randrange(6, 22), rng.choice(
        [0, 0, 0, 15, 30, 30, 45, rng.randrange(0, 60, 5), rng.randrange(60)]
    )


def time(rng):
    """Return one time of day, in one form or in two equal ones."""
    first, second, *_ = forms(*any_time(rng), rng)
    return rng.choice(
        [
            "{0}",
            "{0}",
            "{0} ({1})",
            "{0}, that is {1},",
            "{0}, in other words {1},",
            "{0} or {1}",
            "{0} = {1}",
        ]
    ).format(first, second)


def suffix(day):
    return str(day) + ("th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th"))


def days(rng):
    """Return one way to say on which days."""
    i, j = sorted(rng.sample(range(7), 2))
    d, month = rng.randrange(1, 32), rng.randrange(12)
    date = min(d, LENGTHS[month])
    return rng.choice(
        [
            "every day",
            "daily",
            f"on {DAYS[i]}",
            f"on {DAYS[i]}s",
            f"every {DAYS[i]}",
            f"every {DAYS[i]} ({DAYS[i][:3]})",
            f"on {DAYS[i][:3]} and {DAYS[j][:3]}, that is {DAYS[i]} and {DAYS[j]},",
            f"from {DAYS[i]} to {DAYS[j]} ({DAYS[i][:3]}-{DAYS[j][:3]})",
            f"on {DAYS[i]}s and {DAYS[j]}s",
            "on weekdays",
            "on weekdays (Monday to Friday)",
            "Mon-Fri",
            "at weekends",
            "on Saturday and Sunday (the weekend)",
            f"on the {suffix(d)} of the month",
            f"on the {suffix(d)} ({ORDINALS[d - 1]}) of every month",
            f"every other {DAYS[i]}",
            f"in {MONTHS[month]}",
            f"in {MONTHS[month]} (month {month + 1})",
            f"on {date} {MONTHS[month]}",
            f"on {MONTHS[month]} {suffix(date)}",
            f"every day except {DAYS[i]}",
            f"each morning but {DAYS[j]}",
            f"on {DAYS[i]}, {DAYS[j]} and public holidays",
            "from Monday to Saturday",
        ]
    )


def often(rng):
    n = rng.choice([2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 45])
    return rng.choice(
        [
            f"every {n} minutes",
            f"every {n} hours",
            "every hour",
            "hourly",
            "once a day",
            "twice a day",
            "once a week",
            "weekly",
            "monthly",
            "once a month",
            "every minute",
            "every half hour (30 minutes)",
            "every quarter of an hour (15 minutes)",
            f"every {n} minutes between {time(rng)} and {time(rng)}",
            "three times a day",
            "once a quarter",
            "every year",
            "yearly",
        ]
    )


def sentence(rng):
    n, e, p, c = rng.choice(NAMES), rng.choice(EVENTS), rng.choice(PLACES), rng.choice(CHORES)
    a, b = sorted(rng.sample(range(5, 24), 2))
    i = rng.randrange(7)
    return rng.choice(
        [
            f"{first_upper(e)} starts at {time(rng)} {days(rng)}.",
            f"The {p} opens at {time(rng)} {days(rng)}.",
            f"The {p} is open {days(rng)} from {a}:00 to {b}:00, that is {b - a} hours.",
            f"{n} gets up at {time(rng)} {days(rng)}.",
            f"Remember to {c} at {time(rng)} {days(rng)}.",
            f"{n} likes to {c} {often(rng)}.",
            f"{first_upper(e)} runs {often(rng)}.",
            f"{first_upper(days(rng))} at {time(rng)} {n} has to {c}.",
            f"From {time(rng)} until {time(rng)} the {p} is closed.",
            f"{n} will be at the {p} at {time(rng)} {days(rng)}.",
            f"pls {c} at {time(rng)}, thx",
            f"Today is {DAYS[i]}, so tomorrow is {DAYS[(i + 1) % 7]}.",
            f"{MONTHS[a % 12]} comes after {MONTHS[a % 12 - 1]} and has {LENGTHS[a % 12]} days.",
            f"{first_upper(e)}: {days(rng)}, {time(rng)}.",
            f"The {p} is not open {days(rng)}.",
            f"{n} works at the {p} {days(rng)}.",
            f"{DAYS[i]} is day {i + 1} of the week, counting from Monday.",
        ]
    )
