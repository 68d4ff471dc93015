"""report.html: all that is known of a run on one page, which needs no network and no program but a
browser. `train` writes it at its end, `evaluate` writes it again with what it has found."""

import io
import json
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from dallebaby_cli import files
from dallebaby_cli.config.settings import flat
from dallebaby_cli.errors import BadInput
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.quality.curves import chart
from dallebaby_cli.quality.page import Html, page, picture, section, table, tag
from dallebaby_cli.store import manifest
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.training import engine, log_reader, pictures_of_run
from dallebaby_cli.training.log_reader import Story
from dallebaby_cli.training.run import Finished

if TYPE_CHECKING:  # it loads torchvision, which training does without
    from dallebaby_cli.quality.figures import Evaluated

NAME = "report.html"
ELSEWHERE = "samples/evaluate.html"
PROMPTS = "prompts.json"  # the captions that samples.png shows, beside it
FRAMES = 8
LARGEST, MOST_PIXELS = 16 << 20, 1 << 25  # bytes and pixels of a picture
SHOWN = {  # of a run's folder, with what it shows
    "samples.png": "drawn by the finished model, each from a caption of its own",
    "reconstructions.png": "pictures, held out if any are, and below each what comes back of it",
    "codebook.png": "what each code paints where all its neighbours are the same",
}
FIRST_CURVES = ("loss", "bits_per_code", "psnr")
EFFORT = (
    *("steps", "minutes", "compiled", "threads", "step_s", "planned", "mfu", "epochs"),
    *("kept", "pictures_wanted"),
)
"""Counts that are not about how good a run is."""
LONG = 20  # rows of a table
SHARES_OF_CLASS = ("drawn", "rebuilt", "real")
FOUND = (
    "How often the model itself finds the caption of a picture among others: it comes first, or at "
    "this place in the mean (rank 1 is the best)."
)
FAR = (
    "From the hold-out pictures; about 0 where sets are alike. Real: one half of the hold-out "
    "pictures from the other, which is chance alone. Compare figures of one network and n."
)


def write(folder: Path, out: Path, report: Report, done: "Evaluated | None" = None) -> Path | None:
    """Write the page of the run in `folder`, with what an evaluation found. Where that cannot be, a
    note says why: no page is a reason to lose a run."""
    try:
        files.write_text(out, of_run(folder, done))
    except Exception as error:  # whatever the libraries make of damaged files and full disks
        report(Note(f"{out} cannot be written ({error})", "warning"))
        return None
    return out


def at_end(done: Finished, report: Report) -> None:
    """Write the page of a run that has come to its end, in the first rank; where nothing was left
    to do, that of an evaluation stays."""
    out = done.folder / NAME
    if engine.first() and (done.fresh or not out.exists()):
        write(done.folder, out, report)


def keep_prompts(folder: Path, prompts: list[str]) -> None:
    """Write down what a run's samples show, before there are any."""
    files.write_text(folder / PROMPTS, json.dumps({"prompts": prompts}, indent=2) + "\n")


def of_evaluation(home: Path, done: "Evaluated", report: Report) -> Path | None:
    """Write the page of a model with what an evaluation found: in its run's folder, or, of a model
    from elsewhere, among the samples."""
    ours = done.model.resolve().is_relative_to(home.resolve())
    out = done.model / NAME if ours else home / ELSEWHERE
    return write(done.model, out, report, done)


def of_run(folder: Path, done: "Evaluated | None" = None) -> str:
    """The page. Whatever is not there, or is damaged, is left out. Raises BadInput where the
    manifest makes no sense."""
    about = manifest.read(folder) or Manifest(kind=folder.parent.name, name=folder.name)
    story, inner = log_reader.read(folder / "log.jsonl"), folder / "finish"
    finish = log_reader.read(inner / "log.jsonl")
    return page(
        f"{about.kind}/{about.name}",
        *_head(about, story),
        section("Pictures", *_pictures(folder)),
        *_quality(about, done),
        section("While it learned", *_filmstrip(folder)),
        section("Curves", *_curves(story)),
        section("The finish", *_filmstrip(inner), *_curves(finish)),
        section("What it cost", _cost(about, story, finish)),
        section("Made from", table([(n, i[:12]) for n, i in about.parents.items()])),
        section("Settings", _settings(about)),
    )


