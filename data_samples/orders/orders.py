"""Spoken orders of a pizza shop to JSON with four fields, judged by the values of the fields.

The kitchen's program reads `item`, `size`, `count` and `name`. A size that is not said is medium.
The judge finds the object inside a sentence as well; `prefers` wants the object alone, in one line.
"""

import json

from kit.tasks import json_fields, json_object

system = "Write JSON."
train, test = "train.jsonl", "test.jsonl"
validation = 0.1
pairs = "preferences.jsonl"
max_new_tokens = 64

judge = json_fields("item", "size", "count", "name")


def prefers(reply, right):
    """Return whether the reply is right and nothing but the object, in one line without spaces."""
    return judge(reply, right) and reply.strip() == json.dumps(
        json_object(right), ensure_ascii=False, separators=(",", ":")
    )


def kind(reply):
    """Return "bare" (the object alone), "wrapped" (inside other text) or "no object"."""
    if json_object(reply) is None:
        return "no object"
    return "bare" if reply.strip().startswith("{") and reply.strip().endswith("}") else "wrapped"
