"""Sample from a Llama teacher: each row of the batch always writes a document of its own.

A row that ends its document takes the next prompt at once, so no step is spent on padding. One step
is one CUDA graph; nothing is read back until a block of steps is over. Prompts are fed token by
token through the same step, which costs a few per cent and needs no second code path.
"""

from functools import partial

import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU check of the recipe runs without it
    triton = None

if triton:

    @triton.jit
    def _attend(
        q,
        k,
        v,
        pos,
        out,
        scale,
        LENGTH: tl.constexpr,
        HEADS: tl.constexpr,
        GROUP: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        """Attend GROUP queries to the keys 0..pos of one row and key head (64 numbers per head)."""
        row, head = tl.program_id(0), tl.program_id(1)
        base = (row * HEADS + head).to(tl.int64)
        g, d, t = tl.arange(0, 16), tl.arange(0, 64), tl.arange(0, BLOCK)
        where_q = (base * GROUP + g[:, None]) * 64 + d[None, :]
        query = tl.load(q + where_q, mask=g[:, None] < GROUP, other=0.0)
        count = tl.load(pos + row) + 1
        top = tl.full([16], -1e30, tl.float32)
        total = tl.zeros([16], tl.float32)
        acc = tl.zeros([16, 64], tl.float32)
        for start in range(0, count, BLOCK):
            inside = (start + t) < count
            where_kv = (base * LENGTH + start + t[:, None]) * 64 + d[None, :]
            key = tl.load(k + where_kv, mask=inside[:, None], other=0.0)
            value = tl.load(v + where_kv, mask=inside[:, None], other=0.0)
            score = tl.where(inside[None, :], tl.dot(query, tl.trans(key)) * scale, -1e30)
            new_top = tl.maximum(top, tl.max(score, 1))
            weight = tl.exp(score - new_top[:, None])
            shrink = tl.exp(top - new_top)
            total = total * shrink + tl.sum(weight, 1)
            acc = acc * shrink[:, None] + tl.dot(weight.to(value.dtype), value)
            top = new_top
        tl.store(
            out + where_q, (acc / total[:, None]).to(out.dtype.element_ty), mask=g[:, None] < GROUP
        )


def attend(q, k, v, pos):
    """Attend; q (batch, kv heads, group, 64), k, v (batch, kv heads, length, 64), pos (batch,)."""
    if q.is_cuda:
        q = q.contiguous()
        out = torch.empty_like(q)
        _attend[(q.shape[0], q.shape[1])](
            q, k, v, pos, out, 64**-0.5, k.shape[2], q.shape[1], q.shape[2], 64
        )
        return out
    seen = torch.arange(k.shape[2], device=q.device)[None] <= pos[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])


def rotate(x, cos, sin):
    """Rotate by position; x (batch, heads, 64), cos and sin (batch, 1, 64)."""
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


def before(x, norm, w_qkv, cos, sin, eps, heads, kv_heads):
    """Return queries, keys and values of one new token per row."""
    qkv = F.linear(F.rms_norm(x, x.shape[-1:], norm, eps), w_qkv).view(len(x), -1, 64)
    q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
    return rotate(q, cos, sin), rotate(k, cos, sin), v


def after(x, a, w_out, norm, w_gate_up, w_down, eps):
    """Apply output projection and gated MLP, each with its residual."""
    x = x + F.linear(a, w_out)
    gate, up = F.linear(F.rms_norm(x, x.shape[-1:], norm, eps), w_gate_up).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, w_down)


def pick(logits, noise, temperature, min_p):
    """Draw one token per row among those of at least `min_p` times the best probability."""
    scores = logits.float() / temperature[:, None]
    scores = scores - scores.amax(-1, keepdim=True)
    return torch.where(scores < min_p, -torch.inf, scores - noise.log()).argmax(-1)


class Teacher:
    """The fused weights of a Llama, and a key/value cache for `batch` rows of `length` tokens."""

    def __init__(self, model, batch, length, compile):
        c = model.config
        self.heads, self.kv_heads, self.eps = (
            c.num_attention_heads,
            c.num_key_value_heads,
            c.rms_norm_eps,
        )
        self.embed, self.last_norm = model.model.embed_tokens.weight, model.model.norm.weight
        self.layers = [
            (
                l.input_layernorm.weight,
                torch.cat(
                    [
                        l.self_attn.q_proj.weight,
                        l.self_attn.k_proj.weight,
                        l.self_attn.v_proj.weight,
                    ]
                ),
                l.self_attn.o_proj.weight,
                l.post_attention_layernorm.weight,
                torch.cat([l.mlp.gate_proj.weight, l.mlp.up_proj.weight]),
                l.mlp.down_proj.weight,
            )
            for l in model.model.layers
        ]
        device, dtype = self.embed.device, self.embed.dtype
        angles = torch.arange(length)[:, None] * c.rope_parameters["rope_theta"] ** -(
            torch.arange(0, 64, 2) / 64
        )
        angles = torch.cat([angles, angles], -1)[:, None].to(device)
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)
        self.cache = [
            torch.zeros(2, batch, self.kv_heads, length, 64, device=device, dtype=dtype)
            for _ in self.layers
        ]
        self.rows = torch.arange(batch, device=device)
        wrap = partial(torch.compile, dynamic=False) if compile else (lambda f: f)
        self.before, self.after, self.pick = wrap(before), wrap(after), wrap(pick)

    def logits(self, token, pos):
        """Write `token` (batch,) into the cache at `pos` (batch,) and return the next token's
        logits."""
        x, cos, sin = self.embed[token], self.cos[pos], self.sin[pos]
        for (norm, w_qkv, w_out, norm_2, w_gate_up, w_down), (keys, values) in zip(
            self.layers, self.cache
        ):
            q, k, v = self.before(x, norm, w_qkv, cos, sin, self.eps, self.heads, self.kv_heads)
            keys[self.rows, :, pos], values[self.rows, :, pos] = k, v
            a = attend(q.reshape(len(x), self.kv_heads, -1, 64), keys, values, pos)
            x = self.after(x, a.reshape(len(x), -1), w_out, norm_2, w_gate_up, w_down, self.eps)
        return F.linear(F.rms_norm(x, x.shape[-1:], self.last_norm, self.eps), self.embed)


