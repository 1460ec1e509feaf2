"""A mutant for each line of the preflight table: good rows pass, each way to train on nonsense is stopped by name."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from bases import CHATS, PAIRS, base
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import normalizers
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from kit import chat, preflight, records, sft
from kit.errors import DataError, SettingsError

SOURCES = {
    "chat": [{"messages": row} for row in CHATS if row[-1]["content"]],
    "completion": [
        {"prompt": "every day at 17", "completion": "0 17 * * *"},
        {"prompt": "monday at noon <user>", "completion": "0 12 * * 1 <end>"},
    ],
    "text": [{"text": "every day at 17 -> 0 17 * * *"}, {"text": "hourly <end> -> 0 * * * *"}],
    "preferences": PAIRS[:2],
}


@pytest.fixture(params=[True, False], ids=["tied", "untied"], scope="module")
def pair(request):
    return base(request.param)


def made(kind, pair, folder):
    """Records of good rows and a stand-in for their trainer; `mutate` below changes its data."""
    model, tokenizer = pair
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in SOURCES[kind]))
    rows = records.read(file)
    if kind == "preferences":
        data, collate = (
            sft.dpo_dataset(chat.encode_pairs(tokenizer, rows), 2),
            DataCollatorForPreference(1),
        )
    else:
        encoded = (
            chat.encode_chats(tokenizer, [row["messages"] for row in rows])
            if kind == "chat"
            else chat.encode_completions(tokenizer, rows, " -> ")
        )
        data, collate = sft.sft_dataset(encoded, 2), DataCollatorForLanguageModeling(1)
    return rows, SimpleNamespace(model=model, train_dataset=data, data_collator=collate)


def refused(trainer, tokenizer, rows):
    with pytest.raises(SettingsError) as caught:
        preflight.run(trainer, tokenizer, rows)
    text = str(caught.value).removeprefix("preflight: expected: ")
    return text.removesuffix(
        "; train with rows, template and adapters of the kit, or correct yours"
    ).split(", got: ")


@pytest.mark.parametrize("kind", SOURCES)
def test_good_rows_pass(kind, pair, tmp_path):
    rows, trainer = made(kind, pair, tmp_path)
    found = preflight.run(trainer, pair[1], rows)
    assert [check.name for check in found if not check.passed] == [] and len(found) == 10 + (
        kind == "preferences"
    )
    told = {check.name: check.detail for check in found}
    assert (
        told["control ids = those of the template"]
        == {
            "chat": "<system> 1, <user> 3, <assistant> 3, <end> 3",
            "completion": "<end> 2",
            "text": "<end> 2",
            "preferences": "<system> 1, <user> 3, <assistant> 3, <end> 5",
        }[kind]
    )


def spans(labels):
    """(start, stop) of each run of trained labels; stop is exclusive."""
    edges = list(enumerate(itertools.pairwise([-100, *labels, -100])))
    starts = [at for at, (a, b) in edges if a == -100 != b]
    return list(zip(starts, [at for at, (a, b) in edges if a != -100 == b], strict=True))


# Ids and labels: a mutant gets (ids, labels) of each row and gives others


def all_trained(ids, labels):
    return ids, list(ids)


def one_earlier(ids, labels):
    """The id before each trained span is trained too: the role token, or the last of the prompt."""
    after = [*labels[1:], -100]
    return ids, [
        i if old == -100 != next_one else old
        for i, old, next_one in zip(ids, labels, after, strict=True)
    ]


def one_later(ids, labels):
    return ids, [
        -100 if before == -100 else label
        for before, label in zip([-100, *labels], labels, strict=False)
    ]


def joined(ids, labels):
    """One span from the first trained id to the last: the turns of the user in between are trained."""
    first = next(at for at, label in enumerate(labels) if label != -100)
    return ids, labels[:first] + ids[first:]


def only_last(ids, labels):
    *_, (start, stop) = spans(labels)
    return ids, [label if start <= at < stop else -100 for at, label in enumerate(labels)]


def stop_outside(ids, labels):
    return ids, [
        -100 if after == -100 else label
        for label, after in zip(labels, [*labels[1:], -100], strict=True)
    ]


def shifted_twice(ids, labels):
    """What a hand-written loop does that shifts labels which the loss shifts again."""
    return ids, [*labels[1:], -100]


def mask_moved(ids, labels):
    return ids, [
        -100 if after == -100 else i for i, after in zip(ids, [*labels[1:], -100], strict=True)
    ]


def cut(ids, labels):
    return ids[:-1], labels[:-1]


def pad_trained(ids, labels):
    return [*ids, 1], [*labels, 1]


def untrained(ids, labels):
    return ids, [-100] * len(ids)


REPLY, STOP = "every trained span is one reply", "every trained span ends with <end>"
PLACES, NONE = "labels are the ids of their places", "every row trains a token"
TEXT, COUNT = "every trained span is a completion", "control ids = those of the template"
BATCH, ROWS = "a batch trains what its rows train", "control rows distinct and trainable"
MUTANTS = {
    all_trained: (REPLY, REPLY, TEXT),
    one_earlier: (REPLY, REPLY, TEXT),
    one_later: (REPLY, REPLY, TEXT),
    joined: (None, REPLY, None),
    only_last: (None, REPLY, None),
    stop_outside: (STOP, STOP, STOP),
    shifted_twice: (PLACES, PLACES, PLACES),
    mask_moved: (STOP, STOP, STOP),
    cut: (STOP, STOP, STOP),
    pad_trained: (STOP, STOP, STOP),
    untrained: (NONE, NONE, NONE),
}


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind, turns", [("chat", 1), ("chat", 2), ("completion", 1)])
def test_mutants_of_ids_and_labels(kind, turns, pair, tmp_path, mutate):
    """One row of the two is changed: a chat of one reply, a chat of two, or a completion."""
    rows, trainer = made(kind, pair, tmp_path)
    want = MUTANTS[mutate][2 if kind == "completion" else turns - 1]
    changed, done = [], 0
    for row in trainer.train_dataset:
        mine = done == 0 and (kind == "completion" or len(spans(row["labels"])) == turns)
        done += mine
        changed.append(
            mutate(row["input_ids"], row["labels"]) if mine else (row["input_ids"], row["labels"])
        )
    assert done == 1
    ids, labels = map(list, zip(*changed, strict=True))
    trainer.train_dataset = sft.dataset({"input_ids": ids, "labels": labels}, "m")
    if want is None:  # nothing lies between the only span and itself
        assert all(check.passed for check in preflight.run(trainer, pair[1], rows))
        return
    name, detail = refused(trainer, pair[1], rows)
    assert name == want
    assert int(detail.split()[0]) == {joined: 2, only_last: 1}.get(
        mutate,
        2
        if (mutate, turns)
        in [(one_earlier, 2), (one_later, 2), (stop_outside, 2), (mask_moved, 2), (all_trained, 2)]
        else 1,
    )


def test_another_completion_than_the_row_holds(pair, tmp_path):
    rows, trainer = made("completion", pair, tmp_path)
    swapped = list(reversed(rows))
    swapped[0] = swapped[0] | {"completion": rows[0]["completion"]}
    trainer.train_dataset = sft.sft_dataset(chat.encode_completions(pair[1], swapped, " -> "), 2)
    assert refused(trainer, pair[1], rows) == [TEXT, "1 rows that are not exactly one completion"]


def test_a_row_left_out_and_a_row_taken_twice(pair, tmp_path):
    rows, trainer = made("chat", pair, tmp_path)
    whole = trainer.train_dataset
    trainer.train_dataset = whole.select([0])
    assert refused(trainer, pair[1], rows) == ["rows in = used + rejected", "2 = 1 + 0"]
    trainer.train_dataset = whole.select([0, 0])
    assert refused(trainer, pair[1], rows)[0] in (REPLY, COUNT)


# Pairs


def pairs_with(pair, folder, **changes):
    rows, trainer = made("preferences", pair, folder)
    columns = trainer.train_dataset.to_dict()
    trainer.train_dataset = sft.dataset(
        {
            name: [changes.get(name, list)(ids) for ids in column]
            for name, column in columns.items()
        },
        "m",
    )
    return refused(trainer, pair[1], rows)


def test_mutants_of_pairs(pair, tmp_path):
    _, tokenizer = pair
    user = tokenizer.convert_tokens_to_ids("<user>")
    assert pairs_with(pair, tmp_path, prompt_ids=lambda ids: ids[:-1]) == [
        REPLY,
        "4 spans that are not exactly one reply",
    ]
    assert pairs_with(pair, tmp_path, chosen_ids=lambda ids: ids[:-1]) == [
        STOP,
        "2 spans that do not end with <end>",
    ]
    assert pairs_with(pair, tmp_path, rejected_ids=lambda ids: []) == [
        NONE,
        "2 rows without a trained token",
    ]
    assert pairs_with(pair, tmp_path, rejected_ids=lambda ids: [user, *ids]) == [
        REPLY,
        "2 spans that are not exactly one reply",
    ]
    assert pairs_with(pair, tmp_path, prompt_ids=lambda ids: [ids[0], user, *ids[1:]])[0] == COUNT


def test_pairs_whose_ids_are_equal_are_refused_with_their_line(tmp_path):
    """Two texts, one sequence of ids: the tokenizer's normaliser levels what the readers tell apart."""
    _, tokenizer = base()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    file = tmp_path / "pairs.jsonl"
    replies = [("0 12 * * *", "12 0 * * *"), ("At noon", "at noon")]
    lines = [
        json.dumps({"prompt": "at noon", "chosen": c, "rejected": r}) + "\n" for c, r in replies
    ]
    file.write_text("".join(lines))
    rows = records.read(file, "preferences")
    with pytest.raises(DataError) as caught:
        chat.encode_pairs(tokenizer, rows)
    assert str(caught.value) == (
        f"{file}:2: rejected: expected ids that differ from those of chosen, got the same ids "
        '(1 of 2 rows is bad); take these rows out or use on_bad="skip"'
    )
    (good,) = chat.encode_pairs(tokenizer, rows[:1])
    data = sft.dpo_dataset([good, good | {"rejected_ids": good["chosen_ids"]}], 2)
    trainer = SimpleNamespace(model=base()[0], train_dataset=data)
    assert refused(trainer, tokenizer, rows) == [
        "chosen ids differ from rejected ids",
        "1 pairs with equal ids",
    ]


