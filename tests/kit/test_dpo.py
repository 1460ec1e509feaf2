"""Pairs from a model's own replies; the reference asked once, every step, or as adapters off: the same losses."""

import dataclasses
import json
import math

import pytest
import torch
from bases import PAIRS, base
from test_sft import dpo_trainer, settings
from trl import DPOConfig, SFTConfig, SFTTrainer

from kit import chat, dpo, preflight, records, scoring, sft, tasks
from kit.errors import DataError, SettingsError
from kit.settings import Settings

CRON = tasks.load("cron", check=False)
LOADING = dataclasses.make_dataclass("Loading", ["task", "pairs", "on_bad", "max_length"])(
    "cron", "", "stop", 256
)
ASKED = [{"role": "user", "content": "every day at nine"}]


def row(chosen, prompt=ASKED):
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": "?"}],
    }


def texts(pair):
    return pair["chosen"][0]["content"], pair["rejected"][0]["content"]


# Own replies


@pytest.mark.parametrize(
    ("gold", "samples", "truth", "form"),
    [
        (
            "0 9 * * *",
            ["Sure! 0 9 * * *", "0 8 * * *", "0 9 * * *", "0 7 * * *"],
            ("0 9 * * *", "0 8 * * *"),
            ("0 9 * * *", "Sure! 0 9 * * *"),
        ),
        (
            "*/15 * * * *",
            ["0,15,30,45 * * * *", "0 * * * *"],
            ("*/15 * * * *", "0 * * * *"),
            ("*/15 * * * *", "0,15,30,45 * * * *"),
        ),
        ("0 9 * * *", ["0 9 * * *", "Sure! 0 9 * * *"], None, ("0 9 * * *", "Sure! 0 9 * * *")),
        ("0 9 * * *", ["0 9 * * *"], None, None),
        ("0 9 * * *", ["", "  "], None, None),
        (
            "At what time?",
            ["0 9 * * *", "On which day?"],
            ("On which day?", "0 9 * * *"),
            ("On which day?", "0 9 * * *"),
        ),
        (
            "That is not a schedule.",
            ["At what time?"],
            *[("That is not a schedule.", "At what time?")] * 2,
        ),
    ],
)
def test_own_pairs(gold, samples, truth, form):
    for found, expected in (
        (dpo.own([row(gold)], [samples], CRON), truth),
        (dpo.own([row(gold)], [samples], CRON, form=True), form),
    ):
        assert [texts(pair) for pair in found] == ([expected] if expected else [])
        assert all(
            pair["prompt"] == ASKED and list(pair) == ["prompt", "chosen", "rejected"]
            for pair in found
        )


def test_rows_and_samples_must_match():
    with pytest.raises(ValueError, match="zip"):
        dpo.own([row("0 9 * * *")], [], CRON)


def test_written_pairs_are_what_the_reader_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_RUNS", str(tmp_path))
    made = dpo.own([row("0 9 * * *"), row("caf\u00e9?")], [["0 8 * * *"], ["0 8 * * *"]], CRON)
    file = dpo.write(made, "04_own")
    assert file == tmp_path / "04_own" / "preferences.jsonl"
    assert list(records.read(file, "preferences")) == made and len(made) == 2
    assert [list(json.loads(line)) for line in file.read_text().splitlines()] == [
        ["prompt", "chosen", "rejected"]
    ] * 2


def test_samples_are_k_replies_a_row():
    model, tokenizer = base()
    found = dpo.sample(model, tokenizer, [PAIRS[0], PAIRS[1]], 3, seed=4, max_new_tokens=4)
    prompts = [PAIRS[0]["prompt"]] * 3 + [PAIRS[1]["prompt"]] * 3
    assert sum(found, []) == scoring.replies(
        model, tokenizer, prompts, temperature=1.0, seed=4, max_new_tokens=4
    )
    assert [len(part) for part in found] == [3, 3] and len(set(found[0])) > 1


# Loading


