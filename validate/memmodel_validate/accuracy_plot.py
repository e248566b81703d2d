"""Predicted against measured, as points: every number that `memmodel accuracy` judges, from the rows that it judges."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from memmodel.base.units import bytes_text, seconds_text
from memmodel.pictures.picture import SERIES, SHAPES, Axis, Entry, Line, Look, Mark, Picture, log_axis, split
from memmodel_validate.comparison import Comparison

_LEAST = 512  # bytes: the allocator's smallest block
_QUANTITIES = 5  # in one picture: more would hide each other
_EQUAL, _NEAR = Look("/", dash="solid", width=0.8), Look(".", dash="dotted", width=0.8)


def plotted(judged: Iterable[Comparison]) -> Iterator[Comparison]:
    """Bytes and seconds; counts of events, lengths of sequences and memory below one block are left out."""
    return (one for one in judged if one.unit == "s" or (one.unit == "B" and one.measured >= _LEAST))


def accuracy_pictures(judged: Iterable[Comparison]) -> list[Picture]:
    """Memory, then times: both axes alike, equality as a line, a look for each quantity, few in a picture."""
    found = list(plotted(judged))
    units = [[one for one in found if one.unit == unit] for unit in ("B", "s")]
    return [picture for of_unit in units if of_unit for picture in _pictures(of_unit)]


def _pictures(found: Sequence[Comparison]) -> Iterator[Picture]:
    memory = found[0].unit == "B"
    values = [value for one in found for value in (one.measured, one.predicted) if value > 0]
    low, high = min(values) / 2, max(values) * 2
    text, base = (bytes_text, 4) if memory else (seconds_text, 10)
    axis = log_axis("measured", low, high, lambda value: text(value).replace(".00", ""), base)
    quantities: dict[str, list[Comparison]] = {}
    for one in found:
        quantities.setdefault(one.quantity, []).append(one)
    for part in split(list(quantities.items()), _QUANTITIES):
        yield _picture(dict(part), memory, axis)


def _picture(quantities: dict[str, list[Comparison]], memory: bool, axis: Axis) -> Picture:
    """The larger quantities are drawn first, so that they do not cover the smaller."""
    low, high = axis.low, axis.high
    looks = {name: Look(tone=str(i % SERIES + 1), shape=SHAPES[i % len(SHAPES)]) for i, name in enumerate(quantities)}
    within = () if memory else (0.9, 1.1)
    largest_first = sorted(quantities.items(), key=lambda named: -len(named[1]))
    return Picture(
        f"{'memory' if memory else 'time'}: predicted against measured",
        f"{sum(map(len, quantities.values()))} numbers",
        axis,
        replace(axis, label="predicted"),
        aspect=0.7,
        lines=(
            Line(_EQUAL, ((low, low), (high, high))),
            *(Line(_NEAR, ((low, low * factor), (high, high * factor))) for factor in within),
        ),
        marks=tuple(Mark(looks[name], one.measured, one.predicted) for name, ones in largest_first for one in ones),
        columns=("quantity", "numbers"),
        legend=tuple(Entry(look, (name, f"{len(quantities[name])}")) for name, look in looks.items()),
        notes=(Entry(_EQUAL, ("equal",)), *((Entry(_NEAR, ("within 10 %",)),) if within else ())),
    )
