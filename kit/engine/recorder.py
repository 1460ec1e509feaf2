"""What a run adds to each step of TRL's trainers: metrics, sealed checkpoints, an orderly stop."""

import contextlib
import functools
import importlib.util
import json
import math
import os
import pickle
import shutil
import signal
import threading
import time

import torch
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging

from kit.engine import checkpoints, distributed, fingerprint
from kit.errors import CheckpointError, DivergedError

PAIRS = ("rewards/margins", "logps/chosen", "logps/rejected")  # logged by DPO
GROUPS = ("reward", "reward_std", "frac_reward_zero_std", "entropy", "kl",  # logged by GRPO
          "completions/clipped_ratio", "completions/mean_length")
VALIDATIONS = 10  # per run, when eval_steps is 0
WANDB_SECONDS = 20  # until a W&B server that does not answer counts as gone


class _Done(Exception):
    """Raised at the first step after the last one: the trainer itself would train one step more."""


class Recorder(TrainerCallback):
    """Follow one `trainer.train()`.

    run: has folder, place, id and progress. validate: a function of the model that returns a loss
    in nats. keep_best: keep the checkpoint with the lowest of these losses, and end with its
    weights.
    """

    def __init__(self, run, trainer, validate=None, eval_steps=0, keep_best=False):
        self.run, self.trainer, self.validate = run, trainer, validate
        self.eval_steps, self.keep_best = eval_steps, keep_best
        self.main, self.alone = trainer.is_world_process_zero(), trainer.args.world_size == 1
        self.path, self.get_batch_samples = run.folder / "metrics.jsonl", trainer.get_batch_samples
        self.signal, self.stop, self.validation, self.rows = None, False, None, []

    def train(self, checkpoint):
        """Train from a checkpoint folder, or from the start (None); return the steps done."""
        trainer = self.trainer
        logging.disable_progress_bar()  # transformers draws one over the shards of each save
        trainer.remove_callback(PrinterCallback)
        if self.main:
            lines = (checkpoint / "metrics.jsonl").read_text() if checkpoint else ""
            self.path.write_text(lines)
            self.rows = [json.loads(line) for line in lines.splitlines()]
        # Callbacks see no batch. TRL writes a model card per save. A tied head counts as missing.
        methods = {"get_batch_samples": self.batch,
                   "create_model_card": lambda *args, **options: None,
                   "_issue_warnings_after_load": lambda result: None}
        vars(trainer).update(methods)
        trainer.add_callback(self)
        try:
            with self._signals(), contextlib.suppress(_Done):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            if self.best_step() and not self.stop:
                best = self.run.folder / f"checkpoint-{self.best_step()}"
                trainer.state.best_model_checkpoint = str(best)
                trainer._load_best_model()
        except pickle.UnpicklingError as error:  # torch loads tensors only; other code ends here
            raise CheckpointError(f"expected tensors, got others ({str(error).splitlines()[0]}); "
                                  f"delete the folder `{self.run.place}/{checkpoint.name}`",
                                  file=checkpoints.short(checkpoint)) from None
        finally:
            trainer.remove_callback(self)
            for name in methods:
                vars(trainer).pop(name)
        return trainer.state.global_step

    @contextlib.contextmanager
    def _signals(self):
        """Stop at the next step boundary on the first SIGTERM or SIGINT, at once on the second."""
        if threading.current_thread() is not threading.main_thread():  # only there are signals
            yield
            return

        def restore():
            for number, handler in handlers.items():
                signal.signal(number, handler)

        def stop(number, frame):
            self.signal = number
            restore()
            self.run.progress.note("stopping after this step")

        handlers = {}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                handlers[number] = signal.signal(number, stop)
            yield
        finally:
            restore()

    def batch(self, iterator, count, device):
        """Wrap get_batch_samples: hash the step's rows over all processes and agree on a stop."""
        samples, items = self.get_batch_samples(iterator, count, device)
        pairs = [fingerprint.batch_hash(sample) for sample in samples]
        own = [sum(h for h, _ in pairs) % 2**64, sum(n for _, n in pairs), bool(self.signal)]
        own = torch.tensor(own, dtype=torch.uint64).view(torch.int64)  # whose sum wraps around
        total = self.trainer.accelerator.reduce(own.to(device), "sum").tolist()
        self.hash, self.tokens, self.stop = total[0] % 2**64, total[1], total[2] > 0
        return samples, items

    def on_train_begin(self, args, state, control, **kwargs):
        self.begin, self.first_step = time.monotonic(), state.global_step
        self.run.progress.total = state.max_steps
        self.eval_steps = self.eval_steps or math.ceil(state.max_steps / VALIDATIONS)
        self.check_space()

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            raise _Done

    def on_step_end(self, args, state, control, **kwargs):
        step, self.validation = state.global_step, None
        if self.stop or (self.alone and self.signal):
            self.stop = control.should_save = control.should_training_stop = True
        if self.validate and (step % self.eval_steps == 0 or step == state.max_steps):
            self.validation = distributed.from_first(float(self.validate(self.trainer.model)))
            if self.keep_best and (not self.best_step() or self.validation < state.best_metric):
                state.best_metric, state.best_global_step = self.validation, step
                control.should_save = True

    def best_step(self):
        """Return the step with the lowest validation loss, None unless the best is kept."""
        return self.trainer.state.best_global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs or "grad_norm" not in logs:
            return  # the summary at the end
        loss, norm, step = logs["loss"], logs["grad_norm"], state.global_step
        skipped = self.trainer.accelerator.optimizer_step_was_skipped  # by fp16's scaler
        if not math.isfinite(loss) or not (math.isfinite(norm) or skipped):
            raise DivergedError(f"step {step}: expected a finite loss and gradient, got loss "
                                f"{loss} and gradient norm {norm}; lower learning_rate under "
                                "another `run`", file=self.run.place)
        if self.main:
            row = {"step": step, "loss": loss, "lr": logs["learning_rate"], "grad_norm": norm,
                   "tokens": self.tokens, "batch_hash": f"{self.hash:016x}"}
            names = GROUPS if "reward" in logs else PAIRS
            row |= {key: logs[key] for key in names if key in logs}
            if self.validation is not None:
                row["validation_loss"] = self.validation
            self.rows.append(row)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            self.run.progress.update(step, loss=loss, validation=self.validation,
                                     reward=logs.get("reward"))
        if control.should_save:
            distributed.finite(self.trainer.model, step)
            self.check_space()

    def on_save(self, args, state, control, **kwargs):
        folder = self.run.folder / f"checkpoint-{state.global_step}"
        distributed.describe(self.trainer, folder)
        self.trainer.accelerator.wait_for_everyone()  # until each has written its part
        if self.main:
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads
            shutil.copyfile(self.path, folder / "metrics.jsonl")
            checkpoints.seal(folder, self.run.id)
            checkpoints.prune(self.run.folder, self.best_step())
        self.trainer.accelerator.wait_for_everyone()

    def check_space(self):
        """Raise CheckpointError when the disk has no room for the next save."""
        if self.main:
            checkpoints.space(self.run.folder, self.needed())

    def needed(self) -> int:
        """Return the bytes of the next save: weights and the optimizer's two moments."""
        sizes = [p.numel() * p.element_size() * (3 if p.requires_grad else 1)
                 for p in self.trainer.model.parameters()]
        return checkpoints.MARGIN + sum(sizes)


