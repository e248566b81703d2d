"""The registry of operators, and the steps that a rule is made of.

A rule is a generator. Given a call, it yields in the order of PyTorch's C++ what happens:

    RESULTS        the operator's results are born (`Result(i)`: one of them)
    Scratch(...)   the kernel allocates for itself; what is not freed before (`FREED`: the latest) dies when it returns
    Launch(...)    a kernel runs
    NotKnown(...)  memory or arithmetic that no source states: reported, and counted as 0

Rules compute with sizes that are ints, arrays or symbols.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from memmodel.device import Device
from memmodel.dims import Dim, Shape, product
from memmodel.dtypes import DType
from memmodel.program import Launch
from memmodel.tensors.layout import Strided, is_dense
from memmodel.work import Work


class Call(NamedTuple):
    """An operator with its arguments.

    Attributes:
        op: ATen's name without namespace and overload: "bmm", "_softmax".
        args, named: arguments in order, and by their name in the operator's schema. Tensors are `Strided`; one that
            stands for a Python number is that number.
        results: what it returns, flattened; an operand where it writes in place.
        device: whose kernels run.
        mutated: the operands that it writes.
        overload: ATen's name of the overload, "" where there is one alone.
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
        _collect((*self.args, *(x for x in self.named.values() if not _among(x, self.args))), found)
        return found

    def written(self) -> list[Strided]:
        """The operands that are written in place, else the results that are no operand."""
        if self.mutated:
            return list(self.mutated)
        given = self.tensors()
        return [x for x in self.results if not _among(x, given)] or list(self.results)

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
    """A result is born: its place among the results, and its bytes where it holds more than its shape needs."""

    place: int
    nbytes: Dim | None = None


class Scratch(NamedTuple):
    """A piece of memory that the kernel takes for itself; `name` is what accounts call it, where not "... scratch"."""

    nbytes: Dim
    shape: Shape
    dtype: DType
    name: str = ""


class Freed(NamedTuple):
    """The latest scratch that is alive dies, before the operator returns."""


class NotKnown(NamedTuple):
    """Something about the operator that no source states, in words."""

    words: str


RESULTS = Result(-1)
FREED = Freed()
Step = Result | Scratch | Freed | Launch | NotKnown
Steps = Generator[Step, None, None]
Copied = Generator[Step, None, Strided]  # steps, and the operand that the kernel then reads
Rule = Callable[[Call], Steps]
Shaper = Callable[..., "Spec | list[Spec]"]


class Spec(NamedTuple):
    """What a result of recording tensors is made of; row-major unless strides are given."""

    shape: Shape
    dtype: DType
    strides: Shape | None = None


RULES: dict[str, Rule] = {}
SHAPES: dict[str, Shaper] = {}


def rule_of(op: str) -> Rule | None:
    """The rule for an operator: under its name, or for its in-place form (`add_`) under that of the other."""
    return RULES.get(op) or RULES.get(op.rstrip("_"))


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the operators of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def makes(*names: str) -> Callable[[Any], Any]:
    """Register what these operators make on recording tensors: a function from arguments to one Spec or several."""

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
    """Scratch with the elements of `x`, in another type where one is given."""
    kind = dtype or x.dtype
    return Scratch(product(x.shape) * kind.itemsize, tuple(x.shape), kind, name)


def copy_of(x: Strided, dtype: DType | None = None) -> Copied:
    """The steps of a row-major copy that the operator makes of an operand; `yield from` gives the copy."""
    made = Strided(x.shape, dtype or x.dtype)
    yield scratch_like(x, dtype, "copy")
    yield kernel("copy", [x], [made], made.dtype)
    return made


def contiguous(x: Strided) -> Copied:
    """The operand itself where it is row-major, else a copy (`yield from` gives it)."""
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
