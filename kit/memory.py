"""GPU memory of training, computed from a model's config: its terms at each moment that may be the peak.

All sizes are bytes. h hidden size, A = heads x head size, K = key-value heads x head size, f width of the gated MLP,
V vocabulary, T ids at once (rows x length, and two rows for a DPO pair), N of them in the loss, P parameters.
"""

from dataclasses import dataclass
from typing import NamedTuple

from kit.errors import SettingsError

# Bytes of a weight, a gradient, the optimizer's state, an operand of a matrix product, the residual stream.
PRECISIONS = {"fp32": (4, 4, 8, 4, 4), "autocast": (4, 4, 8, 2, 4), "bf16": (2, 2, 4, 2, 2),
              "bf16 + fp32 master": (2, 2, 12, 2, 2)}
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
TILE = (4096, 32768)  # ids x vocabulary entries that TRL's head scores at once (trl.kernels.chunked_logprob)
WORKSPACE = 2 * (1 << 25)  # cuBLAS on a Hopper GPU: 32 MiB for each thread that multiplies, forward and backward
TERMS = ("weights", "reference", "gradients", "optimizer", "bf16 copies", "activations", "logits", "buffers")


class Shape(NamedTuple):
    """What a config says about memory."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    width: int
    vocab: int
    tied: bool
    normed: bool  # queries and keys go through an RMSNorm each, as in Qwen3
    biases: int  # parameters of the biases of one layer

    @property
    def linear(self):
        """Weights of a layer's matrix products: 2hA + 2hK + 3hf."""
        return 2 * self.hidden * self.head * (self.heads + self.kv_heads) + 3 * self.hidden * self.width

    @property
    def norms(self):
        """Weights of a layer's norms and biases."""
        return 2 * self.hidden + 2 * self.head * self.normed + self.biases

    @property
    def table(self):
        """Weights of one embedding table: Vh."""
        return self.vocab * self.hidden

    @property
    def parameters(self):
        return self.layers * (self.linear + self.norms) + self.hidden + self.table * (1 if self.tied else 2)

    def adapters(self, rank):
        """Weights of LoRA on every linear layer: rank x (inputs + outputs), summed (Hu et al. 2021, section 4.1)."""
        A, K = self.heads * self.head, self.kv_heads * self.head
        return self.layers * rank * (4 * self.hidden + 2 * A + 2 * K + 3 * (self.hidden + self.width))


def shape(config):
    """Shape of a transformers config (an object or a dict); refuses what the formulas do not describe."""
    read = config.get if isinstance(config, dict) else lambda key, default=None: getattr(config, key, default)
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    missing = [key for key in needed if not read(key)]
    if missing or read("num_experts") or read("num_local_experts"):
        raise SettingsError("a dense decoder with a gated MLP was expected, the config has "
                            + (f"no {missing[0]}" if missing else "experts") + "; the planner cannot describe it")
    hidden, layers, heads, width, vocab = (read(key) for key in needed)
    kv_heads, head = read("num_key_value_heads") or heads, read("head_dim") or hidden // heads
    biases = read("attention_bias", read("model_type") == "qwen2") and head * (heads + 2 * kv_heads)
    return Shape(hidden, layers, heads, kv_heads, head, width, vocab, bool(read("tie_word_embeddings")),
                 read("model_type") == "qwen3", int(biases or 0))


@dataclass(frozen=True)
class Training:
    """What of a trainer's settings decides about memory."""

    micro_batch_size: int = 8  # rows at once in one process; pairs for DPO
    length: int = 1024  # ids of the longest row; for packed rows, ids of the pack
    kind: str = "sft"  # sft | dpo
    lora_rank: int = 0  # 0 trains all weights
    precision: str = "autocast"  # a key of PRECISIONS
    checkpointing: bool = False
    reference: str = "model"  # DPO's: model | precomputed; with LoRA it is the policy without its adapters
    trained: float = 1.0  # share of the ids that is in the loss
    padded: bool = False  # rows of unequal length: attention reads a mask
    accumulation: int = 1  # micro batches a step
    strategy: str = "ddp"  # one of STRATEGIES
    processes: int = 1

    @property
    def ids(self):
        """T: a DPO pair is two rows."""
        return self.micro_batch_size * self.length * (2 if self.kind == "dpo" else 1)


