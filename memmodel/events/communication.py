"""The collectives of a rank's step, by kind and by the ranks that take part."""

from collections.abc import Iterable
from typing import NamedTuple

from memmodel.events.program import COLLECTIVE, Launch


class Collective(NamedTuple):
    """Collectives of one kind among ranks of the same number and spread.

    Attributes:
        kind: "all_gather", "reduce_scatter", "all_reduce", "all_to_all", "send", "receive" ...
        ranks: how many take part. nodes: on how many machines these are.
        calls: in a step. nbytes: of all calls, as NCCL counts them (`memmodel.rules.collectives`).
    """

    kind: str
    ranks: int
    nodes: int
    calls: int
    nbytes: int


def collectives(launches: Iterable[Launch], node: int) -> tuple[Collective, ...]:
    """The collectives among these kernels, most bytes first; `node` GPUs share a machine."""
    found: dict[tuple[str, int, int], list[int]] = {}
    for launch in launches:
        if launch.kind == COLLECTIVE:
            nodes = len({rank // node for rank in launch.ranks})
            found.setdefault((launch.name, len(launch.ranks), nodes), []).append(int(launch.sizes[0]))
    made = [Collective(*key, len(sizes), sum(sizes)) for key, sizes in found.items()]
    return tuple(sorted(made, key=lambda each: -each.nbytes))
