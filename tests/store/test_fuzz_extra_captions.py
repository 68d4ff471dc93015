"""Whatever is in a captions.jsonl, even if its manifest swears to it, it is read or refused."""

import json

import pytest
from hypothesis import strategies as st
from mutations import anything, fuzz, is_sentence, mutated

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput
from dallebaby_cli.store import extra_captions, manifest
from dallebaby_cli.store.manifest import Manifest

ROW = {"key": "00ff", "caption": "a red car, é 猫", "source": "model:a"}
REAL = b"".join(json.dumps(ROW, ensure_ascii=a).encode() + b"\n" for a in (True, False))
FIELDS = st.dictionaries(st.sampled_from([*ROW]), anything).map(lambda fields: {**ROW, **fields})
OTHER = (FIELDS | anything).map(lambda row: REAL + json.dumps(row).encode() + b"\n")


@fuzz(content=mutated(REAL) | OTHER)
def test_any_captions(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    images = tmp_path_factory.getbasetemp() / "captioned"
    path = extra_captions.file(images)
    files.write_bytes(path, content)
    identity = files.sha256_file(path)
    made_by = {"models": {}}
    about = Manifest(kind="captions", name="i", id=identity, complete=True, config=made_by)
    manifest.write(extra_captions.about(images), about)
    try:
        read = extra_captions.read(images)
    except BadInput as error:
        assert "captions.jsonl" in str(error) and is_sentence(error)
    else:
        assert all(type(text) is str for texts in read.by_key.values() for text in texts)
    assert extra_captions.is_whole(path) is False
