"""The elementwise kernel: reads its operands once, writes its result once; and the copy, its simplest case."""

from typing import Any

from memmodel.dims import Shape, product, same, same_shape
from memmodel.dtypes import DType, float32
from memmodel.recording.layout import broadcast_shape, elementwise_strides, is_dense
from memmodel.recording.tensor import Tensor, new
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
    spread = any(not same_shape(_trimmed(x.shape), _trimmed(shape)) for x in read)
    kind, sizes = ("broadcast", (count,)) if spread else ("elementwise", ())
    tape.launch(name, work, common, parallel=count, kind=kind, sizes=sizes)
    if out is not None:
        out.storage.version += 1
    while casts:
        casts.pop()
    return result


def _trimmed(shape: Shape) -> Shape:
    """Without leading ones, which spread nothing."""
    ones = 0
    while ones < len(shape) and same(shape[ones], 1):
        ones += 1
    return shape[ones:]


def _differs(x: Tensor, common: DType) -> bool:
    return x.dtype is not common and bool(x.shape)


def _cast(x: Tensor, common: DType) -> Tensor:
    return new(x.storage.tape, x.shape, common, "cast", kept_strides(x), role="temporary")


def kept_strides(x: Tensor) -> Any:
    """Strides of a copy that preserves the format: those of a dense tensor, else by the elementwise rule."""
    return x.strides if is_dense(x.shape, x.strides) else elementwise_strides(x.shape, [(x.shape, x.strides)])


def copied(x: Tensor, name: str, dtype: DType | None = None, strides: Any = None) -> Tensor:
    """A new tensor with the elements of `x`: one read, one write."""
    kind = dtype or x.dtype
    out = new(x.storage.tape, x.shape, kind, name, strides or kept_strides(x))
    x.storage.tape.launch(name, Work(read=x.bytes_read, written=out.bytes_read), kind, parallel=x.numel())
    return out
