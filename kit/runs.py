"""A training run is one folder. It resumes exactly, and refuses to resume with other settings.

run.json (settings, hashes, versions), task.py, metrics.jsonl (a line per step), report.json
(results), checkpoint-N/ (kit.engine.checkpoints), model/ (loads with from_pretrained), adapter/ of
LoRA before it was merged into model/ (not where several processes split the model). Lesson 02.
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
RISE = 0.1  # nats per id that DPO may raise the loss of the chosen replies


class Stopped(KitError):
    """A signal or the stop button ended training after a save; exit code 128 + signal."""


def run_name(run, model) -> str:
    """Return the folder name of a run with a base model: "03_sft_chat-pocket"."""
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", str(model)).strip("-")
    return f"{run}-{model}" if model else run


def start_from(params):
    """Return the model folder of the run `params.start`, or `params.model` when start is ""."""
    lesson, model = _param(params, "start", ""), _param(params, "model", "")
    if not lesson:
        return model
    run = Run(checkpoints.run_folder(run_name(lesson, model)), params)
    if not run.finished:
        raise MissingError(f"expected a finished run {run.folder.name}, got none; train {lesson} "
                           'with this model first, or set start="" to begin at the base model')
    return run.model


def _param(params, name, default):
    return (params if isinstance(params, dict) else vars(params)).get(name, default)


def start(params, *, data=(), base=None, reference=None):
    """Create the folder of a run, or open it again to resume; return its Run.

    params: a lesson's Settings (or a dict); `run` and `model` name the folder. data: files or
    Records. base, reference: names for kit.models. Raises SettingsError when the folder is no run,
    is in use, cannot be written, or was started with other settings.
    """
    name = run_name(_param(params, "run", ""), _param(params, "model", ""))
    run = Run(checkpoints.run_folder(name), params)
    if not distributed.is_first():
        return run  # process 0 creates and checks; the others meet it in Run.train
    task = _param(params, "task", "")
    task = Path(tasks.load(task, check=False).file) if task else None
    fresh = {"params": fingerprint.plain(params),
             "data": dict(fingerprint.source(item) for item in data),
             "base": fingerprint.weights(base and models.find(base)),
             "reference": fingerprint.weights(reference and models.find(reference)),
             "task": task and dict([fingerprint.source(task)])}
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        run.open(fresh, task)
    except OSError as error:
        raise SettingsError(f"expected a folder that can be written, got {error.strerror!r}; set "
                            "KIT_RUNS to another folder", file=run.place) from None
    return run


def metrics(run) -> list:
    """Return the rows of a run's metrics.jsonl as dicts, one per step; run is a Run or a name."""
    file = (run.folder if isinstance(run, Run) else find(run)) / "metrics.jsonl"
    if not file.is_file():
        raise MissingError("expected metrics.jsonl, got none; train the run first",
                           file=checkpoints.short(file.parent))
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be half


def _warnings(rows, last) -> list:
    """Return a sentence when DPO made the chosen replies of the validation pairs less likely."""
    losses = [row["validation_loss"] for row in rows
              if "logps/chosen" in row and "validation_loss" in row]
    if not losses or last <= losses[0] + RISE:
        return []
    return [f"the chosen replies of the validation pairs became less likely, from {losses[0]:.2f} "
            f"to {last:.2f} nats per id; lower learning_rate or add an SFT term"]


