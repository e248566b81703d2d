"""Closed forms of a traced step: one expression for each region of sizes, short, and checked against a run on numbers.

A phase has as many moments as births. Numbers at sample sizes find those that can be the largest; each of the others
is then shown to lie below one of them, term by term, or counted as unproven.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

import sympy
from sympy import Expr, Integer, Symbol

from memmodel.closed_forms import WEIGHTS, Branch, dominates, short, weighted_mean, wins_where
from memmodel.origin import names
from memmodel.program import Alloc, Free, Launch, Mark, Program
from memmodel.timeline import saved_bytes
from memmodel.tracer.scratch import is_shared_scratch
from memmodel.tracer.symbolic import Symbolic, in_multiples
from memmodel.work import Work

_MOST_BRANCHES = 3  # regions shown; with more, the one at the sizes asked for
_MOST_COMPARED = 30  # moments that are compared with means of two branches: each takes a second per hundred
_SIZES = (2, 5, 16, 64, 256, 1024, 4096, 16384, 131072)
_POINTS = 90


@dataclass(frozen=True, slots=True)
class Forms:
    """Closed forms of a step, in bytes and FLOP; expressions of the letters' symbols.

    Attributes:
        symbols: by letter. region: in words, where they hold. conditions, fixed: of the run (see `Symbolic`).
        saved: kept for backward. peaks: branches by phase, the last step's.
        unproven: moments that samples alone show below the branches.
        checked: whether every storage's bytes, in numbers, are those of the run at the sizes asked for.
    """

    symbols: dict[str, Symbol]
    region: str
    conditions: tuple[Any, ...]
    fixed: dict[str, int]
    saved: Any
    peaks: dict[str, tuple[Branch, ...]]
    matmul_flops: Any
    flops: Any
    hbm_bytes: Any
    unproven: int
    checked: bool

    def value(self, expression: Any, sizes: Mapping[str, int]) -> int:
        """An expression at these sizes."""
        return int(sympy.sympify(expression).subs({self.symbols[x]: n for x, n in sizes.items()}))


def last_step(program: Program) -> Program:
    """The last step alone: what was alive before it stands among the inputs."""
    marks = [i for i, e in enumerate(program.events) if isinstance(e, Mark) and e.phase == "forward"]
    before, rest = program.events[: marks[-1]], program.events[marks[-1] :]
    dead = {e.key for e in before if isinstance(e, Free)}
    alive: list[Any] = [e for e in before if isinstance(e, Alloc) and e.key not in dead]
    return Program([Mark("inputs"), *alive, *rest], program.names, program.gradients)


def closed_forms(symbolic: Symbolic, concrete: Program, sizes: Mapping[str, int]) -> Forms:
    """The forms of a symbolic run's last step, checked against the run on numbers."""
    whole = symbolic
    symbolic, multiples = in_multiples(symbolic, sizes)
    step = last_step(symbolic.program)
    free = [s for x, s in symbolic.symbols.items() if x not in symbolic.fixed]
    numbers = {symbolic.symbols[x]: Integer(n) for x, n in sizes.items() if x in symbolic.symbols}
    work = sum((e.work for e in step.events if isinstance(e, Launch)), start=Work())
    peaks, unproven = {}, 0
    for phase in step.phases():
        if phase in ("inputs", "after"):
            continue
        branches, missing = _branches(step, phase, free, numbers)
        if branches:
            peaks[phase] = branches
        unproven += missing
    return Forms(
        symbolic.symbols,
        _region(symbolic, multiples),
        symbolic.conditions,
        symbolic.fixed,
        short(saved_bytes(step)),
        peaks,
        short(work.matmul),
        short(work.flops),
        short(work.hbm_bytes),
        unproven,
        _agrees(whole.program, concrete, numbers) and _agrees(symbolic.program, concrete, numbers),
    )


def _region(symbolic: Symbolic, multiples: Mapping[str, int]) -> str:
    from memmodel.report.formulas import plain

    unlike = [c for c in symbolic.conditions if isinstance(c, sympy.Ne)]
    parts = ["every size at least 2"] if len(symbolic.fixed) < len(symbolic.symbols) else []
    parts += [f"{x} fixed at {n}" for x, n in symbolic.fixed.items()]
    parts += [f"{x} a multiple of {n}" for x, n in multiples.items()]
    parts += [plain(c) for c in symbolic.conditions if c not in unlike]
    if unlike:
        parts.append("not where " + " or ".join(f"{plain(c.lhs)} = {plain(c.rhs)}" for c in unlike))
    return ", ".join(parts)


