"""The embedded catalogue and a person's own."""

import re
from pathlib import Path

import libtorrent
import pytest

from dallebaby_cli.errors import BadInput
from dallebaby_cli.fetch import catalog
from dallebaby_cli.fetch.catalog import Dataset, named

KNOWN = catalog.load(Path("nowhere"))
FETCHED = [d for d in KNOWN.values() if d.transport != "none"]


def test_the_datasets_of_the_plan_are_there_by_name() -> None:
    assert set(KNOWN) == {
        *("scenes", "openimages", "stl10", "visual-genome", "coco", "yelp", "indoor67"),
        *("flickr30k", "cifar10", "cifar100", "food101", "svhn", "imagenet64"),
    }


@pytest.mark.parametrize("dataset", FETCHED, ids=lambda d: d.name)
def test_every_entry_says_what_a_person_must_know(dataset: Dataset) -> None:
    assert dataset.title and dataset.images and dataset.captions and dataset.licence
    assert dataset.traps and dataset.citation and dataset.homepage and dataset.layout
    assert dataset.download_bytes and dataset.download_bytes > 100_000_000
    assert any(f.wanted for f in dataset.files)
    for file in dataset.files:
        assert not file.sha256 or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert not file.md5 or re.fullmatch("[0-9a-f]{32}", file.md5)
        assert all(url.startswith(("http://", "https://")) for url in file.urls)
        reachable = dataset.kaggle or file.urls or (dataset.info_hash and file.in_torrent)
        assert reachable, f"nothing brings {file.path}"
    if dataset.info_hash:
        assert re.fullmatch("[0-9a-f]{40}", dataset.info_hash)
        assert dataset.trackers and dataset.torrent_url
        assert dataset.info_hash in dataset.torrent_url
        assert f"xt=urn:btih:{dataset.info_hash}&" in dataset.magnet


def test_pickles_are_never_on_offer() -> None:
    for dataset in FETCHED:
        assert not [f.path for f in dataset.files if "python" in f.path or f.path.endswith(".pkl")]


def test_coco_takes_less_than_half_of_its_torrent() -> None:
    wanted = sum(f.size_bytes or 0 for f in KNOWN["coco"].files if f.wanted)
    whole = sum(f.size_bytes or 0 for f in KNOWN["coco"].files)
    assert (wanted, whole) == (20_405_354_669, 52_440_275_940)


def test_own_entries_are_added_and_own_fields_win(tmp_path: Path) -> None:
    (tmp_path / "catalog.yaml").write_text(
        "datasets:\n"
        "  coco: {info_hash: '" + "a" * 40 + "', trackers: [], torrent_url: null}\n"
        "  mine: {title: My pictures, files: [{path: a.zip, urls: ['http://127.0.0.1/a.zip']}]}\n"
    )
    known = catalog.load(tmp_path)
    assert known["coco"].info_hash == "a" * 40
    assert known["coco"].trackers == () and known["coco"].torrent_url is None
    assert known["coco"].files == KNOWN["coco"].files
    assert known["mine"].transport == "http" and known["mine"].layout == "folder"


def test_names_and_sums_are_text_though_yaml_has_other_ideas(tmp_path: Path) -> None:
    md5 = "0" * 15 + "1e" + "2" * 15
    (tmp_path / "catalog.yaml").write_text(
        "datasets:\n"
        f"  on: {{title: 1999, images: 1_000, files: [{{path: 2001-01-01, md5: {md5}}}]}}\n"
    )
    made = catalog.load(tmp_path)["on"]
    assert (made.title, made.images) == ("1999", 1000)
    assert (made.files[0].path, made.files[0].md5) == ("2001-01-01", md5)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("- a list", "datasets:"),
        ("datasets: [1]", "datasets:"),
        ("datasets: {x: {titel: a}}", "titel"),
        ("datasets: {x: {files: [{path: a, size_bytes: big}]}}", "size_bytes"),
        ("datasets: {x: {files: [{size_bytes: 1}]}}", "path"),
        ("datasets: {x: !!python/object/apply:os.system [true]}", "catalog.yaml"),
        ("datasets: {", "catalog.yaml"),
        ("datasets: {../x: {title: a}}", "'../x' cannot be a name"),
        ("datasets: {'[/b]': {title: a}}", "'[/b]' cannot be a name"),
    ],
)
def test_a_wrong_catalogue_is_named_with_its_fault(
    tmp_path: Path, content: str, named: str
) -> None:
    (tmp_path / "catalog.yaml").write_text(content)
    with pytest.raises(BadInput, match=re.escape(named)) as raised:
        catalog.load(tmp_path)
    assert str(tmp_path / "catalog.yaml") in str(raised.value)


@pytest.mark.parametrize(
    ("path", "pattern", "fits"),
    [
        ("train2017.zip", "train2017.zip", True),
        ("deep/train2017.zip", "train2017.zip", True),
        ("sub-train2017.zip", "train2017.zip", False),
        ("256px/train-256.tar.gz", "256px/*.tar.gz", True),
        ("512px/a/b.jpg", "512px/", True),
        ("x512px/a.jpg", "512px/", False),
        ("a/b/c.png", "*.png", True),
        ("a/b/c.png", "*.PNG", False),
        ("train.csv", "*", True),
    ],
)
def test_files_are_named_by_glob_or_by_the_end_of_the_path(
    path: str, pattern: str, fits: bool
) -> None:
    assert bool(named((path,), (pattern,))) is fits


def test_addresses_in_a_magnet_link_hold_no_blanks() -> None:
    seeds = ("http://a/b c/\u00e9%20/", "http://a/?x=1&y=2")
    dataset = Dataset(name="x", info_hash="a" * 40, web_seeds=seeds, trackers=("http://t/a b",))
    link = libtorrent.parse_magnet_uri(dataset.magnet)
    assert link.url_seeds == ["http://a/b%20c/%C3%A9%20/", "http://a/?x=1&y=2"]
    assert link.trackers == ["http://t/a%20b"]


def test_names_are_names_before_they_are_patterns() -> None:
    paths = ["data [v2].zip", "data v.zip", "a/data [v2].zip", "b[1]/c", "b1/c", "d?", "de"]
    assert named(paths, ("data [v2].zip",)) == {paths[0], paths[2]}
    assert named(paths, ("data [vw].zip",)) == {"data v.zip"}
    assert named(paths, ("b[1]/",)) == {"b[1]/c"} and named(paths, ("b[12]/",)) == {"b1/c"}
    assert named(paths, ("d?",)) == {"d?"} and named(paths, ("?e", "[")) == {"de"}
