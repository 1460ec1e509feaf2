"""The judge of the example task: equal when the firing times are equal, whatever the text."""

import random
import time
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import tasks
from kit.errors import DataError

schedules = tasks.module("cron")

SHORT = datetime(2027, 12, 20), datetime(2028, 3, 5)


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        ("30 9 * * 1-5", "30 9 * * 1-5"),
        ("Sure! 30 9 * * 1-5", "30 9 * * 1-5"),
        ("30 9 * * 1-5 should do it.", "30 9 * * 1-5"),
        ("Use `*/15 9-17 * * MON-FRI` for that.", "*/15 9-17 * * MON-FRI"),
        ("The line is 0 0 1 jan,jul *.", "0 0 1 jan,jul *"),
        ("(0 9 * * *)", "0 9 * * *"),
        ("0 9 * * *. Hope this helps!", "0 9 * * *"),
        ("```\n5,35 20 * * 0\n```", "5,35 20 * * 0"),
        ("0 9 * * * means the same as 0 9 * * *", "0 9 * * *"),
        ("at 9: 0 9 * * *", "0 9 * * *"),
        ("0 9 * * * or 0 10 * * *", None),
        ("0 0 9 * * *", None),
        ("0 9 * *", None),
        ("At what time?", None),
        ("Five-field cron cannot say every 90 minutes.", None),
        ("", None),
    ],
)
def test_find_cron_takes_the_one_line_of_a_reply(reply, line):
    assert schedules.find_cron(reply) == line


@pytest.mark.parametrize(
    "cron",
    [
        "75 9 * * *",
        "0 24 * * *",
        "0 9 0 * *",
        "0 9 * 13 *",
        "0 9 * * 8",
        "0 9 31 2 *",
        "0 9 L * *",
        "0 9 * * 1#2",
        "0 9 * * 5L",
        "0 0 9 * * *",
        "@daily",
        "",
        "* * * *",
        "9-5 * * * *",
        "*/0 * * * *",
        "0 9 LW * *",
    ],
)
def test_lines_outside_five_standard_fields_are_not_valid(cron):
    assert not schedules.is_valid(cron)


SAME = [
    ("*/15 * * * *", "0,15,30,45 * * * *"),
    ("0 9 * * 1-5", "0 9 * * MON-FRI"),
    ("0 9 * * 0", "0 9 * * 7"),
    ("0 9 * * sun", "0 9 * * 7"),
    ("0 0 1 */3 *", "0 0 1 1,4,7,10 *"),
    ("0 9 1 * 0-6", "0 9 * * *"),
    ("0 9 * * 5-7", "0 9 * * 0,5,6"),
    ("0 */24 * * *", "0 0 * * *"),
    ("0 9 */2 * 1", "0 9 */2 * MON"),
    ("0 9 1-31 * *", "0 9 * * *"),
]
DIFFERENT = [
    ("0 9 * * *", "0 21 * * *"),
    ("0 9 * * 1-5", "0 9 * * 1-6"),
    ("*/45 * * * *", "0,30 * * * *"),
    ("0 9 13 * 5", "0 9 13 * *"),
    ("0 9 13 * 5", "0 9 * * 5"),
    ("0 9 29 2 *", "0 9 28 2 *"),
    ("0 9 29 2 *", "0 9 1 3 *"),
    ("0 9 31 * *", "0 9 30 * *"),
    ("0 9 */2 * 1", "0 9 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31 * 1"),
    ("30 8,9 * * *", "0,30 8 * * *"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_equal_firing_times_are_the_same_schedule(a, b):
    assert schedules.same_schedule(a, b) and schedules.same_schedule(b, a)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_other_firing_times_are_another_schedule(a, b):
    assert not schedules.same_schedule(a, b) and not schedules.same_schedule(b, a)


def random_field(rng, low, high):
    first, last = sorted(rng.choices(range(low, high + 1), k=2))
    return rng.choice(
        [
            "*",
            "*",
            f"{first}",
            f"{first}-{last}",
            f"*/{rng.randrange(1, high + 1)}",
            f"{first},{last}",
            f"{first}-{last}/{rng.randrange(1, 5)}",
        ]
    )


def random_line(seed):
    """A valid line that fires at most twelve times an hour, so that brute force stays short."""
    rng = random.Random(seed)
    while True:
        minute = rng.choice(
            ["0", "5", "*/5", "*/30", "0,15,30,45", "3-9", "3-9/2", "3,5,7,9", "0,30"]
        )
        cron = " ".join(
            (
                minute,
                random_field(rng, 0, 23),
                *(random_field(rng, low, high) for low, high in ((1, 31), (1, 12), (0, 7))),
            )
        )
        if schedules.is_valid(cron):
            return cron


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_the_three_sets_equal_a_walk_of_cronsim(seed):
    """The compared sets, multiplied out, are the minutes that cronsim visits one by one."""
    cron = random_line(seed)
    walked = schedules.firing_times(cron, *SHORT)
    parsed = schedules._parse(cron)
    days = [
        d
        for d in schedules._firing_days(*cron.split()[2:])
        if SHORT[0].date() <= d < SHORT[1].date()
    ]
    product = sorted(
        datetime(d.year, d.month, d.day, h, m)
        for d in days
        for h in parsed.hours
        for m in parsed.minutes
    )
    assert walked == product


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_same_schedule_equals_brute_force(seed):
    """Over the whole window, on pairs that differ in at most one field."""
    rng = random.Random(seed)
    fields = ["0", str(rng.randrange(24)), *random_line(seed).split()[2:]]
    other = list(fields)
    other[rng.randrange(5)] = random.Random(seed + 1).choice(
        ["*/12", "0", "1", "7", "0,12", "1-7", "7,1-6"]
    )
    a, b = " ".join(fields), " ".join(other)
    if not (schedules.is_valid(a) and schedules.is_valid(b)):
        return
    window = datetime(2027, 1, 1), datetime(2029, 3, 1)
    assert schedules.same_schedule(a, b) == (
        schedules.firing_times(a, *window) == schedules.firing_times(b, *window)
    )


def test_firing_times_hold_start_and_leave_out_end():
    start, end = datetime(2028, 2, 28, 9), datetime(2028, 3, 1, 9)
    assert schedules.firing_times("0 9 * * *", start, end) == [
        datetime(2028, 2, 28, 9),
        datetime(2028, 2, 29, 9),
    ]


def test_comparing_a_line_of_every_minute_takes_milliseconds():
    start = time.perf_counter()
    assert schedules.same_schedule("* * * * *", "*/1 */1 1-31 1-12 0-7")
    assert time.perf_counter() - start < 0.2


CANONICAL = [
    ("0,15,30,45 * * * *", "*/15 * * * *"),
    ("0 9 * * 1,2,3,4,5", "0 9 * * 1-5"),
    ("0 9 * * MON-FRI", "0 9 * * 1-5"),
    ("0 9 * * 6,0", "0 9 * * 0,6"),
    ("0 9 1 1,4,7,10 *", "0 9 1 */3 *"),
    ("00 09 * * *", "0 9 * * *"),
    ("0 9 * * 0,5,6", "0 9 * * 5-7"),
    ("0 9 1-31 * *", "0 9 * * *"),
    ("0 9,10 * * *", "0 9,10 * * *"),
    ("0 9,10,11 * * *", "0 9-11 * * *"),
    ("0 8,10,12,14,16,18 * * *", "0 8-18/2 * * *"),
    ("0 9 * * 0,1,2,4,5,6", "0 9 * * 0-2,4-6"),
    ("*/45 * * * *", "0,45 * * * *"),
    ("0 9 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31 * 1", "0 9 1-31/2 * 1"),
    ("0 9 */2 * 1", "0 9 */2 * 1"),
    ("0 9 15 * 1", "0 9 15 * 1"),
]


@pytest.mark.parametrize(("cron", "short"), CANONICAL)
def test_canonical_is_the_short_usual_form(cron, short):
    assert schedules.canonical(cron) == short


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_canonical_keeps_firing_times_and_is_stable(seed):
    cron = random_line(seed)
    short = schedules.canonical(cron)
    assert schedules.same_schedule(short, cron)
    assert schedules.canonical(short) == short


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("30 9 * * 1-5", "cron"),
        ("Sure! 75 9 * * *", "cron"),
        ("At what time?", "ask"),
        ("On which day?", "ask"),
        ("0 9 * * *, is that fine?", "cron"),
        ("Five-field cron cannot say every 90 minutes.", "cannot"),
        ("Cron can’t do that.", "cannot"),
        ("That is not a schedule.", "decline"),
        ("I only write cron lines.", "decline"),
        ("0 9 * * * or 0 10 * * *", "other"),
        ("0 0 9 * * *", "other"),
        ("30 9 *", "other"),
        ("", "other"),
        ("Good morning.", "other"),
        ("cannot 0 9 * * ?", "other"),
    ],
)
def test_reply_kinds(reply, kind):
    assert schedules.kind(reply) == kind


