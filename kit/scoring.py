"""Scores of generated replies: each with n and a 95% interval, judged by the task, never by eye. `kit score` prints them."""

import contextlib
import math
import time
from collections import Counter
from dataclasses import dataclass

from kit import chat, show, tasks
from kit.engine import generation
from kit.errors import SettingsError

Z95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution
T95 = {1: 12.7062047, 2: 4.3026527}  # of Student's t; `_t95` has a series for more degrees of freedom
PATIENCE = 5  # seconds of generation before progress is shown


@dataclass(frozen=True)
class Score:
    """`hits` of `n` with the Wilson interval [low, high] (Wilson 1927, eq. 4 in Brown, Cai & DasGupta 2001)."""

    hits: int
    n: int

    @property
    def rate(self):
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self):
        if not self.n:
            return math.nan, math.nan
        centre = (self.rate + Z95**2 / (2 * self.n)) / (1 + Z95**2 / self.n)
        half = Z95 / (1 + Z95**2 / self.n) * math.sqrt(self.rate * (1 - self.rate) / self.n + Z95**2 / (4 * self.n**2))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self):
        low, high = self.interval
        return f"{self.rate:6.1%}  [{low:.1%}, {high:.1%}]  n={self.n}"

    def as_dict(self):
        low, high = self.interval
        return {"rate": self.rate, "low": low, "high": high, "hits": self.hits, "n": self.n}


def score(hits):
    """Return the Score of a sequence of booleans."""
    hits = list(hits)
    return Score(sum(map(bool, hits)), len(hits))


def paired_difference(before, after):
    """Return (difference, low, high) of two sequences over the same rows, with 95%.

    Booleans: Newcombe (1998), Statistics in Medicine 17, 2635-2650, method 10. With the Wilson limits (l, u) of each rate p
    and the correlation phi of the pairs, p2 - p1 lies between
        p2 - p1 - sqrt((p2 - l2)^2 - 2 phi (p2 - l2) (u1 - p1) + (u1 - p1)^2)   and
        p2 - p1 + sqrt((u2 - p2)^2 - 2 phi (u2 - p2) (p1 - l1) + (p1 - l1)^2).
    phi = (ad - bc) / sqrt((a+b)(c+d)(a+c)(b+d)) of the counts a (both right), b (lost), c (gained), d (both wrong); n/2 is
    taken off a positive ad - bc, as in the paper. Rows without any difference still give an interval around 0.

    Rates of a row's samples or seeds: mean difference +- the larger of the t interval and 3/n. The floor is ours, not in
    the paper: by the rule of three, up to 3/n of all rows may differ where no row of n did.
    """
    pairs = [(float(b), float(a)) for b, a in zip(before, after, strict=True)]
    if not pairs:
        return math.nan, math.nan, math.nan
    if all(value in (0, 1) for pair in pairs for value in pair):
        return _newcombe(Counter(pairs))
    deltas, n = [a - b for b, a in pairs], len(pairs)
    mean = sum(deltas) / n
    spread = math.sqrt(sum((d - mean) ** 2 for d in deltas) / (n - 1) / n) if n > 1 else math.inf
    half = max(_t95(n - 1) * spread, 3 / n)
    return mean, max(-1.0, mean - half), min(1.0, mean + half)


def _newcombe(counts):
    a, b, c, d = counts[1, 1], counts[1, 0], counts[0, 1], counts[0, 0]
    first, second = Score(a + b, counts.total()), Score(a + c, counts.total())
    (l1, u1), (l2, u2), p1, p2 = first.interval, second.interval, first.rate, second.rate
    product, cross = (a + b) * (c + d) * (a + c) * (b + d), a * d - b * c
    cross = max(cross - counts.total() / 2, 0) if cross > 0 else cross
    phi = cross / math.sqrt(product) if product else 0.0
    low = math.sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    high = math.sqrt((u2 - p2) ** 2 - 2 * phi * (u2 - p2) * (p1 - l1) + (p1 - l1) ** 2)
    return p2 - p1, p2 - p1 - low, p2 - p1 + high


def _t95(df):
    """Two-sided 95% quantile of Student's t: Abramowitz & Stegun 26.7.5, four terms, off by less than 0.004."""
    z = Z95
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return T95.get(df) or sum(term / df**power for power, term in enumerate(terms)) if df else 0.0


