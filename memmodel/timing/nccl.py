"""NCCL's own model of a collective: latency + bytes / bandwidth of each algorithm and protocol; it takes the fastest.

Source: NVIDIA/nccl at 5067397c (2.30): src/graph/tuning.cc (ncclTopoTuneModel, ncclTopoGetAlgoTime and the constants
there), src/graph/search.cc (the speeds that channels may have, ncclTopoCompute, ncclTopoDupChannels). The search over
the machine's graph is replaced by the sizes of its links: channels of one speed, as many as the links hold.

Rates here are in GB/s (1e9 B/s) and times in microseconds, as there. Left out: CollNet (the network's SHARP), which has
to be turned on, and the CPU's share: an Intel host is taken.
"""

from collections.abc import Iterator
from math import floor, inf, log2
from typing import NamedTuple

from memmodel.gpus.links import Node

PROTOCOLS = ("LL", "LL128", "Simple")
_BASE = {"Tree": (6.8, 14.0, 8.4), "Ring": (6.6, 14.0, 8.4), "NVLS": (0, 0, 0), "NVLSTree": (0, 0, 0), "PAT": (8, 8, 8)}
_STEP = {  # microseconds of a step by link and algorithm, in the order of PROTOCOLS
    "nvlink": {"Tree": (0.6, 1.25, 4.0), "Ring": (0.6, 1.9, 3.4), "NVLS": (0, 0, 25), "NVLSTree": (0, 0, 25)},
    "pcie": {"Tree": (1.0, 1.9, 4.0), "Ring": (1.0, 2.5, 5.7), "NVLS": (0, 0, 0), "NVLSTree": (0, 0, 0)},
    "network": {
        **{"Tree": (5.0, 8.5, 14), "Ring": (2.7, 4.0, 14), "NVLS": (0, 0, 18), "NVLSTree": (0, 0, 20.9)},
        **{"PAT": (0, 0, 14)},
    },
}
_POST = 1.0  # microseconds to post a message, on an Intel host; three times that under Simple
# By generation (Volta, Ampere, Hopper, Blackwell), each for one node, two, and more
_LL_MOST = ((39.0, 39.0, 20.4), (87.7, 22.5, 19.0), (141.0, 45.0, 35.0), (282.0, 90.0, 70.0))
_RING_LL128 = (20.0, 20.0, 36.7, 40.0)
_TREE_LL128 = ((20.0, 20.0, 20.0), (20.0, 20.0, 20.0), (36.7, 36.7, 29.0), (55.6, 31.67, 20.0))
_TREE = ((26.5, 18.5, 10.0), (24.0, 23.6, 17.8), (38.7, 41.4, 36.0), (70.0, 42.8, 24.0))
_NVLS_TREE = ((26.5, 18.5, 10.0), (24.0, 23.6, 17.8), (0.0, 57.7, 45.5), (0.0, 96.0, 80.0))
_NVLS_EFFICIENCY = (0.0, 0.0, 0.85, 0.74)
_NVLS_ARITY = 32
# What a tree reaches of its bandwidth by size, from 64 B in powers of two
_TREE_CORRECTION = {
    "LL": (1, 1, 1, 1, 0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1, 1, 1),
    "LL128": (1, 1, 1, 1, 1, 0.9, 0.8, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.8, 0.9, 0.9, 0.9, 0.9, 1, 1),
    "Simple": (
        *(0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.7, 0.6, 0.6, 0.5),
        *(0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.7, 0.7, 0.8, 0.9, 0.9),
    ),
}
_SPEEDS_WITHIN = (
    (40, 30, 20, 18, 15, 12, 10, 9, 7, 6, 5, 4, 3),
    (60, 50, 40, 30, 24, 20, 15, 12, 11, 6, 3),
    (90, 80, 70, 60, 50, 45, 40, 30, 24, 20, 19, 18),
)
_SPEEDS_ACROSS = (
    (48, 30, 28, 24, 20, 18, 15, 12, 10, 9, 7, 6, 5, 4, 3, 2.4, 1.2, 0.24, 0.12),
    (48, 45, 42, 40, 30, 24, 22, 20, 17.5, 15, 12, 6, 3, 2.4, 1.2, 0.24, 0.12),
    (96, 86, 80, 48, 45.1, 42, 40, 30, 24, 22, 20, 17.5, 15, 12, 6, 3, 2.4, 1.2, 0.24, 0.12),
)


class Candidate(NamedTuple):
    """An algorithm under a protocol, and the seconds that NCCL expects of it."""

    algorithm: str
    protocol: str
    seconds: float


