"""Intervals by the length of a time, from the errors of times like it.

Split conformal prediction: Lei et al., "Distribution-free predictive inference for regression", 2018.
"""

from typing import Any

import numpy as np

COVERAGE = 0.9  # of intervals
_BANDS = 3  # of predicted times, each with a factor of its own
ENDLESS = 1e9  # seconds: the end of the last band

Bands = list[tuple[float, float]]  # (seconds up to, factor of the interval)


def bands_of(predicted: Any, errors: Any) -> Bands:
    """A factor for each third of the predicted seconds, by the log errors of these."""
    edges = np.quantile(predicted, np.arange(1, _BANDS) / _BANDS)
    band = np.searchsorted(edges, predicted)
    ends = [*(float(f"{edge:.4g}") for edge in edges), ENDLESS]
    return [(ends[i], factor_around(errors[band == i])) for i in range(_BANDS)]


def factor_around(errors: Any) -> float:
    """The factor that COVERAGE of such log errors stay within, either way, with one more for a finite sample.

    It is the same either way: the next source may be off to the other side.
    """
    held = min(len(errors), int(np.ceil(COVERAGE * (len(errors) + 1))))
    return round(float(np.exp(np.sort(np.abs(errors))[held - 1])), 4)


def factors_in(bands: Any, seconds: Any) -> Any:
    """The factor of each of these seconds, as `memmodel.timing.intervals.in_band` has it for one."""
    ends, factors = np.array(bands).T
    return factors[np.minimum(np.searchsorted(ends, seconds), len(ends) - 1)]
