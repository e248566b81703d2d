"""`memmodel frontier`."""

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
    split_names,
)
from memmodel.cli.pictures import picture_options, put
from memmodel.errors import UsageError, choice


@click.command(
    "frontier",
    epilog=examples(
        "memmodel frontier --gpu A100,H100",
        "memmodel frontier --gpu H100 --against heads --sizes 8,16,32,64 -o frontier.svg",
        "memmodel frontier --gpu A100 -a naive --heat",
    ),
)
@gpu_options
@case_options
@algorithm_option
@alloc_option
@click.option("--against", default="batch", show_default=True, metavar="SIZE", help="batch or heads.")
@click.option("--sizes", metavar="SIZES", help="Of batch or heads. [default: 1,2,4,...,64 times a group of heads]")
@click.option("--step", type=SIZE, default="128", help="Sequences are multiples of this. [default: 128]")
@click.option("--heat", is_flag=True, help="A map of what one algorithm takes on one GPU.")
@picture_options
def command(
    gpu: str | None,
    gpu_file: str | None,
    algorithms: str | None,
    expandable_segments: bool,
    against: str,
    sizes: str | None,
    step: int,
    heat: bool,
    output: str | None,
    force: bool,
    data: bool,
    **case: Any,
) -> None:
    """Draw the longest sequence that fits: by batch or heads, algorithm and GPU (several with commas)."""
    from memmodel.case import check_size
    from memmodel.pictures.frontier import AGAINST, frontier, heat_map
    from memmodel.predictor import cases_of

    check_size("step", step)
    against = choice("size", against, AGAINST)
    varied = [name for name in ("seq", "batch") if case[name] is not None and name in ("seq", against)]
    if varied:
        raise UsageError(f"--{varied[0]} {case[varied[0]]}: the picture varies it, leave it out or give --sizes")
    given = case_arguments(case)
    names = split_names(gpu) or [None]  # type: ignore[list-item]
    devices = [chosen_gpu(name, gpu_file) for name in names]
    cases = cases_of(split_names(algorithms), **given)
    group = cases[0].heads // cases[0].kv_heads
    chosen = _sizes(sizes, against) if sizes else [(group if against == "heads" else 1) << i for i in range(7)]
    allocator = config(expandable_segments)
    if not heat:
        put([frontier(cases, devices, against, chosen, step, allocator)], output, force, data)
        return
    if len(devices) > 1 or len(cases) > 1:
        raise UsageError(f"--heat with {len(devices) * len(cases)} lines: give one --gpu and one --algorithm")
    put([heat_map(cases[0], devices[0], against, chosen, step, allocator)], output, force, data)


def _sizes(text: str, against: str) -> list[int]:
    from memmodel.case import check_size

    return [check_size(against, SIZE.convert(part, None, None)) for part in text.split(",")]
