"""The planner's formulas against what torch keeps, allocates and counts, and the papers' numbers."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks import common, memory_gpu
from kit import memory, sft, speed
from kit.errors import SettingsError

PROJECT = Path(__file__).parents[2]
SMALL = dict(
    hidden_size=64,
    intermediate_size=160,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=300,
    tie_word_embeddings=True,
)
ROWS, LENGTH, RANK = 2, 64, 8


def model(kind, layers, dtype=torch.float32, **more):
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **SMALL | more, num_hidden_layers=layers), dtype=dtype
    )


@pytest.mark.parametrize("name", memory.SHAPES)
def test_parameters_are_those_of_the_model(name):
    config = common.config(name)
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config)
    assert memory.shape(name).parameters == built.num_parameters()
    assert memory.shape(config) == memory.SHAPES[name]


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("tables", [True, False])
def test_lora_counts_what_trains(kind, tables):
    from peft import LoraConfig, get_peft_model

    built = model(kind, 2)
    s = memory.shape(built.config)
    assert s.parameters == built.num_parameters()
    whole = {"modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}
    rows = {"trainable_token_indices": [1, 2, 3, 4]}
    light = get_peft_model(
        built,
        LoraConfig(
            r=RANK, target_modules="all-linear", task_type="CAUSAL_LM", **whole if tables else rows
        ),
    )
    trained = sum(p.numel() for p in light.parameters() if p.requires_grad)
    assert trained == s.lora(RANK, tables)


def saved(kind, layers, precision, rank, padded):
    """Bytes of all tensors that autograd keeps in a forward pass, each storage once, without the weights."""
    torch.manual_seed(0)
    made = model(kind, layers, torch.bfloat16 if precision == "bf16" else torch.float32).train()
    inner = made.model
    if rank:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
        inner = get_peft_model(made, config).base_model.model.model
    weights, sizes = {p.untyped_storage().data_ptr() for p in made.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[0, :5] = int(not padded)
    cast = (
        torch.autocast("cpu", torch.bfloat16)
        if precision != "fp32"
        else sdpa_kernel(SDPBackend.MATH)
        if not padded
        else contextlib.nullcontext()
    )  # a GPU has the math kernel only for grouped heads in float32
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), cast:
        out = inner(
            input_ids=torch.randint(0, 300, (ROWS, LENGTH)), attention_mask=mask, use_cache=False
        )
    return sum(sizes.values()), out


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("precision", ["fp32", "autocast", "bf16"])
@pytest.mark.parametrize(
    "rank, padded, within", [(0, False, 0.03), (0, True, 0.06), (RANK, False, 0.15)]
)
def test_a_layer_keeps_what_autograd_saves(kind, precision, rank, padded, within):
    """Within 3%; scales of small norms, masks and LoRA's inner values are left out."""
    (one, _), (two, _) = (saved(kind, layers, precision, rank, padded) for layers in (1, 2))
    t = memory.Training(ROWS, LENGTH, lora_rank=rank, precision=precision, padded=padded)
    s = memory.shape(model(kind, 1).config)
    copies = 2 * s.linear * (precision == "autocast")
    if rank and precision == "bf16":  # adapters are float32, and cast too
        copies += 2 * (s.lora(rank, False) - memory.ROLE_TOKENS * s.hidden)
    scores = 4 * s.heads * ROWS * LENGTH * (precision == "fp32" and not padded)  # of the last id
    assert two - one + scores == pytest.approx(memory.layer_activations(s, t) + copies, rel=within)


