"""GPU memory of training, computed from a model's config: a plan, a table, a widget. Lesson 10.

`at_real_size` answers "what would this lesson need with a large model?" for lessons 02 to 04.

All sizes are bytes. h hidden size, A = heads x head size, K = key-value heads x head size, f width
of the gated MLP, V vocabulary, P parameters. T is the number of ids that one process computes at
once (rows x length; a DPO pair is two rows), N the number of those in the loss.
"""

import html
from dataclasses import dataclass, replace
from typing import NamedTuple

from kit import settings, show
from kit.errors import SettingsError

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "intermediate_size")
LLAMA = {"model_type": "llama", "vocab_size": 49152, "tie_word_embeddings": True}
QWEN3 = {"model_type": "qwen3", "vocab_size": 151936, "tie_word_embeddings": True, "head_dim": 128}
SHAPES = {  # from the models' config.json
    "SmolLM2-135M": LLAMA | dict(zip(SIZES, (576, 30, 9, 3, 1536), strict=True)),
    "Qwen3-0.6B": QWEN3 | dict(zip(SIZES, (1024, 28, 16, 8, 3072), strict=True)),
    "SmolLM2-1.7B": LLAMA | dict(zip(SIZES, (2048, 24, 32, 32, 8192), strict=True)),
    "Qwen3-8B": QWEN3 | dict(zip(SIZES, (4096, 36, 32, 8, 12288), strict=True))
    | {"tie_word_embeddings": False},
}
# Bytes of a weight, a gradient, the optimizer's state, a matrix operand, the residual stream.
PRECISIONS = {"fp32": (4, 4, 8, 4, 4), "autocast": (4, 4, 8, 2, 4), "bf16": (2, 2, 4, 2, 2),
              "bf16 + fp32 master": (2, 2, 12, 2, 2)}
