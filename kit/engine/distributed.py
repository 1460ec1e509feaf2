"""One process among several: join, share rows, gather a split model, notice a lost process.

Lesson 10 shows what each of them is for.
"""

import contextlib
import copy
import datetime
import itertools
import math
import os
import re
import time
from pathlib import Path

from kit.engine import checkpoints, patches
from kit.errors import DivergedError, KitError, SettingsError

# Else torch.cuda.is_available() starts CUDA's driver, and a forked kernel cannot use CUDA.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # its older name
    # Blocks of a GPU's memory grow; else rows of other lengths need new blocks, and all GPUs wait.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
TIMEOUT = 600  # seconds a process waits for another one; the variable KIT_TIMEOUT sets others
DISK_SECONDS = 30  # until a folder that one host makes must show on another
LOST = re.compile(r"gloo|NCCL|TCPStore|peer|Timed out|recvBytes|DistBackendError", re.IGNORECASE)


class LostError(KitError):
    """Another process or host ended, or did not answer in time; its own output says why."""

    exit_code = 1


def join(cpu=False) -> int:
    """Meet the processes that accelerate launched, once, and return their number.

    cpu: the processes have no GPU. Raises SettingsError when fewer processes meet than were
    launched, and when CPUs are to do what only GPUs can.
    """
    from accelerate import PartialState

    def uses(strategy):
        return os.environ.get(f"ACCELERATE_USE_{strategy}", "").lower() == "true"

    if cpu and uses("DEEPSPEED"):
        raise SettingsError("DeepSpeed's ZeRO: expected GPUs, got none; use configs/ddp.yaml or "
                            "configs/fsdp2.yaml")
    if uses("FSDP"):
        patches.fsdp_in_float32()
        if cpu:
            patches.fsdp_on_cpu()
    patches.restarted_by_torchrun()
    launched = int(os.environ.get("WORLD_SIZE") or _num_processes_of_launcher())
    wait = datetime.timedelta(seconds=float(os.environ.get("KIT_TIMEOUT", TIMEOUT)))
    count = PartialState(cpu=cpu, **({"timeout": wait} if launched > 1 else {})).num_processes
    if count != launched:
        raise SettingsError(f"expected {launched} processes to train together, got {count}; unset "
                            "your ACCELERATE_ variables, or on CPUs launch by `ACCELERATE_USE_CPU="
                            "true accelerate launch --config_file configs/ddp.yaml`")
    if launched == 1:
        patches.one_gpu()
    return count


def _num_processes_of_launcher():
    """Return N of `accelerate launch --num_processes=N`, which without a GPU starts one."""
    import psutil

    parent = psutil.Process().parent()  # None for the first process of a container
    command = " ".join(parent.cmdline() if parent else [])
    flag = re.search(r"accelerate.* --num[_-]processes[= ](\d+)", command)
    return int(flag[1]) if flag else 1


def is_first() -> bool:
    """Return whether this is process 0, which alone writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def from_first(value):
    """Return the value of process 0 in every process."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def meet(folder):
    """Wait for all processes; raise SettingsError on a host that does not see the run's folder."""
    from accelerate import PartialState

    PartialState().wait_for_everyone()
    file, until = Path(folder, "run.json"), time.monotonic() + DISK_SECONDS
    while not file.is_file():  # a network disk shows a new folder late
        if time.monotonic() > until:
            raise SettingsError("expected a run folder that every host sees, got none on this "
                                "host; set KIT_RUNS to a folder on a disk that all hosts share",
                                file=checkpoints.short(folder))
        time.sleep(0.2)


@contextlib.contextmanager
def watched(folder):
    """Around a training: turn an error that means "another process is gone" into a LostError."""
    try:
        yield
    except RuntimeError as error:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not LOST.search(str(error)):
            raise
        first_line = re.sub(r"^\[\S+?:\d+\] ", "", str(error).splitlines()[0])[:120].rstrip(". ")
        raise LostError(f"process {os.environ['RANK']}: another process or host is gone "
                        f"({first_line}); its own output says why, and the same command goes on "
                        "from the newest checkpoint", file=checkpoints.short(folder)) from None