def _head(about: Manifest, story: Story) -> Iterator[Html]:
    state = f"finished {about.when[:16].replace('T', ' ')} UTC" if about.complete else "unfinished"
    yield tag("p", f"A run of dallebaby {about.version}, {state}.", class_="dim")
    start = story.starts[-1] if story.starts else {}
    if start.get("holdout") == 0:
        text = "Nothing is held out, so all figures are of training pictures: they say how well it "
        yield tag("p", text + "knows those, and nothing of others.", class_="warning")
    last = story.warning[1] if story.warning and story.warning[0] == story.scored else ""
    turned = story.turned
    if "kept" in about.counts:
        later = "; from there on the run memorised its training pictures"
        memorised = story.turned or "pictures_wanted" in about.counts
        turned = (
            f"The weights of step {about.counts['kept']} are kept, which did best on hold-out "
            f"pictures{later * bool(memorised)}."
        )
        if wanted := about.counts.get("pictures_wanted"):
            turned += f" About {wanted} pictures would be worth so long a run."
    for text in filter(None, (turned, last)):
        yield tag("p", text, class_="warning")


# ---------------------------------------------------------------- pictures and curves


def _pictures(folder: Path) -> Iterator[Html]:
    for name, words in SHOWN.items():
        if content := _png(folder / name):
            yield picture(content, words)
            if name == "samples.png" and (known := prompts(folder)):
                yield tag("ol", *(tag("li", prompt) for prompt in known))


def prompts(folder: Path) -> list[str]:
    """What a run's samples show, row by row, as far as it has kept that."""
    try:
        kept = files.read_json(folder / PROMPTS, "").get("prompts")
    except (FileNotFoundError, BadInput):
        return []
    return [prompt for prompt in kept if isinstance(prompt, str)] if isinstance(kept, list) else []


def _filmstrip(folder: Path) -> Iterator[Html]:
    """A few of the frames, evenly over the run: the same captions, or pictures, each time."""
    frames = [*pictures_of_run.frames(folder).items()]
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), FRAMES)).round().astype(int)
    shown = ((step, _png(path)) for step, path in (frames[i] for i in chosen))
    if strip := [picture(content, f"step {step:,}") for step, content in shown if content]:
        yield tag("div", *strip, class_="strip")


def _png(path: Path) -> bytes | None:
    """The content of a picture that is one, and whole."""
    try:
        content = files.read_small(path, LARGEST)
        found = PngImageFile(io.BytesIO(content))  # Image.open refuses grids of many pictures
        if math.prod(found.size) > MOST_PIXELS:
            return None
        found.load()
    except (FileNotFoundError, BadInput, OSError, SyntaxError, ValueError):
        return None
    return content


def _curves(story: Story) -> Iterator[Html]:
    names = dict.fromkeys((*FIRST_CURVES, *story.curves))
    charts = [chart(n.replace("_", " "), story.curves.get(n, {})) for n in names]
    if any(charts):
        yield tag("div", *charts, class_="charts")


# ---------------------------------------------------------------- figures


def _quality(about: Manifest, done: "Evaluated | None") -> Iterator[Html]:
    if done is None:
        kept = {n: v for n, v in about.counts.items() if n not in EFFORT}
        yield section("Figures", _figures(kept))
        vae = about.kind == "vae"
        option = f"--only-vae {about.name}" if vae else f"--model dallebaby/dalle/{about.name}"
        text = "Agreement with what was asked, distances and copies are not measured yet: "
        text += f"dallebaby evaluate {option} does so, and writes this page again."
        yield tag("p", text)
        return
    if done.vae:
        yield tag("p", f"Painted by the decoder of {done.vae.name}.", class_="dim")
    yield section("Hold-out pictures", _figures(done.holdout))
    yield section("Pictures that come back from their codes", _figures(done.reconstruction))
    yield section(
        "Does it draw what is asked?",
        _judge(done),
        _rows(done.agreement),
        _folded("class by class", len(done.classes), _rows(done.classes, SHARES_OF_CLASS)),
        _told(FOUND, _rows(done.retrieval, ("first", "chance_first"))),
    )
    yield section(
        "Distance of sets of pictures",
        _told(FAR, _rows(done.compared)),
        _figures(done.pretrained),
    )
    yield section("Is it copied?", *_copies(done))
    yield section("Sheets", *_sheets(done.samples))
    if done.missing:
        yield section("Not measured", tag("ul", *(tag("li", text) for text in done.missing)))


def _judge(done: "Evaluated") -> Html:
    """Who has read the classes."""
    if not done.judge:
        return Html("")
    words = f"Read by a judge of {done.judge.classes:,} classes that has seen "
    words += f"{done.judge.trained_on:,} training pictures; guessing gets {done.judge.chance:.1%}."
    return tag("p", words, class_="dim")


