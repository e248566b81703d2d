"""The contents of a page about a prediction: numbers, pictures, formulas, and accuracy on recorded runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, NamedTuple

from memmodel.allocator import AllocatorConfig
from memmodel.errors import UsageError
from memmodel.pictures.roofline import Roofline, roofline
from memmodel.pictures.timeline import Timeline, timeline
from memmodel.prediction import Report

if TYPE_CHECKING:
    from memmodel.closed_forms import Formulas


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


def page_of(
    report: Report, config: AllocatorConfig | None = None, known: Sequence[Known] = (), command: str = ""
) -> Page:
    """The page of a report; `config` are the allocator settings of the report."""
    from memmodel import __version__
    from memmodel.closed_forms import formulas_of

    cases = [prediction.case for prediction in report.predictions]
    return Page(
        report,
        [formulas_of(case) for case in cases],
        [timeline(case, report.gpu, config) for case in cases],
        _ceilings(report),
        known,
        command,
        f"memmodel {__version__} on {date.today().isoformat()}",
    )


def _ceilings(report: Report) -> Roofline | None:
    """The roofline; None if the GPU's data lack a rate (which the report notes), or no kernel has arithmetic."""
    try:
        shown = roofline(report)
    except UsageError:
        return None
    return shown if shown.points else None
