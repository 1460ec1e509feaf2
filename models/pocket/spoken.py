"""Calendar notes without end: times, days and dates said in several equal ways, all computed, so each is true.

A plan is five sets of numbers (minute, hour, date, month, weekday; None means any). Notes say plans in English, list
their parts, change them, ask for what is missing, and name what a weekly calendar cannot hold. No cron is written.
"""

import random
import re
from dataclasses import dataclass, replace

ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen").split()
TENS = "twenty thirty forty fifty".split()
DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split()
SHORT_DAYS = [["Sun"], ["Mon"], ["Tue", "Tues"], ["Wed", "Weds"], ["Thu", "Thur", "Thurs"], ["Fri"], ["Sat"]]
WRONG_DAYS = [["sundy", "suday"], ["munday", "mondy"], ["tusday", "teusday"], ["wensday", "wendesday"],
              ["thrusday", "thursdy"], ["firday", "fridy"], ["saterday", "satuday"]]
MONTHS = "January February March April May June July August September October November December".split()
ORDINALS = ("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
            "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth twenty-first twenty-second twenty-third "
            "twenty-fourth twenty-fifth twenty-sixth twenty-seventh twenty-eighth twenty-ninth thirtieth").split()
VERBS = ("send run start check back_up restart clean print mail sync update rotate collect publish pull open close water "
         "feed call clear test import export copy move rebuild refresh scan ping archive charge wash build fetch").split()
THINGS = ("the report;the backup;the server;the logs;the plants;the cat;the newsletter;the invoices;the database;my inbox;"
          "the tests;the photos;the shop list;the heating;the lights;the website;the index;our stats;the queue;a summary;"
          "the news;the prices;old files;the printer;the pump;the blog;the orders;the door;the team;mum;the cache").split(";")
LABELS = (("minute", "minutes"), ("hour", "hours"), ("date", "dates"), ("month", "months"), ("weekday", "weekdays"))


@dataclass(frozen=True)
class Plan:
    minute: tuple = (0,)
    hour: tuple = None
    date: tuple = None
    month: tuple = None
    weekday: tuple = None

    def parts(self):
        return self.minute, self.hour, self.date, self.month, self.weekday


