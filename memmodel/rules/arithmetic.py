"""Elementwise arithmetic on recording tensors: gradients, saved tensors and methods.

Sources: tools/autograd/derivatives.yaml, torch/csrc/autograd/FunctionsManual.cpp. Their kernels are in `pointwise`.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from memmodel.base.errors import UsageError
from memmodel.rules.dispatch import aten
from memmodel.rules.pointwise import COMPARISONS
from memmodel.tensors.autograd import Op
from memmodel.tensors.tensor import Tensor, method


class Add(Op):
    """x + y; saves nothing."""

    operator, sign = "add", 1

    def forward(self, x: Any, y: Any, inplace: bool = False) -> Tensor:
        """Elementwise, with broadcasting; number - tensor is one kernel too (rsub)."""
        if not isinstance(x, Tensor):
            return aten("rsub", y, x)
        return aten(self.operator, x, y, into=x if inplace else None)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient itself, and the gradient or its negative."""
        other = None if not self.needs[1] else grad if self.sign > 0 else aten("neg", grad)
        return grad if self.needs[0] else None, other


class Sub(Add):
    """x - y; saves nothing."""

    operator, sign = "sub", -1


def _as_it_was(x: Tensor, inplace: bool) -> Tensor:
    """The operand to save: a copy, where it is about to be written over (VariableType, `original_self`)."""
    return aten("clone", x, contiguous=False) if inplace else x


class Mul(Op):
    """x * y; saves each factor that the other's gradient needs."""

    def forward(self, x: Any, y: Any, inplace: bool = False) -> Tensor:
        """Elementwise, with broadcasting."""
        # A number lives in the node itself: saving it takes no device memory.
        self.scalar = None if isinstance(y, Tensor) else y
        if self.needs[0] and isinstance(y, Tensor):
            self.save(other=y)
        if self.needs[1]:
            self.save(self=_as_it_was(x, inplace))
        return aten("mul", x, y, into=x if inplace else None)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient times the other factor."""
        # Nodes compute their gradients in the alphabetical order of operands' names (torchgen, load_derivatives.py).
        other = aten("mul", grad, self.unpack("self")) if self.needs[1] else None
        factor = self.unpack("other") if self.needs[0] and self.scalar is None else self.scalar
        return aten("mul", grad, factor) if self.needs[0] else None, other


class Div(Op):
    """x / y; saves y if it is a tensor, and x if y requires a gradient."""

    def forward(self, x: Any, y: Any, inplace: bool = False) -> Tensor:
        """Elementwise, with broadcasting."""
        self.scalar = None if isinstance(y, Tensor) else y
        if isinstance(y, Tensor):
            self.save(other=y)
        if self.needs[1]:
            self.save(self=_as_it_was(x, inplace))
        return aten("div", x, y, into=x if inplace else None)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """grad / y, and -grad * ((x / y) / y), whose three temporaries live to the end of the expression."""
        other = self._other(grad) if self.needs[1] else None
        divisor = self.unpack("other") if self.scalar is None else self.scalar
        return aten("div", grad, divisor) if self.needs[0] else None, other

    def _other(self, grad: Tensor) -> Tensor:
        x, y = self.unpack("self"), self.unpack("other")
        # C++ evaluates the right operand first and destroys temporaries in reverse at the end of the expression.
        first = aten("div", x, y, temporary=True)
        second = aten("div", first, y, temporary=True)
        negative = aten("neg", grad, temporary=True)
        result: Tensor = aten("mul", negative, second)
        del negative, second, first
        return result


class Elementwise(Op):
    """An elementwise function of one tensor; `elementwise` makes its subclasses."""

    operator: ClassVar[str]
    saves: ClassVar[str]  # "self" (its operand), "result" or "" (nothing)
    gradient: Callable[[Tensor, Any], Tensor]

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """One kernel."""
        if self.saves == "self":
            self.save(self=x)
        out = aten(self.operator, x, into=x if inplace else None)
        if self.saves == "result":
            self.save(result=out)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient, from the saved tensor."""
        return (self.gradient(grad, self.unpack(self.saves) if self.saves else None),)


def in_place(op: type[Op], x: Tensor, *others: Any) -> Tensor:
    """Run an elementwise op into `x` itself: it keeps its storage, and its history grows by the op.

    Raises UsageError for a leaf that requires a gradient, as PyTorch does, and for a view under autograd.
    """
    tracked = x.storage.tape.grad_enabled and any(isinstance(t, Tensor) and t.requires_grad for t in (x, *others))
    if tracked and x.requires_grad and x.is_leaf:
        raise UsageError("an in-place operation on a leaf that requires a gradient: use the out-of-place form")
    # A view's history would be rebuilt on its base (CopySlices), which recording tensors do not have.
    if tracked and x.grad_fn is not None and x.grad_fn.is_view:
        raise UsageError("an in-place operation on a view under autograd is not modelled: clone() it first")
    result: Tensor = op.apply(x, *others, inplace=True)
    return result


