"""A search for the largest size that runs and the smallest that does not, by a function that tries one size."""

from collections.abc import Callable
from typing import NamedTuple


class Boundary(NamedTuple):
    """The largest count that runs (0 for none), the next one, which does not, and all counts in the order tried."""

    largest: int
    first_failing: int
    tried: tuple[int, ...]


def search(runs: Callable[[int], bool], guess: int) -> Boundary:
    """Where `runs` turns from true to false, searched from a guess: two tries where it is right.

    Each count is tried once. From the guess outwards in steps that double, then by halves.
    """
    tried: dict[int, bool] = {}

    def attempt(count: int) -> bool:
        if count < 1:
            return True
        if count not in tried:
            tried[count] = runs(count)
        return tried[count]

    low, high, stride = max(guess, 0), max(guess, 0) + 1, 1
    while not attempt(low):
        low, high, stride = max(low - stride, 0), low, 2 * stride
    while attempt(high):
        low, high, stride = high, high + stride, 2 * stride
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if attempt(middle) else (low, middle)
    return Boundary(low, high, tuple(tried))