def word(n):
    return ONES[n] if n < 20 else TENS[n // 10 - 2] + (f"-{ONES[n % 10]}" if n % 10 else "")


def nth(n, rng):
    if rng.random() < 0.3 and n < 31:
        return ORDINALS[n - 1]
    return f"{n}" + ("th" if 10 < n < 14 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th"))


def join(items, rng, last="and"):
    """['a', 'b', 'c'] -> 'a, b and c', and its other usual shapes."""
    items = list(items)
    end = rng.choice([f" {last} ", f" {last} ", ", ", f", {last} ", " & " if last == "and" else f" {last} "])
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + end + items[-1]


def spread(values, rng):
    """(1, 2, 3, 4, 6) -> '1-4 and 6': runs of three or more become a range; never five numbers in a row."""
    step = values[1] - values[0] if len(values) > 1 else 0
    if len(values) > 3 and step > 1 and all(b - a == step for a, b in zip(values, values[1:])):
        return f"{', '.join(map(str, values[:4]))}" + (f" and so on, in steps of {step}" if len(values) > 4 else "")
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
    return "in the afternoon" if hour < 17 or hour == 17 and rng.random() < 0.5 else (
        "in the evening" if hour < 21 or rng.random() < 0.4 else "at night")


def clock(hour, minute, rng):
    """One of many ways to write a time of day."""
    twelve, half = (hour - 1) % 12 + 1, rng.choice(["am", "am", " am", " a.m.", "AM", " AM", "a"])
    half = half.replace("a", "p", 1).replace("A", "P", 1) if hour >= 12 else half
    if minute == 0 and hour % 12 == 0 and rng.random() < 0.5:
        return rng.choice([["midnight", "12 midnight", "twelve at night"], ["noon", "midday", "12 noon"]][hour // 12])
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(["{0}:{1:02d}", "{0:02d}:{1:02d}", "{0:02d}:{1:02d}", "{0:02d}{1:02d}", "{0}.{1:02d}",
                           "{0:02d}:{1:02d} hours", "{0}h{1:02d}"]).format(hour, minute)
    if kind < 0.5:
        return f"{twelve}{half}" if minute == 0 and rng.random() < 0.8 else f"{twelve}{rng.choice('::.')}{minute:02d}{half}"
    late = half if rng.random() < 0.2 else " " + day_part(hour, rng)
    late = "" if 0 < hour < 13 and rng.random() < 0.35 else late
    say = word if rng.random() < 0.6 else str
    here, after = say(twelve), say(hour % 12 + 1)
    if minute == 0:
        return here + rng.choice([" o'clock", " oclock", " sharp", "", "", ""]) + late if late else f"{here} o'clock"
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
    name = rng.choice([DAYS[d]] * 4 + SHORT_DAYS[d] + SHORT_DAYS[d] + [WRONG_DAYS[d][rng.random() < 0.5]] * (rng.random() < 0.3))
    return name.lower() if rng.random() < 0.4 else name


def month_name(m, rng):
    name = MONTHS[m - 1]
    name = rng.choice([name, name, name[:3], "Sept" if m == 9 else name])
    return name.lower() if rng.random() < 0.35 else name


def say_weekdays(days, rng):
    first, *_, last = days
    out = [("on ", "every ", "each ", "on ")[rng.randrange(4)] + join([day_name(d, rng) for d in days], rng)] * 2
    out += [rng.choice(["on ", ""]) + join([day_name(d, rng) + "s" for d in days], rng)]
    if len(days) > 2 and days == tuple(range(first, last + 1)):
        a, b = day_name(first, rng), day_name(last, rng)
        out = [rng.choice([f"{a} to {b}", f"{a} through {b}", f"from {a} to {b}", f"{a}-{b}", f"{a} till {b}",
                           f"between {a} and {b}", f"{a} thru {b}"])] * 4 + out[:1]
    if days == (1, 2, 3, 4, 5):
        out += ["on weekdays", "every weekday", "on workdays", "weekdays", "on working days", "each work day",
                "every business day", "on every day but the weekend", "not at weekends", "on school days"] * 2
    if days == (0, 6):
        out += ["at the weekend", "on weekends", "at weekends", "weekends", "every weekend", "Saturday and Sunday",
                "sat & sun", "on both days of the weekend", "on Sat and Sun only"] * 2
    if len(days) in (5, 6) and rng.random() < 0.8:
        gone = [day_name(d, rng) for d in range(7) if d not in days]
        return (rng.choice(["every day", "daily", "each day", "all days", "any day"]) + rng.choice(
            [" but ", " except ", " except on ", ", not on ", " other than ", " apart from ", " but not "]) + join(gone, rng))
    return rng.choice(out)


def say_dates(dates, months, rng):
    """'on the 1st and 15th', with a month 'on 3 March'; says the month too when there is one."""
    if months and len(months) == 1 and len(dates) == 1:
        m, d = month_name(months[0], rng), nth(dates[0], rng)
        return rng.choice([f"on {dates[0]} {m}", f"on {m} {d}", f"on the {d} of {m}", f"every year on {m} {d}",
                           f"every {d} of {m}", f"on {m} {dates[0]}", f"once a year, {dates[0]} {m}"])
    first, last = dates[0], dates[-1]
    of = rng.choice([" of the month", " of every month", " of each month", "", "", ""]) if not months else ""
    if len(dates) > 2 and dates == tuple(range(first, last + 1)):
        out = [f"from the {nth(first, rng)} to the {nth(last, rng)}{of}", f"on days {first} to {last}{of}",
               f"between the {nth(first, rng)} and the {nth(last, rng)}{of}", f"on the {first}-{nth(last, rng)}{of}"]
        text = rng.choice(out + [f"on the first {rng.choice([word, str])(last)} days{of}"] * 2 * (first == 1))
    elif dates == (1,) and rng.random() < 0.4:
        text = rng.choice(["monthly on the 1st", "on the first day" + (of or " of the month"), "once a month, on the first"])
    else:
        text = rng.choice([f"on the {join([nth(d, rng) for d in dates], rng)}{of}", f"on day {spread(dates, rng)}{of}",
                           f"every {join([nth(d, rng) for d in dates], rng)}{of}"])
    return text + (" " + say_months(months, rng) if months else "")


def say_months(months, rng):
    first, last = months[0], months[-1]
    names = [month_name(m, rng) for m in months]
    if months in ((1, 4, 7, 10), (1, 3, 5, 7, 9, 11)):
        return rng.choice([["every quarter", "once a quarter", "in the first month of each quarter", "every three months",
                            "every 3 months", "quarterly"], ["every other month", "every two months", "every 2 months"]]
                          [len(months) > 4])
    if len(months) > 2 and months == tuple(range(first, last + 1)):
        a, b = names[0], names[-1]
        out = [f"from {a} to {b}", f"{a} to {b}", f"{a}-{b}", f"between {a} and {b}", f"{a} through {b}"]
        quarter = {(1, 2, 3): "first", (4, 5, 6): "second", (7, 8, 9): "third", (10, 11, 12): "last"}.get(months)
        out += [f"in the {quarter} quarter", f"in Q{last // 3}"] if quarter else []
        return rng.choice(out + ["in summer"] * 2 * (months == (6, 7, 8)))
    both = join(names, rng)
    return rng.choice([f"in {both}"] * 4 + [f"only in {both}", f"{both} only", f"every {both}", f"during {both}", f"all {both}"])


def every(n, unit, rng):
    """'every 15 minutes' and its forms."""
    short = {"minute": ["minutes", "minutes", "mins", "min"], "hour": ["hours", "hours", "hrs", "h"]}[unit]
    out = [f"every {n} {rng.choice(short)}", f"every {word(n)} {short[0]}", f"each {n} {short[0]}", f"once every {n} {short[0]}"]
    if (unit, n) == ("minute", 30):
        out += ["every half hour", "half-hourly", "twice an hour", "every half an hour"]
    if (unit, n) == ("minute", 15):
        out += ["every quarter of an hour", "every quarter hour", "four times an hour"]
    return rng.choice(out + ["every other " + unit] * 2 * (n == 2))


def say_time(plan, rng):
    """The hour and minute of a plan."""
    minutes, hours = plan.minute, plan.hour
    span = None
    if hours and len(hours) > 2 and hours == tuple(range(hours[0], hours[-1] + 1)):
        a, b = clock(hours[0], 0, rng), clock(hours[-1], 0, rng)
        span = rng.choice([f"between {a} and {b}", f"from {a} to {b}", f"from {a} until {b}", f"{a} to {b}", f"from {a} till {b}"])
    step = hours[1] - hours[0] if hours and len(hours) > 1 and hours[0] == 0 and 24 % (hours[1] - hours[0]) == 0 else 0
    stepped = bool(step > 1 and hours == tuple(range(0, 24, step)))
    if minutes is None or len(minutes) > 1 and minutes[0] == 0:
        text = rng.choice(["every minute", "each minute", "once a minute"]) if minutes is None else every(minutes[1], "minute", rng)
        if hours is None:
            return text
        if len(hours) == 1:
            return f"{text} {rng.choice(['in the hour from', 'during the hour of', 'in the hour after'])} {clock(hours[0], 0, rng)}"
        return rng.choice([f"{text} {span}", f"{span}, {text}"])
    if len(minutes) > 1:
        past = f"at {spread(minutes, rng)} {rng.choice(['past', 'minutes past', 'after'])} "
        return past + (rng.choice(["every hour", "the hour", "each hour"]) if not hours else f"every hour {span}")
    m = minutes[0]
    to = [f"at {m} minutes past ", f"at {m} past ", f"at {word(m)} past ", f"{m} minutes past ", f"{word(m)} minutes after "]
    past = rng.choice(to + ["at half past ", "at thirty past "] * 2 * (m == 30) + ["at quarter past "] * 2 * (m == 15))
    if hours is None:
        if m == 0:
            return rng.choice(["every hour", "hourly", "once an hour", "every hour on the hour", "each hour", "at the top of every hour"])
        return rng.choice([past + "every hour", past + "each hour", f"every hour {past}the hour", f"every hour at minute {m}",
                           f"hourly {past}the hour"])
    if span or stepped:
        text = every(step, "hour", rng) if stepped else rng.choice(["every hour ", "hourly ", "each hour ", "once an hour "]) + span
        return text if m == 0 else rng.choice([f"{text}, {past}the hour", f"{past}the hour, {text}", f"{text}, at minute {m}"])
    if m == 0 and len(hours) > 1 and rng.random() < 0.3:
        text = join([str(h) if h > 12 or rng.random() < 0.5 else word(h) for h in hours], rng)
    else:
        text = join([clock(h, m, rng) for h in hours], rng)
    return rng.choice(["at ", "at ", "at ", "at ", "", "@ "]) + text


def say(plan, rng):
    """A whole plan in English, its parts in one of the usual orders."""
    time = say_time(plan, rng)
    months = ""
    if plan.date and plan.weekday:
        days = f"{say_dates(plan.date, None, rng)} and also {say_weekdays(plan.weekday, rng)}"
        months = say_months(plan.month, rng) if plan.month else ""
    elif plan.date:
        days = say_dates(plan.date, plan.month, rng)
    else:
        months = say_months(plan.month, rng) if plan.month else ""
        days = say_weekdays(plan.weekday, rng) if plan.weekday else ""
        once = plan.minute is not None and len(plan.minute) == 1 and plan.hour is not None
        if not days and once and rng.random() < 0.75:
            days = rng.choice(["every day", "daily", "each day", "every day", "day after day", "seven days a week", "once a day"
                               if len(plan.hour) == 1 else "every day", "every single day"])
    pieces = [p for p in rng.choice([(days, time, months), (days, time, months), (time, days, months), (time, days, months),
                                     (months, days, time), (months, time, days), (days, months, time)]) if p]
    return rng.choice([" ", " ", " ", ", "]).join(pieces)
