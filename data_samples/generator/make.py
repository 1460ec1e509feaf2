"""Write the rows of the cron task: `python data_samples/generator/make.py`.

Every phrase belongs to one split by its hash, so training, validation and test never share one,
whatever the number of rows. The same seed, number of rows and wording give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import wider
from dialogues import CHATTER, Question, asking, edited, impossible, small_talk, undone
from phrases import Ask, schedule
from target import SYSTEM, canonical, same_schedule
from wordings import Voice

HERE = Path(__file__).parents[1] / "cron"
SEED, ROWS = 7, 9_000
BY_HAND = HERE / "by_hand.jsonl"
# Minute, hour, day of month, month, day of week: combinations that training never sees.
HELD_SHAPES = frozenset(
    tuple(shape.split())
    for shape in (
        "value value any range range",
        "step range any any value",
        "value list any list any",
        "value value list value any",
        "value step any any list",
        "value list range any any",
    )
)
# The line of the scoreboard that a kind counts for.
GROUPS = {
    "translate": "test split",
    "edit": "edits",
    **dict.fromkeys(("ask", "cannot", "decline"), "right kind"),
}
MIX = {"translate": 0.60, "edit": 0.18, "ask": 0.08, "cannot": 0.07, "decline": 0.07}
# More follow-ups, and more of them with a second change or an undo: what pocket gets wrong most on
# the validation rows.
CHANGES = {"translate": 0.50, "edit": 0.27, "ask": 0.08, "cannot": 0.08, "decline": 0.07}
# Of a follow-up: the chance of a second change, and the chance that the second change is an undo.
SECOND, UNDONE = {False: 0.35, True: 0.50}, {False: 0.35, True: 0.45}
# What a pair of preferences.jsonl is about: the line alone over chatter, its short form over a
# list, a line over a needless question or refusal; a question, an admission or "not a schedule"
# over a guess.
PAIRS = {"bare": 0.40, "short": 0.14, "answer": 0.12, "ask": 0.12, "cannot": 0.12, "decline": 0.10}
LINES = (
    "0 9 * * *",
    "0 0 * * *",
    "0 12 * * *",
    "* * * * *",
    "0 * * * *",
    "0 9 * * 1-5",
    "30 18 * * *",
    "0 8 * * 1",
)
VALIDATION = {"translate": 240, "edit": 64, "ask": 32, "cannot": 32, "decline": 32}
TEST = {
    ("translate", "none"): 200,
    ("translate", "wording"): 100,
    ("translate", "shape"): 60,
    ("edit", "none"): 76,
    ("edit", "wording"): 20,
    ("ask", "none"): 48,
    ("cannot", "none"): 48,
    ("decline", "none"): 48,
}


def normalised(phrase: str) -> str:
    """Return the phrase as splits compare it: NFKC, casefolded, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", phrase).casefold().split())


@cache
def kept_out() -> frozenset[str]:
    """Return the hand-written evaluation phrases, which no split may repeat."""
    if not BY_HAND.exists():
        return frozenset()
    with BY_HAND.open(encoding="utf-8") as lines:
        return frozenset(normalised(json.loads(line)["prompt"]) for line in lines)


def split_of(phrase: str) -> str:
    """Return the split that a phrase belongs to: train, validation, test or none."""
    key = normalised(phrase)
    if key in kept_out():
        return "none"
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    return "test" if bucket < 12 else "validation" if bucket < 20 else "train"


@cache
def shape(cron: str) -> tuple[str, ...]:
    """Return the kind of each field: any, value, list, range or step."""
    kinds = (("/", "step"), (",", "list"), ("-", "range"), ("*", "any"))
    return tuple(
        next((kind for mark, kind in kinds if mark in field), "value")
        for field in canonical(cron).split()
    )


def written_out(cron: str) -> str:
    """Return the line with its steps and ranges as lists of at most twelve values."""
    fields = cron.split()
    for n, (low, high) in enumerate(((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))):
        body, _, step = fields[n].partition("/")
        first, _, last = body.partition("-")
        if "," in body or not (step or last):
            continue
        ends = (low, high) if body == "*" else (int(first), int(last))
        values = range(ends[0], ends[1] + 1, int(step or 1))
        if len(values) <= 12:
            fields[n] = ",".join(map(str, values))
    line = " ".join(fields)
    return line if same_schedule(line, cron) else cron


