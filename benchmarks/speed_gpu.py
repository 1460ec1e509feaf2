"""Real ids a second of TRL's defaults, of the recipes TRL documents, of a raw loop, and of ours, on
one GPU.

    python -m benchmarks.speed_gpu [--seconds 300] [--only "135M+sft;dpo"] [--out results.jsonl] [--tiny]
    python -m benchmarks.speed_gpu --chart results.jsonl chart.png

Ceilings first, then each contender in a process of its own, forked before CUDA starts; a second
round in opposite order as far as the time goes. A line of JSON per measurement as it comes, a table
last.
"""

import argparse
import functools
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import contenders

# ids at once that an 80 GB GPU holds, and rows a step: the same rows for all ways but TRL's
# defaults, which take 8.
SIZES = {
    "toy": (512, 16),
    "135M": (131_072, 256),
    "0.6B": (36_864, 80),
    "1.7B": (18_432, 80),
    "8B": (9_216, 40),
}
GOALS = {
    "135M": 308_000,
    "0.6B": 84_000,
    "1.7B": 41_000,
    "8B": 11_000,
}  # 75% of perfect kernels, see issue 8
ONCE = ("agree", "fit", "profile")
# ids at once with which TRL's recipe begins: more does not fit, by the planner's formulas, and each
# try compiles again.
DOCUMENTED = {"135M": 65_536, "0.6B": 16_384, "1.7B": 10_240, "8B": 4_096}
LIMITS = {"compiled": 100, "flex": 110}  # seconds a contender may take, where it compiles first
QUIET = (
    "steps",
    "ids_per_processor_s",
    "steps_per_s",
    "kernels",
    "owners",
    "longest_gaps",
)  # told by the file only
SAME = (
    2e-3  # relative distance of a loss from the first contender's, whose weights and rows it shares
)
WAYS = (
    "ours, fused",
    "TRL defaults",
    "TRL documented, flex",
    "ours",
    "raw, packed, fused",
    "TRL documented, sdpa",
    "ours, fused, segments",
    "ours, fused, workers",
    "ours, fused, segments, workers",
    "raw, packed, fused, segments",
    "ours, compiled",
    "ours, compiled, segments",
)


def plan(shapes):
    """Specs in order of importance."""
    first, later = (
        [{"task": task, "shape": shapes[0], "way": "ours"} for task in ("agree", "fit")],
        [],
    )
    for shape in shapes:
        large = shape in ("1.7B", "8B")
        for number, way in enumerate((*WAYS[:4], *WAYS[6:9], WAYS[-1]) if large else WAYS):
            soon = number < 2 or (number < 4 and not large)
            (first if soon else later).append(
                {"task": "lora" if shape == "8B" else "sft", "shape": shape, "way": way}
            )
        later += [
            {"task": "profile", "shape": shape, "way": way}
            for way in (
                "ours, fused",
                "raw, packed, fused",
                "ours, fused, segments, workers",
                "ours, compiled, segments",
            )
        ]
        if not large:
            first += [
                {"task": "dpo", "shape": shape, "way": way}
                for way in ("ours, fused", "TRL defaults")
            ]
            later += [
                {"task": "dpo", "shape": shape, "way": way}
                for way in ("TRL documented", "ours, fused, segments, workers")
            ]
    return first + sorted(later, key=lambda spec: "compiled" in spec["way"])


