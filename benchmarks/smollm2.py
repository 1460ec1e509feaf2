"""What smollm2-135m scores when prompted, after chat SFT with either template, and when shipped.

    make smollm2 && python -m benchmarks.smollm2   # writes results/smollm2.json, a GPU in 5 minutes
    python -m benchmarks.smollm2 --tiny --out FILE # the same commands on pocket, a CPU in 2 minutes

Every part is a command of the README in a process of its own: prompted answers and training share
the GPU, shipping runs on the cores. The learning rate was fixed beforehand. The text that each
`kit ship` printed is in the result, and in FILE.txt. What does not end in time is recorded as such.
"""

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib import request

from benchmarks import common
from kit import models, runs, ship, show, tasks

PROJECT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "smollm2.json"
RATE = ["--learning_rate", "3e-4"]
TRAININGS = {
    "orders-kit": ["--task", "orders", "--template", "kit", "--epochs", "4", *RATE],
    "orders-own": ["--task", "orders", "--template", "own", "--epochs", "4", *RATE],
    "cron-own": ["--task", "cron", "--template", "own", "--batch_size", "32", *RATE],
}
TINY = {"orders-kit": ["--task", "orders", "--template", "kit"]}
SHIPPED = ("orders-kit", "orders-own")
PORT = 8770


class Late(Exception):
    """The time limit is over."""


def command(words, end, log, threads):
    """Run a command until `end`; return (exit code, its standard output, seconds)."""
    begin = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with open(log, "w", encoding="utf-8") as errors:
        try:
            done = subprocess.run(
                [sys.executable, *words],
                cwd=PROJECT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=max(1, end - time.monotonic()),
            )
        except subprocess.TimeoutExpired:
            raise Late(f"not ended in time: {' '.join(words)}") from None
    seconds = round(time.monotonic() - begin, 1)
    print(f"{seconds:6.1f} s, exit {done.returncode}: {' '.join(words)}", flush=True)
    if done.returncode:
        print(done.stdout[-1500:], Path(log).read_text("utf-8")[-3000:], flush=True)
    return done.returncode, done.stdout, seconds


def prompted(options, task, folder, end):
    """Return the scores of the untrained model on a task, by the number of examples."""
    file = folder / f"prompted-{task}.json"
    words = ["-m", "benchmarks.prompted", "--model", options.model, "--task", task]
    words += ["--examples", *(["0", "5"] if options.tiny else ["0", "5", "20"])]
    words += ["--every", "40" if options.tiny else "1", "--out", str(file)]
    command(words, end, folder / f"prompted-{task}.log", 1)
    if task == "cron" and not options.tiny:
        (options.out.parent / "prompted.json").write_bytes(file.read_bytes())
    return json.loads(file.read_text(encoding="utf-8"))


def trained(options, name, flags, folder, end):
    """Train one run and return what its report says."""
    words = ["scripts/sft_chat.py", "--model", options.model, "--start", "", "--run", name, *flags]
    words += ["--save_steps", "1000000"]
    _, _, seconds = command(words, end, folder / f"{name}.log", 1)
    report = runs.Run(runs.find(runs.run_name(name, options.model)), {}).report
    keys = ("before", "after", "difference", "steps", "tokens", "loss_first", "loss_last")
    keys += ("validation_loss", "rows_used")
    return {"command": f"python {' '.join(words)}", "wall_seconds": seconds} | {
        key: report[key] for key in keys
    }


def shipped(options, name, port, folder, end):
    """Ship a run; return the gate's rules and printed text, the sizes, and a reply of `kit serve`."""
    run = runs.run_name(name, options.model)
    code, text, seconds = command(
        ["-m", "kit", "ship", run], end, folder / f"ship-{name}.log", options.threads
    )
    out = runs.find(run) / ("ship" if code == 0 else "ship-not-shipped")
    facts = json.loads((out / "ship.json").read_text(encoding="utf-8"))
    record = {
        "exit_code": code,
        "printed": text.splitlines(),
        "verdict": facts["verdict"],
        "rules": [dict(zip(ship.Rule._fields, rule, strict=True)) for rule in facts["rules"]],
        "seconds": seconds,
        "megabytes": {f.name: round(f.stat().st_size / 1e6, 1) for f in sorted(out.glob("model*"))},
    }
    return record | {"served": served(out, port, folder, end)}


