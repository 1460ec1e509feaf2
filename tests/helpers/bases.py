"""The pocket's tokenizer above models of 2 layers, tied and untied, with and without spare embedding rows."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from kit import chat, models

CHATS = [
    [
        {"role": "system", "content": "Cron."},
        {"role": "user", "content": "every day at 17"},
        {"role": "assistant", "content": "0 17 * * *"},
    ],
    [
        {"role": "user", "content": "monday at noon, please\n"},
        {"role": "assistant", "content": "0 12 * * 1"},
        {"role": "user", "content": "  and at one"},
        {"role": "assistant", "content": "0 12,13 * * 1"},
    ],
    [
        {"role": "system", "content": ""},
        {"role": "user", "content": "caf\u00e9 \u2615 12:30"},
        {"role": "assistant", "content": ""},
    ],
]
PAIRS = [
    {"prompt": row[:-1], "chosen": row[-1:], "rejected": [{"role": "assistant", "content": reply}]}
    for row, reply in zip(CHATS, ("17 0 * * *", "0 12 * * 1", "I cannot do that."), strict=True)
]


def plain_tokenizer():
    return AutoTokenizer.from_pretrained(models.POCKET)


def plain_model(rows, tied=True, seed=0):
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=rows,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=tied,
            initializer_range=0.1,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
        )
    )


def base(tied=True, spare=64, seed=0):
    """(model, tokenizer) with role tokens; `spare` rows more than the tokenizer had ids."""
    tokenizer = plain_tokenizer()
    model = plain_model(len(tokenizer) + spare, tied, seed)
    chat.add_role_tokens(tokenizer, model)
    return model.eval(), tokenizer
