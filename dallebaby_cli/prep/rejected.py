"""What every part of prep says of a picture that cannot be used."""


class Rejected(Exception):
    """A picture that cannot be used: `reason` is one of a few names, `detail` says more."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail
