import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import tiny
import torch
import trl.trainer.utils as trl_utils
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.kernels import chunked_logprob

from kit import runs, show, speed
from kit.engine import checkpoints, fingerprint, recorder
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
    assert (
        sum(row["tokens"] for row in rows[:5]) == epoch
    )  # 9 batches, 2 a step: the fifth step has one
    assert len({row["batch_hash"] for row in rows}) == 6
    model = AutoModelForCausalLM.from_pretrained(run.model)
    assert model.generation_config.eos_token_id == 1
    assert AutoTokenizer.from_pretrained(run.model).eos_token == "<end>"
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name != "lm_head.weight":  # tied
            digest.update(
                json.dumps([name, "F32", list(tensor.shape)]).encode() + tensor.numpy().tobytes()
            )
    assert run.report["weights_sha256"] == digest.hexdigest()
    assert (
        run.report["loss_first"] == rows[0]["loss"] and run.report["loss_last"] == rows[-1]["loss"]
    )
    facts = json.loads((run.folder / "run.json").read_text())
    assert (
        facts["seed"] == 3
        and facts["params"]["max_steps"] == 6
        and facts["versions"]["torch"] == torch.__version__
    )
    assert facts["settings"]["world_size"] == 1
    printed = capsys.readouterr()
    assert (
        "\r" not in printed.err
        and "trained 6 steps in" in printed.out
        and "{'loss'" not in printed.out
    )
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "checkpoint-4",
        "checkpoint-6",
        "lock",
        "metrics.jsonl",
        "model",
        "report.json",
        "run.json",
    ]


def test_run_json_holds_what_two_starts_must_share(tmp_path):
    file, base = tmp_path / "rows.jsonl", tmp_path / "base"
    file.write_text("1\n")
    tiny.model().save_pretrained(base)
    params = tiny.Params(kind="dpo", max_steps=1)
    run = runs.start(params, data=[file], base=base, reference=base)
    run.train(tiny.trainer(run, params), tiny.tokenizer())
    facts, sha256 = checkpoints.read_json(run.folder / "run.json"), "[0-9a-f]{64}"
    assert facts["params"] == vars(params) and facts["seed"] == 3 and facts["world_size"] == 1
    assert {"python", "torch", "transformers", "trl", "accelerate", "peft", "datasets"} < set(
        facts["versions"]
    )
    assert facts["data"] == {"rows.jsonl": hashlib.sha256(b"1\n").hexdigest()}
    for made in (
        facts["base"]["weights_sha256"],
        facts["reference"]["weights_sha256"],
        *(facts["settings"][name] for name in ("tokenizer", "template", "rows")),
    ):
        assert re.fullmatch(sha256, made)


def test_a_finished_run_is_not_trained_again(capsys):
    run = tiny.train()
    before = {
        path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.name != "lock"
    }
    capsys.readouterr()
    assert tiny.train().finished
    assert "a is finished (6 steps)" in capsys.readouterr().out
    assert {
        path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.name != "lock"
    } == before


@pytest.mark.parametrize(
    "fault, resumed",
    [
        ("state@4", 2),
        ("unsealed@4", 2),
        ("sealed@4", 4),
        ("discard@2", 6),
        long("model@4", 2),
        long("model@2", None),
        long("unsealed@2", None),
    ],
)
def test_killed_inside_a_save(forks, folder, whole, fault, resumed):
    assert forks.train(folder, fault, name="a") == (-signal.SIGKILL, "")
    code, printed = forks.train(folder, name="a")
    assert code == 0 and (f"resuming from checkpoint-{resumed}\n" in printed) == (
        resumed is not None
    ), printed
    assert tiny.outcome(runs.Run(folder / "a", {})) == whole
    assert sorted(path.name for path in (folder / "a").glob("*checkpoint-*")) == [
        "checkpoint-4",
        "checkpoint-6",
    ]


