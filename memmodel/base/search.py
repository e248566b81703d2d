"""The largest count for which something holds."""

from collections.abc import Callable

_ROUND = (32, 128)


def last_true(runs: Callable[[int], bool], end: int, guess: int = 0) -> int:
    """The largest count from 1 to `end` for which `runs` is true, followed by one for which it is not; 0 if none is.

    The search starts at the guess, doubles its steps until it has passed the boundary, then bisects. The boundary is
    often a round count, where a segment of memory is full: at some widths the count above the lower end is tried first.
    """
    low, high = 0, end + 1  # low runs (or is none), high does not (or is beyond the end)
    at, stride = min(max(guess, 1), end), 1
    while high - low > 1:
        if runs(at):
            low, at = at, min(at + stride, end)
        else:
            high, at = at, max(at - stride, 1)
        stride *= 2
        if low and high <= end:
            at = low + 1 if high - low in _ROUND else (low + high) // 2
    return low
