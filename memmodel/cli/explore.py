"""`memmodel explore`."""

from memmodel.base.errors import UsageError
from memmodel.cli.commands import subcommand
from memmodel.cli.options import Inputs, inputs
from memmodel.cli.output import busy, writes


@subcommand(
    "explore",
    "memmodel explore -o explorer.html",
    "memmodel explore --model llama-3-8b --gpu A100,H100 --set checkpoint=block -o step.html",
)
@inputs("all gpus", "a model")
@writes("-o explorer.html", (".html",), "FILE.html; it opens in a browser, needs no network and no server.")
def command(asked: Inputs, kind: str) -> str:
    """Write one interactive page that computes predictions by itself.

    Of attention, with its timeline, roofline and frontier; or with --model of a whole step, by batch, length and GPU.
    """
    if "model" not in asked.given:
        from memmodel.explorer.page import explorer_page

        if "gpu" in asked.given or "gpu_file" in asked.given:
            raise UsageError("explore --gpu: the page of attention has all GPUs, leave it out or give --model too")
        with busy("recording every algorithm on symbols"):
            return explorer_page()
    from memmodel.explorer.step_page import step_page
    from memmodel.gpus import all_gpus

    named = {"gpu", "gpu_file"} & asked.given.keys()
    with busy("recording the step at some sizes"):
        return step_page(asked.model_case, asked.gpus if named else all_gpus())
