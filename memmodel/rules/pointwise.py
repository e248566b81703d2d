"""Elementwise operators: one kernel that reads its operands once and writes its result once.

An exponential, logarithm, tanh or erf counts as one operation of the special-function units, other arithmetic as FLOP
on the fp32 units. Sources: aten/src/ATen/TensorIterator.cpp (compute_types), native/cuda/CUDALoops.cuh (broadcast
operands take the loop that computes addresses).
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from memmodel.base.dtypes import DType, bool_, float32, int64, promote
from memmodel.events.program import Launch
from memmodel.rules.operator import RESULTS, Call, Spec, Step, Steps, kernel, makes, rule, scratch_like
from memmodel.sizes.dims import Dim, Shape, same, same_shape
from memmodel.tensors.layout import Strided, broadcast_shape, elementwise_strides, is_dense


class Flop(NamedTuple):
    """FLOP on the fp32 units and exponentials, per element."""

    vector: int = 1
    exp: int = 0


FLOP = {  # per element; operators that are not listed take one FLOP
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
    "sqrt": Flop(0, 1),
    "rsqrt": Flop(0, 1),
    "relu": Flop(),
    "threshold_backward": Flop(),
    "softplus": Flop(2, 2),
    "tanh_backward": Flop(3),
    "sigmoid_backward": Flop(3),
    "addcmul": Flop(3),
    "addcdiv": Flop(3),
    "lerp": Flop(3),
    "clamp": Flop(2),
    "square": Flop(),
    "logaddexp": Flop(3, 2),
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
    "floor_divide",
    "abs",
    "where",
    "bitwise_not",
    "bitwise_and",
    "bitwise_or",
)
_UNCONVERTED = ("where", "bitwise")  # take their operands as they are


@rule(*FLOP, *COMPARISONS, *_LOGIC, *_ARITHMETIC)
def pointwise(call: Call) -> Steps:
    """One elementwise kernel. A device that does not cast in registers first copies operands of other dtypes."""
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
    """A launch with `vector` FLOP and `exp` exponentials per element of the first result."""
    out = written[0]
    n = out.numel()
    # `where` takes a number as a tensor without dimensions, which is spread as any other. In 16 bits, where a thread
    # takes twice as many elements, it keeps up with memory all the same: inferred from times on an H100 and a B200.
    number = name == "where" and len(read) < 3 and out.dtype.itemsize >= 4
    kind, sizes = ("broadcast", (n,)) if number or any(spreads(x, out) for x in read) else ("elementwise", ())
    # A comparison writes bools but computes in its operands' type, whose rate counts.
    dtype = next((x.dtype for x in (out, *read) if x.dtype.floating), out.dtype)
    facts = {"kind": kind, "sizes": sizes, "in_place": call.in_place} | facts
    return kernel(name, read, written, dtype, vector=vector * n if vector else 0, exp=exp * n if exp else 0, **facts)


def spreads(x: Strided, out: Strided) -> bool:
    """Whether an operand is broadcast over the result; leading dimensions of 1 do not count."""
    return not same_shape(_trimmed(x.shape), _trimmed(out.shape))


def _trimmed(shape: Shape) -> Shape:
    """The shape without its leading ones."""
    ones = 0
    while ones < len(shape) and same(shape[ones], 1):
        ones += 1
    return shape[ones:]


def _converted(call: Call, read: list[Strided]) -> Steps:
    """Copies of operands in the dtype that the kernel computes in."""
    common = common_dtype(call)
    for x in read:  # the copy of a tensor without dimensions, of a few bytes, is left out
        if x.shape and x.dtype is not common:
            yield scratch_like(x, common)
            yield kernel("copy", [x], [Strided(x.shape, common)], common)


def common_dtype(call: Call) -> DType:
    """The dtype that an elementwise kernel computes in: its result's, in comparisons its operands' (compute_types)."""
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
    if not common.floating and any(  # float32 is torch's default dtype
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


def kept_strides(x: Strided) -> Shape | None:
    """Strides of a copy that preserves the format: those of a dense tensor, else by the elementwise rule."""
    if x.is_contiguous():
        return None
    return x.strides if is_dense(x.shape, x.strides) else elementwise_strides(x.shape, [(x.shape, x.strides)])


makes(*_LOGIC)(lambda *operands, **_: like_operands(*operands, dtype=bool_))
makes(*FLOP, *(name for name in _ARITHMETIC if name != "where"))(lambda *operands, **_: like_operands(*operands))
makes(*COMPARISONS, *_LOGIC)(lambda *operands, **_: like_operands(*operands, dtype=bool_))
