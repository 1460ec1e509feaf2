"""What must hold of a trainer's data and model before step 1, read from the ids, labels and weights themselves."""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from kit import chat
from kit.engine.distributed import as_split

LN2 = math.log(2)
LONGEST = 8  # rows that are collated to see what a batch trains


@dataclass(frozen=True)
class Check:
    """One line of the preflight table."""

    name: str
    passed: bool
    detail: str


def counted(name, count, what):
    """The Check that `what` was found no time."""
    return Check(name, count == 0, f"{count} {what}")


def data_checks(data, rows, tokenizer, collate=None) -> list:
    """The Checks of a training dataset against `rows`, the Records it was made from.

    data: columns `input_ids` and `labels`, or `prompt_ids`, `chosen_ids` and `rejected_ids`. collate: the trainer's
    collator; its batch of the longest rows must train what the rows train, so nothing is cut and no pad is trained.
    """
    checks = [Check("rows in = used + rejected", rows.rows_in == len(data) + len(rows.rejected),
                    f"{rows.rows_in} = {len(data)} + {len(rows.rejected)}")]
    untrained, shifted, unstopped, wrong = span_faults(examples(data), tokenizer, rows.kind)
    checks += [counted("every row trains a token", untrained, "rows without"),
               counted("labels are the ids of their places", shifted, "rows with others"),
               counted("every trained span ends with <end>", unstopped, "spans without")]
    if rows.kind == "completion":
        others = other_completions(examples(data), rows, tokenizer)
        checks.append(counted("every trained span is a completion", others, "rows with more or less"))
    else:
        checks.append(counted("every trained span is one reply", wrong, "spans with more or less"))
    paired = "chosen_ids" in data.column_names  # rows of pairs may also train their chosen replies alone
    found, wanted = control_ids(data, tokenizer), turns(rows, paired)
    checks.append(Check("control ids = turns", found == wanted, ", ".join(f"{t} {n}" for t, n in found.items())))
    if paired:
        same = sum(c == r for c, r in zip(data["chosen_ids"], data["rejected_ids"], strict=True))
        checks.append(counted("chosen ids differ from rejected ids", same, "pairs alike"))
    if collate is not None:
        checks += batch_checks(data, collate)
    return checks


def label_checks(sides, tokenizer) -> list:
    """The Checks of (ids, labels) that need no source rows."""
    untrained, _, unstopped, _ = span_faults(sides, tokenizer, "completion")
    return [counted("every row trains a token", untrained, "rows without"),
            counted("every trained span ends with <end>", unstopped, "spans without")]


def examples(data):
    """(ids, labels) of each row; of a pair, those of prompt and chosen and of prompt and rejected."""
    if "labels" in data.column_names:
        yield from zip(data["input_ids"], data["labels"], strict=True)
    else:
        for side in ("chosen_ids", "rejected_ids"):
            for prompt, reply in zip(data["prompt_ids"], data[side], strict=True):
                yield prompt + reply, [chat.IGNORED] * len(prompt) + reply


def spans(labels):
    """(start, stop) of each run of trained labels; stop is exclusive."""
    edges = list(enumerate(pairwise([chat.IGNORED, *labels, chat.IGNORED])))
    starts = [at for at, (a, b) in edges if a == chat.IGNORED != b]
    return zip(starts, [at for at, (a, b) in edges if a != chat.IGNORED == b], strict=True)


def span_faults(sides, tokenizer, kind):
    """How many rows train nothing and train other ids, and how many spans do not stop and are no single reply.

    A reply starts after `<assistant>`, and no control id but the last stands in it. A row with an untrained
    `<assistant>` turn counts as one span too few; the open prompt of a pair is followed by its reply.
    """
    assistant, end = tokenizer.convert_tokens_to_ids(["<assistant>", chat.END])
    control = set(tokenizer.get_added_vocab().values())
    untrained = shifted = unstopped = wrong = 0
    for ids, labels in sides:
        found = list(spans(labels))
        untrained += not found
        shifted += any(label not in (chat.IGNORED, i) for i, label in zip(ids, labels, strict=True))
        unstopped += sum(labels[stop - 1] != end for _, stop in found)
        wrong += sum(start == 0 or ids[start - 1] != assistant or not control.isdisjoint(ids[start : stop - 1])
                     for start, stop in found)
        if kind == "chat":
            wrong += abs(ids.count(assistant) - len(found))
    return untrained, shifted, unstopped, wrong


