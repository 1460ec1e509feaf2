"""Models by name: what loads, and the one sentence for each that cannot."""

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from bases import base
from safetensors.torch import load_file, save_file

from kit import chat, models
from kit.engine import checkpoints
from kit.errors import CheckpointError, KitError, MissingError, SettingsError

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
    one, again, other = (
        models.load("pocket", random_seed=s, where="cpu")[0].state_dict() for s in (1, 1, 2)
    )
    shapes = {name: w.shape for name, w in real.state_dict().items()}
    assert shapes == {name: w.shape for name, w in one.items()}
    assert all(torch.equal(one[name], again[name]) for name in one)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(one[name], other[name]) and not torch.equal(
        one[name], real.state_dict()[name]
    )
    assert {w.dtype for w in one.values()} == {torch.float32}


def saved(folder, spare=64):
    """A model folder that loads."""
    model, tokenizer = base(spare=spare)
    model.save_pretrained(folder / "saved")
    tokenizer.save_pretrained(folder / "saved")
    return folder / "saved"


def tensors(folder):
    return load_file(folder / "model.safetensors")


def rewrite(folder, weights):
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_saved_folder_loads(tmp_path, tied):
    made, tokenizer = base(tied)
    made.half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert ("lm_head.weight" in tensors(tmp_path)) != tied
    model, again = models.load(tmp_path, where="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32} and len(again) == len(tokenizer)
    assert all(
        torch.equal(a.float(), b)
        for a, b in zip(made.parameters(), model.parameters(), strict=True)
    )


def refused(kind, name):
    with pytest.raises(kind) as caught:
        models.load(name)
    told = str(caught.value)
    assert "\n" not in told and isinstance(caught.value, KitError)
    return told


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_RUNS", str(tmp_path / "runs"))


@pytest.mark.parametrize("name", ["poket", "./nothing", "/nothing/here", "a/b/c"])
def test_unknown_name_lists_what_there_is(name):
    assert refused(MissingError, name) == (
        "expected pocket, smollm2-135m, a run (none yet), an existing folder, or a hub id (owner/name) while online, got "
        f"{name!r}; correct the name"
    )


def test_offline_hub_id_is_refused_at_once(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "while online" in refused(MissingError, "owner/name")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert models.find("owner/name") == "owner/name"


def test_folder_without_config(tmp_path):
    assert refused(SettingsError, tmp_path) == (
        f"{tmp_path.name}: expected a model folder with config.json, got none; name a folder that save_pretrained wrote"
    )


def test_folder_that_transformers_cannot_read(tmp_path):
    folder = saved(tmp_path)
    (folder / "config.json").write_text("{}")
    assert "expected a config.json that can be read, got ValueError (Unrecognized model" in refused(
        SettingsError, folder
    )


def test_pocket_without_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "POCKET", tmp_path / "pocket")
    assert "run `git checkout models/pocket`" in refused(MissingError, "pocket")


def test_smollm2_without_its_package(empty_cache, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "run `make smollm2`" in refused(MissingError, "smollm2-135m")
    assert not empty_cache.exists()


def test_smollm2_is_converted_once(empty_cache, monkeypatch):
    made = empty_cache / "smollm2-135m"
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: pytest.fail("looked for the package")
    )
    assert models.find("smollm2-135m") == made


@pytest.mark.long
@pytest.mark.skipif(not CONVERTED.is_file(), reason="smollm2-135m is not converted here")
def test_smollm2_has_its_size():
    model, tokenizer = models.load("smollm2-135m", where="cpu")
    assert model.get_input_embeddings().weight.shape == (49152, 576) and len(tokenizer) == 49152
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert sum(p.numel() for p in model.parameters()) == 134_515_008


def test_frozen_weights_of_16_bits(tmp_path):
    folder = saved(tmp_path)
    narrow, _ = models.load(folder, where="cpu", bits=16)
    whole, _ = models.load(folder, where="cpu")
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}
    assert all(
        torch.equal(a, b.bfloat16())
        for a, b in zip(narrow.parameters(), whole.parameters(), strict=True)
    )


@pytest.mark.parametrize("where, installed", [("cpu", True), ("cuda", False), ("mps", True)])
def test_4_bits_need_a_gpu_and_bitsandbytes(tmp_path, monkeypatch, where, installed):
    folder = saved(tmp_path)
    monkeypatch.setattr(models, "device", lambda: where)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace() if installed else None
    )
    with pytest.raises(SettingsError) as caught:
        models.load(folder, bits=4)
    assert str(caught.value) == (
        "lora_bits: expected a CUDA GPU and the package bitsandbytes for weights of 4 bits, got "
        f"{where} and {'the' if installed else 'no'} package; choose 16 bits, or install it on a GPU"
    )


def test_no_bfloat16_without_a_gpu():
    assert models.compute_dtype("cpu") == torch.float32 == models.compute_dtype("mps")