def long(*values):
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize(
    "name",
    [
        "135M full, checkpointing",
        "135M DPO, reference",
        "0.6B LoRA",
        long("0.6B full, bf16 weights"),
        long("1.7B DPO, LoRA"),
        long("135M full, fp32"),
    ],
)
def test_the_peak_of_a_training_is_the_plan(monkeypatch, name):
    """Through TRL's trainers, on the CPU, counted by torch's allocator."""
    import trl.trainer.utils
    from trl.kernels import chunked_logprob

    threads = torch.get_num_threads()
    for owner, field in (
        (memory, "TILE"),
        (trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE"),
        (trl.trainer.utils, "_use_triton"),
        *((chunked_logprob, f) for f in memory_gpu.KERNELS),
    ):
        monkeypatch.setattr(owner, field, getattr(owner, field))  # put back what `toy` changes
    shape, setting, _ = memory_gpu.setting_of(name)
    config, setting = memory_gpu.toy(shape, setting)
    plan, peaks = memory.plan(config, setting), memory_gpu.measure(setting, config)
    torch.set_num_threads(threads)
    assert abs(plan.peak / max(peaks.values()) - 1) < 0.1, (plan.moment, plan.peak, peaks)


def test_the_plan_is_within_a_tenth_of_what_a_gpu_measured():
    """Every row of the committed results, with the formulas of today; at least six settings."""
    lines = (PROJECT / "benchmarks/results/memory_gpu.jsonl").read_text().splitlines()
    assert len(lines) >= 6
    for row in map(json.loads, lines):
        shape, setting, packed = memory_gpu.setting_of(row["setting"])
        if packed:
            setting = memory_gpu.as_packed(setting, memory.SHAPES[shape].vocab)
        assert abs(memory.plan(shape, setting).peak / row["measured"] - 1) <= 0.1, row["setting"]


def test_8b_over_gpus_is_within_a_tenth_of_what_was_measured():
    record = json.loads((PROJECT / "benchmarks/results/scaling.json").read_text())
    rows = [row for row in record["results"] if row["job"] == "memory"]
    assert len(rows) == 2
    for row in rows:
        _, name, n = row["arguments"]
        t = memory.Training(
            1, 2048, checkpointing="checkpointed" in name, strategy="fsdp2", processes=n
        )
        peak = memory.plan("Qwen3-8B", t).peak / 1e9
        assert peak == pytest.approx(row["result"]["peak_gb"], rel=0.03), name


def test_split_over_processes_as_in_the_paper():
    """Rajbhandari et al. 2020, figure 1: 7.5e9 weights on 64 GPUs take 120, 31.4, 16.6, 1.9 GB."""
    shape = memory.SHAPES["Qwen3-8B"]._replace(layers=33, vocab=142_000)
    size = shape.parameters
    assert abs(size / 7.5e9 - 1) < 0.01
    for strategy, want in (("ddp", 120), ("zero1", 31.4), ("zero2", 16.6), ("fsdp2", 1.9)):
        t = memory.Training(1, 1, precision="bf16 + fp32 master", strategy=strategy, processes=64)
        terms = memory.plan(shape, t).moments["update"]
        total = (terms["weights"] + terms["gradients"] + terms["optimizer"]) / size * 7.5
        assert abs(total - want) < 0.05, strategy


def test_terms_follow_the_settings():
    t = memory.Training()
    s = memory.SHAPES["Qwen3-0.6B"]
    plan = memory.plan("Qwen3-0.6B", t)
    assert set(plan.terms) == set(memory.TERMS) and plan.peak == sum(plan.terms.values())
    assert plan.peak == max(sum(terms.values()) for terms in plan.moments.values())
    again = memory.plan(s, replace(t, accumulation=4))
    extra = again.moments["loss"]["gradients"] - plan.moments["loss"]["gradients"]
    assert extra == 4 * s.parameters
    dpo = {
        change: memory.plan(s, replace(t, kind="dpo", **{change[0]: change[1]})).terms["weights"]
        for change in (("reference", "model"), ("reference", "stored"), ("lora_rank", RANK))
    }
    assert dpo["reference", "model"] == 2 * dpo["reference", "stored"] == 8 * s.parameters
    assert dpo["lora_rank", RANK] == 4 * s.parameters + 4 * s.lora(RANK, False)
    two = memory.plan(s, replace(t, processes=2))
    extra = {
        name: sum(two.moments[name].values()) - sum(plan.moments[name].values())
        for name in plan.moments
    }
    buckets = 4 * s.parameters  # DDP's; at the end they hold the gradients
    assert extra == {"loss": buckets, "last layer": buckets, "first layer": 0, "update": 0}
    twice = memory.plan(s, replace(t, processes=2, accumulation=2))
    assert twice.moments["update"]["buffers"] == buckets


@pytest.mark.parametrize(
    "config, words",
    [
        (lambda: AutoConfig.for_model("mixtral"), "got mixtral"),
        (lambda: AutoConfig.for_model("gpt2"), "got gpt2"),
        (lambda: "8B", "SmolLM2-135M, .*got 8B"),
    ],
)
def test_a_model_that_the_formulas_do_not_describe_is_refused(config, words):
    with pytest.raises(SettingsError, match=words):
        memory.plan(config(), memory.Training())


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "fp8"},
        {"strategy": "fsdp"},
        {"length": 0},
        {"micro_batch_size": -1},
        {"processes": 0},
        {"kind": "grpo"},
    ],
)
def test_a_bad_value_is_refused_with_its_name(change):
    ((name, value),) = change.items()
    with pytest.raises(
        SettingsError,
        match=f"{name}(.|\\n)*expected(.|\\n)*{value}|expected(.|\\n)*{value}(.|\\n)*{name}",
    ):
        memory.Training(**change)
    with pytest.raises(SettingsError, match="gpu: expected more than 0 GB, got 0"):
        memory.at_real_size(gpu=0)


# Advice after out-of-memory


