"""`memmodel predict`."""

import click

from memmodel.cli.options import Inputs, inputs, json_option, subcommand
from memmodel.cli.output import print_json, show


@subcommand(
    "predict",
    "memmodel predict --gpu A100 --seq 16384",
    "memmodel predict --like llama-3-8b --seq 8k --gpu H100 --phase inference",
)
@inputs("gpu", "case", "algorithms", "allocator", "rates")
@click.option("--explain", is_flag=True, help="Every number's formula, inputs and source; every kernel's ceilings.")
@json_option
def command(asked: Inputs, explain: bool, as_json: bool) -> None:
    """Predict the memory, work and time of one layer's attention."""
    report = asked.report()
    if as_json:
        print_json(report.to_dict())
    elif explain:
        from memmodel.closed_forms import formulas_of
        from memmodel.report.explain import explanation

        show(explanation(report, [formulas_of(p.case) for p in report.predictions]))
    else:
        show(report)
