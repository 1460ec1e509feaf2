"""Check what a row of each kind must look like, and find prompts that two sets of rows share."""

import json
import re
import unicodedata
from collections import Counter
from itertools import count
from typing import NamedTuple

ROLES = ("system", "user", "assistant")
KINDS = ("completion", "chat", "preferences")
FORMS = (
    ("completion", ("prompt", "completion")),
    ("completion", ("text",)),
    ("chat", ("messages",)),
    ("preferences", ("prompt", "chosen", "rejected")),
)
NO_TOOLS = "tool calls are not supported"
SHARE_GPT = (
    "rename conversations, from, value, human, gpt to messages, role, content, user, assistant"
)
HINTS = {  # what to do about the fields of other formats
    "tools": NO_TOOLS,
    "tool_calls": NO_TOOLS,
    "conversations": SHARE_GPT,
    "from": SHARE_GPT,
    "instruction": "put instruction and input into prompt, and rename output to completion",
}
SURROGATE = re.compile("[\ud800-\udfff]")
MAX_ROW = 16_000_000  # bytes; a longer row would take minutes to encode
WIDTH = 60  # characters of a value in a message


def named(names) -> str:
    """Return names in one readable line, and what to do about names of other formats."""
    text = ", ".join(n if isinstance(n, str) and n.isprintable() else repr(n) for n in names)
    hint = next((f" ({HINTS[name]})" for name in HINTS if name in names), "")
    return (text if len(text) <= 3 * WIDTH else text[: 3 * WIDTH] + "...") + hint


def describe(value) -> str:
    """Return a value in a few words."""
    if isinstance(value, str):
        return repr(value[:WIDTH]) + ("..." if len(value) > WIDTH else "")
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object with {named(value) or 'no fields'}"
    word = "" if value is None or isinstance(value, bool) else "the number "
    return word + json.dumps(value)[:WIDTH]


def columns_of(row, kind="auto", extra=False):
    """Return (kind, columns) of a row, or None.

    extra: other columns may be there too, but no tools, which would be lost silently.
    """
    columns = set(row)
    extra = extra and not columns & {"tools", "tool_calls"}
    for name, fields in FORMS:
        other = columns - set(fields)
        if kind in ("auto", name) and columns >= set(fields) and (extra or not other):
            return name, fields
    return None


def column_fault(row, kind, extra=False):
    """Return None, or (None, expected, got) for a row whose columns are not those of the kind."""
    if not isinstance(row, dict):
        return None, "an object", describe(row)
    if columns_of(row, kind, extra):
        return None
    forms = " or ".join(named(fields) for name, fields in FORMS if kind in ("auto", name))
    got = f"the columns {named(row) or 'none'}"
    return None, f"{'at least' if extra else 'exactly'} {forms}", got


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
        size = f"{len(content) / 1e6:.1f} MB"
        return None, [(None, f"a row of at most {MAX_ROW / 1e6:.0f} MB", size)]
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
    """Return all defects of a row with good columns as (field, expected, got)."""
    if kind == "chat":
        return list(turn_faults(row["messages"], "messages", "user", "assistant"))
    if kind == "completion":
        return [fault for name in row for fault in text_faults(row[name], name)]
    return pair_faults(row)


def pair_faults(row):
    """Return defects of a preference row: three texts, or three lists of messages."""
    as_messages, defects = isinstance(row["prompt"], list), []
    for name in ("prompt", "chosen", "rejected"):
        role = "user" if name == "prompt" else "assistant"
        if as_messages != isinstance(row[name], list):
            word = "a list of messages" if as_messages else "text"
            defects.append((name, f"{word} as in prompt", describe(row[name])))
        elif not as_messages:
            defects += text_faults(row[name], name)
        elif role == "assistant" and len(row[name]) != 1:  # DPO would train the user's turns too
            defects.append((name, "one message", describe(row[name])))
        else:
            defects += turn_faults(row[name], name, role, role)
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
    elif not text.isascii() and (lone := SURROGATE.search(text)):
        yield field, "valid Unicode", f"the lone surrogate {lone[0]!a}"


def turn_faults(messages, field, first, last):
    """Yield defects of a list of messages: system (first only), then user and assistant in turn."""
    if not isinstance(messages, list) or not messages:
        yield field, "a list of messages", describe(messages)
        return
    due, role = first, None
    for number, message in enumerate(messages):
        place = f"{field}[{number}]"
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            yield place, "an object with exactly role and content", describe(message)
            due = role = None
            continue
        role, system = message["role"], number == 0 and first == "user"
        if role not in ROLES:
            yield f"{place}.role", "system, user or assistant", describe(role)
            due = None
        else:
            if due and role != due and not (role == "system" and system):
                yield f"{place}.role", "system or user" if system else due, describe(role)
            due = {"user": "assistant", "assistant": "user", "system": due}[role]
        yield from text_faults(message["content"], f"{place}.content")
    if role in ROLES and role != last:
        yield f"{place}.role", f"{last} in the last message", describe(role)


def texts(value) -> list:
    """Return the texts of a checked row, without roles: they follow from the order."""
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

    def __str__(self):
        return f"line {self.line} equals line {self.first}{up_to(self.exact)}"


class Leak(NamedTuple):
    """A training row with the prompt of a test row; the lines are those of the files."""

    line: int
    test_line: int
    prompt: str
    exact: bool  # False: equal only after case, white space and Unicode form are levelled

    def __str__(self):
        return f"line {self.line} has {self.match()}"

    def match(self):
        test = f"the prompt of test row {self.test_line}{up_to(self.exact)}"
        return f"{describe(self.prompt)}, {test}"


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
    """Return {index of a training row: Leak} of the rows that hold a prompt of the test rows.

    A test row counts by its whole prompt, a training row by the prompt of each of its answers.
    Both are Records or lists; `questions` may also hold objects with `.messages`.
    """
    tests, leaks = {}, {}
    for line, question in zip(getattr(questions, "lines", count(1)), questions):
        prompt = prompts_of(question)[-1]
        tests.setdefault(levelled(prompt), {}).setdefault(prompt, line)
    for i, (line, row) in enumerate(zip(getattr(rows, "lines", count(1)), rows)):
        for prompt in prompts_of(row):
            if same := tests.get(levelled(prompt)):
                test_line = same.get(prompt, next(iter(same.values())))
                leak = Leak(line, test_line, "\n".join(prompt), prompt in same)
                leaks[i] = leak if leak.exact else leaks.get(i, leak)
    return leaks
