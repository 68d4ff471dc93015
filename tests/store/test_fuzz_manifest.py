"""Whatever is in a manifest.json, it is read or refused with a sentence."""

import json

import pytest
from hypothesis import strategies as st
from mutations import anything, fuzz, is_sentence, mutated

from dallebaby_cli.errors import BadInput, MissingInput
from dallebaby_cli.stages.status import status
from dallebaby_cli.store import manifest
from dallebaby_cli.store.manifest import Manifest

REAL = json.dumps(
    {
        "kind": "dalle",
        "name": "shapes-tiny-0a1b2c",
        "id": "0" * 64,
        "complete": True,
        "config": {"steps": 5, "model": {"dim": 48}},
        "parents": {"tokens/shapes@v": "1" * 64},
        "counts": {"steps": 5, "bits_per_code": 7.25},
        "hashes": {"00000.arrow": "2" * 64},
        "when": "2026-01-01T00:00:00+00:00",
        "version": "0.1.0",
        "format": 1,
    }
).encode()
FIELDS = st.dictionaries(st.sampled_from(sorted(json.loads(REAL))), anything, min_size=1)
OTHER = FIELDS.map(lambda fields: json.dumps({**json.loads(REAL), **fields}).encode())


@fuzz(content=mutated(REAL) | OTHER)
def test_any_manifest(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    home = tmp_path_factory.getbasetemp() / "manifests"
    folder = home / "dalle" / "d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_bytes(content)
    try:
        found = manifest.read(folder)
    except BadInput as error:
        assert "manifest.json" in str(error) and is_sentence(error)
    else:
        assert isinstance(found, Manifest) and found.kind.isprintable()
        manifest.write(home / "written", found)
    try:
        manifest.newest(home, "dalle")
    except MissingInput:
        pass
    assert status(home)
