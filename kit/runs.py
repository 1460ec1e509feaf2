"""One folder a training run: created once, resumed exactly, refused when its settings changed, finished once.

Layout: run.json (settings, hashes, versions), metrics.jsonl (a line a step), report.json (results),
checkpoint-N/ (sealed, see kit.engine.checkpoints), model/ (loads with from_pretrained).
"""

import json
import os
import re
import shutil
import time
import uuid
from pathlib import Path

from kit import shares
from kit.engine import checkpoints, distributed, fingerprint
from kit.errors import CheckpointError, KitError, MissingError, SettingsError


class Stopped(KitError):
    """Training was stopped by a signal or the stop button after its state was saved; the exit code is 128 + signal."""


def root() -> Path:
    """Folder of all runs: the environment variable KIT_RUNS, or runs/ of the project."""
    return Path(os.environ.get("KIT_RUNS") or Path(__file__).parents[1] / "runs").absolute()


def _folder(name) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", str(name)) or (root() / name).is_symlink():
        raise SettingsError(f"a run name of 1 to 100 letters, digits, `.`, `_`, `-` was expected, {name!r} came; "
                            "choose another name")
    return root() / name


def _main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def start(name, params, *, data=(), base=None, reference=None, allow=()):
    """Create runs/<name>, or open it again to resume; return its Run.

    params: a lesson's dataclass (or a dict). data: files or Records. base, reference: folders or names for kit.models.
    allow: keys that may differ from the first start; the new values are then used. Raises SettingsError when the folder
    is not a run, is in use, or was started with other settings.
    """
    folder = _folder(name)
    run = Run(folder, params, allow)
    if not _main_process():
        return run  # the first process creates and checks; it meets the others in Run.train
    fresh = {"params": fingerprint.plain(params), "data": dict(fingerprint.source(item) for item in data),
             "base": fingerprint.weights(base), "reference": fingerprint.weights(reference)}
    root().mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        if not run.facts and {path.name for path in folder.iterdir()} - {"lock", ".run.json.tmp"}:
            raise SettingsError("a new folder or a run was expected, other files came; choose another name or delete "
                                "the folder", file=checkpoints.shown(folder)) from None
    checkpoints.lock(folder)
    for leftover in [*folder.glob(".old-*"), *folder.glob(".saving"), *folder.glob(".model")]:
        shutil.rmtree(leftover)
    if run.facts:
        try:
            run._same(fresh)
        except SettingsError:
            checkpoints.unlock(folder)
            raise
    else:
        run.facts = {"name": folder.name, "id": uuid.uuid4().hex, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                     **fresh, "seed": run.seed, "world_size": int(os.environ.get("WORLD_SIZE", "1")), "settings": {},
                     "versions": fingerprint.environment(), "changes": []}
    return run


def metrics(run) -> list:
    """Rows of a run's metrics.jsonl as dicts, one a step; run is a Run or a name."""
    folder = run.folder if isinstance(run, Run) else _folder(run)
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        raise MissingError("no metrics are there; train the run first", file=checkpoints.shown(folder)) from None
    return [json.loads(line) for line in lines if line.endswith("\n")]  # the last line may still be being written