CASES = {
    "dropout and accumulation": {},
    "second epoch": {"max_steps": 8, "save_steps": 3, "stop": 6},
    "rows in the order of the file": {"sampling": "sequential", "max_steps": 8, "stop": 6},
    "end of an epoch": {"stop": 4},
    "data workers": {"workers": 2},
    "packing": {"packing": True, "accumulation": 1},
    "lora": {"lora": True},
    "dpo": {"kind": "dpo"},
    "dpo lora": {"kind": "dpo", "lora": True},
}

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
    assert checkpoints.problem(last, parts.id) is None


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
def test_each_damaged_file_is_noticed_and_its_checkpoint_removed(stopped, half, how):
    run_id = runs.Run(half, {}).id
    names = [path.name for path in (half / "checkpoint-4").iterdir()]
    assert len(names) >= 10
    for name in names:
        tiny.damage(half / "checkpoint-4" / name, how)
        path, lines = checkpoints.newest(half, run_id)
        assert path.name == "checkpoint-2" and lines[0].startswith("checkpoint-4: "), name
        assert (f"{name} " in lines[0] or name == checkpoints.MANIFEST) and not (
            half / "checkpoint-4"
        ).exists()
        shutil.copytree(stopped / "checkpoint-4", half / "checkpoint-4")
        assert checkpoints.newest(half, run_id) == (half / "checkpoint-4", [])


def test_files_that_were_added_linked_or_come_from_another_run_are_noticed(half):
    run_id, newest = runs.Run(half, {}).id, half / "checkpoint-4"
    (newest / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin" in checkpoints.problem(newest, run_id)
    (newest / "pytorch_model.bin").unlink()
    assert (
        checkpoints.problem(newest, run_id) is None
        and checkpoints.problem(newest, "other") == "run has changed"
    )
    os.rename(newest / "model.safetensors", half / "elsewhere")
    os.symlink(half / "elsewhere", newest / "model.safetensors")
    assert "model.safetensors" in checkpoints.problem(newest, run_id)
    os.rename(half / "checkpoint-2", half / "checkpoint-9")
    assert checkpoints.problem(half / "checkpoint-9", run_id) == "step has changed"


def test_a_checkpoint_is_on_the_disk_before_it_has_its_manifest(half, monkeypatch):
    """All files and folders, then the manifest: a power cut leaves no manifest above missing bytes."""
    newest = half / "checkpoint-4"
    (newest / checkpoints.MANIFEST).unlink()
    names, done, fsync = {path.name for path in newest.iterdir()}, [], os.fsync

    def watched(number):
        done.append(os.path.relpath(os.readlink(f"/proc/self/fd/{number}"), newest))
        fsync(number)

    monkeypatch.setattr(os, "fsync", watched)
    checkpoints.seal(newest, runs.Run(half, {}).id)
    assert set(done[:-2]) == names and done[-2:] == [".MANIFEST.json.tmp", "."]


def test_resume_falls_back_in_one_line_and_ends_the_same(half, whole, capsys):
    tiny.damage(half / "checkpoint-4" / "optimizer.pt", "flipped")
    facts = checkpoints.read_json(half / "run.json")
    facts["versions"]["threads"] = 96
    checkpoints.write_json(half / "run.json", facts)
    run = tiny.train()
    assert (
        "checkpoint-4: optimizer.pt has changed; resuming from checkpoint-2; equal steps, but not to the "
        "last bit (threads: 96 -> 1)\n"
    ) in capsys.readouterr().out
    assert tiny.outcome(run) == whole


def test_no_usable_checkpoint(half):
    for number in (2, 4):
        tiny.damage(half / f"checkpoint-{number}" / "model.safetensors", "truncated")
    with pytest.raises(CheckpointError, match=r"checkpoint-4: .*checkpoint-2: .*delete") as caught:
        tiny.train()
    assert caught.value.exit_code == 4


def test_pruning_keeps_the_two_newest_and_the_best(half):
    for number in (5, 6, 7):
        shutil.copytree(half / "checkpoint-4", half / f"checkpoint-{number}")
    checkpoints.prune(half, best=4)
    assert sorted(path.name for path in half.glob("checkpoint-*")) == [
        "checkpoint-4",
        "checkpoint-6",
        "checkpoint-7",
    ]


def saved(run):
    """A run folder in which a training has saved something."""
    (run.folder / "checkpoint-2").mkdir(exist_ok=True)
    checkpoints.seal(run.folder / "checkpoint-2", run.id)
    return run


def test_a_run_that_saved_nothing_starts_again_with_other_settings(tmp_path):
    """After a refusal before step 1, or a kill before the first save, nothing stands in the way."""
    file, other = tmp_path / "one.py", tmp_path / "two.py"
    for path in (file, other):
        path.write_text(f"train = {str(path)!r}\n")
    run = runs.start({"run": "a", "seed": 1, "task": str(file)})
    run.add(right_of_group=[1])
    (run.folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (run.folder / "checkpoint-2").mkdir()  # its save did not finish
    again = runs.start({"run": "a", "seed": 1, "task": str(file)})
    assert again.id == run.id and again.report == {"right_of_group": [1]}
    again = runs.start({"run": "a", "seed": 2, "task": str(other)})
    assert again.facts["params"]["seed"] == again.facts["seed"] == 2 and again.report == {}
    assert not (run.folder / "metrics.jsonl").exists()
    assert (run.folder / "task.py").read_text() == other.read_text()
    saved(again)
    with pytest.raises(SettingsError, match="seed: 2 -> 3"):
        runs.start({"run": "a", "seed": 3, "task": str(other)})


def test_another_trainer_may_follow_one_that_saved_nothing():
    params = tiny.Params(max_steps=2)
    run = runs.start(params)
    other = tiny.trainer(run, tiny.Params(max_steps=2, learning_rate=0.5))
    other.add_callback(tiny.At(1, lambda model: model.model.norm.weight.data.fill_(float("nan"))))
    with pytest.raises(DivergedError):
        run.train(other, tiny.tokenizer())
    run.train(tiny.trainer(run, params), tiny.tokenizer())
    assert run.finished and run.facts["settings"]["learning_rate"] == params.learning_rate


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"learning_rate": 2e-2}, "learning_rate: 0.01 -> 0.02"),
        ({"seed": 4}, "seed: 3 -> 4"),
        ({"kind": "dpo"}, "kind: sft -> dpo"),
        ({"rows": 17}, "rows: 18 -> 17"),
        ({"lora": True}, "lora: False -> True"),
    ],
)
def test_changed_parameters_are_refused(half, fields, text):
    with pytest.raises(SettingsError, match=f"{text}.*another `run` or delete the folder `runs/a`"):
        tiny.train(**fields)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"kind": "dpo"}, "trainer: SFTTrainer -> Preferences"),
        ({"dropout": 0.2}, "config.attention_dropout: 0.1 -> 0.2"),
        ({"rows": 17}, r"rows: [0-9a-f]{12} -> [0-9a-f]{12}"),
        ({"accumulation": 1}, "gradient_accumulation_steps: 2 -> 1"),
        ({"learning_rate": 2e-2}, "learning_rate: 0.01 -> 0.02"),
        ({"lora": True}, "default.r: None -> 4"),
    ],
)
def test_changed_cells_behind_the_same_parameters_are_refused(half, change, text):
    run = runs.start(tiny.Params())
    with pytest.raises(SettingsError, match=text):
        run.train(tiny.trainer(run, tiny.Params(**change)), tiny.tokenizer())


