"""Elementwise arithmetic: sums, products, exponentials, and their in-place forms."""

from typing import Any

from memmodel.errors import UsageError
from memmodel.recording.autograd import Op
from memmodel.recording.elementwise import elementwise
from memmodel.recording.tensor import Tensor, method


class Add(Op):
    """x + y; nothing is kept."""

    name_, sign = "add", 1

    def forward(self, x: Any, y: Any, inplace: bool = False) -> Tensor:
        """Elementwise, with broadcasting."""
        return elementwise(self.name_, x, y, out=x if inplace else None)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient itself, and the gradient or its negative."""
        other = None if not self.needs[1] else grad if self.sign > 0 else elementwise("neg", grad)
        return grad if self.needs[0] else None, other


class Sub(Add):
    """x - y; nothing is kept."""

    name_, sign = "sub", -1


class Mul(Op):
    """x * y; keeps each factor that the other's gradient needs."""

    def forward(self, x: Any, y: Any, inplace: bool = False) -> Tensor:
        """Elementwise, with broadcasting."""
        self.scalar = None if isinstance(y, Tensor) else y
        if self.needs[0] and isinstance(y, Tensor):
            self.save(other=y)
        if self.needs[1]:
            self.save(self=x)
        return elementwise("mul", x, y, out=x if inplace else None)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient times the other factor."""
        other = elementwise("mul", grad, self.unpack("self")) if self.needs[1] else None
        factor = self.unpack("other") if self.needs[0] and self.scalar is None else self.scalar
        return elementwise("mul", grad, factor) if self.needs[0] else None, other


class Div(Op):
    """x / y; dividing by a tensor keeps both where its gradient is asked for."""

    def forward(self, x: Any, y: Any, inplace: bool = False) -> Tensor:
        """Elementwise, with broadcasting."""
        self.scalar = None if isinstance(y, Tensor) else y
        if isinstance(y, Tensor):
            self.save(other=y)
        if self.needs[1]:
            self.save(self=x)
        return elementwise("div", x, y, out=x if inplace else None)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """grad / y, and -grad * ((x / y) / y), whose three temporaries live to the end of the expression."""
        other = self._other(grad) if self.needs[1] else None
        divisor = self.unpack("other") if self.scalar is None else self.scalar
        return elementwise("div", grad, divisor) if self.needs[0] else None, other

    def _other(self, grad: Tensor) -> Tensor:
        x, y = self.unpack("self"), self.unpack("other")
        # C++ evaluates the right operand first and destroys temporaries in reverse at the end of the expression.
        first = elementwise("div", x, y, role="temporary")
        second = elementwise("div", first, y, role="temporary")
        negative = elementwise("neg", grad, role="temporary")
        result = elementwise("mul", negative, second)
        del negative, second, first
        return result


class Exp(Op):
    """e to the x; keeps its result."""

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Elementwise on the exp unit."""
        out = elementwise("exp", x, exp=True, out=x if inplace else None)
        self.save(result=out)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """grad * result."""
        return (elementwise("mul", grad, self.unpack("result")),)


class Log(Op):
    """The natural logarithm; keeps its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise on the special-function unit."""
        self.save(self=x)
        return elementwise("log", x, exp=True)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """grad / x."""
        return (elementwise("div", grad, self.unpack("self")),)


class Tanh(Op):
    """The hyperbolic tangent (soft-capped scores); keeps its result."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise on the special-function unit."""
        out = elementwise("tanh", x, exp=True)
        self.save(result=out)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """grad * (1 - result^2), one kernel."""
        return (elementwise("tanh_backward", grad, self.unpack("result"), vector=3),)


class Neg(Op):
    """-x."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return elementwise("neg", x)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """-grad."""
        return (elementwise("neg", grad),)


for _name, _op in {"add": Add, "sub": Sub, "mul": Mul, "div": Div}.items():

    def _forward(self: Tensor, other: Any, op: type[Op] = _op) -> Any:
        return op.apply(self, other)

    def _in_place(self: Tensor, other: Any, op: type[Op] = _op) -> Any:
        return in_place(op, self, other)

    _python = {"div": "truediv"}.get(_name, _name)
    _forward.__name__, _in_place.__name__ = _name, f"{_name}_"
    _forward.__doc__ = f"{_op.__doc__} Broadcasts; a scalar never widens the dtype."
    _in_place.__doc__ = f"`{_name}`, into the tensor itself."
    for _alias in (_name, f"__{_python}__"):
        method(_alias)(_forward)
    for _alias in (f"{_name}_", f"__i{_python}__"):
        method(_alias)(_in_place)


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
    return Mul.apply(Reciprocal.apply(self), other)


class Reciprocal(Op):
    """1 / x; keeps its result."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        out = elementwise("reciprocal", x)
        self.save(result=out)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """-grad * (result * result)."""
        result = self.unpack("result")
        square = elementwise("mul", result, result, role="temporary")
        negative = elementwise("neg", grad, role="temporary")
        out = elementwise("mul", negative, square)
        del negative, square
        return (out,)


def in_place(op: type[Op], x: Tensor, *others: Any) -> Tensor:
    """Run an elementwise op into `x` itself: its storage stays, its history grows by the op."""
    tracked = x.storage.tape.grad_enabled and any(isinstance(t, Tensor) and t.requires_grad for t in (x, *others))
    if tracked and x.requires_grad and x.is_leaf:
        raise UsageError("an in-place operation on a leaf that requires a gradient: use the out-of-place form")
    if tracked and x.grad_fn is not None and x.grad_fn.is_view:
        raise UsageError("an in-place operation on a view under autograd is not modelled: clone() it first")
    result: Tensor = op.apply(x, *others, inplace=True)
    return result


@method("exp_")
def exp_in_place(self: Tensor) -> Tensor:
    """`exp`, into the tensor itself."""
    return in_place(Exp, self)


@method
def exp(self: Tensor) -> Any:
    """Elementwise e to the x."""
    return Exp.apply(self)


@method
def log(self: Tensor) -> Any:
    """Elementwise natural logarithm."""
    return Log.apply(self)


@method
def tanh(self: Tensor) -> Any:
    """Elementwise hyperbolic tangent."""
    return Tanh.apply(self)


@method
def neg(self: Tensor) -> Any:
    """-x."""
    return Neg.apply(self)


method("__neg__")(neg)
