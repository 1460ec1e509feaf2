"""How training scales over the GPUs of one host: variants of DDP and FSDP2 against single GPUs.

    python -m benchmarks.scaling --out scaling.json [--gpus 4] [--variants "ddp,fsdp2 local"]
    python -m benchmarks.scaling --out tiny.json --tiny    two CPU processes and a tiny model
    python -m benchmarks.scaling --out course.json --course    losses of the course's scripts
    python -m benchmarks.scaling --out memory.json --memory    peaks of 8B under FSDP2, and the plan

One GPU alone trains the rows that GPU 0 has among the others, so a share of 100% is as fast as all
GPUs alone. Another process trains whole steps on one GPU, for the losses. Then one start per
strategy measures its variants, one after the other: steps to warm up, two timed repeats, one step
with its phases apart, and for the variants of --profile one under torch's profiler. A result is
written as soon as it exists. The table is printed last.
"""

import argparse
import contextlib
import datetime
import faulthandler
import functools
import gc
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from kit import launch, runs
from kit.errors import KitError

SHAPES = {  # name: (name in kit.memory.SHAPES, changes of its config)
    "0.6B": ("Qwen3-0.6B", {}),
    "1.7B": ("Qwen3-0.6B", {"hidden_size": 2048, "intermediate_size": 6144}),
    "8B": ("Qwen3-8B", {}),
    "tiny": (
        "Qwen3-0.6B",
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": 512,
        },
    ),
}
# Rows at once in one process, micro batches per step. Fewer ids do not fill an H100.
MICRO = {"0.6B": (80, 1), "1.7B": (32, 2), "tiny": (4, 2)}
BUCKETS = {"bucket_cap_mb": 400, "gradient_as_bucket_view": True}
VARIANTS = {
    "ddp": {},
    "ddp buckets": {"ddp": BUCKETS},
    "ddp segments": {"ddp": BUCKETS, "segments": True},  # memory grows instead of in new blocks
    "ddp bf16": {"ddp": BUCKETS, "hook": True},  # gradients are summed in bfloat16; GPUs only
    "fsdp2": {},
    "fsdp2 keep": {"local": True, "keep": True},  # a layer stays gathered until its backward pass
    "fsdp2 exact": {"local": True, "exact": True},  # float32 weights under autocast, as in DDP
    "fsdp2 prefetch": {"local": True, "prefetch": 2},
    "fsdp2 exact keep": {"local": True, "exact": True, "keep": True},
    "fsdp2 segments": {"local": True, "keep": True, "segments": True},
    "fsdp2 local": {"local": True},  # clipping and AdamW on the local parts, without DTensor
    "fsdp2 bf16": {"local": True, "keep": True, "reduce": "bfloat16"},
}
DEFAULT = [name for name in VARIANTS if name not in ("fsdp2 segments", "fsdp2 local", "fsdp2 bf16")]
WARM, TIMED, REPEATS = 2, 4, 2  # steps, steps, repeats
LOSS_STEPS, COURSE_STEPS = 6, 8
MEDIAN, SPREAD, LONGEST = 270, 0.9, 1024  # ids of a row, log-normal
MEMORY_IDS, MEMORY_STEPS = 2048, 4
JOB_SECONDS = 90  # a measurement that takes longer hangs