# The collator


def test_a_collator_that_trains_a_pad(pair, tmp_path):
    rows, trainer = made("chat", pair, tmp_path)
    good = trainer.data_collator

    def trains_pads(features):
        batch = good(features)
        kept = (batch["labels"] != -100) | (batch["input_ids"] == 1)
        return batch | {"labels": batch["input_ids"].masked_fill(~kept, -100)}

    batch = good(list(trainer.train_dataset))
    trained, pads = int((batch["labels"] != -100).sum()), int((batch["input_ids"] == 1).sum())
    assert pads > 0
    trainer.data_collator = trains_pads
    assert refused(trainer, pair[1], rows) == [BATCH, f"{trained + pads} ids of {trained}"]


@pytest.mark.parametrize("kind", ["text", "chat"])
def test_a_collator_without_padding_trains_all_but_a_first_id(kind, pair, tmp_path):
    rows, trainer = made(kind, pair, tmp_path)
    trainer.data_collator = DataCollatorForLanguageModeling(1, padding_free=True)
    assert all(check.passed for check in preflight.run(trainer, pair[1], rows))


def test_a_collator_that_cuts_a_pair(pair, tmp_path):
    """max_length of DPOConfig cuts in the collator: the longer reply would lose its stop token, the shorter keep it."""
    rows, trainer = made("preferences", pair, tmp_path)
    sides = ("chosen_ids", "rejected_ids")
    longest = max(
        len(row["prompt_ids"] + row[side]) for row in trainer.train_dataset for side in sides
    )
    trainer.data_collator = DataCollatorForPreference(1, max_length=longest)
    assert all(check.passed for check in preflight.run(trainer, pair[1], rows))
    trainer.data_collator = DataCollatorForPreference(1, max_length=longest - 1)
    name, detail = refused(trainer, pair[1], rows)
    found, wanted = map(int, detail.split(" ids of "))
    assert name == BATCH and 1 <= wanted - found <= 2


