"""Rows to dataset, settings from the hardware, LoRA, and the flow of a training. Lessons 02, 03,
07.

The training itself is TRL's SFTTrainer or DPOTrainer, built in the lesson's own cell.
"""

import copy
import hashlib
import itertools
import math
import os
import random

from kit import chat, models, preflight, records, runs, scoring, tasks
from kit.engine import distributed
from kit.engine.patches import (
    checkpointing_name,
    head_with_bias,
    narrow_states,
    score_trained_ids_only,
)
from kit.errors import DataError, SettingsError

SCORED = 200  # test questions, for the scores before and after
VALIDATED = 128  # rows, for the loss during training


def load_start(params, *, where=None, bits=None):
    """Return (model, tokenizer) of the model to continue from, with the template of the params.

    bits: of each weight, in place of params.lora_bits.
    """
    if params.lora_bits < 32 and (is_split() or not params.lora_rank):
        raise SettingsError("expected 32 for full training and for a model that FSDP2 or DeepSpeed "
                            f"splits, got {params.lora_bits}; set lora_rank, or launch without "
                            "them", field="lora_bits")
    model, tokenizer = models.load(runs.start_from(params), where=where,
                                   bits=bits or params.lora_bits)
    chat.prepare(tokenizer, model, params.template)
    return model, tokenizer


def is_split():
    """Return whether FSDP2 or DeepSpeed splits the model over processes."""
    names = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    return any(os.environ.get(name, "").lower() == "true" for name in names)


def load_chats(params, tokenizer, split="train"):
    """Return the chat rows of the task that fit into max_length, and their Encoded."""
    task = tasks.load(params.task, check=split == "train", on_bad=params.on_bad)
    rows = tasks.rows(task, split, "chat", params.on_bad)
    if split == "train" and params.on_bad == "skip":
        rows = records.split_leaked(rows, tasks.questions(task), "skip")
    return keep_short(rows, chat.encode_chats(tokenizer, (row["messages"] for row in rows)),
                      params.max_length)


def keep_short(rows, encoded, max_length):
    """Return (rows, encoded) without the rows of over `max_length` ids; they are rejected, not cut.

    encoded: of each row, an Encoded or the ids of a preference pair.
    """
    lengths = [len(e) if isinstance(e, chat.Encoded) else len(e["prompt_ids"])
               + max(len(e["chosen_ids"]), len(e["rejected_ids"])) for e in encoded]
    rows = records.split_too_long(rows, lengths, max_length)
    return rows, [e for e, n in zip(encoded, lengths, strict=True) if n <= max_length]


def dataset(columns, fingerprint):
    """Return a `datasets.Dataset` of lists of ids; `fingerprint` is any text that names the
    content.

    With a fingerprint given, datasets neither pickles the rows to name them nor writes a cache.
    """
    import pyarrow as pa
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    name = hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
    return Dataset(pa.table(columns), fingerprint=name)


def by_length(lengths, batch_size, seed):
    """Return an order of the rows in which a batch holds rows of like length, with little padding.

    Shuffled, sorted within pieces of 50 batches, batches shuffled. The number of processes plays no
    part. Processes wait for each other, so each half or quarter of a batch holds about as many ids:
    bit-reversed Gray codes, 0 3 1 2 of four.
    """
    draw = random.Random(seed)
    rows, piece = draw.sample(range(len(lengths)), len(lengths)), 50 * batch_size
    batches = []
    for at in range(0, len(rows), piece):
        part = sorted(rows[at : at + piece], key=lambda i: -lengths[i])
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    whole = [batch for batch in batches if len(batch) == batch_size]
    draw.shuffle(whole)
    dealt = sorted(range(batch_size), key=lambda i: f"{i ^ i >> 1:032b}"[::-1])
    whole += [batch for batch in batches if len(batch) < batch_size]
    return [batch[i] for batch in whole for i in dealt if i < len(batch)]


