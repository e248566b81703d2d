"""Masks and choices: comparisons, logic on bools, masked_fill and where."""

from typing import Any

from memmodel.dtypes import bool_
from memmodel.recording.autograd import Op
from memmodel.recording.elementwise import copied, elementwise
from memmodel.recording.layout import broadcast_shape
from memmodel.recording.ops_pointwise import in_place
from memmodel.recording.tensor import Tensor, method


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


@method
def masked_fill(self: Tensor, mask: Tensor, value: Any) -> Any:
    """A copy with `value` where `mask` (bool, broadcast) holds."""
    return MaskedFill.apply(self, mask)


@method
def masked_fill_(self: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`masked_fill`, into the tensor itself."""
    return in_place(MaskedFill, self, mask)


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