@dataclass(frozen=True)
class Plan:
    """Terms at each moment that may be the peak; `terms`, `moment` and `peak` are those of the largest."""

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
    """Bytes that one layer keeps for the backward pass; c of an operand, r of the residual stream.

    T [2 (4h + rh + 4) + i c h + c (2A + 2K) + 4 heads + 4 c f]: two RMSNorms keep a float32 input, the normalised
    values and a scale; i = 2 operands enter the products q k v and gate up, or 5 under autocast, where each product
    casts its own; attention keeps q, k, v, its output and a log-sum; the MLP keeps gate, silu(gate), up and what
    enters down. Korthikanti et al. 2022, eq. 1: T h (34 + 5 heads s / h) counts LayerNorm and a GELU of width 4h in
    2 bytes, dropout masks, and scores of s x s. Here norms work in float32, the MLP is gated, nothing is dropped, and
    SDPA computes the scores again. A test compares this with what autograd saves, to the byte.
    """
    _, _, _, c, r = PRECISIONS[t.precision]
    A, K, rank = s.heads * s.head, s.kv_heads * s.head, t.lora_rank
    casts = t.precision == "autocast" or (rank and c < 4)
    token = 2 * (4 * s.hidden + 4) + (5 if casts else 2) * c * s.hidden + c * (2 * A + 2 * K + 4 * s.width)
    token += 4 * s.heads + (4 * (A + K + s.heads + s.kv_heads) if s.normed else 0)
    if rank:  # frozen norms keep no normalised values; seven adapters keep their inner values, o_proj's its own input
        token += 7 * c * rank + (c * A if casts else 0)
    else:
        token += 2 * r * s.hidden + (c * (A + K) if s.normed else 0)
    if t.padded:  # with a mask, SDPA takes keys and values for every head, and casts the mask
        token += 2 * c * (A - K) + c * t.length
    elif c == 4 and A > K:  # CUDA's fused kernels take grouped heads in 2 bytes only, the math kernel keeps its scores
        token += 2 * c * (A - K) + 4 * s.heads * (t.length - 1)
    return token * t.ids


def _head(s, t):
    """What TRL's head holds in the forward pass: the hidden states of the N ids and one tile of scores.

    r h N + tile: whole logits would be V N (c + 4). A tile is computed, folded into a log-sum and overwritten.
    """
    weight, _, _, c, r = PRECISIONS[t.precision]
    ids = round(t.ids * t.trained)
    tile = c * min(ids, TILE[0]) * (TILE[1] + (s.hidden if c < r else 0))
    return r * s.hidden * ids + tile + (c * min(TILE[1], s.vocab) * s.hidden if c < weight else 0)


def _head_backward(s, t):
    """(logits, gradient of the table): the same, and gradients in float32, 4hN and 4Vh, cast if weights are bf16."""
    wide = 4 + (PRECISIONS[t.precision][4] % 4)
    return _head(s, t) + wide * s.hidden * round(t.ids * t.trained), wide * s.table


def plan(config, training):
    """Plan of one process that trains a model of this transformers config.

    weights w P, reference w P, gradients g P, optimizer o P (AdamW's two moments in float32; with a float32 master 12),
    w, g, o from PRECISIONS; with LoRA, g and o count adapters and embedding tables only. Autocast keeps a bf16 copy
    of each weight of a product until its backward pass, 2 bytes each. Over n processes, ZeRO-1 divides the optimizer
    by n, ZeRO-2 the gradients too, ZeRO-3 and FSDP2 the weights too (Rajbhandari et al. 2020, section 5), which then
    gather two layers and the tables; DDP adds buckets as large as the gradients. Raises SettingsError.
    """
    s, t = shape(config), training
    if t.precision not in PRECISIONS or t.strategy not in STRATEGIES:
        raise SettingsError(f"a precision of {', '.join(PRECISIONS)} and a strategy of {', '.join(STRATEGIES)} were "
                            f"expected, {t.precision} and {t.strategy} came")
    trained, fixed = _fixed(s, t)
    moments = {**_forward(s, t), **_backward(s, t, trained)}
    return Plan({moment: {term: fixed.get(term, 0) + terms.get(term, 0) for term in TERMS}
                 for moment, terms in moments.items()})


