"""How fast chat rows become ids and labels, against the preparation of TRL's SFTTrainer, on identical ids and masks.

`python benchmarks/encode_rows.py --out benchmarks/results/encode_rows.json`. One process, one thread; each round times
both, in the opposite order of the round before. TRL's side is `SFTTrainer._prepare_dataset` with `assistant_only_loss`
and the course's chat template; ours is `chat.encode_chats` and `sft.sft_dataset`. Both end in a datasets.Dataset.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import tempfile
import time
from importlib import metadata
from pathlib import Path

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from datasets import Dataset, disable_progress_bars
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from kit import chat, models, records, sft

SEED = 0


def load_tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(models.POCKET)
    chat.add_role_tokens(tokenizer)
    return tokenizer


def trl_preparation(tokenizer, folder):
    """A function of rows: what SFTTrainer makes of them before it trains."""
    shape = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                        num_attention_heads=1)
    config = SFTConfig(str(folder), assistant_only_loss=True, max_length=None, report_to="none", use_cpu=True,
                       bf16=False)
    few = Dataset.from_list([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}])
    trainer = SFTTrainer(LlamaForCausalLM(shape), config, train_dataset=few, processing_class=tokenizer)
    return lambda rows: trainer._prepare_dataset(Dataset.from_list(rows), tokenizer, config, False, None, "train")


def ours(tokenizer):
    """A function of rows: what a lesson makes of them before it trains."""
    return lambda rows: sft.sft_dataset(chat.encode_chats(tokenizer, [row["messages"] for row in rows]), seed=SEED)


def same_ids_and_masks(rows, tokenizer, theirs, mine):
    """Raise AssertionError unless every row has the same ids and the same trained ids on both sides."""
    prepared, encoded = theirs(rows), chat.encode_chats(tokenizer, [row["messages"] for row in rows])
    assert len(prepared) == len(encoded) == len(rows)
    for row, e in zip(prepared, encoded, strict=True):
        assert (row["input_ids"], row["labels"]) == (e.input_ids, e.labels)
    made = mine(rows)
    kept = sorted(zip(made["input_ids"], made["labels"], strict=True))
    assert kept == sorted((e.input_ids, e.labels) for e in encoded)
    return sum(len(e.input_ids) for e in encoded)


def measure(rows, rounds=2):
    """The facts of one comparison: seconds of each round and side, and the ratio of each round."""
    tokenizer = load_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        sides = {"trl": trl_preparation(tokenizer, folder), "kit": ours(tokenizer)}
        ids = same_ids_and_masks(rows, tokenizer, *sides.values())
        seconds = {name: [] for name in sides}
        for number in range(rounds):
            for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
                gc.collect()  # what the other side left behind is not this side's time
                begun = time.process_time()
                sides[name](rows)
                seconds[name].append(time.process_time() - begun)
    ratios = [a / b for a, b in zip(seconds["trl"], seconds["kit"], strict=True)]
    return {"rows": len(rows), "ids": ids, "identical": True, "cpu_seconds": seconds,
            "ms_a_row": {name: 1e3 * statistics.mean(s) / len(rows) for name, s in seconds.items()}, "ratios": ratios}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file of the result")
    given = parser.parse_args()
    disable_progress_bars()
    rows = list(records.read(records.find("data_samples/cron/chat.jsonl"), "chat", limit=given.rows))
    told = measure(rows, given.rounds)
    versions = {name: metadata.version(name) for name in ("trl", "transformers", "tokenizers", "datasets")}
    told |= {"hardware": f"{platform.machine()}, {os.cpu_count()} cores, one thread used", "seed": SEED,
             "date": time.strftime("%Y-%m-%d"), "python": platform.python_version(), "versions": versions}
    for name, mean in told["ms_a_row"].items():
        spread = ", ".join(f"{s:.2f}" for s in told["cpu_seconds"][name])
        print(f"{name}: {mean:.3f} ms a row (CPU seconds a round: {spread})")
    print("ratio of each round: " + ", ".join(f"{r:.2f}" for r in told["ratios"]))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
