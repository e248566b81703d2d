"""The moments of a phase that can be its live peak, as symbolic sums.

A phase has a moment per allocation, and the sizes decide which holds the most bytes. The largest at sample sizes are
candidates; every other moment is then proven to lie below one of them, or counted as unproven.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import sympy
from sympy import Expr, Integer, Symbol

from memmodel.events.liveness import states
from memmodel.events.origin import names
from memmodel.events.program import Mark, Program
from memmodel.sizes.polynomials import Terms, around_ones, exact, lies_below, short, terms, wins_where

Sum = frozenset[tuple[Any, Any]]  # the terms of the bytes alive: (monomial, coefficient)
Sizes = Mapping[Any, Any]  # symbol -> number
_MOST_COMPARED = 6  # candidates used in proofs, whose cost grows with the pairs of them
_SIZES = (2, 5, 16, 64, 256, 1024, 4096, 16384, 131072)
_SAMPLES = 90


@dataclass(frozen=True, slots=True)
class Branch:
    """A moment that is the peak for some sizes: its bytes, its name, and the condition on sizes (None: always)."""

    expression: Any
    moment: str
    wins: Any


class Moment(NamedTuple):
    """The time at which a sum of bytes is alive: in words, and by the first and last event after which it is."""

    what: str
    first: int
    last: int


class Largest(NamedTuple):
    """The result of `largest_moments`.

    Attributes:
        moments: those that are the largest at some sample; that of the first sample comes first.
        unproven: those that no sample shows to be the largest, and no proof shows not to be.
        values: every moment's bytes at the samples.
    """

    moments: list[Sum]
    unproven: list[Sum]
    values: dict[Sum, list[Any]]


def moments_of(program: Program, phase: str, in_symbols: Callable[[Any], Any] = lambda size: size) -> dict[Sum, Moment]:
    """The live bytes at a phase's start and after each allocation; `in_symbols` rewrites each storage's bytes."""
    labels = names(program)
    found: dict[Sum, Moment] = {}
    for index, now in enumerate(states(program, lambda birth: terms(in_symbols(birth.nbytes)), Terms())):
        if now.phase != phase:
            continue
        if type(now.event) is Mark:
            found[frozenset(now.live.items())] = Moment("at its start", index, index)
        elif now.born:
            alive = frozenset(now.live.items())
            before = found.get(alive, Moment(f"when {labels[now.born.key]} is made", index, index))
            found[alive] = before._replace(last=index)
    return found


def largest_moments(moments: Collection[Sum], symbols: Sequence[Symbol], first: Sequence[Sizes] = ()) -> Largest:
    """Classify moments by their values at sample sizes, of which `first` come first, and by proof."""
    at = _at({term for moment in moments for term, _ in moment}, [*first, *_samples(symbols)])
    values = {m: [sum(c * sizes[t] for t, c in m) for sizes in at] for m in moments}
    best = list(dict.fromkeys(max(values, key=lambda m: values[m][i]) for i in range(len(at)))) if moments else []
    shifted = [around_ones(m) for m in best[:_MOST_COMPARED]]
    others = (m for m in moments if m not in best and not _below(m, best))
    unproven = [m for m in others if not lies_below(around_ones(m), shifted)]
    return Largest(best, unproven, values)


def _at(wanted: Collection[Any], samples: Iterable[Sizes]) -> list[dict[Any, Any]]:
    """The terms' values at each sample, without samples where a term divides by zero or is not rational."""
    found = []
    for sizes in samples:
        with suppress(ZeroDivisionError):
            values = {t: t.xreplace(dict(sizes)) for t in wanted}
            if all(value.is_Rational for value in values.values()):
                found.append({t: exact(value) for t, value in values.items()})
    return found


def _samples(symbols: Sequence[Symbol]) -> Iterable[Sizes]:
    for i in range(_SAMPLES if symbols else 0):
        picks = (_SIZES[(i * (2 * j + 1) + i // len(_SIZES) * j + j) % len(_SIZES)] for j in range(len(symbols)))
        yield {s: Integer(n) for s, n in zip(symbols, picks, strict=True)}


def _below(moment: Sum, winners: Sequence[Sum]) -> bool:
    """Whether some winner, all of whose terms are positive, has at least as much of every term."""
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
    """The condition for a moment to be the largest: None if it always is, text if no polynomial expresses it."""
    if not others:
        return None
    try:
        return wins_where(winner, others)
    except sympy.PolynomialError:
        return "for some sizes"