def test_changed_data_and_base_are_refused(tmp_path):
    file, base, params = tmp_path / "rows.jsonl", tmp_path / "base", {"run": "a"}
    file.write_text("1\n")
    tiny.model().save_pretrained(base)
    saved(runs.start(params, data=[file], base=base))
    runs.start(params, data=[file], base=shutil.copytree(base, tmp_path / "same weights"))
    file.write_text("2\n")
    with pytest.raises(SettingsError, match=r"data rows.jsonl: [0-9a-f]{12} -> [0-9a-f]{12}"):
        runs.start(params, data=[file], base=base)
    file.write_text("1\n")
    torch.manual_seed(1)
    tiny.LlamaForCausalLM(tiny.model().config).save_pretrained(base)
    with pytest.raises(SettingsError, match="base weights_sha256: .* -> "):
        runs.start(params, data=[file], base=base)
    with pytest.raises(MissingError, match="no.jsonl"):
        runs.start({"run": "b"}, data=[tmp_path / "no.jsonl"])


def test_a_model_that_is_not_the_base_of_its_run_is_refused(tmp_path):
    """The folder changed after the start, or the model object was trained before: run.json would name other weights."""
    base, params = tmp_path / "base", tiny.Params()
    tiny.model().save_pretrained(base)
    run = runs.start(params, base=base)
    trainer = tiny.trainer(run, params)
    trainer.model.loaded_sha256 = "0" * 64
    with pytest.raises(
        SettingsError,
        match=r"expected a model with the weights [0-9a-f]{12} of the base, got 0{12}",
    ):
        run.train(trainer, tiny.tokenizer())
    trainer.model.loaded_sha256 = checkpoints.weights_sha256(base)
    run.train(trainer, tiny.tokenizer())
    assert trainer.model.loaded_sha256 == run.report["weights_sha256"]


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
    with pytest.raises(DivergedError, match="step 4: expected finite weights"):
        tiny.train(callbacks=[Gradient()])
    assert [path.name for path in folder.glob("a/checkpoint-*")] == ["checkpoint-2"]


