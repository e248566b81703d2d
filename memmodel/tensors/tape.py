"""The tape: it records the events of an algorithm that runs on recording tensors.

Tensors made inside `with Tape() as tape:` belong to it. Storages report their allocation and free, kernels their
launch, autograd the tensors that it saves and releases.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import CodeType, FrameType
from typing import Any, NamedTuple

from memmodel.base.device import CUDA, Device
from memmodel.base.dtypes import DType
from memmodel.base.errors import UsageError
from memmodel.events.program import Alloc, Event, Free, Launch, Mark, Program, Release, Save, Site, Wait
from memmodel.events.work import Work
from memmodel.sizes.dims import Dim, Shape

_DEPTH = 4  # frames of the user's code kept per allocation: enough to see through helper functions
ENGINE_STEP = "_evaluate"  # the frame of autograd's engine: what lies above it is not the user's line
_OURS = ("memmodel.recording", "memmodel.rules", "memmodel.tensors")
_READ = "memmodel.rules.plain_attention"  # an algorithm of PyTorch's written out: its variables name tensors
_event: Callable[[type[Event], tuple[Any, ...]], Event] = tuple.__new__  # half the time of the class's own constructor
_open: list["Tape"] = []


def current() -> "Tape":
    """The innermost open tape. Raises UsageError outside of one."""
    if not _open:
        raise UsageError("recording tensors are made inside `with memmodel.recording.Tape():`; no tape is open")
    return _open[-1]


class Scope(NamedTuple):
    """What runs: a layer of a model, counted from 0, and a part of the model; None and "" outside."""

    layer: int | None = None
    part: str = ""


class Tape:
    """Records one run. `thread` is the thread whose kernels run now: autograd's while a backward is under way."""

    def __init__(self, device: Device = CUDA, sites: bool = True) -> None:
        self.device = device
        self.events: list[Event] = []
        self.names: dict[int, str] = {}
        self.gradients: dict[int, int] = {}
        self.groups: dict[int, str] = {}  # what storages belong to, where their maker says so
        self.thread = "main"
        self.node: str | None = None  # the autograd node being evaluated
        self.fused = 0  # depth of fused kernels: inside, nothing is allocated and work adds up in `inner`
        self.inner = Work()
        self.unknown: dict[str, str] = {}  # operator -> what is not known about it
        self.choices: list[Any] = []  # of scaled_dot_product_attention's calls, in order (memmodel.rules.sdpa.Choice)
        self.grad_enabled = True
        self.hooks: list[Any] = []  # (pack, unpack) of tensors saved for backward, the innermost last
        self.autocast: DType | None = None  # the low precision of autocast, where it is on
        self.autocast_depth = 0
        self.casts: dict[int, Any] = {}  # by id of a leaf: its cast, until autocast ends
        self.selected: Any = None  # the operators whose results a checkpoint under way keeps, or gives back
        self.sequence = 0
        self.stream = 0  # on which kernels are put: what is allocated meanwhile belongs to it
        self.at_end: list[Callable[[], None]] = []  # what is called when the backward under way is over
        self.scope = Scope()
        self.scopes: list[tuple[int, Scope]] = []  # (number of events before, scope from there on)
        self.actions: list[int] = []  # number of events before each action of a pipeline
        self.layers: dict[int, int] = {}  # storage -> layer whose scope it was born in
        self.read_outside: set[int] = set()  # layers that an operator outside of all layers read, to allocate
        self._sites = sites
        self._keys = 0
        self._open = False

    def __enter__(self) -> "Tape":
        self._open = True
        _open.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        _open.remove(self)

    @property
    def program(self) -> Program:
        """The events recorded so far."""
        return Program(self.events, self.names, self.gradients, self.groups)

    def mark(self, phase: str) -> None:
        """Begin a phase: "inputs", "forward", "backward"."""
        self.events.append(Mark(phase))

    @contextmanager
    def casting(self, dtype: DType | None) -> Iterator[None]:
        """Inside the context, autocast runs in this precision; None: not at all. The outermost one drops the casts."""
        before, self.autocast = self.autocast, dtype
        self.autocast_depth += 1
        try:
            yield
        finally:
            self.autocast = before
            self.autocast_depth -= 1
            if not self.autocast_depth:
                self.casts.clear()

    @contextmanager
    def on_stream(self, number: int) -> Iterator[None]:
        """Inside the context, kernels are put on a stream other than the default one, 0."""
        before, self.stream = self.stream, number
        try:
            yield
        finally:
            self.stream = before

    def waits(self, stream: int, other: int) -> None:
        """What is put on `stream` from now on runs after what is on `other` now."""
        self.events.append(Wait(stream, other))

    def enter(self, scope: Scope) -> None:
        """What follows is of this scope."""
        if scope is not self.scope:
            self.scope = scope
            self.scopes.append((len(self.events), scope))

    def alloc(self, nbytes: Dim, shape: Shape, dtype: DType, op: str, role: str) -> int:
        """Record the allocation of a storage; returns its key."""
        self._keys += 1
        if self._open:
            site = _site() if self._sites else None
            label = f"{self.node}: {op}" if self.node else op
            self.events.append(_event(Alloc, (self._keys, nbytes, shape, dtype, label, site, role, self.stream)))
            if self.scope.layer is not None:
                self.layers[self._keys] = self.scope.layer
        return self._keys

    def free(self, key: int) -> None:
        """Record that a storage dies. A closed tape records nothing, so that results outlive the program."""
        if self._open:
            self.events.append(_event(Free, (key,)))

    def save(self, key: int, node: str) -> None:
        """Record that autograd saves a storage."""
        self.events.append(_event(Save, (key, node)))

    def release(self, key: int, node: str) -> None:
        """Record that autograd releases a storage."""
        if self._open:
            self.events.append(_event(Release, (key, node)))

    def launch(self, launch: Launch) -> None:
        """Record a kernel on the current thread; inside a fused kernel, add its work to that kernel's."""
        if self.fused:
            self.inner += launch.work
            return
        if launch.thread != self.thread or launch.stream != self.stream:
            launch = launch._replace(thread=self.thread, stream=self.stream)
        self.events.append(launch)


def next_action() -> None:
    """What follows is a pipeline's next action."""
    tape = current()
    tape.actions.append(len(tape.events))


@contextmanager
def scope_of(key: int) -> Iterator[None]:
    """Inside the context, what is recorded is of the layer that made a storage."""
    with scope(current().layers.get(key)):
        yield


@contextmanager
def scope(layer: int | None = None, part: str = "") -> Iterator[None]:
    """Inside the context, what is recorded is of this layer or part; gradients are of the scope of their forward."""
    tape = current()
    before = tape.scope
    tape.enter(Scope(before.layer if layer is None else layer, part or before.part))
    try:
        yield
    finally:
        tape.enter(before)


def _site() -> Site | None:
    """The user's frames, innermost first; None for tensors that autograd itself makes."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _is_ours(_module(frame)):
        if frame.f_code.co_name == ENGINE_STEP:
            return None
        frame = frame.f_back
    found: list[tuple[CodeType, int]] = []
    while frame is not None and len(found) < _DEPTH and _users(frame):
        found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return Site(tuple(found)) if found else None


@cache
def _is_ours(module: str) -> bool:
    return module.startswith(_OURS) and module != _READ


def _users(frame: FrameType) -> bool:
    name = _module(frame)
    return name == _READ or not name.startswith("memmodel.")


def _module(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name