def complete(spec, toy):
    ids, batch = SIZES[spec["shape"]]
    slow = spec["way"] == "TRL defaults"
    spec |= {
        "ids": ids,
        "batch": batch,
        "rows": max(512, 4 * batch),
        "median": 270,
        "cap": 2048,
        "trained": 1.0,
        "sorted": False,
        "seconds": 2.0,
        "warm": 3 if not slow else 2,
    }
    if spec["way"].startswith("TRL documented") and spec["shape"] in DOCUMENTED:
        spec |= {"most": DOCUMENTED[spec["shape"]]}
    if spec["task"] == "dpo":
        spec |= {"batch": batch // 2, "ids": ids * 2 // 3, "rows": 256, "cap": 1536}
    if spec["task"] == "fit":  # more than any card holds
        spec |= {"batch": 512}
    if toy:  # Liger needs a GPU
        spec |= {
            "way": spec["way"].replace(", fused", ""),
            "batch": batch,
            "rows": 64,
            "median": 20,
            "cap": 64,
            "seconds": 0.2,
            "warm": 1,
        }
    return spec


def forked(work, limit):
    """What `work()` gives in a child process, or an error when it takes more than `limit`
    seconds."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    answer, until = b"", time.monotonic() + limit
    while select.select([read], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(read, 65536)
        if not part:
            break
        answer += part
    else:
        os.kill(child, signal.SIGKILL)
    os.close(read)
    status = os.waitpid(child, 0)[1]
    return (
        json.loads(answer)
        if answer
        else {"error": f"no answer within {limit:.0f} s (status {status})"}
    )


def run_forked(spec, limit):
    return forked(functools.partial(contenders.answer, spec), limit)


def started(spec, limit):
    """The same in a process that imports everything again, for where a fork cannot start CUDA."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.speed_gpu", "--child", json.dumps(spec)],
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        return json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, json.JSONDecodeError) as error:
        return {"error": f"no answer within {limit:.0f} s: {type(error).__name__}"}


def name_of_gpu():
    """Asked in a child, so that this process never starts CUDA; an error where a fork cannot start
    it."""
    import torch

    if torch.cuda.is_available():
        torch.zeros(1, device="cuda")
        return {"gpu": torch.cuda.get_device_name()}
    return {"gpu": "none"}


def measure(options):
    begun, out = time.monotonic(), Path(options.out)
    shapes = ["toy"] if options.tiny else ["135M", "0.6B", "1.7B", "8B"]
    specs = plan(shapes)
    if options.only:
        specs = [
            s
            for phrase in options.only.split(";")
            for s in specs
            if set(phrase.split("+")) <= {s["shape"], s["task"], s["way"]}
        ]
    device = forked(name_of_gpu, 60)
    facts, lines = {"gpu": device.get("gpu", "by spawn"), **contenders.hardware()}, []
    out.parent.mkdir(parents=True, exist_ok=True)
    ceiling = {
        "task": "ceiling",
        "shape": "",
        "way": "matmul and copy",
        "seconds": 0.2 if options.tiny else 2.0,
    }
    rounds = [
        (0, ceiling),
        *((0, s) for s in specs),
        *((1, s) for s in reversed(specs) if s["task"] not in ONCE),
    ]
    with open(out, "a", encoding="utf-8") as file:
        for number, spec in rounds:
            left = options.seconds - (time.monotonic() - begun)
            if left < 5:
                print(f"out of time after {len(lines)} of {len(rounds)} measurements")
                break
            spec = complete(dict(spec), options.tiny) if spec["shape"] else dict(spec)
            limit = min(
                left,
                75
                if spec["task"] == "profile"
                else next((most for word, most in LIMITS.items() if word in spec["way"]), 45),
            )
            result = (started if "error" in device else run_forked)(spec, limit)
            line = {key: spec[key] for key in ("task", "shape", "way")} | {
                "round": number,
                **result,
                **facts,
            }
            file.write(json.dumps(line) + "\n")
            file.flush()
            lines.append(line)
            print(
                f"{time.monotonic() - begun:5.0f} s  {spec['task']:7} {spec['shape']:5} {spec['way']:24}",
                {k: v for k, v in result.items() if k not in QUIET},
                flush=True,
            )
    return lines


def best_rates(lines):
    """{(task, shape): {way: [rates]}} of what was measured; where several calls did, of the
    newest."""
    rates = {}
    for line in lines:
        rate = line.get("pairs_per_s", line.get("ids_per_s"))
        if rate and line["task"] not in ONCE:
            calls = rates.setdefault((line["task"], line["shape"]), {}).setdefault(line["way"], {})
            calls.setdefault(line.get("call", 1), []).append(rate)
    return {
        key: {way: calls[max(calls)] for way, calls in ways.items()} for key, ways in rates.items()
    }


