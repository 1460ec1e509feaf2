"""Measure what each lever on pocket is worth: its base weights and the course's training rows.

    python -m benchmarks.levers --out OUT --budget 560
    python -m benchmarks.levers --out OUT --weights FILE --counts 9000 7500 6000

Each chain is the course: completion SFT, chat SFT and DPO with the settings of scripts/, three
seeds. Stages, and what a smaller machine leaves out:
1. notes and text for a third training of the base are written on all cores; meanwhile chains on the
   present base compare the training rows;
2. each GPU trains one new base (models/pocket/recipe/third.py): a first GPU the one with wide notes;
3. chains on the new bases, with the rows that stage 1 found best, and one set with the present rows;
4. the chosen chains answer the test questions and the phrases by hand, once.
Rows and base are chosen on validation questions that this script draws (`draw_validation`), never
on the test. OUT/levers.json is written after each result; OUT/*.safetensors are the new weights.
"""

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
RECIPE = PROJECT / "models" / "pocket" / "recipe"
CRON = PROJECT / "data_samples" / "cron"
PRESENT, STANDARD = "present", "standard narrow"
# Training rows: a mix and a wording of data_samples/generator/make.py.
ROWS = (STANDARD, "changes narrow", "changes wide", "standard wide")
QUESTIONS = ", questions too"  # after a name of rows: chat SFT trains the users' turns as well
# New bases in order of interest, one per GPU: notes, peak learning rate.
BASES = {
    "wide": ("wide", 1.5e-3),
    "wide, peak 3e-3": ("wide", 3e-3),
    "narrow": ("narrow", 1.5e-3),
    "earlier notes": ("earlier", 1.5e-3),
}
VALIDATION = {"translate": 300, "edit": 400, "ask": 100, "cannot": 100, "decline": 100}
WIDE = 400  # validation phrases in the wide wording
CHAINS_PER_GPU = 6
SEEDS = 3


