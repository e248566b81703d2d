"""`memmodel trace`."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memmodel.base.errors import UsageError
from memmodel.cli.commands import SIZE, argument, option, subcommand
from memmodel.cli.options import Inputs, at_most_one, inputs, json_option
from memmodel.cli.output import busy, check_picture, force_option, lent_streams, print_json, put, show
from memmodel.cli.sweep import ranges, write_rows

if TYPE_CHECKING:
    from memmodel.tracer.hugging_face import HfStep
    from memmodel.tracer.result import Trace


@subcommand(
    "trace",
    "memmodel trace model:attention --input q=B,H,N,D:bf16 --input k=B,H,N,D:bf16 \\",
    "    --input v=B,H,N,D:bf16 --train --at B=8,H=12,N=16k,D=64 --gpu A100",
    "memmodel trace train.py:step --input x=B,N,512 --step --at B=8,N=2048",
    "memmodel trace train.py:step --input x=B,N,512 --step --at B=8 --sweep N=1k:8k:*2",
    "memmodel trace train.py:step --input x=B,N,512 --step -o timeline.svg",
    "memmodel trace --hf config.json --train --optimizer adamw --at B=4,N=4096 --gpu A100",
    "memmodel trace train.py:step --input x=B,N,512 --step --world 64",
)
@argument("function", metavar="PACKAGE.MODULE:FUNCTION", required=False)
@option("--hf", metavar="CONFIG.json|CLASS", help="Instead: a Hugging Face model, built without its weights.")
@option("--optimizer", metavar="NAME", help="With --hf --train: the optimizer that runs, such as adamw.")
@option("--checkpointing", is_flag=True, help="With --hf --train: layers are recomputed in backward.")
@option("--dtype", metavar="DTYPE", help="With --hf: of the weights. [default: the configuration's]")
@option(
    "--input", "inputs", multiple=True, metavar="NAME=SIZES:DTYPE", help="A tensor it takes: q=B,H,N,D:bf16. Repeat."
)
@option("--train", is_flag=True, help="Forward and backward, from the result's gradient.")
@option("--loss", metavar="NAME", help="With --train, the result that backward starts from. [default: the loss]")
@option("--forward", is_flag=True, help="Forward alone, kept for backward.")
@option("--step", "own", is_flag=True, help="The function runs backward and its optimizer itself.")
@option("--world", type=SIZE, help="Of many GPUs, how many: the file runs as each rank would.")
@option("--rank", type=SIZE, help="The rank to trace. [default: those that differ]")
@option("--gpus-per-node", type=SIZE, help="GPUs of a machine. [default: 8]")
@option("--compiled", is_flag=True, help="The function after torch.compile, as its compiler plans the buffers.")
@option("--at", metavar="SIZES", help="The sizes that numbers are for: N=16384,B=8 or N=16k.")
@option("--over", metavar="LETTER", help="Find the largest value of this size that fits on the GPU.")
@option(
    "--torch", "torch_version", metavar="VERSION", help="PyTorch version, 2.4 to 2.15. [default: the one installed]"
)
@option("--no-formulas", is_flag=True, help="Numbers alone: one run, not a second in letters.")
@option("--most-operators", type=SIZE, help="Give up after so many. [default: 400,000]")
@inputs("gpu", "allocator")
@option("--sweep", metavar="LETTER=SIZES", help="Many sizes, as CSV or JSON: N=1k:64k:*2.")
@option("--stack", is_flag=True, help="The calls that led to each line of the peak.")
@option("--latex", is_flag=True, help="The formulas alone, as LaTeX.")
@option("--timeline", is_flag=True, help="A picture of what is in memory through the step.")
@option("--output", "-o", metavar="FILE", help="Draw that picture into FILE.svg or FILE.png.")
@force_option
@json_option
def command(
    asked: Inputs,
    function: str | None,
    hf: str | None,
    optimizer: str | None,
    checkpointing: bool,
    dtype: str | None,
    train: bool,
    forward: bool,
    own: bool,
    at: str | None,
    no_formulas: bool,
    sweep: str | None,
    stack: bool,
    latex: bool,
    timeline: bool,
    output: str | None,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Trace a PyTorch function: its memory in numbers, by line and as formulas, without a GPU.

    Runs the function's code on tensors that have shapes and no data.
    """
    step = "train" if train else "forward" if forward else "own" if own else "inference"
    settings: dict[str, Any] = {"gpu": asked.gpu, "config": asked.allocator, "step": step}
    settings |= {name: value for name, value in given.items() if value is not None}
    try:
        with busy("importing torch"):
            from memmodel.tracer.api import imported, trace
            from memmodel.tracer.specs import parse_at
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UsageError("tracing a function needs PyTorch: pip install torch (its CPU build is enough)") from None
    at_most_one(train=train, forward=forward, step=own)
    pictured = timeline or output is not None
    at_most_one(sweep=sweep, latex=latex, timeline=pictured)
    if output is not None:
        check_picture(output, force)
    if given["world"] is None:
        alone = [name for name in ("rank", "gpus_per_node") if given[name] is not None]
        if alone:
            raise UsageError(f"--{alone[0].replace('_', '-')} goes with --world, the number of GPUs")
    notes: tuple[str, ...] = ()
    called: Any
    if hf is not None:
        at_most_one(hf=hf, world=given["world"])
        built = _hugging_face(function, hf, train, optimizer, checkpointing, dtype, settings)
        called, notes = built.function, built.notes
        settings |= {"inputs": built.inputs, "step": built.step}
    else:
        named = _named(function, optimizer=optimizer, checkpointing=checkpointing, dtype=dtype)
        with busy(f"importing {named}"), lent_streams():
            called = imported(named, asked.gpu) if given["world"] is None else named

    def traced(sizes: Mapping[str, int] | str | None, formulas: bool) -> "Trace":
        with busy("tracing") as say, lent_streams():
            found = trace(called, at=sizes, formulas=formulas, progress=say, **settings)
        return replace(found, notes=(*found.notes, *notes))

    if sweep is not None:
        letter, _, sizes = sweep.partition("=")
        if not letter or not sizes:
            raise UsageError(f"--sweep {sweep}: expected a letter and its sizes, such as N=1k:64k:*2")
        at_sizes = parse_at(at or "")
        rows = (traced({**at_sizes, letter: size}, False).row() for size in ranges(sizes, f"--sweep {letter}"))
        write_rows(rows, "json" if as_json else "csv", sys.stdout)
        return
    found = traced(at, not (no_formulas or pictured))
    if stack:
        found = replace(found, lines=tuple(line.with_stack() for line in found.lines))
    if pictured:
        put([found.timeline()], output, as_json)
    elif latex:
        print(found.latex())
    elif as_json:
        print_json(found.to_dict())
    else:
        show(found)


def _named(function: str | None, **of_models: Any) -> str:
    """The function's name. Raises UsageError where there is none, or options that it does not have."""
    if function is None:
        raise UsageError("nothing to trace: give PACKAGE.MODULE:FUNCTION, or --hf with a config.json or a class")
    given = next((name for name, value in of_models.items() if value), None)
    if given:
        raise UsageError(f"--{given}: goes with --hf alone; in a function it is the code that says so")
    return function


def _hugging_face(
    function: str | None,
    source: str,
    train: bool,
    optimizer: str | None,
    checkpointing: bool,
    dtype: str | None,
    settings: Mapping[str, Any],
) -> "HfStep":
    from memmodel.tracer.corrections.torch_types import dtype_named
    from memmodel.tracer.hugging_face import hf_step

    if function is not None:
        raise UsageError(f"{function} and --hf {source}: one of them")
    if settings["step"] in ("own", "forward") or settings.get("inputs"):
        raise UsageError("--hf: the inputs and the step are the model's: take --train, or neither")
    kind = dtype_named(dtype) if dtype else None
    with busy("building the model"), lent_streams():
        return hf_step(source, train=train, optimizer=optimizer, checkpointing=checkpointing, dtype=kind)
