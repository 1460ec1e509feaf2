import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import tiny
import torch
import trl.trainer.utils as trl_utils
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, TrainerState
from trl.kernels import chunked_logprob

from kit import fits, memory, runs
from kit.engine import checkpoints, fingerprint
from kit.errors import CheckpointError, DivergedError, KitError, MissingError, SettingsError

CANARY = "hf_canaryCanaryCanary0123456789"


def long(*values):
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture(autouse=True, scope="module")
def as_forked():
    """Train to the bit as the forked processes do: one thread, TRL's own head, whatever other test files left."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of floats depend on the number of threads
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trl_utils, "_use_triton", chunked_logprob._use_triton)
        patch.setattr(trl_utils, "_ChunkedLogProbFunction", chunked_logprob.ChunkedLogProbFunction)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def forks():
    forks = tiny.Forks()
    yield forks
    forks.server.stdin.close()
    forks.server.wait(10)


def test_a_finished_folder_holds_what_is_promised(capsys):
    run = tiny.train()
    rows = runs.metrics("a")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert set(rows[0]) == {"step", "loss", "lr", "grad_norm", "tokens", "batch_hash"}
    assert rows[0]["lr"] == 1e-2 and abs(rows[0]["loss"] - 5.3) < 0.2  # ln 200 = 5.298
    epoch = sum(len(row["input_ids"]) for row in tiny.rows("sft", 18))
    assert sum(row["tokens"] for row in rows[:5]) == epoch  # 9 batches, 2 a step: the fifth step has one
    assert len({row["batch_hash"] for row in rows}) == 6
    model = AutoModelForCausalLM.from_pretrained(run.model)
    assert model.generation_config.eos_token_id == [1]
    assert AutoTokenizer.from_pretrained(run.model).eos_token == "<end>"
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name != "lm_head.weight":  # tied
            digest.update(json.dumps([name, "F32", list(tensor.shape)]).encode() + tensor.numpy().tobytes())
    assert run.report["weights_sha256"] == digest.hexdigest()
    assert run.report["loss_first"] == rows[0]["loss"] and run.report["loss_last"] == rows[-1]["loss"]
    facts = json.loads((run.folder / "run.json").read_text())
    assert facts["seed"] == 3 and facts["params"]["max_steps"] == 6 and facts["versions"]["torch"] == torch.__version__
    assert facts["settings"]["world_size"] == 1
    printed = capsys.readouterr()
    assert "\r" not in printed.err and "trained 6 steps in" in printed.out and "{'loss'" not in printed.out
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "checkpoint-4", "checkpoint-6", "lock", "metrics.jsonl", "model", "report.json", "run.json"]


def test_run_json_holds_what_two_starts_must_share(tmp_path):
    file, base = tmp_path / "rows.jsonl", tmp_path / "base"
    file.write_text("1\n")
    tiny.model().save_pretrained(base)
    params = tiny.Params(kind="dpo", max_steps=1)
    run = runs.start("a", params, data=[file], base=base, reference=base)
    run.train(tiny.trainer(run, params), tiny.tokenizer())
    facts, sha256 = checkpoints.read_json(run.folder / "run.json"), "[0-9a-f]{64}"
    assert facts["params"] == vars(params) and facts["seed"] == 3 and facts["world_size"] == 1
    assert {"python", "torch", "transformers", "trl", "accelerate", "peft", "datasets"} < set(facts["versions"])
    assert facts["data"] == {"rows.jsonl": hashlib.sha256(b"1\n").hexdigest()}
    for made in (facts["base"]["weights_sha256"], facts["reference"]["weights_sha256"],
                 *(facts["settings"][name] for name in ("tokenizer", "template", "rows"))):
        assert re.fullmatch(sha256, made)


def test_a_finished_run_is_not_trained_again(capsys):
    run = tiny.train()
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.name != "lock"}
    capsys.readouterr()
    assert tiny.train().finished
    assert "a is finished (6 steps)" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.name != "lock"} == before


@pytest.mark.parametrize("fault, resumed", [
    ("optimizer@4", 2), ("rename@4", 2), ("prune@6", 6), long("model@4", 2), long("before manifest@4", 2),
    long("model@2", None)])
def test_killed_inside_a_save(forks, folder, whole, fault, resumed):
    assert forks.train(folder, fault, name="a") == (-signal.SIGKILL, "")
    code, printed = forks.train(folder, name="a")
    assert code == 0 and (f"resuming from checkpoint-{resumed}\n" in printed) == (resumed is not None)
    assert tiny.outcome(runs.Run(folder / "a", {})) == whole
    assert not list((folder / "a").glob(".*"))


CASES = {"dropout and accumulation": {}, "second epoch": {"max_steps": 8, "save_steps": 3, "stop": 6},
         "rows in the order of the file": {"sampling": "sequential", "max_steps": 8, "stop": 6},
         "end of an epoch": {"stop": 4}, "data workers": {"workers": 2},
         "packing": {"packing": True, "accumulation": 1}, "lora": {"lora": True}, "dpo": {"kind": "dpo"},
         "dpo lora": {"kind": "dpo", "lora": True}}

SLOWER = ("rows in the order of the file", "end of an epoch", "dpo lora")


@pytest.mark.parametrize("case", [long(case) if case in SLOWER else case for case in CASES])
def test_interrupted_and_resumed_is_the_same_run(case):
    fields = dict(CASES[case])
    stop = fields.pop("stop", 2)
    whole = tiny.train("whole", **fields)
    with pytest.raises(runs.Stopped, match=f"after step {stop + 1} of"):
        tiny.train("parts", callbacks=tiny.interrupt(stop), **fields)
    parts = tiny.train("parts", **fields)
    assert tiny.outcome(parts) == tiny.outcome(whole)
    last = checkpoints.all_of(parts.folder)[0]
    assert last.name == f"checkpoint-{fields.get('max_steps', 6)}"
    assert checkpoints.verify(last, parts.facts["id"]) is None


@pytest.fixture(scope="module")
def stopped(as_forked, tmp_path_factory):
    """A run stopped after step 4 with checkpoints 2 and 4; tests copy it."""
    root = tmp_path_factory.mktemp("stopped") / "runs"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(runs.Stopped):
        patch.setenv("KIT_RUNS", str(root))
        tiny.train(callbacks=tiny.interrupt(3))
    return root / "a"


@pytest.fixture(scope="module")
def whole(as_forked, tmp_path_factory):
    """The outcome of the default run without any stop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_RUNS", str(tmp_path_factory.mktemp("whole") / "runs"))
        return tiny.outcome(tiny.train())


