"""From a torrent to a picture, as a user does it: real pictures in COCO's own layout, seeded by an
independent BitTorrent client, through every command of the real CLI."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import swarm
from conftest import run
from PIL import Image
from safetensors import safe_open

from dallebaby_cli.store import manifest
from dallebaby_cli.store.codes_id import codes_id
from dallebaby_cli.store.tokens import Tokens

pytestmark = [pytest.mark.slow, swarm.needs_transmission]

PACKAGE = "tuxpaint-stamps-default"
CHAIN = ("raw", "images", "vae", "tokens", "dalle")


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of Debian's package, unpacked."""
    folder = tmp_path_factory.mktemp("stamps")
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        pytest.skip("needs Debian's apt-get and dpkg")
    got = subprocess.run(
        ["apt-get", "download", "-qq", PACKAGE], cwd=folder, capture_output=True, text=True
    )
    if got.returncode:
        pytest.skip(f"apt-get cannot download {PACKAGE}: {got.stderr.strip()[-200:]}")
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg", "-x", str(package), str(folder / "x")], check=True)
    return folder / "x" / "usr" / "share" / "tuxpaint" / "stamps"


def as_coco(pictures: Path, folder: Path) -> int:
    """Pack pictures as COCO 2017 packs its own; returns how many there are."""
    folder.mkdir()
    about: dict[str, list] = {"images": [], "annotations": []}
    with zipfile.ZipFile(folder / "train2017.zip", "w") as archive:
        for number, path in enumerate(sorted(pictures.rglob("*.png")), 1):
            caption = path.with_suffix(".txt")
            name = f"{number:012}.jpg"  # COCO's names; the content decides what it is
            archive.write(path, f"train2017/{name}")
            about["images"].append({"id": number, "file_name": name})
            if caption.exists():
                first = caption.read_text(errors="replace").splitlines()[0]
                row = {"id": number, "image_id": number, "caption": first}
                about["annotations"].append(row)
    with zipfile.ZipFile(folder / "annotations_trainval2017.zip", "w") as archive:
        archive.writestr("annotations/captions_train2017.json", json.dumps(about))
    return len(about["images"])


def test_from_a_torrent_to_a_picture(stamps: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    count = as_coco(stamps, tmp_path / "stamps")
    torrent = swarm.make_torrent(tmp_path / "stamps", tmp_path / "s.torrent", piece=1 << 18)
    with swarm.transmission(torrent, tmp_path / "client") as seed:
        assert "transmission-daemon" in seed.version
        run(home, "fetch", torrent.magnet, "--peer", seed.address, "--timeout", "60", *swarm.ALONE)
    for name in ("train2017.zip", "annotations_trainval2017.zip"):
        (fetched,) = home.glob(f"raw/stamps/**/{name}")
        assert fetched.read_bytes() == (tmp_path / "stamps" / name).read_bytes()

    run(home, "prep", "stamps", "--px", "32")
    run(home, "train-vae", "--preset", "tiny", "--steps", "10")
    run(home, "encode")
    run(home, "train", "--preset", "tiny", "--steps", "10")
    drawn = run(
        home, "generate", "a red flower", "-n", "3", "--seed", "5", "--out", tmp_path / "f.png",
        "--json",
    )  # fmt: skip

    parents: dict[str, str] = {}
    for kind in CHAIN:
        folder, about = manifest.newest(home, kind)
        assert about.complete and about.id and about.kind == kind
        assert about.parents.items() <= parents.items(), "each names what it was made from"
        parents[f"{kind}/{about.name}"] = codes_id(folder) if kind == "vae" else about.id
        if kind == "images":
            assert about.counts["accepted"] > 0.97 * count
            rejects = (folder / "rejects.jsonl").read_text().splitlines()
            assert all(json.loads(row).keys() == {"file", "reason", "detail"} for row in rejects)
            assert sum(about.counts["rejected"].values()) == len(rejects)
            accepted = about.counts["accepted"]
        if kind == "tokens":
            tokens = Tokens(folder)
            assert len(tokens) == accepted and tokens.views(0).dtype == np.uint16
        if kind in ("vae", "dalle"):
            with safe_open(folder / "model.safetensors", "np") as weights:
                assert all(np.isfinite(weights.get_tensor(k)).all() for k in weights.keys())
    facts = json.loads(drawn.out)
    assert [Path(p).name for p in facts["pictures"]] == [f"f-{i:02}.png" for i in range(3)]
    for path in facts["pictures"]:
        with Image.open(path) as picture:
            assert picture.size == (32, 32) and picture.mode == "RGB"
            assert picture.text["prompt"] == "a red flower" and picture.text["model"]
    with Image.open(tmp_path / "f.png") as sheet:
        assert sheet.size == (2 * 32 + 2, 2 * 32 + 2)
    rows = json.loads(run(home, "status", "--json").out)["artefacts"]
    assert [row["kind"] for row in rows] == list(CHAIN)
    assert all(row["state"] == "complete" and row["newest"] for row in rows)
