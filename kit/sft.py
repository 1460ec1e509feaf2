"""What a lesson's trainer needs around TRL: rows as ids, settings that fit the hardware, and the preflight table.

The training itself is TRL's SFTTrainer and DPOTrainer, built in the lesson's own cell.
"""

import dataclasses
import hashlib
import os
import random
import re

from kit import chat, models, runs, speed
from kit.errors import MissingError, SettingsError
from kit.preflight import data_checks, examples, label_checks, model_checks
from kit.engine.distributed import join


def run_name(lesson, model):
    """Name of a lesson's run with a base model: "03_sft_chat-pocket"."""
    return f"{lesson}-{re.sub(r'[^A-Za-z0-9._-]+', '-', str(model)).strip('-')}"


def start_from(lesson, model):
    """Folder of the model that `lesson` made from `model`, or `model` itself when `lesson` is ""."""
    if not lesson:
        return model
    folder = runs.root() / run_name(lesson, model) / "model"
    if not folder.is_dir():
        raise MissingError(f"{folder.parent.name} has no trained model; run notebooks/{lesson}.ipynb with this model "
                           'first, or set start="" to begin at the base model')
    return folder


def dataset(columns, fingerprint):
    """`datasets.Dataset` of lists of ids; `fingerprint` is any text that names the content.

    With a fingerprint given, datasets neither pickles the rows to name them nor writes a cache.
    """
    import pyarrow as pa
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    return Dataset(pa.table(columns), fingerprint=hashlib.sha256(fingerprint.encode()).hexdigest()[:16])


def by_length(lengths, batch_size, seed):
    """Order of the rows in which a batch holds rows of like length, so that little of it is padding.

    Shuffled, sorted within pieces of 50 batches, batches shuffled; the number of processes plays no part. They wait for
    each other, so each half or quarter of a batch holds about as many ids: bit-reversed Gray codes, 0 3 1 2 of four.
    """
    draw = random.Random(seed)
    rows, piece = draw.sample(range(len(lengths)), len(lengths)), 50 * batch_size
    pieces = [sorted(rows[at : at + piece], key=lambda i: -lengths[i]) for at in range(0, len(rows), piece)]
    batches = [p[at : at + batch_size] for p in pieces for at in range(0, len(p), batch_size)]
    whole = [batch for batch in batches if len(batch) == batch_size]
    draw.shuffle(whole)
    dealt = sorted(range(batch_size), key=lambda i: f"{i ^ i >> 1:032b}"[::-1])
    return [b[i] for b in whole + [b for b in batches if len(b) < batch_size] for i in dealt if i < len(b)]


def sft_dataset(encoded, batch_size=32, seed=0):
    """Columns `input_ids` and `labels` (-100 where the loss mask is 0), which SFTTrainer uses as they are."""
    order = by_length([len(e.input_ids) for e in encoded], batch_size, seed)
    columns = {"input_ids": [encoded[i].input_ids for i in order], "labels": [encoded[i].labels for i in order]}
    return dataset(columns, f"sft {batch_size} {seed}")


def dpo_dataset(pairs, batch_size=32, seed=0):
    """Columns `prompt_ids`, `chosen_ids`, `rejected_ids`: what TRL's preference collator reads."""
    order = by_length([sum(map(len, pair.values())) for pair in pairs], batch_size, seed)
    return dataset({key: [pairs[i][key] for i in order] for key in pairs[0]}, f"dpo {batch_size} {seed}")


def hardware(batch_size, micro_batch_size, processes=None):
    """Trainer settings found by asking the hardware, as keyword arguments of SFTConfig or DPOConfig.

    `batch_size` is examples a step over all processes; it must be a multiple of micro_batch_size x processes.
    Weights stay float32; on a GPU with bf16 units the matrix products run in bfloat16 (autocast). Checkpointing is
    off: it costs a second forward pass, and `speed.fit` turns it on where one row does not fit without. Rows are
    taken in the dataset's order, which `sft_dataset` and `dpo_dataset` have drawn.
    """
    import torch
    from transformers import TrainingArguments

    where = models.device()
    step = micro_batch_size * (processes or join(cpu=where == "cpu"))
    if batch_size % step:
        raise SettingsError(f"batch_size must be a multiple of micro_batch_size x processes = {step}, got {batch_size}")
    checkpointing = {f.name for f in dataclasses.fields(TrainingArguments)} & {"activation_checkpointing"}
    return {
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": batch_size // step,
        "bf16": models.compute_dtype(where) == torch.bfloat16,
        # transformers renamed it; TRL 1.16 still turns the old name on by default.
        **({name: False for name in checkpointing} or {"gradient_checkpointing": False}),
        "use_cpu": where == "cpu",
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": where == "cuda",
        "ddp_find_unused_parameters": False,  # every trained weight is in every loss; looking for others costs a pass
        "optim": "adamw_torch_fused" if where == "cuda" else "adamw_torch",
    }


