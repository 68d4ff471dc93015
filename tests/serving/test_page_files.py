"""The page as files: small, readable, whole in the package, and nothing in it that the browser
would refuse or that could run what a server or a file says."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import dallebaby_cli

PAGE = Path(dallebaby_cli.__file__).parent / "serving" / "page"
FILES = sorted(PAGE.iterdir())
HTML = [path for path in FILES if path.suffix == ".html"]
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
MOST_BYTES = 60_000


class Elements(HTMLParser):
    """Every element with its attributes, and what stands inside scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((name, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style") and data.strip():
            self.inside.append(data)


def test_the_whole_page_is_small() -> None:
    assert sum(path.stat().st_size for path in FILES) <= MOST_BYTES
    assert {path.suffix for path in FILES} <= {".html", ".css", ".js", ".svg"}


@pytest.mark.parametrize("path", HTML, ids=lambda path: path.stem)
def test_nothing_in_it_is_inline_or_from_elsewhere(path: Path) -> None:
    page = Elements(path)
    assert len(page.found) > 10 and not page.inside
    for name, attributes in page.found:
        assert name != "style"
        assert not [key for key in attributes if key == "style" or key.startswith("on")]
        for key in ("src", "href", "action"):
            place = attributes.get(key) or "/"
            assert re.match(r"/(?!/)", place), (name, place)
            if place.startswith("/static/"):
                assert (PAGE / place.removeprefix("/static/")).is_file(), place


@pytest.mark.parametrize("path", HTML, ids=lambda path: path.stem)
def test_every_control_has_a_label(path: Path) -> None:
    found = Elements(path).found
    labelled = {attributes.get("for") for name, attributes in found if name == "label"}
    controls = [a for name, a in found if name in ("input", "select", "textarea")]
    assert not [a for a in controls if a["id"] not in labelled | {"lock"}]  # lock is inside its own


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_is_said_stays_text(path: Path) -> None:
    code = path.read_text(encoding="utf-8")
    refused = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
    assert not re.search(refused, code)
    assert not re.search(r"setAttribute\(\"(?:style|on)", code)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", code)
    assert len(code.splitlines()) <= 400
    assert code.startswith("// "), "says what it is for"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_imports_name_what_is_there(path: Path) -> None:
    code = path.read_text(encoding="utf-8")
    for names, module in re.findall(r"import \{([^}]*)\} from \"\./(\w+\.js)\"", code):
        there = (PAGE / module).read_text(encoding="utf-8")
        for name in (part.strip() for part in names.split(",") if part.strip()):
            assert re.search(rf"export (?:async )?(?:function\*? |const ){name}\b", there), name
    for alias, module in re.findall(r"import \* as (\w+) from \"\./(\w+\.js)\"", code):
        there = (PAGE / module).read_text(encoding="utf-8")
        for name in set(re.findall(rf"(?<![\w.\"/]){alias}\.(\w+)\(", code)):
            assert re.search(rf"export (?:async )?(?:function\*? |const ){name}\b", there), name


def test_every_element_that_scripts_look_for_is_there() -> None:
    ids = {a.get("id") for path in HTML for _, a in Elements(path).found}
    names = [re.findall(r"\bfind\(\"([\w-]+)\"\)", p.read_text(encoding="utf-8")) for p in SCRIPTS]
    assert not sorted({name for found in names for name in found} - ids)
