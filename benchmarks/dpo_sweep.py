"""Which DPO settings mend the sampled replies of the chat model without losing accuracy, and what SFT does instead.

python benchmarks/dpo_sweep.py --out DIR [--workers 12] [--seconds 200] [--model DIR] [--validation FILE]
                               [--chosen SUMMARY [--rates LR ..] [--weights W ..] [--sets NAME ..] [--verdict]]

With --chosen, the setting of an earlier summary.json is scored on the test questions first, and the table around it
follows; --verdict stops before the table. With --rates, --weights or --sets, the rule below first chooses its step
size, SFT weight and pairs among them. --model takes a chat model that is there, --validation more rows to choose by.

Trains the chat model as lessons 02 and 03 do (float32), pairs as lesson 04 does, and runs `scripts/dpo.py`'s trainer
over a grid. Everything is chosen on validation rows by a rule that was fixed before the first run: of the settings
that take at most MOST_PAIRS pairs and lose no accuracy, no validity and no line of the scoreboard there, the one with
the largest gain in preferred replies (sampled at temperature 1). Test split and phrases by hand are scored once, for
the chosen setting, its controls and plain DPO. Writes DIR/results.jsonl as results come and DIR/summary.json.
"""

import argparse
import importlib.util
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from kit import schedules, scoring

PROJECT = Path(__file__).parents[1]
SEEDS, K = (0, 1, 2), 4
MOST_PAIRS = 768  # what two cores train in the lesson's time
OWN, OWN_K, MIXED = 480, 2, 256  # prompts and samples of the own pairs: what two cores sample in the lesson
# behaviour: preferences.jsonl. own: the model's replies to its first OWN prompts, rejected ones wrong. own form: or
# right in a form people rank lower. mixed form: own form for the first MIXED prompts, then rows of the file.
PAIR_SETS = ("behaviour", "own", "own form", "mixed form")
START = {"set": "mixed form", "loss": "sigmoid", "lr": 3e-4, "beta": 0.1, "sft": 1.0, "steps": 24, "batch": 32}
RATES = (1e-4, 3e-4, 1e-3)
LENGTH_BETA = {"sigmoid": 1, "sigmoid_norm": 10, "ipo": 10}  # these two divide the margin by about ten ids
PLAIN = {"set": "behaviour", "loss": "sigmoid", "lr": 1e-3, "beta": 0.1, "sft": 0.0, "steps": 24,
         "batch": 32}


# Worker: one process with the models on the device; a job a line on stdin, a result a line on stdout


