"""A run of a model with many layers, from runs with few of them: what one layer more adds is added again.

The events of a run with one layer more are those of the other with stretches put in: each is one round of a series that
repeats once per layer, so it equals the events before it. More layers have the stretch more often. What an event refers
to (the storage that it frees) is a number of rounds from the start of its series or from the end; which of the two, the
two runs tell. Amounts that are sums over all layers grow by as much for each.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from memmodel.events.origin import wildcard
from memmodel.events.program import Alloc, Event, Free, Launch, Program, Release, Save
from memmodel.events.work import Work
from memmodel.tracer.series import Series, Signs, aligned, reach, signs_of
from memmodel.tracer.watch.alike import Unlike
from memmodel.tracer.watch.run import Traced


class Growth:
    """The difference of two runs, of which the second has one layer more.

    Raises Unlike where it is not one round of each series.
    """

    def __init__(self, fewer: Traced, few: Traced) -> None:
        self.fewer, self.few = fewer, few
        self.events = few.program.events
        self.before = fewer.program.events
        # One numbering of signs for both runs.
        known: dict[Hashable, int] = {}
        theirs, ours = signs_of(fewer, known), signs_of(few, known)
        self.births, self._births = _births(self.events), _births(self.before)
        try:
            self._align(theirs, ours, earlier=0)
        except Unlike:  # the last round that can be repeated may refer to one that cannot
            self._align(theirs, ours, earlier=1)

    def _align(self, theirs: Signs, ours: Signs, earlier: int) -> None:
        self.series, self._of = aligned(theirs, ours, earlier)
        self.varying = {
            place: self.before[at] for place, at in self._of.items() if not _alike(self.events[place], self.before[at])
        }
        self._reaches = [reach(ours.full, series) for series in self.series]
        self.references = self._of_events()
        self.gradients = self._of_gradients()
        self.uses = self._of_last_uses()

    def _of_events(self) -> dict[int, "Reference"]:
        """From frees, saves and releases to the birth of their storage."""

        def before(at: int) -> int:
            return self._births[_key(self.before[at])]

        found = {}
        for place, event in enumerate(self.events):
            if isinstance(event, Free | Save | Release):
                found[place] = self._reference(place, self.births[event.key], before)
        return self._of_rounds(found)

    def _of_gradients(self) -> dict[int, "Reference"]:
        """From the births of gradients to those of what they are the gradients of."""
        ours, theirs = self.few.program.gradients, self.fewer.program.gradients

        def before(at: int) -> int:
            return self._births[theirs[_key(self.before[at])]]

        known = ((self.births[key], self.births[of]) for key, of in ours.items() if {key, of} <= self.births.keys())
        return self._of_rounds({place: self._reference(place, to, before) for place, to in known})

    def _of_last_uses(self) -> dict[int, "Reference"]:
        """From births to the events after which their storages are used no more."""

        def before(at: int) -> int:
            return self.fewer.last_use[_key(self.before[at])] - 1

        # A use is counted in events before it: it belongs to the event in front.
        known = ((self.births[key], use - 1) for key, use in self.few.last_use.items() if key in self.births and use)
        return self._of_rounds({place: self._reference(place, to, before) for place, to in known})

    def _reference(self, place: int, to: int, before: Callable[[int], int]) -> "Reference":
        """From an event to another; `before` finds the same from an event of the run with fewer layers."""
        series, round_, part = self.located(to)
        aligned = self._of.get(place)
        if aligned is None:  # in the repeated round itself: as in the round before
            return Reference(series, round_, part, None)
        try:
            there = before(aligned)
        except KeyError as missing:
            raise Unlike from missing
        if series is None:
            if self._of.get(to) != there:
                raise Unlike
            return Reference(None, to, 0, False)
        start = series.start - self._shift_before(series)
        # That run has one round less: what has the same number there counts from the start, one less from the end.
        rounds, other = divmod(there - start, series.period)
        if other != part or rounds not in (round_, round_ - 1):
            raise Unlike
        return Reference(series, round_, part, rounds != round_)

    def _shift_before(self, series: Series) -> int:
        """How many events fewer the other run has before a series' repeated round."""
        return sum(other.period for other in self.series if other.end < series.end)

    def _of_rounds(self, found: dict[int, "Reference"]) -> dict[int, "Reference"]:
        """References from repeated rounds go the way of those from the round before or after."""
        for series in self.series:
            for place in range(series.start, series.end):
                near = [found.get(place - series.period), found.get(place + series.period)]
                here = found.get(place)
                if here is None:
                    if near != [None, None]:
                        raise Unlike
                    continue
                like = next((x for x in near if x is not None and x.is_like(here)), None)
                if like is None:
                    raise Unlike
                before = like is near[0]
                step = here.round - like.round if before else like.round - here.round
                ends = int(bool(like.from_end)) - (0 if before else step)  # the round after comes behind all copies
                if ends not in (0, 1):
                    raise Unlike
                found[place] = here._replace(from_end=bool(ends), step=step)
        return found

    def located(self, place: int) -> tuple[Series | None, int, int]:
        """(series, round from the repeated one, part of the round) of an event near a series."""
        for series, places in zip(self.series, self._reaches, strict=True):
            if place in places:
                return series, *divmod(place - series.start, series.period)
        return None, place, 0

    def name_at(self, place: int) -> str:
        """The name of the storage that is born at a place."""
        return self.few.program.names.get(getattr(self.events[place], "key", -1), "")

    def at(self, more: int) -> tuple[Traced, dict[int, int]]:
        """The run with `more` layers more, and which of the few layers' storages each of its storages is like."""
        grown = Grown(self, more)
        return grown.traced(), {key: _key(self.events[place]) for (place, _), key in grown.keys.items()}


