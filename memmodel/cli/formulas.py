"""`memmodel formulas`."""

from dataclasses import replace

from memmodel.cli.commands import argument, option, subcommand
from memmodel.cli.options import Inputs, at_most_one, inputs, json_option
from memmodel.cli.output import busy, print_json, show


@subcommand(
    "formulas",
    "memmodel formulas naive",
    "memmodel formulas naive --heads 32 --kv-heads 8 --mask causal",
    "memmodel formulas --model gpt3 --seq 2k --set attention=naive",
)
@argument("algorithm", default="naive")
@inputs("gpu", "case", "a model")
@option("--tensors", is_flag=True, help="Every tensor's formula too.")
@option("--latex", is_flag=True, help="LaTeX.")
@json_option
def command(asked: Inputs, algorithm: str, tensors: bool, latex: bool, as_json: bool) -> None:
    """Print the closed forms of an algorithm, derived from the code that runs.

    Of the sizes only equal ones matter, by default kv-heads = heads and kv-seq = seq; of library kernels the head dim
    too. The GPU decides which kernels run.
    """
    if "model" in asked.given:
        at_most_one(model=True, tensors=tensors, latex=latex)
        _of_model(asked, as_json)
        return
    from memmodel.cases import cases_of, on_gpu
    from memmodel.closed_forms import formulas
    from memmodel.report.formulas import formula_parts, latex_lines

    at_most_one(latex=latex, json=as_json)
    (case,) = on_gpu(cases_of([algorithm], **asked.case), asked.gpu)
    with busy("deriving closed forms"):
        forms = formulas(case)
    if as_json:
        from memmodel.report.json import document

        print_json(document(forms))
    elif latex:
        print("\n".join(latex_lines(forms, tensors)))
    else:
        show(*formula_parts(forms, tensors))


def _of_model(asked: Inputs, as_json: bool) -> None:
    """The formulas of a whole model's step, by group."""
    from memmodel.models.letters import model_formulas
    from memmodel.step import device_of

    with busy("deriving closed forms"):
        found = model_formulas(replace(asked.model_case, device=device_of(asked.gpu)))
    if as_json:
        from memmodel.report.json import document

        print_json(document(found))
    else:
        from memmodel.report.model import formula_parts

        show(*formula_parts(found))