def lesson(name):
    """The module of scripts/`name`.py."""
    spec = importlib.util.spec_from_file_location(name, PROJECT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Bench:
    """The chat model and its pairs, on the device of this process."""

    def __init__(self, out, toy, model=None, samples=K, validation="data_samples/cron/validation.jsonl"):
        import torch

        from kit import models
        from kit.engine import attention

        models.compute_dtype = lambda where=None: torch.float32  # the same on every machine
        attention.use = lambda model: model  # on a GPU, packed float32 rows are a call each
        self.out, self.toy, self.dpo, self.model, self.samples = out, toy, lesson("dpo"), model, samples
        self.validation = validation
        self.size = 1024 if torch.cuda.is_available() else 64
        self.micro = 10_000  # pairs at once, at most
        self.base = self.pairs = None

    def run(self, seed):
        """What a trainer needs of a run; nothing is saved."""
        return SimpleNamespace(settings=lambda: {
            "output_dir": str(self.out / "unused"), "seed": seed, "data_seed": seed, "save_strategy": "no",
            "logging_strategy": "steps", "logging_steps": 1, "report_to": "none", "disable_tqdm": True})

    def prepare(self):
        """Chat model as lessons 01 to 03 make it, into DIR/model, and its own pairs, into DIR/pairs-SET-SEED.jsonl."""
        from kit import dpo, models, records

        model, tokenizer = models.load(self.model) if self.model else (None, None)
        for name in () if self.model else ("sft_completion", "sft_chat"):
            module = lesson(name)
            params = replace(module.Params(), start="", **({"epochs": 0.02} if self.toy else {}))
            if model is None:
                model, tokenizer = module.load_start(params)
            _, encoded = module.load_rows(params, tokenizer)
            trainer = module.make_trainer(params, self.run(0), model, tokenizer, encoded)
            trainer.train()
        model.save_pretrained(self.out / "model")
        tokenizer.save_pretrained(self.out / "model")
        rows = list(records.read(records.find("data_samples/cron/preferences.jsonl"), "preferences"))
        rows = rows[: 40 if self.toy else None]
        for seed in SEEDS[: 1 if self.toy else None]:
            asked = rows[:OWN]
            samples = dpo.sample(model, tokenizer, asked, OWN_K, seed=seed, batch_size=self.size)
            mixed = dpo.own(rows[:MIXED], samples[:MIXED], schedules, True) + rows[MIXED:MOST_PAIRS]
            made = {"own": dpo.own(asked, samples, schedules), "behaviour": rows, "mixed form": mixed,
                    "own form": dpo.own(asked, samples, schedules, True)}
            for name, found in made.items():
                self.file(name, seed).write_text("".join(json.dumps(row) + "\n" for row in found))
        return {"pairs": {name: len(found) for name, found in made.items()}, "device": str(model.device)}

    def file(self, name, seed):
        return self.out / f"pairs-{name.replace(' ', '-')}-{seed}.jsonl"

    def load(self):
        from kit import models

        if self.base is None:
            self.base, self.tokenizer = models.load(self.out / "model")
            self.questions = {"validation": scoring.read_questions(schedules, self.validation),
                              "test": scoring.read_questions(schedules, "data_samples/cron/test.jsonl",
                                                             "data_samples/cron/phrases_by_hand.tsv")}
            if self.toy:
                self.questions = {name: found[::25] for name, found in self.questions.items()}

    def train(self, job):
        """A copy of the chat model after `job`, and the last log line."""
        import copy

        import torch

        policy, seed = copy.deepcopy(self.base), job["seed"]
        if not job["steps"]:
            return policy, {}
        file = self.file(job["set"], 0 if self.toy else seed)
        params = replace(self.dpo.Params(), data=str(file), on_bad="skip", seed=seed,
                         loss=job["loss"], learning_rate=job["lr"], beta=job["beta"], sft_weight=job["sft"],
                         batch_size=job["batch"], micro_batch_size=min(job["batch"], self.micro))
        rows, encoded = self.dpo.load_rows(params, self.tokenizer)
        batches = -(-len(encoded) // job["batch"])
        params = replace(params, epochs=(job["steps"] - 0.5) / batches)  # the trainer rounds up to whole steps
        trainer = self.dpo.make_trainer(params, self.run(seed), policy, copy.deepcopy(self.base), self.tokenizer,
                                        encoded)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        begun = time.monotonic()
        trainer.train()
        logs = [log for log in trainer.state.log_history if "loss" in log]
        assert trainer.state.global_step == job["steps"], (trainer.state.global_step, job)
        told = {key: [logs[0].get(key), logs[-1].get(key)] for key in ("loss", "logps/chosen", "logps/rejected")}
        return policy, {**told, "seconds": round(time.monotonic() - begun, 3)}

    def score(self, model, name, seed):
        """Per question: greedy right, valid and preferred, and the rates of K samples right and preferred."""
        questions, size = self.questions[name], self.size
        asked = [q for q in questions if q.group != "by hand"]
        greedy = scoring.evaluate(model, self.tokenizer, questions, schedules, batch_size=size)
        many = scoring.evaluate(model, self.tokenizer, [q for q in asked for _ in range(self.samples)], schedules,
                                batch_size=size, temperature=1.0, seed=1000 + seed)
        right, k = [v.correct for v in many.verdicts], self.samples
        return {"groups": [q.group for q in questions], "right": [int(v.correct) for v in greedy.verdicts],
                "valid": [int(v.valid) for v in greedy.verdicts], "liked": [int(x) for x in greedy.liked],
                "sampled liked": [sum(many.liked[at : at + k]) / k for at in range(0, len(right), k)],
                "sampled right": [sum(right[at : at + k]) / k for at in range(0, len(right), k)]}

    def do(self, job):
        if job["do"] == "prepare":
            return self.prepare()
        self.load()
        model, told = self.train(job)
        return {**told, "scores": self.score(model, job["on"], job["seed"])}


def work(make, *options):
    """Serve jobs with the bench that `make(*options)` gives; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    bench = make(*options)
    import trl  # noqa: F401  seconds of import, done while another worker prepares

    for line in sys.stdin:
        job = json.loads(line)
        begun = time.monotonic()
        try:
            result = bench.do(job)
        except Exception as error:  # noqa: BLE001  one failed job must not end the sweep
            result = {"error": repr(error)[:500]}
        print(json.dumps({"job": job, **result, "took": round(time.monotonic() - begun, 2)}), file=answers, flush=True)


# Parent: deals jobs, applies the rule, prints


class Workers:
    """`count` worker processes; each result is appended to DIR/results.jsonl as it comes."""

    def __init__(self, count, out, until):
        command = [sys.executable, *sys.argv, "--worker"]
        self.log, self.until, self.begun = open(out / "workers.log", "w"), until, time.monotonic()
        self.all = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
                    for _ in range(count)]
        self.file, self.lock = open(out / "results.jsonl", "a"), threading.Lock()
        self.done = {}

    def map(self, jobs, until):
        """Results of `jobs` in order, None where time ran out or the job failed; equal jobs are done once."""
        waiting = queue.SimpleQueue()
        for key in dict.fromkeys(json.dumps(job, sort_keys=True) for job in jobs):
            if key not in self.done:
                waiting.put(key)

        def serve(worker):
            while time.monotonic() < min(until, self.until):
                try:
                    key = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    worker.stdin.write(key + "\n")
                    worker.stdin.flush()
                    line = worker.stdout.readline()
                except OSError:
                    line = ""
                if not line:  # the worker died: another one takes the job
                    waiting.put(key)
                    return
                with self.lock:
                    self.file.write(line)
                    self.file.flush()
                    self.done[key] = json.loads(line)

        threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in self.all]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, self.until + 5 - time.monotonic()))
        found = [self.done.get(json.dumps(job, sort_keys=True)) for job in jobs]
        return [result if result and "error" not in result else None for result in found]

    def close(self):
        for worker in self.all:
            worker.kill()


LINES = ("all", "test split", "edits", "right kind", "by hand")


def change(before, after, what, line="all"):
    """(change, low, high) of a list over seeds of one setting against `before`, paired by question."""
    def rates(results):
        kept = [i for i, group in enumerate(results[0]["groups"][: len(results[0][what])]) if line in ("all", group)]
        return [sum(r[what][i] for r in results) / len(results) for i in kept]

    pairs = rates(before), rates(after)
    return scoring.paired_difference(*pairs) if pairs[0] else None


def levels(scores):
    """The rates of one model, by the names of `verdict`."""
    zero = {key: value if key == "groups" else [0] * len(value) for key, value in scores.items()}
    return {name: told[0] for name, told in verdict({"scores": zero}, [{"scores": scores}]).items()}


def verdict(start, results):
    """The numbers of one setting against the chat model: {name: (change, low, high)}."""
    before, after = [start["scores"]], [r["scores"] for r in results]
    out = {f"right, {line}": change(before, after, "right", line) for line in LINES}
    out |= {"valid": change(before, after, "valid"), "preferred, sampled": change(before, after, "sampled liked"),
            "right, sampled": change(before, after, "sampled right"),
            "preferred, greedy": change(before, after, "liked")}
    return {name: value for name, value in out.items() if value}


def admissible(told):
    """The rule: no loss of accuracy or validity, and no line that is worse by more than its interval."""
    lines = [value for name, value in told.items() if name.startswith("right, ") and name != "right, sampled"]
    return told["right, all"][0] >= 0 and told["valid"][2] >= 0 and all(high >= 0 for _, _, high in lines)


def best(table):
    """The setting with the largest gain among the admissible ones; if none is, among all."""
    able = [row for row in table if row["setting"]["steps"] * row["setting"]["batch"] <= MOST_PAIRS]
    return max([row for row in able if admissible(row["told"])] or able,
               key=lambda row: row["told"]["preferred, sampled"][0])["setting"]


def coarse():
    """Settings around START, a few at a time."""
    made = [{**START, "set": name, "lr": lr} for name in PAIR_SETS for lr in RATES]
    made += [{**START, "set": name, "lr": lr, "loss": "sft"} for name in PAIR_SETS for lr in RATES]
    made += [{**START, "loss": loss, "lr": lr, "beta": beta} for loss in ("sigmoid_norm", "ipo")
             for beta in (1.0, 3.0) for lr in RATES]
    made += [{**START, "lr": lr, key: value} for lr in RATES[:2]
             for key, values in (("beta", (0.03, 0.3, 1.0)), ("sft", (0.0, 0.3, 3.0))) for value in values]
    made += [{**START, "batch": 16, "steps": steps, "lr": lr} for steps in (24, 48) for lr in RATES[:2]]
    made += [{**START, "set": name, "lr": 1e-4, "sft": sft, "beta": beta} for name in ("behaviour", "own form")
             for sft in (0.3, 1.0) for beta in (0.03, 0.3)]
    return made


def around(setting):
    """`setting` with one thing changed at a time, and the SFT control at three rates."""
    made = [{**setting, "set": name} for name in PAIR_SETS if name != setting["set"]]
    made += [{**setting, "steps": x} for x in (8, 16, 24, 47) if x != setting["steps"]]
    made += [PLAIN]
    made += [{**setting, "lr": round(setting["lr"] * x, 9)} for x in (1 / 3, 3)]
    made += [{**setting, "beta": round(setting["beta"] * x, 9)} for x in (1 / 3, 3)]
    made += [{**setting, "sft": x} for x in (0.0, 0.3, 1.0, 3.0) if x != setting["sft"]]
    made += [{**setting, "batch": 16, "steps": steps} for steps in (setting["steps"], 2 * setting["steps"])]
    scale = LENGTH_BETA[setting["loss"]]
    made += [{**setting, "loss": loss, "beta": setting["beta"] / scale * x}
             for loss, x in LENGTH_BETA.items() if loss != setting["loss"]]
    return made + [{**setting, "loss": "sft", "lr": lr} for lr in dict.fromkeys((setting["lr"], *RATES))]


def sweep(workers, begun, seconds, toy, chosen=None, table_too=True, among=()):
    """All phases; returns what summary.json holds. With `chosen`, its verdict comes first, or that of the best `among`."""
    at = lambda share: begun + share * seconds  # noqa: E731
    table = {}

    def measure(settings, seeds, until, on="validation"):
        start, = workers.map([{"do": "train", "on": on, "seed": 0, "steps": 0}], at(0.95))
        jobs = [{"do": "train", "on": on, "seed": seed, **s} for s in settings for seed in seeds]
        found = workers.map(jobs, until)
        for i, setting in enumerate(settings):
            results = found[i * len(seeds) : (i + 1) * len(seeds)]
            if start and all(results):
                table[json.dumps([on, setting], sort_keys=True)] = {
                    "on": on, "setting": setting, "seeds": len(seeds), "told": verdict(start, results),
                    "seconds": [r["seconds"] for r in results], "logps/chosen": [r["logps/chosen"] for r in results]}
        return start

    def rows(seeds):
        return [r for r in table.values() if r["on"] == "validation" and r["seeds"] == seeds
                and r["setting"]["loss"] != "sft"]

    cut = 3 if toy else None
    prepared, = workers.map([{"do": "prepare"}], at(0.6))
    if prepared is None:
        raise SystemExit("the chat model could not be made; see workers.log")
    if chosen is None:
        measure(coarse()[:cut], SEEDS[:1], at(0.6))
        ranked = sorted(rows(1), reverse=True,
                        key=lambda r: (admissible(r["told"]), r["told"]["preferred, sampled"][0]))
        measure([r["setting"] for r in ranked[: 8 if not toy else 1]], SEEDS, at(0.7))
        chosen = best(rows(3) or rows(1))
        measure(around(chosen)[:cut], SEEDS, at(0.8))
        chosen = best(rows(3) or rows(1))
    elif len(among) > 1:
        measure(among, SEEDS, at(0.5))
        chosen = best(rows(3))
    unique = [chosen, {**chosen, "loss": "sft"}]
    starts = {"test": measure(unique, SEEDS, at(1.0), on="test")}
    if table_too:
        starts["validation"] = measure([chosen], SEEDS, at(1.0))
        tried = around(chosen)[:cut]
        for first in range(0, len(tried), 4):  # where time runs out, those before are complete
            measure(tried[first : first + 4], SEEDS, at(0.97))
    for row in table.values():
        row["name"] = named(row["setting"], chosen)
    return {"chosen": chosen, "prepared": prepared, "table": list(table.values()),
            "start": {on: levels(result["scores"]) for on, result in starts.items() if result},
            "against control": against(workers, chosen, [s for s in unique if s["loss"] == "sft"])}


def named(setting, chosen):
    """What a reader calls a setting: the one thing in which it differs from the chosen one, or all it is."""
    if setting["loss"] == "sft":
        other = f", {setting['set']}" if setting["set"] != chosen["set"] else ""
        return f"SFT on chosen, lr {setting['lr']:.0e}{other}"
    if setting == PLAIN:
        return "plain DPO"
    changed = {key: value for key, value in setting.items() if value != chosen[key]}
    return ", ".join(f"{key} {value if isinstance(value, str) else format(value, '.3g')}"
                     for key, value in changed.items()) or "DPO"


def against(workers, chosen, controls):
    """The chosen setting minus each control on the test questions, paired by question, over the seeds."""
    def results(setting):
        jobs = [{"do": "train", "on": "test", "seed": seed, **setting} for seed in SEEDS]
        return [r["scores"] for r in workers.map(jobs, 0) if r]

    out, after = [], results(chosen)
    for control in controls:
        before = results(control)
        if len(before) == len(after) == len(SEEDS):
            told = {"preferred, sampled": change(before, after, "sampled liked"),
                    "valid": change(before, after, "valid"),
                    **{f"right, {line}": change(before, after, "right", line) for line in LINES}}
            out.append({"name": f"DPO minus {named(control, chosen)}", "control": control, "told": told})
    return out


SHORT = {"preferred, sampled": "preferred", "right, all": "right", "right, test split": "test", "right, edits": "edits",
         "right, right kind": "kind", "right, by hand": "hand", "valid": "valid"}


def show(summary):
    """One line a setting, by gain; changes against the chat model in points with 95% intervals."""
    for on in ("validation", "test"):
        print(f"\n{on}")
        found = [r for r in summary["table"] if r["on"] == on]
        for r in sorted(found, key=lambda r: -r["told"]["preferred, sampled"][0]):
            s = r["setting"]
            print(f"{s['set']:10} {s['loss']:12} lr {s['lr']:.0e} beta {s['beta']:<5.3g} sft {s['sft']:<3} "
                  f"steps {s['steps']:<2} batch {s['batch']} x{r['seeds']} "
                  f"{'ok' if admissible(r['told']) else '  '} | {points(r['told'])}")
    for row in summary["against control"]:
        print(f"\n{row['name']} | {points(row['told'])}")
    print("\nchosen:", summary["chosen"])


def points(told):
    return "  ".join(f"{short} {100 * told[k][0]:+.1f} [{100 * told[k][1]:+.1f} {100 * told[k][2]:+.1f}]"
                     for k, short in SHORT.items() if told.get(k))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--chosen", type=Path, help="summary.json of an earlier run")
    parser.add_argument("--verdict", action="store_true", help="with --chosen, the test questions only")
    parser.add_argument("--rates", type=float, nargs="+", help="with --chosen, step sizes to choose from")
    parser.add_argument("--weights", type=float, nargs="+", help="with --chosen, weights of the SFT term to choose from")
    parser.add_argument("--sets", choices=PAIR_SETS, nargs="+", help="with --chosen, pairs to choose from")
    parser.add_argument("--validation", default="data_samples/cron/validation.jsonl", help="rows to choose by")
    parser.add_argument("--model", help="chat model instead of training one")
    parser.add_argument("--samples", type=int, default=K, help="sampled replies a question")
    parser.add_argument("--toy", action="store_true", help="few rows, steps and settings, to see that it runs")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.worker:
        return work(Bench, given.out, given.toy, given.model, given.samples, given.validation)
    begun = time.monotonic()
    workers = Workers(given.workers, given.out, begun + given.seconds)
    chosen = json.loads(given.chosen.read_text())["chosen"] if given.chosen else None
    options = [("lr", given.rates), ("sft", given.weights), ("set", given.sets)]
    among = [chosen | dict(zip(("lr", "sft", "set"), picked, strict=True))
             for picked in itertools.product(*(values or [chosen[key]] for key, values in options))] if chosen else ()
    try:
        summary = sweep(workers, begun, given.seconds, given.toy, chosen, not given.verdict, among)
    finally:
        workers.close()
    errors = [r for r in workers.done.values() if "error" in r]
    summary |= {"jobs": len(workers.done), "errors": [r["error"] for r in errors][:10],
                "seconds": time.monotonic() - begun}
    (given.out / "summary.json").write_text(json.dumps(summary) + "\n")
    show(summary)
    print(f"{summary['jobs']} jobs, {len(errors)} failed, {summary['seconds']:.0f} s", summary["errors"][:3])


if __name__ == "__main__":
    main()
