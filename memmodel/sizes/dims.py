"""Arithmetic on dimensions: ints, numpy integer arrays, polynomials in columns, or positive sympy expressions.

Recording tensors run the same code on all: ints give a prediction, columns (`memmodel.sizes.columns`) a sweep, symbols
a closed form. The functions here are the few places where they differ; none of them imports numpy or sympy for ints.

Arrays and symbols are sizes of at least two; a size of one must be the literal 1, since it changes PyTorch's layout
rules (a dimension of one is contiguous with anything).
"""

from collections.abc import Callable, Iterable
from functools import lru_cache, reduce, wraps
from operator import mul
from typing import Any, TypeVar

Dim = Any
Shape = tuple[Dim, ...]
F = TypeVar("F", bound=Callable[..., Any])


class Size(int):
    """An int that remembers its letter, so that shapes and byte counts can be shown as formulas: n, b·h, ..."""

    letter: str

    def __new__(cls, value: int, letter: str) -> "Size":
        """An int of that value, written as `letter` in formulas."""
        size = super().__new__(cls, value)
        size.letter = letter
        return size

    def __reduce__(self) -> tuple[type["Size"], tuple[int, str]]:
        return Size, (int(self), self.letter)  # int's own form would drop the letter in `pickle` and `copy`

    def __mul__(self, other: Any) -> Any:
        product = int(self) * other
        if isinstance(other, Size):
            return Size(product, f"{self.letter}·{other.letter}")
        if isinstance(other, int) and other == 1:
            return self
        return product

    __rmul__ = __mul__


def letters(dims: Shape) -> tuple[str, ...]:
    """The letter of each dimension, "" without one; () if none has any. With its letters, a shape can be a key."""
    if Size not in map(type, dims):
        return ()
    return tuple(dim.letter if type(dim) is Size else "" for dim in dims)


_ARRAYS = 64  # results for arrays that are remembered


def memoized(function: F) -> F:
    """Remember what a function of shapes returned: of ints and symbols by their values, of arrays by identity.

    So a product of the same columns is computed once, and is one array, which nothing can write to.
    Only for results that are plain numbers: a `Size` is equal to its number, whatever its letter.
    """
    remembered = lru_cache(maxsize=1 << 14)(function)
    of_arrays: dict[Any, tuple[Any, Any]] = {}  # key -> arguments, which keep the identities valid, and result

    @wraps(function)
    def call(*args: Any) -> Any:
        try:
            return remembered(*args)
        except TypeError:  # an array has no hash
            pass
        if not all(isinstance(d, int) or hasattr(d, "setflags") for shape in args for d in shape):
            return function(*args)  # torch's letters
        key = tuple(tuple(d if isinstance(d, int) else (id(d),) for d in shape) for shape in args)
        if key not in of_arrays:
            if len(of_arrays) == _ARRAYS:
                of_arrays.clear()
            result = function(*args)
            for array in result if isinstance(result, tuple) else (result,):
                if hasattr(array, "setflags"):
                    array.setflags(write=False)
            of_arrays[key] = args, result
        return of_arrays[key][1]

    return call  # type: ignore[return-value]


def product(dims: Iterable[Dim]) -> Dim:
    """The product of `dims` as a plain number, without the letters of `Size`; 1 for none."""
    return _product(tuple(dims))


@memoized
def _product(dims: Shape) -> Dim:
    total: Dim = 1
    for size in dims:
        total = total * (int(size) if isinstance(size, int) else size)
    return total


def merged(dims: Iterable[Dim]) -> Dim:
    """The product of `dims` as one dimension of a shape, which keeps their letters: b·h."""
    dims = tuple(dims)
    if symbolic(*dims):
        return product(dims)  # symbols are letters, and known products cost nothing
    return reduce(mul, dims) if dims else 1


def same(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are equal: arrays in every element, symbols as expressions, torch's as it decides."""
    if a is b:
        return True
    if type(b) is int and b == 1 and hasattr(a, "setflags"):
        return False  # an array holds sizes of at least two
    equal = a == b
    return bool(equal.all()) if hasattr(equal, "all") else bool(equal)


def same_shape(a: Shape, b: Shape) -> bool:
    """Whether two shapes are equal, dimension by dimension."""
    try:
        return a == b
    except ValueError:  # of arrays with more than one element
        return len(a) == len(b) and all(map(same, a, b))


def ceil_div(a: Dim, b: Dim) -> Dim:
    """a / b rounded up."""
    if type(a) is type(b) is int:
        return -(-a // b)  # as mostly
    if symbolic(a, b):
        from sympy import ceiling

        return ceiling(a / b)
    return -(-a // b)


def exact_div(a: Dim, b: Dim) -> Dim:
    """a / b where b divides a: whole for ints and arrays, an expression for symbols."""
    return a / b if symbolic(a, b) else a // b


_NUMBERS = int, float


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger of two dimensions or byte counts, elementwise for arrays and `Max` for symbols."""
    if isinstance(a, _NUMBERS) and isinstance(b, _NUMBERS):
        return max(a, b)
    if symbolic(a, b):
        return _larger(a, b)
    import numpy as np

    return np.maximum(a, b)


@lru_cache
def _larger(a: Dim, b: Dim) -> Dim:
    """`Max` of two expressions, which sympy takes milliseconds to compare."""
    from sympy import Max

    return Max(a, b)


def minimum(a: Dim, b: Dim) -> Dim:
    """The smaller of two dimensions."""
    return -maximum(-a, -b)


def symbolic(*dims: Dim) -> bool:
    """Whether one of them is an expression in symbols."""
    return any(hasattr(dim, "free_symbols") for dim in dims)


def each(function: Callable[..., int], *dims: Dim) -> Dim:
    """A function of ints at each element of arrays, once for equal arguments; not for symbols."""
    if all(isinstance(dim, int) for dim in dims):
        return function(*dims)
    import numpy as np

    columns = np.broadcast_arrays(*dims)
    rows, places = np.unique(np.stack(columns, axis=-1), axis=0, return_inverse=True)
    values = np.array([function(*map(int, row)) for row in rows])
    return values[places.reshape(columns[0].shape)]


def in_array(dim: Dim) -> Dim:
    """The dimension, as an array where it is a polynomial in columns."""
    return dim.array if hasattr(dim, "array") else dim


def hint(dim: Dim) -> int:
    """A representative int, for ordering strides: an array's first element, an expression's value at distinct primes.

    The strides of a dense tensor are nested products, so that their order does not depend on the sizes.
    """
    if isinstance(dim, int):
        return dim
    if hasattr(dim, "free_symbols"):
        return _at_primes(dim)
    return int(dim.first if hasattr(dim, "first") else dim.flat[0])


@lru_cache(maxsize=1 << 12)  # programs on symbols ask for the same strides again and again
def _at_primes(expression: Dim) -> int:
    return int(expression.subs({symbol: _prime(symbol.name) for symbol in expression.free_symbols}))


_primes: dict[str, int] = {}


def _prime(name: str) -> int:
    if name not in _primes:
        _primes[name] = _nth_prime(len(_primes))
    return _primes[name]


@lru_cache
def _nth_prime(index: int) -> int:
    """The primes from 101 on, so that no product of two sizes equals a third."""
    candidate = 101 if index == 0 else _nth_prime(index - 1) + 1
    while any(candidate % divisor == 0 for divisor in range(2, int(candidate**0.5) + 1)):
        candidate += 1
    return candidate
