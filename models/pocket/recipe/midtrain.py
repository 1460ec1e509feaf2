"""Mid-train `pocket`: continue with half distilled text, half calendar notes (notes.py).

    python models/pocket/recipe/midtrain.py notes --work W --shares 320 --course 0
    python models/pocket/recipe/midtrain.py train --work W --steps 4000

After `make.py tokenizer` and `make.py train` with the same W: reads W/train.npy, W/held.npy and the
weights in W/model (or in --base), writes W/notes.npy, W/held_notes.npy and W/mid. `train` needs one
CUDA GPU. `--toy` runs in seconds on a CPU.
"""

import argparse
import json
import math
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import notes
import numpy as np
import torch
from make import SEED, encode, log
from pretrain import batches, causal, held_out_loss, rate

DOCUMENTS = 4000  # of notes in a share; one seed each


def share(job):
    """Return the ids of one share of notes."""
    path, number, count, course = job
    return encode((path, list(islice(notes.documents(SEED + number, course), count))))


def write_notes(args, work):
    """Write the notes; share 0 is held out, the others are for training."""
    path, count = work / "model" / "tokenizer.json", 20 if args.toy else DOCUMENTS
    with ProcessPoolExecutor(os.cpu_count(), get_context("fork")) as pool:
        held, *written = pool.map(
            share, [(str(path), n, count, args.course) for n in range(args.shares + 1)]
        )
    np.save(work / "held_notes.npy", held)
    np.save(work / "notes.npy", np.concatenate(written))
    log(
        work,
        f"{sum(map(len, written))} tokens of notes in {args.shares} shares, {len(held)} held out",
    )


def load(folder, toy):
    from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM

    AttentionInterface.register("whole_window", causal)
    AttentionMaskInterface.register("whole_window", lambda *args, **named: None)
    net = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="whole_window"
    )
    return net.to("cpu" if toy else "cuda")


def optimizer_for(net, fused):
    matrices = [p for p in net.parameters() if p.ndim == 2]
    vectors = [p for p in net.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=fused)


def train(args, work):
    begin, device = time.time(), "cpu" if args.toy else "cuda"
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    rows, length = (4, 32) if args.toy else (args.rows, args.length)
    net = load(args.base or work / "model", args.toy)
    fast = net if args.toy else torch.compile(net, dynamic=False)
    cast = torch.autocast(device, torch.bfloat16, enabled=not args.toy)
    text, held, fresh, held_notes = (
        torch.from_numpy(np.load(work / f"{n}.npy").astype(np.int32)).to(device)
        for n in ("train", "held", "notes", "held_notes")
    )
    of_notes = round(rows * args.notes)
    streams = (
        batches(text, length, rows - of_notes, SEED),
        batches(fresh, length, of_notes, SEED + 1),
    )
    optimizer, history = optimizer_for(net, not args.toy), []

    def measure(step, loss):
        values = [held_out_loss(net, h, length, rows, cast) for h in (held, held_notes)]
        history.append(
            {
                "step": step,
                "tokens": step * rows * length,
                "train_loss": loss,
                "held_out_text": round(values[0], 4),
                "held_out_notes": round(values[1], 4),
                "seconds": round(time.time() - begin, 1),
            }
        )
        log(work, json.dumps(history[-1]))

    measure(0, None)
    for step in range(1, args.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate(step - 1, args.steps, args.peak, 2 if args.toy else 100)
        block = torch.cat([next(s) for s in streams])
        with cast:
            loss = fast(input_ids=block, labels=block).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % math.ceil(args.steps / 9) == 0 or step == args.steps:
            measure(step, round(float(loss.detach()), 4))
    net.to(torch.float16).save_pretrained(work / "mid")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(work / "model" / name, work / "mid")
    (work / "mid" / "history.json").write_text(json.dumps(history, indent=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=["notes", "train"])
    parser.add_argument("--work", type=Path, required=True, help="folder of make.py")
    parser.add_argument(
        "--base", type=Path, help="folder of the weights to go on from, W/model without it"
    )
    parser.add_argument("--steps", type=int, default=4000, help="optimizer steps")
    parser.add_argument("--rows", type=int, default=64, help="windows a step")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a window")
    parser.add_argument("--notes", type=float, default=0.5, help="share of notes in each step")
    parser.add_argument(
        "--shares", type=int, default=320, help=f"shares of {DOCUMENTS} documents of notes to write"
    )
    parser.add_argument(
        "--course", type=float, default=0.5, help="share of notes in phrases of the training rows"
    )
    parser.add_argument("--peak", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument(
        "--toy", action="store_true", help="a few seconds on a CPU, to see that it runs"
    )
    args = parser.parse_args()
    (args.work / "mid").mkdir(parents=True, exist_ok=True)
    {"notes": write_notes, "train": train}[args.stage](args, args.work)


if __name__ == "__main__":
    main()
