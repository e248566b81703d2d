"""Repeated layers: which storages and kernels of a step come once per layer, so that formulas can be read in L.

How many layers there are is read off the parameters' names (`blocks.0.mlp.weight`, `blocks.1.mlp.weight`, ...) or, in a
plain loop, off tensors that the code holds, as many as the loop's rounds. A run is a series of births that comes
that often in a row, each round made by the same instructions with the same bytes. What is alive of a run at a moment
is all rounds, or all but the last few, or the first few: so a sum of bytes is L times a sum plus a rest. It is the sum
itself, regrouped; that another number of layers repeats in the same way is the one thing assumed.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sympy
from sympy import Expr, Integer, Symbol

from memmodel.program import Alloc, Free, Launch, Mark, Program, Site

_LETTERS = ("L", "L_layers", "layers")
_INDEX = re.compile(r"(?:(?<=\.)|^)\d+(?=\.)")


class Place(NamedTuple):
    """A storage among the rounds of a run: which run, which of a round's storages, which round; the run's phase."""

    run: int
    part: int
    round: int
    phase: str


class Layers(NamedTuple):
    """The repetition of a step.

    Attributes:
        symbol: the letter. count: how many layers were traced. what: what they are called.
        places: of storages that come once per layer. launches: index among the events of the first round's kernels
            and of all rounds'.
    """

    symbol: Symbol
    count: int
    what: str
    places: dict[int, Place]
    launches: tuple[frozenset[int], frozenset[int]]

    def alive(self, sizes: Mapping[int, Any], phase: str, progress: float) -> Expr:
        """The bytes of these storages, regrouped: L times what each layer has, plus the rest.

        sizes: storage -> bytes. phase, progress: when; how much of the phase's layers is done, between 0 and 1.
        """
        rounds: dict[Any, list[int]] = defaultdict(list)
        each: Any = Integer(0)
        rest: Any = Integer(0)
        nbytes: dict[Any, Any] = {}
        for key, size in sizes.items():
            place = self.places.get(key)
            if place is None:
                rest += size
            else:
                part = place.run, place.part, place.phase
                rounds[part].append(place.round)
                nbytes[part] = size
        for part, alive in rounds.items():
            late = (progress > 0.5) == (part[2] == phase)
            times, more = self._counted(sorted(alive), late)
            each += times * nbytes[part]
            rest += more * nbytes[part]
        return self.total(each, rest)

    def _counted(self, rounds: Sequence[int], late: bool) -> tuple[int, int]:
        """(a, b): there are a·L + b rounds alive. `late`: halfway through, a bound counts from the end."""
        first, end = rounds[0], rounds[-1] + 1
        if end - first != len(rounds):
            return 0, len(rounds)
        last = self._bound(end, late)
        start = self._bound(first, late)
        return last[0] - start[0], last[1] - start[1]

    def _bound(self, bound: int, late: bool) -> tuple[int, int]:
        """A bound between rounds, counted from the end that is nearer."""
        beyond = self.count - bound
        from_end = bound > 0 and (beyond < bound or (beyond == bound and late))
        return (1, -beyond) if from_end else (0, bound)

    def total(self, each: Any, rest: Any) -> Expr:
        """L·(each) + (rest), each factored."""
        each, rest = sympy.factor(each), sympy.factor(rest)
        if rest == 0 or each == 0:
            return sympy.Mul(self.symbol, each) + rest
        return sympy.Add(sympy.Mul(self.symbol, each, evaluate=each.is_Mul or each.is_Atom), rest)

    def work(self, program: Program, amount: Any) -> Expr:
        """An amount of all kernels' work, regrouped."""
        first, repeated = self.launches
        each: Any = Integer(0)
        rest: Any = Integer(0)
        for index, event in enumerate(program.events):
            if isinstance(event, Launch):
                each += amount(event.work) if index in first else 0
                rest += amount(event.work) if index not in repeated else 0
        return self.total(each, rest)


