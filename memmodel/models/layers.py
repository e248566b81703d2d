"""Layers repeated, not run again: a program of few layers, expanded to many.

The layers of a model repeat with a period, and so do their events: those of a layer differ from those of the one a
period before only in the storages that they name. Two recordings, of few layers and of one period more, show what
repeats. Expanding the shorter by one period must give the longer, event by event; otherwise there is no expansion.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple

from memmodel.events.program import Alloc, Event, Launch, Mark, Program, Wait
from memmodel.events.work import Work
from memmodel.recording import Scope, Tape
from memmodel.sizes.dims import Dim

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
    expansion = _Expansion(few, more, repeats)
    if _numbered(expansion.events(1)) != _numbered(more.program.events):
        raise Irregular
    return expansion.program(times)


_WITHOUT_STORAGE = (Launch, Wait, Mark)
_make: Callable[[type[Event], tuple[Any, ...]], Event] = tuple.__new__  # `_replace` takes four times as long


def _numbered(events: Iterable[Event]) -> list[Event]:
    """The events with storages numbered in order of birth."""
    numbers: dict[int, int] = {}
    return [
        event
        if isinstance(event, _WITHOUT_STORAGE)
        else _make(type(event), (numbers.setdefault(event.key, len(numbers)), *event[1:]))
        for event in events
    ]


class _Expansion:
    """A recording with one of its periods repeated `times` times more.

    Copy 0 of the period is the one recorded; a storage of copy c has the key of copy 0's plus c * `stride`.
    """

    def __init__(self, few: Recording, more: Recording, repeats: Repetition) -> None:
        self.few, self.period = few, repeats.period
        self.first = repeats.before + repeats.margin  # the first layer of the period that is repeated
        self.last = self.first + self.period  # the first layer after it
        self.stride = 1 + max(birth.key for birth in few.program.births())
        blocks = list(few.blocks())
        self.stretches = [
            (place, [event for block in of_place for event in block.events])
            for place, of_place in groupby(blocks, key=lambda block: self._place(block.layer))
        ]
        self.outside = _outside(blocks), _outside(more.blocks())
        self.ordinals: dict[int, int] = {}  # storage of a layer -> how many its layer made before it
        self.places: dict[tuple[int, int], int] = {}
        counts: dict[int, int] = {}
        for key, layer in few.layers.items():
            self.ordinals[key] = counts[layer] = counts.get(layer, -1) + 1
            self.places[layer, counts[layer]] = key

    def program(self, times: int) -> Program:
        """The program with its period repeated."""
        names, gradients, groups = self.few.program[1:]
        return Program(
            self.events(times),
            self._renamed(names, times),
            self._paired(gradients, times),
            {copied: group for key, group in groups.items() for copied in self._copies(key, times)},
        )

    def events(self, times: int) -> list[Event]:
        """Its events."""
        events: list[Event] = []
        outside = _grown_events(*self.outside, times)
        for index, (place, recorded) in enumerate(self.stretches):
            if place == "outside":
                events += islice(outside, len(recorded))
            elif place == "repeated":
                before, after = (self._place_at(index + step) for step in (-1, 1))
                events += self._copied(recorded, _order(before, after, times), times)
            else:
                events += self._copied(recorded, [times if place == "last" else 0], times)
        return events

    def _place(self, layer: int | None) -> str:
        if layer is None:
            return "outside"
        return "first" if layer < self.first else "repeated" if layer < self.last else "last"

    def _place_at(self, index: int) -> str:
        """The place of a stretch of events; "" where there is none."""
        return self.stretches[index][0] if 0 <= index < len(self.stretches) else ""

    def _copied(self, events: list[Event], copies: Iterable[int], times: int) -> Iterator[Event]:
        """The events of each copy, with its storages in place of those recorded."""
        parts = [(event, None if isinstance(event, _WITHOUT_STORAGE) else event.key, event[1:]) for event in events]
        storages = {key for _, key, _ in parts if key is not None}
        for copy in copies:
            keys = {key: self._key(key, copy, times) for key in storages}
            for event, key, rest in parts:
                yield event if key is None else _make(type(event), (keys[key], *rest))

    def _key(self, key: int, copy: int, times: int) -> int:
        """The storage that is to a copy what `key` is to the period recorded: as many layers before or after it."""
        layer = self.few.layers.get(key)
        if layer is None:
            return key
        periods = (layer - self.first) // self.period  # from the period recorded
        number = copy + periods
        # Before the first copy and after the last one the neighbour is a layer that is not repeated.
        if number < 0:
            return self._at(layer + copy * self.period, key)
        if number > times:
            return self._at(layer + (copy - times) * self.period, key)
        return (self._at(layer - periods * self.period, key) if periods else key) + number * self.stride

    def _at(self, layer: int, key: int) -> int:
        """The storage that is to its layer what `key` is to its own."""
        found = self.places.get((layer, self.ordinals[key]))
        if found is None:
            raise Irregular
        return found

    def _copies(self, key: int, times: int) -> Sequence[int]:
        """The storages that are copies of one, in order."""
        if self._place(self.few.layers.get(key)) != "repeated":
            return (key,)
        return range(key, key + times * self.stride + 1, self.stride)

    def _renamed(self, names: Mapping[int, str], times: int) -> dict[int, str]:
        found = {}
        for key, name in names.items():
            layer = self.few.layers.get(key)
            added = times * self.period if self._place(layer) == "last" else 0
            for number, copied in enumerate(self._copies(key, times)):
                later = (layer or 0) + number * self.period + added
                found[copied] = name.replace(f"layers.{layer}.", f"layers.{later}.", 1)
        return found

    def _paired(self, gradients: Mapping[int, int], times: int) -> dict[int, int]:
        """Which gradients are of which storages, where those of a repeated layer are of that layer or the next."""
        found = {}
        for key, of in gradients.items():
            place = self._place(self.few.layers.get(key, self.few.layers.get(of)))
            for copy in range(times + 1) if place == "repeated" else (times if place == "last" else 0,):
                found[self._key(key, copy, times)] = self._key(of, copy, times)
        return found


def _order(before: str, after: str, times: int) -> range:
    """The copies in the order in which they run between two places: upwards in forward, downwards in backward."""
    if before == "first" or after == "last":
        return range(times + 1)
    if before == "last" or after == "first":
        return range(times, -1, -1)
    raise Irregular


def _outside(blocks: Iterable[Block]) -> list[Event]:
    """The events outside of the layers."""
    return [event for block in blocks if block.layer is None for event in block.events]


def _grown_events(few: Sequence[Event], more: Sequence[Event], times: int) -> Iterator[Event]:
    """The events outside of the layers, of `times` periods more than `few` has, where `more` has one more.

    What depends on the number of layers, such as the work of an operator on all parameters, grows by as much with every
    period.
    """
    if len(few) != len(more):
        raise Irregular
    for one, next_one in zip(few, more, strict=True):
        if one == next_one:
            yield one
        elif isinstance(one, Launch) and isinstance(next_one, Launch):
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