class Reference(NamedTuple):
    """The event that another refers to: part of a round, counted from the first or the last; else a place of its own.

    Attributes:
        series, round, part: round 0 is the repeated one. from_end: whether the last round is the fixed point; None
            where that is not known yet. step: from one round to the next.
    """

    series: Series | None
    round: int
    part: int
    from_end: bool | None
    step: int = 0

    def is_like(self, other: "Reference") -> bool:
        """Whether it refers to the same part of the same series, and is known."""
        same = self.series == other.series and self.part == other.part
        return same and self.from_end is not None and (self.series is not None or self.round == other.round)


class Grown:
    """The events with more rounds, and what is known of their storages."""

    def __init__(self, growth: Growth, more: int) -> None:
        self.growth, self.more = growth, more
        self.order: list[tuple[int, int]] = []  # (place among the few, copy) of each event
        done = 0
        for series in growth.series:
            self.order += [(place, 0) for place in range(done, series.end)]
            self.order += [(p, copy) for copy in range(1, more + 1) for p in range(series.start, series.end)]
            done = series.end
        self.order += [(place, 0) for place in range(done, len(growth.events))]
        self.places = {which: at for at, which in enumerate(self.order)}
        self.keys: dict[tuple[int, int], int] = {}
        last = max(growth.births)
        for place, copy in self.order:
            event = growth.events[place]
            if isinstance(event, Alloc):
                last += copy > 0
                self.keys[place, copy] = last if copy else event.key

    def resolved(self, reference: Reference, copy: int) -> tuple[int, int]:
        """(place among the few, copy) of what an event's copy refers to."""
        series = reference.series
        if series is None:
            return reference.round, 0
        # Rounds up to 0 are those before the copies, then come the copies, then those behind.
        at = reference.round + copy * reference.step + (self.more if reference.from_end else 0)
        if 0 < at <= self.more:
            return series.start + reference.part, at
        return series.start + (at if at <= 0 else at - self.more) * series.period + reference.part, 0

    def traced(self) -> Traced:
        """The run."""
        growth, few = self.growth, self.growth.few
        events = [self._event(place, copy) for place, copy in self.order]
        named = {growth.births[key]: name for key, name in few.program.names.items() if key in growth.births}
        births = [which for which in self.order if which in self.keys]
        program = Program(
            events,
            {self.keys[p, c]: self._name(named[p], p, c) for p, c in births if p in named},
            self._of_births(growth.gradients, births, lambda to: self.keys[to]),
            self._known(few.program.groups, births),
        )
        return few._replace(
            program=program,
            operators=few.operators + self.more * (few.operators - growth.fewer.operators),
            host_peak_bytes=few.host_peak_bytes + self.more * (few.host_peak_bytes - growth.fewer.host_peak_bytes),
            last_use=self._of_births(growth.uses, births, lambda to: self.places[to] + 1),
            forward_of=self._known(few.forward_of, births),
        )

    def _known(self, known: Mapping[int, Any], births: Sequence[tuple[int, int]]) -> dict[int, Any]:
        """A mapping by storage, extended to the copies, which have the value of the storage that they are like."""
        keys = {place: key for key, place in self.growth.births.items() if key in known}
        return {self.keys[p, c]: known[keys[p]] for p, c in births if p in keys}

    def _of_births(
        self, references: Mapping[int, Reference], births: Any, value: Callable[[Any], int]
    ) -> dict[int, int]:
        return {self.keys[p, c]: value(self.resolved(references[p], c)) for p, c in births if p in references}

    def _event(self, place: int, copy: int) -> Event:
        event = self.growth.events[place]
        if isinstance(event, Alloc):
            event = event._replace(key=self.keys[place, copy])
        elif isinstance(event, Free | Save | Release):
            event = event._replace(key=self.keys[self.resolved(self.growth.references[place], copy)])
        fewer = self.growth.varying.get(place)
        return event if fewer is None else _more_of(event, fewer, self.more)

    def _name(self, name: str, place: int, copy: int) -> str:
        """A parameter's name with the number of its layer."""
        series, round_, part = self.growth.located(place)
        if series is None or round_ < 0:
            return name
        like, before = (self.growth.name_at(at + part) for at in (series.start, series.start - series.period))
        if wildcard(like) != wildcard(name):
            return name
        more = copy if round_ == 0 else self.more
        parts, numbers = name.split("."), zip(like.split("."), before.split("."), strict=True)
        # The number in the name that is not the same one round earlier is the layer's.
        grows = next((i for i, (here, there) in enumerate(numbers) if here != there), None)
        if grows is None or not parts[grows].isdigit():
            raise Unlike
        return ".".join([*parts[:grows], str(int(parts[grows]) + more), *parts[grows + 1 :]])


