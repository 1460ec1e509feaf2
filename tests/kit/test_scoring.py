"""Intervals against known numbers; batched generation and likelihoods against one row at a time."""

import json
import math
import random
from types import SimpleNamespace

import pytest
import torch
from bases import CHATS, PAIRS, base

from kit import chat, scoring, tasks
from kit.engine import generation
from kit.errors import DataError, SettingsError

PROMPTS = [
    "every day",
    "monday",
    "at 12:30 on the first of each month",
    "",
    "x",
    "every 5 minutes, please",
    "\u2615",
]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def pair(request):
    return base(request.param)


# Intervals


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [  # Wilson 1927 without continuity correction
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (5, 10, 0.236593, 0.763407),
        (81, 263, 0.255299, 0.366169),
        (15, 148, 0.062386, 0.160510),
        (1, 29, 0.006113, 0.171755),
    ],
)
def test_wilson(hits, n, low, high):
    score = scoring.score([True] * hits + [False] * (n - hits))
    assert score.interval == pytest.approx((low, high), abs=6e-5)
    assert score.as_dict() == {
        "rate": hits / n,
        "low": score.interval[0],
        "high": score.interval[1],
        "hits": hits,
        "n": n,
    }


def test_no_row_is_no_number():
    assert all(math.isnan(x) for x in (scoring.score([]).rate, *scoring.score([]).interval))


def pairs(both, lost, gained, neither):
    counts = ((1, 1, both), (1, 0, lost), (0, 1, gained), (0, 0, neither))
    rows = [(before, after) for before, after, n in counts for _ in range(n)]
    return [before for before, _ in rows], [after for _, after in rows]


@pytest.mark.parametrize(
    ("counts", "published"),
    [  # before minus after, as the sources print it
        (
            (1, 1, 7, 12),
            (-0.286, -0.507, -0.026),
        ),  # Fagerland, Lydersen & Laake 2014, airway hyper-responsiveness
        (
            (59, 6, 16, 80),
            (-0.062, -0.119, -0.005),
        ),  # the same, response before and after consolidation therapy
        (
            (14, 5, 0, 22),
            (0.122, 0.011, 0.226),
        ),  # Altman et al. 2000, Statistics with Confidence, table 6.2
        ((36, 12, 2, 0), (0.2, 0.0569, 0.3404)),
        ((36, 12, 0, 2), (0.24, 0.1144, 0.3735)),
    ],
)  # Newcombe 1998, method 10
def test_paired_difference_has_the_published_numbers(counts, published):
    before, after = pairs(*counts)
    digits = 10 ** -len(str(published[1]).split(".")[1])
    assert scoring.paired_difference(after, before) == pytest.approx(published, abs=0.51 * digits)
    change, low, high = scoring.paired_difference(before, after)
    assert (-change, -high, -low) == pytest.approx(published, abs=0.51 * digits)


@pytest.mark.parametrize(
    "counts", [(64, 0, 0, 0), (0, 0, 0, 64), (38, 0, 0, 26), (1, 0, 0, 0), (40, 3, 3, 18)]
)
def test_no_difference_is_no_certainty(counts):
    change, low, high = scoring.paired_difference(*pairs(*counts))
    assert change == 0 and -1 <= low < -0.01 and 0.01 < high <= 1


def test_paired_difference_covers_95_of_100():
    """5,000 draws at rates and a correlation like those of the lessons; Wald covers less."""
    draw, covered, wald, n = random.Random(0), 0, 0, 48
    for _ in range(5000):
        rows = draw.choices([(1, 1), (1, 0), (0, 1), (0, 0)], (0.85, 0.01, 0.06, 0.08), k=n)
        before, after = zip(*rows, strict=True)
        change, low, high = scoring.paired_difference(before, after)
        covered += low <= 0.05 <= high
        half = scoring.Z95 * math.sqrt(sum((a - b - change) ** 2 for b, a in rows) / n / (n - 1))
        wald += change - half <= 0.05 <= change + half
    assert 0.94 < covered / 5000 <= 0.99 and wald < covered


def test_paired_difference_of_rates():
    before, after = [0.25, 0.5, 1.0, 0.5], [0.5, 0.5, 0.75, 0.25]
    assert scoring.paired_difference(before, after) == pytest.approx(
        (-0.0625, -0.8125, 0.6875)
    )  # the floor of 3/4
    many = [0.5 + 0.25 * (n % 2) for n in range(200)]
    change, low, high = scoring.paired_difference([0.5] * 200, many)
    half = scoring.Z95 * 0.125313 / math.sqrt(200)  # standard deviation of the differences
    assert (change, low, high) == pytest.approx((0.125, 0.125 - half, 0.125 + half), abs=1e-5)
    assert scoring.paired_difference([0.5] * 60, [0.5] * 60) == pytest.approx((0, -0.05, 0.05))
    assert scoring.paired_difference([0.5], [0.75]) == (0.25, -1, 1)
    assert all(math.isnan(value) for value in scoring.paired_difference([], []))
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
        assert (
            scoring.generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=size) == alone
        )


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
    hook = model.get_input_embeddings().register_forward_hook(
        lambda m, args, out: computed.append(args[0].numel())
    )
    with torch.no_grad():
        made = generation.decode(model, prompts, pad=1, **options)
    hook.remove()
    return made, computed


