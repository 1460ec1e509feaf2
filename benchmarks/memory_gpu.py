"""Peak memory of TRL's trainers as the lessons build them, against what kit.memory predicts.

    python -m benchmarks.memory_gpu [--jobs 4] [--limit 150] [--out benchmarks/results/memory_gpu.jsonl]

One process a setting, random weights and ids, three steps. On a GPU the peak is
torch.cuda.max_memory_allocated; without one, toy shapes are trained on the CPU and the peak is what
torch's allocator reports to the profiler.
"""

import argparse
import gc
import itertools
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"

from benchmarks import common
from kit import memory

SMALL, QWEN, LARGE = "SmolLM2-135M", "Qwen3-0.6B", "SmolLM2-1.7B"
SETTINGS = {
    "135M full": (SMALL, {}),
    "135M full, checkpointing": (SMALL, {"micro_batch_size": 16, "checkpointing": True}),
    "135M full, fp32": (SMALL, {"length": 512, "precision": "fp32"}),
    "135M full, padded rows": (SMALL, {"padded": True}),
    "135M DPO, reference": (SMALL, {"kind": "dpo", "micro_batch_size": 4}),
    "0.6B full": (QWEN, {"micro_batch_size": 4}),
    "0.6B full, one row of 8,192": (
        QWEN,
        {"micro_batch_size": 1, "length": 8192, "checkpointing": True},
    ),
    "0.6B full, padded rows run packed": (QWEN, {"padded": True, "packed": True}),
    "0.6B full, bf16 weights": (QWEN, {"precision": "bf16"}),
    "0.6B full, half of the ids trained, 2 micro batches": (
        QWEN,
        {"micro_batch_size": 4, "trained": 0.5, "accumulation": 2},
    ),
    "0.6B LoRA": (QWEN, {"micro_batch_size": 4, "lora_rank": 16, "lora_tables": True}),
    "0.6B DPO, reference, checkpointing": (
        QWEN,
        {"kind": "dpo", "micro_batch_size": 4, "checkpointing": True},
    ),
    "0.6B DPO, precomputed reference": (
        QWEN,
        {"kind": "dpo", "micro_batch_size": 2, "reference": "stored"},
    ),
    "1.7B full, checkpointing": (LARGE, {"checkpointing": True}),
    "1.7B full, bf16 weights": (LARGE, {"micro_batch_size": 4, "precision": "bf16"}),
    "1.7B LoRA, checkpointing": (
        LARGE,
        {"micro_batch_size": 16, "lora_rank": 16, "lora_tables": True, "checkpointing": True},
    ),
    "1.7B DPO, LoRA": (
        LARGE,
        {"kind": "dpo", "micro_batch_size": 1, "lora_rank": 16, "lora_tables": True},
    ),
}
STEPS = 3
TOY = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 384,
    "vocab_size": 3000,
}
# On a GPU, Triton and cuBLAS do this in registers; in torch, it takes copies of the tile.
KERNELS = ("_forward_tile", "_backward_tile", "_addmm_fp32")


def setting_of(name):
    """Return (shape, Training, whether rows run packed) of a name in SETTINGS."""
    shape, changes = SETTINGS[name]
    fields = {key: value for key, value in changes.items() if key not in ("packed", "trained")}
    return shape, memory.Training(**fields), "packed" in changes


