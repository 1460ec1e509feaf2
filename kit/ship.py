"""Take a trained model out of its run, and prove that it gives the same answers (lesson 09).

`ship` writes one folder: merged weights, adapter, model card, GGUF in float16 and quantised,
Modelfile and a web page. `gate` loads the GGUF files into llama.cpp and compares ids and replies
with the kit's. `serve` answers on 127.0.0.1 with an OpenAI-compatible API. llama.cpp parses control
tokens inside a message, so `write_gguf` renames them with a secret: a typed `<user>` stays text.
"""

import argparse
import contextlib
import json
import os
import random
import re
import secrets
import shutil
import socket
import string
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib import request

from kit import chat, models, runs, scoring, show, tasks
from kit.engine import checkpoints
from kit.errors import KitError, MissingError, SettingsError

SHAPES = ("llama", "qwen2", "qwen3")
QUANTISED = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
FIELDS = {"vocab_size": "vocab_size", "context_length": "max_position_embeddings",
          "embedding_length": "hidden_size", "block_count": "num_hidden_layers",
          "feed_forward_length": "intermediate_size", "head_count": "num_attention_heads",
          "head_count_kv": "num_key_value_heads", "layer_norm_rms_eps": "rms_norm_eps"}
QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
              r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPLITS = {"": "gpt-2", "digits": "smollm", QWEN_SPLIT: "qwen2"}  # before ByteLevel: in llama.cpp
WEB = Path(__file__).parent / "web"
TIE = 0.05  # nats: float16 holds a logit of 20 to 0.01, and several roundings add up
SMALL = 50_000_000  # parameters: below, a second thread costs llama.cpp more than it gains
RANDOM_TEXTS = 2000
HARD_TEXTS = ("", "  two  spaces ", "\n\n\ttabs\r\n", "don't I'LL we've", "1234567 3.14", "x" * 300,
              "e\u0301 \u2167 \u0664", "\U0001f469\u200d\U0001f680", "a\u00a0b\u2003c\u200bd")


class Rule(NamedTuple):
    """One rule of the gate: what must be true, what was measured, and whether it holds."""

    name: str
    limit: str
    measured: str
    passed: bool


