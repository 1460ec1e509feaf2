"""Real ids a second of TRL's defaults, of the recipe TRL documents, of raw loops, and of ours, on
this machine's CPU.

    python -m benchmarks.speed_cpu [--steps 8] [--round 0] [--round 1] [--out benchmarks/results/speed_cpu.json]

The pocket shape on rows as long as those of lesson 03. Each contender is a process of its own;
round 1 goes in opposite order. Ids a processor second are the number to compare: other programs
disturb it least.
"""

import argparse
import functools
import json
import statistics
from pathlib import Path

from benchmarks import contenders
from benchmarks.speed_gpu import forked

WAYS = ("TRL defaults", "TRL documented, sdpa", "raw", "raw, packed", "ours", "ours, bf16")
ROWS = {
    "shape": "pocket",
    "task": "sft",
    "rows": 640,
    "median": 43,
    "cap": 179,
    "trained": 0.37,
    "sorted": True,
    "batch": 32,
    "ids": 32_768,
    "warm": 1,
}
SAME = 2e-3  # relative distance of a loss from the raw loop's, whose weights and rows it shares; bf16 is why it is not 0


def measure(options):
    out = Path(options.out)
    record = (
        json.loads(out.read_text())
        if out.is_file()
        else {"hardware": contenders.hardware(), "rows": ROWS, "runs": []}
    )
    for number in options.round or [0, 1]:
        ceiling = {"task": "ceiling", "way": "matmul and copy", "seconds": 2.0}
        specs = [
            ceiling,
            *(
                {**ROWS, "way": way, "steps": options.steps * (2 if way == "TRL defaults" else 1)}
                for way in WAYS[:: 1 - 2 * number]
            ),
        ]
        for spec in specs:
            result = {
                "way": spec["way"],
                "round": number,
                **forked(functools.partial(contenders.answer, dict(spec)), options.limit),
            }
            record["runs"].append(result)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(record, indent=1) + "\n")
            print({key: result[key] for key in result if key != "steps_per_s"}, flush=True)
    return record


def table(record):
    """Medians over rounds, as multiples of TRL's defaults and of the raw loop; raises when a loss
    is another one."""
    runs = [run for run in record["runs"] if "ids_per_processor_s" in run]
    rates = {way: [run["ids_per_processor_s"] for run in runs if run["way"] == way] for way in WAYS}
    middle = {way: statistics.median(values) for way, values in rates.items() if values}
    loss = {run["way"]: run["loss"] for run in runs}
    for way, rate in sorted(middle.items(), key=lambda item: item[1]):
        assert abs(loss[way] / loss["raw"] - 1) < SAME, (way, loss[way], loss["raw"])
        print(
            f"{way:22}{rate:9,.0f} ids a processor second  ({min(rates[way]):,.0f} .. {max(rates[way]):,.0f})  "
            f"x{rate / middle['TRL defaults']:.1f} of TRL's defaults  x{rate / middle['raw']:.2f} of the raw loop  "
            f"loss {loss[way]:.6f}"
        )
    for run in record["runs"]:
        if "matmul_tflops" in run:
            print(
                f"ceilings of one processor: {run['matmul_tflops']} TFLOP/s, {run['copy_tb_per_s']} TB/s "
                f"({record['hardware']['cores']} cores of {record['hardware']['cpu']})"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--steps",
        type=int,
        default=8,
        help="measured for each contender; twice as many of TRL's small ones",
    )
    parser.add_argument(
        "--limit", type=float, default=180, help="seconds after which a contender is given up"
    )
    parser.add_argument(
        "--round",
        type=int,
        action="append",
        choices=[0, 1],
        help="only this round; both by default",
    )
    parser.add_argument(
        "--out", default="benchmarks/results/speed_cpu.json", help="results, added to what is there"
    )
    options = parser.parse_args()
    table(measure(options))


if __name__ == "__main__":
    main()
