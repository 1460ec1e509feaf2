"""Write notes in which plans are changed, taken back, added to, questioned and refused.

The requests are the course's training phrases, as in rows.py, also in the wide wording. No cron is
written. A dialogue writes its parts in one style from the first line to the last, because an undo
repeats an earlier answer letter by letter.

    python models/pocket/recipe/changes.py 5     prints five documents
"""

import random
import sys
from functools import lru_cache
from itertools import pairwise

from documents import CRON, load_phrases
from notes import FORMS, dialogue, note
from rows import NO_LINE, plan_of, samples

KINDS = {"translate": 34, "chain": 34, "supplied": 7, "ask": 9, "cannot": 10, "decline": 6}
OWN = 0.2  # share of notes in the words of notes.py
LABELS = (
    ("minute", "hour", "date", "month", "weekday"),
    ("minute", "hour", "date", "month", "weekday"),
    ("minutes", "hours", "dates", "months", "weekdays"),
    ("min", "hour", "date", "month", "day"),
    ("m", "h", "d", "mo", "wd"),
)
FULL = (60, 24, 31, 12, 7)
plan = lru_cache(100_000)(plan_of)


def numbers(values, size, short):
    """Return the numbers of a part: '30', '9,18', '1-5', 'every 15', '8-18 every 2'."""
    step = values[1] - values[0] if len(values) > 1 else 0
    even = step > 1 and all(b - a == step for a, b in pairwise(values))
    if short and even and size != 7:
        first = int(size in (31, 12))
        if values[0] == first and values[-1] + step >= size + first:
            return f"every {step}"
        if len(values) > 3:
            return f"{values[0]}-{values[-1]} every {step}"
    runs = []
    for value in values:
        if short and runs and runs[-1][-1] + 1 == value:
            runs[-1].append(value)
        else:
            runs.append([value])
    words = [[f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run) for run in runs]
    return ",".join(word for part in words for word in part)


def style(rng):
    """Return a function that writes a Plan as its parts, always in the same way."""
    labels, gap = rng.choice(LABELS), rng.choice((", ", ", ", ", ", "; ", " / ", "\n"))
    full, short, free = rng.random() < 0.6, rng.random() < 0.85, rng.choice(("any", "any", "every"))

    def write(plan):
        parts = []
        for label, values, size in zip(labels, plan.parts(), FULL, strict=True):
            if values is not None:
                parts.append(f"{label} {numbers(values, size, short)}")
            elif full or label == labels[0]:
                parts.append(f"{free} {label}")
        return gap.join(parts)

    return write


def chain(course, writer, rng):
    """Return the turns of a plan that changes one to four times.

    An undo takes the newest change back. A change that no plan can say leaves the plan as it is.
    """
    first = writer.request()
    turns, crons, undo = [first.text, plan(first.cron)], [first.cron], False
    for _ in range(rng.choice((1, 1, 2, 2, 3, 4))):
        draw = rng.random()
        if draw < 0.06:
            refused = writer.draw(course.impossible, fresh=False)
            turns += [refused.text, refusal(refused, rng)]
            continue
        undo = len(crons) > 1 and draw < 0.4 and not undo
        if undo:
            crons.pop()
            back = crons[-1]
            change = writer.draw(lambda voice, back=back: course.undone(voice, back), fresh=False)
        else:
            last = crons[-1]
            change = writer.draw(lambda voice, last=last: course.edited(voice, last), fresh=False)
            crons.append(change.cron)
        turns += [change.text, plan(crons[-1])]
    return turns


def refusal(question, rng):
    """Return why one plan cannot say it."""
    if rng.random() < 0.3:
        return rng.choice(NO_LINE["cannot"])
    return question.reply.replace("Five-field cron", rng.choice(("One plan", "A single plan")))


def conversations(seed, wide=True):
    """Yield [request, answer, request, answer ..]; an answer is a text or a Plan."""
    course, rng = samples(), random.Random(f"{seed} changes")
    writer = course.Writer("train", "pocket changes", seed, wide)
    replies = {"ask": course.asking, "cannot": course.impossible, "decline": course.small_talk}
    while True:
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "translate":
            drawn = writer.request()
            yield [drawn.text, plan(drawn.cron)]
        elif kind == "chain":
            yield chain(course, writer, rng)
        elif kind == "supplied":
            turns, cron = writer.supplied()
            yield [turn["content"] for turn in turns[1:]] + [plan(cron)]
        else:
            drawn = writer.draw(replies[kind])
            reply = drawn.reply if kind == "ask" else rng.choice(NO_LINE["decline"])
            yield [drawn.text, refusal(drawn, rng) if kind == "cannot" else reply]


def written(turns, rng):
    """Return one conversation as text."""
    write = style(rng)
    lines = [turn if isinstance(turn, str) else write(turn) for turn in turns]
    if len(lines) == 2 and rng.random() < 0.6:
        return rng.choice(FORMS).format(*lines)
    return dialogue(lines, rng)


def documents(seed, wide=True):
    """Yield documents of one to five notes; `wide` uses the course's wide wording too."""
    rng, talks, phrases = random.Random(f"{seed} notes"), conversations(seed, wide), load_phrases()
    while True:
        parts = []
        for _ in range(rng.choice((1, 1, 2, 3, 5))):
            if rng.random() < OWN:
                parts.append(note(rng, None, 0, phrases))
                continue
            text = written(next(talks), rng)
            low = text.lower()
            if "*" not in text and not CRON.search(text) and not any(p in low for p in phrases):
                parts.append(text)
        if parts:
            yield "\n".join(parts)


if __name__ == "__main__":
    stream = documents(20261128)
    print("\n\n".join(next(stream) for _ in range(int(sys.argv[1]))))
