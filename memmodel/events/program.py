"""A program: the ordered events of one run, from which memory, time and pictures are computed.

Recording tensors and the tracer produce programs; liveness, the allocator model and the time model read them. Bytes are
raw (no allocator rounding); sizes are ints, arrays or symbols.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import CodeType
from typing import NamedTuple

from memmodel.base.dtypes import DType
from memmodel.events.work import Work
from memmodel.sizes.dims import Dim, Shape

COLLECTIVE = "collective"  # kind of a launch
STATE = "state"  # role of an input that the optimizer makes in the first step, after its backward


class Site(NamedTuple):
    """A place in the user's code: each frame's code object and instruction offset, innermost first."""

    frames: tuple[tuple[CodeType, int], ...]


class Alloc(NamedTuple):
    """An allocation of a storage, with the operator and the place in the user's code (see `memmodel.events.origin`).

    `stream`: the one that its block belongs to; 0 is the default stream.
    """

    key: int
    nbytes: Dim
    shape: Shape
    dtype: DType
    op: str
    site: Site | None
    role: str  # "tensor", "gradient", "temporary", "partial" (see `goes_in_steps`), "input", STATE
    stream: int = 0

    @property
    def goes_in_steps(self) -> bool:
        """Whether it is scratch of a reduction: formulas leave it out, since its size is a step function."""
        return self.role == "partial"


class Free(NamedTuple):
    """A free of a storage, when the last tensor on it goes."""

    key: int


class Save(NamedTuple):
    """An autograd node saves a storage for backward."""

    key: int
    node: str


class Release(NamedTuple):
    """An autograd node releases a saved storage."""

    key: int
    node: str


class Launch(NamedTuple):
    """A launch of a kernel.

    Attributes:
        name: as PyTorch's profiler groups kernels ("bmm", "softmax", "copy").
        work: FLOP by pipe, and bytes. dtype: of its result.
        kind, sizes: for the time model, which depends on them beside the work (see `memmodel.timing`):
            "elementwise", "triangle", "bernoulli": none. "broadcast": elements of the result. "masked_fill": elements
            where the mask is broadcast, else none. "reduction", "argmax", "softmax", "softmax_backward": rows, and
            elements of a row. "gemm": batch, m, n, k. "fused": for each grid of the launch its programs, blocks of all
            of them, blocks of the longest, rows and columns of the tile that a program owns. "collective": its bytes.
        cublas: whether it runs through cuBLAS, with the workspace of its thread. adds_bias: whether cuBLASLt runs it,
            since it adds a bias.
        in_place: whether it writes to a storage that was written before, whose pages are mapped.
        gradient: whether it computes a gradient.
        thread: "main" or "autograd": each owns a cuBLAS handle and so a workspace.
        needed: of `work`, that which the results need: the mask's own score pairs and not the rest of the tiles around
            them, each operand once. None where that is all of it.
        ranks: of a collective, those that take part.
        stream: on which it runs, after what was put there before; 0 is the default stream.
    """

    name: str
    work: Work
    dtype: DType
    kind: str = "elementwise"
    sizes: tuple[Dim, ...] = ()
    cublas: bool = False
    in_place: bool = False
    gradient: bool = False
    thread: str = "main"
    needed: Work | None = None
    adds_bias: bool = False
    ranks: tuple[int, ...] = ()
    stream: int = 0

    @property
    def least(self) -> Work:
        """The work that no kernel for the same results can do without: a lower bound of time counts nothing else."""
        return self.work if self.needed is None else self.needed


class Wait(NamedTuple):
    """What is put on `stream` from here on runs after what is on `other` now."""

    stream: int
    other: int


class Mark(NamedTuple):
    """The start of a phase: "inputs", "forward", "backward", ..."""

    phase: str


Event = Alloc | Free | Save | Release | Launch | Wait | Mark


class Program(NamedTuple):
    """The events of a run, in order, with names for the storages that have one.

    Attributes:
        events: in order.
        names: storage key -> name, for those named explicitly (inputs).
        gradients: key of a gradient's storage -> key of the storage that it is the gradient of.
        groups: storage key -> what it belongs to (see `memmodel.events.groups`), where its maker says so.
    """

    events: list[Event]
    names: dict[int, str]
    gradients: dict[int, int]
    groups: Mapping[int, str] = {}

    def births(self) -> Iterator[Alloc]:
        """The allocations, in order."""
        return (event for event in self.events if isinstance(event, Alloc))

    def inputs(self) -> frozenset[int]:
        """The storages that are allocated before a step, as its inputs."""
        found, within = set[int](), False
        for event in self.events:
            if type(event) is Alloc and within:
                found.add(event.key)
            elif type(event) is Mark:
                within = event.phase == "inputs"
                found = set() if within else found
        return frozenset(found)

    def without(self, keys: Collection[int]) -> "Program":
        """The program without these storages."""
        return self._replace(events=[e for e in self.events if getattr(e, "key", None) not in keys])

    def without_shared_scratch(self) -> "Program":
        """The program without the scratch of whole reductions, which formulas leave out."""
        return self.without({birth.key for birth in self.births() if birth.goes_in_steps})

    def reshaped(self, shapes: Mapping[int, Shape]) -> "Program":
        """The program with the shapes of some storages, by key, replaced."""
        return self._replace(
            events=[e._replace(shape=shapes.get(e.key, e.shape)) if isinstance(e, Alloc) else e for e in self.events]
        )

    def mapped(self, number: Callable[[Dim], Dim]) -> "Program":
        """The program with `number` applied to every size, byte count and amount of work."""
        return self._replace(events=[_mapped(event, number) for event in self.events])

    def launches(self) -> Iterator[Launch]:
        """The kernels, in order."""
        return (event for event in self.events if isinstance(event, Launch))

    def phases(self) -> dict[str, list[Event]]:
        """The events of each phase, its mark first; a later phase of the same name replaces an earlier one."""
        parts: dict[str, list[Event]] = {}
        current: list[Event] = []
        for event in self.events:
            if isinstance(event, Mark):
                current = parts[event.phase] = []
            current.append(event)
        return parts


def total_work(launches: Iterable[Launch]) -> Work:
    """The work of kernels together. Layers that are alike share their launches: these are counted, then added."""
    kernels = list(launches)
    times, known = Counter(map(id, kernels)), {id(launch): launch for launch in kernels}
    return sum((known[key].work * count for key, count in times.items()), start=Work())


def _mapped(event: Event, number: Callable[[Dim], Dim]) -> Event:
    if isinstance(event, Alloc):
        return event._replace(nbytes=number(event.nbytes), shape=tuple(map(number, event.shape)))
    if isinstance(event, Launch):
        sizes = tuple(map(number, event.sizes))
        needed = None if event.needed is None else event.needed.mapped(number)
        return event._replace(work=event.work.mapped(number), sizes=sizes, needed=needed)
    return event
