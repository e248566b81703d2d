"""The contents of a page about a prediction: numbers, pictures, formulas, and accuracy on recorded runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, NamedTuple

from memmodel.allocator import AllocatorConfig
from memmodel.base.errors import UsageError
from memmodel.pictures.roofline import Roofline, model_roofline, roofline
from memmodel.pictures.timeline import Timeline, model_timeline, timeline
from memmodel.prediction import Report

if TYPE_CHECKING:
    from memmodel.closed_forms import Formulas
    from memmodel.models.results import ModelReport


class Known(NamedTuple):
    """The accuracy of one quantity on recorded runs; `where` is "this GPU" or "all GPUs".

    Errors are `|predicted / measured - 1|`, over `numbers` recorded ones; `exact` of them are equal, None for times.
    """

    quantity: str
    where: str
    numbers: int
    exact: int | None
    median: float
    p90: float
    worst: float


@dataclass(frozen=True, slots=True)
class Page:
    """The contents of a page.

    Attributes:
        report: the predictions. forms: closed forms of each, or None. timelines: of each.
        roofline: None if the GPU's data lack a rate. known: accuracy on recorded runs.
        command: the command that made the page. made: the version that made it, and the day.
    """

    report: Report
    forms: Sequence["Formulas | None"]
    timelines: Sequence[Timeline]
    roofline: Roofline | None
    known: Sequence[Known]
    command: str
    made: str

    @property
    def title(self) -> str:
        """The GPU and the configuration."""
        return f"{self.report.gpu.name}: {self.report.predictions[0].case.describe()}"


@dataclass(frozen=True, slots=True)
class ModelPage:
    """The contents of a page about a whole model's step.

    Attributes:
        report: the prediction. timeline: what is alive through the step. roofline: None if the GPU's data lack a rate.
        command: the command that made the page. made: the version that made it, and the day.
    """

    report: "ModelReport"
    timeline: Timeline
    roofline: Roofline | None
    command: str
    made: str

    @property
    def title(self) -> str:
        """The GPU and the model."""
        case = self.report.prediction.case
        return f"{self.report.gpu.name}: {case.arch.name}, {case.phase}, batch {case.batch}, seq {case.seq}"


def page_of(
    report: Report, config: AllocatorConfig | None = None, known: Sequence[Known] = (), command: str = ""
) -> Page:
    """The page of a report; `config` are the allocator settings of the report."""
    from memmodel.closed_forms import formulas_of

    cases = [prediction.case for prediction in report.predictions]
    return Page(
        report,
        [formulas_of(case) for case in cases],
        [timeline(case, report.gpu, config) for case in cases],
        _ceilings(lambda: roofline(report)),
        known,
        command,
        _made(),
    )


def model_page_of(report: "ModelReport", config: AllocatorConfig | None = None, command: str = "") -> ModelPage:
    """The page of a model's report; `config` are the allocator settings of the report."""
    shown = model_timeline(report.prediction.case, report.gpu, config)
    return ModelPage(report, shown, _ceilings(lambda: model_roofline(report)), command, _made())


def _made() -> str:
    from memmodel import __version__

    return f"memmodel {__version__} on {date.today().isoformat()}"


def _ceilings(draw: Callable[[], Roofline]) -> Roofline | None:
    """The roofline; None if the GPU's data lack a rate (which the report notes), or no kernel has arithmetic."""
    try:
        shown = draw()
    except UsageError:
        return None
    return shown if shown.points else None
