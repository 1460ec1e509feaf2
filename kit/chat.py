"""Chat templates, and the one way from messages to ids and loss mask. Lessons 01 and 03.

A model keeps its own template ("own") or gets ours ("kit": `<system>`, `<user>`, `<assistant>`,
`<end>`). For both, the template is rendered once for each list of roles, with a random mark in
place of every content. What the template wrote becomes ids with control tokens. Contents are
encoded by a copy of the tokenizer without added tokens, so that typed text never becomes a control
id. transformers 5.23 has `apply_chat_template(sanitize_control_tokens=True)` for the same promise,
but not together with the mask that training needs. A test compares both.
"""

import copy
import itertools
import json
import re
import secrets
import weakref
from array import array
from typing import NamedTuple

from kit.errors import DataError, Problem, SettingsError, bad_rows

ROLES = ("system", "user", "assistant")
ROLE_TOKENS = {role: f"<{role}>" for role in ROLES}
END = "<end>"
CONTROL_TOKENS = (*ROLE_TOKENS.values(), END)
PIECE = 1024  # texts that the tokenizer gets at once
IGNORED = -100  # the label that torch's cross-entropy and TRL skip
SPARE_ROWS = 0.9  # a tokenizer with fewer ids than this share of the rows belongs to another model
EQUAL = ("ids that differ from those of chosen", "the same ids")
MARK = f"k{secrets.token_hex(8)}n"  # nobody can type it: it is new in every process

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

_plain_copies, _layouts = weakref.WeakKeyDictionary(), weakref.WeakKeyDictionary()


class Encoded:
    """One example: `input_ids` and `loss_mask` (1 = trained), stored in 5 bytes per id."""

    __slots__ = ("ids", "mask")

    def __init__(self, input_ids, loss_mask):
        self.ids, self.mask = array("i", input_ids), bytes(loss_mask)

    input_ids = property(lambda self: self.ids.tolist())
    loss_mask = property(lambda self: list(self.mask))
    labels = property(lambda self: [i if m else IGNORED for i, m in zip(self.ids, self.mask)])

    def __len__(self):
        return len(self.ids)

    def __eq__(self, other):
        return (self.ids, self.mask) == (other.ids, other.mask)

    def __repr__(self):
        return f"Encoded(input_ids={self.input_ids}, loss_mask={self.loss_mask})"


class Item(NamedTuple):
    """A part of a layout: a control id, or a text of strings and (message number, strip) pairs."""

    id: int | None
    parts: tuple
    trained: int

    def text(self, messages):
        return "".join(part if isinstance(part, str) else part[1](messages[part[0]]["content"])
                       for part in self.parts)


def is_kit(tokenizer):
    """Return whether the tokenizer has our role tokens and stop token."""
    return tokenizer.eos_token == END and not set(CONTROL_TOKENS) - set(tokenizer.get_added_vocab())


def prepare(tokenizer, model=None, template="auto"):
    """Give tokenizer and model the template: "kit", "own", or "auto", its own if it has one.

    Under "own" the base's template, tokens and table stay; generation also stops at the stop token
    of the template. Raises SettingsError for a template that cannot be used.
    """
    bare = template == "auto" and not tokenizer.chat_template
    if template == "kit" or is_kit(tokenizer) or bare:
        add_role_tokens(tokenizer, model)
        return
    if not tokenizer.chat_template:
        raise SettingsError("template: expected a model with a chat template of its own, got one "
                            "without; use --template kit")
    stop = stop_token(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(stop)
    if model is not None:
        stops = model.generation_config.eos_token_id
        stops = {stop, *(stops if isinstance(stops, list) else [stops])} - {None}
        model.generation_config.eos_token_id = sorted(stops)
        for holder in (model.config, model.generation_config):
            holder.pad_token_id = tokenizer.pad_token_id


def add_role_tokens(tokenizer, model=None):
    """Give `tokenizer` the role tokens, the stop token and the template; again, nothing changes.

    With `model`, each new token also gets an embedding row (and an output row where the two are not
    tied): the mean row plus noise with the spread of the old rows, scaled to their median norm, so
    that no two new tokens start equal. transformers' own resize draws rows that differ by about
    1e-6, and LoRA then never separates them. Return the number of new tokens.
    """
    new = [token for token in CONTROL_TOKENS if token not in tokenizer.get_added_vocab()]
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        # A pad that is also the stop token would hide the stop token from the loss.
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    if set(CONTROL_TOKENS) - set(tokenizer.all_special_tokens):  # new, or not special in the base
        tokenizer.add_special_tokens({"additional_special_tokens": list(CONTROL_TOKENS)}, False)
    tokenizer.eos_token = END
    tokenizer.chat_template = TEMPLATE
    if model is not None:
        add_rows(model, len(tokenizer), tokenizer.convert_tokens_to_ids(new))
        model.role_ids = tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS))  # for kit.sft.lora
        for holder in (model.config, model.generation_config):
            for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
                setattr(holder, name, getattr(tokenizer, name))
    check_tokenizer(tokenizer, model)
    return len(new)


