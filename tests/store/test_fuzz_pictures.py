"""What pictures say of themselves, as it comes broken."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from mutations import fuzz, mutated
from PIL import Image

from dallebaby_cli.store.pictures import read_metadata, write_gif, write_png

ABOUT = {"prompt": "a tree\n木", "seed": "7"}


def files(folder: Path) -> tuple[bytes, bytes]:
    """A PNG and a GIF that say so."""
    picture = np.zeros((4, 4, 3), np.uint8)
    write_png(folder / "a.png", picture, ABOUT)
    write_gif(folder / "a.gif", [Image.fromarray(picture)] * 2, ABOUT)
    assert read_metadata(folder / "a.png") == read_metadata(folder / "a.gif") == ABOUT
    return (folder / "a.png").read_bytes(), (folder / "a.gif").read_bytes()


with TemporaryDirectory() as folder:
    FILES = files(Path(folder))


@fuzz(content=mutated(*FILES))
def test_a_pictures_metadata(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    found = read_metadata(path)
    assert all(isinstance(word, str) for pair in found.items() for word in pair)


def test_a_grid_of_many_pictures_says_so_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)  # more than twice as many are refused
    files(tmp_path)
