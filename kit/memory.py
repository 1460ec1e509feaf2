"""GPU memory of training, computed from a model's config: a plan, a table, a widget. Lesson 10.

`at_real_size` answers "what would this lesson need with a large model?" for lessons 02 to 04.

All sizes are bytes. h hidden size, A = heads x head size, K = key-value heads x head size, f width
of the gated MLP, V vocabulary, P parameters. T is the number of ids that one process computes at
once (rows x length; a DPO pair is two rows).
"""

import html
import inspect
from dataclasses import dataclass, replace
from typing import NamedTuple

from kit import settings, show
from kit.errors import SettingsError

PRECISIONS = {  # bytes of a weight, a gradient, AdamW's moments, a matrix operand, the residuals
    "fp32": (4, 4, 8, 4, 4),
    "autocast": (4, 4, 8, 2, 4),
    "bf16": (2, 2, 4, 2, 2),
    "bf16 + fp32 master": (2, 2, 12, 2, 2),
}
STAGES = {"ddp": 0, "zero1": 1, "zero2": 2, "fsdp2": 3}  # of ZeRO; FSDP2 divides as ZeRO-3
TILE = (4096, 32768)  # ids x vocabulary entries that TRL's head scores at once
MARGIN = 1.1  # the planner's error (benchmarks/memory_gpu.py) and gaps between allocated blocks
ROLE_TOKENS = 4  # new rows of the embedding table (kit.chat)
TERMS = {
    "weights": "parameters, adapters of LoRA, and the second model of DPO",
    "gradients": "those that exist when memory peaks",
    "optimizer": "AdamW's two moments",
    "bf16 copies": "weights that autocast casts for matrix products",
    "activations": "values that the backward pass needs",
    "buffers": "temporary values, logits, DDP's buckets, weights that FSDP2 gathers",
}
NOTES = [f"{term}: {words}." for term, words in TERMS.items()] + [
    "peak at loss or last layer: layers have no gradients yet; at first layer or update: they have."
]
WAYS = {
    "SFT": {},
    "SFT, checkpointing": {"checkpointing": True},
    "SFT, LoRA 16": {"lora_rank": 16},
    "DPO": {"kind": "dpo"},
    "DPO, stored reference": {"kind": "dpo", "reference": "stored"},
    "DPO, LoRA 16": {"kind": "dpo", "lora_rank": 16},
}


class Shape(NamedTuple):
    """The sizes in a config that decide about memory."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    width: int
    head: int
    vocab: int
    tied: bool  # input and output share one embedding table
    normed: bool  # queries and keys each go through an RMSNorm, as in Qwen3

    @property
    def linear(self):
        """Weights of the matrix products of one layer: 2hA + 2hK + 3hf."""
        attention = 2 * self.head * (self.heads + self.kv_heads)
        return self.hidden * (attention + 3 * self.width)

    @property
    def tables(self):
        """Weights of the embedding tables: Vh or 2Vh."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self):
        """P without biases, which are less than a thousandth."""
        norms = 2 * self.hidden + 2 * self.head * self.normed
        return self.layers * (self.linear + norms) + self.hidden + self.tables

    def lora(self, rank, tables):
        """Weights that LoRA trains: rank x (inputs + outputs) of each linear layer (Hu et al.
        2021).

        Also trained are the embedding tables (`tables`), or only their rows of the role tokens.
        """
        sizes = 7 * self.hidden + 2 * self.head * (self.heads + self.kv_heads) + 3 * self.width
        rows = self.tables if tables else ROLE_TOKENS * self.hidden
        return self.layers * rank * sizes + rows


SHAPES = {  # from the models' config.json
    "SmolLM2-135M": Shape(576, 30, 9, 3, 1536, 64, 49152, True, False),
    "Qwen3-0.6B": Shape(1024, 28, 16, 8, 3072, 128, 151936, True, True),
    "SmolLM2-1.7B": Shape(2048, 24, 32, 32, 8192, 64, 49152, True, False),
    "Qwen3-8B": Shape(4096, 36, 32, 8, 12288, 128, 151936, False, True),
}


def shape(model):
    """Return the Shape of a name in SHAPES or of a transformers config."""
    if isinstance(model, Shape):
        return model
    if isinstance(model, str):
        if model not in SHAPES:
            raise SettingsError(f"model: expected one of {', '.join(SHAPES)}, got {model}")
        return SHAPES[model]
    read = model.to_dict().get
    hidden, heads, width = map(read, ("hidden_size", "num_attention_heads", "intermediate_size"))
    if not (hidden and heads and width) or read("num_experts") or read("num_local_experts"):
        kind = f"expected a dense decoder with a gated MLP, got {read('model_type')}"
        raise SettingsError(f"model: {kind}; the planner cannot describe it")
    kv_heads, head = read("num_key_value_heads") or heads, read("head_dim") or hidden // heads
    return Shape(hidden, read("num_hidden_layers"), heads, kv_heads, width, head,
                 read("vocab_size"), bool(read("tie_word_embeddings")),
                 read("model_type") == "qwen3")