@pytest.fixture
def half(stopped, folder):
    shutil.copytree(stopped, folder / "a")
    return folder / "a"


@pytest.mark.parametrize("how", ["flipped", "truncated", "deleted"])
def test_each_damaged_file_is_noticed(half, how):
    run_id = runs.Run(half, {}).facts["id"]
    names = [path.name for path in (half / "checkpoint-4").iterdir()]
    assert len(names) >= 10
    for name in names:
        tiny.damage(half / "checkpoint-4" / name, how)
        path, refused = checkpoints.newest(half, run_id)
        assert path.name == "checkpoint-2" and refused[0].startswith("checkpoint-4: "), name
        assert (name in refused[0]) or name == checkpoints.MANIFEST
        shutil.rmtree(half / "checkpoint-4")
        shutil.copytree(half / "checkpoint-2", half / "checkpoint-4")
        manifest = checkpoints.read_json(half / "checkpoint-4" / checkpoints.MANIFEST)
        checkpoints.write_json(half / "checkpoint-4" / checkpoints.MANIFEST, manifest | {"step": 4})
        assert checkpoints.newest(half, run_id) == (half / "checkpoint-4", [])


def test_files_that_were_added_linked_or_come_from_another_run_are_noticed(half):
    run_id, newest = runs.Run(half, {}).facts["id"], half / "checkpoint-4"
    (newest / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin" in checkpoints.verify(newest, run_id)
    (newest / "pytorch_model.bin").unlink()
    assert checkpoints.verify(newest, run_id) is None and "another run" in checkpoints.verify(newest, "other")
    os.rename(newest / "model.safetensors", half / "elsewhere")
    os.symlink(half / "elsewhere", newest / "model.safetensors")
    assert "model.safetensors" in checkpoints.verify(newest, run_id)
    os.rename(half / "checkpoint-2", half / "checkpoint-9")
    assert checkpoints.verify(half / "checkpoint-9", run_id) == "it holds step 2"


def test_sealing_leaves_a_complete_checkpoint_alone_and_replaces_a_broken_one(half):
    run_id, newest = runs.Run(half, {}).facts["id"], half / "checkpoint-4"
    before = checkpoints.stamp(newest)
    for state, same in (("complete", True), ("broken", False)):
        shutil.copytree(half / "checkpoint-2", half / ".saving")
        checkpoints.seal(half / ".saving", newest, run_id, 4)
        assert (checkpoints.stamp(newest) == before) == same, state
        assert checkpoints.verify(newest, run_id) is None and not (half / ".saving").exists()
        tiny.damage(newest / "optimizer.pt", "flipped")


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(half, monkeypatch):
    """All files, then the manifest, then the rename, then the folder's entries: what a power cut leaves is whole."""
    shutil.copytree(half / "checkpoint-4", half / ".saving")
    names = {path.relative_to(half / ".saving").as_posix() for path in (half / ".saving").rglob("*") if path.is_file()}
    shutil.rmtree(half / "checkpoint-4")
    done, fsync, rename = [], os.fsync, os.rename

    def watched(number):
        done.append(os.path.relpath(os.readlink(f"/proc/self/fd/{number}"), half))
        fsync(number)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(os, "rename", lambda a, b: (done.append("rename"), rename(a, b)))
    checkpoints.seal(half / ".saving", half / "checkpoint-4", runs.Run(half, {}).facts["id"], 4)
    at = done.index(".saving/.MANIFEST.json.tmp")
    assert {f".saving/{name}" for name in names - {checkpoints.MANIFEST}} <= set(done[:at])
    assert done[at + 1:] == [".saving", "rename", "."]


def test_resume_falls_back_in_one_line_and_ends_the_same(half, whole, capsys):
    tiny.damage(half / "checkpoint-4" / "optimizer.pt", "flipped")
    facts = checkpoints.read_json(half / "run.json")
    facts["versions"]["threads"] = 96
    checkpoints.write_json(half / "run.json", facts)
    run = tiny.train()
    assert ("checkpoint-4: optimizer.pt has another sha256; resuming from checkpoint-2; equal steps, but not to the "
            "last bit (threads: 96 -> 1)\n") in capsys.readouterr().out
    assert tiny.outcome(run) == whole


def test_no_usable_checkpoint(half):
    for number in (2, 4):
        tiny.damage(half / f"checkpoint-{number}" / "model.safetensors", "truncated")
    with pytest.raises(CheckpointError, match=r"checkpoint-4: .*checkpoint-2: .*delete") as caught:
        tiny.train()
    assert caught.value.exit_code == 4


def test_pruning_keeps_the_two_newest_that_verify(half):
    run_id = runs.Run(half, {}).facts["id"]
    for number in (5, 6):
        shutil.copytree(half / "checkpoint-4", half / f"checkpoint-{number}")
        manifest = checkpoints.read_json(half / f"checkpoint-{number}" / checkpoints.MANIFEST)
        checkpoints.write_json(half / f"checkpoint-{number}" / checkpoints.MANIFEST, manifest | {"step": number})
    tiny.damage(half / "checkpoint-5" / "model.safetensors", "flipped")
    checkpoints.prune(half, run_id, {})
    assert sorted(path.name for path in half.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5", "checkpoint-6"]


@pytest.mark.parametrize("fields, text", [
    ({"learning_rate": 2e-2}, "learning_rate: 0.01 -> 0.02"), ({"seed": 4}, "seed: 3 -> 4"),
    ({"kind": "dpo"}, "kind: sft -> dpo"), ({"rows": 17}, "rows: 18 -> 17"), ({"lora": True}, "lora: False -> True")])
def test_changed_parameters_are_refused(half, fields, text):
    with pytest.raises(SettingsError, match=f"{text}.*another name, delete the folder"):
        tiny.train(**fields)
    assert checkpoints.read_json(half / "lock") == {}


@pytest.mark.parametrize("change, text", [
    ({"kind": "dpo"}, "trainer: SFTTrainer -> Preferences"), ({"dropout": 0.2}, "config.attention_dropout: 0.1 -> 0.2"),
    ({"rows": 17}, r"rows: [0-9a-f]{12} -> [0-9a-f]{12}"), ({"accumulation": 1}, "gradient_accumulation_steps: 2 -> 1"),
    ({"learning_rate": 2e-2}, "learning_rate: 0.01 -> 0.02"), ({"lora": True}, "default.r: None -> 4")])
def test_changed_cells_behind_the_same_parameters_are_refused(half, change, text):
    params = tiny.Params()
    run = runs.start("a", params)
    with pytest.raises(SettingsError, match=text):
        run.train(tiny.trainer(run, tiny.Params(**change)), tiny.tokenizer())


def test_changed_data_and_base_are_refused(tmp_path):
    file, base = tmp_path / "rows.jsonl", tmp_path / "base"
    file.write_text("1\n")
    tiny.model().save_pretrained(base)
    runs.start("a", {}, data=[file], base=base)
    runs.start("a", {}, data=[file], base=base)
    file.write_text("2\n")
    with pytest.raises(SettingsError, match=r"data rows.jsonl: [0-9a-f]{12} -> [0-9a-f]{12}"):
        runs.start("a", {}, data=[file], base=base)
    torch.manual_seed(1)
    tiny.LlamaForCausalLM(tiny.model().config).save_pretrained(base)
    with pytest.raises(SettingsError, match="base: .* -> "):
        runs.start("a", {}, data=[file], base=base, allow=["data rows.jsonl"])
    with pytest.raises(MissingError, match="no.jsonl"):
        runs.start("b", {}, data=[tmp_path / "no.jsonl"])


def test_a_base_that_is_not_what_its_run_reported_is_refused():
    run = tiny.train()
    assert runs.start("b", {}, base=run.model).facts["base"] == {
        "name": "a/model", "weights_sha256": run.report["weights_sha256"]}
    tiny.damage(run.model / "model.safetensors", "flipped")
    with pytest.raises(CheckpointError, match="train that run again"):
        runs.start("c", {}, reference=run.model)


class Used(TrainerCallback):
    """What the optimizer really holds when it steps."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.seen += [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]


def test_an_allowed_new_value_is_used(half):
    used = Used()
    tiny.train(learning_rate=2e-2, save_steps=5, allow=["learning_rate", "save_steps", "weight_decay"],
               callbacks=[used], extra={"weight_decay": 0.25})
    assert {decay for _, decay in used.seen} == {0.25, 0.0}  # 0.0: the group of norms
    assert sorted({rate for rate, _ in used.seen}) == sorted(row["lr"] for row in runs.metrics("a")[4:])
    rows, whole = runs.metrics("a"), tiny.train("whole", learning_rate=2e-2)
    assert [row["lr"] for row in rows[:4]] != [row["lr"] for row in runs.metrics(whole)[:4]]
    assert [row["lr"] for row in rows[4:]] == [row["lr"] for row in runs.metrics(whole)[4:]]
    assert (half / "checkpoint-5").is_dir()
    assert checkpoints.read_json(half / "run.json")["changes"] == [
        "learning_rate: 0.01 -> 0.02", "save_steps: 2 -> 5", "learning_rate: 0.01 -> 0.02", "weight_decay: 0.0 -> 0.25"]
    tiny.train(learning_rate=2e-2, save_steps=5, extra={"weight_decay": 0.25})


def broken(value):
    def do(model):
        with torch.no_grad():
            next(model.parameters())[5, 0] = value
    return do


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_at_its_step(folder, value):
    with pytest.raises(DivergedError, match="step 4: .*learning_rate") as caught:
        tiny.train(callbacks=[tiny.At(3, lambda model: model.model.norm.weight.data.fill_(value))])
    assert caught.value.exit_code == 3
    assert [row["step"] for row in runs.metrics("a")] == [1, 2, 3]
    assert [path.name for path in folder.glob("a/checkpoint-*")] == ["checkpoint-2"]
    assert tiny.train().finished  # the last good checkpoint stays usable


class Gradient(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 3:  # after the norm was taken: only the weights show it
            next(model.parameters()).grad.fill_(float("inf"))


def test_weights_broken_by_the_last_update_are_not_saved(folder):
    with pytest.raises(DivergedError, match="step 4: finite weights"):
        tiny.train(callbacks=[Gradient()])
    assert [path.name for path in folder.glob("a/checkpoint-*")] == ["checkpoint-2"]


def test_a_gradient_that_is_not_finite_stops_at_its_step(monkeypatch):
    plain = tiny.SFTTrainer._get_grad_norm

    def norm(self, model, grad_norm=None):
        return torch.tensor(float("inf")) if self.state.global_step == 2 else plain(self, model, grad_norm)

    monkeypatch.setattr(tiny.SFTTrainer, "_get_grad_norm", norm)
    with pytest.raises(DivergedError, match="step 3: .*norm inf"):
        tiny.train()


def test_a_loss_that_is_not_finite_with_a_finite_gradient_stops_too(monkeypatch):
    plain = tiny.SFTTrainer.training_step

    def step(self, *args, **kwargs):
        return plain(self, *args, **kwargs) * (float("nan") if self.state.global_step == 2 else 1)

    monkeypatch.setattr(tiny.SFTTrainer, "training_step", step)
    with pytest.raises(DivergedError, match="step 3: .*loss nan and gradient norm [0-9]"):
        tiny.train()


def test_the_order_of_rows_does_not_depend_on_other_random_numbers(whole):
    params = tiny.Params(max_steps=2)
    run = runs.start("a", params)
    trainer = tiny.trainer(run, params)
    torch.manual_seed(99)
    run.train(trainer, tiny.tokenizer())
    assert [row["batch_hash"] for row in runs.metrics(run)] == [
        json.loads(line)["batch_hash"] for line in whole[1].splitlines()[:2]]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_at_the_step_boundary_and_handlers_come_back(folder, number, code):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(runs.Stopped, match="after step 3 of 6, which is saved; run this again") as caught:
        tiny.train(callbacks=tiny.interrupt(2, number))
    assert caught.value.exit_code == code
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    assert [row["step"] for row in runs.metrics("a")] == [1, 2, 3] and (folder / "a" / "checkpoint-3").is_dir()
    assert checkpoints.read_json(folder / "a" / "lock") == {}


def test_a_second_interrupt_ends_at_once():
    with pytest.raises(KeyboardInterrupt):
        tiny.train(callbacks=tiny.interrupt(2, signal.SIGINT) + tiny.interrupt(2, signal.SIGINT))
    assert [row["step"] for row in runs.metrics("a")] == [1, 2]
    assert tiny.train().finished


def test_lora_is_merged_into_a_model_that_needs_no_peft():
    params = tiny.Params(lora=True, learning_rate=0.1)
    run = runs.start("a", params)
    trainer = tiny.trainer(run, params)
    run.train(trainer, tiny.tokenizer())
    ids, merged = torch.tensor([[5, 6, 7]]), AutoModelForCausalLM.from_pretrained(run.model)
    assert type(merged).__name__ == "LlamaForCausalLM" and not any("lora" in name for name in merged.state_dict())
    with torch.no_grad():
        want = trainer.model.eval()(input_ids=ids).logits
        assert torch.allclose(merged(input_ids=ids).logits, want, atol=1e-5)
        assert not torch.allclose(tiny.model()(input_ids=ids).logits, want, atol=1e-3)


def test_training_outside_the_main_thread():
    done = []
    thread = threading.Thread(target=lambda: done.append(tiny.train(max_steps=1)))
    thread.start()
    thread.join()
    assert done[0].finished


def test_no_secret_reaches_a_file_an_output_or_a_repr(monkeypatch, folder, capfd):
    monkeypatch.setenv("WANDB_API_KEY", CANARY + "w")
    params = {"hub_token": CANARY, "note": f"key {CANARY}w", "eos_token": "<end>"}
    run = runs.start("a", params)
    trainer = tiny.trainer(run, tiny.Params(), hub_token=CANARY)
    run.train(trainer, tiny.tokenizer())
    run.add(note=f"{CANARY}w")
    for path in folder.rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes(), path
    printed = capfd.readouterr()
    assert CANARY not in printed.out + printed.err + repr(run) + repr(trainer.args)
    assert run.facts["params"]["eos_token"] == "<end>"
    assert not list(folder.rglob("training_args.bin"))


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_code_in_a_checkpoint_does_not_run(half, tmp_path, name):
    marker, path = tmp_path / "ran", half / "checkpoint-4" / name
    torch.save({"state": Evil(marker)}, path)
    with pytest.raises(Exception, match="weights_only|Weights only"):
        torch.load(path, weights_only=True)
    manifest = checkpoints.read_json(path.parent / checkpoints.MANIFEST)  # an attacker seals it again
    manifest["files"][name] = {"sha256": checkpoints.sha256_of(path), "size": path.stat().st_size}
    checkpoints.write_json(path.parent / checkpoints.MANIFEST, manifest)
    with pytest.raises(CheckpointError, match="checkpoint-4: tensors were expected"):
        tiny.train()
    assert not marker.exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/tmp/x", "a/b", "a\0b", "a\n", "-x", "~", "x" * 101, "ä"])
def test_names_cannot_leave_the_runs_folder(folder, name):
    with pytest.raises(SettingsError, match="a run name"):
        runs.start(name, {})
    assert not folder.exists()


def test_a_link_out_of_the_runs_folder_is_refused(folder, tmp_path):
    folder.mkdir()
    os.symlink(tmp_path, folder / "a")
    with pytest.raises(SettingsError, match="a run name"):
        runs.start("a", {})


def test_a_used_folder_is_refused_with_the_two_ways_on(folder):
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "notes.txt").write_text("")
    with pytest.raises(SettingsError, match="choose another name or delete the folder"):
        runs.start("a", {})


def test_a_living_owner_keeps_the_folder_and_a_dead_one_loses_it(folder):
    run = runs.start("a", {})
    sleeper = subprocess.Popen(["sleep", "60"])
    owner = {"pid": sleeper.pid, "host": os.uname().nodename, "started": checkpoints._started(sleeper.pid)}
    (run.folder / "lock").write_text(json.dumps(owner))
    with pytest.raises(SettingsError, match=f"process {sleeper.pid} on"):
        runs.start("a", {})
    (run.folder / "lock").write_text(json.dumps(owner | {"started": 1}))  # its number was given to another process
    runs.start("a", {})
    (run.folder / "lock").write_text(json.dumps(owner))
    sleeper.kill()  # not waited for: a zombie has a number, but does not run
    until = time.monotonic() + 5
    while checkpoints._started(sleeper.pid) and time.monotonic() < until:
        time.sleep(0.01)
    runs.start("a", {})
    sleeper.wait()
    (run.folder / "lock").write_text(json.dumps(owner | {"host": "elsewhere"}))
    with pytest.raises(SettingsError, match="on elsewhere"):
        runs.start("a", {})


def test_a_full_disk_is_told_in_bytes_and_the_last_good_checkpoint_stays(half, whole):
    usage = shutil.disk_usage
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1234))
        with pytest.raises(CheckpointError, match=r"\d{3},\d{3} free bytes were needed to save, 1,234 are there"):
            tiny.train()
    assert tiny.outcome(tiny.train()) == whole


def test_free_space_is_looked_at_before_each_save(folder, whole):
    usage = shutil.disk_usage

    def later(path):
        return usage(path)._replace(free=1234) if (folder / "a" / "checkpoint-2").exists() else usage(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", later)
        with pytest.raises(CheckpointError, match=r"\d{3},\d{3} free bytes were needed to save, 1,234 are there"):
            tiny.train()
    assert [row["step"] for row in runs.metrics("a")] == [1, 2, 3, 4]
    assert [path.name for path in (folder / "a").glob("*checkpoint-*")] == ["checkpoint-2"]
    assert tiny.outcome(tiny.train()) == whole


def test_a_disk_that_fills_during_a_save(folder, whole):
    plain = torch.save

    def save(value, file, *args, **kwargs):
        if "scheduler" in str(file) and (folder / "a" / "checkpoint-2").exists():
            raise OSError(28, "No space left on device")
        plain(value, file, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(CheckpointError, match="disk was full"):
        patch.setattr(torch, "save", save)
        tiny.train()
    assert not (folder / "a" / ".saving").exists()
    assert tiny.outcome(tiny.train()) == whole


def test_preflight_of_the_first_loss():
    assert abs(runs.metrics(tiny.train("right", kind="dpo", dropout=0.0))[0]["loss"] - 0.6931) < 1e-3
    params = tiny.Params(kind="dpo", dropout=0.0)
    run = runs.start("wrong", params)
    trainer = tiny.trainer(run, params)
    trainer.ref_model.model.embed_tokens.weight.data *= 3
    with pytest.raises(SettingsError, match="step 1: loss 0.6931 was expected, .* came; the reference"):
        run.train(trainer, tiny.tokenizer(), first_loss=0.693147)


def test_dpo_rows_carry_what_lesson_04_draws():
    row = runs.metrics(tiny.train(kind="dpo", max_steps=1))[0]
    assert {"rewards/margins", "logps/chosen", "logps/rejected"} < set(row)


def test_a_trainer_without_the_settings_of_the_run_is_refused():
    run = runs.start("a", tiny.Params())
    trainer = tiny.trainer(run, tiny.Params(sampling="group_by_length"))
    trainer.args.logging_steps, trainer.args.push_to_hub = 10, True
    with pytest.raises(SettingsError, match=r"logging_steps, push_to_hub, .*group_by_length; .*run.settings\(\)"):
        run.train(trainer, tiny.tokenizer())


def batch(rows, length, side="right"):
    def fill(row, value):
        gap = [value] * (length - len(row))
        return [*row, *gap] if side == "right" else [*gap, *row]
    return {"input_ids": torch.tensor([fill(row, 0) for row in rows]),
            "labels": torch.tensor([fill(row, -100) for row in rows]),
            "attention_mask": torch.tensor([fill([1] * len(row), 0) for row in rows])}


def test_batch_hash_sees_rows_and_not_their_padding_order_or_packing():
    rows = [[5, 6, 7], [8, 9], [5, 5]]
    want, tokens = fingerprint.batch_hash(batch(rows, 3))
    assert tokens == 7 and fingerprint.batch_hash(batch(rows[::-1], 5, "left")) == (want, 7)
    packed = {"input_ids": torch.tensor([sum(rows, [])]), "labels": torch.tensor([sum(rows, [])]),
              "cu_seq_lens_q": torch.tensor([0, 3, 5, 7])}
    assert fingerprint.batch_hash(packed) == (want, 7)
    assert fingerprint.batch_hash(batch([[5, 6, 7], [8, 9], [5, 4]], 3))[0] != want
    other = batch(rows, 3)
    other["labels"][0, 0] = -100
    assert fingerprint.batch_hash(other)[0] != want
    pair = batch(rows[:2], 3)
    pair["completion_mask"] = pair.pop("labels").ne(-100).long()
    swapped = {key: value.flip(0) for key, value in pair.items()}
    assert fingerprint.batch_hash(pair)[0] != fingerprint.batch_hash(swapped)[0]


def test_weights_sha256_does_not_depend_on_the_number_of_files(tmp_path):
    tiny.model().save_pretrained(tmp_path / "one")
    tiny.model().save_pretrained(tmp_path / "many", max_shard_size="40KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert checkpoints.weights_sha256(tmp_path / "one") == checkpoints.weights_sha256(tmp_path / "many")


def test_wandb_never_asks_and_may_be_missing(monkeypatch, tmp_path, capsys):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_SILENT"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    run = runs.start("a", {"report_to": "wandb"})
    assert run.settings()["report_to"] == ["wandb"]
    assert (os.environ["WANDB_MODE"], os.environ["WANDB_SILENT"]) == ("offline", "true")
    assert os.environ["WANDB_DIR"] == str(run.folder)
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0123456789\n")
    (tmp_path / ".netrc").chmod(0o600)
    run.settings()
    assert "WANDB_MODE" not in os.environ
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a))
    assert run.settings()["report_to"] == ["none"] and "pip install wandb" in capsys.readouterr().out


@pytest.mark.long
def test_wandb_writes_each_run_into_its_own_folder_without_an_account(tmp_path):
    pytest.importorskip("wandb")
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import tiny; from kit import runs\n"
            "for name in 'ab':\n    run = runs.start(name, {'report_to': 'wandb', 'seed': 0})\n"
            "    run.train(tiny.trainer(run, tiny.Params(max_steps=2)), tiny.tokenizer())\n")
    env = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, os.path.dirname(tiny.__file__)], env=env, text=True,
                          capture_output=True, stdin=subprocess.DEVNULL, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in "ab":
        assert len(list((runs.root() / name / "wandb").glob("offline-run-*/*.wandb"))) == 1
    assert not (tmp_path / "wandb").exists() and "wandb" not in done.stdout + done.stderr.replace(str(tmp_path), "")


def test_progress_is_one_line_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    sys.stderr.isatty = lambda: True
    tiny.train()
    shown = sys.stderr.getvalue().split("\r")
    assert [part.split()[1] for part in shown[1:]] == [f"{step}/6" for step in range(1, 7)]
    assert [part.split()[2].count("#") for part in shown[1:]] == [3, 6, 10, 13, 16, 20]
    assert {len(part.split()[2]) for part in shown[1:]} == {22}
    assert all("tokens/s" in part and "s left" in part and "loss" in part for part in shown[1:])
    assert shown[-1].endswith("\n") and not any(part.endswith("\n") for part in shown[:-1])


def test_progress_is_told_by_the_first_process_only(monkeypatch):
    from kit.engine.recorder import Recorder

    monkeypatch.setattr(sys, "stderr", io.StringIO())
    sys.stderr.isatty = lambda: True
    run = runs.start("a", tiny.Params())
    trainer = tiny.trainer(run, tiny.Params())
    logs, state = {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 0.1}, TrainerState(global_step=2, max_steps=6)
    for main in (False, True):
        recorder = Recorder(run, trainer)
        recorder.main, recorder.file = main, io.StringIO()
        recorder.on_log(trainer.args, state, None, logs=logs)
        assert bool(recorder.file.getvalue()) == bool(sys.stderr.getvalue()) == main


def test_stopped_is_one_sentence_in_a_notebook():
    assert runs.Stopped("x", file="f")._render_traceback_() == ["Stopped: f: x"] and issubclass(runs.Stopped, KitError)


# A trainer that was not through preflight


def course(folder, run, *, start=0, cut=0, lora=None):
    """A trainer of two chats with the tokenizer of the course; `cut` ids are missing at the end of each row."""
    from bases import CHATS, base

    from kit import chat, sft

    model, tokenizer = base()
    encoded = [chat.encode(tokenizer, row) for row in CHATS[:2]]
    encoded = [chat.Encoded(e.input_ids[: len(e.input_ids) - cut], e.loss_mask[: len(e.loss_mask) - cut])
               for e in encoded]
    config = tiny.SFTConfig(**run.settings(), **sft.hardware(2, 2, 1), max_steps=1, max_length=None,
                            dataset_kwargs={"skip_prepare_dataset": True})
    adapters = lora and lora(model)
    return tiny.SFTTrainer(model, config, train_dataset=sft.sft_dataset(encoded, 2), processing_class=tokenizer,
                           peft_config=adapters), tokenizer


def plain_lora(model):
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def test_frozen_control_rows_are_refused_without_preflight(folder):
    run = runs.start("a", {})
    with pytest.raises(SettingsError, match="control rows distinct and trainable does not hold: .* frozen"):
        run.train(*course(folder, run, lora=plain_lora))
    assert not (folder / "a" / "metrics.jsonl").exists() and checkpoints.read_json(folder / "a" / "lock") == {}
    run = runs.start("b", {})
    from kit import sft

    run.train(*course(folder, run, lora=lambda model: sft.lora(4, model)))
    assert run.finished


def test_rows_that_never_stop_are_refused_without_preflight(folder):
    run = runs.start("a", {})
    with pytest.raises(SettingsError, match="every trained span ends with <end> does not hold: 2 spans"):
        run.train(*course(folder, run, cut=1))


# Gaps of memory


class Full(TrainerCallback):
    """A GPU whose memory ends at a step."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_full_gpu_is_told_in_one_sentence(monkeypatch, kind):
    monkeypatch.setattr(fits, "available", lambda: 80e9)
    told = r"runs/a: 2 rows of up to \d+ ids at once need about \d+\.\d GB, the GPU has 80.0 GB for this process"
    with pytest.raises(SettingsError, match=told) as caught:
        tiny.train(callbacks=[Full()], kind=kind)
    assert str(caught.value).count("\n") == 0 and caught.value.exit_code == 2 and caught.value.__suppress_context__
    assert [path.name for path in (runs.root() / "a").glob("checkpoint-*")] == ["checkpoint-2"]
    assert tiny.train(kind=kind).finished
