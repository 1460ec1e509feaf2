"""Every refusal of a run names a way on; each test reads it in the message, follows it, and goes on.

The words after the last "; " of a message are its advice, and " or " parts the ways.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

from kit import runs
from kit.engine import checkpoints, distributed
from kit.errors import KitError

HOLD = (
    "import sys; from kit import runs; r = runs.start({'run': 'a'}); print(1, flush=True); input()"
)


class World:
    """What a learner can change between two tries: the params, the trainer's extras, the machine."""

    def __init__(self, path, patch):
        self.path, self.patch, self.fields, self.extra = path, patch, {}, {}
        self.callbacks, self.data, self.base = [], [], None
        self.owner = None
        patch.setenv("KIT_RUNS", str(path / "runs"))

    def train(self):
        """Start and train, as a lesson does."""
        params = tiny.Params(**self.fields)
        run = runs.start(params, data=self.data, base=self.base)
        trainer = tiny.trainer(run, params, **self.extra)
        for callback in self.callbacks:
            trainer.add_callback(callback)
        run.train(trainer, tiny.tokenizer())
        assert run.finished
        return run

    def inside(self, place):
        """Return the path of a folder that a message names from the folder of the runs on."""
        return runs.root().parent / place


def another_run(world, advice):
    world.fields["run"] = "another"


def delete(world, advice):
    paths = sorted(world.inside("").glob(re.search("`(.*?)`", advice)[1]))
    assert paths
    for path in paths:
        shutil.rmtree(path)


def lower(world, advice):
    world.fields |= {"run": "another", "learning_rate": 1e-3}
    world.callbacks = []


def first_of(world, advice):
    world.name = re.search("choose one of ([^,]+)", advice)[1]


def stop(world, advice):
    world.owner.kill()
    world.owner.communicate()


def elsewhere(world, advice):
    world.patch.setenv("KIT_RUNS", str(world.path / "elsewhere"))


def train_one(world, advice):
    world.train()


def same_again(world, advice):
    world.callbacks = []


def free_space(world, advice):
    world.patch.undo()
    world.patch.setenv("KIT_RUNS", str(world.path / "runs"))


def without(world, advice):
    world.extra = {}


def load_again(world, advice):
    world.callbacks, world.fake = [], None


def correct_path(world, advice):
    world.data = [__file__]


def begin_at_the_base(world, advice):
    world.start = ""


WAYS = {
    r"choose another `run`$|choose another name$": another_run,
    r"^delete the folders? `.*`( to start from step 0)?$": delete,
    r"^lower learning_rate under another `run`$": lower,
    r"^choose one of .*": first_of,
    r"^stop that process$": stop,
    r"^set KIT_RUNS to another folder$": elsewhere,
    r"^there are no runs yet, train one first$|^train \w+ (with this model )?first,?$|^train the run first$": train_one,
    r"^run this again to go on$": same_again,
    r"^free some space and run again, the run goes on from its last checkpoint$": free_space,
    r"^remove these arguments$": without,
    r"^load the base again$": load_again,
    r"^make it$": lambda world, advice: Path(world.data[0]).write_text("1\n"),
    r"^correct the path$": correct_path,
    r'^set start="" to begin at the base model$': begin_at_the_base,
}


def ways(error):
    """Return the ways of an error's advice; each must be one that this file can follow."""
    advice = str(error).rsplit("; ", 1)[1]
    parts = re.split(r",? or ", advice)
    for part in parts:
        assert [pattern for pattern in WAYS if re.search(pattern, part)], f"not followed: {part}"
    return parts


