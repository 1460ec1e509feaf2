"""A training run is one folder. It resumes exactly, and refuses to resume with other settings.

run.json (settings, hashes, versions), task.py, metrics.jsonl (a line per step), report.json (results),
checkpoint-N/ (see kit.engine.checkpoints), model/ (loads with from_pretrained). Lesson 02.
"""

import contextlib
import json
import os
import re
import shutil
import time
import uuid
from pathlib import Path

from kit import models, show, speed, tasks
from kit.engine import checkpoints, distributed, fingerprint, patches
from kit.engine.checkpoints import find_run as find
from kit.engine.checkpoints import runs_root as root
from kit.errors import CheckpointError, KitError, MissingError, SettingsError

__all__ = ["Run", "Stopped", "find", "metrics", "root", "run_name", "start", "start_from"]
FACTS = {"id": str, "params": dict, "data": dict, "settings": dict, "versions": dict}
FALL = 0.5  # nats that the chosen log-probability of DPO may lose before the report says so


class Stopped(KitError):
    """Training was stopped by a signal or the stop button after a save; the exit code is 128 + signal."""


def run_name(run, model) -> str:
    """Return the folder name of a run with a base model: "03_sft_chat-pocket"."""
    return "-".join(filter(None, (run, re.sub(r"[^A-Za-z0-9._-]+", "-", str(model)).strip("-"))))


def start_from(params):
    """Return the model folder of the run `params.start`, or `params.model` when start is "" ."""
    lesson, model = _param(params, "start", ""), _param(params, "model", "")
    if not lesson:
        return model
    run = Run(checkpoints.run_folder(run_name(lesson, model)), params)
    if not run.finished:
        raise MissingError(f"expected a finished run {run.folder.name}, got none; run notebooks/{lesson}.ipynb with "
                           'this model first, or set start="" to begin at the base model')
    return run.model


def _param(params, name, default):
    return (params if isinstance(params, dict) else vars(params)).get(name, default)


def start(params, *, data=(), base=None, reference=None):
    """Create the folder of a run, or open it again to resume; return its Run.

    params: a lesson's Settings (or a dict); `run` and `model` name the folder. data: files or Records. base,
    reference: model folders or hub ids. Raises SettingsError when the folder is not a run, is in use, cannot be
    written, or was started with other settings.
    """
    run = Run(checkpoints.run_folder(run_name(_param(params, "run", ""), _param(params, "model", ""))), params)
    if not distributed.is_first():
        return run  # process 0 creates and checks; the others meet it in Run.train
    fresh = {"params": fingerprint.plain(params), "data": dict(fingerprint.source(item) for item in data),
             "base": fingerprint.weights(base and models.find(base)),
             "reference": fingerprint.weights(reference and models.find(reference)), **run.task()}
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        run.open(fresh)
    except OSError as error:
        raise SettingsError(f"expected a folder that can be written, got the error {error.strerror!r}; set KIT_RUNS "
                            "to another folder", file=checkpoints.short(run.folder)) from None
    return run


def metrics(run) -> list:
    """Return the rows of a run's metrics.jsonl as dicts, one per step; run is a Run or a name."""
    folder = run.folder if isinstance(run, Run) else find(run)
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        raise MissingError("expected metrics, got none; train the run first", file=checkpoints.short(folder)) from None
    return [json.loads(line) for line in lines if line.endswith("\n")]  # the last line may still be half written


def _out_of_memory():
    import torch

    return torch.OutOfMemoryError


