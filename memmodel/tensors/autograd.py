"""Autograd on recording tensors: what is kept for backward, in which order nodes run, when gradients die.

Sources: torch/csrc/autograd/engine.cpp (evaluate_function, validate_outputs), input_buffer.cpp,
functions/accumulate_grad.h, saved_variable.cpp. Node ops keep and free in the order of PyTorch's generated code:
inputs by name, then results.
"""

import heapq
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from memmodel.dims import same, same_shape
from memmodel.errors import UsageError
from memmodel.tensors.layout import is_dense
from memmodel.tensors.tape import Tape, current
from memmodel.tensors.tensor import Tensor, method

PackHook = Callable[[Tensor], Any]
UnpackHook = Callable[[Any], Tensor]
_hooks: list[tuple[PackHook, UnpackHook]] = []
_LAST = 1 << 62  # AccumulateGrad runs as soon as it is ready


class Saved:
    """A tensor kept for backward: an alias without history and the version it had (saved_variable.cpp)."""

    __slots__ = ("_packed", "_unpack", "node", "version")

    def __init__(self, tensor: Tensor, node: str) -> None:
        self.node = node
        self.version = tensor.storage.version
        self._unpack: UnpackHook | None = None
        if _hooks:
            pack, self._unpack = _hooks[-1]
            self._packed: Any = pack(tensor.alias())
        else:
            self._packed = tensor.alias()
            tensor.storage.tape.save(tensor.storage.key, node)

    def unpack(self) -> Tensor:
        """The tensor. Raises UsageError where it was changed in place since, as PyTorch does."""
        if self._unpack is not None:
            return self._unpack(self._packed)
        tensor: Tensor = self._packed
        if tensor.storage.version != self.version:
            raise UsageError(
                f"a tensor that {self.node} needs for backward was modified in place: use the out-of-place form"
            )
        return tensor

    def release(self) -> None:
        """Let the tensor go."""
        if self._unpack is None and self._packed is not None:
            self._packed.storage.tape.release(self._packed.storage.key, self.node)
        self._packed = None

    def __del__(self) -> None:
        """A graph that nothing refers to any more keeps nothing."""
        self.release()


class Op:
    """One differentiable operation: what it computes, what it keeps, and its gradient.

    `forward` takes the inputs (tensors, or what stands for one) and returns a tensor or a tuple; it calls `save` for
    what `backward` needs. `backward` takes the gradients of the results and returns one gradient (or None) per input.
    Both are required: an op class without a complete rule cannot be defined.
    """

    saved: dict[str, Saved] | None
    edges: "list[tuple[Op, int] | None]"
    results: list[tuple[Any, Any]]  # (shape, dtype) of each result
    needs: list[bool]
    inputs: list[int]  # storage key of each input, for naming its gradient
    sequence: int
    recorded: bool
    unpacked: dict[str, Tensor]
    retained: bool  # whether the backward under way keeps the graph
    is_view: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        for rule in ("forward", "backward"):
            if getattr(cls, rule) is getattr(Op, rule):
                raise TypeError(f"op {cls.__name__} has no {rule}: an op needs a complete rule")

    def forward(self, *inputs: Any, **params: Any) -> Any:
        """Compute the result; see the class."""
        raise NotImplementedError

    def backward(self, *grads: Any) -> tuple[Any, ...]:
        """The gradients of the inputs, from those of the results."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """What autograd calls the node."""
        return f"{type(self).__name__}Backward"

    def save(self, /, **tensors: Tensor) -> None:
        """Keep tensors for backward, in the order given; only where a gradient will be asked for."""
        if self.recorded:
            for key, tensor in tensors.items():
                assert self.saved is not None
                self.saved[key] = Saved(tensor, self.name)

    def unpack(self, key: str) -> Tensor:
        """Within `backward`: a tensor kept by `save`."""
        return self.unpacked[key]

    def gradients(self, *grads: Any) -> list[Any]:
        """Run `backward` with everything that was kept at hand, as PyTorch's generated nodes do."""
        if self.saved is None:
            raise UsageError(
                "backward a second time through a graph whose saved tensors are freed: "
                "use retain_graph=True the first time"
            )
        self.unpacked = {key: kept.unpack() for key, kept in self.saved.items()}
        try:
            return list(self.backward(*grads))
        finally:
            self.unpacked = {}

    def release(self) -> None:
        """Free what was kept, in the order it was kept in. A node that kept nothing can run again."""
        if self.saved:
            for kept in self.saved.values():
                kept.release()
            self.saved = None

    @classmethod
    def apply(cls, *inputs: Any, **params: Any) -> Any:
        """Run the op; where grad mode is on and an input requires it, link the result into the graph."""
        tape = _tape_of(inputs)
        node = cls()
        node.needs = [isinstance(x, Tensor) and x.requires_grad for x in inputs]
        node.recorded = tape.grad_enabled and any(node.needs)
        node.saved = {}
        if node.recorded:
            node.edges = [_edge(x) if need else None for x, need in zip(inputs, node.needs, strict=True)]
            tape.sequence += 1
            node.sequence = tape.sequence
            node.inputs = [x.storage.key if isinstance(x, Tensor) else 0 for x in inputs]
        enabled, tape.grad_enabled = tape.grad_enabled, False
        try:
            output = node.forward(*inputs, **params)
        finally:
            tape.grad_enabled = enabled
        if node.recorded:
            outputs = output if isinstance(output, tuple) else (output,)
            node.results = [(out.shape, out.dtype) for out in outputs]
            for index, out in enumerate(outputs):
                if out.dtype.floating:
                    out.requires_grad, out.grad_fn, out.output_nr = True, node, index
        return output


