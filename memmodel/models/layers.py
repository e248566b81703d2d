"""Layers repeated, not run again: a program of few layers, expanded to many.

The layers of a model repeat with a period, and so do their events: those of a layer differ from those of the one a
period before only in the storages that they name. Two recordings, of few layers and of one period more, show what
repeats. Expanding the shorter by one period must give the longer, event by event; otherwise there is no expansion.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple

from memmodel.dims import Dim
from memmodel.program import Alloc, Event, Launch, Mark, Program, Wait
from memmodel.recording import Scope, Tape
from memmodel.work import Work

_LONGEST = 12  # layers of a period


class Repetition(NamedTuple):
    """The layers of a model: so many before the repetition, then periods of so many layers each.

    `margin`: how many layers on each side of a period can have to do with it.
    """

    before: int
    period: int
    margin: int = 1

    def fewest(self, layers: int) -> int:
        """The fewest layers that show all there is: a margin, a period to repeat, and a margin or more that remain."""
        rest = (layers - self.before - self.margin) % self.period
        while rest < self.margin:
            rest += self.period
        return self.before + self.margin + self.period + rest


def repetition(kinds: Sequence[Any]) -> Repetition:
    """The repetition of a model's kinds of layers, with as few as possible before it."""
    for before in range(len(kinds)):
        rest = kinds[before:]
        for period in range(1, min(_LONGEST, len(rest)) + 1):
            if all(kind == rest[i % period] for i, kind in enumerate(rest)):
                return Repetition(before, period)
    return Repetition(0, 1)


class Recording(NamedTuple):
    """A program, with the layer of each event: by the scopes of its tape, else that of the storage that it names."""

    program: Program
    scopes: Sequence[tuple[int, Scope]]
    layers: dict[int, int]

    @classmethod
    def of(cls, tape: Tape, program: Program) -> "Recording":
        """The recording of a tape."""
        return cls(program, tape.scopes, tape.layers)

    def blocks(self) -> "Iterator[Block]":
        """Neighbouring events of one layer."""
        tagged = zip(self._tags(), self.program.events, strict=True)
        for layer, pairs in groupby(tagged, key=lambda pair: pair[0]):
            yield Block(layer, [event for _, event in pairs])

    def _tags(self) -> Iterator[int | None]:
        scopes = iter([*self.scopes, (len(self.program.events), Scope())])
        until, following = next(scopes)
        layer = None
        for index, event in enumerate(self.program.events):
            while index >= until:
                layer = following.layer
                until, following = next(scopes)
            yield self.layers.get(getattr(event, "key", 0)) if layer is None else layer


class Block(NamedTuple):
    """Neighbouring events of one layer; None: outside of the layers."""

    layer: int | None
    events: list[Event]


class Irregular(Exception):  # noqa: N818 (it is no error: such a program is recorded in full)
    """The events of a program do not repeat with its layers."""


def expanded(few: Recording, more: Recording, repeats: Repetition, times: int) -> Program:
    """The program of `times` periods more than `few` has, where `more` has one more.

    Raises Irregular where expanding `few` by one does not give `more`.
    """
    if _numbered(_Expansion(few, more, repeats, 1).program().events) != _numbered(more.program.events):
        raise Irregular
    return _Expansion(few, more, repeats, times).program()


def _numbered(events: Iterable[Event]) -> list[Event]:
    """The events with storages numbered in order of birth."""
    numbers: dict[int, int] = {}
    return [
        event
        if isinstance(event, Launch | Wait | Mark)
        else event._replace(key=numbers.setdefault(event.key, len(numbers)))
        for event in events
    ]


