"""Which settings of a trainer would fit into its GPU, as one sentence for a run that did not."""

from dataclasses import replace

from kit import memory
from kit.errors import SettingsError

MARGIN = 1.1  # the planner's error (benchmarks/memory_gpu.py) and what the allocator cannot use
LORA_RANK = 16


def training_of(trainer):
    """memory.Training of a TRL trainer: what its arguments, its model and its longest row say."""
    args, model, data = trainer.args, trainer.accelerator.unwrap_model(trainer.model), trainer.train_dataset
    names = [n for n in ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids") if n in (data.column_names or ())]
    sizes = {name: list(map(len, data[name])) for name in names} if hasattr(data, "num_rows") else {}
    if "prompt_ids" in sizes:
        sides = zip(*(sizes[name] for name in names), strict=True)
        lengths = [prompt + max(chosen, rejected) for prompt, chosen, rejected in sides]
    else:
        lengths = sizes.get("input_ids") or [args.max_length or 1024]
    rank = max((a.r for a in getattr(model, "peft_config", {}).values() if hasattr(a, "r")), default=0)
    half = next(p for p in model.parameters() if p.ndim > 1).element_size() == 2
    zero = f"zero{args.deepspeed_plugin.zero_stage}" if trainer.is_deepspeed_enabled else "ddp"
    return memory.Training(
        args.per_device_train_batch_size, max(lengths), "dpo" if hasattr(trainer, "ref_model") else "sft", rank,
        "bf16" if half else "autocast" if args.bf16 or args.fp16 else "fp32", _checkpoints(args, model),
        "precomputed" if getattr(args, "precompute_ref_log_probs", False) else "model",
        padded=min(lengths) < max(lengths) and model.config._attn_implementation == "sdpa",
        accumulation=args.gradient_accumulation_steps, processes=args.world_size,
        strategy="fsdp2" if trainer.is_fsdp_enabled else zero if zero in memory.STRATEGIES else "ddp")


def _checkpoints(args, model):
    asked = any(getattr(args, f"{name}_checkpointing", False) for name in ("activation", "gradient"))
    return asked or any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def fitting(config, training, room):
    """Settings of the same batch_size whose peak times MARGIN is at most `room` bytes; the fastest first.

    Tried are fewer rows at once with more micro batches, each without and with checkpointing.
    """
    whole, found = training.micro_batch_size, []
    for checkpointing in sorted({training.checkpointing, True}):
        for rows in (n for n in range(whole, 0, -1) if whole % n == 0):
            tried = replace(training, micro_batch_size=rows, checkpointing=checkpointing,
                            accumulation=training.accumulation * whole // rows)
            if memory.plan(config, tried).peak * MARGIN <= room:
                found.append(tried)
                break  # fewer rows fit as well, and take longer
    return found


def available():
    """Bytes of the GPU that this process holds or could get."""
    import torch

    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() if torch.cuda.is_available() else 0


def sentence(trainer):
    """What to change after the GPU's memory ran out."""
    room = available()
    try:
        config, now = trainer.model.config, training_of(trainer)
        need = memory.plan(config, now).peak
    except SettingsError:  # a model that the planner does not describe
        return (f"{trainer.args.per_device_train_batch_size} rows at once do not fit into the GPU; halve "
                "per_device_train_batch_size and double gradient_accumulation_steps")
    start = (f"{now.micro_batch_size} rows of up to {now.length} ids at once need about {need / 1e9:.1f} GB, the GPU "
             f"has {room / 1e9:.1f} GB for this process")
    ways = [f"per_device_train_batch_size={t.micro_batch_size} with gradient_accumulation_steps={t.accumulation}"
            + " and checkpointing" * t.checkpointing
            for t in fitting(config, now, min(room, MARGIN * need - 1))]  # these ran out, whatever we planned
    if ways:
        return f"{start}; what should fit: {', or '.join(ways)}"
    least = replace(now, micro_batch_size=1, checkpointing=True)
    light = memory.plan(config, replace(least, lora_rank=now.lora_rank or LORA_RANK)).peak
    return (f"{start}, and one row with checkpointing needs {memory.plan(config, least).peak / 1e9:.1f} GB; take a "
            f"smaller model, shorter rows, FSDP2 over more GPUs, or LoRA ({light / 1e9:.1f} GB)")
