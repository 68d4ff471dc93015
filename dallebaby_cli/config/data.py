"""What a person can set of the stages that make captioned shards: fetch, prep and caption.

The string below a field is its help. Importing this file does not import torch.
"""

from dataclasses import dataclass
from typing import Literal

from dallebaby_cli.config.bounds import (
    COUNT,
    LONGEST_S,
    SEED,
    Bounded,
    bounded,
    check,
    check_temperature,
)

CaptionsFrom = Literal["auto", "files", "folders", "both"]


@dataclass(frozen=True, kw_only=True)
class FetchConfig(Bounded):
    """How datasets are downloaded."""

    timeout_s: float = bounded(600, gt=0, le=LONGEST_S)
    """give up after so many seconds without progress"""
    mirror_after_s: float = bounded(60, gt=0, le=LONGEST_S)
    """turn to a mirror after so many seconds in which BitTorrent brought nothing"""
    listen: str = "0.0.0.0:6881,[::]:6881"
    """addresses the BitTorrent client listens on; port 0 lets the system choose one"""
    max_down_mb_s: float = bounded(0, ge=0, le=2000)
    """download limit in MB/s; 0 is none"""
    max_up_mb_s: float = bounded(0, ge=0, le=2000)
    """upload limit in MB/s; 0 is none"""
    seed_minutes: float = bounded(0, ge=0, le=1_000_000)
    """go on giving to others for so long after the download is complete"""
    dht: bool = True
    """find peers through the distributed hash table too"""
    local_discovery: bool = True
    """find peers on the local network too"""


@dataclass(frozen=True, kw_only=True)
class PrepConfig(Bounded):
    """How raw pictures become shards."""

    image_px: int = bounded(64, ge=8, le=1024)
    """side of the square pictures in pixels"""
    fit: Literal["crop", "pad"] = "crop"
    """keep the centre of the longer side, or all of it with white around"""
    encoding: Literal["png", "jpeg", "webp"] = "png"
    """how pictures are stored; png is lossless"""
    quality: int = bounded(95, ge=1, le=100)
    """of jpeg and webp"""
    holdout_percent: float = bounded(5, gt=0, le=50)
    """share of the pictures kept out of training where the dataset has no split of its own"""
    shard_mb: float = bounded(100, gt=0, le=1_000_000)
    """size of a shard"""
    captions_from: CaptionsFrom = "auto"
    """of pictures of no known dataset: files beside them and lists such as metadata.jsonl, the
    names of their folders, or folders where there are no files; auto is files, or both where less
    than half of the pictures have any"""
    limit: int | None = bounded(None, ge=1, le=COUNT)
    """take the first so many accepted pictures, in sorted path order; `scenes` draws 20000"""
    workers: int = bounded(0, ge=0, le=1024)
    """processes that decode; 0 is one a core"""
    where: str = "local"
    """local, or a Ray cluster: ray, ray:auto or ray:HOST:PORT"""
    near_duplicates: bool = True
    """find pictures that are nearly the same (not among drawn ones) and keep them on one side of
    the split"""
    seed: int = bounded(0, ge=0, le=SEED)
    """of the pictures that `scenes` draws"""


@dataclass(frozen=True, kw_only=True)
class CaptionConfig(Bounded):
    """How pretrained models write captions."""

    each: int = bounded(2, ge=1, le=1000)
    """drafts for each picture; those that repeat or lost the label are dropped"""
    temperature: float = bounded(0.8, ge=0, le=10)
    """below 1 safer, above 1 wilder; 0 always takes the likeliest word"""
    top_p: float = bounded(0.9, gt=0, le=1)
    """choose among the likeliest tokens that hold so much of the probability"""
    max_tokens: int = bounded(32, ge=1, le=65536)
    """longest draft, in the model's tokens"""
    seed: int = bounded(0, ge=0, le=SEED)
    """of the drafts; each picture has its own from it"""
    batch_size: int = bounded(32, ge=1, le=COUNT)
    """drafts written at a time; does not change them"""
    unit_pictures: int = bounded(512, ge=1, le=COUNT)
    """pictures captioned in one go: as many as a killed run does again at most"""
    where: str = "local"
    """local, or a Ray cluster: ray, ray:auto or ray:HOST:PORT"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)
        check(
            self.each == 1 or self.temperature > 0,
            "temperature",
            self.temperature,
            f"writes {self.each} times the same; take each=1",
        )