def add_rows(model, tokens, new):
    """Give `model` a row for each of `tokens` ids, and draw the rows of the `new` ids."""
    import torch

    old_rows = model.get_input_embeddings().weight.shape[0]
    if tokens > old_rows:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    if not new:
        return
    tables = dict.fromkeys((model.get_input_embeddings().weight,
                            model.get_output_embeddings().weight))  # one where they are tied
    generator, used = torch.Generator().manual_seed(0), min(old_rows, *new)
    with torch.no_grad():
        for weight in tables:
            old = weight[:used].float().cpu()
            noise = torch.randn(len(new), old.shape[1], generator=generator)
            rows = old.mean(0) + old.std(0) * noise
            rows *= old.norm(dim=1).median() / rows.norm(dim=1, keepdim=True)
            weight[new] = rows.to(weight)


def check_tokenizer(tokenizer, model=None):
    """Raise SettingsError unless each control token is one special id, eos is `<end>`, pad its own.

    With `model`: each id has an embedding row, nearly every row has an id (bases pad their tables
    by a few in a hundred), and the rows of the control tokens are pairwise distinct.
    """
    advice = "call kit.chat.add_role_tokens(tokenizer, model)"
    vocabulary, special = tokenizer.get_added_vocab(), set(tokenizer.all_special_ids)
    for token in CONTROL_TOKENS:
        ids = tokenizer.encode(token, add_special_tokens=False)
        if ids != [vocabulary.get(token)] or not special.issuperset(ids):
            raise SettingsError(f"tokenizer: expected {token} as one special token, got the ids "
                                f"{ids}; {advice}")
    if tokenizer.eos_token != END or tokenizer.pad_token in (None, *CONTROL_TOKENS):
        raise SettingsError(f"tokenizer: expected eos {END} and a pad token of its own, got eos "
                            f"{tokenizer.eos_token!r} and pad {tokenizer.pad_token!r}; {advice}")
    if model is None:
        return
    weight, tokens = model.get_input_embeddings().weight, len(tokenizer)
    if tokens > len(weight):
        raise SettingsError(f"model: expected embedding rows for {tokens} tokens, got "
                            f"{len(weight)}; {advice}")
    if tokens < SPARE_ROWS * len(weight):
        raise SettingsError(f"model: expected a token for nearly each of its {len(weight)} "
                            f"embedding rows, got {tokens} tokens, so it can write ids without "
                            "text; load the tokenizer of this model")
    rows = weight[[vocabulary[token] for token in CONTROL_TOKENS]].detach().float()
    for a, b in itertools.combinations(rows, 2):
        if (a - b).norm() < 1e-2 * a.norm():
            raise SettingsError("model: expected different embedding rows for the role tokens, got "
                                "two equal ones, which no training can tell apart; call "
                                "kit.chat.add_role_tokens on a base without them")


def _plain(tokenizer):
    """Return a copy without added tokens: it turns text into ids, never into control ids.

    `split_special_tokens=True` of transformers covers special tokens only; a base such as Qwen also
    has added tokens that are not special. Line breaks that Gemma has as added tokens stay.
    """
    if tokenizer not in _plain_copies:
        from tokenizers import AddedToken, Tokenizer

        state = json.loads(tokenizer.backend_tokenizer.to_str())
        size = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False)
        state["added_tokens"] = [token for token in state["added_tokens"]
                                 if token["content"].isspace() and token["id"] < size]
        state["post_processor"] = state["padding"] = state["truncation"] = None
        plain = Tokenizer.from_str(json.dumps(state))
        plain.add_special_tokens([AddedToken(MARK, special=True, normalized=False)])
        _plain_copies[tokenizer] = plain
    return _plain_copies[tokenizer]


def encode_text(tokenizer, texts, *, inside=False):
    """Return the ids of each text: control tokens spelled out inside become ordinary pieces.

    inside: the texts are parts of longer ones, so no tokenizer puts a space in front. Texts are
    encoded in pieces, because what the tokenizer keeps beside the ids is many times as large.
    """
    plain, texts, rows = _plain(tokenizer), iter(texts), []
    while piece := [MARK * inside + text for text in itertools.islice(texts, PIECE)]:
        encodings = plain.encode_batch_fast(piece, add_special_tokens=False)
        rows += [encoding.ids[inside:] for encoding in encodings]
    return rows


