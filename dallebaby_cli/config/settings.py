"""How configs are filled: from presets, files, `--set` and flags, strictly.

A value comes from, weakest first: the default in `stages.py` < the preset (`presets/NAME.yaml`) <
`--config FILE.yaml` < `--set KEY=VALUE` < a named flag. YAML files have one section per command,
named like it.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from dallebaby_cli.config.stages import SECTIONS
from dallebaby_cli.errors import UsageError

PRESETS = Path(__file__).parent / "presets"

T = TypeVar("T")


def preset_names() -> list[str]:
    """The presets that come with the package."""
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


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
    cls = SECTIONS[section]
    merged: dict[str, Any] = {}
    if preset is not None:
        if preset not in preset_names():
            raise UsageError(f"no preset {preset!r}{nearest(preset, preset_names())}")
        _merge(merged, _read_section(PRESETS / f"{preset}.yaml", section))
    if file is not None:
        _merge(merged, _read_section(file, section))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {setting}: write it as KEY=VALUE, for example seed=1")
        _merge(merged, _nest(key, _parse(text)))
    for key, value in (flags or {}).items():
        if value is not None:
            _merge(merged, _nest(key, value))
    return build(cls, merged)


def knows(section: str, key: str) -> bool:
    """Whether a command has a setting of that dotted name."""
    cls: Any = SECTIONS[section]
    for part in key.split("."):
        hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
        if part not in hints:
            return False
        cls = hints[part]
    return True


def build(cls: type[T], values: Mapping[str, Any], at: str = "") -> T:
    """Make a config dataclass from plain nested values; strict about keys and types."""
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UsageError(f"unknown setting {at}{key}{nearest(str(key), known)}")
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
    return f"; there are {', '.join(candidates)}" if candidates else ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _parse(text: str) -> Any:
    import yaml  # here, because --help needs none

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


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
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read the config file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
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
    return found


def _coerce(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UsageError(f"{name}={value!r}: has settings of its own, such as {name}.KEY=VALUE")
        return build(typing.cast(type, hint), value, at=f"{name}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _coerce(next(a for a in arguments if a is not type(None)), value, name)
    if origin is Literal:
        if value not in arguments:
            raise UsageError(f"{name}={value!r}: must be one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_coerce(arguments[0], item, name) for item in items)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML 1.1 reads 3e-4 as a string
        except ValueError:
            number = float("nan")
        if number == number and abs(number) != float("inf"):
            return number
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    kind = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]
    raise UsageError(f"{name}={value!r}: must be {kind}")
