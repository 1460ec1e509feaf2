"""The command `kit`: check, train, score, chat, ship, serve, export. `python -m kit` is the same."""

import argparse
import difflib
import json
import math
import runpy
import sys
from pathlib import Path

from kit import chat, export, models, records, runs, scoring, show, tasks
from kit.errors import KitError, MissingError, SettingsError, exits

SCRIPTS = Path(__file__).parents[1] / "scripts"
LISTED = 20  # wrong replies that are printed; --jsonl has all
HELP = "A line is a message. /new starts a new conversation, /help prints this, /quit ends."
WARNING = "Replies may be wrong: check what matters before you use it."


def main(argv=None):
    """Run one command; its `--help` lists its flags."""
    words = sys.argv[1:] if argv is None else list(argv)
    with exits():
        if not words or words[0] in ("-h", "--help"):
            width = max(map(len, COMMANDS))
            return print("usage: kit COMMAND ...", *(f"  {name:{width}}  {command.__doc__.splitlines()[0]}"
                                                    for name, command in COMMANDS.items()), sep="\n")
        if words[0] not in COMMANDS:
            close = difflib.get_close_matches(words[0], COMMANDS, n=1)
            raise SettingsError(f"expected one of {', '.join(COMMANDS)}, got {words[0]!r}; "
                                f"{f'did you mean kit {close[0]}?' if close else 'see kit --help'}")
        COMMANDS[words[0]](words[1:])


def check(argv):
    """Check a task or a file of rows without training."""
    if any(word.endswith(records.ENDINGS) for word in argv[:1]) or len(argv) != 1 or argv[0].startswith("-"):
        return records.main(argv)
    task = tasks.load(argv[0])
    tests = tasks.questions(task)
    groups = {name: sum(q.group == name for q in tests) for name in dict.fromkeys(q.group for q in tests)}
    print(f"{task.file}: system message {task.system!r}, replies of at most {task.max_new_tokens} ids")
    for split in ("train", "validation", *(name for name in ("completions", "pairs") if getattr(task, name))):
        rows = tasks.rows(task, split)
        print(f"{split}: {len(rows)} rows of {rows.file}")
    print(f"test: {len(tests)} questions ({', '.join(f'{name} {n}' for name, n in groups.items())})")
    print("Every right reply passes the judge, replies of other rows do not, and no test prompt is in training rows.")


