"""Which row of the tile table a launch uses, and how it multiplies fp32.

The default is the table's first row. Tuning (`tune.py`) may choose another for a class of calls, for this process; a
call never tunes.
"""

import contextlib
import functools
from collections.abc import Iterator

import torch
import triton

from memmodel.attention import tiles
from memmodel.attention.tiles import Extra, Pass, Row
from memmodel.base.dtypes import float32
from memmodel_kernels.flash import extras
from memmodel_kernels.triton_flash.problem import Problem

INTERPRETED_ARCH = 90  # the interpreter runs the sm_90 path

# arch, dtype, precision, head dim; whether there are a left and a right bound, extras; group, log2 of n and m, passes
Key = tuple[int, str, str, int, bool, bool, str, int, int, int, tuple[Pass, ...]]

chosen: dict[Key, Row] = {}  # by tuning, in this process
_forced: dict[tuple[Pass, ...], Row] = {}


def row(problem: Problem, *passes: Pass) -> Row:
    """One tile per pass: what was chosen for calls like this one, else the table's default."""
    return _forced.get(passes) or (chosen and chosen.get(key(problem, passes))) or rows(problem, passes)[0]


def rows(problem: Problem, passes: tuple[Pass, ...]) -> tuple[Row, ...]:
    """Rows of the table that a launch for this problem may use on its device, default first."""
    how = precision(problem, passes[0]), shared_limit(problem.device), _extras(problem)
    return _rows(arch(problem.device), problem.dtype, problem.d, passes, *how)


def _extras(problem: Problem) -> tuple[Extra, ...]:
    return extras(problem.softcap, problem.packed, problem.dropout, problem.biased)


_rows = functools.cache(tiles.rows)


def precision(problem: Problem, pass_: Pass) -> str:
    """The precision of fp32 products in this pass: exact if the table has no tensor-core tile."""
    if problem.dtype != float32:
        return "tf32"  # says nothing for 16-bit types: one value, so that one kernel is compiled
    return problem.precision if has(problem, pass_) else "ieee"


def has(problem: Problem, pass_: Pass) -> bool:
    """Whether the table has a tile for this pass at the problem's precision."""
    return tiles.supports(arch(problem.device), problem.dtype, problem.d, pass_, problem.precision, _extras(problem))


def key(problem: Problem, passes: tuple[Pass, ...]) -> Key:
    """The key of a choice; lengths are rounded to powers of two."""
    lengths = problem.n.bit_length(), problem.m.bit_length()
    bounds = problem.first is not None, problem.last is not None, "+".join(_extras(problem))
    kind = arch(problem.device), problem.dtype.name, precision(problem, passes[0])
    return (*kind, problem.d, *bounds, problem.group, *lengths, passes)


def choose(problem: Problem, passes: tuple[Pass, ...], row: Row) -> None:
    """Remember `row` for calls like this one."""
    chosen[key(problem, passes)] = row


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


@functools.cache
def arch(device: torch.device) -> int:
    """Compute capability as one number, 90 for 9.0."""
    if device.type != "cuda":
        return INTERPRETED_ARCH
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@functools.cache
def shared_limit(device: torch.device) -> int:
    """Shared memory that a program may have on this device, bytes."""
    if device.type != "cuda":
        return tiles.SHARED_LIMIT[INTERPRETED_ARCH]
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])
