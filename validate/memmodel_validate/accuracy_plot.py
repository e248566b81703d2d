"""Predicted against measured, as points: every number that `memmodel accuracy` judges, from the rows that it judges."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from memmodel.base.units import bytes_text, seconds_text
from memmodel.pictures.picture import SERIES, SHAPES, Entry, Line, Look, Mark, Picture, log_axis
from memmodel_validate.comparison import Comparison

_LEAST = 512  # bytes: the allocator's smallest block
_EQUAL, _NEAR = Look("/", dash="solid", width=0.8), Look(".", dash="dotted", width=0.8)


def plotted(judged: Iterable[Comparison]) -> Iterator[Comparison]:
    """Bytes and seconds; counts of events, lengths of sequences and memory below one block are left out."""
    return (one for one in judged if one.unit == "s" or (one.unit == "B" and one.measured >= _LEAST))


def accuracy_pictures(judged: Iterable[Comparison]) -> list[Picture]:
    """Memory, then times: both axes alike, equality as a line, a look for each quantity."""
    found = list(plotted(judged))
    units = [[one for one in found if one.unit == unit] for unit in ("B", "s")]
    return [_picture(of_unit) for of_unit in units if of_unit]


def _picture(found: Sequence[Comparison]) -> Picture:
    memory = found[0].unit == "B"
    values = [value for one in found for value in (one.measured, one.predicted) if value > 0]
    low, high = min(values) / 2, max(values) * 2
    text, base = (bytes_text, 4) if memory else (seconds_text, 10)
    x = log_axis("measured", low, high, lambda value: text(value).replace(".00", ""), base)
    quantities = list(dict.fromkeys(one.quantity for one in found))
    looks = {name: Look(tone=str(i % SERIES + 1), shape=SHAPES[i % len(SHAPES)]) for i, name in enumerate(quantities)}
    within = () if memory else (0.9, 1.1)
    return Picture(
        f"{'memory' if memory else 'time'}: predicted against measured",
        f"{len(found)} numbers",
        x,
        replace(x, label="predicted"),
        aspect=0.7,
        lines=(
            Line(_EQUAL, ((low, low), (high, high))),
            *(Line(_NEAR, ((low, low * factor), (high, high * factor))) for factor in within),
        ),
        marks=tuple(Mark(looks[one.quantity], one.measured, one.predicted) for one in found),
        columns=("quantity", "numbers"),
        legend=tuple(Entry(looks[q], (q, f"{sum(one.quantity == q for one in found)}")) for q in quantities),
        notes=(Entry(_EQUAL, ("equal",)), *((Entry(_NEAR, ("within 10 %",)),) if within else ())),
    )
