"""What GRPO adds to the chat model, beside DPO and SFT on its own right samples, over seeds.

    python -m benchmarks.grpo [--seeds 3] [--workers 12] [--only naive --only hold] [--tiny]

Trains runs 02 and 03 in KIT_RUNS if they are missing, then all settings of JOBS as parallel
processes, dealt out over the visible GPUs. Settings are chosen on the validation rows and reported
on the test rows.
Differences are taken question by question against the chat model and averaged over the seeds; their
95% intervals are over questions. The control trains once on the right ones of as many samples as
`hold` draws. Rows of other settings in the file of results stay. `--tiny` does two steps of each,
to try the script on a CPU.
"""

import argparse
import datetime
import functools
import json
import math
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import common
from kit.settings import Settings

CHAT, K, SAMPLED, CURVE = "03_sft_chat", 8, {"validation": 1, "test": 2}, 3
HOLD = {"steps": 100, "batch_size": 256, "learning_rate": 3e-5, "beta": 0.2, "rare_share": 0.3}
NAIVE = {"steps": 60, "batch_size": 128, "learning_rate": 1e-4, "beta": 0.0, "rare_share": 0.0}
JOBS = {  # name: (method, settings); a method ending in * has one seed
    "hold": ("grpo", HOLD),
    "naive": ("grpo", NAIVE),
    "hacked reward": ("grpo valid *", NAIVE | {"prefer_weight": 2.0, "rare_share": 0.5}),
    "SFT on right samples, 3e-5": ("own right", {"learning_rate": 3e-5}),
    "SFT on right samples, 1e-4": ("own right", {"learning_rate": 1e-4}),
    "SFT on preferred samples, 1e-4": ("own preferred", {"learning_rate": 1e-4}),
    "DPO": ("dpo", {"learning_rate": 5e-5, "epochs": 0.5, "batch_size": 32}),
    "prompts that can teach": ("grpo teachable", HOLD),
}


@dataclass(frozen=True)
class Params(Settings):
    """Settings of the SFT and DPO runs."""

    learning_rate: float = 7e-4  # peak step size
    separator: str = " -> "  # between prompt and completion
    own_samples: str = ""  # which samples a control trains on


def rows(params, tokenizer, split="train", kind="chat"):
    """Return (rows, encoded) of "chat", "completion" or "pairs"."""
    from kit import chat, dpo, sft, tasks

    if kind == "chat":
        return sft.load_chats(params, tokenizer, split)
    task = tasks.load(params.task, check=False)
    if kind == "pairs":
        return dpo.encode(params, tokenizer, tasks.rows(task, "pairs"))
    read = tasks.rows(task, "completions", "completion")
    encoded = chat.encode_completions(tokenizer, read, params.separator)
    return sft.keep_short(read, encoded, params.max_length)


def supervised(params, run, model, tokenizer, encoded):
    from trl import SFTConfig, SFTTrainer

    from kit import sft

    options = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    config = SFTConfig(**common_settings(params, run), **options)
    data = sft.sft_dataset(encoded, params.batch_size, params.seed)
    return SFTTrainer(model, config, train_dataset=data, processing_class=tokenizer)


def preference(params, run, model, tokenizer, encoded):
    from trl import DPOConfig

    from kit import dpo, sft

    config = DPOConfig(
        **common_settings(params, run),
        precompute_ref_log_probs=True,
        beta=0.3,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, 3.0],
    )
    reference, _ = sft.load_start(params)
    data = sft.dpo_dataset(encoded, params.batch_size, params.seed)
    return dpo.PairTrainer(model, reference, config, train_dataset=data, processing_class=tokenizer)


def common_settings(params, run):
    from kit import sft

    return {
        **run.settings(),
        **sft.hardware(params),
        "num_train_epochs": params.epochs,
        "learning_rate": params.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": params.warmup_ratio,
        "max_length": None,
    }


def course():
    """Train runs 02 and 03 as the lessons do, unless they are there."""
    from kit import runs, sft

    if not (runs.root() / f"{CHAT}-pocket" / "model").is_dir():
        params = Params(run="02_sft_completion", max_length=128)
        sft.train(
            params,
            functools.partial(rows, kind="completion"),
            supervised,
            load_validation=rows,
            evaluate=None,
        )
        sft.train(Params(run=CHAT, start="02_sft_completion"), rows, supervised, evaluate=None)