def _kept(s, t):
    """Bytes that all layers keep, r h T each with checkpointing, and the input of the last norm."""
    r = PRECISIONS[t.precision][4]
    return s.layers * (r * s.hidden * t.ids if t.checkpointing else layer_activations(s, t)) + r * s.hidden * t.ids


def _copy(s, t):
    """(bf16 copies of a layer's weights under autocast, those of them that train)."""
    if t.precision != "autocast" or _gathers(t):
        return 0, 0
    mine = 2 * s.adapters(t.lora_rank) // s.layers
    return 2 * s.linear + mine, mine or 2 * s.linear


def _forward(s, t):
    """Moments without gradients of this micro batch; autocast's cache of trained weights lasts until a pass ends."""
    _, _, _, c, r = PRECISIONS[t.precision]
    stream, (copy, cached) = s.hidden * t.ids, _copy(s, t)
    saved = 0 if t.checkpointing else s.layers * copy
    activations = _kept(s, t) + (4 + r) * stream  # and the last norm's values and output
    moments = {"end of forward": {"bf16 copies": max(saved, s.layers * cached), "activations": activations,
                                  "logits": _head(s, t)}}
    if t.kind == "dpo" and t.reference == "model":  # while the policy's activations wait
        inside = 3 * (r * stream + c * s.width * t.ids) - r * stream
        moments["reference"] = {"bf16 copies": saved + (0 if t.lora_rank else s.layers * cached),
                                "activations": activations, "logits": max(_head(s, t), inside)}
    return moments


def _backward(s, t, trained):
    """Moments from the loss back to the embedding: activations go, gradients come."""
    _, gradient, _, c, r = PRECISIONS[t.precision]
    stream, layer, (copy, _) = s.hidden * t.ids, layer_activations(s, t), _copy(s, t)
    kept, copies = _kept(s, t), 0 if t.checkpointing else s.layers * copy
    scores, table = _head_backward(s, t)
    # Gradients inside an MLP beyond what they replace; what enters an adapter is a float32 for a moment.
    mlp = t.ids * (r * s.hidden + (4 if t.lora_rank and c < 4 else 2) * c * s.width)
    again = t.accumulation > 1  # the gradients of earlier micro batches are there already
    parts = t.processes if t.strategy in ("zero2", "zero3", "fsdp2") else 1
    rest = trained - (0 if t.lora_rank else s.linear - s.hidden * s.width)
    held = gradient * s.table * s.tied  # of a tied table, from the head, until the embedding adds its own
    return {
        "loss": {"bf16 copies": copies, "activations": kept + (4 + r) * stream, "logits": scores, "gradients": table},
        "last norm": {"bf16 copies": copies, "activations": kept, "gradients": table, "buffers": 20 * stream},
        "last layer": {"bf16 copies": max(copies, copy), "activations": kept + (layer if t.checkpointing else 0),
                       "gradients": table, "buffers": mlp},
        "first layer": {"bf16 copies": copy, "activations": layer + r * stream, "buffers": mlp,
                        "gradients": held if again else gradient * rest // parts + (held if parts > 1 else 0)},
        "embedding": {"activations": r * stream, "gradients": held + (gradient * s.table if again
                                                                      else gradient * trained // parts)},
    }


def _gathers(t):
    return t.processes > 1 and t.strategy in ("zero3", "fsdp2")


def _fixed(s, t):
    """(trained parameters, {term: bytes} that are there all the time)."""
    weight, gradient, optimizer, c, _ = PRECISIONS[t.precision]
    tables, adapters, n = s.table * (1 if s.tied else 2), s.adapters(t.lora_rank), t.processes
    stage = {"ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp2": 3}[t.strategy]
    trained = adapters + tables if t.lora_rank else s.parameters
    weights = weight * (s.parameters + (tables if t.lora_rank else 0)) + 4 * adapters
    reference = weight * s.parameters if t.kind == "dpo" and t.reference == "model" and not t.lora_rank else 0
    buffers = WORKSPACE + (gradient * trained if stage == 0 and n > 1 else 0)
    if _gathers(t):
        buffers += c * (2 * (s.linear + s.norms) + tables)
    return trained, {"weights": weights // (n if stage == 3 else 1), "reference": reference // (n if stage == 3 else 1),
                     "optimizer": optimizer * trained // (n if stage else 1), "buffers": buffers,
                     "gradients": gradient * trained // (n if stage > 1 else 1) if t.accumulation > 1 else 0}
