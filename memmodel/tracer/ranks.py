"""Which ranks of a world to trace: the ends of each dimension of its mesh, and every stage of a pipeline.

Ranks along a dimension of a mesh do alike but for their shards, of which the first is the largest (torch.chunk), and
for their place in a pipeline. Those between the ends are taken as the first.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from memmodel.prediction import Memory

_STAGES = ("pp", "pipe", "pipeline", "stage", "stages")  # what a mesh's dimension of pipeline stages is called
_MOST_STAGES = 8  # that are all traced; of more, the first two, the middle and the last


class Mesh(NamedTuple):
    """All ranks in the order of a mesh, row-major, with the sizes and names of its dimensions."""

    ranks: tuple[int, ...]
    shape: tuple[int, ...]
    names: tuple[str, ...]


class RankUsage(NamedTuple):
    """Memory of ranks that do alike, in bytes: which as text, such as "0-62, 64", and how many."""

    ranks: str
    number: int
    live_peak_bytes: int
    allocated_peak_bytes: int
    reserved_peak_bytes: int
    fits: bool | None


def largest_mesh(size: int, made: Iterable[Mesh]) -> Mesh:
    """The mesh of all ranks with the most dimensions; all in a row where the code made none."""
    row = Mesh(tuple(range(size)), (size,), ("",))
    return max(
        (*made, row), key=lambda mesh: (len(mesh.ranks) == size, sum(n > 1 for n in mesh.shape), mesh is not row)
    )


def to_trace(mesh: Mesh, sends: bool) -> list[int]:
    """The ranks that stand for all. `sends`: whether ranks send to one another, as stages do."""
    staged = [name.lower() in _STAGES for name in mesh.names]
    # A row of ranks that send to one another is a pipeline, whatever its dimension is called.
    if sends and not any(staged) and len(mesh.shape) == 1:
        staged = [True]
    places = product(*(_places(n, stage) for n, stage in zip(mesh.shape, staged, strict=True)))
    return sorted({mesh.ranks[_index(place, mesh.shape)] for place in places})


def _places(size: int, stage: bool) -> list[int]:
    if not stage:
        return sorted({0, size - 1})
    return list(range(size)) if size <= _MOST_STAGES else sorted({0, 1, size // 2, size - 1})


def _index(place: Sequence[int], shape: Sequence[int]) -> int:
    index = 0
    for at, size in zip(place, shape, strict=True):
        index = index * size + at
    return index


def table(mesh: Mesh, traced: Mapping[int, Memory]) -> tuple[RankUsage, ...]:
    """Every rank's memory, alike ones together, the fullest first."""
    found: dict[tuple[int, int, int, bool | None], list[int]] = {}
    for rank in mesh.ranks:
        memory = traced[_stands_for(rank, mesh, traced)]
        key = memory.live_peak_bytes, memory.allocated_peak_bytes, memory.reserved_peak_bytes, memory.fits
        found.setdefault(key, []).append(rank)
    rows = [RankUsage(spans(ranks), len(ranks), *key) for key, ranks in found.items()]
    return tuple(sorted(rows, key=lambda row: (-row.reserved_peak_bytes, -row.allocated_peak_bytes)))


def _stands_for(rank: int, mesh: Mesh, traced: Mapping[int, Memory]) -> int:
    """The traced rank with the nearest place at or before this one's in every dimension."""
    place = _place(mesh.ranks.index(rank), mesh.shape)
    before = [
        other
        for other in traced
        if all(a <= b for a, b in zip(_place(mesh.ranks.index(other), mesh.shape), place, strict=True))
    ]
    return max(before or traced, key=lambda other: _place(mesh.ranks.index(other), mesh.shape))


def _place(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    found: list[int] = []
    for size in reversed(shape):
        index, at = divmod(index, size)
        found.append(at)
    return tuple(reversed(found))


def spans(ranks: Iterable[int]) -> str:
    """Numbers in short: "0-2, 5"."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and runs[-1][1] == rank - 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
