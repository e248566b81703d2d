"""Which row of the tile table a call uses: the first that fits, unless tuning has chosen another.

A choice is remembered per shape class, for this process. Tuning (`tune.py`) fills it in; a call never tunes.
"""

import contextlib
from collections.abc import Iterator

from memmodel import tiles
from memmodel.dtypes import DType
from memmodel.tiles import Pass, Row
from memmodel_kernels.triton_flash.problem import Problem

Key = tuple[int, str, str, int, bool, bool, int, int, int, tuple[Pass, ...]]

_chosen: dict[Key, Row] = {}
_forced: dict[tuple[Pass, ...], Row] = {}


def key(arch: int, dtype: DType, problem: Problem, passes: tuple[Pass, ...], precision: str) -> Key:
    """What a choice depends on; lengths count by their power of two."""
    lengths = problem.n.bit_length(), problem.m.bit_length()
    bounds = problem.first is not None, problem.last is not None
    return (arch, dtype.name, precision, problem.d, *bounds, problem.group, *lengths, passes)


def chosen(arch: int, dtype: DType, problem: Problem, passes: tuple[Pass, ...], precision: str, limit: int) -> Row:
    """One tile for each of `passes`; raises UsageError when the table has none within `limit` bytes."""
    if passes in _forced:
        return _forced[passes]
    found = _chosen.get(key(arch, dtype, problem, passes, precision))
    return found or tiles.rows(arch, dtype, problem.d, passes, precision, limit)[0]


def choose(wanted: Key, row: Row) -> None:
    """Remember `row` for calls of this key."""
    _chosen[wanted] = row


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
