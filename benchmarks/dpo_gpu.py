"""DPO of smollm2-135m on one GPU: its settings chosen on validation rows, then scored once on the test questions.

    python benchmarks/dpo_gpu.py --data DATA/* --work WORK --out OUT [--seconds 600]

DATA/* as in course_gpu.py, which trains completion SFT and a long chat SFT first (in WORK; what is there is kept).
The chat model then answers preference prompts; its own pairs, and those of the files, train it under SETTINGS, beside
the control: SFT on the same chosen replies, in as many steps. The rule, fixed before the first run: the setting with
the largest mean of right translations, edits and kinds of reply on validation rows, greedy. Test split and phrases by
hand are asked for the chat model, the chosen setting and its control only, with three seeds. OUT/results.jsonl grows
with each result, OUT/dpo_gpu.json with each phase.
"""

import argparse
import datetime
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # several processes share the card

from kit import dpo, runs, schedules, scoring, sft
from kit.engine import fingerprint

PROJECT = Path(__file__).parents[1]
BATCH, SEEDS = 64, (0, 1, 2)
OWN_K, SAMPLES = 2, 1  # sampled replies: to a prompt for pairs, to a question for its score
FINAL = 0.4  # share of what is left after sampling that is kept for the test questions
START = {"set": "own form", "loss": "sigmoid", "lr": 1e-5, "beta": 0.3, "sft": 1.0, "steps": 75, "batch": BATCH}
SETTINGS = [START, {**START, "lr": 3e-6}, {**START, "beta": 0.1, "sft": 3.0}, {**START, "loss": "sft"},
            {**START, "set": "mixed", "steps": 150}, {**START, "set": "file", "lr": 5e-6},
            {**START, "lr": 3e-5, "beta": 1.0}, {**START, "loss": "sft", "lr": 5e-5}]
VALIDATION = {"translate": 960, "edit": 256, "ask": 128, "cannot": 128, "decline": 128}
CHOSEN_BY = ("test split", "edits", "right kind")  # the groups of the rule, on validation rows


