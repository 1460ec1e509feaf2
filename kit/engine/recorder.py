"""What a run adds to each step of TRL's trainers: a line of metrics, checkpoints with a manifest, an orderly stop."""

import contextlib
import json
import math
import os
import pickle
import shutil
import signal
import threading
import time

import torch
from transformers import TrainerCallback
from transformers.utils import logging

from kit.engine import checkpoints, distributed, fingerprint
from kit.errors import CheckpointError, DivergedError, SettingsError

EXTRA = ("rewards/margins", "logps/chosen", "logps/rejected")  # logged by DPO only
BARS = ("PrinterCallback", "ProgressCallback", "NotebookProgressCallback")
FIRST_LOSS_MARGIN = 1e-3  # nats
VALIDATIONS = 10  # per run, when eval_steps is 0
WANDB_SECONDS = 20  # until a W&B server that does not answer counts as gone


class _Done(Exception):
    """Raised at the first step after the last one: the trainer itself would train one step more."""


class Recorder(TrainerCallback):
    """Follow one `trainer.train()`.

    run: has folder, id and progress. validate: a function of the model that returns a loss in nats. keep_best: keep
    the checkpoint with the lowest of these losses and end with its weights.
    """

    def __init__(self, run, trainer, *, first_loss=None, validate=None, eval_steps=0, keep_best=False):
        self.run, self.trainer, self.first_loss = run, trainer, first_loss
        self.validate, self.eval_steps, self.keep_best = validate, eval_steps, keep_best
        self.main, self.alone = trainer.is_world_process_zero(), trainer.args.world_size == 1
        self.path, self.rows = run.folder / "metrics.jsonl", []
        self.signal, self.stop, self.validation = None, False, None
        self.hash = self.tokens = self.first_step = 0
        self.begin, self.get_batch_samples = time.monotonic(), trainer.get_batch_samples

    def train(self, checkpoint):
        """Train from a checkpoint folder, or from the start when it is None; return the number of steps done."""
        trainer = self.trainer
        logging.disable_progress_bar()  # transformers draws one over the shards of each save
        for callback in [c for c in trainer.callback_handler.callbacks if type(c).__name__ in BARS]:
            trainer.remove_callback(callback)
        if self.main:
            self.path.write_text("")
            if checkpoint:
                shutil.copyfile(checkpoint / "metrics.jsonl", self.path)
            self.rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        # Callbacks see no batch; TRL writes a model card per save; a tied head counts as a missing key at a resume.
        methods = {"get_batch_samples": self.batch, "create_model_card": lambda *args, **options: None,
                   "_issue_warnings_after_load": lambda result: None}
        vars(trainer).update(methods)
        trainer.add_callback(self)
        try:
            with self._signals(), contextlib.suppress(_Done):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            if (best := self.best_step()) and not self.stop:
                trainer.state.best_model_checkpoint = str(self.run.folder / f"checkpoint-{best}")
                trainer._load_best_model()
        except pickle.UnpicklingError as error:  # torch loads plain tensors only; code in a checkpoint ends here
            raise CheckpointError(f"expected tensors, got other objects ({str(error).splitlines()[0]}); delete this "
                                  "folder", file=checkpoints.short(checkpoint)) from None
        finally:
            trainer.remove_callback(self)
            for name in methods:
                vars(trainer).pop(name)
        return trainer.state.global_step

    @contextlib.contextmanager
    def _signals(self):
        """Stop at the next step boundary on the first SIGTERM or SIGINT, at once on the second."""
        if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
            yield
            return

        def handle(number, frame):
            if self.signal and number == signal.SIGINT:
                raise KeyboardInterrupt
            if self.signal:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            self.signal = number
            self.run.progress.note("stopping after this step")

        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def batch(self, iterator, count, device):
        """Wrap the trainer's get_batch_samples: hash the step's rows over all processes and agree on a stop."""
        samples, items = self.get_batch_samples(iterator, count, device)
        pairs = [fingerprint.batch_hash(sample) for sample in samples]
        total = [sum(h for h, _ in pairs) % 2**64, sum(n for _, n in pairs), int(self.signal is not None)]
        if not self.alone:
            total[0] -= 2**63  # as int64, whose sum wraps like ours
            total = self.trainer.accelerator.reduce(torch.tensor(total, device=device), "sum").tolist()
            total[0] += 2**63 * self.trainer.args.world_size
        self.hash, self.tokens, self.stop = total[0] % 2**64, total[1], total[2] > 0
        return samples, items

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)  # a resumed state carries the save_steps of before
        self.begin, self.first_step = time.monotonic(), state.global_step
        self.run.progress.total = state.max_steps
        self.eval_steps = self.eval_steps or math.ceil(state.max_steps / VALIDATIONS)
        if self.main:
            checkpoints.space(self.run.folder, self.needed())

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            raise _Done

    def on_step_end(self, args, state, control, **kwargs):
        self.validation = None
        if self.stop or (self.alone and self.signal):
            self.stop = control.should_save = control.should_training_stop = True
        if self.validate and (state.global_step % self.eval_steps == 0 or state.global_step == state.max_steps):
            self.validation = distributed.from_first(float(self.validate(self.trainer.model)))
            lower = distributed.from_first(not self.validated() or self.validation < min(self.validated().values()))
            control.should_save |= self.keep_best and lower

    def validated(self) -> dict:
        """Return {step: validation loss} of the steps so far; in process 0 only."""
        return {row["step"]: row["validation_loss"] for row in self.rows if "validation_loss" in row}

    def best_step(self):
        """Return the first step with the lowest validation loss, None without one or where the last step stays."""
        losses = self.validated()
        return distributed.from_first(min(losses, key=losses.get) if self.keep_best and losses else None)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs or "grad_norm" not in logs:
            return  # the summary at the end
        loss, norm, step, place = logs["loss"], logs["grad_norm"], state.global_step, checkpoints.short(self.run.folder)
        skipped = self.trainer.accelerator.optimizer_step_was_skipped  # fp16's scaler drops such a step on purpose
        if not math.isfinite(loss) or not (math.isfinite(norm) or skipped):
            raise DivergedError(f"step {step}: expected a finite loss and gradient, got loss {loss} and gradient norm "
                                f"{norm}; lower learning_rate or look at the rows of this step", file=place)
        if step == 1 and self.first_loss is not None and abs(loss - self.first_loss) > FIRST_LOSS_MARGIN:
            raise SettingsError(f"step 1: expected loss {self.first_loss:.4f}, got {loss:.4f}; train from the model that "
                                "is the reference", file=place)
        if self.main:
            self._write({"step": step, "loss": loss, "lr": logs["learning_rate"], "grad_norm": norm,
                         "tokens": self.tokens, "batch_hash": f"{self.hash:016x}",
                         **({} if self.validation is None else {"validation_loss": self.validation}),
                         **{key: logs[key] for key in EXTRA if key in logs}})
        if control.should_save:
            distributed.finite(self.trainer.model, step)
            if self.main:
                checkpoints.space(self.run.folder, self.needed())

    def _write(self, row):
        self.rows.append(row)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.run.progress.update(row["step"], loss=row["loss"], validation=self.validation)

    def on_save(self, args, state, control, **kwargs):
        folder = self.run.folder / f"checkpoint-{state.global_step}"
        distributed.describe(self.trainer, folder)
        best = self.best_step()  # also waits until every process has written its part
        self.trainer.accelerator.wait_for_everyone()
        if self.main:
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, and nothing reads it
            shutil.copyfile(self.path, folder / "metrics.jsonl")
            checkpoints.seal(folder, self.run.id, state.global_step)
            checkpoints.prune(self.run.folder, best)
        self.trainer.accelerator.wait_for_everyone()

    def needed(self) -> int:
        """Return the bytes of the next save: those of the last one, or weights and the optimizer's two moments."""
        last = checkpoints.all_of(self.run.folder)[:1]
        weights = [p.numel() * p.element_size() * (3 if p.requires_grad else 1) for p in self.trainer.model.parameters()]
        return checkpoints.MARGIN + (checkpoints.size_of(last[0]) if last else sum(weights))


