"""How often a time is measured: enough to see its spread, within a budget."""

from collections.abc import Callable, Mapping

Sample = Mapping[str, float]  # quantity -> seconds


def sampled(once: Callable[[], Sample], warm_up: int, least: int, most: int, budget: float) -> dict[str, list[float]]:
    """Samples of what `once` measures: at least `least`, and up to `most` while they take less than `budget` seconds.

    The first `warm_up` calls are made and forgotten.
    """
    for _ in range(warm_up):
        once()
    samples: dict[str, list[float]] = {}
    spent = 0.0
    for count in range(most):
        if count >= least and spent >= budget:
            break
        for name, seconds in once().items():
            samples.setdefault(name, []).append(seconds)
            spent += seconds
    return samples
