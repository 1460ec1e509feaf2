"""The commands `python -m kit.chat` and `python -m kit.scoring`: talk with a model, compare models."""

import argparse
import json
import sys

from kit import chat, models, runs, schedules, scoring, show
from kit.errors import DataError, SettingsError


def load(name):
    """(model, tokenizer) of a run's name, a folder or a hub id; raises SettingsError when it knows no role tokens."""
    run = runs.root() / name / "model"
    model, tokenizer = models.load(run if run.is_dir() else name)
    chat.check_tokenizer(tokenizer, model)
    return model, tokenizer


def answer(model, tokenizer, messages, text, *, max_new_tokens=48, temperature=0.0, seed=0):
    """`messages` with the user's `text` and the model's reply; raises SettingsError when `text` alone is too long.

    Where the conversation no longer fits the model's positions, its oldest turns after the system message go.
    """
    fixed, turns = messages[:1], [*messages[1:], {"role": "user", "content": text}]
    room = model.config.max_position_embeddings - max_new_tokens
    while len(ids := chat.encode(tokenizer, [*fixed, *turns], reply_next=True).input_ids) > room:
        if len(turns) == 1:
            raise SettingsError(f"a message of at most {room} ids was expected, {len(ids)} came; shorten it")
        turns = turns[2:]
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    reply, = scoring.generate(model, tokenizer, [ids], **options)
    return [*fixed, *turns, {"role": "assistant", "content": reply}]


def talk(arguments=None):
    """Talk with a chat model in the terminal; a line from a pipe is a message too."""
    parser = argparse.ArgumentParser("python -m kit.chat", description=talk.__doc__)
    parser.add_argument("model", help="the name of a run, a model folder or a hub id")
    parser.add_argument("--system", default=schedules.SYSTEM, help="the system message (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest reply, 1 samples")
    parser.add_argument("--max_new_tokens", type=int, default=48, help="most ids of a reply")
    given = parser.parse_args(arguments)
    model, tokenizer = load(given.model)
    typing = sys.stdin.isatty()
    if typing:
        print("A message a line. /new starts over, /quit or Ctrl-D ends.")
    start = messages = [{"role": "system", "content": given.system}]
    for turn, text in enumerate(typed("> " if typing else "")):
        if text == "/new":
            messages = start
        elif text:
            before = len(messages)
            messages = answer(model, tokenizer, messages, text, max_new_tokens=given.max_new_tokens,
                              temperature=given.temperature, seed=turn)
            print(messages[-1]["content"], flush=True)
            if typing and len(messages) < before + 2:
                print("(the oldest turns no longer fit and were left out)")


def typed(prompt):
    """Lines of the terminal or a pipe until /quit, the end of the input or Ctrl-C."""
    while True:
        try:
            text = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            text = "/quit"
        if text == "/quit":
            return
        yield text


def score(arguments=None):
    """Score chat models on the course's questions or on your own phrases, and compare each with the first."""
    parser = argparse.ArgumentParser("python -m kit.scoring", description=score.__doc__)
    parser.add_argument("model", nargs="+", help="the name of a run, a model folder or a hub id")
    parser.add_argument("--test", default="data_samples/cron/test.jsonl", help="conversations with what is right (JSONL)")
    parser.add_argument("--phrases", help="your phrases instead: a line is phrase, tab, right reply; prints each miss")
    parser.add_argument("--separator", help="ask for a completion of phrase + SEPARATOR, as lesson 02 trains it")
    parser.add_argument("--jsonl", action="store_true", help="a line a question: model, prompt, reply, right, correct")
    given = parser.parse_args(arguments)
    questions = scoring.read_questions(schedules, None if given.phrases else given.test,
                                       given.phrases or "data_samples/cron/phrases_by_hand.tsv")
    if given.separator is not None:
        questions = [q for q in questions if q.facts["kind"] == schedules.KINDS[0]]
    if not questions:
        raise DataError("at least one question was expected, none came", file=given.phrases or given.test)
    results = {}
    for name in given.model:
        results[name] = ask(name, questions, given.separator)
        tell(name, results[name], given)
    lines = [*comparison(results)] if given.phrases else [show.scoreboard({n: r.as_dict() for n, r in results.items()}),
                                                          *comparison(results)]
    for line in lines:
        print(line, file=sys.stderr if given.jsonl else sys.stdout)


def ask(name, questions, separator):
    """Results of a model's greedy replies, or completions where there is a separator."""
    model, tokenizer = load(name)
    if separator is None:
        return scoring.evaluate(model, tokenizer, questions, schedules)
    prompts = [q.messages[-1]["content"] + separator for q in questions]
    return scoring.judged(questions, scoring.completions(model, tokenizer, prompts), schedules)


def tell(name, results, given):
    """One model's lines: all replies as JSON, or the score on a user's phrases and each miss."""
    out = sys.stderr if given.jsonl else sys.stdout
    if given.jsonl:
        for q, text, verdict in zip(results.questions, results.texts, results.verdicts, strict=True):
            print(json.dumps({"model": name, "prompt": q.messages, "reply": text, "right": q.facts,
                              "correct": verdict.correct}, ensure_ascii=False))
    if given.phrases:
        for q, text, _ in results.misses():
            right = [value for value in q.facts.values() if value][-1]
            print(f"miss: {q.messages[-1]['content']!r} -> {text!r}, right: {right}", file=out)
        print(f"{name}: accuracy {scoring.score(results.hits(None))}", file=out)


def comparison(results):
    """A line a group: each further model minus the first, with the paired interval."""
    (first, before), *others = results.items()
    for name, after in others:
        for group in before.groups:
            found = scoring.paired_difference(before.hits(group), after.hits(group))
            yield "{} minus {}, {}: {:+.1%}  [{:+.1%}, {:+.1%}]".format(name, first, group, *found)
