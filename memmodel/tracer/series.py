"""Where a run with one layer more differs from one with fewer: stretches that repeat what is before them."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from memmodel.events.origin import wildcard
from memmodel.events.program import Alloc, Launch
from memmodel.events.work import Work
from memmodel.tracer.watch.alike import Unlike
from memmodel.tracer.watch.run import Traced

_SEEN = 400  # events that are compared behind a stretch to tell whether it is one


class Series(NamedTuple):
    """A series of rounds: the round that is repeated ends before `end`, and has `period` events."""

    end: int
    period: int

    @property
    def start(self) -> int:
        """The place of the round's first event."""
        return self.end - self.period


class Signs(NamedTuple):
    """A number for each event, the same for events that are alike in all rounds; `loose`: whatever their amounts."""

    full: list[int]
    loose: list[int]


def signs_of(found: Traced, known: dict[Hashable, int]) -> Signs:
    """The signs of a run's events. `known`: sign -> its number, which gets the new ones."""

    def number(sign: Hashable) -> int:
        return known.setdefault(sign, len(known))

    signs = Signs([], [])
    births: dict[int, tuple[int, int]] = {}
    names = found.program.names
    for event in found.program.events:
        amounts: tuple[Hashable, ...] = ()
        if isinstance(event, Alloc):
            of = found.forward_of.get(event.key)
            sign: Hashable = wildcard(names.get(event.key, "")), event._replace(key=0, nbytes=0, shape=()), of
            amounts = event.nbytes, event.shape
        elif isinstance(event, Launch):
            sign = event._replace(work=Work(), sizes=(), needed=None)
            amounts = event.work, event.sizes, event.needed
        else:
            # A storage is known by the sign of its birth: its number is another in each round.
            key = getattr(event, "key", -1)
            born = births.get(key, (-1, -1))
            sign = type(event).__name__, *(x for x in event if x != key), born[1]
            amounts = born[:1]
        loose = number(sign)
        signs.full.append(number((loose, amounts)))
        signs.loose.append(loose)
        if isinstance(event, Alloc):
            births[event.key] = signs.full[-1], loose
    return signs


def aligned(a: Signs, b: Signs, earlier: int) -> tuple[list[Series], dict[int, int]]:
    """The repeated rounds of b, the longer, and for each other event of it the one of a.

    `earlier`: by how many rounds, at most, the repeated one is before the last that can be.
    """
    series: list[Series] = []
    of: dict[int, int] = {}
    i = j = 0
    while i < len(a.full) or j < len(b.full):
        if i < len(a.full) and j < len(b.full) and a.full[i] == b.full[j]:
            of[j] = i
            i, j = i + 1, j + 1
            continue
        period = _period(a, b, i, j)
        if period:
            # One event would be of two series.
            if series and j - period < series[-1].end:
                raise Unlike
            alike = _rounds_before(b.full, j, period, since=series[-1].end if series else 0)
            end = j - period * min(earlier, max(alike - 2, 0))
            series.append(Series(end, period))
            # The round before counts as the one that is added, so that this one is the shorter run's last.
            of.update((place, place - j + i - period) for place in range(end, j + period))
            for place in range(end - period, end):
                del of[place]
            j += period
        elif i < len(a.full) and j < len(b.full) and a.loose[i] == b.loose[j]:
            of[j] = i
            i, j = i + 1, j + 1
        else:
            raise Unlike
    return series, of


def _period(a: Signs, b: Signs, i: int, j: int) -> int:
    """The length of a round that b has at j and a not at i, which follows one like it; 0 for none.

    What comes behind it may have other amounts.
    """
    best = 0, 0
    signs, left, behind = b.full, len(a.full) - i, len(b.full) - j
    for period in range(1, min(j // 2, behind - left) + 1):
        goes_on = left == 0 if period == behind else left and a.loose[i] == b.loose[j + period]
        if goes_on and signs[j - period : j] == signs[j : j + period] == signs[j - 2 * period : j - period]:
            # Of several lengths the one behind which the runs agree longest, else the shortest.
            best = max(best, (_common(a.loose, b.loose, i, j + period) + (period == behind), -period))
    return -best[1]


def _rounds_before(signs: Sequence[int], j: int, period: int, since: int) -> int:
    """How many rounds before the one at j are like it."""
    alike = 0
    while (start := j - (alike + 1) * period) >= since and signs[start : start + period] == signs[j : j + period]:
        alike += 1
    return alike


def reach(signs: Sequence[int], series: Series) -> range:
    """The places of a series of rounds: of all events that are like those a round earlier or later."""
    first, last, period = series.start, series.end, series.period
    while first and signs[first - 1] == signs[first - 1 + period]:
        first -= 1
    while last < len(signs) and signs[last] == signs[last - period]:
        last += 1
    return range(first, last)


def _common(a: Sequence[int], b: Sequence[int], i: int, j: int) -> int:
    return next((k for k, (x, y) in enumerate(zip(a[i : i + _SEEN], b[j : j + _SEEN], strict=False)) if x != y), _SEEN)