def score_trained_ids_only():
    """Make TRL's language-model head skip the ids that are not in the loss, as it does on a GPU.

    On a CPU, TRL scores every position and then masks; ids, loss and gradients are the same either way. The switches
    are private names of trl.trainer.utils, so a test compares the losses and this does nothing where a name is gone.
    """
    import trl.trainer.utils as trl_utils

    if hasattr(trl_utils, "_use_triton") and hasattr(trl_utils, "_ChunkedLogProbFunction"):
        trl_utils._use_triton = lambda device: True
        trl_utils._ChunkedLogProbFunction = speed.trained_ids_head()


def mean_loss(model, encoded, *, batch_size=32):
    """Loss in nats over all trained ids of `encoded`: each id weighs the same, so no batch size changes the number.

    The trainers' own evaluation averages the means of batches, and its loss depends on `per_device_eval_batch_size`.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    rows, nats, trained = sorted(encoded, key=lambda e: len(e.input_ids)), 0.0, 0
    where, mode = next(model.parameters()).device, model.training
    model.eval()
    with torch.no_grad():
        for at in range(0, len(rows), batch_size):
            batch = rows[at : at + batch_size]
            ids = pad_sequence([torch.tensor(e.input_ids) for e in batch], batch_first=True).to(where)
            labels = pad_sequence([torch.tensor(e.labels) for e in batch], True, chat.IGNORED)[:, 1:].to(where)
            logits = model(input_ids=ids).logits[:, :-1].float()
            kept = labels != chat.IGNORED
            nats += torch.nn.functional.cross_entropy(logits[kept], labels[kept], reduction="sum").item()
            trained += int(kept.sum())
    model.train(mode)
    return nats / trained


def lora(rank, model):
    """LoRA on every linear layer of the blocks, plus full training of the embedding rows.

    The role tokens are new, so their rows must train; `ensure_weight_tying` keeps tied tables one table.
    """
    from peft import LoraConfig

    tied = model.config.tie_word_embeddings
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM",
                      modules_to_save=["embed_tokens", "lm_head"], ensure_weight_tying=tied)


def row_counts(rows):
    """What report.json says of the rows: in, used, each rejected one with its reason, each that repeats another."""
    return {"rows_in": rows.rows_in, "rows_used": len(rows), "rows_rejected": [str(p) for p in rows.rejected],
            "rows_duplicate": [d._asdict() for d in rows.duplicates]}


def report_rows(run, rows):
    """Write `row_counts` into the run's report.json, and the rejected rows, byte for byte, into its rejected.jsonl."""
    run.add(**row_counts(rows))
    if os.environ.get("RANK", "0") == "0":
        rows.write_rejected(run.folder / "rejected.jsonl")


def preflight(trainer, tokenizer, rows):
    """Check, before step 1, what no loss curve would show; raise SettingsError on the first that fails.

    `rows`: the Records behind the trainer's dataset. Returns the list of Check. Fingerprints and finite gradients are
    checked by the run itself, and the first DPO loss again.
    """
    checks = data_checks(trainer.train_dataset, rows, tokenizer, getattr(trainer, "data_collator", None))
    _demand([*checks, *(more := model_checks(trainer, tokenizer))])
    speed.fit(trainer)
    trainer.checked = True
    return [*checks, *more]


def enforce(trainer, tokenizer):
    """For Run.train: what `preflight` checks without source rows, unless it has; with our control tokens only."""
    if getattr(trainer, "checked", False) or set(chat.CONTROL_TOKENS) - tokenizer.get_vocab().keys():
        return
    data = trainer.train_dataset  # a stream can be read once only
    labels = label_checks(examples(data), tokenizer) if hasattr(data, "num_rows") else []
    _demand([*labels, *model_checks(trainer, tokenizer)])


def _demand(checks):
    failed = [c for c in checks if not c.passed]
    if failed:
        raise SettingsError(f"preflight: {failed[0].name} does not hold: {failed[0].detail}")
