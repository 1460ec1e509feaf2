"""The memory planner of a lesson: kit.memory's terms as a table, with controls in a live notebook."""

from dataclasses import replace

from kit import memory, show

SHAPES = {  # from the models' config.json
    "SmolLM2-135M": dict(model_type="llama", hidden_size=576, num_hidden_layers=30, num_attention_heads=9,
                         num_key_value_heads=3, intermediate_size=1536, vocab_size=49152, tie_word_embeddings=True),
    "Qwen3-0.6B": dict(model_type="qwen3", hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, head_dim=128,
                       num_key_value_heads=8, intermediate_size=3072, vocab_size=151936, tie_word_embeddings=True),
    "SmolLM2-1.7B": dict(model_type="llama", hidden_size=2048, num_hidden_layers=24, num_attention_heads=32,
                         num_key_value_heads=32, intermediate_size=8192, vocab_size=49152, tie_word_embeddings=True),
    "Qwen3-8B": dict(model_type="qwen3", hidden_size=4096, num_hidden_layers=36, num_attention_heads=32, head_dim=128,
                     num_key_value_heads=8, intermediate_size=12288, vocab_size=151936, tie_word_embeddings=False),
}
LORA_RANK = 16


def ways(training, processes):
    """[(name, Training)]: SFT and DPO of all weights and of adapters on one GPU, then all weights over `processes`."""
    full = replace(training, kind="sft", lora_rank=0, checkpointing=False, processes=1)
    light = replace(full, lora_rank=LORA_RANK)
    found = [("SFT", full), ("SFT, checkpointing", replace(full, checkpointing=True)),
             (f"SFT, LoRA {LORA_RANK}", light), ("DPO", replace(full, kind="dpo")),
             ("DPO, precomputed reference", replace(full, kind="dpo", reference="precomputed")),
             (f"DPO, LoRA {LORA_RANK}", replace(light, kind="dpo"))]
    names = {"ddp": "DDP", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "fsdp2": "FSDP2, ZeRO-3"}
    return found + [(f"SFT, {name} on {processes}", replace(full, strategy=strategy, processes=processes))
                    for strategy, name in names.items() if processes > 1]


def plans(config, training, processes):
    """A table in GB (1e9 bytes) on each GPU: one row a way to train, one column a term at the moment of the peak."""
    rows = []
    for name, way in ways(training, processes):
        plan = memory.plan(config, way)
        rows.append([name, *[f"{plan.terms[term] / 1e9:.2f}" if plan.terms[term] else "-" for term in memory.TERMS],
                     f"{plan.peak / 1e9:.2f}", plan.moment])
    return show.table(["GB on each GPU", *memory.TERMS, "peak", "at"], rows)


def memory_plan(model="Qwen3-0.6B", *, micro_batch_size=8, length=1024, precision="autocast", processes=8):
    """Memory of each way to train `model`: a name of SHAPES, or a transformers config.

    micro_batch_size: rows, or pairs, at once on a GPU. length: ids of the longest row. precision: a key of
    memory.PRECISIONS. processes: GPUs of the split ways, 1 leaves them out. A live notebook adds controls.
    """
    given = {"micro_batch_size": micro_batch_size, "length": length, "precision": precision}
    configs = {**SHAPES, **({} if isinstance(model, str) else {"this model": model})}
    chosen = model if isinstance(model, str) else "this model"
    static = plans(configs[chosen], memory.Training(**given), processes)

    def widget():
        import ipywidgets as widgets

        page = widgets.HTML(static.rich)
        controls = {
            "model": widgets.Dropdown(options=list(configs), value=chosen, description="model"),
            "micro_batch_size": widgets.BoundedIntText(micro_batch_size, min=1, max=4096, description="rows at once"),
            "length": widgets.BoundedIntText(length, min=1, max=1 << 20, description="ids a row"),
            "precision": widgets.Dropdown(options=list(memory.PRECISIONS), value=precision, description="precision"),
            "processes": widgets.BoundedIntText(processes, min=1, max=4096, description="GPUs"),
        }

        def draw(_):
            now = {name: control.value for name, control in controls.items()}
            config, many = configs[now.pop("model")], now.pop("processes")
            page.value = plans(config, memory.Training(**now), many).rich

        for control in controls.values():
            control.observe(draw, "value")
        return widgets.VBox([*controls.values(), page])

    return show.Shown(static.text, rich=static.rich, widget=widget)
