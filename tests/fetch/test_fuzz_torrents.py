"""Torrents, magnet links and saved states that are damaged: a list of files, or one sentence."""

from pathlib import Path
from typing import Any

import libtorrent
import pytest
from hypothesis import strategies as st
from mutations import fuzz, mutated
from swarm import make_new_torrent, make_torrent

from dallebaby_cli import names
from dallebaby_cli.errors import BadInput, UsageError
from dallebaby_cli.fetch import magnet, resume, torrent_file
from dallebaby_cli.fetch.file_list import edges


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Torrents of all versions, of the same files."""
    folder = tmp_path_factory.mktemp("real")
    content = folder / "data"
    (content / "sub").mkdir(parents=True)
    for name, size in {"A.jpg": 9000, "a.jpg": 20_000, "sub/b.zip": 40_000, "empty": 0}.items():
        (content / name).write_bytes(bytes(size))
    old = make_torrent(content, folder / "1", trackers=["http://a/"], web_seeds=["http://b/"])
    new = [make_new_torrent(content, folder / str(both), hybrid=both) for both in (True, False)]
    return [torrent.path.read_bytes() for torrent in (old, *new)]


@fuzz(data=st.data(), which=st.integers(0, 2))
def test_a_damaged_torrent(
    tmp_path: Path, real: list[bytes], which: int, data: st.DataObject
) -> None:
    look_at(data.draw(mutated(real[which])), tmp_path)


NUMBERS = st.sampled_from([0, 1, -1, 5, 16384, 20_000, 2**31, 2**40, 2**62, 2**63 - 1])
NAMES = st.sampled_from(
    [b"a", b"A", b"..", b"", b"/", b"manifest.json", b"\xff", b"x" * 300, b"\x1b["]
)
FILES = st.fixed_dictionaries(
    {b"length": NUMBERS, b"path": st.lists(NAMES, max_size=3)},
    optional={b"attr": st.sampled_from([b"p", b"l", b"x", b""]), b"symlink path": st.lists(NAMES)},
)
LEAF = st.fixed_dictionaries(
    {b"length": NUMBERS, b"pieces root": st.binary(min_size=32, max_size=32)}
)
FIELDS = {
    b"name": NAMES,
    b"piece length": st.sampled_from([16384, 16384, 16384, 32768, 0, 2**30]),
    b"pieces": st.binary(max_size=100),
    b"files": st.lists(FILES, max_size=5),
    b"length": NUMBERS,
    b"file tree": st.dictionaries(NAMES, st.dictionaries(st.just(b""), LEAF)),
    b"private": NUMBERS,
}


@fuzz(changes=st.fixed_dictionaries({}, optional=FIELDS), which=st.integers(0, 2))
def test_a_torrent_that_says_other_things(
    tmp_path: Path, real: list[bytes], which: int, changes: dict[bytes, Any]
) -> None:
    whole = libtorrent.bdecode(real[which])
    whole[b"info"] |= changes
    if b"files" in changes:  # as many hashes as it needs
        total = sum(f[b"length"] for f in changes[b"files"] if f[b"length"] < 2**20)
        whole[b"info"][b"pieces"] = bytes(20 * -(-max(total, 0) // 16384))
    look_at(libtorrent.bencode(whole), tmp_path)


def look_at(content: bytes, folder: Path) -> None:
    """Read a torrent: its files can be written into one folder, or it is refused."""
    try:
        found = torrent_file.contents(content, "it", folder)
    except BadInput:
        return
    paths = [e.path for e in found.entries]
    assert len(set(paths)) == len(paths) and not any(map(names.unsafe, paths))
    assert not any(map(names.reserved, paths))
    wanted = found.chosen(("*.jpg", f"{magnet.ONLY}0-1"))
    whole = found.whole_pieces(wanted)
    assert len(whole) == -(-found.total_bytes // found.piece_bytes)
    edges(found, wanted, folder)


LINK = f"magnet:?xt=urn:btih:{'ab' * 20}&dn=a%20b&tr=http://a/&x.pe=127.0.0.1:9&so=0-2"


@fuzz(content=mutated(LINK.encode(), f"MAGNET:?xt=urn:btmh:1220{'c' * 64}".encode()))
def test_a_damaged_magnet_link(content: bytes) -> None:
    try:
        found = magnet.parse(content.decode("utf-8", "surrogateescape"))
    except UsageError:
        return
    hashes = torrent_file.parse_magnet(found.link).info_hashes
    assert found.info_hash in (str(hashes.v1), str(hashes.v2))


@fuzz(data=st.data(), sealed=st.booleans())
def test_a_damaged_saved_state(
    tmp_path: Path, real: list[bytes], sealed: bool, data: st.DataObject
) -> None:
    state = libtorrent.bencode(
        libtorrent.write_resume_data(libtorrent.load_torrent_buffer(real[1]))
    )
    if sealed:  # with the right checksum, as another program might
        resume.save(tmp_path, data.draw(mutated(state)))
    else:
        resume.save(tmp_path, state)
        saved = (tmp_path / resume.NAME).read_bytes()
        (tmp_path / resume.NAME).write_bytes(data.draw(mutated(saved)))
    found, damaged = resume.load(tmp_path)
    assert damaged is (found is None) and (sealed or found in (None, state))
    if found is not None:
        torrent_file.read_state(found)
