"""Check what a row of each kind must look like, and find prompts that two sets of rows share."""

import json
import re
import reprlib
import unicodedata
from collections import Counter
from itertools import count
from typing import NamedTuple

KINDS = ("completion", "chat", "preferences")
FORMS = (("completion", ("prompt", "completion")), ("completion", ("text",)),
         ("chat", ("messages",)), ("preferences", ("prompt", "chosen", "rejected")))
NO_TOOLS = "tool calls are not supported"
SHARE_GPT = ("rename conversations, from, value, human, gpt to messages, role, content, user, "
             "assistant")
HINTS = {  # what to do about the fields of other formats
    "tools": NO_TOOLS, "tool_calls": NO_TOOLS, "conversations": SHARE_GPT, "from": SHARE_GPT,
    "instruction": "put instruction and input into prompt, and rename output to completion"}
SURROGATE = re.compile("[\ud800-\udfff]")
MAX_ROW = 16_000_000  # bytes; a longer row would take minutes to encode
WIDTH = 60  # characters of a value in a message
_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = WIDTH
_shortener.maxlevel = 2
describe = _shortener.repr  # a value in a few words


def named(names) -> str:
    """Return names in one readable line, and what to do about names of other formats."""
    text = ", ".join(n if isinstance(n, str) and n.isprintable() else repr(n) for n in names)
    hint = next((f" ({HINTS[name]})" for name in HINTS if name in names), "")
    return (text if len(text) <= 3 * WIDTH else text[: 3 * WIDTH] + "...") + hint


def form_of(row, kind="auto"):
    """Return (kind, columns, None) of a row, or (None, None, (None, expected, got)).

    Other columns may be there too, but no tools, which would be lost silently.
    """
    if not isinstance(row, dict):
        return None, None, (None, "an object", describe(row))
    forms = [form for form in FORMS if kind in ("auto", form[0])]
    for name, columns in forms:
        if set(columns) <= set(row) and not {"tools", "tool_calls"} & set(row):
            return name, columns, None
    expected = " or ".join(named(columns) for _, columns in forms)
    return None, None, (None, f"the columns {expected}", f"the columns {named(row) or 'none'}")


def distinct(pairs):
    """Return a dict of JSON fields; refuse a field that is there twice, as the last would win."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the field {named([twice])} twice")
    return fields


def parse(content):
    """Return (value, None) of JSON in UTF-8, or (None, [fault])."""
    if len(content) > MAX_ROW:
        return None, [(None, f"a row of at most {MAX_ROW / 1e6:.0f} MB",
                       f"{len(content) / 1e6:.1f} MB")]
    try:
        return json.loads(content.decode().rstrip("\r\n"), object_pairs_hook=distinct), None
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()[-20:]
        return None, [(None, "UTF-8", f"the byte 0x{content[error.start]:02x} after {before!r}")]
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos + 1}"
    except (ValueError, RecursionError) as error:  # also an integer of over 4,300 digits
        reason = str(error).split(":")[0]
    return None, [(None, "JSON", reason)]


def faults(row, kind) -> list:
    """Return the defects of a row with good columns as (field, expected, got)."""
    if kind == "preferences":
        return pair_faults(row)
    if kind == "chat":
        return list(turn_faults(row["messages"], "messages", "user", "assistant"))
    return [fault for name in row for fault in text_faults(row[name], name)]


def pair_faults(row):
    """Return defects of a preference row: three texts, or three lists of messages."""
    as_messages, defects = isinstance(row["prompt"], list), []
    for name, value in row.items():
        role = "user" if name == "prompt" else "assistant"
        if as_messages != isinstance(value, list):
            word = "a list of messages" if as_messages else "text"
            defects.append((name, f"{word} as in prompt", describe(value)))
        elif not as_messages:
            defects += text_faults(value, name)
        elif role == "assistant" and len(value) != 1:  # DPO would train the user's turns too
            defects.append((name, "one message", describe(value)))
        else:
            defects += turn_faults(value, name, role, role)
    if not defects and visible(row["chosen"]) == visible(row["rejected"]):
        same = "the same answer (up to white space at its end and Unicode form)"
        defects.append(("rejected", "an answer that differs from chosen", same))
    return defects


def visible(answer) -> str:
    """Return the text of an answer without white space at its end, in the Unicode form NFC."""
    return unicodedata.normalize("NFC", texts(answer)[0]).rstrip()


def text_faults(text, field):
    """Yield defects of one text: not text, only white space, half of a surrogate pair."""
    if not isinstance(text, str):
        hint = " (write it as text with json.dumps)" if isinstance(text, dict) else ""
        yield field, "text", describe(text) + hint
    elif not text.strip():
        yield field, "text that is not empty", describe(text)
    elif lone := SURROGATE.search(text):
        yield field, "valid Unicode", f"the lone surrogate {lone[0]!a}"


def turn_faults(messages, field, first, last):
    """Yield defects of a list of messages, up to the first message that is out of turn.

    Roles are user and assistant in turn from `first` to `last`. A conversation that starts with the
    user may have a system message in front.
    """
    if not isinstance(messages, list) or not messages:
        yield field, "a list of messages", describe(messages)
        return
    due, options = first, "system or user" if first == "user" else first
    for number, message in enumerate(messages):
        place = f"{field}[{number}]"
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            got = f"the fields {named(message)}" if isinstance(message, dict) else describe(message)
            yield place, "an object with exactly role and content", got
            return
        yield from text_faults(message["content"], f"{place}.content")
        role = message["role"]
        if role != due and (role != "system" or options != "system or user"):
            yield f"{place}.role", options, describe(role)
            return
        due = options = "assistant" if role == "user" else "user"
    if role != last:
        yield f"{place}.role", f"{last} in the last message", describe(role)


def texts(value) -> list:
    """Return the texts of a checked row, without roles: they follow from the order."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [value["content"]]
    return [text for part in value for text in texts(part)]


def levelled(parts) -> tuple:
    """Return texts with case, white space and Unicode form (NFKC) made the same."""
    return tuple(map(level, parts))


def level(text) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


class Duplicate(NamedTuple):
    """A row that equals an earlier one, by the lines of both."""

    line: int
    first: int
    exact: bool  # False: equal only after case, white space and Unicode form are levelled

    def __str__(self):
        return f"line {self.line} equals line {self.first}{up_to(self.exact)}"


def up_to(exact) -> str:
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
    """Return {index: (None, expected, got)} of the training rows with a prompt of the test rows.

    A test row counts by its whole prompt, a training row by the prompt of each of its answers.
    Both are Records or lists; `questions` may also hold objects with `.messages`.
    """
    lines_of, faults = {}, {}  # lines_of: {levelled prompt: {prompt: line of the test row}}
    for line, question in zip(getattr(questions, "lines", count(1)), questions):
        prompt = prompts_of(question)[-1]
        lines_of.setdefault(levelled(prompt), {}).setdefault(prompt, line)
    for i, row in enumerate(rows):
        for prompt in prompts_of(row):
            if lines := lines_of.get(levelled(prompt)):
                line = lines.get(prompt) or next(iter(lines.values()))
                got = f"the prompt of test row {line}{up_to(prompt in lines)}"
                got = f"{describe(chr(10).join(prompt))}, {got}"
                faults[i] = None, "no prompt of the test rows", got
    return faults
