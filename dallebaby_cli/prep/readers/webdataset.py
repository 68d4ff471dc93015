"""WebDataset tars that others made: members KEY.jpg, KEY.txt, KEY.json, KEY.cls side by side.

https://github.com/webdataset/webdataset. They are read like any folder of archives; this is the
name that folders with nothing else have had from the first.
"""

from dallebaby_cli.prep import archives
from dallebaby_cli.prep.readers import folder

read = folder.read


def fits(names: set[str]) -> bool:
    """Whether there are tars and no pictures beside them, or shards as dallebaby writes them."""
    tars = any(name.endswith(".tar") for name in names)
    return tars and ("index.arrow" in names or not any(map(archives.is_picture, names)))
