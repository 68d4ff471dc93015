"""Whatever is in a log.jsonl, its curves are drawn as far as it is one."""

import json
import math

import pytest
from hypothesis import strategies as st
from mutations import anything, fuzz, mutated

from dallebaby_cli.training import log_reader

EVENTS = [
    {"event": "resume", "step": 2, "time": 1.5},
    {"event": "step", "step": 3, "loss": 0.5, "lr": 1e-3, "images_per_s": 100, "time": 9.5},
    {"event": "evaluation", "step": 4, "psnr": 20.5, "codes_used": 0.5, "time": 9.5},
]
REAL = b"".join(json.dumps(event).encode() + b"\n" for event in EVENTS)
FIELDS = st.dictionaries(st.sampled_from(["event", "step", "loss", "psnr"]) | st.text(), anything)
OTHER = FIELDS.map(lambda fields: json.dumps({**EVENTS[2], **fields}).encode() + b"\n" + REAL)


@fuzz(content=mutated(REAL) | OTHER)
def test_any_log(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    log = tmp_path_factory.getbasetemp() / "any.jsonl"
    log.write_bytes(content)
    for steps in log_reader.read(log).curves.values():
        assert all(step >= 0 for step in steps)
        assert all(math.isnan(v) or abs(v) < log_reader.MOST for v in steps.values())
