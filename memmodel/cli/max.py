"""`memmodel max`."""

from memmodel.cli.commands import SIZE, option, subcommand
from memmodel.cli.options import Inputs, inputs, json_option
from memmodel.cli.output import busy, print_json, show

_SIZES = "seq, batch, heads, kv-heads, kv-seq, head-dim, window or chunk."


@subcommand(
    "max",
    "memmodel max --gpu A100,H100 --over seq",
    "memmodel max --gpu H100 --like llama-3-8b --seq 8k --over batch",
    "memmodel max --gpu H100 --model llama-3-8b --over batch --set checkpoint=block",
)
@inputs("gpus", "case", "a model", "algorithms", "allocator")
@option("--over", default="seq", show_default=True, metavar="SIZE", help=_SIZES)
@option("--step", type=SIZE, default="1", help="Search multiples of this. [default: 1]")
@json_option
def command(asked: Inputs, over: str, step: int, as_json: bool) -> None:
    """Find the largest size that fits, and the first that does not; of `all` GPUs, on those of known capacity."""
    asked = asked.needing("capacity")
    if "model" in asked.given:
        _of_model(asked, over, step, as_json)
        return
    from memmodel.cases import cases_of
    from memmodel.thresholds import threshold

    cases = cases_of(asked.algorithms, **asked.case)
    like = asked.case.get("like")
    with busy(f"searching the largest {over}"):
        found = [threshold(case, gpu, over, step, asked.allocator, like) for case in cases for gpu in asked.gpus]
    if as_json:
        from memmodel.report.json import encoded

        print_json({"schema": 1, "thresholds": encoded(found)})
    else:
        from memmodel.report.tables import threshold_table

        show(threshold_table(found))


def _of_model(asked: Inputs, over: str, step: int, as_json: bool) -> None:
    """The largest batch, or the longest sequences, of a whole model."""
    from memmodel.models.capacity import model_threshold

    with busy(f"searching the largest {over}"):
        found = [model_threshold(asked.model_case, gpu, over, step, asked.allocator) for gpu in asked.gpus]
    if as_json:
        from memmodel.report.json import encoded

        print_json({"schema": 1, "thresholds": encoded(found)})
    else:
        from memmodel.report.model import model_threshold_table

        show(model_threshold_table(found))
