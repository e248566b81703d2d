"""`memmodel report`."""

import shlex
import sys
from typing import TYPE_CHECKING, Any

from memmodel.cli.commands import subcommand
from memmodel.cli.options import Inputs, inputs
from memmodel.cli.output import busy, check_plotting, writes

if TYPE_CHECKING:
    from memmodel.prediction import Report


@subcommand(
    "report",
    "memmodel report --gpu A100 --seq 16384 -o report.html",
    "memmodel report --like llama-3-8b --seq 8k --gpu H100 -o report.md",
    "memmodel report --model llama-3.2-1b --seq 2k --gpu H100 -o step.html",
)
@inputs("gpu", "case", "a model", "algorithms", "allocator", "rates")
@writes("-o report.html or -o report.md", (".html", ".md"), "FILE.html, with pictures, or FILE.md, for any forge.")
def command(asked: Inputs, kind: str) -> str:
    """Write a prediction down as one file: verdict, account, pictures, formulas, assumptions, accuracy."""
    from memmodel.pictures.page import ModelPage, Page, model_page_of, page_of
    from memmodel.report.html_page import html_page
    from memmodel.report.markdown_page import markdown_page

    if kind == "html":
        check_plotting()
    words = shlex.join(["memmodel", *sys.argv[1:]])
    with busy("drawing"):
        page: Page | ModelPage
        if "model" in asked.given:
            page = model_page_of(asked.prediction_of_model(), asked.allocator, words)
        else:
            report = asked.report()
            page = page_of(report, asked.allocator, _accuracy(report), words)
        return html_page(page) if kind == "html" else markdown_page(page)


def _accuracy(report: "Report") -> list[Any]:
    """The accuracy on recorded runs of such algorithms; none if memmodel_validate is not installed."""
    try:
        from memmodel_validate.accuracy import known_accuracy
    except ModuleNotFoundError:
        return []
    found: list[Any] = known_accuracy(report.gpu.id, [p.case.algorithm for p in report.predictions])
    return found
