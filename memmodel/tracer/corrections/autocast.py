"""`torch.autocast("cuda")`: which operators cast their operands, to which type, and which casts are kept.

The policy of each operator is CUDA's (aten/src/ATen/autocast_mode.h); traced tensors are the CPU's, whose lists differ.
A cast of a weight (a float32 leaf that needs a gradient and is no view) to the low precision is made once and kept
until the outermost region ends (autocast_mode.cpp, cached_cast).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from memmodel.tracer.private.autocast import (
    cast_by,
    contexts,
    is_on,
    low_precision,
    operators_of_cuda,
    without_autocast,
)
from memmodel.tracer.private.autograd import is_view
from memmodel.tracer.private.dispatch import (
    converting_log_softmax,
    converting_softmax,
    name_of,
    schema_of,
    tensors_in,
    tree_map_only,
)

aten = torch.ops.aten
_LOW = {
    "_convolution", "conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "convolution", "prelu", "addmm", "addmv", "addr", "matmul", "einsum", "mm", "mv",
    "linalg_vecdot", "linear", "addbmm", "baddbmm", "bmm", "chain_matmul", "linalg_multi_dot",
    "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
    "cudnn_convolution", "cudnn_convolution_transpose", "_scaled_dot_product_flash_attention",
    "scaled_dot_product_attention",
}  # fmt: skip
_WIDEST = {
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put", "tensordot",
    "scatter_add",
}  # fmt: skip
_RESULT_IN_FP32 = {
    "prod", "softmax", "log_softmax", "cumprod", "cumsum", "linalg_vector_norm", "linalg_matrix_norm", "sum",
    "norm",
}  # fmt: skip
_CONVERTING = {aten.softmax.int: converting_softmax, aten.log_softmax.int: converting_log_softmax}
_WITH_DTYPE = {aten.norm.Scalar: aten.norm.ScalarOpt_dtype, aten.norm.ScalarOpt_dim: aten.norm.ScalarOpt_dim_dtype}
TAKEN_AS_ON = (
    "an autocast('cuda') made before the trace is taken as enabled: without a GPU PyTorch turns it off and forgets "
    "what was asked; make it inside the function to be sure"
)


class Autocast:
    """The casts of one trace.

    Attributes:
        kept: weight's identity -> the weight and its cast, until the outermost region ends.
    """

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._stack = ExitStack()
        self._casts = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within, autocast casts traced tensors as CUDA's."""
        before = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        try:
            yield
        finally:
            self._stack.close()
            self.kept.clear()
            torch.set_autocast_enabled("cpu", before[0])
            torch.set_autocast_dtype("cpu", before[1])

    def replacements(self, note: Callable[[str], None]) -> Iterator[tuple[Any, str, Any]]:
        """Replacements of autocast's contexts; `note` is called for contexts whose state is not known."""
        yield from contexts(self._begin, self.kept.clear, partial(note, TAKEN_AS_ON))

    def _begin(self) -> None:
        if not self._casts:  # most functions have no autocast, and replacing kernels takes a while
            self._casts = True
            self._stack.enter_context(cast_by({each: partial(self._called, each) for each in _operators()}))

    def cast(self, operator: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """An operator's arguments as autocast hands them over, for what runs in its place."""
        if not is_on():
            return args, kwargs
        return self._cast(args, kwargs, _wanted(operator, args))

    def _called(self, operator: Any, *args: Any, **kwargs: Any) -> Any:
        with without_autocast():
            name = name_of(operator).removeprefix("aten::")
            if name == "binary_cross_entropy":
                raise RuntimeError(
                    "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast: use "
                    "binary_cross_entropy_with_logits or BCEWithLogitsLoss"
                )
            if name in _RESULT_IN_FP32:
                return _in_fp32(operator, args, kwargs)
            args, kwargs = self._cast(args, kwargs, _wanted(operator, args))
            return operator(*args, **kwargs)

    def _cast(self, args: Any, kwargs: Any, wanted: torch.dtype) -> tuple[Any, Any]:
        """The last argument first, as compiled C++ evaluates them."""
        cast = partial(tree_map_only, Tensor, lambda x: self._cast_one(x, wanted))
        named = {name: cast(x) for name, x in reversed(kwargs.items())}
        return [cast(x) for x in reversed(args)][::-1], named

    def _cast_one(self, x: Tensor, wanted: torch.dtype) -> Tensor:
        if not _is_eligible(x) or x.dtype is wanted:
            return x
        weight = x.dtype is torch.float32 and x.requires_grad and x.is_leaf and not is_view(x)
        if not (weight and wanted is low_precision() and torch.is_autocast_cache_enabled()):
            return x.to(wanted)
        if id(x) not in self.kept:
            # With the weight, so that its id stays its own.
            self.kept[id(x)] = x, x.to(wanted)
        return self.kept[id(x)][1]


@cache
def _operators() -> tuple[Any, ...]:
    return tuple(operators_of_cuda())


def _wanted(operator: Any, args: Any) -> torch.dtype:
    name = name_of(operator).removeprefix("aten::")
    if name in _LOW:
        return low_precision()
    if name in _WIDEST and not any(x.dtype is torch.float32 for x in tensors_in(args) if _is_eligible(x)):
        return low_precision()
    return torch.float32


def _is_eligible(x: Tensor) -> bool:
    # As autocast_mode.h has it (is_eligible).
    return x.is_floating_point() and x.dtype is not torch.float64


def _in_fp32(operator: Any, args: Any, kwargs: Any) -> Any:
    """An operator that is asked for a float32 result, where nothing else is, rather than given float32 operands."""
    if not _is_eligible(args[0]):
        return operator(*args, **kwargs)
    if operator in _WITH_DTYPE:
        return _WITH_DTYPE[operator](*args, **kwargs, dtype=torch.float32)
    named = dict(zip((a.name for a in schema_of(operator).arguments), args, strict=False)) | kwargs
    given = named.pop("dtype", None)
    if operator in _CONVERTING and given is None and args[0].dtype is torch.float16:
        return _CONVERTING[operator](named["self"], named["dim"], True)
    return operator(**named, dtype=given or torch.float32)
