"""Dropout: one kernel that saves a bool mask on CUDA; noise in the input's dtype on the CPU.

Source: aten/src/ATen/native/Dropout.cpp (is_fused_kernel_acceptable), native/cuda/Dropout.cu.
"""

from typing import Any

from memmodel.base.dtypes import bool_
from memmodel.rules.arithmetic import Mul
from memmodel.rules.dispatch import aten, several
from memmodel.rules.operator import RESULTS, Call, Spec, Steps, kernel, makes, rule
from memmodel.rules.pointwise import kept_strides
from memmodel.tensors.autograd import Op
from memmodel.tensors.tensor import Tensor


@rule("native_dropout")
def dropped(call: Call) -> Steps:
    """Result first, then the mask."""
    yield RESULTS
    x = call.args[0]
    yield kernel("dropout", [x], call.results, x.dtype, vector=2 * x.numel())


@rule("native_dropout_backward")
def dropped_backward(call: Call) -> Steps:
    """grad * mask / (1 - p), one kernel."""
    grad, mask, *_ = call.args
    yield RESULTS
    yield kernel("dropout_backward", [grad, mask], [call.out], grad.dtype, vector=2 * grad.numel())


makes("native_dropout")(lambda x, *_: [Spec(x.shape, x.dtype), Spec(x.shape, bool_)])
makes("native_dropout_backward")(lambda grad, *_: Spec(grad.shape, grad.dtype, kept_strides(grad)))


class NativeDropout(Op):
    """Dropout in one kernel; saves its mask."""

    def forward(self, x: Tensor, p: float) -> Tensor:
        """The input with elements zeroed, the rest scaled."""
        out, mask = several("native_dropout", x, p, True, label=("dropout", "dropout mask"))
        self.save(result1=mask)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """One kernel."""
        return (aten("native_dropout_backward", grad, self.unpack("result1")),)


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Any:
    """Zero elements with probability p and scale the rest; the input itself where p is 0 or `training` is false."""
    if p == 0 or not training:
        return input
    if input.storage.tape.device.fused_dropout:
        return NativeDropout.apply(input, p=p)
    # _dropout_impl without the fused kernel: noise of ones and zeros, scaled, then a product that saves it.
    noise = aten("empty_like", input, label="dropout noise")
    aten("bernoulli_", noise, into=noise)
    aten("div_", noise, 1 - p, into=noise)
    return Mul.apply(input, noise)