for _name, _op in {"add": Add, "sub": Sub, "mul": Mul, "div": Div}.items():

    def _forward(self: Tensor, other: Any, op: type[Op] = _op) -> Any:
        return op.apply(self, other)

    # `alpha` scales `other` inside the kernel: it changes neither launches nor memory.
    def _in_place(self: Tensor, other: Any, op: type[Op] = _op, alpha: Any = 1) -> Any:
        return in_place(op, self, other)

    _python = {"div": "truediv"}.get(_name, _name)
    _forward.__name__, _in_place.__name__ = _name, f"{_name}_"
    _forward.__doc__ = f"{_op.__doc__} Broadcasts; a scalar never widens the dtype."
    _in_place.__doc__ = f"`{_name}`, into the tensor itself."
    for _alias in (_name, f"__{_python}__"):
        method(_alias)(_forward)
    for _alias in (f"{_name}_", f"__i{_python}__"):
        method(_alias)(_in_place)


def mul(x: Tensor, y: Any, out: Tensor | None = None) -> Any:
    """`x * y`; into `out`, which is outside of autograd, where that is given."""
    return Mul.apply(x, y) if out is None else aten("mul", x, y, into=out)


@method("__rmul__")
def rmul(self: Tensor, other: Any) -> Any:
    """scalar * x."""
    return Mul.apply(self, other)


@method("__radd__")
def radd(self: Tensor, other: Any) -> Any:
    """scalar + x."""
    return Add.apply(self, other)


@method("__rsub__")
def rsub(self: Tensor, other: Any) -> Any:
    """scalar - x, one kernel."""
    return Sub.apply(other, self)


@method("__rtruediv__")
def rdiv(self: Tensor, other: Any) -> Any:
    """scalar / x: ATen computes reciprocal(x) * scalar."""
    return Mul.apply(self.reciprocal(), other)


@method
def logaddexp(self: Tensor, other: Tensor) -> Tensor:
    """log(exp(x) + exp(y)); not under autograd."""
    return aten("logaddexp", self, other)


def elementwise(saves: str = "", *aliases: str) -> Callable[[Callable[[Tensor, Any], Tensor]], type[Elementwise]]:
    """Define an elementwise function by its gradient, with methods for it and for its in-place form.

    Decorates the formula of derivatives.yaml, a function of the gradient and of the tensor that forward saves ("self",
    "result" or "" for none). Its name is ATen's name of the function, its docstring what the function computes.
    """

    def define(gradient: Callable[[Tensor, Any], Tensor]) -> type[Elementwise]:
        name = gradient.__name__
        members = {"operator": name, "saves": saves, "gradient": staticmethod(gradient), "__doc__": gradient.__doc__}
        op: type[Elementwise] = type(name.capitalize(), (Elementwise,), members)

        def apply(self: Tensor) -> Any:
            return op.apply(self)

        def apply_in_place(self: Tensor) -> Tensor:
            return in_place(op, self)

        apply.__doc__ = f"Elementwise: {gradient.__doc__}"
        apply_in_place.__doc__ = f"`{name}`, into the tensor itself."
        for alias in (name, *aliases):
            method(alias)(apply)
        method(f"{name}_")(apply_in_place)
        return op

    return define


@elementwise("result")
def exp(grad: Tensor, result: Tensor) -> Tensor:
    """e to the x."""
    return aten("mul", grad, result)


@elementwise("self")
def log(grad: Tensor, x: Tensor) -> Tensor:
    """The natural logarithm."""
    return aten("div", grad, x)


@elementwise("result")
def tanh(grad: Tensor, result: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return aten("tanh_backward", grad, result)


@elementwise("", "__neg__")
def neg(grad: Tensor, _: None) -> Tensor:
    """-x."""
    return aten("neg", grad)


@elementwise("result")
def reciprocal(grad: Tensor, result: Tensor) -> Tensor:
    """1 / x."""
    square = aten("mul", result, result, temporary=True)
    negative = aten("neg", grad, temporary=True)
    out = aten("mul", negative, square)
    del negative, square  # C++ destroys temporaries in reverse
    return out


def _compared(name: str, doc: str) -> Any:
    def compare(self: Tensor, *other: Any) -> Tensor:
        return aten(name, self, *other)

    compare.__name__, compare.__doc__ = name, doc
    return compare


for _name in COMPARISONS:
    for _alias in (_name, f"__{_name}__"):
        method(_alias)(_compared(_name, "Elementwise comparison; the result is bool."))
for _name, _alias in {"logical_and": "", "logical_or": "", "bitwise_and": "__and__", "bitwise_or": "__or__"}.items():
    method(_alias or _name)(_compared(_name, "Elementwise on bool tensors."))
for _name, _alias in {"logical_not": "logical_not", "bitwise_not": "__invert__", "abs": "abs"}.items():
    method(_alias)(_compared(_name, "Elementwise: the opposite of bools (`~`, `logical_not`), or the absolute value."))
