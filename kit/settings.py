"""Settings of a lesson: a dataclass in a notebook cell, flags in a script, JSON beside the run.

The comment behind a field is its unit and meaning. Square brackets at its end limit the value:
`[> 0]`, `[>= 0, < 1]`, `[0 .. 1]` (both included) or choices `[auto | float32 | bfloat16]`.
"""

import argparse
import ast
import dataclasses
import difflib
import inspect
import io
import json
import math
import re
import sys
import textwrap
import tokenize
import types
import typing
from pathlib import Path

from kit.errors import MissingError, SettingsError

COMPARE = {">": float.__gt__, ">=": float.__ge__, "<": float.__lt__, "<=": float.__le__}
LIMIT = re.compile(r"(>=|<=|>|<)\s*(\S+)")
SPAN = re.compile(r"(\S+)\s*\.\.\s*(\S+)")


def from_flags(cls, argv=None):
    """An instance of the class from command-line flags; an instance in its place gives defaults.

    --config names a .json or .yaml file of settings; flags win. Errors: SettingsError.
    """
    cls, defaults = (cls, {}) if isinstance(cls, type) else (type(cls), vars(cls))
    known = fields_of(cls)
    parser = flag_parser(cls, known, defaults)
    given, unknown = parser.parse_known_args(sys.argv[1:] if argv is None else list(argv))
    if unknown:
        name = unknown[0].split("=")[0].lstrip("-").replace("-", "_")
        raise unknown_name(name, [*known, "config"], shown=unknown[0])
    flags = vars(given)
    values = {name: field.default for name, field in known.items()
              if field.default is not dataclasses.MISSING} | defaults
    if config := flags.pop("config", None):
        values |= typed(read_config(config), known, config)
    values |= {name: from_text(known[name], name, text) for name, text in flags.items()}
    return built(cls, values, known)


def flag_parser(cls, known, defaults):
    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise SettingsError(f"{message}; --help lists the flags")

    parser = Parser(description=inspect.cleandoc(cls.__doc__ or "").split("\n")[0],
                    argument_default=argparse.SUPPRESS, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="settings as .json or .yaml; flags win")
    for name, field in known.items():
        names = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        default = defaults.get(name, field.default)
        told = "" if default is dataclasses.MISSING else f" (default: {default})"
        extra = ({"action": argparse.BooleanOptionalAction} if field.kind is bool
                 else {"metavar": field.kind.__name__.upper()})
        parser.add_argument(*names, dest=name, help=(field.comment + told).replace("%", "%%"),
                            **extra)
    return parser


class Field(typing.NamedTuple):
    """A setting: its type without None, whether None is allowed, its comment and default."""

    kind: type
    optional: bool
    comment: str
    default: object


def fields_of(cls) -> dict:
    """{name: Field} of a dataclass, with the comments of its source."""
    comments = {}
    for base in reversed(cls.__mro__):
        if "__dataclass_fields__" in vars(base):
            comments |= comments_of(base)
    hints, found = typing.get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        kind, optional = hints[field.name], False
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            inner = [part for part in typing.get_args(kind) if part is not type(None)]
            kind, optional = inner[0] if len(inner) == 1 else None, True
        if kind not in (bool, int, float, str, Path):
            raise SettingsError("expected the type bool, int, float, str or Path, or one of them "
                                f"or None, came {hints[field.name]}", field=field.name)
        found[field.name] = Field(kind, optional, comments.get(field.name, ""), field.default)
    return found


def comments_of(cls) -> dict:
    """{field: comment} from the text of the class: a file or a notebook cell."""
    names = list(vars(cls).get("__annotations__", {}))
    for source in sources_of(cls):
        try:
            tree = ast.parse(source)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef) or node.name != cls.__name__:
                continue
            lines = {part.target.id: part.end_lineno for part in node.body
                     if isinstance(part, ast.AnnAssign)}
            if list(lines) == names:
                told = {token.start[0]: token.string.lstrip("# ").rstrip()
                        for token in tokenize.generate_tokens(io.StringIO(source).readline)
                        if token.type == tokenize.COMMENT}
                return {name: told.get(line, "") for name, line in lines.items()}
    raise SettingsError(f"expected to read the comments of {cls.__name__}, came no source; define "
                        "it in a file or a notebook cell")


def sources_of(cls):
    """Texts that may define the class, the likeliest first."""
    try:
        yield textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        # A class of a notebook has no file: IPython keeps its cells, the newest last.
        shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
        yield from reversed(shell.history_manager.input_hist_parsed if shell else [])


