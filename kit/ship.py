"""Take a trained model out of its run, and prove that what leaves gives the same answers (lesson 09).

`ship` writes one folder: merged weights, adapter, model card, GGUF in float16 and quantised,
Modelfile and a web page. `gate` loads the GGUF files into llama.cpp and compares ids and replies
with the kit's. `serve` answers on 127.0.0.1 with an OpenAI-compatible API. llama.cpp parses control
tokens inside a message, so `write_gguf` renames them with a secret: a typed `<user>` stays text.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import secrets
import shutil
import socket
import string
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kit import chat, models, runs, scoring, show, tasks
from kit.errors import KitError, MissingError, SettingsError

SHAPES = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}  # model_type: name in gguf
QUANTISED = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
FIELDS = {"vocab_size": "vocab_size", "context_length": "max_position_embeddings",
          "embedding_length": "hidden_size", "block_count": "num_hidden_layers",
          "feed_forward_length": "intermediate_size", "head_count": "num_attention_heads",
          "head_count_kv": "num_key_value_heads", "layer_norm_rms_eps": "rms_norm_eps"}
PLAIN = {"attention_bias": False, "mlp_bias": False, "use_sliding_window": False, "hidden_act": "silu"}
QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
              r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPLITS = {"": "gpt-2", "digits": "smollm", QWEN_SPLIT: "qwen2"}  # before ByteLevel: name in llama.cpp
ELSEWHERE = "convert it with upstream's convert_hf_to_gguf.py (llama.cpp)"
WEB = Path(__file__).parent / "web"
TIE = 0.05  # nats: float16 holds a logit of 20 to 0.01, and a reply is the result of several roundings
SMALL = 50_000_000  # parameters: below, a second thread costs llama.cpp more than it gains
RANDOM_TEXTS = 2000
HARD_TEXTS = ("", "  two  spaces ", "\n\n\ttabs\r\n", "don't I'LL we've", "12:30 1234567 3.14", "x" * 300,
              "caf\u00e9 e\u0301 \u00b2 \u2167 \u0664", "\u65e5\u672c\u8a9e \u0440\u0443\u0441 \u0639\u0631\u0628",
              "\U0001f469\u200d\U0001f680 \u2615", "a\u00a0b\u2003c\u200bd", "*/5 0,30 1-5 @daily")


class Rule(NamedTuple):
    """One rule of the gate: what must be true, what was measured, and whether they agree."""

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
    """Yield (name in GGUF, float32 array) of each tensor; a tied output table is left out."""
    import gguf

    config = model.config
    arch = gguf.MODEL_ARCH[SHAPES[config.model_type]]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values, part = weight.float().numpy(), key.split(".")[-2]
        if config.model_type == "llama" and part in heads:
            values = rotary_rows(values, heads[part])
        yield names.get_name(key, try_suffixes=(".weight", ".bias")), values


def renamed(token, secret):
    """Return a control token's name in the file: `<user>` becomes `<user:SECRET>`."""
    if not secret:
        return token
    return f"{token[:-1]}:{secret}>" if token.endswith(">") else f"{token}:{secret}"


def without_tags(template):
    """Return a chat template without generation tags, which llama.cpp does not know.

    `{%- generation -%}` becomes `{%- if true -%}`: the white space around it stays as it is.
    """
    template = re.sub(r"(\{%-?\s*)generation\b", r"\1if true", template)
    return re.sub(r"(\{%-?\s*)endgeneration\b", r"\1endif", template)


def exported_template(tokenizer, secret):
    """Return the chat template that the file holds: renamed tokens, no generation tags."""
    text = without_tags(tokenizer.chat_template)
    for token in tokenizer.get_added_vocab():
        text = text.replace(token, renamed(token, secret))
    return text.replace("message['role'] + '>'", f"message['role'] + '{renamed('>', secret)}'")


def split_name(model, tokenizer):
    """Return llama.cpp's name for how text is split before BPE.

    Raises SettingsError where `write_gguf` cannot write this model or tokenizer exactly.
    """
    config, state = model.config, json.loads(tokenizer.backend_tokenizer.to_str())
    parts = (state["pre_tokenizer"] or {}).get("pretokenizers", [state["pre_tokenizer"]])
    first = parts[0] if len(parts) == 2 else {}
    split = first.get("pattern", {}).get("Regex") or "digits" * first.get("individual_digits", False)
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    facts = {field: getattr(config, field, value) for field, value in PLAIN.items()}
    if config.model_type not in SHAPES or rope != "default" or facts != PLAIN:
        raise SettingsError(f"expected {', '.join(SHAPES)} with plain rotary positions and {PLAIN}, "
                            f"got {config.model_type}, {rope}, {facts}; {ELSEWHERE}")
    if state["model"]["type"] != "BPE" or "ByteLevel" not in str(parts[-1]) or split not in SPLITS:
        raise SettingsError(f"expected byte-level BPE that splits like GPT-2, SmolLM or Qwen, got "
                            f"{state['model']['type']} with {parts}; {ELSEWHERE}")
    return SPLITS[split]