class Channels(NamedTuple):
    """Parallel paths over the same ranks: their number, and the GB/s of each within and between machines."""

    number: int
    within: float
    across: float


class Group(NamedTuple):
    """The ranks of a collective: how many, on how many machines of a kind, evenly spread."""

    ranks: int
    nodes: int
    node: Node

    @property
    def per_node(self) -> float:
        """Ranks on one machine."""
        return self.ranks / self.nodes

    @property
    def generation(self) -> int:
        """The row of NCCL's constants: Volta, Ampere, Hopper, Blackwell."""
        return sum(self.node.capability >= first for first in (80, 90, 100))

    @property
    def spread(self) -> int:
        """The column of NCCL's constants: one machine, two, more."""
        return min(self.nodes, 3) - 1

    @property
    def within(self) -> float:
        """GB/s of a GPU to the others of its machine."""
        return self.node.links * self.node.link.nccl / 1e9

    @property
    def ports(self) -> float:
        """Ports of a machine that are this group's, where the machine's other GPUs do the same at the same time."""
        return self.node.ports * self.per_node / self.node.gpus


def candidates(kind: str, group: Group, nbytes: float) -> Iterator[Candidate]:
    """The candidates among which NCCL chooses for a collective, but not for messages from rank to rank.

    `kind` is an all-reduce, all-gather, reduce-scatter, broadcast or reduce. `nbytes` is the buffer of an all-reduce,
    broadcast or reduce, the whole output of an all-gather, the whole input of a reduce-scatter.
    """
    low_latency = group.node.link.kind == "nvlink"  # LL128 needs stores of 128 B in order, which PCIe does not promise
    for protocol in PROTOCOLS:
        if protocol == "LL128" and not low_latency:
            continue
        found = [("Ring", *_ring(kind, group, protocol, nbytes))]
        if kind == "all_reduce":
            found.append(("Tree", *_tree(group, protocol, nbytes)))
        if protocol == "Simple" and kind in ("all_gather", "reduce_scatter") and 1 < group.nodes == group.ranks:
            found.append(("PAT", *_pat(group)))
        if protocol == "Simple" and group.node.switched and group.generation >= 2:
            found += [(name, *rate) for name, rate in _nvls(kind, group)]
        for algorithm, latency, rate in found:
            if rate > 0:
                yield Candidate(algorithm, protocol, latency * 1e-6 + nbytes / (rate * 1e9))


def _ring(kind: str, group: Group, protocol: str, nbytes: float) -> tuple[float, float]:
    """(latency, bytes of the collective over time) of a ring through all ranks."""
    channels, n = _channels(group), group.ranks
    bus = channels.number * (channels.within if group.nodes <= 2 else channels.across)
    if protocol == "LL":  # 4 bytes of flag with each 4 of data
        bus = min(_LL_MOST[group.generation if group.nodes == 1 else 0][group.spread], bus / 2)
    elif protocol == "LL128":
        bus = min(bus * 0.92, channels.number * _RING_LL128[group.generation])
    steps = {"all_reduce": 2 * (n - 1), "all_gather": n - 1, "reduce_scatter": n - 1}.get(kind, n)
    within, across = _steps(group, "Ring", protocol)
    if kind not in ("all_reduce", "all_gather", "reduce_scatter"):
        return _BASE["Ring"][PROTOCOLS.index(protocol)] + (across if group.nodes > 1 else within), bus
    if group.nodes > 1:
        within = max(within, _POST * (3 if protocol == "Simple" else 1))
    between = (group.nodes - 1) * (2 if kind == "all_reduce" else 1)
    latency = _BASE["Ring"][PROTOCOLS.index(protocol)] + (steps - between) * within + between * across
    if protocol == "Simple" and group.nodes > 1 and kind == "all_reduce" and nbytes >= 64 * channels.number * n:
        latency *= 1.9 if group.generation == 0 else 1.4  # "Plateau effect of ring" in ncclTopoGetAlgoTime
    return latency, bus * n / steps


