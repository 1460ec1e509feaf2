"""The course with one model on one GPU: the lessons' scripts one after the other, every stage scored and timed.

    for seed in 8 9 10 11 12; do
        python data_samples/make.py --rows 65000 --seed $seed --wording wide --out DATA/$seed
    done
    python benchmarks/course_gpu.py --data DATA/* --out OUT [--seconds 420]

Each stage reads its file in the folders of --data one after the other, each row once. Completion SFT and DPO see a
fixed number of rows; chat SFT sees as many as fit into --seconds at the speed that completion SFT showed. A stage whose
run is finished is not trained again, and OUT/course_gpu.json is written after each, so a second call goes on where the
first one ended.
"""

import argparse
import datetime
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # before anything forks: nothing here does
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # widths differ from batch to batch

from kit import models, runs, schedules, scoring, sft
from kit.engine import checkpoints, fingerprint

PROJECT = Path(__file__).parents[1]
SCRIPTS = {"completion SFT": "sft_completion", "chat SFT": "sft_chat", "DPO": "dpo"}
LESSONS = {"completion SFT": "02_sft_completion", "chat SFT": "03_sft_chat", "DPO": "04_dpo"}
FILES = {"completion SFT": "completion", "chat SFT": "chat", "DPO": "preferences"}
SEPARATOR = " -> "
RESERVED = 100  # seconds kept for DPO, the scores after it and the start-up of both
START_UP = 15  # seconds of a stage before its rows count: imports, loading, the first kernels
STARTED = time.monotonic()


def flags():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders that data_samples/make.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seconds", type=float, default=420, help="all of it, start-up included")
    parser.add_argument("--completion_rows", type=int, default=50_000)
    parser.add_argument("--chat_rows", type=int, default=0, help="0: as many as fit")
    parser.add_argument("--follow_ups", type=float, default=0, help="share of chat rows with edits; 0: as in the file")
    parser.add_argument("--until", choices=SCRIPTS, default="DPO", help="the last stage")
    parser.add_argument("--pairs", type=int, default=9_600)
    parser.add_argument("--batch_size", type=int, default=256, help="rows a step in SFT; DPO takes a quarter")
    parser.add_argument("--learning_rate", type=float, default=6e-4)
    parser.add_argument("--dpo_learning_rate", type=float, default=2e-5)
    parser.add_argument("--questions", type=int, default=0, help="score only so many; 0: all")
    return parser.parse_args()


def lines_of(given, name):
    """The lines of a file in every data folder, in order."""
    for folder in given.data:
        with (folder / f"{name}.jsonl").open("rb") as lines:
            yield from lines


def with_follow_ups(lines, count, share):
    """The first `count` of `lines` in which conversations of two user turns or more have `share`; others are left out.

    The share of 0 keeps that of the file. Ends early where one of the two runs out.
    """
    kept = follow_ups = 0
    for line in lines if share else itertools.islice(lines, count):
        more = line.count(b'"role": "user"') > 1
        if not share or more == (follow_ups < share * (kept + 1)):
            kept, follow_ups = kept + 1, follow_ups + more
            yield line
        if kept == count:
            return


def head(given, name, count):
    """Write the first `count` rows of all data folders into one file; return it and their number."""
    target = given.out / "data" / f"{name}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    rows = list(with_follow_ups(lines_of(given, name), count, given.follow_ups if name == "chat" else 0))
    target.write_bytes(b"".join(rows))
    return target, len(rows)