def test_a_gradient_that_is_not_finite_stops_at_its_step(monkeypatch):
    plain = tiny.SFTTrainer._get_grad_norm

    def norm(self, model, grad_norm=None):
        return (
            torch.tensor(float("inf"))
            if self.state.global_step == 2
            else plain(self, model, grad_norm)
        )

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
    run = runs.start(params)
    trainer = tiny.trainer(run, params)
    torch.manual_seed(99)
    run.train(trainer, tiny.tokenizer())
    assert [row["batch_hash"] for row in runs.metrics(run)] == [
        json.loads(line)["batch_hash"] for line in whole[1].splitlines()[:2]
    ]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_at_the_step_boundary_and_handlers_come_back(folder, number, code):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(
        runs.Stopped, match="after step 3 of 6, which is saved; run this again"
    ) as caught:
        tiny.train(callbacks=tiny.interrupt(2, number))
    assert caught.value.exit_code == code
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    assert [row["step"] for row in runs.metrics("a")] == [1, 2, 3] and (
        folder / "a" / "checkpoint-3"
    ).is_dir()


def test_a_second_interrupt_ends_at_once():
    # A shell starts background jobs with SIGINT ignored, and then the second one would be.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        tiny.train(callbacks=tiny.interrupt(2, signal.SIGINT) + tiny.interrupt(2, signal.SIGINT))
    assert [row["step"] for row in runs.metrics("a")] == [1, 2]
    assert tiny.train().finished


def test_lora_is_merged_into_a_model_that_needs_no_peft():
    params = tiny.Params(lora=True, learning_rate=0.1)
    run = runs.start(params)
    trainer = tiny.trainer(run, params)
    run.train(trainer, tiny.tokenizer())
    ids, merged = torch.tensor([[5, 6, 7]]), AutoModelForCausalLM.from_pretrained(run.model)
    assert type(merged).__name__ == "LlamaForCausalLM" and not any(
        "lora" in name for name in merged.state_dict()
    )
    with torch.no_grad():
        want = trainer.model.eval()(input_ids=ids).logits
        assert torch.allclose(merged(input_ids=ids).logits, want, atol=1e-5)
        assert not torch.allclose(tiny.model()(input_ids=ids).logits, want, atol=1e-3)
        adapted = PeftModel.from_pretrained(tiny.model(), run.folder / "adapter")
        assert torch.allclose(adapted(input_ids=ids).logits, want, atol=1e-5)


def test_training_outside_the_main_thread():
    done = []
    thread = threading.Thread(target=lambda: done.append(tiny.train(max_steps=1)))
    thread.start()
    thread.join()
    assert done[0].finished


def test_no_secret_reaches_a_file_an_output_or_a_repr(monkeypatch, folder, capfd):
    monkeypatch.setenv("WANDB_API_KEY", CANARY + "w")
    params = {"run": "a", "hub_token": CANARY, "note": f"key {CANARY}w", "eos_token": "<end>"}
    run = runs.start(params)
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
    manifest = checkpoints.read_json(
        path.parent / checkpoints.MANIFEST
    )  # an attacker seals it again
    manifest[name] = checkpoints.sha256_of(path)
    checkpoints.write_json(path.parent / checkpoints.MANIFEST, manifest)
    with pytest.raises(CheckpointError, match="checkpoint-4: expected tensors"):
        tiny.train()
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/tmp/x", "a/b", "a\0b", "a\n", "-x", "~", "x" * 101, "ä"]
)
def test_names_cannot_leave_the_runs_folder(folder, name):
    with pytest.raises(SettingsError, match="a run name"):
        runs.start({"run": name})
    assert not folder.exists()


def test_a_link_out_of_the_runs_folder_is_refused(folder, tmp_path):
    folder.mkdir()
    os.symlink(tmp_path, folder / "a")
    with pytest.raises(SettingsError, match="a run name"):
        runs.start({"run": "a"})


def test_a_used_folder_is_refused_with_the_two_ways_on(folder):
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "notes.txt").write_text("")
    with pytest.raises(SettingsError, match="choose another `run` or delete the folder `runs/a`"):
        runs.start({"run": "a"})


