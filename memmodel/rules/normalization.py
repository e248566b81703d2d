"""Layer norm, RMS norm, group and batch norm: one kernel, which saves one or two numbers per row.

Sources: aten/src/ATen/native/layer_norm.cpp, cuda/layer_norm_kernel.cu (statistics in acc_type: fp32 for half
precision), cpu/layer_norm_kernel.cpp (LayerNormBackwardKernelImplInternal), Normalization.cpp
(batch_norm_cpu_update_stats_template, batch_norm_backward_cpu_template), cpu/batch_norm_kernel.cpp.
"""

from collections.abc import Sequence
from typing import Any

import memmodel.rules.activations  # noqa: F401 (registers methods)
from memmodel.base.dtypes import DType, float32, float64
from memmodel.rules.dispatch import several
from memmodel.rules.libraries import left_out
from memmodel.rules.operator import RESULTS, Call, Freed, Result, Scratch, Spec, Steps, contiguous, kernel, makes, rule
from memmodel.sizes.dims import Dim, Shape, hint, product
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import Strided
from memmodel.tensors.tensor import Tensor

_MANY_ROWS = 65536  # above this the backward sums rows in two passes
_FLOP = {
    "_fused_rms_norm": 4,
    "_fused_rms_norm_backward": 10,
    "native_group_norm": 6,
    "native_batch_norm": 6,
    "native_batch_norm_backward": 12,  # as layer norm's
}


@rule("native_layer_norm")
def one_layer_norm(call: Call) -> Steps:
    """A strided operand is copied first; mean and reciprocal deviation are in fp32 on CUDA.

    On the CPU they are in the dtype of the weight (param_scalar_type).
    """
    x = yield from contiguous(call.args[0])
    kind = (call.args[2] if isinstance(call.args[2], Strided) else x).dtype
    itemsize = max(4, kind.itemsize) if call.device.name == "cuda" else kind.itemsize
    yield Result(0)
    for i in (1, 2):
        yield Result(i, call.results[i].numel() * itemsize)
    yield kernel("layer_norm", call.tensors(), call.results, x.dtype, vector=6 * x.numel())


@rule("native_layer_norm_backward")
def layer_norm_backward(call: Call) -> Steps:
    """Gradients of input, weight and bias; each CPU thread sums those of weight and bias in its own buffer."""
    grad, x, normalized = call.args[:3]
    x = yield from contiguous(x)
    yield RESULTS
    yield from contiguous(grad)
    wanted = call.args[7]
    if call.device.name == "cpu" and (wanted[1] or wanted[2]):
        yield _sums_by_thread(x, product(normalized), call.device.threads)
    rows = hint(x.numel()) // max(1, hint(product(normalized)))
    if call.device.name == "cuda" and rows > _MANY_ROWS:
        yield left_out("partial sums over more than 65,536 rows, some MiB")
    yield kernel("layer_norm_backward", call.tensors(), call.written(), x.dtype, vector=12 * x.numel(), gradient=True)


def _sums_by_thread(x: Strided, columns: Dim, threads: int) -> Scratch:
    return Scratch((2, threads, columns), x.dtype)


@rule(*_FLOP)
def normalized(call: Call) -> Steps:
    """One kernel reads the operands and writes the results; the CPU's batch norm makes numbers per channel beside."""
    backward = call.op.endswith("backward")
    largest = call.args[1] if backward else call.args[0]
    if "batch_norm" in call.op and call.device.name == "cpu" and largest.is_contiguous():
        yield from (_batch_norm_backward if backward else _batch_norm)(call, largest)
    else:
        yield RESULTS
    yield kernel(
        call.op.strip("_"), call.tensors(), call.written(), largest.dtype, vector=_FLOP[call.op] * largest.numel(),
        gradient=backward,
    )  # fmt: skip


def _batch_norm(call: Call, x: Strided) -> Steps:
    """Sums of each channel, in training, then the factor and the summand that normalize it: two numbers each."""
    channels, kind = x.shape[1], _wide(x.dtype)
    yield RESULTS
    for sums in (True, False) if call.args[5] else (False,):
        yield Scratch((channels,), kind)
        yield Scratch((channels,), kind)
        if sums and _is_flat(x) and hint(x.shape[0]) > call.device.threads:
            yield Scratch((call.device.threads, channels), kind)
            yield Freed()
        yield Freed()
        yield Freed()


