"""Every change that the kit makes to classes of transformers, accelerate, TRL and Liger.

Each function names what the library does without it, the version that does it, and when it can go.
"""

import functools
import os
import sys

from kit.errors import MissingError


def one_gpu():
    """Let one process train on one GPU.

    transformers 5.23 makes a DataParallel model of all visible GPUs (`TrainingArguments.n_gpu`),
    which TRL 1.16 refuses. It can go when a Trainer with several visible GPUs trains on one.
    """
    from transformers import TrainingArguments

    TrainingArguments.n_gpu = property(lambda self: int(self.device.type == "cuda"))


def restarted_by_torchrun():
    """Let processes that torchrun starts again meet under keys of their own.

    torch 2.13 keeps one store through all restarts (`_create_c10d_store` says that it does not),
    and the new processes try to reach the dead ones. Several hosts count restarts differently, so
    there the variable TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 must help. It can go when torch adds
    such a prefix itself.
    """
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if count == "0" or os.environ["LOCAL_WORLD_SIZE"] != os.environ["WORLD_SIZE"]:
        return
    from torch.distributed import PrefixStore

    module = sys.modules["torch.distributed.rendezvous"]  # torch gives its name to a function
    plain = module._create_c10d_store
    module._create_c10d_store = lambda *args, **options: PrefixStore(
        f"restart_{count}", plain(*args, **options))


def checkpointing_name():
    """Answer the old name of a property without its FutureWarning.

    TRL 1.16 and peft 0.21 still read `is_gradient_checkpointing`, and transformers 5.23 warns in
    every run. It can go when both read `is_activation_checkpointing`.
    """
    from transformers import PreTrainedModel

    if hasattr(PreTrainedModel, "is_activation_checkpointing"):
        PreTrainedModel.is_gradient_checkpointing = PreTrainedModel.is_activation_checkpointing


def head_with_bias():
    """Let TRL read `bias` of an output table of which peft trains some rows.

    TRL 1.16 reads `lm_head.bias`, and the wrapper of peft 0.21 has `weight` only. It can go when
    the wrapper answers for both.
    """
    from peft.utils.other import TrainableTokensWrapper

    TrainableTokensWrapper.bias = property(lambda wrapper: wrapper.original_module.bias)


def fsdp_in_float32():
    """Let FSDP2 sum gradients and return log-probabilities in float32, as DDP does.

    accelerate 1.15 rounds both to bfloat16 (`set_mixed_precision`), a log-probability of -6 to the
    nearest 1/32. It can go when accelerate has a setting for the two.
    """
    import dataclasses

    import torch
    from accelerate import FullyShardedDataParallelPlugin as Plugin

    rounded = Plugin.set_mixed_precision
    if rounded.__name__ != "in_float32":
        def in_float32(self, *args, **options):
            rounded(self, *args, **options)
            self.mixed_precision_policy = dataclasses.replace(
                self.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None)

        Plugin.set_mixed_precision = in_float32


def fsdp_on_cpu():
    """Let accelerate split a model over CPU processes.

    accelerate 1.15 reads its FSDP settings for GPUs only, and otherwise trains by DDP without a
    word. It can go when accelerate splits on CPUs, or when no lesson and no test shows FSDP without
    a GPU.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    plain = PartialState.__init__
    if plain.__name__ != "init":
        def init(self, *args, **options):
            plain(self, *args, **options)
            if self.distributed_type == DistributedType.MULTI_CPU:
                self.distributed_type = DistributedType.MULTI_GPU  # the device stays the CPU

        PartialState.__init__ = init


def narrow_states(model):
    """Give the states between layers the dtype of autocast; the weights stay float32.

    torch 2.13 keeps the embedding's output, and with it the sum of all layers, in float32 under
    autocast. It can go when the model's own embedding does this.
    """
    import torch

    def narrow(embedding, ids, states):
        kind = states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
        return states.to(dtype)

    model.get_input_embeddings().register_forward_hook(narrow)


def fuse_layers(model):
    """Compute norm, rotary and gated layers of `model` by Liger's kernels (CUDA); return the model.

    TRL 1.16 deprecates its own switch for them. TRL's head stays, so Liger's losses are left out.
    Liger 0.6 also replaces the classes of transformers, and every later model, on a CPU too, would
    use its kernels: the classes are put back. It can go when Liger changes one instance only.
    Raises MissingError where Liger is not installed.
    """
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except ImportError:
        raise MissingError("fused layers: expected the package liger-kernel, got none; run `pip "
                           "install liger-kernel`") from None
    module = sys.modules[type(model.base_model).__module__]
    before = dict(vars(module))
    _apply_liger_kernel_to_instance(model=model, cross_entropy=False,
                                    fused_linear_cross_entropy=False)
    after = dict(vars(module))
    vars(module).update(before)
    plain, fused = (names.get("apply_rotary_pos_emb") for names in (before, after))
    if plain is not fused:  # a function of the module, used by all its models
        plain = plain.args[0] if isinstance(plain, functools.partial) else plain
        module.apply_rotary_pos_emb = functools.partial(_rotary, plain, fused)
    return model


def _rotary(plain, fused, query, *args, **kwargs):
    return (fused if query.is_cuda else plain)(query, *args, **kwargs)


def score_trained_ids_only():
    """Make TRL's head skip the ids that are not in the loss on a CPU too, as on a GPU.

    TRL 1.16 scores every position on a CPU and then masks; ids, loss and gradients are the same
    either way. The name of the switch is private, so a test compares the losses, and nothing
    happens where the name is gone. It can go when TRL skips these ids on CPUs.
    """
    import trl.trainer.utils as trl_utils

    if hasattr(trl_utils, "_use_triton"):
        trl_utils._use_triton = lambda device: True
