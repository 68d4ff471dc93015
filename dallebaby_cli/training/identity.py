"""What makes a run the one that it is: its inputs and those settings that may not change."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dallebaby_cli.config import RunConfig, TransformerConfig, settings
from dallebaby_cli.config.settings import as_dict
from dallebaby_cli.errors import Mismatch
from dallebaby_cli.store.manifest import Manifest

MAY_CHANGE = (  # from start to start
    *("steps", "minutes", "early_stop", "save_every_s", "shard", "recompute"),
    "finish",  # a run of its own, whose settings are looked at there
    *("model.digits", "model.numbers"),  # which a run keeps
)
SINCE = {
    **{f"model.trials.{name}": v for name, v in TransformerConfig.retired["trials"].items()},
    "model.any_order": False,
    "model.guided": 1.0,
    "random_order": None,
    "random_floor": 0.1,
}
"""Settings that older versions lacked, with the value that is as if they were not there."""


def name(inputs: list[str], preset: str, config: RunConfig, parents: Mapping[str, str]) -> str:
    """A run's own name: the same inputs and settings give the same one, whatever its length."""
    identity = json.dumps([of(as_dict(config)), dict(parents)], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:6]
    start = "+".join(inputs).encode()[:60].decode(errors="ignore")
    return f"{start}-{preset}-{digest}"


def of(config: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Of all settings those that make a run another one."""
    told: dict[str, Any] = {}
    for name, value in config.items():
        key = at + name
        inner = of(value, f"{key}.") if isinstance(value, Mapping) else value
        if key not in MAY_CHANGE and not (key in SINCE and SINCE[key] == value) and inner != {}:
            told[name] = inner
    return told


def require_same(
    folder: Path, found: Manifest, resolved: Mapping[str, Any], parents: Mapping[str, str]
) -> None:
    """Raise Mismatch where a run that was found has other settings or inputs."""
    if found.parents != parents:
        raise Mismatch(
            f"{folder} was trained from {', '.join(found.parents)} as they were then, and now the "
            f"inputs are {', '.join(parents)}; choose another name with --run"
        )
    before, now = (settings.flat(of(config)) for config in (found.config, resolved))
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        told = [f"{name}: {before.get(name)} then, {now.get(name)} now" for name in changed]
        raise Mismatch(
            f"{folder} was trained with other settings ({', '.join(told)}); choose another "
            "name with --run, or leave --run out"
        )
