"""Shapes and strides as PyTorch lays tensors out: which views are free and which need a copy.

Shapes are tuples of dims; strides count elements. Sources: ATen/TensorUtils.cpp (computeStride),
ATen/TensorIterator.cpp (reorder_dimensions), c10/core/TensorImpl (contiguity).
"""

from collections.abc import Sequence
from functools import lru_cache

from memmodel.base.dtypes import DType
from memmodel.base.errors import UsageError
from memmodel.sizes.dims import Dim, Shape, exact_div, hint, letters, memoized, product, same, same_shape


class Strided:
    """A tensor as a kernel sees it: sizes, strides and offset in elements, and the element type.

    Recording tensors are a subclass, and the tracer shows traced tensors to rules as one. Without strides it is
    row-major; the strides are then computed on demand, since on arrays that is most of the arithmetic.
    """

    __slots__ = ("_strides", "dtype", "offset", "shape")
    on_chip = False  # in registers or shared memory, inside a fused kernel

    def __init__(self, shape: Shape, dtype: DType, strides: Shape | None = None, offset: Dim = 0) -> None:
        self.shape = shape
        self.dtype = dtype
        self._strides = strides
        self.offset = offset

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def strides(self) -> Shape:
        """Elements from one index of a dimension to the next."""
        return contiguous_strides(self.shape) if self._strides is None else self._strides

    @property
    def kept_strides(self) -> Shape | None:
        """The strides, None for those of a row-major tensor that were never asked for."""
        return self._strides

    def numel(self) -> Dim:
        """Number of elements."""
        return product(self.shape)

    @property
    def nbytes(self) -> Dim:
        """Bytes of the elements (not of the storage)."""
        return product((*self.shape, self.dtype.itemsize))

    @property
    def bytes_read(self) -> Dim:
        """HBM bytes to read it once: dimensions repeated by a stride of 0 count once; 0 on chip."""
        if self.on_chip:
            return 0
        if self._strides is None:
            return self.nbytes
        once = (n for n, step in zip(self.shape, self.strides, strict=True) if not _is_0(step))
        return product((*once, self.dtype.itemsize))

    @property
    def bytes_written(self) -> Dim:
        """HBM bytes to write it once; 0 on chip."""
        return 0 if self.on_chip else self.nbytes

    def is_contiguous(self) -> bool:
        """Whether it is row-major."""
        if self._strides is not None and is_contiguous(self.shape, self._strides):
            self._strides = None
        return self._strides is None

    def at_most(self, n: int, dim: int | None = None) -> bool:
        """Whether it has at most n elements, or n along `dim`, where that chooses a kernel.

        In letters it is a condition of the formulas.
        """
        return hint(self.numel() if dim is None else self.shape[dim]) <= n

    def copied(self) -> "Strided":
        """Another of the same layout, for another tensor of it: rules tell tensors by identity."""
        return type(self)(self.shape, self.dtype, self._strides, self.offset)

    def numbers(self) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """Sizes, strides and offset as ints that stand for arrays and symbols, for decisions about layout."""
        return tuple(map(hint, self.shape)), tuple(map(hint, self.strides)), hint(self.offset)


class OnChip(Strided):
    """A tensor inside a fused kernel: in registers or shared memory, so that it costs no HBM traffic."""

    __slots__ = ()
    on_chip = True


def laid_out(shape: Shape, dtype: DType, strides: Shape | None, offset: Dim, on_chip: bool = False) -> Strided:
    """A layout: the same object for equal ones, so that it can be a key. Raises TypeError for arrays."""
    return _laid_out(OnChip if on_chip else Strided, shape, dtype, strides, offset, letters((*shape, *(strides or ()))))


@lru_cache(maxsize=1 << 14)
def _laid_out(
    kind: type[Strided], shape: Shape, dtype: DType, strides: Shape | None, offset: Dim, _: tuple[str, ...]
) -> Strided:
    return kind(shape, dtype, strides, offset)


def _is_0(stride: Dim) -> bool:
    return isinstance(stride, int) and stride == 0


@memoized
def contiguous_strides(shape: Shape) -> Shape:
    """Row-major strides of `shape`."""
    strides: list[Dim] = []
    step: Dim = 1
    for size in reversed(shape):
        strides.append(step)
        step = step * (int(size) if isinstance(size, int) else size)
    strides.reverse()
    return tuple(strides)


@memoized
def is_contiguous(shape: Shape, strides: Shape) -> bool:
    """Whether the tensor is row-major; dimensions of size 1 do not count."""
    expected: Dim = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if same(size, 1):
            continue
        if not same(stride, expected):
            return False
        expected = expected * (int(size) if isinstance(size, int) else size)
    return True