def test_a_prompt_is_trained_or_held_out(tmp_path):
    """All pairs of a prompt are on one side; the validation ids are prompt and chosen reply."""
    _, tokenizer = base()
    params = dataclasses.replace(LOADING, pairs=str(written(tmp_path, 60)))
    (rows, pairs), (held, encoded) = (
        dpo.load_pairs(params, tokenizer, split) for split in ("train", "validation")
    )
    sides = [{row["prompt"][-1]["content"] for row in part} for part in (rows, held)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 60
    assert (
        (len(rows), len(held))
        == (len(pairs), len(encoded))
        == (2 * len(sides[0]), 2 * len(sides[1]))
    )
    assert 0 < len(held) < 30
    for row, e in zip(held, encoded, strict=True):
        (pair,) = chat.encode_pairs(tokenizer, [row])
        assert e.input_ids == pair["prompt_ids"] + pair["chosen_ids"]
        assert [i for i in e.labels if i != chat.IGNORED] == pair["chosen_ids"]


def test_pairs_of_a_file_must_not_hold_a_test_question(tmp_path):
    _, tokenizer = base()
    question = tasks.questions(CRON)[0].messages[-1]["content"]
    file = written(tmp_path, 3, question)
    with pytest.raises(DataError, match="pairs.jsonl:7"):
        dpo.load_pairs(dataclasses.replace(LOADING, pairs=str(file)), tokenizer)
    rows, _ = dpo.load_pairs(
        dataclasses.replace(LOADING, pairs=str(file), on_bad="skip"), tokenizer
    )
    assert len(rows.rejected) == 1


def written(folder, prompts, *more):
    """A file of two pairs for each of `prompts` prompts, then one for each text of `more`."""
    texts = [f"start job {n} every day" for n in range(prompts) for _ in range(2)] + list(more)
    rows = [
        {"prompt": text, "chosen": f"{n} 9 * * *", "rejected": f"Sure! {n} 9 * * *"}
        for n, text in enumerate(texts)
    ]
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# The reference


def losses(trainer, steps=3):
    """Loss of each step of a real training."""
    trainer.train()
    found = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(found) == steps
    return found


def build(folder, kind, loss_type, tied=True, seed=0):
    """A trainer of 3 steps on 3 pairs; `kind` says where the reference's logps come from, `seed` is the reference's."""
    model, tokenizer = base(tied)
    reference = base(tied, seed=seed)[0]
    config = DPOConfig(
        **settings(
            folder,
            num_train_epochs=1,
            learning_rate=1e-2,
            logging_steps=1,
            loss_type=loss_type,
            loss_weights=[1.0] * len(loss_type),
            lr_scheduler_type="constant",
            beta=0.5,
            precompute_ref_log_probs=kind == "once",
        ),
        per_device_eval_batch_size=2,
    )
    data = sft.dpo_dataset(chat.encode_pairs(tokenizer, PAIRS * 2), 2)
    return dpo.PairTrainer(
        model, reference, config, processing_class=tokenizer, train_dataset=data
    ), tokenizer


@pytest.mark.parametrize(
    ("loss_type", "tied"),
    [
        (["sigmoid", "sft"], True),
        (["sigmoid", "sft"], False),
        (["sigmoid_norm"], True),
        (["ipo"], True),
    ],
)
def test_asked_once_or_every_step(tmp_path, loss_type, tied):
    every, _ = build(tmp_path / "every", "every", loss_type, tied)
    once, _ = build(tmp_path / "once", "once", loss_type, tied)
    assert "ref_chosen_logps" not in every.train_dataset.column_names
    assert losses(once) == pytest.approx(losses(every), abs=1e-5)


def test_the_columns_are_the_references_logps(tmp_path):
    once, tokenizer = build(tmp_path, "once", ["sigmoid"], seed=1)
    chosen, rejected = scoring.logps(base(seed=1)[0], tokenizer, list(once.train_dataset))
    assert torch.allclose(torch.tensor(once.train_dataset["ref_chosen_logps"]), chosen, atol=1e-4)
    assert torch.allclose(
        torch.tensor(once.train_dataset["ref_rejected_logps"]), rejected, atol=1e-4
    )


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({"num_train_epochs": 0.3}, 2),
        ({"num_train_epochs": 0.5}, 4),
        ({"max_steps": 1}, 2),
        ({"num_train_epochs": 2}, 6),
    ],
)
def test_only_rows_of_the_run_are_asked_about(tmp_path, given, asked):
    model, tokenizer = base()
    data = sft.dpo_dataset(chat.encode_pairs(tokenizer, PAIRS * 2), 2)
    config = DPOConfig(**{**settings(tmp_path), **given, "precompute_ref_log_probs": True})
    trainer = dpo.PairTrainer(
        model, base()[0], config, processing_class=tokenizer, train_dataset=data
    )
    known = [not math.isnan(logp) for logp in trainer.train_dataset["ref_rejected_logps"]]
    assert known == [True] * asked + [False] * (6 - asked)
    trainer.train()
    assert all(math.isfinite(log["loss"]) for log in trainer.state.log_history if "loss" in log)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_adapters_off_are_the_reference(tmp_path, tied):
    """LoRA: losses of steps with the adapters switched off for the reference equal those with the folder's model."""
    found = []
    for kind in ("off", "folder", "once"):
        torch.manual_seed(3)
        model, tokenizer = base(tied)
        adapters = sft.lora(Settings(lora_rank=4), model)
        reference = base(tied)[0] if kind == "folder" else None
        config = DPOConfig(
            **settings(
                tmp_path / kind,
                num_train_epochs=1,
                learning_rate=1e-2,
                logging_steps=1,
                beta=0.5,
                precompute_ref_log_probs=kind == "once",
            )
        )
        torch.manual_seed(5)
        trainer = dpo.PairTrainer(
            model,
            reference,
            config,
            processing_class=tokenizer,
            peft_config=adapters,
            train_dataset=sft.dpo_dataset(chat.encode_pairs(tokenizer, PAIRS * 2), 2),
        )
        found.append(losses(trainer))
    assert found[0] == pytest.approx(found[1], abs=1e-5) and found[0] == pytest.approx(
        found[2], abs=1e-5
    )
    assert abs(found[0][0] - math.log(2)) < 1e-5 and abs(found[0][2] - math.log(2)) > 1e-3


