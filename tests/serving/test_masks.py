"""Masks of single codes and few passes, of a model that knows codes in any order."""

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from web import Client, of, pixels, png, serving

from dallebaby_cli.store.pictures import read_metadata

MASK = ["0110", "0000", "0000", "1000"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("masks") / "home"


@pytest.fixture(scope="module")
def client(home: Path, free_model: Path) -> Iterator[Client]:
    with serving(home, model=free_model) as found:
        yield found


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)


def test_what_the_brush_marks_is_drawn_anew_and_nothing_else(client: Client, home: Path) -> None:
    model = client.get("/api/models").json["models"][0]
    assert (model["mask"], model["steps"], model["grid"]) == ("codes", 10, 4)
    image = "data:image/png;base64," + base64.b64encode(png(noise())).decode()
    told = client.draw({"prompt": "a red car", "image": image, "mask": MASK, "n": 2})
    for picture in of(told, "picture"):
        says = read_metadata(home / "samples" / picture["name"])
        known = np.array(says["known"].split(), int).reshape(4, 4)
        marked = np.array([[digit == "1" for digit in row] for row in MASK])
        assert ((known == -1) == marked).all() and picture["kept"] == 13
        drawn = pixels(client.get(picture["url"]).content)
        whole = marked.repeat(4, 0).repeat(4, 1)
        assert (drawn[whole] != noise()[whole]).any()
        assert (drawn[8:12, 8:] == noise()[8:12, 8:]).all(), "kept pixels are the picture's own"
    assert client.get("/api/pictures").json["pictures"][0]["kept"] == 13


def test_a_picture_forms_in_as_many_passes_as_are_asked_for(client: Client) -> None:
    told = client.draw({"prompt": "a red car", "steps": 3, "seed": 1})
    assert 1 <= len(of(told, "partial")) <= 2 and told[-1][0] == "done"
    settings = of(told, "picture")[0]["settings"]
    assert settings["steps"] == 3 and settings["order"] == "auto"
    again = of(client.draw(settings), "picture")[0]
    assert again["name"] == of(told, "picture")[0]["name"]
    answer = client.post("/api/drawings", {"prompt": "a red car", "steps": 17})
    assert answer.status == 400 and "16 codes" in answer.json["error"]


def test_a_mask_of_openais_redraws_single_codes(client: Client, home: Path) -> None:
    alpha = np.full((16, 16, 1), 255, np.uint8)
    alpha[5:7, 5:7] = 0
    form = b""
    for name, content in (
        ("image", png(noise())),
        ("mask", png(np.concatenate([noise(), alpha], 2), "RGBA")),
        ("prompt", b"a red car"),
        ("seed", b"77"),
    ):
        file = b'; filename="a.png"' if name in ("image", "mask") else b""
        head = f'--x\r\nContent-Disposition: form-data; name="{name}"'.encode()
        form += head + file + b"\r\n\r\n" + content + b"\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.ask("POST", "/v1/images/edits", form + b"--x--\r\n", kind)
    assert answer.status == 200, answer.content
    says = read_metadata(home / "samples" / "a-red-car-77-00.png")
    assert [i for i, code in enumerate(says["known"].split()) if code == "-1"] == [5]
