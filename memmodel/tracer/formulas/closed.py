"""Closed forms of a traced step: live peaks, saved bytes and work in letters, checked against a run on numbers.

Which moments can be a phase's peak is decided by `memmodel.events.moments`. Where layers repeat, the forms are in the
number of layers too, as far as no other moment outgrows them in a larger model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import sympy
from sympy import Expr, Integer, Symbol

from memmodel.base.units import formula_text
from memmodel.events.liveness import alive_at, births_and_deaths, last_step, phase_peaks, saved_storages, step_phases
from memmodel.events.moments import Branch, Moment, Sum, condition, expression_of, largest_moments, moments_of
from memmodel.events.program import Program
from memmodel.events.work import Work
from memmodel.sizes.polynomials import short, terms
from memmodel.tracer.formulas.layers import Layers, layers_of, progress
from memmodel.tracer.formulas.symbolic import Symbolic, in_multiples

_MOST_BRANCHES = 3  # regions shown; with more, the one at the sizes asked for
_MOST_LAYERED = 32  # moments, the largest, that are followed to more layers


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

    def peak(self, sizes: Mapping[str, int]) -> int:
        """The live peak of the step, bytes."""
        return max(self.value(branch.expression, sizes) for of in self.peaks.values() for branch in of)

    def holds_for(self, program: Program, sizes: Mapping[str, int]) -> bool:
        """Whether they are what a step takes and computes."""
        if self.layers is None:
            return False
        step = last_step(program).without_shared_scratch()
        work = sum((launch.work for launch in step.launches()), start=Work())
        forms = {self.saved: sum(saved_storages(step).values()), self.matmul_flops: work.matmul, self.flops: work.flops}
        forms |= {self.hbm_bytes: work.hbm_bytes}
        peaks = phase_peaks(step)
        found = [form is None or self.value(form, sizes) == number for form, number in forms.items()]
        for phase, branches in self.peaks.items():
            found.append(max(self.value(branch.expression, sizes) for branch in branches) == peaks[phase])
        return all(found)


def closed_forms(symbolic: Symbolic, concrete: Program, sizes: Mapping[str, int], count: int | None = None) -> Forms:
    """The forms of a symbolic run's last step, checked against the run on numbers.

    `count`: the number of layers, where both runs have few of them.
    """
    whole = symbolic
    symbolic, multiples = in_multiples(symbolic, sizes)
    step = last_step(symbolic.program)
    free = [s for x, s in symbolic.symbols.items() if x not in symbolic.fixed]
    numbers = {symbolic.symbols[x]: Integer(n) for x, n in sizes.items() if x in symbolic.symbols}
    layers = layers_of(symbolic.program, symbolic.run, symbolic.symbols) if symbolic.run else None
    peaks, unproven = {}, 0
    for phase in step_phases(step):
        branches, missing = _branches(step, phase, free, numbers, layers)
        if branches:
            peaks[phase] = branches
        unproven += missing
    saved = _saved(step, layers)
    model = layers if layers is None or count is None else replace(layers, count=count)
    return Forms(
        symbolic.symbols,
        _region(symbolic, multiples, model, layers, _at_this_number_alone(saved, peaks, layers)),
        symbolic.conditions,
        symbolic.fixed,
        saved,
        peaks,
        _work(step, layers, lambda work: work.matmul),
        _work(step, layers, lambda work: work.flops),
        _work(step, layers, lambda work: work.hbm_bytes),
        unproven,
        # The forms as traced, and those for sizes that divide evenly.
        _agrees(whole.program, concrete, numbers) and _agrees(symbolic.program, concrete, numbers),
        model,
    )


def _saved(step: Program, layers: Layers | None) -> Expr:
    found = saved_storages(step)
    plain = sum(found.values(), start=Integer(0))
    return short(plain) if layers is None else _same(layers.alive(found, found, "forward", 1.0), plain, layers)


def _work(step: Program, layers: Layers | None, amount: Callable[[Work], Any]) -> Expr | None:
    plain = sum((amount(launch.work) for launch in step.launches()), start=Integer(0))
    if plain is sympy.nan:  # of a kernel whose work has no formula
        return None
    return short(plain) if layers is None else _same(layers.work(amount), plain, layers)


def _at_this_number_alone(saved: Any, peaks: Mapping[str, Sequence[Branch]], layers: Layers | None) -> list[str]:
    """The quantities without a form in the number of layers."""
    if layers is None:
        return []
    found = {"saved": [saved], **{f"{phase} peak": [b.expression for b in of] for phase, of in peaks.items()}}
    return [what for what, forms in found.items() if any(x != 0 and not layers.counts(x) for x in forms)]


def _region(
    symbolic: Symbolic, multiples: Mapping[str, int], layers: Layers | None, traced: Layers | None, alone: Sequence[str]
) -> str:
    """Where the forms hold, in words; `layers`: of the model, `traced`: those that the forms are read off."""
    unlike = [c for c in symbolic.conditions if isinstance(c, sympy.Ne)]
    parts = [f"{layers.symbol} = {layers.count} layers ({layers.what})"] if layers else []
    # A moment that lies below the peak from here on may lie above that of fewer layers, which are not compared.
    parts += [f"{traced.symbol} at least {traced.count}"] if traced and traced.count > 2 else []
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
    number = _at(numbers)
    try:
        ours = births_and_deaths(program, lambda birth: number(birth.nbytes))
        return ours == births_and_deaths(concrete.without_shared_scratch(), lambda birth: int(birth.nbytes))
    # A size that is still an expression at these numbers.
    except TypeError:
        return False


def _at(numbers: Mapping[Any, Any]) -> Callable[[Any], int]:
    """The value of an expression at these sizes, each expression once."""

    @cache
    def number(expression: Any) -> int:
        return int(sympy.sympify(expression).xreplace(dict(numbers)))

    return number


def _branches(
    step: Program, phase: str, free: Sequence[Symbol], numbers: Mapping[Any, Any], layers: Layers | None
) -> tuple[tuple[Branch, ...], int]:
    """The moments that are the largest somewhere, and how many others are not proven to lie below one of them."""
    moments = moments_of(step, phase)
    found = largest_moments(moments, free, [numbers])
    best, bytes_here = found.moments, {m: values[0] for m, values in found.values.items()}
    shown = best if len(best) <= _MOST_BRANCHES else [max(moments, key=lambda m: bytes_here[m])]
    forms = {m: _form(m, moments[m], step, phase, layers) for m in shown}
    if layers is not None:
        # Forms in L are given up where one has no L, or where another moment would be the peak of a deeper model.
        largest = sorted(moments, key=lambda m: bytes_here[m])[-_MOST_LAYERED:]
        if not all(layers.counts(forms[m]) for m in shown) or _outgrown(
            step, phase, [moments[m] for m in largest], [forms[m] for m in shown], numbers, layers
        ):
            forms = {m: expression_of(m) for m in shown}
    if len(best) > _MOST_BRANCHES:
        return (Branch(forms[shown[0]], moments[shown[0]].what, "at these sizes"),), len(found.unproven)
    return tuple(
        Branch(forms[m], moments[m].what, condition(forms[m], [forms[w] for w in best if w != m])) for m in best
    ), len(found.unproven)


def _outgrown(
    step: Program, phase: str, moments: Any, forms: Sequence[Expr], numbers: Mapping[Any, Any], layers: Layers
) -> bool:
    """Whether, in a model of more layers, another of these moments is larger than the forms say."""
    number = _at(numbers)
    said = {n: max(number(form.xreplace({layers.symbol: Integer(n)})) for form in forms) for n in layers.more}
    for _, first, last in moments:
        sizes = {key: number(size) for key, size in _sizes(step, first).items()}
        again, done = alive_at(step, last), progress(step, layers, first)
        if any(layers.at(n, sizes, again, phase, done) > most for n, most in said.items()):
            return True
    return False


def _form(moment: Sum, when: Moment, step: Program, phase: str, layers: Layers | None) -> Expr:
    """The bytes of a moment, factored; in the number of layers where that is the same sum."""
    plain = expression_of(moment)
    if layers is None:
        return plain
    found = layers.alive(_sizes(step, when.first), alive_at(step, when.last), phase, progress(step, layers, when.first))
    return _same(found, plain, layers)


def _sizes(step: Program, index: int) -> dict[int, Any]:
    """Storage -> bytes of what is alive after the event at a place."""
    return {key: birth.nbytes for key, birth in alive_at(step, index).items()}


def _same(found: Expr | None, plain: Any, layers: Layers) -> Expr:
    """An expression in the number of layers, if it is the plain one for the number traced; else the plain one."""
    if found is None:
        return short(plain)
    same = terms(found.subs(layers.symbol, layers.count)) == terms(plain)
    return found if same and found.has(layers.symbol) else short(plain)
