"""Scores of replies: n and a 95% interval, judged by the task. `kit score` prints them."""

import contextlib
import math
import statistics
import time
from collections import Counter
from dataclasses import dataclass

from kit import chat, show, tasks
from kit.engine import generation
from kit.errors import SettingsError

Z95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution
PATIENCE = 5  # seconds of generation before progress is shown


@dataclass(frozen=True)
class Score:
    """`hits` of `n` with their interval (Wilson 1927; eq. 4 of Brown, Cai & DasGupta 2001)."""

    hits: int
    n: int

    @property
    def rate(self):
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self):
        if not self.n:
            return math.nan, math.nan
        centre, shrink = self.rate + Z95**2 / (2 * self.n), 1 + Z95**2 / self.n
        half = Z95 * math.sqrt(self.rate * (1 - self.rate) / self.n + Z95**2 / (4 * self.n**2))
        return max(0.0, (centre - half) / shrink), min(1.0, (centre + half) / shrink)

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

    Booleans: method 10 of Newcombe (1998), Statistics in Medicine 17, 2635-2650. With the Wilson
    limits (l, u) of each rate p and the correlation phi of the pairs, p2 - p1 is between
        p2 - p1 - sqrt((p2 - l2)^2 - 2 phi (p2 - l2) (u1 - p1) + (u1 - p1)^2)   and
        p2 - p1 + sqrt((u2 - p2)^2 - 2 phi (u2 - p2) (p1 - l1) + (p1 - l1)^2).
    phi = (ad - bc) / sqrt((a+b)(c+d)(a+c)(b+d)) of the counts a (both right), b (lost), c (gained)
    and d (both wrong), where a positive ad - bc loses n/2 but stays at least 0, as in the paper.
    Rows without any difference give an interval around 0, never [0, 0].

    Rates over a row's samples or seeds: the mean difference and its normal interval, at least
    +- 3/n. This floor is ours, not in a paper: by the rule of three, up to 3/n of all rows may
    differ where none of n did. Student's t would be 3% wider with 40 rows.
    """
    pairs = [(float(b), float(a)) for b, a in zip(before, after, strict=True)]
    if not pairs:
        return math.nan, math.nan, math.nan
    if all(value in (0, 1) for pair in pairs for value in pair):
        return _newcombe(Counter(pairs))
    deltas, n = [a - b for b, a in pairs], len(pairs)
    mean = statistics.fmean(deltas)
    half = max(Z95 * statistics.stdev(deltas) / math.sqrt(n), 3 / n) if n > 1 else 2
    return mean, max(-1.0, mean - half), min(1.0, mean + half)


def _newcombe(counts):
    """Return paired_difference of {(before, after): count}."""
    a, b, c, d = counts[1, 1], counts[1, 0], counts[0, 1], counts[0, 0]
    n = a + b + c + d
    first, second = Score(a + b, n), Score(a + c, n)
    (l1, u1), (l2, u2), p1, p2 = first.interval, second.interval, first.rate, second.rate
    product, cross = (a + b) * (c + d) * (a + c) * (b + d), a * d - b * c
    cross = max(cross - n / 2, 0) if cross > 0 else cross
    phi = cross / math.sqrt(product) if product else 0.0
    low = (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2
    high = (u2 - p2) ** 2 - 2 * phi * (u2 - p2) * (p1 - l1) + (p1 - l1) ** 2
    return p2 - p1, p2 - p1 - math.sqrt(low), p2 - p1 + math.sqrt(high)


@contextlib.contextmanager
def _evaluating(model):
    """Turn dropout and gradients off, and restore the model's mode afterwards."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _generate(model, tokenizer, prompts, *, max_new_tokens=48, batch_size=128, temperature=0.0,
              seed=0):
    """Return (text, whether it reached max_new_tokens) of each prompt."""
    import torch

    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]))
    pairs = [None] * len(prompts)
    torch.manual_seed(seed)
    stop, begin, progress = chat.stop_token(tokenizer), time.monotonic(), None
    with _evaluating(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            replies = generation.decode(model, [prompts[i] for i in rows], stop=stop,
                                        pad=tokenizer.pad_token_id, temperature=temperature,
                                        max_new_tokens=max_new_tokens)
            for i, ids in zip(rows, replies, strict=True):
                cut = len(ids) == max_new_tokens and stop not in ids
                pairs[i] = chat.decode_reply(tokenizer, ids), cut
            if progress is None and time.monotonic() - begin > PATIENCE:
                progress = show.progress("scoring", len(prompts), unit="question")
            if progress:
                progress.update(start + len(rows))
    if progress:
        progress.finish(f"{len(prompts)} replies in {time.monotonic() - begin:.0f} s")
    return pairs


def generate(model, tokenizer, prompts, **options):
    """Return the texts that follow the id lists `prompts`; each ends before its stop token.

    options: max_new_tokens (48), batch_size (128; prompts are batched by length), temperature
    (0: greedy), seed (0).
    """
    return [text for text, _ in _generate(model, tokenizer, prompts, **options)]


def replies(model, tokenizer, conversations, **options):
    """Return replies to conversations that end with a user turn. Options as in `generate`."""
    prompts = [e.input_ids for e in chat.encode_chats(tokenizer, conversations, reply_next=True)]
    return generate(model, tokenizer, prompts, **options)


def completions(model, tokenizer, prompts, **options):
    """Return completions of plain text prompts. Options as in `generate`."""
    return generate(model, tokenizer, chat.encode_text(tokenizer, prompts), **options)


def _summed_logps(model, rows, batch_size):
    """Return the log-probability (nats) of the rest of each row: a tensor (rows,).

    rows: a list of (prompt ids, rest ids).
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    where, sums = next(model.parameters()).device, []
    with _evaluating(model):
        for at in range(0, len(rows), batch_size):
            ids = [torch.tensor([*prompt, *rest]) for prompt, rest in rows[at : at + batch_size]]
            mask = [torch.tensor([0] * len(prompt) + [1] * len(rest))
                    for prompt, rest in rows[at : at + batch_size]]
            ids, mask = (pad_sequence(part, True, 0).to(where) for part in (ids, mask))
            logps = torch.log_softmax(model(input_ids=ids).logits[:, :-1].float(), -1)
            logps = logps.gather(-1, ids[:, 1:, None])[..., 0] * mask[:, 1:]
            sums.append(logps.sum(1).cpu())
    return torch.cat(sums)


def bits_per_byte(model, tokenizer, texts, *, max_length=512, batch_size=16):
    """Return the mean bits per UTF-8 byte of `texts`, lower is better, whatever the tokenizer."""
    bos = tokenizer.bos_token_id
    start = tokenizer.eos_token_id if bos is None else bos
    rows = [([start], ids[:max_length]) for ids in chat.encode_text(tokenizer, texts)]
    size = sum(len(tokenizer.decode(ids, clean_up_tokenization_spaces=False).encode())
               for _, ids in rows)
    return -_summed_logps(model, rows, batch_size).sum().item() / math.log(2) / size


def logps(model, tokenizer, pairs, *, batch_size=32):
    """Return the log-probability (nats) of each chosen and each rejected: two (pairs,) tensors."""
    return tuple(_summed_logps(model, [(p["prompt_ids"], p[side]) for p in pairs], batch_size)
                 for side in ("chosen_ids", "rejected_ids"))


@dataclass(frozen=True)
class Results:
    """Questions with the model's replies and flags; preferred is None for a task without `prefers`.

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
        """Return one boolean per question of `group` (None: of all), "correct" or "preferred"."""
        flags = zip(getattr(self, what), self.questions, strict=True)
        return [flag for flag, q in flags if group in (None, q.group)]

    def scores(self):
        """Return {line of the scoreboard: Score}: correct by group, then preferred over all."""
        liked = {} if self.preferred is None else {"preferred": score(self.preferred)}
        return {group: score(self.hits(group)) for group in self.groups} | liked

    def as_dict(self):
        return {name: s.as_dict() for name, s in self.scores().items()}

    def misses(self, group=None):
        """Return (question, text) of each wrong reply."""
        rows = zip(self.questions, self.texts, self.correct, strict=True)
        return [(q, text) for q, text, correct in rows if not correct and group in (None, q.group)]

    def kinds(self, task):
        """Return {(kind of the right reply, kind of the model's): count}, for a confusion table."""
        pairs = zip(self.questions, self.texts, strict=True)
        return Counter((task.kind(q.right), task.kind(text)) for q, text in pairs)


def judged(questions, texts, task, cut=0):
    """Return the Results of replies that are already there."""
    pairs = list(zip(questions, texts, strict=True))
    flags = [[tasks.accepts(task, text, q, judge) for q, text in pairs] if judge else None
             for judge in (task.judge, task.prefers)]
    return Results(questions, texts, *flags, cut)


def evaluate(model, tokenizer, questions, task, *, separator=None, **options):
    """Return the Results of greedy replies to `questions`. Options as in `generate`.

    max_new_tokens is the task's unless it is an option. separator: complete the last user turn +
    separator, as lesson 02 trains it, instead of replying in a chat.
    """
    if separator is None:
        rows = chat.encode_chats(tokenizer, [q.messages for q in questions], reply_next=True)
        prompts = [row.input_ids for row in rows]
    else:
        texts = [q.messages[-1]["content"] + separator for q in questions]
        prompts = chat.encode_text(tokenizer, texts)
    options = {"max_new_tokens": task.max_new_tokens} | options
    ids, at = max(zip(map(len, prompts), range(len(prompts)), strict=True), default=(0, 0))
    if ids > (room := _room(model, options["max_new_tokens"])):
        file, line = questions[at].place
        raise SettingsError(f"expected a question of at most {room} ids, got {ids}; shorten it, or "
                            "lower max_new_tokens", file=file, line=line)
    texts, cut = zip(*_generate(model, tokenizer, prompts, **options), strict=True)
    return judged(questions, list(texts), task, sum(cut))


def _room(model, max_new_tokens):
    return getattr(model.config, "max_position_embeddings", 1 << 30) - max_new_tokens


def answer(model, tokenizer, messages, text, *, max_new_tokens=48, temperature=0.0, seed=0):
    """Return `messages` with the user's `text` and the model's reply, for terminal and notebook.

    Where the conversation no longer fits the model's positions, the oldest turns after the system
    message are left out. Raises SettingsError when `text` alone is too long.
    """
    text = text.encode(errors="replace").decode()  # a lone surrogate of a terminal has no ids
    room, turns = _room(model, max_new_tokens), [*messages, {"role": "user", "content": text}]
    first = int(turns[0]["role"] == "system")
    while len(ids := chat.encode(tokenizer, turns, reply_next=True).input_ids) > room:
        if len(turns) == first + 1:
            advice = "shorten it" if room > first else "lower max_new_tokens"
            raise SettingsError(f"expected a message of at most {max(room, 0)} ids, got "
                                f"{len(ids)}; {advice}")
        turns = turns[:first] + turns[first + 2 :]
    reply, = generate(model, tokenizer, [ids], max_new_tokens=max_new_tokens,
                      temperature=temperature, seed=seed)
    return [*turns, {"role": "assistant", "content": reply}]
