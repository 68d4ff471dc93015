"""Kaggle: datasets that only Kaggle's own client may download, with a person's own token."""

from dallebaby_cli.data.transfer import Brought, Job
from dallebaby_cli.errors import FetchFailed


def download(job: Job) -> Brought:
    """Bring the dataset's archive; see transfer.py."""
    raise FetchFailed("not yet")