def reporters(names) -> list:
    """Return `report_to` as a list, without wandb where it is not installed."""
    names = [name.strip() for name in names.split(",")]
    if "wandb" in names and importlib.util.find_spec("wandb") is None:
        print("W&B is not installed, so this run writes metrics.jsonl only; `pip install wandb` "
              "adds it.")
        names.remove("wandb")
    return names or ["none"]


@contextlib.contextmanager
def wandb_run(folder, params):
    """Open one W&B run in the run's folder; offline without an account or an answer."""
    import wandb

    patience = {"init_timeout": WANDB_SECONDS, "finish_timeout": WANDB_SECONDS}
    start = functools.partial(
        wandb.init, project=os.environ.get("WANDB_PROJECT", "course-kit"), name=folder.name,
        dir=str(folder), config=params, settings=wandb.Settings(silent=True, **patience))
    try:
        open_run = start(mode=None if wandb.login(prompt=False, verify=False) else "offline")
    except wandb.Error as error:
        print(f"W&B cannot be reached ({str(error).splitlines()[0]}), so this run goes on offline.")
        open_run = start(mode="offline")
    with open_run:
        yield
    if open_run.offline:
        place = os.path.relpath(os.path.dirname(open_run.dir), folder.parent)
        print(f"W&B wrote an offline run; `wandb sync {place}` in the folder of the runs "
              "uploads it.")
