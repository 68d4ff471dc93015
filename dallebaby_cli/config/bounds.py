"""How a config says which values its fields may have: bounds in the field's declaration, checked
whenever one is made, by whomever."""

import dataclasses
import operator
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dallebaby_cli.errors import UsageError

COUNT = 2**31 - 1  # more of anything is a slip of the finger
SEED = 2**63 - 1  # torch takes no larger ones
LONGEST_S = 10_000_000  # four months
LEAST_TEMPERATURE = 1e-3  # logits over less than that overflow

KINDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "ge": (operator.ge, "must be {:,} or more"),
    "gt": (operator.gt, "must be above {:,}"),
    "le": (operator.le, "must be at most {:,}"),
    "lt": (operator.lt, "must be below {:,}"),
}
"""A bound's name → whether a value keeps to it, and what is said if it does not."""


def bounded(default: Any, **bounds: float) -> Any:
    """A field with that default whose value, or each of whose values if it is a tuple, keeps to
    the bounds: `ge` and `gt`, `le` and `lt` are the least and the most, itself allowed or not."""
    assert bounds.keys() <= KINDS.keys(), bounds
    return dataclasses.field(default=default, metadata=bounds)


def check(ok: bool, name: str, value: object, why: str) -> None:
    """Refuse a field's value with a sentence that names the field, the value and the reason."""
    if not ok:
        raise UsageError(f"{name}={shown(value)}: {why}")


def shown(value: object) -> str:
    """A value in a sentence: the start of it, if it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    return short.repr(value)


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """What all configs are: made only with values within their fields' bounds."""

    section: ClassVar[str] = ""
    """what a person types in front of a field's name, such as "model." """
    retired: ClassVar[Mapping[str, Any]] = {}
    """fields of versions that were never released, which may still stand where they said this"""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, name = getattr(self, field.name), f"{self.section}{field.name}"
            for one in value if isinstance(value, tuple) else (value,):
                for kind, bound in field.metadata.items():
                    keeps, why = KINDS[kind]
                    check(one is None or keeps(one, bound), name, value, why.format(bound))


def check_temperature(temperature: float) -> None:
    """Raise UsageError for one that logits cannot be divided by."""
    usable = temperature == 0 or temperature >= LEAST_TEMPERATURE
    why = f"must be 0, or {LEAST_TEMPERATURE} or more"
    check(usable, "temperature", temperature, why)