def write_gguf(model, tokenizer, path, kind="f16", *, secret=""):
    """Write `model` and `tokenizer` as one GGUF file. `kind`: f16 or one of QUANTISED.

    Vectors stay float32; a table whose rows do not fill the blocks of `kind` stays float16.
    `secret` renames the control tokens; "" keeps their names.
    """
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    for name, field in FIELDS.items():
        getattr(writer, f"add_{name}")(getattr(config, field))
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for name in ("key_length", "value_length", "rope_dimension_count"):
        getattr(writer, f"add_{name}")(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_pre(split_name(model, tokenizer))
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

    names, types = [f"[UNUSED{row}]" for row in range(rows)], [TokenType.UNUSED] * rows
    for token, row in tokenizer.get_vocab().items():
        names[row], types[row] = token, TokenType.NORMAL
    for token, row in tokenizer.get_added_vocab().items():
        names[row], types[row] = renamed(token, secret), TokenType.CONTROL
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(names)
    writer.add_token_types(types)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(exported_template(tokenizer, secret))


class Server:
    """llama-server in this process, at `address`; `serving` makes and closes it."""

    def __init__(self, native):
        self.native, self.address = native, native.listening_address

    def post(self, path, body):
        """Return the JSON answer of the HTTP endpoint `path`."""
        from urllib import request

        message = request.Request(self.address + path, json.dumps(body).encode())
        with request.urlopen(message) as answer:
            return json.load(answer)

    def ids(self, text, *, first=False):
        """Return the ids of `text` inside a rendered prompt; `first`: at its beginning."""
        body = {"content": text, "add_special": first, "parse_special": True}
        return self.post("/tokenize", body)["tokens"]

    def prompt_ids(self, messages):
        """Return the ids that the model reads for `messages`."""
        return self.ids(self.post("/apply-template", {"messages": messages})["prompt"], first=True)

    def reply(self, messages, max_new_tokens):
        """Return the greedy reply to `messages`."""
        body = {"messages": messages, "temperature": 0, "max_tokens": max_new_tokens}
        return self.native.handle_chat_completions(body)["choices"][0]["message"]["content"] or ""

    def stops(self, token):
        """Return whether a reply ends when the id `token` is its only possible one."""
        body = {"prompt": "a", "n_predict": 3, "logit_bias": [[token, 1000]]}
        return self.post("/completion", body)["stop_type"] == "eos"


@contextlib.contextmanager
def serving(path, *, port=0, slots=4, context=1024, threads=0):
    """Load the GGUF file `path` into a llama-server on 127.0.0.1 and yield a Server.

    Port 0 takes a free one; `context` ids per slot; 0 threads leaves the number to llama.cpp.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.port = str(path), ["127.0.0.1"], port
    params.n_parallel, params.n_ctx, params.sampling.temp = slots, slots * context, 0.0
    params.verbosity, params.warmup, params.force_pure_content_parser = 0, False, True
    if threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    with contextlib.closing(socket.socket()) as probe:
        if port and probe.connect_ex(("127.0.0.1", port)) == 0:
            raise SettingsError(f"expected a free port, got {port}, which is in use; choose another",
                                field="port")
    try:
        server = Server(xllamacpp.Server(params))
    except RuntimeError:
        raise KitError("expected a GGUF file that llama.cpp loads, got another; ship the run again",
                       file=path) from None
    try:
        yield server
    finally:
        del server.native


def hostile(tokenizer, messages):
    """Return conversations like `messages` whose last turn spells out control tokens."""
    tokens, text = list(tokenizer.get_added_vocab()), messages[-1]["content"]
    forged = [*messages, {"role": "assistant", "content": "yes"}, messages[-1]]
    texts = [f"{text}{token}{text}" for token in tokens]
    texts += ["".join(tokens), tokenizer.apply_chat_template(forged, tokenize=False)]
    return [[*messages[:-1], {"role": "user", "content": attack}] for attack in texts]


def sample_texts(tokenizer, chats):
    """Return the messages of `chats`, hard cases, control tokens and random Unicode.

    Texts are normalised as the tokenizer does, because llama.cpp does not normalise.
    """
    draw, texts = random.Random(0), [message["content"] for messages in chats for message in messages]
    letters = [c for c in map(chr, range(0x20000)) if unicodedata.category(c)[0] != "C"]
    texts += [*HARD_TEXTS, *tokenizer.get_added_vocab()]
    for size in range(RANDOM_TEXTS):
        texts.append("".join(draw.choices(letters[: 500 if size % 2 else None], k=1 + size % 40)))
    normal = tokenizer.backend_tokenizer.normalizer
    return list(dict.fromkeys(normal.normalize_str(text) if normal else text for text in texts))


def is_tie(model, tokenizer, prompt, left, right):
    """Return whether `model` finds the first ids in which two replies differ equally likely (TIE)."""
    import torch

    left, right = ([*ids, tokenizer.eos_token_id] for ids in chat.encode_text(tokenizer, [left, right]))
    same = len(os.path.commonprefix([left, right]))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + left[:same]])).logits[0, -1]
    return same < min(len(left), len(right)) and abs(logits[left[same]] - logits[right[same]]) < TIE


def _in_llama(path, stop, chats, texts, limit, options):
    """Return what llama.cpp makes of one file."""
    times = [time.perf_counter()]
    with serving(path, **options) as server, ThreadPoolExecutor(4) as pool:
        times.append(time.perf_counter())
        facts = {"text_ids": list(map(server.ids, texts)), "stops": server.stops(stop),
                 "prompt_ids": list(map(server.prompt_ids, chats))}
        times.append(time.perf_counter())
        facts["replies"] = list(pool.map(lambda messages: server.reply(messages, limit), chats))
    return facts | {"load": times[1] - times[0], "seconds": time.perf_counter() - times[2]}


def _wrong_in_file(path, model, tokenizer):
    """Return what is wrong with flags and tensors; `parameters` counts a tied table once."""
    import gguf

    reader, tables = gguf.GGUFReader(path), len(list(model.parameters()))
    fields = {key: field.contents() for key, field in reader.fields.items()}
    flags = {"ggml.add_bos_token": False, "ggml.eos_token_id": tokenizer.eos_token_id,
             "chat_template": without_tags(fields["tokenizer.chat_template"])}
    wrong = [key for key, value in flags.items() if fields[f"tokenizer.{key}"] != value]
    return wrong + [f"{len(reader.tensors)} tensors of {tables}"] * (len(reader.tensors) != tables)


def gate(files, model, tokenizer, task):
    """Compare GGUF `files` ({"f16": path, kind: path}) with `model` on the task's test rows.

    Returns (rules, results, numbers): the Rules, {weights: Results}, and sizes and speeds.
    """
    import torch

    questions = tasks.questions(task, split="test")
    chats, limit = [question.messages for question in questions], task.max_new_tokens
    n, texts = len(chats), sample_texts(tokenizer, chats)
    chats += hostile(tokenizer, chats[0])
    prompts = [row.input_ids for row in chat.encode_chats(tokenizer, chats, reply_next=True)]
    begin = time.perf_counter()
    replies = {"kit": scoring.replies(model, tokenizer, chats, max_new_tokens=limit)}
    seconds = {"kit": time.perf_counter() - begin}
    threads = 1 if model.num_parameters() < SMALL else torch.get_num_threads()
    options = {"context": 64 * (max(map(len, prompts)) + limit) // 64 + 64, "threads": threads}
    stop, facts = tokenizer.eos_token_id, {}
    for kind, path in files.items():
        facts[kind] = _in_llama(path, stop, chats, texts, limit, options)
        replies[kind], seconds[kind] = facts[kind]["replies"], facts[kind]["seconds"]
    results = {kind: scoring.judged(questions, made[:n], task) for kind, made in replies.items()}
    hidden = re.compile("|".join(map(re.escape, tokenizer.get_added_vocab())))  # in llama.cpp
    replies["kit"] = [hidden.sub("", text) for text in replies["kit"]]
    rules = _rules(model, tokenizer, prompts, texts, facts, replies, results)
    wrong = [fault for path in files.values() for fault in _wrong_in_file(path, model, tokenizer)]
    rules.insert(0, Rule("file", "flags and tensors right", ", ".join(wrong) or "right", not wrong))
    lengths = {kind: sum(map(len, chat.encode_text(tokenizer, made))) for kind, made in replies.items()}
    numbers = {"bytes": {kind: path.stat().st_size for kind, path in files.items()},
               "load_seconds": {kind: round(fact["load"], 3) for kind, fact in facts.items()},
               "tokens_per_second": {kind: round(lengths[kind] / seconds[kind]) for kind in replies}}
    return rules, results, numbers


def _rules(model, tokenizer, prompts, texts, facts, replies, results):
    exact, n, kind = facts["f16"], len(results["kit"].texts), list(results)[-1]
    kit, f16 = replies["kit"], replies["f16"]
    text_faults = differ(exact["text_ids"], chat.encode_text(tokenizer, texts))
    faults = [i for i, ids in enumerate(prompts)
              if any(fact["prompt_ids"][i] != ids for fact in facts.values())]
    changed = [i for i in range(len(kit)) if f16[i] != kit[i]]
    ties = [i for i in changed if is_tie(model, tokenizer, prompts[i], kit[i], f16[i])]
    wrong = sorted({*changed} - {*ties})
    typed, attacks = [i for i in faults + wrong if i >= n], len(prompts) - n
    mean, low, high = scoring.paired_difference(results["kit"].hits(None), results[kind].hits(None))
    moved = differ(replies[kind][:n], kit[:n])
    counts = {"text ids": ("0 differ", text_faults, f"of {len(texts):,} texts"),
              "prompt ids": ("0 differ", sum(i < n for i in faults), f"of {n:,} chats"),
              "f16 replies": (f"0 differ, but for ties within {TIE} nats", sum(i < n for i in wrong),
                              f"of {n:,}, {sum(i < n for i in ties)} ties"),
              "stop token": ("ends a reply", int(not exact["stops"]), "of 1 ran on"),
              "typed control tokens": ("0 ids and replies differ", len(typed), f"of {attacks} chats")}
    rules = [Rule(name, limit, f"{count} {rest}", not count) for name, (limit, count, rest) in counts.items()]
    points = f"{100 * mean:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    return [*rules, Rule(f"{kind} score", "not worse beyond its interval",
                         f"{points}, {moved} of {n:,} replies changed", high >= 0)]


def differ(left, right):
    """Return the number of positions at which two lists differ."""
    return sum(a != b for a, b in zip(left, right, strict=True))


def verdict(rules):
    """Return SHIP, or DON'T SHIP with the names of the broken rules."""
    broken = [rule.name for rule in rules if not rule.passed]
    return f"DON'T SHIP ({', '.join(broken)})" if broken else "SHIP"


def table(rules):
    """Return the rules as a table, to print or to look at."""
    return show.table(["rule", "must be", "measured", ""],
                      [[*rule[:3], "ok" if rule.passed else "BROKEN"] for rule in rules])


def modelfile(tokenizer, task, file, secret):
    """Return an Ollama Modelfile: system message, greedy replies, the template in Ollama's words.

    Ollama fills .System, .Prompt and .Response turn by turn: what stands between them is rendered.
    """
    roles = dict(zip("\1\2\3\4", ("system", "user", "assistant", "user"), strict=True))
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": mark} for mark, role in roles.items()], tokenize=False,
        chat_template=exported_template(tokenizer, secret), add_generation_prompt=True)
    start, after_system, reply, after_reply, _ = re.split("[\1-\4]", text)
    user = os.path.commonprefix([after_system[::-1], after_reply[::-1]])[::-1]
    template = (f"{{{{ if .System }}}}{start}{{{{ .System }}}}{after_system.removesuffix(user)}{{{{ end }}}}"
                f"{{{{ if .Prompt }}}}{user}{{{{ .Prompt }}}}{{{{ end }}}}{reply}"
                f"{{{{ .Response }}}}{after_reply.removesuffix(user)}")
    return (f'FROM ./{file}\nSYSTEM """{task.system}"""\nTEMPLATE """{template}"""\n'
            f"PARAMETER temperature 0\nPARAMETER num_predict {task.max_new_tokens}\n")


