"""What is noted of a half-fetched file, damaged: the file comes whole and right all the same."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st
from mutations import fuzz, mutated
from swarm import Site, site

from dallebaby_cli.config import FetchConfig
from dallebaby_cli.fetch import http
from dallebaby_cli.fetch.catalog import Dataset, File
from dallebaby_cli.fetch.transfer import Job
from dallebaby_cli.progress import ignore

CONTENT = os.urandom(5000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    www = tmp_path_factory.mktemp("www")
    (www / "data.zip").write_bytes(CONTENT)
    with site(www) as served:
        yield served


@fuzz(examples=40, data=st.data(), known=st.booleans())
def test_a_damaged_note_of_what_came(
    tmp_path: Path, server: Site, known: bool, data: st.DataObject
) -> None:
    url = f"{server.url}/data.zip"
    tag = f'"{(server.folder / "data.zip").stat().st_mtime_ns}-{len(CONTENT)}"'
    note = json.dumps({"url": url, "validator": tag, "bytes": 2000}).encode()
    (tmp_path / ".data.zip.part.json").write_bytes(data.draw(mutated(note)))
    came = data.draw(mutated(CONTENT[:3000])) if known else CONTENT[:3000]
    (tmp_path / ".data.zip.part").write_bytes(came)  # without a checksum nobody can tell
    digest = hashlib.sha256(CONTENT).hexdigest() if known else None
    file = File(path="data.zip", urls=(url,), sha256=digest)
    job = Job(
        dataset=Dataset(name="mine", files=(file,)),
        folder=tmp_path,
        wanted=("*",),
        config=FetchConfig(),
        timeout_s=5,
        report=ignore,
    )
    brought = http.download(job, [file])
    assert (tmp_path / "data.zip").read_bytes() == CONTENT
    assert brought.files["data.zip"].sha256 == hashlib.sha256(CONTENT).hexdigest()
    (tmp_path / "data.zip").unlink()
    assert list(tmp_path.iterdir()) == []
