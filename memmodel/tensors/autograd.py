"""Autograd on recording tensors: the tensors saved for backward, the order of nodes, the lifetime of gradients.

Sources: torch/csrc/autograd/engine.cpp (evaluate_function, validate_outputs), input_buffer.cpp,
functions/accumulate_grad.h, saved_variable.cpp. Nodes save and free tensors in the order of PyTorch's generated code:
inputs by name, then results.
"""

import heapq
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from sys import getrefcount
from typing import Any, ClassVar

from memmodel.base.dtypes import DType
from memmodel.base.errors import UsageError
from memmodel.sizes.dims import Shape, same, same_shape
from memmodel.tensors.layout import is_dense
from memmodel.tensors.tape import Scope, Tape, current
from memmodel.tensors.tensor import Tensor, method

PackHook = Callable[[Tensor], Any]
UnpackHook = Callable[[Any], Tensor]
_LAST = 1 << 62  # AccumulateGrad runs as soon as it is ready


class Saved:
    """A tensor saved for backward: an alias without history, and its version at the time (saved_variable.cpp)."""

    __slots__ = ("_packed", "_unpack", "node", "version")

    def __init__(self, tensor: Tensor, node: str) -> None:
        self.node = node
        self.version = tensor.storage.version
        self._unpack: UnpackHook | None = None
        tape = tensor.storage.tape
        if tape.hooks:
            pack, self._unpack = tape.hooks[-1]
            self._packed: Any = pack(tensor.alias())
        else:
            self._packed = tensor.alias()
            tape.save(tensor.storage.key, node)

    def unpack(self) -> Tensor:
        """The saved tensor. Raises UsageError if it was modified in place since, as PyTorch does."""
        if self._unpack is not None:
            return self._unpack(self._packed)
        tensor: Tensor = self._packed
        if tensor.storage.version != self.version:
            raise UsageError(
                f"a tensor that {self.node} needs for backward was modified in place: use the out-of-place form"
            )
        return tensor

    def release(self) -> None:
        """Drop the reference to the tensor."""
        if self._unpack is None and self._packed is not None and self._packed.storage.key:
            self._packed.storage.tape.release(self._packed.storage.key, self.node)
        self._packed = None

    def __del__(self) -> None:
        self.release()  # a graph that is dropped without a backward frees its saved tensors too


class Op:
    """One differentiable operation and its node in the graph.

    `forward` takes the inputs (tensors or numbers) and returns a tensor or a tuple; it calls `save` on the tensors that
    `backward` needs. `backward` takes the gradients of the results and returns one gradient (or None) per input.
    Both are required: a class without either raises TypeError when it is defined.
    """

    saved: dict[str, Saved] | None = None
    edges: "Sequence[tuple[Op, int] | None]" = ()
    results: list[tuple[Any, Any]]  # (shape, dtype) of each result
    needs: list[bool]
    inputs: list[int]  # storage key of each input, for naming its gradient
    sequence: int
    scope: Scope  # that of the forward
    recorded: bool
    hooks: Sequence[Callable[[Any], Any]] = ()  # called with each gradient of the results before `backward`
    unpacked: dict[str, Tensor]
    retained: bool  # whether the backward under way keeps the graph
    is_view: ClassVar[bool] = False
    by_hand: ClassVar[bool] = False  # whether the backward is Python, as a user writes it

    name: str  # autograd's name of the node

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            cls.name = f"{cls.__name__}Backward"
        for rule in ("forward", "backward"):
            if getattr(cls, rule) is getattr(Op, rule):
                raise TypeError(f"op {cls.__name__} has no {rule}: an op needs a complete rule")

    def forward(self, *inputs: Any, **params: Any) -> Any:
        """Compute the result, and save what `backward` reads."""
        raise NotImplementedError

    def backward(self, *grads: Any) -> tuple[Any, ...]:
        """The gradients of the inputs, from those of the results."""
        raise NotImplementedError

    def save(self, /, **tensors: Tensor) -> None:
        """Save tensors for backward, in the order given; nothing if no gradient is required."""
        if self.recorded:
            for key, tensor in tensors.items():
                assert self.saved is not None
                self.saved[key] = Saved(tensor, self.name)

    def unpack(self, key: str) -> Tensor:
        """A tensor passed to `save`; only within `backward`."""
        return self.unpacked[key]

    def gradients(self, *grads: Any) -> list[Any]:
        """Unpack every saved tensor, then run `backward`, as PyTorch's generated nodes do.

        Raises UsageError if an earlier backward freed the saved tensors.
        """
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
        """Free the saved tensors in the order they were saved. A node without any can run again, as in PyTorch."""
        if self.saved:
            for kept in self.saved.values():
                kept.release()
            self.saved = None

    def __del__(self) -> None:
        """Free the graph behind a node without recursion, as deleteNode does (torch/csrc/autograd/function.cpp).

        Left to Python, deep graphs would be freed in another order: it puts off what is nested too deeply.
        """
        stack = _gathered(self) if self.edges or self.saved else []
        while stack:
            stack += _gathered(stack.pop())

    @classmethod
    def apply(cls, *inputs: Any, **params: Any) -> Any:
        """Run the op; if grad mode is on and an input requires a gradient, link the result into the graph."""
        tape = _tape_of(inputs)
        node = cls()
        node.needs = [type(x) is Tensor and x.requires_grad for x in inputs]
        node.recorded = tape.grad_enabled and True in node.needs
        node.saved = {}
        if not tape.grad_enabled:
            return node.forward(*inputs, **params)
        if node.recorded:
            node.edges = [_edge(x) if need else None for x, need in zip(inputs, node.needs, strict=True)]
            tape.sequence += 1
            node.sequence, node.scope = tape.sequence, tape.scope
            node.inputs = [x.storage.key if type(x) is Tensor else 0 for x in inputs]
        tape.grad_enabled = False
        try:
            output = node.forward(*inputs, **params)
        finally:
            tape.grad_enabled = True
        if node.recorded:
            outputs = output if isinstance(output, tuple) else (output,)
            node.results = [(out.shape, out.dtype) for out in outputs]
            for index, out in enumerate(outputs):
                if out.dtype.floating:
                    out.requires_grad, out.grad_fn, out.output_nr = True, node, index
        return output


