"""PyTorch's functions whose choice of operators depends on the device: taken as on the device that is modelled.

Traced tensors are the CPU's without data, so what looks at the device in Python or in a composite operator would
choose the CPU's way. Requests for "cuda" are served by such a tensor too.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from memmodel.rules.sdpa import MATH, Backends, check, choose
from memmodel.tracer.corrections.autocast import Autocast
from memmodel.tracer.corrections.folded_matmul import PLAIN_SIZES, folded, folds
from memmodel.tracer.corrections.rms_norm import FUSED_SINCE, rms_norm
from memmodel.tracer.corrections.sdpa import Call, enabled, run
from memmodel.tracer.private.autocast import without_autocast
from memmodel.tracer.private.dispatch import (
    IS_CPU,
    IS_CUDA,
    PARSE_TO,
    VARIABLE_FUNCTIONS,
    converting_log_softmax,
    converting_softmax,
    is_wrapped,
    tensors_in,
    without_modes,
)
from memmodel.tracer.private.fake import is_fake
from memmodel.tracer.private.flex import FLEX_ATTENTION, called_plainly
from memmodel.tracer.private.seen import has_default_device, on_cpu, on_cpu_named
from memmodel.tracer.watch.flex import Flex
from memmodel.tracer.watch.host import named_place
from memmodel.tracer.watch.known import MAKERS, remember
from memmodel.tracer.watch.loaders import loading
from memmodel.tracer.watch.sized import (
    SIZED_BY_VALUES,
    note_shares,
    picks_by_value,
    plain_index,
    sized_as_assumed,
    sized_by_values,
)
from memmodel.tracer.watch.values import Values, answered, asking_module, check_given, stands_for_values
from memmodel.tracer.watch.views import following
from memmodel.tracer.watch.watcher import Watcher

aten = torch.ops.aten
_PLACES: dict[Any, Any] = {IS_CUDA: True, IS_CPU: False}  # what Python code sees when it asks where a tensor is
_INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
_MOVES = (torch.Tensor.cpu, torch.Tensor.cuda, torch.Tensor.to, torch.Tensor.pin_memory)
_SDPA = torch.nn.functional.scaled_dot_product_attention
_PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)
_DROPOUT, _LINEAR = torch.dropout, torch.nn.functional.linear
_SOFTMAX, _LOG_SOFTMAX = torch.softmax, torch.log_softmax
_ONE_HOT = torch.nn.functional.one_hot
# PyTorch on CUDA may take paths whose memory no source states: these are reported, and the ordinary path is traced.
_FAST_PATH = (
    "PyTorch may take its fast path here, whose memory is not known: traced is the ordinary one "
    "(torch.backends.mha.set_fastpath_enabled(False))"
)
_CUDNN_LAYER = "cuDNN's layer runs instead and keeps a reserve of its own: counted are the CPU's operators"
_UNPLACED = (
    "a tensor that was made without a device counts as the GPU's from where it is made, though it is moved there only "
    "here: make it with device='cuda', or pass it in as an input"
)
_FUSED_CELL = "a fused kernel runs instead and keeps a workspace of its own: counted are the CPU's operators"
_RECURRENT = {
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _CUDNN_LAYER),
    **dict.fromkeys(("lstm_cell", "gru_cell"), _FUSED_CELL),
}


class Functions(TorchFunctionMode):
    """Reroutes calls for a CUDA device; for the CPU, only notes where attention adds its mask."""

    def __init__(self, watcher: Watcher, backends: Backends) -> None:
        super().__init__()
        self.watcher = watcher
        self.cuda = watcher.device.name == "cuda"
        # 0 is the CPU, which has backends of its own (`memmodel.rules.sdpa.order`).
        self.backends = backends if self.cuda else backends._replace(arch=0)
        self.autocast = Autocast()
        self.flex = Flex(watcher, self.autocast)
        self._chosen = False
        self.redirects = self.cuda  # requests for "cuda" go to the CPU
        self.aside = False  # whether the code is at what a data loader does on the host
        self._own: dict[Any, Any] = {_SDPA: self.attention, _LINEAR: self._linear, _ONE_HOT: _one_hot}
        self.values = Values(watcher)
        self._own |= self.values.answers
        if self.cuda:
            self._own[FLEX_ATTENTION] = self.flex.attention
            self._own |= {_DROPOUT: _dropout, torch.histc: _histc, torch.Tensor.histc: _histc}
            self._own |= dict.fromkeys((_SOFTMAX, torch.Tensor.softmax), _softmax)
            self._own |= dict.fromkeys((_LOG_SOFTMAX, torch.Tensor.log_softmax), _log_softmax)
            if backends.torch >= FUSED_SINCE:
                self._own[torch.rms_norm] = self._rms_norm

    def leave(self, func: Any) -> None:
        """Let a function run as it is."""
        self._own.pop(func, None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with following(self.watcher, args):
            return self._called(func, args, dict(kwargs or {}))

    def _called(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if self.redirects and func not in (torch.device, PARSE_TO):
            host = self.watcher.host
            if func is torch.Tensor.get_device:
                return -1 if host.has(args[0]) else 0
            if func in _PLACES:
                # On the host both answers are the other way round.
                return _PLACES[func] is not host.has(args[0])
            if func in _MOVES:
                moved = self._moved(func, args, kwargs)
                if moved is not None:
                    return moved
            args, kwargs = on_cpu(args), on_cpu_named(kwargs)
            if _is_pinned(func, kwargs):
                with host.made_here():
                    return func(*args, **{**kwargs, "pin_memory": False})
        if self.aside:
            out = func(*args, **kwargs)
            remember(func, args, kwargs, out)
            return out
        picked = func in _INDEXING and picks_by_value(args[1])
        if func in _INDEXING:
            # A known mask sizes what is read through it, and nothing where it is written through.
            args = (
                args[0],
                plain_index(args[1], self._own[torch.Tensor.__index__], self._places if len(args) == 2 else None),
                *args[2:],
            )
        placed = kwargs.get("device") is not None or has_default_device()
        out = self._result(func, args, kwargs)
        if self.redirects and not placed and func in MAKERS and isinstance(out, Tensor):
            self.watcher.host.unplaced(out)
        # What is computed from a stand-in, or picked by one, is no known value.
        if not (picked or stands_for_values((args, kwargs))):
            remember(func, args, kwargs, out)
        return out

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The tensor on the host, or back from there; None where the call moves nothing."""
        x, host = args[0], self.watcher.host
        to = {torch.Tensor.cpu: "cpu", torch.Tensor.cuda: "cuda"}.get(func) or named_place(args, kwargs)
        if func in (torch.Tensor.cpu, torch.Tensor.pin_memory):
            return host.copied_here(x)
        # PyTorch's own code asks for where another tensor is, which to it is the CPU
        if to == "cpu" and self.watcher.is_made(x) and not asking_module().startswith("torch."):
            return host.copied_here(x)
        if to == "cuda" and host.has(x):
            return host.copied_back(x)
        if to == "cuda" and host.was_unplaced(x):
            host.place(x)
            self.values.note("" if asking_module().startswith("torch.") else _UNPLACED)  # torch's: of a module's own
        return x if func is torch.Tensor.cuda else None

    def _result(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func in self._own:
            own = self._own[func](*args, **kwargs)
            if func is _ONE_HOT:
                note_shares(func, args, own)
            return own
        if PLAIN_SIZES and func in _PRODUCTS and not kwargs and folds(*args):
            return folded(*self.autocast.cast(aten.matmul.default, args, {})[0])
        if func is torch.Tensor.__getitem__ and _has_symbols(args[0]) and _is_basic(args[1]):
            return indexed(args[0], args[1])
        if self.cuda and getattr(func, "__name__", "") in _RECURRENT:
            self.watcher.unknown[f"aten::{func.__name__}"] = _RECURRENT[func.__name__]
        check_given(func, args, kwargs)
        if func in SIZED_BY_VALUES:
            sized = self._sized(func, args, kwargs)
            if sized is not None:
                return sized
        out = answered(func, args, func(*args, **kwargs))
        note_shares(func, args, out)
        return out

    def _sized(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of a function that values size; None of one that they do not, or with tensors that have data."""
        if (func.__name__ == "where" and len(args) + len(kwargs) > 1) or not any(
            map(is_fake, tensors_in((args, kwargs)))
        ):
            return None
        known = sized_by_values(func, args, kwargs)
        return sized_as_assumed(func, args, kwargs, self.values.note) if known is None else known

    def _places(self, mask: Tensor) -> Any:
        return self._sized(torch.nonzero, (mask,), {})

    def replacements(self) -> Iterator[tuple[Any, str, Any]]:
        """(where, name, replacement) for calls inside PyTorch's own Python functions, which this mode does not see."""
        yield torch.nn.functional, "scaled_dot_product_attention", self.attention
        yield torch.nn.functional, "linear", self._linear
        yield torch, "save", self._save
        yield from loading(self._beside)
        if self.cuda:
            yield from called_plainly()
            yield from self.autocast.replacements(self.watcher.note)
            yield VARIABLE_FUNCTIONS, "dropout", _dropout
            for kind in (torch.nn.TransformerEncoderLayer, torch.nn.MultiheadAttention):
                yield kind, "forward", self._without_fast_path(kind)
            yield torch.Tensor, "softmax", _softmax
            yield torch.Tensor, "log_softmax", _log_softmax
            if self.backends.torch >= FUSED_SINCE:
                yield torch.nn.functional, "rms_norm", self._functional_rms_norm

    def _save(self, *_: Any, **__: Any) -> None:
        """`torch.save`, which has no data to write."""
        self.watcher.note("torch.save writes nothing: a trace has no data")

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """Within, code runs on plain tensors beside the trace."""
        before, self.aside = self.aside, True
        try:
            with without_modes():
                yield
        finally:
            self.aside = before

    def attention(self, *args: Any, **kwargs: Any) -> Any:
        """`scaled_dot_product_attention` by the kernel that the device would choose.

        Raises UsageError where the user's switches leave no kernel that takes the call.
        """
        if self._chosen:
            return _SDPA(*args, **kwargs)
        args, kwargs = self.autocast.cast(aten.scaled_dot_product_attention.default, args, kwargs)
        call = Call(*args, **kwargs)
        described = call.described()
        choice = choose(described, self.backends, enabled())
        check(choice, described)
        self.watcher.note_choice(choice)
        if self.cuda and (choice.backend != MATH or 0 < call.dropout_p < 1):
            with without_autocast(), self._adding_in_place(call):
                return run(call, str(choice.backend))
        self._chosen = True  # where Python code called it, the mode is asked about this call too
        try:
            # PyTorch would choose among the CPU's kernels, which have a flash attention of their own.
            with self._adding_in_place(call), sdpa_kernel(SDPBackend.MATH) if self.cuda else nullcontext():
                return _SDPA(*args, **kwargs)
        finally:
            self._chosen = False

    def _without_fast_path(self, kind: Any) -> Any:
        """The module's forward, which notes where a real run would be another."""
        forward, watcher = kind.forward, self.watcher

        @functools.wraps(forward)
        def noted(module: Any, *args: Any, **kwargs: Any) -> Any:
            if not (module.training or torch.is_grad_enabled()) and torch.backends.mha.get_fastpath_enabled():
                watcher.unknown[f"nn.{kind.__name__}"] = _FAST_PATH
            return forward(module, *args, **kwargs)

        return noted

    def _linear(self, *args: Any, **kwargs: Any) -> Any:
        """A bias is added to the product in place, where the product is not an addmm."""
        with self._adding_in_place((*args, *kwargs.values())):
            return _LINEAR(*args, **kwargs)

    def _rms_norm(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = self.autocast.cast(aten.rms_norm.default, args, kwargs)
        with without_autocast():
            return rms_norm(*args, **kwargs)

    def _functional_rms_norm(
        self, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
    ) -> Any:
        """`torch.nn.functional.rms_norm`, with the names of its parameters."""
        return self._rms_norm(input, normalized_shape, weight, eps)

    @contextmanager
    def _adding_in_place(self, given: Iterable[Any]) -> Iterator[None]:
        """Within, additions are taken as in place, unless torch.func wraps an operand: then PyTorch makes a copy."""
        wrapped = any(is_wrapped(x) for x in given if isinstance(x, Tensor))
        before, self.watcher.adds_in_place = self.watcher.adds_in_place, not wrapped
        try:
            yield
        finally:
            self.watcher.adds_in_place = before


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Ones scattered into zeros; fake tensors compare with a range."""
    if num_classes == -1 or tensor.numel() == 0:
        return _ONE_HOT(tensor, num_classes)
    return tensor.new_zeros((*tensor.shape, num_classes)).scatter_(-1, tensor.unsqueeze(-1), 1)


def _dropout(input: Tensor, p: float = 0.5, train: bool = True) -> Tensor:
    """Dropout as one operator, which keeps a bool mask."""
    if train and 0 < p < 1:
        result: Tensor = torch.native_dropout(input, p, True)[0]
        return result
    return _DROPOUT(input, p, train)


def _histc(input: Tensor, bins: int = 100, min: Any = 0, max: Any = 0) -> Tensor:
    """Counts of integers too, which the CPU's kernel refuses (aten/src/ATen/native/cuda/SummaryOps.cu)."""
    return input.new_zeros(bins) if not input.is_floating_point() else torch.histc(input, bins, min, max)


def _softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax, of float16 in float32 by a kernel that converts."""
    if dtype is torch.float32 and x.dtype is torch.float16:
        return converting_softmax(x, dim, True)
    return _SOFTMAX(x, dim, dtype)


def _log_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Log-softmax, of float16 in float32 by a kernel that converts."""
    if dtype is torch.float32 and x.dtype is torch.float16:
        return converting_log_softmax(x, dim, True)
    return _LOG_SOFTMAX(x, dim, dtype)


def _is_pinned(func: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call makes a buffer of the host: PyTorch's save_on_cpu makes its own plain ones without a GPU."""
    if kwargs.get("pin_memory"):
        return True
    return func is torch.empty and "pin_memory" in kwargs and asking_module() == "torch.autograd.graph"


def _has_symbols(x: Any) -> bool:
    return isinstance(x, Tensor) and any(isinstance(size, torch.SymInt) for size in x.shape)


def _is_basic(index: Any) -> bool:
    items = index if isinstance(index, tuple) else (index,)
    return all(i is None or i is Ellipsis or isinstance(i, slice | int | torch.SymInt) for i in items)


def indexed(x: Tensor, index: Any) -> Tensor:
    """Basic indexing that skips slices of everything, as PyTorch does where sizes are numbers."""
    items = list(index) if isinstance(index, tuple) else [index]
    given = sum(i is not None and i is not Ellipsis for i in items)
    if Ellipsis in items:
        at = items.index(Ellipsis)
        items[at : at + 1] = [slice(None)] * (x.dim() - given)
    found, dim = x, 0
    for item in items:
        if item is None:
            found, dim = found.unsqueeze(dim), dim + 1
        elif isinstance(item, slice):
            if not _is_everything(item, found.shape[dim]):
                found = torch.ops.aten.slice.Tensor(found, dim, item.start, item.stop, item.step or 1)
            dim += 1
        else:
            found = found.select(dim, item)
    # Indexing gives an alias where it takes everything (torch/csrc/autograd/python_variable_indexing.cpp).
    return found.view(found.shape) if found is x else found


def _is_everything(item: slice, size: Any) -> bool:
    start, stop = item.start, item.stop
    if item.step not in (None, 1) or start not in (None, 0):
        return False
    return stop is None or stop is size or bool(stop >= size)
