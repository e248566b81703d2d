"""What a page about a prediction holds: numbers, pictures, formulas, and how accurate such numbers are known to be."""

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
    """How well the model does on runs on record: of one quantity, `where` "this GPU" or "all GPUs".

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
    """Everything that a page shows.

    Attributes:
        report: the predictions. forms: closed forms of each, None where there are none. timelines: of each.
        roofline: None where the GPU's data lack a rate. known: accuracy on record.
        command: how the page was made. made: the version that made it, and the day.
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
        """What is predicted, on what."""
        return f"{self.report.gpu.name}: {self.report.predictions[0].case.describe()}"


def page_of(
    report: Report, config: AllocatorConfig | None = None, known: Sequence[Known] = (), command: str = ""
) -> Page:
    """The page of a report; `config` as it was predicted with."""
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
    """The roofline; None where the GPU's data lack a rate, which the report's notes say, or no kernel can be shown."""
    try:
        shown = roofline(report)
    except UsageError:
        return None
    return shown if shown.points else None
