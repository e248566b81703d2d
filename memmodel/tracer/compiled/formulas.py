"""Formulas of a plan: how its storages grow, read off the plans at other sizes.

A plan is made for sizes that are numbers. Each size is doubled alone, the function compiled again, and where both plans
have the same events every storage is a number times powers of the sizes. All sizes doubled together check that.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sympy

from memmodel.base.errors import UsageError
from memmodel.events.liveness import places
from memmodel.events.program import Alloc, Event, Launch, Program
from memmodel.events.work import Work
from memmodel.tracer.formulas.closed import Forms, closed_forms
from memmodel.tracer.formulas.symbolic import Symbolic

Run = Callable[[Mapping[str, int]], Program]


def forms_of(program: Program, sizes: Mapping[str, int], run: Run) -> tuple[Symbolic, Forms]:
    """The plan in letters and its closed forms, without those of vector work and traffic.

    `run` compiles at other sizes. Raises UsageError where another size is planned otherwise.
    """
    # A size of 1 stays a number: PyTorch lays tensors out otherwise there.
    free = [x for x, n in sizes.items() if n > 1]
    base = program.without_shared_scratch()
    doubled = {x: _matching(base, run({**sizes, x: 2 * sizes[x]}), f"{x}={2 * sizes[x]}") for x in free}
    symbols = {x: sympy.Symbol(x, integer=True, positive=True) for x in sizes}

    def fitted(value: int, others: Mapping[str, int]) -> Any:
        powers = {x: _power(others[x], value) for x in free}
        unit = math.prod(sizes[x] ** p for x, p in powers.items())
        return sympy.Rational(value, unit) * sympy.prod(symbols[x] ** p for x, p in powers.items())

    events = [_in_letters(event, {x: doubled[x][i] for x in free}, fitted) for i, event in enumerate(base.events)]
    symbolic = Symbolic(program._replace(events=events), symbols, (), {x: 1 for x, n in sizes.items() if n == 1})
    twice = {x: 2 * n if x in free else n for x, n in sizes.items()}
    if not closed_forms(symbolic, run(twice), twice).checked:
        raise UsageError("twice all sizes are planned otherwise than each size doubled alone tells")
    forms = closed_forms(symbolic, program, sizes)
    return symbolic, replace(forms, region=_region(sizes, free), flops=None, hbm_bytes=None)


def _region(sizes: Mapping[str, int], free: Sequence[str]) -> str:
    at = ", ".join(f"{x}={n}" for x, n in sizes.items() if x in free)
    fixed = "".join(f", {x} fixed at 1" for x in sizes if x not in free)
    return f"as planned at {at}, at twice each of them and twice all{fixed}; other sizes may be planned otherwise"


def _matching(base: Program, other: Program, where: str) -> list[Event]:
    """The events at other sizes, one for one."""
    found = other.without_shared_scratch()
    if _skeleton(base) != _skeleton(found):
        raise UsageError(f"at {where} the compiler plans other buffers than at the sizes asked for")
    return found.events


def _skeleton(program: Program) -> list[Any]:
    """The kind of each event, with the place where its storage was allocated and its rank, or its phase: no sizes."""
    births, _ = places(program)
    return [
        (type(e), births.get(getattr(e, "key", -1)), len(getattr(e, "shape", ())), getattr(e, "phase", ""))
        for e in program.events
    ]


def _in_letters(event: Event, others: Mapping[str, Any], fitted: Callable[[int, Mapping[str, int]], Any]) -> Event:
    if isinstance(event, Alloc):
        shape = tuple(fitted(n, {x: e.shape[i] for x, e in others.items()}) for i, n in enumerate(event.shape))
        return event._replace(nbytes=fitted(event.nbytes, {x: e.nbytes for x, e in others.items()}), shape=shape)
    if isinstance(event, Launch):
        try:
            matmul = event.work.matmul and fitted(event.work.matmul, {x: e.work.matmul for x, e in others.items()})
        except UsageError:  # a mask's share of the pairs depends on the sizes
            matmul = sympy.nan
        return event._replace(work=Work(matmul, 0, 0, 0, 0))
    return event


def _power(doubled: int, value: int) -> int:
    """The power of a size by which a number grows when that size is doubled."""
    ratio, rest = divmod(doubled, value)
    power = ratio.bit_length() - 1
    if rest or ratio != 2**power:
        raise UsageError("some storage is no product of the sizes")
    return power
