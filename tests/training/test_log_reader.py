"""A log that a power cut left with zeros or half a line is read as far as it is one."""

import json
import os
from pathlib import Path

import pytest

from dallebaby_cli.errors import BadInput
from dallebaby_cli.training import pictures_of_run
from dallebaby_cli.training.log import _whole_lines

STEP = {"event": "step", "step": 3, "loss": 0.5, "lr": 1e-3, "time": 9.5}
FIGURES = {"event": "evaluation", "step": 4, "psnr": 20, "codes_used": float("nan"), "time": 9.5}


def line(**event: object) -> bytes:
    return json.dumps(event).encode() + b"\n"


def test_zeros_halves_and_other_things_are_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    content = line(**STEP) + bytes(3_000_000) + line(**{**STEP, "step": 5, "loss": 0.25})
    content += b'{"event": "st\n' + b"[" * 60_000 + b"\n" + b"\xff\xfe\n" + b"7\n[]\nnull\n"
    content += line(**{**STEP, "step": -1}) + line(**{**STEP, "step": 10**30})
    content += line(**{**STEP, "loss": "low"}) + line(event=[1]) + line(**{**STEP, "step": True})
    content += b'{"event": "step", "step": 6, "loss": 1' + b"0" * 400 + b"}\n" + line(**FIGURES)
    content += line(**{**STEP, "step": 5, "loss": 0.75})
    log.write_bytes(content)
    found = pictures_of_run.curves(log)
    assert found["loss"] == {3: 0.5, 5: 0.75} and found["psnr"] == {4: 20}
    assert [*found] == ["loss", "psnr", "codes_used"]
    notes: list[object] = []
    pictures_of_run.bind(tmp_path, notes.append)
    assert not notes and (tmp_path / "curves.png").stat().st_size > 1000


def test_what_a_kill_left_at_the_end_is_cut_off(tmp_path: Path) -> None:
    log, whole = tmp_path / "log.jsonl", line(**STEP) * 3
    for end in (b"", b'{"event"', bytes(2_500_000)):
        log.write_bytes(whole + end)
        assert _whole_lines(log).read_bytes() == whole
    log.write_bytes(bytes(100))
    assert _whole_lines(log).read_bytes() == b""
    assert not _whole_lines(tmp_path / "none.jsonl").exists()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(BadInput, match="pipe is a folder, pipe or device"):
            _whole_lines(tmp_path / "pipe")
