"""Closed forms of a traced step: one expression for each region of sizes, short, and checked against a run on numbers.

A phase has as many moments as births. Numbers at sample sizes find those that can be the largest; each of the others
is then shown to lie below one of them, term by term, or counted as unproven.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Expr, Integer, Symbol

from memmodel.closed_forms import Branch, short, wins_where
from memmodel.origin import names
from memmodel.program import Alloc, Free, Launch, Mark, Program
from memmodel.timeline import saved_storages
from memmodel.tracer.letters.layers import Layers, alive_at, layers_of, progress
from memmodel.tracer.letters.polynomials import Terms, add, around_ones, exact, lies_below, terms
from memmodel.tracer.letters.symbolic import Symbolic, in_multiples
from memmodel.tracer.rules.scratch import is_shared_scratch
from memmodel.units import formula_text
from memmodel.work import Work

_MOST_BRANCHES = 3  # regions shown; with more, the one at the sizes asked for
_MOST_COMPARED = 6  # branches whose means others are compared with
_MOST_LAYERED = 32  # moments, the largest, that are followed to more layers
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
        layers: what repeats, whose number is a letter of these forms; None where nothing does.
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
    layers: Layers | None

    def value(self, expression: Any, sizes: Mapping[str, int]) -> int:
        """An expression at these sizes, and at the number of layers traced where they give no other."""
        numbers = {self.symbols[x]: n for x, n in sizes.items() if x in self.symbols}
        if self.layers is not None:
            numbers[self.layers.symbol] = sizes.get(self.layers.symbol.name, self.layers.count)
        return int(sympy.sympify(expression).subs(numbers))


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
    layers = layers_of(symbolic.program, symbolic.run, symbolic.symbols) if symbolic.run else None
    peaks, unproven = {}, 0
    for phase in step.phases():
        if phase in ("inputs", "after"):
            continue
        branches, missing = _branches(step, phase, free, numbers, layers)
        if branches:
            peaks[phase] = branches
        unproven += missing
    saved = _saved(step, layers)
    return Forms(
        symbolic.symbols,
        _region(symbolic, multiples, layers, _at_this_number_alone(saved, peaks, layers)),
        symbolic.conditions,
        symbolic.fixed,
        saved,
        peaks,
        _work(step, layers, lambda work: work.matmul),
        _work(step, layers, lambda work: work.flops),
        _work(step, layers, lambda work: work.hbm_bytes),
        unproven,
        _agrees(whole.program, concrete, numbers) and _agrees(symbolic.program, concrete, numbers),
        layers,
    )


def _saved(step: Program, layers: Layers | None) -> Expr:
    found = saved_storages(step)
    plain = sum(found.values(), start=Integer(0))
    return short(plain) if layers is None else _same(layers.alive(found, found, "forward", 1.0), plain, layers)


def _work(step: Program, layers: Layers | None, amount: Callable[[Work], Any]) -> Expr:
    plain = sum((amount(e.work) for e in step.events if isinstance(e, Launch)), start=Integer(0))
    return short(plain) if layers is None else _same(layers.work(amount), plain, layers)


def _at_this_number_alone(saved: Any, peaks: Mapping[str, Sequence[Branch]], layers: Layers | None) -> list[str]:
    """What no form in the number of layers was found for."""
    if layers is None:
        return []
    found = {"saved": [saved], **{f"{phase} peak": [b.expression for b in of] for phase, of in peaks.items()}}
    return [what for what, forms in found.items() if any(x != 0 and not layers.counts(x) for x in forms)]


def _region(symbolic: Symbolic, multiples: Mapping[str, int], layers: Layers | None, alone: Sequence[str]) -> str:
    unlike = [c for c in symbolic.conditions if isinstance(c, sympy.Ne)]
    parts = [f"{layers.symbol} = {layers.count} layers ({layers.what})"] if layers else []
    parts += [f"{' and '.join(alone)} for these {layers.count} layers alone"] if layers and alone else []
    parts += [f"{symbolic.tied[0]} = {symbolic.tied[1]}·{symbolic.tied[2]}"] if symbolic.tied else []
    parts += ["every size at least 2"] if len(symbolic.fixed) < len(symbolic.symbols) else []
    parts += [f"{x} fixed at {n}" for x, n in symbolic.fixed.items()]
    parts += [f"{x} a multiple of {n}" for x, n in multiples.items()]
    parts += [formula_text(c) for c in symbolic.conditions if c not in unlike]
    if unlike:
        parts.append("not where " + " or ".join(f"{formula_text(c.lhs)} = {formula_text(c.rhs)}" for c in unlike))
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


def _branches(
    step: Program, phase: str, free: Sequence[Symbol], numbers: Mapping[Any, Any], layers: Layers | None
) -> tuple[tuple[Branch, ...], int]:
    """The moments that are the largest somewhere, and how many others are not proven to lie below one of them."""
    moments = _moments(step, phase)
    at = _at_points({t for moment in moments for t, _ in moment}, [numbers, *_points(free)])
    values = {m: [sum(c * point[t] for t, c in m) for point in at] for m in moments}
    best = list(dict.fromkeys(max(values, key=lambda m: values[m][i]) for i in range(len(at)))) if moments else []
    shifted = [around_ones(m) for m in best[:_MOST_COMPARED]]
    unproven = sum(not _below(m, best) and not lies_below(around_ones(m), shifted) for m in moments if m not in best)
    shown = best if len(best) <= _MOST_BRANCHES else [max(values, key=lambda m: values[m][0])]
    forms = {m: _form(m, moments[m][1:], step, phase, layers) for m in shown}
    if layers is not None:
        largest = sorted(moments, key=lambda m: values[m][0])[-_MOST_LAYERED:]
        if not all(layers.counts(forms[m]) for m in shown) or _outgrown(
            step, phase, [moments[m] for m in largest], [forms[m] for m in shown], numbers, layers
        ):
            forms = {m: _form(m, moments[m][1:], step, phase, None) for m in shown}
    if len(best) > _MOST_BRANCHES:
        return (Branch(forms[shown[0]], moments[shown[0]][0], "at these sizes"),), unproven
    return tuple(
        Branch(forms[m], moments[m][0], _condition(forms[m], [forms[w] for w in best if w != m])) for m in best
    ), unproven


def _at_points(wanted: Collection[Any], points: Iterable[Mapping[Any, Any]]) -> list[dict[Any, Any]]:
    """The terms' values at each point but those that are no sizes of the run: a division by zero, half an element."""
    found = []
    for point in points:
        with suppress(ZeroDivisionError):
            values = {t: t.xreplace(dict(point)) for t in wanted}
            if all(value.is_Rational for value in values.values()):
                found.append({t: exact(value) for t, value in values.items()})
    return found


