"""Generate replies token by token, without computing rows that have ended.

transformers' `generate` computes every row until the longest one ends, and one sampled reply of a
batch is usually long. Here, rows that have ended leave the batch, and equal prompts are read once.
"""

LEAVE = 0.75  # ended rows leave when at most this share goes on, because leaving copies the cache


def decode(model, prompts, *, stop, pad, max_new_tokens, temperature=0.0):
    """Return for each list of prompt ids the list of ids that follow, up to and with `stop`.

    Greedy at temperature 0, else drawn from softmax(logits / temperature). The caller sets the
    model's mode and the random seed.
    """
    replies, rows = [[] for _ in prompts], list(range(len(prompts)))
    logits, state = _read(model, prompts, pad)
    for step in range(1, max_new_tokens + 1):
        ids = _next(logits, temperature)
        for row, token in zip(rows, ids.tolist(), strict=True):
            if stop not in replies[row][-1:]:
                replies[row].append(token)
        running = [at for at, row in enumerate(rows) if replies[row][-1] != stop]
        if not running or step == max_new_tokens:
            break
        if len(running) <= LEAVE * len(rows):
            rows = [rows[at] for at in running]
            ids, state = ids[running], _select(state, running)
        logits, state = _step(model, ids, state)
    return replies


def _read(model, prompts, pad):
    """Return the logits after each prompt, (batch, vocab), and the state: cache, mask, positions.

    Prompts are padded on the left.
    """
    import torch
    from transformers import DynamicCache

    numbers = {prompt: at for at, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    width = max(map(len, numbers))
    ids = torch.tensor([(pad,) * (width - len(p)) + p for p in numbers], device=model.device)
    lengths = torch.tensor([[len(p)] for p in numbers], device=model.device)
    mask = (torch.arange(width, device=model.device) >= width - lengths).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    logits = _logits(model, ids, cache, mask, positions)
    at = [numbers[tuple(prompt)] for prompt in prompts]
    return logits[at], _select((cache, mask, positions[:, -1:]), at)


def _step(model, ids, state):
    """Return the logits after one more id per row, and the new state."""
    import torch

    cache, mask, positions = state
    mask, positions = torch.nn.functional.pad(mask, (0, 1), value=1), positions + 1
    return _logits(model, ids[:, None], cache, mask, positions), (cache, mask, positions)


def _select(state, at):
    """Return the state of the rows `at`; a row may be there more than once."""
    import torch

    cache, mask, positions = state
    at = torch.tensor(at, device=mask.device)
    cache.batch_select_indices(at)
    return cache, mask[at], positions[at]


def _logits(model, ids, cache, mask, positions):
    outputs = model(input_ids=ids, attention_mask=mask, position_ids=positions,
                    past_key_values=cache, use_cache=True, logits_to_keep=1)
    return outputs.logits[:, -1].float()


def _next(logits, temperature):
    """Return one id per row: the first whose cumulated probability exceeds a uniform number."""
    import torch

    if not temperature:
        return logits.argmax(-1)
    total = (logits / temperature).softmax(-1).cumsum(-1)
    drawn = torch.rand(len(total), 1, device=total.device) * total[:, -1:]
    return torch.searchsorted(total, drawn, right=True)[:, 0].clamp(max=total.shape[1] - 1)
