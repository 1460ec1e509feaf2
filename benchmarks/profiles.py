"""Where the time of a training step goes on a GPU: kernels by kind and by owner, gaps between them,
and waiting."""

import contextlib
import io
import re
import time

import torch
from transformers import TrainerCallback

KINDS = {  # the first pattern that a kernel's name matches
    "communication": "nccl",
    "norm, rotary, gate (Liger)": "rms_norm|_rope|swiglu|geglu",
    "attention": "flash|fmha|varlen",
    "head's scores (TRL)": "^_(forward|backward)_kernel",
    "compiled": "^triton_",
    "matrix products": "gemm|nvjet|cutlass|cublas|xmma|splitK",
    "optimizer and clipping": "adam|multi_tensor",
    "copies and casts": "memcpy|memset|copy|catarray",
}
OWNERS = (
    "ChunkedLogProbFunction",
    "ChunkedLogProbFunctionBackward",
    "Optimizer.step",
    "torch_attn::_varlen_attn",
    "aten::_foreach_norm",
    "aten::mm",
    "aten::to",
    "DataLoader",
    "cudaMalloc",
    "cudaFree",
    "Synchronize",
    "cudaLaunchKernel",
    "cuLaunchKernel",
)
RANGES = ("Optimizer.", "ProfilerStep", "enumerate(DataLoader", "## ", "Torch-Compiled")
LONG = 1e-3  # seconds without a kernel that are more than the gap between two launches


def cuda():
    return torch.cuda.is_available()


def sync():
    if cuda():
        torch.cuda.synchronize()


def profiler():
    from torch.profiler import ProfilerActivity, profile

    return profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda() else [])])


def of_work(work, ids, repeats=3):
    """Profile of one call of `work`, which trains `ids` ids; its time without a profiler is the
    mean of `repeats`."""
    for _ in range(repeats):
        work()
    sync()
    begun = time.perf_counter()
    for _ in range(repeats):
        work()
    sync()
    wall = (time.perf_counter() - begun) / repeats
    with profiler() as profile:
        work()
        sync()
    return summary(profile, 1, wall, ids)


class Window(TrainerCallback):
    """Profiles `count` steps after `first` of them, and ends the training."""

    def __init__(self, first, count):
        self.first, self.last, self.profile = first, first + count, profiler()

    def on_step_end(self, args, state, control, **kwargs):
        sync()
        if state.global_step == self.first:
            self.profile.start()
        if state.global_step == self.last:
            self.profile.stop()
        control.should_training_stop = state.global_step >= self.last  # whatever the clock says


class Phases(TrainerCallback):
    """Milliseconds of a step's parts over `count` steps after `first`, each waited for: [on the
    CPU, until the GPU ends].

    A part that the CPU leaves no earlier than the GPU has gaps between its kernels, or waits
    inside.
    """

    def __init__(self, trainer, first, count):
        self.on, self.first, self.count, self.spent = False, first, count, {}
        for owner, name in (
            (trainer, "get_batch_samples"),
            (trainer, "compute_loss"),
            (trainer.accelerator, "backward"),
            (trainer.accelerator, "clip_grad_norm_"),
        ):
            setattr(owner, name, self.timed(getattr(owner, name), name))
        trainer.add_callback(self)

    def timed(self, call, name):
        def inner(*args, **kwargs):
            self.begin()
            result = call(*args, **kwargs)
            self.end(name)
            return result

        return inner

    def begin(self):
        if self.on:
            sync()
            self.begun = time.perf_counter()

    def end(self, name):
        if self.on:
            cpu = time.perf_counter() - self.begun
            sync()
            both = (cpu, time.perf_counter() - self.begun)
            self.spent[name] = [
                round(a + 1e3 * b / self.count, 2)
                for a, b in zip(self.spent.get(name, (0, 0)), both, strict=True)
            ]

    def on_pre_optimizer_step(self, *args, **kwargs):
        self.begin()

    def on_optimizer_step(self, *args, **kwargs):
        self.end("optimizer.step")

    def on_step_end(self, args, state, control, **kwargs):
        self.on = self.first <= state.global_step < self.first + self.count


