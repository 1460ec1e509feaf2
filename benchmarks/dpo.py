"""Gain of lesson 04's DPO over the chat model, beside SFT on the chosen replies, over seeds.

    python -m benchmarks.dpo [--seeds 3] [--split validation] [--set "rate / 3: --learning_rate 1e-4"]

Each setting is scripts/dpo.py with its default flags and those after the colon. Runs 02 and 03 must
exist (`make course`). Differences are taken question by question and averaged over the seeds; their
intervals are over questions. The last setting is the control: SFT on the chosen replies alone.
"""

import argparse
import datetime
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks import common

CONTROL = "SFT on chosen: --loss sft"
MEASURES = ("correct", "preferred")


def hits(run, split, task="cron"):
    """Return {measure: [0 or 1 per question]} of a run."""
    from kit import models, scoring, tasks

    task = tasks.load(task)
    model, tokenizer = models.load(run)
    results = scoring.evaluate(model, tokenizer, tasks.questions(task, split), task)
    return {what: [float(hit) for hit in results.hits(None, what)] for what in MEASURES}


def change(before, after):
    """Return {measure: (difference, low, high)}; `after` has one entry per seed."""
    from kit import scoring

    differences = {}
    for what in MEASURES:
        means = [
            statistics.mean(seeds) for seeds in zip(*(run[what] for run in after), strict=True)
        ]
        difference = scoring.paired_difference(before[what], means)
        differences[what] = [float(number) for number in difference]
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--split", default="validation", help="choose on validation, report on test"
    )
    parser.add_argument("--start", default="03_sft_chat-pocket", help="run of the chat model")
    parser.add_argument("--set", action="append", default=[], help="name: flags of scripts/dpo.py")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/dpo.json"))
    options = parser.parse_args()
    before, rows = hits(options.start, options.split), []
    for setting in ["lesson:", *options.set, CONTROL]:
        name, _, flags = setting.partition(":")
        after = []
        for seed in range(options.seeds):
            run = f"dpo-{name.replace(' ', '-').replace('/', '')}-{seed}"
            command = [sys.executable, "scripts/dpo.py", "--run", run, "--seed", str(seed)]
            subprocess.run([*command, *shlex.split(flags)], check=True)
            after.append(hits(f"{run}-pocket", options.split))
        rows.append(
            {
                "setting": name,
                "flags": flags.strip(),
                "seeds": options.seeds,
                "change": change(before, after),
            }
        )
        print(rows[-1], flush=True)
    record = {
        "date": datetime.date.today().isoformat(),
        "split": options.split,
        **common.machine(),
        "rows": rows,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
