"""Check what a row of each kind must look like, and find prompts that two sets of rows share."""

import json
import unicodedata
from typing import NamedTuple

ROLES = ("system", "user", "assistant")
FIELDS = {
    "completion": (("prompt", "completion"), ("text",)),
    "chat": (("messages",),),
    "preferences": (("prompt", "chosen", "rejected"),),
}
NO_TOOLS = "tool calls are not supported"
HINTS = {  # what to do about columns of other formats
    "tools": NO_TOOLS,
    "tool_calls": NO_TOOLS,
    "conversations": "rename conversations to messages, from to role, value to content, human to "
                     "user and gpt to assistant",
    "instruction": "put instruction and input into prompt, and rename output to completion",
    "question": "rename question to prompt and answer to completion",
}
WIDTH = 60  # characters of a value in a message


def named(names) -> str:
    """Return names in one readable line, whatever characters they are made of."""
    text = ", ".join(n if isinstance(n, str) and n.isprintable() else repr(n) for n in names)
    return text if len(text) <= 3 * WIDTH else text[:3 * WIDTH] + "..."


def describe(value) -> str:
    """Return a value in a few words."""
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


def columns_of(row, kind="auto", extra=False):
    """Return (kind, columns) of a row, or None.

    extra: other columns may be there too, but no tools, which would be lost silently.
    """
    columns = set(row)
    for name, forms in FIELDS.items():
        for fields in forms:
            enough = extra and columns >= set(fields) and not columns & {"tools", "tool_calls"}
            if kind in ("auto", name) and (enough or columns == set(fields)):
                return name, fields
    return None


def column_fault(row, kind, extra=False):
    """Return None, or (None, expected, got) for a row whose columns are not those of the kind."""
    if not isinstance(row, dict):
        return None, "an object", describe(row)
    if columns_of(row, kind, extra):
        return None
    forms = [named(fields) for name in FIELDS if kind in ("auto", name) for fields in FIELDS[name]]
    hint = next((f" ({HINTS[name]})" for name in HINTS if name in row), "")
    return (None, f"{'at least' if extra else 'exactly'} {' or '.join(forms)}",
            f"the columns {named(row) or 'none'}{hint}")


def distinct(pairs):
    """Return a dict of JSON fields; refuse a field that is there twice, as the last would win."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {named([twice])} twice")
    return fields


def no_constant(name):
    raise ValueError(name)


def parse(content, field=None):
    """Return (value, None) of JSON in UTF-8, or (None, [fault])."""
    try:
        text = content.decode().rstrip("\r\n")
        return json.loads(text, object_pairs_hook=distinct, parse_constant=no_constant), None
    except json.JSONDecodeError as error:
        reason = f"{error.msg.split(' (')[0]} at character {error.pos + 1}"
    except RecursionError:
        reason = "JSON nested too deep"
    except ValueError as error:  # also an integer of over 4,300 digits
        reason = str(error).split(":")[0]
    return None, [(field, "JSON", reason)]


def faults(row, kind) -> list:
    """Return all defects of a row with good columns as (field, expected, got)."""
    if kind == "chat":
        return list(turn_faults(row["messages"], "messages", "user", "assistant"))
    if kind == "completion":
        return [fault for name in row for fault in text_faults(row[name], name)]
    return list(pair_faults(row))


def pair_faults(row):
    """Yield defects of a preference row: three texts, or three lists of messages."""
    as_messages, clean = isinstance(row["prompt"], list), True
    for name in ("prompt", "chosen", "rejected"):
        role = "user" if name == "prompt" else "assistant"
        if as_messages != isinstance(row[name], list):
            word = "a list of messages" if as_messages else "text"
            defects = [(name, f"{word} as in prompt", describe(row[name]))]
        elif not as_messages:
            defects = list(text_faults(row[name], name))
        else:
            defects = list(turn_faults(row[name], name, role, role))
            if name != "prompt" and not defects and len(row[name]) > 1:  # DPO would train user turns
                defects = [(name, "one message", describe(row[name]))]
        clean = clean and not defects
        yield from defects
    if clean and row["chosen"] == row["rejected"]:
        yield "rejected", "an answer that differs from chosen", "the same answer"
    elif clean and visible(row["chosen"]) == visible(row["rejected"]):
        yield ("rejected", "an answer that differs from chosen",
               "the same answer up to white space at its end or Unicode form")


def visible(answer) -> str:
    """Return an answer without white space at its end, in the Unicode form NFC."""
    return unicodedata.normalize("NFC", texts(answer)[0]).rstrip()


def text_faults(text, field):
    """Yield defects of one text: not text, only white space, half of a surrogate pair."""
    if not isinstance(text, str):
        hint = " (write it as text with json.dumps)" if isinstance(text, dict) else ""
        yield field, "text", describe(text) + hint
    elif not text.strip():
        yield field, "text that is not empty", describe(text)
    elif not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            yield (field, "valid Unicode",
                   f"the lone surrogate {text[error.start]!a} at character {error.start + 1}")


def turn_faults(messages, field, first, last):
    """Yield defects of a list of messages: system (first only), then user and assistant in turn."""
    if not isinstance(messages, list) or not messages:
        yield field, "a list of messages", "an empty list" if messages == [] else describe(messages)
        return
    due, role = {first} | ({"system"} if first == "user" else set()), None
    for number, message in enumerate(messages):
        place = f"{field}[{number}]"
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            hint = f" ({NO_TOOLS})" if isinstance(message, dict) and "tool_calls" in message else ""
            yield place, "an object with exactly role and content", describe(message) + hint
            due, role = set(ROLES), None
            continue
        role = message["role"]
        if role not in ROLES:
            hint = f" ({NO_TOOLS})" if role == "tool" else ""
            yield f"{place}.role", "system, user or assistant", describe(role) + hint
            due = set(ROLES)
        else:
            if role not in due:
                yield f"{place}.role", " or ".join(r for r in ROLES if r in due), describe(role)
            if role != "system" or number == 0:
                due = {"assistant"} if role == "user" else {"user"}
        yield from text_faults(message["content"], f"{place}.content")
    if role in ROLES and role != last:
        yield f"{place}.role", f"{last} in the last message", describe(role)


def texts(value) -> list:
    """Return the texts of a checked row or a part of it, without roles: they follow from the order."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict) and "role" in value:
        return [value["content"]]
    parts = value.values() if isinstance(value, dict) else value
    return [text for part in parts for text in texts(part)]


