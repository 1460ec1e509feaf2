"""Measure what leaves: sizes, load time, tokens per second, replies changed; kit and llama.cpp.

python benchmarks/ship.py RUN [--threads N] [--rows N]

The kit generates 128 replies at once in float32. llama.cpp generates 4 at once.
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from kit import chat, models, runs, scoring, ship, tasks


def timed(function, *args):
    begin = time.perf_counter()
    return function(*args), time.perf_counter() - begin


def in_llama(file, chats, limit, threads):
    begin = time.perf_counter()
    with ship.serving(file, threads=threads) as server, ThreadPoolExecutor(4) as pool:
        load = time.perf_counter() - begin
        ask = pool.map(lambda messages: server.reply(messages, limit), chats)
        replies, seconds = timed(list, ask)
    return replies, seconds, load


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = models.load(options.run, where="cpu")
    task = tasks.of_run(runs.find(options.run))
    chats = [question.messages for question in tasks.questions(task)[: options.rows]]
    limit = task.max_new_tokens
    right, seconds = timed(lambda: scoring.replies(model, tokenizer, chats, max_new_tokens=limit))
    lines = [
        {
            "weights": "kit f32",
            "MB": 4e-6 * model.num_parameters(),
            "load_s": None,
            "tokens_per_s": tokens(tokenizer, right) / seconds,
            "changed": 0,
        }
    ]
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("f16", *ship.QUANTISED):
            file = Path(folder) / kind
            ship.write_gguf(model, tokenizer, file, kind, secret="benchmark")
            replies, seconds, load = in_llama(file, chats, limit, options.threads)
            lines.append(
                {
                    "weights": kind,
                    "MB": file.stat().st_size / 1e6,
                    "load_s": load,
                    "tokens_per_s": tokens(tokenizer, replies) / seconds,
                    "changed": ship.differ(replies, right),
                }
            )
    for line in lines:
        print(
            json.dumps(
                {
                    key: round(value, 3) if isinstance(value, float) else value
                    for key, value in (line | {"rows": len(chats)}).items()
                }
            )
        )


def tokens(tokenizer, texts):
    """Return the ids that were generated: those of the texts and a stop token each."""
    return sum(map(len, chat.encode_text(tokenizer, texts))) + len(texts)


if __name__ == "__main__":
    main()
