"""Models of two layers that know eight rows by heart: each pair of numbers in both orders."""

import functools

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen3Config

from kit import chat, models

WORDS = "zero one two three four five six seven".split()
SIZES = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    head_dim=16,
    num_key_value_heads=2,
    max_position_embeddings=512,
)
SHAPES = {
    "llama": (LlamaConfig, True),
    "llama untied": (LlamaConfig, False),
    "qwen3": (Qwen3Config, True),
    "qwen3 untied": (Qwen3Config, False),
}


PAIRS = [(first, first ^ 1) for first in range(8)]  # both orders: positions decide


def row(first, second):
    return {
        "messages": [
            {"role": "system", "content": "Count."},
            {"role": "user", "content": f"say {WORDS[first]} {WORDS[second]}"},
            {"role": "assistant", "content": f"{first}, {second}."},
        ]
    }


@functools.cache
def trained(shape):
    """Return a (model, tokenizer) that knows the eight rows, so that no reply is a rounding."""
    config, tied = SHAPES[shape]
    tokenizer = AutoTokenizer.from_pretrained(models.POCKET)
    torch.manual_seed(0)
    rows = len(tokenizer) + 64
    shape = config(vocab_size=rows, tie_word_embeddings=tied, **SIZES)
    model = AutoModelForCausalLM.from_config(shape)
    chat.add_role_tokens(tokenizer, model)
    examples = chat.encode_chats(tokenizer, [row(*pair)["messages"] for pair in PAIRS])
    pad = functools.partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    ids = pad([torch.tensor(e.input_ids) for e in examples])
    labels = pad([torch.tensor(e.labels) for e in examples], padding_value=-100)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(150):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), tokenizer
