"""The page in a real browser: what people do with it, by mouse, finger and keyboard alone. Each
test ends with a look at the console, where nothing may be wrong, and at who was asked for what."""

import base64
import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

pytest.importorskip("playwright.sync_api", reason="the page is tested by playwright: .[dev]")
from browser import BABY, CHROMIUM, chromium, served
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from dallebaby_cli.store import manifest

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")

expect.set_options(timeout=15_000)
PX, GRID = 64, 8  # of the baby's pictures
PHONE = {"width": 360, "height": 740}
REFUSED = r"status of 4\d\d"  # what a console says of every answer that refuses
DROP = """([name, type, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name, { type }));
    return data;
}"""
STOP = """() => new Promise((stopped) => {
  const jobs = document.querySelector("#jobs");
  const began = performance.now();
  const look = () => jobs.children.length || stopped(performance.now() - began);
  new MutationObserver(look).observe(jobs, { childList: true });
  const stop = jobs.querySelector("button");
  stop.focus();
  stop.click();
})"""
WATCH = """() => {
    window.partials = [];
    new MutationObserver((changes) => {
        for (const { target } of changes) window.partials.push(target.src);
    }).observe(document.getElementById("jobs"), {
        subtree: true, attributes: true, attributeFilter: ["src"],
    });
}"""


@pytest.fixture(scope="module")
def home(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with runs; the baby draws there, whose pictures take a moment."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("page") / "home")


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    """The address of its server."""
    with served(home, "--model", BABY) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@dataclass
class Tab:
    """A page that is open, and what its browser saw."""

    page: Page
    home: Path
    url: str
    allowed: str = "$^"
    """what the console may say"""
    wrong: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def watch(self, context: BrowserContext) -> None:
        """Note what is said on the console, and every request."""
        context.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)
        context.on("weberror", lambda e: self.wrong.append(str(e.error)))
        context.on("request", lambda request: self.asked.append(request.url))

    def check(self) -> None:
        """Nothing was wrong, and nobody but the server was asked."""
        assert not [text for text in self.wrong if not re.search(self.allowed, text)]
        places = {urlsplit(a)[:2] for a in self.asked if urlsplit(a).scheme not in ("data", "blob")}
        assert places == {urlsplit(self.url)[:2]}

    def ready(self) -> None:
        """Wait until the page knows the models and shows the pictures that are there."""
        expect(self.page.locator("#draw")).to_be_enabled()
        expect(self.page.locator("#gallery")).to_have_attribute("aria-busy", "false")

    def ask(self, prompt: str, n: int = 1, **fields: object) -> None:
        """Fill in the form and let it draw."""
        self.page.fill("#prompt", prompt)
        for name, value in {"n": n, **fields}.items():
            self.page.fill(f"#{name}", str(value))
        self.page.click("#draw")

    def drawn(self, prompt: str, n: int = 1, **fields: object) -> list[str]:
        """The names of the pictures that come of it, in the order of the gallery."""
        before = set(self.names())
        self.ask(prompt, n, **fields)
        self.ended()
        return [name for name in self.names() if name not in before]

    def partials(self) -> list[bytes]:
        """The unfinished pictures that were to be seen since WATCH, each once."""
        told = dict.fromkeys(self.page.evaluate("window.partials"))
        heads = [source.partition(",") for source in told]
        return [base64.b64decode(body) for head, _, body in heads if "image/png" in head]

    def ended(self) -> None:
        """Wait until nothing is drawn any more."""
        expect(self.page.locator(".job")).to_have_count(0, timeout=60_000)

    def names(self) -> list[str]:
        """Of the pictures in the gallery, newest first."""
        sources = self.page.locator("#gallery img").evaluate_all("all => all.map(i => i.src)")
        return [urlsplit(source).path.rpartition("/")[2] for source in sources]

    def newest(self) -> Locator:
        return self.page.locator("#gallery button").first

    def open_newest(self) -> Locator:
        """The dialog of the newest picture."""
        self.newest().click()
        dialog = self.page.locator("#picture")
        expect(dialog).to_be_visible()
        return dialog

    def drop(self, content: bytes, name: str = "some.png", kind: str = "image/png") -> None:
        """Drop a file on the page."""
        data = self.page.evaluate_handle(DROP, [name, kind, [*content]])
        self.page.dispatch_event("main", "drop", {"dataTransfer": data})

    def file(self, name: str) -> bytes:
        """The content of a picture that was kept."""
        return (self.home / "samples" / name).read_bytes()

    def kept_codes(self, name: str) -> int:
        """How many codes of a picture came from another one."""
        said = says(self.file(name))
        return sum(code != "-1" for code in said.get("kept", said.get("known", "")).split())


