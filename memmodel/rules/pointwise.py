"""Elementwise operators: one kernel that reads its operands once and writes its result once; arithmetic on tensors.

An exponential, logarithm, tanh or erf counts as one operation of the special-function unit, other arithmetic as FLOP on
the fp32 units. Sources: aten/src/ATen/TensorIterator.cpp (compute_types), native/cuda/CUDALoops.cuh (operands that are
broadcast take the loop that works out addresses), tools/autograd/derivatives.yaml and FunctionsManual.cpp (gradients).
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from memmodel.dims import Dim, Shape, same, same_shape
from memmodel.dtypes import DType, bool_, float32, int64, promote
from memmodel.errors import UsageError
from memmodel.program import Launch
from memmodel.rules.dispatch import aten
from memmodel.rules.operator import RESULTS, Call, Spec, Step, Steps, kernel, makes, rule, scratch_like
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import Strided, broadcast_shape, elementwise_strides, is_dense
from memmodel.tensors.tensor import Tensor, method


class Flop(NamedTuple):
    """FLOP on the fp32 units and exponentials, per element."""

    vector: int = 1
    exp: int = 0


FLOP = {  # where an elementwise operator does not take one FLOP an element
    "exp": Flop(0, 1),
    "exp2": Flop(0, 1),
    "log": Flop(0, 1),
    "log1p": Flop(0, 1),
    "tanh": Flop(0, 1),
    "sigmoid": Flop(1, 1),
    "silu": Flop(2, 1),
    "silu_backward": Flop(5, 1),
    "gelu": Flop(4, 1),
    "gelu_backward": Flop(8, 1),
    "erf": Flop(0, 1),
    "sin": Flop(0, 1),
    "cos": Flop(0, 1),
    "pow": Flop(0, 2),
    "softplus": Flop(2, 2),
    "tanh_backward": Flop(3),
    "sigmoid_backward": Flop(3),
    "addcmul": Flop(3),
    "addcdiv": Flop(3),
    "lerp": Flop(3),
    "mse_loss": Flop(3),
    "mse_loss_backward": Flop(3),
}
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_LOGIC = ("logical_and", "logical_or", "logical_xor", "logical_not", "isneginf", "isposinf", "isnan", "isinf")
_ARITHMETIC = (
    "add",
    "sub",
    "rsub",
    "mul",
    "div",
    "neg",
    "reciprocal",
    "abs",
    "where",
    "bitwise_not",
    "bitwise_and",
    "bitwise_or",
)
_UNCONVERTED = ("where", "bitwise")  # take their operands as they are


@rule(*FLOP, *COMPARISONS, *_LOGIC, *_ARITHMETIC)
def pointwise(call: Call) -> Steps:
    """An elementwise kernel; on a device that does not convert in registers, operands of another type are copied first.

    What is read of an in-place operator is its operand too.
    """
    base = call.op.rstrip("_")
    read = call.tensors()
    converted: Iterable[Step] = (
        [] if call.device.casts_in_kernels or base.startswith(_UNCONVERTED) else _converted(call, read)
    )
    if call.overload == "Scalar" and base == "pow":  # number ** tensor makes its result first
        yield RESULTS
    yield from converted
    yield RESULTS
    vector, exp = FLOP.get(base, Flop())
    yield elementwise(call, base, read, call.written(), vector, exp)


def elementwise(
    call: Call, name: str, read: list[Strided], written: list[Strided], vector: Dim = 0, exp: Dim = 0, **facts: Any
) -> Launch:
    """The kernel: `vector` FLOP and `exp` exponentials for each element of the first result."""
    out = written[0]
    n = out.numel()
    kind, sizes = ("broadcast", (n,)) if any(spreads(x, out) for x in read) else ("elementwise", ())
    dtype = next((x.dtype for x in (out, *read) if x.dtype.floating), out.dtype)
    facts = {"kind": kind, "sizes": sizes, "in_place": call.in_place} | facts
    return kernel(name, read, written, dtype, vector=vector * n if vector else 0, exp=exp * n if exp else 0, **facts)


def spreads(x: Strided, out: Strided) -> bool:
    """Whether an operand is broadcast over the result, beyond leading dimensions of one."""
    return not same_shape(_trimmed(x.shape), _trimmed(out.shape))


def _trimmed(shape: Shape) -> Shape:
    """Without leading ones, which spread nothing."""
    ones = 0
    while ones < len(shape) and same(shape[ones], 1):
        ones += 1
    return shape[ones:]


def _converted(call: Call, read: list[Strided]) -> Steps:
    """Copies of operands in the type that the kernel computes in."""
    common = common_dtype(call)
    for x in read:
        if x.shape and x.dtype is not common:
            yield scratch_like(x, common)
            yield kernel("copy", [x], [Strided(x.shape, common)], common)


def common_dtype(call: Call) -> DType:
    """The type that an elementwise kernel computes in: that of its result, unless it compares (compute_types)."""
    common = result_dtype(call.args)
    if call.op.rstrip("_") in COMPARISONS:
        return common
    out = call.out.dtype
    return promote(common, out) if out is not bool_ and not common.floating else common


def result_dtype(operands: Any) -> DType:
    """torch's promotion, where a number or a tensor without dimensions never widens a tensor of its category."""
    tensors = [x for x in operands if isinstance(x, Strided)]
    wide = [x.dtype for x in tensors if x.shape] or [x.dtype for x in tensors]
    common = wide[0]
    for kind in wide[1:]:
        common = promote(common, kind)
    if not common.floating and any(
        isinstance(x, float) or (isinstance(x, Strided) and x.dtype.floating) for x in operands
    ):
        return float32
    return int64 if common is bool_ and any(type(x) is int for x in operands) else common


