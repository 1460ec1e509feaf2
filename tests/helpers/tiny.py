"""A model of 2 layers, a tokenizer and rows made on the spot, and a server that trains runs in processes to kill."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"

import random
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from kit import runs
from kit.engine import checkpoints, recorder
from kit.errors import exits

VOCABULARY = 200
disable_progress_bars()


@dataclass
class Params:
    run: str = "a"
    kind: str = "sft"
    learning_rate: float = 1e-2
    max_steps: int = 6
    save_steps: int = 2
    accumulation: int = 2
    dropout: float = 0.1
    lora: bool = False
    packing: bool = False
    workers: int = 0
    sampling: str = "random"
    seed: int = 3
    hidden: int = 32
    eval_steps: int = 0
    keep: str = "last"
    report_to: str = "none"
    rows: int = (
        18  # 9 batches of 2 an epoch: with accumulation 2, step 5 ends an epoch with one batch
    )


class Preferences(DPOTrainer):
    def _prepare_dataset(self, dataset, *args):
        return dataset


def tokenizer():
    words = {
        word: number
        for number, word in enumerate(["<pad>", "<end>", *map(str, range(VOCABULARY - 2))])
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")),
        eos_token="<end>",
        pad_token="<pad>",
    )


def model(dropout=0.0, hidden=32):
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=2,
            num_attention_heads=2,
            attention_dropout=dropout,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def rows(kind, count):
    draw = random.Random(0)

    def ids(low, high):
        return [draw.randrange(2, VOCABULARY) for _ in range(draw.randint(low, high))]

    if kind == "dpo":
        return Dataset.from_list(
            [
                {
                    "prompt_ids": ids(3, 6),
                    "chosen_ids": [*ids(2, 5), 1],
                    "rejected_ids": [*ids(2, 5), 1],
                }
                for _ in range(count)
            ]
        )
    both = [(ids(3, 6), [*ids(2, 5), 1]) for _ in range(count)]
    return Dataset.from_list([{"input_ids": a + b, "labels": [-100] * len(a) + b} for a, b in both])


def trainer(run, params, **extra):
    settings = dict(
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        learning_rate=params.learning_rate,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=params.accumulation,
        max_steps=params.max_steps,
        dataloader_num_workers=params.workers,
        train_sampling_strategy=params.sampling,
        lr_scheduler_type="cosine",
        max_length=32,
        **run.settings(),
        **extra,
    )
    lora = None
    if params.lora:
        from peft import LoraConfig

        lora = LoraConfig(
            r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
        )
    policy, data = model(params.dropout, params.hidden), rows(params.kind, params.rows)
    if params.kind == "dpo":
        return Preferences(
            model=policy,
            ref_model=None if lora else model(0.0, params.hidden),
            peft_config=lora,
            args=DPOConfig(disable_dropout=False, **settings),
            train_dataset=data,
            processing_class=tokenizer(),
        )
    return SFTTrainer(
        model=policy,
        args=SFTConfig(packing=params.packing, **settings),
        peft_config=lora,
        train_dataset=data,
        processing_class=tokenizer(),
    )


class At(TrainerCallback):
    """Calls `do(model)` at the begin of the step that follows `step` done ones."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.do(model)


def interrupt(step, number=signal.SIGTERM):
    # Not os.kill: two signals that reach another thread before Python handles the first are one.
    return [At(step, lambda model: signal.raise_signal(number))]


def train(name="a", *, callbacks=(), extra=None, validate=None, **fields):
    """Start and train once, as a lesson's cell does it; return the run."""
    params = Params(run=name, **fields)
    run = runs.start(params)
    built = trainer(run, params, **(extra or {}))
    for callback in callbacks:
        built.add_callback(callback)
    run.train(built, tokenizer(), validate=validate)
    return run


def away(model):
    """A stand-in for a validation loss that has its minimum inside a run: how far one weight is from a value."""
    with torch.no_grad():
        return (next(model.parameters()).float().pow(2).mean() - 4.3e-4).abs().item()


