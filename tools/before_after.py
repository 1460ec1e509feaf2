"""Draw docs/before_after.svg: the same requests, answered by the base model and by a trained run.

python tools/before_after.py [RUN]

The requests are chosen by a rule, not by taste: the first test question of each scoreboard group
that the trained model answers correctly. The rates of all groups stand below them, so the picture
does not hide how often the model is wrong.
"""

import argparse
import html
from pathlib import Path

from kit import chat, models, scoring, tasks

PROJECT = Path(__file__).resolve().parents[1]
TARGET = PROJECT / "docs" / "before_after.svg"
WIDTH, LINE, PAD, CHARACTERS = 960, 22, 14, 48
STYLE = """
text { font: 15px ui-sans-serif, system-ui, sans-serif; fill: #1a202c }
.mono { font-family: ui-monospace, monospace } .head { font-weight: 600 } .note { fill: #4a5568 }
.user { fill: #dbe7f5 } .base { fill: #fde3d0 } .tuned { fill: #d3efe0 } .page { fill: #ffffff }
"""


def wrap(text, width=CHARACTERS):
    """Return the lines of a text that is cut after 3 lines."""
    words, lines = " ".join(text.split()).split(" "), [""]
    for word in words:
        if len(lines[-1]) + len(word) + 1 > width and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()[:width]
    return lines if len(lines) <= 3 else [*lines[:2], lines[2][: width - 3] + " …"]


def bubble(x, y, width, lines, style, mono=False):
    """Return the SVG of a rounded box with lines of text, and its height."""
    height = LINE * len(lines) + PAD
    parts = [f'<rect class="{style}" x="{x}" y="{y}" width="{width}" height="{height}" rx="9"/>']
    for number, line in enumerate(lines):
        kind = "mono" if mono else ""
        parts.append(
            f'<text class="{kind}" x="{x + 12}" y="{y + 20 + LINE * number}">'
            f"{html.escape(line)}</text>"
        )
    return "".join(parts), height


def picture(rows, note):
    """Return the SVG of (request, base reply, trained reply) rows with a note below."""
    half = (WIDTH - 3 * PAD) // 2
    parts, y = [], 44
    for at, title in ((PAD, "before: the base model"), (2 * PAD + half, "after the course")):
        parts.append(f'<text class="head" x="{at}" y="28">{title}</text>')
    for request, before, after in rows:
        box, height = bubble(PAD, y, WIDTH - 2 * PAD, wrap(request, 2 * CHARACTERS), "user")
        parts.append(box)
        y += height + 6
        left, left_height = bubble(PAD, y, half, wrap(before), "base", mono=True)
        right, right_height = bubble(2 * PAD + half, y, half, wrap(after), "tuned", mono=True)
        parts += [left, right]
        y += max(left_height, right_height) + 16
    parts.append(f'<text class="note" x="{PAD}" y="{y + 6}">{html.escape(note)}</text>')
    size = f'viewBox="0 0 {WIDTH} {y + 20}" width="{WIDTH}" height="{y + 20}"'
    alt = "; ".join(
        f"{request}: {before!r} before, {after!r} after" for request, before, after in rows
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{html.escape(alt)}'
        f'</title><style>{STYLE}</style><rect class="page" width="100%" height="100%" rx="12"/>'
        + "\n".join(parts)
        + "</svg>\n"
    )


def request_of(question):
    """Return the user turns of a question as one line."""
    turns = [message["content"] for message in question.messages if message["role"] == "user"]
    return "  →  ".join(turns)


def replies_of(name, questions, task):
    """Return the scored replies of a model, which gets role tokens if it has none."""
    model, tokenizer = models.load(name)
    chat.prepare(tokenizer, model, "auto")
    return scoring.evaluate(model, tokenizer, questions, task)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="04_dpo-pocket", help="a run of the course")
    parser.add_argument("--task", default="cron", help="the task whose test questions are asked")
    options = parser.parse_args(argv)
    task = tasks.load(options.task, check=False)
    questions = tasks.questions(task)
    after = replies_of(options.run, questions, task)
    first = {}
    for at, (question, correct) in enumerate(zip(questions, after.correct, strict=True)):
        if correct:
            first.setdefault(question.group, at)
    chosen = list(first.values())[:4]
    before = replies_of("pocket", [questions[at] for at in chosen], task)
    rows = [
        (request_of(questions[at]), reply, after.texts[at])
        for at, reply in zip(chosen, before.texts, strict=True)
    ]
    rates = ", ".join(f"{group} {scoring.score(after.hits(group)).rate:.0%}" for group in first)
    TARGET.write_text(picture(rows, f"Right after the course: {rates}."), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(PROJECT)}")


if __name__ == "__main__":
    main()