def module(name, folder="benchmarks"):
    """The module of a file of this project that is no package."""
    sys.path.insert(0, str(PROJECT / folder))
    spec = importlib.util.spec_from_file_location(name, PROJECT / folder / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    sys.path.pop(0)
    return found


dpo_sweep = module("dpo_sweep")


def flags():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders that data_samples/make.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--work", type=Path, required=True, help="folder for data and pairs")
    parser.add_argument("--seconds", type=float, default=600, help="all of it")
    parser.add_argument("--completion_rows", type=int, default=50_000)
    parser.add_argument("--chat_rows", type=int, default=140_800)
    parser.add_argument("--follow_ups", type=float, default=0.3, help="share of chat rows with edits")
    parser.add_argument("--sft_batch", type=int, default=256, help="rows a step of the two SFT stages")
    parser.add_argument("--prompts", type=int, default=6_400, help="preference prompts that the chat model answers")
    parser.add_argument("--workers", type=int, default=4, help="processes on the card")
    parser.add_argument("--toy", action="store_true", help="few steps and questions, to see that it runs")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


class Bench(dpo_sweep.Bench):
    """Trains and scores settings in the precision of the scripts: bfloat16 products where the card has them."""

    def __init__(self, given):
        self.given, self.out, self.toy, self.model = given, given.work, given.toy, chat_model(given)
        self.dpo, self.base, self.pairs, self.samples = module("dpo", "scripts"), None, None, SAMPLES
        self.size, self.micro = (32 if given.toy else 512), BATCH

    def load(self):
        """The chat model and the questions: more validation rows than the course's file, half of them wide."""
        from kit import models

        if self.base is None:
            self.base, self.tokenizer = models.load(self.model)
            self.questions = {"validation": scoring.read_questions(schedules, self.out / "validation.jsonl"),
                              "test": scoring.read_questions(schedules, PROJECT / "data_samples" / "cron" / "test.jsonl",
                                                             PROJECT / "data_samples" / "cron" / "phrases_by_hand.tsv")}
            if self.toy:
                self.questions["test"] = self.questions["test"][::12]

    def do(self, job):
        self.load()
        if job["do"] == "sample":
            return self.sample(job["shard"], job["of"])
        try:
            found = super().do(job)
        finally:
            self.free()
        return found

    def sample(self, shard, of):
        """Write this shard's pairs out of the model's own replies, and as many rows of the files."""
        rows = prompts(self.given)[shard::of]
        texts = dpo.sample(self.base, self.tokenizer, rows, OWN_K, seed=shard, batch_size=self.size)
        own = dpo.own(rows, texts, schedules, form=True)
        wrong = len(dpo.own(rows, texts, schedules))
        self.file(f"shard {shard}", 0).write_text("".join(json.dumps(row) + "\n" for row in own))
        self.free()
        return {"pairs": len(own), "wrong": wrong, "asked": len(rows)}

    def file(self, name, seed):
        return self.out / f"pairs-{name.replace(' ', '-')}.jsonl"  # one file for all seeds

    def train(self, job):
        """As the sweep does; where pairs do not fit beside the other processes, fewer at once."""
        import torch

        try:
            return super().train(job)
        except torch.OutOfMemoryError:
            self.micro //= 4
        self.free()
        return super().train(job)

    def free(self):
        import gc

        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def chat_model(given):
    return runs.root() / sft.run_name("03_sft_chat", given.model) / "model"


def prompts(given):
    """The first --prompts rows of the preference files."""
    lines = itertools.chain.from_iterable((folder / "preferences.jsonl").open(encoding="utf-8")
                                          for folder in given.data)
    return [json.loads(line) for line in itertools.islice(lines, given.prompts)]


def course(given):
    """Completion and chat SFT by course_gpu.py; its results are copied to OUT, also where it fails."""
    folder = given.work / "course"
    command = [sys.executable, str(PROJECT / "benchmarks" / "course_gpu.py"), "--model", given.model, "--data",
               *map(str, given.data), "--out", str(folder), "--until", "chat SFT", "--chat_rows", str(given.chat_rows),
               "--completion_rows", str(given.completion_rows), "--follow_ups", str(given.follow_ups),
               "--batch_size", str(given.sft_batch), *(["--questions", "20"] if given.toy else [])]
    code = subprocess.run(command, check=False).returncode
    for file in [*folder.glob("*.json*"), *folder.glob("*.log")]:
        shutil.copy(file, given.out)
    if code or not chat_model(given).is_dir():
        raise SystemExit(f"the chat model could not be made: exit code {code}")
    return json.loads((folder / "course_gpu.json").read_text())


def validation(given):
    """Write validation rows whose phrases no training row has: half in narrow, half in wide wording."""
    make = module("make", "data_samples/generator")
    wanted = [(kind, "none") for kind, count in VALIDATION.items() for _ in range(count // (40 if given.toy else 1))]
    writers = [make.Writer("validation", f"dpo_gpu {wide}", make.SEED, wide) for wide in (False, True)]
    rows = [make.gold_row(writers[at % 2], *key) for at, key in enumerate(wanted)]
    (given.work / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def merge(given, shards):
    """Pair files of the sets: own form, file, and the two in turn."""
    own = [line for shard in range(shards) for line in
           (given.work / f"pairs-shard-{shard}.jsonl").read_text().splitlines(keepends=True)]
    file = [json.dumps(row) + "\n" for row in prompts(given)]
    mixed = list(itertools.chain.from_iterable(zip(own, file[::-1], strict=False)))  # few prompts come twice
    for name, lines in (("own-form", own), ("file", file), ("mixed", mixed)):
        (given.work / f"pairs-{name}.jsonl").write_text("".join(lines))
    return {"own form": len(own), "file": len(file), "mixed": len(mixed)}


def chosen_by(told):
    """The number of the rule: the mean of the groups' rates of one `levels` table."""
    return sum(told[f"right, {group}"] for group in CHOSEN_BY) / len(CHOSEN_BY)


def mean_levels(results):
    """Rates of a setting, the mean over its seeds."""
    each = [dpo_sweep.levels(result["scores"]) for result in results]
    return {name: sum(told[name] for told in each) / len(each) for name in each[0]}


def score_of(result, group, what="right"):
    """kit.scoring.Score of one result on a group."""
    scores = result["scores"]
    return scoring.score(hit for hit, g in zip(scores[what], scores["groups"], strict=True) if group in (g, "all"))


def job(setting, on, seed):
    return {"do": "train", "on": on, "seed": seed, **setting}


def start(on):
    return {"do": "train", "on": on, "seed": 0, "steps": 0}


def choose(workers, given, found, keep):
    """Every setting and control once on validation rows; return (DPO setting, control) by the rule."""
    tried = [{**s, "steps": 2} for s in SETTINGS[2:5]] if given.toy else SETTINGS
    until = workers.until - FINAL * max(workers.until - time.monotonic(), 0)
    results = workers.map([start("validation"), *(job(s, "validation", 0) for s in tried)], until)
    before, table = results[0], []
    if before:
        found["validation before"] = mean_levels([before])
    for setting, result in zip(tried, results[1:], strict=True):
        if result:
            told = mean_levels([result])
            table.append({"setting": setting, "levels": told, "mean": chosen_by(told), "seconds": result["seconds"],
                          "change": dpo_sweep.verdict(before, [result]) if before else None,
                          **{key: result[key] for key in ("loss", "logps/chosen", "logps/rejected")}})
    keep(validation=table)
    picked = [max((row for row in table if (row["setting"]["loss"] == "sft") == control), default=None,
                  key=lambda row: row["mean"]) for control in (False, True)]
    return [row["setting"] for row in picked if row]


def final(workers, settings, found, keep):
    """The chosen setting and its control on the test questions, three seeds each, against the chat model."""
    jobs = [job(setting, "test", seed) for seed in SEEDS for setting in settings]  # a seed of each before the next
    results = workers.map([start("test"), *jobs], workers.until)
    before, groups, told = results[0], (*CHOSEN_BY, "by hand", "all"), []
    for at, setting in enumerate(settings):
        of = [r for r in results[1 + at :: len(settings)] if r]
        if of:
            told.append({"setting": setting, "seeds": len(of), "levels": mean_levels(of), "results": [
                {"seed": r["job"]["seed"], "seconds": r["seconds"],
                 **{group: score_of(r, group).as_dict() for group in groups},
                 "valid": scoring.score(r["scores"]["valid"]).as_dict(),
                 "preferred": scoring.score(r["scores"]["liked"]).as_dict()} for r in of],
                "change": dpo_sweep.verdict(before, of) if before else None})
    if before:
        found["test before"] = {"levels": mean_levels([before]),
                                **{group: score_of(before, group).as_dict() for group in groups}}
    keep(test=told)
    both = [[r["scores"] for r in results[1 + at :: 2] if r] for at in range(2)] if len(settings) == 2 else [[], []]
    if both[0] and len(both[0]) == len(both[1]):
        dpo, control = both
        keep(against_control={
            **{f"right, {line}": dpo_sweep.change(control, dpo, "right", line) for line in dpo_sweep.LINES},
            "preferred, sampled": dpo_sweep.change(control, dpo, "sampled liked")})


def named(s):
    return (f"{'SFT' if s['loss'] == 'sft' else 'DPO':4}{s['set']:9} lr {s['lr']:.0e} beta {s['beta']:<4} "
            f"sft {s['sft']} steps {s['steps']:3}")


def show(found):
    """What was found, a line a setting."""
    def line(levels):
        return "  ".join(f"{short} {levels[key]:6.1%}" for key, short in dpo_sweep.SHORT.items() if key in levels)

    print("\nvalidation, seed 0")
    print(f"{'chat SFT':48}", line(found.get("validation before", {})))
    for row in sorted(found.get("validation", []), key=lambda row: -row["mean"]):
        print(f"{named(row['setting']):48}", line(row["levels"]), f" mean {row['mean']:.2%}  {row['seconds']} s")
    print("\ntest questions, mean over seeds, and change against chat SFT in points")
    print(f"{'chat SFT':48}", line(found.get("test before", {}).get("levels", {})))
    for row in found.get("test", []):
        print(f"{named(row['setting']):48}", line(row["levels"]), f" x{row['seeds']}")
        for r in row["results"]:
            print(f"  seed {r['seed']}: " + "  ".join("{} {rate:.1%} [{low:.1%}, {high:.1%}]".format(group, **r[group])
                                                     for group in (*CHOSEN_BY, "by hand")))
        if row["change"]:
            print(f"{'':4}", dpo_sweep.points(row["change"]))
    if found.get("against_control"):
        print("DPO minus control:", dpo_sweep.points(found["against_control"]))


def main():
    given = flags()
    for folder in (given.work, given.out):
        folder.mkdir(parents=True, exist_ok=True)
    if given.worker:
        return dpo_sweep.work(Bench, given)
    begun, found = time.monotonic(), {"command": sys.argv[1:], "date": datetime.date.today().isoformat(),
                                      "versions": fingerprint.environment(), "phases": {}}
    workers = dpo_sweep.Workers(given.workers, given.out, begun + given.seconds)  # they import while SFT trains

    def keep(**more):
        found.update(more)
        found["phases"] |= {name: round(time.monotonic() - begun) for name in more}
        (given.out / "dpo_gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        print(f"{time.monotonic() - begun:5.0f} s  {', '.join(more)}", flush=True)

    try:
        validation(given)
        keep(chat=course(given)["stages"].get("chat SFT"))
        shards = workers.map([{"do": "sample", "shard": n, "of": given.workers} for n in range(given.workers)],
                             workers.until)
        keep(sampled=shards, pairs=merge(given, given.workers))
        final(workers, choose(workers, given, found, keep), found, keep)
    except Exception:  # noqa: BLE001  what is there is shown in any case
        traceback.print_exc()
    finally:
        workers.close()
        keep(errors=[r["error"] for r in workers.done.values() if "error" in r])
    show(found)


if __name__ == "__main__":
    main()