class Writer:
    """Draws rows of one split. Rows of training carry the habits of annotators, others gold
    only."""

    def __init__(
        self, split: str, name: str, seed: int, wide: bool = False, changes: bool = False
    ) -> None:
        self.split, self.rng, self.seen = split, random.Random(f"{seed} {name}"), set()
        self.wide, self.changes = wide, changes

    def draw(
        self, make: Callable[[Voice], Ask | Question], held_out: str = "none", fresh: bool = True
    ):
        """Draw from `make` until the phrase belongs to this split and to the kind of held-out
        row."""
        while True:
            # A quarter of a wide file still speaks as narrowly as the evaluation splits do.
            voice = Voice(self.rng, held_out == "wording", self.wide and self.rng.random() < 0.75)
            drawn = make(voice)
            key = normalised(drawn.text)
            lines = (drawn.cron,) if isinstance(drawn, Ask) else (drawn.guess,)
            held_shape = any(shape(line) in HELD_SHAPES for line in lines)
            if split_of(drawn.text) != self.split or fresh and key in self.seen:
                continue
            if voice.held_used == (held_out == "wording") and held_shape == (held_out == "shape"):
                self.seen.add(key)
                return drawn

    def spoken(self, cron: str) -> str:
        """Write a line as annotators do: half of them chat, and some steps are written out."""
        if self.rng.random() < 0.30:
            cron = written_out(cron)
        return self.rng.choice(CHATTER).format(c=cron) if self.rng.random() < 0.5 else cron

    def request(self, held_out: str = "none", wrapped: float = 0.6) -> Ask:
        """Draw a schedule phrase, in a request or bare."""
        return self.draw(
            lambda voice: (wider.schedule if voice.wide else schedule)(
                voice, voice.chance(wrapped)
            ),
            held_out,
        )

    def conversation(
        self, reply: Callable[[str], str], held_out: str = "none"
    ) -> tuple[list[dict], str]:
        """Draw the turns of a follow-up, without its last answer; return them and the gold line."""
        first = self.request()
        turns, crons = opening(first.text), [first.cron]
        for turn in range(2 if self.rng.random() < SECOND[self.changes] else 1):
            turns.append(said("assistant", reply(crons[-1])))
            if turn and self.rng.random() < UNDONE[self.changes]:
                change = self.draw(lambda voice: undone(voice, crons[-2]), fresh=False)
            else:
                change = self.draw(lambda voice: edited(voice, crons[-1]), held_out, fresh=False)
            turns.append(said("user", change.text))
            crons.append(change.cron)
        return turns, crons[-1]

    def supplied(self) -> tuple[list[dict], str]:
        """Draw a question back and the user's answer to it; return the turns and the gold line."""
        while True:
            drawn = self.draw(asking)
            follow = drawn.follow
            if (
                follow
                and split_of(follow.text) == self.split
                and shape(follow.cron) not in HELD_SHAPES
            ):
                return [
                    *opening(drawn.text),
                    said("assistant", drawn.reply),
                    said("user", drawn.follow.text),
                ], drawn.follow.cron


def said(role: str, content: str) -> dict:
    """Return one message."""
    return {"role": role, "content": content}


def opening(text: str) -> list[dict]:
    """Return the system message and the first user turn."""
    return [said("system", SYSTEM), said("user", text)]


def completion_rows(seed: int, count: int, wide: bool = False) -> Iterator[dict]:
    """Yield {prompt, completion} rows: a phrase and its canonical line."""
    writer = Writer("train", "completion", seed, wide)
    for _ in range(count):
        drawn = writer.request(wrapped=0.4)
        yield {"prompt": drawn.text, "completion": drawn.cron}


def chat_row(writer: Writer, kind: str) -> list[dict]:
    """Draw one training conversation of a kind."""
    if kind == "translate":
        drawn = writer.request()
        return [*opening(drawn.text), said("assistant", writer.spoken(drawn.cron))]
    if kind == "edit":
        turns, cron = writer.conversation(writer.spoken)
        return [*turns, said("assistant", writer.spoken(cron))]
    if kind == "ask" and writer.rng.random() < 0.4:
        turns, cron = writer.supplied()
        return [*turns, said("assistant", writer.spoken(cron))]
    drawn = writer.draw({"ask": asking, "cannot": impossible, "decline": small_talk}[kind])
    wrong = kind != "decline" and writer.rng.random() < (0.45 if kind == "ask" else 0.30)
    return [
        *opening(drawn.text),
        said("assistant", writer.spoken(drawn.guess) if wrong else drawn.reply),
    ]


def chat_rows(seed: int, count: int, wide: bool = False, changes: bool = False) -> Iterator[dict]:
    """Yield {messages} rows of all kinds, in the proportions of MIX or CHANGES."""
    writer = Writer("train", "chat", seed, wide, changes)
    kinds = [
        kind
        for kind, share in (CHANGES if changes else MIX).items()
        if kind != "translate"
        for _ in range(round(share * count))
    ]
    kinds += ["translate"] * (count - len(kinds))
    writer.rng.shuffle(kinds)
    for kind in kinds:
        yield {"messages": chat_row(writer, kind)}


