"""Packed attention: a batch runs as one row of documents without padding, each attending to itself alone.

`use(model)` registers it with transformers and packs padded batches on their way into the layers, so that TRL's
trainers and collators stay as they are; `padding_free` and `packing` batches of TRL take the same way. Generation, and
every call with a cache, keeps the ordinary padding mask. Derived in lesson 07.
"""

import functools
import inspect
import itertools

NAME = "kit_packed"  # transformers gives names with flash, sdpa, flex or eager in them a meaning of their own
LAYERS = {"full_attention", "sliding_attention"}
MOST_HEAD_DIM = 256  # of the CUDA kernel behind varlen_attn


def use(model):
    """Let `model` run padded batches packed; returns the model. Where it cannot, says so in one sentence.

    Only a call with `use_cache=False`, as TRL's trainers make it, is packed; outputs at padding are then zero.
    `model.set_attn_implementation("sdpa")` switches it off, a second call on again.
    """
    reason = _why_not(model)
    if reason:
        print(f"{type(model).__name__} keeps its own attention and its padding: {reason}")
        return model
    _register()
    model.set_attn_implementation(NAME)
    if _pack not in model.base_model._forward_pre_hooks.values():
        model.base_model.register_forward_pre_hook(_pack, with_kwargs=True)
        model.base_model.register_forward_hook(_unpack, with_kwargs=True)
    return model


def _why_not(model):
    config = model.config.get_text_config()
    layers = {*(getattr(config, "layer_types", None) or ["full_attention"])}
    if layers - LAYERS:
        return f"full_attention or sliding_attention was expected in every layer, {min(layers - LAYERS)} came"
    if not getattr(model, "_supports_attention_backend", False) or not getattr(config, "is_causal", True):
        return "a causal model whose attention transformers can exchange was expected"
    softcap = getattr(config, "attn_logit_softcapping", None)
    return f"attention without a soft cap was expected, {softcap} came" if softcap else None


@functools.cache
def _register():
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # a batch that is not packed gets the ordinary mask


def _pack(backbone, args, kwargs):
    """Before the backbone: real tokens only, as one row, with where each document starts.

    Positions stay those of the padded batch. An empty mask of 4 dimensions tells `attend` that the row is packed;
    transformers hands such a mask on as it is.
    """
    import torch

    mask, ids = kwargs.get("attention_mask"), kwargs.get("input_ids")
    if backbone.config._attn_implementation != NAME:
        return None
    if mask is None and kwargs.get("cu_seq_lens_q") is not None:  # TRL has packed it
        return args, {**kwargs, "attention_mask": _empty(kwargs["cu_seq_lens_q"].device)}
    given = [kwargs.get(key) for key in ("past_key_values", "position_ids", "inputs_embeds", "output_hidden_states",
                                         "output_attentions")]
    if kwargs.get("use_cache") is not False or args or any(value is not None and value is not False for value in given):
        return None
    if mask is None or ids is None or mask.shape != ids.shape:
        return None
    if not _pays(ids.device.type, _computes_in(backbone, ids)):
        return None
    real = mask.flatten().nonzero().flatten()
    if len(real) == mask.numel():
        return None
    ends = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0)).int()
    places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return args, {**kwargs, "input_ids": ids.flatten()[real][None], "position_ids": places.flatten()[real][None],
                  "attention_mask": _empty(ids.device), "cu_seq_lens_q": ends, "cu_seq_lens_k": ends,
                  "max_length_q": ids.shape[1], "max_length_k": ids.shape[1], "unpack_to": (real, ids.shape)}


def _pays(kind, dtype):
    """Whether packing is faster than padding: float32 documents on a GPU would be a call each."""
    return kind != "cuda" or bool(dtype.itemsize == 2 and _varlen())


def _computes_in(backbone, ids):
    """The dtype of the layers' products. FSDP2 runs without autocast: it gathers weights in accelerate's dtype."""
    import torch
    from accelerate.state import AcceleratorState, is_initialized

    if torch.is_autocast_enabled(ids.device.type):
        return torch.get_autocast_dtype(ids.device.type)
    split = hasattr(next(backbone.parameters()), "to_local") and is_initialized()
    gathered = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return gathered.get(AcceleratorState().mixed_precision, backbone.dtype) if split else backbone.dtype


def _empty(device):
    import torch

    return torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device)


def _unpack(backbone, args, kwargs, output):
    """After the backbone: each row's states back to their places, zeros at padding."""
    if "unpack_to" not in kwargs:
        return None
    real, shape = kwargs["unpack_to"]
    packed = output.last_hidden_state[0]
    padded = packed.new_zeros(shape.numel(), packed.shape[1]).index_copy(0, real, packed)
    output.last_hidden_state = padded.view(*shape, -1)
    return output


def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, *, cu_seq_lens_q=None,
           max_length_q=None, sliding_window=None, **kwargs):
    """Attention as transformers calls it: query, key, value are (batch, heads, time, size); returns (output, None).

    output: (batch, time, heads, size). A packed row (empty mask) goes through one causal block per document; anything
    else is transformers' own SDPA.
    """
    if attention_mask is None or attention_mask.numel():
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
                                      sliding_window=sliding_window, **kwargs)
    dtype = value.dtype  # under autocast a norm after the projection leaves query and key in float32
    query, key = query.to(dtype), key.to(dtype)
    if _varlen() and query.is_cuda and dtype.itemsize == 2 and not dropout and query.shape[-1] <= MOST_HEAD_DIM:
        rows = [part[0].transpose(0, 1) for part in (query, key, value)]
        out = _varlen()(*rows, cu_seq_lens_q, max_length_q, scaling, sliding_window)
        return out[None], None
    return _by_document(query, key, value, cu_seq_lens_q, dropout, scaling, sliding_window), None


@functools.cache
def _varlen():
    """torch's kernel for rows of documents, called alike in each torch that has it; None where there is none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters

    def call(query, key, value, ends, longest, scaling, window):
        left = window - 1 if window else -1
        causal = {"window_size": (left, 0)} if "window_size" in known else {"is_causal": True}
        grouped = {"enable_gqa": True} if "enable_gqa" in known and query.shape[1] != key.shape[1] else {}
        return varlen_attn(query, key, value, ends, ends, longest, longest, scale=scaling, **causal, **grouped)

    return call


def _by_document(query, key, value, ends, dropout, scaling, window):
    """One causal SDPA per document; neighbours of equal length share a call. Shapes as in `attend`, one row."""
    import torch

    lengths = [b - a for a, b in itertools.pairwise(ends.tolist()) if b > a]
    groups = [(length, len(list(same))) for length, same in itertools.groupby(lengths)]
    # `split` and not slices: the backward of a slice fills a tensor of the whole row, once a document.
    sizes, outputs = [length * count for length, count in groups], []
    parts = zip(*(part.split(sizes, dim=2) for part in (query, key, value)), groups, strict=True)
    for *three, (length, count) in parts:
        q, k, v = (x[0].unflatten(1, (count, length)).transpose(0, 1) for x in three)
        mask = _near(length, window, q.device) if window and length > window else None
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1])
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None]


def _near(length, window, device):
    """True where a query may look: itself and the `window` - 1 ids before."""
    import torch

    at = torch.arange(length, device=device)
    distance = at[:, None] - at
    return (distance >= 0) & (distance < window)
