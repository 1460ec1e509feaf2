"""The command `kit`, or `python -m kit`: check, score, chat, ship, serve, export."""

import argparse
import contextlib
import math
import os
import sys
from pathlib import Path

from kit import chat, export, models, records, runs, scoring, ship, show, tasks
from kit.errors import DataError, KitError, MissingError, SettingsError, exits

HELP = "Each line is a message. /new starts over, /help prints this line, /quit ends."
WARNING = "Replies may be wrong: check what matters before you use it."


def main(argv=None):
    """Run one command; its `--help` lists its flags."""
    words = sys.argv[1:] if argv is None else list(argv)
    with exits():
        if not words or words[0] in ("-h", "--help"):
            lines = [f"  {name:7} {text}" for name, (_, text) in COMMANDS.items()]
            return print("usage: kit COMMAND ...", *lines, sep="\n")
        if words[0] not in COMMANDS:
            raise SettingsError(f"expected one of {', '.join(COMMANDS)}, got {words[0]!r}; see "
                                "kit --help")
        COMMANDS[words[0]][0](words[1:])


def check(argv):
    """Check a task or a file of rows without training."""
    if len(argv) != 1 or argv[0].startswith("-") or argv[0].endswith(records.ENDINGS):
        return records.main(argv)
    task = tasks.load(argv[0])
    print(f"{task.file}: system message {task.system!r}, replies of at most "
          f"{task.max_new_tokens} ids")
    for split in ("train", "validation", "completions", "pairs"):
        with contextlib.suppress(DataError):  # a share of few rows may hold none
            if getattr(task, split):
                rows = tasks.rows(task, split)
                print(f"{split}: {len(rows)} rows of {rows.file}")
    groups = [question.group for question in tasks.questions(task)]
    counts = ", ".join(f"{group} {groups.count(group)}" for group in dict.fromkeys(groups))
    print(f"test: {len(groups)} questions ({counts})")
    print("Every right reply passes the judge, replies of other rows do not, and no test prompt is "
          "in training rows.")


def task_of(name, check=True):
    """Return the task that a run was trained on, or None for a model that is no run."""
    folders = [runs.root() / name, Path(name)]
    folder = next((path for path in folders if (path / "run.json").is_file()), None)
    return folder and tasks.of_run(folder, check=check)


def load(name):
    """Return (model, tokenizer); a base gets a template, so that it can answer before training."""
    model, tokenizer = models.load(name)
    chat.prepare(tokenizer, model)
    return model, tokenizer


def at_least(low, flag, value):
    """Return the value of a flag if it is a finite number of at least `low`."""
    if value is None or math.isfinite(value) and value >= low:
        return value
    raise SettingsError(f"expected a finite number of at least {low}, got {value}; correct it",
                        field=flag)


def talk(argv):
    """Talk with a model. System message and length of a reply are those of its task."""
    parser = argparse.ArgumentParser("kit chat", description=talk.__doc__)
    parser.add_argument("model", help="the name of a run, a model folder or a hub id")
    parser.add_argument("--system", help="the system message (default: that of the run's task)")
    parser.add_argument("--temperature", type=float, default=0.0,
                        help="0 takes the likeliest reply, 1 samples")
    parser.add_argument("--max_new_tokens", type=int,
                        help="most ids of a reply (default: that of the run's task, or 64)")
    options = parser.parse_args(argv)
    at_least(0, "--temperature", options.temperature)
    at_least(1, "--max_new_tokens", options.max_new_tokens)
    task = task_of(options.model, check=False)
    system, limit = (task.system, task.max_new_tokens) if task else ("", 64)
    if options.system is not None:  # the tokenizer refuses bytes that are no UTF-8
        system = os.fsencode(options.system).decode("utf-8", "replace")
    limit = options.max_new_tokens or limit
    model, tokenizer = load(options.model)
    start = messages = [{"role": "system", "content": system}] if system else []
    print(HELP, WARNING, file=sys.stderr)
    for turn, text in enumerate(typed()):
        if text == "/new":
            messages = start
        elif text == "/help":
            print(HELP)
        else:
            messages = reply(model, tokenizer, messages, text, seed=turn, max_new_tokens=limit,
                             temperature=options.temperature)


def reply(model, tokenizer, messages, text, **settings):
    """Print the reply to one message, or why there is none; return the conversation."""
    try:
        turns = scoring.answer(model, tokenizer, messages, text, **settings)
    except KitError as error:
        print(error, file=sys.stderr)
        return messages
    print(turns[-1]["content"], flush=True)
    if len(turns) < len(messages) + 2:
        print("(the oldest turns no longer fit and were left out)", file=sys.stderr)
    return turns


def typed():
    """Yield lines of terminal or pipe that are not empty, until /quit, the end or Ctrl-C."""
    if sys.stdin is None:  # closed by the shell: `kit chat RUN <&-`
        return
    prompt = "> " if sys.stdin.isatty() else ""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while (text := input(prompt).strip()) != "/quit":
            if text:
                yield text


def score(argv):
    """Score models on the questions of a task and compare each with the first."""
    parser = argparse.ArgumentParser("kit score", description=score.__doc__)
    parser.add_argument("model", nargs="+", help="a run, an untrained base, a folder or a hub id")
    parser.add_argument("--task", help="a shipped task, a task file or a file of rows (default: "
                                       "the task of the first run)")
    parser.add_argument("--split", default="test", choices=["test", "validation", "train"])
    parser.add_argument("--max_new_tokens", type=int, help="most ids of a reply (default: the "
                                                           "task's)")
    parser.add_argument("--misses", type=int, default=20, help="wrong replies printed per model")
    options = parser.parse_args(argv)
    limit = at_least(1, "--max_new_tokens", options.max_new_tokens)
    task = tasks.load(options.task) if options.task else next(
        filter(None, map(task_of, options.model)), None)
    if task is None:
        raise MissingError(f"expected a task, got none from {', '.join(options.model)}; "
                           "pass --task")
    questions, limit = tasks.questions(task, options.split), limit or task.max_new_tokens
    results = {}
    for name in options.model:
        results[name] = scoring.evaluate(*load(name), questions, task, max_new_tokens=limit)
        print_misses(name, results[name], options.misses)
    for name, result in results.items():
        if result.cut:
            print(f"{name}: {result.cut} of {len(questions)} replies were cut at {limit} ids; "
                  "raise --max_new_tokens if right replies can be longer")
    print(show.scoreboard({name: result.as_dict() for name, result in results.items()}))
    (first, before), *others = results.items()
    for name, after in others:
        for group in before.groups:
            change = scoring.paired_difference(before.hits(group), after.hits(group))
            place = f"{name} minus {first}, {group}"
            print("{}: {:+.1%}  [{:+.1%}, {:+.1%}]".format(place, *change))


def print_misses(name, result, most):
    """Print the first wrong replies of a model, and how many more there are."""
    wrong = result.misses()
    for q, text in wrong[:most]:
        print(f"{q.place[0]}:{q.place[1]}: {q.messages[-1]['content']!r}: {name} replied "
              f"{text!r}, right is {q.right!r}")
    if len(wrong) > most:
        print(f"{name}: {len(wrong) - most} more wrong replies, --misses {len(wrong)} prints all")


COMMANDS = {
    "check": (check, "check a task or a file of rows without training"),
    "score": (score, "score models on the questions of a task and compare them"),
    "chat": (talk, "talk with a model"),
    "ship": (ship.main, "write a folder that can leave: model, GGUF file, card, checked answers"),
    "serve": (ship.serve_main, "answer over HTTP with a shipped model"),
    "export": (export.main, "write the script of a notebook"),
}