def _tree(group: Group, protocol: str, nbytes: float) -> tuple[float, float]:
    """A pair of binary trees over machines, chains inside them: sums go up, results come down."""
    channels = _channels(group)
    generation, spread = group.generation, group.spread
    within = channels.within
    if group.nodes > 1:  # a tree's channels may run faster inside machines than the ring's
        fits = min(group.within / channels.number, 2 * channels.across)
        within = max([within, *(s for s in _speeds(group) if s <= fits)])
    bus = channels.number * (within if group.nodes <= 2 else channels.across)
    bus = min(bus * 0.92, channels.number * _TREE[generation][spread])
    if protocol == "LL":
        bus = min(bus / 3.8, _LL_MOST[generation if group.nodes == 1 else 0][spread])
    elif protocol == "LL128":
        bus = min(bus * (7 / 9 if group.nodes == 1 else 120 / 128), channels.number * _TREE_LL128[generation][spread])
    correction, doublings = _TREE_CORRECTION[protocol], int(nbytes) >> 6
    if doublings and doublings.bit_length() <= len(correction):
        bus *= correction[doublings.bit_length() - 1]
    # Up and down: twice the steps of one way, and half the channels' rate.
    step, across = _steps(group, "Tree", protocol)
    latency = 2 * ((group.per_node - 1) * step + floor(log2(group.nodes)) * across)
    return _BASE["Tree"][PROTOCOLS.index(protocol)] + latency, bus / 2


def _nvls(kind: str, group: Group) -> Iterator[tuple[str, tuple[float, float]]]:
    """NVSwitch reduces and multicasts on its way (NVLink SHARP); between machines, by trees."""
    heads = min(_NVLS_ARITY, floor(group.per_node))
    if heads < 2 or kind not in ("all_reduce", "all_gather", "reduce_scatter"):
        return
    generation = group.generation
    fastest = max((s for s in _speeds(group, within=True) if s * heads <= group.within), default=0)
    rate = fastest * _NVLS_EFFICIENCY[generation] * (heads - 1) / heads
    ratio = group.ranks / (2 * (group.ranks - 1))  # from nccl-tests' bus bandwidth to bytes over time
    step, across = _steps(group, "NVLSTree" if group.nodes > 1 else "NVLS", "Simple")
    if kind != "all_reduce":
        if group.nodes == 1:
            yield "NVLS", (step, heads * rate * (group.per_node - 1) / group.per_node)
    elif group.nodes == 1:
        yield "NVLS", (step, heads * rate * 2 * ratio)
    else:
        port = _port(group) * min(1, group.ports / heads)
        between = max((s for s in _speeds(group) if s <= port and s * heads <= group.within), default=port)
        bus = min(rate * 2, between * (2 if group.nodes == 2 else 1), _NVLS_TREE[generation][group.spread])
        yield "NVLSTree", (step + 2 * floor(log2(group.nodes)) * across, heads * bus * ratio)


def _pat(group: Group) -> tuple[float, float]:
    """Parallel aggregated trees, for one rank a machine."""
    channels = _channels(group)
    # 3.5 and 2.8 are ncclTopoTuneModel's: a logarithmic part, and one that is still linear in the ranks.
    latency = _BASE["PAT"][2] + floor(log2(group.nodes)) * _STEP["network"]["Tree"][2] / 3.5 + group.ranks * 2.8
    return latency, channels.number * channels.across


def _steps(group: Group, algorithm: str, protocol: str) -> tuple[float, float]:
    """Microseconds of a step within and between machines. With one rank a machine they are a tree's."""
    index = PROTOCOLS.index(protocol)
    across = _STEP["network"]["Tree" if group.per_node == 1 else algorithm][index]
    return _STEP[group.node.link.kind][algorithm][index], across


def _channels(group: Group) -> Channels:
    """The channels of rings and trees: of the speeds that NCCL tries, down to half the first that fits, the most."""
    speeds = _speeds(group)
    first = next((speed for speed in speeds if _held(group, speed)), None)
    if first is None:  # slower than any speed of the list: ports that other groups share
        slow = min(group.within, group.ports * _port(group))
        return Channels(1, slow, slow)
    tried = [speed for speed in speeds if 0.49 * first < speed <= first]
    speed = max(tried, key=lambda speed: _held(group, speed) * speed)
    return _doubled(Channels(_held(group, speed), speed, speed), group)


def _held(group: Group, speed: float) -> int:
    """How many channels of a speed the links of a rank and the ports of a machine hold."""
    within = group.within / speed if group.per_node > 1 else inf
    across = group.ports * (_port(group) // speed) if group.nodes > 1 else inf
    return floor(min(within, across))


def _doubled(channels: Channels, group: Group) -> Channels:
    """Fast channels are cut in two (ncclTopoDupChannels)."""
    few = channels.number <= 4 or channels.within >= 50 or group.node.capability <= 80
    if channels.within < 25 or not few:
        return channels
    return Channels(2 * channels.number, channels.within / 2, channels.across / 2)


def _port(group: Group) -> float:
    """GB/s of one port."""
    return group.node.network.nccl / 1e9


def _speeds(group: Group, within: bool = False) -> tuple[float, ...]:
    lists = _SPEEDS_WITHIN if within or group.nodes == 1 else _SPEEDS_ACROSS
    return lists[max(group.generation - 1, 0)]
