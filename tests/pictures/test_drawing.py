"""What is drawn can be read: no text covers a mark or another text, and nothing is drawn twice in one place."""

import math
from collections.abc import Callable
from functools import cache
from itertools import combinations
from typing import Any

import pytest
from picture_cases import cases

from memmodel.cases import cases_of
from memmodel.gpu_comparison import compare
from memmodel.gpus import load_gpu
from memmodel.models.predict import model
from memmodel.pictures.describe import pictures_of
from memmodel.pictures.frontier import frontier, heat_map
from memmodel.pictures.picture import PAPER
from memmodel.pictures.roofline import model_roofline, roofline
from memmodel.pictures.timeline import timeline
from memmodel.predictor import predict

pytest.importorskip("matplotlib")


from memmodel.report.figure import NARROW, WIDE, figure_of
from memmodel.report.style import styled

pytestmark = pytest.mark.slow
ALL = ["naive", "naive-by-hand", "flash", "chunked", "compiled", "checkpointed"]


def _timeline(gpu: str, algorithm: str, **sizes: Any) -> Any:
    (case,), device = cases(gpu, [algorithm], sizes)
    return timeline(case, device)


SHOWN: dict[str, Callable[[], Any]] = {
    "timeline": lambda: _timeline("A100", "naive", seq=16384),
    "timeline of chunks": lambda: _timeline("H100", "chunked", seq=8192),
    "timeline of one kernel": lambda: _timeline("H100", "flash", phase="inference"),
    "roofline": lambda: roofline(predict("A100", seq=16384)),
    "roofline of many kernels": lambda: roofline(predict("H100", ALL, seq=8192)),
    "roofline of one kernel": lambda: roofline(predict("T4", "flash", dtype="fp16", phase="inference")),
    "frontier of six on two": lambda: frontier(cases_of(ALL), [load_gpu("A100"), load_gpu("H100")], sizes=(1, 16)),
    "frontier of one on three": lambda: frontier(
        cases_of(["flash"]), [load_gpu(name) for name in ("A100", "H100", "B200")], sizes=(1, 2, 3)
    ),
    "roofline of a model": lambda: model_roofline(model("smollm2-135m", "H100", seq=512)),
    "times on many GPUs": lambda: compare(("A100", "H100", "B200", "L4", "B100")),
    "heat map": lambda: heat_map(cases_of(["naive"])[0], load_gpu("A100")),
}


def marks_of(ax: Any) -> list[Any]:
    """The boxes of an axes' marks on paper."""
    from matplotlib.transforms import Bbox

    found = []
    for line in ax.lines:
        if line.get_marker() != "None":
            half = line.get_markersize() / 2 * ax.figure.dpi / 72
            places = ax.transData.transform(line.get_xydata())
            found += [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in places]
    return found


@cache
def shown(name: str) -> Any:
    return SHOWN[name]()


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", SHOWN)
def test_texts_cover_neither_marks_nor_each_other_and_marks_are_side_by_side(name: str, width: float) -> None:
    from matplotlib.text import Text

    with styled():
        drawn = figure_of(pictures_of(shown(name)), width, words=width == WIDE)
        drawn.draw_without_rendering()
        texts = [text for text in drawn.findobj(Text) if text.get_visible() and text.get_text().strip()]
        boxes = {id(text): text.get_window_extent().padded(-0.5) for text in texts}
        for one, other in combinations(texts, 2):
            assert not boxes[id(one)].overlaps(boxes[id(other)]), (one.get_text(), other.get_text())
        for text in texts:
            for mark in (mark for ax in drawn.axes for mark in marks_of(ax)):
                assert not boxes[id(text)].overlaps(mark), text.get_text()
            assert boxes[id(text)].x1 <= drawn.bbox.x1, text.get_text()
        for ax in drawn.axes:
            full = [line for line in ax.lines if line.get_zorder() == 5 and line.get_markerfacecolor() != PAPER]
            places = [ax.transData.transform(line.get_xydata())[0] for line in full]
            for one, other in combinations(places, 2):
                assert math.dist(one, other) > 0.9 * full[0].get_markersize() * drawn.dpi / 72


def test_lines_that_coincide_are_one_under_both_names() -> None:
    shown = frontier(cases_of(["naive", "checkpointed", "flash"]), [load_gpu("A100")], sizes=(1, 4))
    walls = {line.title: line.walls for line in shown.lines}
    assert walls["naive attention"] == walls["naive, checkpointed"]
    (picture,) = pictures_of(shown)
    titles = ["naive attention, naive, checkpointed", "FlashAttention-2 in Triton"]
    assert [entry.cells[0] for entry in picture.legend] == titles
    assert len(picture.lines) == 2


def test_a_frontier_of_several_gpus_and_algorithms_has_a_picture_for_each_gpu_on_the_same_axes() -> None:
    gpus = [load_gpu("A100"), load_gpu("T4")]
    found = pictures_of(frontier(cases_of(["naive", "flash"], dtype="fp16"), gpus, sizes=(1, 4)))
    assert [picture.title.partition(":")[0] for picture in found] == [gpu.name for gpu in gpus]
    assert found[0].x == found[1].x
    assert found[0].y == found[1].y
