"""Ideas for the transformer and its training beside today's recipe: one change at a time, the same
minutes and threads, several seeds.

    python benchmarks/ladder.py HOME TOKENS... --minutes M [--seeds 0 1 2] [--only ROW ...]
        [--row "NAME: SETTING SETTING"] [--set SETTING ...] [--pictures N] [--kept] [--json]

TOKENS are NAME@RUN in HOME, as `dallebaby encode` leaves them; each gets a table of its own, in
Markdown. Rows are run in a random order of row and seed (the same one each time), so that a machine
that is busy for a while is so to all alike. Beside each row's hold-out bits a code stands what they
differ by from the base row of the same seed; bold is what differs in each of three seeds or more
into the same direction, by more than the seeds differ from one another. With --pictures a row's
model is judged by `dallebaby evaluate`, too, on so many pictures of each kind.

Rates and shapes are those of preset `scenes`, or differ from its. HOME/ladder keeps what each row
came to, under its settings as they are in full, so that a row whose defaults have changed is run
again and no other. A row that came to nothing is named at the end. --kept shows the table of what
there is so far. --set is for all rows; without --only and --row all are run. --steps asks for so
many steps in place of the minutes.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rows
from baby import dallebaby, minutes, table
from judged import judged
from rows import spread

from dallebaby_cli.config.settings import load
from dallebaby_cli.store import manifest
from dallebaby_cli.training import identity

BASE = "base"
FIGURES = ("bits", "steps", "images_per_s", "seconds", "compiled", "threads")


@dataclass(frozen=True)
class Row:
    """One change to today's recipe."""

    title: str
    settings: tuple[str, ...] = ()
    """of `train`"""
    views: tuple[str, ...] = ()
    """of `encode`: it trains on tokens that are made so"""


ROWS = {
    BASE: Row("today's recipe"),
    "short": Row("captions of at most 8 tokens", ("model.text_tokens=8",)),
    "text-0": Row("no weight on the caption", ("text_weight=0",)),
    "text-4": Row("a quarter of the weight on it", ("text_weight=0.25",)),
    "drop-0": Row("no caption left out", ("caption_drop=0",)),
    "drop-20": Row("20 % of them left out", ("caption_drop=0.2",)),
    "batch-16": Row("16 pictures a step", ("batch_size=16",)),
    "batch-64": Row("64 pictures a step", ("batch_size=64",)),
    "rate-4": Row("rate 4e-3", ("optim.lr=4e-3",)),
    "rate-16": Row("rate 16e-3", ("optim.lr=16e-3",)),
    "warmup-1": Row("warm-up of 1 %", ("optim.warmup_fraction=0.01",)),
    "warmup-10": Row("warm-up of 10 %", ("optim.warmup_fraction=0.1",)),
    "final-0": Row("rate ends at 0", ("optim.final_lr_fraction=0",)),
    "decay-0": Row("no weight decay", ("optim.weight_decay=0",)),
    "betas-95": Row("AdamW's second average over 20 steps", ("optim.betas=[0.9,0.95]",)),
    "ema-98": Row("averaged over 50 steps", ("ema_decay=0.98",)),
    "ema-998": Row("averaged over 500 steps", ("ema_decay=0.998",)),
    "dropout": Row("dropout 0.1", ("model.dropout=0.1",)),
    "wide": Row("wider, less deep", ("model.dim=256", "model.depth=2")),
    "deep": Row("deeper, less wide", ("model.dim=144", "model.depth=7", "model.heads=3")),
    "flips": Row("each picture and its mirror", views=("views=2", "flip=true", "crop=1")),
    "crops": Row("random crops", views=("views=4", "crop=0.7")),
}


def arguments(told: str | None, there: Iterable[str]) -> argparse.ArgumentParser:
    """What tables of runs are asked with, if there are such rows."""
    parser = argparse.ArgumentParser(
        description=told, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("tokens", nargs="+", metavar="TOKENS")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="ROW", help=", ".join(there))
    parser.add_argument("--row", action="append", default=[], metavar="NAME: SETTING ...")
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING", help="of all rows")
    parser.add_argument("--preset", default="scenes")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--pictures", type=int, default=0, help="judged of each kind")
    parser.add_argument("--steps", type=int, help="train so long in place of the minutes")
    parser.add_argument("--kept", action="store_true", help="show what is kept, and run nothing")
    parser.add_argument("--json", action="store_true", help="print figures in place of the tables")
    return parser