def test_a_living_owner_keeps_the_folder_and_a_dead_one_loses_it(folder):
    """Whatever stands in the file `lock`, the operating system knows who holds it."""
    run = runs.start({"run": "a"})
    del run
    (folder / "a" / "lock").write_text('{"pid": "x"}')
    code = "import sys; from kit import runs; run = runs.start({'run': 'a'}); print(1, flush=True); sys.stdin.read()"
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdout.read(1) == b"1"
    with pytest.raises(
        SettingsError, match="a: expected a free run, got one that another process trains"
    ):
        runs.start({"run": "a"})
    owner.kill()  # not waited for: a zombie has a number, but holds nothing
    owner.stdout.read()
    runs.start({"run": "a"})
    owner.communicate()


def test_a_full_disk_is_told_in_bytes_and_the_last_good_checkpoint_stays(half, whole):
    usage = shutil.disk_usage
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1234))
        with pytest.raises(
            CheckpointError,
            match=r"expected \d{3},\d{3} free bytes on the disk for a save, got 1,234",
        ):
            tiny.train()
    assert tiny.outcome(tiny.train()) == whole


def test_free_space_is_looked_at_before_each_save(folder, whole):
    usage = shutil.disk_usage

    def later(path):
        return (
            usage(path)._replace(free=1234)
            if (folder / "a" / "checkpoint-2").exists()
            else usage(path)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", later)
        with pytest.raises(
            CheckpointError,
            match=r"expected \d{3},\d{3} free bytes on the disk for a save, got 1,234",
        ):
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

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(CheckpointError, match="got a full disk"),
    ):
        patch.setattr(torch, "save", save)
        tiny.train()
    assert tiny.outcome(tiny.train()) == whole


def test_dpo_rows_carry_what_lesson_04_draws():
    row = runs.metrics(tiny.train(kind="dpo", max_steps=1))[0]
    assert {"rewards/margins", "logps/chosen", "logps/rejected"} < set(row)


def test_a_trainer_without_the_settings_of_the_run_is_refused():
    run = runs.start(tiny.Params())
    trainer = tiny.trainer(run, tiny.Params(sampling="group_by_length"))
    trainer.args.logging_steps, trainer.args.push_to_hub = 10, True
    with pytest.raises(
        SettingsError, match=r"run.settings\(\).*logging_steps, push_to_hub, .*group_by_length"
    ):
        run.train(trainer, tiny.tokenizer())


def batch(rows, length, side="right"):
    def fill(row, value):
        gap = [value] * (length - len(row))
        return [*row, *gap] if side == "right" else [*gap, *row]

    return {
        "input_ids": torch.tensor([fill(row, 0) for row in rows]),
        "labels": torch.tensor([fill(row, -100) for row in rows]),
        "attention_mask": torch.tensor([fill([1] * len(row), 0) for row in rows]),
    }


def test_batch_hash_sees_rows_and_not_their_padding_order_or_packing():
    rows = [[5, 6, 7], [8, 9], [5, 5]]
    want, tokens = fingerprint.batch_hash(batch(rows, 3))
    assert tokens == 7 and fingerprint.batch_hash(batch(rows[::-1], 5, "left")) == (want, 7)
    packed = {
        "input_ids": torch.tensor([sum(rows, [])]),
        "labels": torch.tensor([sum(rows, [])]),
        "cu_seq_lens_q": torch.tensor([0, 3, 5, 7]),
    }
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
    assert checkpoints.weights_sha256(tmp_path / "one") == checkpoints.weights_sha256(
        tmp_path / "many"
    )


def test_wandb_may_be_missing(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a)
    )
    assert (
        recorder.reporters("wandb") == ["none"] and "pip install wandb" in capsys.readouterr().out
    )
    assert recorder.reporters("wandb, tensorboard") == ["tensorboard"] and recorder.reporters(
        "all"
    ) == ["all"]