def train(argv):
    """Run the script of a lesson, for example `kit train sft_chat --task mine.py`."""
    names = sorted(file.stem for file in SCRIPTS.glob("*.py"))
    if not argv or argv[0] not in names:
        raise SettingsError(f"expected a lesson out of {', '.join(names)}, got {argv[0] if argv else 'none'}; name one")
    sys.argv = [str(SCRIPTS / f"{argv[0]}.py"), *argv[1:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def task_of(name, chosen=None, check=True):
    """Return the chosen task, or the one that a run was trained on; None for a model without a task."""
    if chosen:
        return tasks.load(chosen, check=check)
    folder = runs.root() / name
    return tasks.of_run(folder, check=check) if (folder / "run.json").is_file() else None


def load(name, task=None):
    """Return (model, tokenizer); a base gets a template, so that it can be asked before any training."""
    model, tokenizer = models.load(name)
    chat.prepare(tokenizer, model)
    return model, tokenizer


def talk(argv):
    """Talk with a model; the system message and the length of a reply are those of its task."""
    parser = argparse.ArgumentParser("kit chat", description=talk.__doc__)
    parser.add_argument("model", help="the name of a run, a model folder or a hub id")
    parser.add_argument("--system", help="the system message (default: that of the run's task)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest reply, 1 samples")
    parser.add_argument("--max_new_tokens", type=int, help="most ids of a reply (default: that of the run's task, or 64)")
    options = parser.parse_args(argv)
    if not (math.isfinite(options.temperature) and options.temperature >= 0):
        raise SettingsError(f"expected a number of at least 0, got {options.temperature}; 0 takes the likeliest reply",
                            field="--temperature")
    task = task_of(options.model, check=False)
    system = (task.system if task else "") if options.system is None else options.system
    limit = (task.max_new_tokens if task else 64) if options.max_new_tokens is None else options.max_new_tokens
    if limit < 1:
        raise SettingsError(f"expected at least 1, got {limit}; choose how many ids a reply may have", field="--max_new_tokens")
    model, tokenizer = load(options.model)
    start = messages = [{"role": "system", "content": system}] if system else []
    print(f"{HELP} {WARNING}", file=sys.stderr)
    for turn, text in enumerate(typed("> " if sys.stdin.isatty() else "")):
        if text == "/new":
            messages = start
        elif text == "/help":
            print(HELP)
        else:
            messages = _reply(model, tokenizer, messages, text, max_new_tokens=limit, temperature=options.temperature, seed=turn)


def _reply(model, tokenizer, messages, text, **options):
    """Print the reply to one message, or why there is none; return the conversation."""
    try:
        turns = scoring.answer(model, tokenizer, messages, text, **options)
    except KitError as error:
        print(error, file=sys.stderr)
        return messages
    print(turns[-1]["content"], flush=True)
    if len(turns) < len(messages) + 2:
        print("(the oldest turns no longer fit and were left out)", file=sys.stderr)
    return turns


def typed(prompt):
    """Yield the lines of the terminal or a pipe that are not empty, until /quit, the end of the input or Ctrl-C."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    while True:
        try:
            text = input(prompt).replace("\0", "\ufffd").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if text == "/quit":
            return
        if text:
            yield text


def score(argv):
    """Score models on the questions of a task and compare each with the first."""
    parser = argparse.ArgumentParser("kit score", description=score.__doc__)
    parser.add_argument("model", nargs="+", help="a run, an untrained base, a model folder or a hub id")
    parser.add_argument("--task", help="a shipped task, a task file or a file of rows (default: that of the first run)")
    parser.add_argument("--split", default="test", choices=["test", "validation", "train"])
    parser.add_argument("--max_new_tokens", type=int, help="most ids of a reply (default: that of the task)")
    parser.add_argument("--separator", help="ask for a completion of question + SEPARATOR, as lesson 02 trains it")
    parser.add_argument("--jsonl", action="store_true", help="one JSON object per question on standard output")
    options = parser.parse_args(argv)
    task = next(filter(None, (task_of(name, options.task) for name in options.model)), None)
    if task is None:
        raise MissingError(f"expected a task, got none from {', '.join(options.model)}; pass --task")
    questions, out = tasks.questions(task, options.split), sys.stderr if options.jsonl else sys.stdout
    if options.separator is not None:  # a completion has one question and no turns before it
        questions = [q for q in questions if sum(m["role"] != "system" for m in q.messages) == 1]
    length = {"max_new_tokens": options.max_new_tokens} if options.max_new_tokens else {}
    results = {}
    for name in options.model:
        model, tokenizer = load(name)
        results[name] = scoring.evaluate(model, tokenizer, questions, task, separator=options.separator, **length)
        _report(name, results[name], length.get("max_new_tokens", task.max_new_tokens), options.jsonl, out)
    print(show.scoreboard({name: r.as_dict() for name, r in results.items()}), file=out)
    print(*comparison(results), sep="\n", end="\n" * (len(results) > 1), file=out)


def _report(name, results, limit, jsonl, out):
    """Print the wrong replies of a model and how many were cut, or each reply as JSON."""
    misses = results.misses()
    if jsonl:
        for q, text, correct in zip(results.questions, results.texts, results.correct, strict=True):
            print(json.dumps({"model": name, "messages": q.messages, "reply": text, "right": q.right, "correct": correct,
                              "group": q.group, "place": list(q.place)}, ensure_ascii=False))
    for q, text in [] if jsonl else misses[:LISTED]:
        print(f"{q.place[0]}:{q.place[1]}: {name} replied {text!r} to {q.messages[-1]['content']!r}, right is {q.right!r}")
    if len(misses) > LISTED and not jsonl:
        print(f"{name}: {len(misses) - LISTED} more wrong replies, --jsonl prints all")
    if results.cut:
        print(f"{name}: {results.cut} of {len(results.texts)} replies were cut at {limit} ids; raise --max_new_tokens if "
              "right replies are longer", file=out)


def comparison(results):
    """Yield one line per group: each further model minus the first, with the paired interval."""
    (first, before), *others = results.items()
    for name, after in others:
        for group in before.groups:
            change = scoring.paired_difference(before.hits(group), after.hits(group))
            yield "{} minus {}, {}: {:+.1%}  [{:+.1%}, {:+.1%}]".format(name, first, group, *change)


def ship(argv):
    """Write a folder that can leave: model, GGUF file, card, and the check that it answers the same."""
    from kit import ship

    ship.main(argv)


def serve(argv):
    """Answer over HTTP with a shipped model."""
    from kit import ship

    ship.serve_main(argv)


def export_scripts(argv):
    """Write the script of a notebook."""
    export.main(argv)


COMMANDS = {"check": check, "train": train, "score": score, "chat": talk, "ship": ship, "serve": serve,
            "export": export_scripts}
