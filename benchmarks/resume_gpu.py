"""What an interruption changes on this machine: the same training whole, whole again, stopped, and
killed in a save.

    python -m benchmarks.resume_gpu [--limit 60] [--out benchmarks/results/resume_gpu.jsonl]

SFT with dropout and DPO. Batches, learning rates and the state of every random generator must be
equal, and the losses within TOLERANCE; two whole runs show how much of a difference the hardware
makes by itself.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"

from benchmarks import common
from kit import runs
from kit.engine import checkpoints
from kit.errors import exits

TOLERANCE = 1e-3  # nats, of each step's loss
STEPS, SAVE, STOP = 12, 4, 6
KINDS, COLUMNS = ("sft", "dpo"), ("step", "batch_hash", "lr", "tokens")


def build(run, kind, gpu):
    """Return a trainer of the run: bf16 autocast on a GPU, two micro batches per step, uneven
    rows."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import DPOConfig, SFTConfig, SFTTrainer

    from kit import models, sft

    scale, draw = (4 if gpu else 1), random.Random(0)

    def model():
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=1024 * scale,
                hidden_size=128 * scale,
                intermediate_size=384 * scale,
                num_hidden_layers=scale,
                num_attention_heads=2 * scale,
                attention_dropout=0.1,
                pad_token_id=0,
                eos_token_id=1,
                tie_word_embeddings=True,
            )
        ).to(models.device())

    def ids(low, high):
        return [draw.randrange(2, 1024 * scale) for _ in range(draw.randint(low, high))]

    count, micro = 8 * scale * STEPS, 4 * scale
    settings = {
        **run.settings(),
        "save_steps": SAVE,
        **sft.hardware(SimpleNamespace(batch_size=2 * micro, micro_batch_size=micro)),
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "max_length": None,
    }
    if kind == "sft":
        rows = [ids(8 * scale, 32 * scale) for _ in range(count)]
        return SFTTrainer(
            model(),
            SFTConfig(**settings, dataset_kwargs={"skip_prepare_dataset": True}),
            train_dataset=sft.dataset({"input_ids": rows, "labels": rows}, "sft"),
            processing_class=common.tokenizer(),
        )
    pairs = {
        key: [ids(4 * scale, 16 * scale) for _ in range(count)]
        for key in ("prompt_ids", "chosen_ids", "rejected_ids")
    }
    return common.preferences(
        model(),
        model(),
        DPOConfig(**settings),
        train_dataset=sft.dataset(pairs, "dpo"),
        processing_class=common.tokenizer(),
    )


def child(names):
    """Train runs named kind-how; `stopped` gets SIGTERM before step STOP + 1, unless it goes on
    from a checkpoint."""
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    for name in names:
        kind, how = name.split("-")
        run = runs.start({"run": name, "seed": 0, "kind": kind})
        built = build(run, kind, torch.cuda.is_available())
        if how == "stopped" and not list(run.folder.glob("checkpoint-*")):
            built.add_callback(stop_at(STOP))
        if how == "killed" and not list(run.folder.glob("checkpoint-*")):
            die_before_sealing(2 * SAVE)
        run.train(built, common.tokenizer())


