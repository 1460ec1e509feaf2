"""The table of checks before step 1, read from ids, labels and weights themselves. Lesson 03."""

import itertools
import math
import operator
from collections import Counter
from typing import NamedTuple

from kit import chat, speed
from kit.engine.distributed import as_split
from kit.errors import SettingsError

LN2 = math.log(2)
LONGEST = 8  # rows that are collated to see what a batch trains


class Check(NamedTuple):
    """One line of the preflight table."""

    name: str
    passed: bool
    detail: str


def run(trainer, tokenizer, rows=None):
    """Return the Checks of what no loss curve would show; raise SettingsError at one that fails.

    rows: the Records behind the trainer's dataset; without them, the checks that need them are left
    out. On a GPU, `speed.fit` then finds how many rows fit at once. Fingerprints and finite
    gradients are checked by the run itself.
    """
    own = getattr(trainer, "own_checks", None)  # of a trainer whose rows are prompts
    checks = own(tokenizer) if own else data_checks(trainer, rows, tokenizer)
    checks += model_checks(trainer, tokenizer)
    for check in checks:
        if not check.passed:
            raise SettingsError(f"preflight: expected: {check.name}, got: {check.detail}; train "
                                "with rows, template and adapters of the kit, or correct yours")
    if not own:
        speed.fit(trainer)
    return checks


def table(checks) -> str:
    """Return the checks as text, a line for each."""
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{'ok ' if check.passed else 'NO '} {check.name:{width}}  {check.detail}"
                     for check in checks)


def none(name, count, what):
    """Return a Check that passes when `count` is zero."""
    return Check(name, count == 0, f"{count} {what}")


def data_checks(trainer, rows, tokenizer) -> list:
    """Return the Checks of the trainer's dataset: columns of SFTTrainer, or of DPOTrainer.

    The collator's batch of the longest rows must train what the rows train, so nothing is cut and
    no pad is trained.
    """
    columns, stop = trainer.train_dataset.with_format(None)[:], chat.stop_token(tokenizer)
    faults, stop = span_faults(examples(columns), tokenizer), tokenizer.convert_ids_to_tokens(stop)
    checks = [none("every row trains a token", faults["untrained"], "rows without a trained token"),
              none("labels are the ids of their places", faults["shifted"],
                   "rows with wrong labels"),
              none(f"every trained span ends with {stop}", faults["unstopped"],
                   f"spans that do not end with {stop}")]
    if rows is None:
        return checks
    used, rejected = len(trainer.train_dataset), len(rows.rejected)
    checks.insert(0, Check("rows in = used + rejected", rows.rows_in == used + rejected,
                           f"{rows.rows_in} = {used} + {rejected}"))
    if rows.kind == "completion":
        others = other_completions(columns, rows, tokenizer)
        checks.append(none("every trained span is a completion", others,
                           "rows that are not exactly one completion"))
    else:
        turns = sum(m["role"] == "assistant" for row in rows for m in row.get("messages", ()))
        wrong = faults["wrong"] + abs(turns - faults["spans"]) * (rows.kind == "chat")
        checks.append(none("every trained span is one reply", wrong,
                           "spans that are not exactly one reply"))
    counts, paired = control_counts(columns, tokenizer), "chosen_ids" in columns
    checks.append(Check("control ids = those of the template",
                        counts == template_counts(rows, tokenizer, paired),
                        ", ".join(f"{token} {n}" for token, n in counts.items())))
    if paired:
        same = sum(map(operator.eq, columns["chosen_ids"], columns["rejected_ids"]))
        checks.append(none("chosen ids differ from rejected ids", same, "pairs with equal ids"))
    collate = getattr(trainer, "data_collator", None)
    return checks + (batch_checks(trainer.train_dataset, collate) if collate else [])


def examples(columns):
    """Return (ids, labels) of each row of a dataset's columns; a pair is two rows."""
    if "labels" in columns:
        return list(zip(columns["input_ids"], columns["labels"]))
    return [(prompt + reply, [chat.IGNORED] * len(prompt) + reply)
            for side in ("chosen_ids", "rejected_ids")
            for prompt, reply in zip(columns["prompt_ids"], columns[side], strict=True)]


def spans(labels):
    """Return (start, end) of each trained span."""
    places, at = [], 0
    for trained, group in itertools.groupby(labels, lambda label: label != chat.IGNORED):
        end = at + len(list(group))
        places += [(at, end)] * trained
        at = end
    return places


def span_faults(rows, tokenizer):
    """Return counts: rows that train nothing or other ids, spans without a stop or not one reply.

    A reply starts after the last id of the generation prompt, and no control id is inside it.
    """
    stop, control, prompt = chat.stop_token(tokenizer), set(chat.control_ids(tokenizer)), None
    if tokenizer.chat_template:
        prompt = prompt_end(tokenizer)
        template = chat.layout(tokenizer, ("user", "assistant"))
        control -= {item.id for item in template if item.trained}
    control.add(stop)
    faults = Counter()
    for ids, labels in rows:
        places = spans(labels)
        faults["spans"] += len(places)
        faults["untrained"] += not places
        faults["shifted"] += any(b not in (a, chat.IGNORED) for a, b in zip(ids, labels))
        for start, end in places:
            faults["unstopped"] += labels[end - 1] != stop
            begins = start > 0 and ids[start - 1] == prompt
            faults["wrong"] += not (begins and control.isdisjoint(ids[start : end - 1]))
    return faults


def prompt_end(tokenizer):
    """Return the last id of the generation prompt, after which a reply begins."""
    user = [{"role": "user", "content": ""}]
    return chat.encode(tokenizer, user, reply_next=True).input_ids[-1]


