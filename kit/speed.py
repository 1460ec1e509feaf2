"""What makes TRL's trainers as fast as the hardware: layers, head, and how many rows at once. Measured in lesson 07."""

import functools

from kit import models
from kit.errors import SettingsError

TOKENS = 32_768  # in one micro batch: enough to fill a large GPU with a small model


def checkpointing(model, on=True):
    """Forget a layer's states after the forward pass and compute them again in the backward pass, or no longer do."""
    name = f"checkpointing_{'enable' if on else 'disable'}"
    (getattr(model, f"activation_{name}", None) or getattr(model, f"gradient_{name}"))()  # transformers renamed it


def micro_batch_size(lengths, batch_size, processes=1, tokens=TOKENS):
    """Largest number of rows at once that divides a step and whose rows hold at most `tokens` ids on average.

    lengths: ids of each row. Accumulation does the rest, so the steps stay the same.
    """
    mine = batch_size // processes
    most = max(1, int(tokens * len(lengths) / sum(lengths)))
    return max(n for n in range(1, mine + 1) if mine % n == 0 and n <= most)


@functools.cache
def trained_ids_head():
    """TRL's head as one function for a CPU: log-probabilities, entropies and hits of the ids in the loss.

    The same call and numbers as trl.kernels.ChunkedLogProbFunction, which computes the scores twice and in tiles, as a
    GPU needs it. Entropies carry no gradient. Scaled, capped or biased scores and GPUs stay with TRL's.
    """
    import torch
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    class TrainedIds(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden, weight, targets):
            scores = (hidden @ weight.t()).float()  # under autocast the product alone is in bfloat16
            log_z, rows = scores.logsumexp(-1), torch.arange(len(targets))
            logps, hits = scores[rows, targets] - log_z, scores.argmax(-1) == targets
            p = (scores - log_z[:, None]).exp_()
            entropy = log_z - torch.linalg.vecdot(p, scores)
            ctx.save_for_backward(hidden, weight, targets, p)
            ctx.mark_non_differentiable(entropy, hits)
            return logps, entropy, hits

        @staticmethod
        def backward(ctx, grad, *_):
            hidden, weight, targets, p = ctx.saved_tensors
            p = p.mul_(-grad[:, None])
            p[torch.arange(len(targets)), targets] += grad
            return (p @ weight).to(hidden.dtype), p.t() @ hidden.to(p.dtype), None

    class Head:
        @staticmethod
        def apply(hidden, weight, bias, targets, temperature, chunk, softcap, scale, outputs):
            plain = (bias, softcap, temperature, scale) == (None, None, 1.0, 1.0) and hidden.device.type == "cpu"
            alike = hidden.dtype == weight.dtype or torch.is_autocast_enabled("cpu")
            if not (plain and alike) or {"mean_logits", "log_sum_sq_probs"} & set(outputs):
                return ChunkedLogProbFunction.apply(hidden, weight, bias, targets, temperature, chunk, softcap, scale,
                                                    outputs)
            logps, entropy, hits = TrainedIds.apply(hidden, weight, targets)
            return logps, entropy if "entropy" in outputs else None, None, None, hits if "is_top1" in outputs else None

    return Head


def largest(lengths, size, in_order):
    """Rows of the micro batch with the most ids: one that comes when rows are taken in order, else the longest rows."""
    if not in_order:
        return sorted(range(len(lengths)), key=lengths.__getitem__)[-size:]
    batches = [range(at, min(at + size, len(lengths))) for at in range(0, len(lengths), size)]
    return list(max(batches, key=lambda batch: sum(lengths[i] for i in batch)))


def arrays(trainer):
    """Let rows with labels come as arrays: SFT's collator copies an array, and reads a list number by number.

    Meanwhile a GPU waits. DPO's collator joins prompt and reply as lists, so its rows stay lists.
    """
    columns = trainer.train_dataset.column_names or ()
    if "labels" in columns and "prompt_ids" not in columns:
        trainer.train_dataset = trainer.train_dataset.with_format("numpy")


def fit(trainer):
    """Try the largest micro batch of `trainer`; while it does not fit into the GPU, take fewer rows at once and say so.

    Accumulation grows by as much, so the steps stay the same. One row that does not fit is tried again with
    checkpointing. Raises SettingsError when that does not fit either. Rows come as `arrays` from then on. Does nothing
    without a GPU.
    """
    if models.device() != "cuda":
        return
    arrays(trainer)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return
    args, asked, checkpointed = trainer.args, trainer.args.per_device_train_batch_size, False
    while not _tried(trainer):
        rows = args.per_device_train_batch_size
        if rows > 1:
            fewer = next(n for n in range(rows // 2, 0, -1) if rows % n == 0)
            args.gradient_accumulation_steps *= rows // fewer
            args.per_device_train_batch_size = trainer._train_batch_size = fewer
        elif not checkpointed:
            checkpointed = True
            checkpointing(trainer.model)
        else:
            raise SettingsError("one row and a checkpointed model were expected to fit into the GPU, they do not; "
                                "lower max_length, or take a smaller model or adapters")
    if checkpointed or args.per_device_train_batch_size < asked:
        print(f"{asked} rows at once do not fit into the GPU: {args.per_device_train_batch_size} at once, "
              f"{args.gradient_accumulation_steps} times a step{', with checkpointing' * checkpointed}; same steps")


def _tried(trainer):
    """Whether forward and backward of the largest batch fit beside the optimizer's two moments, on all processes."""
    import torch

    model, args, data = trainer.model, trainer.args, trainer.train_dataset
    names = [name for name in ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids") if name in data.column_names]
    lengths = [sum(map(len, row)) for row in zip(*(data[name] for name in names), strict=True)]
    longest = largest(lengths, args.per_device_train_batch_size, args.train_sampling_strategy == "sequential")
    trained, fits = sum(p.numel() for p in model.parameters() if p.requires_grad), True
    state, mode, loss = torch.cuda.get_rng_state(), model.training, None
    model.train()
    try:
        moments = torch.empty(2 * trained, device=args.device)
        batch = trainer._prepare_inputs(trainer.data_collator([data[i] for i in longest]))
        with trainer.accelerator.autocast():
            loss = trainer.compute_loss(model, batch)
        loss.backward()
        del moments
    except torch.OutOfMemoryError:
        fits = False
    loss = batch = moments = None
    model.zero_grad(set_to_none=True)
    model.train(mode)
    torch.cuda.set_rng_state(state)
    if not fits:  # what fits is kept: the blocks of the largest batch serve all others without the driver
        torch.cuda.empty_cache()
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    failed = trainer.accelerator.reduce(torch.tensor([int(not fits)], device=args.device), "sum")
    return int(failed) == 0
