"""Cost of a run folder: the same training by the bare trainer and through kit.runs, in one process, turns swapped.

    python benchmarks/run_overhead.py [--rounds 2] [--steps 100] [--hidden 256]

Both log every step and save every 100 steps; the bare trainer in place, with a pickle of its arguments. Two numbers:
the ratio of processor time, which other programs disturb least, and the share of the run's own wall time that passes
in what kit.runs adds (batch hashes, metrics, sha256, fsync, minus a bare save), taken inside one training.
"""

import argparse
import collections
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

import tiny  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import PrinterCallback  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

from kit import runs
from kit.engine import checkpoints, recorder  # noqa: E402


def build(settings, options):
    draw = random.Random(0)
    rows = [[draw.randrange(2, tiny.VOCABULARY) for _ in range(draw.randint(32, 96))] for _ in range(8 * options.steps)]
    return SFTTrainer(model=tiny.model(0.0, options.hidden), processing_class=tiny.tokenizer(),
                      train_dataset=Dataset.from_dict({"input_ids": rows, "labels": rows}), args=SFTConfig(
                          use_cpu=True, bf16=False, gradient_checkpointing=False, per_device_train_batch_size=8,
                          max_steps=options.steps, max_length=128, **settings))


class Clock:
    """Wall seconds spent in methods, by name."""

    def __init__(self):
        self.seconds = collections.Counter()

    def watch(self, owner, name):
        plain = getattr(owner, name)

        def timed(*args, **kwargs):
            begun = time.perf_counter()
            try:
                return plain(*args, **kwargs)
            finally:
                self.seconds[f"{owner.__name__}.{name}"] += time.perf_counter() - begun

        setattr(owner, name, timed)


def bare(folder, options):
    trainer = build({"output_dir": str(folder), "save_steps": 100, "save_total_limit": 2, "logging_steps": 1,
                     "report_to": "none", "disable_tqdm": True, "seed": 0, "logging_nan_inf_filter": False}, options)
    trainer.remove_callback(PrinterCallback)
    begun = time.perf_counter(), time.process_time()
    trainer.train()
    trainer.save_model(str(folder / "model"))
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


def ours(folder, options):
    os.environ["KIT_RUNS"] = str(folder)
    run = runs.start("run", {"seed": 0})
    trainer = build(run.settings(), options)
    begun = time.perf_counter(), time.process_time()
    run.train(trainer, tiny.tokenizer())
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


def added(clock):
    """Wall seconds of one of our trainings beyond what a bare one does, save for save."""
    now = clock.seconds
    steps = sum(now[f"Recorder.{name}"] for name in ("batch", "on_log", "on_step_begin", "on_step_end"))
    return steps - now["SFTTrainer.get_batch_samples"] + now["Recorder.save"] - now["bare save"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=256)
    options = parser.parse_args()
    clock, ratios, shares = Clock(), [], []
    for owner, names in ((recorder.Recorder, ("batch", "on_log", "on_step_begin", "on_step_end", "save")),
                         (SFTTrainer, ("get_batch_samples", "_save_checkpoint"))):
        for name in names:
            clock.watch(owner, name)
    with tempfile.TemporaryDirectory() as place:
        bare(Path(place) / "warm", argparse.Namespace(steps=3, hidden=options.hidden))
        for number in range(options.rounds):
            cpu = {}
            for who in (bare, ours)[:: 1 if number % 2 == 0 else -1]:
                clock.seconds.pop("SFTTrainer.get_batch_samples", None)
                wall, cpu[who] = who(Path(place) / f"{who.__name__}{number}", options)
                if who is bare:
                    clock.seconds["bare save"] = clock.seconds.pop("SFTTrainer._save_checkpoint")
                else:
                    shares.append(added(clock) / wall)
                    for name in [name for name in clock.seconds if name.startswith("Recorder")]:
                        print(f"{name} {clock.seconds.pop(name):.3f} s", end="  ")
                    print(f"bare save {clock.seconds['bare save']:.3f} s  whole run {wall:.2f} s")
            ratios.append(cpu[ours] / cpu[bare])
        size = checkpoints.size_of(Path(place) / "ours0" / "run" / f"checkpoint-{options.steps}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, checkpoint {size / 1e6:.1f} MB: "
          f"processor time x{statistics.median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f}), "
          f"added wall time {statistics.median(shares):.2%} ({min(shares):.2%} .. {max(shares):.2%})")


if __name__ == "__main__":
    main()
