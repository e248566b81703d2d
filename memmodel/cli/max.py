"""`memmodel max`."""

import click

from memmodel.cli.options import SIZE, Inputs, inputs, json_option, subcommand
from memmodel.cli.output import print_json, show


@subcommand(
    "max", "memmodel max --gpu A100 --over seq", "memmodel max --gpu H100 --like llama-3-8b --seq 8k --over batch"
)
@inputs("gpu", "case", "algorithms", "allocator")
@click.option("--over", default="seq", show_default=True, metavar="SIZE", help="seq, batch, heads, kv-seq or head-dim.")
@click.option("--step", type=SIZE, default="1", help="Search multiples of this. [default: 1]")
@json_option
def command(asked: Inputs, over: str, step: int, as_json: bool) -> None:
    """Find the largest size that fits, and the first that does not."""
    from memmodel.thresholds import threshold

    found = [threshold(case, asked.gpu, over, step, asked.allocator) for case in asked.cases()]
    if as_json:
        from memmodel.report.json import encoded

        print_json({"schema": 1, "thresholds": [{**encoded(t), "gpu": encoded(asked.gpu)} for t in found]})
    else:
        from memmodel.report.tables import threshold_table

        show(threshold_table(found, asked.gpu))