def levelled(parts) -> tuple:
    """Return texts with case, white space and Unicode form (NFKC) made the same."""
    return tuple(map(level, parts))


def level(text) -> str:
    if text.isascii():  # the same in a fraction of the time
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


class Duplicate(NamedTuple):
    """A row that equals an earlier one, by the lines of both."""

    line: int
    first: int
    exact: bool  # False: equal only after case, white space and Unicode form are levelled


class Leak(NamedTuple):
    """A training row with the prompt of a test row; the lines are those of the files."""

    line: int
    test_line: int
    prompt: str
    exact: bool  # False: equal only after case, white space and Unicode form are levelled


def up_to(exact) -> str:
    """Return how two texts are equal, to be said after "equals"."""
    return "" if exact else " up to case, space and Unicode form"


def prompts_of(row) -> list:
    """Return the user turns up to each answer of a row, shortest first.

    System messages and answers are left out, so another system message does not hide a leak.
    `row`: a row of any kind, or an object with `.messages`.
    """
    row = row if isinstance(row, dict) else {"messages": row.messages}
    prompt = row.get("messages", row.get("prompt", row.get("text")))
    if isinstance(prompt, str):
        return [(prompt,)]
    turns = [message["content"] for message in prompt if message["role"] == "user"]
    return [tuple(turns[:n]) for n in range(1, len(turns) + 1)]


def leakage(rows, questions) -> dict:
    """Return {index of a training row: Leak} of the rows that hold a prompt of the test rows.

    A test row counts by its whole prompt, a training row by the prompt of each of its answers.
    Both are Records or lists; `questions` may also hold objects with `.messages`.
    """
    tests, leaks = {}, {}
    for line, question in zip(lines_of(questions), questions):
        prompt = prompts_of(question)[-1]
        tests.setdefault(levelled(prompt), {}).setdefault(prompt, line)
    for i, (line, row) in enumerate(zip(lines_of(rows), rows)):
        for prompt in prompts_of(row):
            if same := tests.get(levelled(prompt)):
                exact = prompt in same
                leak = Leak(line, same[prompt] if exact else next(iter(same.values())),
                            "\n".join(prompt), exact)
                leaks[i] = leak if exact else leaks.get(i, leak)
    return leaks


def lines_of(rows):
    return getattr(rows, "lines", range(1, len(rows) + 1))
