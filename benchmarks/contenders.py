"""The ways to train that speed_gpu.py and speed_cpu.py compare: each one a process that answers
with a dict.

Every contender gets the same weights (seeded, from a config), the same rows, and tells the loss and
gradient norm of the first rows in its own way before anything is timed.
"""

import contextlib
import importlib.metadata
import io
import math
import os
import platform
import random
import resource
import tempfile
import time
from types import SimpleNamespace

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}  # asking for a GPU must not start one before the fork

import torch
import transformers
from datasets import disable_progress_bars
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from benchmarks import profiles
from benchmarks.common import tokenizer
from kit import models, speed
from kit import sft as kit_sft
from kit.engine import attention, patches

LLAMA = {"rope_theta": 100_000.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHAPES = {  # configs as published, weights at random
    "toy": lambda: LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        **LLAMA,
    ),
    "pocket": lambda: LlamaConfig(
        vocab_size=6144,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        tie_word_embeddings=True,
        **LLAMA,
    ),
    "135M": lambda: LlamaConfig(
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
    "0.6B": lambda: Qwen3Config(
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    ),
    "1.7B": lambda: Qwen3Config(
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    ),
    "8B": lambda: LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
        **LLAMA,
    ),
}
CHECKED = 8  # rows whose loss and gradient each contender tells before it is timed; of pairs, those of a step


def micro_batch_size(lengths, batch_size, tokens):
    """Return the largest number of rows at once that divides a step and holds about `tokens` ids.

    lengths: ids of each row. Accumulation makes up for fewer rows, so the steps stay the same.
    """
    most = max(1, int(tokens * len(lengths) / sum(lengths)))
    return max(n for n in range(1, batch_size + 1) if batch_size % n == 0 and n <= most)


def cuda():
    return torch.cuda.is_available()


def sync():
    if cuda():
        torch.cuda.synchronize()


def model(shape, dtype=torch.float32):
    torch.manual_seed(0)
    with torch.device("cuda" if cuda() else "cpu"):
        return AutoModelForCausalLM.from_config(SHAPES[shape](), dtype=dtype)


def rows(shape, count, *, median, cap, trained=1.0, seed=0):
    """Rows of random ids with log-normal lengths: {input_ids, labels}; the last share `trained` of
    each is trained."""
    draw, vocabulary = random.Random(seed), SHAPES[shape]().vocab_size
    examples = []
    for _ in range(count):
        length = min(cap, max(8, round(math.exp(draw.gauss(math.log(median), 0.9)))))
        ids, start = (
            [draw.randrange(3, vocabulary) for _ in range(length)],
            length - max(2, round(trained * length)),
        )
        examples.append({"input_ids": ids, "labels": [-100] * start + ids[start:]})
    return examples