def _batch_norm_backward(call: Call, x: Strided) -> Steps:
    """The gradient of the input is made twice, if that of the output is contiguous: the second one is kept."""
    wanted, twice = call.args[9], call.args[0].is_contiguous()
    if wanted[0]:
        yield Scratch(x.shape, x.dtype) if twice else Result(0)
    yield from (Result(i) for i in (1, 2) if wanted[i])
    if wanted[0] and twice:
        yield Result(0)
        yield Freed()
    if not twice:
        yield Scratch((x.shape[1],), _wide(x.dtype))
    elif _is_flat(x):
        if call.args[2] is None:  # a weight of ones in its place
            yield Scratch((x.shape[1],), _wide(x.dtype))
        yield Scratch((2, call.device.threads, x.shape[1]), _wide(x.dtype))


def _is_flat(x: Strided) -> bool:
    """Whether there is one number per channel, which is summed over the batch by thread."""
    return hint(x.numel()) == hint(x.shape[0]) * hint(x.shape[1])


def _statistics(x: Strided, shape: Shape) -> Spec:
    """A number per row."""
    return Spec((*x.shape[: len(x.shape) - len(shape)], *(1 for _ in shape)), _wide(x.dtype))


def _wide(kind: DType) -> DType:
    return float64 if kind is float64 else float32


@makes("native_layer_norm")
def _layer_norm(x: Strided, shape: Shape, *_: Any) -> list[Spec]:
    rows = _statistics(x, shape)
    return [Spec(x.shape, x.dtype), rows, rows]


@makes("native_layer_norm_backward")
def _layer_norm_backward(grad: Strided, x: Strided, *rest: Any) -> list[Spec]:
    *_, weight, bias, wanted = rest
    return _of_wanted((x, weight, bias), wanted)


def _of_wanted(operands: Sequence[Strided], wanted: Sequence[bool]) -> list[Spec]:
    """The gradients of the operands that need one."""
    return [Spec(y.shape, y.dtype) for y, needed in zip(operands, wanted, strict=True) if needed]


def _placed(found: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Any, ...]:
    """The gradients in the places of their operands, None in the others."""
    rest = iter(found)
    return tuple(next(rest) if needed else None for needed in wanted)


makes("_fused_rms_norm")(lambda x, shape, *_: [Spec(x.shape, x.dtype), _statistics(x, shape)])
makes("_fused_rms_norm_backward")(lambda grad, x, rows, weight, wanted: _of_wanted((x, weight), wanted))


class NativeLayerNorm(Op):
    """(x - mean) / deviation * weight + bias; saves the input and two numbers per row."""

    def forward(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Shape) -> Tensor:
        """One kernel."""
        self.shape = shape
        out, mean, rstd = several("native_layer_norm", x, shape, weight, bias, label=("layer_norm", "mean", "rstd"))
        kept = {"bias": bias, "input": x, "weight": weight, "result1": mean, "result2": rstd}
        self.save(**{name: tensor for name, tensor in kept.items() if tensor is not None})
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """All three gradients by one operator."""
        bias, weight = self.unpacked.get("bias"), self.unpacked.get("weight")
        x, mean, rstd = (self.unpack(name) for name in ("input", "result1", "result2"))
        found = several("native_layer_norm_backward", grad, x, self.shape, mean, rstd, weight, bias, self.needs)
        return _placed(found, self.needs)


class FusedRmsNorm(Op):
    """x / root mean square * weight in one kernel; saves the input and a number per row."""

    def forward(self, x: Tensor, weight: Tensor, shape: Shape) -> Tensor:
        """One kernel."""
        out, rows = several("_fused_rms_norm", x, shape, weight, label=("rms_norm", "rstd"))
        self.save(input=x, weight=weight, result1=rows)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """Both gradients by one kernel."""
        kept = (self.unpack(name) for name in ("input", "result1", "weight"))
        return _placed(several("_fused_rms_norm_backward", grad, *kept, self.needs), self.needs)


def layer_norm(
    input: Tensor, normalized_shape: Shape, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Any:
    """Layer norm over the last dimensions, of the sizes `normalized_shape`."""
    return NativeLayerNorm.apply(input, weight, bias, shape=tuple(normalized_shape))


def rms_norm(input: Tensor, normalized_shape: Shape, weight: Tensor, eps: float = 1e-6) -> Any:
    """RMS norm over the last dimensions: one kernel on CUDA, plain operators in fp32 elsewhere (rms_norm_composite)."""
    shape = tuple(normalized_shape)
    if input.storage.tape.device.fused_rms_norm and input.dtype is weight.dtype:
        return FusedRmsNorm.apply(input, weight, shape=shape)
    dims = tuple(range(-len(shape), 0))
    wide = input.to(_wide(input.dtype))
    powers = wide.pow(2)
    squares = powers.mean(dims, keepdim=True)
    scale = squares.add_(eps).rsqrt()
    del squares, powers  # C++ keeps temporaries to the end of the statement
    out = (wide * scale) * weight
    del wide  # the scale outlives the cast
    return out.type_as(input)
