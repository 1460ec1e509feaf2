"""A packed row is its documents, each alone: logits and gradients, in each kind of layer, and under TRL's collator."""

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from kit.engine import attention

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 96,
}
WINDOW = 4
CONFIGS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "grouped": lambda: LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **SIZES)),
    "window": lambda: MistralForCausalLM(
        MistralConfig(num_key_value_heads=2, sliding_window=WINDOW, **SIZES)
    ),
    "mixed": lambda: Qwen3ForCausalLM(
        Qwen3Config(
            num_key_value_heads=1,
            head_dim=8,
            use_sliding_window=True,
            sliding_window=WINDOW,
            max_window_layers=1,
            **SIZES,
        )
    ),
}
LENGTHS = (11, 5, 5, 9, 1)
NEAR = 1e-6


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    return CONFIGS[request.param]().train()


def documents(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 96, (length,), generator=draw).tolist() for length in LENGTHS]


def batch(padding_free=False):
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=padding_free)
    return collate([{"input_ids": ids, "labels": ids} for ids in documents()])


def learnt(model, batch):
    """Logits at real ids, and the gradients of the loss, without the ids that follow nothing."""
    model.zero_grad()
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    logits = model(**inputs, use_cache=False).logits
    labels = batch["labels"][:, 1:]
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten()).backward()
    mask = inputs.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
    return logits.detach()[mask], [p.grad.clone() for p in model.parameters()]


def separate(model):
    """The same by one document at a time, transformers' own attention."""
    model.zero_grad()
    logits = [model(torch.tensor([ids])).logits[0] for ids in documents()]
    total = sum(
        torch.nn.functional.cross_entropy(one[:-1], torch.tensor(ids[1:]), reduction="sum")
        for one, ids in zip(logits, documents(), strict=True)
        if len(ids) > 1
    )
    (total / sum(length - 1 for length in LENGTHS)).backward()
    return torch.cat(logits).detach(), [p.grad.clone() for p in model.parameters()]


def furthest(ours, theirs):
    return max(
        float((a - b).abs().max())
        for a, b in zip([ours[0], *ours[1]], [theirs[0], *theirs[1]], strict=True)
    )


@pytest.mark.parametrize("padding_free", [False, True])
def test_packed_equals_separate(model, padding_free, monkeypatch):
    calls = []
    by_document = attention._by_document
    monkeypatch.setattr(
        attention, "_by_document", lambda *given: calls.append(given[3]) or by_document(*given)
    )
    wanted = separate(copy.deepcopy(model))
    packed = attention.use(model)
    assert furthest(learnt(packed, batch(padding_free)), wanted) < NEAR
    assert [ends.tolist() for ends in calls] == [
        [0, 11, 16, 21, 30, 31]
    ] * 2  # both layers, by document


def test_ordinary_attention_leaks_between_documents(model):
    """The mutant: the packed row as plain causal text."""
    flat = torch.tensor([sum(documents(), [])])
    with torch.no_grad():
        leaked = model(
            input_ids=flat,
            position_ids=batch(True)["position_ids"],
            attention_mask=torch.ones_like(flat),
        ).logits
    assert float((leaked[0] - separate(model)[0]).abs().max()) > 1e-3


def test_documents_do_not_see_each_other(model):
    attention.use(model)
    before, changed = batch(), batch()
    changed["input_ids"][1, :5] = 7
    with torch.no_grad():
        first, second = (
            model(
                input_ids=b["input_ids"], attention_mask=b["attention_mask"], use_cache=False
            ).logits
            for b in (before, changed)
        )
    same = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    assert same == [True, False, True, True, True]


def test_each_mask_keeps_its_place(model):
    """Padding left, right or inside: real ids get what the ordinary mask gives, padding gets zeros in the backbone."""
    packed, draw = attention.use(copy.deepcopy(model)), torch.Generator().manual_seed(1)
    ids = torch.randint(1, 96, (3, 8), generator=draw)
    mask = torch.tensor(
        [[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1, 0]]
    )
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    with torch.no_grad():
        ours, theirs = packed(**inputs).logits, model(**inputs).logits
    assert float((ours - theirs)[mask.bool()].abs().max()) < NEAR
    assert not packed.model(**inputs).last_hidden_state[~mask.bool()].any()


def test_generation_keeps_its_padding_mask(model):
    packed = attention.use(copy.deepcopy(model)).eval()
    model.eval()
    rows = [ids for ids in documents() if len(ids) > 1]
    widest = max(map(len, rows))
    inputs = {
        "input_ids": torch.tensor([[0] * (widest - len(r)) + r for r in rows]),
        "attention_mask": torch.tensor([[0] * (widest - len(r)) + [1] * len(r) for r in rows]),
        "max_new_tokens": 6,
        "do_sample": False,
        "output_scores": True,
        "return_dict_in_generate": True,
    }
    ours, theirs = packed.generate(**inputs), model.generate(**inputs)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert all(torch.equal(a, b) for a, b in zip(ours.scores, theirs.scores, strict=True))
    alone = packed.generate(input_ids=torch.tensor([rows[1]]), max_new_tokens=6, do_sample=False)
    assert (
        alone[0, len(rows[1]) :].tolist()
        == ours.sequences[1, widest:][: alone.shape[1] - len(rows[1])].tolist()
    )