def test_decode_equals_generate_and_computes_what_is_still_open(pair):
    """The stop token ends rows at different steps, so that rows leave the batch on the way."""
    (model, _), draw = pair, random.Random(0)
    prompts = [[draw.randrange(2, 40) for _ in range(draw.randrange(1, 8))] for _ in range(30)]
    free, _ = decoded(model, prompts, stop=-1, max_new_tokens=12)
    stop = max(
        {i for row in free for i in row},
        key=lambda i: len({row.index(i) for row in free if i in row}),
    )
    kept = [at for at, row in enumerate(free) if at < 2 or stop in row] * 2
    prompts, free = [prompts[at] for at in kept], [free[at] for at in kept]
    made, computed = decoded(model, prompts, stop=stop, max_new_tokens=12)
    assert made == [row[: row.index(stop) + 1] if stop in row else row for row in free]
    assert len({len(row) for row in made}) > 2 and min(computed[1:]) < len(prompts) == max(
        computed[1:]
    )
    assert computed[0] == max(map(len, prompts)) * len(
        set(map(tuple, prompts))
    )  # equal prompts are read once
    for prompt, row in zip(prompts, made, strict=True):
        alone = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=1,
        )[0, len(prompt) :]
        assert alone.tolist() == row


def test_draws_are_as_frequent_as_the_model_says(pair):
    model, _ = pair
    n, prompt = 20_000, [0, 5, 9]
    torch.manual_seed(0)
    for temperature in (1.0, 0.5):
        made, computed = decoded(
            model, [prompt] * n, stop=-1, max_new_tokens=1, temperature=temperature
        )
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
    assert scoring.replies(
        model, tokenizer, [row[:-1] for row in CHATS], max_new_tokens=4
    ) == scoring.generate(model, tokenizer, prompts, max_new_tokens=4)
    assert scoring.completions(model, tokenizer, ["a<end>b"], max_new_tokens=4) == scoring.generate(
        model, tokenizer, chat.encode_text(tokenizer, ["a<end>b"]), max_new_tokens=4
    )


def test_sampling_repeats_with_its_seed(pair):
    model, tokenizer = pair
    draws = [
        scoring.generate(model, tokenizer, [[0]], max_new_tokens=8, temperature=1.0, seed=s)
        for s in (1, 1, 2)
    ]
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
    nats = -sum(
        direct(model, [0 if tokenizer.bos_token_id is None else tokenizer.bos_token_id], ids)
        for ids in chat.encode_text(tokenizer, texts)
    )
    expected = nats / math.log(2) / sum(len(text.encode()) for text in texts)
    for size in (1, 2, 16):
        assert scoring.bits_per_byte(model, tokenizer, texts, batch_size=size) == pytest.approx(
            expected, abs=1e-5
        )
    whole = scoring.bits_per_byte(model, tokenizer, texts[:1])
    assert scoring.bits_per_byte(model, tokenizer, texts[:1], max_length=2) != pytest.approx(
        whole, abs=1e-3
    )


def test_logps(pair):
    model, tokenizer = pair
    pairs = chat.encode_pairs(tokenizer, PAIRS)
    for size in (1, 2, 32):
        found = scoring.logps(model, tokenizer, pairs, batch_size=size)
        for side, sums in zip(("chosen_ids", "rejected_ids"), found, strict=True):
            expected = torch.tensor([direct(model, p["prompt_ids"], p[side]) for p in pairs])
            assert sums.shape == (3,) and torch.allclose(sums, expected, rtol=1e-6, atol=2e-5)


# Results


def question(right, group="test", text="x"):
    return tasks.Question([{"role": "user", "content": text}], right, group, {}, ("f.jsonl", 3))


def task(**fields):
    return SimpleNamespace(
        **{"file": "t.py", "judge": tasks.exact, "prefers": None, "max_new_tokens": 4} | fields
    )


