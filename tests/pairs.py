"""All pairs of options: few rows in which every two values of different options stand together somewhere."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

Row = dict[str, Any]
Pair = frozenset[tuple[str, Any]]


def all_pairs(options: Mapping[str, Sequence[Any]], allowed: Callable[[Row], bool], seed: int = 0) -> Iterator[Row]:
    """Rows of a value of each option, greedily: each is the best of some random ones that hold a pair yet to come.

    `allowed` refuses rows whose values exclude each other.
    """
    dice = random.Random(seed)
    waiting = {frozenset({(a, x), (b, y)}) for a, b in combinations(options, 2) for x in options[a] for y in options[b]}
    while waiting:
        pair = min(waiting, key=lambda pair: sorted((name, str(value)) for name, value in pair))
        drawn = [{name: dice.choice(values) for name, values in options.items()} | dict(pair) for _ in range(60)]
        rows = [row for row in drawn if allowed(row)]
        if not rows:
            waiting.remove(pair)
            continue
        best = max(rows, key=lambda row: len(waiting & pairs_of(row)))
        waiting -= pairs_of(best)
        yield best


def pairs_of(row: Row) -> set[Pair]:
    """The pairs that a row holds."""
    return {frozenset(pair) for pair in combinations(row.items(), 2)}
