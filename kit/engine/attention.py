"""Packed attention: a batch runs as one row of documents without padding. Derived in lesson 11.

Each document attends to itself alone. `use(model)` registers the attention with transformers and
packs padded batches before the layers, so TRL's trainers and collators stay as they are. Batches
that TRL has packed (`padding_free`, `packing`) take the same way. Generation, and every call with a
cache, keeps the ordinary padding mask.
"""

import functools
import inspect
import itertools

NAME = "kit_packed"  # transformers reads a meaning into names with flash, sdpa, flex or eager
LAYERS = {"full_attention", "sliding_attention"}
MOST_HEAD_DIM = 256  # of the CUDA kernel behind varlen_attn
# A call with one of these is not packed.
ELSE = ("past_key_values", "position_ids", "inputs_embeds", "output_hidden_states",
        "output_attentions")


def use(model):
    """Let `model` run padded batches packed; print one sentence where it cannot. Return the model.

    Only a call with `use_cache=False`, as TRL's trainers make it, is packed; outputs at padding are
    then zero. `model.set_attn_implementation("sdpa")` switches it off, a second `use` on again.
    """
    reason = _why_not(model)
    if reason:
        print(f"{type(model).__name__} keeps its own attention and its padding: {reason}")
        return model
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # of batches that are not packed
    model.set_attn_implementation(NAME)
    if _pack not in model.base_model._forward_pre_hooks.values():
        model.base_model.register_forward_pre_hook(_pack, with_kwargs=True)
        model.base_model.register_forward_hook(_unpack, with_kwargs=True)
    return model


def _why_not(model):
    """Return why the model cannot run packed, or "" if it can."""
    config = model.config.get_text_config()
    others = {*(getattr(config, "layer_types", None) or ())} - LAYERS
    softcap = getattr(config, "attn_logit_softcapping", None)
    exchanged = getattr(model, "_supports_attention_backend", False)
    if others:
        return f"expected full_attention or sliding_attention in every layer, got {min(others)}"
    if not exchanged or not getattr(config, "is_causal", True):
        return "expected a causal model whose attention transformers can exchange, got another"
    return f"expected attention without a soft cap, got {softcap}" if softcap else ""


def _pack(backbone, args, kwargs):
    """Before the layers: keep real ids only, as one row, with the start of each document.

    Positions stay those of the padded batch. An empty mask of 4 dimensions tells `attend` that the
    row is packed; transformers passes such a mask on unchanged.
    """
    import torch

    mask, ids = kwargs.get("attention_mask"), kwargs.get("input_ids")
    if backbone.config._attn_implementation != NAME:
        return None
    if mask is None and kwargs.get("cu_seq_lens_q") is not None:  # TRL has packed the batch
        return args, kwargs | {"attention_mask": _empty(kwargs["cu_seq_lens_q"])}
    special = args or kwargs.get("use_cache") is not False
    if special or any(kwargs.get(key) is not None and kwargs[key] is not False for key in ELSE):
        return None
    if mask is None or ids is None or mask.shape != ids.shape or mask.all():
        return None
    if not _pays(backbone, ids.device.type):
        return None
    real = mask.flatten().nonzero().flatten()
    ends = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0)).int()
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return args, kwargs | {
        "input_ids": ids.flatten()[real][None], "attention_mask": _empty(ids),
        "position_ids": positions.flatten()[real][None], "unpack_to": (real, ids.shape),
        "cu_seq_lens_q": ends, "cu_seq_lens_k": ends,
        "max_length_q": ids.shape[1], "max_length_k": ids.shape[1],
    }


def _empty(tensor):
    import torch

    return tensor.new_empty(1, 1, 0, 0, dtype=torch.bool)


def _pays(backbone, kind):
    """Return whether packing is faster than padding: in float32 on a GPU, it is not.

    There, torch has no kernel for rows of documents, so each document would be a call. Matrix
    products have the dtype of autocast, or of the weights that FSDP2 gathers.
    """
    import torch
    from accelerate.state import AcceleratorState, is_initialized

    if kind != "cuda":
        return True
    narrow = torch.is_autocast_enabled(kind) or backbone.dtype.itemsize == 2
    if not narrow and hasattr(next(backbone.parameters()), "to_local") and is_initialized():
        narrow = AcceleratorState().mixed_precision in ("bf16", "fp16")
    return narrow and bool(_varlen())


def _unpack(backbone, args, kwargs, output):
    """After the layers: put each state back to its place, zeros at padding."""
    if "unpack_to" in kwargs:
        real, shape = kwargs["unpack_to"]
        packed = output.last_hidden_state[0]
        padded = packed.new_zeros(shape.numel(), packed.shape[1]).index_copy(0, real, packed)
        output.last_hidden_state = padded.view(*shape, -1)
        return output


def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, *,
           cu_seq_lens_q=None, max_length_q=None, sliding_window=None, **kwargs):
    """Compute attention as transformers calls it; return (output, None).

    query, key, value: (batch, heads, time, size); output: (batch, time, heads, size). A packed row
    (empty mask) has one causal block per document. All others go through transformers' own SDPA.
    """
    if attention_mask is None or attention_mask.numel():
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout,
                                      scaling=scaling, sliding_window=sliding_window, **kwargs)
    # Under autocast, a norm after the projection leaves query and key in float32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    narrow = query.is_cuda and value.dtype.itemsize == 2 and query.shape[-1] <= MOST_HEAD_DIM
    if narrow and not dropout and _varlen():
        rows = [part[0].transpose(0, 1) for part in (query, key, value)]
        return _varlen()(*rows, cu_seq_lens_q, max_length_q, scaling, sliding_window)[None], None
    return _by_document(query, key, value, cu_seq_lens_q, dropout, scaling, sliding_window), None


@functools.cache
def _varlen():
    """Return torch's kernel for rows of documents, with one signature for all versions, or None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    names = inspect.signature(varlen_attn).parameters

    def call(query, key, value, ends, longest, scaling, window):
        left = window - 1 if window else -1
        options = {"window_size": (left, 0)} if "window_size" in names else {"is_causal": True}
        if "enable_gqa" in names and query.shape[1] != key.shape[1]:
            options["enable_gqa"] = True
        return varlen_attn(query, key, value, ends, ends, longest, longest, scale=scaling,
                           **options)

    return call


def _by_document(query, key, value, ends, dropout, scaling, window):
    """Compute one causal SDPA per document; neighbours of equal length share a call."""
    import torch

    lengths = [b - a for a, b in itertools.pairwise(ends.tolist()) if b > a]
    groups = [(length, len(list(same))) for length, same in itertools.groupby(lengths)]
    # `split` and not slices: the backward pass of a slice fills a tensor of the whole row.
    sizes, outputs = [length * count for length, count in groups], []
    parts = zip(*(part.split(sizes, dim=2) for part in (query, key, value)), groups, strict=True)
    for *three, (length, count) in parts:
        q, k, v = (x[0].unflatten(1, (count, length)).transpose(0, 1) for x in three)
        at, mask = torch.arange(length, device=q.device), None
        if window and length > window:  # an id sees itself and the `window` - 1 ids before
            distance = at[:, None] - at
            mask = (distance >= 0) & (distance < window)
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1])
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None]
