"""masked_fill and where.

Sources: aten/src/ATen/native/TensorAdvancedIndexing.cpp (masked_fill clones, then fills in place), TensorCompare.cpp.
"""

from typing import Any

from memmodel.rules.arithmetic import in_place
from memmodel.rules.dispatch import aten
from memmodel.rules.operator import RESULTS, Call, Spec, Steps, makes, moves, rule
from memmodel.rules.pointwise import kept_strides, like_operands, spreads
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import Strided, broadcast_shape, expand_strides
from memmodel.tensors.tensor import Tensor, method


@rule("masked_fill")
def masked_fill_kernels(call: Call) -> Steps:
    """A copy of the input, unless in place, and a kernel that reads the mask and writes the elements."""
    x, mask = call.args[:2]
    yield RESULTS
    out = call.out
    if not call.in_place:
        yield moves("copy", [x], [out])
    # A broadcast mask is read with computed addresses, which has its own rate (`Launch.sizes`).
    sizes = (out.numel(),) if spreads(mask, out) else ()
    yield moves("masked_fill", [mask], [out], kind="masked_fill", sizes=sizes, in_place=True)


@makes("masked_fill")
def _filled(x: Strided, mask: Strided, _: Any = None) -> Spec:
    shape = broadcast_shape([x.shape, mask.shape])
    return Spec(shape, x.dtype, kept_strides(Strided(shape, x.dtype, expand_strides(x.shape, x.strides, shape))))


@makes("where")
def _chosen(condition: Strided, x: Any, y: Any, dtype: Any = None) -> Spec:
    shape, _, strides = like_operands(condition, x, y)
    return Spec(shape, dtype or like_operands(x, y).dtype, strides)


class MaskedFill(Op):
    """x with a value where the mask is true; saves the mask."""

    def forward(self, x: Tensor, mask: Tensor, inplace: bool = False) -> Tensor:
        """A clone, filled; in place, only filled."""
        self.save(mask=mask)
        if inplace:
            return aten("masked_fill_", x, mask, into=x)
        return aten("masked_fill", x, mask)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient, zero where filled."""
        return aten("masked_fill", grad, self.unpack("mask")), None


class Where(Op):
    """x where the condition is true, else y; saves the condition."""

    def forward(self, condition: Tensor, x: Any, y: Any) -> Tensor:
        """Elementwise, with broadcasting."""
        self.save(condition=condition)
        return aten("where", condition, x, y)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """The gradient where its branch was taken, else 0."""
        condition = self.unpack("condition")
        y = aten("where", condition, 0, grad) if self.needs[2] else None
        x = aten("where", condition, grad, 0) if self.needs[1] else None
        return None, x, y


def where(condition: Tensor, x: Any, y: Any) -> Any:
    """`x` where the condition is true, else `y`."""
    return Where.apply(condition, x, y)


@method
def masked_fill(self: Tensor, mask: Tensor, value: Any) -> Any:
    """A copy with `value` where `mask` (bool, broadcast) is true."""
    return MaskedFill.apply(self, mask)


@method
def masked_fill_(self: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`masked_fill`, into the tensor itself."""
    return in_place(MaskedFill, self, mask)
