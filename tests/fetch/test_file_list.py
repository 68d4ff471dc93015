"""What a torrent holds, names from outside, saved state, and the reasons of a stall."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dallebaby_cli import names
from dallebaby_cli.errors import BadInput, UsageError
from dallebaby_cli.fetch import diagnosis, resume
from dallebaby_cli.fetch.catalog import Dataset, File
from dallebaby_cli.fetch.file_list import Contents, Entry, absent, edges
from dallebaby_cli.fetch.transfer import Pulse


def torrent(sizes: list[int], piece: int = 10) -> Contents:
    entries, offset = [], 0
    for index, size in enumerate(sizes):
        entries.append(Entry(index, f"f{index}", size, offset))
        offset += size
    return Contents("a" * 40, "t", tuple(entries), piece, offset, len(sizes))


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "a/../../b",
        "..",
        "a//b",
        "./a",
        "C:/x",
        "a\\b",
        "a\nb",
        "x" * 256,
        "a/./b",
    ],
)
def test_unsafe_paths_have_a_reason(path: str) -> None:
    assert names.unsafe(path)


@settings(deadline=None)  # of a busy machine
@given(st.text(min_size=1, max_size=60))
def test_a_path_that_passes_stays_in_its_folder(path: str) -> None:
    if not names.unsafe(path):
        folder = Path("/home/raw/x")
        assert folder in Path(f"/home/raw/x/{path}").parents
        assert ".." not in Path(path).parts and "\0" not in path


@pytest.mark.parametrize("own", ["manifest.json", "MANIFEST.json", ".lock", ".resume", ".a.parts"])
def test_our_own_files_are_reserved(own: str) -> None:
    assert names.reserved(own) and not names.reserved(f"sub/{own}")


def test_contents_refuses_what_would_leave_or_collide() -> None:
    for paths, says in {
        ("a", "../b"): "'../b' leaves",
        ("a", "a"): "holds 'a' twice",
        ("a", "a/b"): "'a/b' lies below a file",
        ("a/b", "a"): "'a/b' lies below a file",
    }.items():
        entries = tuple(Entry(i, p, 1, i) for i, p in enumerate(paths))
        with pytest.raises(BadInput, match=re.escape(says)):
            Contents("a" * 40, "t", entries, 16, 2, 2)


# ---------------------------------------------------------------- choosing


def test_a_pattern_that_names_nothing_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'f1'"):
        absent(torrent([1, 1]), Dataset(name="x"), ("f1x",))


def test_expected_files_that_are_not_there_are_named() -> None:
    dataset = Dataset(name="x", files=(File(path="f0"), File(path="gone"), File(path="z")))
    assert absent(torrent([1]), dataset, ()) == ["gone", "z"]
    with pytest.raises(BadInput, match="none of the expected files"):
        absent(torrent([1]), Dataset(name="x", files=(File(path="gone"),)), ())


@settings(deadline=None)  # of a busy machine
@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=8),
    st.integers(1, 20),
    st.data(),
)
def test_edges_are_the_pieces_that_wanted_files_do_not_fill(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], piece: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("edges")
    found = torrent(sizes, piece)
    wanted = [e for e in found.entries if data.draw(st.booleans())]
    for entry in wanted:
        (folder / entry.path).write_bytes(bytes(entry.size_bytes))
    owner = [e.index for e in found.entries for _ in range(e.size_bytes)]
    chosen = {e.index for e in wanted}
    expected = set()
    for number in range(0, len(owner), piece):
        held = {i in chosen for i in owner[number : number + piece]}
        expected |= {number // piece} if held == {True, False} else set()
    assert set(edges(found, wanted, folder)) == expected


@settings(deadline=None)  # of a busy machine
@given(st.lists(st.integers(0, 35), min_size=1, max_size=8), st.sets(st.integers(0, 7)))
def test_whole_pieces_are_those_whose_every_byte_is_in_the_files(
    sizes: list[int], chosen: set[int]
) -> None:
    found = torrent(sizes)
    wanted = [e for e in found.entries if e.index in chosen]
    held = b"".join(bytes([e in wanted]) * e.size_bytes for e in found.entries)
    pieces = [held[i : i + 10] for i in range(0, len(held), 10)]
    assert found.whole_pieces(wanted) == [0 not in piece for piece in pieces]


def test_an_edge_changes_with_the_bytes_of_the_file(tmp_path: Path) -> None:
    found = torrent([15, 15])
    (tmp_path / "f0").write_bytes(b"x" * 15)
    before = edges(found, list(found.entries[:1]), tmp_path)
    (tmp_path / "f0").write_bytes(b"x" * 14 + b"y")
    assert before.keys() == {1} and edges(found, list(found.entries[:1]), tmp_path) != before


# ---------------------------------------------------------------- saved state


@settings(deadline=None)  # of a busy machine
@given(st.binary(max_size=200), st.integers(0, 300), st.integers(1, 255))
def test_saved_state_is_whole_or_not_believed(
    tmp_path_factory: pytest.TempPathFactory, state: bytes, at: int, change: int
) -> None:
    folder = tmp_path_factory.mktemp("resume")
    assert resume.load(folder) == (None, False)
    resume.save(folder, state)
    assert resume.load(folder) == (state, False)
    stored = bytearray((folder / resume.NAME).read_bytes())
    stored[at % len(stored)] ^= change
    (folder / resume.NAME).write_bytes(stored)
    assert resume.load(folder) == (None, True)
    (folder / resume.NAME).write_bytes(stored[: at % len(stored)])
    assert resume.load(folder) == (None, True)


# ---------------------------------------------------------------- stalls

SWARM = {"has_metadata": True, "peers": 3, "interested": 2, "unchoked": 1, "available": 1.0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peers": 0, "has_metadata": False}, "the list of files comes from a peer"),
        ({"peers": 0}, "no peer is connected"),
        ({"has_metadata": False}, "none has given the list of files"),
        ({"available": 0.9921}, "only 99.2 % of the wanted files"),
        ({"available": 0.99999}, "only 99.9 %"),
        ({"unchoked": 0}, "busy with others"),
        ({}, "none sends"),
    ],
)
def test_a_stall_has_its_reason(change: dict[str, object], says: str) -> None:
    snapshot = diagnosis.Snapshot(**{**SWARM, **change}, dht=True, asked_peers=1)  # type: ignore[arg-type]
    assert says in diagnosis.explain(diagnosis.Trouble(), snapshot)


def test_a_stall_tells_whom_we_asked() -> None:
    trouble = diagnosis.Trouble()
    trouble.tracker("https://tracker.example/announce?passkey=secret", "timed out")
    trouble.tracker("udp://other.example:80", "")
    trouble.web_seed("http://seed.example/x", "404")
    snapshot = diagnosis.Snapshot(**{**SWARM, "peers": 0}, dht=True, asked_peers=2)  # type: ignore[arg-type]
    said = diagnosis.explain(trouble, snapshot)
    assert "tracker.example (timed out)" in said and "secret" not in said
    assert "other.example (answered" in said and "seed.example (404)" in said
    assert "hash table" in said and "2 peer(s) given with --peer" in said


def clock(moments: list[float]) -> Callable[[], float]:
    return lambda: moments[0]


def test_the_pulse_tells_work_from_waiting() -> None:
    now = [0.0]
    pulse = Pulse(clock(now))
    for second in range(10):
        now[0] = second
        pulse.beat(second * 100)
    assert pulse.rate == 100 and pulse.idle_s == 0 and pulse.eta_s(500) == 5
    now[0] = 60
    pulse.beat(900)
    assert pulse.idle_s == 51 and pulse.rate < 20
    now[0] = 70
    pulse.beat(900)
    assert pulse.rate == 0 and pulse.eta_s(500) is None
    pulse.restart()
    assert pulse.idle_s == 0
