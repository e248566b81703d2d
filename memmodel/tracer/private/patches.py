"""Replacements in PyTorch and Python while a trace runs; they are undone after it."""

import copy
import functools
import logging
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.utils.checkpoint
from torch.nn.utils import clip_grad

from memmodel.base.errors import UsageError
from memmodel.tracer.private.autograd import (
    kept_by,
    label_of,
    next_number,
    nodes_behind,
    number_of,
    running_node,
)
from memmodel.tracer.private.chip import Chip
from memmodel.tracer.private.dispatch import address_of, tables_of
from memmodel.tracer.private.fake import FakeTensor
from memmodel.tracer.private.seen import GPU, Replacement, answers, caller


class Hooks(NamedTuple):
    """Callbacks of a trace.

    Attributes:
        begins: before autograd's engine runs, with the roots. ends: after it.
        mode: on while the engine runs: a backward may run functions again (checkpointing), and `backward` is itself a
            function that left the mode.
        elsewhere: a tensor is used in another thread.
        on_host: whether a tensor is on the host rather than on the GPU.
        chip: the GPU that code sees. statistic: the value of a statistic of its memory.
    """

    begins: Callable[[Sequence[Any]], None]
    ends: Callable[[], None]
    mode: AbstractContextManager[Any]
    elsewhere: Callable[[], None]
    on_host: Callable[[Any], bool]
    chip: Chip
    statistic: Callable[[], Any]


_OURS = ("torch.", "memmodel.")
# Parts of PyTorch in Python that act on what device a tensor has.
_ASKING = ("torch.optim", "torch.amp", "torch.autograd.graph")
_OPTIMIZER = import_module("torch.optim.optimizer")  # torch.optim does not show it
packed: list[tuple[int, int]] = []  # sequence numbers of nodes made while hooks pack what is saved