def served(out, port, folder, end):
    """Return a test question and its reply over HTTP from `kit serve`, with the seconds to both."""
    task = tasks.load("orders", check=False)
    question, begin = tasks.questions(task)[0], time.monotonic()
    words = [sys.executable, "-m", "kit", "serve", str(out), "--port", str(port)]
    body = {"messages": question.messages, "temperature": 0, "max_tokens": task.max_new_tokens}
    ask = request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with open(folder / f"serve-{port}.log", "w") as log:
        server = subprocess.Popen(words, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT)
        try:
            while True:
                try:
                    answer = json.load(request.urlopen(ask, timeout=60))
                    break
                except OSError:
                    if time.monotonic() > min(end, begin + 90) or server.poll() is not None:
                        raise Late("kit serve did not answer") from None
                    time.sleep(0.2)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
    return {
        "message": question.messages[-1]["content"],
        "reply": answer["choices"][0]["message"]["content"],
        "right": question.right,
        "seconds_to_first_reply": round(time.monotonic() - begin, 1),
    }


def all_parts(options, folder, end, record):
    """Fill `record` part by part, all parts at once; a part that fails leaves its error."""

    def keep(kind, name, function, *arguments):
        try:
            record[kind][name] = function(options, name, *arguments)
        except (Late, OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
            record[kind][name] = {"error": f"{type(error).__name__}: {error}"}

    def whole(name, flags, port):
        keep("trained", name, trained, flags, folder, end)
        if name in SHIPPED and "error" not in record["trained"][name]:
            keep("shipped", name, shipped, port, folder, end)

    trainings = TINY if options.tiny else TRAININGS
    with ThreadPoolExecutor() as pool:
        for number, (name, flags) in enumerate(trainings.items()):
            pool.submit(whole, name, flags, PORT + number)
        for task in ("orders",) if options.tiny else ("orders", "cron"):
            pool.submit(keep, "prompted", task, prompted, folder, end)


def tables(record):
    """Return the tables of all scores: prompted, before and after, and the gates."""
    cells = [
        [f"{task}, {name}", group, f"{s['rate']:.1%}", f"[{s['low']:.1%}, {s['high']:.1%}]", s["n"]]
        for task, part in record["prompted"].items()
        for name, groups in part.get("scores", {}).items()
        for group, s in groups.items()
    ]
    for name, part in record["trained"].items():
        for when in ("before", "after"):
            for group, s in part.get(when, {}).items():
                interval = f"[{s['low']:.1%}, {s['high']:.1%}]"
                cells.append([f"{name}, {when}", group, f"{s['rate']:.1%}", interval, s["n"]])
        if "difference" in part:
            mean, low, high = part["difference"]
            cells.append(
                [f"{name}, paired", "all", f"{mean:+.1%}", f"[{low:+.1%}, {high:+.1%}]", ""]
            )
    yield str(show.table(["model", "group", "right", "95%", "n"], cells))
    for name, part in record["shipped"].items():
        yield "\n".join([f"kit ship {name}", *part.get("printed", [])])
    for kind in ("prompted", "trained", "shipped"):
        for name, part in record[kind].items():
            if "error" in part:
                yield f"{kind} {name}: {part['error']}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="pocket, one training, few questions")
    parser.add_argument("--seconds", type=float, default=285.0, help="limit of the whole")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    options.model = "pocket" if options.tiny else models.SMOLLM2
    begin = time.monotonic()
    options.out = options.out.absolute()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    models.find(options.model)  # converts the weights once, before the parts start together
    record = {"model": options.model, "prompted": {}, "trained": {}, "shipped": {}}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KIT_RUNS"] = str(Path(folder, "runs"))
        if options.tiny:
            os.environ["KIT_MAX_STEPS"] = "30"
        all_parts(options, Path(folder), begin + options.seconds, record)
    record |= {
        "date": datetime.date.today().isoformat(),
        "seed": 0,
        "seconds": round(time.monotonic() - begin, 1),
        "machine": common.machine(),
    }
    options.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    text = "\n\n".join(tables(record))
    options.out.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
    print(text, f"{record['seconds']} s, {record['machine']['gpu']}", sep="\n\n")
    failed = [
        part
        for kind in ("prompted", "trained", "shipped")
        for part in record[kind].values()
        if "error" in part
    ]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