def train_all(spec):
    """Measure the jobs of one start, one after the other; process 0 writes a file for each."""
    import torch

    from kit import models
    from kit.engine import distributed

    distributed.join(cpu=models.device() == "cpu")
    for variant, shape in spec["jobs"]:
        if distributed.from_first(time.time() > spec["until"]):
            break
        faulthandler.dump_traceback_later(JOB_SECONDS, exit=True)
        begin = time.perf_counter()
        with open_variant(VARIANTS.get(variant, {})):
            record = (memory if spec["kind"] == "memory" else measure)(shape, variant, spec)
        record["seconds"] = round(time.perf_counter() - begin, 1)
        if distributed.is_first():
            file = Path(spec["folder"], f"{spec['kind']} {variant} {shape}.json")
            file.with_suffix(".part").write_text(json.dumps(record))
            file.with_suffix(".part").rename(file)
            print(file.stem, record["seconds"], "s", flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    faulthandler.cancel_dump_traceback_later()


def model_of(shape, fused=True):
    """Return the model with random float32 weights; if `fused`, as kit.models.load prepares it."""
    import torch
    from transformers import AutoModelForCausalLM

    from benchmarks import common
    from kit import models
    from kit.engine import attention, patches

    name, changes = SHAPES[shape]
    config = common.config(name, max_position_embeddings=MEMORY_IDS, **changes)
    where, local = models.device(), int(os.environ.get("LOCAL_RANK", "0"))
    with torch.device(torch.device(where, local) if where == "cuda" else "cpu"):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if fused:
        patches.narrow_states(model)
        attention.use(model)
        if where == "cuda":
            patches.fuse_layers(model)
    return model


def micro_batches(shape, gpus, steps):
    """Return the micro batches of all steps, rows of random ids, in the order of kit.sft."""
    import numpy as np

    from kit import memory as planner
    from kit import sft

    (name, changes), (micro, accumulation) = SHAPES[shape], MICRO[shape]
    vocabulary = changes.get("vocab_size", planner.SHAPES[name].vocab)
    draw, numbers = random.Random(0), np.random.default_rng(0)
    most, batch, rows = 64 if shape == "tiny" else LONGEST, micro * accumulation * gpus, []
    for _ in range(steps):
        lengths = [
            min(most, max(8, int(draw.lognormvariate(math.log(MEDIAN), SPREAD))))
            for _ in range(batch)
        ]
        rows += [lengths[i] for i in sft.by_length(lengths, batch, 0)]
    rows = [numbers.integers(0, vocabulary, length).tolist() for length in rows]
    return [rows[at : at + micro] for at in range(0, len(rows), micro)]


def trainer_of(model, rows, steps, hardware, callbacks=()):
    """Return TRL's trainer as the lessons build it."""
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from benchmarks import common
    from kit import sft, speed

    options = {
        "max_steps": steps,
        "save_strategy": "no",
        "learning_rate": 1e-5,
        "max_length": None,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    config = SFTConfig(**hardware | options, output_dir=tempfile.mkdtemp())
    data = sft.dataset({"input_ids": rows, "labels": rows}, f"{len(rows)} {sum(map(len, rows))}")
    trainer = SFTTrainer(
        model,
        config,
        train_dataset=data,
        callbacks=list(callbacks),
        processing_class=common.tokenizer(),
    )
    trainer.remove_callback(PrinterCallback)
    speed.arrays(trainer)
    return trainer


def clock(warm):
    """Return a callback that notes the time at which each step ended, after all its kernels."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self):
            self.ends, self.retries = [], 0

        def on_step_end(self, args, state, control, **kwargs):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                if state.global_step == warm:
                    torch.cuda.reset_peak_memory_stats()
                    self.retries = -torch.cuda.memory_stats().get("num_alloc_retries", 0)
                if state.global_step == warm + REPEATS * TIMED:
                    self.retries += torch.cuda.memory_stats().get("num_alloc_retries", 0)
            self.ends.append(time.perf_counter())

    return Clock()


def measure(shape, variant, spec):
    """Return rates of the timed steps, phases of one step, losses and peak of one variant."""
    from benchmarks import profiles
    from kit import sft
    from kit.engine import distributed

    whole = spec["kind"] == "losses"
    profiled = spec["kind"] == "speed" and f"{variant} {shape}" in spec["profile"]
    steps = LOSS_STEPS if whole else WARM + REPEATS * TIMED + 1 + profiled
    batches, processes = micro_batches(shape, spec["gpus"], steps), spec["processes"]
    if not whole and processes == 1:
        batches = batches[:: spec["gpus"]]
    micro, accumulation = MICRO[shape]
    batch = micro * accumulation * (spec["gpus"] if whole else processes)
    hardware = sft.hardware(SimpleNamespace(batch_size=batch, micro_batch_size=micro))
    ends = clock(WARM)
    rows = [row for micro_batch in batches for row in micro_batch]
    trainer = trainer_of(model_of(shape), rows, steps, hardware, [ends])
    change(trainer, VARIANTS[variant])
    if not whole:
        phases = profiles.Phases(trainer, steps - 1 - profiled, 1)
    if profiled:
        window = profiles.Window(steps - 1, 1)
        if distributed.is_first():
            trainer.add_callback(window)
    trainer.train()
    record = facts(trainer)
    if not whole:
        ids = [sum(map(len, rows[at : at + batch])) for at in range(0, len(rows), batch)]
        starts = [WARM + repeat * TIMED for repeat in range(REPEATS)]
        seconds = [ends.ends[at + TIMED - 1] - ends.ends[at - 1] for at in starts]
        record |= {
            "tokens": sum(sum(ids[at : at + TIMED]) for at in starts),
            "rates": [
                sum(ids[at : at + TIMED]) / spent for at, spent in zip(starts, seconds, strict=True)
            ],
            "s_a_step": sum(seconds) / TIMED / REPEATS,
            "rows_a_step": batch,
            "retries": ends.retries,
            "phases_ms": phases.spent,
        }
        record["tokens_per_s"] = record["tokens"] / sum(seconds)
    if profiled and distributed.is_first():
        record["profile"] = profiles.summary(window.profile, 1, record["s_a_step"], ids[-1])
    trainer.accelerator.free_memory()
    return record


def memory(shape, variant, spec):
    """Return the peak of steps after the first, and the plan: equal rows in plain layers."""
    from kit import memory as planner
    from kit import models, sft

    n, ids = spec["processes"], 64 if shape == "tiny" else MEMORY_IDS
    checkpointed, model = variant.endswith("checkpointed"), model_of(shape, fused=False)
    training = planner.Training(
        1,
        ids,
        checkpointing=checkpointed,
        strategy="fsdp2",
        processes=n,
        precision="autocast" if models.device() == "cuda" else "fp32",
    )
    plan = planner.plan(model.config, training)
    hardware = sft.hardware(SimpleNamespace(batch_size=n, micro_batch_size=1))
    hardware[next(key for key in hardware if key.endswith("_checkpointing"))] = checkpointed
    rows = [[(i * j) % 512 for j in range(ids)] for i in range(n * MEMORY_STEPS)]
    trainer = trainer_of(model, rows, MEMORY_STEPS, hardware, [clock(1)])
    trainer.train()
    record = facts(trainer) | {
        "planned_gb": plan.peak / 1e9,
        "planned_moment": plan.moment,
        "ids": ids,
    }
    trainer.accelerator.free_memory()
    return record


def facts(trainer):
    """Return the peak of the fullest GPU, how the model is split, and the losses."""
    import torch

    peak = float(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0.0
    peaks = trainer.accelerator.gather(torch.tensor([peak], device=trainer.args.device))
    return {
        "peak_gb": peaks.max().item() / 1e9,
        "split": str(trainer.accelerator.distributed_type).split(".")[-1],
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
    }


@contextlib.contextmanager
def open_variant(changes):
    """Apply the changes of a variant that are made before its trainer exists."""
    import torch
    from accelerate.utils import DistributedDataParallelKwargs as Handler

    to_kwargs, register, init_group = (
        Handler.to_kwargs,
        Handler.register_comm_hook,
        torch.optim.Adam._init_group,
    )
    Handler.to_kwargs = lambda self: to_kwargs(self) | changes.get("ddp", {})
    if changes.get("hook"):
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

        Handler.register_comm_hook = lambda self, model: model.register_comm_hook(
            None, bf16_compress_hook
        )
    if changes.get("local"):
        torch.optim.Adam._init_group = local_parts(init_group)
    segments = torch.cuda.is_available() and changes.get("segments")
    if segments:
        torch.cuda.memory._set_allocator_settings("expandable_segments:True")
    try:
        yield
    finally:
        if segments:
            torch.cuda.memory._set_allocator_settings("expandable_segments:False")
        Handler.to_kwargs, Handler.register_comm_hook = to_kwargs, register
        torch.optim.Adam._init_group = init_group


def local_parts(init_group):
    """Return AdamW's `_init_group` with this process's part in place of each DTensor."""

    @functools.wraps(init_group)
    def inner(self, group, *lists):
        result = init_group(self, group, *lists)
        for tensors in lists:
            tensors[:] = [getattr(tensor, "_local_tensor", tensor) for tensor in tensors]
        return result

    return inner


def change(trainer, changes):
    """Apply the changes of a variant to its trainer."""
    import torch

    if not trainer.is_fsdp_enabled:
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin, cuda = trainer.accelerator.state.fsdp_plugin, torch.cuda.is_available()
    plugin.reshard_after_forward = not changes.get("keep", False)
    plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if cuda and not changes.get("exact") else None,
        reduce_dtype=getattr(torch, changes.get("reduce", "float32")),
    )
    if changes.get("exact"):
        forward = trainer.model.forward

        @functools.wraps(forward)
        def under_autocast(*args, **kwargs):
            with torch.autocast("cuda", torch.bfloat16, enabled=cuda, cache_enabled=False):
                return forward(*args, **kwargs)

        trainer.model.forward = under_autocast
    if changes.get("local"):
        trainer.accelerator.clip_grad_norm_ = clip_local
    if changes.get("prefetch"):
        trainer.add_callback(prefetch(changes["prefetch"]))


def clip_local(parameters, max_norm, norm_type=2):
    """Scale gradients as torch's clip_grad_norm_ does, with one sum over the processes."""
    import torch

    parts = [p.grad._local_tensor for p in parameters if p.grad is not None]
    total = torch.stack(torch._foreach_norm(parts)).square().sum()
    torch.distributed.all_reduce(total)
    total = total.sqrt()
    torch._foreach_mul_(parts, (max_norm / (total + 1e-6)).clamp(max=1.0))
    return total


def prefetch(count):
    """Return a callback that lets each layer gather the next `count` layers early."""
    from transformers import TrainerCallback

    class Prefetch(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            layers = list(model.get_submodule("model.layers"))
            for at, layer in enumerate(layers):
                layer.set_modules_to_forward_prefetch(layers[at + 1 : at + 1 + count])
                before = layers[max(0, at - count) : at]
                layer.set_modules_to_backward_prefetch(before[::-1])

    return Prefetch()


def alone(options, folder, until):
    """Measure each shape on one GPU: its rate, and its losses over whole steps; all at once."""
    jobs = [(kind, shape) for kind in ("speed", "losses") for shape in options.shapes]
    running = []
    for at, (kind, shape) in enumerate(jobs):
        spec = {
            "kind": kind,
            "jobs": [["ddp", shape]],
            "processes": 1,
            "gpus": options.gpus,
            "folder": str(folder / "alone"),
            "until": until,
            "profile": [],
        }
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": str(at % options.gpus)}
        command = [sys.executable, "-m", "benchmarks.scaling", f"--child={json.dumps(spec)}"]
        running.append(subprocess.Popen(command, env=environment))
        if (at + 1) % options.gpus == 0:
            [process.wait() for process in running]
    return [process.wait() for process in running]


def together(options, folder, kind, jobs, until):
    """Measure the jobs of one strategy on all GPUs; after a failure, start again behind it."""
    results = folder / "together"
    results.mkdir(exist_ok=True)
    while jobs and time.time() < until:
        spec = {
            "kind": kind,
            "jobs": jobs,
            "processes": options.gpus,
            "gpus": options.gpus,
            "folder": str(results),
            "until": until,
            "profile": options.profile,
        }
        strategy = jobs[0][0].split()[0]
        try:
            launch.run(__file__, options.gpus, strategy=strategy, child=json.dumps(spec))
        except KitError as error:
            print(f"{type(error).__name__}: {str(error)[:2000]}", flush=True)
        left = [job for job in jobs if not (results / f"{kind} {' '.join(job)}.json").exists()]
        if left and time.time() < until:
            print("failed, left out:", *left[0], flush=True)
        jobs = left[1:]
        write(options, folder)


def apart(ours, theirs):
    """Return the largest distance of two lists of losses, in nats."""
    return max(abs(a - b) for a, b in zip(ours, theirs))


def table(results):
    """Print a line per result; shares and losses are against one GPU."""
    by_job = {(row["job"], *row["arguments"]): row["result"] for row in results}
    print(
        f"{'shape':6}{'variant':18}{'GPUs':>5}{'ids/s per GPU':>15}{'two repeats':>18}{'share':>8}"
        f"{'nats apart':>12}{'peak GB':>9}{'retries':>9}"
    )
    for (job, shape, variant, n), result in sorted(by_job.items(), key=lambda item: item[0][1]):
        if job == "speed":
            one, whole = by_job.get((job, shape, "ddp", 1)), by_job.get(("losses", shape, "ddp", 1))
            rates = " ".join(f"{rate / n:,.0f}" for rate in result.get("rates", ()))
            share = result["tokens_per_s"] / n / one["tokens_per_s"] if one else math.nan
            nats = apart(result["losses"], whole["losses"]) if whole and n > 1 else math.nan
            print(
                f"{shape:6}{variant:18}{n:5}{result['tokens_per_s'] / n:15,.0f}{rates:>18}"
                f"{share:8.1%}{nats:12.1e}{result['peak_gb']:9.1f}{result.get('retries', 0):9}"
            )
        elif job == "course":
            one = by_job[job, shape, "ddp-1", n]
            print(
                f"{shape} {variant}: {apart(result['losses'], one['losses']):.1e} nats from one "
                f"GPU over {len(result['losses'])} steps"
            )
        elif job == "memory":
            print(
                f"{shape:6}{variant:18}{n:5} peak {result['peak_gb']:.1f} GB, planned "
                f"{result['planned_gb']:.1f} GB"
            )
    for (_, shape, variant, n), result in by_job.items():
        details(f"{shape} {variant} on {n}", result)


def details(name, result):
    """Print the phases of one step, and where its time goes."""
    if "phases_ms" in result:
        phases = ", ".join(
            f"{part} {both[0]:.0f}/{both[1]:.0f}" for part, both in result["phases_ms"].items()
        )
        print(f"{name}, ms of one step until [CPU/GPU] ends: {phases}")
    if "profile" in result:
        profile = result["profile"]
        print(
            f"  profile of {name}: step {profile['wall_ms']} ms, idle "
            f"{profile['idle_ms']}, communication {profile['communication_ms']} of which "
            f"alone {profile['communication_alone_ms']}; kinds {profile['kinds_ms']}"
        )
        for spent, count, kernel in profile["kernels"][:8]:
            print(f"    {spent:8.2f} ms {count:5} {kernel}")
        for call, (on_gpu, on_cpu, count) in profile["cpu"].items():
            print(f"    CPU {on_cpu:8.2f} ms {count:5} {call} (GPU {on_gpu})")


def main():
    """Measure the variants as long as there is time, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = {"type": lambda text: [name.strip() for name in text.split(",")]}
    parser.add_argument("--out", type=Path, default=Path("scaling.json"))
    parser.add_argument("--seconds", type=float, default=270)
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--shapes", default=["0.6B", "1.7B"], **names)
    parser.add_argument("--variants", default=DEFAULT, **names)
    parser.add_argument("--profile", default=["ddp 1.7B", "fsdp2 1.7B"], **names)
    parser.add_argument("--memory", action="store_true", help="peaks of 8B under FSDP2 instead")
    parser.add_argument("--course", action="store_true", help="losses of the scripts instead")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train_all(options.child)
        return
    import torch

    options.gpus = options.gpus or (2 if options.tiny else max(1, torch.cuda.device_count()))
    if options.tiny:
        options.shapes = ["tiny"]
        options.profile = [f"{name.rsplit(' ', 1)[0]} tiny" for name in options.profile]
    with tempfile.TemporaryDirectory() as folder:
        measure_all(options, Path(folder))
    table(json.loads(options.out.read_text())["results"])


def measure_all(options, folder):
    """Measure first single GPUs, then each strategy; --out is written after each start."""
    (folder / "alone").mkdir()
    until, large = time.time() + options.seconds, "tiny" if options.tiny else "8B"
    if options.memory:
        jobs = [["fsdp2 checkpointed", large], ["fsdp2", large]]
        together(options, folder, "memory", jobs, until)
        return
    if options.course:
        course(options, folder)
        return
    alone(options, folder, until)
    write(options, folder)
    for strategy, share in (("ddp", 0.42), ("fsdp2", 1)):
        jobs = [
            [name, shape]
            for name in options.variants
            for shape in options.shapes
            if name.split()[0] == strategy
        ]
        together(options, folder, "speed", jobs, time.time() + share * (until - time.time()))


def course(options, folder):
    """Train the scripts of SFT and DPO on one GPU and on all, in steps of the same rows."""
    os.environ |= {"KIT_RUNS": str(folder / "runs"), "KIT_MAX_STEPS": str(COURSE_STEPS)}
    (folder / "together").mkdir()
    rows = 8 * options.gpus
    for script in ("sft_chat", "dpo"):
        for strategy, n in (("ddp", 1), ("ddp", options.gpus), ("fsdp2", options.gpus)):
            run = f"{script}-{strategy}-{n}"
            launch.run(
                script, n, strategy=strategy, run=run, start="", batch_size=rows, micro_batch_size=8
            )
            losses = [row["loss"] for row in runs.metrics(f"{run}-pocket")]
            file = folder / "together" / f"course {strategy}-{n} {script}.json"
            file.write_text(json.dumps({"losses": losses, "processes": n}))
            write(options, folder)


def write(options, folder):
    """Write the results that exist so far."""
    from benchmarks import common

    results = []
    for part, n in (("alone", 1), ("together", options.gpus)):
        for file in sorted((folder / part).glob("*.json"), key=lambda file: file.stat().st_mtime):
            kind, *variant, shape = file.stem.split()
            results.append(
                {
                    "job": kind,
                    "arguments": [shape, " ".join(variant), n],
                    "result": json.loads(file.read_text()),
                }
            )
    machine = common.machine() | {"date": datetime.date.today().isoformat(), "seed": 0}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": machine, "results": results}, indent=1))


if __name__ == "__main__":
    main()