def pool(options):
    """Write as many prompts as GRPO sees, and what K samples of each are good for, to KIT_RUNS."""
    from kit import dpo, grpo, runs, sft, tasks

    task, params = tasks.load("cron", check=False), Params(start=CHAT)
    model, tokenizer = sft.load_start(params)
    count = 16 if options.tiny else HOLD["steps"] * HOLD["batch_size"] // K
    _, prompts = grpo.load_prompts(params, tokenizer)
    prompts = grpo.mixture(prompts, task, count, HOLD["rare_share"])
    begin = time.monotonic()
    samples = dpo.sample(
        model, tokenizer, prompts, K, max_new_tokens=task.max_new_tokens, batch_size=1024
    )
    counts = [
        sum(grpo.judged(texts, prompt["right"], task))
        for texts, prompt in zip(samples, prompts, strict=True)
    ]
    spread = grpo.teachable(prompts, counts, K)
    (runs.root() / "teachable.json").write_text(json.dumps(spread))
    for name, judge in (("right", task.judge), ("preferred", task.prefers)):
        chats = [
            {"messages": [*prompt["prompt"], {"role": "assistant", "content": text}]}
            for prompt, texts in zip(prompts, samples, strict=True)
            for text in texts
            if grpo.judged([text], prompt["right"], task, judge)[0] and text.strip()
        ]
        lines = [json.dumps(row) + "\n" for row in chats]
        (runs.root() / f"own_{name}.jsonl").write_text("".join(lines))
    return {
        "prompts": count,
        "seconds": round(time.monotonic() - begin, 1),
        "groups_by_right_of_8": [counts.count(n) for n in range(K + 1)],
    }


def own_samples(params, tokenizer, split="train"):
    """Return (rows, encoded) of the start model's own right or preferred samples."""
    from kit import chat, records, runs, sft

    read = records.read(runs.root() / f"own_{params.own_samples}.jsonl", "chat")
    encoded = chat.encode_chats(tokenizer, (row["messages"] for row in read))
    return sft.keep_short(read, encoded, params.max_length)


def teachable(params, tokenizer, split="train"):
    """Return (rows of the task, prompts with a spread)."""
    from kit import grpo, runs

    spread = json.loads((runs.root() / "teachable.json").read_text())
    return grpo.load_prompts(params, tokenizer)[0], spread


def valid(reply, right):
    """Return whether the reply holds any valid line: a second reward with a hole."""
    from kit import tasks

    cron = tasks.module("cron")
    line = cron.find_cron(reply)
    return line is not None and cron.is_valid(line)


def watched(make, curve, every):
    """Return a maker of trainers that also scores greedy replies to validation rows on the way."""

    def make_watched(params, run, model, tokenizer, encoded):
        from transformers import TrainerCallback

        from kit import scoring, tasks

        task = tasks.load(params.task, check=False)
        questions = tasks.questions(task, "validation")[::2]

        class Watch(TrainerCallback):
            def on_step_end(self, args, state, control, **more):
                if state.global_step % every == 0 or state.global_step == 1:
                    results = scoring.evaluate(model, tokenizer, questions, task, batch_size=1024)
                    rates = {name: score.rate for name, score in results.scores().items()}
                    curve.append({"step": state.global_step, **rates})

        trainer = make(params, run, model, tokenizer, encoded)
        trainer.add_callback(Watch())
        return trainer

    return make_watched


