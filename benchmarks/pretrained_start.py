"""What the pretrained weights are worth: chat SFT from `pocket` and from random weights, same rows, steps and seeds.

    python benchmarks/pretrained_start.py [--seeds 3] [--epochs 0.5] [--out benchmarks/results/pretrained_start.json]

Each run is scripts/sft_chat.py with its default settings besides --epochs, and no lesson before it. The difference is taken question by
question, averaged over the seeds; its interval is over questions.
"""

import argparse
import dataclasses
import datetime
import importlib.util
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path
from statistics import mean, stdev

from kit import models, schedules, scoring, show
from kit.engine import checkpoints, fingerprint

PROJECT = Path(__file__).parents[1]
GROUPS = ("test split", "by hand", "edits", "right kind")


def lesson():
    spec = importlib.util.spec_from_file_location("sft_chat", PROJECT / "scripts" / "sft_chat.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_base(folder, seed):
    """The architecture and tokenizer of `pocket` with weights drawn from `seed`."""
    model, tokenizer = models.load("pocket", random_seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def hits(chat, base, seed, epochs, questions):
    """{group: [right or wrong, a question]} after chat SFT from `base`."""
    params = dataclasses.replace(chat.Params(), model=base, start="", seed=seed, epochs=epochs)
    run = chat.start_run(params)
    chat.train(params, run)
    model, tokenizer = models.load(run.model)
    results = scoring.evaluate(model, tokenizer, questions, schedules, batch_size=256)
    return {group: [bool(hit) for hit in results.hits(group)] for group in GROUPS}


def difference(first, second):
    """(mean, low, high) of second - first over questions; each side: one list of hits a seed."""
    change = [mean(after) - mean(before) for before, after in zip(zip(*first, strict=True), zip(*second, strict=True),
                                                                  strict=True)]
    half = scoring.Z95 * stdev(change) / len(change) ** 0.5
    return mean(change), mean(change) - half, mean(change) + half


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "results" / "pretrained_start.json")
    given = parser.parse_args()
    questions = scoring.read_questions(schedules, "data_samples/cron/test.jsonl", "data_samples/cron/phrases_by_hand.tsv")
    chat, found = lesson(), {"pocket": [], "random": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KIT_RUNS"] = folder
        for seed in range(given.seeds):
            found["random"].append(hits(chat, random_base(Path(folder) / f"base{seed}", seed), seed, given.epochs, questions))
            found["pocket"].append(hits(chat, str(models.POCKET), seed, given.epochs, questions))
            # The next seed starts the same run anew.
            for run in Path(folder).glob("03_sft_chat*"):
                shutil.rmtree(run)
            print(f"seed {seed}:", {name: {g: round(mean(h), 3) for g, h in runs[-1].items()}
                                    for name, runs in found.items()}, flush=True)
    out = {"device": models.device(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
           "versions": fingerprint.environment(), "date": datetime.date.today().isoformat(), "seeds": given.seeds, "epochs": given.epochs,
           "weights_sha256": checkpoints.weights_sha256(models.POCKET), "data_sha256":
           fingerprint.source(PROJECT / "data_samples" / "cron" / "chat.jsonl")[1], "groups": {}}
    for group in GROUPS:
        sides = {name: [run[group] for run in runs] for name, runs in found.items()}
        low = difference(sides["random"], sides["pocket"])
        out["groups"][group] = {**{name: [mean(h) for h in runs] for name, runs in sides.items()},
                                "n": len(sides["pocket"][0]), "difference": low}
    given.out.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    print(show.table(["group", "n", "random", "pocket", "difference, 95% interval"],
                     [[g, r["n"], *(" ".join(f"{x:.1%}" for x in r[s]) for s in ("random", "pocket")),
                       "{:+.1%} [{:+.1%}, {:+.1%}]".format(*r["difference"])] for g, r in out["groups"].items()]))


if __name__ == "__main__":
    main()
