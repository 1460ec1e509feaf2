"""Intervals against known numbers; batched generation and likelihoods against one row at a time."""

import json
import math
import random
from types import SimpleNamespace

import pytest
import torch
from bases import CHATS, PAIRS, base

from kit import chat, schedules, scoring
from kit.engine import generation
from kit.errors import DataError

PROMPTS = ["every day", "monday", "at 12:30 on the first of each month", "", "x", "every 5 minutes, please", "\u2615"]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def pair(request):
    return base(request.param)


# Intervals


@pytest.mark.parametrize(("hits", "n", "low", "high"), [  # Wilson 1927 without continuity correction
    (0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (5, 10, 0.236593, 0.763407), (81, 263, 0.255299, 0.366169),
    (15, 148, 0.062386, 0.160510), (1, 29, 0.006113, 0.171755)])
def test_wilson(hits, n, low, high):
    score = scoring.score([True] * hits + [False] * (n - hits))
    assert score.interval == pytest.approx((low, high), abs=6e-5)
    assert score.as_dict() == {"rate": hits / n, "low": score.interval[0], "high": score.interval[1], "hits": hits, "n": n}


def test_no_row_is_no_number():
    assert all(math.isnan(x) for x in (scoring.score([]).rate, *scoring.score([]).interval))


def test_paired_difference_by_hand():
    before, after = [1, 1, 0, 0, 0, 1, 0, 0], [1, 0, 1, 1, 0, 1, 1, 0]
    mean = 2 / 8  # three gained, one lost
    half = 1.959963984540054 * math.sqrt((4 - 8 * mean**2) / 8 / 7)
    assert scoring.paired_difference(before, after) == pytest.approx((mean, mean - half, mean + half), abs=1e-12)
    assert scoring.paired_difference(after, after) == (0, 0, 0)
    half = 1.959963984540054 * math.sqrt(0.125 / 3 / 2)
    assert scoring.paired_difference([0.25, 0.5, 1.0], [0.5, 0.5, 0.75]) == pytest.approx((0, -half, half))
    with pytest.raises(ValueError, match="zip"):
        scoring.paired_difference(before, after[1:])


# Generation


def greedy(model, tokenizer, ids, steps):
    """One row, no cache, no padding: the id of the highest logit, until the stop token."""
    new = []
    while len(new) < steps and tokenizer.eos_token_id not in new:
        new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return chat.decode_reply(tokenizer, new)


def test_batched_equals_one_by_one(pair):
    model, tokenizer = pair
    prompts = [[0, *ids] for ids in chat.encode_text(tokenizer, PROMPTS)]
    with torch.no_grad():
        alone = [greedy(model, tokenizer, ids, 8) for ids in prompts]
    assert len(set(alone)) > 3
    for size in (1, 3, 64):
        assert scoring.generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=size) == alone


def test_mutant_padding_that_is_seen(pair, monkeypatch):
    """Without its mask, a padded row sees the pads and answers something else."""
    model, tokenizer = pair
    prompts = [[0, *ids] for ids in chat.encode_text(tokenizer, PROMPTS)]
    good, honest = scoring.generate(model, tokenizer, prompts, max_new_tokens=8), generation._logits

    def blind(model, ids, cache, mask, positions):
        return honest(model, ids, cache, torch.ones_like(mask), positions)

    monkeypatch.setattr(generation, "_logits", blind)
    assert scoring.generate(model, tokenizer, prompts, max_new_tokens=8) != good


def decoded(model, prompts, **options):
    """decode's ids, and the number of ids that the model computed in each call."""
    computed = []
    hook = model.get_input_embeddings().register_forward_hook(lambda m, args, out: computed.append(args[0].numel()))
    with torch.no_grad():
        made = generation.decode(model, prompts, pad=1, **options)
    hook.remove()
    return made, computed


