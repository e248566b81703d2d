"""`memmodel model`."""

from typing import TYPE_CHECKING

from memmodel.cli.commands import option, subcommand
from memmodel.cli.options import Inputs, inputs, json_option
from memmodel.cli.output import print_json, show
from memmodel.errors import UsageError, choice

if TYPE_CHECKING:
    from memmodel.models.results import ModelReport


@subcommand(
    "model",
    "memmodel model --like llama-3-8b --gpu H100 --batch 1 --seq 8k",
    "memmodel model --config path/to/config.json --gpu A100 --checkpoint block --loss chunked",
)
@inputs("model", "gpu", "setting", "layout", "links", "allocator", "rates")
@option("--against", metavar="hf", help="hf: trace the step of Hugging Face's class too. Needs memmodel[hf].")
@json_option
def command(asked: Inputs, against: str | None, as_json: bool) -> None:
    """Predict the memory and time of a whole model's step, what fills its peak, and what would make it fit."""
    report = asked.model_report()
    if against is not None:
        _against(asked, against, report, as_json)
    elif as_json:
        print_json(report.to_dict())
    else:
        show(report)


def _against(asked: Inputs, against: str, report: "ModelReport", as_json: bool) -> None:
    """The same step of Hugging Face's class beside ours."""
    from memmodel.models.predict import configuration

    choice("library", against, ("hf",))
    case = report.prediction.case
    config = configuration(asked.given.get("like"), asked.given.get("config"))
    try:
        from memmodel.tracer.against import against_hugging_face
    except ModuleNotFoundError as missing:
        raise UsageError(f"--against hf needs {missing.name}: pip install 'memmodel[hf]'") from None
    found = against_hugging_face(case, config, report.prediction.memory, report.gpu)
    if as_json:
        from memmodel.report.json import document

        print_json(document(found))
    else:
        from memmodel.report.model import against_parts

        show(*against_parts(report, found))
