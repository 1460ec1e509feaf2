"""What pocket's pretrained weights are worth: chat SFT from `pocket` and from random weights.

    python -m benchmarks.pretrained_start [--seeds 3] [--epochs 0.5]

Same rows, steps and seeds; each run is scripts/sft_chat.py with no lesson before it. Differences
are taken question by question and averaged over the seeds; intervals are over questions.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import common
from kit import models, scoring, tasks
from kit.engine import checkpoints


def base(name, folder, seed):
    """Return pocket's folder, or a folder with pocket's architecture and weights from `seed`."""
    if name == "pocket":
        return str(models.POCKET)
    model, tokenizer = models.load("pocket", random_seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def hits(model, seed, epochs, questions, task):
    """Return {group: [0 or 1 per question]} after chat SFT from the folder `model`."""
    with tempfile.TemporaryDirectory() as runs:
        flags = {"model": model, "start": "", "run": "chat", "seed": seed, "epochs": epochs}
        command = [sys.executable, "scripts/sft_chat.py"]
        for name, value in flags.items():
            command += [f"--{name}", str(value)]
        subprocess.run(command, check=True, env=os.environ | {"KIT_RUNS": runs})
        model, tokenizer = models.load(next(Path(runs).glob("chat*/model")))
        results = scoring.evaluate(model, tokenizer, questions, task, batch_size=256)
    return {group: [float(hit) for hit in results.hits(group)] for group in results.groups}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=0.5)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/pretrained_start.json")
    )
    options = parser.parse_args()
    task = tasks.load("cron")
    questions, runs = tasks.questions(task), {"random": [], "pocket": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name, results in runs.items():
                start = base(name, Path(folder) / f"base{seed}", seed)
                results.append(hits(start, seed, options.epochs, questions, task))
    record = {
        "date": datetime.date.today().isoformat(),
        **common.machine(),
        "seeds": options.seeds,
        "epochs": options.epochs,
        "weights_sha256": checkpoints.weights_sha256(models.POCKET),
        "groups": {},
    }
    for group in runs["pocket"][0]:
        sides = {name: [run[group] for run in results] for name, results in runs.items()}
        rates = {name: [statistics.mean(seed) for seed in seeds] for name, seeds in sides.items()}
        means = [
            [statistics.mean(seeds) for seeds in zip(*side, strict=True)] for side in sides.values()
        ]
        record["groups"][group] = {
            **rates,
            "n": len(means[0]),
            "difference": scoring.paired_difference(*means),
        }
        print(group, record["groups"][group])
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
