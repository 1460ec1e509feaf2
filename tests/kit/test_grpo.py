"""GRPO on a model of 2 layers: prompts, rewards, the loss by hand, an exact resume."""

import json
import os
import signal
from dataclasses import dataclass

import pytest
import torch
from bases import base
from tiny import At
from trl import GRPOConfig

from kit import chat, grpo, preflight, runs, sft, tasks
from kit.errors import DataError, SettingsError
from kit.settings import Settings

TASK = """
system, train, max_new_tokens = "Say it.", "rows.jsonl", 3

def judge(reply, right):
    return reply == right or reply.strip()[:1].lower() in list("bcdm")

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
    """Return Params of a task whose rows hold a typed control token, and of a start model."""
    monkeypatch.setenv("KIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("KIT_MAX_STEPS", raising=False)
    (tmp_path / "task.py").write_text(TASK)
    replies = ["four" if n % 5 == 0 else f"{n}" for n in range(60)]
    lines = [
        {"prompt": f"say {n} <end> now", "completion": reply} for n, reply in enumerate(replies)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model, tokenizer = base()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "start")
    return lambda **changes: Params(
        model=str(tmp_path / "start"), task=str(tmp_path / "task.py"), **changes
    )


def make(params, run, model, tokenizer, prompts):
    task = tasks.load(params.task, check=False)
    chosen = grpo.choose(params, run, model, tokenizer, prompts, task)
    config = GRPOConfig(
        **run.settings(),
        **sft.hardware(params),
        learning_rate=params.learning_rate,
        beta=params.beta,
        num_generations=params.num_generations,
        num_train_epochs=1,
        temperature=params.temperature,
        shuffle_dataset=False,
        max_completion_length=task.max_new_tokens,
    )
    return grpo.PromptTrainer(
        model,
        grpo.rewards(task, tokenizer),
        config,
        processing_class=tokenizer,
        train_dataset=grpo.dataset(tokenizer, chosen),
    )


def train(params, make=make):
    return sft.train(params, grpo.load_prompts, make, load_validation=sft.load_chats, evaluate=None)


def parts(params):
    """Return (run, model, tokenizer, prompts) before a trainer is made."""
    model, tokenizer = sft.load_start(params)
    rows, prompts = grpo.load_prompts(params, tokenizer)
    return runs.start(params, data=[rows], base=params.model), model, tokenizer, prompts


def chat_of(text, right):
    return {"prompt": [{"role": "user", "content": text}], "right": right}


# Prompts


def test_typed_control_tokens_stay_text(course):
    """TRL's own tokenisation would end the user's turn at a typed <end>."""
    run, model, tokenizer, prompts = parts(course())
    data = grpo.dataset(tokenizer, prompts[:1])
    theirs = tokenizer.apply_chat_template(prompts[0]["prompt"], add_generation_prompt=True)[
        "input_ids"
    ]
    end = tokenizer.eos_token_id
    assert "<end>" in prompts[0]["prompt"][-1]["content"] and theirs.count(end) == 1
    assert end not in data["prompt"][0] and tokenizer.decode(data["prompt"][0]) == tokenizer.decode(
        theirs
    )
    trainer = make(course(), run, model, tokenizer, prompts)
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    asked = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
    ]
    assert {tuple(ids) for ids in asked} == {
        tuple(ids) for ids in trainer.train_dataset[:4]["prompt"]
    }


def test_the_mixture_gives_the_rare_kinds_their_share(course):
    task = tasks.load(course().task, check=False)
    prompts = [chat_of(str(n), "four" if n % 5 == 0 else "1") for n in range(100)]
    for share, rare in ((0.0, 20), (0.3, 30), (1.0, 100)):
        mixed = grpo.mixture(prompts, task, 100, share)
        assert sum(prompt["right"] == "four" for prompt in mixed) == rare
    assert sorted(map(str, grpo.mixture(prompts, task, 100))) == sorted(map(str, prompts))
    assert grpo.mixture(prompts, task, 40, 0.3, seed=1) == grpo.mixture(
        prompts, task, 40, 0.3, seed=1
    )
    assert grpo.mixture(prompts, task, 40, 0.3, seed=1) != grpo.mixture(
        prompts, task, 40, 0.3, seed=2
    )


def test_only_groups_with_a_spread_teach():
    prompts = [chat_of(str(n), "1") for n in range(4)]
    assert grpo.teachable(prompts, [0, 1, 7, 8], 8) == prompts[1:3]
    with pytest.raises(
        DataError, match="expected a prompt with 1 to 7 of 8 replies right, got none of 4; .*"
    ):
        grpo.teachable(prompts, [0, 8, 8, 0], 8)


def test_candidates_are_answered_once(course, monkeypatch):
    params = course(candidates=12)
    start = parts(params)
    first = grpo.choose(params, *start, tasks.load(params.task))
    counts = start[0].report["right_of_group"]
    assert len(counts) == 12 and 0 <= min(counts) and max(counts) <= 4 and len(first) == 16
    monkeypatch.setattr("kit.dpo.sample", None)  # a resume reads the counts
    assert grpo.choose(params, *start, tasks.load(params.task)) == first


def test_a_step_holds_whole_groups(course):
    with pytest.raises(SettingsError, match="expected a multiple of num_generations=4, got 18"):
        train(course(batch_size=18))


# Rewards and loss


def test_rewards_are_the_judges(course):
    model, tokenizer = base()
    task = tasks.load(course().task)
    stop = tokenizer.eos_token_id
    ids = [
        [*row, stop] for row in chat.encode_text(tokenizer, ["17", "7", "17 <end>"], inside=True)
    ]
    (reward,) = grpo.rewards(task, tokenizer)
    assert reward.__name__ == "judge" and reward(completion_ids=ids, right=["17"] * 3) == [
        1.0,
        0.0,
        0.0,
    ]
    (hole,) = grpo.rewards(task, tokenizer, [lambda reply, right: "<end>" in reply])
    assert hole(completion_ids=ids, right=["17"] * 3) == [0.0, 0.0, 1.0]


def by_hand(model, batch, beta=0.0, reference=None):
    """Return GRPO's loss from its formula: mean over the ids of all replies (DAPO)."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    width = batch["completion_ids"].shape[1]

    def logps(model):
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]
        return torch.log_softmax(logits, -1).gather(-1, batch["completion_ids"][..., None])[..., 0]

    new, trained = logps(model), batch["completion_mask"]
    pushed = -batch["advantages"][:, None] * torch.exp(new - new.detach())
    if beta:
        gap = logps(reference).detach() - new
        pushed = pushed + beta * (torch.exp(gap) - gap - 1)
    return (pushed * trained).sum() / trained.sum()


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_the_loss_is_the_formula(course, beta):
    params = course(beta=beta)
    trainer = make(params, *parts(params))
    trainer.model.train()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    rewards = torch.tensor(list(trainer._logs["rewards"]["judge"]))
    groups = rewards.view(-1, 4)
    expected = (groups - groups.mean(1, True)) / (groups.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(torch.tensor(list(trainer._logs["advantages"])), expected.flatten())
    assert expected.any() and sorted(batch["advantages"].tolist()) == sorted(
        expected.flatten().tolist()
    )
    if beta:
        with torch.no_grad():  # the reference is the start model, not the moved policy
            for weight in trainer.model.parameters():
                weight.mul_(1.05)
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model, batch)
    gradients = torch.autograd.grad(loss, trainer.model.parameters())
    hand = by_hand(trainer.model, batch, beta, trainer.ref_model)
    torch.testing.assert_close(loss, hand, atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(hand, trainer.model.parameters()), gradients, strict=True
    ):
        assert (ours - theirs).norm() < 2e-2 * theirs.norm()  # TRL's fused head is rounded
    assert (loss.item() > 1e-3) == bool(beta)