def render(tokenizer, roles, reply_next=False, around=""):
    """Return the template's text for the roles, with a mark in place of each content."""
    messages = [{"role": role, "content": f"{around}{MARK}{n}e{around}"}
                for n, role in enumerate(roles)]
    try:
        # Llama 3 writes today's date unless it gets one; a run must be the same tomorrow.
        text = tokenizer.apply_chat_template(messages, tokenize=False, date_string="26 Jul 2024",
                                             add_generation_prompt=reply_next)
    except Exception as error:  # Jinja's own kinds, and whatever the template raises
        reason = " ".join(str(error).split())
        raise unusable(f"one that takes the roles {', '.join(roles)}", f"`{reason}`") from None
    if re.findall(f"{MARK}(\\d+)e", text) != [str(n) for n in range(len(roles))]:
        raise unusable("one that writes each message once and in order",
                       f"another text for the roles {', '.join(roles)}")
    return text


def unusable(expected, got):
    return SettingsError(f"template: expected {expected}, got {got}; correct the rows, or use "
                         "--template kit")


def control_ids(tokenizer):
    """Return {id: text} of the tokens that typed text must never become: the added ones."""
    return {i: token for token, i in tokenizer.get_added_vocab().items() if not token.isspace()}


def atoms(tokenizer, text):
    """Return the control ids and the texts between them of what a template wrote."""
    control, at, pieces = control_ids(tokenizer), 0, []
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    for i, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
        if i in control:
            pieces += [text[at:start], i]
            at = stop
    return [atom for atom in [*pieces, text[at:]] if atom != ""]


def layout(tokenizer, roles, reply_next=False):
    """Return the Items of a conversation with these roles; each list of roles is rendered once."""
    plans = _layouts.setdefault(tokenizer, {})
    key = (tokenizer.chat_template, str(tokenizer.special_tokens_map), roles, reply_next)
    if key not in plans:
        if unknown := [role for role in roles if role not in ROLES]:
            raise DataError(f"expected one of {', '.join(ROLES)}, got {unknown[0]!r}; correct it",
                            field="role")
        plans[key] = planned(tokenizer, roles, reply_next)
    return plans[key]


def planned(tokenizer, roles, reply_next):
    """Return the Items of `layout`: a reply is trained from its generation prompt to its stop."""
    text, stream, at, stop = render(tokenizer, roles, reply_next), [], 0, None
    if "assistant" in roles and roles != ("user", "assistant"):
        stop = stop_token(tokenizer)
    untrimmed = render(tokenizer, roles, reply_next, around="\t")
    for n, match in enumerate(re.finditer(f"{MARK}\\d+e", text)):
        reply = roles[n] == "assistant"
        start = reply_start(tokenizer, text, roles, n, match.start()) if reply else match.start()
        stream += after(atoms(tokenizer, text[at:start]), n and roles[n - 1], stop)
        stream += [(atom, int(reply)) for atom in atoms(tokenizer, text[start : match.start()])]
        strip = str if f"\t{match[0]}\t" in untrimmed else str.strip
        stream.append(((n, strip), int(reply)))
        at = match.end()
    stream += after(atoms(tokenizer, text[at:]), roles[-1], stop)
    items = []
    for (is_id, trained), group in itertools.groupby(
            stream, lambda pair: (isinstance(pair[0], int), pair[1])):
        parts = tuple(atom for atom, _ in group)
        items += [Item(i, (), trained) for i in parts] if is_id else [Item(None, parts, trained)]
    return tuple(items)


def reply_start(tokenizer, text, roles, n, content):
    """Return where the reply of message `n` starts: where the prompt that asks for it ends."""
    prompt = render(tokenizer, roles[:n], True) if n else text[:content]
    extra = atoms(tokenizer, text[len(prompt) : content])
    words = "".join(atom for atom in extra if isinstance(atom, str)).strip()
    if not text.startswith(prompt) or words or set(extra) & set(tokenizer.all_special_ids):
        raise unusable("one with a generation prompt, after which the reply begins", "one without")
    return len(prompt)


def after(atoms, role, stop):
    """Return (atom, trained) of what follows a message: the stop token of a reply is trained."""
    if role != "assistant":
        return [(atom, 0) for atom in atoms]
    ids = [atom for atom in atoms if isinstance(atom, int)]
    if not ids or stop not in (None, ids[0]):
        raise unusable("one that ends each reply with a stop token", "one without")
    last = atoms.index(ids[0])
    return [(atom, int(at <= last)) for at, atom in enumerate(atoms)]


def stop_token(tokenizer):
    """Return the id that ends a reply in the tokenizer's template; eos where it has none."""
    if not tokenizer.chat_template:
        return tokenizer.eos_token_id
    items = layout(tokenizer, ("user", "assistant"))
    return [item.id for item in items if item.trained and item.id is not None][-1]


