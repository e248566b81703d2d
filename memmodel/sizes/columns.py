"""Sizes of many configurations at once, as polynomials in the columns of a sweep.

An algorithm runs once for all configurations. Its sums and products of sizes stay polynomials with whole coefficients,
so that an event costs no more for a million configurations than for one; what is no polynomial, such as a division
rounded up, is computed as an array and becomes a column of its own. At the end only the polynomials that are asked for
are evaluated, with their common products once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]
Number = int | float
Monomial = tuple[int, ...]  # indices of columns, sorted; one that occurs twice is squared
_ROWS = 32_768  # evaluated at a time: so many values of a few columns stay in the processor's cache


class Table:
    """The columns of a sweep, of equal length: those given, and those computed from them."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.columns: list[Column] = []
        self.known: dict[Any, Any] = {}  # (function, operands) -> its result
        self._least: dict[int, int] = {}

    def size(self, column: Column) -> "Polynomial | int":
        """A column as a size: a number where all elements are equal. Columns with equal elements are the same size."""
        if (column == column[0]).all():
            return int(column[0])
        for index, other in enumerate(self.columns):
            if other[0] == column[0] and np.array_equal(other, column):
                return Polynomial(self, {(index,): 1})
        self.columns.append(column)
        return Polynomial(self, {(len(self.columns) - 1,): 1})

    def least(self, index: int) -> int:
        """The smallest value of a column."""
        if index not in self._least:
            self._least[index] = int(self.columns[index].min())
        return self._least[index]

    def evaluated(self, polynomials: Iterable[Any], highest: Iterable[Any]) -> list[Column]:
        """Each of the polynomials in every row, and last the largest of `highest`."""
        listed, compared = list(polynomials), self._undominated(highest)
        found: list[Column] = []
        for start in range(0, self.length, _ROWS):
            products = _Products([column[start : start + _ROWS] for column in self.columns])
            values = [products.value(one) for one in listed]
            values.append(reduce(np.maximum, map(products.value, compared)))
            found = found or [np.empty(self.length, np.asarray(value).dtype) for value in values]
            for whole, value in zip(found, values, strict=True):
                whole[start : start + _ROWS] = value
        return found

    def _undominated(self, sizes: Iterable[Any]) -> list[Any]:
        """The sizes without those that are nowhere larger than another."""
        listed = (size if isinstance(size, Polynomial | int) else self.size(size) for size in sizes)
        known = {_key(size): size for size in listed}
        found: list[Any] = []
        for size in sorted(known.values(), key=_first, reverse=True):
            if not any(self._never_less(other, size) for other in found):
                found.append(size)
        return found

    def _never_less(self, one: Any, other: Any) -> bool:
        """Whether a difference is proven to be nowhere negative: in (column - its least value) no term is."""
        difference = one - other
        if not isinstance(difference, Polynomial):
            return bool(difference >= 0)
        around: dict[Monomial, Number] = {}
        for monomial, coefficient in difference.terms.items():
            for part, times in _around([(index, self.least(index)) for index in monomial]):
                around[part] = around.get(part, 0) + times * coefficient
        return all(coefficient >= 0 for coefficient in around.values())


def _around(factors: Sequence[tuple[int, int]]) -> Iterator[tuple[Monomial, int]]:
    """A product of columns in powers of (column - its least value)."""
    if not factors:
        yield (), 1
        return
    (index, least), *rest = factors
    for monomial, times in _around(rest):
        yield (index, *monomial), times
        yield monomial, times * least


