"""Turn the sampler's log into documents: join, clean, filter, and drop repeated ones."""

import json
import re
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
NAMES = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun"
FIELD = rf"(?:[\d*/,?LW#-]|{NAMES})+"
CRON = re.compile(
    rf"(?<![\d*/,-])[\d*/,-]+(?:[ \t]+{FIELD}){{4}}|crontab|\bcron\b|@(?:hourly|daily|weekly|monthly|yearly|annually|reboot)",
    re.IGNORECASE,
)
UNWANTED = re.compile(
    r"```|\bdef \w+\(|#include|\\[a-z]+\{|\\\(|\$\$|SmolLM|Hugging ?Face|\bAI\b|language model|\ufffd|<\|"
)


@lru_cache
def load_phrases():
    """Return the hand-written test phrases, lower case; the filter drops lines with one of them."""
    path = HERE.parents[2] / "data_samples" / "cron" / "by_hand.jsonl"
    rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(row)["prompt"].strip().lower() for row in rows]


def clean(text, cut):
    """Return a document ready for training, or "".

    It has whole sentences, and no loops, code, cron lines or test phrases.
    """
    if UNWANTED.search(text):
        return ""
    low = text.lower()
    phrases = [p for p in load_phrases() if p in low]
    text = "\n".join(
        line.rstrip()
        for line in text.split("\n")
        if not CRON.search(line) and not any(p in line.lower() for p in phrases)
    ).strip()
    if cut:
        text = text[: max(text.rfind(mark) for mark in ".!?\n") + 1].strip()
    if len(text) < 40 or len(zlib.compress(text.encode())) < 0.36 * len(text.encode()):
        return ""
    return text


class Collector:
    """Writes clean, distinct documents from blocks of the sampler's log; `pool` cleans them."""

    def __init__(self, tokenizer, heads, work, pool):
        self.tokenizer, self.heads, self.pool = tokenizer, heads, pool
        self.file = open(work / "docs.jsonl", "w", encoding="utf-8")
        self.open_rows, self.seen = None, set()
        self.sampled = self.kept = self.documents = self.letters = 0

    def add(self, said, ended, cut):
        """Add a block of the log; said, ended, cut: (steps, batch) as in Sampler."""
        said, ended, cut = (x.cpu().numpy().T for x in (said, ended, cut))
        self.open_rows = self.open_rows or [np.empty(0, np.int32)] * len(said)
        found = []
        for row in range(len(said)):
            begin = 0
            for stop in np.flatnonzero(ended[row] >= 0):
                ids = np.concatenate([self.open_rows[row], said[row, begin : stop + 1]])
                found.append((ids[ids >= 0], int(ended[row, stop]), bool(cut[row, stop])))
                self.open_rows[row], begin = np.empty(0, np.int32), stop + 1
            self.open_rows[row] = np.concatenate([self.open_rows[row], said[row, begin:]])
        self.sampled += int((said >= 0).sum())
        answers = self.tokenizer.backend_tokenizer.decode_batch(
            [ids.tolist() for ids, _, _ in found], skip_special_tokens=False
        )
        texts = [self.heads[prompt] + answer for (_, prompt, _), answer in zip(found, answers)]
        cleaned = self.pool.map(clean, texts, [short for _, _, short in found], chunksize=128)
        for (ids, _, _), answer, text in zip(found, answers, cleaned):
            self.keep(text, answer, len(ids))

    def keep(self, text, answer, tokens):
        mark = hash(re.sub(r"\W+", "", answer.lower()) or text)
        if text and mark not in self.seen:
            self.seen.add(mark)
            self.kept, self.documents, self.letters = (
                self.kept + tokens,
                self.documents + 1,
                self.letters + len(text),
            )
            self.file.write(json.dumps(text, ensure_ascii=False) + "\n")
