"""The picture of the live panel in the README, drawn by a real download on loopback.

A torrent in the layout of COCO's, from two aria2c seeds, a transmission seed and a web seed that
give slowly, so that there is something to see: python benchmarks/panel.py [docs/fetch.svg]
"""

import random
import sys
import tempfile
from pathlib import Path

from rich.console import Console, Group
from rich.text import Text

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.append(str(REPOSITORY / "tests"))
import swarm  # noqa: E402

from dallebaby_cli.commands.panel import panel  # noqa: E402
from dallebaby_cli.config import FetchConfig  # noqa: E402
from dallebaby_cli.progress import Event, Transfer  # noqa: E402
from dallebaby_cli.stages.fetch import fetch  # noqa: E402

FILES = {
    "train2017.zip": 60_000_000,
    "val2017.zip": 9_000_000,
    "annotations_trainval2017.zip": 4_000_000,
}
SHOWN_AT = 0.62  # of the download


def main(out: Path) -> None:
    seen: list[Transfer] = []

    def report(event: Event) -> None:
        if isinstance(event, Transfer) and event.total:
            seen.append(event)

    with tempfile.TemporaryDirectory() as name:
        root, chance = Path(name), random.Random(0)
        content = root / "web" / "coco"
        content.mkdir(parents=True)
        for file, size in FILES.items():
            (content / file).write_bytes(chance.randbytes(size))
        with swarm.site(root / "web", bytes_a_second=2_000_000) as web, swarm.tracker() as tracker:
            torrent = swarm.make_torrent(
                content,
                root / "coco.torrent",
                trackers=[tracker.url],
                web_seeds=[f"{web.url}/"],
                piece=1 << 18,
            )
            slow = {"up_kb_s": 2000, "unverified": True}
            with (
                swarm.aria2(torrent, **slow),
                swarm.aria2(torrent, **slow),
                swarm.transmission(torrent, root / "settings"),
            ):
                config = FetchConfig(
                    listen="127.0.0.1:0", dht=False, local_discovery=False, max_down_mb_s=9
                )
                fetch(str(torrent.path), root / "home", config, name="coco", report=report)
    shown = min(seen, key=lambda event: abs(event.done / (event.total or 1) - SHOWN_AT))
    with Path("/dev/null").open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=80, force_terminal=True, file=nowhere)
        console.print(Group(Text("$ dallebaby fetch coco", style="bold"), panel(shown)))
        console.save_svg(str(out), title="dallebaby")
    print(f"{out}: the panel at {shown.done / (shown.total or 1):.0%} of a real download")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "fetch.svg")
