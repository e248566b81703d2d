"""`memmodel roofline`."""

from typing import Any

import click

from memmodel.cli.options import (
    algorithm_option,
    calibration_option,
    case_arguments,
    case_options,
    chosen_calibration,
    chosen_gpu,
    examples,
    gpu_options,
    split_names,
)
from memmodel.cli.pictures import picture_options, put


@click.command(
    "roofline",
    epilog=examples(
        "memmodel roofline --gpu A100 --seq 16384",
        "memmodel roofline --gpu H100 --seq 8k -a flash --measured -o roofline.svg",
    ),
)
@gpu_options
@case_options
@algorithm_option
@calibration_option
@click.option("--measured", is_flag=True, help="Recorded runs on this GPU too: same head dim, mask and bytes of dtype.")
@picture_options
def command(
    gpu: str | None,
    gpu_file: str | None,
    algorithms: str | None,
    calibration: str | None,
    measured: bool,
    output: str | None,
    force: bool,
    data: bool,
    **case: Any,
) -> None:
    """Draw every kernel under the GPU's ceilings: FLOP/s against FLOP per byte."""
    from memmodel.pictures.roofline import roofline
    from memmodel.predictor import predict

    device = chosen_gpu(gpu, gpu_file)
    rates = chosen_calibration(calibration, gpu, device)
    report = predict(device, split_names(algorithms), calibration=rates, **case_arguments(case))
    if not measured:
        put([roofline(report)], output, force, data)
        return
    from memmodel_validate.measured_points import measured_points

    put([roofline(report, *measured_points(device.id, report.predictions[0].case))], output, force, data)