def rows(setting, vocab):
    """Yield random rows; each micro batch has the same lengths, so each step the same peak.

    All rows have `length` ids, or when padded the first of a micro batch has and the others have
    half of it or more.
    """
    draw = random.Random(0)
    lengths = [
        setting.length
        if not setting.padded or i == 0
        else draw.randint(setting.length // 2, setting.length)
        for i in range(setting.micro_batch_size)
    ]
    for length in lengths * (STEPS * setting.accumulation):
        yield [draw.randrange(5, vocab) for _ in range(length)]


def dataset(setting, vocab, trained=1.0):
    """Columns as sft.sft_dataset and sft.dpo_dataset make them, in the order of `rows`."""
    from kit import sft

    ids = list(rows(setting, vocab))
    if setting.kind == "sft":
        columns = {
            "input_ids": ids,
            "labels": [
                [-100] * round(len(row) * (1 - trained)) + row[round(len(row) * (1 - trained)) :]
                for row in ids
            ],
        }
    else:
        columns = {
            "prompt_ids": [row[:1] for row in ids],
            "chosen_ids": [row[1:] for row in ids],
            "rejected_ids": [row[:0:-1] for row in ids],
        }
    return sft.dataset(columns, f"{setting}")


def adapters(setting, policy):
    """Return peft's config as the setting describes it."""
    from peft import LoraConfig

    tables = {
        "modules_to_save": ["embed_tokens", "lm_head"],
        "ensure_weight_tying": policy.config.tie_word_embeddings,
    }
    return (
        LoraConfig(
            r=setting.lora_rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            **tables if setting.lora_tables else {},
        )
        if setting.lora_rank
        else None
    )


def trainer(setting, config, folder, packed=False, trained=1.0):
    """TRL's trainer with the arguments of lessons 03 and 04, and the precision and checkpointing of
    the setting."""
    import torch
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, SFTConfig, SFTTrainer

    from kit import models, sft
    from kit.engine import attention

    where, half = models.device(), setting.precision.startswith("bf16")

    def model():
        with torch.device(where):
            return AutoModelForCausalLM.from_config(
                config, dtype=torch.bfloat16 if half else torch.float32
            )

    torch.manual_seed(0)
    policy = attention.use(model()) if packed else model()
    settings = sft.hardware(
        SimpleNamespace(
            batch_size=setting.micro_batch_size * setting.accumulation,
            micro_batch_size=setting.micro_batch_size,
        )
    )
    checkpointing = next(key for key in settings if key.endswith("_checkpointing"))
    settings |= {
        checkpointing: setting.checkpointing,
        "bf16": setting.precision != "fp32",
        "max_steps": STEPS,
        "output_dir": folder,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "disable_tqdm": True,
        "max_length": None,
        "optim": "adamw_torch_fused",
    }
    more = {
        "train_dataset": dataset(setting, config.vocab_size, trained),
        "processing_class": common.tokenizer(),
        "peft_config": adapters(setting, policy),
    }
    if setting.kind == "sft":
        return SFTTrainer(
            policy, SFTConfig(**settings, dataset_kwargs={"skip_prepare_dataset": True}), **more
        )
    precompute = setting.reference == "stored"
    reference = None if precompute or setting.lora_rank else model()
    return common.preferences(
        policy, reference, DPOConfig(**settings, precompute_ref_log_probs=precompute), **more
    )


class Phases:
    """Highest number of bytes while the trainer was in its forward pass, its backward pass and its
    update."""

    def __init__(self, built):
        from transformers import TrainerCallback

        self.peaks, self.marks, plain, phases = {}, [], built.compute_loss, self

        def forward(*args, **kwargs):
            phases.mark("before")
            loss = plain(*args, **kwargs)
            phases.mark("forward")
            return loss

        class Marks(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, **kwargs):
                phases.mark("backward")

            def on_substep_end(self, args, state, control, **kwargs):
                phases.mark("backward")

            def on_step_end(self, args, state, control, **kwargs):
                phases.mark("update")

        built.compute_loss = forward
        built.add_callback(Marks())

    def mark(self, name):
        import torch

        self.marks.append((name, time.time_ns()))
        if torch.cuda.is_available():
            self.peaks[name] = max(self.peaks.get(name, 0), torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()


def as_packed(setting, vocab):
    """The setting that a padded one is when each batch runs as one row of its real ids."""
    ids = sum(len(row) for row in itertools.islice(rows(setting, vocab), setting.micro_batch_size))
    return replace(setting, micro_batch_size=1, length=ids, padded=False)


def measure(setting, config, packed=False, trained=1.0):
    """{phase: peak bytes} of one training."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()
            left = (
                torch.cuda.memory_allocated()
            )  # of an earlier setting: cuBLAS keeps its workspaces
            torch.cuda.reset_peak_memory_stats()
            built = trainer(setting, config, folder, packed, trained)
            phases = Phases(built)
            built.train()
            return phases.peaks | {"left": left}
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.profiler import ProfilerActivity, profile

        # On a GPU, float32 with grouped heads has the math kernel only; on a CPU it would have a
        # fused one.
        kernels = (
            [SDPBackend.MATH]
            if setting.precision == "fp32"
            else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
        )
        gc.collect()  # what an earlier training left would be taken off
        with (
            sdpa_kernel(kernels),
            profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled,
        ):
            built = trainer(setting, config, folder, packed, trained)
            phases = Phases(built)
            built.train()
    now, ends = 0, iter(phases.marks)
    name, end = next(ends)
    for event in sorted(
        (e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"),
        key=lambda e: e.start_ns(),
    ):
        while event.start_ns() > end:
            name, end = next(ends, ("after", sys.maxsize))
        now += event.nbytes()
        phases.peaks[name] = max(phases.peaks.get(name, 0), now)
    phases.peaks.pop("after")
    return phases.peaks


def child(names):
    """Train settings one after the other and print a row for each; one that fails says why and the
    next one goes on."""
    import torch

    gpu = torch.cuda.is_available()
    for name in names:
        shape, setting, packed = setting_of(name)
        config = common.config(shape)
        if not gpu:
            config, setting = toy(shape, setting)
        plan = memory.plan(config, as_packed(setting, config.vocab_size) if packed else setting)
        try:
            peaks = measure(setting, config, packed, SETTINGS[name][1].get("trained", 1.0))
        except Exception as error:
            print(f"{name} failed: {error!r}"[:2000], flush=True)
            continue
        left = peaks.pop("left", 0)
        peak = max(peaks.values())
        print(
            json.dumps(
                {
                    "setting": name,
                    "model": shape,
                    **SETTINGS[name][1],
                    "predicted": plan.peak,
                    "measured": peak,
                    "error": round(plan.peak / peak - 1, 4),
                    "moment": plan.moment,
                    "terms": plan.terms,
                    "phases": peaks,
                    "moments": {key: sum(terms.values()) for key, terms in plan.moments.items()},
                    "left": left,
                    "device": torch.cuda.get_device_name()
                    if gpu
                    else f"{platform.machine()} CPU, toy shapes",
                    "torch": torch.__version__,
                    "date": time.strftime("%Y-%m-%d"),
                }
            ),
            flush=True,
        )


def toy_config(shape):
    return common.config(shape, **TOY)


def toy(shape, setting):
    """The same setting, small enough for a CPU, on which TRL's head works in torch."""
    import torch
    import trl.trainer.utils
    from trl.kernels import chunked_logprob

    torch.set_num_threads(1)
    memory.TILE = (memory.TILE[0], 128)
    trl.trainer.utils._use_triton = lambda device: (
        True
    )  # only the ids in the loss are scored, as on a GPU
    trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE = memory.TILE[1]
    for inner in KERNELS:  # the losses mean nothing then
        setattr(chunked_logprob, inner, lambda *args, **kwargs: None)
    return toy_config(shape), replace(
        setting, length=setting.length // 8, micro_batch_size=max(setting.micro_batch_size // 4, 1)
    )


def table(rows):
    """A line a setting: predicted and measured GB, the error, and the moment of the predicted
    peak."""
    lines = [f"{'setting':52} {'predicted':>9} {'measured':>9} {'error':>7}  peak at"]
    lines += [
        f"{row['setting']:52} {row['predicted'] / 1e9:9.3f} {row['measured'] / 1e9:9.3f} {row['error']:+7.1%}  "
        f"{row['moment']}"
        for row in rows
    ]
    worst = max((abs(row["error"]) for row in rows), default=0)
    return "\n".join(
        [*lines, f"{len(rows)} of {len(SETTINGS)} settings, largest error {worst:.1%} (GB)"]
    )


def run(names, options):
    """A process per setting, as many at once as `jobs` and the GPU's `room` allow; each row is
    written as it comes."""
    until, waiting, running, need = time.monotonic() + options.limit, list(names), {}, {}
    while (waiting or running) and time.monotonic() < until:
        for name in list(waiting):
            need[name] = memory.plan(*setting_of(name)[:2]).peak / 1e9 + 3  # and torch's own
            if (
                len(running) < options.jobs
                and sum(need[n] for n in running) + need[name] <= options.room
            ):
                running[name] = (
                    subprocess.Popen(
                        [sys.executable, "-m", "benchmarks.memory_gpu", "--settings", name],
                        text=True,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                    ),
                    time.monotonic(),
                )
                waiting.remove(name)
        for name, (process, begun) in list(running.items()):
            if process.poll() is None and time.monotonic() - begun > options.each:
                process.kill()
            if process.poll() is not None:
                del running[name]
                yield name, process.communicate()[0], time.monotonic() - begun
        time.sleep(0.2)
    for name, (process, begun) in running.items():
        process.kill()
        yield name, process.communicate()[0], time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--jobs", type=int, default=4, help="processes at once; each counts its own bytes"
    )
    parser.add_argument(
        "--room", type=float, default=76, help="GB of the GPU that all of them may take together"
    )
    parser.add_argument("--limit", type=float, default=150, help="seconds for all of them")
    parser.add_argument("--each", type=float, default=100, help="seconds for one")
    parser.add_argument(
        "--only", default="", help="settings whose name holds one of these texts, joined by ;"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results" / "memory_gpu.jsonl",
        help="rows, added to what is there; a setting measured again takes the place of its row",
    )
    parser.add_argument("--settings", nargs="*", help="train these here and print a row for each")
    options = parser.parse_args()
    if options.settings:
        return child(options.settings)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    names = [name for part in options.only.split(";") for name in SETTINGS if part in name]
    for name, text, seconds in run(dict.fromkeys(names), options):
        row = [line for line in text.splitlines() if line.startswith('{"setting"')]
        print(
            f"{name}: {seconds:.0f} s"
            if row
            else f"{name} failed after {seconds:.0f} s: {text[-500:]}",
            flush=True,
        )
        with open(options.out, "a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in row)
    by_name = {row["setting"]: row for row in map(json.loads, options.out.read_text().splitlines())}
    rows = [by_name[name] for name in SETTINGS if name in by_name]
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(table(rows))


if __name__ == "__main__":
    main()