@pytest.fixture
def no_account(tmp_path, monkeypatch):
    """Each name of W&B's environment is unset, and there is no ~/.netrc."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    return {"HOME": str(tmp_path)}


def test_a_resumed_run_may_report_to_wandb_which_without_an_account_writes_offline(
    forks, half, no_account, whole
):
    pytest.importorskip("wandb")
    code, printed = forks.train(half.parent, env=no_account, name="a", report_to="wandb")
    assert code == 0 and "resuming from checkpoint-4" in printed, printed
    assert tiny.outcome(runs.Run(half, {})) == whole
    place = re.search(
        r"W&B wrote an offline run; `wandb sync (\S+)` in the folder of the runs uploads it",
        printed,
    )[1]
    file = next((half.parent / place).glob("*.wandb"))
    assert b"learning_rate" in file.read_bytes()  # the parameters are its config
    assert "wandb:" not in printed


def test_wandb_that_does_not_answer_loses_no_run(forks, folder, no_account, whole):
    """A server that takes the connection and is silent: the run goes on offline, to the same weights."""
    pytest.importorskip("wandb")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {
            **no_account,
            "WANDB_API_KEY": "x" * 40,
            "TINY_WANDB_SECONDS": "2",
            "WANDB_BASE_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }
        began = time.monotonic()
        code, printed = forks.train(folder, env=env, name="a", report_to="wandb")
    assert (
        code == 0
        and "W&B cannot be reached" in printed
        and "`wandb sync a/wandb/offline-run" in printed
    ), printed
    assert time.monotonic() - began < 60
    assert tiny.outcome(runs.Run(folder / "a", {})) == whole


class Lines:
    """Stands in for show.Progress and keeps what it is to show."""

    def __init__(self, *args):
        self.total, self.calls = 0, []

    def note(self, text):
        self.calls.append(text)

    def update(self, done, loss=None, validation=None, reward=None):
        self.calls.append((done, self.total, loss, validation))

    def finish(self, text):
        self.calls.append(text)


def test_progress_follows_each_step_and_says_at_once_that_it_stops(monkeypatch):
    lines = Lines()
    monkeypatch.setattr(show, "progress", lambda *args: lines)
    with pytest.raises(runs.Stopped):
        tiny.train(callbacks=tiny.interrupt(3), validate=tiny.away, eval_steps=2)
    rows = runs.metrics("a")
    steps = [(row["step"], 6, row["loss"], row.get("validation_loss")) for row in rows]
    assert lines.calls == ["checking", *steps[:3], "stopping after this step", steps[3], ""]
    assert [row["step"] for row in rows if "validation_loss" in row] == [2, 4]


@pytest.mark.parametrize("fields", [{}, long({"lora": True}), {"kind": "dpo"}], ids=str)
def test_the_best_model_is_kept_through_an_interrupt(fields):
    """Validation losses with their minimum at step 3: model/ is that of the run that ended there, exactly."""
    losses = {1: 5.0, 2: 4.0, 3: 3.0, 4: 3.5, 5: 3.1, 6: 3.0, 7: 3.2, 8: 3.3}

    def trained(name, **more):
        steps = iter(losses.values() if name != "parts2" else list(losses.values())[5:])
        return tiny.train(
            name.rstrip("2"),
            validate=lambda model: next(steps),
            eval_steps=1,
            keep="best",
            max_steps=8,
            **fields,
            **more,
        )

    whole = trained("whole")
    with pytest.raises(runs.Stopped):
        trained("parts", callbacks=tiny.interrupt(4))
    parts = trained("parts2")
    assert tiny.outcome(parts) == tiny.outcome(whole)
    assert parts.report["best_step"] == 3 and parts.report["validation_loss"] == 3.0
    assert (parts.folder / "checkpoint-3").is_dir() and len(
        list(parts.folder.glob("checkpoint-*"))
    ) == 3
    last = tiny.train("last", max_steps=8, **fields)
    assert last.report["weights_sha256"] != whole.report["weights_sha256"]
    if not fields:
        assert whole.report["weights_sha256"] == checkpoints.weights_sha256(
            whole.folder / "checkpoint-3"
        )


def test_validation_is_ten_times_per_run_and_at_the_end():
    calls = []
    run = tiny.train(
        max_steps=24, save_steps=24, validate=lambda model: calls.append(model.training) or 1.0
    )
    rows = [row["step"] for row in runs.metrics(run) if "validation_loss" in row]
    assert (
        rows == [3, 6, 9, 12, 15, 18, 21, 24]
        and len(calls) == 8
        and run.report["validation_loss"] == 1.0
    )


def measured(*losses):
    return [{"logps/chosen": -1.0, "validation_loss": loss} for loss in losses]


@pytest.mark.parametrize(
    "rows, text",
    [
        (measured(0.31, 0.3, 0.55), "became less likely, from 0.31 to 0.55 nats per id; lower"),
        (measured(0.31, 0.3, 0.4), ""),  # within the margin
        (measured(0.55, 0.31), ""),
        ([{"validation_loss": 0.1}, {"validation_loss": 9.0}], ""),  # SFT
        ([{"logps/chosen": -1.5}, {"logps/chosen": -10.4}], ""),  # batches of different rows
        ([], ""),
    ],
)
def test_chosen_replies_that_become_less_likely_are_reported(rows, text):
    sentences = runs._warnings(rows, rows[-1].get("validation_loss") if rows else None)
    assert len(sentences) == bool(text) and text in "".join(sentences)


def test_a_warning_stands_in_the_report_and_on_the_screen(capsys):
    """Two validations with a rise of 1 nat; the same losses of SFT are not warned of."""
    for kind in ("dpo", "sft"):
        losses = iter([1.0, 2.0])
        run = tiny.train(
            kind, kind=kind, max_steps=2, eval_steps=1, validate=lambda model: next(losses)
        )
        printed = capsys.readouterr().out
        warned = kind == "dpo"
        assert ("from 1.00 to 2.00 nats per id" in printed) == warned
        assert len(run.report.get("warnings", ())) == warned


def test_a_run_folder_keeps_its_task(tmp_path):
    file = tmp_path / "tickets.py"
    file.write_text('train, test = "train.jsonl", "test.jsonl"\n')
    run = saved(runs.start({"run": "a", "task": str(file)}))
    assert (run.folder / "task.py").read_bytes() == file.read_bytes()
    assert run.facts["task"] == {"tickets.py": checkpoints.sha256_of(file)}
    file.write_text('train, test = "train.jsonl", "test2.jsonl"\n')
    with pytest.raises(SettingsError, match=r"task tickets.py: [0-9a-f]{12} -> [0-9a-f]{12}"):
        runs.start({"run": "a", "task": str(file)})


def test_a_run_goes_on_where_its_files_have_moved(folder, tmp_path, monkeypatch):
    """Another path to the same task, pairs and model is no other setting."""
    names = {"task": "tickets.py", "pairs": "pairs.jsonl", "model": "base"}

    def start(place):
        params = {"run": "a", "seed": 0, **{key: str(place / name) for key, name in names.items()}}
        monkeypatch.setattr(runs, "run_name", lambda run, model: run)
        return runs.start(params, data=[params["pairs"]], base=params["model"])

    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "tickets.py").write_text('train = "train.jsonl"\n')
    (old / "pairs.jsonl").write_text("1\n")
    tiny.model().save_pretrained(old / "base")
    run = saved(start(old))
    run_id = run.id
    run.lock.release()
    old.rename(new)
    monkeypatch.setenv("KIT_RUNS", str(folder.rename(tmp_path / "moved")))
    assert start(new).id == run_id
    for name in ("tickets.py", "pairs.jsonl"):
        text = (new / name).read_text()
        (new / name).write_text(text + "\n")
        with pytest.raises(SettingsError, match=f"{name}: [0-9a-f]{{12}} -> "):
            start(new)
        (new / name).write_text(text)
    assert start(new).id == run_id


def test_a_run_is_found_by_name_and_an_unknown_name_lists_the_runs():
    with pytest.raises(
        MissingError, match="expected the name of a run, got 'b'; there are no runs yet"
    ):
        runs.find("b")
    run, other = runs.start({"run": "a", "model": "pocket"}), runs.start({"run": "c"})
    assert runs.find("a-pocket") == run.folder and other.folder.name == "c"
    with pytest.raises(MissingError, match="got 'b'; choose one of a-pocket, c"):
        runs.metrics("b")


def test_where_a_lesson_starts():
    assert runs.run_name("03_sft_chat", "owner/name") == "03_sft_chat-owner-name"
    assert runs.start_from({"start": "", "model": "pocket"}) == "pocket"
    run = runs.start({"run": "02", "model": "pocket"})
    run.model.mkdir()
    with pytest.raises(
        MissingError,
        match="expected a finished run 02-pocket, got none; train 02 with this model first",
    ):
        runs.start_from({"start": "02", "model": "pocket"})
    run.add(weights_sha256="0" * 64)
    assert runs.start_from({"start": "02", "model": "pocket"}) == run.model


def test_a_report_is_written_only_when_it_changes():
    run = runs.start({"run": "a"})
    run.add(score=1)
    before = (run.folder / "report.json").stat().st_mtime_ns
    run.add(score=1)
    assert (run.folder / "report.json").stat().st_mtime_ns == before and run.report == {"score": 1}


def test_a_damaged_model_of_a_finished_run_is_written_again(whole, capsys):
    run = tiny.train()
    for how in ("flipped", "truncated", "deleted"):
        tiny.damage(run.model / "model.safetensors", how)
        assert tiny.outcome(
            tiny.train()
        ) == whole and "model/ is damaged, so it is written again" in (capsys.readouterr().out)
        assert checkpoints.weights_sha256(run.model) == whole[0]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", "/proc/runs", "/dev/null"):
        monkeypatch.setenv("KIT_RUNS", str(place))
        with pytest.raises(
            SettingsError, match="a: expected a folder that can be written, got .*; set KIT_RUNS"
        ):
            runs.start({"run": "a"})


def test_no_warning_of_an_old_name(recwarn):
    tiny.train(kind="dpo", max_steps=1, lora=True)
    assert [str(w.message) for w in recwarn if "is_gradient_checkpointing" in str(w.message)] == []


FUZZ = 12  # damages per file


def vandalise(path, draw):
    """Flip a bit, cut, delete, or put another JSON value in the place of a file; return what was done."""
    how = draw.choice(["flip", "cut", "delete", "value", "key", "garbage"])
    raw = path.read_bytes()
    if how == "delete":
        path.unlink()
    elif how == "cut":
        path.write_bytes(raw[: draw.randrange(len(raw) + 1)])
    elif how == "flip" and raw:
        at = draw.randrange(len(raw))
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << draw.randrange(8)]) + raw[at + 1 :])
    elif how in ("value", "key") and raw.startswith(b"{"):
        value = json.loads(raw)
        key = draw.choice(sorted(value))
        if how == "key":
            del value[key]
        else:
            value[key] = draw.choice([None, 1, "x", [], {}, {"x": 1}, [1], True])
        path.write_text(json.dumps(value))
    else:
        path.write_bytes(
            draw.choice([b"", b"[]", b"null", b"\xff\xfe", b"{" * 5000, b'{"a": NaN}'])
        )
    return f"{how} {path.name}"


@pytest.mark.parametrize("name", ["checkpoint-4/MANIFEST.json", "run.json", "report.json", "lock"])
def test_a_vandalised_file_never_ends_in_a_traceback_or_a_false_success(
    stopped, folder, whole, name
):
    """After each of many random damages, a start either refuses in one sentence or ends with the right weights."""
    draw, outcomes = random.Random(name), {"refused": 0, "right": 0}
    if name == "report.json":
        shutil.copytree(stopped, folder / "a")
        tiny.train()
        stopped = shutil.copytree(folder / "a", folder / "finished")
    params = tiny.Params()
    for _ in range(FUZZ):
        shutil.rmtree(folder / "a", ignore_errors=True)
        shutil.copytree(stopped, folder / "a")
        deed = vandalise(folder / "a" / name, draw)
        try:
            tiny.train()
        except KitError as error:
            assert "\n" not in str(error) and (name == "run.json" or "report" in str(error)), (
                deed,
                str(error),
            )
            outcomes["refused"] += 1
        else:
            run = runs.Run(folder / "a", params)
            assert checkpoints.weights_sha256(run.model) == whole[0], deed
            assert run.finished and len(runs.metrics(run)) == 6, deed
            outcomes["right"] += 1
    assert outcomes["right"] >= FUZZ // 8, outcomes


def test_stopped_is_one_sentence_in_a_notebook():
    assert runs.Stopped("x", file="f")._render_traceback_() == ["Stopped: f: x"] and issubclass(
        runs.Stopped, KitError
    )


# Gaps of memory


class Full(TrainerCallback):
    """A GPU whose memory ends at a step."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_full_gpu_gives_advice_in_one_sentence(monkeypatch, kind):
    monkeypatch.setattr(speed, "advice", lambda trainer: "take fewer rows at once", raising=False)
    with pytest.raises(SettingsError, match="runs/a: take fewer rows at once") as caught:
        tiny.train(callbacks=[Full()], kind=kind)
    assert (
        str(caught.value).count("\n") == 0
        and caught.value.exit_code == 2
        and caught.value.__suppress_context__
    )
    assert [path.name for path in (runs.root() / "a").glob("checkpoint-*")] == ["checkpoint-2"]
    assert tiny.train(kind=kind).finished
