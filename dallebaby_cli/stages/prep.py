"""raw/NAME, any folder, or drawn scenes → images/NAME: checked, captioned, sharded pictures.

Records are cut into pieces that workers make in any order (prep/pieces.py); when all are there,
one pass copies them into shards (prep/merge.py), which then replace what was there before.
"""

import dataclasses
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from dallebaby_cli import __version__, files
from dallebaby_cli.config import CaptionsFrom, PrepConfig
from dallebaby_cli.config.settings import as_dict, nearest
from dallebaby_cli.errors import BadInput, Mismatch, UsageError
from dallebaby_cli.fetch import catalog
from dallebaby_cli.prep import kinds, merge, pieces, readers
from dallebaby_cli.prep.readers import Records, scenes
from dallebaby_cli.progress import Note, Progress, Report
from dallebaby_cli.store import extra_captions, manifest
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.shards import INDEX, Shards, content_id
from dallebaby_cli.text import one_line

SCENES = "scenes"
PIXELS = ("image_px", "fit", "encoding", "quality", "near_duplicates", "seed")
"""The settings that pieces depend on; the others matter only when pieces become shards."""
READERS = "3"
"""changes with what readers give for the same files, so that pieces of others are not taken"""


@dataclass(frozen=True)
class Prepared:
    """A complete image dataset."""

    folder: Path
    manifest: Manifest
    fresh: bool
    """False if there was nothing left to do"""


@dataclass(frozen=True)
class Source:
    """Where pictures come from."""

    name: str
    """of the dataset that is made from it, unless another is asked for"""
    layout: str
    folder: Path | None = None
    """None where pictures are drawn"""
    parents: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    """changes with the files of a folder that has no manifest"""

    def read(self, config: PrepConfig) -> Records:
        """The records, in order."""
        if self.folder is None:
            return scenes.read(config.seed, config.image_px)
        return readers.read(self.layout, self.folder, config.captions_from)


def prep(
    home: Path,
    source: str | None,
    config: PrepConfig,
    *,
    name: str | None = None,
    report: Report,
) -> Prepared:
    """Make images/NAME from a dataset's name or a folder (the newest raw dataset if None)."""
    found = find_source(home, source, config.captions_from)
    if found.layout == SCENES and config.limit is None:
        config = dataclasses.replace(config, limit=scenes.COUNT)
    name = name or found.name
    folder = manifest.artefact(home, "images", name)
    wanted = as_dict(config)
    del wanted["workers"], wanted["where"]  # the result does not depend on them
    origin = {
        "layout": found.layout,
        "folder": found.folder.as_posix() if found.folder else "",
        "id": found.fingerprint,
    }
    draft = Manifest(
        kind="images", name=name, config=wanted | {"source": origin}, parents=found.parents
    )
    holds_data = True
    try:
        with files.lock(folder, f"images/{name}"):
            _refuse_another_source(folder, draft)
            holds_data = any(folder.glob("*.tar")) or extra_captions.file(folder).exists()
            before = _usable(folder)
            if before and _same(before, draft):
                return Prepared(folder, before, fresh=False)
            try:
                return _make(folder, found, config, draft, report)
            except BadInput:
                _remove_work(folder)
                raise
    except BadInput:  # nothing will come of it, so nothing stays, once no lock is open
        if not holds_data:
            shutil.rmtree(folder)
        raise


def _refuse_another_source(folder: Path, draft: Manifest) -> None:
    """Raise Mismatch where the folder holds what was made from another dataset or folder."""
    before = manifest.read(folder)
    then = before.config.get("source") if before else None
    if before is None or not isinstance(then, dict):
        return
    same = draft.parents or draft.config["source"]["folder"] == then.get("folder")
    if not same or {*draft.parents} != {*before.parents}:
        what = one_line(str(then.get("folder") or "drawn scenes"))
        raise Mismatch(
            f"{folder} holds something else of that name, made from {what}; give this one another "
            "with --name, or remove the folder"
        )


def find_source(home: Path, source: str | None, captions_from: CaptionsFrom = "auto") -> Source:
    """What a person means: a dataset's name wins over a folder's; `./NAME` is the folder."""
    if source is None:
        return _raw(home, None)
    if source == SCENES:
        return Source(SCENES, SCENES)
    if not {"/", os.sep} & {*source} and source not in (".", ".."):
        fetched = [m.name for _, m in manifest.every(home, "raw")]
        known = {*catalog.load(home), *fetched}
        if source in known:
            return _raw(home, source)
        if not Path(source).exists():
            raise UsageError(
                f"no dataset and no folder is called {source!r}{nearest(source, known)}"
            )
    folder = Path(source).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "is not there"
        raise UsageError(f"{folder} {what}; name a folder of pictures, or a dataset")
    layout, fingerprint = readers.detect(folder, captions_from), readers.fingerprint(folder)
    name = manifest.as_name(folder.resolve().name, "folder")
    return Source(name, layout, folder.resolve(), {}, fingerprint)