def limits_of(field, name):
    """The part in square brackets as a list of (words, test of a value); [] without one."""
    bracket = re.search(r"\[([^\[\]]*)\]$", field.comment)
    if not bracket:
        return []
    text = bracket[1].strip()
    if "|" in text:
        choices = [from_text(field, name, word.strip()) for word in text.split("|")]
        return [(text.replace(" |", ","), choices.__contains__)]
    try:
        if field.kind not in (int, float):
            raise ValueError(text)
        if span := SPAN.fullmatch(text):
            low, high = map(float, span.groups())
            return [(f"{span[1]} to {span[2]}", lambda value: low <= value <= high)]
        parts = [LIMIT.fullmatch(part.strip()) for part in text.split(",")]
        return [(part[0], lambda value, part=part: COMPARE[part[1]](float(value), float(part[2])))
                for part in parts]
    except (ValueError, TypeError):
        raise SettingsError(f"expected limits as [> 0], [0 .. 1] or [a | b] in the comment, came "
                            f"[{text}]", field=name) from None


def from_text(field, name, value):
    """The value of a flag as its type; `none` stands for None where that is allowed."""
    if not isinstance(value, str):
        return value
    if field.optional and value.lower() == "none":
        return None
    try:
        return field.kind(value)
    except ValueError:
        raise SettingsError(f"expected {field.kind.__name__}, came {value!r}", field=name) from None


def typed(values, known, file):
    """Values of a JSON or YAML file, by name, as the types of the fields."""
    if not isinstance(values, dict):
        raise SettingsError(f"expected settings by name, came {type(values).__name__}", file=file)
    for name in values:
        if name not in known:
            raise unknown_name(name, known, file)
    # YAML reads 1e-4 as text; a path is text in both.
    as_text = {name for name in values if known[name].kind in (float, Path)}
    return {name: from_text(known[name], name, value) if name in as_text else value
            for name, value in values.items()}


def unknown_name(name, known, file=None, shown=None):
    near = difflib.get_close_matches(str(name), known, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(known)}"
    return SettingsError(f"expected a setting, came {shown or name}; {hint}", file=file)


def built(cls, values, known, file=None):
    """The checked instance; `values` must hold every field."""
    missing = [name for name in known if name not in values]
    if missing:
        raise SettingsError("expected a value, came none; give one", file=file, field=missing[0])
    return check(cls(**values))


def check(instance):
    """The instance itself, if each value has its type and lies in its limits."""
    for name, field in fields_of(type(instance)).items():
        value = getattr(instance, name)
        if value is None and field.optional:
            continue
        accepted = {float: (int, float), Path: (str, Path)}.get(field.kind, field.kind)
        if not isinstance(value, accepted) or (isinstance(value, bool) and field.kind is not bool):
            raise SettingsError(f"expected {field.kind.__name__}, came {value!r}", field=name)
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingsError(f"expected a finite number, came {value}", field=name)
        for words, holds in limits_of(field, name):
            if not holds(value):
                raise SettingsError(f"expected {words}, came {value!r}", field=name)
    return instance


def describe(instance) -> dict:
    """{name: (value, comment)} in the order of the fields."""
    return {name: (getattr(instance, name), field.comment)
            for name, field in fields_of(type(instance)).items()}


def save(instance, path):
    """Write the checked values as JSON."""
    values = {name: str(value) if isinstance(value, Path) else value
              for name, (value, _) in describe(check(instance)).items()}
    Path(path).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def load(cls, path):
    """The instance that `save` wrote; a field the file lacks is refused, not defaulted."""
    known = fields_of(cls)
    return built(cls, typed(read_config(path), known, path), known, path)


def read_config(path):
    """The settings in a .json or .yaml file."""
    if not Path(path).is_file():
        raise MissingError("expected a file of settings, came nothing at this path; correct the "
                           "path", file=path)
    names = []
    try:
        text = Path(path).read_text(encoding="utf-8")
        if str(path).endswith((".yaml", ".yml")):
            import yaml
            values = yaml.safe_load(text) or {}
            if values and isinstance(values, dict):
                names = [key.value for key, _ in yaml.compose(text).value]
        else:
            values = json.loads(text, object_pairs_hook=lambda pairs: names.extend(
                name for name, _ in pairs) or dict(pairs))
    except Exception as error:  # noqa: BLE001  yaml and json raise types of their own
        raise SettingsError(f"expected JSON or YAML, came {str(error).splitlines()[0]}",
                            file=path) from None
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"expected each setting once, came {name} twice", file=path)
    return values
