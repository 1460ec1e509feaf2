"""Word lists and small wording rules: how people write times, days, tasks and requests.

`Voice.pick(usual, held, wide)` draws from `usual`; a voice that speaks held-out wordings draws from
`held` where there is one and notes it in `held_used`. Training never uses such a voice. A wide
voice (`make.py --wording wide`) draws from `usual` and `wide` together.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from tasks import (
    ACTS,
    CLOSERS,
    ENDS,
    EVENTS,
    FOLDERS,
    FRAMES,
    LOOSE,
    OPENERS,
    RUNS,
    SHORTENED,
    STEMS,
    STORIES,
)

DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
SHORT_DAYS = (
    ("Sun",),
    ("Mon",),
    ("Tue", "Tues"),
    ("Wed", "Weds"),
    ("Thu", "Thurs", "Thur"),
    ("Fri",),
    ("Sat",),
)
MONTHS = (
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
)
SHORT_MONTHS = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sept",
    "Oct",
    "Nov",
    "Dec",
)
NUMBERS = [
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
    "twenty",
    "twenty-one",
    "twenty-two",
    "twenty-three",
    "twenty-four",
    "twenty-five",
    "twenty-six",
    "twenty-seven",
    "twenty-eight",
    "twenty-nine",
    "thirty",
]
TENS = {30: "thirty", 40: "forty", 50: "fifty"}
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
]

LATER_ORDINALS = [
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
    "thirty-first",
]

VERBS = (
    "run",
    "start",
    "launch",
    "trigger",
    "kick off",
    "fire",
    "execute",
    "schedule",
    "call",
)
JOBS = (
    "the backup",
    "the db backup",
    "backup.sh",
    "the cleanup job",
    "the report",
    "the sync",
    "the import",
    "the nightly build",
    "the crawler",
    "the health check",
    "the ETL job",
    "sync.py",
    "the export",
    "the billing job",
    "the scraper",
    "my script",
    "this script",
    "this job",
    "the task",
    "the pipeline",
    "the data load",
    "the tests",
    "the invoice run",
    "the log rotation",
    "cleanup.sh",
    "the script",
    "the batch job",
    "a virus scan",
    "the cache warmer",
    "the index rebuild",
    "the mailer",
)
TASKS = (
    "send the report",
    "send the newsletter",
    "email the team",
    "email me the sales figures",
    "back up the database",
    "backup my photos",
    "rotate the logs",
    "clear the cache",
    "water the plants",
    "feed the fish",
    "feed the cat",
    "turn on the lights",
    "turn off the heating",
    "check the mailbox",
    "check disk space",
    "ping the server",
    "poll the API",
    "restart the server",
    "reboot the router",
    "renew the certificates",
    "delete old files",
    "empty the trash",
    "remind me to stretch",
    "remind me to drink water",
    "remind me to pay rent",
    "wake me up",
    "take out the bins",
    "post the standup reminder",
    "post to slack",
    "pull the latest data",
    "refresh the dashboard",
    "update the exchange rates",
    "download the weather data",
    "sync the calendars",
    "archive old emails",
    "generate the invoices",
    "charge the subscriptions",
    "run payroll",
    "vacuum the database",
    "purge temp files",
    "snapshot the disk",
    "scan for viruses",
    "record the temperature",
    "open the gate",
    "close the blinds",
    "ring the bell",
    "play the alarm",
    "fetch new mail",
    "rebuild the search index",
    "upload the logs",
    "send birthday wishes",
    "print the timetable",
    "compress the logs",
    "warm the cache",
    "check for updates",
    "test the alarm",
    "tweet the quote of the day",
    "mow the lawn",
    "clean the coffee machine",
    "send me a reminder",
)
HELD_TASKS = (
    "defrost the freezer",
    "feed the chickens",
    "flush the DNS cache",
    "publish the podcast",
    "reindex the wiki",
    "send the timesheets",
    "top up the bird feeder",
    "mirror the repository",
)

# {p} is the schedule, {t} a task in the base form.
WRAPPERS = (
    "{p}",
    "{p}",
    "{p}",
    "{p}",
    "{p}",
    "{p}",
    "{p}",
    "{t} {p}",
    "{t} {p}",
    "{t} {p}",
    "{t} {p}",
    "{t} {p}",
    "{t} {p}",
    "{t}, {p}",
    "{p} {t}",
    "{p}, {t}",
    "{p}: {t}",
    "{t}: {p}",
    "please {t} {p}",
    "pls {t} {p}",
    "{t} {p} please",
    "{t} {p}, thanks",
    "{p} pls",
    "{p} please",
    "can you {t} {p}?",
    "could you {t} {p}?",
    "could you please {t} {p}",
    "i want to {t} {p}",
    "I need to {t} {p}",
    "I'd like to {t} {p}",
    "i need cron for {p}",
    "cron for {p}",
    "cron: {p}",
    "a job that should {t} {p}",
    "schedule it {p}",
    "schedule this {p}",
    "run it {p}",
    "run this {p}",
    "do it {p}",
    "what is the cron for {p}?",
    "what's the cron line for {p}",
    "cron expression for {p}",
    "crontab for {p}",
    "crontab entry to {t} {p}",
    "cron to {t} {p}",
    "set a job to {t} {p}",
    "set up a cron job to {t} {p}",
    "make it run {p}",
    "it should run {p}",
    "this should run {p}",
    "we need to {t} {p}",
    "we have to {t} {p}",
    "how do i {t} {p}?",
    "need something to {t} {p}",
    "hi, {t} {p}",
    "hey can you {t} {p}",
    "hello! please {t} {p}",
    "{t} - {p}",
    "have it {t} {p}",
    "let it run {p}",
    "I would like this to run {p}",
    "give me a cron for {p}",
    "write a cron line: {p}",
    "schedule for {p}",
    "just {t} {p}",
    "{p} run",
    "help me {t} {p}",
    "must {t} {p}",
    "want this {p}",
    "remember to {t} {p}",
    "job: {t} / when: {p}",
    "translate to cron: {p}",
    "the job runs {p}",
    "our team wants to {t} {p}",
    "{p} we {t}",
    "trying to {t} {p}",
    "i have to {t} {p}",
    "would you {t} {p}?",
)
HELD_WRAPPERS = (
    "my boss wants us to {t} {p}",
    "which five fields mean {p}?",
    "put this in crontab: {p}",
    "the plan is to {t} {p}",
    "todo: {t}, {p}",
    "it would be great to {t} {p}",
    "{t} ({p})",
    "automate this: {t} {p}",
    "is there a way to {t} {p}?",
    "arrange to {t} {p}",
)

_MISSPELT = {
    "every": ("evry", "evrey", "eveyr", "ever", "everey"),
    "minutes": ("mintues", "minuts", "minuets", "min"),
    "wednesday": ("wensday", "wednsday", "wedensday"),
    "tuesday": ("teusday", "tueday", "tuseday"),
    "thursday": ("thrusday", "thursaday", "thurday"),
    "saturday": ("saterday", "satuday"),
    "february": ("febuary", "feburary"),
    "september": ("septmber",),
    "midnight": ("midnite", "midnigth"),
    "o'clock": ("oclock", "o clock", "o’clock"),
    "hours": ("hrs", "horus"),
    "hour": ("hr", "huor"),
    "weekdays": ("week days", "wekdays", "weekday"),
    "weekends": ("week ends", "wekends"),
    "between": ("betwen", "btwn", "beetween"),
    "month": ("mnth", "moth"),
    "morning": ("mornign", "mornin"),
    "please": ("plz", "pls", "plase"),
    "monday": ("mondey", "monady"),
    "friday": ("firday", "fryday"),
    "sunday": ("sundey", "sunady"),
    "days": ("dayes",),
    "except": ("exept", "excpet"),
    "quarter": ("qarter",),
    "and": ("n", "&"),
    "you": ("u",),
    "noon": ("noonn",),
    "the": ("teh",),
    "with": ("w/",),
    "schedule": ("scedule", "shedule"),
    "report": ("reprot",),
    "backup": ("bakcup",),
}
_FROZEN = frozenset(
    [word for number in NUMBERS for word in number.split("-")]
    + list(TENS.values())
    + ORDINALS
    + [
        "second",
        "seconds",
        "hourly",
        "once",
        "twice",
        "other",
        "except",
        "without",
        "until",
        "through",
    ]
)


class Voice:
    """A seeded speaker. `held` turns on held-out wordings; `held_used` says one was spoken; `wide`
    adds wordings."""

    def __init__(self, rng: random.Random, held: bool = False, wide: bool = False) -> None:
        self.rng, self.held, self.held_used, self.wide = rng, held, False, wide

    def pick(self, usual: Sequence, held: Sequence = (), wide: Sequence | Callable = ()):
        """Draw one of `usual`, or of `held` in a voice that speaks held-out wordings, or also of
        `wide`.

        `wide` may be a function, so that the forms it draws cost a narrow voice no random number.
        """
        if held and self.held and self.rng.random() < 0.6:
            self.held_used = True
            return self.rng.choice(held)
        return self.rng.choice(
            [*usual, *(wide() if callable(wide) else wide)] if self.wide else usual
        )

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.rng.random() < probability


def number(voice: Voice, n: int) -> str:
    """Write `n` in digits or, up to thirty, sometimes in words."""
    if n < len(NUMBERS) and voice.chance(0.35):
        return NUMBERS[n]
    return str(n)


def ordinal(voice: Voice, n: int) -> str:
    """Write a day of the month: 1st, first, 22nd."""
    if (n <= len(ORDINALS) or voice.wide) and voice.chance(0.2):
        return (ORDINALS + LATER_ORDINALS)[n - 1]
    suffix = "th" if 10 < n < 14 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


def day_name(voice: Voice, day: int, short: bool = False) -> str:
    """Name a weekday, Sunday being 0."""
    return voice.pick(SHORT_DAYS[day]) if short else DAYS[day]


def month_name(voice: Voice, month: int, short: bool | None = None) -> str:
    """Name a month, January being 1."""
    if short is None:
        short = voice.chance(0.25)
    return (SHORT_MONTHS if short else MONTHS)[month - 1]


def listed(voice: Voice, items: Sequence[str]) -> str:
    """Join items the way people do: a, b and c; a & b; a/b; a, b, c."""
    if len(items) == 1:
        return items[0]
    last = voice.pick(
        (" and ", " and ", " and ", " & ", ", ", " + ")
        if len(items) == 2
        else (" and ", " and ", ", and ", " & ", ", "),
        (),
        (" and also ", " and then ") if len(items) == 2 else (", ",),
    )
    return ", ".join(items[:-1]) + last + items[-1]


def task(voice: Voice) -> str:
    """Name a task in the base form: run the backup, water the plants."""
    if voice.wide and voice.chance(0.6):
        if voice.chance(0.2):
            name = voice.pick(FOLDERS) + voice.pick(STEMS) + voice.pick(ENDS)
            return f"{voice.pick(RUNS)} {voice.pick((name, name, f'`{name}`'))}"
        acts, things = voice.pick(ACTS)
        return f"{voice.pick(acts)} {voice.pick(things)}"
    if voice.chance(0.4):
        return f"{voice.pick(VERBS)} {voice.pick(JOBS)}"
    return voice.pick(TASKS, HELD_TASKS)


def wrapped(voice: Voice, phrase: str) -> str:
    """Put a schedule phrase into a request."""
    if voice.wide and voice.chance(0.6):
        return loosely_wrapped(voice, phrase)
    template = voice.pick(WRAPPERS, HELD_WRAPPERS)
    return template.format(p=phrase, t=task(voice))


def loosely_wrapped(voice: Voice, phrase: str) -> str:
    """Put a schedule phrase beside an event, or into a longer message around a task."""
    if voice.chance(0.4):
        return voice.pick(LOOSE).format(p=phrase, e=voice.pick(EVENTS))
    text = voice.pick(FRAMES).format(p=phrase, t=task(voice))
    text = f"{voice.pick(OPENERS)}{text}{voice.pick(CLOSERS)}"
    return f"{voice.pick(STORIES)} {text[0].upper()}{text[1:]}" if voice.chance(0.04) else text


def _sloppy(voice: Voice, text: str) -> str:
    """Shorten words, join or split a time and its am, drop or double marks, borrow another
    language's grammar."""
    if voice.chance(0.15):
        known = [
            (word, forms)
            for word, forms in SHORTENED
            if re.search(rf"\b{word}\b", text, re.IGNORECASE)
        ]
        if known:
            word, forms = voice.pick(known)
            text = re.sub(rf"\b{word}\b", voice.pick(forms), text, count=1, flags=re.IGNORECASE)
    draw = voice.rng.random()
    if draw < 0.06:
        return re.sub(r"(\d) ([ap]\.?m\b)", r"\1\2", text, flags=re.IGNORECASE)
    if draw < 0.10:
        return re.sub(r"(\d)([ap]m\b)", r"\1 \2", text, flags=re.IGNORECASE)
    if draw < 0.14:
        return text.replace(", ", voice.pick((" ", ",", " , ")))
    if draw < 0.17:
        return re.sub(r"\bon (\w+day)", voice.pick((r"in \1", r"at \1", r"\1", r"the \1")), text)
    if draw < 0.19:
        return re.sub(
            r"\bevery\b",
            voice.pick(("each", "in every", "on every", "at every", "all")),
            text,
            count=1,
        )
    if draw < 0.21:
        return text.replace(" - ", "-") if " - " in text else f'"{text}"'
    if draw < 0.23:
        return text + voice.pick(("!!", "...", " !", ";", " ..", "??" if "?" in text else "!"))
    return _misspell(voice, text) if draw < 0.31 else text