def reporters(names) -> list:
    """Return `report_to` as a list, without wandb where it is not installed."""
    import importlib.util

    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    if "wandb" in names and importlib.util.find_spec("wandb") is None:
        print("W&B is not installed, so this run writes metrics.jsonl only; `pip install wandb` adds it.")
        names.remove("wandb")
    return names or ["none"]


@contextlib.contextmanager
def wandb_run(folder, params):
    """Open one W&B run in the run's folder: offline without an account, and where the server does not answer."""
    import wandb

    patience = {"init_timeout": WANDB_SECONDS, "finish_timeout": WANDB_SECONDS}
    options = {"project": os.environ.get("WANDB_PROJECT", "course-kit"), "name": folder.name, "dir": str(folder),
               "config": params, "settings": wandb.Settings(silent=True, **patience)}
    try:
        has_account = wandb.login(prompt=False, verify=False)
        open_run = wandb.init(**options, mode=None if has_account else "offline")
    except wandb.Error as error:
        print(f"W&B cannot be reached ({str(error).splitlines()[0]}), so this run goes on offline.")
        open_run = wandb.init(**options, mode="offline")
    with open_run:
        yield
    if open_run.offline:
        place = os.path.join(folder.name, os.path.relpath(os.path.dirname(open_run.dir), folder))
        print(f"W&B wrote an offline run; `wandb sync {place}` in the folder of the runs uploads it.")
