"""`memmodel roofline`."""

from typing import TYPE_CHECKING

from memmodel.cli.commands import option, subcommand
from memmodel.cli.options import Inputs, at_most_one, inputs
from memmodel.cli.output import pictures

if TYPE_CHECKING:
    from memmodel.pictures.roofline import Roofline


@subcommand(
    "roofline",
    "memmodel roofline --gpu A100,H100 --seq 16384",
    "memmodel roofline --gpu H100 --seq 8k -a flash --measured -o roofline.svg",
    "memmodel roofline --gpu H100 --model llama-3-8b -o model.svg",
)
@inputs("gpus", "case", "a model", "algorithms", "rates")
@option("--measured", is_flag=True, help="Recorded runs on this GPU too: same head dim, mask and bytes of dtype.")
@pictures
def command(asked: Inputs, measured: bool) -> "list[Roofline]":
    """Draw every kernel under the GPU's ceilings: FLOP/s against FLOP per byte."""
    from memmodel.pictures.roofline import model_roofline, roofline

    if "model" in asked.given:
        at_most_one(model=True, measured=measured)
        return [model_roofline(found) for found in asked.predictions_of_model()]
    if not measured:
        return [roofline(report) for report in asked.reports()]
    from memmodel_validate.measured_points import measured_points

    return [roofline(report, *measured_points(report.gpu.id, report.predictions[0].case)) for report in asked.reports()]
