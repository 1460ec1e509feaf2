"""How many rows fit into the GPU at once, and what to change when they do not. Lesson 11."""

from dataclasses import replace

from kit import memory, models
from kit.errors import SettingsError

# Columns of a row; the prompt of a DPO pair is computed twice.
COLUMNS = ("input_ids", "prompt_ids", "prompt_ids", "chosen_ids", "rejected_ids")


def checkpointing(model, on=True):
    """Switch on or off that activations are computed again in the backward pass."""
    name = f"checkpointing_{'enable' if on else 'disable'}"
    # transformers renamed the method
    (getattr(model, f"activation_{name}", None) or getattr(model, f"gradient_{name}"))()


def arrays(trainer):
    """Store SFT rows as NumPy arrays, because the collator copies lists number by number.

    Meanwhile a GPU would wait. DPO's collator joins prompt and reply as lists, so its rows stay.
    """
    columns = trainer.train_dataset.column_names or ()
    if "labels" in columns and "prompt_ids" not in columns:
        trainer.train_dataset = trainer.train_dataset.with_format("numpy")


def fit(trainer):
    """Find a micro batch that fits into the GPU by trying the largest one; print any change.

    While it does not fit, halve the rows at once and double the accumulation, so the steps stay the
    same. One row is tried again with checkpointing. Raises SettingsError when that does not fit
    either. Does nothing without a GPU.
    """
    if models.device() != "cuda":
        return
    arrays(trainer)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return
    args, checkpointed = trainer.args, False
    start = rows = args.per_device_train_batch_size
    while not _fits(trainer):
        if rows > 1:
            fewer = max(n for n in range(1, rows // 2 + 1) if rows % n == 0)
            args.gradient_accumulation_steps *= rows // fewer
            args.per_device_train_batch_size = trainer._train_batch_size = rows = fewer
        elif not checkpointed:
            checkpointed = True
            checkpointing(trainer.model)
        else:
            raise SettingsError("micro_batch_size: expected that one row with checkpointing fits "
                                "into the GPU, got out of memory; lower max_length, or take a "
                                "smaller model or LoRA")
    if checkpointed or rows < start:
        times = f"{args.gradient_accumulation_steps} times per step"
        print(f"{start} rows at once do not fit into the GPU: this run takes {rows} at once, "
              f"{times}{' and checkpointing' * checkpointed}; the steps stay the same")


def _lengths(data):
    """Return the ids of each row."""
    columns = [data[name] for name in COLUMNS if name in data.column_names]
    return [sum(map(len, row)) for row in zip(*columns, strict=True)]


def _fits(trainer):
    """Return whether the longest rows fit beside AdamW's two moments, on every process."""
    import torch

    lengths, device, failed = _lengths(trainer.train_dataset), trainer.args.device, 0
    rows = sorted(range(len(lengths)), key=lengths.__getitem__)
    try:
        with torch.random.fork_rng([device]):
            _step(trainer, rows[-trainer.args.per_device_train_batch_size :])
    except torch.OutOfMemoryError:
        failed = 1
    trainer.model.zero_grad(set_to_none=True)
    if failed:  # after a success, the allocator's blocks serve all smaller batches
        torch.cuda.empty_cache()
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    return not trainer.accelerator.reduce(torch.tensor([failed], device=device), "sum").item()


def _step(trainer, rows):
    """Compute the gradients of the rows while two numbers per trained weight are kept free."""
    import torch

    model, data = trainer.model.train(), trainer.train_dataset
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    moments = torch.empty(2 * trained, device=trainer.args.device)
    batch = trainer._prepare_inputs(trainer.data_collator([data[i] for i in rows]))
    with trainer.accelerator.autocast():
        trainer.compute_loss(model, batch).backward()
    del moments


def training_of(trainer):
    """Return the memory.Training of a TRL trainer."""
    args, data = trainer.args, trainer.train_dataset
    model = trainer.accelerator.unwrap_model(trainer.model)
    dpo = "prompt_ids" in (data.column_names or ())
    longest = max(_lengths(data), default=1024)
    narrow = next(p for p in model.parameters() if p.ndim > 1).element_size() == 2
    adapters = getattr(model, "peft_config", {}).values()
    names = ("gradient_checkpointing", "activation_checkpointing")  # transformers renamed it
    flags = [getattr(each, name, False) for each in (args, *model.modules()) for name in names]
    return memory.Training(
        micro_batch_size=args.per_device_train_batch_size,
        length=longest // 2 if dpo else longest,  # a pair is two rows
        kind="dpo" if dpo else "sft",
        lora_rank=max((adapter.r for adapter in adapters), default=0),
        lora_tables=any(adapter.modules_to_save for adapter in adapters),
        precision="bf16" if narrow else "autocast" if args.bf16 or args.fp16 else "fp32",
        checkpointing=any(flags),
        reference="stored" if getattr(args, "precompute_ref_log_probs", False) else "model",
        accumulation=args.gradient_accumulation_steps,
        strategy="fsdp2" if trainer.is_fsdp_enabled else "ddp",
        processes=args.world_size,
    )


def available():
    """Return the bytes of the GPU that this process holds or could get."""
    import torch

    on_gpu = torch.cuda.is_available()
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() if on_gpu else 0


def advice(trainer):
    """Return one sentence for a run that is out of memory: what it needs, and what would fit."""
    now, room, config = training_of(trainer), available(), trainer.model.config
    rows, advised = now.micro_batch_size, []
    try:
        need = memory.plan(config, now).peak
    except SettingsError:  # a model that the planner cannot describe
        return f"{rows} rows at once do not fit into the GPU; try micro_batch_size={rows // 2 or 1}"
    limit = min(room / memory.MARGIN, need - 1)  # `now` did not fit, whatever the plan says
    ways = {"": {}, " with checkpointing": {"checkpointing": True},
            " with lora_rank=16": {"lora_rank": 16, "lora_tables": False}}
    for words, change in ways.items():
        trainings = [replace(now, micro_batch_size=n, accumulation=2, **change)
                     for n in range(1, rows + 1) if rows % n == 0]
        fitting = [t for t in trainings if memory.plan(config, t).peak <= limit]
        advised += [f"micro_batch_size={t.micro_batch_size}{words}" for t in fitting[-1:]]
    smaller = "a smaller model, a smaller max_length, or FSDP2 on more GPUs"
    return (f"{rows} rows of up to {now.length:,} ids at once need about {need / 1e9:,.2f} GB, the "
            f"GPU has {room / 1e9:,.2f} GB for this process; "
            f"try {', or '.join(advised) or smaller}")
