"""`memmodel trace`."""

import sys
from contextlib import redirect_stdout

import click

from memmodel.cli.options import alloc_option, chosen_gpu, config, examples, gpu_options, print_json, show
from memmodel.errors import UsageError


@click.command(
    "trace",
    epilog=examples(
        "memmodel trace model:attention --input q=B,H,N,D:bf16 --input k=B,H,N,D:bf16 \\",
        "    --input v=B,H,N,D:bf16 --train --at B=8,H=12,N=16k,D=64 --gpu A100",
        "memmodel trace train.py:step --input x=B,N,512 --step --at B=8,N=2048",
    ),
)
@click.argument("function", metavar="PACKAGE.MODULE:FUNCTION")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=SIZES:DTYPE", help="A tensor it takes: q=B,H,N,D:bf16. Repeat."
)
@click.option("--train", is_flag=True, help="Forward and backward, from the result's gradient.")
@click.option("--forward", is_flag=True, help="Forward alone, kept for backward.")
@click.option("--step", "own", is_flag=True, help="The function runs backward and its optimizer itself.")
@click.option("--compiled", is_flag=True, help="The function after torch.compile, as its compiler plans the buffers.")
@click.option("--at", metavar="SIZES", help="The sizes that numbers are for: N=16384,B=8 or N=16k.")
@click.option("--over", metavar="LETTER", help="Find the largest value of this size that fits on the GPU.")
@click.option("--torch", metavar="VERSION", help="PyTorch version, 2.4 to 2.15. [default: the one installed]")
@click.option("--no-formulas", is_flag=True, help="Numbers alone: one run, not a second in letters.")
@click.option("--most-operators", type=click.IntRange(min=1), help="Give up after so many. [default: 400,000]")
@gpu_options
@alloc_option
@click.option("--json", "as_json", is_flag=True, help="JSON, with the keys of docs/trace.md.")
def command(
    function: str,
    inputs: tuple[str, ...],
    train: bool,
    forward: bool,
    own: bool,
    compiled: bool,
    at: str | None,
    over: str | None,
    torch: str | None,
    no_formulas: bool,
    most_operators: int | None,
    gpu: str | None,
    gpu_file: str | None,
    expandable_segments: bool,
    as_json: bool,
) -> None:
    """Trace a PyTorch function: its memory in numbers, by line and as formulas, without a GPU.

    Runs the function's code on tensors that have shapes and no data.
    """
    device = chosen_gpu(gpu, gpu_file)
    try:
        from memmodel.tracer.api import trace
        from memmodel.tracer.target import target
        from memmodel.tracer.watch import MOST_OPERATORS
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UsageError("tracing a function needs PyTorch: pip install torch (its CPU build is enough)") from None
    steps = [name for name, given in (("train", train), ("forward", forward), ("own", own)) if given]
    if len(steps) > 1:
        raise UsageError("of --train, --forward and --step: choose one")
    with redirect_stdout(sys.stderr):  # what the user's code prints
        found = trace(
            target(function),
            inputs,
            step=steps[0] if steps else "inference",
            at=at,
            gpu=device,
            torch_version=torch,
            over=over,
            formulas=not no_formulas,
            compiled=compiled,
            config=config(expandable_segments),
            most_operators=most_operators or MOST_OPERATORS,
        )
    if as_json:
        print_json(found.to_dict())
    else:
        show(found)
