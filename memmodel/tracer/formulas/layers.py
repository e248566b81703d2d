"""Repeated layers: live bytes and work of a step as L a + b, with L the number of layers.

The number of layers traced is read off the parameters' names (`blocks.0.mlp.weight`, `blocks.1.mlp.weight`, ...). In a
plain loop over tensors that the code holds, it is the number of such tensors.

A run is a series of allocations that repeats once per layer: each round is made by the same instructions, has the same
bytes, and works with its own layer's parameters. At any moment a run's rounds are alive from the first to some layer,
or from some layer to the last, so the bytes alive are a multiple of L plus a constant. The form regroups the sum that
was traced; the one assumption is that a model with more layers repeats in the same way.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import sympy
from sympy import Expr, Integer, Symbol

from memmodel.events.liveness import states, uncounted
from memmodel.events.origin import LAYER_NUMBER, wildcard
from memmodel.events.program import Alloc, Launch, Mark, Program, Site
from memmodel.events.work import Work
from memmodel.sizes.polynomials import terms
from memmodel.tracer.formulas.repeats import own_runs, runs
from memmodel.tracer.watch.owners import Owners
from memmodel.tracer.watch.run import Traced

_LayerOf = dict[int | None, int]  # parameter -> layer
FEW = 4  # layers: with fewer, all but one can be read as one or two
_LETTERS = ("L", "L_layers", "layers")


class Place(NamedTuple):
    """The position of a storage that comes once per layer.

    Attributes:
        run: number of the run. part: position within a round. round: which round.
        phase, rounds: of the run: the phase that allocates it, and its number of rounds.
    """

    run: int
    part: int
    round: int
    phase: str
    rounds: int


@dataclass(frozen=True, slots=True)
class Layers:
    """The repetition of a step.

    Attributes:
        symbol: the letter. count: how many layers were traced. what: what they are called.
        places: of storages that come once per layer.
        each, rest: the work of one layer's kernels, and of those that do not repeat.
    """

    symbol: Symbol
    count: int
    what: str
    places: dict[int, Place]
    each: Work
    rest: Work

    @property
    def more(self) -> tuple[int, ...]:
        """Larger numbers of layers, at which forms are compared."""
        return self.count + 1, 2 * self.count, 8 * self.count

    def counts(self, form: Any) -> bool:
        """Whether a form says how its bytes go with the number of layers."""
        return bool(form.has(self.symbol))

    def alive(self, sizes: Mapping[int, Any], again: Iterable[int], phase: str, progress: float) -> Expr | None:
        """The bytes of these storages, regrouped: L times what each layer has, plus the rest.

        None where there are so few layers that it depends on the end from which rounds are counted.

        sizes: storage -> bytes. again: the storages at the last moment of the phase with the same bytes: where other
        rounds are alive then, their number goes along with the layers, and is not theirs. phase, progress: when; how
        much of the phase's layers is done, between 0 and 1.
        """
        found = self._amount(sizes, again, phase, progress)
        if self.count < 3 or (
            self.count < FEW and any(self._amount(sizes, again, phase, end) != found for end in (0.0, 1.0))
        ):
            return None
        return self.total(*found)

    def at(self, count: int, sizes: Mapping[int, int], again: Iterable[int], phase: str, progress: float) -> int:
        """The bytes of these storages, in numbers, in a model of so many layers."""
        each, rest = self._amount(sizes, again, phase, progress)
        return int(count * each + rest)

    def _amount(self, sizes: Mapping[int, Any], again: Iterable[int], phase: str, progress: float) -> tuple[Any, Any]:
        """The storages of each layer, and the rest."""
        rounds, later = self._rounds(sizes), self._rounds(again)
        nbytes = {self._part(key): size for key, size in sizes.items()}
        each: Any = Integer(0)
        rest: Any = sum((size for key, size in sizes.items() if key not in self.places), start=Integer(0))
        for part, alive in rounds.items():
            # Backward goes through what forward made from the last layer on: early in it, the end is near.
            late = (progress > 0.5) == (part[2] == phase)
            times, more = self._counted(alive, part[3], late) if later.get(part) == alive else (0, len(alive))
            each += times * nbytes[part]
            rest += more * nbytes[part]
        return each, rest

    def _part(self, key: int) -> tuple[int, int, str, int] | None:
        place = self.places.get(key)
        return place and (place.run, place.part, place.phase, place.rounds)

    def _rounds(self, keys: Iterable[int]) -> dict[Any, list[int]]:
        """Which rounds of each part of a run are among these storages."""
        found: dict[Any, list[int]] = defaultdict(list)
        for key in keys:
            if key in self.places:
                found[self._part(key)].append(self.places[key].round)
        return {part: sorted(rounds) for part, rounds in found.items()}

    def _counted(self, alive: Sequence[int], rounds: int, late: bool) -> tuple[int, int]:
        """(a, b): there are a·L + b rounds alive. `late`: whether a bound in the middle counts from the end."""
        first, end = alive[0], alive[-1] + 1
        size = end - first
        inside = first > 0 and end < rounds and 2 * size <= rounds  # it moves along with the moment
        if size != len(alive) or inside:
            return 0, len(alive)
        last, start = self._bound(end, rounds, late), self._bound(first, rounds, late)
        return last[0] - start[0], last[1] - start[1]

    def _bound(self, bound: int, rounds: int, late: bool) -> tuple[int, int]:
        """A bound between rounds, counted from the end that is nearer; in the middle, from that of the moment."""
        beyond = rounds - bound
        middle = 0 < bound < rounds and abs(beyond - bound) <= 1
        return (1, bound - self.count) if (late if middle else beyond < bound) else (0, bound)

    def total(self, each: Any, rest: Any) -> Expr:
        """L·(each) + (rest), each factored."""
        each, rest = sympy.factor(each), sympy.factor(rest)
        if rest == 0 or each == 0:
            return sympy.Mul(self.symbol, each) + rest
        return sympy.Add(sympy.Mul(self.symbol, each, evaluate=each.is_Mul or each.is_Atom), rest)

    def work(self, amount: Callable[[Work], Any]) -> Expr:
        """An amount of the last step's work, regrouped."""
        return self.total(amount(self.each), amount(self.rest))