def preference_row(writer: Writer, kind: str) -> dict:
    """Draw one pair of a kind of PAIRS: chosen is what people rank first, and it is right."""
    if kind in ("bare", "short", "answer"):
        return line_pair(writer, kind)
    drawn = writer.draw({"ask": asking, "cannot": impossible, "decline": small_talk}[kind])
    guess = writer.rng.choice(LINES) if kind == "decline" else drawn.guess
    other = writer.rng.choice(CHATTER).format(c=guess) if writer.rng.random() < 0.5 else guess
    if kind == "decline" and writer.rng.random() < 0.4:
        other = writer.draw(writer.rng.choice((asking, impossible))).reply
    return pair(opening(drawn.text), drawn.reply, other)


def line_pair(writer: Writer, kind: str) -> dict:
    """Draw a pair whose chosen reply is the canonical line alone."""
    while True:
        if writer.rng.random() < 0.25:
            turns, cron = writer.conversation(str)
        else:
            drawn = writer.request()
            turns, cron = opening(drawn.text), drawn.cron
        if kind == "answer":
            other = writer.draw(writer.rng.choice((asking, asking, impossible))).reply
        else:
            other = (
                writer.rng.choice(CHATTER).format(c=cron) if kind == "bare" else written_out(cron)
            )
        if other != cron:
            return pair(turns, cron, other)


def pair(turns: list[dict], chosen: str, rejected: str) -> dict:
    """Return one preference row."""
    return {
        "prompt": turns,
        "chosen": [said("assistant", chosen)],
        "rejected": [said("assistant", rejected)],
    }


def preference_rows(seed: int, count: int, wide: bool = False) -> Iterator[dict]:
    """Yield {prompt, chosen, rejected} rows."""
    writer = Writer("train", "preferences", seed, wide)
    kinds = [
        kind for kind, share in PAIRS.items() if kind != "bare" for _ in range(round(share * count))
    ]
    kinds += ["bare"] * (count - len(kinds))
    writer.rng.shuffle(kinds)
    for kind in kinds:
        yield preference_row(writer, kind)


def gold_row(writer: Writer, kind: str, held_out: str) -> dict:
    """Draw one evaluation row: a conversation whose last answer is right, with its group, kind and
    what is held out."""
    if kind == "translate":
        drawn = writer.request(held_out)
        turns, right = opening(drawn.text), drawn.cron
    elif kind == "edit" and held_out == "none" and writer.rng.random() < 0.2:
        turns, right = writer.supplied()
    elif kind == "edit":
        turns, right = writer.conversation(str, held_out)
    else:
        drawn = writer.draw({"ask": asking, "cannot": impossible, "decline": small_talk}[kind])
        turns, right = opening(drawn.text), drawn.reply
    return {
        "messages": [*turns, said("assistant", right)],
        "group": GROUPS[kind],
        "kind": kind,
        "held_out": held_out,
    }


def gold_rows(split: str, wanted: dict) -> Iterator[dict]:
    """Yield the rows of an evaluation split; the seed is fixed, so every training set has the
    same."""
    writer = Writer(split, split, SEED)
    kinds = [
        key if isinstance(key, tuple) else (key, "none")
        for key, count in wanted.items()
        for _ in range(count)
    ]
    writer.rng.shuffle(kinds)
    for kind, held_out in kinds:
        yield gold_row(writer, kind, held_out)


def write(folder: Path, rows: int, seed: int, wide: bool = False, changes: bool = False) -> None:
    """Write the five files; `rows` counts chat.jsonl, the other training files follow it; `wide`
    adds wordings, `changes` follow-ups."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "completion": completion_rows(seed, rows, wide),
        "chat": chat_rows(seed, rows, wide, changes),
        "preferences": preference_rows(seed, rows // 6, wide),
        "validation": gold_rows("validation", VALIDATION),
        "test": gold_rows("test", TEST),
    }
    for name, made in files.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    """Read the flags and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows",
        type=int,
        default=ROWS,
        help="rows of chat.jsonl and completion.jsonl; preferences gets one sixth",
    )
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the five files")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the training files")
    parser.add_argument(
        "--wording",
        choices=("narrow", "wide"),
        default="narrow",
        help="wide: more ways to say a schedule and more around it, in the training files only",
    )
    parser.add_argument(
        "--mix",
        choices=("standard", "changes"),
        default="standard",
        help="changes: more follow-ups in chat.jsonl, more of them with a second change or an undo",
    )
    flags = parser.parse_args()
    write(flags.out, flags.rows, flags.seed, flags.wording == "wide", flags.mix == "changes")


if __name__ == "__main__":
    main()