def layers_of(step: Program, forward_of: Mapping[int, Site], letters: Iterable[str]) -> Layers | None:
    """The repetition in a step (see `last_step`); None where there is none."""
    count, what = _count(step)
    if count < 2:
        return None
    name = next(x for x in _LETTERS if x not in set(letters))
    places: dict[int, Place] = {}
    first: set[int] = set()
    repeated: set[int] = set()
    number = 0
    for phase, births, launches in _sections(step):
        signs = [_sign(step, birth, forward_of) for birth in births]
        for start, period in runs(signs, count):
            number += 1
            for i in range(count * period):
                places[births[start + i].key] = Place(number, i % period, i // period, phase)
        for start, period in runs([_launched(step.events[i]) for i in launches], count):
            first |= set(launches[start : start + period])
            repeated |= set(launches[start : start + count * period])
    symbol = Symbol(name, integer=True, positive=True)
    return Layers(symbol, count, what, places, (frozenset(first), frozenset(repeated)))


def _sections(step: Program) -> list[tuple[str, list[Alloc], list[int]]]:
    """(phase, its births, places of its kernels among the events)."""
    found: list[tuple[str, list[Alloc], list[int]]] = []
    for index, event in enumerate(step.events):
        if isinstance(event, Mark):
            found.append((event.phase, [], []))
        elif isinstance(event, Alloc):
            found[-1][1].append(event)
        elif isinstance(event, Launch):
            found[-1][2].append(index)
    return found


def _sign(step: Program, birth: Alloc, forward_of: Mapping[int, Site]) -> Hashable:
    """What is alike in every round: the instructions, the operator, the bytes, the name up to its number."""
    name = step.names.get(birth.key, "")
    of = step.names.get(step.gradients.get(birth.key, 0), "")
    site = birth.site or forward_of.get(birth.key)
    return wildcard(name), wildcard(of), site, birth.op, birth.nbytes, birth.dtype.name


def _launched(event: Any) -> Hashable:
    return event.name, event.kind, event.work, event.dtype.name


def wildcard(name: str) -> str:
    """A parameter's name without the number of its layer: `blocks.3.mlp.weight` is `blocks.*.mlp.weight`."""
    return _INDEX.sub("*", name, count=1)


def _count(step: Program) -> tuple[int, str]:
    """(number of layers, what they are): alike children of a module, else rounds of a loop with tensors of its own."""
    inputs = next((births for phase, births, _ in _sections(step) if phase == "inputs"), [])
    children: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for birth in inputs:
        name = step.names.get(birth.key, "")
        match = _INDEX.search(name)
        if match:
            children[name[: match.start()]][match[0]].append((name[match.end() :], birth.nbytes))
    alike = {prefix: Counter(map(tuple, found.values())).most_common(1)[0] for prefix, found in children.items()}
    found = [(count * len(parts), count, f"{prefix}*") for prefix, (parts, count) in alike.items() if count > 1]
    if found:
        most = max(found)
        return most[1], ", ".join(what for _, count, what in found if count == most[1])
    return _rounds(step, inputs), "rounds of the loop"


def _rounds(step: Program, inputs: Sequence[Alloc]) -> int:
    """Rounds of the longest loop in forward that has a tensor of its own in each, from outside."""
    forward = next((births for phase, births, _ in _sections(step) if phase == "forward"), [])
    signs = [(birth.site, birth.op, birth.nbytes) for birth in forward]
    own = [(birth.nbytes, birth.dtype.name) for birth in inputs if step.names.get(birth.key) == "constant"]
    for count in range(len(own), 1, -1):
        if runs(own, count) and runs(signs, count):
            return count
    return 0


def runs(signs: Sequence[Hashable], count: int) -> list[tuple[int, int]]:
    """(start, period) of each stretch that is the same `period` signs `count` times over; the longest first."""
    best = (0, 0)
    for period in range(1, len(signs) // count + 1):
        streak = 0
        for i in range(len(signs) - period + 1):
            same = i + period < len(signs) and signs[i] == signs[i + period]
            if same:
                streak += 1
                continue
            if (streak + period) // period == count and count * period > count * best[1]:
                best = i - streak, period
            streak = 0
    start, period = best
    if not period:
        return []
    end = start + count * period
    after = [(end + s, p) for s, p in runs(signs[end:], count)]
    return [*runs(signs[:start], count), best, *after]


def progress(step: Program, layers: Layers, until: int) -> float:
    """How much of its phase's longest run is born before an event."""
    phase, born = "", Counter[int]()
    total = Counter(place.run for place in layers.places.values())
    for event in step.events[: until + 1]:
        if isinstance(event, Mark):
            phase, born = event.phase, Counter()
        elif isinstance(event, Alloc) and event.key in layers.places:
            born[layers.places[event.key].run] += 1
    longest = max((run for run in total if _phase(layers, run) == phase), key=lambda r: total[r], default=None)
    return 1.0 if longest is None else born[longest] / total[longest]


def _phase(layers: Layers, run: int) -> str:
    return next(place.phase for place in layers.places.values() if place.run == run)


def alive_at(step: Program, until: int) -> dict[int, Any]:
    """Storage -> bytes of what is alive after an event."""
    alive: dict[int, Any] = {}
    for event in step.events[: until + 1]:
        if isinstance(event, Alloc):
            alive[event.key] = event.nbytes
        elif isinstance(event, Free):
            del alive[event.key]
    return alive
