"""`memmodel timeline`."""

from typing import TYPE_CHECKING

from memmodel.cli.commands import subcommand
from memmodel.cli.options import Inputs, inputs
from memmodel.cli.output import pictures

if TYPE_CHECKING:
    from memmodel.pictures.timeline import Timeline


@subcommand(
    "timeline",
    "memmodel timeline --gpu A100 --seq 16384 -a naive",
    "memmodel timeline --gpu A100,H100 --seq 16384 -a naive,flash -o timeline.svg",
    "memmodel timeline --gpu H100 --model llama-3.2-1b --seq 2k -o step.svg",
)
@inputs("gpus", "case", "a model", "algorithms", "allocator")
@pictures
def command(asked: Inputs) -> "list[Timeline]":
    """Draw what is in memory, allocation by allocation, through one step."""
    from memmodel.pictures.timeline import model_timeline, timeline

    if "model" in asked.given:
        return [model_timeline(asked.model_case, gpu, asked.allocator) for gpu in asked.gpus]
    return [timeline(case, gpu, asked.allocator) for gpu in asked.gpus for case in asked.cases(gpu)]
