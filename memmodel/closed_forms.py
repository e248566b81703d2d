"""Closed forms: the same run on sympy symbols.

A peak is the largest of several moments' sums; which moment wins depends on the sizes. Moments that never win (each
term at most another's) are dropped, so that what is left is short: usually one expression, else one per region.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import Any

import sympy
from sympy import Expr, Integer, Poly, Rational, Symbol

from memmodel.algorithms import algorithm, record, tiles_of
from memmodel.case import SIZES, Case
from memmodel.errors import UsageError
from memmodel.origin import names
from memmodel.program import Alloc, Free, Launch, Mark, Program
from memmodel.timeline import saved_bytes
from memmodel.work import Work

SYMBOLS = {
    name: Symbol(letter, integer=True, positive=True)
    for name, letter in zip(SIZES, ("b", "h", "g", "n", "m", "d", "e"), strict=True)
}
WINDOW = Symbol("w", integer=True, positive=True)
WEIGHTS = [Rational(i, 12) for i in range(1, 12)]
CHUNKS = 4  # how many chunks the closed form of chunked attention has


@dataclass(frozen=True, slots=True)
class Branch:
    """A moment that makes the peak: its bytes, what is alive then, and where it wins (None: everywhere)."""

    expression: Any
    moment: str
    wins: Any


@dataclass(frozen=True, slots=True)
class Formulas:
    """Closed forms of an algorithm, in bytes and FLOP of one step.

    Attributes:
        case: with symbols for sizes. region: what the forms assume.
        tensors: (name, shape, bytes) in order of birth. saved: kept for backward.
        peaks: branches by phase. flops, hbm_bytes, intensity: of the step.
    """

    case: Case
    region: str
    tensors: tuple[tuple[str, tuple[Any, ...], Any], ...]
    saved: Any
    peaks: dict[str, tuple[Branch, ...]]
    matmul_flops: Any
    flops: Any
    hbm_bytes: Any
    intensity: Any

    def value(self, expression: Any, case: Case) -> float:
        """An expression at a case's sizes."""
        sizes = {SYMBOLS[name]: getattr(case, name) for name in SIZES}
        return float(sympy.sympify(expression).subs(sizes | {WINDOW: case.mask.window or 0}))

    def winning(self, case: Case) -> Branch:
        """The moment that makes the step's live peak at a case's sizes."""
        branches = [branch for found in self.peaks.values() for branch in found]
        return max(branches, key=lambda branch: self.value(branch.expression, case))


def symbolic(case: Case) -> Case:
    """The case with a letter for every size; equal sizes share a letter, sizes of one stay one."""
    sizes: dict[str, Any] = {name: SYMBOLS[name] for name in SIZES}
    for name, twin in (("kv_heads", "heads"), ("kv_seq", "seq"), ("value_dim", "head_dim")):
        if getattr(case, name) == getattr(case, twin):
            sizes[name] = sizes[twin]
    chunk: Any = case.chunk
    if case.algorithm == "chunked":
        if case.mask.causal:
            raise UsageError("chunked attention has a closed form only without a mask: each chunk's keys differ")
        chunk = Symbol("c", integer=True, positive=True)
        if sizes["kv_seq"] == sizes["seq"]:
            sizes["kv_seq"] = CHUNKS * chunk
        sizes["seq"] = CHUNKS * chunk
    if case.algorithm == "decode":
        sizes["seq"] = 1
        sizes["kv_seq"] = SYMBOLS["kv_seq"]
    if sizes["kv_heads"] != sizes["heads"]:
        r = case.heads // case.kv_heads
        sizes["heads"] = r * sizes["kv_heads"]
    tiles = tiles_of(case) if algorithm(case.algorithm).fused else None
    mask = case.mask
    if mask.window is not None:
        mask = replace(mask, window=WINDOW)
    return replace(case, mask=mask, chunk=chunk, tiles=tiles, **sizes)


def formulas(case: Case) -> Formulas:
    """The closed forms of a case's algorithm, mask, dtype and phase; its sizes only say which are equal."""
    sym = symbolic(case)
    program = record(sym, sites=True)
    back = _in_n(sym)
    launches = [e for e in program.events if isinstance(e, Launch)]
    work = sum((launch.work for launch in launches), start=Work())
    return Formulas(
        sym,
        _region(sym),
        tuple(
            (name, tuple(back(size) for size in alloc.shape), short(back(alloc.nbytes)))
            for alloc, name in _named(program)
        ),
        short(back(saved_bytes(program))),
        {phase: _branches(program, phase, back) for phase in ("forward", "backward") if phase in program.phases()},
        short(back(work.matmul)),
        short(back(work.flops)),
        short(back(work.hbm_bytes)),
        short(sympy.cancel(back(work.flops) / back(work.hbm_bytes))),
    )


def formulas_of(case: Case) -> Formulas | None:
    """The closed forms, or None where the case has none."""
    try:
        return formulas(case)
    except UsageError:
        return None


