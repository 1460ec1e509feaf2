"""Preference pairs from a model's own replies, their reference, and the SFT control. Lesson 04.

`PairTrainer` is TRL's DPOTrainer on ids, with the reference computed once. TRL 1.16 averages the
SFT term per micro batch. Here each micro batch weighs as its ids and pairs do in the whole step, so
the loss does not depend on how a step is split.
"""

import dataclasses
import hashlib
import json
import math

from kit import chat, records, runs, scoring, sft, tasks

EQUAL = chat.EQUAL
HELD_OUT = 15  # one prompt in so many is for validation


def sample(model, tokenizer, rows, k, *, temperature=1.0, **options):
    """Return `k` replies to the prompt of each row. Options as in `scoring.generate`."""
    prompts = [chat.as_messages(row["prompt"], "user") for row in rows for _ in range(k)]
    texts = scoring.replies(model, tokenizer, prompts, temperature=temperature, **options)
    return [texts[at : at + k] for at in range(0, len(texts), k)]


def own(rows, samples, task, form=False):
    """Return pairs {prompt, chosen, rejected} from a model's own replies to the prompts of `rows`.

    rows: preference rows whose chosen reply is right. samples: a list of replies for each row.
    `rejected` is the first wrong reply; with `form`, also a right one that is not in the form that
    the task prefers. `chosen` is the first good reply, or the row's own chosen reply if there is
    none. A row without a wrong reply gives no pair.
    """
    pairs = []
    for row, texts in zip(rows, samples, strict=True):
        right = chat.as_messages(row["chosen"], "assistant")[-1]["content"]
        correct = [text for text in texts if task.judge(text, right)]
        good = [text for text in correct if not task.prefers or task.prefers(text, right)]
        wrong = [text for text in texts if text.strip() and text not in (good if form else correct)]
        if wrong:
            replies = {"chosen": (good or [right])[0], "rejected": wrong[0]}
            pairs.append({"prompt": row["prompt"]} | {
                side: chat.as_messages(text, "assistant") for side, text in replies.items()})
    return pairs


def write(pairs, name):
    """Write `pairs` to runs/`name`/preferences.jsonl, one JSON object per line; return the file."""
    file = runs.root() / name / "preferences.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs]
    file.write_text("".join(lines), encoding="utf-8")
    return file


def load_pairs(params, tokenizer, split="train"):
    """Return (rows, pairs of ids) of the file params.pairs, or of the task's own pairs.

    "validation" is a fifteenth of the prompts, by hash: there the ids are the Encoded of the chosen
    replies, whose loss says how likely the policy still finds them.
    """
    task = tasks.load(params.task, on_bad=params.on_bad, check=split == "train")
    if params.pairs:
        task = dataclasses.replace(task, pairs=records.find(params.pairs))
    rows = tasks.rows(task, "pairs", on_bad=params.on_bad)
    if params.pairs or params.on_bad == "skip":  # otherwise tasks.load has refused them
        rows = records.split_leaked(rows, tasks.questions(task), params.on_bad)
    rows = rows.mapped("preferences",
                       lambda row: row if held_out(row) == (split == "validation") else None)
    if not len(rows):
        return rows, []
    rows, pairs = encode(params, tokenizer, rows)
    if split == "validation":
        pairs = [chat.Encoded(pair["prompt_ids"] + pair["chosen_ids"],
                              [0] * len(pair["prompt_ids"]) + [1] * len(pair["chosen_ids"]))
                 for pair in pairs]
    return rows, pairs


def held_out(row):
    """Return whether a pair is for validation: all pairs of a prompt are on one side."""
    prompt = json.dumps(row["prompt"], sort_keys=True).encode()
    return int(hashlib.sha256(prompt).hexdigest(), 16) % HELD_OUT == 0


def encode(params, tokenizer, rows):
    """Return (rows, pairs) that can be trained: replies that differ, and no more than max_length
    ids.

    on_bad="skip" rejects pairs with equal ids, on_bad="stop" raises DataError.
    """
    pairs = chat.encode_pairs(tokenizer, rows, params.on_bad)
    rows = rows.reject({i: ("rejected", *EQUAL) for i, pair in enumerate(pairs) if not pair})
    return sft.keep_short(rows, [pair for pair in pairs if pair], params.max_length)