def card(name, facts, task, tokenizer, rules, results):
    """Return the model card README.md of run `name`; `facts` is its run.json."""
    base, kit = facts["params"]["model"], results["kit"]
    readme = Path(models.find(base)) / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    named = re.search(r"^license: *(\S+)", text, re.MULTILINE)
    scores = [[kind, group, score] for kind, r in results.items() for group, score in r.scores().items()]
    misses = [[q.messages[-1]["content"], reply, q.right] for q, reply, *_ in kit.misses()[:3]]
    origin = {key: facts.get(key) for key in ("id", "base", "data", "task", "seed", "params", "versions")}
    return string.Template((WEB / "card.md").read_text(encoding="utf-8")).substitute(
        name=name, base=base, licence=named.group(1) if named else "unknown", task=task.name,
        verdict=verdict(rules), system=task.system, max_new_tokens=task.max_new_tokens,
        stop=tokenizer.eos_token, n=len(kit.texts), wrong=len(kit.misses()), rules=table(rules),
        scores=show.table(["weights", "group", "right"], scores),
        misses=show.table(["message", "reply", "right"], misses),
        origin="\n".join(f"{key}: {json.dumps(value)}" for key, value in origin.items()))


def ship(run, out=None, quantise="q8_0"):
    """Ship `run` to the folder `out` (default runs/RUN/ship); return whether every rule holds.

    A folder that breaks a rule is named OUT-not-shipped. An error leaves nothing behind.
    """
    source = Path(runs.find(run))
    target = Path(out or source / "ship").absolute()
    if quantise not in QUANTISED:
        raise SettingsError(f"expected one of {', '.join(QUANTISED)}, got {quantise!r}", field="quantise")
    if not (source / "model").is_dir():
        raise MissingError("expected a trained model, found none; train the run to its end", file=source)
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise SettingsError("expected a new or empty folder, found files; delete it or choose another",
                            file=target, field="out")
    model, tokenizer = models.load(run, where="cpu")
    split_name(model, tokenizer)
    needed = 9 * model.num_parameters() + 20_000_000  # float32, float16, two quantised, the page
    free = shutil.disk_usage(next(path for path in target.parents if path.exists())).free
    if free < needed:
        raise SettingsError(f"expected {needed:,} bytes of free disk, got {free:,}; make room or choose "
                            "another folder", file=target, field="out")
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        rules = _fill(temporary, source, model, tokenizer, quantise)
        refused = target.with_name(f"{target.name}-not-shipped")
        shutil.rmtree(refused, ignore_errors=True)
        final = temporary.rename(target if all(rule.passed for rule in rules) else refused)
    except OSError as error:
        raise SettingsError(f"expected to write the folder, got {error}; make room or choose another",
                            file=target, field="out") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{verdict(rules)}: {final}")
    return final == target


