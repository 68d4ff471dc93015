"""A page of HTML by a few functions: all text is escaped, and nothing is loaded from anywhere."""

import base64
import html
from collections.abc import Iterable, Sequence

from dallebaby_cli.text import clean

# what a browser may do with it, should a text ever escape its escaping: nothing
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #222; --dim: #767676; --line: #ddd; --paper: #fff;
  --accent: #0a66c2; --warn: #fff3d6 }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --dim: #8a8a8a; --line: #3a3a3a;
  --paper: #161616; --accent: #6cb2ff; --warn: #3a3010 } }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2.2rem }
p.dim, figcaption, th { color: var(--dim); font-size: .85rem; font-weight: normal }
p.warning { background: var(--warn); padding: .5rem .8rem; border-radius: .4rem }
div.wide { overflow-x: auto }
div.strip { display: flex; gap: .8rem; overflow-x: auto }
figure { margin: 0 }
img { max-width: 100%; min-width: min(100%, 22rem); image-rendering: pixelated }
div.strip img { width: 11rem; min-width: 0 }
div.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { text-align: left; padding: .15rem 1.2rem .15rem 0; border-bottom: 1px solid var(--line) }
svg { width: 100%; height: auto; font-size: 11px; fill: var(--dim) }
svg polyline { fill: none; stroke: var(--accent); stroke-width: 1.5 }
svg circle { fill: var(--accent) } svg line { stroke: var(--line) }
"""
EMPTY = ("meta", "img", "polyline", "line", "circle")  # elements that have no end


class Html(str):
    """What is HTML already; all other text is escaped."""

    __slots__ = ()


def tag(name: str, *inside: str, **attributes: object) -> Html:
    """An element; `class_` and `content_type` become class and content-type."""
    opened = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
    )
    if name in EMPTY:
        return Html(f"<{name}{opened}>" if name in ("meta", "img") else f"<{name}{opened}/>")
    return Html(f"<{name}{opened}>{join(inside)}</{name}>")


def escape(text: str) -> Html:
    """Any text as HTML, in elements and attributes; what is HTML already stays."""
    return text if isinstance(text, Html) else Html(html.escape(clean(text)))


def join(parts: Iterable[str]) -> Html:
    """One after the other."""
    return Html("".join(map(escape, parts)))


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> Html:
    """Rows of cells, if there are any; a table that is wider than the screen can be moved."""
    titles = [tag("tr", *(tag("th", cell) for cell in head))] if head else []
    cells = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    return tag("div", tag("table", *titles, *cells), class_="wide") if cells else Html("")


def picture(png: bytes, words: str) -> Html:
    """A PNG with the words below it."""
    content = base64.b64encode(png).decode("ascii")
    image = tag("img", src=f"data:image/png;base64,{content}", alt=words)
    return tag("figure", image, tag("figcaption", words))


def section(title: str, *parts: str) -> Html:
    """Parts below a title; nothing where there are none."""
    return tag("section", tag("h2", title), *parts) if any(parts) else Html("")


def page(title: str, *parts: str) -> str:
    """The whole file."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        tag("title", title),
        Html(f"<style>{STYLE}</style>"),
    )
    body = tag("body", tag("h1", title), *parts)
    return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'.replace("><", ">\n<")