class AccumulateGrad(Op):
    """The sink of a leaf: steals the first gradient, clones it, or adds to the one there (accumulate_grad.h)."""

    sequence = _LAST

    def __init__(self, leaf: Tensor) -> None:
        self.leaf = leaf
        self.saved = {}
        self.edges = []
        self.needs = []
        self.results = [(leaf.shape, leaf.dtype)]

    @property
    def name(self) -> str:
        """What autograd calls the sink."""
        return "AccumulateGrad"

    def forward(self, *inputs: Any, **params: Any) -> Any:
        """A sink computes nothing."""
        raise NotImplementedError

    def backward(self, *grads: Any) -> tuple[Any, ...]:
        """Add the gradient to the leaf's; `stealable` says that nobody else holds it."""
        grad, stealable = grads
        leaf = self.leaf
        if leaf.grad is not None:
            leaf.grad.add_(grad)
        elif stealable and _obeys_layout(grad, leaf):
            leaf.grad = grad.alias()
        else:
            leaf.grad = grad.clone_like(leaf)
        leaf.storage.tape.gradients[leaf.grad.storage.key] = leaf.storage.key
        return ()


def _obeys_layout(grad: Tensor, leaf: Tensor) -> bool:
    if leaf.is_contiguous() and grad.is_contiguous():
        return True
    if is_dense(leaf.shape, leaf.strides):
        return all(
            same(a, b) if not same(size, 1) else not same(a, 0)
            for size, a, b in zip(grad.shape, grad.strides, leaf.strides, strict=True)
        )
    return grad.is_contiguous()


def _tape_of(inputs: tuple[Any, ...]) -> Tape:
    for x in inputs:
        if isinstance(x, Tensor):
            return x.storage.tape
    return current()


def _edge(tensor: Tensor) -> tuple[Op, int]:
    if tensor.grad_fn is not None:
        return tensor.grad_fn, tensor.output_nr
    sink = tensor._accumulator() if tensor._accumulator is not None else None
    if sink is None:
        sink = AccumulateGrad(tensor)
        tensor._accumulator = weakref.ref(sink)
    return sink, 0


@contextmanager
def grad_mode(tape: Tape, enabled: bool) -> Iterator[None]:
    """Autograd on or off on a tape while the context is open."""
    before, tape.grad_enabled = tape.grad_enabled, enabled
    try:
        yield
    finally:
        tape.grad_enabled = before


@contextmanager
def no_grad() -> Iterator[None]:
    """Within, nothing is kept for backward."""
    with grad_mode(current(), False):
        yield


@contextmanager
def enable_grad() -> Iterator[None]:
    """Within, ops are recorded for backward again."""
    with grad_mode(current(), True):
        yield


@contextmanager
def saved_tensors_hooks(pack: PackHook, unpack: UnpackHook) -> Iterator[None]:
    """Within, `pack` decides what is kept instead of a saved tensor, and `unpack` gives it back."""
    _hooks.append((pack, unpack))
    try:
        yield
    finally:
        _hooks.pop()


@method
def requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:
    """Ask for gradients of this leaf."""
    if self.grad_fn is not None:
        raise UsageError("requires_grad_ on a tensor that an op made: only leaves take it; use detach() first")
    self.requires_grad = requires_grad
    return self