def test_the_longest_rows_are_the_ones_collated():
    seen = []
    data = Dataset.from_dict(
        {"input_ids": [[7] * n for n in range(1, 21)], "labels": [[7] * n for n in range(1, 21)]}
    )
    preflight.batch_checks(data, lambda features: seen.append(features) or {})
    assert sorted(len(f["input_ids"]) for f in seen[0]) == list(range(13, 21))


# The model


def test_a_frozen_or_equal_output_table_of_an_untied_model(tmp_path):
    model, tokenizer = base(tied=False)
    rows, trainer = made("chat", (model, tokenizer), tmp_path)
    weight = model.get_output_embeddings().weight.data
    kept, ids = weight.clone(), tokenizer.convert_tokens_to_ids(list(chat.CONTROL_TOKENS))
    weight[ids[3]] = weight[ids[2]]
    assert refused(trainer, tokenizer, rows) == [ROWS, "smallest relative distance 0.00, trained"]
    weight.copy_(kept)
    half = LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM"
    )
    trainer.model = get_peft_model(model, half)
    name, detail = refused(trainer, tokenizer, rows)
    assert name == ROWS and detail.endswith(", frozen")


def test_bfloat16_weights_are_refused(pair, tmp_path):
    model, tokenizer = base(pair[0].config.tie_word_embeddings)
    rows, trainer = made("chat", (model, tokenizer), tmp_path)
    trainer.model = model.to(torch.bfloat16)
    assert refused(trainer, tokenizer, rows) == ["trained weights are float32", "bfloat16"]


def test_what_bfloat16_weights_would_lose():
    """Ten Adam steps of 1e-6: float32 weights all move, most bfloat16 weights do not."""
    start = (
        torch.randn(10_000, generator=torch.Generator().manual_seed(0)).mul(0.02).to(torch.bfloat16)
    )
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.nn.Parameter(start.to(dtype))
        optimizer = torch.optim.AdamW([weight], lr=1e-6, weight_decay=0.0)
        for _ in range(10):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        moved[dtype] = float((weight.detach() != start.to(dtype)).float().mean())
    assert moved[torch.float32] == 1.0 and moved[torch.bfloat16] < 0.1
