"""Write the teacher's prompts: everyday tasks, times, dates, routines and changed plans.

A prompt is `(user, start, layout)`. The teacher reads `user` as a chat turn and continues the
answer that `start` opens. `layout` is a format with `{u}` and `{a}`: how the document is written
down. The teacher is weak at clocks, so every equality ("17:30, that is half past five") is computed
here.
"""

import random

from clocks import (
    CHORES,
    DAYS,
    EVENTS,
    LENGTHS,
    MEETINGS,
    MONTHS,
    NAMES,
    ORDINALS,
    PLACES,
    any_time,
    day_part,
    days,
    first_upper,
    forms,
    in_words,
    sentence,
    suffix,
    time,
)

TOPICS = (
    "a rainy day;a new bicycle;a lost key;a small garden;an old map;a birthday cake;a long walk;the first snow;a noisy "
    "neighbour;a broken clock;a train journey;learning to swim;a good book;a shy dog;a market in spring;a night at the "
    "sea;an honest mistake;the best soup;a letter from far away;a power cut;a school play;the moon;bees;bread;rivers;"
    "how a clock works;why leaves fall;what a calendar is;how to plan a week;saving money;sleeping well;eating breakfast;"
    "keeping promises;being on time;saying sorry;making friends;sharing work;a healthy back;tidy cupboards;packing a bag;"
    "cooking rice;growing tomatoes;fixing a tap;writing a thank-you note;choosing shoes;riding the bus;looking after a cat;"
    "a day at the zoo;a quiet library;the four seasons;the months of the year;day and night;time zones;leap years;"
    "public holidays;the history of the calendar;sundials;a busy kitchen;a nurse at night;a baker's morning;a postman;"
    "a farmer in autumn;a lighthouse keeper;a young teacher;two brothers;three friends;a grandmother;a clever crow;"
    "a football match;a chess game;painting a room;learning a language;playing the guitar;a camping trip;an island;"
    "a mountain village;a museum visit;a wedding;a picnic;a thunderstorm;a new job;the first day at school;a flat tyre;"
    "a missed train;a surprise;a rescue;a garden party;a hospital visit;recycling;water;wind;stars;whales;horses;ants;"
    "maps;bridges;paper;salt;glass;cotton;coffee;tea;honey;apples;potatoes;cheese"
).split(";")
TASKS = (
    "Write a short story about {t}.;Tell a child about {t}.;Explain {t} in simple words.;Write a few sentences about {t}.;"
    "Write a letter to a friend about {t}.;Write a short poem about {t}.;Give three tips about {t}.;"
    "Write a diary entry about {t}.;What should I know about {t}?;Write a short dialogue about {t}.;"
    "Write a paragraph about {t} for a newspaper.;Describe {t} in one paragraph.;Ask me three questions about {t}.;"
    "Make a short list about {t}.;Write an e-mail about {t}.;Why do people care about {t}?;"
    "Write a true-sounding memory about {t}.;Start a conversation about {t}.;Summarise what matters about {t}.;"
    "Write instructions, step by step, on the subject of {t}."
).split(";")
STYLES = [
    "",
    "",
    "",
    " Be brief.",
    " Use short sentences.",
    " Be friendly.",
    " Be formal.",
    " Mention a time of day.",
    " Mention two days of the week.",
    " Use the names {n} and {o}.",
    " Begin with the weather.",
    " Write in the past tense.",
]
CHAT = [
    "Q: {u}\nA: {a}",
    "User: {u}\nAssistant: {a}",
    "{u}\n\n{a}",
    "{n}: {u}\n{o}: {a}",
    "Question: {u}\nAnswer: {a}",
    "- {u}\n- {a}",
]
SORTS = (
    "a notice;a short text;a message;an e-mail;a letter;a diary entry;a small advertisement;a story;"
    "an announcement;a plan"
).split(";")