class Run:
    """A run folder; `start` makes it."""

    def __init__(self, folder, params):
        self.folder, self.params, self.seed = Path(folder), params, _param(params, "seed", 0)
        self.model, self.place = self.folder / "model", checkpoints.short(folder)
        self.way_on = f"choose another `run` or delete the folder `{self.place}`"
        self.lock = self.progress = None

    def __repr__(self):
        return f"Run({self.folder.name}, {'finished' if self.finished else 'not finished'})"

    @property
    def facts(self) -> dict:
        """run.json; {} when it is missing or damaged."""
        facts = checkpoints.read_json(self.folder / "run.json")
        sound = all(isinstance(facts.get(key), kind) for key, kind in FACTS.items())
        return facts if sound else {}

    @property
    def id(self) -> str:
        return self.facts["id"]

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

    @property
    def started(self) -> bool:
        """Return whether the folder holds anything that a training saved."""
        return self.model.is_dir() or any(self.folder.glob(f"checkpoint-*/{checkpoints.MANIFEST}"))

    def open(self, fresh, task):
        """Take the lock; write run.json and task.py, or compare with the run.json that is there.

        A run that has saved nothing starts again, with whatever settings.
        """
        self.lock = checkpoints.lock(self.folder)
        names = {path.name for path in self.folder.iterdir()}
        if not self.facts and names - {"lock", "task.py", ".run.json.tmp"}:
            raise SettingsError("expected a new folder or a run, got other files or a damaged "
                                f"run.json; {self.way_on}", file=self.place)
        if self.facts and not self._changes(fresh):
            return
        for name in ("report.json", "metrics.jsonl", "rejected.jsonl"):
            (self.folder / name).unlink(missing_ok=True)
        if task and task.suffix == ".py":
            shutil.copyfile(task, self.folder / "task.py")
        facts = {"name": self.folder.name, "id": uuid.uuid4().hex, **fresh, "settings": {},
                 "created": time.strftime("%FT%T%z"), "seed": self.seed,
                 "world_size": int(os.environ.get("WORLD_SIZE", "1")),
                 "versions": fingerprint.environment()}
        checkpoints.write_json(self.folder / "run.json", facts)

    def _changes(self, fresh) -> list:
        """Return what differs from run.json; refuse it when something was saved."""
        changes = fingerprint.changed({key: self.facts.get(key) for key in fresh}, fresh)
        if changes and self.started:
            raise SettingsError("expected the settings of this run's start, got others "
                                f"({'; '.join(changes)}); {self.way_on}", file=self.place)
        return changes

    def settings(self) -> dict:
        """Return the trainer arguments of the run: `SFTConfig(**run.settings(), ...)`."""
        from kit.engine.recorder import reporters

        patches.checkpointing_name()
        return {"output_dir": str(self.folder), "run_name": self.folder.name,
                "seed": self.seed, "data_seed": self.seed, "disable_tqdm": True,
                "save_strategy": "steps", "save_steps": _param(self.params, "save_steps", 100),
                # A NaN must show: the filter would log the mean of the steps before it.
                "logging_strategy": "steps", "logging_steps": 1, "logging_nan_inf_filter": False,
                "report_to": reporters(_param(self.params, "report_to", "none"))}

    def train(self, trainer, tokenizer, *, validate=None):
        """Train, or go on from the newest whole checkpoint, then write model/ and report.json.

        trainer: TRL's trainer, built with `**run.settings()`. validate: a function of the model
        that returns its validation loss in nats. A finished run only says so. Raises
        DivergedError, CheckpointError, SettingsError, and Stopped after a signal.
        """
        import torch

        from kit.engine.recorder import Recorder

        main, self.progress = trainer.is_world_process_zero(), show.progress(self.folder.name, 0)
        trainer.args.hub_token = None  # the run never uploads; nothing it writes may hold a token
        recorder = Recorder(self, trainer, validate, _param(self.params, "eval_steps", 0),
                            keep_best=_param(self.params, "keep", "last") == "best")
        try:
            self.progress.note("checking")
            if main:
                self.lock = checkpoints.lock(self.folder)
                self._check(trainer, tokenizer)
            distributed.meet(self.folder)
            if not distributed.from_first(main and self._is_done()):
                with distributed.watched(self.folder), \
                        checkpoints.full_disk(self.folder, recorder.needed()):
                    self._train(trainer, tokenizer, recorder)
        except torch.OutOfMemoryError:
            raise SettingsError(speed.advice(trainer), file=self.place) from None
        finally:
            self.progress.finish("")
            if self.lock:
                self.lock.release()

    def _check(self, trainer, tokenizer):
        """Compare the trainer with the run's settings and first start, its model with the base."""
        own = fingerprint.unfit(trainer.args, self.settings())
        if own:
            raise SettingsError("expected a trainer with `**run.settings()`, got its own "
                                f"{', '.join(own)}; remove these arguments", file=self.place)
        settings = {"settings": fingerprint.settings(trainer, tokenizer)}
        if self._changes(settings):
            checkpoints.write_json(self.folder / "run.json", self.facts | settings)
        base = (self.facts.get("base") or {}).get("weights_sha256")
        loaded = getattr(trainer.model, "loaded_sha256", None)
        if base and loaded and base != loaded:
            raise SettingsError(f"expected a model with the weights {base[:12]} of the base, got "
                                f"{loaded[:12]}; load the base again", file=self.place)

    def _is_done(self) -> bool:
        """Return whether model/ is the finished one of report.json; say so."""
        if not self.finished:
            return False
        with contextlib.suppress(CheckpointError):
            if self.report["weights_sha256"] == checkpoints.weights_sha256(self.model):
                print(f"{self.folder.name} is finished ({self.report.get('steps')} steps); "
                      "nothing was trained")
                return True
        print(f"{self.folder.name}: model/ is damaged, so it is written again")
        return False

    def _train(self, trainer, tokenizer, recorder):
        from kit.engine.recorder import wandb_run

        main, report_to = trainer.is_world_process_zero(), contextlib.nullcontext()
        checkpoint = distributed.from_first(self._newest() if main else None)
        if main and "wandb" in trainer.args.report_to:
            report_to = wandb_run(self.folder, fingerprint.plain(self.params))
        distributed.share_last_rows(trainer)
        with report_to:
            steps = recorder.train(checkpoint)
        total, number = trainer.state.max_steps, recorder.signal
        if steps >= total:
            self._finish(trainer, tokenizer, recorder)
        if recorder.stop or number:
            error = Stopped(f"stopped after step {steps} of {total}, which is saved; run this "
                            "again to go on", file=self.place)
            error.exit_code = 128 + (number or 15)
            raise error

    def _newest(self):
        """Return the checkpoint to resume from, or None; print what changed since then."""
        path, lines = checkpoints.newest(self.folder, self.id)
        if path:
            lines.append(f"resuming from {path.name}")
            versions = {"": self.facts["versions"]}, {"": fingerprint.environment()}
            if others := fingerprint.changed(*versions):
                lines.append(f"equal steps, but not to the last bit ({', '.join(others)})")
        if lines:
            print("; ".join(lines))
        return path

    def _finish(self, trainer, tokenizer, recorder):
        """Write model/ whole, then report.json, whose weights_sha256 marks the run as finished."""
        best, temporary = recorder.best_step(), self.folder / ".model"
        model = trainer.accelerator.unwrap_model(trainer.model)
        distributed.finite(model, trainer.state.global_step)
        trained = distributed.whole(trainer)
        if trainer.is_world_process_zero():
            for folder in (temporary, self.model):
                shutil.rmtree(folder, ignore_errors=True)
            trained.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            if hasattr(model, "peft_config") and not (trainer.is_fsdp_enabled
                                                      or trainer.is_deepspeed_enabled):
                model.save_pretrained(self.folder / "adapter")
            os.rename(temporary, self.model)
            model.loaded_sha256 = checkpoints.weights_sha256(self.model)  # no longer the base's
            self._report(recorder, best, model.loaded_sha256)
        trainer.accelerator.wait_for_everyone()

    def _report(self, recorder, best, sha256):
        """Write the results into report.json and print them in one sentence."""
        rows, fields = recorder.rows, {"best_step": best} if best else {}
        losses = {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}
        if losses:
            fields["validation_loss"] = losses[best or max(losses)]
        warnings = _warnings(rows, fields.get("validation_loss"))
        if warnings:
            fields["warnings"] = warnings
        seconds, first, last = time.monotonic() - recorder.begin, rows[0]["loss"], rows[-1]["loss"]
        self.add(steps=len(rows), tokens=sum(row["tokens"] for row in rows), loss_first=first,
                 loss_last=last, seconds=round(seconds, 3), **fields, weights_sha256=sha256)
        before = f" ({recorder.first_step} of them before)" if recorder.first_step else ""
        print(*warnings, f"trained {len(rows)} steps{before} in {seconds:.0f} s, loss {first:.4f} "
              f"-> {last:.4f}", sep="\n")