def pairs(shape, count, *, median, cap, seed=0):
    """Preference rows of random ids; two thirds of a row are the prompt."""
    halves = [rows(shape, count, median=median / 3, cap=cap // 3, seed=seed + n) for n in range(2)]
    prompts = rows(shape, count, median=2 * median / 3, cap=2 * cap // 3, seed=seed + 2)
    return [
        {"prompt_ids": p["input_ids"], "chosen_ids": a["input_ids"], "rejected_ids": b["input_ids"]}
        for p, a, b in zip(prompts, *halves, strict=True)
    ]


def faster(policy, layers):
    """What kit.models.load does to a model, and layers as they are, fused by Liger, or compiled."""
    patches.narrow_states(policy)
    attention.use(policy)
    if "fused" in layers:
        patches.fuse_layers(policy)
    if (
        "compiled" in layers
    ):  # not the whole model, whose embedding and head change with each batch's documents
        for layer in policy.base_model.layers:
            layer.compile(dynamic=True)
    return policy


class Clock(transformers.TrainerCallback):
    """Real ids and seconds of each step; stops after `warm` steps and the wanted ones, or the
    wanted seconds."""

    def __init__(self, trainer, spec):
        self.spec, self.warm, self.steps, self.first, samples = (
            spec,
            spec["warm"],
            [],
            None,
            trainer.get_batch_samples,
        )

        def taken(*args):
            batches = samples(*args)
            self.now = sum(map(real_ids, batches[0]))
            return batches

        trainer.get_batch_samples = taken
        trainer.add_callback(self)

    def on_step_end(self, args, state, control, **kwargs):
        sync()
        self.steps.append(
            (time.perf_counter(), time.process_time(), float(self.now), *allocations())
        )
        self.first = self.first or self.steps[0][0]
        control.should_training_stop |= done(self.steps, self.spec)

    def result(self):
        begin, *timed = self.steps[self.warm - 1 :]
        wall, processor, ids = (
            timed[-1][0] - begin[0],
            timed[-1][1] - begin[1],
            sum(step[2] for step in timed),
        )
        return {
            "ids_per_s": round(ids / wall, 1),
            "ids_per_processor_s": round(ids / processor, 1),
            "steps_per_s": len(timed) / wall,
            "steps": len(timed),
            "step_ids": round(ids / len(timed)),
            "device_allocations": timed[-1][3] - begin[3],
            "allocation_retries": timed[-1][4] - begin[4],
        }


def real_ids(batch):
    """Ids of a batch without padding, the prompt of a pair once; stays on the GPU."""
    mask = batch.get("attention_mask")
    if mask is None:  # TRL has packed it
        return batch["input_ids"].numel()
    return (mask.sum() + batch.get("completion_mask", mask).sum()) / 2


def allocations():
    """How often torch asked the driver for memory, and how often it gave back all it had kept to
    ask again."""
    stats = torch.cuda.memory_stats() if cuda() else {}
    return stats.get("num_device_alloc", 0), stats.get("num_alloc_retries", 0)


def done(steps, spec):
    timed = len(steps) - spec["warm"]
    if timed < 2 or "steps" in spec:
        return timed >= spec.get("steps", 2)
    return steps[-1][0] - steps[spec["warm"] - 1][0] >= spec["seconds"]


def checked(trainer, rows, size=4):
    """Loss and gradient norm of the first rows, in micro batches, by the trainer's own way."""
    count = (
        sum(sum(i != -100 for i in row["labels"][1:]) for row in rows)
        if "labels" in rows[0]
        else None
    )
    total, policy = 0.0, trainer.model
    policy.train()
    for at in range(0, len(rows), size):
        batch = trainer._prepare_inputs(trainer.data_collator(rows[at : at + size]))
        with trainer.accelerator.autocast():
            loss = trainer.compute_loss(
                policy, batch, **({"num_items_in_batch": torch.tensor(count)} if count else {})
            )
        loss = loss if count else loss * size / len(rows)
        loss.backward()
        total += loss.item()
    norm = math.sqrt(
        sum(float(p.grad.float().square().sum()) for p in policy.parameters() if p.grad is not None)
    )
    policy.zero_grad(set_to_none=True)
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    return {"loss": total, "gradient_norm": norm}


def common(folder, warm):
    return {
        "output_dir": folder,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "seed": 0,
        "learning_rate": 1e-6,
        "max_steps": 1000,
    }


def ours(way):
    """What a lesson's run adds to the settings of the hardware, and data workers where the way asks
    for them."""
    workers = (
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
        if "workers" in way
        else {}
    )
    return {"logging_steps": 1, "logging_nan_inf_filter": False, **workers}


def sft_trainer(spec, folder, data, batch):
    """SFTTrainer of one contender. `batch`: rows a step of ours; TRL's defaults keep their own."""
    way, shape, lora = spec["way"], spec["shape"], None
    if spec["task"] == "lora":
        from peft import LoraConfig

        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    shared = common(folder, spec["warm"])
    if way == "TRL defaults":
        policy, config = (
            model(shape),
            SFTConfig(
                **shared,
                max_length=spec["cap"],
                dataset_kwargs={"skip_prepare_dataset": True},
                use_cpu=not cuda(),
            ),
        )
    elif way.startswith("TRL documented"):
        policy = model(shape, torch.bfloat16 if lora else torch.float32)
        if "flex" in way:
            policy.set_attn_implementation("flex_attention")
        config = SFTConfig(
            **shared,
            max_length=spec["cap"],
            packing=True,
            gradient_checkpointing=False,
            use_liger_kernel=cuda(),
            bf16=cuda(),
            use_cpu=not cuda(),
            per_device_train_batch_size=max(
                1,
                min(
                    spec["ids"],
                    spec.get("most", spec["ids"]),
                    batch * sum(spec["lengths"]) // len(spec["lengths"]),
                )
                // spec["cap"],
            ),
        )
        data = data.remove_columns(
            [c for c in data.column_names if c not in ("input_ids", "labels")]
        )
    else:
        policy = model(shape, torch.bfloat16 if lora else torch.float32)
        patches.score_trained_ids_only()
        faster(policy, way)
        micro = (
            batch
            if spec["task"] == "fit"
            else micro_batch_size(spec["lengths"], batch, tokens=spec["ids"])
        )
        hardware = kit_sft.hardware(SimpleNamespace(batch_size=batch, micro_batch_size=micro)) | (
            {"bf16": True} if way.endswith("bf16") else {}
        )
        config = SFTConfig(
            **hardware | shared,
            **ours(way),
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
    return SFTTrainer(
        policy, config, train_dataset=data, processing_class=tokenizer(), peft_config=lora
    )


def sft(spec):
    examples = rows(
        spec["shape"], spec["rows"], median=spec["median"], cap=spec["cap"], trained=spec["trained"]
    )
    spec["lengths"] = [len(row["input_ids"]) for row in examples]
    order = (
        kit_sft.by_length(spec["lengths"], spec["batch"], 0)
        if spec["sorted"]
        else range(len(examples))
    )
    data = kit_sft.dataset(
        {key: [examples[i][key] for i in order] for key in examples[0]}, f"speed {spec['shape']}"
    )
    if spec["way"].startswith("raw"):
        return raw(spec, [examples[i] for i in order], examples[:CHECKED])
    with tempfile.TemporaryDirectory() as folder:
        trainer = sft_trainer(spec, folder, data, spec["batch"])
        if spec["task"] == "fit":
            return fitted(trainer)
        if spec["way"].startswith("ours"):
            with contextlib.redirect_stdout(io.StringIO()):
                speed.fit(trainer)
            forget_peak()
        if spec["task"] == "profile":
            return profiles.of_trainer(trainer, Clock(trainer, spec | {"steps": 4}))
        return trained(trainer, spec, examples[:CHECKED])


def forget_peak():
    """What the tries of speed.fit held is not the peak of the training."""
    if cuda():
        torch.cuda.reset_peak_memory_stats()


def trained(trainer, spec, first):
    begun = time.perf_counter()
    if spec["task"] != "dpo":
        same = checked(trainer, first)
    else:  # in the batches in which the reference was asked: other batches round their sums otherwise
        same = checked(trainer, first, trainer.args.per_device_train_batch_size)
        same["loss_in_fours"] = checked(trainer, first, 4)["loss"]
    spent = time.perf_counter() - begun
    while True:
        clock = Clock(trainer, spec)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                trainer.train()
            break
        except (
            torch.OutOfMemoryError
        ):  # the documented recipe leaves the batch to its user: take what fits
            size = trainer.args.per_device_train_batch_size // 2
            if not size or spec["way"].startswith("ours"):
                raise
        trainer.remove_callback(clock)
        trainer.optimizer = trainer.lr_scheduler = None
        trainer.args.per_device_train_batch_size = trainer._train_batch_size = size
        trainer.model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    return {
        **same,
        **clock.result(),
        "rows_at_once": trainer.args.per_device_train_batch_size,
        "first_step_s": round(clock.first - spec["begun"] - spent, 2),
    }


def raw(spec, examples, first):
    """The loop without a trainer: "raw" pads and scores the trained ids; "raw, packed" has our
    attention and head."""
    from transformers import get_cosine_schedule_with_warmup
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
    from trl.trainer.utils import add_fused_lm_head

    policy, collate = model(spec["shape"]).train(), DataCollatorForLanguageModeling(pad_token_id=0)
    packed = "packed" in spec["way"]
    if packed:
        faster(policy, spec["way"])
    patches.score_trained_ids_only()
    add_fused_lm_head(policy)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, weight_decay=0.0, fused=cuda())
    scheduler = get_cosine_schedule_with_warmup(optimizer, 0, 1000)
    where, dtype = next(policy.parameters()).device, models.compute_dtype()

    def backward(part, count):
        inputs = {key: value.to(where) for key, value in collate(part).items()}
        with torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
            if packed or cuda():
                loss = (
                    -policy(**inputs, use_cache=False, fused_lm_head=True).log_probs.sum() / count
                )
            else:  # padding on the right needs no mask under causal attention
                states, labels = (
                    policy.model(inputs["input_ids"], use_cache=False)[0][:, :-1],
                    inputs["labels"][:, 1:],
                )
                scores = policy.lm_head(states[labels != -100])
                loss = (
                    torch.nn.functional.cross_entropy(
                        scores, labels[labels != -100], reduction="sum"
                    )
                    / count
                )
        loss.backward()
        return loss.detach()

    def count(part):
        return sum(sum(i != -100 for i in row["labels"][1:]) for row in part)

    loss = float(sum(backward(first[at : at + 4], count(first)) for at in range(0, len(first), 4)))
    norm = math.sqrt(sum(float(p.grad.float().square().sum()) for p in policy.parameters()))
    policy.zero_grad(set_to_none=True)
    size, micro = (
        spec["batch"],
        micro_batch_size(spec["lengths"], spec["batch"], tokens=spec["ids"]),
    )
    if spec["task"] == "profile":
        return profiles.of_work(
            lambda: backward(examples[:micro], count(examples[:micro])),
            sum(len(row["input_ids"]) for row in examples[:micro]),
        )
    steps, at = [], 0
    while not done(steps, spec):
        step = [examples[(at + i) % len(examples)] for i in range(size)]
        for part in range(0, size, micro):
            backward(step[part : part + micro], count(step))
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        sync()
        steps.append(
            (
                time.perf_counter(),
                time.process_time(),
                sum(len(row["input_ids"]) for row in step),
                *allocations(),
            )
        )
        at += size
    clock = Clock.__new__(Clock)
    clock.steps, clock.warm = steps, spec["warm"]
    return {
        "loss": loss,
        "gradient_norm": norm,
        **clock.result(),
        "rows_at_once": micro,
        "first_step_s": round(steps[0][0] - spec["begun"], 2),
    }


class PairTrainer(DPOTrainer):
    """DPOTrainer on rows that are ids already; notes what asking the reference for all of them
    costs."""

    reference_s = 0.0  # seconds a pair

    def _prepare_dataset(self, dataset, *args):
        return dataset

    def _precompute_ref_logps(self, dataset, *args):
        sync()
        begun = time.perf_counter()
        result = super()._precompute_ref_logps(dataset, *args)
        sync()
        self.reference_s = (time.perf_counter() - begun) / len(dataset)
        return result


def dpo(spec):
    examples = pairs(spec["shape"], spec["rows"], median=spec["median"], cap=spec["cap"])
    data, way = (
        kit_sft.dataset(
            {key: [row[key] for row in examples] for key in examples[0]}, "speed pairs"
        ),
        spec["way"],
    )
    policy, reference = model(spec["shape"]), model(spec["shape"])
    with tempfile.TemporaryDirectory() as folder:
        shared = common(folder, spec["warm"])
        if way == "TRL defaults":
            config = DPOConfig(**shared, max_length=None, use_cpu=not cuda())
        elif way == "TRL documented":
            config = DPOConfig(
                **shared,
                max_length=None,
                use_cpu=not cuda(),
                precompute_ref_log_probs=True,
                bf16=cuda(),
                gradient_checkpointing=False,
                use_liger_kernel=cuda(),
            )
        else:
            patches.score_trained_ids_only()
            for each in (policy, reference):
                faster(each, way)
            lengths = [
                2 * len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"])
                for p in examples
            ]
            micro = micro_batch_size(lengths, spec["batch"], tokens=spec["ids"])
            fitting = kit_sft.hardware(
                SimpleNamespace(batch_size=spec["batch"], micro_batch_size=micro)
            )
            config = DPOConfig(
                **shared,
                **{key: value for key, value in fitting.items() if key not in shared},
                **ours(way),
                max_length=None,
                precompute_ref_log_probs=True,
            )
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = PairTrainer(
                policy, reference, config, train_dataset=data, processing_class=tokenizer()
            )
            if way.startswith("ours"):
                speed.fit(trainer)
                forget_peak()
        first = [trainer.train_dataset[i] for i in range(spec["batch"])]
        record = trained(trainer, spec, first)
    size = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    alone = record.pop("steps_per_s") * size
    return {
        **record,
        "pairs_per_s": round(1 / (1 / alone + trainer.reference_s), 2),
        "step_pairs_per_s": round(alone, 2),
    }


def fitted(trainer):
    """What kit.speed.fit makes of all rows at once, and one step of it."""
    output = io.StringIO()
    trainer.args.max_steps = 1
    with contextlib.redirect_stdout(output):
        speed.fit(trainer)
        trainer.train()
    sentences = [line for line in output.getvalue().splitlines() if "fit" in line]
    return {
        "said": " ".join(sentences),
        "rows_at_once": trainer.args.per_device_train_batch_size,
        "times": trainer.args.gradient_accumulation_steps,
    }


def agree(spec):
    """Furthest logits and relative distance of all gradients from float32, one document at a time:
    ours and SDPA's."""
    examples = rows(spec["shape"], 6, median=spec["median"], cap=spec["cap"] // 4, seed=5)
    collate = transformers.DataCollatorForSeq2Seq(tokenizer())
    batch = {
        key: value.to("cuda" if cuda() else "cpu")
        for key, value in collate(examples, return_tensors="pt").items()
    }
    labels, mask = batch.pop("labels"), batch["attention_mask"].bool()
    dtype = torch.bfloat16 if cuda() else torch.float32
    outputs, texts, prompts = {}, {}, batch["input_ids"][:2, :8]
    for name, ready, kind in (
        ("float32", lambda m: m, torch.float32),
        ("sdpa", lambda m: m, dtype),
        ("packed", lambda m: faster(m, ""), dtype),
        *([("fused", lambda m: faster(m, "fused"), dtype)] if cuda() else []),
    ):
        policy = ready(model(spec["shape"])).train()
        with torch.autocast(mask.device.type, torch.bfloat16, enabled=kind == torch.bfloat16):
            logits = policy(**batch, use_cache=False).logits
        torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
        ).backward()
        outputs[name] = (
            logits.detach().float()[mask],
            torch.cat([p.grad.flatten() for p in policy.parameters()]),
        )
        if name in ("float32", "fused"):  # a model that is trained fused answers fused
            texts[name] = policy.eval().generate(
                prompts, max_new_tokens=24, min_new_tokens=24, do_sample=False
            )
    same = float(
        (texts["float32"] == texts.get("fused", texts["float32"]))[:, prompts.shape[1] :]
        .float()
        .mean()
    )
    exact = outputs.pop("float32")
    return {"fused answers": same} | {
        f"{name} {what}": float(far)
        for name, (logits, gradient) in outputs.items()
        for what, far in (
            ("logits", (logits - exact[0]).abs().max()),
            ("gradient", (gradient - exact[1]).norm() / exact[1].norm()),
        )
    }


def ceiling(spec):
    """Matrix products and copies alone: TFLOP/s and TB/s of a GPU, or of one processor in its own
    time."""
    where, dtype = ("cuda", torch.bfloat16) if cuda() else ("cpu", torch.float32)
    size, best, copy = (8192, 0.0, 0.0) if cuda() else (1024, 0.0, 0.0)
    now = time.perf_counter if cuda() else time.process_time
    a, b = (torch.randn(size, size, device=where, dtype=dtype) for _ in range(2))
    x = torch.empty(2**28 if cuda() else 2**24, device=where)
    y = torch.empty_like(x)
    until = time.perf_counter() + spec["seconds"]
    while time.perf_counter() < until:
        sync()
        begun = now()
        for _ in range(10):
            a @ b
        sync()
        middle = now()
        for _ in range(10):
            y.copy_(x)
        sync()
        best = max(best, 20 * size**3 / (middle - begun) / 1e12)
        copy = max(copy, 20 * x.nbytes / (now() - middle) / 1e12)
    return {"matmul_tflops": round(best, 3), "copy_tb_per_s": round(copy, 4)}


def answer(spec):
    """Run one contender in this process."""
    import warnings

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    spec["begun"] = time.perf_counter()
    if "segments" in spec["way"]:
        torch.cuda.memory._set_allocator_settings("expandable_segments:True")
    try:
        record = {
            "ceiling": ceiling,
            "sft": sft,
            "lora": sft,
            "dpo": dpo,
            "fit": sft,
            "agree": agree,
            "profile": sft,
        }[spec["task"]](spec)
    except Exception as error:
        record = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    peak = (
        torch.cuda.max_memory_allocated()
        if cuda()
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {**record, "peak_gb": round(peak / 1e9, 2)}


def hardware():
    """Device and versions, for each line of the results."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        name = next(
            line.split(":")[1].strip()
            for line in open("/proc/cpuinfo")
            if line.startswith("model name")
        )
    flags = [
        flag
        for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
        if flag in open("/proc/cpuinfo").read()
    ]
    versions = {}
    for package in ("torch", "transformers", "trl", "accelerate", "peft", "liger-kernel"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "flags": flags,
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
        "seed": 0,
    }