def finite(model, step):
    """Raise DivergedError when a weight is not finite: no loss has seen the last update."""
    import torch

    weights = [p.detach() for p in model.parameters() if p.requires_grad]
    parts = [p.to_local() if hasattr(p, "to_local") else p for p in weights]  # under FSDP
    if not torch.stack([p.isfinite().all() for p in parts]).all():
        raise DivergedError(f"step {step}: expected finite weights, got NaN or infinity; lower "
                            "learning_rate under another `run`")


def as_split(trainer):
    """Return the model as FSDP2 will call it: on weights in bfloat16, those of the norms too.

    TRL has split DPO's reference when the policy is still whole; its log-probabilities are those of
    rounded weights.
    """
    import torch

    model = trainer.model
    state = trainer.accelerator.state
    policy = trainer.is_fsdp_enabled and state.fsdp_plugin.mixed_precision_policy
    if not policy:
        return model
    dtype = policy.param_dtype
    weights = {name: p.detach().to(dtype) for name, p in model.named_parameters()}
    return lambda **inputs: torch.func.functional_call(model, weights, kwargs=inputs)


def describe(trainer, folder):
    """Write beside a split model what `accelerate merge-weights` leaves out."""
    if trainer.is_fsdp_enabled and trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        for part in (model.config, model.generation_config, trainer.processing_class):
            part.save_pretrained(folder)


def whole(trainer):
    """Return the trained model, in process 0 at least, with gathered weights, adapters merged."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    adapted = hasattr(model, "merge_and_unload")
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return copy.deepcopy(model).merge_and_unload() if adapted else model
    from transformers import AutoModelForCausalLM

    # Every process takes part, process 0 gets the weights.
    split = trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model
    state = trainer.accelerator.get_state_dict(split)
    if not trainer.is_world_process_zero():
        return None
    base = model.get_base_model() if adapted else model
    result = AutoModelForCausalLM.from_config(base.config, dtype=next(iter(state.values())).dtype)
    result.generation_config = base.generation_config
    if adapted:
        from peft import get_peft_model

        result = get_peft_model(result, copy.deepcopy(model.active_peft_config))
    result.load_state_dict(state)
    return result.merge_and_unload() if adapted else result


def share_last_rows(trainer):
    """Let the processes share the last rows of an epoch: the step is then that of one process.

    accelerate 1.15 fills these micro batches up with rows of the first ones. Fewer rows than
    processes still take some twice, and process 0 says so. `trainer.rows_per_step` that the micro
    batches do not divide are dealt out unevenly at every step. TRL's own DPOTrainer gathers its
    metrics by pair, so it keeps accelerate's way where the pairs cannot be shared evenly.
    """
    args, rows, plain = trainer.args, trainer.train_dataset, trainer.get_train_dataloader
    if args.world_size == 1 or not hasattr(rows, "__len__"):
        return  # one process, or a stream
    size, count = args.per_device_train_batch_size, args.world_size
    step = getattr(trainer, "rows_per_step", size * count)
    step = step if step % (size * count) else size * count
    left = len(rows) % step
    by_pair = hasattr(trainer, "ref_model") and not hasattr(trainer, "mean_over_pairs")
    if by_pair and left % count:
        return
    if 0 < left < count and trainer.is_world_process_zero():
        print(f"{len(rows)} rows leave {left} for {count} processes: the last step of an epoch "
              f"takes {count - left} of them twice, and differs from that of one process")

    def get_train_dataloader():
        loader = plain()
        split = loader.batch_sampler  # accelerate's: each process gets every count-th batch of it
        split.batch_size = None
        split.batch_sampler = Shared(split.batch_sampler.sampler, size, count, step)
        return loader

    trainer.get_train_dataloader = get_train_dataloader


class Shared:
    """Batches of at most `size` rows for `count` processes, equally long within a step."""

    def __init__(self, sampler, size, count, step=None):
        self.sampler, self.size, self.count, self.step = sampler, size, count, step or size * count

    def _batches(self, rows):
        return self.count * math.ceil(rows / (self.size * self.count))

    def __len__(self):
        groups, last = divmod(len(self.sampler), self.step)
        return groups * self._batches(self.step) + self._batches(last)

    def __iter__(self):
        rows = list(self.sampler)
        for at in range(0, len(rows), self.step):
            group = rows[at : at + self.step]
            group += rows[: max(0, self.count - len(group))]  # each process needs a row
            batches = self._batches(len(group))
            ends = [len(group) * k // batches for k in range(batches + 1)]
            yield from (group[a:b] for a, b in itertools.pairwise(ends))
