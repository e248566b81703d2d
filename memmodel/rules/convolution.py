"""Convolutions: one kernel a result, on CUDA cuDNN's.

Sources: aten/src/ATen/native/Convolution.cpp; FLOP as torch/utils/flop_counter.py counts them (conv_flop_count).
"""

from typing import Any

from memmodel.rules.dispatch import aten, several
from memmodel.rules.operator import RESULTS, Call, Spec, Steps, kernel, makes, rule
from memmodel.sizes.dims import Dim, product
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import Strided
from memmodel.tensors.tensor import Tensor


@rule("convolution")
def convolution(call: Call) -> Steps:
    """x (b, c, ...) with a weight (features, c / groups, ...)."""
    x, weight = call.args[:2]
    yield RESULTS
    flop = _flop(x, call.out, weight, call.args[6])
    yield kernel("convolution", call.tensors(), [call.out], x.dtype, matmul=flop)


@rule("convolution_backward")
def convolution_backward(call: Call) -> Steps:
    """The gradients of input, weight and bias that are asked for; the first two take a forward's FLOP each."""
    grad, x, weight, wanted = *call.args[:3], call.args[10]
    yield RESULTS
    flop = (wanted[0] + wanted[1]) * _flop(x, grad, weight, call.args[7])
    yield kernel("convolution_backward", call.tensors(), call.written(), grad.dtype, matmul=flop, gradient=True)


def _flop(x: Strided, out: Strided, weight: Strided, transposed: bool) -> Dim:
    places = x if transposed else out  # a transposed convolution lays its window on every element of its input
    return 2 * places.shape[0] * product(places.shape[2:]) * product(weight.shape)


def _places(size: Dim, window: Dim, stride: int) -> Dim:
    return (size - window) // stride + 1


@makes("convolution")
def _convolved(x: Strided, weight: Strided, _: Any, stride: Any, padding: Any, *__: Any) -> Spec:
    """Without dilation or transposition."""
    padded = [size + 2 * pad for size, pad in zip(x.shape[2:], padding, strict=True)]
    sizes = zip(padded, weight.shape[2:], stride, strict=True)
    return Spec((x.shape[0], weight.shape[0], *(_places(*each) for each in sizes)), x.dtype)


@makes("convolution_backward")
def _convolved_backward(grad: Strided, x: Strided, weight: Strided, bias: tuple[Dim, ...], *rest: Any) -> list[Spec]:
    shapes = (x.shape, weight.shape, bias)
    return [Spec(shape, grad.dtype) for shape, wanted in zip(shapes, rest[-1], strict=True) if wanted]


class Convolution(Op):
    """A convolution in one dimension or more; saves its input and weight."""

    def forward(self, input: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
        """`stride` and `padding` are those of every dimension."""
        axes = len(weight.shape) - 2
        self.where = (stride,) * axes, (padding,) * axes, (1,) * axes, False, (0,) * axes, 1
        self.features = bias.shape
        self.save(input=input, weight=weight)
        return aten("convolution", input, weight, bias, *self.where)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradients that are needed, by one operator."""
        wanted = tuple(self.needs[:3])
        found = iter(
            several(
                "convolution_backward", grad, self.unpack("input"), self.unpack("weight"), self.features, *self.where,
                wanted,
            )
        )  # fmt: skip
        return *(next(found) if each else None for each in wanted), None


def conv2d(input: Tensor, weight: Tensor, bias: Tensor, stride: int = 1) -> Any:
    """The images (b, c, height, width) under a weight (features, c, rows, columns) with a bias (features,)."""
    return Convolution.apply(input, weight, bias, stride=stride, padding=0)


def conv1d(input: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0) -> Any:
    """Rows (b, c, n) under a weight (features, c, window) with a bias (features,)."""
    return Convolution.apply(input, weight, bias, stride=stride, padding=padding)
