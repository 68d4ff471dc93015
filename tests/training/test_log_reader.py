"""A log that a power cut left with zeros or half a line is read as far as it is one."""

import json
import os
from pathlib import Path

import pytest

from dallebaby_cli.errors import BadInput
from dallebaby_cli.training import log_reader
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
    found = log_reader.read(log).curves
    assert found["loss"] == {3: 0.5, 5: 0.75} and found["psnr"] == {4: 20}
    assert [*found] == ["loss", "lr", "psnr", "codes_used"]


def test_the_story_of_a_run_that_was_stopped_and_went_back(tmp_path: Path) -> None:
    start = {"event": "start", "device": "cpu, 2 threads", "train": 30}
    step = {"event": "step", "lr": 1e-3}
    score = {"event": "evaluation", "bits_per_code": 3.5}
    told = [{**start, "time": 100.0}, {**score, "step": 0, "time": 101.0}]
    told += [
        {**step, "step": s, "loss": s / 10, "epochs": s / 5, "time": 102.0 + s} for s in (0, 3, 6)
    ]
    told += [{"event": "warning", "step": 6, "text": "far off" * 999, "time": "noon"}]
    told += [{**start, "time": 9000.0}, {"event": "resume", "step": 2, "time": 9001.0}]
    told += [{**step, "step": 4, "loss": 9.0, "epochs": 0.8, "time": 9003.0}]
    told += [
        {**score, "step": 9, "time": 9003.5},
        {**score, "step": 5, "time": 9004.5},
        {"event": "turned", "step": 5, "text": "over"},
    ]
    (tmp_path / "log.jsonl").write_bytes(b"".join(line(**event) for event in told))
    story = log_reader.read(tmp_path / "log.jsonl")
    assert story.curves["loss"] == {0: 0.0, 3: 0.3, 4: 9.0}, "step 6 was undone"
    assert story.curves["epochs"] == {0: 0.0, 3: 0.6, 4: 0.8}
    assert story.curves["bits_per_code"] == {0: 3.5, 9: 3.5, 5: 3.5}, "the kept one is judged last"
    assert story.starts == [{"device": "cpu, 2 threads", "train": 30}] * 2 and story.resumed == [2]
    assert story.warning and story.warning[0] == 6 and story.turned == "step 5: over"
    assert len(story.warning[1]) == log_reader.LONGEST and story.scored == 5
    assert story.seconds == 8.0 + 3.5, "between a stop and the next start nothing was done"


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
