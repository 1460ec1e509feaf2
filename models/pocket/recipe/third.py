"""Train `pocket` a third time: notes about changes (changes.py), and what it already writes.

    python models/pocket/recipe/third.py notes --work W --shares 400
    python models/pocket/recipe/third.py text  --work W --blocks 4
    python models/pocket/recipe/third.py train --work W --seconds 170

The text is sample.txt and what the weights of --base write by themselves. On text, the loss is the
distance (KL divergence) to the probabilities of --base, so that its English stays as it is; on
notes, the loss is that of the next token. `text` and `train` need one CUDA GPU. `--toy` runs in
seconds on a CPU.
"""

import argparse
import json
import math
import os
import shutil
import time
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import changes
import notes
import numpy as np
import torch
from make import encode
from midtrain import load, optimizer_for
from pretrain import batches, held_out_loss, rate

SEED = 20261128
POCKET = Path(__file__).resolve().parents[1]
DOCUMENTS = 2000  # of notes in a share; one seed each
MAKERS = {
    "wide": changes.documents,
    "narrow": lambda seed: changes.documents(seed, wide=False),
    "earlier": notes.documents,
}


def share(job):
    """Return the ids of one share of notes."""
    kind, number, count = job
    texts = list(islice(MAKERS[kind](SEED + number), count))
    return encode((str(POCKET / "tokenizer.json"), texts)).astype(np.uint16)


def write_notes(args):
    """Write W/notes-KIND.npy for each kind; share 0 of a kind is held out."""
    count, context = 20 if args.toy else DOCUMENTS, get_context("fork")
    for kind in args.kinds:
        jobs, parts, begin = [(kind, n, count) for n in range(args.shares + 1)], [], time.time()
        with context.Pool(args.workers) as pool:  # leaving it ends what still runs
            for part in pool.imap(share, jobs):
                parts.append(part)
                if time.time() - begin > args.each and len(parts) > 1:
                    break
        held, *parts = parts
        np.save(args.work / f"held-{kind}.npy", held)
        save(args.work / f"notes-{kind}.npy", np.concatenate(parts))
        seconds = time.time() - begin
        print(f"{kind}: {sum(map(len, parts)):,} tokens in {seconds:.0f} s", flush=True)


def save(file, ids):
    """Write ids to a file that is whole or absent."""
    partial = file.with_name(f"partial-{file.name}")
    np.save(partial, ids)
    partial.rename(file)


