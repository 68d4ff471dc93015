"""When a hold-out loss has turned: from there on a run memorises its training pictures, and gets
worse at all others."""

import math
from collections.abc import Mapping

import numpy as np

BEHIND = 3  # evaluations in a row that must be worse than the best one, which may be luck
CLEARLY = 0.01  # of the loss, and
NOISES = 5.0  # so many standard deviations of chance


def turned(losses: Mapping[int, float]) -> int | None:
    """The step at which a hold-out loss (step → loss, less is better, all of the same pictures) was
    lowest, if that lies clearly behind; None while it falls, or may do so again. Values that are
    not finite count as never measured. Only steps that are in `losses` are returned.

    The lowest point is one of the medians of three neighbours. It lies clearly behind where each of
    the last `BEHIND` values is worse by `CLEARLY` of the loss and by `NOISES` times the noise
    since: by second differences, which of white noise vary six times as much as itself, and in
    which a steady rise does not show."""
    measured = {step: loss for step, loss in sorted(losses.items()) if math.isfinite(loss)}
    if len(measured) <= BEHIND:
        return None
    values = np.array([*measured.values()], np.float64)
    neighbours = np.stack((values[:-2], values[1:-1], values[2:]))
    smooth = np.concatenate((values[:1], np.median(neighbours, 0), values[-1:]))
    best = int(smooth.argmin())
    since = values[best + 1 :]
    if len(since) < BEHIND:
        return None
    noise = math.sqrt(np.square(np.diff(values[best:], 2)).mean() / 6)
    worse = float(since[-BEHIND:].min() - smooth[best])
    clear = worse > max(CLEARLY * abs(smooth[best]), NOISES * noise)
    return [*measured][best] if clear else None