CHAT = "Use `0,30 9 * * MON-FRI`!"
HALF_HOURS, WHEN, SUNSET, OTHER = (
    "*/30 9 * * 1-5",
    "At what time?",
    "Five-field cron cannot say sunset.",
    "That is not a schedule.",
)


@pytest.mark.parametrize(
    ("reply", "right", "correct", "liked"),
    [
        (HALF_HOURS, HALF_HOURS, True, True),
        (HALF_HOURS, CHAT, True, True),
        (CHAT, HALF_HOURS, True, False),
        ("0,30 9 * * 1-5", HALF_HOURS, True, False),
        ("*/30 9 * * 1-6", HALF_HOURS, False, False),
        ("75 9 * * 1-5", HALF_HOURS, False, False),
        (WHEN, HALF_HOURS, False, False),
        ("", HALF_HOURS, False, False),
        ("On which day?", WHEN, True, True),
        ("0 9 * * *", WHEN, False, False),
        ("Hm. You did not say. At what time?", WHEN, True, False),
        ("Cron cannot do that.", SUNSET, True, True),
        (f"{SUNSET} Sorry.", SUNSET, True, False),
        ("Cron cannot say sunset, so 0 18 * * *", SUNSET, False, False),
        ("I only write cron lines.", OTHER, True, True),
        (OTHER, SUNSET, False, False),
        ("", WHEN, False, False),
    ],
)
def test_judge_and_prefers(reply, right, correct, liked):
    assert schedules.judge(reply, right) is correct
    assert schedules.prefers(reply, right) is liked


def test_a_bad_right_reply_is_refused_with_its_text():
    with pytest.raises(DataError, match="'0 25 \\* \\* \\*'"):
        schedules.judge("0 9 * * *", "0 25 * * *")
    with pytest.raises(DataError, match="got 'yes'"):
        schedules.judge("0 9 * * *", "yes")
    with pytest.raises(DataError):
        schedules.same_schedule("0 9 * * *", "none")


def test_the_system_message_is_an_instruction_of_at_most_six_tokens():
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file("models/pocket/tokenizer.json")
    for name in ("cron", "orders"):
        system = tasks.module(name).system
        assert (
            len(system.split()) >= 2
            and len(tokenizer.encode(system, add_special_tokens=False).ids) <= 6
        )