def _fill(folder, source, model, tokenizer, quantise):
    """Write everything that leaves into `folder`, print the gate's table, return its rules."""
    facts = json.loads((source / "run.json").read_text(encoding="utf-8"))
    task, secret = tasks.load(facts["params"]["task"]), secrets.token_hex(8)
    shutil.copytree(source / "model", folder)
    for path in sorted(source.glob("checkpoint-*/adapter_*")):
        (folder / "adapter").mkdir(exist_ok=True)
        shutil.copy(path, folder / "adapter")
    files = {kind: folder / f"model-{kind}.gguf" for kind in ("f16", quantise)}
    for kind, path in files.items():
        write_gguf(model, tokenizer, path, kind, secret=secret)
    rules, results, numbers = gate(files, model, tokenizer, task)
    print(table(rules), *(f"{what}: {values}" for what, values in numbers.items()), sep="\n")
    name, file = source.name, files[quantise].name
    asked = [question.messages for question in results["kit"].questions[:4]]
    shipped = {"name": name, "system": task.system, "max_new_tokens": task.max_new_tokens, "file": file,
               "verdict": verdict(rules), **numbers, "examples": [chat[-1]["content"] for chat in asked],
               "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                          for path in folder.glob("model*")}}
    written = {"Modelfile": modelfile(tokenizer, task, file, secret),
               "README.md": card(name, facts, task, tokenizer, rules, results),
               "ship.json": json.dumps(shipped, indent=1, ensure_ascii=False)}
    for path, text in written.items():
        (folder / path).write_text(text, encoding="utf-8")
    shutil.copytree(WEB, folder / "web", ignore=shutil.ignore_patterns("card.md", ".gitignore", "*.sha256"))
    for path in ("ship.json", file):
        shutil.copy(folder / path, folder / "web")
    return rules


def serve(name, port=8080):
    """Answer at http://127.0.0.1:PORT/v1 with the shipped run (or folder) `name` until Ctrl-C."""
    folder = Path(name) if (Path(name) / "ship.json").is_file() else Path(runs.find(name)) / "ship"
    if not (folder / "ship.json").is_file():
        raise MissingError(f"expected a shipped model, found none; run `kit ship {name}`", file=folder)
    shipped = json.loads((folder / "ship.json").read_text(encoding="utf-8"))
    with serving(folder / shipped["file"], port=port) as server:
        print(f"{shipped['name']} answers at {server.address}/v1, system message "
              f"{shipped['system']!r}; Ctrl-C stops it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