def _told(words: str, below: Html) -> Html:
    """What a table means, above it, if there is one."""
    return Html(tag("p", words, class_="dim") + below) if below else Html("")


def _folded(name: str, count: int, inside: Html) -> Html:
    """A table of so many rows; a long one is opened by who wants to read it."""
    if count <= LONG:
        return inside
    return tag("details", tag("summary", f"{name}: {count:,} rows"), inside)


def _copies(done: "Evaluated") -> Iterator[Html]:
    measured = {"codes that differ": done.distance, **done.distance_seen}
    for by, figures in measured.items():
        if "drawn_close" in figures:
            yield tag(
                "p",
                f"By {by}, {figures['drawn_close']:.1%} of the drawn pictures are nearer to a "
                "training picture than nearly all hold-out pictures are; of pictures that are new, "
                f"at most {figures['close_by_chance']:.1%} would be. "
                f"{figures['drawn_copies']:,} of {figures['drawn_compared']:,} are the same as "
                f"one, and of hold-out pictures {figures['holdout_copies']:,} of "
                f"{figures['holdout_compared']:,}. {figures['known']:,} training pictures were "
                "compared.",
            )
            yield _figures(figures)
    yield _rows(done.nearest, ("codes_differ",))


def _sheets(paths: Sequence[Path]) -> Iterator[Html]:
    for path in paths:
        if content := _png(path):
            yield picture(content, path.stem.replace("-", " "))
        else:
            yield tag("p", f"{path} is too large for this page.", class_="dim")


def _rows(rows: Sequence[Any], shares: Container[str] = ()) -> Html:
    """A table of any dataclasses of one kind; what is in a dict becomes columns of its own, and is
    a share, as columns of those names are."""
    lines = []
    for row in rows:
        line: dict[str, str] = {}
        for name, value in asdict(row).items():
            inner = value if isinstance(value, dict) else {name: value}
            share = isinstance(value, dict) or name in shares
            line |= {key: _number(inner[key], share) for key in inner}
        lines.append(line)
    head = list(dict.fromkeys(key for line in lines for key in line))
    cells = [[line.get(key, "") for key in head] for line in lines]
    return table(cells, [key.replace("_", " ") for key in head])


def _figures(figures: Mapping[str, Any]) -> Html:
    return table([(name.replace("_", " "), _number(value)) for name, value in figures.items()])


def _number(value: object, share: bool = False) -> str:
    """As people write it."""
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    if isinstance(value, int) and not share:
        return f"{value:,}"
    if isinstance(value, int | float):
        return f"{value:.1%}" if share else f"{value:,.4g}"
    return str(value)


# ---------------------------------------------------------------- what it took


def _cost(about: Manifest, story: Story, finish: Story) -> Html:
    counts, start = about.counts, story.starts[-1] if story.starts else {}
    batch, steps = about.config.get("batch_size"), counts.get("steps")
    rows: dict[str, object] = {"minutes": story.seconds / 60 or None}
    rows["minutes of the finish"] = finish.seconds / 60 or None
    rows |= {"steps": steps, "steps that were planned": counts.get("planned")}
    rows |= {"step whose weights are kept": counts.get("kept")}
    rows |= {"pictures that would be worth so long a run": counts.get("pictures_wanted")}
    if isinstance(batch, int) and isinstance(steps, int):
        rows["pictures seen"] = batch * steps
    if epochs := story.curves.get("epochs"):
        rows["epochs: how often each was seen"] = [*epochs.values()][-1]
    rows |= {"training pictures": start.get("train"), "hold-out pictures": start.get("holdout")}
    rows["parameters"] = start.get("parameters")
    devices = [str(s["device"]) for s in story.starts if "device" in s]
    rows["device"] = " | ".join(dict.fromkeys(devices)) or None
    rows["precision"] = start.get("precision")
    mfu = counts.get("mfu")
    rows["MFU, of this device's measured peak"] = f"{mfu:.1%}" if isinstance(mfu, float) else None
    rows["went on after a stop at step"] = ", ".join(f"{s:,}" for s in story.resumed) or None
    return _figures({name: value for name, value in rows.items() if value is not None})


def _settings(about: Manifest) -> Html:
    rows = [(name, str(value)) for name, value in flat(about.config).items()]
    return tag("details", tag("summary", f"{len(rows)} settings"), table(rows))