class Sampler:
    """Samples without end over a table of prompts.

    prefix: token ids that every prompt begins with, computed once. prompts (count, width) padded
    token ids and their lengths. After `steps` steps, `said` (steps, batch) holds the sampled token
    or -1 (still reading the prompt), `ended` the number of the prompt whose document ended there or
    -1, `cut` whether it ended for want of room.
    """

    def __init__(self, teacher, prefix, prompts, lengths, stops, steps, min_p, coolest, hottest):
        device, batch = teacher.embed.device, len(teacher.rows)
        self.teacher, self.start, self.steps, self.stops = teacher, len(prefix), steps, stops
        self.prompts, self.lengths = prompts.to(device), lengths.to(device)
        self.limit = teacher.cache[0].shape[3] - 1
        for i, token in enumerate(prefix):
            teacher.logits(*(torch.full((batch,), x, device=device) for x in (token, i)))
        self.temperature = torch.linspace(coolest, hottest, batch, device=device)
        self.min_p = torch.tensor(min_p, device=device).log()
        self.noise = torch.empty(batch, len(teacher.embed), device=device)
        self.job = torch.arange(batch, device=device)
        self.next_job = torch.tensor(batch, device=device)
        self.pos = torch.full((batch,), self.start, device=device)
        self.token = self.prompts[self.job % len(self.prompts), 0]
        self.said, self.ended = (
            torch.full((steps, batch), -1, device=device, dtype=torch.int32) for _ in range(2)
        )
        self.cut = torch.zeros(steps, batch, device=device, dtype=torch.bool)
        self.at = torch.zeros(1, device=device, dtype=torch.long)
        self.graph = None

    def step(self):
        logits = self.teacher.logits(self.token, self.pos)
        drawn = self.teacher.pick(logits, self.noise.exponential_(), self.temperature, self.min_p)
        row = self.job % len(self.prompts)
        read = self.pos - self.start + 1
        reading = read < self.lengths[row]
        token = torch.where(
            reading, self.prompts[row, read.clamp(max=self.prompts.shape[1] - 1)], drawn
        )
        stop = ~reading & sum(token == s for s in self.stops).bool()
        cut = ~stop & (self.pos + 1 >= self.limit)
        end = stop | cut
        self.said.index_copy_(0, self.at, torch.where(reading | stop, -1, token).int()[None])
        self.ended.index_copy_(0, self.at, torch.where(end, row, -1).int()[None])
        self.cut.index_copy_(0, self.at, cut[None])
        self.job.copy_(torch.where(end, self.next_job + end.cumsum(0) - 1, self.job))
        self.next_job.add_(end.sum())
        self.pos.copy_(torch.where(end, self.start, self.pos + 1))
        self.token.copy_(torch.where(end, self.prompts[self.job % len(self.prompts), 0], token))
        self.at.copy_((self.at + 1) % self.steps)

    def capture(self):
        """Warm up outside the graph (compilers, cuBLAS handles), then record one step."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()
        self.at.zero_()

    def block(self):
        """Queue `steps` steps and return copies of their log (on the device, still being
        computed)."""
        for _ in range(self.steps):
            self.graph.replay() if self.graph else self.step()
        return self.said.clone(), self.ended.clone(), self.cut.clone()


@torch.no_grad()
def check(model, teacher, ids, tolerance):
    """Return the relative error of our logits of `ids` against transformers, or AssertionError."""
    batch, device = len(teacher.rows), teacher.embed.device
    expected = model(ids[None].to(device)).logits[0].float()
    ours = torch.stack(
        [
            teacher.logits(*(torch.full((batch,), x, device=device) for x in (int(t), i)))[
                -1
            ].clone()
            for i, t in enumerate(ids)
        ]
    ).float()
    error = float((ours - expected).norm() / expected.norm())
    assert error < tolerance, (
        f"decode loop and transformers differ by {error:.4f} of the logits' norm, expected under {tolerance}"
    )
    return error
