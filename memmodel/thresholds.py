"""The largest size that fits on a GPU, by a search with the allocator model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from memmodel.allocator import AllocatorConfig
from memmodel.attention.case import LARGEST, SIZES, Case, check_case, check_size
from memmodel.base.errors import UsageError, check_kind, choice
from memmodel.base.search import last_true
from memmodel.events.program import Program
from memmodel.gpus import Gpu, load_gpu
from memmodel.models.one_layer import model_of
from memmodel.prediction import Memory
from memmodel.recorder import MOST_CHUNKS, record, supported
from memmodel.step import device_of, fits, memory_of, room_bytes

OVER = ("seq", "batch", "heads", "kv_heads", "kv_seq", "head_dim", "window", "chunk")


@dataclass(frozen=True, slots=True)
class Threshold:
    """The largest size at which a case fits on a GPU.

    Attributes:
        gpu: the GPU.
        case: the case at the largest size, or at the smallest if none fits.
        over: the size searched: one of `OVER`.
        step: sizes are multiples of this.
        largest: the largest size that fits, 0 for none.
        first_failing: the next size, which does not fit; None if the largest size searched fits: 2^31, the largest
            head dim of the kernels, as many queries as keys under a causal mask, as many kv heads as heads, a window
            of all keys, a chunk of all queries.
        memory: at the largest size; None if none fits.
        closed_form: the largest size by the live peak's formula alone, without allocator rounding; None without a
            formula.
        all_layers: the largest size at which keys and values of all layers of a model fit, without its weights; None
            where no model is named, or its caches do not grow with the size.
    """

    gpu: Gpu
    case: Case
    over: str
    step: int
    largest: int
    first_failing: int | None
    memory: Memory | None
    closed_form: int | None
    all_layers: int | None = None


def resized(case: Case, over: str, size: int) -> Case:
    """The case with another size of `OVER`.

    Keys equal to queries stay equal, and so do the two head dims; key/value heads keep their ratio to heads.
    """
    if over == "window":
        return replace(case, mask=case.mask._replace(causal=True, window=size))
    sizes: dict[str, Any] = {over: size}
    twin = {"seq": "kv_seq", "head_dim": "value_dim"}.get(over)
    if twin and getattr(case, twin) == getattr(case, over):
        sizes[twin] = size
    if over == "heads":
        sizes["kv_heads"] = size * case.kv_heads // case.heads
    return replace(case, **sizes)


def threshold(
    case: Case,
    gpu: str | Gpu,
    over: str = "seq",
    step: int = 1,
    config: AllocatorConfig | None = None,
    like: str | None = None,
) -> Threshold:
    """The largest multiple of `step` that fits on the GPU, and the next, which does not; both are predicted in full.

    Heads come in groups that share a key/value head, so that their sizes are also multiples of a group; kv heads are
    divisors of heads. `like` names the model that the case is a layer of.

    Raises UsageError for an unknown size, a step below 1 or a GPU without a known capacity.
    """
    check_case(case)
    check_kind("config", config, AllocatorConfig)
    over, step = choice("size", str(over).replace("-", "_"), OVER), check_size("step", step)
    gpu = gpu if isinstance(gpu, Gpu) else load_gpu(gpu)
    if room_bytes(gpu) is None:
        gpu.listed("capacity")  # raises, naming the key
    if over == "heads":
        step = math.lcm(step, case.heads // case.kv_heads)
    case = replace(case, device=device_of(gpu))
    sizes = _sizes(case, over, step)

    fitting: dict[int, Program] = {}  # the largest so far

    def runs(count: int) -> bool:
        sized = resized(case, over, sizes[count - 1])
        program = record(sized)
        if not fits(program, sized.torch, gpu, config):
            return False
        fitting.clear()
        fitting[count] = program
        return True

    if over == "kv_heads":  # memory need not grow: heads without a kv head of their own may get a copy
        count = max(filter(runs, range(1, len(sizes) + 1)), default=0)
    else:
        count = last_true(runs, len(sizes))
    size, first = sizes[count - 1] if count else 0, sizes[count] if count < len(sizes) else None
    at, by_formula = resized(case, over, size or sizes[0]), closed_form(case, gpu, over)
    memory = memory_of(fitting[count], at.torch, gpu, config) if count else None
    closed = None if by_formula is None else min(by_formula, sizes[-1])
    all_layers = None if like is None else _all_layers(like, at, gpu, over, sizes)
    return Threshold(gpu, at, over, step, size, first, memory, closed, all_layers)


def _all_layers(like: str, case: Case, gpu: Gpu, over: str, sizes: Sequence[int]) -> int | None:
    """The largest size at which keys and values of all layers fit in the GPU's room; 0 for none."""
    room = room_bytes(gpu)

    def kept(size: int) -> int | None:
        model = model_of(like, resized(case, over, size))
        return model and model.cache_bytes

    if over not in ("kv_seq", "batch") or kept(sizes[0]) is None:
        return None
    count = last_true(lambda count: (kept(sizes[count - 1]) or 0) <= (room or 0), len(sizes))
    return sizes[count - 1] if count else 0


def _sizes(case: Case, over: str, step: int) -> Sequence[int]:
    """The sizes to try, which rise: those that the mask, the other sizes and the algorithm allow; at least one."""
    if case.lengths:
        raise UsageError(
            f"the largest {over.replace('_', '-')} of {len(case.lengths)} given lengths: give --seq instead"
        )
    if over == "kv_heads":
        found: Sequence[int] = [size for size in range(step, case.heads + 1, step) if case.heads % size == 0]
    else:
        first, last = 1, LARGEST
        if case.mask.causal and over == "kv_seq":
            first = case.seq  # a key for each query
        if case.mask.causal and over == "seq" and case.kv_seq != case.seq:
            last = case.kv_seq
        if over == "chunk":
            _check_chunked(case)
            first, last = -(-case.seq // MOST_CHUNKS), case.seq
        if over == "window":
            last = case.kv_seq
        found = range(-(-first // step) * step, last + 1, step)
    if not found:
        raise UsageError(f"--step {step}: no multiple of it is a possible {over.replace('_', '-')} here: take another")
    taken = last_true(lambda count: bool(supported(resized(case, over, found[count - 1]))), len(found))
    return found[: max(1, taken)]  # the first one where none is supported: recording it says why


def _check_chunked(case: Case) -> None:
    if case.algorithm != "chunked":
        raise UsageError(f"chunks of {case.algorithm}: only chunked attention has a chunk, take --algorithm chunked")


def closed_form(case: Case, gpu: Gpu, over: str) -> int | None:
    """The largest size whose live peak, by its formula, is at most the GPU's room; None without a formula.

    Formulas have no letter for windows and chunks, and that of chunked attention is of a fixed number of chunks.
    """
    if over not in SIZES or case.algorithm == "chunked":
        return None
    from memmodel.closed_forms import largest_size  # sympy takes longer to import than most searches

    room = room_bytes(gpu)
    assert room is not None
    try:
        return largest_size(case, over, room)
    except UsageError:
        return None
