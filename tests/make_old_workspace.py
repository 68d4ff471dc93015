"""Make tests/data/old-workspace.tar.xz: a workspace by the code of commit 26edf45, the last one
before the package was divided into rooms, for test_old_workspace.py to go on with.

    git worktree add OLD 26edf45
    python tests/make_old_workspace.py OLD

Every command below runs OLD's code, in a folder of its own with relative paths, so that nothing in
the archive names a folder of the machine that made it. SIGKILL ends the runs called half and pair.
What no command reads (UNREAD) and most frames of animations stay out, so that the archive is small.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ARCHIVE = Path(__file__).parent / "data" / "old-workspace.tar.xz"
UNREAD = ("contact-sheet.png", "near-duplicates.png", "curves.png", "codebook.png", "training.gif")
UNREAD += ("reconstructions.png", "samples.png", "renders.png", "tensorboard", ".lock")
PROMPTS = ("a red circle", "a blue square on a white background")
SMALL = """\
prep: {image_px: 16, holdout_percent: 20}
train-vae:
  batch_size: 8
  eval_every: 20
  eval_images: 32
  model: {grid: 4, width: 8, depth: 0, levels: [5, 5], codebook: 32, code_dim: 4}
train:
  batch_size: 8
  eval_every: 20
  eval_images: 32
  model: {text_tokens: 12, vocabulary: 256, dim: 8, depth: 1, heads: 1}
evaluate:
  pictures: 8
  classifier: {steps: 20, batch_size: 8, eval_images: 16, model: {width: 8, depth: 0}}
"""
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--")
TINY = ("--preset", "tiny", "--config", "small.yaml")
VQ = ("--set", "model.quantizer=vq")
OFTEN = ("--set", "save_every_s=0")


def main() -> None:
    old = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        make(old, work)
        ARCHIVE.parent.mkdir(exist_ok=True)
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as tar:
            tar.add(work / "dallebaby", "dallebaby", filter=packed)
            tar.add(work / "small.yaml", "small.yaml", filter=packed)
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size:,} bytes")


def make(old: Path, work: Path) -> None:
    """Run the old code in `work`."""
    from captioning.test_caption import draw_classes, make_gpt2
    from swarm import ALONE, make_torrent, site

    environment = {**os.environ, "PYTHONPATH": str(old), "OMP_NUM_THREADS": "1"}
    home = work / "dallebaby"
    (work / "small.yaml").write_text(SMALL)

    def start(*arguments: object, module: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", *module, "dallebaby_cli", *map(str, arguments)]
        print(*command[2:], flush=True)
        return subprocess.Popen(command, cwd=work, env=environment)

    def run(*arguments: object) -> None:
        assert start(*arguments).wait() == 0

    def kill(when: Callable[[], bool], *arguments: object, module: tuple[str, ...] = ()) -> None:
        process = start(*arguments, module=module)
        while not when():
            assert process.poll() is None, "it ended before it was to be killed"
            time.sleep(0.001)
        below = psutil.Process(process.pid).children(recursive=True)  # torchrun's processes
        for each in (process, *below):
            each.kill()
        psutil.wait_procs(below)
        process.wait()

    def reached(run: str, step: int) -> Callable[[], bool]:
        return lambda: (home / run / "state.pt").exists() and last_step(home / run) >= step

    def there(pattern: str, count: int) -> Callable[[], bool]:
        return lambda: len([*home.glob(pattern)]) >= count

    seed = draw_classes(work / "seed" / "shapes", 48)
    with site(seed.parent) as served:
        torrent = make_torrent(seed, work / "shapes.torrent", web_seeds=[f"{served.url}/"])
        run("fetch", "shapes.torrent", "--name", "shapes", *ALONE)
    assert torrent.path.exists()

    small = ("--config", "small.yaml")
    run("prep", "shapes", *small, "--workers", 1)
    run("prep", "scenes", *small, "--limit", 120, "--workers", 1)
    half_prep = ("scenes", "--name", "half", "--px", 8, "--limit", 700, "--workers", 1)
    kill(there("images/half/.work-*/*.arrow", 1), "prep", *half_prep, "--set", "on=local")
    run("caption", "shapes", "--with", make_gpt2(work / "gpt2", steps=60), "--each", 1)

    run("train-vae", "scenes", *TINY)
    half, pair = (("--steps", 400, *OFTEN, "--run", name) for name in ("half", "pair"))
    kill(reached("vae/half", 15), "train-vae", "scenes", *TINY, *half)
    kill(reached("vae/pair", 15), "train-vae", "shapes", *TINY, *VQ, *pair, module=TORCHRUN)

    (vae,) = (path.name for path in (home / "vae").glob("scenes-*"))
    run("encode", "scenes", "--vae", vae)
    views = ("--set", "views=2", "--set", "shard_pictures=4", "--set", "batch_size=4")
    kill(there("tokens/shapes@*/*.arrow", 4), "encode", "shapes", "--vae", vae, *views)

    codes = f"scenes@{vae}"
    run("train", codes, *TINY)
    kill(reached("dalle/half", 15), "train", codes, *TINY, *half)
    kill(reached("dalle/pair", 15), "train", codes, *TINY, *pair, module=TORCHRUN)
    run("generate", *PROMPTS, "-n", 4, "--seed", 0, "--out", "dallebaby/samples/old.png")
    run("evaluate", *small)


def last_step(folder: Path) -> int:
    """The last whole step in a run's log."""
    lines = (folder / "log.jsonl").read_text().split("\n")[:-1]
    return max((e["step"] for e in map(json.loads, lines) if e["event"] == "step"), default=0)


def packed(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """What goes into the archive, without the name and number of who made it."""
    path = Path(info.name)
    late = path.parent.name == "frames" and int(path.stem) > 1
    if late or path.name.startswith((*UNREAD, "evaluate-")) or path.suffix == ".tmp":
        return None
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    main()
