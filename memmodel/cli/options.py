"""Options that several commands share, and the values that they stand for."""

from collections.abc import Callable, Iterable
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any

import click

from memmodel.errors import UsageError
from memmodel.units import parse_seconds, parse_size

if TYPE_CHECKING:
    from memmodel.allocator import AllocatorConfig
    from memmodel.case import Case
    from memmodel.gpus import Gpu
    from memmodel.models.results import ModelReport
    from memmodel.models.setting import ModelCase
    from memmodel.prediction import Report
    from memmodel.timing import Calibration

Function = Callable[..., Any]
Decorator = Callable[[Function], Any]


class Command(click.Command):
    """A command that refuses an empty value: "" is a variable that a script left unset, not a choice."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, and name the first empty value. Raises UsageError."""
        rest = super().parse_args(ctx, args)
        for param in self.params:
            given = ctx.params.get(param.name or "")
            if given == "" or (isinstance(given, tuple) and "" in given):
                raise UsageError(f"{param.opts[0]} '': expected a value, or leave {param.opts[0]} out")
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, those with a title of their own after the others."""
        titles: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                titles.setdefault(getattr(param, "title", "Options"), []).append(record)
        for title in sorted(titles, key=lambda each: each != "Options"):
            with formatter.section(title):
                formatter.write_dl(titles[title])


def subcommand(name: str, *examples: str) -> Decorator:
    """Make a function the command `name`, with examples at the end of its help."""
    epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples) if examples else None
    return click.command(name, cls=Command, epilog=epilog)


class SizeType(click.ParamType):  # type: ignore[type-arg]
    """A whole number, written 4096, 16k (= 16384) or 1M (= 1048576)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number. Raises UsageError for anything else."""
        return parse_size(str(value), param.opts[0] if param else "size")


SIZE = SizeType()


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def completing(names: Callable[[], Iterable[str]]) -> Callable[..., list[str]]:
    """Shell completion of an option's value from `names`."""
    return lambda ctx, param, incomplete: [name for name in names() if name.startswith(incomplete.casefold())]


class GroupedOption(click.Option):
    """An option that help lists below a title of its own."""

    title = "Many GPUs"


def grouped(*args: Any, **settings: Any) -> Decorator:
    """An option of the group "Many GPUs"."""
    return click.option(*args, cls=GroupedOption, **settings)


class NamesOption(click.Option):
    """An option whose help lists its valid names in place of {names}, which are imported only to print help."""

    def __init__(self, *args: Any, names: Callable[[], Iterable[str]], **settings: Any) -> None:
        self._names = names
        super().__init__(*args, shell_complete=completing(names), **settings)

    @property
    def help(self) -> str:
        """The help text."""
        return self._text.format(names=", ".join(self._names()))

    @help.setter
    def help(self, text: str | None) -> None:
        self._text = text or ""


def _gpu_names() -> list[str]:
    from memmodel.gpus import gpu_ids

    return [*gpu_ids(), "local"]


def _algorithm_names() -> list[str]:
    from memmodel.algorithms import ALGORITHMS

    return list(ALGORITHMS)


def _formats() -> list[str]:
    from memmodel.models.quantization import FORMATS

    return list(FORMATS)


def _cache_formats() -> list[str]:
    from memmodel.models.kv_cache import NAMES

    return list(NAMES)


def _optimizer_names() -> list[str]:
    from memmodel_kernels.optimizers import OPTIMIZERS

    return list(OPTIMIZERS)


def _model_names() -> list[str]:
    from memmodel.models.catalogue import models

    return list(models())


def _kernel_names() -> list[str]:
    from memmodel.timing.serving.stacks import RULES

    return list(RULES)


