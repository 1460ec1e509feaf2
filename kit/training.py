"""What a lesson's trainer needs around TRL: rows as ids, settings that fit the hardware, and the preflight table.

The training itself is TRL's SFTTrainer and DPOTrainer, built in the lesson's own cell.
"""

import dataclasses
import hashlib
import math
import random
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from kit import chat, models, runs
from kit.errors import MissingError, SettingsError
from kit.processes import join

LN2 = math.log(2)


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

    Rows are shuffled, sorted within pieces of 50 batches, and the batches shuffled. transformers' own grouping draws
    other batches for another number of processes; this order does not know how many there are.
    """
    draw = random.Random(seed)
    rows, piece = draw.sample(range(len(lengths)), len(lengths)), 50 * batch_size
    pieces = [sorted(rows[at : at + piece], key=lambda i: -lengths[i]) for at in range(0, len(rows), piece)]
    batches = [p[at : at + batch_size] for p in pieces for at in range(0, len(p), batch_size)]
    whole = [batch for batch in batches if len(batch) == batch_size]
    draw.shuffle(whole)
    return [i for batch in whole + [b for b in batches if len(b) < batch_size] for i in batch]


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
    off: it costs a second forward pass and saves memory that models of this size do not need. Rows are
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

    On a CPU, TRL scores every position and then masks; ids, loss and gradients are the same either way. The switch is
    a private name of trl.trainer.utils, so a test compares the losses and this does nothing where the name is gone.
    """
    import trl.trainer.utils as trl_utils

    if hasattr(trl_utils, "_use_triton"):
        trl_utils._use_triton = lambda device: True


def lora(rank, model):
    """LoRA on every linear layer of the blocks, plus full training of the embedding rows.

    The role tokens are new, so their rows must train; `ensure_weight_tying` keeps tied tables one table.
    """
    from peft import LoraConfig

    tied = model.config.tie_word_embeddings
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM",
                      modules_to_save=["embed_tokens", "lm_head"], ensure_weight_tying=tied)


@dataclass(frozen=True)
class Check:
    """One line of the preflight table."""

    name: str
    passed: bool
    detail: str


def row_counts(rows):
    """What report.json says of the rows: in, used, and each rejected one with its reason."""
    return {"rows_in": rows.rows_in, "rows_used": len(rows), "rows_rejected": [str(p) for p in rows.rejected]}


def preflight(trainer, tokenizer, rows):
    """Check, before step 1, what no loss curve would show; raise SettingsError on the first that fails.

    `rows`: the Records behind the trainer's dataset. Returns the list of Check. The first DPO loss, fingerprints and
    finite gradients are checked by the run itself.
    """
    rows_in, rows_rejected, messages = rows.rows_in, len(rows.rejected), _role_counts(rows)
    data, control = trainer.train_dataset, {t: tokenizer.convert_tokens_to_ids(t) for t in chat.CONTROL_TOKENS}
    used = len(data)
    checks = [Check("rows in = used + rejected", rows_in == used + rows_rejected,
                    f"{rows_in} = {used} + {rows_rejected}")]
    untrained, unstopped = _spans(data, control[chat.END])
    checks += [Check("every row trains a token", untrained == 0, f"{untrained} rows without"),
               Check("every trained span ends with <end>", unstopped == 0, f"{unstopped} spans without")]
    if messages:
        found = _count_roles(data, control)
        checks.append(Check("role ids = messages", found == messages, ", ".join(f"{r} {n}" for r, n in found.items())))
    checks += [_embeddings(trainer.model, list(control.values())), _stop(trainer.model, control[chat.END])]
    if hasattr(trainer, "ref_model"):
        checks.append(_reference(trainer))
    failed = [c for c in checks if not c.passed]
    if failed:
        raise SettingsError(f"preflight: {failed[0].name} does not hold: {failed[0].detail}")
    return checks


def _labels(data):
    if "labels" in data.column_names:
        yield from data["labels"]
    else:
        for side in ("chosen_ids", "rejected_ids"):
            yield from data[side]


def _spans(data, end):
    """(rows without a trained token, trained spans whose last id is not the stop token)."""
    untrained = unstopped = 0
    for labels in _labels(data):
        untrained += all(i == chat.IGNORED for i in labels)
        unstopped += sum(a != chat.IGNORED and b == chat.IGNORED and a != end
                         for a, b in pairwise([*labels, chat.IGNORED]))
    return untrained, unstopped


def _count_roles(data, control):
    column = "input_ids" if "input_ids" in data.column_names else "prompt_ids"
    ids = Counter(i for row in data[column] for i in row)
    return Counter({role: ids[control[token]] for role, token in chat.ROLE_TOKENS.items() if ids[control[token]]})


def _role_counts(rows):
    """How many messages of each role the source rows hold; the prompt of a pair ends with an open assistant turn."""
    if rows.kind == "chat":
        return Counter(m["role"] for row in rows for m in row["messages"])
    if rows.kind == "preferences":
        prompts = [chat.as_messages(row["prompt"], "user") for row in rows]
        return Counter(m["role"] for prompt in prompts for m in [*prompt, {"role": "assistant"}])
    return Counter()


def _embeddings(model, ids):
    import torch

    table = model.get_input_embeddings()
    weight = next(p for p in [getattr(table, "weight", None), *table.parameters()] if p is not None)
    trained = any(p.requires_grad for p in table.parameters())
    rows = weight.detach()[torch.tensor(ids, device=weight.device)].float()
    gap = float(torch.pdist(rows).min() / rows.norm(dim=1).min())
    return Check("control rows distinct and trainable", trained and gap > 1e-2,
                 f"smallest relative distance {gap:.2f}, {'trained' if trained else 'frozen'}")


def _stop(model, end):
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    return Check("<end> stops generation", end in stops, f"eos_token_id {stops}")


def _reference(trainer):
    """The DPO loss of the untrained policy is ln 2 exactly when the reference is where the policy starts."""
    import torch

    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(min(8, len(trainer.train_dataset)))])
    batch = trainer._prepare_inputs({k: v for k, v in batch.items() if not k.startswith("ref_")})
    training = trainer.model.training
    trainer.model.eval()
    ref = trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, batch)
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, chat.IGNORED)
    with torch.no_grad(), trainer.accelerator.autocast():
        policy = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels,
                               use_cache=False, fused_lm_head=True).log_probs.sum(1).chunk(2)
    trainer.model.train(training)
    margin = (policy[0] - ref[0]) - (policy[1] - ref[1])
    loss = float(-torch.nn.functional.logsigmoid(trainer.beta * margin).mean())
    return Check("first DPO loss = ln 2", abs(loss - LN2) < 1e-3, f"ln 2 = {LN2:.4f}, loss {loss:.4f}")