def test_the_arithmetic_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("KIT_DTYPE", "bfloat16")
    assert models.compute_dtype("cpu") == torch.bfloat16
    monkeypatch.setenv("KIT_DTYPE", "fp8")
    with pytest.raises(SettingsError, match="KIT_DTYPE: expected float32 or bfloat16, got 'fp8'"):
        models.compute_dtype("cpu")


# The edges


def test_a_missing_tensor_is_named(tmp_path):
    folder = saved(tmp_path)
    weights = tensors(folder)
    gone = weights.pop("model.layers.1.mlp.up_proj.weight")
    rewrite(folder, weights)
    assert refused(SettingsError, folder) == (
        f"{folder}: expected the tensor model.layers.1.mlp.up_proj.weight, got none in its file (tensors of this kind: 1); copy or "
        "train the model again"
    )
    rewrite(
        folder,
        weights | {"model.layers.1.mlp.up_proj.weight": gone, "model.extra.weight": gone.clone()},
    )
    assert "expected no tensor model.extra.weight, got it in addition" in refused(
        SettingsError, folder
    )


@pytest.mark.parametrize("size", [100, 6200, 9000])
def test_a_wrong_vocab_size(tmp_path, size):
    folder = saved(tmp_path)
    edit_config(folder, vocab_size=size)
    sentence = refused(SettingsError, folder)
    assert "model.embed_tokens.weight" in sentence and sentence.endswith(
        "copy or train the model again"
    )


def test_a_tokenizer_larger_than_the_table(tmp_path):
    folder = saved(tmp_path)
    tokenizer = base()[1]
    tokenizer.add_tokens([f"<new{i}>" for i in range(100)])
    tokenizer.save_pretrained(folder)
    assert refused(SettingsError, folder) == (
        f"{folder}: expected a tokenizer of at most 6144 ids, the rows of the model's table, got 6184; use the tokenizer "
        "of this model"
    )


def test_truncated_weights(tmp_path):
    folder = saved(tmp_path)
    os.truncate(folder / "model.safetensors", 5000)
    assert "expected whole safetensors, got a damaged file" in refused(CheckpointError, folder)


def test_no_tokenizer(tmp_path):
    folder = saved(tmp_path)
    for file in folder.glob("token*"):
        file.unlink()
    sentence = refused(SettingsError, folder)
    assert sentence.startswith(f"{folder}: expected a tokenizer that can be read, got ")
    assert sentence.endswith("; copy the tokenizer files of its base into the folder")


def foreign(folder):
    """A folder whose config names code of its own, which writes a file when it runs."""
    folder = saved(folder)
    edit_config(
        folder,
        model_type="mine",
        auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    )
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    return folder


def test_code_of_a_folder_never_runs(tmp_path):
    folder = foreign(tmp_path)
    code = f"from kit import models\nfrom kit.errors import exits\nwith exits():\n    models.load({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="y\ny\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "") and not (folder / "ran").exists()
    assert done.stderr.splitlines()[-1].endswith(
        "got one with code of its own, which is never run; use another model"
    )


def run_folder(tmp_path, report=True):
    """runs/mine as kit.runs leaves it."""
    folder = saved(tmp_path)
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    folder.rename(run / "model")
    (run / "run.json").write_text("{}")
    if report:
        sha256 = checkpoints.weights_sha256(run / "model")
        (run / "report.json").write_text(json.dumps({"weights_sha256": sha256}))
    return run


def test_a_run_loads_by_its_name(tmp_path):
    run = run_folder(tmp_path)
    for name in ("mine", run, run / "model"):
        model, _ = models.load(name, where="cpu")
        assert (
            model.loaded_sha256 == json.loads((run / "report.json").read_text())["weights_sha256"]
        )
    assert "a run (mine)" in refused(MissingError, "mime")
    assert refused(MissingError, run_of(tmp_path, "empty")).startswith(
        "empty: expected a finished run, got one without"
    )


def run_of(tmp_path, name):
    (tmp_path / "runs" / name).mkdir()
    (tmp_path / "runs" / name / "run.json").write_text("{}")
    return name


def test_other_weights_than_the_run_sealed(tmp_path):
    run = run_folder(tmp_path)
    weights = tensors(run / "model")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    rewrite(run / "model", weights)
    sentence = refused(CheckpointError, "mine")
    assert f"delete the folder {run} and train that run again" in sentence
    (run / "report.json").unlink()
    assert "expected a finished run, got one without weights_sha256" in refused(
        MissingError, "mine"
    )


def test_a_hub_without_a_network(monkeypatch):
    """No answer of the hub: a sentence at once, not minutes of new tries."""
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://192.0.2.1")  # an address that nobody has
    monkeypatch.setattr(models, "HUB_SECONDS", 1)
    assert refused(MissingError, "owner/name") == (
        "owner/name: expected an answer of the hub within 1 s, got none, and no copy is in its cache; go online or name a "
        "folder"
    )


def test_own_templates_survive_the_folder(tmp_path):
    assert chat.is_kit(models.load(saved(tmp_path), where="cpu")[1])