def _gathered(node: Op) -> list[Op]:
    """Let go of what a node kept and of its edges; the nodes that nobody else holds (gatherFunctions)."""
    node.release()
    edges, node.edges = list(node.edges), ()
    found = []
    while edges:
        edge = edges.pop(0)
        if edge is not None:
            after, _ = edge
            del edge
            if getrefcount(after) == 2:  # this name, and the argument
                found.append(after)
            del after
    return found


class AccumulateGrad(Op):
    """The sink of a leaf: steals or clones the first gradient, and adds later ones to it (accumulate_grad.h)."""

    name = "AccumulateGrad"
    sequence = _LAST

    def __init__(self, leaf: Tensor) -> None:
        self.leaf = leaf
        self.saved = {}
        self.edges = []
        self.needs = []
        self.results = [(leaf.shape, leaf.dtype)]

    def forward(self, *inputs: Any, **params: Any) -> Any:
        """Never called: a sink is no operation of the forward pass."""
        raise NotImplementedError

    def backward(self, *grads: Any) -> tuple[Any, ...]:
        """Add the gradient to the leaf's; a first one that nothing else holds (`stealable`) is taken without a copy."""
        grad, stealable = grads
        leaf = self.leaf
        if leaf.grad is not None:
            leaf.grad.add_(grad)
        elif stealable and _obeys_layout(grad, leaf):
            leaf.grad = grad.alias()
        else:
            leaf.grad = grad.clone_like(leaf)
        leaf.storage.tape.gradients[leaf.grad.storage.key] = leaf.storage.key
        if leaf.hook is not None:
            leaf.hook(leaf)
        return ()


def _obeys_layout(grad: Tensor, leaf: Tensor) -> bool:
    """Whether the gradient has the strides that its leaf wants (grad_layout_contract.h)."""
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
        if type(x) is Tensor:
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
    """Switch autograd on a tape on or off inside the context."""
    before, tape.grad_enabled = tape.grad_enabled, enabled
    try:
        yield
    finally:
        tape.grad_enabled = before


def is_grad_enabled() -> bool:
    """Whether the graph is recorded."""
    return current().grad_enabled


@contextmanager
def no_grad() -> Iterator[None]:
    """Record no graph inside the context."""
    with grad_mode(current(), False):
        yield


@contextmanager
def enable_grad() -> Iterator[None]:
    """Record the graph inside the context, also within `no_grad`."""
    with grad_mode(current(), True):
        yield


@contextmanager
def saved_tensors_hooks(pack: PackHook, unpack: UnpackHook) -> Iterator[None]:
    """Inside the context, save `pack(tensor)` in place of each tensor; backward reads `unpack` of it."""
    hooks = current().hooks
    hooks.append((pack, unpack))
    try:
        yield
    finally:
        hooks.pop()


def show_to_hooks(x: Any) -> None:
    """Save something that is no tensor of the device: the innermost hooks see it, and nothing keeps it."""
    hooks = current().hooks
    if hooks:
        hooks[-1][0](x)


@method
def requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:
    """Mark this leaf as requiring a gradient. Raises UsageError for a tensor that an op made."""
    if self.grad_fn is not None:
        raise UsageError("requires_grad_ on a tensor that an op made: only leaves take it; use detach() first")
    self.requires_grad = requires_grad
    return self


