"""What a row of each kind must look like, and which prompts two sets of rows share."""

import unicodedata
from typing import NamedTuple

ROLES = ("system", "user", "assistant")
FIELDS = {
    "completion": (("prompt", "completion"), ("text",)),
    "chat": (("messages",),),
    "preferences": (("prompt", "chosen", "rejected"),),
}
WIDTH = 60  # characters of a value shown in a message


def named(names) -> str:
    """Names in one readable line, whatever characters they are made of."""
    shown = ", ".join(n if isinstance(n, str) and n.isprintable() else repr(n) for n in names)
    return shown if len(shown) <= 3 * WIDTH else shown[:3 * WIDTH] + "..."


def shown(value) -> str:
    """A value in a few words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object with {named(value) or 'no fields'}"
    if isinstance(value, (int, float)):
        return f"the number {value}"[:WIDTH]
    if isinstance(value, str):
        return repr(value[:WIDTH]) + ("..." if len(value) > WIDTH else "")
    return f"a value of type {type(value).__name__}"


def wanted(kind) -> str:
    """The columns of a kind, or of all kinds, as said in messages."""
    kinds = FIELDS if kind == "auto" else [kind]
    return " or ".join(named(fields) for name in kinds for fields in FIELDS[name])


def kind_of(columns):
    """The kind whose columns these are exactly, or None."""
    return next((kind for kind, forms in FIELDS.items()
                 if any(set(columns) == set(fields) for fields in forms)), None)


def form_of(row) -> str:
    """What must be the same in all rows of a file: the columns, and text or messages."""
    as_messages = isinstance(row.get("prompt"), list)
    return named(sorted(row)) + (" as messages" if as_messages else "")


def column_fault(columns, kind, ignore=()):
    """None, or (None, expected, came) for columns that are not exactly those of the kind."""
    columns = [name for name in columns if name not in ignore]
    if len(set(columns)) != len(columns):
        return None, "each column once", f"the columns {named(columns)}"
    if kind_of(columns) in ([kind] if kind != "auto" else FIELDS):
        return None
    hint = " (tool calls are not supported)" if {"tools", "tool_calls"} & set(columns) else ""
    return None, f"exactly {wanted(kind)}", f"the columns {named(columns) or 'none'}{hint}"


def faults(row, kind, allow_last_user=False) -> list:
    """All defects of a row as (field, expected, came); [] for a row that can be trained on."""
    if not isinstance(row, dict):
        return [(None, "an object", shown(row))]
    if fault := column_fault(row, kind):
        return [fault]
    if kind == "chat":
        return list(turn_faults(row["messages"], "messages", "user", allow_last_user))
    if kind == "completion":
        return [fault for name in row for fault in text_faults(row[name], name)]
    return list(pair_faults(row))


def pair_faults(row):
    """Defects of a preference row: three texts, or three lists of messages."""
    kind_of_prompt = list if isinstance(row["prompt"], list) else str
    word = "a list of messages" if kind_of_prompt is list else "text"
    clean = True
    for name in FIELDS["preferences"][0]:
        if kind_of_prompt is list and isinstance(row[name], list):
            found = list(turn_faults(row[name], name, "user" if name == "prompt" else "assistant",
                                     last="user" if name == "prompt" else "assistant"))
            if name != "prompt" and not found and len(row[name]) > 1:  # DPO would train the user's turns too
                found = [(name, "one message", shown(row[name]))]
        elif kind_of_prompt is list or (name != "prompt" and isinstance(row[name], list)):
            found = [(name, f"{word} as in prompt", shown(row[name]))]
        else:
            found = list(text_faults(row[name], name))
        clean = clean and not found
        yield from found
    if clean and row["chosen"] == row["rejected"]:
        yield "rejected", "an answer that differs from chosen", "the same answer"


def text_faults(text, field):
    """Defects of one text: not text, nothing but white space, half of a surrogate pair."""
    if not isinstance(text, str):
        yield field, "text", shown(text)
    elif not text.strip():
        yield field, "text that is not empty", shown(text)
    elif not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            yield (field, "valid Unicode",
                   f"the lone surrogate {text[error.start]!a} at character {error.start + 1}")


def turn_faults(messages, field, first, allow_last_user=False, last="assistant"):
    """Defects of a list of messages: system (first only), then user and assistant in turn."""
    if not isinstance(messages, list) or not messages:
        yield field, "a list of messages", "an empty list" if messages == [] else shown(messages)
        return
    due, role = {first} | ({"system"} if first == "user" else set()), None
    for number, message in enumerate(messages):
        where = f"{field}[{number}]"
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            yield where, "an object with exactly role and content", shown(message)
            due, role = set(ROLES), None
            continue
        role = message["role"]
        if role not in ROLES:
            yield f"{where}.role", "system, user or assistant", shown(role)
            due = set(ROLES)
        else:
            if role not in due:
                yield f"{where}.role", " or ".join(r for r in ROLES if r in due), shown(role)
            if role != "system" or number == 0:
                due = {"assistant"} if role == "user" else {"user"}
        yield from text_faults(message["content"], f"{where}.content")
    if role in ROLES and role != last and not (allow_last_user and role == "user"):
        yield f"{where}.role", f"{last} in the last message", shown(role)


def characters(row) -> int:
    """Characters of all texts of a row."""
    if isinstance(row, dict):
        return sum(characters(value) for name, value in row.items() if name != "role")
    return len(row) if isinstance(row, str) else sum(map(characters, row))


class Leak(NamedTuple):
    """A prompt of the evaluation rows that training rows hold too; lines are those of the files."""

    evaluation_line: int
    train_line: int
    prompt: str
    exact: bool  # False: equal only after case, white space and Unicode form are levelled


class Duplicate(NamedTuple):
    """A row that an earlier one equals, by the lines of both."""

    line: int
    first: int
    exact: bool  # False: equal only after case, white space and Unicode form are levelled


def alike(exact) -> str:
    """How two texts are the same, as said after "equals"."""
    return "" if exact else " but for case, space or Unicode form"


def levelled(text) -> str:
    """NFKC, case folded, white space runs as one space: texts a reader takes for the same."""
    if text.isascii():  # the same in a fraction of the time
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def levelled_row(value):
    """A row, or a part of one, with every text levelled."""
    if isinstance(value, str):
        return levelled(value)
    if isinstance(value, dict):
        return {name: levelled_row(part) for name, part in value.items()}
    return [levelled_row(part) for part in value]


def prompts_of(row) -> list:
    """What the model is asked in a row, shortest first: the user turns up to each answer.

    System messages and answers are left out, so another system prompt does not hide a leak.
    """
    asked = row.get("messages", row.get("prompt", row.get("text")))
    if isinstance(asked, str):
        return [(asked,)]
    turns = [message["content"] for message in asked if message["role"] == "user"]
    return [tuple(turns[:n]) for n in range(1, len(turns) + 1)]


def leakage(train, evaluation) -> list:
    """Leaks of evaluation prompts into training rows, in order of the evaluation rows.

    An evaluation row counts by its whole prompt, a training row by the prompt of each answer.
    Both are Records or lists of rows.
    """
    found = {}
    for i, leak in shared_prompts(train, evaluation):
        if i not in found or (leak.exact and not found[i].exact):
            found[i] = leak
    return [found[i] for i in sorted(found)]


def shared_prompts(train, evaluation):
    """(index of the evaluation row, Leak) of every prompt that a training row shares with one."""
    def place(rows, i):
        return rows.line(i) if hasattr(rows, "line") else i + 1

    asked = {}
    for i, row in enumerate(evaluation):
        prompt = prompts_of(row)[-1]
        asked.setdefault(tuple(map(levelled, prompt)), []).append((i, prompt))
    for j, row in enumerate(train):
        for prompt in prompts_of(row):
            for i, original in asked.get(tuple(map(levelled, prompt)), ()):
                yield i, Leak(place(evaluation, i), place(train, j), "\n".join(original),
                              prompt == original)


def leaked_rows(train, evaluation) -> dict:
    """{index of a training row: its fault} of the rows that hold a prompt of the evaluation rows."""
    lines = {line: i for i, line in enumerate(train.lines)}
    faults = {}
    for _, leak in shared_prompts(train, evaluation):
        faults.setdefault(lines[leak.train_line], (
            None, "no prompt of the evaluation rows",
            f"{shown(leak.prompt)}{alike(leak.exact)} of evaluation row {leak.evaluation_line}"))
    return faults
