"""Parts that several benchmarks share: model configs, a tokenizer without words, TRL's DPO on
ids."""

from kit import memory


def config(name, **changes):
    """Return the transformers config of a name in kit.memory.SHAPES, with some keys changed."""
    from transformers import AutoConfig

    s = memory.SHAPES[name]
    sizes = {
        "hidden_size": s.hidden,
        "num_hidden_layers": s.layers,
        "head_dim": s.head,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "intermediate_size": s.width,
        "vocab_size": s.vocab,
        "tie_word_embeddings": s.tied,
    }
    return AutoConfig.for_model("qwen3" if s.normed else "llama", **sizes | changes)


def tokenizer():
    """Return a tokenizer with special tokens only: rows of random ids need no words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<end>": 1}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")),
        eos_token="<end>",
        pad_token="<pad>",
    )


def preferences(*args, **kwargs):
    """Return a DPOTrainer for rows that are ids already."""
    from trl import DPOTrainer

    class Preferences(DPOTrainer):
        def _prepare_dataset(self, dataset, *args):
            return dataset

    return Preferences(*args, **kwargs)


def machine():
    """Return the hardware and the versions, for the records of results."""
    import os
    import platform
    from importlib import metadata

    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    names = ("torch", "transformers", "trl", "accelerate")
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        **{name: metadata.version(name) for name in names},
    }