@method
def register_post_accumulate_grad_hook(self: Tensor, hook: Callable[[Tensor], None]) -> None:
    """Call `hook` with this leaf whenever a backward has put a gradient into its `grad`."""
    self.hook = hook


@method
def register_hook(self: Tensor, hook: Callable[[Tensor], None]) -> None:
    """Call `hook` with the gradient of this result when a backward has all of it, before it goes on."""
    if self.grad_fn is None:
        raise UsageError("register_hook on a leaf: use register_post_accumulate_grad_hook")
    number = self.output_nr
    self.grad_fn.hooks = (*self.grad_fn.hooks, lambda grads: hook(grads[number]))


def at_end_of_backward(function: Callable[[], None]) -> None:
    """Call a function when the backward under way is over (the engine's queue_callback)."""
    current().at_end.append(function)


@contextmanager
def same_version(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Inside the context, autograd does not notice writes to these tensors (_unsafe_preserve_version_counter)."""
    before = [x.storage.version for x in tensors]
    yield
    for x, version in zip(tensors, before, strict=True):
        x.storage.version = version


@method
def backward(self: Tensor, gradient: Tensor | None = None, retain_graph: bool = False) -> None:
    """Accumulate the gradients of the leaves, from `gradient`, that of this tensor (1 for a scalar).

    Raises UsageError if no gradient is required, or for a `gradient` that is missing or of another shape.
    """
    if not self.requires_grad:
        raise UsageError("backward of a tensor that requires no gradient: call requires_grad_() on the inputs first")
    if gradient is None:
        if self.shape:
            raise UsageError(f"backward of shape {self.shape} needs `gradient=`; only a scalar's is 1 by itself")
        gradient = self.ones_like()
    elif not same_shape(gradient.shape, self.shape):
        raise UsageError(f"gradient of shape {gradient.shape} for a tensor of shape {self.shape}: shapes must agree")
    tape = self.storage.tape
    thread, scope, tape.thread = tape.thread, tape.scope, "autograd"
    try:
        with grad_mode(tape, False):
            _Engine(tape, retain_graph).run(_edge(self), gradient)
            while tape.at_end:
                tape.at_end.pop(0)()
    finally:
        tape.thread, tape.node = thread, None
        tape.enter(scope)
    del gradient  # before `self`, as it is a local of torch.autograd.backward


class _Engine:
    """One backward pass: nodes in order of their sequence number, newest first, each when its gradients are all in."""

    def __init__(self, tape: Tape, retain_graph: bool) -> None:
        self.tape = tape
        self.retain_graph = retain_graph
        self.ready: list[tuple[int, int, Op]] = []
        self.pushed = 0
        self.buffers: dict[Op, list[Tensor | None]] = {}
        # By id: how many buffers, results under way and callers hold a gradient.
        self.holders: dict[int, int] = defaultdict(int)
        self.waiting: dict[Op, int] = defaultdict(int)  # edges into a node whose gradients are still to come

    def run(self, root: tuple[Op, int], gradient: Tensor) -> None:
        self._count_dependencies(root[0])
        self.holders[id(gradient)] += 2  # the caller, so that it is never stolen, and the input buffer
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
        self.tape.enter(node.scope)
        node.retained = self.retain_graph
        for hook in node.hooks:
            hook(grads)
        outputs = node.gradients(*grads) if any(g is not None for g in grads) else [None] * len(node.edges)
        if node.by_hand:  # its gradients move into the call, and are gone with it (python_function.cpp, PyNode::apply)
            self._drop(grads)
        for index, edge in enumerate(node.edges):
            if edge is None or outputs[index] is None:
                outputs[index] = None
                continue
            _validate(outputs, index, *edge[0].results[edge[1]])
            result: Any = outputs[index]
            self.holders[id(result)] += 1  # the same gradient may go to several edges: then it cannot be stolen
            self.tape.gradients.setdefault(result.storage.key, node.inputs[index])
            del result  # a reference left in this frame would keep the gradient alive past its last use
        self._drop(grads)
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

    def _drop(self, grads: list[Tensor | None]) -> None:
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
        """Whether the engine owns the gradient alone, so that it may add into it (can_accumulate_inplace)."""
        return (
            self.holders[id(old)] == 1
            and old.storage.tensors == 1
            and (old.is_contiguous() or is_dense(old.shape, old.strides))
        )


def _validate(outputs: list[Any], index: int, shape: Shape, dtype: DType) -> None:
    """Sum a gradient to the shape, and cast it to the dtype, that the next node expects (validate_outputs)."""
    if not same_shape(outputs[index].shape, shape):
        outputs[index] = outputs[index].sum_to(shape)
    if outputs[index].dtype is not dtype:
        outputs[index] = outputs[index].to(dtype)
