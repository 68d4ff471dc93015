"""How fast a model draws: what must be read is counted as by hand, and the command tells it all."""

import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Ran, lively_sampler

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.drawing import speed
from dallebaby_cli.drawing.half_precision import halve
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.models import device as devices
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.training import peak

CPU = torch.device("cpu")
BLOCK = 12 * 48**2  # of the fixture's width: qkv 3, attention_out 1, mlp_in and mlp_out 4 each
NORMS = 3 * (48 + 2 * 16 + 48) + 48  # of 3 blocks, with 16 numbers a head, and the last one
HEAD = 240 * 48
POSITIONS = sum(range(12, 27))  # a start, 10 caption tokens and 1 to 15 codes


def test_weights_once_a_code_and_what_stands_before_it(sampler: Sampler) -> None:
    weights = 4 * (3 * BLOCK + NORMS + HEAD)
    cache = POSITIONS * 2 * 3 * 48 * 4  # keys and values of 3 blocks in fp32
    plain, guided = (SampleConfig(guidance=g, batch_size=8) for g in (1, 3))
    assert speed.must_read(sampler, plain) == 16 * weights + 8 * cache
    assert speed.must_read(sampler, guided) == 16 * weights + 2 * 8 * cache


def test_of_digits_all_heads_and_what_leads_to_them() -> None:
    heads = (8 + 6 + 5) * 48 + 2 * (48 + 4 * 48**2)
    cache = POSITIONS * 2 * 3 * 48 * 4
    config = SampleConfig(guidance=1, batch_size=8)
    found = speed.must_read(lively_sampler((8, 6, 5)), config)
    assert found == 16 * 4 * (3 * BLOCK + NORMS + heads) + 8 * cache


def test_of_numbers_the_matrix_that_reads_them_too() -> None:
    shared, read = (8 + 6) * 48 + (8 + 6) * 48 + 5 * 48, (1 + 11) * (8 + 6 + 5 + 1) * 48
    heads = (48 + 5) * 48 + 48 + 4 * 48**2
    cache = POSITIONS * 2 * 3 * 48 * 4
    config = SampleConfig(guidance=1, batch_size=8)
    sampler = lively_sampler((48, 5), numbers=(8, 6, 5))
    told = 16 * 4 * (3 * BLOCK + NORMS + heads + read)
    assert speed.must_read(sampler, config) == told + 16 * 4 * shared + 8 * cache
    sampler.model.fold()
    assert speed.must_read(sampler, config) == told + 8 * cache


def test_halved_weights_are_half_as_much(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    none = SampleConfig(guidance=1, batch_size=1)
    for bf16 in (False, True):
        monkeypatch.setattr(devices, "native_bf16", lambda device, bf16=bf16: bf16)
        halved = replace(sampler, model=deepcopy(sampler.model))
        halve(halved.model, CPU)
        expected = 16 * (2 * (3 * BLOCK + HEAD) + 4 * NORMS)
        with devices.autocast(CPU, "auto"):
            expected += POSITIONS * 2 * 3 * 48 * sampler._computed_like(CPU).element_size()
        assert speed.must_read(halved, none) == expected


def test_rates_are_of_one_time(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_draw", lambda sampler, config: (0.5, 0.8))
    config = SampleConfig()
    found = speed.measure(sampler, 4, config, 1e9)
    assert (found.pictures, found.guidance) == (4, 3.0)
    assert found.pictures_per_s == pytest.approx(5) and found.ms_a_picture == pytest.approx(200)
    assert found.ms_a_code == pytest.approx(500 / 16)
    four = speed.must_read(sampler, SampleConfig(batch_size=4))
    assert found.mbu == pytest.approx(four / 0.5 / 1e9)
    assert speed.measure(sampler, 4, config, 0).mbu is None, "the clock could not tell"


def test_the_command_tells_it(
    cli: Callable[..., Ran], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "LONG_S", 0.0)
    monkeypatch.setattr(peak, "PATIENCE_S", 0.0)
    asked = ("--home", tmp_path, "evaluate", "--speed", "--model", model, "--device", "cpu")
    ran = cli(*asked, "--set", "sampling.batch_size=16", "--json")
    facts = json.loads(ran.out)
    assert ran.code == 0 and facts["bytes_per_s"] > 1e8 and facts["precision"] == "fp32"
    rows = [(row["pictures"], row["guidance"]) for row in facts["rows"]]
    assert rows == [(1, 1), (1, 3), (8, 1), (8, 3), (16, 1), (16, 3)]
    assert all(row["mbu"] > 0 and row["pictures_per_s"] > 0 for row in facts["rows"])
    assert facts["training_mfu"] is None

    known = {"id": weights.model_id(model), "complete": True, "counts": {"mfu": 0.4321}}
    manifest.write(model, Manifest(kind="dalle", name="d", **known))
    ran = cli(*asked, "--set", "sampling.batch_size=8", "--set", "sampling.guidance=1")
    (model / "manifest.json").unlink()  # others have this model, too
    assert len(re.findall(r"(?m)^ +[18] +1 +[\d.,]+ +[\d.,]+ +[\d.,]+ +[\d.]+% *$", ran.out)) == 2
    assert "GB/s read from memory" in ran.out
    assert "it was trained at 43.2% of its device's peak (MFU)" in ran.out