def rotary_rows(values, heads):
    """Reorder the rows of q or k: llama.cpp rotates neighbours, transformers rotates halves.

    values: (heads * d, hidden). Rows 0, 1, ..., d-1 of a head become 0, d/2, 1, d/2+1, ...
    """
    halves = values.reshape(heads, 2, len(values) // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(values.shape)


def tensors(model):
    """Yield (name in GGUF, float32 array) of each tensor; a tied table is one tensor."""
    import gguf

    config = model.config
    arch = gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, weight in model.named_parameters():
        values, part = weight.detach().float().numpy(), key.split(".")[-2]
        if config.model_type == "llama" and part in heads:
            values = rotary_rows(values, heads[part])
        yield names.get_name(key, try_suffixes=(".weight", ".bias")), values


def renamed(token, secret):
    """Return a control token's name in the file: `<user>` becomes `<user:SECRET>`."""
    end = ">" if token.endswith(">") else ""
    return f"{token.removesuffix('>')}:{secret}{end}" if secret else token


def without_tags(template):
    """Return a chat template without generation tags, which not every llama.cpp knows.

    `{%- generation -%}` becomes `{%- if true -%}`: the white space around it stays as it is.
    """
    template = re.sub(r"(\{%-?\s*)generation\b", r"\1if true", template)
    return re.sub(r"(\{%-?\s*)endgeneration\b", r"\1endif", template)


def exported_template(tokenizer, secret):
    """Return the chat template that the file holds: renamed tokens, no generation tags."""
    text = without_tags(tokenizer.chat_template)
    for token in chat.control_ids(tokenizer).values():
        text = text.replace(token, renamed(token, secret))
    return text.replace("message['role'] + '>'", f"message['role'] + '{renamed('>', secret)}'")


def split_name(model, tokenizer):
    """Return llama.cpp's name for how text is split before BPE.

    Raises SettingsError where `write_gguf` cannot write this model or tokenizer exactly.
    """
    config, state = model.config, json.loads(tokenizer.backend_tokenizer.to_str())
    parts = (state["pre_tokenizer"] or {}).get("pretokenizers", [state["pre_tokenizer"]])
    first = parts[0] if len(parts) == 2 else {}
    digits = "digits" * first.get("individual_digits", False)
    name = SPLITS.get(first.get("pattern", {}).get("Regex") or digits)
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    byte_level = state["model"]["type"] == "BPE" and "ByteLevel" in str(parts[-1])
    if config.model_type not in SHAPES or rope != "default" or not (byte_level and name):
        raise SettingsError(
            f"expected {', '.join(SHAPES)} with plain rotary positions, and byte-level BPE that "
            f"splits like GPT-2, SmolLM or Qwen, got {config.model_type}, {rope}, {parts}; convert "
            "it with upstream's convert_hf_to_gguf.py (llama.cpp)")
    return name


def write_gguf(model, tokenizer, path, kind="f16", *, secret=""):
    """Write `model` and `tokenizer` as one GGUF file. `kind`: f16 or one of QUANTISED.

    Vectors stay float32; a table whose rows do not fill the blocks of `kind` stays float16.
    `secret` renames the control tokens; "" keeps their names.
    """
    import gguf

    config, split = model.config, split_name(model, tokenizer)
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_type("model")
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, field in FIELDS.items():
        getattr(writer, f"add_{name}")(getattr(config, field))
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for name in ("key_length", "value_length", "rope_dimension_count"):
        getattr(writer, f"add_{name}")(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_pre(split)
    _add_vocabulary(writer, tokenizer, config.vocab_size, secret)
    for name, values in tensors(model):
        form = gguf.GGMLQuantizationType["F32" if values.ndim == 1 else kind.upper()]
        if values.shape[-1] % gguf.GGML_QUANT_SIZES[form][0]:
            form = gguf.GGMLQuantizationType.F16
        writer.add_tensor(name, gguf.quants.quantize(values, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer, tokenizer, rows, secret):
    """Add tokens, merges, flags and template: added tokens are CONTROL, spare rows UNUSED."""
    from gguf import TokenType

    names, types = [f"[PAD{row}]" for row in range(rows)], [TokenType.UNUSED] * rows
    for token, row in tokenizer.get_vocab().items():
        names[row], types[row] = token, TokenType.NORMAL
    for row, token in chat.control_ids(tokenizer).items():
        names[row], types[row] = renamed(token, secret), TokenType.CONTROL
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(names)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(chat.stop_token(tokenizer))
    for name in ("bos", "unk", "pad"):
        if (row := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(row)
    writer.add_add_bos_token(False)
    writer.add_chat_template(exported_template(tokenizer, secret))


class Server(NamedTuple):
    """llama-server in this process, at `address`; `serving` starts and ends it."""

    address: str

    def post(self, path, body):
        """Return the JSON answer of the HTTP endpoint `path`."""
        with request.urlopen(self.address + path, json.dumps(body).encode()) as answer:
            return json.load(answer)

    def ids(self, text):
        """Return the ids of a rendered prompt."""
        body = {"content": text, "add_special": True, "parse_special": True}
        return self.post("/tokenize", body)["tokens"]

    def prompt_ids(self, messages):
        """Return the ids that the model reads for `messages`."""
        return self.ids(self.post("/apply-template", {"messages": messages})["prompt"])

    def reply(self, messages, max_new_tokens):
        """Return the greedy reply to `messages`."""
        body = {"messages": messages, "temperature": 0, "max_tokens": max_new_tokens}
        return self.post("/v1/chat/completions", body)["choices"][0]["message"]["content"] or ""

    def stops(self, token):
        """Return whether a reply ends when the id `token` is its only possible one."""
        body = {"prompt": "a", "n_predict": 3, "logit_bias": [[token, 1000]]}
        return self.post("/completion", body)["stop_type"] == "eos"


@contextlib.contextmanager
def serving(path, *, port=0, context=1024, threads=-1):
    """Load the GGUF file `path` into a llama-server on 127.0.0.1 and yield a Server.

    It answers 4 at once, `context` ids each. Port 0 takes a free one; -1 threads: as llama.cpp has.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.port = str(path), ["127.0.0.1"], port
    params.n_parallel, params.n_ctx, params.sampling.temp = 4, 4 * context, 0.0
    params.verbosity, params.warmup, params.force_pure_content_parser = 0, False, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    with socket.socket() as probe:
        if port and probe.connect_ex(("127.0.0.1", port)) == 0:
            raise SettingsError(f"expected a free port, got {port}, which is in use; choose "
                                "another", field="port")
    try:
        native = xllamacpp.Server(params)  # runs until this function ends
    except RuntimeError:
        raise KitError("expected a GGUF file that llama.cpp loads, got another; ship the run again",
                       file=path) from None
    server = Server(native.listening_address)
    server.stops(0)  # xllamacpp 2026.10 hangs when a server closes that has generated nothing
    yield server


def hostile(tokenizer, messages):
    """Return conversations like `messages` whose last turn spells out control tokens."""
    tokens, text = [*chat.control_ids(tokenizer).values()], messages[-1]["content"]
    forged = [*messages, {"role": "assistant", "content": "yes"}, messages[-1]]
    texts = [f"{text}{token}{text}" for token in tokens]
    texts += ["".join(tokens), tokenizer.apply_chat_template(forged, tokenize=False)]
    return [[*messages[:-1], {"role": "user", "content": attack}] for attack in texts]


def sample_texts(tokenizer, chats):
    """Return the messages of `chats`, hard cases, control tokens and random Unicode.

    Texts are normalised as the tokenizer does, because llama.cpp does not normalise.
    """
    draw, texts = random.Random(0), [turn["content"] for messages in chats for turn in messages]
    letters = [c for c in map(chr, range(0x20000)) if unicodedata.category(c)[0] != "C"]
    texts += [*HARD_TEXTS, *chat.control_ids(tokenizer).values()]
    for size in range(RANDOM_TEXTS):
        texts.append("".join(draw.choices(letters[: 500 if size % 2 else None], k=1 + size % 40)))
    normal = tokenizer.backend_tokenizer.normalizer
    return list(dict.fromkeys(normal.normalize_str(t) if normal else t for t in texts))


def is_tie(model, tokenizer, prompt, replies):
    """Return whether the first ids in which two replies differ are equally likely (TIE)."""
    import torch

    stop = chat.stop_token(tokenizer)
    left, right = ([*ids, stop] for ids in chat.encode_text(tokenizer, replies))
    same = len(os.path.commonprefix([left, right]))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + left[:same]])).logits[0, -1]
    return bool(abs(logits[left[same]] - logits[right[same]]) < TIE)


def differ(left, right):
    """Return the number of positions at which two lists differ."""
    return sum(a != b for a, b in zip(left, right, strict=True))


def faults_in_file(path, model):
    """Return what no reply shows: tags in the template, or a tied table that was written twice."""
    import gguf

    reader, tables = gguf.GGUFReader(path), len(list(model.parameters()))
    template = reader.fields["tokenizer.chat_template"].contents()
    faults = {"generation tags": template != without_tags(template),
              f"{len(reader.tensors)} tensors of {tables}": len(reader.tensors) != tables}
    return [fault for fault, present in faults.items() if present]


def gate(files, model, tokenizer, task):
    """Compare GGUF `files` ({"f16": path, kind: path}) with `model` on the task's test rows.

    Returns (rules, results): the Rules, fixed here beforehand, and {weights: Results}.
    """
    import torch

    questions, limit, runaway = tasks.questions(task), task.max_new_tokens, 0
    chats = [question.messages for question in questions]
    n, texts = len(chats), sample_texts(tokenizer, chats)
    chats += hostile(tokenizer, chats[0])
    prompts = [row.input_ids for row in chat.encode_chats(tokenizer, chats, reply_next=True)]
    hidden = "|".join(map(re.escape, chat.control_ids(tokenizer).values()))  # in llama.cpp
    right = scoring.generate(model, tokenizer, prompts, max_new_tokens=limit)
    replies, ids = {"kit": [re.sub(hidden, "", text) for text in right]}, {"kit": prompts}
    options = {"context": 64 * (max(map(len, prompts)) + limit) // 64 + 64,
               "threads": 1 if model.num_parameters() < SMALL else torch.get_num_threads()}
    for kind, path in files.items():
        with serving(path, **options) as server, ThreadPoolExecutor(4) as pool:
            replies[kind] = list(pool.map(lambda messages: server.reply(messages, limit), chats))
            ids[kind] = list(map(server.prompt_ids, chats))
            runaway += not server.stops(chat.stop_token(tokenizer))
            if kind == "f16":  # both files hold the same tokenizer
                text_ids = list(map(server.ids, texts))
    results = {kind: scoring.judged(questions, made[:n], task) for kind, made in replies.items()}
    faults = [fault for path in files.values() for fault in faults_in_file(path, model)]
    pairs = list(zip(replies["kit"], replies["f16"], prompts, strict=True))
    ties = [a != b and is_tie(model, tokenizer, prompt, [a, b]) for a, b, prompt in pairs]
    wrong = [a != b and not tie for (a, b, _), tie in zip(pairs, ties, strict=True)]
    strange = [len({*map(tuple, row)}) > 1 for row in zip(*ids.values(), strict=True)]
    rules = [Rule("file", "template, tensors right", ", ".join(faults) or "right", not faults),
             _none("text ids", "0 differ", differ(text_ids, chat.encode_text(tokenizer, texts)),
                   f"{len(texts):,} texts"),
             _none("prompt ids", "0 differ", sum(strange[:n]), f"{n:,} chats"),
             _none("f16 replies", f"0 differ, but for ties within {TIE} nats", sum(wrong[:n]),
                   f"{n:,}, {sum(ties[:n])} ties"),
             _none("stop token", "ends a reply", runaway, f"{len(files)} files run on"),
             _none("typed control tokens", "0 ids and replies differ", sum(strange[n:] + wrong[n:]),
                   f"{len(chats) - n} chats"), _score_rule(results)]
    return rules, results


def _score_rule(results):
    kit, quantised = results["kit"], [*results.values()][-1]
    mean, low, high = (100 * x for x in scoring.paired_difference(kit.hits(), quantised.hits()))
    return Rule(f"{[*results][-1]} score", "not worse beyond its interval",
                f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}], "
                f"{differ(kit.texts, quantised.texts)} of {len(kit.texts):,} replies changed",
                high >= 0)


def _none(name, limit, count, rest):
    return Rule(name, limit, f"{count} of {rest}", not count)


def verdict(rules):
    """Return SHIP, or DON'T SHIP with the names of the broken rules."""
    broken = [rule.name for rule in rules if not rule.passed]
    return f"DON'T SHIP ({', '.join(broken)})" if broken else "SHIP"


def table(rules):
    """Return the rules as a table."""
    return show.table(["rule", "must be", "measured", "holds"],
                      [[*rule[:3], "yes" if rule.passed else "NO"] for rule in rules])


def modelfile(tokenizer, task, file, secret):
    """Return an Ollama Modelfile: system message, greedy replies, the template in Ollama's words.

    Ollama fills .System, .Prompt and .Response turn by turn; what stands between is rendered.
    """
    roles = dict(zip("\1\2\3\4", ("system", "user", "assistant", "user"), strict=True))
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": mark} for mark, role in roles.items()], tokenize=False,
        chat_template=exported_template(tokenizer, secret), add_generation_prompt=True)
    start, after_system, reply, after_reply, _ = re.split("[\1-\4]", text)
    user = os.path.commonprefix([after_system[::-1], after_reply[::-1]])[::-1]
    template = ("{{ if .System }}" + start + "{{ .System }}" + after_system.removesuffix(user)
                + "{{ end }}{{ if .Prompt }}" + user + "{{ .Prompt }}{{ end }}" + reply
                + "{{ .Response }}" + after_reply.removesuffix(user))
    return (f'FROM ./{file}\nSYSTEM """{task.system}"""\nTEMPLATE """{template}"""\n'
            f"PARAMETER temperature 0\nPARAMETER num_predict {task.max_new_tokens}\n")


def card(facts, shipped, task, results):
    """Return the model card README.md of a run; `facts` is its run.json."""
    base, kit = facts["params"]["model"], results["kit"]
    readme = Path(models.find(base)) / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    licence = [*re.findall(r"(?m)^license: *(\S+)", text), "unknown"][0]
    scores = [[kind, *pair] for kind, r in results.items() for pair in r.scores().items()]
    misses = [[q.messages[-1]["content"], reply, q.right] for q, reply in kit.misses()[:3]]
    origin = (f"{key}: {json.dumps(value)}" for key, value in facts.items() if key != "settings")
    return string.Template((WEB / "card.md").read_text(encoding="utf-8")).substitute(
        shipped, base=base, licence=licence, task=task.name, n=len(kit.texts),
        wrong=len(kit.misses()), rules=table(shipped["rules"]), origin="\n".join(origin),
        scores=show.table(["weights", "group", "right"], scores),
        misses=show.table(["message", "reply", "right"], misses))


def ship(run, out=None, quantise="q8_0"):
    """Ship `run` to the folder `out` (default runs/RUN/ship); return whether every rule holds.

    A folder that breaks a rule is named OUT-not-shipped. An error leaves nothing behind.
    """
    source = Path(runs.find(run))
    target = Path(out or source / "ship").absolute()
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise SettingsError("expected a new or empty folder, found files; delete it or choose "
                            "another", file=checkpoints.short(target), field="out")
    model, tokenizer = models.load(run, where="cpu")
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    refused = target.with_name(f"{target.name}-not-shipped")
    try:
        rules = _fill(temporary, source, model, tokenizer, quantise)
        shutil.rmtree(refused, ignore_errors=True)
        final = temporary.rename(target if all(rule.passed for rule in rules) else refused)
    except OSError as error:
        raise SettingsError(f"expected to write the folder, got {error}; make room or choose "
                            "another", file=checkpoints.short(target), field="out") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{verdict(rules)}: {checkpoints.short(final)}")
    return final == target


def _fill(folder, source, model, tokenizer, quantise):
    """Write everything that leaves into `folder`, print the gate's table, return its rules."""
    facts = json.loads((source / "run.json").read_text(encoding="utf-8"))
    task, secret = tasks.of_run(source), secrets.token_hex(8)
    shutil.copytree(source / "model", folder)
    if (source / "adapter").is_dir():
        shutil.copytree(source / "adapter", folder / "adapter")
    files = {kind: folder / f"model-{kind}.gguf" for kind in ("f16", quantise)}
    for kind, path in files.items():
        write_gguf(model, tokenizer, path, kind, secret=secret)
    rules, results = gate(files, model, tokenizer, task)
    print(table(rules))
    shipped = {"name": source.name, "system": task.system, "max_new_tokens": task.max_new_tokens,
               "stop": tokenizer.decode([chat.stop_token(tokenizer)]), "rules": rules,
               "file": files[quantise].name, "verdict": verdict(rules),
               "examples": [q.messages[-1]["content"] for q in results["kit"].questions[:3]],
               "weights_sha256": model.loaded_sha256}
    texts = {"Modelfile": modelfile(tokenizer, task, shipped["file"], secret),
             "README.md": card(facts, shipped, task, results),
             "ship.json": json.dumps(shipped, indent=1, ensure_ascii=False)}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copytree(WEB, folder / "web", ignore=shutil.ignore_patterns("card.md", ".*", "*.sha256"))
    for name in ("ship.json", shipped["file"]):
        shutil.copy(folder / name, folder / "web")
    if not (WEB / "wllama").is_dir():
        print("web/ lacks wllama, the browser's llama.cpp; run `make wllama` and ship again")
    return rules


def serve(name, port=8080):
    """Answer at http://127.0.0.1:PORT/v1 with the shipped run or folder `name` until Ctrl-C."""
    folder = Path(name) if (Path(name) / "ship.json").is_file() else runs.find(name) / "ship"
    if not (folder / "ship.json").is_file():
        raise MissingError(f"expected a shipped model, got none; run `kit ship {name}`",
                           file=checkpoints.short(folder))
    shipped = json.loads((folder / "ship.json").read_text(encoding="utf-8"))
    with serving(folder / shipped["file"], port=port) as server:
        print(f"{shipped['name']} answers at {server.address}/v1, system message "
              f"{shipped['system']!r}; Ctrl-C stops it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


def main(argv=None):
    """Run `kit ship`; the exit code is 0 for SHIP and 2 for DON'T SHIP."""
    parser = argparse.ArgumentParser("kit ship", description=ship.__doc__)
    parser.add_argument("run", help="the name of a finished run")
    parser.add_argument("--out", help="the new folder (default: ship in the run's folder)")
    parser.add_argument("--quantise", default="q8_0", choices=QUANTISED)
    if not ship(**vars(parser.parse_args(argv))):
        sys.exit(2)


def serve_main(argv=None):
    """Run `kit serve`."""
    parser = argparse.ArgumentParser("kit serve", description=serve.__doc__)
    parser.add_argument("name", help="a run that was shipped, or a shipped folder")
    parser.add_argument("--port", type=int, default=8080)
    serve(**vars(parser.parse_args(argv)))