def rows_asked(
    options: argparse.Namespace, there: Mapping[str, Row] = ROWS, usual: Iterable[str] = ROWS
) -> dict[str, Row]:
    """Those of the rows that are `there`, and of those that are given, by name, the base first."""
    given = rows.settings_of(options.row)
    known = {**there, **{name: Row(" ".join(words), words) for name, words in given.items()}}
    names = [*(options.only or ([] if given else usual)), *given]
    return rows.chosen(known, dict.fromkeys([BASE, *names]))


# ---------------------------------------------------------------- one row


def result(
    name: str, row: Row, tokens: str, seed: int, options: argparse.Namespace
) -> dict[str, Any] | None:
    """The figures of a row: those that were kept, or of a training now; None if it came to
    nothing."""
    settings, run = [*options.set, *row.settings], run_of(name, row, tokens, seed, options)
    path = options.home / "ladder" / tokens / run / "row.json"
    facts = rows.kept(path)
    if options.kept:
        return facts
    home = with_views(options.home, tokens, row.views) if row.views else options.home
    try:
        if facts is None:
            sets = [word for setting in settings for word in ("--set", setting)]
            how_long = ("--steps", options.steps) if options.steps else ()
            how_long = how_long or ("--minutes", options.minutes)
            asked = ("--run", run, "--preset", options.preset, "--seed", seed, *how_long, *sets)
            dallebaby(home, "train", tokens, *asked)
            facts = rows.keep(path, {"row": name, "seed": seed} | figures(home / "dalle" / run))
            (home / "dalle" / run / "state.pt").unlink(missing_ok=True)  # of many, none goes on
        if options.pictures and facts.get("pictures") != options.pictures:
            found = judged(home, home / "dalle" / run, options.pictures)
            facts = rows.keep(path, facts | {"pictures": options.pictures, "judged": found})
    except SystemExit as end:
        if end.code != 1:  # the row is wrong, or somebody stops this
            raise
        print(f"{name}, seed {seed}: came to nothing", file=sys.stderr, flush=True)
        return None
    print(f"{name}, seed {seed}: {facts['bits']:.4f} bits a code", file=sys.stderr, flush=True)
    return facts


def run_of(name: str, row: Row, tokens: str, seed: int, options: argparse.Namespace) -> str:
    """The run that a row's figures are of."""
    settings = [*options.set, *row.settings, f"seed={seed}"]
    config = load("train", preset=options.preset, settings=settings)
    about = {"tokens": manifest.find(options.home, "tokens", tokens)[1].id}
    about |= {"views": " ".join(row.views), "threads": str(options.threads)}
    about |= {"early_stop": str(config.early_stop)}  # which says whose weights are judged
    if config.random_order is None:
        about |= {"random_order": "as is usual since 2026-11-27"}
    digest = identity.name([], options.preset, config, about).rpartition("-")[2]
    length = f"{options.steps}steps" if options.steps else f"{options.minutes:g}min"
    return f"ladder-{name}-{length}-{seed}-{digest}"


def with_views(home: Path, tokens: str, settings: tuple[str, ...]) -> Path:
    """A workspace with the same pictures and dVAEs, where tokens of that name have further
    views."""
    inner = home / "ladder" / "views" / "-".join(settings).replace("=", "")
    inner.mkdir(parents=True, exist_ok=True)
    for kind in ("images", "vae"):
        if not (inner / kind).exists():
            (inner / kind).symlink_to((home / kind).resolve(), target_is_directory=True)
    images, _, vae = tokens.partition("@")
    sets = [word for setting in settings for word in ("--set", setting)]
    dallebaby(inner, "encode", images, "--vae", vae, *sets)
    return inner


def figures(run: Path) -> dict[str, Any]:
    """What a finished run's folder says of it."""
    about = manifest.read(run)
    assert about is not None and about.complete, run
    seconds = 60 * minutes(run)
    return {
        "bits": about.counts["bits_per_code"],
        "steps": about.counts["steps"],
        "seconds": seconds,
        "images_per_s": about.counts["steps"] * about.config["batch_size"] / max(seconds, 1e-9),
        "compiled": about.counts["compiled"],
        "threads": about.counts["threads"],
    }


