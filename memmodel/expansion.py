"""Layers repeated, not run again: a program of few layers, expanded to many.

The layers of a model repeat with a period, and so do their events: those of a layer differ from those of the one a
period before only in the storages that they name. (The chunks of chunked attention are layers here.) Two recordings, of
few layers and of one period more, show what repeats. Expanding the shorter by one period must give the longer, event by
event; otherwise there is no expansion.

For memory, one recording of two periods is enough: these must take and give back the same, and nothing outside of the
layers may be made of what they hold. Only the work of kernels outside, such as the optimizer's, is then not known.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, groupby, islice
from typing import Any, NamedTuple

from memmodel.events.liveness import State, of_a_step, states, uncounted
from memmodel.events.program import Alloc, Event, Free, Launch, Mark, Program, Wait
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
    """A program, with the layer of each event: by the scopes of its tape, else that of the storage that it names.

    `read_outside`: the layers of which something outside of all layers is made. `actions`: where those of a pipeline
    begin.
    """

    program: Program
    scopes: Sequence[tuple[int, Scope]]
    layers: dict[int, int]
    read_outside: set[int]
    actions: Sequence[int] = ()

    @classmethod
    def of(cls, tape: Tape, program: Program) -> "Recording":
        """The recording of a tape."""
        return cls(program, tape.scopes, tape.layers, tape.read_outside, tape.actions)

    def later(self, program: Program, events: int) -> "Recording":
        """The recording of a program whose step is the same, behind so many events more."""
        scopes = [(start + events, scope) for start, scope in self.scopes]
        return self._replace(program=program, scopes=scopes, actions=[start + events for start in self.actions])

    def blocks(self) -> "Iterator[Block]":
        """Neighbouring events of one layer."""
        tagged = zip(self.layer_of_each(), self.program.events, strict=True)
        for layer, pairs in groupby(tagged, key=lambda pair: pair[0]):
            yield Block(layer, [event for _, event in pairs])

    def layer_of_each(self) -> Iterator[int | None]:
        """The layer of each event; None outside of the layers."""
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


class Expansion:
    """A recording with one of its periods repeated `times` times more.

    Copy 0 of the period is the one recorded; a storage of copy c has the key of copy 0's plus c * `stride`.
    """

    def __init__(self, few: Recording, more: Recording | None, repeats: Repetition) -> None:
        """`more` is the recording of one period more; without it, memory alone is expanded.

        Raises Irregular where expanding `few` by one does not give `more`, or where the two periods of a single
        recording differ.
        """
        self.few, self.period = few, repeats.period
        self.first = repeats.before + repeats.margin  # the first layer of the period that is repeated
        self.last = self.first + self.period  # the first layer after it
        self.stride = 1 + max(birth.key for birth in few.program.births())
        blocks = list(few.blocks())
        self.stretches = [
            (place, [event for block in of_place for event in block.events])
            for place, of_place in groupby(blocks, key=lambda block: self._place(block.layer))
        ]
        self.outside = _outside(blocks), _outside(blocks if more is None else more.blocks())
        self.across = {key for block in blocks for key in self._far(block, repeats.margin)}
        self.ordinals: dict[int, int] = {}  # storage of a layer -> how many its layer made before it
        self.places: dict[tuple[int, int], int] = {}
        counts: dict[int, int] = {}
        for key, layer in few.layers.items():
            self.ordinals[key] = counts[layer] = counts.get(layer, -1) + 1
            self.places[layer, counts[layer]] = key
        if more is None:
            self._check_periods(blocks)
        elif _numbered(self.events(1)) != _numbered(more.program.events):
            raise Irregular

    def _check_periods(self, blocks: Iterable[Block]) -> None:
        """Raise Irregular unless the period after the repeated one is like it, and nothing outside is made of them."""
        found: dict[int | None, list[list[tuple[Any, ...]]]] = {}
        for block in blocks:
            found.setdefault(block.layer, []).append(self._requests(block))
        for layer in range(self.first, self.last):
            if found.get(layer) != found.get(layer + self.period):
                raise Irregular
        if any(self.first <= layer < self.last + self.period for layer in self.few.read_outside):
            raise Irregular

    def _far(self, block: Block, margin: int) -> Iterator[int]:
        """The storages that events before the repetition name of layers after it, or the reverse: of those very layers.

        The first chunk ends the sum of gradients that the last but one began, however many are between them.
        """
        if block.layer is None or self._place(block.layer) == "repeated":
            return
        for event in block.events:
            key = getattr(event, "key", 0)
            layer = self.few.layers.get(key)
            if layer is not None and abs(layer - block.layer) > margin and self._place(layer) != "repeated":
                yield key

    def _requests(self, block: Block) -> list[tuple[Any, ...]]:
        """What a layer's events ask of the allocator, in terms that do not depend on the layer."""
        return [
            (
                type(event),
                event.nbytes if isinstance(event, Alloc) else 0,
                self.few.layers[event.key] - (block.layer or 0) if event.key in self.few.layers else None,
                self.ordinals.get(event.key, event.key),
            )
            for event in block.events
            if isinstance(event, Alloc | Free)
        ]

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
            else:
                events += self._copied(recorded, self._copies_at(index, times), times)
        return events

    def _copies_at(self, index: int, times: int) -> Sequence[int]:
        """The copies that run in a stretch of events, in their order."""
        place = self.stretches[index][0]
        if place == "repeated":
            return _order(self._place_at(index - 1), self._place_at(index + 1), times)
        return [times if place == "last" else 0]

    def moments(self, times: int, scratch: bool) -> list[Dim]:
        """`events.liveness.moments` of the program but for those of copies between others that are like them.

        `scratch`: whether that of reductions is counted too.
        """
        outside = Program(list(_grown_events(*self.outside, times)), {}, {})
        births = chain(self.few.program.births(), outside.births())  # those outside a second time, by their size now
        sizes = {birth.key: birth.nbytes for birth in births if scratch or not birth.goes_in_steps}
        found, live, folded = dict[str, list[Any]](), 0, states(self.few.program, uncounted)
        for index, (place, recorded) in enumerate(self.stretches):
            part = list(islice(folded, len(recorded)))
            if place == "outside":
                for now in part:
                    if type(now.event) is Mark:
                        found[now.phase] = [live]
                    elif now.born and now.born.key in sizes:
                        live += sizes[now.born.key]
                        found[now.phase].append(live)
                    elif now.died:
                        live -= sizes.get(now.died.key, 0)
                continue
            for copy, alike in self._alike(part, self._copies_at(index, times), times):
                changes = list(accumulate(self._changes(part, copy, times, sizes)))
                if changes:
                    for start in (live, live + changes[-1] * (alike - 1))[:alike]:
                        found[part[0].phase] += [start + change for change in changes]
                    live += changes[-1] * alike
        return of_a_step(found)

    def _alike(self, part: list[State], copies: Sequence[int], times: int) -> Iterator[tuple[int, int]]:
        """(copy, how many in a row change live bytes as it does): only those near both ends name other layers."""
        near = max((abs(self._periods(now.died.key)) for now in part if now.died), default=0)
        last = len(copies) - near
        yield from ((copy, 1) for copy in copies[:near])
        if last > near:
            yield copies[near], last - near
        yield from ((copy, 1) for copy in copies[max(last, near) :])

    def _changes(self, part: list[State], copy: int, times: int, sizes: Mapping[int, Dim]) -> Iterator[Dim]:
        """The changes of live bytes by a copy, of storages whose sizes are given."""
        for now in part:
            if now.born:
                key, sign = now.born.key, 1
            elif now.died:
                key, sign = self._recorded(now.died.key, copy, times), -1
            else:
                continue
            if key in sizes:
                yield sign * sizes[key]

    def _place(self, layer: int | None) -> str:
        if layer is None:
            return "outside"
        return "first" if layer < self.first else "repeated" if layer < self.last else "last"

    def _place_at(self, index: int) -> str:
        """The place of a stretch of events; "" where there is none."""
        return self.stretches[index][0] if 0 <= index < len(self.stretches) else ""

    def _copied(self, events: list[Event], copies: Iterable[int], times: int) -> list[Event]:
        """The events of each copy, with its storages in place of those recorded."""
        parts = [(event, type(event), None if isinstance(event, _WITHOUT_STORAGE) else event.key) for event in events]
        storages = {key for *_, key in parts if key is not None}
        near = max((abs(self._periods(key)) for key in storages), default=0)
        # Copies that are not near the ends name storages that are as many strides apart as they are.
        steps = {key: self.stride if key in self.few.layers else 0 for key in storages}
        far, keys, last = range(near, times - near + 1), dict[int, int](), -1
        found: list[Event] = []
        for copy in copies:
            if copy in far and last in far:
                keys = {key: keys[key] + (copy - last) * step for key, step in steps.items()}
            else:
                keys = {key: self._key(key, copy, times) for key in storages}
            last = copy
            found += [event if key is None else _make(kind, (keys[key], *event[1:])) for event, kind, key in parts]
        return found

    def _of_copies(self, key: int, copies: Sequence[int], times: int) -> list[int]:
        """`_key` of several copies: those not near the ends name storages as many strides apart as they are."""
        near, step = abs(self._periods(key)), self.stride if key in self.few.layers else 0
        far = range(near, times - near + 1)
        one = next((copy for copy in copies if copy in far), None)
        start = 0 if one is None else self._key(key, one, times) - one * step
        return [start + copy * step if copy in far else self._key(key, copy, times) for copy in copies]

    def _key(self, key: int, copy: int, times: int) -> int:
        """The storage that is to a copy what `key` is to the period recorded: as many layers before or after it."""
        if key not in self.few.layers or key in self.across:
            return key
        number = copy + self._periods(key)
        return self._recorded(key, copy, times) + (number * self.stride if 0 <= number <= times else 0)

    def _periods(self, key: int) -> int:
        """How many periods after the one recorded the layer of a storage is."""
        return (self.few.layers.get(key, self.first) - self.first) // self.period

    def _recorded(self, key: int, copy: int, times: int) -> int:
        """The recorded storage of which `_key` is the copy, or which it is."""
        if key not in self.few.layers or key in self.across:
            return key
        periods = self._periods(key)
        number = copy + periods
        # Before the first copy and after the last one the neighbour is a layer that is not repeated.
        moved = copy if number < 0 else copy - times if number > times else -periods
        return self._at(self.few.layers[key] + moved * self.period, key) if moved else key

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
        found: dict[int, int] = {}
        for key, of in gradients.items():
            place = self._place(self.few.layers.get(key, self.few.layers.get(of)))
            copies = range(times + 1) if place == "repeated" else (times if place == "last" else 0,)
            found.update(zip(*(self._of_copies(each, copies, times) for each in (key, of)), strict=True))
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
