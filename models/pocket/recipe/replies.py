"""Write requests that lack something, that are impossible or no request; and typing errors."""

from plans import draw_minute, draw_months, draw_weekdays
from spoken import say_months, say_weekdays
from words import DAYS, THINGS, VERBS, clock, day_part, word


def dress(text, rng):
    """Change case, add a typing error or a mark at the end."""
    if rng.random() < 0.1:
        words = text.split(" ")
        i = rng.randrange(len(words))
        if len(words[i]) > 4 and words[i].isalpha():
            k = rng.randrange(1, len(words[i]) - 1)
            w = words[i]
            words[i] = rng.choice(
                [w[:k] + w[k + 1 :], w[:k] + w[k + 1] + w[k] + w[k + 2 :], w[:k] + w[k] + w[k:]]
            )
        text = " ".join(words)
    style = rng.random()
    text = (
        text.lower()
        if style < 0.35
        else text.upper()
        if style < 0.37
        else text[0].upper() + text[1:]
        if style < 0.75
        else text
    )
    return text + (
        rng.choice([".", ".", "!", ""]) if text[-1].isalnum() and rng.random() < 0.6 else ""
    )


def missing(rng):
    """Return a request that lacks something, and the question back."""
    days, part, months = (
        say_weekdays(draw_weekdays(rng), rng),
        day_part(rng.randrange(24), rng),
        say_months(draw_months(rng), rng),
    )
    t = clock(rng.randrange(24), draw_minute(rng), rng)
    task = f"{rng.choice(VERBS).replace('_', ' ')} {rng.choice(THINGS)}"
    text, back = rng.choice(
        [
            (
                f"{task} {days}",
                [
                    "At what time?",
                    "What time on those days?",
                    "When on those days?",
                    "Which hour and minute?",
                ],
            ),
            (
                f"{task} every day {part}",
                [f"At what time {part}?", "Which hour?", "What time exactly?"],
            ),
            (f"remind me to {task} every morning", ["At what time?", "What hour in the morning?"]),
            (
                f"{task} {months}",
                ["On which day and at what time?", "Which days, and at what hour?"],
            ),
            (
                f"{task} {rng.choice(['regularly', 'often', 'from time to time', 'now and then', 'a lot', 'when needed'])}",
                ["How often?", "At what times?", "How often, and when?"],
            ),
            (
                f"{task} {rng.choice(['some days', 'on certain days', 'a few times a week', 'once a week'])} at {t}",
                ["On which days?", "Which day?"],
            ),
            (
                f"{task} {rng.choice(['soon', 'later', 'early', 'late', 'after lunch', 'overnight'])}",
                ["At what time, and on which days?", "When exactly?"],
            ),
        ]
    )
    return rng.choice(
        ["{0}\n- {1}", "User: {0}\nAssistant: {1}", "Q: {0}\nA: {1}", "{0} {1}"]
    ).format(dress(text, rng), rng.choice(back))


def uneven(rng):
    """Return a plan that does not repeat evenly by clock or calendar, and why."""
    n, h, day = (
        rng.choice([25, 35, 40, 45, 50, 55, 70, 80, 90, 100]),
        rng.choice([5, 7, 9, 10, 11, 13, 36]),
        DAYS[rng.randrange(7)],
    )
    task = f"{rng.choice(VERBS).replace('_', ' ')} {rng.choice(THINGS)}"
    (h1, m1), (h2, m2) = (
        (rng.randrange(24), rng.choice(x)) for x in ([0, 10, 20, 30], [5, 15, 45])
    )
    text, why = rng.choice(
        [
            (f"every {n} minutes", f"{n} minutes do not divide an hour evenly"),
            (f"every {h} hours", f"{h} hours do not divide a day evenly"),
            (f"every other {day}", "weeks are not counted, only days of the week"),
            (f"every {word(rng.randint(2, 6))} weeks", "weeks are not counted"),
            (
                f"on the {rng.choice(['first', 'second', 'third', 'last'])} {day} of the month",
                "it is a different date each month",
            ),
            ("on the last day of the month", "months end on the 28th, 29th, 30th or 31st"),
            ("at sunset", "the sun keeps no clock time"),
            (
                f"every {rng.choice([5, 10, 15, 20, 30, 45])} seconds",
                "a minute is the smallest unit",
            ),
            ("but not on holidays", "holidays have no fixed number"),
            (f"in {rng.randint(2025, 2040)} only", "years are not part of it"),
            ("after the other one is done", "that is no clock time"),
            (
                f"at {clock(h1, m1, rng)} and {clock(h2, m2, rng)}",
                f"minutes {m1} and {m2} belong to different hours, so it takes two plans",
            ),
        ]
    )
    return rng.choice(
        [
            "{0}\n- Not possible in one plan: {1}.",
            "User: {0}\nAssistant: That cannot be one plan: {1}.",
            "{0}: cannot be done, {1}.",
            "Q: {0}\nA: No single plan can say that, because {1}.",
        ]
    ).format(dress(f"{task} {text}", rng), why)


def talk(rng):
    text = rng.choice(
        [
            "thank you",
            "good morning",
            "how are you today?",
            "tell me a story",
            "what is the capital of Peru?",
            "nice weather",
            "write a poem about rain",
            "who won the match?",
            "what is 12 times 4?",
            "I like tea",
            "translate hello into French",
            "how do I bake bread?",
            "my printer is broken",
            "what do you think of jazz?",
            "book me a table",
            "recommend a film",
        ]
    )
    return rng.choice(
        [
            "{0}\n- That is not about times or dates.",
            "User: {0}\nAssistant: There is no time or day in that.",
            "Q: {0}\nA: This is no plan for a calendar.",
        ]
    ).format(dress(text, rng))
