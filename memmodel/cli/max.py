"""`memmodel max`."""

from typing import Any

import click

from memmodel.cli.options import (
    SIZE,
    algorithm_option,
    alloc_option,
    case_arguments,
    case_options,
    chosen_gpu,
    config,
    examples,
    gpu_options,
    print_json,
    show,
    split_names,
)


@click.command(
    "max",
    epilog=examples(
        "memmodel max --gpu A100 --over seq", "memmodel max --gpu H100 --like llama-3-8b --seq 8k --over batch"
    ),
)
@gpu_options
@case_options
@algorithm_option
@alloc_option
@click.option("--over", default="seq", show_default=True, metavar="SIZE", help="seq, batch or heads.")
@click.option("--step", type=SIZE, default="1", help="Search multiples of this. [default: 1]")
@click.option("--json", "as_json", is_flag=True, help="JSON, with the keys of docs/json.md.")
def command(
    gpu: str | None,
    gpu_file: str | None,
    algorithms: str | None,
    expandable_segments: bool,
    over: str,
    step: int,
    as_json: bool,
    **case: Any,
) -> None:
    """Find the largest size that fits, and the first that does not."""
    from memmodel.case import check_size
    from memmodel.predictor import cases_of, on_gpu
    from memmodel.thresholds import threshold

    check_size("step", step)
    device = chosen_gpu(gpu, gpu_file)
    cases = on_gpu(cases_of(split_names(algorithms), **case_arguments(case)), device)
    found = [threshold(c, device, over, step, config(expandable_segments)) for c in cases]
    if as_json:
        from memmodel.report.json import threshold_dict

        print_json({"schema": 1, "thresholds": [threshold_dict(t, device) for t in found]})
    else:
        from memmodel.report.tables import threshold_table

        show(threshold_table(found, device))
