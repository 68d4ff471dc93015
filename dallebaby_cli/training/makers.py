"""Which dVAEs made the tokens of a run, and with whose decoder it paints."""

from pathlib import Path

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput, Mismatch
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.codes_id import codes_id, is_maker
from dallebaby_cli.store.manifest import Manifest


def find_makers(home: Path, found: list[Manifest]) -> list[Path]:
    """The dVAEs that made all these tokens, the newest first: those with several decoders make the
    same codes. Raises Mismatch where codes are of several kinds, or have changed since."""
    makers: dict[Path, Manifest] = {}
    for tokens in found:
        for path, identity in tokens.parents.items():
            if path.startswith("vae/"):
                name = path.removeprefix("vae/")
                folder, makers[folder] = manifest.find(home, "vae", name)
                weights.read_model(folder, "vae")  # else damage looks like other codes
                if not is_maker(folder, makers[folder], identity):
                    raise Mismatch(
                        f"vae/{name} has been trained further since it made {tokens.name}; run "
                        f"`dallebaby encode {tokens.name.partition('@')[0]} --vae {name}` again"
                    )
    if not makers:
        names = ", ".join(tokens.name for tokens in found)
        raise BadInput(f"tokens/{names}: the manifest names no dVAE; {manifest.again(found[0])}")
    if len({*map(codes_id, makers)}) > 1:
        raise Mismatch(
            f"the tokens were made by different dVAEs ({', '.join(sorted(f.name for f in makers))})"
            "; encode all datasets with one: `dallebaby encode NAME... --vae RUN`"
        )
    return sorted(makers, key=lambda folder: makers[folder].when, reverse=True)


def painter(folder: Path, makers: list[Path]) -> Path:
    """Which of them a run paints with: that whose weights it was begun with, else the newest."""
    copy = folder / "vae.safetensors"
    inside = files.sha256_file(copy) if copy.exists() else ""
    sealed = {weights.read_model(f, "vae")["files"]["model.safetensors"]: f for f in makers}
    return sealed.get(inside, makers[0])
