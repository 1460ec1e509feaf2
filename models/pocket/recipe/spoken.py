"""Write plans in English: `say(plan, rng)` and its parts."""

from words import clock, day_name, join, month_name, nth, spread, word


def say_weekdays(days, rng):
    first, last = days[0], days[-1]
    out = [
        ("on ", "every ", "each ", "on ")[rng.randrange(4)]
        + join([day_name(d, rng) for d in days], rng)
    ] * 2
    out += [rng.choice(["on ", ""]) + join([day_name(d, rng) + "s" for d in days], rng)]
    if len(days) > 2 and days == tuple(range(first, last + 1)):
        a, b = day_name(first, rng), day_name(last, rng)
        out = [
            rng.choice(
                [
                    f"{a} to {b}",
                    f"{a} through {b}",
                    f"from {a} to {b}",
                    f"{a}-{b}",
                    f"{a} till {b}",
                    f"between {a} and {b}",
                    f"{a} thru {b}",
                ]
            )
        ] * 4 + out[:1]
    if days == (1, 2, 3, 4, 5):
        out += [
            "on weekdays",
            "every weekday",
            "on workdays",
            "weekdays",
            "on working days",
            "each work day",
            "every business day",
            "on every day but the weekend",
            "not at weekends",
            "on school days",
        ] * 2
    if days == (0, 6):
        out += [
            "at the weekend",
            "on weekends",
            "at weekends",
            "weekends",
            "every weekend",
            "Saturday and Sunday",
            "sat & sun",
            "on both days of the weekend",
            "on Sat and Sun only",
        ] * 2
    if len(days) in (5, 6) and rng.random() < 0.8:
        gone = [day_name(d, rng) for d in range(7) if d not in days]
        return (
            rng.choice(["every day", "daily", "each day", "all days", "any day"])
            + rng.choice(
                [
                    " but ",
                    " except ",
                    " except on ",
                    ", not on ",
                    " other than ",
                    " apart from ",
                    " but not ",
                ]
            )
            + join(gone, rng)
        )
    return rng.choice(out)


def say_dates(dates, months, rng):
    """Return the dates, 'on the 1st and 15th', or with their month, 'on 3 March'."""
    if months and len(months) == 1 and len(dates) == 1:
        m, d = month_name(months[0], rng), nth(dates[0], rng)
        return rng.choice(
            [
                f"on {dates[0]} {m}",
                f"on {m} {d}",
                f"on the {d} of {m}",
                f"every year on {m} {d}",
                f"every {d} of {m}",
                f"on {m} {dates[0]}",
                f"once a year, {dates[0]} {m}",
            ]
        )
    first, last = dates[0], dates[-1]
    of = (
        rng.choice([" of the month", " of every month", " of each month", "", "", ""])
        if not months
        else ""
    )
    if len(dates) > 2 and dates == tuple(range(first, last + 1)):
        out = [
            f"from the {nth(first, rng)} to the {nth(last, rng)}{of}",
            f"on days {first} to {last}{of}",
            f"between the {nth(first, rng)} and the {nth(last, rng)}{of}",
            f"on the {first}-{nth(last, rng)}{of}",
        ]
        text = rng.choice(
            out + [f"on the first {rng.choice([word, str])(last)} days{of}"] * 2 * (first == 1)
        )
    elif dates == (1,) and rng.random() < 0.4:
        text = rng.choice(
            [
                "monthly on the 1st",
                "on the first day" + (of or " of the month"),
                "once a month, on the first",
            ]
        )
    else:
        text = rng.choice(
            [
                f"on the {join([nth(d, rng) for d in dates], rng)}{of}",
                f"on day {spread(dates, rng)}{of}",
                f"every {join([nth(d, rng) for d in dates], rng)}{of}",
            ]
        )
    return text + (" " + say_months(months, rng) if months else "")


def say_months(months, rng):
    first, last = months[0], months[-1]
    names = [month_name(m, rng) for m in months]
    if months in ((1, 4, 7, 10), (1, 3, 5, 7, 9, 11)):
        return rng.choice(
            [
                [
                    "every quarter",
                    "once a quarter",
                    "in the first month of each quarter",
                    "every three months",
                    "every 3 months",
                    "quarterly",
                ],
                ["every other month", "every two months", "every 2 months"],
            ][len(months) > 4]
        )
    if len(months) > 2 and months == tuple(range(first, last + 1)):
        a, b = names[0], names[-1]
        out = [
            f"from {a} to {b}",
            f"{a} to {b}",
            f"{a}-{b}",
            f"between {a} and {b}",
            f"{a} through {b}",
        ]
        quarter = {
            (1, 2, 3): "first",
            (4, 5, 6): "second",
            (7, 8, 9): "third",
            (10, 11, 12): "last",
        }.get(months)
        out += [f"in the {quarter} quarter", f"in Q{last // 3}"] if quarter else []
        return rng.choice(out + ["in summer"] * 2 * (months == (6, 7, 8)))
    both = join(names, rng)
    return rng.choice(
        [f"in {both}"] * 4
        + [f"only in {both}", f"{both} only", f"every {both}", f"during {both}", f"all {both}"]
    )


