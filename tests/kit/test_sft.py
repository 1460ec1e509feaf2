"""What stands around TRL: order of rows, settings, adapters, and a preflight that sees each silent failure."""

import ast
import copy
import dataclasses
import inspect
import json
import math
import os
import random
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lesson
import pytest
import torch
import trl.trainer.utils as trl_utils
from bases import CHATS, PAIRS, base
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.kernels import chunked_logprob
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from kit import chat, models, preflight, records, runs, sft, speed
from kit.engine import attention, distributed, fingerprint
from kit.errors import DataError, SettingsError
from kit.settings import Settings

LN2 = 0.6931471805599453
PARAMS = Settings(batch_size=2)
PROJECT = Path(sft.__file__).parents[1]
CHAT_ROWS = [row for row in CHATS if row[-1]["content"]]  # the readers refuse an empty reply


class PairTrainer(DPOTrainer):
    """Rows that are ids already, and TRL's own reference: at each step, or its own pass before them."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def tied(request):
    return request.param


def settings(folder, **more):
    return {
        "output_dir": str(folder),
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": None,
        "save_strategy": "no",
        **sft.hardware(PARAMS, 1),
        **more,
    }


def sft_trainer(folder, model, tokenizer, encoded, adapters=None, **more):
    config = SFTConfig(**settings(folder, dataset_kwargs={"skip_prepare_dataset": True}, **more))
    return SFTTrainer(
        model,
        config,
        train_dataset=sft.sft_dataset(encoded, 2),
        processing_class=tokenizer,
        peft_config=adapters,
    )


def dpo_trainer(folder, model, reference, tokenizer, adapters=None, **more):
    pairs = chat.encode_pairs(tokenizer, PAIRS[:2])
    return PairTrainer(
        model,
        reference,
        DPOConfig(**settings(folder, **more)),
        processing_class=tokenizer,
        train_dataset=sft.dpo_dataset(pairs, 2),
        peft_config=adapters,
    )


def rows_of(folder, kind, rows, **options):
    file = folder / f"{kind}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return records.read(file, kind, **options)


# Order of the rows


LENGTHS = [random.Random(i).randint(5, 200) for i in range(1003)]


def padding(order, size):
    batches = [[LENGTHS[i] for i in order[at : at + size]] for at in range(0, len(order), size)]
    return sum(max(b) * len(b) - sum(b) for b in batches)


@pytest.mark.parametrize("size", [1, 8, 32])
def test_order_is_a_permutation_of_rows(size):
    order = sft.by_length(LENGTHS, size, 3)
    assert sorted(order) == list(range(len(LENGTHS)))
    assert order == sft.by_length(LENGTHS, size, 3) != sft.by_length(LENGTHS, size, 4)


def test_order_does_not_know_the_processes(monkeypatch):
    assert list(inspect.signature(sft.by_length).parameters) == ["lengths", "batch_size", "seed"]
    alone = sft.by_length(LENGTHS, 8, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert sft.by_length(LENGTHS, 8, 0) == alone


def test_order_saves_padding():
    order = sft.by_length(LENGTHS, 8, 0)
    assert padding(order, 8) < 0.1 * padding(random.Random(0).sample(range(1003), 1003), 8)
    lengths = [LENGTHS[i] for i in order]
    assert lengths != sorted(lengths) and lengths != sorted(lengths, reverse=True)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_processes_that_share_a_batch_hold_as_many_ids(count):
    """A micro batch takes as long as its fullest process, and with rows sorted in each batch the first is the fullest."""
    draw, size = random.Random(0), 64 * count
    lengths = [
        min(2048, max(8, int(draw.lognormvariate(math.log(270), 0.9)))) for _ in range(16 * size)
    ]

    def fullest(order, micro=16):
        shares = [
            sum(lengths[i] for i in order[at : at + micro]) for at in range(0, len(order), micro)
        ]
        return sum(
            max(shares[at : at + count]) * count for at in range(0, len(shares), count)
        ) / sum(shares)

    order = sft.by_length(lengths, size, 0)
    in_rows = [
        i
        for at in range(0, len(order), size)
        for i in sorted(order[at : at + size], key=lambda i: -lengths[i])
    ]
    assert fullest(order) < 1.01 and fullest(order) - 1 < 0.1 * (fullest(in_rows) - 1)


def test_datasets_keep_ids_and_labels_together():
    _, tokenizer = base()
    encoded = chat.encode_chats(tokenizer, CHATS)
    data = sft.sft_dataset(encoded, 2)
    made = sorted(zip(data["input_ids"], data["labels"], strict=True))
    assert made == sorted((e.input_ids, e.labels) for e in encoded)
    pairs = chat.encode_pairs(tokenizer, PAIRS)
    assert sorted(map(str, sft.dpo_dataset(pairs, 2))) == sorted(map(str, pairs))


def test_rows_as_arrays_make_the_same_batches(tmp_path):
    model, tokenizer = base()
    trainer = sft_trainer(tmp_path, model, tokenizer, chat.encode_chats(tokenizer, CHATS))

    def seen():
        batch = trainer.data_collator(list(trainer.train_dataset))
        return (
            batch,
            fingerprint._rows(trainer.train_dataset),
            type(trainer.train_dataset[0]["labels"]).__name__,
        )

    (lists, digest, _), _ = seen(), speed.arrays(trainer)
    arrays, same, kind = seen()
    assert same == digest and kind == "ndarray"
    assert all(
        torch.equal(lists[key], arrays[key]) and lists[key].dtype == arrays[key].dtype
        for key in lists
    )
    paired = SimpleNamespace(train_dataset=sft.dpo_dataset(chat.encode_pairs(tokenizer, PAIRS), 2))
    speed.arrays(paired)
    assert isinstance(paired.train_dataset[0]["prompt_ids"], list)


def test_collator_puts_no_pad_in_the_loss(tmp_path):
    model, tokenizer = base()
    trainer = sft_trainer(tmp_path, model, tokenizer, chat.encode_chats(tokenizer, CHATS))
    batch = trainer.data_collator(list(trainer.train_dataset))
    pads = batch["input_ids"] == tokenizer.pad_token_id
    assert pads.any() and (batch["labels"][pads] == -100).all()
    replies = sum(m["role"] == "assistant" for row in CHATS for m in row)
    assert (batch["labels"] == tokenizer.eos_token_id).sum() == replies


# Settings


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [16, 32])
def test_any_number_of_processes_shares_a_batch(batch_size, processes):
    """The default settings: each step takes exactly batch_size rows, each once, dealt out about evenly."""
    settings = sft.hardware(Settings(batch_size=batch_size), processes)
    size, accumulation = (
        settings["per_device_train_batch_size"],
        settings["gradient_accumulation_steps"],
    )
    assert (size, accumulation) == (math.ceil(batch_size / processes), 1)
    rows = 5 * batch_size + 7
    shared = list(distributed.Shared(range(rows), size, processes, batch_size))
    assert [i for batch in shared for i in batch] == list(range(rows)) and len(
        shared
    ) == 6 * processes
    for step in range(5):
        batches = shared[step * processes : (step + 1) * processes]
        assert (
            sum(map(len, batches)) == batch_size
            and max(map(len, batches)) - min(map(len, batches)) <= 1
        )


def test_fewer_rows_per_step_than_processes_are_refused():
    with pytest.raises(
        SettingsError,
        match="batch_size: expected at least 4, the number of processes, got 3; raise",
    ):
        sft.hardware(Settings(batch_size=3), 4)
    settings = sft.hardware(Settings(batch_size=48, micro_batch_size=4), 3)
    assert (settings["per_device_train_batch_size"], settings["gradient_accumulation_steps"]) == (
        4,
        4,
    )


def test_buckets_of_ddp_are_large_on_gpus_only(monkeypatch):
    assert sft.hardware(PARAMS, 1)["ddp_bucket_cap_mb"] is None
    monkeypatch.setattr(sft.models, "device", lambda: "cuda")
    assert sft.hardware(PARAMS, 1)["ddp_bucket_cap_mb"] == 400


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "OTHER_NAME"])
def test_memory_of_a_gpu_grows_unless_the_user_says_else(name):
    code = "import os, kit.engine.distributed; print(os.environ.get('PYTORCH_ALLOC_CONF'))"
    clean = {key: value for key, value in os.environ.items() if "ALLOC_CONF" not in key}
    command = [sys.executable, "-c", code]
    printed = subprocess.check_output(command, env={**clean, name: "mine"}, text=True).strip()
    wanted = {"PYTORCH_ALLOC_CONF": "mine", "PYTORCH_CUDA_ALLOC_CONF": "None"}
    assert printed == wanted.get(name, "expandable_segments:True")


def test_steps_of_a_smoke_test(monkeypatch):
    assert "max_steps" not in sft.hardware(PARAMS, 1)
    monkeypatch.setenv("KIT_MAX_STEPS", "3")
    assert sft.hardware(PARAMS, 1)["max_steps"] == 3


CALLED = {
    "SFTConfig": SFTConfig,
    "DPOConfig": DPOConfig,
    "SFTTrainer": SFTTrainer,
    "DPOTrainer": DPOTrainer,
    "PairTrainer": DPOTrainer,
    "LoraConfig": LoraConfig,
}


def arguments(text):
    """{name of a class of CALLED: the arguments that the code passes to it by name}; `**` of a call by its own test."""
    found = {}
    for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
        name = getattr(call.func, "id", getattr(call.func, "attr", None))
        if name in CALLED:
            found.setdefault(name, set()).update(k.arg for k in call.keywords if k.arg)
    return found


@pytest.mark.parametrize(
    "file, wanted",
    [
        ("scripts/sft_completion.py", "SFTConfig"),
        ("scripts/sft_chat.py", "SFTConfig"),
        ("scripts/dpo.py", "DPOConfig"),
        ("kit/sft.py", "LoraConfig"),
    ],
)
def test_each_argument_we_pass_exists(file, wanted):
    found = arguments((PROJECT / file).read_text(encoding="utf-8"))
    assert wanted in found and all(found.values())
    for name, passed in found.items():
        assert passed - inspect.signature(CALLED[name]).parameters.keys() == set()


def test_an_argument_that_is_gone_is_seen():
    found = arguments(
        "trl.SFTConfig(max_length=None, warmup_ratio=0.1, **more)\nSFTTrainer(model, tokenizer=t)"
    )
    assert {
        name: passed - inspect.signature(CALLED[name]).parameters.keys()
        for name, passed in found.items()
    } == {"SFTConfig": {"warmup_ratio"}, "SFTTrainer": {"tokenizer"}}


@pytest.mark.parametrize("config", [SFTConfig, DPOConfig])
def test_settings_are_known_and_not_deprecated(config, tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_RUNS", str(tmp_path))
    run = runs.start({"run": "drift", "seed": 0})
    known = {field.name for field in dataclasses.fields(config)}
    assert sft.hardware(PARAMS, 1).keys() - known == set() == run.settings().keys() - known
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = config(**sft.hardware(PARAMS, 1), **run.settings(), max_length=None)
    assert not made.gradient_checkpointing
    assert made.bf16 == (sft.models.compute_dtype() == torch.bfloat16)


def loss_and_gradients(folder, model, tokenizer):
    trainer = sft_trainer(folder, model, tokenizer, chat.encode_chats(tokenizer, CHATS))
    batch = trainer._prepare_inputs(trainer.data_collator(list(trainer.train_dataset)))
    model.zero_grad()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters()]


def test_scoring_trained_ids_only_changes_no_loss(tmp_path, monkeypatch):
    # TRL's own function, whatever an earlier test of this process has switched; put back after the test.
    monkeypatch.setattr(trl_utils, "_use_triton", chunked_logprob._use_triton)
    model, tokenizer = base()
    loss, gradients = loss_and_gradients(tmp_path, model, tokenizer)
    assert not trl_utils._use_triton(torch.device("cpu"))
    sft.score_trained_ids_only()
    assert trl_utils._use_triton(torch.device("cpu"))
    again, others = loss_and_gradients(tmp_path, model, tokenizer)
    assert abs(loss - again) < 1e-6
    assert max(float((a - b).abs().max()) for a, b in zip(gradients, others, strict=True)) < 1e-6
    direct = []
    for e in chat.encode_chats(tokenizer, CHATS):
        nll = torch.log_softmax(model(torch.tensor([e.input_ids])).logits[0, :-1], -1)
        after = zip(e.input_ids[1:], e.loss_mask[1:], strict=True)
        direct += [-nll[at, i].item() for at, (i, m) in enumerate(after) if m]
    assert abs(loss - sum(direct) / len(direct)) < 1e-5


@pytest.mark.parametrize("more", [{}, {"batch_size": 1}, {"batch_size": 2}, {"batch_size": 8}])
def test_evaluation_loss_weighs_tokens_whatever_the_batch(tied, more):
    """The mutant, a mean of batch means, is off by over a hundredth of a nat at batch 1."""
    model, tokenizer = base(tied)
    encoded = chat.encode_chats(tokenizer, CHATS * 3)
    model.train()
    loss = sft.mean_loss(model, encoded, **more)
    assert model.training
    one_by_one = [sft.mean_loss(model, [e]) for e in encoded]
    weights = [sum(e.loss_mask) for e in encoded]
    by_token = sum(a * n for a, n in zip(one_by_one, weights, strict=True)) / sum(weights)
    assert abs(loss - by_token) < 1e-6
    assert abs(sum(one_by_one) / len(encoded) - by_token) > 0.01
    ids, mask = (
        torch.tensor([encoded[0].input_ids]),
        torch.tensor(encoded[0].loss_mask[1:], dtype=torch.bool),
    )
    nll = torch.nn.functional.cross_entropy(
        model.eval()(ids).logits[0, :-1][mask], ids[0, 1:][mask]
    )
    assert abs(one_by_one[0] - nll.item()) < 1e-5


# Rejected rows


def trained(name, file, tied, on_bad):
    """A run as a lesson makes it, for three steps."""
    model, tokenizer = base(tied)
    run = runs.start({"run": name, "seed": 0, "save_steps": 100}, data=[file])
    rows = records.read(file, "chat", on_bad=on_bad)
    encoded = chat.encode_chats(tokenizer, [row["messages"] for row in rows])
    rows = records.split_too_long(rows, [len(e.input_ids) for e in encoded], 60)
    encoded = [e for e in encoded if len(e.input_ids) <= 60]
    config = SFTConfig(
        **run.settings(),
        **sft.hardware(PARAMS, 1),
        max_steps=3,
        learning_rate=1e-2,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(
        model, config, train_dataset=sft.sft_dataset(encoded, 2), processing_class=tokenizer
    )
    preflight.run(trainer, tokenizer, rows)
    sft.report_rows(run, rows)
    run.train(trainer, tokenizer)
    return run


def test_training_on_a_file_with_bad_rows_is_training_on_its_good_rows(tied, tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_RUNS", str(tmp_path / "runs"))
    good = [json.dumps({"messages": row}).encode() + b"\r\n" for row in CHAT_ROWS * 2]
    long = (
        json.dumps(
            {"messages": [{"role": "user", "content": "at " * 99}, CHAT_ROWS[0][-1]]}
        ).encode()
        + b"\n"
    )
    bad = [b'{"messages": [{"role": "bot", "content": "x"}]}\n', b"caf\xe9 {\n", long]
    (tmp_path / "good.jsonl").write_bytes(b"".join(good))
    (tmp_path / "mixed.jsonl").write_bytes(
        b"".join([bad[0], *good[:1], b"\n", bad[2], *good[1:], bad[1]])
    )
    mixed = trained("mixed", tmp_path / "mixed.jsonl", tied, "skip")
    alone = trained("alone", tmp_path / "good.jsonl", tied, "stop")
    assert mixed.report["weights_sha256"] == alone.report["weights_sha256"]
    assert runs.metrics(mixed) == runs.metrics(alone)
    told = mixed.report
    assert (told["rows_in"], told["rows_used"], len(told["rows_rejected"])) == (7, 4, 3)
    name = tmp_path / "mixed.jsonl"
    assert [text.split(": expected")[0] for text in told["rows_rejected"]] == [
        f"{name}:1: messages[0].role",
        f"{name}:4",
        f"{name}:8",
    ]
    assert told["rows_duplicate"] == [
        {"line": 6, "first": 2, "exact": True},
        {"line": 7, "first": 5, "exact": True},
    ]
    rejected = map(json.loads, (mixed.folder / "rejected.jsonl").read_text().splitlines())
    raw = [row["raw"].encode(errors="surrogateescape").strip() for row in rejected]
    assert raw == [line.strip() for line in (bad[0], bad[2], bad[1])]
    assert (
        alone.report["rows_rejected"] == []
        and (alone.folder / "rejected.jsonl").read_bytes() == b""
    )
    with pytest.raises(DataError, match="mixed.jsonl:1: messages"):
        records.read(tmp_path / "mixed.jsonl", "chat")


# Preflight


@pytest.fixture
def good(tmp_path):
    model, tokenizer = base()
    rows = rows_of(tmp_path, "chat", [{"messages": row} for row in CHAT_ROWS])
    encoded = chat.encode_chats(tokenizer, CHAT_ROWS)
    return SimpleNamespace(
        model=model, tokenizer=tokenizer, rows=rows, encoded=encoded, folder=tmp_path
    )


def stand_in(good, encoded=None, model=None):
    """What preflight reads of a trainer."""
    return SimpleNamespace(
        model=model or good.model,
        train_dataset=sft.sft_dataset(encoded or good.encoded, 2),
        data_collator=DataCollatorForLanguageModeling(good.tokenizer.pad_token_id),
    )


def failing(good, name, encoded=None, model=None):
    """Preflight must stop at the check of this name, or at any if it is None."""
    trainer = stand_in(good, encoded, model)
    with pytest.raises(SettingsError) as caught:
        preflight.run(trainer, good.tokenizer, good.rows)
    assert name is None or f"preflight: expected: {name}, got: " in str(caught.value)
    return str(caught.value)


def test_preflight_passes_good_rows(good):
    trainer = sft_trainer(good.folder, good.model, good.tokenizer, good.encoded)
    found = preflight.run(trainer, good.tokenizer, good.rows)
    assert all(check.passed for check in found)
    trained = sum(sum(e.loss_mask) for e in good.encoded)
    assert {check.name: check.detail for check in found if "embedding" not in check.name} == {
        "rows in = used + rejected": "2 = 2 + 0",
        "every row trains a token": "0 rows without a trained token",
        "labels are the ids of their places": "0 rows with wrong labels",
        "every trained span ends with <end>": "0 spans that do not end with <end>",
        "every trained span is one reply": "0 spans that are not exactly one reply",
        "control ids = those of the template": "<system> 1, <user> 3, <assistant> 3, <end> 3",
        "a batch trains what its rows train": f"{trained} ids of {trained}",
        "control rows distinct and trainable": found[-3].detail,
        "trained weights are float32": "float32",
        "<end> stops generation": f"eos_token_id [{good.tokenizer.eos_token_id}]",
    }


def test_preflight_counts_rejected_rows(tmp_path, good):
    bad = {"messages": [{"role": "bot", "content": "x"}]}
    rows = rows_of(tmp_path, "chat", [{"messages": CHAT_ROWS[0]}, bad], on_bad="skip")
    trainer = SimpleNamespace(model=good.model, train_dataset=sft.sft_dataset(good.encoded[:1], 2))
    assert preflight.run(trainer, good.tokenizer, rows)[0].detail == "2 = 1 + 1"


def test_preflight_sees_rows_vanish(good):
    assert "2 = 1 + 0" in failing(good, "rows in = used + rejected", good.encoded[:1])


def masked(encoded, change):
    return [chat.Encoded(e.input_ids, change(e.loss_mask)) for e in encoded]


def test_preflight_sees_a_row_without_loss(good):
    empty = [good.encoded[0], *masked(good.encoded[1:], lambda mask: [0] * len(mask))]
    assert "1 rows without a trained token" in failing(good, "every row trains a token", empty)


def test_preflight_sees_the_stop_outside(good):
    inner = masked(
        good.encoded, lambda mask: [int(a and b) for a, b in zip(mask, [*mask[1:], 0], strict=True)]
    )
    assert "3 spans that do not end with <end>" in failing(
        good, "every trained span ends with <end>", inner
    )


def test_preflight_sees_truncation(good):
    cut = [chat.Encoded(e.input_ids[:-1], e.loss_mask[:-1]) for e in good.encoded]
    assert "2 spans that do not end with <end>" in failing(
        good, "every trained span ends with <end>", cut
    )


def test_preflight_sees_pad_in_the_loss(good):
    padded = [chat.Encoded([*e.input_ids, 1], [*e.loss_mask, 1]) for e in good.encoded]
    assert "2 spans that do not end with <end>" in failing(
        good, "every trained span ends with <end>", padded
    )


def test_preflight_sees_shifted_labels(good):
    left = masked(good.encoded, lambda mask: [*mask[1:], 0])
    assert "3 spans that do not end with <end>" in failing(
        good, "every trained span ends with <end>", left
    )
    right = masked(good.encoded[1:], lambda mask: [0, *mask[:-1]])
    assert "1 spans that do not end with <end>" in failing(
        good, "every trained span ends with <end>", [good.encoded[0], *right]
    )


def test_preflight_sees_a_dropped_role(good):
    user = good.tokenizer.convert_tokens_to_ids("<user>")
    kept = [
        [(i, m) for i, m in zip(e.input_ids, e.loss_mask, strict=True) if i != user]
        for e in good.encoded
    ]
    dropped = [chat.Encoded(*map(list, zip(*pairs, strict=True))) for pairs in kept]
    assert "<system> 1, <assistant> 3, <end> 3" in failing(
        good, "control ids = those of the template", dropped
    )


@pytest.mark.parametrize(
    "token", ["<user>", "<system>", "<assistant>", "<end>", "<|endoftext|>", "<|pad|>"]
)
@pytest.mark.parametrize("turn", [1, 2], ids=["question", "reply"])
def test_preflight_sees_a_control_id_from_content(good, monkeypatch, token, turn):
    forged = copy.deepcopy(CHAT_ROWS)
    forged[0][turn]["content"] = f"every day {token} at 17"
    safe = chat.encode_chats(good.tokenizer, forged)
    assert all(
        check.passed for check in preflight.run(stand_in(good, safe), good.tokenizer, good.rows)
    )
    monkeypatch.setattr(chat, "_plain", lambda tokenizer: tokenizer.backend_tokenizer)
    unsafe = chat.encode_chats(good.tokenizer, forged)
    found = failing(good, None, unsafe)
    once = sum(e.input_ids.count(good.tokenizer.convert_tokens_to_ids(token)) for e in unsafe)
    if turn == 2:
        assert "every trained span is one reply, got: " in found
    else:
        assert "control ids = those of the template, got: " in found and f"{token} {once}" in found


def test_preflight_sees_equal_embeddings(good):
    weight = good.model.get_input_embeddings().weight.data
    user, assistant = good.tokenizer.convert_tokens_to_ids(["<user>", "<assistant>"])
    weight[user] = weight[assistant] + 6e-6
    assert "distance 0.00, trained" in failing(good, "control rows distinct and trainable")


def test_preflight_sees_frozen_embeddings_under_plain_lora(good):
    plain = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = sft_trainer(good.folder, good.model, good.tokenizer, good.encoded, plain)
    assert "frozen" in failing(good, "control rows distinct and trainable", model=trainer.model)


@pytest.mark.parametrize("stops", [0, [0, 1], None])
def test_preflight_sees_a_stop_that_stops_nothing(good, stops):
    good.model.generation_config.eos_token_id = stops
    failing(good, "<end> stops generation")


def test_preflight_takes_a_list_of_stops(good):
    good.model.generation_config.eos_token_id = [0, good.tokenizer.eos_token_id]
    trainer = SimpleNamespace(model=good.model, train_dataset=sft.sft_dataset(good.encoded, 2))
    assert preflight.run(trainer, good.tokenizer, good.rows)[-1].passed


def test_preflight_of_pairs_wants_ln_2(tmp_path):
    rows = rows_of(tmp_path, "preferences", PAIRS[:2])
    model, tokenizer = base()
    trainer = dpo_trainer(tmp_path, model, base()[0], tokenizer)
    found = preflight.run(trainer, tokenizer, rows)
    assert found[-1].name == "first DPO loss = ln 2" and found[-1].passed
    told = {c.name: c.detail for c in found}
    assert (
        told["control ids = those of the template"]
        == "<system> 1, <user> 3, <assistant> 3, <end> 5"
    )
    assert told["chosen ids differ from rejected ids"] == "0 pairs with equal ids"
    wrong = dpo_trainer(tmp_path, base()[0], base(seed=9)[0], tokenizer, beta=1.0)
    with pytest.raises(SettingsError, match="first DPO loss = ln 2, got: ln 2 = 0.6931, loss"):
        preflight.run(wrong, tokenizer, rows)


def test_reference_check_leaves_the_model_as_it_was(tmp_path):
    model, tokenizer = base()
    trainer = dpo_trainer(tmp_path, model, base()[0], tokenizer)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    for mode in (True, False):
        trainer.model.train(mode)
        assert preflight.reference_check(trainer).passed
        assert trainer.model.training == mode
    assert all(
        torch.equal(before[name], weight) for name, weight in trainer.model.state_dict().items()
    )
    assert all(p.grad is None for p in trainer.model.parameters())


# DPO's reference in three forms, and adapters


def first_losses(trainer):
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_reference_in_memory_precomputed_or_adapter_off(tmp_path):
    steps = {"max_steps": 1, "logging_steps": 1, "learning_rate": 1e-3}
    _, tokenizer = base()
    live = first_losses(dpo_trainer(tmp_path, base()[0], base()[0], tokenizer, **steps))
    early = first_losses(
        dpo_trainer(
            tmp_path, base()[0], base()[0], tokenizer, precompute_ref_log_probs=True, **steps
        )
    )
    model, _ = base()
    off = first_losses(
        dpo_trainer(
            tmp_path, model, None, tokenizer, sft.lora(replace(PARAMS, lora_rank=2), model), **steps
        )
    )
    for losses in (live, early, off):
        assert len(losses) == 1 and abs(losses[0] - LN2) < 1e-5


def test_pairs_packed_are_pairs_padded(tmp_path, monkeypatch):
    """Policy and reference of TRL's DPOTrainer run packed: the same loss and gradients, in one row of four documents."""
    rows, found = [], {}
    by_document = attention._by_document
    monkeypatch.setattr(
        attention,
        "_by_document",
        lambda *given: rows.append(len(given[3]) - 1) or by_document(*given),
    )
    for way in (attention.NAME, "sdpa"):
        (model, tokenizer), (reference, _) = base(), base(seed=9)
        for each in (model, reference):
            attention.use(each).set_attn_implementation(way)
        trainer = dpo_trainer(
            tmp_path,
            model,
            reference,
            tokenizer,
            loss_type=["sigmoid", "sft"],
            loss_weights=[1.0, 1.0],
        )
        batch = trainer._prepare_inputs(trainer.data_collator(list(trainer.train_dataset)))
        loss = trainer.compute_loss(model.train(), batch)
        loss.backward()
        found[way] = loss.item(), [p.grad.clone() for p in model.parameters()]
    layers = model.config.num_hidden_layers
    assert rows == [4] * 2 * layers
    (ours, gradients), (theirs, others) = found[attention.NAME], found["sdpa"]
    assert abs(ours - theirs) < 1e-6
    assert max(float((a - b).abs().max()) for a, b in zip(gradients, others, strict=True)) < 1e-6