@pytest.fixture
def world(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    yield world
    if world.owner:
        world.owner.kill()


def trained(world):
    world.fields = {"max_steps": 2}
    world.train()


def changed_settings(world):
    trained(world)
    world.fields["learning_rate"] = 2e-2
    return world.train


def changed_data(world):
    file = world.path / "rows.jsonl"
    file.write_text("1\n")
    world.data = [file]
    trained(world)
    file.write_text("2\n")
    return world.train


def foreign_folder(world):
    (runs.root() / "a").mkdir(parents=True)
    (runs.root() / "a" / "notes.txt").write_text("")
    return world.train


def damaged_run_json(world):
    trained(world)
    tiny.damage(runs.root() / "a" / "run.json", "truncated")
    return world.train


def damaged_manifests(world):
    trained(world)
    shutil.rmtree(runs.root() / "a" / "model")
    for file in (runs.root() / "a").glob("checkpoint-*/MANIFEST.json"):
        file.write_text("[]")
    return world.train


def damaged_report(world):
    """A later lesson that starts from the run."""
    trained(world)
    (runs.root() / "a" / "report.json").write_text("[]")
    world.start = "a"
    return lambda: runs.start_from({"model": "", "start": world.start})


def code_in_a_checkpoint(world):
    world.callbacks = tiny.interrupt(3)
    with pytest.raises(runs.Stopped):
        world.train()
    world.callbacks = []
    newest = runs.root() / "a" / "checkpoint-4"
    torch.save({"state": torch.nn.Linear(1, 1)}, newest / "optimizer.pt")
    checkpoints.seal(newest, runs.Run(runs.root() / "a", {}).id)
    return world.train


def locked(world):
    world.owner = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert world.owner.stdout.read(1) == b"1"
    return world.train


def bad_name(world):
    world.fields["run"] = "../a"
    return world.train


def no_place(world):
    world.patch.setenv("KIT_RUNS", "/dev/null")
    return world.train


def unknown_name(world):
    trained(world)
    world.name = "b"
    return lambda: runs.find(world.name)


def no_runs(world):
    return lambda: runs.find("a")


def no_metrics(world):
    runs.start(tiny.Params()).lock.release()
    return lambda: runs.metrics("a")


def stopped(world):
    world.callbacks = tiny.interrupt(3)
    return world.train


def diverged(world):
    world.callbacks = [tiny.At(3, lambda model: model.model.norm.weight.data.fill_(torch.nan))]
    return world.train


def full_disk(world):
    usage = shutil.disk_usage
    world.patch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1))
    return world.train


def own_arguments(world):
    world.extra = {"ignore_data_skip": True}
    return world.train


def no_data(world):
    world.data = [world.path / "rows.jsonl"]
    return world.train


def other_weights(world):
    """The base's folder is one model, and the trainer's model was loaded from another."""
    base = world.path / "base"
    tiny.model().save_pretrained(base)
    world.base, world.fake, make = base, "0" * 64, tiny.model

    def model(*args):
        made = make(*args)
        made.loaded_sha256 = world.fake or checkpoints.weights_sha256(base)
        return made

    world.patch.setattr(tiny, "model", model)
    return world.train


REFUSALS = [
    changed_settings, changed_data, foreign_folder, damaged_run_json, damaged_manifests,
    damaged_report, code_in_a_checkpoint, locked, bad_name, no_place, unknown_name, no_runs,
    no_metrics, stopped, diverged, full_disk, own_arguments, no_data, other_weights,
]  # fmt: skip
TWO_WAYS = (changed_settings, changed_data, foreign_folder, damaged_run_json, damaged_report,
            locked, no_data)  # fmt: skip


@pytest.mark.parametrize(
    "refusal, number",
    [(each, n) for each in REFUSALS for n in range(1 + (each in TWO_WAYS))],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_way_on_of_each_refusal_leads_on(world, refusal, number):
    attempt = refusal(world)
    with pytest.raises(KitError) as caught:
        attempt()
    assert "\n" not in str(caught.value)
    parts = ways(caught.value)
    assert len(parts) == 1 + (refusal in TWO_WAYS), parts
    follow = next(way for pattern, way in WAYS.items() if re.search(pattern, parts[number]))
    follow(world, parts[number])
    attempt()


def test_each_refusal_of_the_modules_is_known():
    """A new refusal in these modules must come with its advice here, or in a list of the others."""
    kit = Path(runs.__file__).parent
    files = [kit / "runs.py", *(kit / "engine" / f"{name}.py" for name in
             ("checkpoints", "recorder", "fingerprint", "distributed", "patches"))]  # fmt: skip
    count = sum(len(re.findall(r"(?:raise|return) \w+Error\(|raise error|error = Stopped\(",
                               file.read_text())) for file in files)  # fmt: skip
    assert count == 26, "a refusal was added or removed: give it a way on, and a test of it"


def test_deepspeed_on_cpus_names_configs_that_exist_and_join(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(KitError) as caught:
        distributed.join(cpu=True)
    files = re.findall(r"configs/\w+\.yaml", str(caught.value))
    assert len(files) == 2 and all((Path(runs.__file__).parents[1] / f).is_file() for f in files)
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    assert distributed.join(cpu=True) == 1


def test_a_host_that_does_not_see_the_run_goes_on_in_a_shared_folder(world):
    distributed_seconds, distributed.DISK_SECONDS = distributed.DISK_SECONDS, 0.1
    try:
        with pytest.raises(KitError, match="set KIT_RUNS to a folder"):
            distributed.meet(world.path / "own")
    finally:
        distributed.DISK_SECONDS = distributed_seconds
    run = runs.start(tiny.Params())
    distributed.meet(run.folder)


def test_a_signal_is_no_refusal_but_has_its_exit_code(world):
    world.callbacks = tiny.interrupt(3, signal.SIGINT)
    with pytest.raises(runs.Stopped) as caught:
        world.train()
    assert caught.value.exit_code == 130 and os.path.isdir(runs.root() / "a" / "checkpoint-4")
