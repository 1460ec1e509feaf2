"""Inside one of several processes: join the others, split a model over CPUs, gather it, tell when a process is gone.

Lesson 06 shows what each of them is for.
"""

import contextlib
import copy
import dataclasses
import datetime
import os
import re
import time
from pathlib import Path

from kit.engine import checkpoints
from kit.errors import DivergedError, KitError, SettingsError

# Else torch.cuda.is_available() starts CUDA's driver, and no fork of a kernel that has called it can use CUDA.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
TIMEOUT = 600  # seconds a process waits for another one; KIT_TIMEOUT sets others
DISK_SECONDS = 30  # until a folder made on one host must show on another
LOST = re.compile(r"gloo|NCCL|TCPStore|peer|Timed out|recvBytes|DistBackendError", re.IGNORECASE)


class LostError(KitError):
    """Another process or host is gone, or did not answer in time; its own output says why."""

    exit_code = 1


def join(cpu=False) -> int:
    """Meet the processes that accelerate launched; how many train together. A second call only counts.

    cpu: they have no GPU. SettingsError when fewer came than were launched, or when a CPU was asked for what it cannot.
    """
    from accelerate import PartialState

    asked = {name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"}
    if cpu and "DEEPSPEED" in asked:
        raise SettingsError("DeepSpeed's ZeRO needs GPUs here, none came; use configs/ddp.yaml or configs/fsdp2.yaml")
    if "FSDP" in asked:
        _fsdp_in_float32()
    if cpu and "FSDP" in asked:
        _fsdp_on_cpu()
    launched = int(os.environ.get("WORLD_SIZE") or _asked_of_launcher())
    wait = datetime.timedelta(seconds=float(os.environ.get("KIT_TIMEOUT", TIMEOUT)))
    came = PartialState(cpu=cpu, **({"timeout": wait} if launched > 1 else {})).num_processes
    if came != launched:
        raise SettingsError(f"{launched} processes must train together, {came} came; unset your ACCELERATE_ variables, "
                            "or on CPUs launch by `ACCELERATE_USE_CPU=true accelerate launch --config_file "
                            "configs/ddp.yaml`")
    if launched == 1:
        _one_gpu()
    return came


def _asked_of_launcher():
    """What `accelerate launch --num_processes=N` was asked for: without GPUs and a config it starts one process."""
    import psutil

    parent = psutil.Process().parent()  # None for the first process of a container
    found = re.search(r"accelerate.* --num[_-]processes[= ](\d+)", " ".join(parent.cmdline() if parent else []))
    return int(found[1]) if found else 1


def _one_gpu():
    """One process trains on one GPU: of several, transformers would make a DataParallel model, which TRL refuses."""
    from transformers import TrainingArguments

    counted = TrainingArguments.n_gpu.fget
    if counted.__name__ != "at_most_one":
        def at_most_one(self):
            return min(1, counted(self))

        TrainingArguments.n_gpu = property(at_most_one)


def _fsdp_in_float32():
    """Let FSDP2 sum gradients and hand on log-probabilities in float32, as DDP does; accelerate rounds both to bf16."""
    import torch
    from accelerate import FullyShardedDataParallelPlugin

    rounded = FullyShardedDataParallelPlugin.set_mixed_precision
    if rounded.__name__ == "in_float32":
        return

    def in_float32(self, *args, **options):
        rounded(self, *args, **options)
        self.mixed_precision_policy = dataclasses.replace(self.mixed_precision_policy, reduce_dtype=torch.float32,
                                                          output_dtype=None)

    FullyShardedDataParallelPlugin.set_mixed_precision = in_float32


def _fsdp_on_cpu():
    """Let accelerate split a model over CPUs: it looks at its FSDP settings on a GPU only, and else trains by DDP."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    made = PartialState.__init__
    if made.__name__ == "init":
        return

    def init(self, *args, **options):
        made(self, *args, **options)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU  # the device stays the CPU

    PartialState.__init__ = init


def meet(folder):
    """Wait for all processes; SettingsError on a host that does not see the run's folder, which all must share."""
    from accelerate import PartialState

    PartialState().wait_for_everyone()
    file, until = Path(folder, "run.json"), time.monotonic() + DISK_SECONDS
    while not file.is_file() and time.monotonic() < until:
        time.sleep(0.2)  # a network disk shows a new folder late
    if not file.is_file():
        raise SettingsError("every host must see the run's folder, this one does not; set KIT_RUNS to a folder on a "
                            "disk that all hosts share", file=checkpoints.shown(folder))


@contextlib.contextmanager
def watched(folder):
    """Around a training: an error that means "another process is gone" becomes a LostError."""
    try:
        yield
    except RuntimeError as error:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not LOST.search(str(error)):
            raise
        raise LostError(f"process {os.environ['RANK']}: another process or host is gone ({_first(error)}); its own "
                        "output says why, and the same command goes on from the newest checkpoint",
                        file=checkpoints.shown(folder)) from None


def _first(error):
    return re.sub(r"^\[\S+?:\d+\] ", "", str(error).splitlines()[0])[:120].rstrip(". ")


def finite(model, step):
    """Raise DivergedError when a weight is not finite: the last update may break what the loss has not seen yet."""
    import torch

    trained = [p.detach() for p in model.parameters() if p.requires_grad]
    local = [p.to_local() if hasattr(p, "to_local") else p for p in trained]  # FSDP: each process looks at its part
    if not torch.stack([p.isfinite().all() for p in local]).all():
        raise DivergedError(f"step {step}: finite weights were expected, NaN or infinity came; lower learning_rate")


def as_split(trainer):
    """The model before it is split, called as FSDP2 will: on weights in bfloat16, the norms' too, which autocast keeps.

    TRL has split DPO's reference by then; its log-probabilities are those of rounded weights.
    """
    import torch

    policy = trainer.is_fsdp_enabled and trainer.accelerator.state.fsdp_plugin.mixed_precision_policy
    if not policy:
        return trainer.model
    weights = {name: p.detach().to(policy.param_dtype) for name, p in trainer.model.named_parameters()}
    return lambda **inputs: torch.func.functional_call(trainer.model, weights, kwargs=inputs)


def describe(trainer, folder):
    """Beside the parts of a split model, what `accelerate merge-weights` leaves out of a folder that loads."""
    if trainer.is_fsdp_enabled and trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        for part in (model.config, model.generation_config, trainer.processing_class):
            part.save_pretrained(folder)


def whole(trainer):
    """The trained model with whole weights, to be saved by process 0: split weights are gathered, adapters merged."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model
    from transformers import AutoModelForCausalLM

    # Every process takes part, process 0 gets the weights.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model)
    if not trainer.is_world_process_zero():
        return None
    adapted = hasattr(model, "merge_and_unload")
    base = model.get_base_model() if adapted else model
    made = AutoModelForCausalLM.from_config(base.config, dtype=next(iter(state.values())).dtype)
    made.generation_config = base.generation_config
    if adapted:
        from peft import get_peft_model

        made = get_peft_model(made, copy.deepcopy(model.active_peft_config))
    made.load_state_dict(state)
    return made.merge_and_unload() if adapted else made


def weigh_by_tokens(trainer):
    """Class decorator for DPOTrainer: the SFT term is the mean over the chosen ids of the whole step.

    TRL 1.16 takes that mean in each micro batch and then averages the means, so a step depends on how it is split over
    micro batches and processes (derived on three integers in lesson 06). The weight of the term is scaled by the micro
    batch's ids over the step's mean number of them; the sum over the step is then exact. So is the mean over pairs,
    of which the last micro batches of an epoch may hold fewer.
    """
    collect, loss = trainer.get_batch_samples, trainer._compute_loss

    def get_batch_samples(self, iterator, count, device):
        import torch

        samples, items = collect(self, iterator, count, device)
        if samples:
            total = torch.cat([sum(map(amounts, samples)).to(device), torch.tensor([len(samples)], device=device)])
            ids, pairs, batches = self.accelerator.reduce(total, "sum")
            self.means = torch.stack([ids, pairs]) / batches
        return samples, items

    def _compute_loss(self, model, inputs, *args, **options):
        mine = amounts(inputs)
        ids, pairs = mine / (self.means if self.model.training and hasattr(self, "means") else mine)
        weights = self.loss_weights
        self.loss_weights = [weight * (ids if kind == "sft" else pairs)
                             for kind, weight in zip(self.loss_types, weights, strict=True)]
        try:
            return loss(self, model, inputs, *args, **options)
        finally:
            self.loss_weights = weights

    trainer.get_batch_samples, trainer._compute_loss = get_batch_samples, _compute_loss
    return trainer


def amounts(batch):
    """[chosen ids that the loss predicts, pairs] of a DPO batch; it predicts each id from those before it."""
    import torch

    mask = batch["completion_mask"]
    return torch.stack([mask.chunk(2)[0][:, 1:].sum(), torch.tensor(len(mask) // 2, device=mask.device)])
