"""The planner's formulas against what torch really keeps, allocates and counts, and against the papers' numbers."""

import contextlib
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, AutoModelForCausalLM

from kit import fits, memory, planner, sft, show
from kit.errors import SettingsError

PROJECT = Path(__file__).parents[2]
SMALL = dict(hidden_size=64, intermediate_size=160, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
             vocab_size=300, tie_word_embeddings=True)
ROWS, LENGTH, RANK = 2, 64, 8


def model(kind, layers, dtype=torch.float32, **more):
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | more, num_hidden_layers=layers),
                                            dtype=dtype)


@pytest.mark.parametrize("name", planner.SHAPES)
def test_parameters_are_those_of_the_model(name):
    config = planner.SHAPES[name]
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert memory.shape(config).parameters == made.num_parameters()
    assert memory.shape(made.config) == memory.shape(config)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen2"])
def test_adapters_and_biases_are_counted(kind):
    from peft import get_peft_model

    made = model(kind, 2)
    s = memory.shape(made.config)
    assert s.parameters == made.num_parameters()
    light = get_peft_model(made, sft.lora(RANK, made))
    counted = sum(p.numel() for p in light.parameters() if p.requires_grad)
    assert counted == s.adapters(RANK) + s.table


def saved(kind, layers, precision, rank, padded):
    """Bytes of all tensors that autograd keeps in a forward pass, each storage once, without the weights."""
    torch.manual_seed(0)
    made = model(kind, layers, torch.bfloat16 if precision == "bf16" else torch.float32).train()
    inner = made.model
    if rank:
        from peft import get_peft_model

        inner = get_peft_model(made, sft.lora(rank, made)).base_model.model.model
    weights, sizes = {p.untyped_storage().data_ptr() for p in made.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[0, :5] = int(not padded)
    cast = torch.autocast("cpu", torch.bfloat16) if precision != "fp32" else sdpa_kernel(SDPBackend.MATH) \
        if not padded else contextlib.nullcontext()  # a GPU has the math kernel only for grouped heads in float32
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), cast:
        out = inner(input_ids=torch.randint(0, 300, (ROWS, LENGTH)), attention_mask=mask, use_cache=False)
    return sum(sizes.values()), out


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("precision", ["fp32", "autocast", "bf16"])
@pytest.mark.parametrize("rank, padded", [(0, False), (0, True), (RANK, False)])
def test_a_layer_keeps_what_autograd_saves_to_the_byte(kind, precision, rank, padded):
    (one, _), (two, _) = (saved(kind, layers, precision, rank, padded) for layers in (1, 2))
    t = memory.Training(ROWS, LENGTH, lora_rank=rank, precision=precision, padded=padded)
    s = memory.shape(model(kind, 1).config)
    copies = memory._copy(s, t)[0] + (2 * s.adapters(rank) if rank and precision == "bf16" else 0)  # adapters are fp32
    assert two - one == memory.layer_activations(s, t) + copies


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("memory_gpu", PROJECT / "benchmarks" / "memory_gpu.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules["memory_gpu"] = made
    spec.loader.exec_module(made)
    return made


def long(*values):
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize("name", ["135M full, checkpointing", "135M DPO, reference", "0.6B LoRA",
                                  long("0.6B full, half of the ids trained, 2 micro batches"),
                                  long("0.6B full, bf16 weights"), long("1.7B DPO, LoRA"), long("135M full, fp32")])
def test_the_peak_of_a_training_is_the_plan(benchmark, monkeypatch, name):
    """Through TRL's trainers, on the CPU, counted by torch's allocator."""
    import trl.trainer.utils
    from trl.kernels import chunked_logprob

    threads = torch.get_num_threads()
    for owner, field in ((memory, "TILE"), (memory, "WORKSPACE"), (trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE"),
                         (trl.trainer.utils, "_use_triton"), (trl.trainer.utils, "_ChunkedLogProbFunction"),
                         *((chunked_logprob, f) for f in ("_forward_tile", "_backward_tile", "_addmm_fp32"))):
        monkeypatch.setattr(owner, field, getattr(owner, field))  # put back what `toy` changes
    trl.trainer.utils._ChunkedLogProbFunction = chunked_logprob.ChunkedLogProbFunction
    shape, changes = benchmark.SETTINGS[name]
    config, setting = benchmark.toy(planner.SHAPES[shape], memory.Training(**changes))
    plan, peaks = memory.plan(config, setting), benchmark.measure(setting, config)
    torch.set_num_threads(threads)
    assert abs(plan.peak / max(peaks.values()) - 1) < 0.02, (plan.moment, plan.peak, peaks)


def test_the_plan_is_within_a_tenth_of_what_a_gpu_measured(benchmark):
    """Every row of the committed results, with the formulas of today; at least six settings."""
    lines = (PROJECT / "benchmarks" / "results" / "memory_gpu.jsonl").read_text().splitlines()
    assert len(lines) >= 6
    for row in map(json.loads, lines):
        shape, changes = benchmark.SETTINGS[row["setting"]]
        setting = memory.Training(**{key: value for key, value in changes.items() if key != "packed"})
        if "packed" in changes:
            setting = benchmark.as_packed(setting, planner.SHAPES[shape]["vocab_size"])
        moments = memory.plan(planner.SHAPES[shape], setting).moments.values()
        peak = max(sum(size for term, size in terms.items() if term not in row.get("without", ())) for terms in moments)
        assert peak == row["predicted"], row["setting"]
        assert abs(peak / row["measured"] - 1) <= 0.1, row["setting"]


def test_split_over_processes_as_in_the_paper():
    """Rajbhandari et al. 2020, figure 1: 7.5e9 parameters on 64 GPUs take 120, 31.4, 16.6 and 1.9 GB."""
    config = planner.SHAPES["Qwen3-8B"] | {"num_hidden_layers": 33, "vocab_size": 142_000}
    size = memory.shape(config).parameters
    assert abs(size / 7.5e9 - 1) < 0.01
    for strategy, want in (("ddp", 120), ("zero1", 31.4), ("zero2", 16.6), ("zero3", 1.9)):
        t = memory.Training(1, 1, precision="bf16 + fp32 master", strategy=strategy, processes=64)
        terms = memory.plan(config, t).moments["embedding"]
        told = (terms["weights"] + terms["gradients"] + terms["optimizer"]) / size * 7.5
        assert abs(told - want) < 0.05, strategy


def test_terms_that_come_and_go():
    config, t = planner.SHAPES["Qwen3-0.6B"], memory.Training()
    s = memory.shape(config)
    now = memory.plan(config, t)
    assert set(now.terms) == set(memory.TERMS) and now.peak == sum(now.terms.values())
    assert now.peak == max(sum(terms.values()) for terms in now.moments.values())
    again = memory.plan(config, replace(t, accumulation=4))
    assert again.moments["end of forward"]["gradients"] == 4 * s.parameters
    assert again.moments["embedding"]["gradients"] == 4 * s.parameters + 2 * 4 * s.table
    less = memory.plan(config, replace(t, trained=0.5))  # states and their gradient in float32, of half of the ids
    assert now.moments["loss"]["logits"] - less.moments["loss"]["logits"] == 8 * s.hidden * t.ids // 2
    dpo = memory.plan(config, replace(t, kind="dpo"))
    assert dpo.terms["reference"] == now.terms["weights"] == 4 * s.parameters
    assert memory.plan(config, replace(t, kind="dpo", lora_rank=RANK)).terms["reference"] == 0
    assert memory.plan(config, replace(t, kind="dpo", reference="precomputed")).terms["reference"] == 0
    data = memory.plan(config, replace(t, processes=2))
    assert data.peak - now.peak == 4 * s.parameters  # DDP's buckets


@pytest.mark.parametrize("config, told", [({"num_local_experts": 8}, "experts"),
                                          ({"hidden_size": None}, "no hidden_size")])
def test_a_model_that_the_formulas_do_not_describe_is_refused(config, told):
    with pytest.raises(SettingsError, match=told):
        memory.plan(planner.SHAPES["Qwen3-0.6B"] | config, memory.Training())


@pytest.mark.parametrize("change", [{"precision": "fp8"}, {"strategy": "fsdp"}])
def test_an_unknown_setting_is_refused(change):
    with pytest.raises(SettingsError, match="were expected, .*fp8|were expected, .* and fsdp came"):
        memory.plan(planner.SHAPES["Qwen3-0.6B"], memory.Training(**change))


def test_what_fits_fits_and_keeps_the_batch():
    config, t = planner.SHAPES["SmolLM2-1.7B"], memory.Training(32, 2048, accumulation=2)
    found = fits.fitting(config, t, 80e9)
    assert [(f.micro_batch_size, f.checkpointing) for f in found] == [(4, False), (32, True)]
    for f in found:
        assert f.micro_batch_size * f.accumulation == 64
        assert memory.plan(config, f).peak * fits.MARGIN <= 80e9
    more = replace(found[0], micro_batch_size=8, accumulation=8)
    assert memory.plan(config, more).peak * fits.MARGIN > 80e9
    assert fits.fitting(config, t, 10e9) == []


def trainer(config, rows=32, length=2048, **more):
    """What fits.training_of reads of a trainer."""
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    args = SimpleNamespace(per_device_train_batch_size=rows, gradient_accumulation_steps=2, bf16=True, fp16=False,
                           world_size=1)
    data = sft.dataset({"input_ids": [[1] * length, [1] * 9]}, "x")
    return SimpleNamespace(args=args, model=made, train_dataset=data, is_fsdp_enabled=False, is_deepspeed_enabled=False,
                           accelerator=SimpleNamespace(unwrap_model=lambda model: model), **more)


@pytest.mark.parametrize("room, told", [
    (80e9, "32 rows of up to 2048 ids at once need about 253.6 GB, the GPU has 80.0 GB for this process; what should "
           "fit: per_device_train_batch_size=4 with gradient_accumulation_steps=16, or per_device_train_batch_size=32 "
           "with gradient_accumulation_steps=2 and checkpointing"),
    (24e9, "and one row with checkpointing needs 31.4 GB; take a smaller model, shorter rows, FSDP2 over more GPUs, or "
           "LoRA (10.2 GB)")])
def test_the_sentence_names_settings_that_fit(monkeypatch, room, told):
    monkeypatch.setattr(fits, "available", lambda: room)
    assert fits.sentence(trainer(planner.SHAPES["SmolLM2-1.7B"])).endswith(told)


def test_the_sentence_of_a_gpu_that_fills_earlier_than_planned_asks_for_less(monkeypatch):
    monkeypatch.setattr(fits, "available", lambda: 80e9)
    told = fits.sentence(trainer(planner.SHAPES["SmolLM2-135M"], rows=8, length=256))
    assert "per_device_train_batch_size=4 with gradient_accumulation_steps=4, or" in told
    assert "batch_size=8 with gradient_accumulation_steps=2 and checkpointing" in told


def test_a_model_that_the_planner_does_not_know_gets_a_sentence_too(monkeypatch):
    made = trainer(planner.SHAPES["SmolLM2-135M"])
    made.model.config.num_experts = 4
    assert fits.sentence(made) == ("32 rows at once do not fit into the GPU; halve per_device_train_batch_size and "
                                   "double gradient_accumulation_steps")


def test_the_planner_reads_a_trainer(benchmark, tmp_path):
    for name in ("0.6B LoRA", "0.6B DPO, precomputed reference", "135M full, checkpointing", "135M full, padded rows"):
        shape, changes = benchmark.SETTINGS[name]
        setting = replace(memory.Training(**changes), micro_batch_size=2, length=20)
        made = benchmark.trainer(setting, planner.SHAPES[shape] | benchmark.TOY, str(tmp_path))
        assert fits.training_of(made) == replace(setting, trained=1.0), name


def test_the_table_has_a_row_for_each_way_and_a_term_in_each_column():
    made = show.memory_plan("SmolLM2-135M", length=512, processes=4)
    head, _, *rows = made.text.splitlines()
    assert [row[:11] for row in rows[:3]] == ["SFT        ", "SFT, checkp", "SFT, LoRA 1"] and len(rows) == 10
    assert all(term in head for term in memory.TERMS)
    plan = memory.plan(planner.SHAPES["SmolLM2-135M"], memory.Training(length=512))
    assert rows[0].split()[-2:] == [f"{plan.peak / 1e9:.2f}", plan.moment]
    assert sum(float(cell) for cell in rows[0].split()[1:-2] if cell != "-") == pytest.approx(plan.peak / 1e9, abs=0.05)
    alone = show.memory_plan(AutoConfig.for_model("llama", **SMALL), processes=1)
    assert len(alone.text.splitlines()) == 8 and alone.rich.startswith("<table>")


def test_the_controls_change_the_table():
    import ipywidgets

    made = show.memory_plan("SmolLM2-135M", processes=1)
    box = made.widget()
    page = next(child for child in box.children if isinstance(child, ipywidgets.HTML))
    controls = {child.description: child for child in box.children if child is not page}
    assert page.value == made.rich
    controls["ids a row"].value, controls["GPUs"].value = 2048, 8
    assert page.value == show.memory_plan("SmolLM2-135M", length=2048, processes=8).rich != made.rich
