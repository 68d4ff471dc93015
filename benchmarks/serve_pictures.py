"""The README's pictures of `dallebaby serve`, made in the browser that also tests the page:
serve-draw.png (the page that draws, pictures by the baby), serve-drawing.gif (how they form) and,
with a workspace that has runs, serve-runs.png (runs, in the dark).

    python benchmarks/serve_pictures.py --runs dallebaby
"""

import argparse
import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from playwright.sync_api import Browser, Page, expect

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.append(str(REPOSITORY / "tests"))
from browser import BABY, chromium, served  # noqa: E402

SIZE = {"width": 880, "height": 760}
BEFORE = ("a turquoise heart", "a purple tree", "a blue house", "a yellow flower left of a tree")
PROMPT, SEED = "a red car", "0"
COLOURS, FRAME_MS, LAST_MS = 200, 160, 2500


def draw(page: Page, prompt: str, n: int, seed: str) -> None:
    """Fill in the form and let it draw; comes back while it does."""
    for name, value in {"prompt": prompt, "n": str(n), "seed": seed}.items():
        page.fill(f"#{name}", value)
    page.click("#draw")


def ended(page: Page) -> None:
    expect(page.locator(".job")).to_have_count(0, timeout=120_000)


def open_page(browser: Browser, url: str, scheme: Literal["light", "dark"]) -> Page:
    context = browser.new_context(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    return page


def forming(page: Page, out: Path) -> None:
    """An animation of the page while four pictures are drawn."""
    shots: dict[bytes, None] = {}
    cast = page.context.new_cdp_session(page)

    def keep(event: dict[str, Any]) -> None:
        shots[base64.b64decode(event["data"])] = None
        cast.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    cast.on("Page.screencastFrame", keep)
    cast.send("Page.startScreencast", {"format": "png"})
    draw(page, PROMPT, 4, SEED)
    ended(page)
    page.wait_for_timeout(500)
    cast.send("Page.stopScreencast")
    images = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]
    palette = images[-1].quantize(COLOURS)  # one for all, else still areas would flicker
    flat = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    times = [FRAME_MS] * (len(flat) - 1) + [LAST_MS]
    flat[0].save(out, save_all=True, append_images=flat[1:], duration=times, loop=0)
    print(f"{out}: {len(flat)} frames, {out.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, metavar="HOME", help="a workspace that has runs")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs", help="where they go")
    given = parser.parse_args()
    with chromium() as browser:
        with tempfile.TemporaryDirectory() as home, served(Path(home), "--model", BABY) as url:
            page = open_page(browser, url, "light")
            expect(page.locator("#draw")).to_be_enabled()
            draw(page, "a pink star", 2, "1")  # the first drawing also warms up
            ended(page)
            forming(page, given.out / "serve-drawing.gif")
            for number, prompt in enumerate(BEFORE):
                draw(page, prompt, 2, str(number))
                ended(page)
            page.uncheck("#lock")
            page.fill("#prompt", "")
            page.mouse.move(0, 0)
            page.screenshot(path=given.out / "serve-draw.png")
        if given.runs:
            with served(given.runs, "--model", BABY) as url:
                page = open_page(browser, f"{url}/runs", "dark")
                expect(page.locator(".run svg").first).to_be_visible()
                page.wait_for_load_state("networkidle")
                page.wait_for_function("[...document.images].every(image => image.complete)")
                page.screenshot(path=given.out / "serve-runs.png")


if __name__ == "__main__":
    main()
