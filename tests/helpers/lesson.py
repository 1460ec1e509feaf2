"""A short lesson for tests of launching: scripts/sft_chat.py and scripts/dpo.py without preflight and scores.

python tests/helpers/lesson.py --task=FILE --kind=sft
"""

from dataclasses import dataclass

from trl import DPOConfig, SFTConfig, SFTTrainer

from kit import dpo, runs, sft, tasks
from kit.engine import patches
from kit.errors import exits
from kit.settings import Settings, from_flags


@dataclass(frozen=True)
class Params(Settings):
    run: str = "lesson"  # name of the folder under runs/, the model's name is added
    kind: str = "sft"  # which trainer [sft | dpo]
    bf16: bool = False  # compute in bfloat16, on a CPU too


def load_rows(params, tokenizer, split="train"):
    if params.kind == "sft":
        return sft.load_chats(params, tokenizer, split)
    return dpo.encode(params, tokenizer, tasks.rows(tasks.load(params.task), "pairs"))


def make_trainer(params, run, model, tokenizer, encoded):
    settings = {
        **run.settings(),
        **sft.hardware(params),
        "num_train_epochs": params.epochs,
        "learning_rate": params.learning_rate,
        "max_length": None,
    }
    if params.bf16:
        settings["bf16"] = True
    if params.kind == "dpo":
        config = DPOConfig(**settings, precompute_ref_log_probs=True, disable_dropout=False)
        data = sft.dpo_dataset(encoded, params.batch_size, params.seed)
        return dpo.PairTrainer(
            model, sft.load_start(params)[0], config, train_dataset=data, processing_class=tokenizer
        )
    config = SFTConfig(**settings, dataset_kwargs={"skip_prepare_dataset": True})
    return SFTTrainer(
        model,
        config,
        processing_class=tokenizer,
        train_dataset=sft.sft_dataset(encoded, params.batch_size, params.seed),
        peft_config=sft.lora(params, model) if params.lora_rank else None,
    )


def train(params):
    """Do what sft.train does, without preflight, validation and scores."""
    sft.hardware(params)
    patches.score_trained_ids_only()  # for all processes alike: it changes the last bit
    model, tokenizer = sft.load_start(params)
    rows, encoded = load_rows(params, tokenizer)
    run = runs.start(params, data=[rows], base=runs.start_from(params))
    trainer = make_trainer(params, run, model, tokenizer, encoded)
    trainer.rows_per_step = params.batch_size
    run.train(trainer, tokenizer)
    return run


if __name__ == "__main__":
    with exits():
        PARAMS = from_flags(Params)
        run = train(PARAMS)  # kit.launch reads the report of `run`
