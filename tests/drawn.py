"""The rule that what is drawn can be read: no text covers a mark or another text, and no mark covers another.

The names of lines stand beside them, and on no other line.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from memmodel.pictures.picture import PAPER, Picture


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


def paths_of(ax: Any) -> list[Any]:
    """The paths of an axes' lines on paper."""
    lines = (line for line in ax.lines if line.get_linestyle() not in ("None", "none"))
    return [line.get_transform().transform_path(line.get_path()) for line in lines]


def assert_readable(pictures: Sequence[Picture], width: float, words: bool) -> None:
    """Draw pictures below each other and hold every text and mark to the rule."""
    from matplotlib.text import Text

    from memmodel.report.figure import figure_of
    from memmodel.report.style import styled

    with styled():
        drawn = figure_of(pictures, width, words)
        drawn.draw_without_rendering()
        texts = [text for text in drawn.findobj(Text) if text.get_visible() and text.get_text().strip()]
        boxes = {id(text): text.get_window_extent().padded(-0.5) for text in texts}
        for one, other in combinations(texts, 2):
            assert not boxes[id(one)].overlaps(boxes[id(other)]), (one.get_text(), other.get_text())
        for text in texts:
            for mark in (mark for ax in drawn.axes for mark in marks_of(ax)):
                assert not boxes[id(text)].overlaps(mark), text.get_text()
            assert boxes[id(text)].x1 <= drawn.bbox.x1, text.get_text()
        names = {line.name for picture in pictures for line in picture.lines if not line.level}
        for text in (text for text in texts if text.get_text() in names):
            for path in (path for ax in drawn.axes for path in paths_of(ax)):
                assert not path.intersects_bbox(boxes[id(text)], filled=False), text.get_text()
        for ax in drawn.axes:
            full = [line for line in ax.lines if line.get_zorder() == 5 and line.get_markerfacecolor() != PAPER]
            places = [ax.transData.transform(line.get_xydata())[0] for line in full]
            for one, other in combinations(places, 2):
                assert math.dist(one, other) > 0.9 * full[0].get_markersize() * drawn.dpi / 72
