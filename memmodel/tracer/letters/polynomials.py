"""Sums of monomials as dictionaries: what is compared by the thousand, for which sympy takes too long."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations, product
from math import comb, prod
from typing import Any

import sympy

Terms = dict[Any, Any]  # monomial (or another factor, such as a rounded division) -> coefficient
_WEIGHTS = 12


@cache
def terms(expression: Any) -> Mapping[Any, Any]:
    """A polynomial's coefficients by monomial, as Python's numbers."""
    found = sympy.expand(sympy.sympify(expression)).as_coefficients_dict()
    return {term: exact(coefficient) for term, coefficient in found.items()}


def exact(number: Any) -> int | Fraction:
    """One of sympy's rational numbers as Python's."""
    return int(number) if number.is_Integer else Fraction(int(number.p), int(number.q))


def add(total: Terms, more: Mapping[Any, Any], sign: int) -> None:
    """Add to a sum in place."""
    for term, coefficient in more.items():
        new = total.get(term, 0) + sign * coefficient
        if new == 0:
            total.pop(term, None)
        else:
            total[term] = new


def around_ones(polynomial: Iterable[tuple[Any, Any]]) -> Terms | None:
    """Coefficients of the polynomial in (symbol - 1); None where a term is no monomial."""
    found: Terms = {}
    for term, coefficient in polynomial:
        shifted = _shifted(term)
        if shifted is None:
            return None
        for powers, times in shifted.items():
            found[powers] = found.get(powers, 0) + times * coefficient
    return found


@cache
def _shifted(monomial: Any) -> Terms | None:
    """A monomial in (symbol - 1): by the binomial theorem."""
    powers = monomial.as_powers_dict()
    if not all(base.is_Symbol and power.is_Integer and power > 0 for base, power in powers.items() if base != 1):
        return None
    bases = [(str(base), int(power)) for base, power in sorted(powers.items(), key=str) if base != 1]
    return {
        tuple((name, k) for (name, _), k in zip(bases, chosen, strict=True) if k): prod(
            comb(n, k) for (_, n), k in zip(bases, chosen, strict=True)
        )
        for chosen in product(*(range(n + 1) for _, n in bases))
    }


def lies_below(one: Terms | None, winners: Sequence[Terms | None]) -> bool:
    """Whether a polynomial lies below a winner, or a weighted mean of two, wherever every symbol is at least 1.

    All in powers of (symbol - 1). True is proven: no coefficient of the difference is negative. False is not.
    """
    known = [w for w in winners if w is not None]
    if one is None or not known:
        return False
    keys = set(one).union(*known)
    if any(all(w.get(k, 0) >= one.get(k, 0) for k in keys) for w in known):
        return True
    return any(
        all(i * a.get(k, 0) + (_WEIGHTS - i) * b.get(k, 0) >= _WEIGHTS * one.get(k, 0) for k in keys)
        for a, b in combinations(known, 2)
        for i in range(1, _WEIGHTS)
    )