def with_reference(trainer, data):
    """Return `data` with ref_chosen_logps and ref_rejected_logps (nats) of a DPOTrainer's
    reference.

    TRL's own pass names its file at random in each process when the rows are in memory, so several
    processes never find it, and it scores rows that the run never reaches. Here each process does
    its share of the batches. Rows that the run never reaches get NaN, which a step would refuse.
    """
    from accelerate.utils import gather_object

    args, state = trainer.args, trainer.accelerator
    size = args.per_device_train_batch_size
    batch = size * args.gradient_accumulation_steps * state.num_processes
    steps = math.ceil(args.num_train_epochs * math.ceil(len(data) / batch))
    steps += 2 * (state.num_processes > 1)  # a step that is dealt out unevenly has fewer rows
    used = min(len(data), (args.max_steps if args.max_steps > 0 else steps) * batch)
    parts = []
    for at in range(state.process_index * size, used, size * state.num_processes):
        rows = [data[i] for i in range(at, min(at + size, used))]
        inputs = trainer._prepare_inputs(trainer.data_collator(rows))
        logps = trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, inputs)
        parts.append((at, *(side.tolist() for side in logps)))
    parts = sorted(gather_object(parts)) if state.num_processes > 1 else parts
    for side, name in ((1, "ref_chosen_logps"), (2, "ref_rejected_logps")):
        column = [logp for part in parts for logp in part[side]]
        data = data.add_column(name, column + [math.nan] * (len(data) - used))
    return data


def chosen_only(data):
    """Return rows for SFTTrainer from the chosen replies of a dataset of pairs, in its order.

    Training on them is the control of a DPO run.
    """
    columns = {"input_ids": [], "labels": []}
    for prompt, reply in zip(data["prompt_ids"], data["chosen_ids"], strict=True):
        columns["input_ids"].append(prompt + reply)
        columns["labels"].append([chat.IGNORED] * len(prompt) + reply)
    return sft.dataset(columns, f"chosen {data._fingerprint}")


def amounts(batch):
    """Return [chosen ids that the loss predicts, pairs] of a DPO batch."""
    import torch

    mask = batch["completion_mask"]  # an id is predicted from those before it, so not the first
    pairs = torch.tensor(len(mask) // 2, device=mask.device)
    return torch.stack([mask.chunk(2)[0][:, 1:].sum(), pairs])


def mean_over_pairs(trainer, values):
    """Return what TRL takes the mean of; plain `gather` needs equally many pairs in each
    process."""
    import torch

    if not values.ndim:
        return trainer.gather(values)
    amount = torch.tensor(float(len(values)), device=values.device)
    total, count = trainer.accelerator.reduce(torch.stack([values.float().sum(), amount]), "sum")
    return (total / count)[None]


def __getattr__(name):
    """Make PairTrainer when it is first used, because importing TRL takes seconds."""
    if name != "PairTrainer":
        raise AttributeError(name)
    import torch
    from trl import DPOTrainer

    class PairTrainer(DPOTrainer):
        means = None

        def _prepare_dataset(self, dataset, *args, **options):
            return dataset

        def _precompute_ref_logps(self, dataset, name, batch_size):
            return with_reference(self, dataset)

        def get_batch_samples(self, iterator, count, device):
            samples, items = super().get_batch_samples(iterator, count, device)
            if samples:
                own = [*sum(map(amounts, samples)), len(samples)]
                total = self.accelerator.reduce(torch.tensor(own, device=device), "sum")
                self.means = total[:2] / total[2]
            return samples, items

        def _compute_loss(self, model, inputs, *args, **options):
            own, weights, means = amounts(inputs), self.loss_weights, self.means
            ids, pairs = own / (means if self.model.training and means is not None else own)
            scales = [ids if kind == "sft" else pairs for kind in self.loss_types]
            self.loss_weights = [a * b for a, b in zip(weights, scales, strict=True)]
            self.gather, self.accelerator.gather = self.accelerator.gather, self.mean_over_pairs
            try:
                return super()._compute_loss(model, inputs, *args, **options)
            finally:
                self.loss_weights, self.accelerator.gather = weights, self.gather

        mean_over_pairs = mean_over_pairs

    return globals().setdefault(name, PairTrainer)
