"""The watcher: sees every operator that PyTorch dispatches, and every storage that is born and dies around it.

A storage's death is a weak reference's callback, so Python's names, autograd's saved tensors and C++'s temporaries
count exactly as long as they hold on to it. What a kernel allocates inside comes from `memmodel.rules`; where fake
tensors behave otherwise than plain ones, `memmodel.tracer.corrections` puts it right.
"""

import sys
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import accumulate, compress
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor

from memmodel.base.device import Device
from memmodel.base.errors import UsageError
from memmodel.events.origin import is_library, line_of, users_frame
from memmodel.events.program import Alloc, Event, Free, Launch, Mark, Program, Release, Site
from memmodel.rules.operator import Call, Freed, NotKnown, Scratch, Step
from memmodel.rules.sdpa import Choice
from memmodel.tracer.corrections.composites import COMPOSITES
from memmodel.tracer.corrections.in_place import in_place_result, is_accumulation, laid_out, use_counts_alone
from memmodel.tracer.corrections.sdpa import deterministic
from memmodel.tracer.corrections.symbols import computed
from memmodel.tracer.corrections.torch_types import kind_of, number, plain_dims
from memmodel.tracer.corrections.type_checks import check_types
from memmodel.tracer.operators import Traced, call_of, is_view, steps_of
from memmodel.tracer.private.autocast import without_autocast
from memmodel.tracer.private.autograd import ENGINE, label_of, running_node
from memmodel.tracer.private.dispatch import (
    TorchDispatchMode,
    address_of,
    is_composite,
    is_wrapper,
    name_of,
    storage_of,
    tensors_in,
    without_function_modes,
)
from memmodel.tracer.private.distributed import WITHOUT_COPY
from memmodel.tracer.private.fake import fake_of, is_fake
from memmodel.tracer.watch.belonging import Belonging
from memmodel.tracer.watch.host import Host
from memmodel.tracer.watch.nodes import Nodes
from memmodel.tracer.watch.owners import Owners
from memmodel.tracer.watch.storages import Storages

DEPTH = 8  # frames of the user's code kept per allocation: enough to see through modules
MOST_OPERATORS = 400_000
# Modules whose frames are never the user's; contextlib stands between a context manager of theirs and its body.
_OUTSIDE = ("torch.", "memmodel.", "contextlib")
_UNPLACED = (
    "a tensor is made without a device and counts as the GPU's; on a GPU it would be the CPU's, and PyTorch raises an "
    "error where it meets the GPU's tensors: make it with device='cuda'"
)
# Tensors without data answer these through Python (torch/csrc/PyInterpreter.cpp): they are questions, not kernels.
_LAYOUT = ("aten::size", "aten::stride", "aten::storage_offset")
_QUERIES = frozenset(
    {*_LAYOUT, "prim::device", "prim::layout", "aten::sym_size", "aten::sym_stride", "aten::sym_numel"}
)


def _is_composite(func: Any) -> bool:
    """Whether an operator is written as others, which an autograd's key calls in its place."""
    return func not in COMPOSITES and name_of(func) not in _QUERIES and is_composite(func)