SIZES = {
    "vocab_size": 6084,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 1,
}
ARCHITECTURES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def tables(model):
    return model.get_input_embeddings().weight, model.get_output_embeddings().weight


@pytest.fixture(params=ARCHITECTURES)
def with_adapters(request, tmp_path, good, tied):
    """A model of two layers, as it was and after three steps of LoRA by TRL's trainer."""
    config, kind = ARCHITECTURES[request.param]
    torch.manual_seed(0)
    model = kind(config(**SIZES, tie_word_embeddings=tied))
    chat.add_role_tokens(good.tokenizer, model)
    fresh = copy.deepcopy(model).eval()
    adapters = sft.lora(replace(PARAMS, lora_rank=2, lora_alpha=6, lora_dropout=0.1), model)
    assert (adapters.r, adapters.lora_alpha, adapters.lora_dropout) == (2, 6, 0.1)
    trainer = sft_trainer(
        tmp_path,
        model,
        good.tokenizer,
        good.encoded,
        adapters,
        max_steps=3,
        learning_rate=1e-2,
        logging_steps=1,
    )
    assert all(check.passed for check in preflight.run(trainer, good.tokenizer, good.rows))
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    return fresh, trainer.model.eval(), fresh.role_ids


def test_lora_trains_the_role_rows_and_no_other_row(with_adapters, tied):
    fresh, policy, ids = with_adapters
    others = [i for i in range(SIZES["vocab_size"]) if i not in ids]
    before = dict(fresh.named_parameters())
    merged = copy.deepcopy(policy).merge_and_unload()
    for old, new in zip(tables(fresh), tables(merged), strict=True):
        assert ((new[ids] - old[ids]).norm(dim=1) > 1e-3).all()
        assert torch.equal(new[others], old[others])
    trained = [name for name, weight in policy.named_parameters() if weight.requires_grad]
    rows = [name for name in trained if "lora_" not in name]
    assert len(rows) == 2 - tied and all("trainable_tokens_delta" in name for name in rows)
    layers = {name for name, weight in merged.named_parameters() if not weight.equal(before[name])}
    assert {name for name in before if "norm" in name or "bias" in name}.isdisjoint(layers)


