"""The largest size that fits on a GPU, by a search with the allocator model."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from memmodel.algorithms import record, supported
from memmodel.allocator import AllocatorConfig
from memmodel.case import LARGEST, Case, check_size
from memmodel.errors import UsageError, choice
from memmodel.gpus import Gpu
from memmodel.prediction import Memory
from memmodel.step import fits, memory_of, room_bytes

OVER = ("seq", "batch", "heads", "kv_seq", "head_dim")


@dataclass(frozen=True, slots=True)
class Threshold:
    """The largest size at which a case fits on a GPU.

    Attributes:
        case: the case at the largest size, or at one step if none fits.
        over: the size searched: one of `OVER`.
        step: sizes are multiples of this.
        largest: the largest size that fits, 0 for none.
        first_failing: the next multiple, which does not fit; None if the largest size searched fits: 2^31, the
            largest head dim of the kernels, or as many queries as keys under a causal mask.
        memory: at the largest size; None if none fits.
        closed_form: the largest size by the live peak's formula alone, without allocator rounding; None without a
            formula.
    """

    case: Case
    over: str
    step: int
    largest: int
    first_failing: int | None
    memory: Memory | None
    closed_form: int | None


def resized(case: Case, over: str, size: int) -> Case:
    """The case with another size of `OVER`.

    Keys equal to queries stay equal, and so do the two head dims; key/value heads keep their ratio to heads.
    """
    sizes: dict[str, Any] = {over: size}
    twin = {"seq": "kv_seq", "head_dim": "value_dim"}.get(over)
    if twin and getattr(case, twin) == getattr(case, over):
        sizes[twin] = size
    if over == "heads":
        sizes["kv_heads"] = size * case.kv_heads // case.heads
    return replace(case, **sizes)


def threshold(
    case: Case, gpu: Gpu, over: str = "seq", step: int = 1, config: AllocatorConfig | None = None
) -> Threshold:
    """The largest multiple of `step` that fits on the GPU, and the next, which does not; both are predicted in full.

    Heads come in groups that share a key/value head, so that their sizes are also multiples of a group.
    Raises UsageError for an unknown size, a step below 1 or a GPU without a known capacity.
    """
    over, step = choice("size", str(over).replace("-", "_"), OVER), check_size("step", step)
    if room_bytes(gpu) is None:
        gpu.listed("capacity")  # raises, naming the key

    if over == "heads":
        step = math.lcm(step, case.heads // case.kv_heads)
    start, end = _grid(case, over, step)

    def runs(count: int) -> bool:
        sized = resized(case, over, (start + count - 1) * step)
        return bool(fits(record(sized), sized.torch, gpu, config))

    count = last_true(runs, end - start + 1)
    size = (start + count - 1) * step if count else 0
    first = None if start + count > end else (start + count) * step
    at = None
    if size:
        sized = resized(case, over, size)
        at = memory_of(record(sized), sized.torch, gpu, config)
    by_formula = closed_form(case, gpu, over)
    closed = None if by_formula is None else min(by_formula, end * step)
    return Threshold(resized(case, over, size or start * step), over, step, size, first, at, closed)


def _grid(case: Case, over: str, step: int) -> tuple[int, int]:
    """The first and last multiple of `step` to try: a causal mask needs a key for each query, kernels a head dim."""
    start, end = 1, LARGEST // step
    if case.mask.causal and over == "kv_seq":
        start = -(-case.seq // step)
    if case.mask.causal and over == "seq" and case.kv_seq != case.seq:
        end = case.kv_seq // step
    if over == "head_dim":
        end = max(1, last_true(lambda count: bool(supported(resized(case, over, count * step))), end))
    return start, end


def last_true(runs: Callable[[int], bool], end: int, guess: int = 0) -> int:
    """The largest count from 1 to `end` for which `runs` is true, followed by one for which it is not; 0 if none is.

    The search starts at the guess, doubles its steps until it has passed the boundary, then bisects.
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
            at = (low + high) // 2
    return low


def closed_form(case: Case, gpu: Gpu, over: str) -> int | None:
    """The largest size whose live peak, by its formula, is at most the GPU's room; None without a formula."""
    from memmodel.closed_forms import largest_size

    room = room_bytes(gpu)
    assert room is not None
    try:
        return largest_size(case, over, room)
    except UsageError:
        return None
