"""Draw plans: sets of minutes, hours, dates, months and weekdays. Sunday is weekday 0."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """The sorted numbers of a plan, None for any."""

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
    """Return a random run of at least `least` neighbours."""
    first = rng.randint(low, high - least + 1)
    return tuple(range(first, rng.randint(first + least - 1, high) + 1))


def draw_minute(rng):
    return rng.choice(
        [
            0,
            0,
            0,
            15,
            30,
            30,
            45,
            rng.randrange(0, 60, 5),
            rng.randrange(0, 60, 5),
            rng.randrange(60),
        ]
    )


def draw_time(rng):
    """Return the (minute, hour) of a plan."""
    kind = rng.random()
    hour = rng.randrange(24) if rng.random() < 0.5 else rng.randrange(6, 22)
    if kind < 0.52:
        return (draw_minute(rng),), (hour,)
    if kind < 0.66:
        return (draw_minute(rng),), subset(0, 23, rng.choice([2, 2, 2, 3, 3, 4]), rng)
    if kind < 0.80:
        step = rng.choice([None, 2, 3, 4, 5, 6, 10, 12, 15, 15, 20, 30])
        minutes = tuple(range(0, 60, step)) if step else None
        hours = (
            run(0, 23, 3, rng) if rng.random() < 0.45 else (hour,) if rng.random() < 0.15 else None
        )
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
    return (
        subset(1, 12, 2 if kind < 0.62 else 3, rng)
        if kind < 0.68
        else (1, 4, 7, 10)
        if kind < 0.74
        else run(1, 12, 3, rng)
    )


def draw_plan(rng):
    minute, hour = draw_time(rng)
    kind = rng.random()
    weekday = draw_weekdays(rng) if kind < 0.55 else None
    date = draw_dates(rng) if 0.55 <= kind < 0.78 else None
    return Plan(minute, hour, date, draw_months(rng) if rng.random() < 0.24 else None, weekday)