def says(png: bytes) -> dict[str, str]:
    with Image.open(io.BytesIO(png)) as opened:
        return dict(opened.text)  # type: ignore[attr-defined]


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as opened:
        return np.asarray(opened.convert("RGB"), np.int16)


def open_tab(browser: Browser, home: Path, url: str, path: str = "/", **how: object) -> Tab:
    context = browser.new_context(**how)  # type: ignore[arg-type]
    context.set_default_timeout(20_000)
    tab = Tab(context.new_page(), home, url)
    tab.watch(context)
    tab.page.goto(url + path)
    if path == "/":
        tab.ready()
    return tab


@pytest.fixture
def tab(browser: Browser, home: Path, url: str) -> Iterator[Tab]:
    """The page that draws, just opened."""
    opened = open_tab(browser, home, url)
    yield opened
    opened.check()
    opened.page.context.close()


# ---------------------------------------------------------------- drawing


def test_a_picture_forms_code_by_code(tab: Tab) -> None:
    tab.page.evaluate(WATCH)
    names = tab.drawn("a red car", n=2, seed=7)
    assert len(tab.partials()) >= 4, "two pictures, and each more than once before it is whole"
    assert len(names) == 2
    for name in names:
        assert pixels(tab.file(name)).shape == (PX, PX, 3)
        assert says(tab.file(name))["prompt"] == "a red car"
    assert {says(tab.file(name))["seed"] for name in names} == {"7", "8"}
    expect(tab.page.locator("#gallery img").first).to_have_attribute("alt", "a red car")
    expect(tab.page.locator("#status")).to_contain_text("2 pictures drawn in")


def test_unfinished_pictures_are_what_is_known_so_far(tab: Tab) -> None:
    tab.page.evaluate(WATCH)
    [name] = tab.drawn("a blue house", seed=3)
    whole = pixels(tab.file(name))
    differ = [np.abs(pixels(picture) - whole).mean() for picture in tab.partials()]
    assert len(differ) >= 2 and differ[-1] < differ[0] / 2


def test_stop_ends_a_drawing_within_a_second_and_keeps_nothing_of_it(tab: Tab) -> None:
    before, files = tab.names(), [*(tab.home / "samples").glob("a-purple-tree*")]
    tab.ask("a purple tree", n=16)
    expect(tab.page.locator(".job progress")).not_to_have_js_property("value", 0)
    assert tab.page.evaluate(STOP) < 1000, "ms"
    expect(tab.page.locator("#status")).to_have_text("Stopped: a purple tree")
    expect(tab.page.locator("#prompt")).to_be_focused()
    drawn = tab.drawn("a green boat")  # the server is free at once
    assert len(drawn) == 1 and tab.names() == drawn + before
    assert [*(tab.home / "samples").glob("a-purple-tree*")] == files


def test_the_queue_tells_places_and_lets_others_through(tab: Tab) -> None:
    tab.ask("a pink star", n=16)
    expect(tab.page.locator(".job .state")).to_contain_text("Drawing 16 pictures")
    tab.ask("a yellow flower", n=1, temperature=0.5)  # other settings, so it is not drawn with it
    waiting = tab.page.locator(".job", has_text="a yellow flower").locator(".state")
    expect(waiting).to_contain_text(re.compile("Next in the queue|Waiting"))
    tab.page.get_by_role("button", name="Stop drawing: a pink star").click()
    tab.ended()
    assert says(tab.file(tab.names()[0]))["prompt"] == "a yellow flower"


def test_the_seed_is_by_chance_until_it_is_kept(tab: Tab) -> None:
    first, second = tab.drawn("a black bird"), tab.drawn("a black bird")
    assert first != second and len(tab.page.input_value("#seed")) > 0
    tab.page.check("#lock")
    assert tab.drawn("a black bird") == [], "it is the second one again, which is there already"
    assert tab.names()[0] == second[0] and len(set(tab.names())) == len(tab.names())
    tab.page.uncheck("#lock")
    expect(tab.page.locator("#seed")).to_have_value("")
    assert len(tab.drawn("a black bird")) == 1