@contextmanager
def patched(hooks: Hooks, more: Iterable[Replacement], on_gpu: bool) -> Iterator[None]:
    """Phases are seen, square roots of sizes keep them symbolic, and what cannot be traced says so.

    `more`: what else is replaced. `on_gpu`: whether tensors say that they are on the GPU.
    """
    packed.clear()
    with ExitStack() as stack:
        for name in ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes"):
            stack.enter_context(_silent(logging.getLogger(name)))
        replacements = [*_replacements(hooks), *more, *(_places(hooks) if on_gpu else ())]
        for target, name, replacement in replacements:
            stack.enter_context(mock.patch.object(target, name, replacement, create=not hasattr(target, name)))
        yield


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """Within, a logger says nothing: what goes wrong is told in the error."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _noting_threads(elsewhere: Callable[[], None]) -> Any:
    """Fake tensors that are used outside their mode: in a thread that the code started."""
    really, here = FakeTensor.__torch_dispatch__, threading.get_ident()

    def dispatch(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != here:
            elsewhere()
        return really(*args, **kwargs)

    return classmethod(dispatch)


class _AskedByOthers(type):
    """Answers `isinstance(x, FakeTensor)`: to code outside of PyTorch a tensor is as plain as in a real run."""

    def __instancecheck__(cls, x: Any) -> bool:
        asking: str = sys._getframe(1).f_globals.get("__name__", "")
        return f"{asking}.".startswith("torch.") and isinstance(x, FakeTensor)


class _Unrecognized(metaclass=_AskedByOthers):
    """The class of tensors without data, as libraries see it: they ask in order to take another way for tracers."""


def _class_of_fakes() -> Iterator[Replacement]:
    yield torch._subclasses, "FakeTensor", _Unrecognized
    for name, module in list(sys.modules.items()):
        if getattr(module, "__dict__", {}).get("FakeTensor") is FakeTensor and not name.startswith(_OURS):
            yield module, "FakeTensor", _Unrecognized


def _replacements(hooks: Hooks) -> Iterator[Replacement]:
    yield from _class_of_fakes()
    yield FakeTensor, "__torch_dispatch__", _noting_threads(hooks.elsewhere)
    yield FakeTensor, "__deepcopy__", _copied_deeply
    yield torch.autograd, "_engine_run_backward", watched_engine(hooks.begins, hooks.ends, hooks.mode)
    yield torch.utils.checkpoint, "_infer_device_type", lambda *_: "cpu"  # its generator is this machine's
    yield math, "sqrt", _square_root
    yield torch.SymInt, "sqrt", _square_root  # numpy.sqrt of a size asks the size itself
    # Without CUDA its functions raise errors.
    yield torch.cuda.nvtx, "_nvtx", _Annotations()
    hooked = torch.autograd.graph.saved_tensors_hooks
    yield hooked, "__enter__", _packing(hooked.__enter__, hooks.mode)
    yield hooked, "__exit__", _packed(hooked.__exit__)
    yield torch.nn.Module, "_apply", _apply
    yield from _uncompiled()
    triton = sys.modules.get("triton.runtime.jit")
    if triton is not None:
        yield triton.JITFunction, "run", _no_kernel


def _copied_deeply(self: Any, memo: dict[Any, Any]) -> Any:
    """`copy.deepcopy` of a tensor; the fake one's own way copies its mode too, in which a view has another storage.

    Source: torch/nn/parameter.py, Parameter.__deepcopy__; torch/_tensor.py, Tensor.__deepcopy__ (the whole storage).
    """
    if id(self) in memo:
        return memo[id(self)]
    if not self.is_leaf:
        raise RuntimeError("only leaves, tensors that no operator with a gradient made, can be deep-copied")
    with torch.no_grad():
        if isinstance(self, torch.nn.Parameter):
            memo[id(self)] = torch.nn.Parameter(
                self.data.clone(memory_format=torch.preserve_format), self.requires_grad
            )
            return memo[id(self)]
        storage, copies = self.untyped_storage(), memo.setdefault("torch", {})  # tensors that share one go on doing so
        if address_of(storage) not in copies:
            whole = storage.nbytes() // self.element_size()
            copies[address_of(storage)] = self.as_strided((whole,), (1,), 0).clone()
        copied = copies[address_of(storage)].as_strided(self.shape, self.stride(), self.storage_offset()).detach()
        copied.requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        if self.grad is not None:
            copied.grad = self.grad.__deepcopy__(memo)
    for name in vars(self).keys() - vars(copied).keys():
        setattr(copied, name, copy.deepcopy(getattr(self, name), memo))
    return copied


class _Extended(list[type]):
    """The types that optimizers run on lists, and fake tensors.

    A module that is imported meanwhile adds its own (torch/distributed/tensor/__init__.py): to the original too, which
    is back in its place afterwards.
    """

    def __init__(self, types: list[type]) -> None:
        super().__init__([*types, FakeTensor])
        self._types = types

    def append(self, kind: type) -> None:
        """Add a type for good."""
        super().append(kind)
        self._types.append(kind)


def _places(hooks: Hooks) -> Iterator[Replacement]:
    """The modelled GPU as the device of tensors, for the user's code and PyTorch's optimizers."""
    really = FakeTensor.device.fget  # type: ignore[attr-defined]

    def seen(x: Any, asking: str) -> torch.device:
        place: torch.device = really(x)
        if place.type == "cpu" and (asking.startswith(_ASKING) or not asking.startswith("torch.")):
            return place if hooks.on_host(x) else GPU
        return place

    yield FakeTensor, "device", property(lambda x: seen(x, caller()))
    tensors = sys.modules.get("torch.distributed.tensor")
    if tensors is not None:  # a shard: where its local tensor is
        yield tensors.DTensor, "device", property(lambda x: seen(x._local_tensor, caller()))
    # Optimizers compare exact types (torch/optim/optimizer.py, _default_to_fused_or_foreach).
    yield _OPTIMIZER, "_foreach_supported_types", _Extended(_OPTIMIZER._foreach_supported_types)
    # So that a GradScaler made within the trace stays enabled.
    yield torch.cuda.amp.common, "amp_definitely_not_available", lambda: False
    yield from answers(hooks.chip, hooks.statistic)
    yield clip_grad, "_has_foreach_support", lambda *_, **__: True
    yield clip_grad, "_device_has_foreach_support", lambda *_, **__: True


def watched_engine(
    begins: Callable[[Sequence[Any]], None], ends: Callable[[], None], mode: AbstractContextManager[Any]
) -> Callable[..., Any]:
    """Autograd's engine between two calls; where a node runs it again (a reentrant checkpoint), without them."""
    engine = torch.autograd.graph._engine_run_backward

    def run(roots: Any, *args: Any, **kwargs: Any) -> Any:
        if running_node() is not None:
            with mode:
                return engine(roots, *args, **kwargs)
        begins(roots)
        with mode:
            result = engine(roots, *args, **kwargs)
        ends()
        return result

    return run