# ---------------------------------------------------------------- the table


def summed(found: Mapping[str, Mapping[int, dict[str, Any]]], asked: Mapping[str, Row]) -> list:
    """A line for each row that came to something: its figures, and how it differs from the base row
    of the same seeds."""
    lines = []
    for name, by_seed in found.items():
        if not by_seed:
            continue
        pairs = [(facts, found[BASE][seed]) for seed, facts in by_seed.items()]
        differences = [facts["bits"] - base["bits"] for facts, base in pairs]
        line: dict[str, Any] = {"row": name, "title": asked[name].title, "seeds": [*by_seed]}
        for figure in FIGURES:
            line[figure] = [facts[figure] for facts in by_seed.values()]
        line |= {"difference": differences, "clear": clear(differences)}
        scored = [facts["judged"] for facts in by_seed.values() if "judged" in facts]
        names = {name: None for facts in scored for name in facts}
        line["judged"] = {n: [facts[n] for facts in scored if n in facts] for n in names}
        lines.append(line)
    return lines


def clear(differences: list[float]) -> bool:
    """Whether three seeds or more agree on a difference, and agree more than they differ: by chance
    alone so do the three of one row in twelve."""
    low, high = min(differences), max(differences)
    mean = statistics.mean(differences)
    return len(differences) > 2 and low * high > 0 and abs(mean) > high - low


def uneven(lines: list[dict[str, Any]]) -> str:
    """What to say where the planner chose otherwise for some runs than for others."""
    ways = {way for line in lines for way in zip(line["compiled"], line["threads"], strict=True)}
    if len(ways) < 2:
        return ""
    told = "Some runs were compiled and others not, or they had other threads (--json says which)"
    return f"{told}: --set compile=false and --threads 1 make them alike."


def shown(lines: list[dict[str, Any]]) -> str:
    """The lines as a Markdown table."""
    columns = [*{name: None for line in lines for name in line["judged"]}]
    head = ["", "bits a code", "against the base, same seed", "steps", "images/s", "minutes"]
    body = []
    for line in lines:
        differs = "" if line["row"] == BASE else spread(line["difference"], "+.3f")
        cells = [f"{line['row']}: {line['title']}", spread(line["bits"], ".3f")]
        cells += [f"**{differs}**" if line["clear"] else differs]
        cells += [f"{statistics.mean(line[name]):,.0f}" for name in ("steps", "images_per_s")]
        cells += [f"{statistics.mean(line['seconds']) / 60:.1f}"]
        found = (line["judged"].get(name) for name in columns)
        cells += [spread(values, ".4g") if values else "" for values in found]
        body.append(cells)
    return table([[*head, *columns], ["---"] * (len(head) + len(columns)), *body])


def tables(options: argparse.Namespace, asked: Mapping[str, Row]) -> dict[str, list]:
    """Run the rows that are asked for, and print a table for each of the tokens, or nothing where
    figures are to be: those that are returned."""
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of all processes
    work = [(t, name, seed) for t in options.tokens for name in asked for seed in options.seeds]
    random.Random(0).shuffle(work)
    found: dict[str, dict[str, dict[int, dict[str, Any]]]] = {
        tokens: {name: {} for name in asked} for tokens in options.tokens
    }
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        for tokens, name, seed in work:
            facts = result(name, asked[name], tokens, seed, options)
            if facts:
                found[tokens][name][seed] = facts
    lines = {}
    for tokens, results in found.items():
        for name, by_seed in results.items():
            whole = by_seed.keys() & results[BASE].keys()
            results[name] = {seed: by_seed[seed] for seed in options.seeds if seed in whole}
        lines[tokens] = summed(results, asked)
        if not options.json:
            print(f"\n{tokens}\n\n{shown(lines[tokens])}", flush=True)
            if told := uneven(lines[tokens]):
                print(f"\n{told}")
            for name, by_seed in results.items():
                if len(by_seed) < len(options.seeds):
                    lost = len(options.seeds) - len(by_seed)
                    why = "are not there yet" if options.kept else "came to nothing"
                    print(f"{name}: {lost} of {len(options.seeds)} seeds {why}")
    return lines


def main() -> None:
    options = arguments(__doc__, ROWS).parse_args()
    found = tables(options, rows_asked(options))
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