def change(rng):
    """Return (lines, answer): a plan, its change, and the right outcome."""
    things, (h, m), (g, k) = rng.choice(CHORES), any_time(rng), any_time(rng)
    one, two = forms(h, m, rng), forms(g, k, rng)
    i, j = rng.sample(range(7), 2)
    ask = rng.choice(
        [
            f"Remind me to {things} at {one[0]}.",
            f"Every {DAYS[i]} at {one[0]}: {things}.",
            f"Please {things} at {one[0]} every day.",
            f"I want to {things} at {one[0]} on weekdays.",
        ]
    )
    done = rng.choice(
        [
            f"Done: {things}, {one[1]}.",
            f"All right, at {one[1]}.",
            f"OK, {one[1]}.",
            f"I have noted {one[1]}.",
        ]
    )
    kind = rng.randrange(5)
    if kind == 0:
        edit, answer = (
            rng.choice([f"Move it to {two[0]}.", f"Make it {two[0]} instead.", f"No, {two[0]}."]),
            rng.choice([f"Moved to {two[1]}.", f"Now it is {two[1]}, no longer {one[2]}."]),
        )
    elif kind == 1:
        edit, answer = (
            rng.choice([f"Skip {DAYS[j]}s.", f"Not on {DAYS[j]}s.", f"Leave out {DAYS[j]}."]),
            f"OK, {DAYS[j]} is left out; the other days stay at {one[2]}.",
        )
    elif kind == 2:
        late = (h * 60 + m + 60) % 1440
        edit, answer = (
            rng.choice(["One hour later, please.", "Shift it by an hour."]),
            f"It is now at {forms(late // 60, late % 60, rng)[0]}, one hour after {one[2]}.",
        )
    elif kind == 3:
        early = (h * 60 + m - 30) % 1440
        edit, answer = (
            rng.choice(["Half an hour earlier.", "Thirty minutes before that, please."]),
            f"Half an hour before {one[2]} is {forms(early // 60, early % 60, rng)[0]}.",
        )
    else:
        edit, answer = (
            rng.choice(["Cancel it.", "Forget it.", "Delete that one."]),
            rng.choice(["Cancelled.", "It is off the list.", f"Removed: {things}."]),
        )
    return [ask, done, edit], answer


def question(rng):
    """Return a question about a clock or a calendar, and its computed answer."""
    h, m = any_time(rng)
    f = forms(h, m, rng)
    i, d, month = rng.randrange(7), rng.randrange(1, 32), rng.randrange(12)
    later = (h * 60 + m + rng.choice([15, 30, 60, 90, 120])) % 1440
    return rng.choice(
        [
            (f"How do I say {f[0]} in another way?", f"You can say {f[1]}, or {f[2]}."),
            (f"What is {h:02d}:{m:02d} in words?", f"{in_words(h, m).capitalize()} {day_part(h)}."),
            (f"Is {f[0]} the same as {f[1]}?", "Yes, it is the same time."),
            (f"What day comes after {DAYS[i]}?", f"{DAYS[(i + 1) % 7]}."),
            (f"What day was it before {DAYS[i]}?", f"{DAYS[i - 1]}."),
            (
                f"How many days has {MONTHS[month]}?",
                f"{LENGTHS[month]}" + (", and 29 in a leap year." if month == 1 else " days."),
            ),
            (f"What does {DAYS[i][:3]} stand for?", f"{DAYS[i][:3]} is short for {DAYS[i]}."),
            (f"Which month is number {month + 1}?", f"{MONTHS[month]}."),
            (f"Write {suffix(d)} as a word.", f"{ORDINALS[d - 1].capitalize()}."),
            (f"Write {f[0]} on the 24-hour clock.", f"{h:02d}:{m:02d}."),
            (
                f"It is {h}:{m:02d}. When is it {later // 60}:{later % 60:02d}?",
                f"In {(later - h * 60 - m) % 1440} minutes.",
            ),
            (
                "Which days are weekdays and which are the weekend?",
                "Monday to Friday are weekdays; Saturday and Sunday are the weekend.",
            ),
            (
                f"Is {DAYS[i]} a weekday?",
                "No, it is a day of the weekend." if i > 4 else "Yes, it is a weekday.",
            ),
        ]
    )