def is_dense(shape: Shape, strides: Shape) -> bool:
    """Non-overlapping and dense: some permutation of the dimensions is contiguous."""
    kept = [(stride, size) for size, stride in zip(shape, strides, strict=True) if not same(size, 1)]
    kept.sort(key=lambda pair: hint(pair[0]))
    expected: Dim = 1
    for stride, size in kept:
        if not same(stride, expected):
            return False
        expected = expected * size
    return True


def axis(dim: int, ndim: int) -> int:
    """`dim` as an index from the front, where negative ones count from the back. Raises UsageError out of range."""
    if not -ndim <= dim < ndim:
        raise UsageError(f"dimension {dim} of a tensor with {ndim} dimensions: expected {-ndim} to {ndim - 1}")
    return dim % ndim


def resolve(shape: Shape, requested: Sequence[Dim]) -> Shape:
    """The requested shape, its -1 (if any) computed from the number of elements. Raises UsageError if it cannot be."""
    unknown = [i for i, size in enumerate(requested) if isinstance(size, int) and size == -1]
    if len(unknown) > 1:
        raise UsageError(f"view{tuple(requested)}: at most one dimension can be -1")
    total, result = product(shape), tuple(requested)
    if unknown:
        rest = exact_div(total, product([size for i, size in enumerate(requested) if i not in unknown]))
        result = tuple([rest if i in unknown else size for i, size in enumerate(requested)])
    if not same(product(result), total):
        raise UsageError(f"a view of shape {tuple(requested)} does not fit a tensor of shape {shape}")
    return result


@memoized
def view_strides(shape: Shape, strides: Shape, new: Shape) -> Shape | None:
    """Strides that show `shape` as `new` without a copy, or None where PyTorch must copy."""
    if is_contiguous(shape, strides):
        return contiguous_strides(new)
    result: list[Dim] = [0] * len(new)
    target = len(new) - 1
    base, old_count, new_count = strides[-1], 1, 1
    for source in reversed(range(len(shape))):
        old_count = old_count * shape[source]
        block_ends = source == 0 or not (same(shape[source - 1], 1) or same(strides[source - 1], old_count * base))
        if not block_ends:
            continue
        while target >= 0 and (hint(new_count) < hint(old_count) or same(new[target], 1)):
            result[target] = new_count * base
            new_count = new_count * new[target]
            target -= 1
        if not same(new_count, old_count):
            return None
        if source > 0:
            base, old_count, new_count = strides[source - 1], 1, 1
    return tuple(result) if target == -1 else None


def broadcast_shape(shapes: Sequence[Shape]) -> Shape:
    """The common shape of operands under broadcasting. Raises UsageError where they do not broadcast."""
    result: list[Dim] = []
    for index in range(1, max(map(len, shapes)) + 1):
        sizes = [shape[-index] for shape in shapes if len(shape) >= index]
        wide = [size for size in sizes if not same(size, 1)]
        if any(not same(size, wide[0]) for size in wide):
            raise UsageError(f"shapes {' and '.join(map(str, shapes))} do not broadcast")
        result.append(wide[0] if wide else sizes[0])
    return tuple(reversed(result))


@memoized
def expand_strides(shape: Shape, strides: Shape, new: Shape) -> Shape:
    """Strides of `shape` broadcast to `new`: 0 where a dimension of one is repeated or a dimension is new."""
    lead = len(new) - len(shape)
    result: list[Dim] = [0] * lead
    for size, stride, wide in zip(shape, strides, new[lead:], strict=True):
        if not same(size, wide) and not same(size, 1):
            raise UsageError(f"a tensor of shape {shape} does not expand to {new}")
        result.append(stride if same(size, wide) else 0)
    return tuple(result)


def elementwise_strides(shape: Shape, operands: Sequence[tuple[Shape, Shape]]) -> Shape:
    """Strides of an elementwise result: it keeps the dimension order of its operands (TensorIterator's rule)."""
    if all(same_shape(s, shape) and is_contiguous(s, t) for s, t in operands):
        return contiguous_strides(shape)
    wide = [expand_strides(s, t, shape) for s, t in operands]
    order = list(reversed(range(len(shape))))  # fastest first
    for i in range(1, len(order)):
        moving = i
        for other in reversed(range(i)):
            comparison = _compare(order[other], order[moving], shape, wide)
            if comparison > 0:
                order[other], order[moving] = order[moving], order[other]
                moving = other
            elif comparison < 0:
                break
    strides: list[Dim] = [0] * len(shape)
    step: Dim = 1
    for dim in order:
        strides[dim] = step
        step = step * shape[dim]
    return tuple(strides)


def _compare(dim0: int, dim1: int, shape: Shape, operands: Sequence[Shape]) -> int:
    for strides in operands:
        stride0, stride1 = hint(strides[dim0]), hint(strides[dim1])
        if stride0 == 0 or stride1 == 0:
            continue
        if stride0 != stride1:
            return -1 if stride0 < stride1 else 1
        if hint(shape[dim0]) > hint(shape[dim1]):
            return 1
    return 0
