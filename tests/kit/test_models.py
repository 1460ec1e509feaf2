"""Models by name: what loads, and the one sentence for each that cannot."""

import importlib.util
import shutil
from types import SimpleNamespace

import pytest
import torch
from bases import base

from kit import models
from kit.errors import KitError, MissingError, SettingsError

CONVERTED = models.cache() / models.SMOLLM2 / "config.json"


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_pocket_loads_in_float32():
    model, tokenizer = models.load("pocket", where="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.get_input_embeddings().weight.shape == (6144, 256) and len(tokenizer) == 6080
    assert tokenizer.decode(tokenizer.encode("every day at 17")) == "every day at 17"
    assert next(model.parameters()).device.type == "cpu"


def test_random_seed_is_the_same_architecture():
    real, _ = models.load("pocket", where="cpu")
    one, again, other = (models.load("pocket", random_seed=s, where="cpu")[0].state_dict() for s in (1, 1, 2))
    shapes = {name: w.shape for name, w in real.state_dict().items()}
    assert shapes == {name: w.shape for name, w in one.items()}
    assert all(torch.equal(one[name], again[name]) for name in one)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(one[name], other[name]) and not torch.equal(one[name], real.state_dict()[name])
    assert {w.dtype for w in one.values()} == {torch.float32}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_saved_folder_loads(tmp_path, tied):
    made, tokenizer = base(tied)
    made.half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, again = models.load(tmp_path, where="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32} and len(again) == len(tokenizer)
    assert all(torch.equal(a.float(), b) for a, b in zip(made.parameters(), model.parameters(), strict=True))


def refused(kind, name):
    with pytest.raises(kind) as caught:
        models.load(name)
    told = str(caught.value)
    assert "\n" not in told and isinstance(caught.value, KitError)
    return told


@pytest.mark.parametrize("name", ["poket", "./nothing", "/nothing/here", "a/b/c"])
def test_unknown_name_lists_what_there_is(name):
    assert refused(MissingError, name) == (f"no model {name!r}: expected pocket, smollm2-135m, an existing folder, or a "
                                           "hub id (owner/name) while online")


def test_offline_hub_id_is_refused_at_once(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "while online" in refused(MissingError, "owner/name")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert models.find("owner/name") == "owner/name"


def test_folder_without_config(tmp_path):
    assert refused(SettingsError, tmp_path) == f"{tmp_path.name}: expected a model folder with config.json, found none"


def test_folder_that_transformers_cannot_read(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert refused(SettingsError, tmp_path).startswith("cannot load a model from ")


def test_pocket_without_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "POCKET", tmp_path / "pocket")
    assert "run `git checkout models/pocket`" in refused(MissingError, "pocket")


def test_smollm2_without_its_package(empty_cache, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "run `make smollm2`" in refused(MissingError, "smollm2-135m")
    assert not empty_cache.exists()


def test_smollm2_without_disk(empty_cache, tmp_path, monkeypatch):
    (tmp_path / "any.gguf").touch()
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000))
    told = refused(SettingsError, "smollm2-135m")
    assert "needs 540,000,000 bytes of disk, 1,000 are free" in told and "KIT_CACHE" in told
    assert not empty_cache.exists()


def test_smollm2_is_converted_once(empty_cache, monkeypatch):
    made = empty_cache / "smollm2-135m"
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: pytest.fail("looked for the package"))
    assert models.find("smollm2-135m") == made


@pytest.mark.long
@pytest.mark.skipif(not CONVERTED.is_file(), reason="smollm2-135m is not converted here")
def test_smollm2_has_its_size():
    model, tokenizer = models.load("smollm2-135m", where="cpu")
    assert model.get_input_embeddings().weight.shape == (49152, 576) and len(tokenizer) == 49152
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert sum(p.numel() for p in model.parameters()) == 134_515_008


def test_no_bfloat16_without_a_gpu():
    assert models.compute_dtype("cpu") == torch.float32 == models.compute_dtype("mps")


def test_the_arithmetic_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("KIT_DTYPE", "bfloat16")
    assert models.compute_dtype("cpu") == torch.bfloat16
    monkeypatch.setenv("KIT_DTYPE", "fp8")
    with pytest.raises(SettingsError, match="KIT_DTYPE must be float32 or bfloat16, got 'fp8'"):
        models.compute_dtype("cpu")