def _raw(home: Path, name: str | None) -> Source:
    folder, found = manifest.find(home, "raw", name)
    known = catalog.find(home, found.name)
    layout = known.layout if known else "folder"
    if layout == "folder":
        layout = readers.detect(folder)
    if layout == "folder":
        folder = _content(folder)
    return Source(found.name, layout, folder, {f"raw/{found.name}": found.id})


def _content(folder: Path) -> Path:
    """Below a torrent's own top folder, where there is nothing beside it."""
    while True:
        inside = [p for p in folder.iterdir() if p.name[0] != "." and p.name != "manifest.json"]
        if len(inside) != 1 or not inside[0].is_dir():
            return folder
        folder = inside[0]


def _same(before: Manifest, draft: Manifest) -> bool:
    """Whether a dataset would be made again: from the same, with the same settings (those of older
    versions with today's defaults), and without what could not be decoded then."""
    if kinds.readable_by_now(before.counts.get("rejected", ())):
        return False
    defaults = as_dict(PrepConfig())
    return (defaults | before.config, before.parents) == (defaults | draft.config, draft.parents)


def _usable(folder: Path) -> Manifest | None:
    """The manifest of a complete dataset whose shards are all there."""
    found = manifest.read(folder)
    if found is None or not found.complete:
        return None
    try:
        Shards(folder)
    except BadInput:
        return None
    return found


def _make(
    folder: Path, source: Source, config: PrepConfig, draft: Manifest, report: Report
) -> Prepared:
    where = one_line(str(source.folder or "drawn scenes"))
    report(Note(f"prep: {where} as {source.layout}, to {folder}"))
    rows = source.read(config)
    if rows.decided:
        report(Note(f"prep: {one_line(rows.decided)} (--set captions_from=… decides otherwise)"))
    made_by = [__version__, str(draft.config["source"]), str(draft.parents), draft.name]
    made_by += [str(getattr(config, name)) for name in PIXELS] + kinds.installed()
    made_by += [READERS, config.captions_from] if source.folder else []
    work = folder / f".work-{files.hash_of(made_by)[:16]}"
    _remove_work(folder, but=work)
    if manifest.read(folder) is None:
        manifest.write(folder, draft)  # so that `status` shows it
    paths = pieces.make_all(rows, source.folder, work, config, report)
    decided = merge.plan(paths, config)
    if not decided.taken.any():
        raise BadInput(_nothing(source, paths))
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)

    def tell(done: int) -> None:
        if done % pieces.RECORDS == 0 or done == decided.end:
            report(Progress("shards", done, decided.end, "images"))

    merged = merge.write(paths, decided, out, draft.name, config, tell)
    whole = dataclasses.replace(
        draft,
        id=content_id(merged.shards),
        complete=True,
        counts=merged.counts,
        hashes=files.hashes([out / INDEX]),
    )
    manifest.write(folder, draft)  # from here on, what was there before is gone
    for stale in (*folder.glob("*.tar"), folder / "index.arrow", folder / "near-duplicates.png"):
        stale.unlink(missing_ok=True)
    for new in out.iterdir():
        files.replace(new, folder / new.name)
    files.sync_folder(folder)
    manifest.write(folder, whole)
    _remove_work(folder)
    try:
        merged.shown.draw(folder)
    except Exception as error:  # they are to look at: the dataset is whole without them
        report(Note(f"the sheets of pictures cannot be made ({one_line(str(error))})", "warning"))
    if told := _enlarged(merged, config.image_px):
        report(Note(told, "warning"))
    if not merged.counts["captions"]:
        report(Note("no captions were found; train-vae needs none, but train does", "warning"))
    return Prepared(folder, whole, fresh=True)


def _enlarged(merged: merge.Merged, px: int) -> str:
    """What to do where most pictures are smaller than they became."""
    enough = max(merged.side // 8, 1) * 8
    if 2 * merged.counts["enlarged"] <= merged.counts["accepted"] or enough >= px:
        return ""
    return (
        f"{merged.counts['enlarged']:,} of {merged.counts['accepted']:,} pictures are smaller than "
        f"{px} px and were enlarged; with --px {enough} most would not be, and models train faster"
    )


def _remove_work(folder: Path, but: Path | None = None) -> None:
    for work in folder.glob(".work-*"):
        if work != but:
            shutil.rmtree(work)


def _nothing(source: Source, paths: list[Path]) -> str:
    rows = [row for path in paths for row in pieces.read(path).drop(["picture"]).to_pylist()]
    if not rows:
        return f"{source.folder} holds no pictures"
    first = f"{rows[0]['file']}: {rows[0]['reason']}, {rows[0]['detail']}"
    reasons = sorted({row["reason"] for row in rows})
    return (
        f"none of the {len(rows):,} pictures in {source.folder} can be used "
        f"({', '.join(reasons)}; the first is {first})"
    )
