"""The largest batch, or the longest sequences, with which a model's step fits on a GPU."""

from dataclasses import replace
from typing import Any

from memmodel.allocator import AllocatorConfig
from memmodel.attention.case import LARGEST, check_size
from memmodel.base.errors import UsageError, choice
from memmodel.base.frozen import Frozen
from memmodel.base.search import last_true
from memmodel.events.liveness import summary
from memmodel.events.program import Alloc, Event, Program
from memmodel.gpus import Gpu
from memmodel.models.choices import images_as_tokens
from memmodel.models.program import program_of
from memmodel.models.setting import ModelCase
from memmodel.prediction import Memory
from memmodel.step import device_of, fits, memory_of, room_bytes

OVER = ("batch", "seq")


class ModelThreshold(Frozen):
    """The largest size at which a model's step fits on a GPU.

    Attributes:
        gpu: the GPU. case: the case at the largest size, or at the smallest if none fits.
        over: "batch" or "seq". step: sizes are multiples of this.
        largest: the largest size that fits, 0 for none. first_failing: the next, None if the largest size tried fits.
        memory: at the largest size; None if none fits.
    """

    gpu: Gpu
    case: ModelCase
    over: str
    step: int
    largest: int
    first_failing: int | None
    memory: Memory | None


def model_threshold(
    case: ModelCase, gpu: Gpu, over: str = "batch", step: int = 1, config: AllocatorConfig | None = None
) -> ModelThreshold:
    """The largest multiple of `step` that fits on the GPU, and the next, which does not.

    Raises UsageError for an unknown size, a step below 1 or a GPU without a known capacity.
    """
    over, step = choice("size of a model", str(over).replace("-", "_"), OVER), check_size("step", step)
    if over == "seq" and case.arch.patches:
        raise UsageError(f"--over seq: {images_as_tokens(case.arch, case.arch.patches)}: take --over batch")
    if room_bytes(gpu) is None:
        gpu.listed("capacity")  # raises, naming the key
    case = replace(case, device=device_of(gpu))
    last = (case.arch.most_tokens if over == "seq" else None) or LARGEST
    if step > last:
        raise UsageError(f"--step {step}: above {last}, the most tokens of {case.arch.name}")
    end = last // step

    def runs(count: int) -> bool:
        return _runs(program_of(resized(case, over, count * step)), case, gpu, config)

    def memory_at(count: int) -> Memory | None:
        return memory_of(program_of(resized(case, over, count * step)), case.torch, gpu, config) if count else None

    # Extrapolation is quick but only near: the size that it finds is recorded, and the one above it.
    count = _count(case, gpu, over, step, end, config)
    memory = memory_at(count)
    # Some storage's bytes do not grow in proportion: every step of the search is then recorded.
    if (memory is not None and not memory.fits) or (count < end and runs(count + 1)):
        count = last_true(runs, end, count)
        memory = memory_at(count)
    at = resized(case, over, max(count, 1) * step)
    return ModelThreshold(gpu, at, over, step, count * step, (count + 1) * step if count < end else None, memory)


def _count(case: ModelCase, gpu: Gpu, over: str, step: int, end: int, config: AllocatorConfig | None) -> int:
    """The largest count of steps that fits, where every storage grows by the same bytes with each."""
    small = 1 if over == "batch" else min(max(1024, 2 * case.arch.window), end * step // 2)
    first, second = (program_of(resized(case, over, size)) for size in (small, 2 * small))
    if len(first.events) != len(second.events):  # other operators run at twice the size: nothing to extrapolate from
        return min(small, end * step) // step
    start, growth = _live(first), _live(second) - _live(first)
    room = room_bytes(gpu)
    assert room is not None
    # Where live bytes fill the room: a good start for the search, which replays the allocator.
    near = small + (room - start) * small // growth if growth > 0 else small

    def runs(count: int) -> bool:
        return _runs(_between(first, second, small, count * step), case, gpu, config)

    return last_true(runs, end, near // step)


def _between(first: Program, second: Program, size: int, wanted: int) -> Program:
    """The program at a size, from those at `size` and twice that, as if all bytes grew in proportion."""
    events: list[Event] = []
    for one, other in zip(first.events, second.events, strict=True):
        if isinstance(one, Alloc) and isinstance(other, Alloc) and one.nbytes != other.nbytes:
            grown = (other.nbytes - one.nbytes) * (wanted - size) // size
            events.append(one._replace(nbytes=max(0, one.nbytes + grown)))
        else:
            events.append(one)
    return first._replace(events=events)


def _runs(program: Program, case: ModelCase, gpu: Gpu, config: AllocatorConfig | None) -> bool:
    return bool(fits(program, case.torch, gpu, config))


def _live(program: Program) -> int:
    return int(summary(program).peaks["peak"])


def resized(case: ModelCase, over: str, size: int) -> ModelCase:
    """The case with another batch or other sequences."""
    sizes: dict[str, Any] = {over: size}
    return replace(case, **sizes)