def settings(stage, given):
    """Flags of a stage's script besides model, start and data."""
    if stage == "DPO":
        size = max(given.batch_size // 4, 1)
        return {"epochs": 1, "learning_rate": given.dpo_learning_rate, "warmup_steps": 10, "batch_size": size,
                "micro_batch_size": size, "save_steps": 10_000}
    # The longest chat rows would set the memory of the largest batch; the few beyond 160 ids are rejected and counted.
    return {"epochs": 1, "max_length": 128 if stage == "completion SFT" else 160,
            "learning_rate": given.learning_rate, "warmup_steps": 30 if stage == "completion SFT" else 60,
            "batch_size": given.batch_size, "micro_batch_size": given.batch_size, "save_steps": 10_000}


def train(stage, given, rows):
    """Run the script on the first `rows` rows; halve the micro batch when the GPU is too small. Return the facts."""
    options = settings(stage, given)
    data, rows = head(given, FILES[stage], rows)
    folder = runs.root() / sft.run_name(LESSONS[stage], given.model)
    log = given.out / f"{SCRIPTS[stage]}.log"
    for micro in (options["micro_batch_size"], options["micro_batch_size"] // 2, options["micro_batch_size"] // 4):
        options["micro_batch_size"] = micro
        command = [sys.executable, str(PROJECT / "scripts" / f"{SCRIPTS[stage]}.py"), "--model", given.model, "--data",
                   str(data), *(["--start", ""] if stage == "completion SFT" else [])]
        command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
        begun = time.monotonic()
        with log.open("a", encoding="utf-8") as file:
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        wall = time.monotonic() - begun
        text = log.read_text(encoding="utf-8")
        if code == 0:
            report = checkpoints.read_json(folder / "report.json")
            return {"rows": rows, "rejected": len(report["rows_rejected"]), "settings": options, "wall_seconds": wall,
                    **{key: report[key] for key in ("steps", "tokens", "loss_first", "loss_last")},
                    "train_seconds": report["seconds"], "tokens_per_second": report["tokens"] / report["seconds"]}
        if "do not fit" not in text and "out of memory" not in text or list(folder.glob("checkpoint-*")):
            break
        shutil.rmtree(folder)
    raise SystemExit(f"{stage}: exit code {code}\n{text[-3000:]}")


def chat_rows(given, done):
    """Rows of chat SFT that fit into what is left, at the seconds a position of the completion stage."""
    if given.chat_rows:
        return given.chat_rows
    left = given.seconds - RESERVED - (time.monotonic() - STARTED) - START_UP
    size, line = (sum(map(len, itertools.islice(lines_of(given, name), 2000))) for name in ("chat", "completion"))
    longer = max(0.6 * size / line, 1)  # a part of a chat line is JSON
    # A chat row is longer; where launching kernels is the limit, a step costs the same whatever its length.
    row = done["train_seconds"] / done["rows"] * (1 + 0.5 * (longer - 1))
    # Reading, encoding and the preflight come before the first step, at a cost a row too.
    row += max(done["wall_seconds"] - done["train_seconds"] - START_UP, 3) / done["rows"] * longer
    return max(int(left / row) // given.batch_size, 1) * given.batch_size


def ask(stage, folder, given, questions):
    """Score a model; base and completion models continue text and are asked for translations only."""
    begun, batch = time.monotonic(), 512 if models.device() == "cuda" else 32
    model, tokenizer = models.load(folder)
    if stage in ("base", "completion SFT"):
        questions = [q for q in questions if q.facts["kind"] == "translate"]
        if stage == "base":
            from kit import chat
            chat.add_role_tokens(tokenizer, model)
        prompts = [q.messages[-1]["content"] + SEPARATOR for q in questions]
        texts = scoring.completions(model, tokenizer, prompts, max_new_tokens=32, batch_size=batch)
        results = scoring.judged(questions, texts, schedules)
    else:
        results = scoring.evaluate(model, tokenizer, questions, schedules, batch_size=batch)
    scores = results.as_dict() | {"valid": scoring.score(
        v.valid for v, q in zip(results.verdicts, questions, strict=True) if q.facts["cron"]).as_dict()}
    with (given.out / f"misses_{SCRIPTS.get(stage, 'base')}.jsonl").open("w", encoding="utf-8") as file:
        for q, text, _ in results.misses():
            told = {"group": q.group, "prompt": [m["content"] for m in q.messages[1:]], "reply": text, **q.facts}
            file.write(json.dumps(told, ensure_ascii=False) + "\n")
    del model
    return {"scores": scores, "score_seconds": time.monotonic() - begun}


def facts(given):
    """What was run, on what."""
    return {"model": given.model, "date": datetime.date.today().isoformat(), "versions": fingerprint.environment(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores", "seed": 0,
            "data": [folder.name for folder in given.data], "command": sys.argv[1:], "stages": {}}


def table(found):
    """Lines of a Markdown table: one a stage."""
    groups = ("test split", "by hand", "edits", "right kind", "preferred", "valid")
    lines = ["| stage | rows | seconds | trained tokens/s | " + " | ".join(groups) + " |", "|---" * 10 + "|"]
    for stage, s in found["stages"].items():
        if "scores" not in s:
            continue
        trained = ([f"{s['rows']:,}", f"{s['wall_seconds']:.0f}", f"{s['tokens_per_second']:,.0f}"]
                   if "rows" in s else ["-"] * 3)
        told = ["{rate:.1%} [{low:.1%}, {high:.1%}] n={n}".format(**s["scores"][g]) if g in s["scores"] else "-"
                for g in groups]
        lines.append("| " + " | ".join([stage, *trained, *told]) + " |")
    return "\n".join(lines)


def main():
    given = flags()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "course_gpu.json"
    found = json.loads(path.read_text()) if path.exists() else facts(given)

    def keep(stage, **more):
        found["stages"].setdefault(stage, {}).update(more)
        found["seconds"] = found.get("seconds_before", 0) + time.monotonic() - STARTED
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{time.monotonic() - STARTED:5.0f} s  {stage}: {', '.join(more)}", flush=True)

    found["seconds_before"] = found.get("seconds", 0)
    questions = scoring.read_questions(schedules, PROJECT / "data_samples" / "cron" / "test.jsonl",
                                       PROJECT / "data_samples" / "cron" / "phrases_by_hand.tsv")
    questions = questions[:: max(len(questions) // given.questions, 1)] if given.questions else questions
    stages = found["stages"]
    models.find(given.model)
    keep("base")
    for stage in list(SCRIPTS)[: list(SCRIPTS).index(given.until) + 1]:
        if "steps" not in stages.get(stage, {}):
            if stage == "chat SFT" and "planned_rows" not in stages.get(stage, {}):
                keep(stage, planned_rows=chat_rows(given, stages["completion SFT"]))
            rows = {"completion SFT": given.completion_rows, "DPO": given.pairs}.get(stage)
            keep(stage, **train(stage, given, rows or stages[stage]["planned_rows"]))
        if "scores" not in stages[stage]:
            keep(stage, **ask(stage, runs.root() / sft.run_name(LESSONS[stage], given.model) / "model", given,
                              questions))
    if "scores" not in stages["base"]:
        keep("base", **ask("base", models.find(given.model), given, questions))
    print(json.dumps(found["versions"]), f"{found['seconds']:.0f} s in all", sep="\n")
    print(table(found))


if __name__ == "__main__":
    main()
