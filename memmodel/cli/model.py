"""`memmodel model`."""

from memmodel.cli.options import Inputs, inputs, json_option, subcommand
from memmodel.cli.output import print_json, show


@subcommand(
    "model",
    "memmodel model --like llama-3-8b --gpu H100 --batch 1 --seq 8k",
    "memmodel model --config path/to/config.json --gpu A100 --checkpoint block --loss chunked",
)
@inputs("model", "gpu", "setting", "allocator", "rates")
@json_option
def command(asked: Inputs, as_json: bool) -> None:
    """Predict the memory and time of a whole model's step, what fills its peak, and what would make it fit."""
    report = asked.model_report()
    if as_json:
        print_json(report.to_dict())
    else:
        show(report)
