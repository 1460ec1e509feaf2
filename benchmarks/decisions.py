"""Train pocket once for each decision that the lessons discuss, and record the scores.

python -m benchmarks.decisions --out benchmarks/results/decisions.json [--parallel 8] [--seeds 3]

Each job changes one thing of lesson 03's chat SFT: the number of rows, the learning rate, the
epochs, whether questions are trained, the system message, the start, 10% of general text, LoRA.
Every job is a process of its own; several share one GPU. Scores are greedy: on the test questions,
and on the validation questions, which are the ones to choose by. Bits per byte are those of
models/pocket/heldout.jsonl, text that the teacher of pocket wrote.
"""

import argparse
import dataclasses
import datetime
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
EPOCHS = {250: 8.0, 1000: 4.0, 4000: 2.0, 9000: 1.0}  # few rows are read more often


def jobs():
    """Return {name: changes}; keys of Params, or `rows`, `mask`, `system`, `replay`."""
    table = {f"rows {n}": {"rows": n, "epochs": e, "keep": "best"} for n, e in EPOCHS.items()}
    table |= {f"learning rate {lr:g}": {"learning_rate": lr} for lr in (7e-5, 2e-3, 7e-3)}
    table |= {f"2,000 rows, {n} epochs": {"rows": 2000, "epochs": float(n)} for n in (1, 3, 10)}
    table["questions trained too"] = {"mask": "all"}
    table["no system message"] = {"system": False}
    table["start at the base"] = {"start": ""}
    table["10% general text"] = {"replay": 0.1}
    for rank, lr in ((4, 7e-4), (16, 7e-4), (16, 3e-3), (64, 3e-3)):
        table[f"LoRA {rank}, {lr:g}"] = {"lora_rank": rank, "learning_rate": lr}
    for n, epochs in ((100, 16.0), (250, 8.0), (720, 4.0)):
        table[f"orders, {n} rows"] = {
            "task": "orders",
            "rows": n,
            "epochs": epochs,
            "start": "",
            "keep": "best",
        }
    return table


