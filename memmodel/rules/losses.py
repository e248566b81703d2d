"""Losses. Some allocate a loss per element beside their mean, and some keep that much memory for the mean itself.

Sources: aten/src/ATen/native/Loss.cpp (TORCH_META_FUNC(mse_loss), TORCH_IMPL_FUNC(mse_loss_out), soft_margin_loss_out),
cuda/Loss.cu (binary_cross_entropy_out_cuda), cuda/NLLLoss.cu, LossNLL2d.cpp, cuda/NLLLoss2d.cu,
cuda/ActivationLogSigmoidKernel.cu.
"""

from typing import Any

import memmodel.rules.softmax  # noqa: F401 (registers methods)
from memmodel.events.program import Launch
from memmodel.rules.dispatch import aten, several
from memmodel.rules.operator import (
    RESULTS,
    Call,
    Result,
    Spec,
    Steps,
    contiguous,
    kernel,
    makes,
    moves,
    rule,
    scratch_like,
)
from memmodel.tensors.autograd import Op
from memmodel.tensors.tensor import Tensor


def _reduces(call: Call, place: int = 2) -> bool:
    """Whether the loss is reduced to one number."""
    given = call.args[place] if len(call.args) > place else call.named.get("reduction", 1)
    return bool(given != 0)


@rule("mse_loss", "smooth_l1_loss")
def resized_loss(call: Call) -> Steps:
    """The result is made per element and then resized, which keeps its memory; another loss per element beside it."""
    x = call.args[0]
    if _reduces(call):
        # The meta function shapes the result like the input, then resizes it to one number: storages never shrink.
        yield Result(0, x.nbytes)
        yield scratch_like(x)
    yield RESULTS
    yield _loss(call, 3 if call.op == "mse_loss" else 1)


@rule("huber_loss")
def huber_loss(call: Call) -> Steps:
    """Scratch for a loss per element, then its mean."""
    if _reduces(call):
        yield scratch_like(call.args[0])
    yield RESULTS
    yield _loss(call)


@rule("binary_cross_entropy", "soft_margin_loss")
def copied_into(call: Call) -> Steps:
    """The loss per element fills the result's memory; its mean is made beside it and copied in."""
    if _reduces(call, 3 if call.op == "binary_cross_entropy" else 2):
        yield Result(0, call.args[0].nbytes)
        yield scratch_like(call.out)
    yield RESULTS
    yield _loss(call)


def _loss(call: Call, vector: int = 1) -> Launch:
    x = call.args[0]
    return kernel(call.op, call.tensors(), call.written(), x.dtype, vector=vector * x.numel())


@rule("nll_loss_forward")
def nll_loss(call: Call) -> Steps:
    """Read one logarithm per class index, both row-major."""
    yield RESULTS
    x, target = call.args[:2]
    yield from contiguous(x)
    yield from contiguous(target)
    yield kernel("nll_loss", call.tensors(), call.written(), x.dtype, vector=x.numel())


@rule("nll_loss2d_forward")
def nll_loss2d(call: Call) -> Steps:
    """Allocate the sum of weights first; a reduction first makes its operands contiguous."""
    yield Result(1)
    yield RESULTS
    if _reduces(call, 3):
        for x in call.args[:2]:
            yield from contiguous(x)
    yield _loss(call)


@rule("nll_loss_backward", "nll_loss2d_backward")
def nll_loss_backward(call: Call) -> Steps:
    """Write zeros, and one number per class index."""
    yield RESULTS
    yield moves("nll_loss_backward", call.tensors(), call.written(), gradient=True)


@rule("log_sigmoid_forward")
def log_sigmoid(call: Call) -> Steps:
    """The second result, which the CPU keeps for backward, is empty on CUDA."""
    if call.device.name == "cuda":
        yield Result(0)
    else:
        yield RESULTS
        yield from contiguous(call.args[0])
    x = call.args[0]
    yield kernel("log_sigmoid", [x], call.results[:1], x.dtype, vector=x.numel(), exp=2 * x.numel())


makes("nll_loss_forward")(lambda x, *_: [Spec((), x.dtype), Spec((), x.dtype)])
makes("nll_loss_backward")(lambda grad, x, *_: Spec(x.shape, x.dtype))


class NllLoss(Op):
    """The mean of the logarithms that the targets pick; saves them all."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """One kernel; the sum of weights is a second result."""
        out, weight = several("nll_loss_forward", x, target, label=("loss", "loss weight"))
        self.save(self=x, target=target, total_weight=weight)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """Zeros, and one number per row."""
        kept = (self.unpack(name) for name in ("self", "target", "total_weight"))
        return aten("nll_loss_backward", grad, *kept), None


def cross_entropy(input: Tensor, target: Tensor, reduction: str = "mean") -> Any:
    """The cross-entropy of logits (rows, classes) with class indices (rows), as a mean or a sum."""
    return NllLoss.apply(input.log_softmax(1), target)
