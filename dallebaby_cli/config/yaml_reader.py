"""YAML as settings and catalogues are written in: mappings, lists and text, in bounds.

All plain values are text: what a value is, its field's type decides, not YAML. To YAML `on` is
true, 017 is 15, 1:30 is 90, 1e-3 is text and an md5 of digits may be a number.
"""

import math
from pathlib import Path
from typing import Any

from dallebaby_cli import files

TEXT = ("str", "int", "float", "bool", "null", "timestamp")  # types of plain values, as text


def read(path: Path) -> Any:
    """What a YAML file says. Raises FileNotFoundError, BadInput if it is no small file, ValueError
    if it is no YAML in UTF-8 or out of bounds."""
    return parse(files.read_small(path).decode("utf-8-sig"))


def parse(text: str) -> Any:
    """Mappings and lists of YAML with all plain values as text. Raises ValueError, for nesting and
    aliases out of all bounds too."""
    import yaml  # here, because --help needs none

    standard, safe = "tag:yaml.org,2002:", yaml.CSafeLoader.yaml_constructors

    class Loader(yaml.CSafeLoader):
        """Knows no type of a plain value but `<<`, which merges mappings."""

    Loader.yaml_implicit_resolvers = {"<": Loader.yaml_implicit_resolvers["<"]}
    Loader.yaml_constructors = {
        None: safe[None],  # refuses all others
        **{standard + kind: safe[standard + kind] for kind in ("map", "seq")},
        **{standard + kind: safe[f"{standard}str"] for kind in TEXT},
    }
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded(node, {}) > files.SMALL:
            raise ValueError("it repeats itself by aliases without end")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _expanded(node: Any, known: dict[int, tuple[float, int]]) -> float:
    """Letters of a node with all that its aliases repeat, which is without end where one is in
    itself."""

    def measure(node: Any, depth: int) -> tuple[float, int]:
        """Letters and levels of a node that is `depth` levels deep."""
        if id(node) not in known:
            known[id(node)] = math.inf, 0  # until it is known
            inside = node.value if isinstance(node.value, list) else []
            inner = [
                child for item in inside for child in (item if type(item) is tuple else [item])
            ]
            if inner and depth >= files.DEEP:
                raise ValueError(f"it is nested over {files.DEEP} levels deep")
            sizes = [measure(child, depth + 1) for child in inner]
            letters = 1 + sum(size for size, _ in sizes) + (0 if inside else len(node.value))
            known[id(node)] = letters, 1 + max((levels for _, levels in sizes), default=0)
        if depth + known[id(node)][1] > files.DEEP + 1:
            raise ValueError(f"it is nested over {files.DEEP} levels deep")
        return known[id(node)]

    return measure(node, 0)[0]
