"""A run on symbolic sizes: a letter for each size, and the region of sizes in which the events are the same.

A hint stands in where Python asks which way a comparison of sizes goes; the answer becomes a guard. Hints are the
sizes asked for, equal ones made unlike (times a prime), so that letters stay apart.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import sympy
import torch

from memmodel.events.program import Program
from memmodel.tracer.private.fake import (
    FakeTensorMode,
    expression_of,
    fake_mode,
    shape_environment,
    symbol,
    uncompiled,
)
from memmodel.tracer.watch.run import Setting, Traced, traced

_PRIMES = (101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173, 179)
# By multiples hints stay divisible by what divides the sizes asked for.
_FACTORS = (1, 3, 5, 7, 11, 13, 17, 19, 23)
_SAMPLES = (2, 3, 4, 7, 8, 16, 37, 64, 128, 1000, 4096)
_MOST_SAMPLES = 60
_DIVISIONS = ("FloorDiv", "CleanDiv", "Mod", "PythonMod", "CeilDiv")
_ROUNDINGS = ("ceiling", "floor", "CeilToInt", "FloorToInt")


Multiple = tuple[str, int, str]  # letter, number, letter: H, 4, G says that H is 4·G


class Symbolic(NamedTuple):
    """A run in letters.

    Attributes:
        program: its bytes and sizes are expressions. symbols: by letter.
        conditions: what the sizes must satisfy for the same run, as expressions; only those that can fail.
        fixed: letters that the code takes as plain numbers, and the number. run: as it was, where it was run so.
        tied: a letter that stands for a multiple of another.
    """

    program: Program
    symbols: dict[str, sympy.Symbol]
    conditions: tuple[Any, ...]
    fixed: dict[str, int]
    run: Traced | None = None
    tied: Multiple | None = None


def hints(letters: Iterable[str], at: Mapping[str, int]) -> dict[str, int]:
    """A value for each letter: the size asked for, or a prime; no two alike, and none 1 unless asked for."""
    found: dict[str, int] = {}
    primes = iter(_PRIMES)
    for letter in letters:
        wanted = at.get(letter) or next(primes)
        # Nor a product of two others: H·D would be taken for a letter of that value.
        taken = set(found.values()) | {a * b for a, b in itertools.combinations(found.values(), 2)}
        values = (wanted * factor for factor in _FACTORS)
        found[letter] = 1 if wanted == 1 else next(v for v in values if v not in taken)
    return found


def multiples_among(sizes: Mapping[str, int]) -> list[Multiple]:
    """Letters whose size is a multiple of another's, as heads of their groups; least multiples first, equals last."""
    pairs = itertools.permutations(sizes, 2)
    found = [(x, sizes[x] // sizes[y], y) for x, y in pairs if sizes[x] >= sizes[y] > 1 and sizes[x] % sizes[y] == 0]
    return sorted(found, key=lambda multiple: (multiple[1] == 1, multiple[1]))


def divides_letters(conditions: Iterable[Any]) -> bool:
    """Whether a condition says that one letter divides another; that it does not is no rare thing."""
    wanted = (c for c in conditions if not isinstance(c, sympy.Ne))
    parts = (part for condition in wanted for part in sympy.preorder_traversal(condition))
    return any(type(p).__name__ in _DIVISIONS and not p.args[1].is_number for p in parts)


def traced_in_letters(setting: Setting, values: Mapping[str, int], tied: Multiple | None = None) -> Symbolic:
    """Run the step on symbols with these hints. A letter of 1 stays a number: PyTorch's layouts differ there.

    `tied`: a letter that stands for a multiple of another, for code that divides one by the other.
    """
    free = {x: value for x, value in values.items() if tied is None or x != tied[0]}
    environment = shape_environment()
    mode = fake_mode(environment, allow_non_fake_inputs=True)
    with uncompiled(FakeTensorMode):
        sizes = {x: value if value == 1 else symbol(environment, x, value) for x, value in free.items()}
        product = {} if tied is None else {tied[0]: tied[1] * sizes[tied[2]]}
        found = traced(setting, sizes | product, mode)
    program = found.program
    inner = {x: size.node.expr for x, size in sizes.items() if isinstance(size, torch.SymInt)}
    originals = {x: expression_of(size) for x, size in sizes.items() if isinstance(size, torch.SymInt)}
    symbols = {x: sympy.Symbol(x, integer=True, positive=True) for x in free}
    fixed = {x: int(value) for x, value in inner.items() if value.is_number}
    fixed |= {x: value for x, value in free.items() if value == 1}
    replaced = dict(environment.replacements)
    renamed = {originals[x]: sympy.Integer(fixed[x]) if x in fixed else symbols[x] for x in originals}
    in_letters = _renaming(replaced, renamed)
    used = program.without_shared_scratch().mapped(in_letters)
    guards = [guard.expr for guard in environment.guards]
    conditions = _conditions((in_letters(g) for g in guards), [symbols[x] for x in inner if x not in fixed])
    return Symbolic(used, symbols, tuple(conditions), fixed, found, tied)


def _renaming(replaced: Mapping[Any, Any], renamed: Mapping[Any, Any]) -> Any:
    """PyTorch's symbols as letters, each expression once."""
    known: dict[Any, Any] = {}

    def in_letters(expression: Any) -> Any:
        if isinstance(expression, int):
            return expression
        if expression not in known:
            found = expression
            for _ in range(4):  # a replacement may hold symbols that are replaced in turn
                found = found.xreplace(replaced)
            known[expression] = _plainer(found.xreplace(renamed))
        return known[expression]

    return in_letters


def _plainer(expression: Any) -> Any:
    """Max(1, size) is the size: sizes are not 0. Divisions rounded up are sympy's."""
    if not hasattr(expression, "atoms"):
        return expression
    up = {c: sympy.ceiling(c.args[0].args[0] / c.args[0].args[1]) for c in _rounded_up(expression)}
    expression = expression.xreplace(up) if up else expression
    whole = {m: rest[0] for m in _maxima(expression) if len(rest := [a for a in m.args if a != 1]) == 1}
    return expression.xreplace(whole) if whole else expression


def _rounded_up(expression: Any) -> list[Any]:
    """PyTorch's own spelling of divisions rounded up, through a true division."""
    found = (c for c in sympy.preorder_traversal(expression) if type(c).__name__ == "CeilToInt")
    return [c for c in found if type(c.args[0]).__name__ == "IntTrueDiv"]


def _maxima(expression: Any) -> list[Any]:
    return [m for m in sympy.preorder_traversal(expression) if type(m).__name__ == "Max" and 1 in m.args]


def in_multiples(symbolic: Symbolic, at: Mapping[str, int]) -> tuple[Symbolic, dict[str, int]]:
    """The run for sizes that divide evenly, without roundings, if those asked for do; and by which numbers they divide.

    Divisions that divide what another rounded come out once that one is even: so it goes from the inside out.
    """
    known: dict[str, int] = {}
    while True:
        divisors = {x: math.lcm(d, known.get(x, 1)) for x, d in _divisors(symbolic).items()}
        chosen = {x: d for x, d in divisors.items() if d > known.get(x, 1) and at.get(x, 0) % d == 0}
        if not chosen:
            return symbolic, known
        known |= chosen
        symbolic = _evenly(symbolic, known)


def _evenly(symbolic: Symbolic, divisors: Mapping[str, int]) -> Symbolic:
    """The run for multiples of these numbers."""
    symbols = symbolic.symbols
    parts = {x: sympy.Dummy(x, integer=True, positive=True) for x in divisors}
    finer = {symbols[x]: d * parts[x] for x, d in divisors.items()}
    back = {parts[x]: symbols[x] / d for x, d in divisors.items()}
    known: dict[Any, Any] = {}

    def once(expression: Any) -> Any:
        if expression not in known:
            known[expression] = _plainer(sympy.sympify(expression).subs(finer)).xreplace(back)
        return known[expression]

    program = symbolic.program.mapped(once)
    free = [s for x, s in symbols.items() if x not in symbolic.fixed]
    factors = {symbols[x]: d for x, d in divisors.items()}
    conditions = _conditions((once(c) for c in symbolic.conditions), free, factors)
    return symbolic._replace(program=program, conditions=tuple(conditions))


def _divisors(symbolic: Symbolic) -> dict[str, int]:
    """For each letter the least number that the divisions of it go by, where nothing inside them is rounded."""
    expressions = {birth.nbytes for birth in symbolic.program.births()} | set(symbolic.conditions)
    names = {s: x for x, s in symbolic.symbols.items() if x not in symbolic.fixed}
    found: dict[str, int] = {}
    for expression in expressions:
        for part in sympy.preorder_traversal(sympy.sympify(expression)):
            for inner, divisor in _division(part):
                for free in inner.free_symbols & set(names) if not _rounds(inner) else ():
                    found[names[free]] = math.lcm(found.get(names[free], 1), divisor)
    return found


def _rounds(expression: Any) -> bool:
    return any(type(p).__name__ in (*_DIVISIONS, *_ROUNDINGS) for p in sympy.preorder_traversal(expression))


def _division(part: Any) -> Iterable[tuple[Any, int]]:
    """(what is divided, by which number) of a rounded division."""
    kind = type(part).__name__
    if kind in _DIVISIONS and part.args[1].is_Integer:
        inner, below = sympy.fraction(part.args[0])
        yield inner, int(part.args[1] * below)
    elif kind in _ROUNDINGS:
        divisor = sympy.fraction(sympy.together(part.args[0]))[1]
        if divisor.is_Integer:
            yield part.args[0], int(divisor)


def _conditions(
    guards: Iterable[Any], symbols: list[sympy.Symbol], factors: Mapping[Any, int] | None = None
) -> list[Any]:
    """Guards that some sizes of at least two break; the others hold everywhere as far as samples show."""
    found: dict[Any, set[int]] = {}
    steps = factors or {}  # multiples of a number begin with it
    samples = [{s: (n - 1) * steps[s] if s in steps else n for s, n in p.items()} for p in _samples(symbols)]
    for guard in guards:
        if guard not in (sympy.true, sympy.false, *found):
            broken = {i for i, sizes in enumerate(samples) if _broken(guard, sizes)}
            found |= {guard: broken} if broken else {}
    return _without_products([c for c in found if not _is_said_plainer(c, found)])


def _is_said_plainer(condition: Any, broken: Mapping[Any, set[int]]) -> bool:
    """Whether "this is not equal to that" fails only where a shorter one of the kind does."""
    unlike = [c for c in broken if isinstance(c, sympy.Ne) and sympy.count_ops(c) < sympy.count_ops(condition)]
    return isinstance(condition, sympy.Ne) and any(broken[condition] <= broken[c] for c in unlike)


def _samples(symbols: list[sympy.Symbol]) -> Iterable[dict[sympy.Symbol, sympy.Integer]]:
    for i in range(_MOST_SAMPLES):
        # A walk through the samples in which each letter has a pace of its own.
        picks = (_SAMPLES[(i * (2 * j + 1) + j * (i // len(_SAMPLES))) % len(_SAMPLES)] for j in range(len(symbols)))
        yield {s: sympy.Integer(n) for s, n in zip(symbols, picks, strict=True)}


def _broken(guard: Any, sizes: Mapping[Any, Any]) -> bool:
    try:
        return bool(guard.xreplace(sizes) == sympy.false)
    except ZeroDivisionError:  # a tensor of no elements: not a size at which the code runs so
        return False


def _without_products(conditions: list[Any]) -> list[Any]:
    """Conditions on divisibility come with longer ones that say the same of products: those go."""
    divisible = [c for c in conditions if c.has(sympy.Mod) or "Mod(" in str(c)]
    if not divisible:
        return conditions
    return [c for c in conditions if c in divisible or "//" not in str(c)]