def _outgrown(
    step: Program, phase: str, moments: Any, forms: Sequence[Expr], numbers: Mapping[Any, Any], layers: Layers
) -> bool:
    """Whether, in a model of more layers, another of these moments is larger than the forms say."""
    known: dict[Any, int] = {}

    def number(expression: Any) -> int:
        if expression not in known:
            known[expression] = int(sympy.sympify(expression).xreplace(dict(numbers)))
        return known[expression]

    def alive(until: int) -> dict[int, int]:
        return {key: number(size) for key, size in alive_at(step, until).items()}

    said = {n: max(number(form.xreplace({layers.symbol: Integer(n)})) for form in forms) for n in layers.more}
    for _, first, last in moments:
        sizes, again, done = alive(first), alive_at(step, last), progress(step, layers, first)
        if any(layers.at(n, sizes, again, phase, done) > most for n, most in said.items()):
            return True
    return False


def _form(moment: Any, places: tuple[int, int], step: Program, phase: str, layers: Layers | None) -> Expr:
    """The bytes of a moment, factored; in the number of layers where that is the same sum."""
    plain = sympy.Add(*(coefficient * term for term, coefficient in moment))
    if layers is None:
        return short(plain)
    first, last = places
    found = layers.alive(alive_at(step, first), alive_at(step, last), phase, progress(step, layers, first))
    return _same(found, plain, layers)


def _same(found: Expr | None, plain: Any, layers: Layers) -> Expr:
    """An expression in the number of layers, if it is the plain one for the number traced; else the plain one."""
    if found is None:
        return short(plain)
    same = terms(found.subs(layers.symbol, layers.count)) == terms(plain)
    return found if same and found.has(layers.symbol) else short(plain)


def _condition(winner: Expr, others: list[Expr]) -> Any:
    if not others:
        return None
    try:
        return wins_where(winner, others)
    except sympy.PolynomialError:
        return "for some sizes"


def _moments(program: Program, phase: str) -> dict[Any, tuple[str, int, int]]:
    """Live bytes after each birth of a phase and at its start, as terms: what is made first, first and last event."""
    labels = names(program)
    live: Terms = {}
    found: dict[Any, tuple[str, int, int]] = {}
    sizes: dict[int, Mapping[Any, Any]] = {}
    current = ""
    for index, event in enumerate(program.events):
        if isinstance(event, Mark):
            current = event.phase
            if current == phase:
                found[frozenset(live.items())] = "at its start", index, index
        elif isinstance(event, Alloc):
            sizes[event.key] = terms(event.nbytes)
            add(live, sizes[event.key], 1)
            if current == phase:
                moment = frozenset(live.items())
                what, first, _ = found.get(moment, (f"when {labels[event.key]} is made", index, index))
                found[moment] = what, first, index
        elif isinstance(event, Free):
            add(live, sizes.pop(event.key), -1)
    return found


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
