"""How many rows at once, and narrower states and fused layers that leave the numbers alone."""

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import memory_gpu
from kit import memory, models, speed
from kit.engine import patches
from kit.errors import MissingError, SettingsError

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def tiny():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES))


# Rows at once


class Gpu:
    """A trainer on a pretended GPU that holds `room` rows, twice as many with checkpointing."""

    def __init__(self, rows, room):
        self.args = SimpleNamespace(per_device_train_batch_size=rows, gradient_accumulation_steps=2)
        self.is_fsdp_enabled = self.is_deepspeed_enabled = False
        self.train_dataset = SimpleNamespace(column_names=["prompt_ids"])
        self.room, self.model, self.tries = room, self, []

    def gradient_checkpointing_enable(self):
        self.room *= 2

    def tried(self):
        self.tries.append(self.args.per_device_train_batch_size)
        return self.tries[-1] <= self.room


def pretend(monkeypatch, device="cuda"):
    monkeypatch.setattr(models, "device", lambda: device)
    monkeypatch.setattr(speed, "_fits", Gpu.tried)


@pytest.mark.parametrize(
    "rows,room,at_once,times,words",
    [
        (32, 32, 32, 2, ""),
        (
            32,
            9,
            8,
            8,
            "32 rows at once do not fit into the GPU: this run takes 8 at once, 8 times per step; ",
        ),
        (
            15,
            4,
            1,
            30,
            "15 rows at once do not fit into the GPU: this run takes 1 at once, 30 times per step; ",
        ),
        (
            2,
            0.5,
            1,
            4,
            "2 rows at once do not fit into the GPU: this run takes 1 at once, 4 times per step and "
            "checkpointing; ",
        ),
    ],
)
def test_what_does_not_fit_is_halved(rows, room, at_once, times, words, monkeypatch, capsys):
    gpu = Gpu(rows, room)
    pretend(monkeypatch)
    speed.fit(gpu)
    assert (gpu.args.per_device_train_batch_size, gpu.args.gradient_accumulation_steps) == (
        at_once,
        times,
    )
    assert at_once * times == 2 * rows
    assert capsys.readouterr().out == (words and words + "the steps stay the same\n")


def test_what_never_fits_is_refused(monkeypatch):
    pretend(monkeypatch)
    with pytest.raises(
        SettingsError,
        match="expected that one row with checkpointing fits into the GPU, got out of memory; lower",
    ):
        speed.fit(Gpu(4, 0))


def test_nothing_is_tried_without_a_gpu(monkeypatch):
    gpu = Gpu(32, 1)
    pretend(monkeypatch, "cpu")
    speed.fit(gpu)
    assert gpu.tries == []


@pytest.mark.parametrize("room", [True, False])
def test_a_try_leaves_no_trace(room, monkeypatch, tmp_path):
    """Of the longest rows, on a CPU: no gradients, no metrics, the same weights, and the answer."""
    setting = memory.Training(micro_batch_size=2, length=20)
    trainer = memory_gpu.trainer(setting, memory_gpu.toy_config("SmolLM2-135M"), str(tmp_path))
    weights = [weight.clone() for weight in trainer.model.parameters()]
    lengths, compute = [], trainer.compute_loss

    def compute_loss(model, batch):
        lengths.extend(batch["attention_mask"].sum(1).tolist())
        loss = compute(model, batch)
        if not room:
            raise torch.OutOfMemoryError
        return loss

    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())
    monkeypatch.setattr(trainer, "compute_loss", compute_loss)
    assert speed._fits(trainer) == room
    assert lengths == [20, 20] and not trainer._metrics["train"]
    assert all(weight.grad is None for weight in trainer.model.parameters())
    assert all(map(torch.equal, weights, trainer.model.parameters()))


# States and layers


def test_states_are_narrow_under_autocast_only():
    model, _ = models.load("pocket")
    ids, seen = torch.tensor([[5, 6, 7]]), []
    model.model.layers[2].register_forward_pre_hook(lambda layer, args: seen.append(args[0].dtype))
    with torch.no_grad():
        model(ids)
        with torch.autocast("cpu", torch.bfloat16):
            model(ids)
    assert seen == [torch.float32, torch.bfloat16]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_fused_layers_without_liger_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    with pytest.raises(MissingError, match="pip install liger-kernel"):
        patches.fuse_layers(tiny())


def test_without_liger_a_gpu_prints_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)  # as if not installed
    models.fuse(tiny())
    assert capsys.readouterr().out == (
        "training on this GPU would be faster: fused layers: expected the package "
        "liger-kernel, got none; run `pip install liger-kernel`\n"
    )


def test_fused_layers_leave_other_models_alone(monkeypatch):
    """Liger exchanges the classes of transformers; a model built afterwards, or run on a CPU, must be an ordinary one."""
    from transformers.models.llama import modeling_llama

    def exchange(model, **losses):
        assert losses == {"cross_entropy": False, "fused_linear_cross_entropy": False}
        for name in ("LlamaRMSNorm", "LlamaMLP", "apply_rotary_pos_emb"):
            setattr(
                modeling_llama, name, lambda *_, name=name: pytest.fail(f"{name} of another model")
            )
        model.fused = True

    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(
        sys.modules,
        "liger_kernel.transformers",
        SimpleNamespace(_apply_liger_kernel_to_instance=exchange),
    )
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", modeling_llama.apply_rotary_pos_emb)
    ids = torch.randint(97, (2, 7))
    plain = tiny()(ids).logits
    assert patches.fuse_layers(patches.fuse_layers(tiny())).fused
    assert torch.equal(tiny()(ids).logits, plain)
    assert not hasattr(
        modeling_llama.apply_rotary_pos_emb.args[0], "args"
    )  # one turn, however many models
