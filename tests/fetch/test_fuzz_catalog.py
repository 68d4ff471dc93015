"""Catalogues that are damaged or hold other shapes: a catalogue, or one sentence."""

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from mutations import anything, fuzz, mutated

from dallebaby_cli import names
from dallebaby_cli.errors import BadInput
from dallebaby_cli.fetch import catalog

FILE = {"path": "a.zip", "also": ["b/c.zip"], "urls": ["http://a/b"], "size_bytes": 3, "md5": "0"}
OWN = {"title": "Mine", "images": 7, "files": [FILE, {"path": "d/", "in_torrent": True}]}
WRITTEN = [
    catalog.EMBEDDED.read_bytes()[:4000],
    json.dumps({"datasets": {"mine": OWN, "swarm": {**OWN, "info_hash": "a" * 40}}}).encode(),
    b"datasets:\n  mine: {kaggle: me/data, files: [{path: a.zip}]}\n  coco: {images: 3}\n",
]


def loaded(home: Path, content: bytes) -> None:
    """Load it as the catalogue of a workspace: what comes out can be fetched into one folder."""
    (home / "catalog.yaml").write_bytes(content)
    try:
        known = catalog.load(home)
    except BadInput as error:
        assert str(home / "catalog.yaml") in str(error)
        return
    for dataset in known.values():
        for file in dataset.files:
            written = file.urls or dataset.kaggle or not dataset.info_hash
            assert not (written and names.unsafe(file.path))
        assert dataset.download_bytes is None or dataset.download_bytes >= 0
        assert not dataset.info_hash or dataset.magnet


@fuzz(content=mutated(*WRITTEN))
def test_a_damaged_catalogue(tmp_path: Path, content: bytes) -> None:
    loaded(tmp_path, content)


FIELDS = st.sampled_from(
    ["files", "also", "urls", "path", "images", "kaggle", "info_hash", "title"]
)


@fuzz(
    fields=st.dictionaries(FIELDS, anything, max_size=4),
    file=st.dictionaries(FIELDS, anything, max_size=4),
)
def test_other_shapes_in_a_catalogue(tmp_path: Path, fields: Any, file: Any) -> None:
    entry = {**OWN, **fields, "files": fields.get("files", [{**FILE, **file}])}
    loaded(tmp_path, json.dumps({"datasets": {"mine": entry}}).encode())
