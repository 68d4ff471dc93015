"""The captions that a transformer learns from: those of its pictures' own, those that `caption`
wrote, and the words they are made of."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dallebaby_cli.errors import MissingInput
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.store import extra_captions
from dallebaby_cli.store.extra_captions import ExtraCaptions
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.text_tokenizer import TextTokenizer
from dallebaby_cli.store.tokens import Tokens
from dallebaby_cli.training import augment
from dallebaby_cli.training.batches import Rows

MOST = 1_000_000  # captions that words are learned from


def extra(home: Path, tokens: Manifest, parents: dict[str, str], report: Report) -> ExtraCaptions:
    """What `caption` wrote for the pictures of these tokens, but for what mirrored views would make
    untrue; its id becomes one of the parents."""
    images, images_id = next(p for p in tokens.parents.items() if p[0].startswith("images/"))
    found = extra_captions.read(home / images)
    if found.id and found.of != {images: images_id}:
        report(
            Note(
                f"{images}/captions.jsonl is of other pictures than the tokens, so it is left "
                f"out; run `dallebaby caption {images.removeprefix('images/')}` again",
                "warning",
            )
        )
        return ExtraCaptions()
    if not found.id:
        return found
    parents[f"{images}/captions"] = found.id
    if not tokens.config.get("flip"):
        return found
    kept = {
        key: [caption for caption in written if augment.may_be_mirrored([caption])]
        for key, written in found.by_key.items()
    }
    return replace(found, by_key=kept)


def require(rows: Rows[Tokens]) -> None:
    """Raise MissingInput if the rows to train on have no captions."""
    if next(_of(rows), None) is None:
        raise MissingInput(
            f"{', '.join(s.name for s in rows.sources)}: no captions, so there is nothing "
            "to learn words from; put a .txt with one caption a line beside each picture and "
            "prepare the folder again, or let a model write some: `dallebaby caption --with MODEL`"
        )


def tokenizer(rows: Rows[Tokens], vocabulary: int) -> TextTokenizer:
    """One that learns from the training captions."""
    return TextTokenizer.train(itertools.islice(_of(rows), MOST), vocabulary)


def _of(rows: Rows[Tokens]) -> Iterator[str]:
    """Of all rows, in the order of a fixed shuffle."""
    places = rows.places[rows.sample(len(rows))].tolist()
    return (text for source, row in places for text in rows.sources[source].captions(row))