@method
def backward(self: Tensor, gradient: Tensor | None = None, retain_graph: bool = False) -> None:
    """Accumulate the gradients of the leaves. `gradient` is this tensor's; a scalar's is 1."""
    if not self.requires_grad:
        raise UsageError("backward of a tensor that requires no gradient: call requires_grad_() on the inputs first")
    if gradient is None:
        if self.shape:
            raise UsageError(f"backward of shape {self.shape} needs `gradient=`; only a scalar's is 1 by itself")
        gradient = self.ones_like()
    elif not same_shape(gradient.shape, self.shape):
        raise UsageError(f"gradient of shape {gradient.shape} for a tensor of shape {self.shape}: shapes must agree")
    tape = self.storage.tape
    thread, tape.thread = tape.thread, "autograd"
    try:
        with grad_mode(tape, False):
            _Engine(tape, retain_graph).run(_edge(self), gradient)
    finally:
        tape.thread, tape.node = thread, None
    del gradient  # before `self`, as it is a local of torch.autograd.backward


class _Engine:
    """One backward pass: nodes in order of their sequence number, newest first, each when its gradients are all in."""

    def __init__(self, tape: Tape, retain_graph: bool) -> None:
        self.tape = tape
        self.retain_graph = retain_graph
        self.ready: list[tuple[int, int, Op]] = []
        self.pushed = 0
        self.buffers: dict[Op, list[Tensor | None]] = {}
        self.holders: Counter[int] = Counter()  # by id: how many buffers, results under way and callers hold a gradient
        self.waiting: Counter[Op] = Counter()

    def run(self, root: tuple[Op, int], gradient: Tensor) -> None:
        self._count_dependencies(root[0])
        self.holders[id(gradient)] += 2  # the caller's, and the one delivered
        self._deliver(root, gradient)
        self._push(root[0])
        while self.ready:
            self._evaluate(heapq.heappop(self.ready)[2])

    def _count_dependencies(self, root: Op) -> None:
        seen, stack = {root}, [root]
        while stack:
            for edge in stack.pop().edges:
                if edge is None:
                    continue
                self.waiting[edge[0]] += 1
                if edge[0] not in seen:
                    seen.add(edge[0])
                    stack.append(edge[0])

    def _push(self, node: Op) -> None:
        self.pushed += 1
        heapq.heappush(self.ready, (-node.sequence, self.pushed, node))

    def _evaluate(self, node: Op) -> None:
        self.tape.node = node.name
        grads = self.buffers.pop(node)
        if isinstance(node, AccumulateGrad):
            (grad,) = grads
            if grad is None:
                return
            self.holders[id(grad)] -= 1
            node.backward(grad, self.holders[id(grad)] == 0)
            return
        node.retained = self.retain_graph
        outputs = node.gradients(*grads) if any(g is not None for g in grads) else [None] * len(node.edges)
        for index, edge in enumerate(node.edges):
            outputs[index] = result = _validated(outputs[index], edge)
            if result is not None:
                self.holders[id(result)] += 1
                self.tape.gradients.setdefault(result.storage.key, node.inputs[index])
            del result
        self._let_go(grads)
        if not self.retain_graph:
            node.release()
        for index, edge in enumerate(node.edges):
            if edge is None:
                continue
            grad, outputs[index] = outputs[index], None
            self._deliver(edge, grad)
            del grad
            self.waiting[edge[0]] -= 1
            if self.waiting[edge[0]] == 0:
                self._push(edge[0])

    def _let_go(self, grads: list[Tensor | None]) -> None:
        for slot, grad in enumerate(grads):
            if grad is not None:
                self.holders[id(grad)] -= 1
            grads[slot] = grad = None

    def _deliver(self, edge: tuple[Op, int], grad: Tensor | None) -> None:
        """Hand a gradient over to a node's input buffer, adding it to what is there (input_buffer.cpp)."""
        node, slot = edge
        buffer = self.buffers.setdefault(node, [None] * len(node.results))
        if grad is None:
            return
        old = buffer[slot]
        if old is None:
            buffer[slot] = grad
            return
        if self._accumulates_in_place(old):
            old.add_(grad)
        else:
            buffer[slot] = old.add(grad)
            self.holders[id(old)] -= 1
            self.holders[id(buffer[slot])] += 1
        self.holders[id(grad)] -= 1

    def _accumulates_in_place(self, old: Tensor) -> bool:
        return (
            self.holders[id(old)] == 1
            and old.storage.tensors == 1
            and (old.is_contiguous() or is_dense(old.shape, old.strides))
        )


def _validated(grad: Tensor | None, edge: tuple[Op, int] | None) -> Tensor | None:
    """The gradient in the shape and dtype the next node expects: broadcasting is undone here (validate_outputs)."""
    if grad is None or edge is None:
        return None
    shape, dtype = edge[0].results[edge[1]]
    if not same_shape(grad.shape, shape):
        grad = grad.sum_to(shape)
    return grad if grad.dtype is dtype else grad.to(dtype)