def of_trainer(trainer, clock, count=2):
    """Phases, and then a profile, of `count` steps each, after those that `clock` times without
    either."""
    first = clock.warm + clock.spec["steps"]
    phases, window = Phases(trainer, first, count), Window(first + count, count)
    trainer.add_callback(window)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    clock.steps = clock.steps[:first]
    timed = clock.result()
    return {
        **timed,
        "rows_at_once": trainer.args.per_device_train_batch_size,
        "phases_ms": phases.spent,
        **summary(window.profile, count, 1 / timed["steps_per_s"], timed["step_ids"]),
    }


def kind_of(name):
    return next(
        (kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)),
        "other",
    )


def gaps(kernels):
    """(seconds in which no kernel ran, those in gaps longer than LONG, the five longest with their
    neighbours)."""
    end, before, spaces = None, "", []
    for start, stop, name in sorted(kernels):
        if end is not None and start > end:
            spaces.append((start - end, before, name))
        if end is None or stop > end:
            end, before = stop, name
    longest = [
        [round(1e3 * size, 2), a[:50], b[:50]] for size, a, b in sorted(spaces, reverse=True)[:5]
    ]
    return (
        sum(size for size, *_ in spaces),
        sum(size for size, *_ in spaces if size > LONG),
        longest,
    )


def alone(kernels, pattern):
    """Return (seconds in which a kernel of the pattern runs, those in which no other one runs)."""
    edges = []
    for start, stop, name in kernels:
        matches = bool(re.search(pattern, name, re.IGNORECASE))
        edges += [(start, matches, 1), (stop, matches, -1)]
    running, before, spent, by_itself = {True: 0, False: 0}, 0.0, 0.0, 0.0
    for at, matches, change in sorted(edges):
        if running[True]:
            spent += at - before
            by_itself += (at - before) * (not running[False])
        running[matches] += change
        before = at
    return spent, by_itself


def summary(profile, steps, wall, ids):
    """All times are milliseconds of one step, `wall` (seconds) is a step's without the profiler.

    owners: name: [on the GPU with all that it calls, on the CPU by itself, calls].
    """
    where = "CUDA" if cuda() else "CPU"
    kernels = [
        (e.time_range.start / 1e6, e.time_range.end / 1e6, e.name)
        for e in profile.events()
        if str(e.device_type).endswith(where)
    ]
    if cuda():  # a range of the CPU is drawn on the GPU as well
        kernels = [k for k in kernels if not k[2].startswith(RANGES)]
    kinds, top = {}, {}
    for start, stop, name in kernels:
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0.0) + stop - start
        spent, count = top.get(name, (0.0, 0))
        top[name] = spent + stop - start, count + 1
    idle, waiting, longest = gaps(kernels)
    owners = {}
    for event in profile.key_averages():
        for owner in OWNERS:
            if owner in event.key and not str(event.device_type).endswith("CUDA"):
                owners[event.key[:70]] = [
                    round(event.device_time_total / 1e3 / steps, 2),
                    round(event.self_cpu_time_total / 1e3 / steps, 2),
                    event.count // steps,
                ]
                break
    communication, by_itself = alone(kernels, KINDS["communication"])
    busiest = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)[:12]
    ordered = sorted(top.items(), key=lambda item: -item[1][0])[:24]
    return {
        "ids": ids,
        "wall_ms": round(1e3 * wall, 1),
        "busy_ms": round(1e3 * sum(kinds.values()) / steps, 1),
        "kinds_ms": {
            k: round(1e3 * v / steps, 1)
            for k, v in sorted(kinds.items(), key=lambda item: -item[1])
        },
        "idle_ms": round(1e3 * idle / steps, 1),
        "idle_in_long_gaps_ms": round(1e3 * waiting / steps, 1),
        "communication_ms": round(1e3 * communication / steps, 1),
        "communication_alone_ms": round(1e3 * by_itself / steps, 1),
        "cpu": {
            event.key[:70]: [
                round(event.device_time_total / 1e3 / steps, 2),
                round(event.self_cpu_time_total / 1e3 / steps, 2),
                event.count // steps,
            ]
            for event in busiest
        },
        "launches": len(kernels) // steps,
        "longest_gaps": longest,
        "owners": owners,
        "kernels": [
            [round(1e3 * spent / steps, 2), count // steps, name[:90]]
            for name, (spent, count) in ordered
        ],
    }
