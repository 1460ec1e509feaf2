"""Rows of the embedding tables: new ones that can be told apart, and tables that fit the tokenizer."""

from kit.errors import SettingsError

SPARE_ROWS = 0.9  # a tokenizer with fewer ids than this share of the rows belongs to another model


def fit(model, tokens, new):
    """Give `model` a row for each of `tokens` ids, the `new` ids rows of their own (see kit.chat.add_role_tokens)."""
    import torch

    old_rows = model.get_input_embeddings().weight.shape[0]
    if tokens > old_rows:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    if not new:
        return
    ids = torch.tensor(new)
    used = min(old_rows, int(ids.min()))
    tables = {id(m.weight): m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in tables.values():
            old = weight[:used].float().cpu()
            rows = old.mean(0) + old.std(0) * torch.randn(len(ids), old.shape[1], generator=generator)
            rows *= old.norm(dim=1).median() / rows.norm(dim=1, keepdim=True)
            weight[ids.to(weight.device)] = rows.to(weight)


def check(model, tokens, control):
    """Raise SettingsError unless both tables fit `tokens` ids and the rows of the `control` ids are distinct."""
    weight = model.get_input_embeddings().weight
    output_rows = model.get_output_embeddings().weight.shape[0]
    check_sizes(tokens, weight.shape[0], output_rows, model.config.get_text_config().vocab_size)
    rows = weight[control].detach().float()
    gaps = [float((rows[i] - rows[j]).norm() / rows[i].norm()) for i in range(len(rows)) for j in range(i)]
    if min(gaps) < 1e-2:
        raise SettingsError("two role tokens have the same embedding, so no training can tell them apart; call "
                            "kit.chat.add_role_tokens on a base without them")


def check_sizes(tokens, rows, output_rows, vocab_size):
    """Every id has a row in both tables, and nearly every row an id."""
    if tokens > rows:
        raise SettingsError(f"the model has {rows} embedding rows for {tokens} tokens; call "
                            "kit.chat.add_role_tokens(tokenizer, model)")
    if not rows == output_rows == vocab_size:
        raise SettingsError(f"the model has {rows} embedding rows, {output_rows} output rows and vocab_size "
                            f"{vocab_size} in its config, which must be equal; load a model that was saved whole")
    if tokens < SPARE_ROWS * rows:
        raise SettingsError(f"the model has {rows} embedding rows for only {tokens} tokens, so it can write ids "
                            "that have no text; load the tokenizer that belongs to this model")
