"""`train` on few pictures: it ends before it has memorised them, and says what happened."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran, draw_folder, make, start

from dallebaby_cli.progress import ignore
from dallebaby_cli.store import manifest
from dallebaby_cli.store.extra_captions import ExtraCaptions
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.training import captions

Cli = Callable[..., Ran]
ASKED = ("--preset", "tiny", "--steps", 100, "--set", "eval_every=8", "--set", "batch_size=16")
ASKED += ("--set", "optim.lr=0.01", "--set", "precision=fp32")


@pytest.fixture(scope="module")
def home(made_once: Callable[..., Path]) -> Path:
    """A workspace with 40 pictures, a third of them held out, and their codes, one view each."""

    def fill(folder: Path) -> None:
        shapes = draw_folder(folder / "few", 40)
        make(folder / "home", "prep", shapes, "--px", 32, "--set", "holdout_percent=35")
        make(folder / "home", "train-vae", "--preset", "tiny", "--steps", 30, "--run", "v")
        make(folder / "home", "encode", "--set", "views=1")

    return made_once("few-pictures", fill) / "home"


def events(home: Path, name: str) -> list[dict]:
    lines = (home / "dalle" / name / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_it_ends_keeps_the_best_and_goes_on_after_a_signal_bit_for_bit(
    home: Path, tmp_path: Path, cli: Cli
) -> None:
    home = shutil.copytree(home, tmp_path / "home")
    ran = cli("--home", home, "--json", "train", *ASKED, "--run", "whole")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert 0 < told["kept"] < told["steps"] < told["planned"] == 100
    by_step = {e["step"]: e["bits_per_code"] for e in events(home, "whole") if "bits_per_code" in e}
    assert told["kept"] == min(by_step, key=by_step.__getitem__)
    assert told["bits_per_code"] == pytest.approx(by_step[told["kept"]], abs=1e-3)
    notes = [json.loads(line).get("text", "") for line in ran.err.splitlines()]
    pictures = round(16 * told["steps"] / told["epochs"])
    so_often = f"sees each of {pictures} pictures {100 * 16 / pictures:.1f} times, so often that"
    assert any(so_often in note for note in notes)
    (ends,) = (n for n in notes if f"train: ends at step {told['steps']} of 100" in n)
    assert "it memorises its training pictures (hold-out loss" in ends
    (kept,) = (
        n for n in notes if f"the weights of step {told['kept']} of {told['steps']} are" in n
    )
    assert kept.endswith(f"; about {told['pictures_wanted']:,} would be worth so long a run")
    assert told["pictures_wanted"] >= pictures * 100 / told["kept"]

    process = start(home, "train", *ASKED, "--run", "broken")
    log = home / "dalle" / "broken" / "log.jsonl"
    while not (log.exists() and log.read_text().count('"evaluation"') > told["kept"] // 8 + 1):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, out + err
    ran = cli("--home", home, "--json", "train", *ASKED, "--run", "broken")
    again = json.loads(ran.out)
    same = ("steps", "kept", "planned", "epochs", "pictures_wanted", "bits_per_code")
    assert {name: again[name] for name in same} == {name: told[name] for name in same}
    one, other = (
        (home / "dalle" / n / "model.safetensors").read_bytes() for n in ("whole", "broken")
    )
    assert one == other


def test_with_too_few_hold_out_pictures_nothing_ends_it_and_that_is_said(
    home: Path, tmp_path: Path, cli: Cli
) -> None:
    home = shutil.copytree(home, tmp_path / "home")
    shapes = draw_folder(tmp_path / "none", 12)
    make(home, "prep", shapes, "--px", 32)  # which holds one of them out
    make(home, "encode", "none", "--set", "views=1")
    ran = cli("--home", home, "train", "none", *ASKED[:3], 20, *ASKED[4:], "--run", "none")
    assert ran.code == 0, ran.err
    assert "memorise them; nothing will tell when, which takes 8 hold-out ones" in ran.err
    counts = manifest.find(home, "dalle", "none")[1].counts
    assert counts["steps"] == 20 and "kept" not in counts and "pictures_wanted" not in counts


def test_what_a_mirror_makes_untrue_is_no_caption_of_mirrored_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captions may be written after pictures were encoded."""
    written = {"k": ["a dog left of a cat", "a dog"]}
    extra = ExtraCaptions("x", {"images/a": "i"}, written)
    monkeypatch.setattr(captions.extra_captions, "read", lambda images: extra)
    for flip, kept in ((True, ["a dog"]), (False, written["k"])):
        about = Manifest(
            kind="tokens", name="a@v", parents={"images/a": "i"}, config={"flip": flip}
        )
        parents: dict[str, str] = {}
        found = captions.extra(tmp_path, about, parents, ignore)
        assert found.by_key["k"] == kept and parents == {"images/a/captions": "x"}