def test_adapters_merge_and_load(with_adapters, tmp_path, good, tied):
    fresh, policy, _ = with_adapters
    text = torch.tensor([good.encoded[0].input_ids])
    with torch.no_grad():
        logits = policy(text).logits
        with policy.disable_adapter():
            assert torch.equal(policy(text).logits, fresh(text).logits)
        policy.save_pretrained(tmp_path / "adapter")
        again = PeftModel.from_pretrained(copy.deepcopy(fresh), tmp_path / "adapter").eval()
        merged = policy.merge_and_unload()
        merged.save_pretrained(tmp_path / "merged")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        assert (logits - fresh(text).logits).abs().max() > 1e-2
        for model in (merged, loaded, again):
            assert (model(text).logits - logits).abs().max() < 1e-5
    size = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert size < 0.1 * 4 * fresh.get_input_embeddings().weight.numel()  # no table is inside
    assert (tables(loaded)[0] is tables(loaded)[1]) == tied == merged.config.tie_word_embeddings


def test_a_model_that_is_split_trains_whole_tables(monkeypatch):
    model, _ = base()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    adapters = sft.lora(replace(PARAMS, lora_rank=2), model)
    assert adapters.trainable_token_indices is None
    assert adapters.modules_to_save == ["model.embed_tokens", "lm_head"]