def sft_dataset(encoded, batch_size=32, seed=0):
    """Return columns `input_ids` and `labels` (-100 where the loss mask is 0), which TRL takes.

    The ids go from array to Arrow, and never become Python numbers. Small ids take two bytes, so
    that 200 MB of rows are ready to train in less than 2 GB.
    """
    import numpy as np
    import pyarrow as pa

    order = by_length([len(e) for e in encoded], batch_size, seed)
    ends = np.cumsum([0, *(len(encoded[i]) for i in order)], dtype=np.int64)
    largest = max(np.frombuffer(e.ids, np.int32).max(initial=0) for e in encoded)
    ids, labels = np.empty((2, ends[-1]), np.int16 if largest < 2**15 else np.int32)
    for i, start, end in zip(order, ends, ends[1:]):
        ids[start:end] = encoded[i].ids
        mask = np.frombuffer(encoded[i].mask, bool)
        labels[start:end] = np.where(mask, ids[start:end], chat.IGNORED)
    columns = {name: pa.LargeListArray.from_arrays(ends, values)
               for name, values in (("input_ids", ids), ("labels", labels))}
    return dataset(columns, f"sft {batch_size} {seed}")


def dpo_dataset(pairs, batch_size=32, seed=0):
    """Return columns `prompt_ids`, `chosen_ids`, `rejected_ids`, which TRL's DPO collator takes."""
    order = by_length([sum(map(len, pair.values())) for pair in pairs], batch_size, seed)
    columns = {key: [pairs[i][key] for i in order] for key in pairs[0]}
    return dataset(columns, f"dpo {batch_size} {seed}")


def hardware(params, processes=None):
    """Return trainer settings found by asking the hardware: keyword arguments of SFTConfig.

    `batch_size` counts the examples per step over all processes. Where it does not divide by the
    processes, `train` deals each step out unevenly, and the loss stays exact, because TRL weighs it
    by the trained ids of the whole step. Weights stay float32; on a GPU with bf16 units the matrix
    products run in bfloat16 (autocast). Checkpointing is off: it costs a second forward pass, and
    `speed.fit` turns it on where one row does not fit without. KIT_MAX_STEPS sets the steps of a
    smoke test.
    """
    import torch
    from transformers import TrainingArguments

    where = models.device()
    processes = processes or distributed.join(cpu=where == "cpu")
    if params.batch_size < processes:
        raise SettingsError(f"expected at least {processes}, the number of processes, got "
                            f"{params.batch_size}; raise --batch_size", field="batch_size")
    share = math.ceil(params.batch_size / processes)
    micro = min(params.micro_batch_size or share, share)
    renamed = hasattr(TrainingArguments, "activation_checkpointing")
    return {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": math.ceil(share / micro),
        "bf16": models.compute_dtype(where) == torch.bfloat16,
        f"{'activation' if renamed else 'gradient'}_checkpointing": False,
        "use_cpu": where == "cpu",
        **({"max_steps": int(os.environ["KIT_MAX_STEPS"])} if smoke_test() else {}),
        "train_sampling_strategy": "sequential",  # sft_dataset and dpo_dataset have drawn the order
        "dataloader_pin_memory": where == "cuda",
        "ddp_find_unused_parameters": False,  # every trained weight is in every loss
        "ddp_bucket_cap_mb": 400 if where == "cuda" else None,  # few large all-reduces
        "optim": "adamw_torch_fused" if where == "cuda" else "adamw_torch",
    }


def smoke_test():
    """Return whether KIT_MAX_STEPS asks for a run of a few steps."""
    return bool(os.environ.get("KIT_MAX_STEPS"))