def encode_chats(tokenizer, conversations, *, reply_next=False):
    """Return the Encoded of each conversation, an iterable of message lists. See `encode`."""
    conversations, rows, plans = iter(conversations), [], {}
    while piece := list(itertools.islice(conversations, PIECE)):
        layouts = []
        for messages in piece:
            roles = tuple(message["role"] for message in messages)
            if roles not in plans:
                plans[roles] = layout(tokenizer, roles, reply_next)
            layouts.append(plans[roles])
        texts = [item.text(messages) for messages, items in zip(piece, layouts, strict=True)
                 for item in items if item.id is None]
        ids = iter(encode_text(tokenizer, texts, inside=True))
        for items in layouts:
            input_ids, loss_mask = array("i"), bytearray()
            for item in items:
                new = next(ids) if item.id is None else [item.id]
                input_ids.extend(new)
                loss_mask += bytes([item.trained]) * len(new)
            rows.append(Encoded(input_ids, loss_mask))
    return rows


def encode(tokenizer, messages, *, reply_next=False):
    """Return the Encoded of `messages` ([{role, content}, ...]) in the tokenizer's template.

    The loss mask is 1 on the text and the stop token of every assistant turn. `reply_next` appends
    the generation prompt. On text without control tokens, the ids equal `apply_chat_template`, and
    under our template so does the mask.
    """
    return encode_chats(tokenizer, [messages], reply_next=reply_next)[0]


def encode_completions(tokenizer, rows, separator=""):
    """Return ids == encode(prompt + separator) + encode(completion) + [stop token] of each row.

    The loss is on completion and stop token. Prompt and completion are encoded apart, so no token
    merges over the border. A row {text} is completion only.
    """
    texts = ((row["prompt"] + separator, row["completion"]) if "prompt" in row else
             ("", row["text"]) for row in rows)
    ids = encode_text(tokenizer, (text for pair in texts for text in pair))
    end = [stop_token(tokenizer)]
    return [Encoded(p + c + end, [0] * len(p) + [1] * (len(c) + 1))
            for p, c in zip(ids[::2], ids[1::2], strict=True)]


def encode_pairs(tokenizer, rows, on_bad="stop"):
    """Return the columns of TRL's DPO collator for preference rows, as a list of dicts of ids.

    `prompt`, `chosen` and `rejected` are message lists; a string prompt is one user turn, a string
    reply one assistant turn. Both replies end with the stop token. Two replies with equal ids teach
    nothing (loss ln 2, gradient 0), and a tokenizer may level texts that differ: one DataError
    lists all such rows. With on_bad="skip" each of them is None in the list.
    """
    prompts = [as_messages(row["prompt"], "user") for row in rows]
    pairs = [{"prompt_ids": e.input_ids} for e in encode_chats(tokenizer, prompts, reply_next=True)]
    for side in ("chosen", "rejected"):
        whole = (prompt + as_messages(row[side], "assistant")
                 for prompt, row in zip(prompts, rows, strict=True))
        for pair, e in zip(pairs, encode_chats(tokenizer, whole), strict=True):
            stop = max(place for place, trained in enumerate(e.loss_mask) if trained)
            pair[f"{side}_ids"] = e.input_ids[len(pair["prompt_ids"]) : stop + 1]
    same = [i for i, pair in enumerate(pairs) if pair["chosen_ids"] == pair["rejected_ids"]]
    file = getattr(rows, "file", None)
    problems = [Problem(file, rows.lines[i] if file else i + 1, "rejected", *EQUAL) for i in same]
    if problems and on_bad == "stop":
        raise bad_rows(file, problems, len(pairs), 'take these rows out or use on_bad="skip"')
    for i in same:
        pairs[i] = None
    return pairs


def as_messages(value, role):
    """Return a list of messages: `value` itself, or its text as one turn of `role`."""
    return copy.copy(value) if isinstance(value, list) else [{"role": role, "content": value}]


def decode_reply(tokenizer, ids):
    """Return the text of generated `ids` up to the first stop token; other control tokens show.

    What a template writes between generation prompt and reply, such as a space, is left out.
    """
    ids, stop = list(ids), stop_token(tokenizer)
    ids = ids[: ids.index(stop)] if stop in ids else ids
    text = tokenizer.decode([i for i in ids if i != tokenizer.pad_token_id],
                            clean_up_tokenization_spaces=False)
    return text.removeprefix(reply_prefix(tokenizer))


def reply_prefix(tokenizer):
    """Return what the template writes between generation prompt and reply: "" under ours."""
    prefix = ""
    for item in layout(tokenizer, ("user", "assistant")) if tokenizer.chat_template else ():
        for part in item.parts or (tokenizer.convert_ids_to_tokens(item.id),):
            if item.trained and not isinstance(part, str):
                return prefix
            prefix += part if item.trained else ""
    return prefix