def other_completions(columns, rows, tokenizer):
    """Return how many rows train other ids than a completion of the file and its stop token."""
    texts = chat.encode_text(tokenizer, (row.get("completion", row.get("text")) for row in rows))
    trained = Counter(tuple(trained_ids(labels)) for labels in columns["labels"])
    return (trained - Counter((*ids, chat.stop_token(tokenizer)) for ids in texts)).total()


def trained_ids(labels):
    return [label for label in labels if label != chat.IGNORED]


def control_counts(columns, tokenizer):
    """Return a Counter of all control tokens in the dataset, a prompt of a pair once."""
    counts = Counter()
    for name in columns:
        if name.endswith("_ids"):
            counts.update(itertools.chain.from_iterable(columns[name]))
    names = chat.control_ids(tokenizer)
    return Counter({names[i]: counts[i] for i in sorted(names) if counts[i]})


def template_counts(rows, tokenizer, paired):
    """Return the Counter of the control tokens that the template writes around these rows."""
    names, counts, reply = chat.control_ids(tokenizer), Counter(), []
    if rows.kind == "completion":
        return Counter({names[chat.stop_token(tokenizer)]: len(rows)})
    if rows.kind == "preferences":
        template = chat.layout(tokenizer, ("user", "assistant"))
        reply = [item.id for item in template if item.trained] * (1 + paired)
    for row in rows:
        messages = row.get("messages") or chat.as_messages(row["prompt"], "user")
        roles = tuple(message["role"] for message in messages)
        items = chat.layout(tokenizer, roles, rows.kind == "preferences")
        counts.update([item.id for item in items] + reply)
    return Counter({names[i]: counts[i] for i in sorted(names) if counts[i]})


def batch_checks(data, collate):
    """Return the Check of what a batch of the longest rows trains; none for unknown collators."""
    data = data.with_format(None)
    columns = [data[name] for name in data.column_names if name.endswith("_ids")]
    lengths = [sum(map(len, row)) for row in zip(*columns, strict=True)]
    longest = data.select(sorted(range(len(data)), key=lengths.__getitem__)[-LONGEST:])
    batch = collate(list(longest))
    if "completion_mask" in batch:
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, chat.IGNORED)
    else:
        labels = batch.get("labels")
    if labels is None:
        return []
    got, rows = sorted(trained_ids(labels.flatten().tolist())), examples(longest[:])
    # A collator without padding drops the label of a row's first id: nothing predicts it.
    every, predicted = ([sorted(i for _, labels in rows for i in trained_ids(labels[first:]))]
                        for first in (0, 1))
    return [Check("a batch trains what its rows train", got in every + predicted,
                  f"{len(got)} ids of {len(every[0])}")]


def model_checks(trainer, tokenizer) -> list:
    """Return the Checks of the model that the trainer trains, and of the reference of DPO."""
    model, stop = trainer.model, chat.stop_token(tokenizer)
    types = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()
                    if p.requires_grad})
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    checks = [embedding_check(model, tokenizer)] if chat.is_kit(tokenizer) else []
    # Ten steps at a learning rate of 1e-6 change few bfloat16 weights: their resolution is lower.
    checks += [Check("trained weights are float32", types == ["float32"], ", ".join(types)),
               Check(f"{tokenizer.convert_ids_to_tokens(stop)} stops generation", stop in stops,
                     f"eos_token_id {stops}")]
    paired = hasattr(trainer, "compute_ref_log_probs")
    return [*checks, reference_check(trainer)] if paired else checks


def embedding_check(model, tokenizer):
    """Return the Check of the control rows of the input table, and of the output table."""
    import torch

    ids, gaps, trained = tokenizer.convert_tokens_to_ids(list(chat.CONTROL_TOKENS)), [], []
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        rows = table.weight.detach()[ids].float()
        gaps.append(float(torch.pdist(rows).min() / rows.norm(dim=1).min()))
        trained.append(any(p.requires_grad for p in table.parameters()))
    return Check("control rows distinct and trainable", all(trained) and min(gaps) > 1e-2,
                 f"smallest relative distance {min(gaps):.2f}, "
                 f"{'trained' if all(trained) else 'frozen'}")


def reference_check(trainer):
    """Return the Check that the DPO loss of the untrained policy is ln 2: policy equals reference.

    Uses the same micro batch as the reference pass, because bfloat16 rounding depends on the batch
    shape.
    """
    import torch

    rows = min(trainer.args.per_device_train_batch_size, len(trainer.train_dataset))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(rows)])
    ref = [batch.pop(f"ref_{side}_logps", None) for side in ("chosen", "rejected")]
    batch = trainer._prepare_inputs(batch)
    training = trainer.model.training
    trainer.model.eval()
    if ref[0] is None:
        ref = trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, batch)
    ref = [logps.to(batch["input_ids"].device) for logps in ref]
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, chat.IGNORED)
    with torch.no_grad(), trainer.accelerator.autocast():
        output = as_split(trainer)(input_ids=batch["input_ids"], labels=labels, use_cache=False,
                                   attention_mask=batch["attention_mask"], fused_lm_head=True)
    policy = output.log_probs.sum(1).chunk(2)
    trainer.model.train(training)
    margin = (policy[0] - ref[0]) - (policy[1] - ref[1])
    loss = float(-torch.nn.functional.logsigmoid(trainer.beta * margin).mean())
    return Check("first DPO loss = ln 2", abs(loss - LN2) < 1e-3,
                 f"ln 2 = {LN2:.4f}, loss {loss:.4f}")
