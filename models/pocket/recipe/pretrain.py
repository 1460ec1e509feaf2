"""Pretrain the small Llama on the sampled text."""

import contextlib
import copy
import json
import math
import time

import numpy as np
import torch


def make_config(toy):
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=6144,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=1 if toy else 6,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
        initializer_range=0.03,
        attn_implementation="whole_window",
    )


def batches(data, length, rows, seed):
    """Yield (rows, length) windows; an epoch reads the stream once, with a new offset and order."""
    order = torch.Generator().manual_seed(seed)
    while True:
        shift = int(torch.randint(length, (1,), generator=order))
        count = (len(data) - shift) // length
        for chunk in torch.randperm(count, generator=order).split(rows):
            if len(chunk) == rows or count < rows:
                where = (shift + chunk * length)[:, None] + torch.arange(length)
                yield data[where.to(data.device, non_blocking=True)].long()


@torch.no_grad()
def held_out_loss(net, held, length, rows, cast):
    """Return the mean nats per token over the held-out stream, whole windows only."""
    held = held[: len(held) // length * length].view(-1, length).long()
    with cast:
        return sum(
            float(net(input_ids=block, labels=block).loss) * len(block)
            for block in held.split(rows)
        ) / len(held)


def causal(module, query, key, value, mask, scaling=None, dropout=0.0, **rest):
    """Compute attention for full windows, without the dense mask that prevents the fast kernel."""
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling
    )
    return out.transpose(1, 2).contiguous(), None


def rate(step, steps, peak, warm):
    """Return the learning rate: linear warm-up, then a cosine to a hundredth of the peak."""
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (
        0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
    )


def train(args, work, seed, log):
    from transformers import AttentionInterface, AttentionMaskInterface, LlamaForCausalLM

    AttentionInterface.register("whole_window", causal)
    AttentionMaskInterface.register("whole_window", lambda *args, **named: None)
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    device = "cpu" if args.toy else "cuda"
    data, held = (
        torch.from_numpy(np.load(work / f"{n}.npy").astype(np.int32)).to(device)
        for n in ("train", "held")
    )
    rows, length = (2, 32) if args.toy else (args.rows, args.length)
    net = LlamaForCausalLM(make_config(args.toy)).to(device)
    fast = net if args.toy else torch.compile(net, dynamic=False)
    cast = torch.autocast(device, torch.bfloat16, enabled=not args.toy)
    matrices = [p for p in net.parameters() if p.ndim == 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.1},
            {"params": [p for p in net.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=args.peak,
        betas=(0.9, 0.95),
        fused=not args.toy,
    )
    bytes_a_token = json.loads((work / "held.json").read_text())["bytes"] / len(held)
    begin = time.time()
    log(
        work,
        f"{sum(p.numel() for p in net.parameters())} parameters, {len(data)} training tokens, {len(held)} held out, {bytes_a_token:.3f} bytes a token",
    )
    stream, history, best, worse = batches(data, length, rows, seed), [], math.inf, 0
    for step in range(1, args.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate(step - 1, args.steps, args.peak, 2 if args.toy else 300)
        block = next(stream)
        with cast:
            loss = fast(input_ids=block, labels=block).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % max(1, args.steps // 24) == 0 or step == args.steps:
            value = held_out_loss(net, held, length, rows, cast)
            history.append(
                {
                    "step": step,
                    "tokens": step * rows * length,
                    "epoch": round(step * rows * length / len(data), 3),
                    "train_loss": round(float(loss.detach()), 4),
                    "held_out_loss": round(value, 4),
                    "bits_per_byte": round(value / math.log(2) / bytes_a_token, 4),
                    "seconds": round(time.time() - begin, 1),
                }
            )
            log(work, json.dumps(history[-1]))
            (work / "model" / "history.json").write_text(json.dumps(history, indent=0))
            worse = 0 if value < best else worse + 1
            if value < best:
                best = value
                copy.deepcopy(net).to(torch.float16).save_pretrained(work / "model")
            if worse == 3:
                log(work, "held-out loss rose three times: stop")
                break
    log(work, f"best held-out loss {best:.4f} nats a token")
    for dtype in (
        torch.float16,
        torch.bfloat16,
    ):  # float32 activations: only the rounding of the weights differs
        rounded = copy.deepcopy(net).to(dtype).float()
        plain = [
            held_out_loss(m, held[: 200 * length], length, 16, contextlib.nullcontext())
            for m in (net, rounded)
        ]
        log(work, f"weights rounded to {dtype}: held-out loss {plain[0]:.6f} -> {plain[1]:.6f}")
