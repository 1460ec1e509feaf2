"""Chat SFT from `pocket` and from random weights of the same architecture: same rows, steps and seeds.

    python benchmarks/pocket_vs_random.py [--epochs 0.2] [--seeds 3]

Writes benchmarks/results/pocket_vs_random.json, which lesson 02 shows. Runs go to a temporary folder.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kit import models, schedules, scoring

PROJECT = Path(__file__).parents[1]
GROUPS = ("test split", "by hand")


def chat_sft(base, seed, epochs, runs):
    """Train scripts/sft_chat.py from `base` and return its model folder."""
    subprocess.run([sys.executable, PROJECT / "scripts" / "sft_chat.py", "--model", base, "--start", "", "--run",
                    f"seed{seed}", "--seed", str(seed), "--epochs", str(epochs)],
                   check=True, env={**os.environ, "KIT_RUNS": str(runs)})
    return next(runs.glob("*/model"))


def hardware():
    import torch

    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return f"{where}, {platform.machine()}, torch {torch.__version__.split('+')[0]}"


def measure(seeds, epochs):
    """(rows of the table, {start: hits on the phrases by hand, seed after seed})."""
    questions = [q for q in scoring.read_questions(schedules, "data_samples/test.jsonl",
                                                   "data_samples/phrases_by_hand.tsv") if q.group in GROUPS]
    rows, hits = [], {"pocket": [], "random": []}
    for seed in range(seeds):
        for start in hits:
            with tempfile.TemporaryDirectory() as folder:
                base = Path(folder) / "base"
                model, tokenizer = models.load("pocket", random_seed=seed if start == "random" else None)
                model.save_pretrained(base)
                tokenizer.save_pretrained(base)
                trained = chat_sft(base, seed, epochs, Path(folder) / "runs")
                results = scoring.evaluate(*models.load(trained), questions, schedules)
            hits[start] += results.hits("by hand")
            rows.append({"start": start, "seed": seed} | {g: results.scores()[g].rate for g in GROUPS})
            print(rows[-1], flush=True)
    return rows, hits


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=0.2, help="passes over chat.jsonl")
    given = parser.parse_args()
    rows, hits = measure(given.seeds, given.epochs)
    difference, low, high = scoring.paired_difference(hits["random"], hits["pocket"])
    result = {"command": f"python benchmarks/pocket_vs_random.py --epochs {given.epochs} --seeds {given.seeds}",
              "hardware": hardware(), "date": time.strftime("%Y-%m-%d"), "runs": rows,
              "difference by hand": {"mean": difference, "low": low, "high": high}}
    (PROJECT / "benchmarks" / "results" / "pocket_vs_random.json").write_text(json.dumps(result, indent=1) + "\n")
    print(result["difference by hand"])