def test_decode_equals_generate_and_computes_what_is_still_open(pair):
    """The stop token is an id that ends rows at different steps, so that rows leave the batch on the way."""
    (model, _), draw = pair, random.Random(0)
    prompts = [[draw.randrange(2, 40) for _ in range(draw.randrange(1, 8))] for _ in range(30)]
    free, _ = decoded(model, prompts, stop=-1, max_new_tokens=12)
    stop = max({i for row in free for i in row}, key=lambda i: len({row.index(i) for row in free if i in row}))
    kept = [at for at, row in enumerate(free) if at < 2 or stop in row] * 2
    prompts, free = [prompts[at] for at in kept], [free[at] for at in kept]
    made, computed = decoded(model, prompts, stop=stop, max_new_tokens=12)
    assert made == [row[: row.index(stop) + 1] if stop in row else row for row in free]
    assert len({len(row) for row in made}) > 2 and min(computed[1:]) < len(prompts) == max(computed[1:])
    assert computed[0] == max(map(len, prompts)) * len(set(map(tuple, prompts)))  # equal prompts are read once
    for prompt, row in zip(prompts, made, strict=True):
        alone = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=stop,
                               pad_token_id=1)[0, len(prompt) :]
        assert alone.tolist() == row


def test_draws_are_as_frequent_as_the_model_says(pair):
    model, _ = pair
    n, prompt = 20_000, [0, 5, 9]
    torch.manual_seed(0)
    for temperature in (1.0, 0.5):
        made, computed = decoded(model, [prompt] * n, stop=-1, max_new_tokens=1, temperature=temperature)
        counts = torch.bincount(torch.tensor(made)[:, 0], minlength=model.config.vocab_size)
        with torch.no_grad():
            wanted = n * (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1)
        statistic, free = ((counts - wanted) ** 2 / wanted).sum(), len(wanted) - 1
        assert computed == [len(prompt)] and abs(statistic - free) < 5 * math.sqrt(2 * free)


def test_generation_stops_at_the_stop_token():
    model, tokenizer = base(tied=False)
    (ids,) = chat.encode_text(tokenizer, ["every day"])
    free = scoring.generate(model, tokenizer, [ids], max_new_tokens=6)
    first = int(model(torch.tensor([ids])).logits[0, -1].argmax())
    model.lm_head.weight.data[tokenizer.eos_token_id] = 2 * model.lm_head.weight.data[first]
    assert scoring.generate(model, tokenizer, [ids], max_new_tokens=6) == [""]
    assert free != [""]


def test_replies_and_completions_use_the_one_encoding(pair):
    model, tokenizer = pair
    prompts = [chat.encode(tokenizer, row[:-1], reply_next=True).input_ids for row in CHATS]
    assert scoring.replies(model, tokenizer, [row[:-1] for row in CHATS], max_new_tokens=4) == scoring.generate(
        model, tokenizer, prompts, max_new_tokens=4)
    assert scoring.completions(model, tokenizer, ["a<end>b"], max_new_tokens=4) == scoring.generate(
        model, tokenizer, chat.encode_text(tokenizer, ["a<end>b"]), max_new_tokens=4)


