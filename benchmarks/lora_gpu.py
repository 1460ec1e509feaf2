"""LoRA on a base of 32, 16 and 4 bits: steps per second, peak memory, losses, the planner's bytes.

    python -m benchmarks.lora_gpu [--tiny] [--limit 135] [--out benchmarks/results/lora_gpu.json]

Random weights in the shapes of SmolLM2 1.7B (Llama) and Qwen3 8B. The rows are random ids of a
small alphabet, so a few steps lower the loss. Each job loads the base as a run does (`bits` of
kit.models.load), trains by TRL's SFTTrainer with the settings of kit.sft, and is timed from the
third step on. A job for which time or memory is missing says so in its row. --tiny trains a toy on
a CPU, where 4 bits are refused.
"""

import argparse
import gc
import json
import os
import random
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks import common
from kit import memory, models, sft
from kit.errors import SettingsError
from kit.settings import Settings

OUT = Path(__file__).parent / "results" / "lora_gpu.json"
LARGE, LARGEST = "SmolLM2-1.7B", "Qwen3-8B"
JOBS = {  # shape: rows at once, whether activations are computed again, bits of the jobs
    LARGE: (8, False, (32, 16, 4)),
    LARGEST: (4, True, (4, 16)),
}
SECONDS = {LARGE: 10, LARGEST: 30}  # about what a job takes once its base is written
TOY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
    "vocab_size": 512,
}
STEPS, UNTIMED = 12, 2  # steps of a job, and the first ones, in which kernels are compiled
RANK, LEARNING_RATE, ALPHABET = 16, 1e-3, 64
ROLE_IDS = [2, 3, 4, 5]  # rows of the tables that train beside the adapters


class Clock(TrainerCallback):
    """The end of each step, when the GPU has done its work."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.monotonic())

    def steps_per_second(self):
        ends = self.ends[UNTIMED:]
        return (len(ends) - 1) / (ends[-1] - ends[0])


def clean():
    """Give back the memory of an earlier job."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def write_base(config, folder):
    """Write a model with random weights in bfloat16, as a hub stores it."""
    clean()
    torch.manual_seed(0)
    with torch.device(models.device()):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    common.tokenizer().save_pretrained(folder)


def dataset(rows, length):
    draw = random.Random(0)
    ids = [[draw.randrange(8, 8 + ALPHABET) for _ in range(length)] for _ in range(rows)]
    return sft.dataset({"input_ids": ids, "labels": ids}, f"{rows} {length}")


def build(params, length, checkpointing, folder):
    """Return TRL's trainer with adapters, as sft.train makes it."""
    torch.manual_seed(0)
    model, tokenizer = models.load(params.model, bits=params.lora_bits)
    model.role_ids = ROLE_IDS
    settings = sft.hardware(params, 1)
    settings[next(key for key in settings if key.endswith("_checkpointing"))] = checkpointing
    config = SFTConfig(
        **settings,
        output_dir=folder,
        max_steps=STEPS,
        learning_rate=params.learning_rate,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(
        model,
        config,
        train_dataset=dataset(params.batch_size * STEPS, length),
        processing_class=tokenizer,
        peft_config=sft.lora(params, model),
    )
    sft.complete(trainer, params)
    return trainer


def planned(config, params, length, checkpointing):
    """Return the bytes that kit.memory plans; None for 4 bits, which it does not know."""
    precisions = {32: "autocast" if torch.cuda.is_available() else "fp32", 16: "bf16"}
    if params.lora_bits not in precisions:
        return None
    training = memory.Training(
        micro_batch_size=params.batch_size,
        length=length,
        lora_rank=RANK,
        precision=precisions[params.lora_bits],
        checkpointing=checkpointing,
    )
    return memory.plan(config, training).peak


def measure(config, params, length, checkpointing):
    """Train one job and return the numbers of its row."""
    clean()
    begin, clock = time.monotonic(), Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(params, length, checkpointing, folder)
        load_seconds = time.monotonic() - begin
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        trainer.add_callback(clock)
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    speed, on_gpu = clock.steps_per_second(), torch.cuda.is_available()
    return {
        "checkpointing": checkpointing,
        "rows": params.batch_size,
        "length": length,
        "trained": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "load_seconds": round(load_seconds, 1),
        "steps_per_second": round(speed, 3),
        "ids_per_second": round(speed * params.batch_size * length),
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "planned_bytes": planned(config, params, length, checkpointing),
        "loss_first": round(losses[0], 4),
        "loss_last": round(losses[-1], 4),
    }


def jobs(shape, tiny, until):
    """Yield a row for each number of bits on one shape."""
    size, checkpointing, all_bits = JOBS[shape]
    config = common.config(shape, **(TOY if tiny else {}))
    with tempfile.TemporaryDirectory() as folder:
        write_base(config, folder)
        for bits in all_bits:
            row = {"model": f"{shape}, toy" if tiny else shape, "bits": bits}
            params = Settings(
                model=folder,
                batch_size=size,
                lora_rank=RANK,
                lora_bits=bits,
                learning_rate=LEARNING_RATE,
            )
            if time.monotonic() + SECONDS[shape] > until:
                yield row | {"skipped": "no time left"}
                continue
            try:
                yield row | measure(config, params, 64 if tiny else 1024, checkpointing)
            except SettingsError as error:
                yield row | {"skipped": str(error)}
            except torch.OutOfMemoryError:
                yield row | {"skipped": "out of memory"}


def table(rows):
    columns = ("model", "bits", "again", "steps/s", "ids/s", "peak GB", "planned", "first", "last")
    lines = ["{:18} {:>4} {:>5} {:>8} {:>8} {:>8} {:>8} {:>7} {:>7}".format(*columns)]
    for row in rows:
        start = f"{row['model']:18} {row['bits']:>4}"
        if "skipped" in row:
            lines.append(f"{start} {row['skipped']}")
            continue
        peak, plan = (
            f"{row[key] / 1e9:.2f}" if row[key] else "-" for key in ("peak_bytes", "planned_bytes")
        )
        again = "yes" if row["checkpointing"] else "no"
        lines.append(
            f"{start} {again:>5} {row['steps_per_second']:8.2f} {row['ids_per_second']:8,} "
            f"{peak:>8} {plan:>8} {row['loss_first']:7.3f} {row['loss_last']:7.3f}"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a toy, for a CPU")
    parser.add_argument("--limit", type=float, default=135, help="seconds; later jobs are left out")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    models.verified = lambda folder: None  # 16 GB take 12 s to hash, and no run is behind them
    begin, rows = time.monotonic(), []
    for shape in JOBS:
        for row in jobs(shape, options.tiny, begin + options.limit):
            rows.append(row)
            print(json.dumps(row), flush=True)
            record = {**common.machine(), "date": time.strftime("%Y-%m-%d"), "rows": rows}
            options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(rows))
    print(f"{time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