def like_operands(*operands: Any, dtype: DType | None = None) -> Spec:
    """An elementwise result: broadcast, promoted, in the memory order of its operands."""
    tensors = [x for x in operands if isinstance(x, Strided)]
    first = tensors[0].shape
    if all(same_shape(x.shape, first) and x.is_contiguous() for x in tensors):
        return Spec(first, dtype or result_dtype(operands))
    shape = broadcast_shape([x.shape for x in tensors])
    return Spec(
        shape, dtype or result_dtype(operands), elementwise_strides(shape, [(x.shape, x.strides) for x in tensors])
    )


def kept_strides(x: Strided) -> Shape:
    """Strides of a copy that preserves the format: those of a dense tensor, else by the elementwise rule."""
    return x.strides if is_dense(x.shape, x.strides) else elementwise_strides(x.shape, [(x.shape, x.strides)])


makes(*FLOP, *(name for name in _ARITHMETIC if name != "where"))(lambda *operands, **_: like_operands(*operands))
makes(*COMPARISONS, *_LOGIC)(lambda *operands, **_: like_operands(*operands, dtype=bool_))


class Add(Op):
    """x + y; nothing is kept."""

    operator, sign = "add", 1

    def forward(self, x: Any, y: Any, inplace: bool = False) -> Tensor:
        """Elementwise, with broadcasting; a number less a tensor is one kernel too."""
        if not isinstance(x, Tensor):
            return aten("rsub", y, x)
        return aten(self.operator, x, y, into=x if inplace else None)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient itself, and the gradient or its negative."""
        other = None if not self.needs[1] else grad if self.sign > 0 else aten("neg", grad)
        return grad if self.needs[0] else None, other


class Sub(Add):
    """x - y; nothing is kept."""

    operator, sign = "sub", -1


class Mul(Op):
    """x * y; keeps each factor that the other's gradient needs."""

    def forward(self, x: Any, y: Any, inplace: bool = False) -> Tensor:
        """Elementwise, with broadcasting."""
        self.scalar = None if isinstance(y, Tensor) else y
        if self.needs[0] and isinstance(y, Tensor):
            self.save(other=y)
        if self.needs[1]:
            self.save(self=x)
        return aten("mul", x, y, into=x if inplace else None)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient times the other factor."""
        other = aten("mul", grad, self.unpack("self")) if self.needs[1] else None
        factor = self.unpack("other") if self.needs[0] and self.scalar is None else self.scalar
        return aten("mul", grad, factor) if self.needs[0] else None, other


class Div(Op):
    """x / y; dividing by a tensor keeps both where its gradient is asked for."""

    def forward(self, x: Any, y: Any, inplace: bool = False) -> Tensor:
        """Elementwise, with broadcasting."""
        self.scalar = None if isinstance(y, Tensor) else y
        if isinstance(y, Tensor):
            self.save(other=y)
        if self.needs[1]:
            self.save(self=x)
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


class Exp(Op):
    """e to the x; keeps its result."""

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Elementwise on the exp unit."""
        out: Tensor = aten("exp", x, into=x if inplace else None)
        self.save(result=out)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """grad * result."""
        return (aten("mul", grad, self.unpack("result")),)


class Log(Op):
    """The natural logarithm; keeps its input."""

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Elementwise on the special-function unit."""
        self.save(self=x)
        return aten("log", x, into=x if inplace else None)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """grad / x."""
        return (aten("div", grad, self.unpack("self")),)


class Tanh(Op):
    """The hyperbolic tangent (soft-capped scores); keeps its result."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise on the special-function unit."""
        out: Tensor = aten("tanh", x)
        self.save(result=out)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """grad * (1 - result^2), one kernel."""
        return (aten("tanh_backward", grad, self.unpack("result")),)


class Neg(Op):
    """-x."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return aten("neg", x)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """-grad."""
        return (aten("neg", grad),)


class Reciprocal(Op):
    """1 / x; keeps its result."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        out: Tensor = aten("reciprocal", x)
        self.save(result=out)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """-grad * (result * result)."""
        result = self.unpack("result")
        square = aten("mul", result, result, temporary=True)
        negative = aten("neg", grad, temporary=True)
        out = aten("mul", negative, square)
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


@method("exp_")
def exp_in_place(self: Tensor) -> Tensor:
    """`exp`, into the tensor itself."""
    return in_place(Exp, self)


@method
def exp(self: Tensor) -> Any:
    """Elementwise e to the x."""
    return Exp.apply(self)


@method("log_")
def log_in_place(self: Tensor) -> Tensor:
    """`log`, into the tensor itself."""
    return in_place(Log, self)


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


def _compared(name: str, doc: str) -> Any:
    def compare(self: Tensor, *other: Any) -> Tensor:
        return aten(name, self, *other)

    compare.__name__, compare.__doc__ = name, doc
    return compare


for _name in COMPARISONS:
    for _alias in (_name, f"__{_name}__"):
        method(_alias)(_compared(_name, "Elementwise comparison; the result is bool."))
Tensor.__hash__ = object.__hash__  # type: ignore[method-assign]
for _name, _alias in {"logical_and": "", "logical_or": "", "bitwise_and": "__and__", "bitwise_or": "__or__"}.items():
    method(_alias or _name)(_compared(_name, "Elementwise on bool tensors."))
for _name, _alias in {"logical_not": "logical_not", "bitwise_not": "__invert__", "abs": "abs"}.items():
    method(_alias)(_compared(_name, "Elementwise: the opposite of bools (`~`, `logical_not`), or the absolute value."))