def _agrees(program: Program, concrete: Program, numbers: Mapping[Any, Any]) -> bool:
    """Whether both runs have the same births and deaths, with the same bytes."""
    known: dict[Any, int] = {}

    def number(expression: Any) -> int:
        if expression not in known:
            known[expression] = int(sympy.sympify(expression).xreplace(dict(numbers)))
        return known[expression]

    def plain_events(events: list[Any], value: Any) -> list[tuple[int, int]]:
        births = {e.key: i for i, e in enumerate(x for x in events if isinstance(x, Alloc))}
        return [
            (births[e.key], value(e.nbytes) if isinstance(e, Alloc) else -1)
            for e in events
            if isinstance(e, Alloc | Free)
        ]

    dropped = {e.key for e in concrete.events if isinstance(e, Alloc) and is_shared_scratch(e)}
    ours = list(program.events)
    theirs = [e for e in concrete.events if getattr(e, "key", None) not in dropped]
    try:
        return plain_events(ours, number) == plain_events(theirs, int)
    except TypeError:
        return False


Terms = dict[Any, Any]  # monomial -> coefficient


def _branches(
    program: Program, phase: str, free: Sequence[Symbol], numbers: Mapping[Any, Any]
) -> tuple[tuple[Branch, ...], int]:
    """The moments that are the largest somewhere, and how many others are not proven to lie below one of them."""
    moments = _moments(program, phase)
    points = [numbers, *_points(free)]
    terms = {t for moment in moments for t, _ in moment}
    at = {t: [_exact(t.xreplace(dict(p))) for p in points] for t in terms}
    values = {m: [sum(_exact(c) * at[t][i] for t, c in m) for i in range(len(points))] for m in moments}
    best = list(dict.fromkeys(max(values, key=lambda m: values[m][i]) for i in range(len(points)))) if moments else []
    winners = {m: _expression(m) for m in best}
    others = [m for m in moments if m not in winners and not _below(m, best)]
    pairs = list(combinations(winners.values(), 2)) if len(others) <= _MOST_COMPARED else []
    unproven = sum(not _proven(_expression(m), list(winners.values()), pairs) for m in others)
    if len(best) > _MOST_BRANCHES:
        best = [max(values, key=lambda m: values[m][0])]
        return (Branch(short(winners[best[0]]), moments[best[0]], "at these sizes"),), unproven
    return tuple(
        Branch(short(winners[m]), moments[m], _condition(winners[m], [winners[w] for w in best if w != m]))
        for m in best
    ), unproven


def _proven(moment: Expr, winners: Sequence[Expr], pairs: Sequence[tuple[Expr, Expr]]) -> bool:
    """Whether a moment lies below a winner, or below a weighted mean of two, at all sizes."""
    if any(dominates(w, moment) for w in winners):
        return True
    return any(dominates(weighted_mean(a, b, weight), moment) for a, b in pairs for weight in WEIGHTS)


def _exact(number: Any) -> Any:
    return int(number) if number.is_Integer else Fraction(int(number.p), int(number.q))


def _condition(winner: Expr, others: list[Expr]) -> Any:
    if not others:
        return None
    try:
        return wins_where(winner, others)
    except sympy.PolynomialError:
        return "for some sizes"


def _moments(program: Program, phase: str) -> dict[Any, str]:
    """Live bytes after each birth of a phase and at its start, as terms, with what is made then."""
    labels = names(program)
    live: Terms = {}
    found: dict[Any, str] = {}
    sizes: dict[int, Terms] = {}
    current = ""
    for event in program.events:
        if isinstance(event, Mark):
            current = event.phase
            if current == phase:
                found[_key(live)] = "at its start"
        elif isinstance(event, Alloc):
            sizes[event.key] = _terms(event.nbytes)
            _add(live, sizes[event.key], 1)
            if current == phase:
                found.setdefault(_key(live), f"when {labels[event.key]} is made")
        elif isinstance(event, Free):
            _add(live, sizes.pop(event.key), -1)
    return found


def _terms(expression: Any) -> Terms:
    return dict(sympy.expand(sympy.sympify(expression)).as_coefficients_dict())


def _add(live: Terms, terms: Terms, sign: int) -> None:
    for term, coefficient in terms.items():
        total = live.get(term, 0) + sign * coefficient
        if total == 0:
            live.pop(term, None)
        else:
            live[term] = total


def _key(live: Terms) -> Any:
    return frozenset(live.items())


def _expression(moment: Any) -> Expr:
    return sympy.Add(*(coefficient * term for term, coefficient in moment))


def _below(moment: Any, winners: Sequence[Any]) -> bool:
    """Whether some winner has at least as much of every term, all terms positive."""
    mine = dict(moment)
    return any(
        all(dict(w).get(term, 0) >= coefficient for term, coefficient in mine.items())
        and all(coefficient >= 0 for coefficient in dict(w).values())
        for w in winners
    )


def _points(free: Sequence[Symbol]) -> Iterable[dict[Symbol, Integer]]:
    for i in range(_POINTS if free else 0):
        picks = (_SIZES[(i * (2 * j + 1) + i // len(_SIZES) * j + j) % len(_SIZES)] for j in range(len(free)))
        yield {s: Integer(n) for s, n in zip(free, picks, strict=True)}
