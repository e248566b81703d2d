"""The registry of operators, and the steps that a rule is made of.

A rule is a generator: given a call, it yields these steps in the order of PyTorch's C++.

    RESULTS        allocate the results (`Result(i)`: only one of them)
    Scratch(...)   allocate scratch, which is freed by `FREED` (the latest first) or when the operator returns
    Launch(...)    launch a kernel
    NotKnown(...)  memory or arithmetic that no source states: reported, and counted as 0

Rules compute with sizes that are ints, arrays or symbols.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from memmodel.base.device import Device
from memmodel.base.dtypes import DType
from memmodel.events.program import Launch
from memmodel.events.work import Work
from memmodel.sizes.dims import Dim, Shape, product
from memmodel.tensors.layout import Strided, is_dense


class Call(NamedTuple):
    """An operator with its arguments.

    Attributes:
        op: ATen's name without namespace and overload: "bmm", "_softmax".
        args, named: arguments by position, and by name in the operator's schema. Tensors are `Strided`; a tensor that
            wraps a Python number is that number.
        results: the returned tensors, flattened; in place, the operand written.
        device: whose kernels run.
        mutated: the operands that it writes.
        overload: ATen's name of the overload, "" for the default.
    """

    op: str
    args: Sequence[Any]
    named: Mapping[str, Any]
    results: Sequence[Strided]
    device: Device
    mutated: Sequence[Strided] = ()
    overload: str = ""

    @property
    def out(self) -> Strided:
        """The first result."""
        return self.results[0]

    def tensors(self) -> list[Strided]:
        """Every tensor among the arguments, each once."""
        found: list[Strided] = []
        # A traced call has its positional arguments by their names too.
        _collect((*self.args, *(x for x in self.named.values() if not _among(x, self.args))), found)
        return found

    def written(self) -> list[Strided]:
        """The operands that are written in place, else the results that are no operand."""
        if self.mutated:
            return list(self.mutated)
        given = set(map(id, self.tensors()))
        return [x for x in self.results if id(x) not in given] or list(self.results)

    @property
    def in_place(self) -> bool:
        """Whether it writes into an operand."""
        return bool(self.mutated)


def _among(x: Any, values: Iterable[Any]) -> bool:
    return any(x is y for y in values)


def _collect(values: Iterable[Any], found: list[Strided]) -> None:
    for x in values:
        if isinstance(x, Strided):
            found.append(x)
        elif isinstance(x, list | tuple):
            _collect(x, found)


class Result(NamedTuple):
    """Allocate a result: its index (-1: all), and its bytes if it holds more than its shape needs."""

    place: int
    nbytes: Dim | None = None


class Scratch(NamedTuple):
    """Allocate scratch memory; accounts call it `name`, by default "<operator> scratch"."""

    shape: Shape
    dtype: DType
    name: str = ""
    role: str = "temporary"

    @property
    def nbytes(self) -> Dim:
        """Its bytes."""
        return product(self.shape) * self.dtype.itemsize


class Freed(NamedTuple):
    """Free the latest scratch, before the operator returns."""


class NotKnown(NamedTuple):
    """A sentence about memory or work of the operator that no source states."""

    words: str


RESULTS = Result(-1)
FREED = Freed()
Step = Result | Scratch | Freed | Launch | NotKnown
Steps = Generator[Step, None, None]
Copied = Generator[Step, None, Strided]  # steps, and the operand that the kernel then reads
Rule = Callable[[Call], Steps]
Shaper = Callable[..., "Spec | list[Spec]"]


class Spec(NamedTuple):
    """Shape, dtype and strides (None: row-major) of a result to make."""

    shape: Shape
    dtype: DType
    strides: Shape | None = None


RULES: dict[str, Rule] = {}
SHAPES: dict[str, Shaper] = {}


def rule_of(op: str) -> Rule | None:
    """The rule of an operator, which its in-place form (`add_`) shares; None without one."""
    return RULES.get(op) or RULES.get(op.rstrip("_"))


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the operators of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def makes(*names: str) -> Callable[[Any], Any]:
    """Register the shape function of these operators: from their arguments to the Spec of each result."""

    def register(function: Any) -> Any:
        SHAPES.update(dict.fromkeys(names, function))
        return function

    return register


def kernel(
    name: str,
    reads: Iterable[Strided],
    writes: Iterable[Strided],
    dtype: DType,
    *,
    matmul: Dim = 0,
    vector: Dim = 0,
    exp: Dim = 0,
    **facts: Any,
) -> Launch:
    """A launch that reads and writes each of these tensors once. `facts` are fields of `Launch`."""
    read = sum((x.bytes_read for x in reads), start=0)
    written = sum((x.bytes_written for x in writes), start=0)
    return Launch(name, Work(matmul, vector, exp, read, written), dtype, **facts)


def scratch_like(x: Strided, dtype: DType | None = None, name: str = "") -> Scratch:
    """Scratch of the shape of `x`, in its dtype unless another is given."""
    return Scratch(tuple(x.shape), dtype or x.dtype, name)


def zeroed(shape: Shape, dtype: DType, name: str = "") -> Iterator[Scratch | Launch]:
    """Scratch, and the kernel that fills it with zeros."""
    yield Scratch(shape, dtype, name)
    yield moves("zero", [], [Strided(shape, dtype)])


def copy_of(x: Strided, dtype: DType | None = None) -> Copied:
    """Steps of a row-major copy of an operand; `yield from` returns the copy."""
    made = Strided(x.shape, dtype or x.dtype)
    yield scratch_like(x, dtype, "copy")
    yield kernel("copy", [x], [made], made.dtype)
    return made


def contiguous(x: Strided) -> Copied:
    """Steps that make an operand row-major, none if it is; `yield from` returns it or its copy."""
    if x.is_contiguous():
        return x
    return (yield from copy_of(x))


def dense(x: Strided) -> bool:
    """Whether some order of the dimensions is contiguous."""
    sizes, strides, _ = x.numbers()
    return is_dense(sizes, strides)


def moves(name: str, reads: Iterable[Strided], writes: Sequence[Strided], **facts: Any) -> Launch:
    """A kernel that moves bytes and computes nothing."""
    return kernel(name, reads, writes, writes[0].dtype, **facts)
