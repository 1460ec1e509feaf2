"""placeholder until the lesson is exported"""
from dataclasses import dataclass

from trl import GRPOConfig

from kit import grpo, sft, tasks
from kit.errors import exits
from kit.settings import Settings, from_flags


@dataclass(frozen=True)
class Params(Settings):
    start: str = "03_sft_chat"  # run to continue from, also the reference
    run: str = "08_grpo"  # name of the folder under runs/; the model's name is added
    steps: int = 24  # steps of the optimizer [>= 1]
    batch_size: int = 64  # replies per step: prompts x num_generations [>= 2]
    num_generations: int = 8  # replies to each prompt, a group [>= 2]
    temperature: float = 1.0  # of the sampling [> 0]
    learning_rate: float = 3e-5  # peak step size; decays to zero as a cosine [> 0]
    beta: float = 0.2  # strength of the pull to the reference; 0: none [>= 0]
    prefer_weight: float = 0.5  # weight of the second reward, the task's preferred form [>= 0]
    rare_share: float = 0.3  # share of the rare kinds among the prompts; 0: as in the file [0 .. 1]
    candidates: int = 0  # prompts tried first, of which only those that can teach stay [>= 0]


PARAMS = Params()


def make_trainer(params, run, model, tokenizer, prompts, judges=()):
    task = tasks.load(params.task, check=False)
    rewards = grpo.rewards(task, tokenizer, judges)
    chosen = grpo.choose(params, run, model, tokenizer, prompts, task)
    config = GRPOConfig(
        **run.settings(),
        **sft.hardware(params),
        num_train_epochs=1,
        learning_rate=params.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=params.warmup_ratio,
        num_generations=params.num_generations,
        temperature=params.temperature,
        beta=params.beta,
        reward_weights=[1.0, params.prefer_weight][: len(rewards)],
        max_completion_length=task.max_new_tokens,
        shuffle_dataset=False,
    )
    return grpo.PromptTrainer(model, rewards, config, processing_class=tokenizer,
                              train_dataset=grpo.dataset(tokenizer, chosen))


def train(params, make=make_trainer, **options):
    return sft.train(params, grpo.load_prompts, make, load_validation=sft.load_chats, **options)


if __name__ == "__main__":
    with exits():
        train(from_flags(Params))
