"""`memmodel compare`."""

from typing import TYPE_CHECKING

from memmodel.base.errors import UsageError
from memmodel.base.units import finite
from memmodel.cli.commands import option, subcommand
from memmodel.cli.options import Inputs, inputs, json_option
from memmodel.cli.output import busy, check_picture, force_option, print_json, save, show, tell

if TYPE_CHECKING:
    from memmodel.gpu_comparison import GpuComparison


@subcommand(
    "compare",
    "memmodel compare --like llama-3-8b --seq 8k",
    "memmodel compare --gpu H100,H200,B200 --model llama-3-8b --phase decode --price H100=2.50 --price B200=5.00",
    "memmodel compare --seq 16k --phase inference -o gpus.svg",
)
@inputs("all gpus", "case", "a model", "algorithm", "allocator", "rates", "serving")
@option("--price", "prices", multiple=True, metavar="GPU=DOLLARS", help="$ an hour of a GPU; repeat for others.")
@option("--sort", metavar="BY", help="time, cost, memory or name. [default: cost with a price, else time]")
@option("--draw", is_flag=True, help="Draw the times with their intervals, in place of the table.")
@option("--output", "-o", metavar="FILE", help="Draw them into FILE.svg or FILE.png.")
@force_option
@json_option
def command(
    asked: Inputs,
    prices: tuple[str, ...],
    sort: str | None,
    draw: bool,
    output: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compare GPUs on one configuration: fits, expected time, tokens a second and cost, the best first."""
    if output is not None:
        check_picture(output, force)
    with busy("timing the step on each GPU"):
        found = _compared(asked, dict(map(_price, prices)), sort)
    if as_json:
        print_json(found.to_dict())
    elif draw:
        from memmodel.report.terminal import Drawn

        show(Drawn(found))
    elif output is None:
        show(found)
    if output is not None:
        save([found], output)
        if not as_json:
            tell(output)


def _compared(asked: Inputs, prices: dict[str, float], sort: str | None) -> "GpuComparison":
    from memmodel.gpu_comparison import compare_model, compare_reports

    if "gpu_file" not in asked.given:
        asked.given.setdefault("gpu", "all")
    if "model" in asked.given:
        return compare_model(asked.model_case, asked.gpus, asked.calibrations, asked.allocator, prices, sort)
    asked.given.setdefault("algorithms", "flash")
    return compare_reports(asked.reports(), prices, sort)


def _price(text: str) -> tuple[str, float]:
    name, _, amount = text.rpartition("=")
    try:
        if name.strip():
            return name.strip(), finite(amount)
    except ValueError:
        pass
    raise UsageError(f"--price {text}: expected GPU=DOLLARS an hour, such as H100=2.50")
