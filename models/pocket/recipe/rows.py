"""Write notes in the course's training phrases, answered with parts instead of cron.

The generator of the course's training files is read at seeds of its own, in its narrow wording. It
never draws a phrase of the validation or test split, a wording or a shape that the test split holds
out, or a phrase written by hand.
"""

import importlib.util
import random
import sys
from datetime import datetime
from pathlib import Path

from cronsim import CronSim
from plans import Plan

GENERATOR = Path(__file__).resolve().parents[3] / "data_samples" / "generator"
FULL = (60, 24, 31, 12, 7)
NO_LINE = {
    "cannot": (
        "No single plan can say that.",
        "That cannot be one plan.",
        "One plan is not enough for that.",
    ),
    "decline": ("That is not about times or dates.", "This is no plan for a calendar."),
}


def samples():
    """Return data_samples/generator/make.py as a module; `make` is the name of the recipe's own."""
    if "course_rows" not in sys.modules:
        sys.path.append(str(GENERATOR))  # make.py imports its neighbours
        spec = importlib.util.spec_from_file_location("course_rows", GENERATOR / "make.py")
        sys.modules["course_rows"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["course_rows"])
    return sys.modules["course_rows"]


def plan_of(cron):
    """Return the Plan of a cron line, Sunday as 0; a field that allows everything is None."""
    read = CronSim(cron, datetime(2026, 1, 1))
    weekdays = {day % 7 for day in read.weekdays}
    sets = (read.minutes, read.hours, read.days, read.months, weekdays)
    return Plan(
        *(None if len(found) == full else tuple(sorted(found)) for found, full in zip(sets, FULL))
    )


def conversations(seed):
    """Yield [request, answer, request, answer ..]; an answer is a text or a Plan."""
    course, rng = samples(), random.Random(seed)
    writer = course.Writer("train", "pocket", seed)
    replies = {"ask": course.asking, "cannot": course.impossible, "decline": course.small_talk}
    while True:
        kind = rng.choices(["translate", "edit", "supplied", *replies], [60, 26, 4, 4, 4, 2])[0]
        if kind == "translate":
            drawn = writer.request()
            yield [drawn.text, plan_of(drawn.cron)]
        elif kind in replies:
            drawn = writer.draw(replies[kind])
            yield [drawn.text, drawn.reply if kind == "ask" else rng.choice(NO_LINE[kind])]
        else:
            turns, cron = writer.conversation(plan_of) if kind == "edit" else writer.supplied()
            yield [turn["content"] for turn in turns[1:]] + [plan_of(cron)]