class _Products:
    """Products of columns, each computed once."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._known: dict[Monomial, Column] = {}

    def value(self, size: Any) -> Any:
        """A size in every row: of a polynomial an array."""
        if not isinstance(size, Polynomial):
            return size
        total: Any = None
        for monomial, coefficient in size.terms.items():
            value = self._product(monomial) * coefficient if monomial else coefficient
            total = value if total is None else total + value
        return total

    def _product(self, monomial: Monomial) -> Column:
        if len(monomial) == 1:
            return self._columns[monomial[0]]
        if monomial not in self._known:
            self._known[monomial] = self._product(monomial[:-1]) * self._columns[monomial[-1]]
        return self._known[monomial]


class Polynomial:
    """A size in every row of a table, as a sum of products of its columns.

    Equal are polynomials with equal terms. Every function of numpy takes them, and gives a size again.
    """

    __slots__ = ("first", "table", "terms")

    def __init__(self, table: Table, terms: dict[Monomial, Number]) -> None:
        self.table, self.terms = table, terms
        self.first = sum(
            coefficient * reduce(lambda product, index: product * int(table.columns[index][0]), monomial, 1)
            for monomial, coefficient in terms.items()
        )  # its value in the first row

    @property
    def array(self) -> Column:
        """Its values."""
        found: Column = _Products(self.table.columns).value(self)
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Column:
        return np.asarray(self.array, dtype)

    def max(self) -> Any:
        """Its largest value."""
        return self.array.max()

    def __array_ufunc__(self, function: Any, method: str, *operands: Any, **options: Any) -> Any:
        """Sums and products of sizes and arrays are polynomials; the result of any other function is a new column."""
        if method != "__call__" or options:
            return NotImplemented
        sizes = [x if isinstance(x, Polynomial) or np.ndim(x) == 0 else self.table.size(x) for x in operands]
        if function in _RING:
            return _RING[function](*sizes)
        return self._applied(function, *sizes)

    def _applied(self, function: Callable[..., Any], *operands: Any) -> Any:
        key = function, tuple(map(_key, operands))
        if key not in self.table.known:
            result = function(*(x.array if isinstance(x, Polynomial) else x for x in operands))
            self.table.known[key] = self.table.size(result) if result.dtype.kind in "iO" else result
        return self.table.known[key]

    def __add__(self, other: Any) -> Any:
        return self._with(other, 1)

    def __sub__(self, other: Any) -> Any:
        return self._with(other, -1)

    def __neg__(self) -> Any:
        return self * -1

    def __rsub__(self, other: Any) -> Any:
        return self * -1 + other

    def _with(self, other: Any, sign: int) -> Any:
        if isinstance(other, np.ndarray):
            other = self.table.size(other)
        terms = dict(self.terms)
        for monomial, coefficient in _terms_of(other).items():
            total = terms.get(monomial, 0) + sign * coefficient
            if total:
                terms[monomial] = total
            else:
                terms.pop(monomial, None)
        return self._made(terms)

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            other = self.table.size(other)
        terms: dict[Monomial, Number] = {}
        for monomial, times in _terms_of(other).items():
            for own, coefficient in self.terms.items():
                product = tuple(sorted((*own, *monomial)))
                terms[product] = terms.get(product, 0) + times * coefficient
        return self._made({monomial: coefficient for monomial, coefficient in terms.items() if coefficient})

    __radd__, __rmul__ = __add__, __mul__

    def _made(self, terms: dict[Monomial, Number]) -> Any:
        """A polynomial, or the number that it is."""
        return terms.get((), 0) if not any(terms) else Polynomial(self.table, terms)

    def __floordiv__(self, other: Any) -> Any:
        whole = self._quotient(other)
        return self._applied(np.floor_divide, self, other) if whole is None else whole

    def __mod__(self, other: Any) -> Any:
        return self._applied(np.remainder, self, other) if self._quotient(other) is None else 0

    def __rfloordiv__(self, other: Any) -> Any:
        return self._applied(np.floor_divide, other, self)

    def __truediv__(self, other: Any) -> Any:
        if isinstance(other, int | float):
            return self._made({monomial: coefficient / other for monomial, coefficient in self.terms.items()})
        whole = self._quotient(other)
        return self._applied(np.true_divide, self, other) if whole is None else whole

    def __rtruediv__(self, other: Any) -> Any:
        return self._applied(np.true_divide, other, self)

    def __pow__(self, power: float) -> float:
        """That of the first row: roots scale the values of tensors, on which no size depends."""
        return float(self.first**power)

    def _quotient(self, divisor: Any) -> Any:
        """The quotient where each term is a multiple of the divisor's one term, else None."""
        listed = list(_terms_of(divisor).items())
        if len(listed) != 1:
            return None
        ((below, number),) = listed
        terms: dict[Monomial, Number] = {}
        for monomial, coefficient in self.terms.items():
            rest = list(monomial)
            for index in below:
                if index not in rest:
                    return None
                rest.remove(index)
            if coefficient % number:
                return None
            terms[tuple(rest)] = coefficient // number
        return self._made(terms)

    def __repr__(self) -> str:
        return f"{self.first}, ..."

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Polynomial) and self.table is other.table and self.terms == other.terms
        )

    __hash__ = None  # type: ignore[assignment]  # as a key in a cache it would keep its table's columns alive

    def __lt__(self, other: Any) -> Any:
        return self.array < np.asarray(other)

    def __le__(self, other: Any) -> Any:
        return self.array <= np.asarray(other)

    def __gt__(self, other: Any) -> Any:
        return self.array > np.asarray(other)

    def __ge__(self, other: Any) -> Any:
        return self.array >= np.asarray(other)


_RING: dict[Any, Callable[..., Any]] = {
    np.add: lambda a, b: a + b,
    np.subtract: lambda a, b: a - b,
    np.multiply: lambda a, b: a * b,
    np.negative: lambda a: -a,
}


def _terms_of(size: Any) -> dict[Monomial, Number]:
    if isinstance(size, Polynomial):
        return size.terms
    return {(): size} if size else {}


def _key(size: Any) -> Any:
    """What tells a size from others of its table."""
    return frozenset(size.terms.items()) if isinstance(size, Polynomial) else size


def _first(size: Any) -> int:
    """The value in the first row."""
    return int(size.first) if isinstance(size, Polynomial) else int(size)