def die(fault):
    """Let this process be killed inside a save, at `point@step` (of the folder that is written or removed)."""
    point, _, step = fault.partition("@")
    owner, name, after = {
        "model": (Trainer, "save_model", True),
        "state": (Trainer, "_save_rng_state", True),
        "unsealed": (checkpoints, "seal", False),
        "sealed": (checkpoints, "seal", True),
        "discard": (checkpoints.shutil, "rmtree", False),
    }[point]
    plain = getattr(owner, name)

    def patched(*args, **options):
        at = args[0].state.global_step if owner is Trainer else checkpoints.step_of(args[0])
        if at != int(step):
            return plain(*args, **options)
        if after:
            plain(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, patched)


def code_of(function):
    """Return the exit code of a script that does this."""
    try:
        with exits():
            function()
    except SystemExit as end:
        return end.code
    return 0


@contextlib.contextmanager
def first_chats(folder, rows, steps):
    """`folder` with the first rows of the course's chats as chat.jsonl; runs of `steps` steps go there, offline."""
    with open(
        Path(__file__).parents[2] / "data_samples" / "cron" / "chat.jsonl", encoding="utf-8"
    ) as source:
        (folder / "chat.jsonl").write_text(
            "".join(itertools.islice(source, rows)), encoding="utf-8"
        )
    environment = {
        "KIT_RUNS": str(folder / "runs"),
        "HF_HUB_OFFLINE": "1",
        "KIT_MAX_STEPS": str(steps),
    }
    with mock.patch.dict(os.environ, environment):
        yield folder


def train_on(name, processes, **fields):
    """`train` by accelerate on as many CPU processes; returns the run's folder."""
    from kit import launch

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            f"--num_processes={processes}",
            f"--config_file={launch.CONFIGS}/ddp.yaml",
            "--main_process_port=0",
            __file__,
            json.dumps({"name": name, **fields}),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=os.environ | launch._environment(processes),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = runs.root() / name
    assert json.loads((folder / "run.json").read_text())["world_size"] == processes
    return folder


class Forks:
    """Runs `tiny.train` in processes forked from one that has imported everything."""

    def __init__(self):
        self.server = subprocess.Popen(
            [sys.executable, __file__, "serve"],
            stdin=subprocess.PIPE,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"},
        )

    def train(self, root, fault=None, kill_after=None, env=None, **fields):
        """(exit status, what it printed); a process killed by signal N gives -N."""
        log = Path(root).parent / "log"
        log.unlink(missing_ok=True)
        job = {
            "root": str(root),
            "log": str(log),
            "kill_after": kill_after,
            "fault": fault,
            "fields": fields,
            "env": env or {},
        }
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline()), log.read_text() if log.exists() else ""


def outcome(run):
    return run.report["weights_sha256"], (run.folder / "metrics.jsonl").read_text()


def damage(path, how):
    if how == "flipped":
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    elif how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()


def serve():
    """Read jobs from stdin, fork a process for each, answer how it ended: a kill test costs no second import."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.environ.update(job["env"], KIT_RUNS=job["root"])
            log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = 1
            try:
                recorder.WANDB_SECONDS = int(
                    os.environ.get("TINY_WANDB_SECONDS", recorder.WANDB_SECONDS)
                )
                if job["fault"]:
                    die(job["fault"])
                code = code_of(lambda: train(**job["fields"]))
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        if job["kill_after"] is not None:
            time.sleep(job["kill_after"])
            os.kill(pid, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        stop = interrupt(int(sys.argv[2])) if sys.argv[2:] and os.environ.get("RANK") == "1" else ()
        if "TINY_FAULT" in os.environ:
            die(os.environ["TINY_FAULT"])
        sys.exit(code_of(lambda: train(callbacks=stop, **json.loads(sys.argv[1]))))
