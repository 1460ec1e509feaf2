"""Settings of a lesson: a frozen dataclass in a notebook cell, command-line flags in its script.

A lesson writes `@dataclass(frozen=True) class Params(Settings)` with the fields that it adds or
changes. The comment behind a field is its help. Square brackets at its end limit the value:
`[> 0]`, `[>= 0, < 1]`, `[0 .. 1]` (both included) or choices `[stop | skip]`. Every instance is
checked when it is made, so a notebook refuses what a script refuses.

The flags use argparse and not TRL's TrlParser, because importing TRL takes several seconds of
processor time and `--help` has to answer in less than two. TrlParser's promise is kept: `--config`
names a YAML or JSON file, and flags win over the file.
"""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import inspect
import linecache
import math
import operator
import re
import sys
import typing
from pathlib import Path

from kit.errors import SettingsError

KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
TRACKERS = ("all none azure_ml clearml codecarbon comet_ml dagshub dvclive flyte kubeflow mlflow "
            "neptune swanlab tensorboard trackio wandb").split()


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that all lessons share."""

    model: str = "pocket"  # base model: pocket, smollm2-135m, a folder or a hub id
    task: str = "cron"  # what to learn: the name of a shipped task, a task file or a file of rows
    start: str = ""  # run to continue from; "" starts at the base model
    run: str = ""  # name of the folder under runs/; the model's name is added
    template: str = "auto"  # auto: the model's own template if it has one [auto | own | kit]
    on_bad: str = "stop"  # what a bad row does [stop | skip]
    epochs: float = 1.0  # passes over the data [> 0]
    learning_rate: float = 5e-4  # peak step size; decays to zero as a cosine [> 0]
    warmup_ratio: float = 0.05  # share of the steps until the peak [>= 0, < 1]
    batch_size: int = 16  # examples per step, over all processes [>= 1]
    micro_batch_size: int = 0  # examples at once in one process; 0: batch_size / processes [>= 0]
    max_length: int = 256  # token ids; a longer row is rejected and reported [>= 8]
    save_steps: int = 200  # steps between checkpoints [>= 1]
    eval_steps: int = 0  # steps between validation losses; 0: ten times per run [>= 0]
    keep: str = "last"  # which checkpoint becomes the model [last | best]
    lora_rank: int = 0  # rank of the LoRA adapters; 0 trains all weights [>= 0]
    lora_alpha: int = 0  # scale of the adapters; 0: twice the rank [>= 0]
    lora_dropout: float = 0.0  # dropout of the adapters [>= 0, < 1]
    lora_targets: str = "all-linear"  # layers with adapters; names separated by commas
    lora_bits: int = 32  # bits of each frozen weight under LoRA; 4 needs a GPU [32 | 16 | 4]
    seed: int = 0  # order of the rows, dropout and adapters [>= 0]
    report_to: str = "none"  # trackers besides metrics.jsonl, separated by commas: wandb, ...

    def __init_subclass__(cls):
        frame = sys._getframe(1)  # the class statement; linecache holds files and notebook cells
        lines = linecache.getlines(frame.f_code.co_filename)[frame.f_lineno - 1:]
        cls.source = "".join(inspect.getblock(lines))

    def __post_init__(self):
        check(self)
        if not self.lora_rank and (self.lora_alpha or self.lora_dropout):
            raise refusal("lora_rank", "> 0 because lora_alpha or lora_dropout is set", 0)
        for tracker in self.report_to.split(","):
            if tracker.strip() not in TRACKERS:
                raise refusal("report_to", f"one or more of {', '.join(TRACKERS)}", repr(tracker))


Settings.source = inspect.getsource(Settings)


def check(instance):
    """Raise SettingsError at the first value that has a wrong type or is outside its limits."""
    for name, (kind, comment) in fields_of(type(instance)).items():
        value = getattr(instance, name)
        kinds = (int, float) if kind is float else kind
        if kind not in KINDS or not isinstance(value, kinds) or (
                isinstance(value, bool) and kind is not bool):
            raise refusal(name, KINDS.get(kind, "a bool, int, float or str"), repr(value))
        if isinstance(value, float) and not math.isfinite(value):
            raise refusal(name, "a finite number", value)
        limits = re.search(r"\[([^\[\]]*)\]$", comment)
        if limits and not inside(value, limits[1]):
            raise refusal(name, limits[1], repr(value))


def inside(value, limits):
    """Return whether the value keeps limits such as `> 0`, `>= 0, < 1`, `0 .. 1` or `a | b`."""
    if "|" in limits:
        return str(value) in re.split(r" *\| *", limits)
    low, dots, high = limits.partition(" .. ")
    parts = [f">= {low}", f"<= {high}"] if dots else limits.split(",")
    try:
        pairs = [part.split() for part in parts]
        return all(COMPARE[sign](value, float(bound)) for sign, bound in pairs)
    except (KeyError, TypeError, ValueError):
        raise SettingsError(f"expected limits as [> 0], [0 .. 1] or [a | b] in a comment, got "
                            f"[{limits}]; correct the comment") from None


def refusal(name, expected, got):
    return SettingsError(f"expected {expected}, got {got}; change {name} in PARAMS or by --{name}",
                         field=name)


@functools.cache
def fields_of(cls) -> dict:
    """Return {name: (type, comment)} of a dataclass. Comments are read from its source."""
    if "__dataclass_params__" not in vars(cls):
        raise SettingsError("expected @dataclass(frozen=True) above the class, got none; add it",
                            field=cls.__name__)
    comments, kinds = {}, typing.get_type_hints(cls)
    for base in reversed(cls.__mro__[:-1]):
        source = base.source if issubclass(base, Settings) else inspect.getsource(base)
        if not source:
            raise SettingsError("expected the source of the class, got none; define it in a file "
                                "or a notebook cell", field=base.__name__)
        comments |= dict(re.findall(r"^ +(\w+):[^#\n]*  # (.+?) *$", source, re.MULTILINE))
    return {name: (kind, comments.get(name, "")) for name, kind in kinds.items()}


def from_flags(cls, argv=None):
    """Return an instance of the class from command-line flags; an instance gives the defaults.

    The docstring of the script is the description of `--help`. Errors: SettingsError.
    """
    default = cls() if isinstance(cls, type) else cls
    fields = fields_of(type(default))
    flags, rest = flag_parser(default, fields).parse_known_args(argv)
    file = vars(flags).pop("config", None)
    values = (read_config(file) if file else {}) | vars(flags)
    for name in [*values, *rest]:
        if name not in fields:
            plain = name.split("=")[0].lstrip("-").replace("-", "_")
            near = difflib.get_close_matches(plain, [*fields, "config"], 1, 0.5)
            advice = f"did you mean {near[0]}?" if near else f"choose among {', '.join(fields)}"
            raise SettingsError(f"expected a setting, got {name}; {advice}")
        kind = fields[name][0]
        if isinstance(values[name], str) and kind in (int, float):  # YAML reads 1e-4 as text
            with contextlib.suppress(ValueError):  # the check says what was expected
                values[name] = kind(values[name])
    return dataclasses.replace(default, **values)


def flag_parser(default, fields):
    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise SettingsError(f"{message}; --help lists the flags")

    parser = Parser(description=sys.modules[type(default).__module__].__doc__, allow_abbrev=False,
                    argument_default=argparse.SUPPRESS,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="FILE", help="settings as .json or .yaml; flags win")
    for name, (kind, comment) in fields.items():
        action = ({"action": argparse.BooleanOptionalAction} if kind is bool
                  else {"metavar": kind.__name__.upper()})
        text = f"{comment} (default: {getattr(default, name)!r})".replace("%", "%%")
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        parser.add_argument(*spellings, dest=name, help=text, **action)
    return parser


def read_config(file):
    """Return the settings in a .json or .yaml file by name. YAML's reader reads JSON too."""
    import yaml

    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        values = str(error).replace("\n", " ")
    if not isinstance(values, dict):
        raise SettingsError(f"expected settings as `name: value` lines or JSON, got {values}; "
                            "correct the file or its path", file=file)
    return {str(name): value for name, value in values.items()}