def table(lines):
    for line in lines:
        if line["task"] == "ceiling":
            print(
                f"ceilings: {line.get('matmul_tflops')} TFLOP/s, {line.get('copy_tb_per_s')} TB/s"
            )
    for (task, shape), ways in best_rates(lines).items():
        print(f"\n{task} {shape}, {'pairs' if task == 'dpo' else 'real ids'} a second")
        base, first = statistics.median(ways.get("TRL defaults", [float("nan")])), None
        for way, rates in sorted(ways.items(), key=lambda item: -statistics.median(item[1])):
            same = [
                line
                for line in lines
                if (line["task"], line["shape"], line["way"]) == (task, shape, way)
                and "loss" in line
            ]
            middle = statistics.median(rates)
            goal = (
                f"  {middle / GOALS[shape]:.0%} of goal" if task != "dpo" and shape in GOALS else ""
            )
            first = first or same[0]["loss"]
            goal += "" if abs(same[0]["loss"] / first - 1) < SAME else "  ANOTHER LOSS"
            print(
                f"  {way:24}{middle:12,.1f}  {min(rates):,.0f} .. {max(rates):,.0f}  x{middle / base:.1f}  "
                f"loss {same[0]['loss']:.4f}  gradient {same[0]['gradient_norm']:.4f}  "
                f"{same[0]['peak_gb']:.1f} GB  first step {same[0]['first_step_s']:.1f} s{goal}"
            )
    for line in lines:
        if line["task"] in ONCE:
            print(
                line["task"],
                {key: line[key] for key in line if key not in ("versions", "flags", *QUIET)},
            )
        if "error" in line:
            print(f"failed: {line['task']} {line['shape']} {line['way']}: {line['error']}")


def chart(lines, file):
    """Bars of each way as a multiple of TRL's defaults."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = {key: ways for key, ways in best_rates(lines).items() if "TRL defaults" in ways}
    figure = Figure(figsize=(9, 1.2 + 1.5 * len(groups)), dpi=110, layout="constrained")
    for number, ((task, shape), ways) in enumerate(groups.items()):
        axes = figure.add_subplot(len(groups), 1, number + 1)
        ordered = sorted(ways.items(), key=lambda item: statistics.median(item[1]))
        rates = [statistics.median(rate) for _, rate in ordered]
        base = statistics.median(ways["TRL defaults"])
        bars = axes.barh(
            [way for way, _ in ordered],
            rates,
            color=["#2b6cb0" if "ours" in way else "#a0aec0" for way, _ in ordered],
        )
        axes.bar_label(bars, [f" {rate:,.0f} ({rate / base:.1f}x)" for rate in rates], fontsize=7)
        axes.set_title(
            f"{task} {shape}: {'pairs' if task == 'dpo' else 'real ids'} a second",
            fontsize=9,
            loc="left",
        )
        axes.tick_params(labelsize=7)
        axes.margins(x=0.2)
    device, dates = (
        lines[0]["gpu" if lines[0]["gpu"] != "none" else "cpu"],
        sorted({line["date"] for line in lines}),
    )
    figure.suptitle(
        f"{device}, newest call of each, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}",
        fontsize=9,
    )
    FigureCanvasAgg(figure).print_png(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300, help="time for everything")
    parser.add_argument(
        "--only", help="in this order: shape, task or way, joined by +; several by ;"
    )
    parser.add_argument(
        "--out", default="benchmarks/results/speed_gpu.jsonl", help="a line a measurement, appended"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny shape for a dry run, on a CPU too"
    )
    parser.add_argument(
        "--chart", nargs=2, metavar=("RESULTS", "PNG"), help="draw committed results and end"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return print(json.dumps(contenders.answer(json.loads(options.child))))
    if options.chart:
        lines = [json.loads(line) for line in Path(options.chart[0]).read_text().splitlines()]
        chart(lines, options.chart[1])
    else:
        lines = measure(options)
    table(lines)


if __name__ == "__main__":
    main()