def test_preflight_sees_stored_logps_of_another_model(tmp_path):
    once, _ = build(tmp_path, "once", ["sigmoid"])
    assert preflight.reference_check(once).passed
    columns = once.train_dataset.to_dict()
    columns["ref_chosen_logps"] = [logp + 1.0 for logp in columns["ref_chosen_logps"]]
    once.train_dataset = sft.dataset(columns, "stale")
    told = preflight.reference_check(once)
    assert not told.passed and "ln 2" in told.name


# The control


def test_the_control_has_the_loss_of_the_sft_term(tmp_path):
    """SFTTrainer on chosen_only gives, batch by batch, what TRL's loss type "sft" gives on the pairs."""
    model, tokenizer = base()
    both = dpo_trainer(tmp_path / "a", model, base()[0], tokenizer, loss_type=["sft"])
    data = sft.dpo_dataset(chat.encode_pairs(tokenizer, PAIRS), 2)
    config = SFTConfig(**settings(tmp_path / "b", dataset_kwargs={"skip_prepare_dataset": True}))
    control = SFTTrainer(
        base()[0], config, train_dataset=dpo.chosen_only(data), processing_class=tokenizer
    )
    for at in (0, 1):
        batch = [data[i] for i in range(2 * at, min(2 * at + 2, len(data)))]
        chosen = [control.train_dataset[i] for i in range(2 * at, min(2 * at + 2, len(data)))]
        one = both.compute_loss(both.model, both.data_collator(batch))
        two = control.compute_loss(control.model, control.data_collator(chosen))
        assert abs(one - two) < 1e-5
        assert [row["input_ids"] for row in chosen] == [
            row["prompt_ids"] + row["chosen_ids"] for row in batch
        ]
        assert [[i for i in row["labels"] if i != -100] for row in chosen] == [
            row["chosen_ids"] for row in batch
        ]


def test_preflight_passes_the_control_and_sees_a_reply_too_many(tmp_path):
    model, tokenizer = base()
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS[:2]))
    rows = records.read(file, "preferences")
    data = dpo.chosen_only(sft.dpo_dataset(chat.encode_pairs(tokenizer, rows), 2))
    config = SFTConfig(**settings(tmp_path / "a", dataset_kwargs={"skip_prepare_dataset": True}))
    trainer = SFTTrainer(model, config, train_dataset=data, processing_class=tokenizer)
    assert all(check.passed for check in preflight.run(trainer, tokenizer, rows))
    columns = data.to_dict()
    for name in columns:
        columns[name][0] = columns[name][0] + columns[name][0][-1:]
    trainer.train_dataset = sft.dataset(columns, "one <end> more")
    with pytest.raises(SettingsError, match="preflight: "):
        preflight.run(trainer, tokenizer, rows)
