"""`memmodel predict`."""

from memmodel.cli.commands import option, subcommand
from memmodel.cli.options import Inputs, inputs, json_option
from memmodel.cli.output import busy, print_json, show


@subcommand(
    "predict",
    "memmodel predict --gpu A100 --seq 16384",
    "memmodel predict --like llama-3-8b --seq 8k --gpu H100 --phase inference",
    "memmodel predict --gpu A100,H100,B200 --seq 16384",
)
@inputs("gpus", "case", "lengths", "algorithms", "allocator", "rates", "serving")
@option("--explain", is_flag=True, help="Every number's formula, inputs and source; every kernel's ceilings.")
@json_option
def command(asked: Inputs, explain: bool, as_json: bool) -> None:
    """Predict the memory, work and time of one layer's attention."""
    from memmodel.prediction import SideBySide

    with busy("predicting"):
        reports = asked.reports()
    found = reports[0] if len(reports) == 1 else SideBySide(tuple(reports))
    if as_json:
        print_json(found.to_dict())
    elif explain:
        from memmodel.closed_forms import formulas_of
        from memmodel.report.explain import explanation

        show(*(explanation(one, [formulas_of(p.case) for p in one.predictions]) for one in reports))
    else:
        show(found)