def summed_loss(model, batch):
    """Return (loss in nats summed over the trained ids, their number) of a list of Encoded.

    Each position predicts the next id: the logits leave out the last position, the labels the
    first.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    where = next(model.parameters()).device
    ids = pad_sequence([torch.tensor(e.input_ids) for e in batch], True).to(where)
    labels = pad_sequence([torch.tensor(e.labels) for e in batch], True, chat.IGNORED)
    labels = labels[:, 1:].to(where)
    scored = labels != chat.IGNORED
    logits = model(input_ids=ids).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits[scored], labels[scored],
                                             reduction="sum"), int(scored.sum())


def mean_loss(model, encoded, *, batch_size=32):
    """Return the loss in nats over all trained ids: each id weighs the same, whatever the batch.

    The trainers' own evaluation averages the means of batches, and its loss depends on
    `per_device_eval_batch_size`.
    """
    import torch

    rows, mode = sorted(encoded, key=len), model.training
    model.eval()
    with torch.no_grad():
        sums = [summed_loss(model, rows[at : at + batch_size])
                for at in range(0, len(rows), batch_size)]
    model.train(mode)
    return sum(nats.item() for nats, _ in sums) / sum(trained for _, trained in sums)


def few_steps(model, encoded, *, steps, learning_rate, batch_size=16, validation=None):
    """Train a copy of the model by the loop of lesson 02, and write nothing. Lessons 02 and 03.

    The rows are taken in order, and again from the first. Return the copy and {"training":
    [(step, loss), ...]}; with `validation`, a list of Encoded, {"validation": ...} of ten steps.
    """
    import torch
    from transformers import get_cosine_schedule_with_warmup

    model, rows = copy.deepcopy(model).train(), itertools.cycle(encoded)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    scheduler = get_cosine_schedule_with_warmup(optimizer, math.ceil(0.05 * steps), steps)
    losses = {"training": []} | ({"validation": []} if validation else {})
    for step in range(1, steps + 1):
        nats, trained = summed_loss(model, list(itertools.islice(rows, batch_size)))
        (nats / trained).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses["training"].append((step, nats.item() / trained))
        if validation and step % math.ceil(steps / 10) == 0:
            losses["validation"].append((step, mean_loss(model, validation)))
    return model.eval(), losses


def lora(params, model):
    """Return the LoraConfig of the params, None for rank 0.

    The role tokens of our template are new, so their rows of the embedding tables train too, and
    no other row does. FSDP2 and DeepSpeed cannot split a table of which some rows train, so there
    the whole tables train. Under a model's own template no token is new, and they stay frozen.
    """
    import torch
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    if not params.lora_rank:
        return None
    checkpointing_name()
    head_with_bias()
    targets = params.lora_targets.replace(" ", "").split(",")
    tables = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    names = [name for name, part in model.named_modules() if id(part) in tables]
    linear = {name.split(".")[-1] for name, part in model.named_modules()
              if isinstance(part, (torch.nn.Linear, Conv1D)) and name not in names}
    if wrong := set(targets) - linear - {"all-linear"}:
        raise SettingsError(f"expected all-linear or names of {sorted(linear)}, got "
                            f"{', '.join(sorted(wrong)) or 'nothing'}; correct --lora_targets",
                            field="lora_targets")
    options = {}
    if ids := getattr(model, "role_ids", None):
        options = {"trainable_token_indices": dict.fromkeys(names, ids)}
        if is_split():
            options = {"modules_to_save": names,
                       "ensure_weight_tying": model.config.tie_word_embeddings}
    return LoraConfig(r=params.lora_rank, lora_alpha=params.lora_alpha or 2 * params.lora_rank,
                      lora_dropout=params.lora_dropout, task_type="CAUSAL_LM", **options,
                      target_modules=targets[0] if targets == ["all-linear"] else targets)


def complete(trainer, params):
    """Complete what peft 0.21 and TRL 1.16 leave of a trainer with adapters.

    peft computes a table with trained rows without the hook of the table. TRL rounds the adapters
    of a 4-bit base to bfloat16, where small steps are lost. A rounded base would stay rounded in
    model/, so its adapters are merged into a base of 32 bits.
    """
    narrow_states(trainer.model)
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    if params.lora_bits < 32:
        trainer.model.merge_and_unload = lambda: merged(trainer.model, params)


def merged(model, params):
    """Return the start model of the params in float32, with the adapters of `model` merged in."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    base, _ = load_start(params, where="cpu", bits=32)
    base.generation_config = model.generation_config
    whole = get_peft_model(base, copy.deepcopy(model.active_peft_config))
    set_peft_model_state_dict(whole, get_peft_model_state_dict(model, save_embedding_layers=False))
    return whole.merge_and_unload()


