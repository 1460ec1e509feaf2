"""Time per step of lesson 03 on a CPU under three language-model heads, in one process.

    python -m benchmarks.head_cpu [--steps 24] [--out benchmarks/results/head_cpu.json]

The heads are TRL's own for a CPU (scores every id), TRL's own for a GPU (scores trained ids; one switch), and ours
(scores trained ids once, in one piece). The three take turns on the same batch, in an order that rotates, so that
other programs of the machine disturb all of them alike.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import trl.trainer.utils as trl_utils
from trl import SFTConfig, SFTTrainer
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from kit import chat, models, records, sft

PLAIN = trl_utils._use_triton


def heads():
    """{name: (TRL's switch, TRL's head)}."""
    from kit import speed

    return {"TRL, every id": (PLAIN, ChunkedLogProbFunction),
            "TRL, trained ids": (lambda device: True, ChunkedLogProbFunction),
            "ours, trained ids": (lambda device: True, speed.trained_ids_head())}


def trainer(folder, batch_size):
    """Lesson 03's trainer: pocket, chat rows of the course, batches of similar length."""
    model, tokenizer = models.load("pocket")
    chat.add_role_tokens(tokenizer, model)
    rows = records.read(records.find("data_samples/cron/chat.jsonl"), "chat")
    encoded = chat.encode_chats(tokenizer, [row["messages"] for row in rows])
    config = SFTConfig(output_dir=folder, **sft.hardware(batch_size, batch_size), max_length=None, report_to="none",
                       dataset_kwargs={"skip_prepare_dataset": True}, learning_rate=0.0)
    return SFTTrainer(model, config, train_dataset=sft.sft_dataset(encoded, batch_size, 0), processing_class=tokenizer)


def measure(steps, batch_size=16):
    """[{head: (seconds, loss)}] of each step: forward, backward, clipping and AdamW."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(folder, batch_size)
        made.create_optimizer()  # its rate is 0: all heads see the same weights
        made.current_gradient_accumulation_steps = 1
        batches = iter(made.get_train_dataloader())
        for step in range(steps + 2):
            batch, row = next(batches), {}
            names = list(heads())
            for name in names[step % 3:] + names[:step % 3]:
                trl_utils._use_triton, trl_utils._ChunkedLogProbFunction = heads()[name]
                start = time.perf_counter()
                loss = made.training_step(made.model, dict(batch))
                torch.nn.utils.clip_grad_norm_(made.model.parameters(), 1.0)
                made.optimizer.step()
                made.model.zero_grad(set_to_none=True)
                row[name] = (time.perf_counter() - start, float(loss))
            results.append(row)
    return results[2:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/head_cpu.json"))
    options = parser.parse_args()
    rows = measure(options.steps)
    base = "ours, trained ids"
    summary = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "machine": platform.machine(),
               "torch": torch.__version__, "steps": len(rows), "heads": {}}
    for name in rows[0]:
        ratios = sorted(row[name][0] / row[base][0] for row in rows)
        summary["heads"][name] = {
            "median_s": round(statistics.median(row[name][0] for row in rows), 4),
            "times_ours": round(statistics.median(ratios), 3),
            "times_ours_quarter_to_three_quarters": [round(ratios[len(ratios) // 4], 3),
                                                     round(ratios[3 * len(ratios) // 4], 3)]}
    print(json.dumps(summary, indent=1))
    options.out.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