def ask_back(rng):
    """Return an order that lacks something or is impossible, and the short answer."""
    n, c, meet, p = rng.choice(NAMES), rng.choice(CHORES), rng.choice(MEETINGS), rng.choice(PLACES)
    return rng.choice(
        [
            (
                f"Remind me to {c}.",
                rng.choice(
                    [
                        "At what time?",
                        "When?",
                        "On which day, and at what time?",
                        "Sure. At what time shall I remind you?",
                    ]
                ),
            ),
            (
                f"Book a {meet} with {n}.",
                rng.choice(["For which day?", "What day suits you?", "How long will it take?"]),
            ),
            (
                f"Move the {meet}.",
                rng.choice(["To what time?", "To which day?", f"Which {meet} do you mean?"]),
            ),
            (f"Set it for {rng.randrange(1, 12)}.", "In the morning or in the evening?"),
            (
                f"Wake me at {rng.randrange(25, 60)}:00.",
                "Sorry, a day has only 24 hours. What time do you mean?",
            ),
            (
                f"Call me on the {rng.randrange(32, 60)}th.",
                "Sorry, no month has that many days. Which day do you mean?",
            ),
            (
                f"Set an alarm for {rng.randrange(24)}:{rng.randrange(60, 99)}.",
                "Sorry, an hour has only 60 minutes.",
            ),
            (
                f"Is the {p} open?",
                rng.choice(
                    ["Which day do you want to go?", f"I do not know the hours of the {p}."]
                ),
            ),
            (f"Tell me the password of {n}.", "Sorry, I cannot tell you that."),
            (f"{first_upper(c)} for me.", "Sorry, I cannot do that myself, but I can remind you."),
            (f"Every {rng.choice(DAYS)}, please.", "What shall I do then, and at what time?"),
            (f"What will {n} think tomorrow?", "I do not know what someone will think."),
        ]
    )


def one(rng):
    """Return one prompt: (user, start, layout)."""
    n, o = rng.sample(NAMES, 2)
    kind = rng.random()
    name = lambda text: text.replace("{n}", n).replace("{o}", o)
    if kind < 0.27:
        about = rng.choice(
            [
                rng.choice(PLACES),
                rng.choice(EVENTS)[4:],
                rng.choice(NAMES),
                "the week",
                "the day",
                "opening hours",
                "a routine",
                "a timetable",
            ]
        )
        start = " ".join(sentence(rng) for _ in range(rng.choice([1, 1, 2, 3])))
        return f"Write {rng.choice(SORTS)} about {about}." + name(rng.choice(STYLES)), start, "{a}"
    if kind < 0.37:
        task = rng.choice(
            [
                "Make a timetable for the {p}.",
                "Write down the opening hours of the {p}.",
                "Describe the daily routine of {n}.",
                "Make a to-do list for {n} with times.",
                "Write a reminder: {c}, {w}.",
                "Plan the {d} of {n}, hour by hour.",
                "Write a message to {n}: the {m} is moved to {x}.",
                "Invite {n} to a {m} {w} at {x}.",
                "Say politely that the {p} is closed {w}.",
                "Explain when to {c}.",
                "Write a note for the door of the {p}.",
                "Tell {n} at what time {e} starts.",
            ]
        )
        user = task.format(
            p=rng.choice(PLACES),
            n=n,
            c=rng.choice(CHORES),
            w=days(rng).strip(","),
            d=rng.choice(DAYS),
            m=rng.choice(MEETINGS),
            x=time(rng).strip(","),
            e=rng.choice(EVENTS),
        )
        return user, "", name(rng.choice(CHAT + ["{a}"] * 4))
    if kind < 0.50:
        (ask, done, edit), answer = change(rng)
        talk = rng.choice(
            [
                f"{n}: {ask}\n{o}: {done}\n{n}: {edit}\n{o}: {answer}\n{n}:",
                f"Q: {ask}\nA: {done}\nQ: {edit}\nA: {answer}\nQ:",
                f"User: {ask}\nAssistant: {done}\nUser: {edit}\nAssistant: {answer}\nUser:",
            ]
        )
        return "Write a short dialogue about a change of plan.", talk, "{a}"
    if kind < 0.58:
        say = rng.choice(
            [
                sentence(rng),
                ask_back(rng)[0],
                f"What time does {rng.choice(EVENTS)} start?",
                f"Can we move the {rng.choice(MEETINGS)} to {time(rng)}",
            ]
        )
        return f"Write a short dialogue between {n} and {o}.", f"{n}: {say}\n{o}:", "{a}"
    if kind < 0.70:
        user, answer = question(rng) if rng.random() < 0.7 else ask_back(rng)
        return user, answer, name(rng.choice(CHAT))
    user = rng.choice(TASKS).replace("{t}", rng.choice(TOPICS)) + name(rng.choice(STYLES))
    return user, "", name(rng.choice(CHAT + ["{a}"] * 8))


def many(count, seed):
    rng = random.Random(seed)
    return [one(rng) for _ in range(count)]