def test_results_by_group():
    questions = [question("a", group) for group in ("x", "y", "x", "y", "y")]
    results = scoring.judged(
        questions, ["a", "b", "", "a", "aa"], task(prefers=lambda text, right: len(text) == 1)
    )
    assert results.groups == ["x", "y"]
    assert (results.hits("x"), results.hits("y"), results.hits("x", "preferred")) == (
        [True, False],
        [False, True, False],
        [True, False],
    )
    assert results.hits() == [True, False, False, True, False]
    scores = {name: (s.hits, s.n) for name, s in results.scores().items()}
    assert scores == {"x": (1, 2), "y": (1, 3), "preferred": (3, 5)}
    assert [text for _, text in results.misses("y")] == ["b", "aa"] and len(results.misses()) == 3
    assert json.loads(json.dumps(results.as_dict()))["y"]["n"] == 3
    assert results.kinds(task(kind=len)) == {(1, 1): 3, (1, 0): 1, (1, 2): 1}
    with pytest.raises(ValueError, match="zip"):
        scoring.judged(questions, ["a"], task())


def test_without_prefers_there_is_no_second_column():
    assert list(scoring.judged([question("a")], ["a"], task()).scores()) == ["test"]


def test_a_judge_that_raises_on_a_reply_is_one_sentence():
    with pytest.raises(
        DataError,
        match=r"expected True or False for the reply 'b' where 'a' is right, got KeyError",
    ):
        scoring.judged([question("a")], ["b"], task(judge=lambda reply, right: {}[reply]))


def test_evaluate_counts_replies_that_reached_the_limit(pair, monkeypatch):
    model, tokenizer = pair
    stop = chat.stop_token(tokenizer)
    (one,) = chat.encode_text(tokenizer, ["one"])
    monkeypatch.setattr(
        generation,
        "decode",
        lambda model, prompts, **options: [
            [one[0]] * options["max_new_tokens"],
            [*one[:1], stop],
            [one[0]] * (options["max_new_tokens"] - 1) + [stop],
        ],
    )
    questions = [question(tokenizer.decode(one[:1])) for _ in range(3)]
    results = scoring.evaluate(model, tokenizer, questions, task())
    assert results.cut == 1 and len(results.texts) == 3 and sum(results.correct) == 1
    assert scoring.evaluate(model, tokenizer, questions, task(), max_new_tokens=2).cut == 1


def test_evaluate_completes_behind_a_separator(pair):
    model, tokenizer = pair
    texts = scoring.completions(model, tokenizer, ["at noon -> "], max_new_tokens=4)
    assert (
        scoring.evaluate(
            model, tokenizer, [question("x", text="at noon")], task(), separator=" -> "
        ).texts
        == texts
    )
    chats = scoring.replies(
        model, tokenizer, [question("x", text="at noon").messages], max_new_tokens=4
    )
    assert (
        scoring.evaluate(model, tokenizer, [question("x", text="at noon")], task()).texts == chats
    )


def test_a_question_that_does_not_fit_is_named(pair):
    model, tokenizer = pair
    with pytest.raises(
        SettingsError, match=r"f\.jsonl:3: expected a question of at most 124 ids, got \d+"
    ):
        scoring.evaluate(
            model, tokenizer, [question("x"), question("x", text="day " * 300)], task()
        )


def test_progress_is_shown_when_it_takes_long(pair, monkeypatch):
    model, tokenizer = pair
    lines = []
    fake = SimpleNamespace(update=lambda done: lines.append(done), finish=lines.append)
    monkeypatch.setattr(
        scoring.show, "progress", lambda title, total, unit: lines.append((title, total)) or fake
    )
    monkeypatch.setattr(scoring, "PATIENCE", 0)
    scoring.generate(model, tokenizer, [[0], [0, 5], [0, 5, 9]], max_new_tokens=2, batch_size=2)
    assert lines[:3] == [("scoring", 3), 2, 3] and "3 replies" in lines[3]
    monkeypatch.setattr(scoring, "PATIENCE", 60)
    lines.clear()
    scoring.generate(model, tokenizer, [[0]], max_new_tokens=2)
    assert lines == []


# One message at a time


def test_the_oldest_turns_go_when_the_conversation_is_too_long(pair):
    model, tokenizer = pair
    for system in ([{"role": "system", "content": "S"}], []):
        messages = system
        for number in range(12):
            messages = scoring.answer(
                model, tokenizer, messages, f"every day at {number}", max_new_tokens=8
            )
            ids = chat.encode(tokenizer, messages[:-1], reply_next=True).input_ids
            assert len(ids) + 8 <= model.config.max_position_embeddings
        assert messages[: len(system)] == system and messages[len(system)]["role"] == "user"
        assert 3 < len(messages) < 25 and messages[-2]["content"] == "every day at 11"
        with pytest.raises(
            SettingsError, match=r"expected a message of at most 120 ids, got \d+; shorten it"
        ):
            scoring.answer(model, tokenizer, messages, "day " * 200, max_new_tokens=8)


def test_a_message_with_half_of_a_surrogate_pair_gets_a_reply(pair):
    turns = scoring.answer(*pair, [], "at noon \udcff", max_new_tokens=2)
    assert turns[0]["content"] == "at noon ?" and turns[1]["role"] == "assistant"
