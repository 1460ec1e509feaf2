"""Unsloth's SFT with the rows and weights of `speed_gpu.py`: one process, one line of JSON, no
network.

    python benchmarks/unsloth_gpu.py '{"shape": "135M", "weights": "bfloat16", "seconds": 4}' >> results.jsonl

Unsloth patches transformers and TRL when it is imported, and asks for other versions of TRL and
datasets than the course does, so it has an environment of its own (unsloth 2026.10.9, trl 1.15.0,
datasets 4.8.4, xformers 0.0.35 beside the GPU's torch) and this file imports nothing of the kit.
Keys: shape 135M, 0.6B, 1.7B or 8B (LoRA); weights "float32" (as ours: float32 weights, bf16
autocast) or "bfloat16" (Unsloth's default in full fine-tuning); padding "padding_free" or
"packing"; batch, rows a step; micro, rows at once, each tried in turn: the fastest is told, all
stand under "tried".
"""

import contextlib
import dataclasses
import gc
import hashlib
import io
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

BEGUN = time.perf_counter()
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "UNSLOTH_DISABLE_STATISTICS": "1",
    "UNSLOTH_DISABLE_AUTO_UPDATES": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
os.environ.setdefault(
    "UNSLOTH_COMPILE_LOCATION", os.path.join(tempfile.gettempdir(), "unsloth_compiled_cache")
)

CHECKED = 8
LLAMA = {"rope_theta": 100_000.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
QWEN = {
    "vocab_size": 151936,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SHAPES = {  # as in benchmarks/contenders.py
    "135M": (
        "LlamaConfig",
        dict(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            **LLAMA,
        ),
    ),
    "0.6B": ("Qwen3Config", QWEN | dict(hidden_size=1024, intermediate_size=3072)),
    "1.7B": ("Qwen3Config", QWEN | dict(hidden_size=2048, intermediate_size=6144)),
    "8B": (
        "LlamaConfig",
        dict(
            vocab_size=128256,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            tie_word_embeddings=False,
            **LLAMA,
        ),
    ),
}
# rows a step, rows at once. The transformers path that Unsloth takes for full fine-tuning makes a
# mask of ids x ids (bool) a batch even where its attention needs none: the largest batch that fits
# is not the fastest, so try several.
SIZES = {
    "135M": (256, [256, 64, 16]),
    "0.6B": (80, [80, 40, 16, 8]),
    "1.7B": (80, [40, 16]),
    "8B": (40, [20, 10, 5]),
}


def rows(shape, count, *, median, cap, trained=1.0, seed=0):
    draw, vocabulary = random.Random(seed), SHAPES[shape][1]["vocab_size"]
    found = []
    for _ in range(count):
        length = min(cap, max(8, round(math.exp(draw.gauss(math.log(median), 0.9)))))
        ids, start = (
            [draw.randrange(3, vocabulary) for _ in range(length)],
            length - max(2, round(trained * length)),
        )
        found.append({"input_ids": ids, "labels": [-100] * start + ids[start:]})
    return found


def make(shape, folder, lora):
    """Weights and a tokenizer in a folder; in a process without Unsloth, which patches
    transformers."""
    import torch
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    kind, given = SHAPES[shape]
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, kind)(**given), dtype=torch.bfloat16 if lora else torch.float32
        )
    model.save_pretrained(folder, max_shard_size="5GB")
    # a word an id, so that nothing takes ids for unused ones
    words = {"<pad>": 0, "<bos>": 1, "<end>": 2} | {
        f"w{i}": i for i in range(3, given["vocab_size"])
    }
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")),
        eos_token="<end>",
        bos_token="<bos>",
        pad_token="<pad>",
        unk_token="<pad>",
        model_max_length=8192,
    ).save_pretrained(folder)


def xformers_without_its_library():
    """PyPI's wheel is built for CUDA 12 and cannot load beside a CUDA 13 torch; its attention
    (Python over torch's own flash kernels since 0.0.35) needs nothing of the library. Unsloth asks
    _register_extensions() and gives up else."""
    try:
        import logging

        logging.getLogger("xformers").setLevel(logging.CRITICAL)
        import xformers._cpp_lib as lib

        if lib._cpp_library_load_exception is None:
            return "own library"
        with open(os.path.join(os.path.dirname(lib.__file__), "cpp_lib.json")) as file:
            info = lib._BuildInfo(json.load(file))
        lib._register_extensions = lambda: info
        lib._built_with_cuda, lib._build_metadata = True, info  # before xformers.ops reads it
        return f"without its library ({str(lib._cpp_library_load_exception).splitlines()[-2].strip()[:120]})"
    except Exception as error:
        return f"none: {type(error).__name__}: {error}"[:200]