def test_training_raises_the_reward(course):
    rewards = [
        row["reward"]
        for row in runs.metrics(train(course(steps=10, batch_size=64, temperature=0.1)))
    ]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2


# Runs


def test_a_stopped_run_goes_on_exactly(course, capsys):
    options = {"steps": 5, "candidates": 12, "beta": 0.1, "save_steps": 100}

    def make_stopped(*args):
        trainer = make(*args)
        trainer.add_callback(At(2, lambda model: os.kill(os.getpid(), signal.SIGTERM)))
        return trainer

    with pytest.raises(runs.Stopped, match="stopped after step 3 of 5"):
        train(course(run="b", **options), make_stopped)
    again, whole = train(course(run="b", **options)), train(course(**options))
    assert "resuming from checkpoint-3" in capsys.readouterr().out
    assert runs.metrics(again) == runs.metrics(whole)
    assert again.report["weights_sha256"] == whole.report["weights_sha256"]


def test_a_run_records_reward_spread_and_entropy(course):
    row = runs.metrics(train(course(steps=1, beta=0.1)))[0]
    assert {"reward", "reward_std", "frac_reward_zero_std", "entropy", "kl"} <= set(row)
    assert 0 <= row["reward"] <= 1 and row["kl"] == 0.0 and row["tokens"] > 0


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("judge", "right replies get the reward, empty ones do not, got: \\[0.0, 0.0\\] of 16"),
        ("prompt", "every prompt ends where the reply begins, got: 1 others"),
    ],
)
def test_preflight_sees_a_broken_reward_and_a_broken_prompt(course, broken, message):
    params = course()
    run, model, tokenizer, prompts = parts(params)
    trainer = make(params, run, model, tokenizer, prompts)
    assert all(check.passed for check in preflight.run(trainer, tokenizer))
    if broken == "judge":
        trainer.reward_funcs[0] = lambda completion_ids, right: [0.0] * len(right)
    else:
        ids = trainer.train_dataset["prompt"]
        columns = {"prompt": [ids[0][:-1], *ids[1:]], "right": trainer.train_dataset["right"]}
        trainer.train_dataset = sft.dataset(columns, "broken")
    with pytest.raises(SettingsError, match=message):
        preflight.run(trainer, tokenizer)
