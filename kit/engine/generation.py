"""Ids that follow prompts, token by token: a row that stopped leaves the batch, and equal prompts are read once.

transformers' `generate` computes every row until the longest one ends; of sampled replies, one in a batch is long.
"""

LEAVE = 0.75  # rows that stopped leave when at most this share goes on: each leave copies the cache


def decode(model, prompts, *, stop, pad, max_new_tokens, temperature=0.0):
    """Ids that follow the id lists `prompts`, up to and with the id `stop`: one list a prompt.

    Greedy at temperature 0, else drawn from softmax(logits / temperature). The caller sets mode and seed.
    """
    made, rows = [[] for _ in prompts], list(range(len(prompts)))
    logits, state = _read(model, prompts, pad)
    for step in range(1, max_new_tokens + 1):
        ids = _next(logits, temperature)
        for row, token in zip(rows, ids.tolist(), strict=True):
            if stop not in made[row][-1:]:
                made[row].append(token)
        on = [at for at, row in enumerate(rows) if made[row][-1] != stop]
        if not on or step == max_new_tokens:
            break
        if len(on) <= LEAVE * len(rows):
            rows, ids, state = [rows[at] for at in on], ids[on], _select(state, on)
        logits, state = _step(model, ids, state)
    return made


def _read(model, prompts, pad):
    """Logits after each prompt, of shape (batch, vocab), and the state: cache, mask and last positions.

    Prompts are padded on the left.
    """
    import torch
    from transformers import DynamicCache

    different = {prompt: at for at, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    width, where = max(map(len, different)), next(model.parameters()).device
    ids = torch.tensor([(pad,) * (width - len(p)) + p for p in different], device=where)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in different], device=where)
    positions, cache = (mask.cumsum(1) - 1).clamp(min=0), DynamicCache(config=model.config)
    logits = _logits(model, ids, cache, mask, positions)
    at = [different[tuple(prompt)] for prompt in prompts]
    return logits[at], _select((cache, mask, positions[:, -1:]), at)


def _step(model, ids, state):
    """Logits after one more id a row, and the new state."""
    import torch

    cache, mask, positions = state
    mask, positions = torch.nn.functional.pad(mask, (0, 1), value=1), positions + 1
    return _logits(model, ids[:, None], cache, mask, positions), (cache, mask, positions)


def _select(state, at):
    """The state of the rows `at`, which may name a row more than once."""
    import torch

    cache, mask, positions = state
    at = torch.tensor(at, device=mask.device)
    cache.batch_select_indices(at)
    return cache, mask[at], positions[at]


def _logits(model, ids, cache, mask, positions):
    return model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                 logits_to_keep=1).logits[:, -1].float()


def _next(logits, temperature):
    """One id a row. A draw is the first id whose cumulated probability exceeds a uniform number."""
    import torch

    if not temperature:
        return logits.argmax(-1)
    total = (logits / temperature).softmax(-1).cumsum(-1)
    drawn = torch.rand(len(total), 1, device=total.device) * total[:, -1:]
    return torch.searchsorted(total, drawn, right=True)[:, 0].clamp(max=total.shape[1] - 1)
