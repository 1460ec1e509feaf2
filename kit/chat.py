"""Role tokens, the chat template, and the one way from messages to ids and loss mask.

Derived by hand in lesson 01 (tokens, template) and lesson 03 (loss mask). Training, DPO and generation all call
`encode`, so text inside a message can never become a control token: each content is encoded by a copy of the
tokenizer whose table of added tokens is empty. `split_special_tokens=True` of transformers covers special tokens
only; a base such as Qwen also has added tokens that are not special.

`python -m kit.chat MODEL` talks with a model, see kit.cli.
"""

import copy
import functools
import json
import sys
import weakref
from dataclasses import dataclass

from kit import embeddings
from kit.errors import DataError, SettingsError, exit_code

ROLES = ("system", "user", "assistant")
ROLE_TOKENS = {role: f"<{role}>" for role in ROLES}
END = "<end>"
CONTROL_TOKENS = (*ROLE_TOKENS.values(), END)
PIECE = 1024  # texts given to the tokenizer at once
IGNORED = -100  # the label that torch's cross-entropy and TRL skip

TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception("role must be system, user or assistant, got " + message['role']) -}}
{%- endif -%}
{{- '<' + message['role'] + '>' -}}
{%- if message['role'] == 'assistant' -%}
{% generation %}{{- message['content'] + '<end>' -}}{% endgeneration %}
{%- else -%}
{{- message['content'] -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}"""

_plain_copies = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Encoded:
    """One example: `input_ids` and `loss_mask` (1 = trained), both of length `time`."""

    input_ids: list[int]
    loss_mask: list[int]

    @property
    def labels(self):
        return [i if m else IGNORED for i, m in zip(self.input_ids, self.loss_mask, strict=True)]


def add_role_tokens(tokenizer, model=None):
    """Give `tokenizer` the three role tokens, the stop token and the template; a second call changes nothing.

    With `model`, each new token also gets an embedding row (and an output row where the two are not tied): the mean
    row plus noise with the spread of the old rows, scaled to their median norm, so that no two new tokens start
    equal. transformers' own resize draws rows that differ by about 1e-6, and LoRA then never separates them.
    Returns the number of tokens that were new to the tokenizer.
    """
    known = set(tokenizer.get_added_vocab())
    new = [t for t in CONTROL_TOKENS if t not in known]
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        # A pad that is also the stop token would hide the stop token from the loss.
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    if set(CONTROL_TOKENS) - set(tokenizer.all_special_tokens):  # new, or a base's own that it does not call special
        tokenizer.add_special_tokens({"additional_special_tokens": list(CONTROL_TOKENS)}, False)
    tokenizer.eos_token = END
    tokenizer.chat_template = TEMPLATE
    if model is not None:
        embeddings.fit(model, len(tokenizer), tokenizer.convert_tokens_to_ids(new))
        model.config.pad_token_id = tokenizer.pad_token_id
        model.config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        for bos_holder in (model.config, model.generation_config):
            bos_holder.bos_token_id = tokenizer.bos_token_id
    check_tokenizer(tokenizer, model)
    return len(new)


def check_tokenizer(tokenizer, model=None):
    """Raise SettingsError unless each control token is one special id, the stop token is eos, and pad is its own id.

    With `model`: every id of the tokenizer has a row in both tables, nearly every row an id (bases pad their tables by
    a few in a hundred), and the control rows are pairwise distinct.
    """
    vocabulary, special = tokenizer.get_added_vocab(), set(tokenizer.all_special_ids)
    for token in CONTROL_TOKENS:
        if token not in vocabulary or tokenizer.encode(token, add_special_tokens=False) != [vocabulary[token]]:
            raise SettingsError(f"the tokenizer must hold {token} as one token, it does not; run lesson 01, or call "
                                "kit.chat.add_role_tokens(tokenizer, model)")
        if vocabulary[token] not in special:
            raise SettingsError(f"{token} must be a special token; call kit.chat.add_role_tokens(tokenizer, model)")
    if tokenizer.eos_token != END or tokenizer.pad_token in (None, *CONTROL_TOKENS):
        raise SettingsError(f"eos must be {END} and pad a token of its own, got eos {tokenizer.eos_token!r} and pad "
                            f"{tokenizer.pad_token!r}; call kit.chat.add_role_tokens(tokenizer, model)")
    if model is not None:
        embeddings.check(model, len(tokenizer), [vocabulary[t] for t in CONTROL_TOKENS])


def _plain(tokenizer):
    """The tokenizer's own model without any added token: what turns text into ids, never into control ids."""
    if tokenizer not in _plain_copies:
        from tokenizers import Tokenizer

        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["added_tokens"], state["post_processor"] = [], None
        state["padding"] = state["truncation"] = None
        _plain_copies[tokenizer] = Tokenizer.from_str(json.dumps(state))
    return _plain_copies[tokenizer]


@functools.cache
def _numbers(size):
    """The integers below `size`, each once: a list of ids then takes 8 bytes an id instead of 40."""
    return list(range(size))


def encode_text(tokenizer, texts):
    """Ids of each of `texts`, as text only: control tokens spelled out inside come out as ordinary pieces.

    Texts are encoded in pieces, because what the tokenizer keeps of a text beside its ids is many times as large; a
    text that stands twice in a piece, such as a system message, is encoded once.
    """
    plain, texts, found = _plain(tokenizer), list(texts), []
    numbers = _numbers(plain.get_vocab_size())
    for at in range(0, len(texts), PIECE):
        piece = texts[at : at + PIECE]
        distinct = list(dict.fromkeys(piece))
        encodings = plain.encode_batch_fast(distinct, add_special_tokens=False)
        ids = {text: [numbers[i] for i in e.ids] for text, e in zip(distinct, encodings, strict=True)}
        found += [ids[text] for text in piece]
    return found


def encode_chats(tokenizer, conversations, *, reply_next=False):
    """Encode many conversations in one pass over the tokenizer. See `encode`."""
    ids = {role: tokenizer.convert_tokens_to_ids(token) for role, token in ROLE_TOKENS.items()}
    end = tokenizer.convert_tokens_to_ids(END)
    for messages in conversations:
        for message in messages:
            if message["role"] not in ids:
                raise DataError(f"role must be one of {', '.join(ROLES)}, got {message['role']!r}", field="role")
    contents = iter(encode_text(tokenizer, [m["content"] for messages in conversations for m in messages]))
    encoded = []
    for messages in conversations:
        input_ids, loss_mask = [], []
        for message in messages:
            content, role = next(contents), message["role"]
            input_ids.append(ids[role])
            input_ids += content
            if role == "assistant":
                input_ids.append(end)
                loss_mask += [0] + [1] * (len(content) + 1)
            else:
                loss_mask += [0] * (len(content) + 1)
        if reply_next:
            input_ids, loss_mask = [*input_ids, ids["assistant"]], [*loss_mask, 0]
        encoded.append(Encoded(input_ids, loss_mask))
    return encoded


def encode(tokenizer, messages, *, reply_next=False):
    """Encode `messages` ([{role, content}, ...]): each turn is [role id] + text, an assistant turn ends with <end>.

    The loss mask is 1 on the text and the <end> of every assistant turn. `reply_next` appends <assistant>, where
    generation starts. On text without control tokens, ids and mask equal `apply_chat_template(...,
    return_assistant_tokens_mask=True)` (derived in lesson 03).
    """
    return encode_chats(tokenizer, [messages], reply_next=reply_next)[0]


def encode_completions(tokenizer, rows, separator=""):
    """ids == encode(prompt + separator) + encode(completion) + [<end>]; loss on completion and <end>.

    Prompt and completion are encoded apart, so no token merges over the border. A row {text} is completion only.
    """
    end = tokenizer.convert_tokens_to_ids(END)
    texts = [(r["prompt"] + separator, r["completion"]) if "prompt" in r else ("", r["text"]) for r in rows]
    ids = encode_text(tokenizer, [text for pair in texts for text in pair])
    pairs = zip(ids[::2], ids[1::2], strict=True)
    return [Encoded([*p, *c, end], [0] * len(p) + [1] * (len(c) + 1)) for p, c in pairs]


def encode_pairs(tokenizer, rows):
    """Preference rows to the columns of TRL's DPO collator: prompt_ids, chosen_ids, rejected_ids.

    `prompt`, `chosen` and `rejected` are message lists; a string prompt is one user turn, a string reply one
    assistant turn. Chosen and rejected both end with <end>. Two replies with the same ids teach nothing (loss ln 2,
    gradient 0) and raise DataError; a tokenizer may level texts that differ. `rows`: Records, or a list.
    """
    prompts = encode_chats(tokenizer, [as_messages(r["prompt"], "user") for r in rows], reply_next=True)
    columns = {"prompt_ids": [p.input_ids for p in prompts]}
    for side in ("chosen", "rejected"):
        replies = encode_chats(tokenizer, [as_messages(r[side], "assistant") for r in rows])
        # The first id is <assistant>, which the prompt already ends with.
        columns[f"{side}_ids"] = [r.input_ids[1:] for r in replies]
    pairs = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    same = [i for i, pair in enumerate(pairs) if pair["chosen_ids"] == pair["rejected_ids"]]
    if same:
        line = rows.line(same[0]) if hasattr(rows, "line") else same[0] + 1
        raise DataError(f"expected ids that differ from those of chosen, came the same ids ({len(same)} of "
                        f"{len(pairs)} rows); take these rows out", file=getattr(rows, "file", None), line=line,
                        field="rejected")
    return pairs


def as_messages(value, role):
    """A list of messages: `value` itself, or its text as one turn of `role`."""
    return copy.copy(value) if isinstance(value, list) else [{"role": role, "content": value}]


def decode_reply(tokenizer, ids):
    """Text of generated `ids` up to the first <end>; control tokens are shown, so that a stray one is seen."""
    end = tokenizer.convert_tokens_to_ids(END)
    ids = list(ids)
    ids = ids[: ids.index(end)] if end in ids else ids
    pad = tokenizer.pad_token_id
    return tokenizer.decode([i for i in ids if i != pad], clean_up_tokenization_spaces=False)


if __name__ == "__main__":
    from kit import cli

    sys.exit(exit_code(cli.talk))
