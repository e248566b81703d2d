"""Activations and powers on recording tensors: gradients and saved tensors. Their kernels are in `pointwise`.

Sources: tools/autograd/derivatives.yaml, torch/csrc/autograd/FunctionsManual.cpp (pow_backward).
"""

from typing import Any

from memmodel.rules.arithmetic import elementwise
from memmodel.rules.dispatch import aten
from memmodel.tensors.autograd import Op
from memmodel.tensors.tensor import Tensor, method


@elementwise("self")
def silu(grad: Tensor, x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return aten("silu_backward", grad, x)


@elementwise("self")
def gelu(grad: Tensor, x: Tensor) -> Tensor:
    """x * Phi(x)."""
    return aten("gelu_backward", grad, x)


@elementwise("result")
def relu(grad: Tensor, result: Tensor) -> Tensor:
    """max(x, 0)."""
    return aten("threshold_backward", grad, result, 0)


@elementwise("result")
def sigmoid(grad: Tensor, result: Tensor) -> Tensor:
    """1 / (1 + e^-x)."""
    return aten("sigmoid_backward", grad, result)


@elementwise("result")
def sqrt(grad: Tensor, result: Tensor) -> Tensor:
    """The square root."""
    # A `del` is the end of the C++ expression, where temporaries die in reverse of their order.
    double = aten("mul", result, 2, temporary=True)
    out = aten("div", grad, double)
    del double
    return out


@elementwise("result")
def rsqrt(grad: Tensor, result: Tensor) -> Tensor:
    """1 / sqrt(x)."""
    # -0.5 * grad * result.pow(3) in derivatives.yaml: C++ evaluates the right factor first.
    cube = aten("pow", result, 3, temporary=True)
    half = aten("mul", grad, -0.5, temporary=True)
    out = aten("mul", half, cube)
    del half, cube
    return out


@elementwise("self")
def sin(grad: Tensor, x: Tensor) -> Tensor:
    """The sine."""
    cosine = aten("cos", x, temporary=True)
    out = aten("mul", grad, cosine)
    del cosine
    return out


@elementwise("self")
def cos(grad: Tensor, x: Tensor) -> Tensor:
    """The cosine."""
    sine = aten("sin", x, temporary=True)
    negative = aten("neg", sine, temporary=True)
    out = aten("mul", grad, negative)
    del negative, sine
    return out


class Pow(Op):
    """x to a constant exponent; saves x."""

    def forward(self, x: Tensor, exponent: float) -> Tensor:
        """One kernel."""
        self.exponent = exponent
        self.save(self=x)
        return aten("pow", x, exponent)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """grad * (exponent * x^(exponent - 1))."""
        power = aten("pow", self.unpack("self"), self.exponent - 1, temporary=True)
        slope = aten("mul", power, self.exponent, temporary=True)
        out = aten("mul", grad, slope)
        del slope, power
        return (out,)


@method("gelu")
def _gelu(self: Tensor, approximate: str = "none") -> Any:
    """Elementwise: x * Phi(x); by erf or by tanh (`approximate`), it saves its input alone."""
    # gelu is one kernel with either approximation, and its FLOP in `pointwise` do not tell them apart.
    return gelu.apply(self)


@method("pow")
def pow_(self: Tensor, exponent: float) -> Any:
    """Elementwise: x to the power of a number."""
    return Pow.apply(self, exponent=exponent)


method("__pow__")(pow_)