@dataclass(frozen=True)
class Training:
    """The settings of a trainer that decide about memory."""

    micro_batch_size: int = 8  # rows at once in one process; pairs for DPO [>= 1]
    length: int = 1024  # ids of the longest row; for packed rows, ids of the pack [>= 1]
    kind: str = "sft"  # [sft | dpo]
    lora_rank: int = 0  # 0 trains all weights [>= 0]
    lora_tables: bool = False  # LoRA trains the embedding tables too (peft's modules_to_save)
    precision: str = "autocast"  # [fp32 | autocast | bf16 | bf16 + fp32 master]
    checkpointing: bool = False  # compute activations again in the backward pass
    reference: str = "model"  # of DPO; LoRA needs no second model [model | stored]
    padded: bool = False  # rows of unequal length: attention reads a mask
    accumulation: int = 1  # micro batches per step [>= 1]
    strategy: str = "ddp"  # [ddp | zero1 | zero2 | fsdp2]
    processes: int = 1  # GPUs [>= 1]

    def __post_init__(self):
        settings.check(self)

    @property
    def ids(self):
        """T."""
        return self.micro_batch_size * self.length * (2 if self.kind == "dpo" else 1)


Training.source = inspect.getsource(Training)  # kit.settings reads limits from the comments


class Plan(NamedTuple):
    """What one process needs when memory peaks, and at the other moments."""

    moment: str  # loss | last layer | first layer | update
    terms: dict  # {term: bytes} at that moment
    peak: int  # their sum, bytes
    moments: dict  # {moment: {term: bytes}}


def layer_activations(s, t):
    """Return the bytes that one layer keeps for the backward pass.

    T [2 (4h + rh + 4) + i c h + c (2A + 2K) + 4 heads + 4 c f], c bytes of a matrix operand, r of
    the residual stream:

    - two RMSNorms keep a float32 input, the normalised values and a scale,
    - i = 2 operands enter the products q k v and gate up; with casts i = 5, one each,
    - attention keeps q, k, v, its output and the logarithm of a sum,
    - the MLP keeps gate, silu(gate), up, and what enters down.

    Korthikanti et al. 2022, eq. 1 has T h (34 + 5 heads s / h) instead: LayerNorm, a GELU of width
    4h, dropout masks, and scores of s x s. Here nothing is dropped and SDPA stores no scores.
    """
    _, _, _, c, r = PRECISIONS[t.precision]
    A, K = s.heads * s.head, s.kv_heads * s.head
    token = 2 * (4 * s.hidden + r * s.hidden * (not t.lora_rank) + 4) + 4 * s.heads
    casts = t.precision == "autocast" or (t.lora_rank and c == 2)  # adapters are float32
    token += (5 if casts else 2) * c * s.hidden
    token += c * (2 * A + 2 * K + 4 * s.width) + (4 + c) * (A + K) * s.normed
    if t.padded or c == 4:  # keys and values are repeated for every head
        token += 2 * c * (A - K)
    if c == 4 and A > K and not t.padded:  # float32 with grouped heads: only a kernel with scores
        token += 4 * s.heads * t.length
    return token * t.ids


def plan(model, training):
    """Return the Plan of one process; `model` is a name in SHAPES or a transformers config.

    weights w P, twice for DPO with a reference model, gradients g P, optimizer o P, with w, g, o
    from PRECISIONS; with LoRA, g and o count trained weights only. Over n processes, ZeRO-1
    divides the optimizer by n, ZeRO-2 the gradients too, FSDP2 the weights too (Rajbhandari et al.
    2020, section 5) but gathers two layers and the tables. DDP adds buckets of g P.
    """
    s, t, n, stage = shape(model), training, training.processes, STAGES[training.strategy]
    weight, gradient, optimizer, c, _ = PRECISIONS[t.precision]
    trained = s.lora(t.lora_rank, t.lora_tables) if t.lora_rank else s.parameters
    models = 2 if t.kind == "dpo" and t.reference == "model" and not t.lora_rank else 1
    weights = models * weight * s.parameters + 4 * trained * bool(t.lora_rank)
    # Divided by n from this stage of ZeRO on:
    optimizer = optimizer * trained // (n if stage >= 1 else 1)
    gradients = gradient * trained // (n if stage >= 2 else 1)
    weights //= n if stage == 3 else 1
    gathered = c * (2 * s.linear + s.tables) * (stage == 3) + gradient * trained * (stage == 0)
    if stage == 3 and n > 1 and t.precision == "autocast":
        t = replace(t, precision="bf16")  # products and states have the dtype of gathered weights
    moments = {}
    for moment, (own, copies, activations, buffers) in backward(s, t, gradients).items():
        sizes = weights, own, optimizer, copies, activations, buffers + gathered * (n > 1)
        moments[moment] = dict(zip(TERMS, sizes, strict=True))
    peaks = {moment: sum(terms.values()) for moment, terms in moments.items()}
    moment = max(peaks, key=peaks.get)
    return Plan(moment, moments[moment], peaks[moment], moments)