def stop_at(step):
    """Return a callback that sends this process SIGTERM at the end of a step."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                os.kill(os.getpid(), signal.SIGTERM)

    return Stop()


def die_before_sealing(step):
    """Let this process be killed when all files of a checkpoint exist, but not its manifest."""
    seal = checkpoints.seal

    def killed(folder, *args):
        if str(folder).endswith(f"-{step}"):
            os.kill(os.getpid(), signal.SIGKILL)
        return seal(folder, *args)

    checkpoints.seal = killed


CHILDREN = []


def start(*names):
    """A process that trains the runs."""
    command = [sys.executable, "-m", "benchmarks.resume_gpu", "--runs", *names]
    CHILDREN.append(
        subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    )
    return CHILDREN[-1]


def late(number, frame):
    """The limit is over: no child outlives us, and what was compared by then is kept."""
    print("the limit is over", flush=True)
    for process in CHILDREN:
        process.kill()
    signal.alarm(2)  # for children started since


def ended(process, code):
    """What a child printed; a child that ended otherwise than it should is an error."""
    text, _ = process.communicate()
    if process.returncode != code:
        raise RuntimeError(
            f"a child ended with {process.returncode}, {code} was expected:\n{text[-3000:]}"
        )
    return text


def equal(a, b):
    """Whether two states of random generators, nested in dicts and tuples, are the same."""
    import numpy
    import torch

    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(numpy.array_equal(a, b)) if isinstance(a, (numpy.ndarray, torch.Tensor)) else a == b


def compare(kind, how):
    """One line of result: the run `how` against the whole one of its kind."""
    import torch

    whole, other = (runs.Run(runs.root() / f"{kind}-{name}", {}) for name in ("whole", how))
    a, b = runs.metrics(whole), runs.metrics(other)
    state, again = (
        torch.load(run.folder / f"checkpoint-{STEPS}" / "rng_state.pth", weights_only=False)
        for run in (whole, other)
    )
    columns = {key: [row[key] for row in a] == [row[key] for row in b] for key in COLUMNS}
    apart = [abs(x["loss"] - y["loss"]) for x, y in zip(a, b, strict=True)]
    return {
        "kind": kind,
        "run": how,
        **columns,
        "random states": equal(state, again),
        "loss apart": max(apart),
        "weights": whole.report["weights_sha256"] == other.report["weights_sha256"],
        "losses": [a[0]["loss"], a[-1]["loss"]],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def measure(kind):
    """Rows of results of one kind, after all its runs are through."""
    one = start(f"{kind}-whole", f"{kind}-again")
    stopped, killed = start(f"{kind}-stopped"), start(f"{kind}-killed")
    ended(stopped, 128 + signal.SIGTERM)
    ended(killed, -signal.SIGKILL)
    text = ended(start(f"{kind}-stopped", f"{kind}-killed"), 0)
    for step in (STOP + 1, SAVE):
        if f"resuming from checkpoint-{step}\n" not in text:
            raise RuntimeError(f"a run did not resume from checkpoint-{step}:\n{text[-3000:]}")
    ended(one, 0)
    return [compare(kind, how) for how in ("again", "stopped", "killed")]


def measured(kind):
    """The same, or none and the reason: one kind that fails does not end the other."""
    try:
        return measure(kind)
    except RuntimeError as error:
        print(f"{kind} failed: {error}", flush=True)
        return []


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=float, default=60, help="seconds for all runs")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "resume_gpu.jsonl"
    )
    parser.add_argument("--runs", nargs="*", help="train these runs here")
    options = parser.parse_args()
    if options.runs:
        with exits():
            child(options.runs)
        return
    signal.signal(signal.SIGALRM, late)
    signal.alarm(int(options.limit))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KIT_RUNS"] = folder
        with ThreadPoolExecutor() as pool:
            rows = [row for results in pool.map(measured, KINDS) for row in results]
    signal.alarm(0)
    if not rows:
        sys.exit(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    holds = (*COLUMNS, "random states")
    for row in rows:
        print(
            f"{row['kind']} {row['run']:8} "
            + "  ".join(f"{key} {'same' if row[key] else 'OTHER'}" for key in holds)
            + f"  loss within {row['loss apart']:.1e}  weights {'same' if row['weights'] else 'other'}"
        )
    print(f"{rows[0]['device']}, {time.monotonic() - begun:.0f} s")
    wrong = [
        row for row in rows if not all(row[key] for key in holds) or row["loss apart"] > TOLERANCE
    ]
    sys.exit(1 if wrong or len(rows) < 3 * len(KINDS) else 0)


if __name__ == "__main__":
    main()