class Watcher(Storages, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the events of the operators that run inside, with the allocations of `device`'s kernels.

    Attributes:
        events: of the program, as in `memmodel.events.program.Program`.
        unknown: operator -> what is not known about it ("work", "scratch").
        notes: what to know about how the code was taken, each once.
        choices: the kernels that attention took, each with the place of its first call on a line.
        backward: whether autograd's engine runs now.
        operators: how many were seen.
        otherwise: whether branches on values that are not known go the other way; branched: whether there was one.
    """

    def __init__(self, device: Device, most_operators: int = MOST_OPERATORS) -> None:
        Storages.__init__(self)
        TorchDispatchMode.__init__(self)  # type: ignore[no-untyped-call]
        # Read now, as inside an operator there is no autograd to read it from.
        use_counts_alone()
        # A CPU's kernel has buffers per thread (backward of layer norm): those of this machine.
        self.device = device if device.name == "cuda" else device._replace(threads=torch.get_num_threads())
        self.most_operators = most_operators
        self.used_elsewhere = False  # whether another thread used a tensor: it is not watched
        self.events: list[Event] = []
        self.unknown: dict[str, str] = {}
        self.notes: dict[str, None] = {}
        self.choices: list[tuple[Choice, Site | None]] = []
        self.backward = False
        self.operators = 0
        self.paused = False
        self.otherwise = self.branched = False
        self.stream = 0  # that blocks are allocated on
        self.adds_in_place = False  # a function that adds its mask or bias in place is under way
        self._references: dict[int, weakref.ref[Any]] = {}
        self._real: dict[int, weakref.ref[Any]] = {}  # to constants
        self._births: dict[int, Alloc] = {}  # of what is alive
        self._emptied: dict[int, Alloc] = {}  # address of a storage that was resized to nothing -> its birth
        self._handed_over: set[int] = set()
        self._outer: Any = None  # the operator just seen on a tensor around others
        self._computed: set[int] = set()  # storages that operators made of other tensors
        self._constants: list[Alloc] = []
        self._fakes: dict[int, Tensor] = {}  # constant -> the tensor without data in its place
        self.last_use: dict[int, int] = {}  # storage -> number of events when an operator last touched it
        self.saved: dict[int, list[str]] = {}  # storage -> nodes that hold it until backward
        self.owners = Owners(self, device)
        self.nodes = Nodes(self)
        self.belonging = Belonging(self)
        self.host = Host()
        self.leaves: list[Tensor] = []  # parameters, whose gradients the step leaves behind
        self._gradients_before: list[tuple[Tensor, Tensor | None]] = []  # of leaves that are the user's own

    @property
    def program(self) -> Program:
        """The events so far; tensors that the code made before the trace are among the inputs."""
        at = next((i for i, e in enumerate(self.events) if isinstance(e, Mark) and e.phase == "inputs"), -1) + 1
        events = [*self.events[:at], *self._constants, *self.events[at:]]
        return Program(events, self.names, self.gradients, self.belonging.groups(events, self.owners.of))

    @property
    def uses(self) -> dict[int, int]:
        """Storage -> place among the program's events where an operator last touched it."""
        return {key: use + len(self._constants) for key, use in self.last_use.items()}

    def is_made(self, x: Tensor) -> bool:
        """Whether a tensor was computed: no input, nor what code holds or makes of nothing."""
        key = self.key_of(x)
        return key is not None and key not in self.names and key in self._computed

    def alive(self) -> frozenset[int]:
        """The storages that are alive, of those that were made within the trace."""
        return frozenset(self._references.keys() - self._fakes.keys())

    def mark(self, phase: str) -> None:
        """Begin a phase."""
        self.events.append(Mark(phase))

    def unmark(self, phase: str) -> None:
        """Take back the latest mark, if it is of that phase: the phase before goes on."""
        place = next(i for i in reversed(range(len(self.events))) if isinstance(self.events[i], Mark))
        if self.events[place] == Mark(phase):
            del self.events[place]
            self.last_use = {k: use - (use > place) for k, use in self.last_use.items()}

    def take_back(self, start: int, end: int) -> None:
        """Forget the events from one place to another, and the storages that were born there, which are dead."""
        gone = {event.key for event in self.events[start:end] if isinstance(event, Alloc)}
        numbers = list(accumulate(isinstance(event, Launch) for event in self.events[:end]))
        self.owners.take_back(*(numbers[place - 1] for place in (start, end)))
        keeps = [
            not start <= place < end and getattr(event, "key", 0) not in gone for place, event in enumerate(self.events)
        ]
        before = list(accumulate(keeps, initial=0))
        self.events[:] = compress(self.events, keeps)
        self.last_use = {key: before[use] for key, use in self.last_use.items() if key not in gone}

    def note(self, words: str) -> None:
        """Say something about how the code was taken."""
        if words:
            self.notes[words] = None

    def note_here(self, words: str, site: Site | None = None) -> None:
        """Say something about how the user's line was taken that runs now, or that of a site."""
        site = site or (self.site() if words else None)
        frame = users_frame(site) if site else None
        self.note(words + (f" ({frame[0].co_filename}, line {line_of(frame)})" if frame else ""))

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Within, nothing is recorded."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def note_choice(self, choice: Choice) -> None:
        """Attention takes this kernel here."""
        made = choice, self.site()
        if made not in self.choices:
            self.choices.append(made)

    def note_thread(self) -> None:
        """A tensor was used in another thread."""
        self.used_elsewhere = True

    def born(
        self, tensor: Tensor, op: str, role: str = "tensor", at: int | None = None, nbytes: Any = None
    ) -> int | None:
        """Record the birth of a tensor's storage; None where it is known already or holds nothing.

        With `at`, the birth goes to that place among the events. `nbytes`: where it holds more than it seems to.
        """
        storage = storage_of(tensor)
        address = address_of(storage)
        if address in self._keys:
            return None
        nbytes = plain_dims((storage.nbytes(),))[0] if nbytes is None else nbytes
        if isinstance(nbytes, int) and nbytes == 0:
            return None
        key = self._new_key()
        self._keys[address] = key
        # PyTorch keeps a storage's Python object for as long as C++ holds the storage (pyobject_preservation.h).
        self._references[key] = weakref.ref(storage, partial(self._died, address, key))
        self.belonging.born(key, self.backward)
        shape = plain_dims(tensor.shape)
        site = None if at is not None else self.site()
        event = Alloc(key, nbytes, shape, kind_of(tensor.dtype), op, site, role, self.stream)
        self._births[key] = event
        if at is None:
            self.events.append(event)
        else:
            self.events.insert(at, event)
            self.last_use = {k: use + (use >= at) for k, use in self.last_use.items()}
        return key

    def _on_host(self, op: str) -> bool:
        """Whether a tensor without dimensions is a Python number in the host's memory, which is no GPU's.

        One that is written into was there before, or is such a number.
        """
        return op == "scalar_tensor" or op.endswith("_") or (op == "lift_fresh" and self.device.name == "cuda")

    def name_input(self, tensor: Tensor, name: str, given: bool = False) -> None:
        """Say that a tensor is there before the step, what it is called, and whether the function is given it."""
        key = self.key_of(tensor)
        self.host.place(tensor)
        if key is not None:
            self.owners.given |= {key} if given else set()
            self.names[key] = name
            place = next(i for i, e in reversed([*enumerate(self.events)]) if isinstance(e, Alloc) and e.key == key)
            event: Any = self.events[place]
            self.events[place] = event._replace(site=None, role="input")

    def record_constant(self, tensor: Tensor) -> None:
        """Record a real tensor that the code made before the trace: it is an input, until the code lets go of it."""
        if self.key_of(tensor) is not None or tensor.numel() == 0:
            return
        key = self._new_key()
        storage = tensor.untyped_storage()
        self._keys[address_of(storage)] = key
        shape, kind = tuple(tensor.shape), kind_of(tensor.dtype)
        self._constants.append(Alloc(key, storage.nbytes(), shape, kind, "constant", None, "input"))
        self.names[key] = "constant"
        # PyTorch finds this fake tensor again, next time the constant is used, only while somebody holds it.
        fake = self._fakes[key] = fake_of(tensor)
        views = fake.untyped_storage()  # views of the constant are views of it
        self._keys[address_of(views)] = key
        self._references[key] = weakref.ref(views, partial(self._died, address_of(views), key))
        self._real[key] = weakref.ref(storage, partial(self._let_go, address_of(storage), key))
        if tensor.requires_grad and tensor.is_leaf:
            self.leaves.append(tensor)
            mine = tensor.grad is not None and is_fake(tensor.grad)  # given by the code within the trace
            self._gradients_before.append((tensor, None if mine else tensor.grad))
            tensor.grad = tensor.grad if mine else None

    def give_back(self) -> None:
        """Put the gradients back that the user's own tensors had before the trace."""
        for tensor, gradient in self._gradients_before:
            tensor.grad = gradient
        self._gradients_before.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_wrapper(types):
            self._outer = func
            return NotImplemented  # it dispatches to the tensors inside
        if torch.is_inference_mode_enabled() and not self.paused and _is_composite(func):
            with self:  # autograd's keys, which take it apart, are left out
                return func.decompose(*args, **(kwargs or {}))
        # PyTorch restores both here, but an operator's inside is not cast, and asks no mode of functions
        with without_autocast(), without_function_modes():
            return self._dispatched(func, args, kwargs or {})

    def _dispatched(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = name_of(func)
        if name in _QUERIES or self.paused:
            if name == "prim::device":
                # The engine checks each gradient that a node hands over (engine.cpp, validate_outputs).
                self._handed_over.add(id(args[0]))
            elif name in _LAYOUT:
                return _at_hints(name, args[0])
            return func(*args, **kwargs)
        if name in WITHOUT_COPY:
            return WITHOUT_COPY[name](args[0])  # as in a run; a fake result would be another tensor
        self._count()
        check_types(func, args)
        if func in COMPOSITES:
            # A mode is off within its own dispatch; on again, it sees the operators that this one is made of.
            with self:
                whole = COMPOSITES[func](*args, **kwargs)
            if whole is not NotImplemented:
                return whole
        node = running_node() if self.backward else None
        wrapped, self._outer = self._outer is func, None  # PyTorch adds tensors of such types out of place
        accumulates = self.backward and not wrapped and is_accumulation(func, args, kwargs, node, self._handed_over)
        self._handed_over.clear()
        given = tensors_in((args, kwargs))
        if name != "aten::lift_fresh":  # which takes a number from Python into a tensor
            for x in given:
                if not is_fake(x):
                    self.record_constant(x)
            self.belonging.operator(func, args)
        out = in_place_result(func, args, node, accumulates, self.adds_in_place, self.nodes.is_own(node, args))
        if out is None:
            out = laid_out(func, args, computed(func, args, kwargs))
        made = tensors_in(out)
        # No event: the host's copies take none of the GPU's memory.
        if self.host.takes(given):
            for x in made:
                if self.key_of(x) is None:
                    self.host.born(x)
            return out
        if self.device.name == "cuda" and not self.backward:
            self._note_astray(self.host.astray(name, given, made))
        before = self.last_key
        launched = len(self.events)
        self._record(func, args, kwargs, out, "AccumulateGrad" if accumulates else label_of(node))
        self._used([*given, *made])
        born = range(before + 1, self.last_key + 1)
        if given:
            self._computed.update(born)
        self.owners.note(func, args, out, born, self.events[launched:])
        if node is None:
            self.nodes.remember(out, self.site())
        elif not accumulates:
            self._attribute(node, out, born)
        return out

    def _note_astray(self, x: Tensor | None) -> None:
        """Say where a tensor was made that a GPU would refuse."""
        birth = self._births.get(self.key_of(x) or 0) if x is not None else None
        if birth is not None:
            self.note_here(_UNPLACED, birth.site)

    def _attribute(self, node: Any, out: Any, born: range) -> None:
        self.nodes.attribute(node, out, born)

    def _record(self, func: Any, args: Any, kwargs: Any, out: Any, node: str) -> None:
        op = name_of(func).partition("::")[2]
        label = node or op
        if is_view(func):
            self._born_each(tensors_in(out), op, label)
        elif tensors_in((args, kwargs, out)):
            device = self.device._replace(deterministic=True) if deterministic() else self.device
            call = call_of(func, args, kwargs, out, device, lambda x: self.key_of(x) is None)
            self._play(steps_of(func, call, args, kwargs, out), call, name_of(func), label)

    def _play(self, steps: Iterable[Step], call: Call, name: str, label: str) -> None:
        """Record what a rule says, in order: births, scratch, kernels."""
        scratch: list[int] = []
        thread = "autograd" if self.backward else "main"
        for step in steps:
            if isinstance(step, Launch):
                if self._is_on_gpu(call):
                    self.events.append(step if thread == "main" else step._replace(thread=thread))
            elif isinstance(step, Scratch):
                scratch += self._scratch(step, label)
            elif isinstance(step, Freed):
                # What a kernel made last goes first, as C++ destroys locals in reverse.
                self.events.append(Free(scratch.pop()))
            elif isinstance(step, NotKnown):
                before = self.unknown.get(name, "")
                if step.words not in before:
                    self.unknown[name] = "; ".join(filter(None, (before, step.words)))
            else:
                made = call.results if step.place < 0 else [call.results[step.place]]
                new = [x.tensor for x in made if isinstance(x, Traced) and x not in call.mutated]
                self._born_each(new, call.op, label, step.nbytes)
        self.events += [Free(key) for key in reversed(scratch)]

    def _is_on_gpu(self, call: Call) -> bool:
        """Whether a tensor takes part; else the operator is on numbers of the host, such as step counters."""
        return any(self.key_of(x.tensor) is not None for x in (*call.tensors(), *call.results) if isinstance(x, Traced))

    def _scratch(self, step: Scratch, label: str) -> list[int]:
        if isinstance(step.nbytes, int) and step.nbytes == 0:
            return []
        key = self._new_key()
        self.events.append(
            Alloc(
                key, step.nbytes, step.shape, step.dtype, f"temporary of {label}", self.site(), step.role, self.stream
            )
        )
        return [key]

    def _born_each(self, made: Iterable[Tensor], op: str, label: str, nbytes: Any = None) -> None:
        for tensor in made:
            if tensor.dim() or not self._on_host(op):
                self.born(tensor, label, nbytes=nbytes)

    def _used(self, tensors: Iterable[Tensor]) -> None:
        at = len(self.events)
        for x in tensors:
            key = self.key_of(x)
            if key is not None:
                self.last_use[key] = at

    def _count(self) -> None:
        self.operators += 1
        if self.operators > self.most_operators:
            raise UsageError(
                f"the trace is longer than {self.most_operators:,} operators: trace fewer layers or loop iterations, "
                "or raise --most-operators (most_operators=)"
            )

    def _let_go(self, address: int, key: int, _: object) -> None:
        """A constant is gone; its memory is, too, unless there are views of it."""
        if self._keys.get(address) == key:
            del self._keys[address]
        self._real.pop(key, None)
        self._fakes.pop(key, None)

    def _died(self, address: int, key: int, _: object) -> None:
        if self._keys.get(address) == key:
            del self._keys[address]
        self._births.pop(key, None)
        if self._references.pop(key, None) is not None:
            self.events += [Release(key, node) for node in self.saved.pop(key, ())]
            self.events.append(Free(key))

    def resized(self, storage: Any) -> None:
        """A storage has given its memory back or taken it again, as FSDP2's unsharded parameters do."""
        address, nbytes = address_of(storage), storage.nbytes()
        key = self._keys.get(address)
        if key is not None:
            self._emptied[address] = self._births[key]
            self._died(address, key, None)
        before = self._emptied.get(address)
        if nbytes and before is not None and not self.paused:
            key = self._keys[address] = self._new_key()
            self._references[key] = weakref.ref(storage, partial(self._died, address, key))
            self._births[key] = before._replace(key=key, nbytes=nbytes, site=self.site(), stream=self.stream)
            self.events.append(self._births[key])

    def close(self) -> None:
        """Forget what is alive: nothing that dies from now on is recorded."""
        self._references.clear()
        self._real.clear()
        self._keys.clear()
        self._births.clear()
        self._emptied.clear()
        self._fakes.clear()

    def site(self) -> Site | None:
        """The user's frames, innermost first; none for what autograd itself makes."""
        frame: FrameType | None = sys._getframe(1)
        found: list[tuple[CodeType, int]] = []
        own = False  # whether a frame is the user's rather than a library's: one is always among them
        while frame is not None and (len(found) < DEPTH or not own):
            if is_users(frame):
                mine = not is_library(frame.f_code.co_filename)
                if len(found) < DEPTH or mine:
                    found.append((frame.f_code, frame.f_lasti))
                own = own or mine
            elif frame.f_code.co_name == ENGINE or frame.f_code is _entry:
                break
            frame = frame.f_back
        return Site(tuple(found)) if found else None


def run_users_code(function: Any, arguments: dict[str, Any]) -> Any:
    """Call the user's function: the frame that marks where their code begins."""
    return function(**arguments)


_entry = run_users_code.__code__


def is_users(frame: FrameType) -> bool:
    """Whether a frame is the user's code, not PyTorch's (what it generates has no module's name) or the tracer's."""
    return _is_users(frame.f_globals.get("__name__", ""), frame.f_code.co_filename)


@cache
def _is_users(name: str, filename: str) -> bool:
    # "<frozen ...": the importer's frames, where the function imports something.
    return bool(name) and not f"{name}.".startswith(_OUTSIDE) and not filename.startswith("<frozen")


def _at_hints(name: str, x: Tensor) -> Any:
    """Sizes by their hints, for operators in C++ that ask for plain numbers (torch 2.11 and before)."""
    if name == "aten::storage_offset":
        return number(x.storage_offset())
    return [number(size) for size in (x.shape if name == "aten::size" else x.stride())]