STAGES = {"ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp2": 3}  # of ZeRO
TILE = (4096, 32768)  # ids x vocabulary entries that TRL's head scores at once
MARGIN = 1.1  # the planner's error (benchmarks/memory_gpu.py) and gaps between the allocator's blocks
ROLE_TOKENS = 4  # new rows of the embedding table (kit.chat)
LORA_RANK = 16
TERMS = {
    "weights": "parameters, with LoRA also adapters",
    "reference": "second model of DPO",
    "gradients": "those that exist when memory peaks",
    "optimizer": "AdamW's two moments",
    "bf16 copies": "weights that autocast casts for matrix products",
    "activations": "values that the backward pass needs",
    "logits": "scores of the vocabulary, one tile at a time",
    "buffers": "temporary values, DDP's buckets, gathered weights of ZeRO-3 and FSDP2",
}
MOMENTS = {
    "loss": "the backward pass begins, no layer has gradients yet",
    "last layer": "the backward pass is in the last layer",
    "first layer": "the backward pass ends, almost all gradients exist",
    "update": "the optimizer's step, all gradients exist and no activations",
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
    tied: bool
    normed: bool  # queries and keys each go through an RMSNorm, as in Qwen3
    biases: int  # parameters of the biases of one layer

    @property
    def linear(self):
        """Weights of the matrix products of one layer: 2hA + 2hK + 3hf."""
        queries_and_keys = 2 * self.head * (self.heads + self.kv_heads)
        return self.hidden * (queries_and_keys + 3 * self.width)

    @property
    def tables(self):
        """Weights of the embedding tables: Vh when input and output share one, else 2Vh."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self):
        """P."""
        norms = 2 * self.hidden + 2 * self.head * self.normed + self.biases
        return self.layers * (self.linear + norms) + self.hidden + self.tables

    def lora(self, rank, tables):
        """Weights that LoRA trains: rank x (inputs + outputs) of each linear layer (Hu et al. 2021).

        Beside the adapters, the embedding tables (`tables`) or their rows of the role tokens train.
        """
        sizes = 7 * self.hidden + 2 * self.head * (self.heads + self.kv_heads) + 3 * self.width
        rows = self.tables if tables else ROLE_TOKENS * self.hidden
        return self.layers * rank * sizes + rows


def shape(config):
    """Return the Shape of a name in SHAPES or of a transformers config (object or dict)."""
    if isinstance(config, str):
        if config not in SHAPES:
            raise SettingsError(f"model: expected one of {', '.join(SHAPES)} or a config, got "
                                f"{config}; choose one of these")
        config = SHAPES[config]
    read = config.get if isinstance(config, dict) else lambda key: getattr(config, key, None)
    missing = [key for key in (*SIZES, "vocab_size") if not read(key) and "key_value" not in key]
    if missing or read("num_experts") or read("num_local_experts"):
        raise SettingsError("config: expected a dense decoder with a gated MLP, got "
                            f"{'no ' + missing[0] if missing else 'experts'}; take another model")
    hidden, layers, heads, kv_heads, width = (read(key) for key in SIZES)
    kv_heads, head = kv_heads or heads, read("head_dim") or hidden // heads
    biased = read("attention_bias") or read("model_type") == "qwen2"
    return Shape(hidden, layers, heads, kv_heads, width, head, read("vocab_size"),
                 bool(read("tie_word_embeddings")), read("model_type") == "qwen3",
                 head * (heads + 2 * kv_heads) if biased else 0)


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
    reference: str = "model"  # of DPO; LoRA needs none [model | precomputed]
    trained: float = 1.0  # share of the ids that is in the loss [> 0, <= 1]
    padded: bool = False  # rows of unequal length: attention reads a mask
    accumulation: int = 1  # micro batches per step [>= 1]
    strategy: str = "ddp"  # [ddp | zero1 | zero2 | zero3 | fsdp2]
    processes: int = 1  # GPUs [>= 1]

    def __post_init__(self):
        settings.check(self)

    @property
    def ids(self):
        """T."""
        return self.micro_batch_size * self.length * (2 if self.kind == "dpo" else 1)


@dataclass(frozen=True)
class Plan:
    """`moments` is {moment: {term: bytes}}; the other properties are those of the largest sum."""

    moments: dict

    @property
    def moment(self):
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))

    @property
    def terms(self):
        return self.moments[self.moment]

    @property
    def peak(self):
        return sum(self.terms.values())


def layer_activations(s, t):
    """Return the bytes that one layer keeps for the backward pass.

    T [2 (4h + rh + 4) + i c h + c (2A + 2K) + 4 heads + 4 c f], c bytes of a matrix operand, r of
    the residual stream:

    - two RMSNorms keep a float32 input, the normalised values and a scale,
    - i = 2 operands enter the products q k v and gate up; under autocast i = 5, one cast each,
    - attention keeps q, k, v, its output and the logarithm of a sum,
    - the MLP keeps gate, silu(gate), up, and what enters down.

    Korthikanti et al. 2022, eq. 1 has T h (34 + 5 heads s / h) instead: LayerNorm, a GELU of width
    4h, dropout masks, and scores of s x s. Here nothing is dropped and SDPA stores no scores.
    """
    _, _, _, c, r = PRECISIONS[t.precision]
    A, K = s.heads * s.head, s.kv_heads * s.head
    token = 2 * (4 * s.hidden + r * s.hidden * (not t.lora_rank) + 4) + 4 * s.heads
    token += (5 if t.precision == "autocast" else 2) * c * s.hidden
    token += c * (2 * A + 2 * K + 4 * s.width) + (4 + c) * (A + K) * s.normed
    if t.padded or c == 4:  # keys and values are repeated for every head
        token += 2 * c * (A - K)
    if c == 4 and A > K and not t.padded:  # float32 with grouped heads: only a kernel with scores
        token += 4 * s.heads * t.length
    return token * t.ids


def plan(config, training):
    """Return the Plan of one process; `config` is a name in SHAPES or a transformers config.

    weights w P, reference w P, gradients g P, optimizer o P, with w, g, o from PRECISIONS; with
    LoRA, g and o count trained weights only. Autocast keeps a copy in 2 bytes of each weight of a
    product. Over n processes, ZeRO-1 divides the optimizer by n, ZeRO-2 the gradients too, ZeRO-3
    and FSDP2 the weights too (Rajbhandari et al. 2020, section 5) but gather two layers and the
    tables. DDP adds buckets as large as the gradients.
    """
    s, t = shape(config), training
    weight, gradient, optimizer, c, r = PRECISIONS[t.precision]
    stage, n = STAGES[t.strategy], t.processes
    trained = s.lora(t.lora_rank, t.lora_tables) if t.lora_rank else s.parameters
    weights = weight * s.parameters + (4 * trained if t.lora_rank else 0)
    second = t.kind == "dpo" and t.reference == "model" and not t.lora_rank
    buckets = gradient * trained if n > 1 and stage == 0 else 0
    gathered = c * (2 * s.linear + s.tables) if n > 1 and stage == 3 else 0
    copies = 2 * s.linear if t.precision == "autocast" and not gathered else 0  # of one layer
    parts = n if stage > 1 else 1
    always = {"weights": weights // (n if stage == 3 else 1),
              "reference": second * weight * s.parameters // (n if stage == 3 else 1),
              "optimizer": optimizer * trained // (n if stage else 1)}
    stream, layer = r * s.hidden * t.ids, layer_activations(s, t)
    kept = s.layers * (stream if t.checkpointing else layer) + stream
    casts = 0 if t.checkpointing else s.layers * copies
    earlier = gradient * trained // parts if t.accumulation > 1 else 0  # of earlier micro batches
    table = 0 if t.lora_rank and not t.lora_tables else 4 * s.vocab * s.hidden
    ids = round(t.ids * t.trained)
    logits = (r + 4) * s.hidden * ids + c * min(ids, TILE[0]) * min(TILE[1], s.vocab)
    mlp = t.ids * (r * s.hidden + (4 if t.lora_rank and c < 4 else 2) * c * s.width)
    moments = {
        "loss": {"bf16 copies": casts, "gradients": earlier + table, "logits": logits,
                 "activations": kept + (4 + r) * s.hidden * t.ids},
        "last layer": {"bf16 copies": max(casts, copies), "gradients": earlier + table,
                       "activations": kept + layer * t.checkpointing, "buffers": mlp},
        "first layer": {"bf16 copies": copies, "gradients": gradient * trained // parts,
                        "activations": layer + stream, "buffers": mlp},
        "update": {"gradients": gradient * trained // parts},
    }
    for terms in moments.values():
        terms["buffers"] = terms.get("buffers", 0) + buckets + gathered
    return Plan({moment: {term: (always | terms).get(term, 0) for term in TERMS}
                 for moment, terms in moments.items()})


def table(plans, gpu=80):
    """Return a table of {name: Plan}: each term in GB (1e9 bytes), the peak, and the verdict.

    A plan fits when its peak and a margin of 10% are at most `gpu` GB.
    """
    if not gpu > 0:
        raise SettingsError(f"gpu: expected more than 0 GB, got {gpu}; give the size of one GPU")
    rows = []
    for name, each in plans.items():
        terms = [f"{each.terms[term] / 1e9:,.2f}" if each.terms[term] else "-" for term in TERMS]
        verdict = "fits" if each.peak * MARGIN <= gpu * 1e9 else "does not fit"
        rows.append([name, *terms, f"= {each.peak / 1e9:,.2f}", verdict, each.moment])
    cells = show.table(["GB on each GPU", *TERMS, "= peak", f"{gpu:,g} GB", "peak at"], rows)
    notes = [f"{term}: {words}." for term, words in TERMS.items()]
    notes.append("= peak: the sum at the moment that needs most, named in the last column.")
    notes += [f"{moment}: {words}." for moment, words in MOMENTS.items()]
    notes.append(f"fits: the peak and a margin of 10% are at most {gpu:,g} GB.")
    lines = "".join(f"{html.escape(note)}<br>" for note in notes)
    return show.Shown("\n".join([cells.text, "", *notes]), rich=f"{cells.rich}<p>{lines}</p>")


def at_real_size(*models, gpu=80, **changes):
    """Return a table with one row per model (all of SHAPES by default) for one way to train.

    `changes` are fields of Training: `at_real_size("Qwen3-8B", kind="dpo", lora_rank=16)`.
    """
    training = Training(**changes)
    return table({model: plan(model, training) for model in models or SHAPES}, gpu)


def ways(config, *, gpu=80, processes=8, **changes):
    """Return a table with one row per way to train: SFT, DPO and LoRA, then split over GPUs."""
    one, many = Training(**changes), Training(**changes, processes=processes)
    light = replace(one, lora_rank=LORA_RANK)
    trainings = {
        "SFT": one,
        "SFT, checkpointing": replace(one, checkpointing=True),
        f"SFT, LoRA {LORA_RANK}": light,
        "DPO": replace(one, kind="dpo"),
        "DPO, stored reference": replace(one, kind="dpo", reference="precomputed"),
        f"DPO, LoRA {LORA_RANK}": replace(light, kind="dpo"),
    }
    names = {"ddp": "DDP", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "fsdp2": "FSDP2, ZeRO-3"}
    for strategy, name in names.items() if processes > 1 else ():
        trainings[f"SFT, {name} on {processes:,}"] = replace(many, strategy=strategy)
    return table({name: plan(config, training) for name, training in trainings.items()}, gpu)


def planner(model="Qwen3-0.6B", **changes):
    """Return the table of `ways`, with controls in a live notebook.

    `changes`: gpu, processes, and the fields of Training.
    """
    values = {"micro_batch_size": 8, "length": 1024, "processes": 8, "gpu": 80} | changes
    static = ways(model, **values)

    def widget():
        import ipywidgets as widgets

        page = widgets.HTML(static.rich)
        names = widgets.Dropdown(options=list(SHAPES), description="model",
                                 value=model if isinstance(model, str) else None)
        numbers = {name: widgets.IntText(values[name], description=label) for name, label in (
            ("micro_batch_size", "rows at once"), ("length", "ids per row"),
            ("processes", "GPUs"), ("gpu", "GB per GPU"))}

        def draw(_):
            chosen = {name: control.value for name, control in numbers.items()}
            try:
                page.value = ways(names.value or model, **values | chosen).rich
            except SettingsError as error:
                page.value = html.escape(str(error))

        for control in (names, *numbers.values()):
            control.observe(draw, "value")
        return widgets.VBox([names, *numbers.values(), page])

    return show.Shown(static.text, rich=static.rich, widget=widget)
