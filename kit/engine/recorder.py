"""What a run does at each step of TRL's trainers: one line of metrics, whole checkpoints, an orderly stop."""

import contextlib
import json
import math
import os
import pickle
import shutil
import signal
import sys
import threading
import time

import torch
from transformers import TrainerCallback
from transformers.utils import logging

from kit import fits
from kit.engine import checkpoints, distributed, fingerprint
from kit.errors import CheckpointError, DivergedError, KitError, SettingsError

EXTRA = ("rewards/margins", "logps/chosen", "logps/rejected")  # logged by DPO only
SHOWS = ("PrinterCallback", "ProgressCallback", "NotebookProgressCallback")
FIRST_LOSS_MARGIN = 1e-3  # nats
LINE_SECONDS = 5  # between two lines of progress where there is no terminal


class _Done(Exception):
    """Raised at the first step after the last one: the trainer itself would train one step more."""


class Recorder(TrainerCallback):
    """Follows one `trainer.train()`; four of the trainer's methods are wrapped where no callback reaches."""

    def __init__(self, run, trainer, first_loss=None):
        self.run, self.trainer, self.first_loss = run, trainer, first_loss
        self.main, self.alone = trainer.is_world_process_zero(), trainer.args.world_size == 1
        self.path, self.file = run.folder / "metrics.jsonl", None
        self.signal, self.stop = None, False
        self.hash = self.tokens = self.session_tokens = 0
        self.known, self.begun, self.first_step, self.next_line = {}, time.monotonic(), 0, LINE_SECONDS
        # Callbacks see no batch; TRL's save writes in place and pickles the arguments with hub_token in clear;
        # its load puts the optimizer's old learning rate over a new one.
        self.wrapped = {"get_batch_samples": self.batch, "_save_checkpoint": self.save,
                        "_load_optimizer_and_scheduler": self.load, "_issue_warnings_after_load": self.loaded}
        self.original = {name: getattr(trainer, name) for name in self.wrapped}

    def train(self, checkpoint):
        """Train from a checkpoint folder, or from the start when it is None; returns the number of steps done."""
        trainer = self.trainer
        for callback in [c for c in trainer.callback_handler.callbacks if type(c).__name__ in SHOWS]:
            trainer.remove_callback(callback)
        if self.main:
            self._restore_metrics(checkpoint)
        vars(trainer).update(self.wrapped)
        trainer.add_callback(self)
        try:
            with fingerprint.reporting(self.main and trainer.args.report_to, self.run.folder), self._signals(), \
                    contextlib.suppress(_Done):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except pickle.UnpicklingError as error:  # torch loads plain tensors only; code in a checkpoint ends here
            raise CheckpointError(f"tensors were expected, other objects came ({str(error).splitlines()[0]}); "
                                  "delete it", file=checkpoints.shown(checkpoint)) from None
        except torch.OutOfMemoryError:
            raise SettingsError(fits.sentence(trainer), file=checkpoints.shown(self.run.folder)) from None
        finally:
            trainer.remove_callback(self)
            for name in self.wrapped:
                vars(trainer).pop(name)
            if self.file:
                self.file.close()
        return trainer.state.global_step

    def _restore_metrics(self, checkpoint):
        """Go on from the lines of the checkpoint: each step once, whatever was written after it."""
        if checkpoint:
            shutil.copyfile(checkpoint / "metrics.jsonl", self.path)
            self.known[checkpoint] = checkpoints.stamp(checkpoint)
        else:
            self.path.write_text("")
        self.file = open(self.path, "a", encoding="utf-8")

    @contextlib.contextmanager
    def _signals(self):
        """The first SIGTERM or SIGINT asks for a stop at the next step boundary, the second ends at once."""
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

        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def batch(self, iterator, count, device):
        """The trainer's get_batch_samples; hashes the step's rows over all processes and agrees on a stop."""
        samples, items = self.original["get_batch_samples"](iterator, count, device)
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
        self.begun, self.first_step = time.monotonic(), state.global_step
        if self.main:
            checkpoints.space(self.run.folder, self.needed() + checkpoints.MARGIN)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            raise _Done

    def on_step_end(self, args, state, control, **kwargs):
        if self.stop or (self.alone and self.signal):
            self.stop = control.should_save = control.should_training_stop = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs or "grad_norm" not in logs:
            return  # an evaluation or the summary at the end
        loss, norm, step = logs["loss"], logs["grad_norm"], state.global_step
        skipped = self.trainer.accelerator.optimizer_step_was_skipped  # fp16's scaler drops such a step on purpose
        if not math.isfinite(loss) or not (math.isfinite(norm) or skipped):
            raise DivergedError(f"step {step}: a finite loss and gradient were expected, loss {loss} and gradient norm "
                                f"{norm} came; lower learning_rate or look at the rows of this step",
                                file=checkpoints.shown(self.run.folder))
        if step == 1 and self.first_loss is not None and abs(loss - self.first_loss) > FIRST_LOSS_MARGIN:
            raise SettingsError(f"step 1: loss {self.first_loss:.4f} was expected, {loss:.4f} came; the reference is "
                                "not the model that training starts from", file=checkpoints.shown(self.run.folder))
        if self.main:
            row = {"step": step, "loss": loss, "lr": logs["learning_rate"], "grad_norm": norm, "tokens": self.tokens,
                   "batch_hash": f"{self.hash:016x}", **{key: logs[key] for key in EXTRA if key in logs}}
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
            self._show(state, loss)

    def _show(self, state, loss):
        """Progress: in place on a terminal; with KIT_LIVE, which kit.launch sets, a line every few seconds."""
        self.session_tokens += self.tokens
        seconds, terminal = time.monotonic() - self.begun, sys.stderr.isatty()
        if terminal or ("KIT_LIVE" in os.environ and seconds > self.next_line):
            self.next_line = seconds + LINE_SECONDS
            step, of = state.global_step, state.max_steps
            left = seconds / (step - self.first_step) * (of - step)
            start = f"\rstep {step}/{of} [{'#' * (20 * step // of):-<20}]" if terminal else f"step {step}/{of}"
            print(f"{start}  {self.session_tokens / seconds:,.0f} tokens/s  {left:.0f} s left  loss {loss:.4f} ",
                  end="" if terminal and left and not self.stop else "\n", file=sys.stderr, flush=True)

    def weights(self, copies=1) -> int:
        """Bytes of the weights; with copies=3 also the two moments the optimizer keeps of what is trained."""
        return sum(p.numel() * p.element_size() * (copies if p.requires_grad else 1)
                   for p in self.trainer.model.parameters())

    def needed(self) -> int:
        """Bytes the next checkpoint takes: as many as the last one, before there is one by the weights."""
        last = checkpoints.all_of(self.run.folder)[:1]
        return checkpoints.size_of(last[0]) if last else self.weights(3)

    @contextlib.contextmanager
    def room(self, temporary, needed):
        """Look for free space before a save, at the cost of the older checkpoint, and tell when it ends during it."""
        folder, needed = self.run.folder, needed + checkpoints.MARGIN
        if self.main:
            shutil.rmtree(temporary, ignore_errors=True)
            if shutil.disk_usage(folder).free < needed:
                checkpoints.prune(folder, self.run.facts["id"], self.known, keep=1)
            checkpoints.space(folder, needed)
            temporary.mkdir()
        self.trainer.accelerator.wait_for_everyone()
        try:
            yield
        except Exception as error:  # OSError, RuntimeError or SafetensorError, by what was being written
            full = shutil.disk_usage(folder).free < checkpoints.MARGIN or "No space left" in str(error)
            if isinstance(error, KitError) or not full:
                raise
            shutil.rmtree(temporary, ignore_errors=True)
            checkpoints.space(folder, needed)
            raise CheckpointError("the save failed: the disk was full for a moment; run again",
                                  file=checkpoints.shown(folder)) from error

    def save(self, model, trial=None):
        """The trainer's _save_checkpoint: complete under its name, or not there."""
        step, temporary = self.trainer.state.global_step, self.run.folder / ".saving"
        distributed.finite(self.trainer.model, step)
        with self.room(temporary, self.needed()):
            self._write(temporary, step)

    def _write(self, temporary, step):
        trainer, folder = self.trainer, self.run.folder
        save_model(trainer, temporary)
        checkpoints.fault("model", step)
        trainer._save_optimizer_and_scheduler(str(temporary))
        checkpoints.fault("optimizer", step)
        trainer._save_scaler(str(temporary))
        trainer._save_rng_state(str(temporary))
        trainer.accelerator.wait_for_everyone()
        if self.main:
            trainer.state.save_to_json(str(temporary / "trainer_state.json"))
            shutil.copyfile(self.path, temporary / "metrics.jsonl")
            run_id, final = self.run.facts["id"], folder / f"checkpoint-{step}"
            checkpoints.seal(temporary, final, run_id, step)
            self.known[final] = checkpoints.stamp(final)
            checkpoints.prune(folder, run_id, self.known, step=step)
        trainer.accelerator.wait_for_everyone()

    def loaded(self, result):
        """The trainer's _issue_warnings_after_load, which only warns when the file lacks a weight of the model."""
        tied = getattr(self.trainer.accelerator.unwrap_model(self.trainer.model), "all_tied_weights_keys", {})
        wrong = {*result.missing_keys, *result.unexpected_keys} - set(tied)
        if wrong:
            raise CheckpointError(f"the weights of this model were expected, {min(wrong)} is missing or was added; "
                                  "build the model as at the first start", file=checkpoints.shown(self.run.folder))

    def load(self, checkpoint):
        """The trainer's _load_optimizer_and_scheduler, then the settings of this start over those of the file."""
        optimizer, scheduler = self.trainer.optimizer, self.trainer.lr_scheduler
        fresh = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        rates = getattr(scheduler, "base_lrs", None)
        self.original["_load_optimizer_and_scheduler"](checkpoint)
        if checkpoint is None or not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
            return
        scheduler.base_lrs = rates
        factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
        scheduler._last_lr = [rate * factor for rate, factor in zip(rates, factors, strict=True)]
        for group, settings, rate in zip(optimizer.param_groups, fresh, scheduler._last_lr, strict=True):
            group.update(settings, lr=rate)


def save_model(trainer, folder):
    """save_model of the trainer without the pickle of its arguments."""
    logging.disable_progress_bar()  # a bar over the shards at each save
    trainer.save_model(str(folder), _internal_call=True)
    (folder / "training_args.bin").unlink(missing_ok=True)
    distributed.describe(trainer, folder)