def test_whole_rows_and_caches_are_left_alone(model, monkeypatch):
    def never(*given):
        raise AssertionError("a batch without padding, or with a cache, was packed")

    monkeypatch.setattr(attention, "_by_document", never)
    packed, ids = attention.use(copy.deepcopy(model)), torch.tensor([[3, 4, 5]])
    for inputs in (
        {"use_cache": False, "attention_mask": torch.ones_like(ids)},
        {"use_cache": False},
        {"attention_mask": torch.tensor([[0, 1, 1]])},
    ):
        assert torch.equal(
            packed(input_ids=ids, **inputs).logits, model(input_ids=ids, **inputs).logits
        )


def test_packed_by_positions_alone_is_separate(model):
    """Without lengths, transformers' dense block mask keeps the documents apart."""
    packed, flat = attention.use(copy.deepcopy(model)), batch(True)
    with torch.no_grad():
        logits = packed(
            input_ids=flat["input_ids"], position_ids=flat["position_ids"], use_cache=False
        ).logits
    assert float((logits[0] - separate(model)[0]).abs().max()) < NEAR


def test_dropout_is_drawn(model):
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    attention.use(model)
    assert furthest(learnt(model, batch()), learnt(model, batch())) > 1e-4


def test_it_is_used_once_and_can_be_switched_off(model):
    hooks = len(attention.use(model).model._forward_pre_hooks)
    assert len(attention.use(model).model._forward_pre_hooks) == hooks == 1
    wanted, ours = separate(copy.deepcopy(model)), learnt(model, batch())
    model.set_attn_implementation("sdpa")
    assert (
        furthest(learnt(model, batch()), wanted) < NEAR
        and learnt(model, batch())[0].shape == ours[0].shape
    )
    assert len(attention.use(model).model._forward_pre_hooks) == 1
    assert furthest(learnt(model, batch()), ours) == 0
    clone = copy.deepcopy(model)
    with torch.no_grad():
        clone.model.embed_tokens.weight.add_(1.0)
    assert (
        furthest(learnt(clone, batch()), learnt(model, batch())) > 1e-3
    )  # a copy runs its own layers


@pytest.mark.parametrize(
    "change,told",
    [
        (
            {"layer_types": ["full_attention", "chunked_attention"]},
            "in every layer, got chunked_attention",
        ),
        ({"attn_logit_softcapping": 30.0}, "without a soft cap, got 30.0"),
        ({"is_causal": False}, "a causal model"),
    ],
)
def test_what_cannot_be_packed_says_so_and_works(change, told, capsys):
    torch.manual_seed(0)
    model = CONFIGS["llama"]()
    plain = learnt(model, batch())
    for key, value in change.items():
        setattr(model.config, key, value)
    attention.use(model)
    out = capsys.readouterr().out
    assert (
        out.startswith("LlamaForCausalLM keeps its own attention and its padding: ") and told in out
    )
    assert out.count("\n") == 1 and model.config._attn_implementation == "sdpa"
    if "is_causal" not in change:
        assert furthest(learnt(model, batch()), plain) == 0


class Weights(torch.nn.Linear):
    """Stands for the layers of a model: weights, and their dtype as an attribute."""

    def __init__(self, dtype):
        super().__init__(2, 2)
        self.dtype = dtype


@pytest.mark.parametrize(
    "kind,dtype,pays",
    [("cpu", torch.float32, True), ("cuda", torch.float32, False), ("cuda", torch.bfloat16, True)],
)
def test_float32_on_a_gpu_stays_padded(kind, dtype, pays):
    assert attention._pays(Weights(dtype), kind) == pays


@pytest.mark.parametrize("mixed,pays", [("bf16", True), ("no", False)])
def test_fsdp2_packs_by_the_dtype_it_gathers_in(mixed, pays, monkeypatch):
    """FSDP2 keeps float32 parts and runs without autocast; taken for float32, rows on a GPU would stay padded."""
    monkeypatch.setattr(
        "accelerate.state.AcceleratorState", lambda: SimpleNamespace(mixed_precision=mixed)
    )
    monkeypatch.setattr("accelerate.state.is_initialized", lambda: True)
    model = Weights(torch.float32)
    assert not attention._pays(model, "cuda")  # whole weights
    model.weight.to_local = lambda: None
    assert attention._pays(model, "cuda") == pays
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: True)
    assert attention._pays(model, "cuda")


class Kernel:
    """Stands for torch's kernel: notes how it is called and answers by documents."""

    def __init__(self, *known):
        import inspect

        names = ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
        kinds = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names]
        kinds += [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in ("scale", *known)]
        self.__signature__, self.told = inspect.Signature(kinds), []

    def __call__(self, *given, **named):
        self.__signature__.bind_partial(*given, **named)
        self.told.append((given[5], named))
        return given[0]


@pytest.mark.parametrize(
    "known,window,heads,told",
    [
        (("is_causal",), None, 4, {"is_causal": True}),
        (("window_size",), None, 2, {"window_size": (-1, 0)}),
        (("window_size", "enable_gqa"), None, 2, {"window_size": (-1, 0), "enable_gqa": True}),
        (("window_size", "enable_gqa"), 4, 4, {"window_size": (3, 0)}),
    ],
)
def test_the_kernel_is_called_as_each_torch_wants_it(known, window, heads, told, monkeypatch):
    import torch.nn.attention.varlen as varlen

    kernel = Kernel(*known)
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    attention._varlen.cache_clear()
    query, key = torch.zeros(6, 4, 8), torch.zeros(6, heads, 8)
    attention._varlen()(query, key, key, torch.tensor([0, 2, 6]), 4, 0.5, window)
    attention._varlen.cache_clear()
    assert kernel.told == [(4, {"scale": 0.5, **told})]