_SIZES = {
    "batch": "Sequences in the batch. [default: 1]",
    "heads": "Query heads. [default: 32]",
    "kv_heads": "Key and value heads, a divisor of heads. [default: heads]",
    "seq": "Queries. [default: 4096]",
    "kv_seq": "Keys. [default: seq]",
    "head_dim": "Size of a head. [default: 128]",
    "value_dim": "Size of a head of values. [default: head-dim]",
}
SIZES = tuple(_SIZES)
_LIKE = click.option(
    "--like",
    metavar="MODEL",
    shell_complete=completing(_model_names),
    help="Take heads, head dim and mask of a model, such as llama-3-8b (`memmodel models` lists them).",
)
_KIND = (
    click.option("--dtype", metavar="TYPE", help="bf16, fp16, fp32, fp64, or fp8 (flash-attn-3). [default: bf16]"),
    click.option("--mask", metavar="MASK", help="none, causal or window. [default: none]"),
    click.option("--window", type=SIZE, help="Keys a query sees, itself included."),
    click.option("--sink-keys", type=SIZE, help="First keys that stay seen beside the window. [default: 0]"),
    click.option("--dropout", type=float, help="Probability of dropout. [default: 0]"),
    click.option("--phase", metavar="PHASE", help="inference, forward or train. [default: train]"),
    click.option("--chunk", type=SIZE, help="Queries at a time in `chunked`. [default: 1024]"),
    click.option("--page-size", type=SIZE, help="Keys in a page of `decode`'s KV cache. [default: no pages]"),
    click.option("--cache-dtype", metavar="TYPE", help="Of that cache: also fp8, fp8_e5m2. [default: dtype]"),
    click.option("--num-splits", type=SIZE, help="Parts in which `decode` reads the keys. [default: by SMs]"),
    click.option("--bias", metavar="KIND", help="Added to scores: fixed, learned or alibi. [default: none]"),
    click.option("--softcap", type=float, help="c in c tanh(scores / c). [default: none]"),
    click.option("--sinks", is_flag=True, help="A learned logit a head in every row's softmax, as in gpt-oss."),
    click.option("--deterministic", is_flag=True, help="As torch.use_deterministic_algorithms(True)."),
    click.option("--torch", metavar="VERSION", help="PyTorch version, 2.4 to 2.15. [default: 2.13]"),
)


def _gpu_options(metavar: str, text: str) -> tuple[Decorator, ...]:
    return (
        click.option("--gpu", metavar=metavar, shell_complete=completing(_gpu_names), help=text),
        click.option(
            "--gpu-file", metavar="FILE", help="A TOML file that describes the GPU (`memmodel gpus --help` shows one)."
        ),
    )


