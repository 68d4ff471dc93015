"""How configs are filled: from presets, files, `--set` and flags, strictly.

A value comes from, weakest first: the default in `stages.py` < the preset (`presets/NAME.yaml`) <
`--config FILE.yaml` < `--set KEY=VALUE` < a named flag. YAML files have one section per command,
named like it. What a value is, its field's type decides, not YAML.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from dallebaby_cli.config import yaml_reader
from dallebaby_cli.config.bounds import shown
from dallebaby_cli.config.stages import SECTIONS
from dallebaby_cli.errors import BadInput, UsageError
from dallebaby_cli.text import one_line

PRESETS = Path(__file__).parent / "presets"
RENAMED = {"prep": {"on": "where"}, "caption": {"on": "where"}}
"""Section → settings by the names that they had before, which are still read."""
WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NOTHING = ("", "~", "null")

LONGEST = 60  # letters of a name in a sentence
FEW = 40  # names that a sentence lists
T = TypeVar("T")


def preset_names() -> list[str]:
    """The presets that come with the package."""
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of a command, as `dallebaby config` shows it."""

    key: str
    """dotted, as `--set` takes it: optim.lr"""
    value: Any
    origin: str
    """where the value comes from, such as "default" or "preset tiny" """
    default: Any
    help: str


def load(
    section: str,
    *,
    preset: str | None = None,
    file: Path | None = None,
    settings: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Any:
    """Build the config of one command from preset, file, `--set` settings and named flags.

    `flags` maps dotted keys to values; None means that the flag was not given.
    Raises UsageError for an unknown preset, file, key or a value that does not fit.
    """
    merged: dict[str, Any] = {}
    for _, values in _layers(section, preset, file, settings, flags or {}):
        _merge(merged, values)
    return build(SECTIONS[section], merged)


def explain(
    section: str,
    *,
    preset: str | None = None,
    file: Path | None = None,
    settings: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> list[Setting]:
    """Every setting of a command, and where the value that `load` gives it comes from."""
    cls, settings = SECTIONS[section], tuple(settings)
    config = load(section, preset=preset, file=file, settings=settings, flags=flags)
    values, defaults = flat(as_dict(config)), flat(as_dict(cls()))
    origins = {
        key: origin
        for origin, given in _layers(section, preset, file, settings, flags or {})
        for key in flat(given)
    }
    return [
        Setting(key, value, origins.get(key, "default"), defaults[key], _help(cls, key))
        for key, value in values.items()
    ]


def _layers(
    section: str,
    preset: str | None,
    file: Path | None,
    settings: Iterable[str],
    flags: Mapping[str, Any],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where values come from and what is given there, weakest first."""
    if preset is not None:
        if preset not in preset_names():
            raise UsageError(f"no preset {preset!r}{nearest(preset, preset_names())}")
        yield f"preset {preset}", _read_section(PRESETS / f"{preset}.yaml", section)
    if file is not None:
        yield f"--config {file}", _read_section(file, section)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            start = f"--set {setting[:LONGEST]}"
            raise UsageError(f"{start}: write it as KEY=VALUE, for example batch_size=16")
        yield "--set", _renamed(section, _nest(key, _parse(text)))
    for key, value in flags.items():
        if value is not None:
            yield "flag", _nest(key, value)


def flat(values: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Nested values by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{at}{key}.") if isinstance(value, Mapping) else {at + key: value}
    return found


def _help(cls: Any, key: str) -> str:
    """What a dotted key means: the string below its field, and the words that it may be."""
    *outer, name = key.split(".")
    for part in outer:
        cls = typing.get_type_hints(cls)[part]
    hint = typing.get_type_hints(cls)[name]
    choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    return strings_below(cls)[name] + (f" ({', '.join(choices)})" if choices else "")


@functools.cache
def strings_below(cls: type) -> dict[str, str]:
    """The string below each field of a dataclass, those that it inherits included. Python does not
    keep them, so they are read from the source."""
    found: dict[str, str] = {}
    for owner in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        (tree,) = ast.parse(inspect.getsource(owner)).body
        for field, below in itertools.pairwise(typing.cast(ast.ClassDef, tree).body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                text = ast.literal_eval(below.value)
                found[ast.unparse(field.target)] = " ".join(text.split())
    return found


def knows(section: str, key: str) -> bool:
    """Whether a command has a setting of that dotted name."""
    cls: Any = SECTIONS[section]
    for part in RENAMED.get(section, {}).get(key, key).split("."):
        hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
        if part not in hints:
            return False
        cls = hints[part]
    return True


def build(cls: type[T], values: Mapping[str, Any], at: str = "") -> T:
    """Make a config dataclass from plain nested values; strict about keys and types."""
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    retired = getattr(cls, "retired", {})
    values = {k: v for k, v in values.items() if k in known or retired.get(k, ...) != v}
    for key in values:
        if key not in known:
            word = str(key)[:LONGEST]
            raise UsageError(f"unknown setting {at}{word}{nearest(word, known)}")
    return cls(**{k: _coerce(hints[k], v, f"{at}{k}") for k, v in values.items()})


def as_dict(config: Any) -> dict[str, Any]:
    """The resolved config as plain values that JSON and YAML can hold; `build` reads them back."""
    return dataclasses.asdict(config, dict_factory=lambda pairs: {k: _plain(v) for k, v in pairs})


def nearest(word: str, candidates: Iterable[str]) -> str:
    """The end of a sentence that suggests what was meant: "; did you mean 'coco'?" """
    candidates = sorted(candidates)
    close = difflib.get_close_matches(word, candidates, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(repr(c) for c in close)}?"
    return f"; there are {', '.join(candidates)}" if 0 < len(candidates) <= FEW else ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _parse(text: str) -> Any:
    try:
        return yaml_reader.parse(text)
    except ValueError:
        return text


def _renamed(section: str, values: dict[str, Any]) -> dict[str, Any]:
    for old, new in RENAMED.get(section, {}).items():
        if old in values:
            values.setdefault(new, values.pop(old))
    return values


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _read_section(path: Path, section: str) -> dict[str, Any]:
    try:
        content = yaml_reader.read(path)
    except FileNotFoundError as error:
        raise UsageError(f"cannot read the config file {path}: {error.strerror}") from error
    except BadInput as error:
        raise UsageError(f"cannot read the config file: {error}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid YAML: {one_line(str(error))}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold one section per command, such as train-vae:")
    for key in content:
        if key not in SECTIONS:
            raise UsageError(f"{path}: unknown section {key}{nearest(str(key), SECTIONS)}")
    found = content.get(section) or {}
    if not isinstance(found, dict):
        raise UsageError(f"{path}: section {section} must hold KEY: VALUE lines")
    return _renamed(section, found)


def _coerce(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UsageError(
                f"{name}={shown(value)}: has settings of its own, such as {name}.KEY=VALUE"
            )
        return build(typing.cast(type, hint), value, at=f"{name}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if type(None) in arguments and (value is None or value in NOTHING):
            return None
        return _coerce(next(a for a in arguments if a is not type(None)), value, name)
    if origin is Literal:
        if value not in arguments:
            raise UsageError(
                f"{name}={shown(value)}: must be one of {', '.join(map(str, arguments))}"
            )
        return value
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_coerce(arguments[0], item, name) for item in items)
    read, kind = KINDS[hint]
    try:
        return read(value)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise UsageError(f"{name}={shown(value)}: must be {kind}") from None


def _whole(value: Any) -> int:
    if not isinstance(value, str):
        return _typed(int, value)
    if re.fullmatch(r"[+-]?[1-9][\d_]*(\.\d+)?e\+?\d+", value, re.I | re.A):  # 1e3
        number = float(value)
        return int(number) if number.is_integer() else _typed(int, number)
    return int(value, 0)  # 0x1f and 1_000 too, but not 017, which is 15 to some


def _number(value: Any) -> float:
    number = float(value) if isinstance(value, str) else float(_typed(int | float, value))
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _truth(value: Any) -> bool:
    return WORDS[value.lower()] if isinstance(value, str) else _typed(bool, value)


def _text(value: Any) -> str:
    return _typed(str, value)


def _typed(kind: Any, value: Any) -> Any:
    """The value, if it is of that kind: one is no truth, and a truth is no number."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(value)
    return value


KINDS: dict[type, tuple[Callable[[Any], Any], str]] = {
    int: (_whole, "a whole number"),
    float: (_number, "a number"),
    bool: (_truth, "true or false"),
    str: (_text, "text"),
}
"""A field's type → what reads its value, typed or as text, and what is said if it cannot."""
