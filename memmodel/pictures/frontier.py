"""The frontier picture: the longest sequence that fits, against batch or heads; also as a heat map of memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from memmodel.algorithms import algorithm
from memmodel.allocator import AllocatorConfig
from memmodel.attention.case import LARGEST, Case, check_size
from memmodel.base.errors import UsageError, choice
from memmodel.base.rendering import Drawing
from memmodel.base.search import last_true
from memmodel.cases import on_gpu
from memmodel.gpus import Gpu
from memmodel.models.capacity import model_threshold
from memmodel.models.setting import ModelCase
from memmodel.recorder import record
from memmodel.step import fits, memory_of, room_bytes
from memmodel.thresholds import resized

AGAINST = ("batch", "heads")
STEP = 128  # sequences are multiples of this, the length of a large tile


class Wall(NamedTuple):
    """The longest sequence that fits at one size: a multiple of the step, 0 if none fits."""

    size: int
    largest: int


class Line(NamedTuple):
    """The walls of one algorithm on one GPU."""

    algorithm: str
    title: str
    gpu: str
    gpu_id: str
    walls: tuple[Wall, ...]


@dataclass(frozen=True, slots=True)
class Frontier(Drawing):
    """Lines of one configuration. `against` is the size on the x axis; sequences are multiples of `step`.

    `most` is the longest sequence that a model takes, where its positions are a table.
    """

    case: str
    against: str
    step: int
    lines: tuple[Line, ...]
    most: int | None = None


class Cell(NamedTuple):
    """The memory of one pair of sizes: its reserved peak, and whether it fits."""

    size: int
    seq: int
    reserved_peak_bytes: int
    fits: bool


@dataclass(frozen=True, slots=True)
class HeatMap(Drawing):
    """One algorithm on one GPU: the memory of every pair of sizes, and the longest sequences that fit."""

    case: str
    against: str
    title: str
    gpu: str
    capacity_bytes: int
    sizes: tuple[int, ...]
    seqs: tuple[int, ...]
    cells: tuple[Cell, ...]
    line: Line


def frontier(
    cases: Sequence[Case],
    gpus: Sequence[Gpu],
    against: str = "batch",
    sizes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    step: int = STEP,
    config: AllocatorConfig | None = None,
) -> Frontier:
    """The longest sequence that fits, by size, for each algorithm's case and GPU.

    Raises UsageError for sizes that do not rise, heads that are not whole groups, or a GPU without a known capacity.
    """
    against = choice("size", against, AGAINST)
    _check(cases[0], gpus, against, sizes, step)
    lines = [_line(case, gpu, against, sizes, step, config) for gpu in gpus for case in on_gpu(cases, gpu)]
    return Frontier(_words(cases[0], against), against, step, tuple(lines))


def model_frontier(
    case: ModelCase,
    gpus: Sequence[Gpu],
    sizes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    step: int = STEP,
    config: AllocatorConfig | None = None,
) -> Frontier:
    """The longest sequence of a whole model's step that fits, by batch, for each GPU.

    Raises UsageError for batches that do not rise, and as `model_threshold`.
    """
    _check_rising("batch", sizes)

    def wall(gpu: Gpu, size: int) -> Wall:
        return Wall(size, model_threshold(replace(case, batch=size), gpu, "seq", step, config).largest)

    name = case.arch.name
    lines = [Line(name, name, gpu.name, gpu.id, tuple(wall(gpu, size) for size in sizes)) for gpu in gpus]
    words = [part for part in case.describe(without="seq").split(", ") if not _names(part, "batch")]
    return Frontier(", ".join([name, *words]), "batch", step, tuple(lines), case.arch.most_tokens)


def _words(case: Case, against: str) -> str:
    """The configuration without the two sizes that vary."""
    return ", ".join(part for part in case.describe(without="seq").split(", ") if not _names(part, against))


def _names(part: str, against: str) -> bool:
    return part.startswith("batch ") if against == "batch" else part.endswith("heads")


def _check(case: Case, gpus: Sequence[Gpu], against: str, sizes: Sequence[int], step: int) -> None:
    check_size("step", step)
    _check_rising(against, sizes)
    group = case.heads // case.kv_heads
    if against == "heads" and any(size % group for size in sizes):
        raise UsageError(f"heads {','.join(map(str, sizes))}: {group} share a kv head, expected multiples of {group}")
    for gpu in gpus:
        if room_bytes(gpu) is None:
            gpu.listed("capacity")  # raises, naming the key


def _check_rising(against: str, sizes: Sequence[int]) -> None:
    if not sizes or list(sizes) != sorted(set(sizes)):
        raise UsageError(f"{against} {','.join(map(str, sizes))}: expected rising sizes such as 1,2,4,8")


def _line(case: Case, gpu: Gpu, against: str, sizes: Sequence[int], step: int, config: AllocatorConfig | None) -> Line:
    walls: list[Wall] = []
    for size in sizes:
        sized = resized(case, against, size)
        before = walls[-1] if walls else None
        # Memory grows about as size times sequence, so that the next wall is near where their product stays.
        guess = before.largest * before.size // size // step if before else 0
        walls.append(Wall(size, step * last_true(_runs(sized, gpu, step, config), LARGEST // step, guess)))
    return Line(case.algorithm, algorithm(case.algorithm).title, gpu.name, gpu.id, tuple(walls))


def _runs(case: Case, gpu: Gpu, step: int, config: AllocatorConfig | None) -> Callable[[int], bool]:
    def runs(count: int) -> bool:
        sized = resized(case, "seq", count * step)
        return bool(fits(record(sized), sized.torch, gpu, config))

    return runs


def heat_map(
    case: Case,
    gpu: Gpu,
    against: str = "batch",
    sizes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    step: int = STEP,
    config: AllocatorConfig | None = None,
) -> HeatMap:
    """The memory of one algorithm at sizes and sequences around the longest that fit. Raises as `frontier`."""
    against = choice("size", against, AGAINST)
    _check(case, [gpu], against, sizes, step)
    (sized,) = on_gpu([case], gpu)
    line = _line(sized, gpu, against, sizes, step, config)
    seqs = _sequences(line, step)
    cells = []
    for seq in seqs:
        for size in sizes:
            at = resized(resized(sized, against, size), "seq", seq)
            taken = memory_of(record(at), at.torch, gpu, config)
            cells.append(Cell(size, seq, taken.reserved_peak_bytes, bool(taken.fits)))
    return HeatMap(
        *(_words(case, against), against, line.title, gpu.name, gpu.capacity_bytes),
        *(tuple(sizes), seqs, tuple(cells), line),
    )


def _sequences(line: Line, step: int) -> tuple[int, ...]:
    """Two sequences per octave, from below the shortest of the longest sequences to above the longest."""
    lengths = [wall.largest for wall in line.walls if wall.largest] or [step]
    low, high = min(lengths).bit_length() - 2, max(lengths).bit_length()
    found = {half * (1 << power) // 2 // step * step for power in range(low, high + 1) for half in (2, 3)}
    return tuple(sorted(seq for seq in found if 0 < seq <= min(2 * max(lengths), LARGEST)))
