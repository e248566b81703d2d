"""Which row of the tile table a launch uses where it is not the default.

A choice is remembered per class of calls, for this process. Tuning (`tune.py`) makes choices; a call never does.
"""

import contextlib
from collections.abc import Iterator

from memmodel.dtypes import DType
from memmodel.tiles import Pass, Row
from memmodel_kernels.triton_flash.problem import Problem

# arch, dtype, precision, head dim, whether there is a left and a right bound, group, log2 of n and m, passes
Key = tuple[int, str, str, int, bool, bool, int, int, int, tuple[Pass, ...]]

_chosen: dict[Key, Row] = {}
_forced: dict[tuple[Pass, ...], Row] = {}


def key(arch: int, dtype: DType, problem: Problem, passes: tuple[Pass, ...], precision: str) -> Key:
    """What a choice depends on; lengths count by their power of two."""
    lengths = problem.n.bit_length(), problem.m.bit_length()
    bounds = problem.first is not None, problem.last is not None
    return (arch, dtype.name, precision, problem.d, *bounds, problem.group, *lengths, passes)


def chosen(wanted: Key, passes: tuple[Pass, ...]) -> Row | None:
    """One tile for each of `passes`; None where nothing was chosen."""
    return _forced.get(passes) or _chosen.get(wanted)


def choose(wanted: Key, row: Row) -> None:
    """Remember `row` for calls of this key."""
    _chosen[wanted] = row


def known() -> list[tuple[Key, Row]]:
    """Every choice made so far."""
    return list(_chosen.items())


@contextlib.contextmanager
def forced(passes: tuple[Pass, ...], row: Row) -> Iterator[None]:
    """Use `row` for every call inside the block: how tests and tuning reach each row."""
    before = dict(_forced)
    _forced[passes] = row
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)
