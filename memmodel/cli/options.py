"""Options that commands share: the case, the GPU, the output."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from memmodel.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


class SizeType(click.ParamType):  # type: ignore[type-arg]
    """A size: a whole number, with 4096, 16k (= 16384) or 1M (= 1048576) as people write them."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        text = str(value).strip().replace("_", "").casefold()
        factor = {"k": 1024, "m": 1024**2}.get(text[-1:], 1)
        digits = text[:-1] if factor > 1 else text
        try:
            return int(digits) * factor
        except ValueError:
            name = param.opts[0] if param else "size"
            shown = value if str(value).strip() else repr(value)
            raise UsageError(f"{name} {shown}: expected a whole number such as 4096 or 16k") from None


SIZE = SizeType()


def _complete_gpus(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from memmodel.gpus import gpu_ids

    return [name for name in (*gpu_ids(), "local") if name.startswith(incomplete.casefold())]


def _complete_algorithms(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from memmodel.algorithms import ALGORITHMS

    return [name for name in ALGORITHMS if name.startswith(incomplete.casefold())]


def gpu_options(function: F) -> F:
    """Which GPU."""
    function = click.option("--gpu-file", metavar="FILE", help="A TOML file that describes the GPU.")(function)
    return click.option(
        "--gpu",
        metavar="NAME",
        shell_complete=_complete_gpus,
        help="A GPU's name (`memmodel gpus` lists them), or `local` for this machine's. [default: A100]",
    )(function)


def case_options(function: F) -> F:
    """The configuration of attention."""
    options = [
        click.option(
            "--like",
            metavar="MODEL",
            help="Take heads, head dim and mask of a known model: llama-3-8b, gpt2, ...",
        ),
        click.option("--batch", type=SIZE, help="Sequences in the batch. [default: 1]"),
        click.option("--heads", type=SIZE, help="Query heads. [default: 32]"),
        click.option("--kv-heads", type=SIZE, help="Key and value heads, a divisor of heads. [default: heads]"),
        click.option("--seq", type=SIZE, help="Queries. [default: 4096]"),
        click.option("--kv-seq", type=SIZE, help="Keys. [default: seq]"),
        click.option("--head-dim", type=SIZE, help="Size of a head. [default: 128]"),
        click.option("--dtype", metavar="TYPE", help="bf16, fp16, fp32 or fp64. [default: bf16]"),
        click.option("--mask", metavar="MASK", help="none, causal or window. [default: none]"),
        click.option("--window", type=SIZE, help="Keys a query sees, itself included."),
        click.option("--dropout", type=float, help="Probability of dropout. [default: 0]"),
        click.option("--phase", metavar="PHASE", help="inference, forward or train. [default: train]"),
        click.option("--chunk", type=SIZE, help="Queries at a time in `chunked`. [default: 1024]"),
        click.option("--torch", metavar="VERSION", help="PyTorch version, 2.4 to 2.15. [default: 2.13]"),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def algorithm_option(function: F) -> F:
    """Which algorithms."""
    return click.option(
        "--algorithm",
        "-a",
        "algorithms",
        metavar="NAMES",
        shell_complete=_complete_algorithms,
        help="naive, naive-by-hand, flash, flash-deterministic, chunked, checkpointed, compiled, decode; several with "
        "commas. [default: naive,flash]",
    )(function)


def alloc_option(function: F) -> F:
    """The allocator's setting that matters most."""
    return click.option(
        "--expandable-segments", is_flag=True, help="As with PYTORCH_ALLOC_CONF=expandable_segments:True."
    )(function)


def calibration_option(function: F) -> F:
    """Where expected times come from."""
    return click.option(
        "--calibration",
        metavar="FILE",
        help="Rates measured by `memmodel calibrate`. [default: those of --gpu local, else shipped ones if any]",
    )(function)


def chosen_calibration(path: str | None, gpu: str | None, device: Any) -> Any:
    """The calibration that the options name: a file, this machine's for `--gpu local`, or None for a shipped one."""
    from memmodel.timing.known import local, read_calibration

    if path is not None:
        return read_calibration(path)
    return local(device.id) if gpu is not None and gpu.casefold() == "local" else None


def chosen_gpu(gpu: str | None, gpu_file: str | None) -> Any:
    """The GPU that the options name."""
    from memmodel.gpus import load_gpu, load_gpu_file, local_gpu

    if gpu_file is not None:
        if gpu is not None:
            raise UsageError(f"--gpu {gpu} and --gpu-file {gpu_file}: give one of them")
        return load_gpu_file(gpu_file)
    name = "A100" if gpu is None else gpu
    return local_gpu() if name.casefold() == "local" else load_gpu(name)


def case_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `predict` from the case options given, on top of a model's shape."""
    from memmodel.models import model_shape

    like = options.pop("like", None)
    given = {name: value for name, value in options.items() if value is not None}
    shape = {} if like is None else model_shape(like)
    if "mask" in given and given["mask"].casefold() != "window":
        shape.pop("window", None)
        if given["mask"].casefold() == "none" and "window" in given:
            raise UsageError(f"--mask none and --window {given['window']}: give one of them")
    return {**shape, **given}


def config(expandable_segments: bool) -> Any:
    """Allocator settings from the options."""
    from memmodel.allocator import AllocatorConfig

    return AllocatorConfig(expandable_segments=expandable_segments)


def split_names(text: str | None) -> list[str] | None:
    """Comma-separated names; None where none were given."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{text!r}: expected at least one name")
    return names


def print_json(data: Any) -> None:
    """Print as indented JSON."""
    import json

    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def examples(*commands: str) -> str:
    """Commands as the epilogue of a help text, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def show(*parts: Any) -> None:
    """Print in the terminal's width; where output is not a terminal in 80 columns, without spaces at line ends."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(*parts, sep="\n")
    else:
        from memmodel.report.tables import text

        sys.stdout.write("".join(text(part, width=80) for part in parts))
