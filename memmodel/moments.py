"""The moments of a phase that can be its live peak, as sums in letters.

A phase has as many moments as births; which of them holds the most bytes depends on the sizes. Numbers at sample sizes
find those that can be the largest; each of the others is then proven to lie below one of them, or counted as unproven.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import sympy
from sympy import Expr, Integer, Symbol

from memmodel.liveness import states
from memmodel.origin import names
from memmodel.polynomials import Terms, around_ones, exact, lies_below, short, terms, wins_where
from memmodel.program import Mark, Program

Sum = frozenset[tuple[Any, Any]]  # the terms of the bytes alive: (monomial, coefficient)
Sizes = Mapping[Any, Any]  # symbol -> number
_MOST_COMPARED = 6  # largest moments whose means others are compared with
_SIZES = (2, 5, 16, 64, 256, 1024, 4096, 16384, 131072)
_SAMPLES = 90


@dataclass(frozen=True, slots=True)
class Branch:
    """A moment that makes the peak: its bytes, what is alive then, and where it wins (None: everywhere)."""

    expression: Any
    moment: str
    wins: Any


class Moment(NamedTuple):
    """When a sum of bytes is alive: in words, and the first and the last of the events after which it is."""

    what: str
    first: int
    last: int


class Largest(NamedTuple):
    """The moments that are the largest at some sizes, that of the first sample first, and those not proven to be none.

    `values`: every moment's bytes at the samples.
    """

    moments: list[Sum]
    unproven: list[Sum]
    values: dict[Sum, list[Any]]


def moments_of(program: Program, phase: str, in_letters: Callable[[Any], Any] = lambda size: size) -> dict[Sum, Moment]:
    """The bytes alive at a phase's start and after each of its births. `in_letters` rewrites each storage's bytes."""
    labels = names(program)
    found: dict[Sum, Moment] = {}
    for index, now in enumerate(states(program, lambda birth: terms(in_letters(birth.nbytes)), Terms())):
        if now.phase != phase:
            continue
        if type(now.event) is Mark:
            found[frozenset(now.live.items())] = Moment("at its start", index, index)
        elif now.born:
            alive = frozenset(now.live.items())
            before = found.get(alive, Moment(f"when {labels[now.born.key]} is made", index, index))
            found[alive] = before._replace(last=index)
    return found


def largest_moments(moments: Collection[Sum], letters: Sequence[Symbol], first: Sequence[Sizes] = ()) -> Largest:
    """Those that are the largest at some of the sample sizes, of which `first` come first."""
    at = _at({term for moment in moments for term, _ in moment}, [*first, *_samples(letters)])
    values = {m: [sum(c * sizes[t] for t, c in m) for sizes in at] for m in moments}
    best = list(dict.fromkeys(max(values, key=lambda m: values[m][i]) for i in range(len(at)))) if moments else []
    shifted = [around_ones(m) for m in best[:_MOST_COMPARED]]
    others = (m for m in moments if m not in best and not _below(m, best))
    unproven = [m for m in others if not lies_below(around_ones(m), shifted)]
    return Largest(best, unproven, values)


def _at(wanted: Collection[Any], samples: Iterable[Sizes]) -> list[dict[Any, Any]]:
    """The terms' values at each sample that is a size of the run: no division by zero, no half an element."""
    found = []
    for sizes in samples:
        with suppress(ZeroDivisionError):
            values = {t: t.xreplace(dict(sizes)) for t in wanted}
            if all(value.is_Rational for value in values.values()):
                found.append({t: exact(value) for t, value in values.items()})
    return found


def _samples(letters: Sequence[Symbol]) -> Iterable[Sizes]:
    for i in range(_SAMPLES if letters else 0):
        picks = (_SIZES[(i * (2 * j + 1) + i // len(_SIZES) * j + j) % len(_SIZES)] for j in range(len(letters)))
        yield {s: Integer(n) for s, n in zip(letters, picks, strict=True)}


def _below(moment: Sum, winners: Sequence[Sum]) -> bool:
    """Whether some winner has at least as much of every term, all terms positive."""
    mine = dict(moment)
    return any(
        all(dict(w).get(term, 0) >= coefficient for term, coefficient in mine.items())
        and all(coefficient >= 0 for coefficient in dict(w).values())
        for w in winners
    )


def expression_of(moment: Sum) -> Expr:
    """The bytes of a moment, factored."""
    return short(sympy.Add(*(coefficient * term for term, coefficient in moment)))


def condition(winner: Expr, others: Sequence[Expr]) -> Any:
    """Where a moment is the largest: None for everywhere, else in symbols or, where that is no polynomial, in words."""
    if not others:
        return None
    try:
        return wins_where(winner, others)
    except sympy.PolynomialError:
        return "for some sizes"