@pytest.mark.parametrize("fields, launched", [({}, "false"), ({"lora_rank": 2}, "true")])
def test_fewer_bits_are_for_lora_in_whole_models(monkeypatch, fields, launched):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", launched)
    with pytest.raises(SettingsError, match="lora_bits: expected 32 for full training"):
        sft.load_start(Settings(lora_bits=4, **fields))


@pytest.mark.parametrize("bits", [32, 16])
def test_a_run_on_a_rounded_base_ends_as_a_plain_model(tmp_path, monkeypatch, capsys, bits):
    """model/ is the base in float32 with adapter/ merged in, and a resume gives the same bytes."""
    monkeypatch.setenv("KIT_RUNS", str(tmp_path))
    monkeypatch.setenv("KIT_MAX_STEPS", "2")
    file = tmp_path / "rows.jsonl"
    rows = [
        [{"role": "user", "content": f"at {hour}"}, {"role": "assistant", "content": f"0 {hour}"}]
        for hour in range(1, 24)
    ]
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    params = lesson.Params(
        task=str(file),
        run="bits",
        lora_rank=2,
        lora_dropout=0.1,
        lora_bits=bits,
        batch_size=4,
        learning_rate=1e-2,
        save_steps=1,
    )
    run = sft.train(params, sft.load_chats, lesson.make_trainer, evaluate=None)
    first, metrics = run.report["weights_sha256"], runs.metrics(run)
    for name in ("checkpoint-2", "model", "adapter"):
        shutil.rmtree(run.folder / name)
    (run.folder / "report.json").unlink()
    assert sft.train(params, sft.load_chats, lesson.make_trainer, evaluate=None).finished
    assert "resuming from checkpoint-1" in capsys.readouterr().out
    assert (run.report["weights_sha256"], runs.metrics(run)) == (first, metrics)
    model, _ = sft.models.load(run.folder.name)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    start, _ = sft.load_start(params, bits=32)
    adapted = PeftModel.from_pretrained(start, run.folder / "adapter").eval()
    assert {w.dtype for n, w in adapted.named_parameters() if "lora_" in n} == {torch.float32}
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        merged, beside = model.eval()(ids).logits, adapted(ids).logits
        with adapted.disable_adapter():
            untrained = adapted(ids).logits
    assert (merged - beside).abs().max() < 1e-4 < 1e-2 < (merged - untrained).abs().max()


def test_ln_2():
    assert preflight.LN2 == math.log(2) == LN2


def test_one_process_uses_one_of_several_gpus(tmp_path, monkeypatch):
    """With two GPUs and no launcher, transformers counts two and TRL refuses; seen on two H100."""
    from trl import SFTConfig

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    settings = sft.hardware(replace(PARAMS, batch_size=8))
    config = SFTConfig(output_dir=str(tmp_path), **settings)
    config._n_gpu = 2
    assert config.n_gpu == 0  # no GPU here
    monkeypatch.setattr(type(config), "device", torch.device("cuda", 0))
    assert config.n_gpu == 1
    assert config.train_batch_size == 8


@pytest.mark.parametrize("targets", ["q_prj", "", "model", "q_proj,nowhere"])
def test_wrong_lora_targets_are_one_sentence_with_the_right_names(targets):
    model, _ = models.load("pocket", where="cpu")
    with pytest.raises(SettingsError, match=r"expected all-linear or names of \['down_proj'"):
        sft.lora(Settings(lora_rank=4, lora_targets=targets), model)
