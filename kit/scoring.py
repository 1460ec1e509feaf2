"""Scores of generated replies: each with n and a 95% interval, judged by the task module, never by string.

`python -m kit.scoring MODEL [MODEL ...]` prints the scoreboard, see kit.cli.
"""

import contextlib
import csv
import json
import math
import sys
from dataclasses import dataclass

from kit import chat, records
from kit.engine import generation
from kit.errors import DataError, exit_code

Z95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution


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
    """Score of a sequence of booleans."""
    hits = list(hits)
    return Score(sum(map(bool, hits)), len(hits))


def paired_difference(before, after):
    """(difference, low, high) of two sequences over the same rows; 95%, normal approximation.

    An item is a boolean, or the rate of a row's samples or seeds: those of one row count as one. The variance is that
    of the per-row differences, so rows on which both agree cost nothing (McNemar 1947).
    """
    deltas = [float(b) - float(a) for a, b in zip(before, after, strict=True)]
    n, mean = len(deltas), sum(deltas) / len(deltas)
    half = Z95 * math.sqrt(sum((d - mean) ** 2 for d in deltas) / n / max(n - 1, 1))
    return mean, mean - half, mean + half


@contextlib.contextmanager
def _generating(model):
    """Evaluation mode with the cache on, whatever training left behind; both restored."""
    training, use_cache = model.training, model.config.use_cache
    model.eval().config.use_cache = True
    try:
        yield
    finally:
        model.train(training)
        model.config.use_cache = use_cache


def generate(model, tokenizer, prompts, *, max_new_tokens=48, batch_size=128, temperature=0.0, seed=0):
    """Texts that follow the id lists `prompts`, greedy by default, in their order.

    Prompts are batched by length; each text ends before its first stop token.
    """
    import torch

    order, texts = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i])), [None] * len(prompts)
    torch.manual_seed(seed)
    with _generating(model), torch.no_grad():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            made = generation.decode(model, [prompts[i] for i in rows], stop=tokenizer.eos_token_id,
                                   pad=tokenizer.pad_token_id, max_new_tokens=max_new_tokens, temperature=temperature)
            for i, ids in zip(rows, made, strict=True):
                texts[i] = chat.decode_reply(tokenizer, ids)
    return texts


def replies(model, tokenizer, conversations, **options):
    """Replies to conversations that end with a user turn. Options as in `generate`."""
    prompts = [e.input_ids for e in chat.encode_chats(tokenizer, conversations, reply_next=True)]
    return generate(model, tokenizer, prompts, **options)


def completions(model, tokenizer, prompts, **options):
    """Completions of plain text prompts. Options as in `generate`."""
    return generate(model, tokenizer, chat.encode_text(tokenizer, prompts), **options)


def bits_per_byte(model, tokenizer, texts, *, max_length=512, batch_size=16):
    """Mean bits the model needs per UTF-8 byte of `texts`: comparable between tokenizers, lower is better."""
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
    """Summed log-probability (nats) of chosen and rejected given the prompt: two tensors of shape (pairs,)."""
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
class Question:
    """A conversation that ends with a user turn, the scoreboard line it counts for, and what `judge` must know."""

    messages: list
    group: str
    facts: dict


def read_questions(task, test=None, phrases=None):
    """Questions of a test file (JSONL: messages and the facts for `task.judge`) and of a phrase file ("by hand").

    A phrase file is TSV: a phrase, then what `task.judge` takes. Without the header `phrase`, the second column is
    the right reply.
    """
    questions = []
    if test is not None:
        with open(records.find(test), encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                messages = row.pop("messages")
                row.pop("held_out", None)
                questions.append(Question(messages, task.GROUPS[row["kind"]], row))
    if phrases is not None:
        questions += _phrases(task, phrases)
    return questions


def _phrases(task, file):
    """Questions of a phrase file; raises DataError with the line of a row that cannot be judged."""
    with open(records.find(file), encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    named = bool(rows) and rows[0][:1] == ["phrase"]
    names = rows[0] if named else ["phrase", "right reply"]
    for at, row in enumerate(rows[named:], 1 + named):
        if not row:
            continue
        if len(row) != len(names) or not row[0].strip():
            raise DataError(f"expected {names}, got {row}", file=str(file), line=at)
        facts = {"kind": task.KINDS[0], **dict(zip(names[1:], row[1:], strict=True))} if named else task.facts(row[1])
        try:
            task.judge(row[1], **facts)
        except DataError as error:
            raise DataError(error.message, file=str(file), line=at) from None
        messages = [{"role": "system", "content": task.SYSTEM}, {"role": "user", "content": row[0]}]
        yield Question(messages, "by hand", facts)


@dataclass(frozen=True)
class Results:
    """Questions, the model's replies, and the task's verdicts (`valid`, `correct`) with `preferred`."""

    questions: list
    texts: list
    verdicts: list
    liked: list

    @property
    def groups(self):
        return list(dict.fromkeys(q.group for q in self.questions))

    def hits(self, group, what="correct"):
        """One boolean a question of `group`; `what` is "correct", "valid" or "preferred"."""
        flags = self.liked if what == "preferred" else [getattr(v, what) for v in self.verdicts]
        return [flag for flag, q in zip(flags, self.questions, strict=True) if group in (None, q.group)]

    def scores(self):
        """{line of the scoreboard: Score}: correct by group, and preferred over all."""
        return {g: score(self.hits(g)) for g in self.groups} | {"preferred": score(self.liked)}

    def as_dict(self):
        return {name: s.as_dict() for name, s in self.scores().items()}

    def misses(self, group=None):
        """(question, text, verdict) of each wrong reply."""
        return [(q, t, v) for q, t, v in zip(self.questions, self.texts, self.verdicts, strict=True)
                if not v.correct and group in (None, q.group)]


def judged(questions, texts, task):
    """Results of replies that are already there."""
    pairs = list(zip(questions, texts, strict=True))
    return Results(questions, texts, [task.judge(t, **q.facts) for q, t in pairs],
                   [task.preferred(t, **q.facts) for q, t in pairs])


def evaluate(model, tokenizer, questions, task, **options):
    """Greedy replies to `questions`, judged by `task`. Options as in `generate`."""
    return judged(questions, replies(model, tokenizer, [q.messages for q in questions], **options), task)


if __name__ == "__main__":
    from kit import cli

    sys.exit(exit_code(cli.score))
