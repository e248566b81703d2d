"""Closed forms of the built-in algorithms: the same run on sympy symbols.

A peak is the largest of several moments' sums; which moment wins depends on the sizes (see `memmodel.events.moments`).
Usually one expression is left, else one per region.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import sympy
from sympy import Poly, PolynomialError, Symbol, sympify

from memmodel.algorithms import algorithm, tiles_of
from memmodel.attention.case import SIZES, TWINS, Case, check_case
from memmodel.base.errors import UsageError
from memmodel.events.liveness import saved_bytes
from memmodel.events.moments import Branch, condition, expression_of, largest_moments, moments_of
from memmodel.events.origin import names
from memmodel.events.program import Program
from memmodel.events.work import Work
from memmodel.recorder import record
from memmodel.sizes.polynomials import around_ones, lies_below, short

SYMBOLS = {
    name: Symbol(letter, integer=True, positive=True)
    for name, letter in zip(SIZES, ("b", "h", "g", "n", "m", "d", "e"), strict=True)
}
WINDOW = Symbol("w", integer=True, positive=True)
# Queries and keys are multiples of these in the closed forms of library kernels, which round to their tiles.
ROWS, ROWS_OF_FLASH_ATTN_3 = 128, 1920
CHUNKS = 4  # chunks in the closed form of chunked attention, whose kernels their number decides


def _rows(case: Case) -> int:
    """The tile that lengths are multiples of."""
    return ROWS_OF_FLASH_ATTN_3 if case.algorithm == "flash-attn-3" else ROWS


def _in_tiles(case: Case) -> dict[Any, Any]:
    """Lengths as numbers of tiles."""
    rows = _rows(case)
    return {
        SYMBOLS[name]: rows * Symbol(f"{SYMBOLS[name]}_{rows}", integer=True, positive=True)
        for name in ("seq", "kv_seq")
    }


class TensorForm(NamedTuple):
    """A storage: its name in the code, its shape and its bytes, in symbols."""

    name: str
    shape: tuple[Any, ...]
    nbytes: Any


@dataclass(frozen=True, slots=True)
class Formulas:
    """Closed forms of an algorithm, in bytes and FLOP of one step.

    Attributes:
        case: with symbols for sizes. region: what the forms assume.
        tensors: in order of birth. saved: kept for backward.
        peaks: branches by phase. flops, hbm_bytes, intensity: of the step.
    """

    case: Case
    region: str
    tensors: tuple[TensorForm, ...]
    saved: Any
    peaks: dict[str, tuple[Branch, ...]]
    matmul_flops: Any
    flops: Any
    hbm_bytes: Any
    intensity: Any

    def value(self, expression: Any, case: Case) -> float:
        """An expression at a case's sizes."""
        sizes = {SYMBOLS[name]: getattr(case, name) for name in SIZES}
        return float(sympify(expression).subs(sizes | {WINDOW: case.mask.window or 0}))

    def winning(self, case: Case) -> Branch:
        """The moment that makes the step's live peak at a case's sizes."""
        branches = [branch for found in self.peaks.values() for branch in found]
        return max(branches, key=lambda branch: self.value(branch.expression, case))


def symbolic(case: Case) -> Case:
    """The case with a symbol for every size; equal sizes share one, and sizes of 1 stay 1."""
    if case.lengths:
        raise UsageError("sequences of unlike lengths have no closed form: leave --lengths out")
    if algorithm(case.algorithm).latent:
        raise UsageError(f"{case.algorithm} has no closed form: the GPU's SMs decide its buffers; take max or sweep")
    sizes: dict[str, Any] = {name: SYMBOLS[name] for name in SIZES}
    for name, twin in TWINS.items():
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
    if algorithm(case.algorithm).cached:
        sizes["seq"] = 1
        sizes["kv_seq"] = SYMBOLS["kv_seq"]
    if algorithm(case.algorithm).chooses:
        if case.seq == 1:
            raise UsageError(f"{case.algorithm} has no closed form of one query: its kernels split the keys")
        sizes |= {"head_dim": case.head_dim, "value_dim": case.value_dim}
        sizes |= {name: sizes[name].subs(_in_tiles(case)) for name in ("seq", "kv_seq")}
    if case.scores.bias and case.batch == 1 and not case.scores.bias_shape.startswith("b"):
        sizes["batch"] = 1  # one bias for all sequences: of a single one nothing is broadcast, and nothing summed
    if sizes["kv_heads"] != sizes["heads"]:
        r = case.heads // case.kv_heads
        sizes["heads"] = r * sizes["kv_heads"]
    tiles = tiles_of(case) if algorithm(case.algorithm).tiled else None
    mask = case.mask
    if mask.window is not None:
        mask = mask._replace(window=WINDOW)
    return replace(case, mask=mask, chunk=chunk, tiles=tiles, **sizes)


