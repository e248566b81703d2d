"""The recording tensor: a shape on a storage, with PyTorch's lifetime and autograd state and no data.

The methods live beside their rules in `ops_*.py` and are attached with `@method`; asking for one that does not exist
lists those that do.
"""

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from memmodel.dims import Dim, Shape, product
from memmodel.dtypes import DType
from memmodel.errors import UsageError
from memmodel.recording.layout import axis, contiguous_strides, is_contiguous
from memmodel.recording.tape import Tape

if TYPE_CHECKING:
    from memmodel.recording.autograd import AccumulateGrad, Op


class Storage:
    """A piece of device memory. It dies with the last tensor on it, as TensorImpls hold a StorageImpl in PyTorch."""

    __slots__ = ("key", "nbytes", "tape", "tensors", "version")

    def __init__(self, tape: Tape, nbytes: Dim, shape: Shape, dtype: DType, op: str, role: str) -> None:
        self.tape = tape
        self.nbytes = nbytes
        self.tensors = 0
        self.version = 0
        self.key = 0 if tape.fused else tape.alloc(nbytes, shape, dtype, op, role)

    @property
    def on_chip(self) -> bool:
        """Made inside a fused kernel: registers or shared memory, never allocated."""
        return self.key == 0


class Tensor:
    """A strided view of a storage. Shapes and strides are in elements; see `memmodel.dims` for what a dim can be."""

    __slots__ = (
        "__weakref__",
        "_accumulator",
        "_base",
        "dtype",
        "grad",
        "grad_fn",
        "output_nr",
        "requires_grad",
        "shape",
        "storage",
        "strides",
    )

    def __init__(
        self, storage: Storage, shape: Shape, strides: Shape, dtype: DType, base: "Tensor | None" = None
    ) -> None:
        self.storage = storage
        storage.tensors += 1
        self.shape = shape
        self.strides = strides
        self.dtype = dtype
        self.requires_grad = False
        self.grad: Tensor | None = None
        self.grad_fn: Op | None = None
        self.output_nr = 0
        self._base = base
        self._accumulator: weakref.ref[AccumulateGrad] | None = None

    def __del__(self) -> None:
        self.grad_fn = self.grad = None  # history goes before the storage, as in TensorImpl::release_resources
        storage = self.storage
        storage.tensors -= 1
        if storage.tensors == 0 and storage.key:
            storage.tape.free(storage.key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        known = sorted(m for m in methods if not m.startswith("_"))
        raise UsageError(
            f"recording tensors have no method {name!r}; there are {', '.join(known)}. "
            "Write the algorithm with these, or add an op (docs/extending.md)"
        )

    def __repr__(self) -> str:
        return f"Tensor({', '.join(map(str, self.shape))}: {self.dtype})"

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded op made it."""
        return self.grad_fn is None

    @property
    def device(self) -> str:
        """The device's name, "cuda" or "cpu"."""
        return self.storage.tape.device.name

    @property
    def nbytes(self) -> Dim:
        """Bytes of the elements (not of the storage)."""
        return product(self.shape) * self.dtype.itemsize

    @property
    def elements_read(self) -> Dim:
        """Elements that reading the tensor once fetches: repeated (stride 0) dimensions count once."""
        return product(
            size
            for size, stride in zip(self.shape, self.strides, strict=True)
            if not (isinstance(stride, int) and stride == 0)
        )

    @property
    def bytes_read(self) -> Dim:
        """HBM bytes to read the tensor once; 0 on chip."""
        return 0 if self.storage.on_chip else self.elements_read * self.dtype.itemsize

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one dimension of it."""
        return self.shape if dim is None else self.shape[axis(dim, self.ndim)]

    def numel(self) -> Dim:
        """Number of elements."""
        return product(self.shape)

    def element_size(self) -> int:
        """Bytes per element."""
        return self.dtype.itemsize

    def stride(self, dim: int | None = None) -> Any:
        """The strides, in elements, or one of them."""
        return self.strides if dim is None else self.strides[axis(dim, self.ndim)]

    def is_contiguous(self) -> bool:
        """Whether the tensor is row-major."""
        return is_contiguous(self.shape, self.strides)

    def viewed(self, shape: Shape, strides: Shape) -> "Tensor":
        """A view: another tensor on the same storage that keeps the tensor it was taken from (variable.h, as_view)."""
        return Tensor(self.storage, shape, strides, self.dtype, self._base or self)

    def alias(self) -> "Tensor":
        """Another tensor on the same storage, without history (ATen's `detach`)."""
        return Tensor(self.storage, self.shape, self.strides, self.dtype)


methods: dict[str, Callable[..., Any]] = {}
F = TypeVar("F", bound=Callable[..., Any])


@overload
def method(name: F) -> F: ...
@overload
def method(name: str) -> Callable[[F], F]: ...
def method(name: Any) -> Any:
    """Make a function a method of recording tensors, under its own name or the one given."""
    if callable(name):
        return method(name.__name__)(name)

    def attach(function: F) -> F:
        methods[name] = function
        setattr(Tensor, name, function)
        return function

    return attach


def new(tape: Tape, shape: Shape, dtype: DType, op: str, strides: Shape | None = None, role: str = "tensor") -> Tensor:
    """A tensor on a new storage of just its size; row-major unless `strides` (of a dense tensor) are given."""
    storage = Storage(tape, product(shape) * dtype.itemsize, shape, dtype, op, role)
    return Tensor(storage, shape, strides or contiguous_strides(shape), dtype)
