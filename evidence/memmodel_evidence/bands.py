"""Intervals by the length of a time, or by its parts, from the errors of times like it.

Split conformal prediction: Lei et al., "Distribution-free predictive inference for regression", 2018.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

COVERAGE = 0.9  # of intervals
SHORT = 1e-3  # seconds: up to here L2 holds what kernels pass on, and clocks have not settled
_ENOUGH = 20  # rows of short times
_BANDS = 3  # of longer ones, each with a factor of its own
_SUREST = 0.01  # mean size of an error of any part: calls that were measured twice differ by half of it at the median
_SWEEPS = 300
ENDLESS = 1e9  # seconds: the end of the last band

Bands = list[tuple[float, float]]  # (seconds up to, factor of the interval)


def bands_of(predicted: Any, errors: Any) -> Bands:
    """A factor for short times, if enough are, and one for each third of the longer, by the log errors of these."""
    short = predicted <= SHORT
    first = [(SHORT, factor_around(errors[short]))] if short.sum() >= _ENOUGH else []
    longer, of_longer = (predicted[~short], errors[~short]) if first else (predicted, errors)
    edges = np.quantile(longer, np.arange(1, _BANDS) / _BANDS)
    band = np.searchsorted(edges, longer)
    ends = [*(float(f"{edge:.4g}") for edge in edges), ENDLESS]
    return first + [(ends[i], factor_around(of_longer[band == i])) for i in range(_BANDS)]


def factor_around(errors: Any) -> float:
    """The factor that COVERAGE of such log errors stay within, either way, with one more for a finite sample.

    It is the same either way: the next source may be off to the other side.
    """
    held = min(len(errors), int(np.ceil(COVERAGE * (len(errors) + 1))))
    return round(float(np.exp(np.sort(np.abs(errors))[held - 1])), 4)


def spreads_of(shares: Mapping[str, Any], errors: Any) -> dict[str, float]:
    """A spread for each part of a time: the log of the factor that COVERAGE of such times stay within, were it alone.

    Normalised conformal prediction: the size of an error is the mean of the parts' own, by their shares of the time;
    COVERAGE is within one multiple of that. Papadopoulos et al., "Regression conformal prediction with nearest
    neighbours", 2011.
    """
    parts, sizes = np.stack([np.broadcast_to(share, errors.shape) for share in shares.values()], 1), np.abs(errors)
    # Rows hardly show a part that is a small share of each: none is taken to be farther off than the farthest time.
    own = np.clip(_nonnegative(parts, sizes), _SUREST, sizes.max())
    wider = np.log(factor_around(sizes / (parts @ own)))
    return {name: round(float(wider * spread), 4) for name, spread in zip(shares, own, strict=True)}


def _nonnegative(columns: Any, wanted: Any) -> Any:
    """The least squares of `columns` @ x - `wanted` with no x below 0, coordinate by coordinate."""
    products, right, found = columns.T @ columns, columns.T @ wanted, np.zeros(columns.shape[1])
    for _ in range(_SWEEPS):
        before = found.copy()
        for i in np.flatnonzero(products.diagonal()):
            found[i] = max(0.0, found[i] + (right[i] - products[i] @ found) / products[i, i])
        if np.array_equal(found, before):  # and so it would stay
            break
    return found