def formulas(case: Case) -> Formulas:
    """The closed forms of a case's algorithm, mask, dtype and phase. Of its sizes only equalities matter."""
    check_case(case)
    sym = symbolic(case)
    program = record(sym, sites=True)
    back, labels = _in_n(sym), names(program)
    work = sum((launch.work for launch in program.launches()), start=Work())
    return Formulas(
        sym,
        _region(sym),
        tuple(
            TensorForm(labels[birth.key], tuple(sympify(back(size)) for size in birth.shape), short(back(birth.nbytes)))
            for birth in program.births()
        ),
        short(back(saved_bytes(program))),
        {phase: _branches(program, phase, back) for phase in ("forward", "backward") if phase in program.phases()},
        short(back(work.matmul)),
        short(back(work.flops)),
        short(back(work.hbm_bytes)),
        short(sympy.cancel(back(work.flops) / back(work.hbm_bytes))),
    )


def formulas_of(case: Case) -> Formulas | None:
    """The closed forms; None if the case has none."""
    try:
        return formulas(case)
    except UsageError:
        return None


def _in_n(case: Case) -> Any:
    """Replaces the letters of parts: n = CHUNKS c, or n = ROWS tiles."""
    if algorithm(case.algorithm).chooses:
        rows = _rows(case)
        tiles = {form / rows: n / rows for n, form in _in_tiles(case).items()}
        return lambda expression: sympify(expression).subs(tiles)
    if case.algorithm != "chunked":
        return lambda expression: expression
    c, n = case.chunk, SYMBOLS["seq"]
    return lambda expression: sympify(expression).subs(c, n / CHUNKS)


def _region(case: Case) -> str:
    parts = ["every size at least 2"]
    if case.tiles is not None:
        parts.append("whole tiles counted at the edges" if not case.mask.causal else "seq a multiple of the tiles")
        tile = case.tiles.forward
        parts.append(
            f"tiles of sm_{case.device.arch} for this head dim ({tile.rows} queries by {tile.cols} keys in forward)"
        )
    if algorithm(case.algorithm).chooses:
        parts.append(f"head dim {case.head_dim}, kernels of sm_{case.device.capability}")
        splits = "" if case.algorithm == "flash-attn-3" else ", and enough rows that keys are not split"
        parts.append(f"seq a multiple of {_rows(case)}{splits}")
    if case.algorithm == "chunked":
        parts.append(f"n in {CHUNKS} equal chunks")
    if algorithm(case.algorithm).cached:
        parts[0] = "every size but the one query at least 2"
    if case.algorithm == "decode" and case.cache.splits is None:
        parts.append("keys read in one part")
    return ", ".join(parts)


def _branches(program: Program, phase: str, back: Any) -> tuple[Branch, ...]:
    """The moments that are the phase's peak at some sizes, in order; every other one is proven not to be."""
    moments = moments_of(program, phase, back)
    letters = sorted({s for moment in moments for term, _ in moment for s in term.free_symbols}, key=str)
    found = largest_moments(moments, letters)
    shifted = {m: around_ones(m) for m in (*found.moments, *found.unproven)}
    below = {m for m in found.unproven if lies_below(shifted[m], [x for other, x in shifted.items() if other != m])}
    shown = [m for m in moments if m in shifted and m not in below]
    forms = {moment: expression_of(moment) for moment in shown}
    return tuple(
        Branch(forms[m], moments[m].what, condition(forms[m], [forms[w] for w in shown if w != m])) for m in shown
    )


def largest_size(case: Case, over: str, room: int) -> int:
    """The largest size whose live peak is at most `room` bytes, solved from the closed form.

    Args:
        case: the other sizes.
        over: the size solved for, one of `memmodel.attention.case.SIZES`.
        room: in bytes.

    Raises UsageError where there is no closed form, or it does not grow with the size.
    """
    if over == "kv_seq" and case.kv_seq == case.seq:
        case = replace(case, kv_seq=case.seq + 1)  # keys with a letter of their own: queries do not grow with them
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
            try:
                roots = [r for r in Poly(expression - room, variable).nroots(n=30) if r.is_real and r > 0]
            except PolynomialError:
                raise UsageError(f"the closed form of {case.algorithm} goes in steps with {over}") from None
            if roots:
                sizes.append(int(sympy.floor(max(roots))))
            elif expression.subs(variable, 1) > room:
                sizes.append(0)
    if not sizes:
        raise UsageError(f"the closed form of {case.algorithm} does not grow with {over}")
    shared = case.heads // case.kv_heads if over == "heads" else 1
    return min(sizes) * shared


@cache
def _cached(case: Case) -> Formulas:
    return formulas(case)
