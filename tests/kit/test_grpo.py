"""GRPO on a model of 2 layers: prompts, rewards, the loss by hand, an exact resume, and what cannot teach."""

import json
import os
import signal
from dataclasses import dataclass

import pytest
import torch
from bases import base
from trl import GRPOConfig

from kit import chat, grpo, preflight, runs, sft, tasks
from kit.engine import distributed
from kit.errors import DataError, SettingsError
from kit.settings import Settings

TASK = """
system, train, max_new_tokens = "Say it.", "rows.jsonl", 6

def judge(reply, right):
    return reply == right or "e" in reply

def kind(reply):
    return "long" if len(reply) > 3 else "short"
"""


@dataclass(frozen=True)
class Params(Settings):
    run: str = "08_grpo"
    steps: int = 4  # steps
    batch_size: int = 16  # replies per step
    save_steps: int = 2  # steps between checkpoints
    learning_rate: float = 1e-2  # peak
    num_generations: int = 4  # replies to a prompt
    temperature: float = 1.0  # of the sampling
    beta: float = 0.0  # pull to the reference
    rare_share: float = 0.0  # share of rare kinds
    candidates: int = 0  # prompts that are tried first


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A folder of runs, a task whose rows type a control token, and a start model; returns its Params."""
    monkeypatch.setenv("KIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("KIT_MAX_STEPS", raising=False)
    (tmp_path / "task.py").write_text(TASK)
    replies = ["four" if n % 5 == 0 else f"{n}" for n in range(60)]
    lines = [{"prompt": f"say {n} <end> now", "completion": reply} for n, reply in enumerate(replies)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model, tokenizer = base()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "start")
    return lambda **changes: Params(model=str(tmp_path / "start"), task=str(tmp_path / "task.py"), **changes)


def make(params, run, model, tokenizer, prompts):
    task = tasks.load(params.task, check=False)
    config = GRPOConfig(**run.settings(), **sft.hardware(params), learning_rate=params.learning_rate, beta=params.beta,
                        num_generations=params.num_generations, num_train_epochs=1, temperature=params.temperature,
                        shuffle_dataset=False, max_completion_length=task.max_new_tokens)
    chosen = grpo.choose(params, run, model, tokenizer, prompts, task)
    return grpo.PromptTrainer(model, grpo.rewards(task, tokenizer), config, processing_class=tokenizer,
                              train_dataset=grpo.dataset(tokenizer, chosen))


def train(params):
    return sft.train(params, grpo.load_prompts, make, load_validation=sft.load_chats, evaluate=None)


def parts(params):
    """Return (run, model, tokenizer, prompts) before a trainer is made."""
    model, tokenizer = sft.load_start(params)
    rows, prompts = grpo.load_prompts(params, tokenizer)
    return runs.start(params, data=[rows], base=params.model), model, tokenizer, prompts


def test_smoke(course):
    run = train(course())
    print(runs.metrics(run))