def script(name):
    """Return the module of an exported script."""
    spec = importlib.util.spec_from_file_location(name, PROJECT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def without_system(messages):
    return [message for message in messages if message["role"] != "system"]


def general_text(count, seed):
    """Return `count` paragraphs of the text that pocket's teacher wrote."""
    text = (PROJECT / "models" / "pocket" / "recipe" / "sample.txt").read_text(encoding="utf-8")
    parts = [part.strip()[:400] for part in text.split("\n\n") if len(part.strip()) > 120]
    return random.Random(seed).sample(parts, min(count, len(parts)))


def encoded_rows(params, tokenizer, changes):
    """Return what lesson 03 trains on, after the changes of the job."""
    from kit import chat, tasks

    rows = tasks.rows(tasks.load(params.task), "train")
    conversations = [row["messages"] for row in rows]
    random.Random(params.seed).shuffle(conversations)
    conversations = conversations[: changes.get("rows") or len(conversations)]
    if not changes.get("system", True):
        conversations = [without_system(messages) for messages in conversations]
    encoded = chat.encode_chats(tokenizer, conversations)
    if changes.get("mask") == "all":
        encoded = [chat.Encoded(e.input_ids, [1] * len(e)) for e in encoded]
    if share := changes.get("replay"):
        texts = [{"text": t} for t in general_text(int(share * len(encoded)), params.seed)]
        encoded += chat.encode_completions(tokenizer, texts)
    return [e for e in encoded if len(e) <= params.max_length]


def train(name, seed, folder):
    """Train and score one job; return its record."""
    from kit import models, runs, scoring, sft, tasks

    changes, lesson = jobs()[name], script("sft_chat")
    fields = {f.name for f in dataclasses.fields(lesson.Params)}
    params = lesson.Params(
        run="job", seed=seed, save_steps=10**6, **{k: v for k, v in changes.items() if k in fields}
    )
    begin = time.monotonic()
    model, tokenizer = sft.load_start(params)
    encoded = encoded_rows(params, tokenizer, changes)
    validation = sft.load_chats(params, tokenizer, "validation")[1][:128]
    run = runs.start(params, base=runs.start_from(params))
    trainer = lesson.make_trainer(params, run, model, tokenizer, encoded)
    run.train(trainer, tokenizer, validate=lambda policy: sft.mean_loss(policy, validation))
    model, tokenizer = models.load(run.model)
    task, record = tasks.load(params.task), {"name": name, "seed": seed}
    for split in ("test", "validation"):
        questions = tasks.questions(task, split)
        if not changes.get("system", True):
            questions = [
                dataclasses.replace(q, messages=without_system(q.messages)) for q in questions
            ]
        results = scoring.evaluate(model, tokenizer, questions, task)
        record[split] = {g: results.hits(g) for g in results.groups}
    lines = (PROJECT / "models" / "pocket" / "heldout.jsonl").read_text("utf-8").splitlines()
    record["bits_per_byte"] = scoring.bits_per_byte(
        model, tokenizer, [json.loads(x) for x in lines[:100]]
    )
    metrics = runs.metrics(run)
    record |= {
        "steps": len(metrics),
        "rows": len(encoded),
        "seconds": time.monotonic() - begin,
        "loss": [m["loss"] for m in metrics][-1],
        "validation_loss": [
            [m["step"], m["validation_loss"]] for m in metrics if "validation_loss" in m
        ],
    }
    Path(folder).write_text(json.dumps(record))


def queue(names, seeds, parallel, folder, start_runs, minutes):
    """Run all jobs as processes, `parallel` at a time; return the records that came back.

    After `minutes`, jobs that still run are ended and the others are not started.
    """
    waiting = [(name, seed) for seed in seeds for name in names]
    running, records, end = [], [], time.monotonic() + 60 * minutes
    while (waiting or running) and time.monotonic() < end:
        while waiting and len(running) < parallel:
            name, seed = waiting.pop(0)
            place = Path(folder, f"{len(waiting)}")
            shutil.copytree(start_runs, place)
            environment = os.environ | {"KIT_RUNS": str(place), "OMP_NUM_THREADS": "1"}
            command = [
                sys.executable,
                "-m",
                "benchmarks.decisions",
                "--job",
                name,
                "--seed",
                str(seed),
                "--out",
                str(place / "record.json"),
            ]
            log = open(place / "log.txt", "w")
            running.append(
                (
                    name,
                    seed,
                    place,
                    subprocess.Popen(
                        command, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT
                    ),
                )
            )
        for job in [job for job in running if job[3].poll() is not None]:
            running.remove(job)
            file = job[2] / "record.json"
            if file.exists():
                records.append(json.loads(file.read_text()))
            else:
                print(f"{job[0]}, seed {job[1]} failed:", (job[2] / "log.txt").read_text()[-800:])
        time.sleep(0.5)
    for job in running:
        job[3].kill()
    return records


def start_model(folder):
    """Train lesson 02's completion model, where most jobs start; return its runs folder."""
    environment = os.environ | {"KIT_RUNS": str(folder)}
    command = [sys.executable, "scripts/sft_completion.py", "--save_steps", "1000000"]
    subprocess.run(command, cwd=PROJECT, env=environment, check=True)


def table(records):
    """Return one row per job: rates by group, mean over seeds, with the lowest and highest seed."""
    from kit import scoring

    rows = {}
    for record in records:
        rows.setdefault(record["name"], []).append(record)
    lines = []
    for name, runs in rows.items():
        cell = {}
        for split in ("test", "validation"):
            for group in runs[0][split]:
                rates = [scoring.score(run[split][group]).rate for run in runs]
                cell[f"{split}: {group}" if split == "validation" else group] = [
                    sum(rates) / len(rates),
                    min(rates),
                    max(rates),
                    len(runs[0][split][group]),
                ]
        bits = [run["bits_per_byte"] for run in runs]
        lines.append(
            {
                "name": name,
                "seeds": len(runs),
                "steps": runs[0]["steps"],
                "rows": runs[0]["rows"],
                "seconds": sum(run["seconds"] for run in runs) / len(runs),
                "rates": cell,
                "bits_per_byte": sum(bits) / len(bits),
                "loss": runs[0]["loss"],
                "validation_loss": runs[0]["validation_loss"],
            }
        )
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60.0, help="no new job after these")
    parser.add_argument("--only", default="", help="names of jobs that contain this text")
    parser.add_argument("--job")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.job:
        return train(options.job, options.seed, options.out)
    from benchmarks import common

    begin, names = time.monotonic(), [name for name in jobs() if options.only in name]
    with tempfile.TemporaryDirectory() as folder:
        start_runs = Path(folder, "start")
        start_runs.mkdir()
        start_model(start_runs)
        work = Path(folder, "work")
        work.mkdir()
        records = queue(
            names, range(options.seeds), options.parallel, work, start_runs, options.minutes
        )
    lines = table(sorted(records, key=lambda r: names.index(r["name"])))
    result = {
        "command": "python -m benchmarks.decisions --out benchmarks/results/decisions.json",
        "date": datetime.date.today().isoformat(),
        "seeds": list(range(options.seeds)),
        "machine": common.machine(),
        "seconds": time.monotonic() - begin,
        "table": lines,
    }
    Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
    for line in lines:
        rates = "  ".join(f"{g} {r[0]:.1%}" for g, r in line["rates"].items() if ":" not in g)
        print(
            f"{line['name']:24} {line['seeds']} seeds  {line['steps']:5} steps  {rates}  "
            f"bits {line['bits_per_byte']:.2f}"
        )


if __name__ == "__main__":
    main()