_sqrt = math.sqrt


def _square_root(x: Any) -> float:
    """A scale's value changes no allocation: it is taken at the hint, without fixing the size."""
    return _sqrt(x.node.hint if isinstance(x, torch.SymInt | torch.SymFloat) else x)


class _Annotations:
    """NVTX without a profiler: ranges and marks are for it alone."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *_: 0


def no_autocast(make: Callable[..., None]) -> Callable[..., None]:
    """`autocast.__init__` without "cuda"."""

    @functools.wraps(make)
    def checked(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        if device_type == "cuda":
            raise UsageError(
                "autocast('cuda') is not traced: convert explicitly (x.to(torch.bfloat16)) where it would, or trace a "
                "function without it"
            )
        make(self, device_type, *args, **kwargs)

    return checked


def _apply(self: Any, function: Any, recurse: bool = True) -> Any:
    """`module.to(...)`: a parameter that changes is another; PyTorch would swap fake ones, which they do not allow."""
    for child in self.children() if recurse else ():
        child._apply(function)
    parameters, buffers = tables_of(self)
    for table in (parameters, buffers):
        for name in [name for name, tensor in table.items() if tensor is not None]:
            with torch.no_grad():
                applied = function(table[name])
            if applied is not table[name]:
                wanted = table[name].requires_grad
                table[name] = torch.nn.Parameter(applied, wanted) if table is parameters else applied
            # Else it would live until the next parameter is made.
            del applied
    return self


def _uncompiled() -> Iterator[Replacement]:
    """Functions passed to torch.compile, before or in the trace, run uncompiled."""

    def compile_(model: Any = None, **_: Any) -> Any:
        return model if model is not None else lambda function: function

    yield torch, "compile", compile_
    yield torch.nn.Module, "compile", lambda *_, **__: None
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    if compiler is not None:
        yield compiler, "_stance", compiler.DynamoStance("force_eager")


def _no_kernel(self: Any, *_: Any, **__: Any) -> Any:
    name = getattr(self, "__name__", "kernel")
    raise UsageError(
        f"the Triton kernel {name} cannot run without data: wrap its launch with torch.library.custom_op and say with "
        "register_fake what it returns, then trace again"
    )


def _packing(enter: Callable[..., Any], mode: AbstractContextManager[Any]) -> Callable[..., Any]:
    """Hooks pack what is saved while a function runs, which has left the mode."""

    def entered(self: Any) -> Any:
        packed.append((next_number(), -1))
        pack = self.pack_hook

        def packing(x: Any) -> Any:
            with mode:
                return pack(x)

        self.pack_hook = packing
        try:
            return enter(self)
        finally:
            self.pack_hook = pack

    return entered


def _packed(leave: Callable[..., Any]) -> Callable[..., Any]:
    def left(self: Any, *error: Any) -> Any:
        number = next_number()
        for index in reversed(range(len(packed))):
            if packed[index][1] < 0:
                packed[index] = packed[index][0], number
                break
        return leave(self, *error)

    return left


def is_packed(node: Any) -> bool:
    """Whether hooks (checkpointing) hold what the node saved: asking for it would run them."""
    number = number_of(node)
    return any(start <= number and (end < 0 or number < end) for start, end in packed)


def saved_tensors(roots: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """(node's name, tensor) of every tensor that the graph behind these tensors keeps, in the order of forward."""
    for node in nodes_behind(roots):
        if not is_packed(node):
            yield from ((label_of(node), kept) for kept in kept_by(node))