def _warnings(rows) -> list:
    """Return a sentence when DPO lowered the log-probability of the chosen replies too."""
    logps = [row["logps/chosen"] for row in rows if "logps/chosen" in row]
    tenth = max(1, len(logps) // 10)
    first, last = (sum(part) / tenth for part in (logps[:tenth], logps[-tenth:]))
    if not logps or last > first - FALL:
        return []
    return [f"log-probability of the chosen replies fell from {first:.1f} to {last:.1f} nats: the model now prefers "
            "other replies to both; lower learning_rate or add an SFT term"]


class Run:
    """A run folder; `start` makes it."""

    def __init__(self, folder, params):
        self.folder, self.params, self.seed = Path(folder), params, _param(params, "seed", 0)
        self.lock = self.progress = None

    def __repr__(self):
        return f"Run({self.folder.name}, {'finished' if self.finished else 'not finished'})"

    @property
    def facts(self) -> dict:
        """run.json; {} when it is missing or damaged."""
        facts = checkpoints.read_json(self.folder / "run.json")
        return facts if all(isinstance(facts.get(key), kind) for key, kind in FACTS.items()) else {}

    @facts.setter
    def facts(self, value):
        checkpoints.write_json(self.folder / "run.json", value)

    @property
    def id(self) -> str:
        return self.facts["id"]

    @property
    def model(self) -> Path:
        """Folder of the trained model with its tokenizer."""
        return self.folder / "model"

    @property
    def report(self) -> dict:
        """report.json; {} before there is one."""
        return checkpoints.read_json(self.folder / "report.json")

    @property
    def finished(self) -> bool:
        return isinstance(self.report.get("weights_sha256"), str) and self.model.is_dir()

    def add(self, **fields):
        """Merge fields into report.json; process 0 writes, and only what is new."""
        report = {**self.report, **fingerprint.plain(fields)}
        if distributed.is_first() and report != self.report:
            checkpoints.write_json(self.folder / "report.json", report)

    def task(self) -> dict:
        """Return {"task": name and sha256} of the task file, {} for parameters without a task."""
        name = _param(self.params, "task", "")
        self.task_file = Path(tasks.load(name, check=False).file) if name else None
        return {"task": dict([fingerprint.source(self.task_file)])} if name else {}

    def open(self, fresh):
        """Take the lock, then write run.json and task.py, or compare with those that are there."""
        self.lock = checkpoints.lock(self.folder)
        if self.facts:
            return self._same(fresh)
        if {path.name for path in self.folder.iterdir()} - {"lock", "task.py", ".run.json.tmp"}:
            raise SettingsError("expected a new folder or a run, got other files or a damaged run.json; choose another "
                                "name or delete the folder", file=checkpoints.short(self.folder))
        if self.task_file and self.task_file.suffix == ".py":
            shutil.copyfile(self.task_file, self.folder / "task.py")
        self.facts = {"name": self.folder.name, "id": uuid.uuid4().hex, "created": time.strftime("%FT%T%z"),
                      **fresh, "seed": self.seed, "world_size": int(os.environ.get("WORLD_SIZE", "1")),
                      "settings": {}, "versions": fingerprint.environment()}

    def _same(self, fresh):
        """Compare with run.json and refuse what changed; the first trainer of a run adds its settings."""
        facts = self.facts
        if "settings" in fresh and not facts["settings"]:
            self.facts = {**facts, **fresh}
        elif changes := fingerprint.changed({key: facts.get(key) for key in fresh}, fresh):
            raise SettingsError(f"expected the settings of this run's start, got others ({'; '.join(changes)}); "
                                "choose another name or delete the folder", file=checkpoints.short(self.folder))

    def settings(self) -> dict:
        """Return the trainer arguments that belong to the run: `SFTConfig(**run.settings(), ...)`."""
        from kit.engine.recorder import reporters

        patches.checkpointing_name()
        return {"output_dir": str(self.folder), "run_name": self.folder.name, "seed": self.seed, "data_seed": self.seed,
                "save_strategy": "steps", "save_steps": _param(self.params, "save_steps", 100),
                # A NaN must show: the filter would log the mean of the steps before it.
                "logging_strategy": "steps", "logging_steps": 1, "logging_nan_inf_filter": False,
                "disable_tqdm": True, "report_to": reporters(_param(self.params, "report_to", "none"))}

    def train(self, trainer, tokenizer, *, first_loss=None, validate=None):
        """Train, or go on from the newest whole checkpoint, then write model/ and the results into report.json.

        trainer: TRL's SFTTrainer or DPOTrainer, built with `**run.settings()`. first_loss: expected loss of step 1
        within 1e-3 nats, `math.log(2)` for DPO. validate: a function of the model that returns its validation loss
        in nats. A finished run only says so. Raises DivergedError, CheckpointError, SettingsError, and Stopped after
        a signal.
        """
        from kit.engine.recorder import Recorder, wandb_run  # imports torch

        wrong = fingerprint.unfit(trainer.args, {**self.settings(), "save_steps": trainer.args.save_steps})
        if wrong:
            raise SettingsError(f"expected a trainer with `**run.settings()`, got its own {', '.join(wrong)}; remove "
                                "these arguments", file=checkpoints.short(self.folder))
        trainer.args.hub_token = None  # the run never uploads, and nothing it writes may hold a token
        main, self.progress = trainer.is_world_process_zero(), show.progress(self.folder.name, 0)
        recorder = Recorder(self, trainer, first_loss=first_loss, validate=validate,
                            eval_steps=_param(self.params, "eval_steps", 0),
                            keep_best=_param(self.params, "keep", "last") == "best")
        try:
            self.progress.note("checking")
            if main:
                self.lock = checkpoints.lock(self.folder)
                self._check_start(trainer, tokenizer)
            distributed.meet(self.folder)
            if distributed.from_first(main and self._is_done()):
                return
            distributed.share_last_rows(trainer)
            with contextlib.ExitStack() as stack:
                stack.enter_context(distributed.watched(self.folder))
                stack.enter_context(checkpoints.full_disk(self.folder, recorder.needed()))
                checkpoint = distributed.from_first(main and self._newest() or None)
                if main and "wandb" in trainer.args.report_to:
                    stack.enter_context(wandb_run(self.folder, fingerprint.plain(self.params)))
                steps = recorder.train(checkpoint)
                if steps >= trainer.state.max_steps:
                    self._finish(trainer, tokenizer, recorder)
            if recorder.stop or recorder.signal:
                raise self._stopped(steps, trainer.state.max_steps, recorder.signal)
        except _out_of_memory():
            raise SettingsError(speed.advice(trainer), file=checkpoints.short(self.folder)) from None
        finally:
            self.progress.finish("")
            if main and self.lock:
                self.lock.release()

    def _check_start(self, trainer, tokenizer):
        """Compare the trainer with the run's first start, and its model with the base of run.json."""
        self._same({"settings": fingerprint.settings(trainer, tokenizer)})
        base, loaded = self.facts.get("base") or {}, getattr(trainer.model, "loaded_sha256", None)
        if loaded and base.get("weights_sha256", loaded) != loaded:
            raise SettingsError(f"expected a model with the weights {base['weights_sha256'][:12]} of the base, got "
                                f"{loaded[:12]}; load the base again", file=checkpoints.short(self.folder))

    def _is_done(self) -> bool:
        """Return whether model/ is the finished one of report.json; say so."""
        with contextlib.suppress(CheckpointError):
            if self.finished and self.report["weights_sha256"] == checkpoints.weights_sha256(self.model):
                print(f"{self.folder.name} is finished ({self.report.get('steps')} steps); nothing was trained")
                return True
        if self.finished:
            print(f"{self.folder.name}: model/ is damaged, so it is written again")
        return False

    def _newest(self):
        """Return the checkpoint to resume from, or None, and print what changed since then."""
        now, versions = fingerprint.environment(), self.facts["versions"]
        path, lines = checkpoints.newest(self.folder, self.id)
        other = [f"{key}: {old} -> {now.get(key)}" for key, old in versions.items() if now.get(key) != old]
        if path:
            lines.append(f"resuming from {path.name}")
            lines += [f"equal steps, but not to the last bit ({', '.join(other)})"] * bool(other)
        print("; ".join(lines), end="\n" * bool(lines))
        return path

    def _stopped(self, steps, total, number):
        error = Stopped(f"stopped after step {steps} of {total}, which is saved; run this again to go on",
                        file=checkpoints.short(self.folder))
        error.exit_code = 128 + (number or 15)
        return error

    def _finish(self, trainer, tokenizer, recorder):
        """Write model/ whole, then report.json, whose weights_sha256 marks the run as finished."""
        best, temporary = recorder.best_step(), self.folder / ".model"
        model = trainer.accelerator.unwrap_model(trainer.model)
        distributed.finite(model, trainer.state.global_step)
        stops = model.generation_config.eos_token_id
        stops = stops if isinstance(stops, list) else [stops]
        model.generation_config.eos_token_id = sorted({*stops, tokenizer.eos_token_id} - {None})
        trained = distributed.whole(trainer)
        if trainer.is_world_process_zero():
            shutil.rmtree(temporary, ignore_errors=True)
            trained.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            shutil.rmtree(self.model, ignore_errors=True)
            os.rename(temporary, self.model)
            self._report(recorder, {"best_step": best} if best else {})
            model.loaded_sha256 = self.report["weights_sha256"]  # who trains this object again does not start at base
        trainer.accelerator.wait_for_everyone()

    def _report(self, recorder, fields):
        """Write the results of the training into report.json and print them in one sentence."""
        rows, seconds = recorder.rows, time.monotonic() - recorder.begin
        losses, validations = [row["loss"] for row in rows], recorder.validated()
        warnings = _warnings(rows)
        self.add(steps=len(rows), tokens=sum(row["tokens"] for row in rows), loss_first=losses[0], loss_last=losses[-1],
                 seconds=round(seconds, 3), **fields, **({"warnings": warnings} if warnings else {}),
                 **({"validation_loss": validations[fields.get("best_step", max(validations))]} if validations else {}),
                 weights_sha256=checkpoints.weights_sha256(self.model))
        before = f" ({recorder.first_step} of them before)" if recorder.first_step else ""
        print(*warnings, f"trained {len(rows)} steps{before} in {seconds:.0f} s, loss {losses[0]:.4f} -> "
              f"{losses[-1]:.4f}", sep="\n")