def _in_n(case: Case) -> Any:
    """Replaces the chunk's letter: n = CHUNKS c."""
    if case.algorithm != "chunked":
        return lambda expression: expression
    c, n = case.chunk, SYMBOLS["seq"]
    return lambda expression: sympy.sympify(expression).subs(c, n / CHUNKS)


def _region(case: Case) -> str:
    parts = ["every size at least 2"]
    if case.tiles is not None:
        parts.append("whole tiles counted at the edges" if not case.mask.causal else "seq a multiple of the tiles")
        tile = case.tiles.forward
        parts.append(f"tiles of sm_{case.arch} for this head dim ({tile.rows} queries by {tile.cols} keys in forward)")
    if case.algorithm == "chunked":
        parts.append(f"n in {CHUNKS} equal chunks")
    if case.algorithm == "decode":
        parts[0] = "every size but the one query at least 2"
    return ", ".join(parts)


def _named(program: Program) -> list[tuple[Alloc, str]]:
    labels = names(program)
    return [(event, labels[event.key]) for event in program.events if isinstance(event, Alloc)]


def short(expression: Any) -> Any:
    """Factored, with powers of two in front."""
    return sympy.factor(sympy.sympify(expression))


def _branches(program: Program, phase: str, back: Any) -> tuple[Branch, ...]:
    """The undominated moments of a phase."""
    moments: dict[Expr, str] = {}
    live: dict[int, Any] = {}
    current, labels = "", names(program)
    for event in program.events:
        if isinstance(event, Mark):
            current = event.phase
            if current == phase:
                moments[_total(live, back)] = "at its start"
        elif isinstance(event, Alloc):
            live[event.key] = event.nbytes
            if current == phase:
                moments.setdefault(_total(live, back), f"when {labels[event.key]} is made")
        elif isinstance(event, Free):
            live.pop(event.key)
    winners = _winners([m for m in moments if not any(other != m and dominates(other, m) for other in moments)])
    return tuple(
        Branch(short(m), moments[m], None if len(winners) == 1 else wins_where(m, [w for w in winners if w != m]))
        for m in winners
    )


def _winners(moments: list[Expr]) -> list[Expr]:
    """The moments that are the largest somewhere: none below a weighted mean of two others everywhere."""
    kept = list(moments)
    for moment in moments:
        others = [m for m in kept if m != moment]
        if any(
            dominates(weighted_mean(a, b, weight), moment) for a, b in combinations(others, 2) for weight in WEIGHTS
        ):
            kept = others
    return kept


def weighted_mean(a: Expr, b: Expr, weight: Expr) -> Expr:
    """Between two expressions: a at weight 1, b at 0."""
    return weight * a + (1 - weight) * b


def _total(live: dict[int, Any], back: Any) -> Any:
    return sympy.expand(back(sum(live.values(), start=Integer(0))))


def dominates(a: Expr, b: Expr) -> bool:
    """Whether a >= b for all sizes of at least one: every coefficient of the difference, around ones, is positive."""
    difference = sympy.expand(a - b)
    symbols = sorted(difference.free_symbols, key=str)
    if not symbols:
        return bool(difference >= 0)
    try:
        around_ones = Poly(difference.subs({s: s + 1 for s in symbols}, simultaneous=True), *symbols)
    except sympy.PolynomialError:
        return False
    return all(coefficient >= 0 for coefficient in around_ones.coeffs())


def wins_where(winner: Expr, others: list[Expr]) -> Any:
    """Where a moment is the largest: one condition for each other, common positive factors divided out."""
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
    """difference >= 0, with its negative terms brought to the other side."""
    terms = sympy.Add.make_args(difference)
    positive = [t for t in terms if t.as_coeff_Mul()[0] > 0]
    negative = [-t for t in terms if t.as_coeff_Mul()[0] < 0]
    return sympy.Ge(sympy.Add(*positive), sympy.Add(*negative), evaluate=False)


def largest_size(case: Case, over: str, room: int) -> int:
    """The largest seq, batch or heads whose live peak is at most `room` bytes, solved from the closed form."""
    forms = _cached(replace(case, torch="2.13"))
    numbers = {SYMBOLS[name]: getattr(case, name) for name in SIZES}
    variable = SYMBOLS["kv_heads" if over == "heads" and case.kv_heads != case.heads else over]
    numbers.pop(variable)
    if case.mask.window is not None:
        numbers[WINDOW] = case.mask.window
    sizes = []
    for branches in forms.peaks.values():
        for branch in branches:
            expression = branch.expression.subs(numbers)
            roots = [r for r in Poly(expression - room, variable).nroots(n=30) if r.is_real and r > 0]
            if roots:
                sizes.append(int(sympy.floor(max(roots))))
    if not sizes:
        raise UsageError(f"the closed form of {case.algorithm} does not grow with {over}")
    shared = case.heads // case.kv_heads if over == "heads" else 1
    return min(sizes) * shared


@cache
def _cached(case: Case) -> Formulas:
    return formulas(case)
