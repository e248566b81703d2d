"""`memmodel formulas`."""

from typing import Any

import click

from memmodel.cli.options import case_arguments, case_options, examples, print_json, show
from memmodel.errors import UsageError


@click.command(
    "formulas",
    epilog=examples("memmodel formulas naive", "memmodel formulas naive --heads 32 --kv-heads 8 --mask causal"),
)
@click.argument("algorithm", default="naive")
@case_options
@click.option("--tensors", is_flag=True, help="Every tensor's formula too.")
@click.option("--latex", is_flag=True, help="LaTeX.")
@click.option("--json", "as_json", is_flag=True, help="JSON: expressions as text.")
def command(algorithm: str, tensors: bool, latex: bool, as_json: bool, **case: Any) -> None:
    """Print the closed forms of an algorithm, derived from the code that runs.

    Sizes only say which are equal: with the defaults kv-heads = heads and kv-seq = seq.
    """
    from memmodel.closed_forms import formulas
    from memmodel.predictor import cases_of

    if latex and as_json:
        raise UsageError("--latex and --json: give one of them")
    (one,) = cases_of([algorithm], **case_arguments(case))
    forms = formulas(one)
    if as_json:
        from memmodel.report.formulas import formulas_dict

        print_json(formulas_dict(forms))
    elif latex:
        from memmodel.report.formulas import latex_lines

        click.echo("\n".join(latex_lines(forms, tensors)))
    else:
        from memmodel.report.formulas import formula_parts

        show(*formula_parts(forms, tensors))