@contextlib.contextmanager
def _generating(model):
    """Evaluation mode with the cache on, whatever training left behind; both are restored."""
    training, use_cache = model.training, model.config.use_cache
    model.eval().config.use_cache = True
    try:
        yield
    finally:
        model.train(training)
        model.config.use_cache = use_cache


def _generate(model, tokenizer, prompts, *, max_new_tokens=48, batch_size=128, temperature=0.0, seed=0):
    """(text, whether it reached max_new_tokens) of each prompt."""
    import torch

    order, made = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i])), [None] * len(prompts)
    torch.manual_seed(seed)
    stop, begin, progress = chat.stop_token(tokenizer), time.monotonic(), None
    with _generating(model), torch.no_grad():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            replies = generation.decode(model, [prompts[i] for i in rows], stop=stop, pad=tokenizer.pad_token_id,
                                        max_new_tokens=max_new_tokens, temperature=temperature)
            for i, ids in zip(rows, replies, strict=True):
                made[i] = chat.decode_reply(tokenizer, ids), len(ids) == max_new_tokens and stop not in ids
            if progress is None and time.monotonic() - begin > PATIENCE:
                progress = show.progress("scoring", len(prompts), unit="question")
            if progress:
                progress.update(start + len(rows))
    if progress:
        progress.finish(f"{len(prompts)} replies in {time.monotonic() - begin:.0f} s")
    return made


def generate(model, tokenizer, prompts, **options):
    """Return the texts that follow the id lists `prompts`, in their order; each ends before its stop token.

    options: max_new_tokens (48), batch_size (128), temperature (0: greedy), seed (0). Prompts are batched by length.
    """
    return [text for text, _ in _generate(model, tokenizer, prompts, **options)]


def replies(model, tokenizer, conversations, **options):
    """Return replies to conversations that end with a user turn. Options as in `generate`."""
    prompts = [e.input_ids for e in chat.encode_chats(tokenizer, conversations, reply_next=True)]
    return generate(model, tokenizer, prompts, **options)


def completions(model, tokenizer, prompts, **options):
    """Return completions of plain text prompts. Options as in `generate`."""
    return generate(model, tokenizer, chat.encode_text(tokenizer, prompts), **options)


def bits_per_byte(model, tokenizer, texts, *, max_length=512, batch_size=16):
    """Return the mean bits the model needs per UTF-8 byte of `texts`: comparable between tokenizers, lower is better."""
    import torch

    where, nats = next(model.parameters()).device, 0.0
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    rows = [[start, *ids[:max_length]] for ids in chat.encode_text(tokenizer, texts)]
    size = sum(len(tokenizer.decode(r[1:], clean_up_tokenization_spaces=False).encode()) for r in rows)
    rows.sort(key=len)
    with _generating(model), torch.no_grad():
        for at in range(0, len(rows), batch_size):
            batch = [torch.tensor(r) for r in rows[at : at + batch_size]]
            labels = torch.nn.utils.rnn.pad_sequence(batch, True, chat.IGNORED).to(where)
            logits = model(input_ids=labels.clamp(min=0)).logits[:, :-1].float()
            nats += torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(),
                                                      ignore_index=chat.IGNORED, reduction="sum").item()
    return nats / math.log(2) / size


def logps(model, tokenizer, pairs, *, batch_size=32):
    """Return summed log-probabilities (nats) of chosen and rejected given the prompt: two tensors of shape (pairs,)."""
    import torch

    where, sums = next(model.parameters()).device, {"chosen": [], "rejected": []}
    with _generating(model), torch.no_grad():
        for at in range(0, len(pairs), batch_size):
            for side, out in sums.items():
                rows = [(p["prompt_ids"], p[f"{side}_ids"]) for p in pairs[at : at + batch_size]]
                pad = torch.nn.utils.rnn.pad_sequence
                ids = pad([torch.tensor(p + c) for p, c in rows], True, 0).to(where)
                trained = pad([torch.tensor([0] * len(p) + [1] * len(c)) for p, c in rows], True, 0).to(where)
                every = torch.log_softmax(model(input_ids=ids).logits[:, :-1].float(), -1)
                out.append((every.gather(-1, ids[:, 1:, None])[..., 0] * trained[:, 1:]).sum(1).cpu())
    return torch.cat(sums["chosen"]), torch.cat(sums["rejected"])