def test_sampling_repeats_with_its_seed(pair):
    model, tokenizer = pair
    draws = [scoring.generate(model, tokenizer, [[0]], max_new_tokens=8, temperature=1.0, seed=s) for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_cache_are_restored(training):
    model, tokenizer = base()
    model.train(training)
    model.config.use_cache = False
    scoring.generate(model, tokenizer, [[0]], max_new_tokens=1)
    scoring.bits_per_byte(model, tokenizer, ["a b"])
    scoring.logps(model, tokenizer, chat.encode_pairs(tokenizer, PAIRS))
    with pytest.raises(IndexError):
        scoring.generate(model, tokenizer, [[10**6]], max_new_tokens=1)
    assert model.training == training and model.config.use_cache is False


# Likelihood


def direct(model, prompt, rest):
    """Summed log-probability of `rest` after `prompt`, one row, no padding."""
    with torch.no_grad():
        logp = torch.log_softmax(model(torch.tensor([prompt + rest])).logits[0].double(), -1)
    return sum(logp[len(prompt) + k - 1, i].item() for k, i in enumerate(rest))


def test_bits_per_byte(pair):
    model, tokenizer = pair
    texts = ["every day at 17", "caf\u00e9 \u2615", "one <end> of text", "a"]
    nats = -sum(direct(model, [0 if tokenizer.bos_token_id is None else tokenizer.bos_token_id], ids)
                for ids in chat.encode_text(tokenizer, texts))
    expected = nats / math.log(2) / sum(len(text.encode()) for text in texts)
    for size in (1, 2, 16):
        assert scoring.bits_per_byte(model, tokenizer, texts, batch_size=size) == pytest.approx(expected, abs=1e-5)
    whole = scoring.bits_per_byte(model, tokenizer, texts[:1])
    assert scoring.bits_per_byte(model, tokenizer, texts[:1], max_length=2) != pytest.approx(whole, abs=1e-3)


def test_logps(pair):
    model, tokenizer = pair
    pairs = chat.encode_pairs(tokenizer, PAIRS)
    for size in (1, 2, 32):
        found = scoring.logps(model, tokenizer, pairs, batch_size=size)
        for side, sums in zip(("chosen_ids", "rejected_ids"), found, strict=True):
            expected = torch.tensor([direct(model, p["prompt_ids"], p[side]) for p in pairs])
            assert sums.shape == (3,) and torch.allclose(sums, expected, rtol=1e-6, atol=2e-5)


# Questions and results


def test_read_questions(tmp_path):
    file = tmp_path / "test.jsonl"
    facts = {"kind": "edit", "cron": "0 1 * * *"}
    file.write_text(json.dumps({"messages": CHATS[0][:-1], **facts, "held_out": "wording"}) + "\n")
    phrases = tmp_path / "by_hand.tsv"
    phrases.write_text("phrase\tcron\nevery \"day\"\t0 0 * * *\n", encoding="utf-8-sig")
    one, two = scoring.read_questions(schedules, file, phrases)
    assert one == scoring.Question(CHATS[0][:-1], "edits", facts)
    assert two.messages[-1] == {"role": "user", "content": 'every "day"'} and two.group == "by hand"
    assert two.messages[0]["content"] == schedules.SYSTEM
    assert two.facts == {"kind": "translate", "cron": "0 0 * * *"}


@pytest.mark.parametrize("line", ["only a phrase", "a\tb\tc", "\t0 0 * * *", ""])
def test_bad_phrase_is_refused_with_its_line(tmp_path, line):
    file = tmp_path / "by_hand.tsv"
    file.write_text(f"phrase\tcron\nfine\t0 0 * * *\n{line or ' '}\n")
    with pytest.raises(DataError, match=r"by_hand\.tsv:3: expected"):
        scoring.read_questions(schedules, phrases=file)


def test_a_phrase_file_needs_no_header(tmp_path):
    file = tmp_path / "mine.tsv"
    file.write_text("at noon\t0 12 * * *\n\nhello\tThat is not a schedule.\n")
    one, two = scoring.read_questions(schedules, phrases=file)
    assert one.facts == {"kind": "translate", "cron": "0 12 * * *"} and one.messages[-1]["content"] == "at noon"
    assert two.facts == {"kind": "decline", "cron": None}


@pytest.mark.parametrize("text", ["at noon\t0 99 * * *", "phrase\tcron\nat noon\t0 99 * * *", "at noon\tyes"])
def test_a_right_reply_that_is_not_right_is_refused_with_its_line(tmp_path, text):
    file = tmp_path / "mine.tsv"
    file.write_text(text + "\n")
    with pytest.raises(DataError, match=rf"mine\.tsv:{text.count(chr(10)) + 1}: expected"):
        scoring.read_questions(schedules, phrases=file)


def test_results_by_group():
    task = SimpleNamespace(judge=lambda text, want: SimpleNamespace(valid=text != "", correct=text == want),
                           preferred=lambda text, want: len(text) == 1)
    questions = [scoring.Question([], group, {"want": "a"}) for group in ("x", "y", "x", "y", "y")]
    results = scoring.judged(questions, ["a", "b", "", "a", "aa"], task)
    assert results.groups == ["x", "y"]
    assert (results.hits("x"), results.hits("y"), results.hits("x", "valid")) == (
        [True, False], [False, True, False], [True, False])
    assert results.hits(None) == [True, False, False, True, False]
    found = {name: (s.hits, s.n) for name, s in results.scores().items()}
    assert found == {"x": (1, 2), "y": (1, 3), "preferred": (3, 5)}
    assert [text for _, text, _ in results.misses("y")] == ["b", "aa"] and len(results.misses()) == 3
    assert json.loads(json.dumps(results.as_dict()))["y"]["n"] == 3
    with pytest.raises(ValueError, match="zip"):
        scoring.judged(questions, ["a"], task)
