"""Elementwise operations: each reads its operands once and writes its result once."""

from typing import Any

from memmodel.dims import product
from memmodel.dtypes import DType, bool_, float32, int64
from memmodel.errors import UsageError
from memmodel.recording.autograd import Op
from memmodel.recording.layout import broadcast_shape, contiguous_strides, elementwise_strides, is_dense
from memmodel.recording.tensor import Tensor, method, new
from memmodel.work import Work

_WIDTH = ("bool", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64")


def promoted(*operands: Any) -> DType:
    """The result type of operands: torch's promotion, where a scalar or a 0-d tensor never widens a tensor."""
    tensors = [x for x in operands if isinstance(x, Tensor)]
    wide = [x for x in tensors if x.shape] or tensors
    best = max((x.dtype for x in wide), key=lambda kind: _WIDTH.index(kind.name))
    if {x.dtype.name for x in wide} >= {"float16", "bfloat16"} and best.itemsize == 2:
        return float32
    floats = any(isinstance(x, float) or (isinstance(x, Tensor) and x.dtype.floating) for x in operands)
    return float32 if floats and not best.floating else best


def elementwise(
    name: str,
    *operands: Any,
    dtype: DType | None = None,
    out: Tensor | None = None,
    exp: bool = False,
    vector: int = 1,
    role: str = "tensor",
    condition: Tensor | None = None,
) -> Tensor:
    """Launch an elementwise kernel on tensors and scalars; returns its new result, or `out` for an in-place one.

    A `condition` is read too but takes no part in promotion.

    `vector` is FLOP per element, `exp` whether each element takes an exponential. On a device that does not convert in
    registers, operands of another dtype than the common one are copied first.
    """
    tensors = [x for x in operands if isinstance(x, Tensor)]
    tape = tensors[0].storage.tape
    common = promoted(*operands)
    read = tensors if condition is None else [condition, *tensors]
    shape = out.shape if out is not None else broadcast_shape([x.shape for x in read])
    strides = None if out is not None else elementwise_strides(shape, [(x.shape, x.strides) for x in read])
    casts = [] if tape.device.casts_in_kernels else [_cast(x, common) for x in tensors if _differs(x, common)]
    result = out if out is not None else new(tape, shape, dtype or common, name, strides, role)
    count = product(shape)
    work = Work(
        vector=0 if exp else vector * count,
        exp=count if exp else 0,
        read=sum((x.bytes_read for x in read), start=0),
        written=0 if result.storage.on_chip else count * result.dtype.itemsize,
    )
    tape.launch(name, work, common, parallel=count)
    if out is not None:
        out.storage.version += 1
    while casts:
        casts.pop()
    return result


def _differs(x: Tensor, common: DType) -> bool:
    return x.dtype is not common and bool(x.shape)


def _cast(x: Tensor, common: DType) -> Tensor:
    return new(x.storage.tape, x.shape, common, "cast", _kept_strides(x), role="temporary")


def _kept_strides(x: Tensor) -> Any:
    """Strides of a copy that preserves the format: those of a dense tensor, else by the elementwise rule."""
    return x.strides if is_dense(x.shape, x.strides) else elementwise_strides(x.shape, [(x.shape, x.strides)])


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


class MaskedFill(Op):
    """x with a value where the mask holds; keeps the mask."""

    def forward(self, x: Tensor, mask: Tensor, inplace: bool = False) -> Tensor:
        """A clone, filled; in place, only filled."""
        self.save(mask=mask)
        return elementwise("masked_fill", mask, out=x, vector=0) if inplace else _masked_fill(x, mask)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient, zero where filled."""
        return _masked_fill(grad, self.unpack("mask")), None


def _masked_fill(x: Tensor, mask: Tensor) -> Tensor:
    """ATen's masked_fill: clone the broadcast input, then fill it in place."""
    shape = broadcast_shape([x.shape, mask.shape])
    filled = copied(x.expand(shape), "masked_fill")
    return elementwise("masked_fill", mask, out=filled, vector=0)


class Where(Op):
    """x where the condition holds, else y; keeps the condition."""

    def forward(self, condition: Tensor, x: Any, y: Any) -> Tensor:
        """Elementwise, with broadcasting."""
        self.save(condition=condition)
        return elementwise("where", x, y, condition=condition)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient where its branch was taken, else 0."""
        condition = self.unpack("condition")
        y = elementwise("where", grad, condition=condition) if self.needs[2] else None
        x = elementwise("where", grad, condition=condition) if self.needs[1] else None
        return None, x, y


class ToCopy(Op):
    """A copy in another dtype."""

    def forward(self, x: Tensor, dtype: DType) -> Tensor:
        """See `to`."""
        self.dtype = x.dtype
        return copied(x, "to", dtype)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient in the input's dtype."""
        return (copied(grad, "to", self.dtype) if grad.dtype is not self.dtype else grad,)


class Clone(Op):
    """A copy."""

    def forward(self, x: Tensor, contiguous: bool) -> Tensor:
        """Row-major, or in the layout of `x`."""
        return copied(x, "clone", strides=contiguous_strides(x.shape) if contiguous else None)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient itself."""
        return (grad,)


def copied(x: Tensor, name: str, dtype: DType | None = None, strides: Any = None) -> Tensor:
    """A new tensor with the elements of `x`: one read, one write."""
    kind = dtype or x.dtype
    out = new(x.storage.tape, x.shape, kind, name, strides or _kept_strides(x))
    x.storage.tape.launch(name, Work(read=x.bytes_read, written=out.bytes_read), kind, parallel=x.numel())
    return out


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


@method
def masked_fill(self: Tensor, mask: Tensor, value: Any) -> Any:
    """A copy with `value` where `mask` (bool, broadcast) holds."""
    return MaskedFill.apply(self, mask)


@method
def masked_fill_(self: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`masked_fill`, into the tensor itself."""
    return in_place(MaskedFill, self, mask)


@method
def to(self: Tensor, dtype: Any) -> Any:
    """In another dtype; itself where it has it. A device's name changes nothing."""
    if isinstance(dtype, str) or dtype is self.dtype:
        return self
    return ToCopy.apply(self, dtype=dtype)


@method
def type_as(self: Tensor, other: Tensor) -> Any:
    """In the dtype of `other`."""
    return to(self, other.dtype)


@method("float")
def to_float(self: Tensor) -> Any:
    """In float32."""
    return to(self, float32)


@method
def half(self: Tensor) -> Any:
    """In float16."""
    from memmodel.dtypes import float16

    return to(self, float16)


@method
def bfloat16(self: Tensor) -> Any:
    """In bfloat16."""
    from memmodel.dtypes import bfloat16 as kind

    return to(self, kind)


@method
def clone(self: Tensor) -> Any:
    """A copy in the same layout."""
    return Clone.apply(self, contiguous=False)


@method
def clone_contiguous(self: Tensor) -> Any:
    """A row-major copy."""
    return Clone.apply(self, contiguous=True)


@method
def clone_like(self: Tensor, other: Tensor) -> Tensor:
    """A copy in the strides of `other`, of the same shape (clone_obey_contract)."""
    strides = other.strides if is_dense(other.shape, other.strides) else contiguous_strides(other.shape)
    return copied(self, "clone", strides=strides)


@method
def copy_(self: Tensor, source: Tensor) -> Tensor:
    """The elements of `source`, written into this tensor."""
    if self.storage.tape.grad_enabled and (self.requires_grad or source.requires_grad):
        raise UsageError("copy_ into a tensor under autograd is not modelled: use cat or stack, or no_grad()")
    work = Work(read=source.bytes_read, written=self.bytes_read)
    self.storage.tape.launch("copy", work, self.dtype, parallel=self.numel())
    self.storage.version += 1
    return self


@method
def zero_(self: Tensor) -> Tensor:
    """Zeros, written into this tensor."""
    self.storage.tape.launch("zero", Work(written=self.bytes_read), self.dtype, parallel=self.numel())
    self.storage.version += 1
    return self


for _name in ("ge", "gt", "le", "lt", "eq", "ne"):

    def _compare(self: Tensor, other: Any, name: str = _name) -> Tensor:
        return elementwise(name, self, other, dtype=bool_)

    _compare.__name__, _compare.__doc__ = _name, "Elementwise comparison; the result is bool."
    method(_name)(_compare)
    method(f"__{_name}__")(_compare)
Tensor.__hash__ = object.__hash__  # type: ignore[method-assign]

for _name, _dunder in {"logical_and": "__and__", "logical_or": "__or__"}.items():

    def _logical(self: Tensor, other: Any, name: str = _name) -> Tensor:
        return elementwise(name, self, other, dtype=bool_)

    _logical.__name__, _logical.__doc__ = _name, "Elementwise on bool tensors."
    method(_name)(_logical)
    method(_dunder)(_logical)


@method
def logical_not(self: Tensor) -> Tensor:
    """The opposite, as bool."""
    return elementwise("logical_not", self, dtype=bool_)


method("__invert__")(logical_not)

__all__ = ["copied", "elementwise", "in_place", "int64", "promoted"]