def job(name, seed, tiny):
    """Train one setting with one seed; return its record with the hits of its model."""
    from kit import grpo, runs, sft, tasks
    from scripts import grpo as lesson

    method, settings = JOBS[name]
    words, begin, curve = method.split(), time.monotonic(), []
    settings = settings | ({"steps": 2, "batch_size": 16} if words[0] == "grpo" and tiny else {})
    folder = "".join(c if c.isalnum() else "-" for c in name) + f"-{seed}"
    shared = {"start": CHAT, "run": folder, "seed": seed, "save_steps": 1000}
    if words[0] == "grpo":
        params = lesson.Params(**shared, **settings)
        hole = [tasks.load("cron", check=False).judge, valid] if "valid" in words else ()
        make = functools.partial(lesson.make_trainer, judges=hole)
        load = teachable if "teachable" in words else grpo.load_prompts
        make = watched(make, curve, max(1, params.steps // CURVE))
        run = sft.train(params, load, make, load_validation=rows, evaluate=None)
    elif words[0] == "own":
        params = Params(**shared, own_samples=words[1], **settings)
        encoded = len(own_samples(params, sft.load_start(params)[1])[1])
        params = replace(params, batch_size=max(2, math.ceil(encoded / HOLD["steps"])))
        run = sft.train(params, own_samples, supervised, load_validation=rows, evaluate=None)
    else:
        params = Params(**shared, **settings)
        run = sft.train(
            params,
            functools.partial(rows, kind="pairs"),
            preference,
            reference=True,
            load_validation=rows,
            evaluate=None,
        )
    keys = ("step", "reward", "entropy", "frac_reward_zero_std", "kl", "loss")
    steps = [{k: round(v, 4) for k, v in row.items() if k in keys} for row in runs.metrics(run)]
    return {
        "name": name,
        "seed": seed,
        "seconds": round(time.monotonic() - begin, 1),
        "training_seconds": run.report["seconds"],
        "steps": run.report["steps"],
        "validation": curve,
        "metrics": steps[:: max(1, len(steps) // 40)],
        "hits": hits(run.folder.name, tiny),
    }


def hits(name, tiny=False):
    """Return {split: {measure: {group: [rate per question]}}} of a run, and its bits per byte."""
    from kit import models, scoring, tasks

    task = tasks.load("cron", check=False)
    model, tokenizer = models.load(name)
    texts = [json.loads(line) for line in (models.POCKET / "heldout.jsonl").open()]
    texts = texts[:8] if tiny else texts
    record = {"bits_per_byte": scoring.bits_per_byte(model, tokenizer, texts)}
    for split in ("validation", "test"):
        questions = tasks.questions(task, split)
        questions = questions[::40] if tiny else questions
        inputs = (model, tokenizer, questions, task)
        draw = functools.partial(scoring.evaluate, *inputs, batch_size=1024)
        drawn = {
            "greedy": [draw()],
            "sampled": [draw(temperature=1.0, seed=seed) for seed in range(SAMPLED[split])],
        }
        record[split] = {
            f"{how} {what}": {
                group: [
                    statistics.mean(flags)
                    for flags in zip(
                        *(results.hits(group, what) for results in several), strict=True
                    )
                ]
                for group in several[0].groups
            }
            for how, several in drawn.items()
            for what in ("correct", "preferred")
        }
    return record


def change(before, after, split, measure, group):
    """Return [before, mean after, difference, low, high, after of each seed] in rates."""
    from kit import scoring

    first = before[split][measure][group]
    seeds = [run[split][measure][group] for run in after]
    means = [statistics.mean(rates) for rates in zip(*seeds, strict=True)]
    difference = scoring.paired_difference(first, means)
    numbers = [
        statistics.mean(first),
        statistics.mean(means),
        *difference,
        *map(statistics.mean, seeds),
    ]
    return [round(float(number), 4) for number in numbers]


def table(before, records):
    """Return one row per setting: {split: {measure: {group: change}}} and bits per byte."""
    lines = []
    for name, (method, settings) in JOBS.items():
        after = [record["hits"] for record in records if record["name"] == name]
        if after:
            changes = {
                split: {
                    measure: {
                        group: change(before, after, split, measure, group) for group in groups
                    }
                    for measure, groups in before[split].items()
                }
                for split in ("validation", "test")
            }
            lines.append(
                {
                    "setting": name,
                    "method": method,
                    "settings": settings,
                    "seeds": len(after),
                    **changes,
                    "bits_per_byte": [round(run["bits_per_byte"], 4) for run in after],
                }
            )
    return lines


def take_gpu(counter, count):
    """Give this worker process one of `count` GPUs."""
    with counter.get_lock():
        number, counter.value = counter.value, counter.value + 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    if count:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number % count]


def gpus():
    """Return the number of visible GPUs."""
    import torch

    return torch.cuda.device_count()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--only", action="append", default=[], help="settings that start so")
    parser.add_argument("--tiny", action="store_true", help="two steps of each setting")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/grpo.json"))
    options = parser.parse_args()
    begin, records = time.monotonic(), []
    old = json.loads(options.out.read_text()) if options.out.is_file() else {}
    context = multiprocessing.get_context("spawn")
    settings = (take_gpu, (context.Value("i", 0), gpus()))
    # A worker that ends gives back the GPU memory that its samples took.
    one_task = {"max_tasks_per_child": 1}
    with ProcessPoolExecutor(options.workers, context, *settings, **one_task) as executor:
        executor.submit(course).result()
        base = executor.submit(hits, f"{CHAT}-pocket", options.tiny)
        todo = [
            (name, seed)
            for name, (method, _) in JOBS.items()
            for seed in range(1 if "*" in method else options.seeds)
            if not options.only or name.startswith(tuple(options.only))
        ]
        waits = {name for name, _ in todo if JOBS[name][0].startswith(("own", "grpo teach"))}
        groups = executor.submit(pool, options) if waits else None
        jobs = {
            executor.submit(job, *one, options.tiny): one for one in todo if one[0] not in waits
        }
        groups = groups.result() if groups else old.get("pool")
        jobs |= {executor.submit(job, *one, options.tiny): one for one in todo if one[0] in waits}
        record = {
            "date": datetime.date.today().isoformat(),
            "command": "python -m benchmarks.grpo",
            **common.machine(),
            "columns": change.__doc__.split("[")[1].split("]")[0],
            "samples_per_question": SAMPLED,
            "pool": groups,
        }
        for future in as_completed(jobs):
            try:
                records.append(future.result())
            except Exception as error:
                print("failed", *jobs[future], repr(error)[:2000], flush=True)
                continue
            last = records[-1]
            print(
                f"{time.monotonic() - begin:.0f} s",
                last["name"],
                last["seed"],
                last["seconds"],
                flush=True,
            )
            before = base.result()
            runs = [{k: v for k, v in r.items() if k != "hits"} for r in records]
            rows = table(before, records)
            new = {row["setting"] for row in rows}
            record |= {
                "before": {"bits_per_byte": round(before["bits_per_byte"], 4)},
                "rows": rows + [row for row in old.get("rows", []) if row["setting"] not in new],
                "runs": runs + [run for run in old.get("runs", []) if run["name"] not in new],
            }
            options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
