"""GRPO (group relative policy optimisation): several replies to each prompt, rewarded by the judge.

A reply is pushed by its advantage, (reward - mean of its group) / (deviation of its group + 1e-4).
The training itself is TRL's GRPOTrainer, built in lesson 08. What is here: prompts, rewards, and
which prompts can teach anything.
"""

import random

from kit import chat, dpo, preflight, sft, tasks
from kit.engine import generation
from kit.errors import DataError, SettingsError


def load_prompts(params, tokenizer, split="train"):
    """Return (rows, prompts): the chat rows of the task, and {prompt: messages, right: text}."""
    rows, _ = sft.load_chats(params, tokenizer, split)
    return rows, [{"prompt": turns[:-1], "right": turns[-1]["content"]}
                  for turns in (row["messages"] for row in rows)]


def mixture(prompts, task, count, rare_share=0.0, seed=0):
    """Return `count` prompts in random order; the rare kinds share `rare_share` of them equally.

    The kind of a prompt is `task.kind` of its right reply, and all kinds but the most frequent one
    are rare. A share of 0 leaves the kinds as they are. A prompt comes again after all of its kind.
    """
    draw, kinds = random.Random(seed), {}
    for p in draw.sample(prompts, len(prompts)):
        kinds.setdefault(rare_share and task.kind and task.kind(p["right"]), []).append(p)
    common, *rare = sorted(kinds.values(), key=len, reverse=True)
    each = round(count * rare_share / len(rare)) if rare else 0
    sizes = [count - each * len(rare), *[each] * len(rare)]
    mixed = [group[i % len(group)] for group, n in zip([common, *rare], sizes) for i in range(n)]
    return draw.sample(mixed, count)


def judged(texts, right, task, judge=None):
    """Return one boolean per reply: whether the task's judge, or another, accepts it."""
    question = tasks.Question([], right, "", {})
    return [tasks.accepts(task, text, question, judge) for text in texts]


def teachable(prompts, counts, k):
    """Return the prompts with a spread: of `k` replies at least one is right and one is wrong.

    counts: right replies of each prompt. Raises DataError where no group has a spread, because the
    advantages of equal rewards are zero.
    """
    spread = [prompt for prompt, n in zip(prompts, counts, strict=True) if 0 < n < k]
    if not spread:
        raise DataError(f"expected a prompt with 1 to {k - 1} of {k} replies right, got none of "
                        f"{len(prompts)}; equal rewards teach nothing, so take other prompts")
    return spread


def choose(params, run, model, tokenizer, prompts, task):
    """Return the prompts of all steps in order, mixed by kind.

    With `params.candidates`, so many prompts are answered first, and only those that can teach are
    taken. The numbers of right replies stay in the run's report.json, and a resume reads them.
    """
    k, (groups, rest) = params.num_generations, divmod(params.batch_size, params.num_generations)
    if rest:
        raise SettingsError(f"expected a multiple of num_generations={k}, got {k * groups + rest}; "
                            "change one of the two", field="batch_size")
    if params.candidates:
        prompts = mixture(prompts, task, params.candidates, params.rare_share, params.seed)
        if "right_of_group" not in run.report:
            samples = dpo.sample(model, tokenizer, prompts, k, temperature=params.temperature,
                                 max_new_tokens=task.max_new_tokens)
            run.add(right_of_group=[sum(judged(texts, prompt["right"], task))
                                    for texts, prompt in zip(samples, prompts, strict=True)])
        prompts = teachable(prompts, run.report["right_of_group"], k)
    return mixture(prompts, task, params.steps * groups, params.rare_share, params.seed)


def dataset(tokenizer, prompts):
    """Return the dataset of a PromptTrainer: ids in which typed control tokens are text."""
    encoded = chat.encode_chats(tokenizer, [p["prompt"] for p in prompts], reply_next=True)
    columns = {"prompt": [e.input_ids for e in encoded], "right": [p["right"] for p in prompts]}
    return sft.dataset(columns, f"grpo {columns}")


def rewards(task, tokenizer, judges=()):
    """Return a reward function of TRL for each judge: 1.0 where it accepts a reply, else 0.0.

    judges: functions of (reply, right); default: `judge` and `prefers` of the task.
    """
    def reward(judge):
        def function(completion_ids, right, **columns):
            texts = [chat.decode_reply(tokenizer, ids) for ids in completion_ids]
            return [float(judged([text], r, task, judge)[0]) for text, r in zip(texts, right)]

        function.__name__ = judge.__name__
        return function

    return [reward(judge) for judge in judges or filter(None, (task.judge, task.prefers))]


def collate(rows):
    """Return the rows of a batch, and the ids of their prompts, which the run hashes and counts."""
    import torch

    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(r["prompt"]) for r in rows], True, -1)
    return {"rows": rows, "input_ids": ids, "labels": ids, "attention_mask": ids >= 0}


def checks(trainer, tokenizer):
    """Return the Checks of prompts and rewards, for the preflight table."""
    data, stop = trainer.train_dataset, chat.stop_token(tokenizer)
    right = [[*ids, stop] for ids in chat.encode_text(tokenizer, data["right"], inside=True)]
    earned = [sum(trainer.reward_funcs[0](completion_ids=ids, right=data["right"]))
              for ids in (right, [[stop]] * len(right))]
    start = preflight.prompt_end(tokenizer)
    others = sum(ids[-1] != start for ids in data["prompt"])
    exact = preflight.Check("right replies get the reward, empty ones do not",
                            earned == [len(data), 0], f"{earned} of {len(data)}")
    return [preflight.none("every prompt ends where the reply begins", others, "others"), exact,
            preflight.none("one process", trainer.args.world_size - 1, "more")]


def __getattr__(name):
    """Make PromptTrainer, TRL's GRPOTrainer on ids, when it is first used: TRL loads for seconds.

    TRL 1.16 tokenises messages by `apply_chat_template`, where typed control tokens become control
    ids, and its `generate` computes every row until the longest one ends.
    """
    if name != "PromptTrainer":
        raise AttributeError(name)
    import torch
    from trl import GRPOTrainer

    class PromptTrainer(GRPOTrainer):
        own_checks = checks

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.data_collator = collate

        def _prepare_inputs(self, batch):
            return super()._prepare_inputs(batch["rows"])

        def _tokenize_prompts(self, prompts):
            return prompts, None, {}

        @torch.no_grad()
        def _generate_single_turn(self, prompt_ids, *args, **options):
            model, tokenizer = self.accelerator.unwrap_model(self.model).eval(), self._tokenizer
            replies = generation.decode(
                model, prompt_ids, stop=chat.stop_token(tokenizer), pad=tokenizer.pad_token_id,
                temperature=self.temperature, max_new_tokens=self.max_completion_length)
            model.train()
            return replies, None

    return globals().setdefault(name, PromptTrainer)