class _Expansion:
    """A recording with one of its periods repeated `times` times more.

    Copy 0 of the period is the one recorded; a storage of copy c has the key of copy 0's plus c * `stride`.
    """

    def __init__(self, few: Recording, more: Recording, repeats: Repetition, times: int) -> None:
        self.few, self.period, self.times = few, repeats.period, times
        self.first = repeats.before + repeats.margin  # the first layer of the period that is repeated
        self.last = self.first + self.period  # the first layer after it
        self.blocks = list(few.blocks())
        self.outside = _outside(self.blocks, list(more.blocks()), times)
        self.stride = 1 + max(birth.key for birth in few.program.births())
        self.ordinals: dict[int, int] = {}  # storage of a layer -> how many its layer made before it
        self.places: dict[tuple[int, int], int] = {}
        counts: dict[int, int] = {}
        for key, layer in few.layers.items():
            self.ordinals[key] = counts[layer] = counts.get(layer, -1) + 1
            self.places[layer, counts[layer]] = key

    def program(self) -> Program:
        """The program with its period repeated."""
        events: list[Event] = []
        stretches = [(place, list(blocks)) for place, blocks in groupby(self.blocks, key=self._place)]
        for index, (place, blocks) in enumerate(stretches):
            recorded = [event for block in blocks for event in block.events]
            if place == "outside":
                events += islice(self.outside, len(recorded))
            elif place == "repeated":
                neighbours = stretches[index - 1][0], stretches[index + 1][0] if index + 1 < len(stretches) else ""
                for copy in self._order(*neighbours):
                    events += self._copied(recorded, copy)
            else:
                events += self._copied(recorded, self._copy(place))
        names, gradients, groups = self.few.program[1:]
        return Program(events, self._renamed(names), self._paired(gradients), self._regrouped(groups))

    def _place(self, block: Block) -> str:
        return self._place_of(block.layer)

    def _place_of(self, layer: int | None) -> str:
        if layer is None:
            return "outside"
        return "first" if layer < self.first else "repeated" if layer < self.last else "last"

    def _copy(self, place: str) -> int:
        return self.times if place == "last" else 0

    def _order(self, before: str, after: str) -> range:
        """The copies in the order in which they run: upwards in forward, downwards in backward."""
        if before == "first" or after == "last":
            return range(self.times + 1)
        if before == "last" or after == "first":
            return range(self.times, -1, -1)
        raise Irregular

    def _copied(self, events: list[Event], copy: int) -> Iterator[Event]:
        """The events with the storages of a copy in place of those recorded."""
        key_of = self._key
        for event in events:
            if isinstance(event, Launch | Wait | Mark):
                yield event
            else:
                make: Callable[..., Event] = type(event)
                yield make(key_of(event.key, copy), *event[1:])

    def _key(self, key: int, copy: int) -> int:
        """The storage that is to a copy what `key` is to the period recorded: as many layers before or after it."""
        layer = self.few.layers.get(key)
        if layer is None:
            return key
        periods = (layer - self.first) // self.period  # from the period recorded
        number = copy + periods
        if number < 0:
            return self._at(layer + copy * self.period, key)
        if number > self.times:
            return self._at(layer + (copy - self.times) * self.period, key)
        return self._at(layer - periods * self.period, key) + number * self.stride

    def _at(self, layer: int, key: int) -> int:
        """The storage that is to its layer what `key` is to its own."""
        found = self.places.get((layer, self.ordinals[key]))
        if found is None:
            raise Irregular
        return found

    def _copies(self, key: int) -> Iterable[int]:
        """The copies in which a storage exists."""
        place = self._place_of(self.few.layers.get(key))
        return range(self.times + 1) if place == "repeated" else (self._copy(place),)

    def _renamed(self, names: Mapping[int, str]) -> dict[int, str]:
        found = {}
        for key, name in names.items():
            layer = self.few.layers.get(key)
            for copy in self._copies(key):
                number = 0 if layer is None else layer + copy * self.period
                found[self._key(key, copy)] = name.replace(f"layers.{layer}.", f"layers.{number}.", 1)
        return found

    def _regrouped(self, groups: Mapping[int, str]) -> dict[int, str]:
        return {self._key(key, copy): group for key, group in groups.items() for copy in self._copies(key)}

    def _paired(self, gradients: Mapping[int, int]) -> dict[int, int]:
        found = {}
        for key, of in gradients.items():
            for copy in self._copies(key if key in self.few.layers else of):
                found[self._key(key, copy)] = self._key(of, copy)
        return found


def _outside(few: Sequence[Block], more: Sequence[Block], times: int) -> Iterator[Event]:
    """The events outside of the layers.

    What depends on the number of layers, such as the work of an operator on all parameters, grows by as much with every
    period.
    """
    ours, theirs = ([e for block in blocks if block.layer is None for e in block.events] for blocks in (few, more))
    if len(ours) != len(theirs):
        raise Irregular
    for one, next_one in zip(ours, theirs, strict=True):
        if isinstance(one, Launch) and isinstance(next_one, Launch):
            work, least = (
                Work(*(_grown(*pair, times) for pair in zip(*both, strict=True)))
                for both in ((one.work, next_one.work), (one.least, next_one.least))
            )
            sizes = tuple(_grown(*pair, times) for pair in zip(one.sizes, next_one.sizes, strict=True))
            yield one._replace(work=work, needed=one.needed and least, sizes=sizes)
        elif isinstance(one, Alloc) and isinstance(next_one, Alloc):
            shape = tuple(_grown(*pair, times) for pair in zip(one.shape, next_one.shape, strict=True))
            yield one._replace(nbytes=_grown(one.nbytes, next_one.nbytes, times), shape=shape)
        else:
            yield one


def _grown(one: Dim, next_one: Dim, times: int) -> Dim:
    return one if one == next_one else one + (next_one - one) * times  # the letter of a size stays