def other_completions(sides, rows, tokenizer):
    """How many rows train other ids than those of their own completion and `<end>`, in whatever order the rows are."""
    end = tokenizer.convert_tokens_to_ids(chat.END)
    texts = chat.encode_text(tokenizer, [row["completion"] if "completion" in row else row["text"] for row in rows])
    wanted = Counter((*ids, end) for ids in texts)
    found = Counter(tuple(label for label in labels if label != chat.IGNORED) for _, labels in sides)
    return (found - wanted).total()


def control_ids(data, tokenizer):
    """How often each added token of the tokenizer stands in the rows; ids from text must not be among them."""
    names = {i: token for token, i in tokenizer.get_added_vocab().items()}
    columns = [c for c in ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids") if c in data.column_names]
    ids = Counter(i for column in columns for row in data[column] for i in row)
    return Counter({names[i]: ids[i] for i in sorted(names) if ids[i]})


def turns(rows, paired=True):
    """How often each control token must stand in the rows: a role token a message, `<end>` after each answer.

    paired: both replies of a preference row are there, and not the chosen one alone.
    """
    if rows.kind == "completion":
        return Counter({chat.END: len(rows)})
    if rows.kind == "chat":
        found = Counter(m["role"] for row in rows for m in row["messages"])
    else:  # the prompt ends with an open assistant turn, which each reply ends
        found = Counter(m["role"] for row in rows for m in chat.as_messages(row["prompt"], "user"))
        found["assistant"] += len(rows)
    ends = found["assistant"] + len(rows) * (rows.kind == "preferences" and paired)
    return Counter({chat.ROLE_TOKENS[role]: n for role, n in found.items()} | {chat.END: ends})


def batch_checks(data, collate):
    """What a batch of the longest rows trains; none where the collator makes columns we do not know."""
    lengths = [sum(map(len, lists)) for lists in zip(*(data[c] for c in data.column_names if "ids" in c), strict=True)]
    longest = sorted(range(len(data)), key=lengths.__getitem__)[-LONGEST:]
    batch = collate([data[i] for i in longest])
    if "labels" in batch:
        trained = batch["labels"]
    elif "completion_mask" in batch:
        trained = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, chat.IGNORED)
    else:
        return []
    found = Counter(label for label in trained.flatten().tolist() if label != chat.IGNORED)
    # A collator without padding drops the label of a row's first id: nothing stands before it to predict it from.
    wanted = [Counter(i for _, labels in examples(data.select(longest)) for i in labels[first:] if i != chat.IGNORED)
              for first in (0, 1)]
    detail = f"{found.total()} ids of {wanted[0].total()}"
    return [Check("a batch trains what its rows train", found in wanted, detail)]


def model_checks(trainer, tokenizer) -> list:
    """The Checks of the model that `trainer` trains, and of the reference of DPO."""
    control = tokenizer.convert_tokens_to_ids(list(chat.CONTROL_TOKENS))
    checks = [_embeddings(trainer.model, control), _dtype(trainer.model),
              _stop(trainer.model, tokenizer.convert_tokens_to_ids(chat.END))]
    return [*checks, reference_check(trainer)] if hasattr(trainer, "ref_model") else checks


def _embeddings(model, ids):
    """The control rows of the input table, and of the output table where it is a second one."""
    import torch

    gaps, trained = [], []
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = next(p for p in [getattr(table, "weight", None), *table.parameters()] if p is not None)
        trained.append(any(p.requires_grad for p in table.parameters()))
        rows = weight.detach()[torch.tensor(ids, device=weight.device)].float()
        gaps.append(float(torch.pdist(rows).min() / rows.norm(dim=1).min()))
    return Check("control rows distinct and trainable", all(trained) and min(gaps) > 1e-2,
                 f"smallest relative distance {min(gaps):.2f}, {'trained' if all(trained) else 'frozen'}")


def _dtype(model):
    """Ten steps at a learning rate of 1e-6 change few bfloat16 weights: the update is below their resolution."""
    found = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad})
    return Check("trained weights are float32", found == ["float32"], ", ".join(found))


def _stop(model, end):
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    return Check("<end> stops generation", end in stops, f"eos_token_id {stops}")


def reference_check(trainer):
    """The DPO loss of the untrained policy is ln 2 exactly when the reference is where the policy starts.

    Of the first micro batch, as the reference was asked: in bfloat16 another batch rounds its sums otherwise.
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
        policy = as_split(trainer)(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels,
                                   use_cache=False, fused_lm_head=True).log_probs.sum(1).chunk(2)
    trainer.model.train(training)
    margin = (policy[0] - ref[0]) - (policy[1] - ref[1])
    loss = float(-torch.nn.functional.logsigmoid(trainer.beta * margin).mean())
    return Check("first DPO loss = ln 2", abs(loss - LN2) < 1e-3, f"ln 2 = {LN2:.4f}, loss {loss:.4f}")
