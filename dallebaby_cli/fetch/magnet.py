"""Magnet links: a torrent's hash, and whom to ask for the rest (BEP 9, 52, 53)."""

import base64
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from dallebaby_cli.errors import UsageError
from dallebaby_cli.text import clean, one_line

ONLY = "magnet:?so="
"""begins the pattern that names files by their numbers in the torrent: magnet:?so=0-2,7"""


@dataclass(frozen=True)
class Magnet:
    """A magnet link that is one."""

    link: str
    """as every BitTorrent library reads it"""
    info_hash: str
    """in hex, 40 digits, or 64 where there is no hash of version 1"""
    title: str
    only: tuple[str, ...]
    """pattern of the files that it selects; () for all"""


def is_one(text: str) -> bool:
    """Whether somebody means it as a magnet link."""
    return text[:7].lower() == "magnet:"


def parse(text: str) -> Magnet:
    """Understand a magnet link. Raises UsageError that says what is wrong with it."""
    query = [(key.lower(), value) for key, value in parse_qsl(clean(text).partition("?")[2])]
    hashes = [_hash(value) for key, value in query if re.fullmatch(r"xt(\.\d+)?", key)]
    known = sorted({h for h in hashes if h}, key=len)
    if not known:
        short = one_line(text)[:80]
        raise UsageError(f"{short!r} is no magnet link of a torrent: it has no xt=urn:btih:…")
    rest = [(k, v) for k, v in query if re.fullmatch(r"(?!xt|so$)[a-z0-9.]+", k)]
    parts = [f"xt=urn:{'btih:' if len(h) == 40 else 'btmh:1220'}{h}" for h in known]
    parts += [f"{key}={quote(value, safe=':')}" for key, value in rest]
    chosen = ",".join(value for key, value in query if key == "so")
    numbers = "[0-9]{1,9}(-[0-9]{1,9})?"
    if chosen and not re.fullmatch(f"{numbers}(,{numbers})*", chosen):
        raise UsageError(f"so={one_line(chosen)[:40]} of the magnet link: write it as so=0,2,5-7")
    return Magnet(
        link="magnet:?" + "&".join(parts),
        info_hash=known[0],
        title=next((value for key, value in rest if key == "dn"), known[0][:12]),
        only=(ONLY + chosen,) if chosen else (),
    )


def _hash(topic: str) -> str:
    """The hash in hex of a topic such as urn:btih:…; "" for one of another network."""
    found = re.fullmatch(r"urn:(btih|btmh):(.*)", topic, re.I | re.S)
    if not found:
        return ""
    kind, digits = found[1].lower(), found[2].lower()
    if kind == "btih" and re.fullmatch("[a-z2-7]{32}", digits):
        return base64.b32decode(digits.upper()).hex()
    if kind == "btih" and re.fullmatch("[0-9a-f]{40}", digits):
        return digits
    if kind == "btmh" and re.fullmatch("1220[0-9a-f]{64}", digits):
        return digits[4:]
    raise UsageError(
        f"{one_line(found[2])[:80]!r} is no info-hash: it has 40 hex digits or 32 letters and "
        "digits from 2 to 7 after urn:btih:, or 68 hex digits after urn:btmh:"
    )


def selects(only: str, number: int) -> bool:
    """Whether a pattern that begins with ONLY names the file of that number."""
    for part in only.removeprefix(ONLY).split(","):
        first, _, last = part.partition("-")
        if int(first) <= number <= int(last or first):
            return True
    return False
