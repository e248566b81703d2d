"""`memmodel frontier`."""

from typing import TYPE_CHECKING

from memmodel.base.errors import UsageError, choice
from memmodel.cli.commands import SIZE, option, subcommand
from memmodel.cli.options import Inputs, inputs
from memmodel.cli.output import busy, pictures

if TYPE_CHECKING:
    from memmodel.pictures.frontier import Frontier, HeatMap


@subcommand(
    "frontier",
    "memmodel frontier --gpu A100,H100",
    "memmodel frontier --gpu H100 --against heads --sizes 8,16,32,64 -o frontier.svg",
    "memmodel frontier --gpu A100 -a naive --heat",
    "memmodel frontier --gpu A100,H100 --model llama-3.2-1b --set checkpoint=block",
)
@inputs("gpus", "case", "a model", "algorithms", "allocator")
@option("--against", default="batch", show_default=True, metavar="SIZE", help="batch or heads.")
@option("--sizes", metavar="SIZES", help="Of batch or heads. [default: 1,2,4,...,64 times a group of heads]")
@option("--step", type=SIZE, default="128", help="Sequences are multiples of this. [default: 128]")
@option("--heat", is_flag=True, help="A map of the memory that one algorithm needs on one GPU.")
@pictures
def command(asked: Inputs, against: str, sizes: str | None, step: int, heat: bool) -> "list[Frontier] | list[HeatMap]":
    """Draw the longest sequence that fits: by batch or heads, algorithm and GPU (`all`: those of known capacity)."""
    asked = asked.needing("capacity")
    if "model" in asked.given:
        return [_of_model(asked, against, sizes, step, heat)]
    from memmodel.cases import cases_of
    from memmodel.pictures.frontier import AGAINST, frontier, heat_map

    against = choice("size", against, AGAINST)
    for name in ("seq", against):
        if name in asked.case and name != "heads":
            raise UsageError(f"--{name} {asked.case[name]}: the picture varies it, leave the option out")
    gpus, cases = asked.gpus, cases_of(asked.algorithms, **asked.case)
    group = cases[0].heads // cases[0].kv_heads if against == "heads" else 1
    chosen = [group << i for i in range(7)] if sizes is None else _sizes(sizes, against)
    if not heat:
        return [frontier(cases, gpus, against, chosen, step, asked.allocator)]
    if len(gpus) > 1 or len(cases) > 1:
        raise UsageError(f"--heat with {len(gpus) * len(cases)} lines: give one --gpu and one --algorithm")
    return [heat_map(cases[0], gpus[0], against, chosen, step, asked.allocator)]


def _of_model(asked: Inputs, against: str, sizes: str | None, step: int, heat: bool) -> "Frontier":
    """The longest sequences of a whole model, by batch."""
    from memmodel.pictures.frontier import model_frontier

    varied = [name for name in ("seq", "batch") if name in asked.given]
    for given in (*varied, *(["heat"] if heat else []), *([f"against {against}"] if against != "batch" else [])):
        raise UsageError(f"--{given} with --model: the picture is of batch and seq, leave it out")
    chosen = [1 << i for i in range(7)] if sizes is None else _sizes(sizes, "batch")
    with busy("searching the longest sequences"):
        return model_frontier(asked.model_case, asked.gpus, chosen, step, asked.allocator)


def _sizes(text: str, against: str) -> list[int]:
    from memmodel.attention.case import check_size

    return [check_size(against, SIZE.read(part, "size")) for part in text.split(",")]