def test_nothing_said_draws_the_example(tab: Tab) -> None:
    example = tab.page.get_attribute("#prompt", "placeholder")
    assert example
    tab.page.fill("#n", "1")
    tab.page.click("#draw")
    tab.ended()
    expect(tab.page.locator("#gallery img").first).to_have_attribute("alt", example)
    chip = tab.page.locator("#examples button").nth(1)
    words = chip.inner_text()
    chip.click()
    tab.ended()
    expect(tab.page.locator("#gallery img").first).to_have_attribute("alt", words)


def test_words_that_the_model_hardly_knows_are_marked(tab: Tab) -> None:
    tab.drawn("a red zebra, Quagga!")
    expect(tab.page.locator("#unknown")).to_contain_text("zebra, quagga")
    marks = tab.newest().locator("mark")
    expect(marks).to_have_text(["zebra", "Quagga"])
    tab.page.fill("#prompt", "a red car")
    expect(tab.page.locator("#unknown")).to_be_hidden()


def test_what_people_say_stays_text(tab: Tab) -> None:
    prompt = '<img src=x onerror=alert(1)> <b>a red car</b> & "more"'
    said: list[str] = []
    tab.page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.drawn(prompt)
    expect(tab.page.locator("#gallery img").first).to_have_attribute("alt", prompt)
    expect(tab.open_newest().locator("h2")).to_have_text(prompt)
    tab.page.reload()
    expect(tab.page.locator("#gallery img").first).to_have_attribute("alt", prompt)
    assert not said and tab.page.locator("img[src=x], main b").count() == 0


def test_what_cannot_be_is_one_sentence(tab: Tab) -> None:
    tab.allowed = f"{REFUSED}|ERR_FAILED"
    tab.ask("a red car", guidance=1000)
    expect(tab.page.locator("#error")).to_contain_text("guidance")
    tab.ended()
    tab.page.route("**/api/drawings", lambda route: route.abort())
    tab.ask("a red car", guidance=3)
    expect(tab.page.locator("#error")).to_contain_text("The server does not answer")
    tab.page.unroute("**/api/drawings")
    assert len(tab.drawn("a red car")) == 1
    expect(tab.page.locator("#error")).to_be_hidden()


# ---------------------------------------------------------------- the gallery and its pictures


def test_the_gallery_outlives_a_reload(tab: Tab) -> None:
    [name] = tab.drawn("an orange fish")
    tab.page.reload()
    expect(tab.page.locator("#gallery img").first).to_have_attribute("alt", "an orange fish")
    assert tab.names()[0] == name
    dialog = tab.open_newest()
    for text in (says(tab.file(name))["seed"], "baby", "guidance", "temperature"):
        expect(dialog.locator("dl")).to_contain_text(text)


def test_older_pictures_come_on_demand(tab: Tab) -> None:
    [name] = tab.drawn("a turquoise heart")
    for number in range(60):
        (tab.home / "samples" / f"copy-{number:02d}.png").write_bytes(tab.file(name))
    tab.page.reload()
    expect(tab.page.locator("#gallery img")).to_have_count(50)
    tab.page.click("#more")
    expect(tab.page.locator("#gallery img").nth(60)).to_be_attached()
    names = tab.names()
    assert len(set(names)) == len(names) and name in names
    expect(tab.page.locator("#gallery button").nth(50)).to_be_focused()
    for copy in (tab.home / "samples").glob("copy-*.png"):
        copy.unlink()


def test_a_picture_again_and_others_like_it(tab: Tab) -> None:
    [name] = tab.drawn("a white moon", guidance=2, temperature=0.9)
    first, before = tab.file(name), tab.names()
    tab.page.fill("#prompt", "something else")
    tab.open_newest().get_by_role("button", name="Again").click()
    tab.ended()
    assert tab.page.input_value("#prompt") == "a white moon"
    assert tab.page.input_value("#guidance") == "2" and tab.page.is_checked("#lock")
    assert tab.names() == before and tab.file(name) == first
    tab.open_newest().get_by_role("button", name="Variations").click()
    tab.ended()
    others = [other for other in tab.names() if other not in before]
    told = [says(tab.file(other)) for other in others]
    assert len(told) == 4
    assert {t["prompt"] for t in told} == {"a white moon"}
    assert len({t["seed"] for t in told} | {says(first)["seed"]}) == 5
    assert {json.loads(t["sampling"])["guidance"] for t in told} == {2}


