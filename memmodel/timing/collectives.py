"""The time of a collective: at least by the vendor's rates, and to expect by NCCL's own model, with an interval.

The ranks of a group are spread evenly over machines whose other GPUs run the same collective in groups of their own, as
the groups of a parallel layout do: a group has its part of the network's ports.
"""

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

from memmodel.base.errors import choice
from memmodel.gpus.links import Node
from memmodel.timing.nccl import Candidate, Group, candidates

# Published bandwidths over expected ones, least and most in evidence/memmodel_evidence/data/collectives.csv:
# an all-reduce of 512 MiB on 72 GB200, and the best size of one on 24 A100. Others of Hopper and Ampere are within 5 %,
# PCIe's 6 to 27 % below; NCCL's model is 8 to 36 % above what is published of Blackwell.
SLOWEST, FASTEST = 0.64, 1.12
_PEERS = 8  # messages that NCCL sends at once (NCCL_MAX_DEV_WORK_P2P_PER_BATCH in src/include/device.h)
_BASE, _HOP = 8.4e-6, {"nvlink": 3.4e-6, "pcie": 5.7e-6, "network": 14e-6}  # Ring, Simple (src/graph/tuning.cc)


class CollectiveTime(NamedTuple):
    """The time of one collective.

    Attributes:
        seconds: to expect. low, high: the interval of it.
        at_least: the bytes that have to cross the slowest link, at the vendor's rate.
        algorithm, protocol: NCCL's choice, "Ring", "LL128"; "messages" where ranks send to each other.
    """

    seconds: float
    low: float
    high: float
    at_least: float
    algorithm: str
    protocol: str


def collective_time(kind: str, ranks: int, nodes: int, nbytes: float, node: Node) -> CollectiveTime:
    """The time of a collective among `ranks` GPUs on `nodes` machines of a kind.

    `nbytes` is NCCL's count: the buffer of an all-reduce, broadcast or reduce, the whole output of an all-gather or a
    gather, the whole input of a reduce-scatter, a scatter or (of one rank) an all-to-all, the message of a send or a
    receive. Raises UsageError for another kind.
    """
    bound = _BOUNDS[choice("collective", kind, _BOUNDS)]
    group = Group(ranks, max(min(nodes, ranks), 1), node)
    if ranks < 2 or nbytes <= 0:
        return CollectiveTime(0.0, 0.0, 0.0, 0.0, "none", "none")
    least = bound(group, float(nbytes))
    chosen = min(_choices(kind, group, float(nbytes)), key=lambda candidate: candidate.seconds)
    seconds = max(chosen.seconds, least)  # NCCL's model does not know the vendor's peak
    return CollectiveTime(
        seconds, max(least, seconds / FASTEST), seconds / SLOWEST, least, chosen.algorithm, chosen.protocol
    )


def bus_bandwidth(kind: str, ranks: int, nbytes: float, seconds: float) -> float:
    """nccl-tests' busbw in byte/s (doc/PERFORMANCE.md): what a link carries if a ring is used."""
    share = (ranks - 1) / ranks
    factor = {"all_reduce": 2 * share, "all_gather": share, "reduce_scatter": share, "all_to_all": share}
    return factor.get(kind, 1.0) * nbytes / seconds


def _choices(kind: str, group: Group, nbytes: float) -> list[Candidate]:
    if kind in ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce"):
        return list(candidates(kind, group, nbytes))
    return [Candidate("messages", "Simple", _messages(kind, group, nbytes))]


def _messages(kind: str, group: Group, nbytes: float) -> float:
    """Seconds of ranks that send to each other, which NCCL's model leaves out.

    The links' payload rates, the slower part deciding (NVIDIA/nccl-tests#130), and a step for each batch of peers.
    """
    within, port = group.node.links * group.node.link.nccl, group.node.network.nccl
    across = group.node.ports / group.node.gpus * port  # of a rank
    hop = _HOP["network" if group.nodes > 1 else group.node.link.kind]
    if kind in ("send", "receive"):
        return _BASE + hop + nbytes / (within if group.nodes == 1 else min(across, port))
    peers = group.ranks - 1
    inside, outside = (group.per_node - 1) / group.ranks, (group.ranks - group.per_node) / group.ranks
    return _BASE + ceil(peers / _PEERS) * hop + nbytes * max(inside / within, outside / across)


def _peak_within(group: Group) -> float:
    """Bytes a second that a GPU can send, and receive: to its machine, and by its part of the ports."""
    node = group.node
    own = node.links * node.link.peak if group.per_node > 1 else 0.0
    return own + (node.ports * node.network.peak / node.gpus if group.nodes > 1 else 0.0)


def _peak_across(group: Group) -> float:
    """Bytes a second of the group's ports of one machine."""
    return group.ports * group.node.network.peak


def _gathered(group: Group, nbytes: float) -> float:
    """All-gather, and reduce-scatter backwards: a rank receives what it lacks, a machine what its ranks lack."""
    others, foreign = (group.ranks - 1) / group.ranks, (group.nodes - 1) / group.nodes
    crossing = nbytes * foreign / _peak_across(group) if group.nodes > 1 else 0.0
    return max(nbytes * others / _peak_within(group), crossing)


def _reduced(group: Group, nbytes: float) -> float:
    """All-reduce: 2 (n - 1) / n of the buffer (Patarasu and Yuan, 2009), or once where switches reduce."""
    # NVLink SHARP: a rank sends its buffer to the switches once, and they add (NCCL's NVLS).
    by_switch = group.node.switched and group.node.capability >= 90 and group.per_node > 1
    times = 1.0 if by_switch else 2 * (group.ranks - 1) / group.ranks
    crossing = 2 * (group.nodes - 1) / group.nodes * nbytes / _peak_across(group) if group.nodes > 1 else 0.0
    return max(times * nbytes / _peak_within(group), crossing)


def _exchanged(group: Group, nbytes: float) -> float:
    """All-to-all: a rank sends all but its own part, and a machine's ports carry what leaves it."""
    others, foreign = (group.ranks - 1) / group.ranks, (group.nodes - 1) / group.nodes
    crossing = group.per_node * nbytes * foreign / _peak_across(group) if group.nodes > 1 else 0.0
    return max(nbytes * others / _peak_within(group), crossing)


def _sent(group: Group, nbytes: float) -> float:
    return nbytes / (_peak_within(group) if group.nodes == 1 else _peak_across(group) / group.per_node)


def _broadcast(group: Group, nbytes: float) -> float:
    crossing = nbytes / _peak_across(group) if group.nodes > 1 else 0.0
    return max(nbytes / _peak_within(group), crossing)


_BOUNDS: dict[str, Callable[[Group, float], float]] = {
    "all_gather": _gathered,
    "reduce_scatter": _gathered,
    "all_reduce": _reduced,
    "all_to_all": _exchanged,
    "send": _sent,
    "receive": _sent,
    "broadcast": _broadcast,
    "reduce": _broadcast,
    "gather": _gathered,
    "scatter": _gathered,
}
