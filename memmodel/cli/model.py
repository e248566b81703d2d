"""`memmodel model`."""

from typing import TYPE_CHECKING

from memmodel.base.errors import UsageError, choice
from memmodel.cli.commands import SIZE, option, subcommand
from memmodel.cli.options import Inputs, inputs, json_option
from memmodel.cli.output import busy, check_picture, force_option, print_json, save, show, tell

if TYPE_CHECKING:
    from memmodel.models.results import ModelReport


@subcommand(
    "model",
    "memmodel model --like llama-3-8b --gpu H100 --batch 1 --seq 8k",
    "memmodel model --like llama-3.1-70b --gpu H100 --gpus 64 --fit --framework megatron --loss fused",
    "memmodel model --config path/to/config.json --gpu A100 --checkpoint block --loss chunked",
)
@inputs("model", "gpu", "setting", "layout", "links", "allocator", "rates")
@option("--fit", "fits", is_flag=True, help="With --gpus: every layout that fits, fastest first.")
@option("--global-batch", type=SIZE, help="With --fit: sequences of a step. [default: 4 Mi tokens]")
@option("--plot", metavar="FILE", help="With --fit: draw the layouts into FILE.svg or FILE.png.")
@option("--against", metavar="hf", help="hf: trace the step of Hugging Face's class too. Needs memmodel[hf].")
@json_option
@force_option
def command(
    asked: Inputs,
    fits: bool,
    global_batch: int | None,
    plot: str | None,
    against: str | None,
    as_json: bool,
    force: bool,
) -> None:
    """Predict the memory and time of a whole model's step, what fills its peak, and what would make it fit."""
    if fits:
        _fit(asked, global_batch, plot, as_json, force)
        return
    for name, given in (("global-batch", global_batch), ("plot", plot)):
        if given is not None:
            raise UsageError(f"--{name} without --fit: it is of the search among layouts, give --fit too")
    if against is not None:  # both run without dropout
        from memmodel.models.choices import DROPOUTS

        asked.given = dict.fromkeys(DROPOUTS, 0.0) | asked.given
    with busy("recording the step"):
        report = asked.model_report()
    if against is not None:
        _against(asked, against, report, as_json)
    elif as_json:
        print_json(report.to_dict())
    else:
        show(report)


def _fit(asked: Inputs, global_batch: int | None, plot: str | None, as_json: bool, force: bool) -> None:
    """Every layout on some GPUs."""
    from memmodel.models.choices import model_case
    from memmodel.models.fit import VARIED, fit_model
    from memmodel.models.predict import architecture

    setting = asked.setting
    gpus = setting.pop("gpus", None)
    if gpus is None:
        raise UsageError("--fit without --gpus: say how many GPUs there are, such as --gpus 64")
    if plot is not None:
        check_picture(plot, force)
    given = {name: setting.pop(name) for name in VARIED if name in setting}
    case = model_case(architecture(asked.given.get("like"), asked.given.get("config")), **setting)
    with busy("trying layouts"):
        report = fit_model(
            case, asked.gpu, gpus, sequences=global_batch, given=given, allocator=asked.allocator,
            calibration=asked.calibration, link=asked.given.get("link"), gpus_per_node=asked.given.get("gpus_per_node"),
        )  # fmt: skip
    if as_json:
        print_json(report.to_dict())
    else:
        show(report)
    if plot is not None:
        save([report], plot)
        tell(plot)


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
    with busy("tracing the step of Hugging Face's class"):
        found = against_hugging_face(case, config, report.prediction.memory, report.gpu)
    if as_json:
        from memmodel.report.json import document

        print_json(document(found))
    else:
        from memmodel.report.model import against_parts

        show(*against_parts(report, found))