def every(n, unit, rng):
    """Return 'every 15 minutes' or another form of it."""
    short = {
        "minute": ["minutes", "minutes", "mins", "min"],
        "hour": ["hours", "hours", "hrs", "h"],
    }[unit]
    out = [
        f"every {n} {rng.choice(short)}",
        f"every {word(n)} {short[0]}",
        f"each {n} {short[0]}",
        f"once every {n} {short[0]}",
    ]
    if (unit, n) == ("minute", 30):
        out += ["every half hour", "half-hourly", "twice an hour", "every half an hour"]
    if (unit, n) == ("minute", 15):
        out += ["every quarter of an hour", "every quarter hour", "four times an hour"]
    return rng.choice(out + ["every other " + unit] * 2 * (n == 2))


def say_time(plan, rng):
    """Return the hour and minute of a plan in words."""
    minutes, hours = plan.minute, plan.hour
    span = None
    if hours and len(hours) > 2 and hours == tuple(range(hours[0], hours[-1] + 1)):
        a, b = clock(hours[0], 0, rng), clock(hours[-1], 0, rng)
        span = rng.choice(
            [
                f"between {a} and {b}",
                f"from {a} to {b}",
                f"from {a} until {b}",
                f"{a} to {b}",
                f"from {a} till {b}",
            ]
        )
    step = (
        hours[1] - hours[0]
        if hours and len(hours) > 1 and hours[0] == 0 and 24 % (hours[1] - hours[0]) == 0
        else 0
    )
    stepped = bool(step > 1 and hours == tuple(range(0, 24, step)))
    if minutes is None or len(minutes) > 1 and minutes[0] == 0:
        text = (
            rng.choice(["every minute", "each minute", "once a minute"])
            if minutes is None
            else every(minutes[1], "minute", rng)
        )
        if hours is None:
            return text
        if len(hours) == 1:
            return f"{text} {rng.choice(['in the hour from', 'during the hour of', 'in the hour after'])} {clock(hours[0], 0, rng)}"
        return rng.choice([f"{text} {span}", f"{span}, {text}"])
    if len(minutes) > 1:
        past = f"at {spread(minutes, rng)} {rng.choice(['past', 'minutes past', 'after'])} "
        return past + (
            rng.choice(["every hour", "the hour", "each hour"])
            if not hours
            else f"every hour {span}"
        )
    m = minutes[0]
    to = [
        f"at {m} minutes past ",
        f"at {m} past ",
        f"at {word(m)} past ",
        f"{m} minutes past ",
        f"{word(m)} minutes after ",
    ]
    past = rng.choice(
        to
        + ["at half past ", "at thirty past "] * 2 * (m == 30)
        + ["at quarter past "] * 2 * (m == 15)
    )
    if hours is None:
        if m == 0:
            return rng.choice(
                [
                    "every hour",
                    "hourly",
                    "once an hour",
                    "every hour on the hour",
                    "each hour",
                    "at the top of every hour",
                ]
            )
        return rng.choice(
            [
                past + "every hour",
                past + "each hour",
                f"every hour {past}the hour",
                f"every hour at minute {m}",
                f"hourly {past}the hour",
            ]
        )
    if span or stepped:
        text = (
            every(step, "hour", rng)
            if stepped
            else rng.choice(["every hour ", "hourly ", "each hour ", "once an hour "]) + span
        )
        return (
            text
            if m == 0
            else rng.choice(
                [f"{text}, {past}the hour", f"{past}the hour, {text}", f"{text}, at minute {m}"]
            )
        )
    if m == 0 and len(hours) > 1 and rng.random() < 0.3:
        text = join([str(h) if h > 12 or rng.random() < 0.5 else word(h) for h in hours], rng)
    else:
        text = join([clock(h, m, rng) for h in hours], rng)
    return rng.choice(["at ", "at ", "at ", "at ", "", "@ "]) + text


def say(plan, rng):
    """Return a whole plan in English, its parts in one of the usual orders."""
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
            days = rng.choice(
                [
                    "every day",
                    "daily",
                    "each day",
                    "every day",
                    "day after day",
                    "seven days a week",
                    "once a day" if len(plan.hour) == 1 else "every day",
                    "every single day",
                ]
            )
    pieces = [
        p
        for p in rng.choice(
            [
                (days, time, months),
                (days, time, months),
                (time, days, months),
                (time, days, months),
                (months, days, time),
                (months, time, days),
                (days, months, time),
            ]
        )
        if p
    ]
    return rng.choice([" ", " ", " ", ", "]).join(pieces)