def _misspell(voice: Voice, text: str) -> str:
    words = re.split(r"(\W+)", text)
    spots = [i for i, word in enumerate(words) if word.isalpha() and word.casefold() not in _FROZEN]
    if not spots:
        return text
    spot = voice.pick(spots)
    word = words[spot]
    if word.casefold() in _MISSPELT:
        words[spot] = voice.pick(_MISSPELT[word.casefold()])
    elif len(word) > 5:
        at = voice.rng.randrange(1, len(word) - 2)
        swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        words[spot] = voice.pick((swapped, word[:at] + word[at + 1 :]))
    return "".join(words)


def noisy(voice: Voice, text: str) -> str:
    """Add the noise of typing: case, end punctuation, a missing apostrophe, a misspelt word."""
    if voice.chance(0.14):
        text = _misspell(voice, text)
    if voice.wide:
        text = _sloppy(voice, text)
    draw = voice.rng.random()
    if draw < 0.40:
        text = text.casefold()
    elif draw < 0.70:
        text = text[0].upper() + text[1:]
    elif draw < 0.73:
        text = text.upper()
    if text[-1].isalnum():
        text += voice.pick(("",) * 8 + (".", ".", "!"))
    elif text.endswith("?") and voice.chance(0.4):
        text = text[:-1]
    return text
