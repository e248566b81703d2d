"""The layouts of a model as a picture: tokens a second against the memory of the fullest rank."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from memmodel.base.units import bytes_text, number_text
from memmodel.models.fit import FitReport, TriedLayout
from memmodel.pictures.picture import SERIES, SHAPES, Axis, Entry, Line, Look, Mark, Picture, memory_axis
from memmodel.step import room_bytes

_LETTERS = "ABCDEFGHIJ"  # of the fastest that fit
_BEYOND = 1.6  # layouts that need more than this part of the GPU's memory are left out


def layouts_picture(shown: FitReport) -> Picture:
    """One mark a layout: its tone is the ranks of tensor parallelism, its shape the stages."""
    room = room_bytes(shown.gpu) or 0
    others = [one for one in shown.others if one.peak_bytes <= _BEYOND * room]
    layouts = [*shown.fitting, *others]
    top = 1.12 * max([one.tokens_per_second / shown.gpus for one in layouts], default=1.0)
    x = replace(
        memory_axis(1.05 * max([room, *(one.peak_bytes for one in layouts)])), label="memory of the fullest rank"
    )
    limit = Look("|", "limit", "dashed")
    looks = _looks(layouts)
    return Picture(
        f"{shown.gpu.name}: {shown.case.arch.name} on {shown.gpus:,} GPUs",
        f"{shown.case.describe()}; {shown.sequences:,} sequences a step",
        x,
        _rates(top),
        aspect=0.6,
        lines=(Line(limit, ((room, 0), (room, top))),),
        marks=tuple(
            Mark(look, one.peak_bytes, one.tokens_per_second / shown.gpus)
            for one, look in zip(layouts, looks, strict=True)
        ),
        columns=("layout", "memory", "tokens/s of a GPU", "mostly"),
        legend=tuple(_entries(shown, layouts, looks)),
        notes=(
            Entry(limit, (f"room for the allocator, {bytes_text(room)}; hollow: does not fit",)),
            Entry(Look(), ("colours by tp, shapes by pp",)),
        ),
    )


def _rates(top: float) -> Axis:
    power = 10 ** (len(str(int(top / 4))) - 1)
    step = next(factor * power for factor in (1, 2, 5, 10) if top / (factor * power) <= 6)
    ticks = tuple((float(i * step), f"{i * step:,}") for i in range(int(top / step) + 1))
    return Axis("tokens a second, of a GPU", 0, top, False, ticks)


def _looks(layouts: Sequence[TriedLayout]) -> list[Look]:
    tensor, stages = (sorted({getattr(one.case.layout, name) for one in layouts}) for name in ("tp", "pp"))
    found = []
    for index, one in enumerate(layouts):
        layout = one.case.layout
        key = _LETTERS[index] if one.fits and index < len(_LETTERS) else ""
        tone = f"{tensor.index(layout.tp) % SERIES + 1}"
        shape = SHAPES[stages.index(layout.pp) % len(SHAPES)]
        found.append(Look(key, tone, shape=shape, fill="full" if one.fits else "hollow"))
    return found


def _entries(shown: FitReport, layouts: Sequence[TriedLayout], looks: Sequence[Look]) -> Iterator[Entry]:
    for one, look in zip(layouts, looks, strict=True):
        if look.key:
            rate = number_text(one.tokens_per_second / shown.gpus)
            recomputed = "" if one.case.checkpoint == "none" else f", recompute {one.case.checkpoint}"
            yield Entry(look, (f"{one.case.layout.words}{recomputed}", bytes_text(one.peak_bytes), rate, one.limits))
