"""Preference pairs: from a model's own replies, with what the reference gives them, and the SFT control on them.

Derived in lesson 04. Layers: `own` needs a task module, the rest TRL's DPOTrainer.
"""

import json
import math

from kit import chat, runs, scoring, sft


def sample(model, tokenizer, rows, k, *, temperature=1.0, **options):
    """`k` replies to the prompt of each of `rows`: one list of k texts a row. Options as in `scoring.generate`."""
    prompts = [chat.as_messages(row["prompt"], "user") for row in rows for _ in range(k)]
    texts = scoring.replies(model, tokenizer, prompts, temperature=temperature, **options)
    return [texts[at : at + k] for at in range(0, len(texts), k)]


def gold(row):
    """Text of a row's chosen reply."""
    return chat.as_messages(row["chosen"], "assistant")[-1]["content"]


def own(rows, samples, task, form=False):
    """Pairs {prompt, chosen, rejected} from a model's own replies to the prompts of `rows`.

    rows: preference rows whose chosen reply is gold. samples: a list of replies a row. Rejected is the first wrong
    reply; with `form`, a right one that people rank lower counts as wrong. Chosen is the first reply that is right and
    in the form people rank first, or gold where there is none. A row without a wrong reply gives no pair.
    """
    pairs = []
    for row, texts in zip(rows, samples, strict=True):
        known = task.facts(gold(row))
        liked = [text for text in texts if task.preferred(text, **known)]
        wrong = [text for text in texts if text.strip() and text not in liked
                 and (form or not task.judge(text, **known).correct)]
        if wrong:
            chosen, rejected = ([{"role": "assistant", "content": text}]
                                for text in ((liked or [gold(row)])[0], wrong[0]))
            pairs.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected})
    return pairs


def write(pairs, name):
    """Write `pairs` to runs/`name`/preferences.jsonl, one JSON object a line, and return the file."""
    file = runs.root() / name / "preferences.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")
    return file


def with_reference(trainer, data):
    """`data` with the columns ref_chosen_logps and ref_rejected_logps (nats) of the reference of a DPOTrainer.

    TRL's own pass names its file at random in each process when the rows are in memory, so several processes never
    find it. Here each process does its share of the batches. Rows that the run never reaches get NaN, which a step
    would refuse.
    """
    from accelerate.utils import gather_object

    args, state = trainer.args, trainer.accelerator
    size = args.per_device_train_batch_size
    batch = size * args.gradient_accumulation_steps * state.num_processes
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * math.ceil(len(data) / batch))
    used = min(len(data), steps * batch)
    found = []
    for at in range(state.process_index * size, used, size * state.num_processes):
        rows = [data[i] for i in range(at, min(at + size, used))]
        inputs = trainer._prepare_inputs(trainer.data_collator(rows))
        chosen, rejected = trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, inputs)
        found.append((at, chosen.tolist(), rejected.tolist()))
    found = sorted(gather_object(found)) if state.num_processes > 1 else found
    for side, name in ((1, "ref_chosen_logps"), (2, "ref_rejected_logps")):
        column = [logp for part in found for logp in part[side]]
        data = data.add_column(name, column + [math.nan] * (len(data) - used))
    return data


def chosen_only(data):
    """Rows for SFTTrainer from the chosen replies of a dataset of pairs, in its order: the control of a DPO run."""
    prompts, replies = list(data["prompt_ids"]), list(data["chosen_ids"])
    columns = {"input_ids": [p + c for p, c in zip(prompts, replies, strict=True)],
               "labels": [[chat.IGNORED] * len(p) + c for p, c in zip(prompts, replies, strict=True)]}
    return sft.dataset(columns, f"chosen {data._fingerprint}")