def sync():
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def real_ids(batch):
    mask = batch.get("attention_mask")
    if mask is None or mask.dim() != 2:
        return batch["input_ids"].numel()
    return int(mask.sum())


def clock_of(trainer, spec):
    """Real ids and seconds of each step; stops after `warm` steps and the wanted seconds, as
    contenders.Clock."""
    import transformers

    class Clock(transformers.TrainerCallback):
        def __init__(self):
            self.steps, self.first, self.now = [], None, 0

        def on_step_end(self, args, state, control, **kwargs):
            sync()
            self.steps.append((time.perf_counter(), float(self.now)))
            self.first = self.first or self.steps[0][0]
            timed = len(self.steps) - spec["warm"]
            stop = (
                timed >= 2
                and self.steps[-1][0] - self.steps[spec["warm"] - 1][0] >= spec["seconds"]
            )
            if stop:
                control.should_training_stop = True
            return control

        def result(self):
            begin, *timed = self.steps[spec["warm"] - 1 :]
            wall, ids = timed[-1][0] - begin[0], sum(step[1] for step in timed)
            return {
                "ids_per_s": round(ids / wall, 1),
                "steps": len(timed),
                "step_ids": round(ids / len(timed)),
                "warm_steps_s": [
                    round(b[0] - a[0], 2) for a, b in zip(self.steps, self.steps[1 : spec["warm"]])
                ],
            }

    clock = Clock()
    samples = trainer.__dict__.pop("_plain_samples", None) or trainer.get_batch_samples

    def taken(*given, **named):
        batches = samples(*given, **named)
        clock.now = sum(map(real_ids, batches[0]))
        return batches

    trainer._plain_samples, trainer.get_batch_samples = samples, taken
    trainer.add_callback(clock)
    return clock


def checked(trainer, first, size=4):
    """Loss and gradient norm of the first rows, in micro batches, by the trainer's own way."""
    import torch

    count = sum(sum(i != -100 for i in row["labels"][1:]) for row in first)
    total, policy = 0.0, trainer.model
    if hasattr(policy, "for_training"):
        policy.for_training(use_gradient_checkpointing=False)
    policy.train()
    where = next(policy.parameters()).device
    for at in range(0, len(first), size):
        batch = trainer._prepare_inputs(trainer.data_collator(first[at : at + size]))
        with trainer.accelerator.autocast():
            loss = trainer.compute_loss(
                policy, batch, num_items_in_batch=torch.tensor(count, device=where)
            )
        loss.backward()
        total += loss.item()
    norm = math.sqrt(
        sum(float(p.grad.float().square().sum()) for p in policy.parameters() if p.grad is not None)
    )
    policy.zero_grad(set_to_none=True)
    with contextlib.suppress(Exception):
        trainer._metrics["train"].clear()
        trainer._total_train_tokens = 0
    return {"loss": total, "gradient_norm": norm}


def load(spec, folder):
    """(model, tokenizer) by Unsloth's documented calls."""
    import torch
    from unsloth import FastLanguageModel

    given = {
        "model_name": folder,
        "max_seq_length": spec["cap"],
        "load_in_4bit": False,
        "use_gradient_checkpointing": False,
        "local_files_only": True,
    }
    if spec["where"] == "cpu":
        given["device_map"] = {"": "cpu"}
    if spec["lora"]:
        model, tokenizer = FastLanguageModel.from_pretrained(**given, dtype=torch.bfloat16)
        model = FastLanguageModel.get_peft_model(
            model,
            r=16,
            lora_alpha=32,
            lora_dropout=0,
            bias="none",
            use_gradient_checkpointing=False,
            random_state=0,
            target_modules=[
                "q_proj",
                "k_proj",
                "v_proj",
                "o_proj",
                "gate_proj",
                "up_proj",
                "down_proj",
            ],
        )
        return model, tokenizer
    return FastLanguageModel.from_pretrained(
        **given, full_finetuning=True, dtype=getattr(torch, spec["weights"])
    )


