"""Activations and powers on recording tensors: gradients and saved tensors. Their kernels are in `pointwise`.

Sources: tools/autograd/derivatives.yaml, torch/csrc/autograd/FunctionsManual.cpp (pow_backward).
"""

from typing import Any

from memmodel.rules.arithmetic import Elementwise, attach
from memmodel.rules.dispatch import aten
from memmodel.tensors.autograd import Op
from memmodel.tensors.tensor import Tensor, method


class Silu(Elementwise):
    """x * sigmoid(x)."""

    operator, keeps = "silu", "self"

    def gradient(self, grad: Tensor, kept: Any) -> Tensor:
        """One kernel."""
        return aten("silu_backward", grad, kept)


class Gelu(Elementwise):
    """x * Phi(x), with erf or tanh: both save the input alone."""

    operator, keeps = "gelu", "self"

    def gradient(self, grad: Tensor, kept: Any) -> Tensor:
        """One kernel."""
        return aten("gelu_backward", grad, kept)


class Relu(Elementwise):
    """max(x, 0); saves its result."""

    operator, keeps = "relu", "result"

    def gradient(self, grad: Tensor, kept: Any) -> Tensor:
        """One kernel."""
        return aten("threshold_backward", grad, kept, 0)


class Sigmoid(Elementwise):
    """1 / (1 + e^-x)."""

    operator, keeps = "sigmoid", "result"

    def gradient(self, grad: Tensor, kept: Any) -> Tensor:
        """grad * (1 - result) * result, one kernel."""
        return aten("sigmoid_backward", grad, kept)


class Sqrt(Elementwise):
    """The square root."""

    operator, keeps = "sqrt", "result"

    def gradient(self, grad: Tensor, kept: Any) -> Tensor:
        """grad / (2 * result)."""
        double = aten("mul", kept, 2, temporary=True)
        out = aten("div", grad, double)
        del double
        return out


class Rsqrt(Elementwise):
    """1 / sqrt(x)."""

    operator, keeps = "rsqrt", "result"

    def gradient(self, grad: Tensor, kept: Any) -> Tensor:
        """-0.5 * grad * result^3."""
        cube = aten("pow", kept, 3, temporary=True)
        half = aten("mul", grad, -0.5, temporary=True)
        out = aten("mul", half, cube)
        del half, cube
        return out


class Sin(Elementwise):
    """The sine."""

    operator, keeps, turned = "sin", "self", "cos"

    def gradient(self, grad: Tensor, kept: Any) -> Tensor:
        """grad times the cosine."""
        other = aten(self.turned, kept, temporary=True)
        out = aten("mul", grad, other)
        del other
        return out


class Cos(Sin):
    """The cosine."""

    operator, turned = "cos", "sin"

    def gradient(self, grad: Tensor, kept: Any) -> Tensor:
        """grad times minus the sine."""
        other = aten(self.turned, kept, temporary=True)
        negative = aten("neg", other, temporary=True)
        out = aten("mul", grad, negative)
        del negative, other
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


for _op in (Silu, Relu, Sigmoid, Sqrt, Rsqrt, Sin, Cos):
    attach(_op)


@method
def gelu(self: Tensor, approximate: str = "none") -> Any:
    """Elementwise: x * Phi(x)."""
    return Gelu.apply(self)


@method("pow")
def pow_(self: Tensor, exponent: float) -> Any:
    """Elementwise: x to the power of a number."""
    return Pow.apply(self, exponent=exponent)


method("__pow__")(pow_)
