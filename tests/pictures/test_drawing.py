"""What is drawn can be read: no text covers a mark or another text, and nothing is drawn twice in one place."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from picture_cases import cases

import memmodel
from drawn import assert_readable
from memmodel.cases import cases_of
from memmodel.gpu_comparison import compare
from memmodel.gpus import all_gpus, load_gpu
from memmodel.gpus.links import node_of
from memmodel.models.catalogue import listed
from memmodel.models.choices import model_case
from memmodel.models.fit import FitReport, TriedLayout
from memmodel.models.layout import Layout
from memmodel.models.predict import model
from memmodel.models.step_time import StepTime
from memmodel.pictures.describe import pictures_of
from memmodel.pictures.frontier import frontier, heat_map
from memmodel.pictures.picture import Area, Axis, Look, Mark, Picture
from memmodel.pictures.roofline import model_roofline, roofline
from memmodel.pictures.timeline import timeline
from memmodel.predictor import predict

pytest.importorskip("matplotlib")


from matplotlib.figure import Figure

from memmodel.report.figure import NARROW, WIDE
from memmodel.report.labels import write_labels

pytestmark = pytest.mark.slow
ALL = ["naive", "naive-by-hand", "flash", "chunked", "compiled", "checkpointed"]


def _timeline(gpu: str, algorithm: str, **sizes: Any) -> Any:
    (case,), device = cases(gpu, [algorithm], sizes)
    return timeline(case, device)


def _layouts(count: int, spread: float, seed: int = 0) -> FitReport:
    """So many layouts, in memory and speed within a factor of each other, around the room of an H100."""
    dice, gpu = random.Random(seed), load_gpu("H100")
    case = model_case(listed("llama-3.1-8b").architecture)
    tried = []
    for _ in range(count):
        layout = Layout(tp=2 ** dice.randrange(4), pp=2 ** dice.randrange(4), dp_shard=dice.choice((2, 8, 64)))
        peak = int(60e9 * spread ** dice.uniform(-1, 1))
        seconds = StepTime(1.0, None, None, 1.0, 0.0, 0.0, 0.0, {}, (), "")
        speed = 1e5 * spread ** dice.uniform(-1, 1)
        tried.append(
            TriedLayout(replace(case, layout=layout), peak, peak < 8e10, {"gradients": peak}, seconds, speed, None)
        )
    fitting = sorted((one for one in tried if one.fits), key=lambda one: -one.tokens_per_second)
    others = tuple(one for one in tried if not one.fits)
    return FitReport(case, gpu, 64, node_of(gpu), 512, tuple(fitting), others, ())


def _traced(layers: int) -> Any:
    """A few linear layers in training, which nearly fill an L4."""
    torch = pytest.importorskip("torch")

    def step(x: Any) -> Any:
        return net(x).sum()

    parts = (torch.nn.Linear(4096, 4096), torch.nn.GELU(), torch.nn.Dropout())
    net = torch.nn.Sequential(*(part for _ in range(layers) for part in parts))
    return memmodel.trace(step, ["x=N,4096:fp32"], at={"N": 32768}, step="train", gpu="L4", formulas=False).timeline()


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
    "three layouts": lambda: _layouts(3, 2.0),
    "many layouts": lambda: _layouts(60, 4.0),
    "many layouts in one place": lambda: _layouts(60, 1.05),
    "timeline of a trace": lambda: _traced(2),
    "timeline of a trace of many tensors": lambda: _traced(8),
    "frontier of one on all": lambda: frontier(
        cases_of(["flash"]), [gpu for gpu in all_gpus() if "capacity" in gpu.values], sizes=(1, 64)
    ),
    "heat map": lambda: heat_map(cases_of(["naive"])[0], load_gpu("A100")),
}


@cache
def shown(name: str) -> Any:
    return SHOWN[name]()


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", SHOWN)
def test_texts_cover_neither_marks_nor_each_other_and_marks_are_side_by_side(name: str, width: float) -> None:
    assert_readable(pictures_of(shown(name)), width, words=width == WIDE)


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


def test_many_lines_are_in_several_pictures_on_the_same_axes() -> None:
    found = pictures_of(shown("frontier of one on all"))
    assert len(found) > 1
    assert len({(picture.x, picture.y) for picture in found}) == 1
    for picture in found:
        looks = [entry.look for entry in picture.legend]
        assert len({look.key for look in looks}) == len(looks) <= 12
    names = [name for picture in found for entry in picture.legend for name in entry.cells[0].split(", ")]
    assert sorted(names) == sorted(gpu.name for gpu in all_gpus() if "capacity" in gpu.values)


def test_a_key_that_does_not_stand_beside_its_mark_is_joined_to_it() -> None:
    """Nine marks in rows, a mark's width apart: that in the middle has no room beside it."""
    ax = Figure(figsize=(4, 4), dpi=100).add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 40), ylim=(0, 40))
    across, up = Axis("", 0, 40, False, ()), Axis("", 0, 40, False, ())
    places = [(x, y) for x in (18, 20, 22) for y in (18, 20, 22)]
    marks = tuple(Mark(Look(f"N{i}", shape="●"), x, y) for i, (x, y) in enumerate(places))
    write_labels(ax, Picture("", "", across, up, marks=marks))
    assert {text.get_text() for text in ax.texts} == {f"N{i}" for i in range(9)}
    leads = [line for line in ax.lines if line.get_marker() == "None"]
    assert leads
    for text in ax.texts:
        mark = places[int(text.get_text()[1:])]
        box = text.get_window_extent()
        at = ax.transData.transform(mark)
        away = math.dist(at, (min(max(at[0], box.x0), box.x1), min(max(at[1], box.y0), box.y1)))
        ends = [line.get_xydata()[-1] for line in leads]
        assert away < 12 or any(np.allclose(mark, end) for end in ends), text.get_text()


def test_a_band_that_changes_with_every_step_has_its_letter_where_it_is_widest() -> None:
    """A triangle, 40 steps on 400 pixels: no step is as wide as a letter."""
    ax = Figure(figsize=(4, 3), dpi=100).add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 40), ylim=(0, 10))
    across, up, low = Axis("", 0, 40, False, ()), Axis("", 0, 10, False, ()), (0.0,) * 40
    rising = tuple(10 - abs(step - 30) / 4 for step in range(40))
    write_labels(ax, Picture("", "", across, up, areas=(Area(Look("a"), low, rising, low),)))
    ((x, y),) = (text.get_position() for text in ax.texts)
    assert 29 < x < 32
    assert 4 < y < 5


def test_a_band_has_its_letter_where_there_is_room_though_it_is_highest_where_there_is_none() -> None:
    """40 steps on 400 pixels: a letter is wider than the one step in which the band reaches 9."""
    ax = Figure(figsize=(4, 3), dpi=100).add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 40), ylim=(0, 10))
    low = (0.0,) * 40
    across, up = Axis("", 0, 40, False, ()), Axis("", 0, 10, False, ())
    write_labels(ax, Picture("", "", across, up, areas=(Area(Look("a"), low, (9.0, *(5.0,) * 39), low),)))
    assert [(text.get_text(), text.get_position()) for text in ax.texts] == [("a", (20.5, 2.5))]