def _alike(event: Any, other: Any) -> bool:
    """Whether two events have the same amounts."""
    if isinstance(event, Alloc):
        return bool(event.nbytes == other.nbytes and event.shape == other.shape)
    return not isinstance(event, Launch) or bool(event == other)


def _more_of(event: Any, fewer: Any, more: int) -> Any:
    """An event whose amounts are sums over layers, with those of more layers."""

    def grown(now: Any, before: Any) -> Any:
        if isinstance(now, Work):
            return Work(*map(grown, now, before))
        if isinstance(now, tuple):
            if len(now) != len(before):
                raise Unlike
            return tuple(map(grown, now, before))
        return now if now is None else now + more * (now - before)

    names = ("nbytes", "shape") if isinstance(event, Alloc) else ("work", "sizes", "needed")
    return event._replace(**{name: grown(getattr(event, name), getattr(fewer, name)) for name in names})


def _key(event: Any) -> int:
    """The storage that an event is about."""
    return int(event.key)


def _births(events: Sequence[Event]) -> dict[int, int]:
    return {event.key: place for place, event in enumerate(events) if isinstance(event, Alloc)}


def in_order(program: Program) -> list[Event]:
    """The events with storages numbered by birth."""
    numbers = {birth.key: number for number, birth in enumerate(program.births())}
    return [
        e._replace(key=numbers[e.key]) if isinstance(e, Alloc | Free | Save | Release) else e for e in program.events
    ]