def layers_of(program: Program, run: Traced, letters: Iterable[str]) -> Layers | None:
    """The repetition in a program's last step; None where there is none. `run`: where the program comes from."""
    sections = _sections(program)
    layer, what = _layer_of(program, sections)
    count = max(layer.values(), default=0) + 1
    if count < 2:
        return None
    last = max(i for i, section in enumerate(sections) if section.phase == "forward")
    own = {key: key for key in layer if key is not None}
    owner = run.owners.of | own
    places: dict[int, Place] = {}
    each, rest = Work(), Work()
    for i, section in enumerate(sections):
        births = [(birth.key, layer.get(owner.get(birth.key))) for birth in section.births]
        signs = [_sign(program, birth, run.forward_of) for birth in section.births]
        for start, period, rounds in own_runs(signs, [of for _, of in births], count):
            # What earlier steps made is there when the last one begins.
            phase, number = section.phase if i >= last else "inputs", len(places)
            for k, (key, _) in enumerate(births[start : start + rounds * period]):
                places[key] = Place(number, k % period, k // period, phase, rounds)
        if i >= last:
            one, other = _work(section, run.owners, layer, count)
            each, rest = each + one, rest + other
    name = next(x for x in _LETTERS if x not in set(letters))
    return Layers(Symbol(name, integer=True, positive=True), count, what, places, each, rest)


def _work(section: "_Section", owners: Owners, layer: Mapping[int | None, int], count: int) -> tuple[Work, Work]:
    """(work of one layer's kernels, of those that do not repeat); kernels on lists element by element."""
    kernels: list[tuple[Hashable, Work, int | None]] = []
    left = Work()
    for number, launch in section.launches:
        parts = owners.parts.get(number, [(launch.work, owners.launches[number])])
        kernels += [(_launched(launch, work), work, layer.get(owner)) for work, owner in parts]
        # What a kernel on lists does beyond its elements.
        left += launch.work + sum((work for work, _ in parts), start=Work()) * -1
    repeated: set[int] = set()
    each = Work()
    for start, period, rounds in own_runs([sign for sign, _, _ in kernels], [of for _, _, of in kernels], count):
        one = sum((work for _, work, _ in kernels[start : start + period]), start=Work())
        # Where all layers but one are alike, L layers of this work are one too many.
        each, left = each + one, left + one * (rounds - count)
        repeated |= {*range(start, start + rounds * period)}
    return each, sum((work for i, (_, work, _) in enumerate(kernels) if i not in repeated), start=left)


class _Section(NamedTuple):
    """From a mark to the next: births, and kernels with their number in the program."""

    phase: str
    births: list[Alloc]
    launches: list[tuple[int, Launch]]


def _sections(program: Program) -> list[_Section]:
    found: list[_Section] = []
    launched = 0
    for now in states(program, uncounted):
        if isinstance(now.event, Mark):
            found.append(_Section(now.phase, [], []))
        elif now.born:
            found[-1].births.append(now.born)
        elif isinstance(now.event, Launch):
            found[-1].launches.append((launched, now.event))
            launched += 1
    return found


def _sign(program: Program, birth: Alloc, forward_of: Mapping[int, Site]) -> Hashable:
    """The properties that are equal in every round: instructions, operator, bytes, and the name up to its number."""
    name = program.names.get(birth.key, "")
    site = birth.site or forward_of.get(birth.key)
    return wildcard(name), site, birth.op, _canonical(birth.nbytes), birth.dtype.name


def _launched(launch: Launch, work: Work) -> Hashable:
    amounts = (work.matmul, work.vector, work.exp, work.read, work.written)
    return launch.name, launch.kind, launch.dtype.name, *map(_canonical, amounts)


def _canonical(expression: Any) -> Hashable:
    """A canonical form, equal for all forms of one polynomial."""
    return expression if isinstance(expression, int) else frozenset(terms(expression).items())


def _layer_of(program: Program, sections: Sequence[_Section]) -> tuple[_LayerOf, str]:
    """(layer of each parameter, what the layers are): alike children of a module, else rounds of a loop."""
    inputs = next((section.births for section in sections if section.phase == "inputs"), [])
    children: dict[str, dict[str, list[Alloc]]] = defaultdict(lambda: defaultdict(list))
    for birth in inputs:
        name = program.names.get(birth.key, "")
        for match in LAYER_NUMBER.finditer(name):
            children[name[: match.start()]][match[0]].append(birth)
    alike = {prefix: _alike(program, found) for prefix, found in children.items()}
    weight = {n: sum(len(x) for f in alike.values() if len(f) == n for x in f) for n in map(len, alike.values())}
    # Of several numbers of children (layers, experts), the one whose children have the most parameters together.
    most = max((n for n in weight if n > 1), key=lambda n: weight[n], default=0)
    if most:
        chosen = {prefix: found for prefix, found in alike.items() if len(found) == most}
        layer: _LayerOf = {
            birth.key: i for found in chosen.values() for i, births in enumerate(found) for birth in births
        }
        return layer, ", ".join(f"{prefix}*" for prefix in chosen)
    return _rounds(program, sections, inputs), "rounds of the loop"


def _alike(program: Program, children: Mapping[str, list[Alloc]]) -> list[list[Alloc]]:
    """The largest group of children that have the same parameters, in order of their numbers."""
    groups: dict[Hashable, list[list[Alloc]]] = defaultdict(list)
    for _, births in sorted(children.items(), key=lambda child: int(child[0])):
        key = tuple((wildcard(program.names[b.key]), _canonical(b.nbytes), b.dtype.name) for b in births)
        groups[key].append(births)
    return max(groups.values(), key=len)


def _rounds(program: Program, sections: Sequence[_Section], inputs: Sequence[Alloc]) -> _LayerOf:
    """Constants that a loop in forward takes one after the other, by its round."""
    forward = next((section.births for section in sections if section.phase == "forward"), [])
    signs = [(birth.site, birth.op, _canonical(birth.nbytes)) for birth in forward]
    held = [birth for birth in inputs if program.names.get(birth.key) == "constant"]
    own = [(_canonical(birth.nbytes), birth.dtype.name) for birth in held]
    # The most rounds that both the constants and what forward allocates repeat.
    for count in range(len(own), 1, -1):
        found = runs(own, count)
        if found and runs(signs, count):
            start, period = found[0]
            return {held[start + i].key: i // period for i in range(count * period)}
    return {}


def progress(step: Program, layers: Layers, until: int) -> float:
    """The part of its phase's longest run that is allocated before an event."""
    phase, born = "", Counter[int]()
    total = Counter(place.run for place in layers.places.values())
    for now in islice(states(step, uncounted), until + 1):
        if isinstance(now.event, Mark):
            phase, born = now.phase, Counter()
        elif now.born and now.born.key in layers.places:
            born[layers.places[now.born.key].run] += 1
    longest = max((run for run in total if _phase(layers, run) == phase), key=lambda r: total[r], default=None)
    return 1.0 if longest is None else born[longest] / total[longest]


def _phase(layers: Layers, run: int) -> str:
    return next(place.phase for place in layers.places.values() if place.run == run)