@dataclass(frozen=True)
class Results:
    """Questions with the model's replies: `texts`, `correct` and `preferred` flags (None without `prefers`), `cut`.

    cut: how many replies reached max_new_tokens, so that their end is missing.
    """

    questions: list
    texts: list
    correct: list
    preferred: list | None
    cut: int = 0

    @property
    def groups(self):
        return list(dict.fromkeys(q.group for q in self.questions))

    def hits(self, group=None, what="correct"):
        """Return one boolean per question of `group` (None: of all); `what` is "correct" or "preferred"."""
        flags = zip(getattr(self, what), self.questions, strict=True)
        return [flag for flag, q in flags if group in (None, q.group)]

    def scores(self):
        """Return {line of the scoreboard: Score}: correct by group, then preferred over all where the task has it."""
        liked = {} if self.preferred is None else {"preferred": score(self.preferred)}
        return {group: score(self.hits(group)) for group in self.groups} | liked

    def as_dict(self):
        return {name: s.as_dict() for name, s in self.scores().items()}

    def misses(self, group=None):
        """Return (question, text) of each wrong reply."""
        rows = zip(self.questions, self.texts, self.correct, strict=True)
        return [(q, text) for q, text, correct in rows if not correct and group in (None, q.group)]

    def kinds(self, task):
        """Return {(kind of the right reply, kind of the model's reply): count}, for a confusion table."""
        return Counter((task.kind(q.right), task.kind(text)) for q, text in zip(self.questions, self.texts, strict=True))


def judged(questions, texts, task, cut=0):
    """Return the Results of replies that are already there."""
    pairs = list(zip(questions, texts, strict=True))
    liked = [tasks.accepts(task, text, q, task.prefers) for q, text in pairs] if task.prefers else None
    return Results(questions, texts, [tasks.accepts(task, text, q) for q, text in pairs], liked, cut)


def evaluate(model, tokenizer, questions, task, *, separator=None, **options):
    """Return the Results of greedy replies to `questions`. Options as in `generate`; max_new_tokens is the task's.

    separator: complete the last user turn + separator, as lesson 02 trains it, instead of replying in a chat.
    """
    if separator is None:
        prompts = [e.input_ids for e in chat.encode_chats(tokenizer, [q.messages for q in questions], reply_next=True)]
    else:
        prompts = chat.encode_text(tokenizer, [q.messages[-1]["content"] + separator for q in questions])
    options = {"max_new_tokens": task.max_new_tokens} | options
    longest, room = max(zip(map(len, prompts), range(len(prompts)))), _room(model, options["max_new_tokens"])
    if longest[0] > room:
        file, line = questions[longest[1]].place
        raise SettingsError(f"expected a question of at most {room} ids, got {longest[0]}; shorten it, or lower "
                            "max_new_tokens", file=file, line=line)
    made = _generate(model, tokenizer, prompts, **options)
    return judged(questions, [text for text, _ in made], task, sum(cut for _, cut in made))


def _room(model, max_new_tokens):
    return getattr(model.config, "max_position_embeddings", 1 << 30) - max_new_tokens


def answer(model, tokenizer, messages, text, *, max_new_tokens=48, temperature=0.0, seed=0):
    """Return `messages` with the user's `text` and the model's reply. The chat in terminal and notebook both call it.

    Where the conversation no longer fits the model's positions, its oldest turns after the system message are left out.
    Raises SettingsError when `text` alone is too long.
    """
    fixed = [message for message in messages[:1] if message["role"] == "system"]
    turns, room = [*messages[len(fixed):], {"role": "user", "content": text}], _room(model, max_new_tokens)
    alone = len(chat.encode(tokenizer, [*fixed, turns[-1]], reply_next=True).input_ids)
    if alone > room:
        raise SettingsError(f"expected a message of at most {max(room, 0)} ids, got {alone}; shorten it")
    while len(ids := chat.encode(tokenizer, [*fixed, *turns], reply_next=True).input_ids) > room:
        turns = turns[2:]
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    reply, = generate(model, tokenizer, [ids], **options)
    return [*fixed, *turns, {"role": "assistant", "content": reply}]
