"""The fingerprint of a run: settings and hashes that a resume must repeat, without secrets."""

import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
from pathlib import Path

from kit.engine import checkpoints
from kit.errors import MissingError

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers")
NEVER = ("push_to_hub", "save_only_model", "ignore_data_skip", "load_best_model_at_end",
         "auto_find_batch_size")
SECRET = re.compile(r"(^|_)((hub|hf|auth|access|wandb)_token|api_?key|secret|password)$|^token$",
                    re.IGNORECASE)
# Settings that name a place; what lies there is compared by its sha256.
PLACES = {"report_to", "task", "pairs", "model"}
# Trainer settings that change no weight; all others are part of what a resumed run must repeat.
FREE = re.compile(r"(output_dir|run_name|report_to|disable_tqdm|project|local_rank|ddp_timeout|"
                  r"resume_from_checkpoint|skip_memory_metrics|(hub|push|log|logging|save|trackio|"
                  r"do|eval|per_device_eval|dataloader_num|dataloader_pin|dataloader_prefetch|"
                  r"dataloader_persistent|dataset_num)_.*)$")


def plain(value):
    """Return a JSON-safe copy without fields that are named like secrets or hold one."""
    secrets = [text for key, text in os.environ.items() if SECRET.search(key) and len(text) > 7]

    def as_json(item):
        if isinstance(item, (set, frozenset)):
            return sorted(item)
        return item.item() if hasattr(item, "item") else str(item)  # of numpy or torch: a number

    def clean(item):
        if isinstance(item, dict):
            return {key: clean(part) for key, part in item.items()
                    if not (isinstance(part, str) and SECRET.search(key))}
        if isinstance(item, list):
            return [clean(part) for part in item]
        is_secret = isinstance(item, str) and any(text in item for text in secrets)
        return "(secret)" if is_secret else item

    value = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    return clean(json.loads(json.dumps(value, default=as_json)))


def source(item):
    """Return (name, sha256) of a data file or of kit.records rows."""
    if hasattr(item, "sha256"):
        return Path(str(item.file)).name, item.sha256
    if not Path(item).is_file():
        raise MissingError("expected a data file, got none; make it or correct the path", file=item)
    return Path(item).name, checkpoints.sha256_of(item)


def weights(folder):
    """Return {name, weights_sha256} of a model's folder, {name} of a hub id, None of None."""
    if folder is None or not Path(folder).is_dir():
        return folder and {"name": str(folder)}
    return {"name": checkpoints.short(Path(folder).absolute()),
            "weights_sha256": checkpoints.weights_sha256(folder)}


def environment() -> dict:
    """Return versions, threads and device: others give equal steps, but for the last bits."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions,
            "threads": torch.get_num_threads(), "device": device}


def unfit(args, expected) -> list:
    """Return the trainer arguments with which a run cannot record or resume exactly."""
    expected = {**expected, **dict.fromkeys(NEVER, False)}
    wrong = [key for key, value in expected.items()
             if getattr(args, key) != value and key not in ("report_to", "save_steps")]
    if args.train_sampling_strategy == "group_by_length":  # draws another order at a resume
        wrong.append("train_sampling_strategy=group_by_length")
    return wrong


def settings(trainer, tokenizer):
    """Return what decides the weights: trainer, its arguments, model config, tokenizer, rows."""
    vocabulary = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map])
    values = {key: value for key, value in trainer.args.to_dict().items() if not FREE.match(key)}
    values |= {f"config.{key}": value for key, value in trainer.model.config.to_dict().items()
               if key not in ("transformers_version", "_name_or_path", "dtype")}
    for name, adapter in getattr(trainer.model, "peft_config", {}).items():
        values |= {f"{name}.{key}": value for key, value in adapter.to_dict().items()
                   if key not in ("base_model_name_or_path", "peft_version")}
    values |= {"trainer": type(trainer).__name__, "rows": _rows(trainer.train_dataset),
               "world_size": trainer.args.world_size,
               "tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest(),
               "template": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()}
    return plain(values)


def _rows(dataset):
    """Return the sha256 of the encoded rows in their order; None for a stream."""
    if not hasattr(dataset, "num_rows"):
        return None
    # Without ref_chosen_logps and ref_rejected_logps: floats of a GPU differ.
    columns = [name for name in sorted(dataset.column_names) if not name.startswith("ref_")]
    digest = hashlib.sha256()
    for table in dataset.select_columns(columns).with_format("arrow").iter(1000):
        for batch in table.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()


def batch_hash(batch) -> tuple:
    """Return (64-bit hash, tokens) of a batch, however its rows are padded, split or ordered.

    The hash is the sum over rows of the start of sha256(ids, what is trained); tokens counts no
    padding.
    """
    ids = batch["input_ids"].cpu().numpy()
    trained = batch["labels" if "labels" in batch else "completion_mask"].cpu().numpy()
    if "cu_seq_lens_q" in batch:  # packed: one row of many documents
        ends = batch["cu_seq_lens_q"].tolist()
        rows = [(ids[0, a:b], trained[0, a:b]) for a, b in itertools.pairwise(ends)]
    else:
        masks = batch["attention_mask"].bool().cpu().numpy()
        rows = [(row[mask], part[mask]) for row, part, mask in zip(ids, trained, masks)]
    side = len(rows) // 2 if "completion_mask" in batch else 0  # DPO: chosen rows come first
    total = 0
    for number, (row, part) in enumerate(rows):
        digest = hashlib.sha256(bytes([number < side]) + row.tobytes() + part.tobytes()).digest()
        total += int.from_bytes(digest[:8], "little")
    return total, sum(len(row) for row, _ in rows)


def changed(old, new) -> list:
    """Return ["key: old -> new"] of what differs between two descriptions of a run."""
    old, new = _flat(old), _flat(new)
    keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return [f"{key}: {_start(old.get(key))} -> {_start(new.get(key))}" for key in keys]


def _start(value):
    return value[:12] if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else value


def _flat(facts):
    """Return one dict of all values that count: not where metrics go or files lie."""
    flat = {}
    for group, values in facts.items():
        values = values if isinstance(values, dict) else {"": values}
        names = PLACES | ({"name"} if "weights_sha256" in values else set())
        prefix = "" if group in ("params", "settings") else f"{group} "
        flat |= {f"{prefix}{key}".strip(): values[key] for key in values if key not in names}
    return flat
