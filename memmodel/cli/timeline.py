"""`memmodel timeline`."""

from typing import Any

import click

from memmodel.cli.options import (
    algorithm_option,
    alloc_option,
    case_arguments,
    case_options,
    chosen_gpu,
    config,
    examples,
    gpu_options,
    split_names,
)
from memmodel.cli.pictures import picture_options, put


@click.command(
    "timeline",
    epilog=examples(
        "memmodel timeline --gpu A100 --seq 16384 -a naive",
        "memmodel timeline --gpu A100 --seq 16384 -a naive,flash -o timeline.svg",
    ),
)
@gpu_options
@case_options
@algorithm_option
@alloc_option
@picture_options
def command(
    gpu: str | None,
    gpu_file: str | None,
    algorithms: str | None,
    expandable_segments: bool,
    output: str | None,
    force: bool,
    data: bool,
    **case: Any,
) -> None:
    """Draw what is in memory, allocation by allocation, through one step."""
    from memmodel.pictures.timeline import timeline
    from memmodel.predictor import cases_of, on_gpu

    device = chosen_gpu(gpu, gpu_file)
    cases = on_gpu(cases_of(split_names(algorithms), **case_arguments(case)), device)
    put([timeline(c, device, config(expandable_segments)) for c in cases], output, force, data)