def trainer_of(spec, folder, model, tokenizer, made):
    import pyarrow as pa
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset(
        pa.table({key: [row[key] for row in made] for key in made[0]}),
        fingerprint=hashlib.sha256(repr(spec["shape"]).encode()).hexdigest()[:16],
    )
    micro = spec["now"]
    given = {
        "output_dir": folder,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "seed": 0,
        "learning_rate": 1e-6,
        "max_steps": 1000,
        "logging_steps": 1000,
        "gradient_checkpointing": False,
        "bf16": spec["where"] == "cuda",
        "fp16": False,
        "use_cpu": spec["where"] == "cpu",
        "optim": "adamw_torch_fused" if spec["where"] == "cuda" else "adamw_torch",
        "weight_decay": 0.0,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": max(1, spec["batch"] // micro),
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": spec["where"] == "cuda",
    }
    if spec["padding"] == "packing":  # rows at once of the longest, cut from rows laid end to end
        data = data.remove_columns(
            [c for c in data.column_names if c not in ("input_ids", "labels")]
        )
        mean = sum(len(row["input_ids"]) for row in made) / len(made)
        at_once = max(1, round(micro * mean / spec["cap"]))
        given |= {
            "packing": True,
            "max_length": spec["cap"],
            "per_device_train_batch_size": at_once,
            "dataset_num_proc": 1,
        }
    else:
        given |= {"padding_free": True, "max_length": spec["cap"]}
    known = {field.name for field in dataclasses.fields(SFTConfig)}
    spec["left_out"] = sorted(set(given) - known)
    config = SFTConfig(**{key: value for key, value in given.items() if key in known})
    return SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)


