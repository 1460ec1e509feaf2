"""What an instruct model scores without training: an instruction and solved rows in its prompt.

    make smollm2 && python -m benchmarks.prompted [--task NAME]   # writes results/prompted.json

Lesson 05 prints the record where the model is not installed. The judge is the task's.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from benchmarks.common import machine
from kit import chat, models, scoring, tasks

RESULT = Path(__file__).parent / "results" / "prompted.json"


def few_shot(task, questions, examples):
    """Return the questions with `examples` solved training rows in front of the user's message."""
    turns = []
    for row in list(tasks.rows(task, "completions"))[:examples]:
        turns += [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"]},
        ]
    return [replace(q, messages=[*q.messages[:-1], *turns, q.messages[-1]]) for q in questions]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="cron")
    parser.add_argument("--examples", type=int, nargs="+", default=[0, 5, 20])
    parser.add_argument("--every", type=int, default=1, help="take each such phrase of the test")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    task, scores = tasks.load(options.task), {}
    phrases = tasks.one_turn(task, tasks.questions(task))[:: options.every]
    model, tokenizer = models.load(options.model)
    chat.prepare(tokenizer, model)
    for examples in options.examples:
        questions = few_shot(task, phrases, examples)
        results = scoring.evaluate(model, tokenizer, questions, task, batch_size=32)
        scores[f"{options.model}, {examples} examples"] = results.as_dict()
    record = {"scores": scores, "questions": len(phrases), **machine()}
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
