"""Faster ways give the same numbers: the head on a CPU, fewer rows at once, narrower states."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from kit import models, speed
from kit.errors import MissingError, SettingsError

SIZES = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def tiny():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES))


# Head


def head_inputs(rows=13):
    draw = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(*shape, generator=draw).mul_(0.5).requires_grad_() for shape in ((rows, 32), (97, 32)))
    return hidden, weight, torch.randint(97, (rows,), generator=draw)


def scored(head, outputs=("log_probs", "entropy", "is_top1"), softcap=None):
    hidden, weight, targets = head_inputs()
    found = head.apply(hidden, weight, None, targets, 1.0, 32768, softcap, 1.0, outputs)
    (found[0] * torch.linspace(-1, 1, len(targets))).sum().backward()
    return found, hidden.grad, weight.grad


@pytest.mark.parametrize("outputs", [("log_probs",), ("log_probs", "entropy", "is_top1"), ("log_probs", "mean_logits")])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_head_equals_trls(outputs, softcap):
    ours, theirs = scored(speed.trained_ids_head(), outputs, softcap), scored(ChunkedLogProbFunction, outputs, softcap)
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a.float(), b.float(), atol=1e-5)
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert float((a - b).abs().max()) < 1e-5


def test_head_without_a_trained_id_has_gradient_zero():
    hidden, weight, targets = head_inputs(0)
    speed.trained_ids_head().apply(hidden, weight, None, targets, 1.0, 32768, None, 1.0, ())[0].sum().backward()
    assert not weight.grad.any() and hidden.grad.shape == (0, 32)


# Rows at once


@pytest.mark.parametrize("tokens,processes,wanted", [(1_000, 1, 2), (6_000, 1, 16), (10**9, 1, 48), (10**9, 4, 12), (1, 1, 1)])
def test_rows_at_once_divide_the_step(tokens, processes, wanted):
    assert speed.micro_batch_size([300, 400, 350], 48, processes, tokens) == wanted


@pytest.mark.parametrize("in_order,wanted", [(True, [4, 5]), (False, [1, 6])])
def test_the_largest_micro_batch_is_one_that_comes(in_order, wanted):
    assert speed.largest([3, 10, 1, 1, 8, 9, 12], 2, in_order) == wanted


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
    monkeypatch.setattr(speed, "_tried", Gpu.tried)


@pytest.mark.parametrize("rows,room,at_once,times,told", [
    (32, 32, 32, 2, ""),
    (32, 9, 8, 8, "32 rows at once do not fit into the GPU: 8 at once, 8 times a step; same steps\n"),
    (15, 4, 1, 30, "15 rows at once do not fit into the GPU: 1 at once, 30 times a step; same steps\n"),
    (2, 0.5, 1, 4, "2 rows at once do not fit into the GPU: 1 at once, 4 times a step, with checkpointing; same steps\n"),
])
def test_what_does_not_fit_is_halved(rows, room, at_once, times, told, monkeypatch, capsys):
    gpu = Gpu(rows, room)
    pretend(monkeypatch)
    speed.fit(gpu)
    assert (gpu.args.per_device_train_batch_size, gpu.args.gradient_accumulation_steps) == (at_once, times)
    assert at_once * times == 2 * rows and capsys.readouterr().out == told


def test_what_never_fits_is_told(monkeypatch):
    pretend(monkeypatch)
    with pytest.raises(SettingsError, match="one row and a checkpointed model were expected to fit"):
        speed.fit(Gpu(4, 0))


def test_nothing_is_tried_without_a_gpu(monkeypatch):
    gpu = Gpu(32, 1)
    pretend(monkeypatch, "cpu")
    speed.fit(gpu)
    assert gpu.tries == []


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
        models.fused_layers(tiny())


def test_without_liger_a_gpu_is_told_once(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)  # as if it were not installed
    models._say.cache_clear()
    for _ in range(2):
        models._fuse(tiny())
    assert capsys.readouterr().out == ("training on this GPU would be faster: fused layers need the package liger-kernel; "
                                       "run `pip install liger-kernel`\n")


def test_fused_layers_leave_other_models_alone(monkeypatch):
    """Liger exchanges the classes of transformers; a model built afterwards, or run on a CPU, must be an ordinary one."""
    from transformers.models.llama import modeling_llama

    def exchange(model, **losses):
        assert losses == {"cross_entropy": False, "fused_linear_cross_entropy": False}
        for name in ("LlamaRMSNorm", "LlamaMLP", "apply_rotary_pos_emb"):
            setattr(modeling_llama, name, lambda *given: pytest.fail(f"{name} of another model"))
        model.fused = True

    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", SimpleNamespace(_apply_liger_kernel_to_instance=exchange))
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", modeling_llama.apply_rotary_pos_emb)
    ids = torch.randint(97, (2, 7))
    plain = tiny()(ids).logits
    assert models.fused_layers(models.fused_layers(tiny())).fused
    assert torch.equal(tiny()(ids).logits, plain)
    assert not hasattr(modeling_llama.apply_rotary_pos_emb.args[0], "args")  # one turn, however many models


def test_the_head_multiplies_in_bfloat16_under_autocast():
    """Log-probabilities within bfloat16's rounding of the product, and gradients that follow them."""
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(20, 64), torch.randn(97, 64) / 8, torch.randint(97, (20,))
    found = []
    for narrow in (False, True):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            states = h.to(torch.bfloat16) if narrow else h
            logps = speed.trained_ids_head().apply(states, w, None, targets, 1.0, 256, None, 1.0, ("entropy",))[0]
        logps.mean().backward()
        found.append((logps.detach(), h.grad, w.grad))
    assert found[1][0].dtype == torch.float32 and found[1][2].dtype == torch.float32
    for exact, rounded in zip(*found, strict=True):
        gap = float((exact - rounded).norm() / exact.norm())
        assert 0 < gap < 0.02
    expected = torch.log_softmax(hidden @ weight.t(), -1)[torch.arange(20), targets]
    assert float((found[0][0] - expected).abs().max()) < 1e-5