def stats(model):
    """Which attention the steps took, and what is compiled."""
    found = {}
    with contextlib.suppress(Exception):
        from unsloth.utils.hf_packed_attention import HF_PACKED_ATTENTION_STATS

        found["packed_attention"] = dict(HF_PACKED_ATTENTION_STATS)
    with contextlib.suppress(Exception):
        from unsloth.utils import attention_dispatch

        found["backend"] = attention_dispatch.select_attention_backend(use_varlen=True)
        found["torch_varlen"] = attention_dispatch._TORCH_VARLEN_ATTN is not None
    with contextlib.suppress(Exception):
        found["dtypes"] = sorted({str(p.dtype) for p in model.parameters()})
        found["trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        found["implementation"] = model.config._attn_implementation
        found["class"] = type(model).__module__ + "." + type(model).__name__
    return found


def last_lines(error):
    return [
        line.strip()[:200]
        for line in traceback.format_exception(error)[-6:]
        for line in line.splitlines()
    ][-14:]


def peak():
    import torch

    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if torch.cuda.is_available() else None


def measured(spec, folder, made, told):
    import torch

    stage = told["stage"] = ["load"]
    model, tokenizer = load(spec, folder)
    stage.append("trainer")
    sizes, trainer = list(spec["micro"]), None
    spec["now"] = sizes[0]
    trainer = trainer_of(spec, folder + "/out", model, tokenizer, made)
    told |= {
        "left_out": spec["left_out"],
        "stats": stats(model),
        "padding_free": getattr(trainer.args, "padding_free", None),
        "packing": getattr(trainer.args, "packing", None),
        "bf16": trainer.args.bf16,
        "optim": str(trainer.args.optim),
        "checkpointing": trainer.args.gradient_checkpointing,
    }
    if spec["check"]:
        stage.append("check")
        begun = time.perf_counter()
        try:
            told |= checked(trainer, made[:CHECKED])
        except Exception as error:
            told["check_error"] = last_lines(error)
            model.zero_grad(set_to_none=True)
        told["check_s"] = round(time.perf_counter() - begun, 2)
    tried = told["tried"] = {}
    done = set()
    while sizes:
        size = sizes.pop(0)
        if size in done or time.perf_counter() - BEGUN > spec["limit"]:
            continue
        done.add(size)
        stage.append(f"train {size}")
        spec["now"] = size
        begun, clock = time.perf_counter(), None
        try:
            if trainer is None:
                trainer = trainer_of(spec, folder + "/out", model, tokenizer, made)
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            clock = clock_of(trainer, spec)
            trainer.train()
            tried[size] = clock.result() | {
                "peak_gb": peak(),
                "first_step_s": round(clock.first - begun, 2),
            }
            told.setdefault("first_step_s", round(clock.first - BEGUN - told.get("check_s", 0), 2))
        except torch.OutOfMemoryError:
            tried[size] = {"error": "out of memory"}
            if (
                size > 1
                and not any("ids_per_s" in found for found in tried.values())
                and not any(s < size for s in sizes)
            ):
                sizes.insert(0, size // 2)
        except Exception as error:
            tried[size] = {"error": last_lines(error), "steps": len(clock.steps) if clock else 0}
        told["stats"] = stats(model)
        trainer = None
        model.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def best_of(told):
    good = {size: found for size, found in told.get("tried", {}).items() if "ids_per_s" in found}
    if not good:
        told.setdefault("error", "no size trained")
        return
    best = max(good, key=lambda size: good[size]["ids_per_s"])
    told |= {key: good[best][key] for key in ("ids_per_s", "steps", "step_ids", "peak_gb")} | {
        "rows_at_once": best
    }


def versions():
    import importlib.metadata

    found = {}
    for name in (
        "torch",
        "transformers",
        "trl",
        "datasets",
        "accelerate",
        "peft",
        "triton",
        "xformers",
        "unsloth",
        "unsloth_zoo",
        "bitsandbytes",
        "torchao",
        "huggingface-hub",
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


class Ended(BaseException):
    """`timeout` sent SIGTERM: tell what is known so far."""


def ended(*_):
    raise Ended("ended from outside (timeout)")


def main(spec):
    signal.signal(signal.SIGTERM, ended)
    shape = spec.setdefault("shape", "135M")
    batch, micro = SIZES[shape]
    spec = {
        "lora": shape == "8B",
        "weights": "float32",
        "padding": "padding_free",
        "seconds": 4.0,
        "warm": 3,
        "batch": batch,
        "median": 270,
        "cap": 2048,
        "trained": 1.0,
        "check": True,
        "env": {},
        "limit": 240,
        "rows": None,
        "micro": None,
    } | spec
    spec["rows"] = spec["rows"] or max(512, 4 * spec["batch"])
    spec["micro"] = spec["micro"] or [m for m in micro if m <= spec["batch"]] or [spec["batch"]]
    spec["micro"] = [spec["micro"]] if isinstance(spec["micro"], int) else list(spec["micro"])
    os.environ |= spec["env"]
    told, said, folder = {}, io.StringIO(), tempfile.mkdtemp(prefix="unsloth_")
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            told["versions"] = versions()
            done = subprocess.run(
                [
                    sys.executable,
                    os.path.abspath(__file__),
                    "--make",
                    shape,
                    folder,
                    str(int(spec["lora"])),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError("weights: " + done.stderr[-1500:])
            told["weights_s"] = round(time.perf_counter() - BEGUN, 2)
            told["xformers"] = xformers_without_its_library()
            import torch
            import transformers
            import unsloth  # noqa: F401  before transformers and trl

            transformers.logging.set_verbosity_error()
            spec["where"] = "cuda" if torch.cuda.is_available() else "cpu"
            told["import_s"] = round(time.perf_counter() - BEGUN, 2)
            told["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
            made = rows(
                shape, spec["rows"], median=spec["median"], cap=spec["cap"], trained=spec["trained"]
            )
            try:
                measured(spec, folder, made, told)
            finally:
                best_of(told)
    except BaseException as error:
        told |= {
            "error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
            "traceback": last_lines(error),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines = [line.strip()[:220] for line in said.getvalue().splitlines() if line.strip()]
    noted = [line for line in lines if "nsloth" in line or "rror" in line or "WARN" in line.upper()]
    shown = {
        key: spec[key]
        for key in ("shape", "lora", "weights", "padding", "batch", "rows", "seconds", "env")
    }
    print(
        json.dumps(
            {
                "way": "unsloth",
                **shown,
                **told,
                "said": (noted or lines)[-12 if "error" not in told else -30 :],
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1] == "--make":
        make(sys.argv[2], sys.argv[3], sys.argv[4] == "1")
    else:
        main(json.loads(sys.argv[1]))