def _write_model(trainer, tokenizer, folder):
    """Write the trained model with tokenizer and stop ids; an adapter is merged into a copy of its base."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    distributed.finite(model, trainer.state.global_step)
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    model.generation_config.eos_token_id = sorted({*stops, tokenizer.eos_token_id} - {None})
    trained = distributed.whole(trainer)
    if trainer.is_world_process_zero():
        trained.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


class Run:
    """A run folder; made by `start`."""

    def __init__(self, folder, params, allow=()):
        self.folder, self.params, self.allow = folder, params, set([allow] if isinstance(allow, str) else allow)
        self.seed = self._param("seed", 0)

    def __repr__(self):
        return f"Run({self.folder.name}, {'finished' if self.finished else 'not finished'})"

    @property
    def facts(self) -> dict:
        """run.json."""
        return checkpoints.read_json(self.folder / "run.json")

    @facts.setter
    def facts(self, value):
        checkpoints.write_json(self.folder / "run.json", value)

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
        return "weights_sha256" in self.report and self.model.is_dir()

    def add(self, **fields):
        """Merge fields into report.json; only the first process writes."""
        if _main_process():
            checkpoints.write_json(self.folder / "report.json", {**self.report, **fingerprint.plain(fields)})

    def _param(self, name, default):
        params = self.params if isinstance(self.params, dict) else vars(self.params)
        return params.get(name, default)

    def settings(self, *, save_steps=None, report_to=None) -> dict:
        """The trainer arguments that belong to the run: `SFTConfig(**run.settings(), ...)`.

        seed, save_steps and report_to come from the parameters of the same names when they have them.
        """
        report_to = report_to or self._param("report_to", "none")
        return {"output_dir": str(self.folder), "run_name": self.folder.name, "seed": self.seed, "data_seed": self.seed,
                "save_strategy": "steps", "save_steps": save_steps or self._param("save_steps", 100),
                # A NaN must reach us: the filter would log the mean of the steps before in its place.
                "logging_strategy": "steps", "logging_steps": 1, "logging_nan_inf_filter": False,
                "disable_tqdm": True, "report_to": fingerprint.reporters(report_to, self.folder)}

    def train(self, trainer, tokenizer, *, first_loss=None):
        """Train, or go on from the newest checkpoint that verifies, then write model/ and the sums of report.json.

        trainer: TRL's SFTTrainer or DPOTrainer, built with `**run.settings()`. first_loss: expected loss of step 1
        within 1e-3 nats, `math.log(2)` for DPO. A finished run only says so. Raises DivergedError, CheckpointError,
        SettingsError, and Stopped after a signal.
        """
        from kit import sft
        from kit.engine.recorder import Recorder  # seconds of import, which reading a run's metrics does not need

        self._check(trainer.args)
        trainer.args.hub_token = None  # the run never uploads, and nothing it writes may hold a token
        main = trainer.is_world_process_zero()
        try:
            if main:
                checkpoints.lock(self.folder)
                self._same({"settings": fingerprint.settings(trainer, tokenizer)})
            distributed.meet(self.folder)
            if self.finished:
                if main:
                    print(f"{self.folder.name} is finished ({self.report['steps']} steps); nothing was trained")
                return
            sft.enforce(trainer, tokenizer)
            shares.share_last_rows(trainer)
            recorder = Recorder(self, trainer, first_loss)
            with distributed.watched(self.folder):
                steps = recorder.train(self._newest(trainer))
            if steps >= trainer.state.max_steps:
                self._finish(trainer, tokenizer, recorder)
            if recorder.stop or recorder.signal:
                raise self._stopped(steps, trainer.state.max_steps, recorder.signal)
        finally:
            if main:
                checkpoints.unlock(self.folder)

    def _check(self, args):
        wrong = fingerprint.unfit(args, self.settings(save_steps=args.save_steps, report_to="none"))
        if wrong:
            raise SettingsError(f"the run sets or rules out {', '.join(wrong)}; build the trainer's config with "
                                "`**run.settings()` and without them", file=checkpoints.shown(self.folder))

    def _newest(self, trainer):
        """The checkpoint to resume from, chosen by the first process for all, or None."""
        from accelerate.utils import broadcast_object_list

        chosen = [None]
        if trainer.is_world_process_zero():
            facts, now = self.facts, fingerprint.environment()
            path, lines = checkpoints.newest(self.folder, facts["id"])
            if lines and path is None:
                raise CheckpointError(f"no checkpoint can be used ({'; '.join(lines)}); delete the checkpoint "
                                      "folders to start from step 0", file=checkpoints.shown(self.folder))
            if path:
                other = [f"{key}: {old} -> {now[key]}" for key, old in facts["versions"].items() if now[key] != old]
                print("; ".join([*lines, f"resuming from {path.name}"]
                                + [f"equal steps, but not to the last bit ({', '.join(other)})"] * bool(other)))
            chosen = [path]
        return broadcast_object_list(chosen)[0]

    def _stopped(self, steps, of, number):
        error = Stopped(f"stopped after step {steps} of {of}, which is saved; run this again to go on",
                        file=checkpoints.shown(self.folder))
        error.exit_code = 128 + (number or 15)
        return error

    def _finish(self, trainer, tokenizer, recorder):
        """Write model/ whole, then report.json, whose weights_sha256 marks the run as finished."""
        temporary = self.folder / ".model"
        with recorder.room(temporary, recorder.weights()):
            _write_model(trainer, tokenizer, temporary)
        if trainer.is_world_process_zero():
            shutil.rmtree(self.model, ignore_errors=True)
            os.rename(temporary, self.model)
            rows, seconds = metrics(self), time.monotonic() - recorder.begun
            self.add(steps=len(rows), tokens=sum(row["tokens"] for row in rows), loss_first=rows[0]["loss"],
                     loss_last=rows[-1]["loss"], seconds=round(seconds, 3),
                     weights_sha256=checkpoints.weights_sha256(self.model))
            before = f" ({recorder.first_step} of them before)" if recorder.first_step else ""
            print(f"trained {len(rows)} steps{before} in {seconds:.0f} s, loss {rows[0]['loss']:.4f} -> "
                  f"{rows[-1]['loss']:.4f}")
        trainer.accelerator.wait_for_everyone()

    def _same(self, fresh):
        """Compare with run.json, refuse what changed and is not allowed, keep the new values of what is."""
        facts = self.facts
        if "settings" in fresh and not facts["settings"]:
            self.facts = {**facts, **fresh}
            return
        changed = fingerprint.changed({key: facts[key] for key in fresh}, fresh)
        refused = [text for key, text in changed.items() if key not in self.allow]
        if refused:
            raise SettingsError(f"this run was started with other settings ({'; '.join(refused)}); choose another "
                                "name, delete the folder, or go on with the new values by allow=(...)",
                                file=checkpoints.shown(self.folder))
        if changed:
            self.facts = {**facts, **fresh, "changes": [*facts["changes"], *changed.values()]}