def trainer(name, rows=32, length=2048, **more):
    """The parts of a trainer that speed.training_of reads."""
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(common.config(name))
    args = SimpleNamespace(
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=2,
        bf16=True,
        fp16=False,
        world_size=1,
    )
    data = sft.dataset({"input_ids": [[1] * length, [1] * 9]}, "x")
    return SimpleNamespace(
        args=args,
        model=built,
        train_dataset=data,
        is_fsdp_enabled=False,
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        **more,
    )


@pytest.mark.parametrize("room", [80e9, 24e9, 6e9])
def test_advice_names_settings_that_fit_and_no_larger_ones(monkeypatch, room):
    monkeypatch.setattr(speed, "available", lambda: room)
    words = speed.advice(trainer("SmolLM2-1.7B"))
    now = speed.training_of(trainer("SmolLM2-1.7B"))
    need = memory.plan("SmolLM2-1.7B", now).peak / 1e9
    assert words.startswith(
        f"32 rows of up to 2,048 ids at once need about {need:,.2f} GB, the GPU "
        f"has {room / 1e9:,.2f} GB for this process; try "
    )
    for change in ({}, {"checkpointing": True}, {"lora_rank": 16}):
        peaks = {
            n: memory.plan(
                "SmolLM2-1.7B", replace(now, micro_batch_size=n, accumulation=2, **change)
            ).peak
            for n in (1, 2, 4, 8, 16, 32)
        }
        best = max((n for n in peaks if peaks[n] * memory.MARGIN <= room), default=None)
        ending = {"checkpointing": " with checkpointing", "lora_rank": " with lora_rank=16"}
        ending = ending.get(next(iter(change), ""), "")
        parts = words.split("; try ")[1].split(", or ")
        assert (f"micro_batch_size={best}{ending}" in parts) == (best is not None)
    if room == 6e9:
        assert words.endswith("try a smaller model, a smaller max_length, or FSDP2 on more GPUs")


def test_advice_of_a_gpu_that_fills_earlier_than_planned_asks_for_less(monkeypatch):
    monkeypatch.setattr(speed, "available", lambda: 80e9)
    words = speed.advice(trainer("SmolLM2-135M", rows=8, length=256))
    assert "try micro_batch_size=4, or micro_batch_size=8 with checkpointing" in words


def test_a_model_that_the_planner_does_not_know_gets_advice_too():
    built = trainer("SmolLM2-135M")
    built.model.config.num_experts = 4
    assert speed.advice(built) == (
        "32 rows at once do not fit into the GPU; try micro_batch_size=16"
    )


def test_the_planner_reads_a_trainer(tmp_path):
    for name in ("0.6B LoRA", "0.6B DPO, precomputed reference", "135M full, checkpointing"):
        shape, setting, _ = memory_gpu.setting_of(name)
        setting = replace(setting, micro_batch_size=2, length=20)
        built = memory_gpu.trainer(setting, memory_gpu.toy_config(shape), str(tmp_path))
        assert speed.training_of(built) == setting, name


# Table and widget


def test_the_table_has_a_row_per_way_and_explains_its_columns():
    text = memory.planner("SmolLM2-135M", length=512, processes=4).text
    cells, notes = text.split("\n\n")
    head, _, *rows = cells.splitlines()
    assert len(rows) == len(memory.WAYS) + len(memory.STAGES)
    plan = memory.plan("SmolLM2-135M", memory.Training(length=512))
    assert (
        f"= {plan.peak / 1e9:.2f}" in rows[0]
        and "fits" in rows[0]
        and rows[0].endswith(plan.moment)
    )
    for term in memory.TERMS:
        assert term in head and f"{term}: " in notes
    alone = memory.planner(AutoConfig.for_model("llama", **SMALL, num_hidden_layers=2))
    assert alone.rich.startswith("<table")


def test_large_numbers_have_separators_and_a_verdict():
    text = memory.at_real_size("Qwen3-8B", micro_batch_size=64, length=16384, gpu=24).text
    assert "does not fit" in text and "24 GB" in text
    plan = memory.plan("Qwen3-8B", memory.Training(64, 16384))
    assert f"= {plan.peak / 1e9:,.2f}" in text and "," in f"{plan.peak / 1e9:,.2f}"
    assert memory.at_real_size().text.count(" fits ") == sum(
        memory.plan(name, memory.Training()).peak * memory.MARGIN <= 80e9 for name in memory.SHAPES
    )


def test_the_controls_change_the_table_and_refuse_bad_values(capsys):
    box = memory.planner("SmolLM2-135M", processes=1).widget()
    controls = {child.description: child for child in box.children[:-1]}
    assert box.result.text == memory.planner("SmolLM2-135M", processes=1).text
    controls["length"].value, controls["processes"].value = 2048, 8
    assert box.result.text == memory.planner("SmolLM2-135M", length=2048, processes=8).text
    controls["length"].value = 0
    assert box.result is None