_NAMED = "(`memmodel gpus` lists them), or `local` for this machine's"
_GROUPS: dict[str, tuple[Decorator, ...]] = {
    "gpu": _gpu_options("NAME", f"A GPU's name {_NAMED}. [default: A100]"),
    "gpus": _gpu_options("NAMES", f"A GPU's name {_NAMED}; several with commas, or `all`. [default: A100]"),
    "all gpus": _gpu_options(
        "NAMES", f"GPUs' names {_NAMED}, or GPU files (.toml), with commas; or `all`. [default: all]"
    ),
    "any gpus": _gpu_options("NAMES", f"GPUs to fit and time each on: names {_NAMED}. [default: none]"),
    "case": (_LIKE, *(click.option(_flag(name), type=SIZE, help=text) for name, text in _SIZES.items()), *_KIND),
    "ranges": (
        _LIKE,
        *(click.option(_flag(name), metavar="SIZES", help=text) for name, text in _SIZES.items()),
        *_KIND,
    ),
    "algorithms": (
        click.option(
            "--algorithm",
            "-a",
            "algorithms",
            cls=NamesOption,
            names=_algorithm_names,
            metavar="NAMES",
            help="{names}; several with commas. [default: naive,flash]",
        ),
    ),
    "algorithm": (
        click.option(
            "--algorithm",
            "-a",
            "algorithms",
            cls=NamesOption,
            names=_algorithm_names,
            metavar="NAME",
            help="One of {names}. [default: flash]",
        ),
    ),
    "model": (
        click.option(
            "--like",
            metavar="MODEL",
            shell_complete=completing(_model_names),
            help="A model, such as llama-3-8b (`memmodel models` lists them).",
        ),
        click.option("--config", metavar="FILE", help="Or a config.json in Hugging Face's format, or its folder."),
    ),
    "a model": (
        click.option(
            "--model",
            metavar="MODEL",
            shell_complete=completing(_model_names),
            help="A whole model's step, not attention: a name (`memmodel models`) or a config.json.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="NAME=VALUE",
            help="With --model: an option of `memmodel model`, such as checkpoint=block.",
        ),
    ),
    "setting": (
        click.option("--batch", type=SIZE, help="Sequences in a micro-batch. [default: 1]"),
        click.option("--seq", type=SIZE, help="Tokens of each; in decode those in the cache. [default: 4096]"),
        click.option("--phase", metavar="PHASE", help="train, prefill or decode. [default: train]"),
        click.option("--dtype", metavar="TYPE", help="bf16, fp16 or fp32, of weights and activations. [default: bf16]"),
        click.option(
            "--optimizer", cls=NamesOption, names=_optimizer_names, metavar="NAME", help="{names}. [default: adamw]"
        ),
        click.option(
            "--checkpoint",
            metavar="WHAT",
            help="What is recomputed: none, block, selective or attention. [default: none]",
        ),
        click.option(
            "--attention",
            cls=NamesOption,
            names=_algorithm_names,
            metavar="NAME",
            help="sdpa (PyTorch's choice), {names}. [default: sdpa]",
        ),
        click.option(
            "--loss",
            metavar="LOSS",
            help="full (in fp32), native (in --dtype), chunked, chunked-logits or fused. [default: full]",
        ),
        click.option("--chunks", type=SIZE, help="Chunks of --loss chunked. [default: 8]"),
        click.option("--lora", type=SIZE, metavar="RANK", help="Freeze the model; adapters of this rank learn."),
        click.option("--lora-targets", metavar="NAMES", help="Linear layers with an adapter, or all. [default: q,v]"),
        click.option("--lora-dtype", metavar="TYPE", help="Of adapters: fp32, or the model's. [default: fp32]"),
        click.option("--lora-dropout", type=float, help="Its probability, on adapters' inputs. [default: 0]"),
        click.option("--dora", is_flag=True, default=None, help="With DoRA's magnitudes."),
        click.option("--qlora", is_flag=True, default=None, help="With the frozen linear layers in NF4."),
        click.option("--masters", is_flag=True, default=None, help="fp32 copies of parameters and of gradients."),
        click.option("--in-backward", is_flag=True, default=None, help="Update each parameter as its gradient comes."),
        click.option("--keep-logits", is_flag=True, default=None, help="The caller holds the logits in backward."),
        click.option("--offload", is_flag=True, default=None, help="What layers save for backward waits on the host."),
        click.option("--repeat-kv", is_flag=True, default=None, help="Keys and values repeated to all heads for sdpa."),
        click.option("--accumulate", type=SIZE, help="Micro-batches before the optimizer runs. [default: 1]"),
        click.option(
            "--quantize",
            cls=NamesOption,
            names=_formats,
            metavar="FORMAT",
            help="Weights of linear layers in generation: {names}. [default: none]",
        ),
        click.option(
            "--kv-cache",
            cls=NamesOption,
            names=_cache_formats,
            metavar="FORMAT",
            help="Keys and values: {names}. [default: auto, as --dtype]",
        ),
        click.option("--clip", is_flag=True, default=None, help="Clip gradients by their norm."),
        click.option("--fused-norms", is_flag=True, default=None, help="RMS norms by PyTorch's one function."),
        click.option("--dropout", type=float, help="Its probability on the residual branches. [default: 0]"),
        click.option("--attention-dropout", type=float, help="Its probability on the scores. [default: 0]"),
        click.option("--autocast", is_flag=True, default=None, help="Weights in fp32, products in --dtype."),
        click.option("--torch", metavar="VERSION", help="PyTorch version, 2.4 to 2.15. [default: 2.13]"),
    ),
    "layout": (
        grouped("--gpus", type=SIZE, help="How many there are. [default: the product of these]"),
        grouped("--tp", type=SIZE, help="Ranks that share each layer (tensor parallel). [default: 1]"),
        grouped("--sequence-parallel", is_flag=True, default=None, help="With --tp: these share the tokens too."),
        grouped("--pp", type=SIZE, help="Ranks that share the layers (pipeline stages). [default: 1]"),
        grouped("--dp", type=SIZE, help="Replicas of the model (DDP). [default: 1]"),
        grouped("--dp-shard", type=SIZE, help="Ranks of a replica that share its state (FSDP). [default: 1]"),
        grouped("--zero", type=int, help="What these share: 0 nothing, 1 optimizer, 2 gradients, 3 all. [default: 3]"),
        grouped("--reshard/--no-reshard", default=None, help="Zero 3: gather again in backward. [default: reshard]"),
        grouped("--cp", type=SIZE, help="Ranks that share each sequence (context parallel). [default: 1]"),
        grouped("--ep", type=SIZE, help="Ranks that share the experts, of dp, dp-shard and cp. [default: 1]"),
        grouped("--schedule", metavar="NAME", help="Of stages: gpipe, 1f1b or interleaved. [default: 1f1b]"),
        grouped("--virtual-stages", type=SIZE, help="Of a rank, in interleaved. [default: 2]"),
        grouped("--microbatches", type=SIZE, help="Of --batch sequences, that a step sends. [default: 1]"),
    ),
    "allocator": (
        click.option("--expandable-segments", is_flag=True, help="As PYTORCH_ALLOC_CONF=expandable_segments:True."),
    ),
    "rates": (
        click.option(
            "--calibration",
            metavar="FILE",
            help="Rates measured by `memmodel calibrate`. [default: those of --gpu local, else shipped ones if any]",
        ),
    ),
    "serving": (
        click.option(
            "--host",
            metavar="TIME",
            help="What an operation takes the host, such as 8us; 0s for a CUDA graph. [default: 20us, at most 48]",
        ),
        click.option(
            "--kernel",
            metavar="NAME",
            cls=NamesOption,
            names=_kernel_names,
            help="Whose time is expected of flash and decode in inference: {names}. [default: vLLM's on the GPU]",
        ),
    ),
}
_SETTING = (
    *("batch", "seq", "phase", "dtype", "optimizer", "checkpoint", "attention", "loss", "chunks", "accumulate"),
    *(
        "lora",
        "lora_targets",
        "lora_dtype",
        "lora_dropout",
        "dora",
        "qlora",
        "masters",
        "in_backward",
        "keep_logits",
        "repeat_kv",
        "offload",
        "autocast",
        "attention_dropout",
    ),
    *("quantize", "kv_cache", "clip", "fused_norms", "dropout", "torch"),
    *("gpus", "tp", "sequence_parallel", "pp", "dp", "dp_shard", "zero", "reshard", "cp", "ep"),
    *("schedule", "virtual_stages", "microbatches"),
)
_CACHE = ("page_size", "cache_dtype", "num_splits")
_CASE = (
    *SIZES,
    "like",
    "dtype",
    "mask",
    "window",
    "sink_keys",
    "dropout",
    "phase",
    "chunk",
    *_CACHE,
    "bias",
    "softcap",
    "sinks",
    "deterministic",
    "torch",
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON, with the keys of docs/json.md.")


def inputs(*groups: str) -> Decorator:
    """Give a command the options of the groups; it gets their values as its first argument, one `Inputs`.

    The groups are "gpu" (or "gpus", or "all gpus" where all are the default, or "any gpus" where none is a choice),
    "case" or (with ranges of sizes) "ranges", "algorithms" (or "algorithm"), "allocator", "rates" and "serving"; of a
    whole model, "model", "setting" and "layout".
    """

    def decorate(function: Function) -> Function:
        @wraps(function)
        def run(**given: Any) -> Any:
            return function(Inputs({name: given.pop(name) for name in names}), **given)

        params: list[click.Parameter] = run.__dict__.setdefault("__click_params__", [])
        others = len(params)
        for option in reversed([option for group in groups for option in _GROUPS[group]]):
            option(run)
        names = [str(param.name) for param in params[others:]]
        return run

    return decorate


class Inputs:
    """The values of the shared options. Each is read when it is first used, and raises UsageError if it is wrong."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = {name: value for name, value in given.items() if value is not None}

    @property
    def algorithms(self) -> list[str] | None:
        """The names given; None for the default algorithms."""
        return split_names(self.given.get("algorithms"))

    @cached_property
    def gpu(self) -> "Gpu":
        """The GPU."""
        return chosen_gpu(self.given.get("gpu", "A100"), self.given.get("gpu_file"), "gpu" in self.given)

    @property
    def gpus(self) -> "list[Gpu]":
        """Several GPUs, for names with commas between."""
        return [self.gpu] if "gpu_file" in self.given else list(map(chosen_gpu, self._gpu_names))

    @property
    def any_gpus(self) -> "list[Gpu]":
        """The GPUs that were named; without any, none is taken by default."""
        return self.gpus if {"gpu", "gpu_file"} & self.given.keys() else []

    @property
    def _gpu_names(self) -> list[str]:
        from memmodel.gpus import gpu_ids

        names = split_names(self.given.get("gpu", "A100")) or []
        return [one for name in names for one in (gpu_ids() if name.casefold() == "all" else (name,))]

    @property
    def allocator(self) -> "AllocatorConfig":
        """The caching allocator's settings."""
        from memmodel.allocator import AllocatorConfig

        return AllocatorConfig(expandable_segments=self.given.get("expandable_segments", False))

    @cached_property
    def calibration(self) -> "Calibration | None":
        """The calibration in --calibration, or this machine's for `--gpu local`; None for the shipped one."""
        return self.calibrations[0]

    @cached_property
    def calibrations(self) -> "list[Calibration | None]":
        """`calibration` for each of `gpus`."""
        from memmodel.timing.known import local, read_calibration

        gpus = self.gpus
        if "calibration" in self.given:
            return [read_calibration(self.given["calibration"])] * len(gpus)
        names = ["a file's"] if "gpu_file" in self.given else self._gpu_names
        return [local(gpu.id) if name.casefold() == "local" else None for name, gpu in zip(names, gpus, strict=True)]

    @property
    def case(self) -> dict[str, Any]:
        """The configuration, as the arguments of `predict`."""
        return {name: self.given[name] for name in _CASE if name in self.given}

    @property
    def setting(self) -> dict[str, Any]:
        """The setting of a model's step, as the arguments of `memmodel.model`."""
        return {name: self.given[name] for name in _SETTING if name in self.given}

    @property
    def model_case(self) -> "ModelCase":
        """The case of --model, with the sizes given and what --set says."""
        from memmodel.models.choices import model_case
        from memmodel.models.predict import named_architecture

        given = {name: self.given[name] for name in _SETTING if name in self.given}
        others = [
            name for name in (*_CASE, "algorithms") if self.given.get(name, False) is not False and name not in _SETTING
        ]
        if others:
            raise UsageError(f"--model and {_flag(others[0])}: a whole model has its own, leave one of them out")
        return model_case(named_architecture(self.given["model"]), **given, **_settings(self.given.get("settings", ())))

    def prediction_of_model(self) -> "ModelReport":
        """The prediction of the step of --model."""
        from memmodel.models.predict import predict_model

        return predict_model(self.model_case, self.gpu, self.allocator, self.calibration)

    def model_report(self) -> "ModelReport":
        """The prediction of a model's step."""
        from memmodel.models.predict import model

        return model(
            self.given.get("like"),
            self.gpu,
            config=self.given.get("config"),
            allocator=self.allocator,
            calibration=self.calibration,
            **self.setting,
        )

    def cases(self) -> "list[Case]":
        """The case of each algorithm, on the GPU."""
        from memmodel.predictor import cases_of, on_gpu

        return on_gpu(cases_of(self.algorithms, **self.case), self.gpu)

    def report(self) -> "Report":
        """The prediction."""
        self.gpu  # noqa: B018 - raises for several
        (found,) = self.reports()
        return found

    def reports(self) -> "list[Report]":
        """The prediction on each GPU."""
        from memmodel.predictor import predict

        host = parse_seconds(self.given["host"], "--host") if "host" in self.given else None
        given = {"config": self.allocator, "kernel": self.given.get("kernel"), "host": host, **self.case}
        pairs = zip(self.gpus, self.calibrations, strict=True)
        return [predict(gpu, self.algorithms, calibration=rates, **given) for gpu, rates in pairs]


def _settings(pairs: Iterable[str]) -> dict[str, Any]:
    """The values of --set NAME=VALUE: numbers, true or false, and names. Raises UsageError for other text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals and text):
            raise UsageError(f"--set {pair}: expected NAME=VALUE, such as checkpoint=block")
        found[name.strip().replace("-", "_")] = _value(text.strip())
    return found


def _value(text: str) -> Any:
    if text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    try:
        return parse_size(text)
    except UsageError:
        try:
            return float(text)
        except ValueError:
            return text


def chosen_gpu(name: str = "A100", file: str | None = None, named: bool = False) -> "Gpu":
    """The GPU of a file, of this machine ("local") or of the database. `named`: the user gave the name."""
    from memmodel.gpus import load_gpu, load_gpu_file, local_gpu

    if file is not None:
        if named:
            raise UsageError(f"--gpu {name} and --gpu-file {file}: give one of them")
        return load_gpu_file(file)
    if "," in name or name.casefold() == "all":
        several = "predict, compare, max, sweep and frontier take several"
        raise UsageError(f"--gpu {name}: this command takes one GPU ({several})")
    if name.casefold().endswith(".toml"):
        return load_gpu_file(name)
    return local_gpu() if name.casefold() == "local" else load_gpu(name)


def split_names(text: str | None) -> list[str] | None:
    """Comma-separated names; None where none were given."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{text!r}: expected at least one name")
    return names


def at_most_one(**given: object) -> None:
    """Raise UsageError where more than one of some options is given that exclude each other."""
    names = [_flag(name) for name, value in given.items() if value]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)}: give one of them")