@torch.no_grad()
def write_text(args):
    """Write W/text.npy: sample.txt, then what the weights write from <|endoftext|>, unfiltered."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(SEED)
    device, kind = ("cpu", torch.float32) if args.toy else ("cuda", torch.bfloat16)
    net = AutoModelForCausalLM.from_pretrained(args.base, dtype=kind).to(device).eval()
    documents = (POCKET / "recipe" / "sample.txt").read_text(encoding="utf-8").split("\n\n")
    documents = documents[: 50 if args.toy else None]
    streams, begin = [encode((str(POCKET / "tokenizer.json"), documents))], time.time()
    save(args.work / "text.npy", streams[0].astype(np.uint16))
    for _ in range(args.blocks):
        if time.time() - begin > args.seconds:
            break
        start = torch.zeros((4 if args.toy else 4096, 1), dtype=torch.long, device=device)
        ids = net.generate(
            start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            top_k=0,
            temperature=1.0,
            max_new_tokens=16 if args.toy else 255,
        )
        ids = ids[:, 1:].cpu().numpy()
        streams.append(ids[ids != net.config.pad_token_id])
        size = sum(map(len, streams))
        print(f"text: {size:,} tokens after {time.time() - begin:.0f} s", flush=True)
        save(args.work / "text.npy", np.concatenate(streams).astype(np.uint16))


def both_losses(net, teacher, block, of_notes):
    """Return the loss of a block: its first rows are notes, the others are text."""
    logits = net(input_ids=block).logits[:, :-1].float()
    loss = torch.nn.functional.cross_entropy(
        logits[:of_notes].flatten(0, 1), block[:of_notes, 1:].flatten()
    )
    with torch.no_grad():
        wanted = teacher(input_ids=block[of_notes:]).logits[:, :-1].float().log_softmax(-1)
    distance = torch.nn.functional.kl_div(
        logits[of_notes:].log_softmax(-1).flatten(0, 1),
        wanted.flatten(0, 1),
        log_target=True,
        reduction="batchmean",
    )
    part = of_notes / len(block)
    return part * loss + (1 - part) * distance


def stream(file, device):
    """Return the ids of a file on the device."""
    return torch.from_numpy(np.load(file).astype(np.int16)).to(device)


def train(args):
    """Train for at most `seconds`; the number of steps follows from the speed of 20 steps."""
    device = "cpu" if args.toy else "cuda"
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    rows, length = (4, 32) if args.toy else (64, 1024)
    net, teacher = load(args.base, args.toy), load(args.base, args.toy).requires_grad_(False)
    losses = both_losses if args.toy else torch.compile(both_losses, dynamic=False)
    cast = torch.autocast(device, torch.bfloat16, enabled=not args.toy)
    kind, of_notes = args.kinds[0], round(rows * (1 - args.text))
    notes_ids, text = (stream(args.work / f"{n}.npy", device) for n in (f"notes-{kind}", "text"))
    held = stream(args.work / f"held-{kind}.npy", device)
    held = held[: 32 * rows * length]
    streams = (
        batches(notes_ids, length, of_notes, SEED),
        batches(text, length, rows - of_notes, SEED + 1),
    )
    optimizer, steps, history, begin = optimizer_for(net, not args.toy), args.steps, [], time.time()
    warm, step = 2 if args.toy else 100, 0

    def measure(loss):
        history.append(
            {
                "step": step,
                "tokens": step * rows * length,
                "train_loss": loss,
                "held_out_notes": round(held_out_loss(net, held, length, rows, cast), 4),
                "seconds": round(time.time() - begin, 1),
            }
        )
        print(json.dumps(history[-1]), flush=True)

    measure(None)
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, args.peak, warm)
        block = torch.cat([next(s) for s in streams])
        try:
            with cast:
                loss = losses(net, teacher, block, of_notes)
        except Exception as error:
            if step:
                raise
            print(f"not compiled: {str(error)[:300]}", flush=True)
            losses = both_losses
            with cast:
                loss = losses(net, teacher, block, of_notes)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step in (10, 40) and not args.toy:  # 10: compiled; 40: the speed is known
            torch.cuda.synchronize()
            if step == 10:
                compiled = time.time()
            else:
                each = (time.time() - compiled) / 30
                left = args.seconds - 10 - (time.time() - begin)  # 10 s to measure and to save
                steps = min(steps, max(200, step + int(left / each)))
                print(f"{each:.4f} s per step, {steps} steps", flush=True)
        if step % math.ceil(steps / 4) == 0 or step == steps:
            measure(round(float(loss.detach()), 4))
    out = args.out or args.work / f"third-{kind}"
    net.to(torch.float16).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(POCKET / name, out)
    record = {
        "kind": kind,
        "peak": args.peak,
        "text": args.text,
        "steps": steps,
        "tokens_of_notes": len(notes_ids),
        "tokens_of_text": len(text),
        "history": history,
    }
    (out / "history.json").write_text(json.dumps(record, indent=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=["notes", "text", "train"])
    parser.add_argument("--work", type=Path, required=True, help="folder for tokens and weights")
    parser.add_argument("--out", type=Path, help="folder of the new weights")
    parser.add_argument("--base", type=Path, default=POCKET, help="folder of the weights before")
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=["wide"],
        choices=list(MAKERS),
        help="which notes; `train` takes the first",
    )
    parser.add_argument("--shares", type=int, default=400, help=f"shares of {DOCUMENTS} documents")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes for notes")
    parser.add_argument("--each", type=float, default=60, help="seconds for a kind of notes")
    parser.add_argument(
        "--blocks", type=int, default=4, help="blocks of text, 4,096 documents each"
    )
    parser.add_argument("--seconds", type=float, default=170, help="time for text or training")
    parser.add_argument("--steps", type=int, default=6000, help="optimizer steps at most")
    parser.add_argument("--text", type=float, default=0.2, help="share of text in each step")
    parser.add_argument("--peak", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--toy", action="store_true", help="a few seconds on a CPU")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    {"notes": write_notes, "text": write_text, "train": train}[args.stage](args)


if __name__ == "__main__":
    main()