def backward(s, t, gradients):
    """Return {moment: (gradients, bf16 copies, activations, buffers)}, from the loss to the update.

    Autocast keeps a copy in 2 bytes of each weight of a product. The loss has scores of one tile,
    and states and their gradients.
    """
    _, _, _, c, r = PRECISIONS[t.precision]
    stream, layer = r * s.hidden * t.ids, layer_activations(s, t)
    layers = s.layers * (stream if t.checkpointing else layer) + stream
    copy = 2 * s.linear * (t.precision == "autocast")
    copies = 0 if t.checkpointing else copy * s.layers
    first = gradients if t.accumulation > 1 else 0  # of earlier micro batches
    first += 0 if t.lora_rank and not t.lora_tables else 4 * s.vocab * s.hidden
    head = (r + 4) * s.hidden * t.ids + c * min(t.ids, TILE[0]) * min(TILE[1], s.vocab)
    mlp = t.ids * (r * s.hidden + (4 if t.lora_rank and c < 4 else 2) * c * s.width)
    return {
        "loss": (first, copies, layers + (4 + r) * s.hidden * t.ids, head),
        "last layer": (first, max(copies, copy), layers + layer * t.checkpointing, mlp),
        "first layer": (gradients, copy, layer + stream, mlp),
        "update": (gradients, 0, 0, 0),
    }


def table(plans, gpu=80):
    """Return a table of {name: Plan}: each term in GB (1e9 bytes), the peak, and a verdict.

    A plan fits when its peak and a margin of 10% are at most `gpu` GB.
    """
    if not gpu > 0:
        raise SettingsError(f"gpu: expected more than 0 GB, got {gpu}; give the size of one GPU")
    rows = []
    for name, each in plans.items():
        terms = [f"{size / 1e9:,.2f}" for size in each.terms.values()]
        verdict = "fits" if each.peak * MARGIN <= gpu * 1e9 else "does not fit"
        rows.append([name, *terms, f"= {each.peak / 1e9:,.2f}", verdict, each.moment])
    cells = show.table(["GB per GPU", *TERMS, "= peak", f"{gpu:,g} GB", "peak at"], rows)
    notes = [*NOTES, f"fits: the peak and a margin of 10% are at most {gpu:,g} GB."]
    rich = f"{cells.rich}<p>{'<br>'.join(map(html.escape, notes))}</p>"
    return show.Shown("\n".join([cells.text, "", *notes]), rich=rich)


def at_real_size(*models, gpu=80, **changes):
    """Return a table with one row per model (all of SHAPES by default) for one way to train.

    `changes` are fields of Training: `at_real_size("Qwen3-8B", kind="dpo", lora_rank=16)`.
    """
    return table({name: plan(name, Training(**changes)) for name in models or SHAPES}, gpu)


def planner(model="Qwen3-0.6B", *, gpu=80, processes=8, **changes):
    """Return a table with one row per way to train: SFT, DPO and LoRA, then SFT split over GPUs.

    `changes` are fields of Training. A live notebook shows controls above the table.
    """
    def ways(model, gpu, processes, **numbers):
        split = {f"SFT, {strategy} on {processes:,}": {"strategy": strategy, "processes": processes}
                 for strategy in STAGES}
        return table({name: plan(model, Training(**changes | numbers | way))
                      for name, way in (WAYS | split).items()}, gpu)

    def draw(**numbers):
        try:
            return ways(**numbers)
        except SettingsError as error:
            print(error)

    def widget():
        from ipywidgets import Dropdown, IntText, interactive

        numbers = {"micro_batch_size": 8, "length": 1024, "processes": processes, "gpu": gpu}
        boxes = {name: IntText(changes.get(name, value)) for name, value in numbers.items()}
        names = {name: name for name in SHAPES} | {getattr(model, "model_type", model): model}
        return interactive(draw, model=Dropdown(options=list(names.items()), value=model), **boxes)

    static = ways(model, gpu, processes)
    return show.Shown(static.text, rich=static.rich, widget=widget)
