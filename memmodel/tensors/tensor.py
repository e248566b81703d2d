"""The recording tensor: a shape on a storage, with PyTorch's lifetime and autograd state and no data.

Its methods are defined beside their rules in `memmodel.rules` and attached with `@method`. A method that does not exist
raises UsageError, which lists those that do.
"""

import weakref
from collections.abc import Callable
from typing import Any, TypeVar, overload

from memmodel.base.dtypes import DType
from memmodel.base.errors import UsageError
from memmodel.sizes.dims import Dim, Shape, product
from memmodel.tensors.layout import Strided, axis, laid_out
from memmodel.tensors.tape import Tape


class Storage:
    """A piece of device memory. It dies with the last tensor on it, as TensorImpls hold a StorageImpl in PyTorch."""

    __slots__ = ("born", "key", "nbytes", "tape", "tensors", "version")

    def __init__(self, tape: Tape, nbytes: Dim, shape: Shape, dtype: DType, op: str, role: str) -> None:
        self.tape = tape
        self.nbytes = nbytes
        self.tensors = 0
        self.version = 0
        empty = isinstance(nbytes, int) and nbytes == 0  # the allocator is not asked
        self.born = shape, dtype, op, role
        self.key = 0 if tape.fused or empty else tape.alloc(nbytes, *self.born)

    def resize_(self, nbytes: Dim) -> None:
        """Give the memory back, or take as much anew: 0 bytes, or those of its first shape."""
        if self.key:
            self.tape.free(self.key)
        self.nbytes = nbytes
        self.key = self.tape.alloc(nbytes, *self.born) if nbytes else 0

    def size(self) -> Dim:
        """Its bytes."""
        return self.nbytes


class Tensor(Strided):
    """A strided view of a storage. Shapes and strides are in elements, as `memmodel.sizes.dims` defines dims."""

    __slots__ = (
        "__weakref__",
        "_accumulator",
        "_base",
        "_layout",
        "grad",
        "grad_fn",
        "hook",
        "output_nr",
        "requires_grad",
        "storage",
    )

    def __init__(
        self,
        storage: Storage,
        shape: Shape,
        strides: Shape | None,
        dtype: DType,
        base: "Tensor | None" = None,
        offset: Dim = 0,
        layout: Strided | None = None,
    ) -> None:
        self.shape, self.dtype, self._strides, self.offset = shape, dtype, strides, offset
        self.storage = storage
        storage.tensors += 1
        self.requires_grad = False
        self.grad: Tensor | None = None
        self.grad_fn: Any = None  # the `Op` that made it
        self.output_nr = 0
        self.hook: Callable[[Tensor], None] | None = None  # called when a gradient is in `grad`
        self._base = base
        self._accumulator: weakref.ref[Any] | None = None
        self._layout = layout

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
    def is_leaf(self) -> bool:
        """Whether no recorded op made it."""
        return self.grad_fn is None

    @property
    def device(self) -> str:
        """The device's name, "cuda" or "cpu"."""
        return self.storage.tape.device.name

    @property
    def on_chip(self) -> bool:  # type: ignore[override]
        """Whether it lives inside a fused kernel, in registers or shared memory."""
        return self.storage.key == 0

    @property
    def layout(self) -> Strided:
        """Its layout, which equal ones share. Raises TypeError for sizes that are arrays."""
        if self.storage.key == 0:
            return laid_out(self.shape, self.dtype, self._strides, self.offset, on_chip=True)
        if self._layout is None:
            self._layout = laid_out(self.shape, self.dtype, self._strides, self.offset)
        return self._layout

    @property
    def data(self) -> "Tensor":
        """The same memory without history."""
        return self.alias()

    @data.setter
    def data(self, other: "Tensor") -> None:
        """Let go of its memory, and take that of another tensor of its shape."""
        before, self.storage = self.storage, other.storage
        self.offset, self._strides, self._layout = other.offset, other.kept_strides, None
        other.storage.tensors += 1
        before.tensors -= 1
        if before.tensors == 0 and before.key:
            before.tape.free(before.key)

    def untyped_storage(self) -> Storage:
        """Its piece of memory."""
        return self.storage

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one dimension of it."""
        return self.shape if dim is None else self.shape[axis(dim, self.ndim)]

    def element_size(self) -> int:
        """Bytes per element."""
        return self.dtype.itemsize

    def stride(self, dim: int | None = None) -> Any:
        """The strides, in elements, or one of them."""
        return self.strides if dim is None else self.strides[axis(dim, self.ndim)]

    def viewed(self, shape: Shape, strides: Shape | None, offset: Dim | None = None) -> "Tensor":
        """A view of the same storage, which keeps its base tensor alive (variable.h, as_view)."""
        start = self.offset if offset is None else offset
        return Tensor(self.storage, shape, strides, self.dtype, self._base or self, start)

    def alias(self) -> "Tensor":
        """Another tensor on the same storage, without history (ATen's `detach`)."""
        return Tensor(self.storage, self.shape, self._strides, self.dtype, None, self.offset, self._layout)


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


def new(
    tape: Tape, spec: Any, op: str, role: str = "tensor", nbytes: Dim | None = None, layout: Strided | None = None
) -> Tensor:
    """A tensor of `spec` (shape, dtype, strides or None) on a new storage of `nbytes`, by default what it needs.

    `layout`: the spec's, where it is known.
    """
    shape, dtype, strides = spec
    storage = Storage(tape, product(shape) * dtype.itemsize if nbytes is None else nbytes, shape, dtype, op, role)
    return Tensor(storage, shape, strides, dtype, layout=layout)