def report_rows(run, rows):
    """Write the counts of rows and each rejected row into report.json and rejected.jsonl."""
    run.add(rows_in=rows.rows_in, rows_used=len(rows),
            rows_rejected=[str(problem) for problem in rows.rejected],
            rows_duplicate=[duplicate._asdict() for duplicate in rows.duplicates])
    if distributed.is_first():
        rows.write_rejected(run.folder / "rejected.jsonl")


def train(params, load_rows, make_trainer, *, reference=False, load_validation=None,
          evaluate=scoring.evaluate):
    """Train a run of the params from start to report, and return the Run.

    load_rows(params, tokenizer, split) returns (rows, encoded) of "train" or "validation".
    make_trainer(params, run, model, tokenizer, encoded) returns TRL's trainer. reference: the start
    is the reference of DPO too. load_validation: in place of load_rows for "validation".
    evaluate(model, tokenizer, questions, task) returns scoring.Results, before and after; None
    leaves the scores out. A finished run stays as it is.
    """
    score_trained_ids_only()
    hardware(params)  # refuses a wrong number of processes before anything is loaded
    base = runs.start_from(params)
    model, tokenizer = load_start(params)
    rows, encoded = load_rows(params, tokenizer, "train")
    validation = validation_rows(params, tokenizer, load_validation or load_rows)
    run = runs.start(params, data=[rows], base=base, reference=base if reference else None)
    trainer = make_trainer(params, run, model, tokenizer, encoded)
    trainer.rows_per_step = params.batch_size
    # TrainingArguments has no field for it: the gradients lie in DDP's buckets, without a copy.
    trainer.accelerator.ddp_handler.gradient_as_bucket_view = trainer.args.device.type == "cuda"
    if params.lora_rank:
        complete(trainer, params)
    checks = preflight.run(trainer, tokenizer, rows)
    new = not run.finished
    if new and distributed.is_first():
        print(preflight.table(checks))
    if new:
        report_rows(run, rows)
    run.train(trainer, tokenizer,
              validate=validation and (lambda policy: mean_loss(policy, validation)))
    if new and evaluate and distributed.is_first():
        run.add(**before_and_after(params, run, evaluate))
    return run


def validation_rows(params, tokenizer, load_rows):
    """Return at most VALIDATED encoded rows; a small share of the training rows may hold none."""
    try:
        return load_rows(params, tokenizer, "validation")[1][:VALIDATED]
    except DataError:
        shared = isinstance(tasks.load(params.task, check=False).validation, float)
        if shared and params.keep == "last":
            return None
        raise


def before_and_after(params, run, evaluate=scoring.evaluate):
    """Return and print the scores of the start model and of the run's model, with the difference.

    Both answer the same test questions, at most SCORED, evenly spaced over the test files. Both
    have lora_bits per weight, because a GPU that trained on 4 bits may have no room for more.
    """
    task = tasks.load(params.task, check=False)
    questions, most = tasks.questions(task), 8 if smoke_test() else SCORED
    questions, results = questions[:: math.ceil(len(questions) / most)], []
    for name in (runs.start_from(params), run.model):
        model, tokenizer = models.load(name, bits=params.lora_bits)
        chat.prepare(tokenizer, model, params.template)
        results.append(evaluate(model, tokenizer, questions, task))
    before, after = results
    difference = scoring.paired_difference(before.correct, after.correct)
    print(f"test questions right: {scoring.score(before.correct)} before, "
          f"{scoring.score(after.correct)} after")
    print("difference: {:+.1%} [{:+.1%}, {:+.1%}]".format(*difference))
    return {"before": before.as_dict(), "after": after.as_dict(), "difference": list(difference)}
