"""The parts of a page, in order, before they become HTML or Markdown."""

from collections.abc import Iterator
from dataclasses import replace

from memmodel.base.rendering import Drawing
from memmodel.pictures.page import Known, ModelPage, Page
from memmodel.report.formulas import rows, symbol_names
from memmodel.report.groups import group_table
from memmodel.report.model import peak_words, serving_table, time_table
from memmodel.report.sheet import Bullets, Formula, Sheet, Verdict
from memmodel.report.tables import account, comparison, mitigations, notes_of, scope, verdict, verdicts

_TENSORS = 10  # rows of an account

Part = Verdict | Sheet | Bullets | Drawing


def parts(page: Page | ModelPage) -> Iterator[Part]:
    """The parts of a page, of attention or of a whole model."""
    return _of_model(page) if isinstance(page, ModelPage) else _of_attention(page)


def _of_model(page: ModelPage) -> Iterator[Part]:
    """The verdict, what fills the peak, the step's time, what would lower it, pictures, and what was assumed."""
    report, prediction = page.report, page.report.prediction
    yield verdict(prediction.memory, f"{prediction.title} ")
    yield replace(group_table(prediction.memory, prediction.formulas), caption=peak_words(prediction))
    yield replace(time_table(report), title="One step")
    if report.serving:
        yield serving_table(report.serving, prediction.case)
    if report.mitigations:
        yield mitigations(report)
    yield page.timeline
    if page.roofline is not None:
        yield page.roofline
    yield Bullets("Assumed", [prediction.case.describe(), *report.assumptions, *prediction.notes])


def _of_attention(page: Page) -> Iterator[Part]:
    """Verdicts, tables and pictures, then formulas, accuracy, and what was assumed."""
    report = page.report
    yield from verdicts(report)
    yield replace(comparison(report), title="One step")
    if report.mitigations:
        yield mitigations(report)
    yield from page.timelines
    if page.roofline is not None:
        yield page.roofline
    for prediction in report.predictions:
        yield account(prediction, _TENSORS)
    for prediction, forms in zip(report.predictions, page.forms, strict=True):
        if forms is not None:
            closed = [(name, Formula(expression), when) for name, expression, when in rows(forms)]
            columns = ("quantity", "formula", "where")
            yield Sheet(f"Formulas of {prediction.title}", columns, closed, symbol_names(forms))
    if page.known:
        yield _accuracy(page)
    yield Bullets("Assumed", [*scope(report), *report.assumptions, *notes_of(report)])


def _accuracy(page: Page) -> Sheet:
    """The model's errors on recorded runs."""
    columns = ("against runs on record", "on", ">numbers", ">exact", ">median", ">p90", ">worst")
    caption = "errors are |predicted / measured - 1| on rows that no constant was fitted to"
    return Sheet("How accurate this is", columns, [_known(known) for known in page.known], caption)


def _known(known: Known) -> tuple[str, ...]:
    errors = ("",) * 3 if known.exact == known.numbers else (known.median, known.p90, known.worst)
    return (
        *(known.quantity, known.where, f"{known.numbers}", "" if known.exact is None else f"{known.exact}"),
        *(error if isinstance(error, str) else f"{100 * error:.1f} %" for error in errors),
    )


def provenance(page: Page | ModelPage) -> str:
    """The version, the day and the command that made the page."""
    return ", ".join(filter(None, (page.made, page.command)))