def draw_validation(file, tiny):
    """Write validation questions of the validation split: four groups, none of them in training.

    The wide phrases stand for typed ones. Training in the wide wording has seen their templates.
    """
    sys.path.insert(0, str(PROJECT / "data_samples" / "generator"))
    import make

    share = 20 if tiny else 1
    writer, rows = make.Writer("validation", "levers", make.SEED), []
    for kind, count in VALIDATION.items():
        rows += [make.gold_row(writer, kind, "none") for _ in range(count // share)]
    wide = make.Writer("validation", "levers wide", make.SEED, wide=True)
    rows += [
        make.gold_row(wide, "translate", "none") | {"group": "wide wording"}
        for _ in range(WIDE // share)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rows_folder(work, name):
    """Return the folder of the rows of a name."""
    return work / "rows" / name.removesuffix(QUESTIONS).replace(" ", "-")


def start_rows(name, work, tiny):
    """Start to write the training files of one kind of rows; return the process."""
    folder, (mix, wording, *number) = rows_folder(work, name), name.split()
    folder.mkdir(parents=True)
    for file in ("cron.py", "by_hand.jsonl"):
        shutil.copy(CRON / file, folder)
    count = ["--rows", "300" if tiny else number[0]] if tiny or number else []
    command = [
        sys.executable,
        "data_samples/generator/make.py",
        "--out",
        str(folder),
        "--mix",
        mix,
        "--wording",
        wording,
        *count,
    ]
    return start(command, folder / "log.txt")


def start(command, log, gpu=None, **variables):
    """Start a command of the project, on one GPU if a number is given."""
    paths = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    environment |= variables
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
    with open(log, "w") as out:
        return subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=out, stderr=subprocess.STDOUT
        )


def chain(job):
    """Train one chain and score it on the drawn validation questions; write its record."""
    from benchmarks.decisions import script
    from kit import models, scoring, sft, tasks

    begin, work = time.monotonic(), Path(job["work"])
    common = {"model": job["base"], "task": job["task"], "seed": job["seed"], "save_steps": 10**6}
    common |= {"epochs": 0.05} if job["tiny"] else {}
    ids = {}
    for name in ("sft_completion", "sft_chat", "dpo"):
        lesson = script(name)
        params = lesson.Params(**common)

        def load_rows(params, tokenizer, split="train", lesson=lesson, name=name):
            rows, encoded = lesson.load_rows(params, tokenizer, split)
            if split == "train" and name != "dpo":
                ids[name] = sum(map(len, encoded))
            return rows, encoded

        if name == "sft_chat" and job["rows"].endswith(QUESTIONS):
            run = train_questions(lesson, params, load_rows)
        else:
            reference = name == "dpo"
            run = sft.train(
                params, load_rows, lesson.make_trainer, evaluate=None, reference=reference
            )
    model, tokenizer = models.load(run.model)
    task = tasks.load(job["task"], check=False)
    results = scoring.evaluate(model, tokenizer, questions(work, task), task)
    record = {
        "base": job["name"],
        "rows": job["rows"],
        "seed": job["seed"],
        "ids": ids,
        "model": str(run.model),
        "validation": hits(results),
        "misses": [[q.messages[-1]["content"], q.right, text] for q, text in results.misses()][
            : 120 if job["seed"] == 0 else 0
        ],
        "seconds": time.monotonic() - begin,
    }
    Path(job["record"]).write_text(json.dumps(record))


def train_questions(lesson, params, load_rows):
    """Train lesson 03 with the users' turns in the loss, which `sft.train` refuses; return the Run."""
    from kit import chat, runs, sft

    model, tokenizer = sft.load_start(params)
    encoded = load_rows(params, tokenizer)[1]
    encoded = [chat.Encoded(row.input_ids, [1] * len(row)) for row in encoded]
    run = runs.start(params, base=runs.start_from(params))
    run.train(lesson.make_trainer(params, run, model, tokenizer, encoded), tokenizer)
    return run


def questions(work, task):
    """Return the drawn validation questions."""
    import dataclasses

    from kit import tasks

    return tasks.questions(
        dataclasses.replace(task, validation=work / "choose.jsonl"), "validation"
    )


def hits(results):
    """Return {group: "0110..."}: one character for each question, 1 where the reply is right."""
    return {g: "".join(str(int(hit)) for hit in results.hits(g)) for g in results.groups}


def test(job):
    """Score a finished chain on the test questions and by hand; write its record."""
    from kit import models, scoring, tasks

    model, tokenizer = models.load(job["model"])
    task = tasks.load("cron", check=False)
    asked = tasks.questions(task)[:: 40 if job["tiny"] else 1]
    Path(job["record"]).write_text(
        json.dumps(hits(scoring.evaluate(model, tokenizer, asked, task)))
    )


def english(job):
    """Measure a base on the held-out text, in bits per byte; write its record."""
    from kit import models, scoring

    model, tokenizer = models.load(job["base"])
    lines = (PROJECT / "models/pocket/heldout.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line) for line in lines][: 3 if job["tiny"] else None]
    Path(job["record"]).write_text(
        json.dumps({"bits_per_byte": scoring.bits_per_byte(model, tokenizer, texts)})
    )


def run_jobs(name, jobs, gpus, end, log):
    """Run jobs as processes, one after the other where a GPU is full; return finished records.

    After `end` (seconds of time.monotonic), jobs that still run are ended.
    """
    waiting, running, records = list(enumerate(jobs)), [], []
    load = dict.fromkeys(range(gpus), 0) if gpus else {None: 0}
    while waiting or running:
        while waiting and min(load.values()) < CHAINS_PER_GPU:
            number, job = waiting.pop(0)
            gpu = min(load, key=load.get)
            place = Path(job["work"]) / f"{name}-{number}"
            place.mkdir(parents=True)
            job["record"] = str(place / "record.json")
            command = [sys.executable, "-m", "benchmarks.levers", "--job", json.dumps(job)]
            process = start(command, place / "log.txt", gpu, KIT_RUNS=str(place / "runs"))
            load[gpu] += 1
            running.append((job, gpu, place, process))
        time.sleep(0.2)
        for entry in [entry for entry in running if entry[3].poll() is not None]:
            running.remove(entry)
            job, gpu, place, _ = entry
            load[gpu] -= 1
            if not Path(job["record"]).exists():
                print(
                    f"failed: {place}",
                    *(place / "log.txt").read_text().splitlines()[-12:],
                    sep="\n  ",
                    flush=True,
                )
                continue
            records.append(job | json.loads(Path(job["record"]).read_text()))
            log(records[-1])
        if time.monotonic() > end:
            for _, _, place, process in running:
                print(f"ended for lack of time: {place}", flush=True)
                process.kill()
            break
    return records


def mean_rate(record, split="validation"):
    """Return the mean over the groups of a record's rates: what rows and base are chosen by."""
    return statistics.mean(flags.count("1") / len(flags) for flags in record[split].values())


def best(records, key):
    """Return the value of `key` whose records have the highest mean rate on validation."""
    rates = {}
    for record in records:
        rates.setdefault(record[key], []).append(mean_rate(record))
    return max(rates, key=lambda name: statistics.mean(rates[name]))


def table(records, split):
    """Return one row per base and rows: rates by group, and differences to the present ones."""
    from kit import scoring

    sets, lines = {}, []
    for record in records:
        if split in record:
            sets.setdefault((record["base"], record["rows"]), []).append(record[split])
    means = {
        key: {
            group: [
                statistics.mean(map(int, flags))
                for flags in zip(*(run[group] for run in runs), strict=True)
            ]
            for group in runs[0]
        }
        for key, runs in sets.items()
    }
    for (base, rows), groups in means.items():
        line = {"base": base, "rows": rows, "seeds": len(sets[base, rows]), "groups": {}}
        for group, rates in groups.items():
            counts = [run[group].count("1") for run in sets[base, rows]]
            low, high = scoring.Score(statistics.mean(counts), len(rates)).interval
            cell = {
                "rate": statistics.mean(rates),
                "low": low,
                "high": high,
                "n": len(rates),
                "by_seed": [count / len(rates) for count in counts],
            }
            if (base, rows) != (PRESENT, STANDARD) and (PRESENT, STANDARD) in means:
                before = means[PRESENT, STANDARD][group]
                cell["difference"] = [float(x) for x in scoring.paired_difference(before, rates)]
            line["groups"][group] = cell
        lines.append(line)
    return lines


class Log:
    """Writes OUT/levers.json anew after each result."""

    def __init__(self, out, begin):
        self.out, self.begin, self.records, self.bases, self.events = out, begin, [], {}, []

    def __call__(self, record):
        self.records = [r for r in self.records if r.get("model") != record.get("model")] + [record]
        self.write()

    def event(self, text):
        self.events.append(f"{time.monotonic() - self.begin:.0f} s: {text}")
        print(self.events[-1], flush=True)
        self.write()

    def write(self, **more):
        from benchmarks import common

        kept = ("base", "rows", "seed", "ids", "seconds", "validation", "test", "misses")
        chains = [r for r in self.records if "validation" in r]
        result = {
            "command": "python -m benchmarks.levers " + " ".join(sys.argv[1:]),
            "date": datetime.date.today().isoformat(),
            "machine": common.machine(),
            "seconds": time.monotonic() - self.begin,
            "events": self.events,
            "bases": self.bases,
            **more,
            "validation": table(chains, "validation"),
            "test": table(chains, "test"),
            "chains": [{key: r[key] for key in kept if key in r} for r in chains],
        }
        partial = self.out / ".levers.json"
        partial.write_text(json.dumps(result, indent=1) + "\n")
        partial.rename(self.out / "levers.json")


def job_of(base, rows, seed, options, bases):
    """Return the job of one chain."""
    folder = bases[base] if base != PRESENT else "pocket"
    return {
        "stage": "chain",
        "name": base,
        "base": str(folder),
        "rows": rows,
        "seed": seed,
        "task": str(rows_folder(options.work, rows) / "cron.py"),
        "work": str(options.work),
        "tiny": options.tiny,
    }


def restored(records):
    """Return chain records whose `base` is the name of the base, not its folder."""
    return [record | {"base": record["name"]} for record in records]


def train_bases(options, gpus, seconds, end, log):
    """Train one new base per GPU at the same time; return {name: folder}."""
    toy = ["--toy", "--steps", "4"] if options.tiny else []
    running = {}
    for number, name in enumerate(list(BASES)[: max(gpus, 1)]):
        kind, peak = BASES[name]
        if not (options.work / f"notes-{kind}.npy").exists():
            log.event(f"no base {name}: its notes were not written in time")
            continue
        folder = options.work / f"base-{number}"
        command = [
            sys.executable,
            str(RECIPE / "third.py"),
            "train",
            "--work",
            str(options.work),
            "--out",
            str(folder),
            "--kinds",
            kind,
            "--peak",
            str(peak),
            "--seconds",
            str(seconds),
            *toy,
        ]
        log_file = options.work / f"base-{number}.txt"
        running[name] = (folder, log_file, start(command, log_file, number if gpus else None))
    bases = {}
    for name, (folder, log_file, process) in running.items():
        try:
            process.wait(max(1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
        if not (folder / "history.json").exists():
            log.event(f"no base {name}: " + " / ".join(log_file.read_text().splitlines()[-8:]))
            continue
        bases[name] = folder
        log.bases[name] = json.loads((folder / "history.json").read_text())
        short = name.replace(",", "").replace(" ", "-")
        shutil.copy(folder / "model.safetensors", options.out / f"{short}.safetensors")
        log.event(f"base {name} trained, {log.bases[name]['steps']} steps")
    return bases


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/levers"), help="folder for all else"
    )
    parser.add_argument("--budget", type=float, default=560.0, help="seconds for everything")
    parser.add_argument("--tiny", action="store_true", help="minutes on a CPU, to see that it runs")
    parser.add_argument("--job", help="one chain, test or measurement, as JSON")
    parser.add_argument("--weights", type=Path, help="a new base: how many rows does it need?")
    parser.add_argument("--rows", default="changes wide", help="mix and wording for --weights")
    parser.add_argument("--counts", type=int, nargs="+", default=[9000], help="rows of chat.jsonl")
    options = parser.parse_args()
    if options.job:
        job = json.loads(options.job)
        return {"chain": chain, "test": test, "english": english}[job["stage"]](job)
    count_rows(options) if options.weights else measure(options)


def count_rows(options):
    """Train chains on one new base with several numbers of rows, three seeds, and test them all."""
    begin = time.monotonic()
    end = begin + options.budget
    shutil.rmtree(options.work, ignore_errors=True)
    base = options.work / "base"
    base.mkdir(parents=True)
    options.out.mkdir(parents=True, exist_ok=True)
    for file in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        shutil.copy(PROJECT / "models" / "pocket" / file, base)
    shutil.copy(options.weights, base / "model.safetensors")
    gpus, log = count_gpus(), Log(options.out, begin)
    names = [f"{options.rows} {count}" for count in options.counts]
    drawing = [start_rows(name, options.work, options.tiny) for name in names]
    draw_validation(options.work / "choose.jsonl", options.tiny)
    if any(process.wait() for process in drawing):
        sys.exit((rows_folder(options.work, names[0]) / "log.txt").read_text())
    bases = {options.weights.stem: base}
    jobs = [
        job_of(options.weights.stem, name, seed, options, bases)
        for seed in range(1 if options.tiny else SEEDS)
        for name in names
    ]
    done = run_jobs("rows", jobs, gpus, end - 40, lambda r: log(r | {"base": r["name"]}))
    done = restored(done)
    test_chains(done, options, gpus, end, log)
    log.write()
    show(options.out / "levers.json")


def test_chains(chains, options, gpus, end, log):
    """Let finished chains answer the test questions and the phrases by hand."""
    tests = [
        {
            "stage": "test",
            "work": str(options.work),
            "model": record["model"],
            "chain": record["model"],
            "tiny": options.tiny,
        }
        for record in chains
    ]
    for record in run_jobs("test", tests, gpus, end, lambda r: None):
        scores = {
            group: flags
            for group, flags in record.items()
            if isinstance(flags, str) and flags and set(flags) <= {"0", "1"}
        }
        match = next(r for r in chains if r["model"] == record["model"])
        log(match | {"test": scores})


def measure(options):
    """Run all stages within the budget."""
    begin = time.monotonic()
    end = begin + options.budget
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    options.out.mkdir(parents=True, exist_ok=True)
    gpus, log = count_gpus(), Log(options.out, begin)
    wave = CHAINS_PER_GPU * max(gpus, 1)
    seeds, rows = range(1 if options.tiny else SEEDS), ROWS[: 2 if options.tiny else None]
    cores = os.cpu_count() or 1

    drawing = [start_rows(name, options.work, options.tiny) for name in rows]
    draw_validation(options.work / "choose.jsonl", options.tiny)
    kinds = list(dict.fromkeys(kind for kind, _ in list(BASES.values())[: max(gpus, 1)]))
    shares = 2 if options.tiny else min(500, 9 * cores)
    toy = ["--toy"] if options.tiny else []
    third = [sys.executable, str(RECIPE / "third.py")]
    notes = start(
        [
            *third,
            "notes",
            "--work",
            str(options.work),
            "--kinds",
            *kinds,
            "--shares",
            str(shares),
            "--workers",
            str(max(1, cores - min(wave, 12) - 2)),
            *toy,
        ],
        options.work / "notes.txt",
    )
    text = start(
        [*third, "text", "--work", str(options.work), "--seconds", "40", *toy],
        options.work / "text.txt",
        gpus - 1 if gpus else None,
    )
    if any(process.wait() for process in drawing):
        sys.exit((rows_folder(options.work, rows[0]) / "log.txt").read_text())
    log.event(f"rows written; {gpus} GPUs, {cores} cores")

    names = [*rows, STANDARD + QUESTIONS]
    jobs = [job_of(PRESENT, name, seed, options, {}) for seed in seeds for name in names][:wave]
    first = begin + 0.45 * options.budget
    chains = restored(run_jobs("rows", jobs, gpus, first, lambda r: log(r | {"base": r["name"]})))
    duration = time.monotonic() - begin
    plain = [record for record in chains if record["rows"] in rows]  # the lessons' own loss
    chosen_rows = best(plain, "rows") if plain else STANDARD
    log.event(f"rows chosen on validation: {chosen_rows}")
    for process in (notes, text):
        try:
            process.wait(max(1, first - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
    for name in ("notes", "text"):
        lines = (options.work / f"{name}.txt").read_text().splitlines()
        log.event(f"{name}: " + "; ".join(lines[-4:]))

    # Chains on the new bases take about as long as the first ones; the rest is for the bases.
    seconds = end - time.monotonic() - 1.3 * duration - 75
    if seconds < 100 and not options.tiny:  # a slow machine: fewer chains, which share less
        seeds, seconds = range(1), max(100, seconds + 0.4 * duration)
    bases = train_bases(options, gpus, seconds, end - duration, log)
    jobs = [job_of(name, chosen_rows, seed, options, bases) for name in bases for seed in seeds]
    if "wide" in bases:
        names = sorted({STANDARD, chosen_rows + QUESTIONS} - {chosen_rows})
        jobs += [job_of("wide", name, seed, options, bases) for name in names for seed in seeds]
    jobs += [
        {
            "stage": "english",
            "work": str(options.work),
            "base": str(folder),
            "name": name,
            "tiny": options.tiny,
        }
        for name, folder in [(PRESENT, "pocket"), *bases.items()]
    ]
    new = run_jobs("bases", jobs, gpus, end - 45, lambda r: keep(log, r))
    new = restored([record for record in new if record["stage"] == "chain"])
    chosen = best([r for r in new if r["rows"] == chosen_rows], "base") if new else PRESENT
    log.event(f"base chosen on validation: {chosen}")

    wanted = {
        (PRESENT, STANDARD),
        (PRESENT, chosen_rows),
        (chosen, chosen_rows),
        ("wide", STANDARD),
        ("wide", chosen_rows + QUESTIONS),
    }
    finished = sorted(chains + new, key=lambda r: r["base"] != chosen)
    finished = [r for r in finished if (r["base"], r["rows"]) in wanted]
    test_chains(finished, options, gpus, end, log)
    log.write(chosen={"rows": chosen_rows, "base": chosen})
    show(options.out / "levers.json")


def keep(log, record):
    """Keep the record of a chain, or the bits per byte of a base."""
    if record["stage"] == "english":
        log.bases.setdefault(record["name"], {})["bits_per_byte"] = record["bits_per_byte"]
        log.write()
    else:
        log(record | {"base": record["name"]})


def count_gpus():
    import torch

    return torch.cuda.device_count()


def show(file):
    """Print the tables of a result."""
    result = json.loads(Path(file).read_text())
    for split in ("validation", "test"):
        for line in result[split]:
            cells = "  ".join(
                f"{group} {cell['rate']:.1%}"
                + (
                    ""
                    if "difference" not in cell
                    else " ({:+.1%} [{:+.1%}, {:+.1%}])".format(*cell["difference"])
                )
                for group, cell in line["groups"].items()
            )
            print(f"{split:10} {line['base']:16} {line['rows']:16} {line['seeds']} seeds  {cells}")
    for name, base in result["bases"].items():
        print(
            f"{name:16} {base.get('bits_per_byte', float('nan')):.3f} bits per byte of held-out text"
        )


if __name__ == "__main__":
    main()
