"""Repetitions in a sequence: stretches in which the same items occur several times in a row."""

from collections.abc import Hashable, Sequence


def own_runs(signs: Sequence[Hashable], of: Sequence[int | None], count: int) -> list[tuple[int, int, int]]:
    """(start, period, rounds) of runs of all layers; then, of the rest, of all but the first or last, which may differ.

    Only those in which each round works with its own layer's parameters, in order or in reverse: no coincidence.
    """
    found: list[tuple[int, int, int]] = []
    for rounds in (count, count - 1):
        # Forward takes the layers in order, backward in reverse.
        orders = [[*range(i, i + rounds)][::step] for i in range(count - rounds + 1) for step in (1, -1)]
        for start, end in _gaps(found, len(signs)) if rounds > 1 else ():
            for offset, period in runs(signs[start:end], rounds):
                at = start + offset
                if any([*of[at + part : at + rounds * period : period]] in orders for part in range(period)):
                    found.append((at, period, rounds))
    return found


def _gaps(found: Sequence[tuple[int, int, int]], end: int) -> list[tuple[int, int]]:
    """The stretches between runs."""
    taken = sorted((start, start + period * rounds) for start, period, rounds in found)
    return list(zip([0, *(after for _, after in taken)], [*(before for before, _ in taken), end], strict=True))


def runs(signs: Sequence[Hashable], count: int) -> list[tuple[int, int]]:
    """(start, period) of each stretch that is the same `period` signs `count` times over; the longest first."""
    best = (0, 0)
    for period in range(1, len(signs) // count + 1):
        streak = 0
        # One place more than can be compared, which ends the last streak.
        for i in range(len(signs) - period + 1):
            same = i + period < len(signs) and signs[i] == signs[i + period]
            if same:
                streak += 1
                continue
            # So many places in a row that are as one period later: one round more than they fill.
            long_enough = (streak + period) // period == count and period > best[1]
            if long_enough and not _repeats(signs[i - streak : i - streak + period]):
                best = i - streak, period
            streak = 0
    start, period = best
    if not period:
        return []
    end = start + count * period
    after = [(end + s, p) for s, p in runs(signs[end:], count)]
    return [*runs(signs[:start], count), best, *after]


def _repeats(signs: Sequence[Hashable]) -> bool:
    """Whether a round is itself a smaller one several times over: then how many there are is not known."""
    n = len(signs)
    return any(n % p == 0 and all(signs[i] == signs[i + p] for i in range(n - p)) for p in range(1, n // 2 + 1))
