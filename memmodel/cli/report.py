"""`memmodel report`."""

import shlex
import sys
from typing import Any

import click

from memmodel.cli.files import check_output, kind_of, tell, write
from memmodel.cli.options import (
    algorithm_option,
    alloc_option,
    calibration_option,
    case_arguments,
    case_options,
    chosen_calibration,
    chosen_gpu,
    config,
    examples,
    gpu_options,
    split_names,
)
from memmodel.cli.pictures import check_plotting
from memmodel.errors import UsageError

SUFFIXES = (".html", ".md")


@click.command(
    "report",
    epilog=examples(
        "memmodel report --gpu A100 --seq 16384 -o report.html",
        "memmodel report --like llama-3-8b --seq 8k --gpu H100 -o report.md",
    ),
)
@gpu_options
@case_options
@algorithm_option
@alloc_option
@calibration_option
@click.option("--output", "-o", metavar="FILE", help="FILE.html, with pictures, or FILE.md, for any forge.")
@click.option("--force", is_flag=True, help="Overwrite the output file.")
def command(
    gpu: str | None,
    gpu_file: str | None,
    algorithms: str | None,
    expandable_segments: bool,
    calibration: str | None,
    output: str | None,
    force: bool,
    **case: Any,
) -> None:
    """Write a prediction down as one file: verdict, account, pictures, formulas, assumptions, accuracy."""
    from memmodel.pictures.page import page_of
    from memmodel.predictor import predict
    from memmodel.report.html_page import html_page
    from memmodel.report.markdown_page import markdown_page

    if output is None:
        raise UsageError("report: give the file to write, with -o report.html or -o report.md")
    check_output(output, force, SUFFIXES)
    if kind_of(output) == "html":
        check_plotting()
    device = chosen_gpu(gpu, gpu_file)
    allocator, rates = config(expandable_segments), chosen_calibration(calibration, gpu, device)
    predicted = predict(device, split_names(algorithms), config=allocator, calibration=rates, **case_arguments(case))
    page = page_of(predicted, allocator, _known(predicted), shlex.join(["memmodel", *sys.argv[1:]]))
    written = html_page(page) if kind_of(output) == "html" else markdown_page(page)
    write(output, written.encode(errors="replace"))
    tell(output)


def _known(predicted: Any) -> list[Any]:
    """The accuracy on runs on record, of the kinds of algorithms that the report is about; none without the ledger."""
    try:
        from memmodel_validate.accuracy import known_accuracy
    except ModuleNotFoundError:
        return []
    found: list[Any] = known_accuracy(predicted.gpu.id, [p.case.algorithm for p in predicted.predictions])
    return found
