"""Whatever is in a state.pt, a run goes on from it or refuses it with a sentence."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from mutations import anything, fuzz, is_sentence, mutated
from test_state_check import fresh, trained

from dallebaby_cli.errors import BadInput


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "state.pt"
    trained().save(path)
    return path


def with_something_else(draw: st.DataObject, saved: dict[Any, Any]) -> dict[Any, Any]:
    """The state with anything in place of one of the things in it."""
    inner: Any = saved
    while True:
        key = draw.draw(st.sampled_from([*inner] if isinstance(inner, dict) else range(len(inner))))
        if not isinstance(inner[key], dict | list) or not inner[key] or draw.draw(st.booleans()):
            inner[key] = draw.draw(anything)
            return saved
        inner = inner[key]


@fuzz(draw=st.data())
def test_any_state(
    tmp_path_factory: pytest.TempPathFactory, path: Path, draw: st.DataObject
) -> None:
    name = tmp_path_factory.getbasetemp() / "any-state.pt"
    if draw.draw(st.booleans()):
        name.write_bytes(draw.draw(mutated(path.read_bytes())))
    else:
        torch.save(with_something_else(draw, torch.load(path, weights_only=True)), name)
    state = fresh()
    try:
        state.resume(name)
    except BadInput as error:
        assert "any-state.pt" in str(error) and is_sentence(error) and state.step == 0
    else:
        assert all(weight.isfinite().all() for weight in state.model.parameters())