def test_a_picture_can_be_downloaded(tab: Tab) -> None:
    [name] = tab.drawn("a red car")
    with tab.page.expect_download() as download:
        tab.open_newest().get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == name
    assert Path(download.value.path()).read_bytes() == tab.file(name)


def test_a_picture_as_the_start_of_another(tab: Tab) -> None:
    [name] = tab.drawn("a red car")
    tab.open_newest().get_by_role("button", name="Use as start").click()
    expect(tab.page.locator("#start")).to_be_visible()
    assert tab.page.input_value("#keep") == str(GRID // 2)
    [second] = tab.drawn("a red house")
    assert tab.kept_codes(second) == GRID // 2 * GRID and tab.kept_codes(name) == 0
    tab.page.fill("#keep", "6")
    [third] = tab.drawn("a red house")
    assert tab.kept_codes(third) == 6 * GRID
    near = np.abs(pixels(tab.file(third)) - pixels(tab.file(name)))[: PX // 2].mean()
    assert near < 12, "what is kept of it is still to be seen"
    tab.page.get_by_role("button", name="Begin with nothing").click()
    assert tab.kept_codes(tab.drawn("a red house")[0]) == 0


# ---------------------------------------------------------------- dropping pictures


def test_a_dropped_picture_brings_its_settings_and_is_drawn_again(tab: Tab) -> None:
    [name] = tab.drawn("a brown cat", guidance=4, temperature=0.8)
    content = tab.file(name)
    tab.page.reload()
    tab.ready()
    tab.drop(content)
    expect(tab.page.locator("#prompt")).to_have_value("a brown cat")
    expect(tab.page.locator("#status")).to_contain_text("Settings of some.png loaded")
    assert tab.page.input_value("#seed") == says(content)["seed"]
    assert tab.page.input_value("#guidance") == "4"
    expect(tab.page.locator("#draw")).to_be_focused()
    (tab.home / "samples" / name).unlink()
    tab.page.keyboard.press("Enter")
    tab.ended()
    assert (pixels(tab.file(tab.names()[0])) == pixels(content)).all()


def test_a_file_can_be_chosen_instead_of_dropped(tab: Tab) -> None:
    [name] = tab.drawn("a grey mouse")
    tab.page.reload()
    tab.ready()
    chosen = {"name": "x.png", "mimeType": "image/png", "buffer": tab.file(name)}
    tab.page.get_by_label("choose a file").set_input_files(chosen)  # type: ignore[arg-type]
    expect(tab.page.locator("#prompt")).to_have_value("a grey mouse")


def test_settings_without_a_field_are_told_and_can_be_forgotten(tab: Tab) -> None:
    [name] = tab.drawn("a red car")
    told, words, changed = says(tab.file(name)), PngInfo(), io.BytesIO()
    told["sampling"] = json.dumps({**json.loads(told["sampling"]), "top_k": 5})
    for key, value in told.items():
        words.add_text(key, value)
    Image.new("RGB", (PX, PX)).save(changed, "PNG", pnginfo=words)
    tab.drop(changed.getvalue())
    expect(tab.page.locator("#extra")).to_contain_text("top_k 5")
    assert json.loads(says(tab.file(tab.drawn("a red car")[0]))["sampling"])["top_k"] == 5
    tab.page.get_by_role("button", name="Forget these").click()
    assert tab.drawn("a red car") == [] and tab.names()[0] == name, "the first one again"


def test_a_picture_without_settings_becomes_the_start(tab: Tab) -> None:
    tab.allowed = REFUSED
    made = io.BytesIO()
    Image.new("RGB", (90, 60), "teal").save(made, "JPEG")
    tab.drop(made.getvalue(), "photo.jpg", "image/jpeg")
    expect(tab.page.locator("#status")).to_contain_text("photo.jpg holds no settings")
    expect(tab.page.locator("#start img")).to_have_attribute("alt", "photo.jpg")
    [name] = tab.drawn("a red car")
    assert tab.kept_codes(name) == GRID // 2 * GRID
    tab.drop(b"no picture", "notes.txt", "text/plain")
    expect(tab.page.locator("#error")).to_contain_text("PNG")


# ---------------------------------------------------------------- the brush


def open_brush(tab: Tab) -> Locator:
    tab.open_newest().get_by_role("button", name="Redraw a part").click()
    canvas = tab.page.locator("#mask canvas")
    expect(canvas).to_be_focused()
    return canvas


def redrawn(tab: Tab, prompt: str) -> str:
    """The name of what the brush's dialog draws."""
    before = set(tab.names())
    tab.page.get_by_label("What shall be there?").fill(prompt)
    tab.page.get_by_role("button", name="Redraw", exact=True).click()
    tab.ended()
    [name] = set(tab.names()) - before
    return name


def test_what_is_brushed_is_drawn_anew_and_the_rest_kept(tab: Tab) -> None:
    tab.drawn("a red car")
    canvas = open_brush(tab)
    box = canvas.bounding_box()
    assert box
    blank = canvas.evaluate("c => c.toDataURL()")
    move = tab.page.mouse.move
    move(box["x"] + 0.2 * box["width"], box["y"] + 0.7 * box["height"])
    tab.page.mouse.down()
    move(box["x"] + 0.9 * box["width"], box["y"] + 0.9 * box["height"], steps=4)
    tab.page.mouse.up()
    assert canvas.evaluate("c => c.toDataURL()") != blank
    expect(tab.page.get_by_label("Or keep rows from the top")).to_have_value("5")
    name = redrawn(tab, "a blue house")
    assert tab.kept_codes(name) == 5 * GRID and says(tab.file(name))["prompt"] == "a blue house"


def test_the_brush_by_keyboard(tab: Tab) -> None:
    tab.drawn("a red car")
    open_brush(tab)
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Space"):
        tab.page.keyboard.press(key)
    told = tab.page.locator("#mask [role=status]")
    expect(told).to_have_text("Row 4, column 2: drawn anew.")
    assert tab.kept_codes(redrawn(tab, "a blue house")) == 3 * GRID
    open_brush(tab)
    tab.page.get_by_role("button", name="Redraw", exact=True).click()
    expect(tab.page.locator("#mask [role=alert]")).to_contain_text("Brush over")
    tab.page.get_by_label("Or keep rows from the top").fill("6")
    expect(tab.page.locator("#mask output")).to_have_text(f"6 of {GRID}")
    assert tab.kept_codes(redrawn(tab, "a blue house")) == 6 * GRID


# ---------------------------------------------------------------- everybody


def focused(page: Page) -> dict[str, str]:
    """What has the focus, and whether that can be seen."""
    return page.evaluate(
        "() => { const e = document.activeElement, s = getComputedStyle(e);"
        "return {id: e.id, name: e.tagName, outline: s.outlineStyle, width: s.outlineWidth} }"
    )


def test_all_by_keyboard_with_the_focus_in_sight(tab: Tab) -> None:
    page = tab.page
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("a red car")
    page.keyboard.press("Enter")
    expect(page.locator(".job")).to_have_count(1)
    tab.ended()
    seen: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        about = focused(page)
        assert about["outline"] == "solid" and about["width"] == "3px", about
        seen.append(about["id"])
        if page.evaluate("document.activeElement.closest('#gallery') !== null"):
            break
    wanted = ["draw", "n", "model", "guidance", "temperature", "seed", "lock", "file"]
    assert [name for name in seen if name in wanted] == wanted
    page.keyboard.press("Enter")
    expect(page.locator("#picture")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#picture")).to_be_hidden()
    expect(tab.newest()).to_be_focused()


@pytest.mark.parametrize("path", ["/", "/runs"])
def test_a_phone_shows_all_without_moving_sideways(
    browser: Browser, home: Path, url: str, path: str
) -> None:
    tab = open_tab(browser, home, url, path, viewport=PHONE, has_touch=True, is_mobile=True)
    page = tab.page

    def fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]

    if path == "/":
        page.fill("#prompt", "a red car, " * 12)
        page.fill("#n", "2")
        page.tap("#draw")
        fits()
        tab.ended()
        tab.newest().tap()
        fits()
        box = page.locator("#picture").bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
        page.get_by_role("button", name="Redraw a part").tap()
        canvas = page.locator("#mask canvas")
        place = canvas.bounding_box()
        assert place
        canvas.tap(position={"x": place["width"] / 2, "y": place["height"] * 4.5 / GRID})
        expect(page.get_by_label("Or keep rows from the top")).to_have_value("4")
    else:
        expect(page.locator(".run svg").first).to_be_visible()
    fits()
    tab.check()
    page.context.close()


def test_nothing_stands_in_the_way_of_anybody_by_light_or_in_the_dark(tab: Tab) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = tab.page
    found: dict[str, list[str]] = {}
    papers = set()

    def look(state: str) -> None:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
            told = axe.run(page, options={"resultTypes": ["violations"], **rules})
            wrong = told.response["violations"]
            found[f"{state}, {scheme}"] = [f"{w['id']}: {w['nodes'][0]['html']}" for w in wrong]

    tab.drawn("a red zebra")
    look("a gallery")
    tab.open_newest().get_by_role("button", name="Use as start").click()
    look("a start")
    tab.ask("a red car", n=16)
    look("drawing")
    tab.ended()
    page.get_by_role("button", name="Begin with nothing").click()
    tab.open_newest()
    look("a picture")
    page.get_by_role("button", name="Redraw a part").click()
    look("the brush")
    page.goto(f"{tab.url}/runs")
    expect(page.locator(".run svg").first).to_be_visible()
    look("runs")
    assert len(found) == 12 and not {state: what for state, what in found.items() if what}
    assert len(papers) == 2 and "rgb(255, 255, 255)" in papers


def test_nothing_moves_for_those_who_want_that(browser: Browser, home: Path, url: str) -> None:
    tab = open_tab(browser, home, url, reduced_motion="reduce")
    tab.ask("a red car", n=2)
    moving = "[...document.querySelectorAll('*')].filter(e => { const s = getComputedStyle(e);"
    moving += "return s.transitionDuration !== '0s' || s.animationName !== 'none' }).length"
    assert tab.page.evaluate(moving) == 0
    assert tab.page.evaluate("document.getAnimations().length") == 0
    tab.ended()
    tab.check()
    tab.page.context.close()


# ---------------------------------------------------------------- runs


@pytest.fixture
def growing(home: Path) -> Iterator[Path]:
    """The folder of a run that has begun: dalle/growing."""
    folder = shutil.copytree(home / "dalle" / "d", home / "dalle" / "growing")
    about = manifest.read(folder)
    assert about is not None
    manifest.write(folder, replace(about, name="growing", complete=False))
    (folder / "log.jsonl").unlink()
    log(folder, 1, 5.5)
    yield folder
    shutil.rmtree(folder)


def log(folder: Path, step: int, loss: float) -> None:
    """What the loop writes of a step."""
    line = {"event": "step", "step": step, "loss": loss, "lr": 1e-3, "time": time.time()}
    with (folder / "log.jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


def test_runs_are_watched_as_they_grow(
    growing: Path, browser: Browser, home: Path, url: str
) -> None:
    tab = open_tab(browser, home, url, "/runs")
    run = tab.page.locator(".run", has=tab.page.get_by_role("heading", name="dalle/growing"))
    expect(run.locator(".state")).to_contain_text("running · step 1")
    assert tab.page.locator(".run h3").first.inner_text() == "dalle/growing", "those at work first"
    expect(run.locator("svg").first).to_have_attribute("aria-label", re.compile("^loss: 5.5"))
    log(growing, 500, 2.25)
    expect(run.locator("svg").first).to_have_attribute(
        "aria-label", re.compile("^loss: 2.25 at step 500")
    )
    expect(run.locator(".state")).to_contain_text("step 500")
    cells = run.get_by_role("row", name="loss").get_by_role("cell")
    expect(cells).to_have_text(["5.5", "2.25", "2.25", "5.5"])
    tab.check()
    tab.page.context.close()


def test_every_run_has_its_curves_pictures_and_report(
    browser: Browser, home: Path, url: str
) -> None:
    tab = open_tab(browser, home, url, "/runs")
    page = tab.page
    expect(page.locator(".run h3")).to_have_text(["dalle/d", "vae/v"])
    run = page.locator(".run", has=page.get_by_role("heading", name="vae/v"))
    if not run.evaluate("details => details.open"):
        run.locator("summary").focus()
        page.keyboard.press("Enter")
    expect(run.locator("svg").first).to_be_visible()
    assert run.locator("table tbody tr").count() >= 1
    frames = run.locator(".strip img")
    if [*(home / "vae" / "v" / "frames").glob("*.png")]:
        expect(frames.first).not_to_have_js_property("naturalWidth", 0)
    link = run.get_by_role("link", name="Report of vae/v")
    with page.expect_popup() as report:
        link.click()
    expect(report.value.locator("h1")).to_have_text("vae/v")
    page.get_by_role("link", name="Draw").click()
    expect(page.locator("#draw")).to_be_enabled()
    tab.check()
    page.context.close()
