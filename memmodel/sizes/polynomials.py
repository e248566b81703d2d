"""Sums of monomials in sizes, and proofs that one sum never exceeds others.

Sums are dictionaries of Python numbers, because thousands are compared and sympy would take too long. All symbols are
sizes of at least one, so that a polynomial in (symbol - 1) without negative coefficients is never negative.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations, product
from math import comb, prod
from typing import Any

import sympy
from sympy import Expr, Poly

_WEIGHTS = 12  # weighted means of two sums are tried in steps of a twelfth


class Terms(dict[Any, Any]):
    """A sum: monomial (or another factor, such as a rounded division) -> coefficient, which is never 0."""

    def __add__(self, other: Mapping[Any, Any]) -> "Terms":
        return self._with(other, 1)

    def __sub__(self, other: Mapping[Any, Any]) -> "Terms":
        return self._with(other, -1)

    def _with(self, other: Mapping[Any, Any], sign: int) -> "Terms":
        total = Terms(self)
        for term, coefficient in other.items():
            new = total.get(term, 0) + sign * coefficient
            if new == 0:
                del total[term]
            else:
                total[term] = new
        return total


@cache
def terms(expression: Any) -> Terms:
    """The terms of an expression, expanded."""
    found = sympy.expand(sympy.sympify(expression)).as_coefficients_dict()
    return Terms({term: exact(coefficient) for term, coefficient in found.items() if coefficient != 0})


def exact(number: Any) -> int | Fraction:
    """One of sympy's rational numbers as Python's."""
    return int(number) if number.is_Integer else Fraction(int(number.p), int(number.q))


def short(expression: Any) -> Any:
    """The expression, factored."""
    return sympy.factor(sympy.sympify(expression))


Shifted = dict[Any, Any]  # powers of (symbol - 1) -> coefficient


def around_ones(polynomial: Iterable[tuple[Any, Any]]) -> Shifted | None:
    """A sum of (monomial, coefficient) pairs in powers of (symbol - 1); None if a term is no monomial."""
    found: Shifted = {}
    for term, coefficient in polynomial:
        shifted = _shifted(term)
        if shifted is None:
            return None
        for powers, times in shifted.items():
            found[powers] = found.get(powers, 0) + times * coefficient
    return found


def lies_below(one: Shifted | None, others: Sequence[Shifted | None]) -> bool:
    """Whether a sum is proven to lie below another, or below a weighted mean of two, at all sizes."""
    known = [other for other in others if other is not None]
    if one is None or not known:
        return False
    keys = set(one).union(*known)
    if any(all(high.get(k, 0) >= one.get(k, 0) for k in keys) for high in known):
        return True
    return any(
        all(i * a.get(k, 0) + (_WEIGHTS - i) * b.get(k, 0) >= _WEIGHTS * one.get(k, 0) for k in keys)
        for a, b in combinations(known, 2)
        for i in range(1, _WEIGHTS)
    )


@cache
def _shifted(monomial: Any) -> Shifted | None:
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


def wins_where(winner: Expr, others: Sequence[Expr]) -> Any:
    """The condition for an expression to be the largest: an inequality per other, without common positive factors.

    Raises PolynomialError if a difference is no polynomial.
    """
    conditions = [_difference(winner - other) for other in others]
    kept = [c for i, c in enumerate(conditions) if not any(_implies(b, c) for j, b in enumerate(conditions) if i != j)]
    return sympy.And(*map(_at_least, kept or conditions[:1]))


def _difference(expression: Expr) -> Expr:
    """An expression with the same sign, without its common positive factors."""
    constant, factors = sympy.factor_list(expression)
    core = sympy.Mul(*(f for f, _ in factors if any(c < 0 for c in Poly(f).coeffs())))
    return sympy.expand(core * sympy.sign(constant))


def _implies(stronger: Expr, weaker: Expr) -> bool:
    """Whether `stronger` >= 0 makes `weaker` >= 0: some positive multiple of it is at most `weaker`, term by term."""
    for term in sympy.Add.make_args(stronger):
        coefficient, monomial = term.as_coeff_Mul()
        if coefficient >= 0 or monomial == 1:
            continue
        factor = weaker.as_coefficients_dict()[monomial] / coefficient
        rest = sympy.expand(weaker - factor * stronger)
        if factor > 0 and rest != 0 and all(t.as_coeff_Mul()[0] >= 0 for t in sympy.Add.make_args(rest)):
            return True
    return False


def _at_least(difference: Expr) -> Any:
    """difference >= 0, with negative terms moved to the right."""
    terms = sympy.Add.make_args(difference)
    positive = [t for t in terms if t.as_coeff_Mul()[0] > 0]
    negative = [-t for t in terms if t.as_coeff_Mul()[0] < 0]
    return sympy.Ge(sympy.Add(*positive), sympy.Add(*negative), evaluate=False)
