"""Options that several commands share, and the values that they stand for."""

from collections.abc import Iterable, Sequence
from functools import cached_property, partial, wraps
from typing import TYPE_CHECKING, Any

from memmodel.base.errors import UsageError
from memmodel.base.units import finite, parse_number, parse_seconds, parse_size
from memmodel.cli.commands import NUMBER, SIZE, Decorator, Function, Kind, Option, option

if TYPE_CHECKING:
    from memmodel.allocator import AllocatorConfig
    from memmodel.attention.case import Case
    from memmodel.gpus import Gpu
    from memmodel.models.results import ModelReport
    from memmodel.models.setting import ModelCase
    from memmodel.prediction import Report
    from memmodel.timing import Calibration


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def gpu_names() -> list[str]:
    """The names that --gpu takes."""
    from memmodel.gpus import gpu_ids

    return [*gpu_ids(), "local"]


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
_ALGORITHMS = "memmodel.algorithms:ALGORITHMS"
_MODELS = "memmodel.models.catalogue:models"
_GPUS = "memmodel.cli.options:gpu_names"
_LISTED = "(`memmodel gpus` lists them), or `local` for this machine's"
_TORCH = Option("--torch", "VERSION", "PyTorch version, 2.4 to 2.15. [default: 2.13]")
_KIND = (
    Option("--dtype", "TYPE", "bf16, fp16, fp32, fp64, or fp8 (flash-attn-3). [default: bf16]"),
    Option("--mask", "MASK", "none, causal or window. [default: none]"),
    Option("--window", SIZE, "Keys a query sees, itself included."),
    Option("--sink-keys", SIZE, "First keys that stay seen beside the window. [default: 0]"),
    Option("--dropout", NUMBER, "Probability of dropout. [default: 0]"),
    Option("--phase", "PHASE", "inference, forward or train. [default: train]"),
    Option("--chunk", SIZE, "Queries at a time in `chunked`. [default: 1024]"),
    Option("--page-size", SIZE, "Keys in a page of `decode`'s KV cache. [default: no pages]"),
    Option("--cache-dtype", "TYPE", "Of that cache: also fp8, fp8_e5m2. [default: dtype]"),
    Option("--num-splits", SIZE, "Parts in which `decode` reads the keys. [default: by SMs]"),
    Option("--bias", "KIND", "Added to scores: fixed, learned or alibi. [default: none]"),
    Option("--bias-shape", "B,H", "Of that tensor before queries and keys: 1,h b,1 b,h or 1,1. [default: 1,h]"),
    Option(
        "--softcap", Kind("number", partial(parse_number, example="50")), "c in c tanh(scores / c). [default: none]"
    ),
    Option("--sinks", bool, "A learned logit a head in every row's softmax, as in gpt-oss."),
    Option("--deterministic", bool, "As torch.use_deterministic_algorithms(True)."),
    _TORCH,
)
_LENGTHS = Option(
    "--lengths", "SIZES", "Of unlike sequences, such as 100,2k,512, packed or padded; instead of --batch and --seq."
)


def _case(what: Any) -> tuple[Option, ...]:
    """The options of a configuration of attention, whose sizes are of type `what`."""
    text = "Take heads, head dim, mask and soft cap of a model, such as llama-3-8b (`memmodel models` lists them)."
    sizes = (Option(_flag(name), what, of) for name, of in _SIZES.items())
    return Option("--like", "MODEL", text, _MODELS), *sizes, *_KIND


def _gpu(what: str, text: str) -> tuple[Option, ...]:
    file = Option("--gpu-file", "FILE", "A TOML file that describes the GPU (`memmodel gpus --help` shows one).")
    return Option("--gpu", what, text, _GPUS), file


def _layout(flags: str, what: Any, text: str) -> Option:
    return Option(flags, what, text, title="Many GPUs")


_GROUPS: dict[str, tuple[Option, ...]] = {
    "gpu": _gpu("NAME", f"A GPU's name {_LISTED}. [default: A100]"),
    "gpus": _gpu("NAMES", f"A GPU's name {_LISTED}; several with commas, or `all`. [default: A100]"),
    "all gpus": _gpu("NAMES", f"GPUs' names {_LISTED}, or GPU files (.toml), with commas; or `all`. [default: all]"),
    "any gpus": _gpu("NAMES", f"GPUs to fit and time each on: names {_LISTED}. [default: none]"),
    "case": _case(SIZE),
    "lengths": (_LENGTHS,),
    "ranges": _case("SIZES"),
    "algorithms": (
        Option(
            "--algorithm -a algorithms", "NAMES", "{names}; several with commas. [default: naive,flash]", _ALGORITHMS
        ),
    ),
    "algorithm": (Option("--algorithm -a algorithms", "NAME", "One of {names}. [default: flash]", _ALGORITHMS),),
    "model": (
        Option("--like", "MODEL", "A model, such as llama-3-8b (`memmodel models` lists them).", _MODELS),
        Option("--config", "FILE", "Or a config.json in Hugging Face's format, or its folder."),
    ),
    "a model": (
        Option(
            "--model",
            "MODEL",
            "A whole model's step, not attention: a name (`memmodel models`) or a config.json.",
            _MODELS,
        ),
        Option(
            "--set settings",
            "NAME=VALUE",
            "With --model: an option of `memmodel model`, such as checkpoint=block.",
            multiple=True,
        ),
    ),
    "setting": (
        Option("--batch", SIZE, "Sequences in a micro-batch. [default: 1]"),
        Option("--seq", SIZE, "Tokens of each; in decode those in the cache. [default: 4096]"),
        Option("--source", SIZE, "Tokens that an encoder before the decoder reads (T5). [default: seq]"),
        Option("--phase", "PHASE", "train, prefill or decode. [default: train]"),
        Option("--dtype", "TYPE", "bf16, fp16 or fp32, of weights and activations. [default: bf16]"),
        Option("--optimizer", "NAME", "{names}. [default: adamw]", "memmodel_kernels.optimizers:OPTIMIZERS"),
        Option("--checkpoint", "WHAT", "What is recomputed: none, block, selective or attention. [default: none]"),
        Option(
            "--attention",
            "NAME",
            "{names}; eager is Hugging Face's operators. [default: sdpa, PyTorch's choice; eager where it lacks the "
            "model's soft cap or sinks]",
            "memmodel.models.choices:attentions",
        ),
        Option(
            "--loss",
            "LOSS",
            "full (in fp32), native (in --dtype), in-place, chunked, chunked-logits or fused. [default: full]",
        ),
        Option("--chunks", SIZE, "Chunks of --loss chunked. [default: 8]"),
        Option("--lora", SIZE, "Freeze the model; adapters of this rank learn.", metavar="RANK"),
        Option("--lora-targets", "NAMES", "Linear layers with an adapter, or all. [default: q,v]"),
        Option("--lora-dtype", "TYPE", "Of adapters: fp32, or the model's. [default: fp32]"),
        Option("--lora-dropout", NUMBER, "Its probability, on adapters' inputs. [default: 0]"),
        Option("--dora", bool, "With DoRA's magnitudes."),
        Option("--qlora", bool, "With the frozen linear layers in NF4."),
        Option("--masters", bool, "fp32 copies of parameters and of gradients."),
        Option("--in-backward", bool, "Update each parameter as its gradient comes."),
        Option("--keep-logits", bool, "The caller holds the logits in backward."),
        Option("--offload", bool, "What layers save for backward waits on the host."),
        Option("--repeat-kv", bool, "Keys and values repeated to all heads for sdpa."),
        Option("--microbatches --accumulate", SIZE, "Of --batch sequences, before the optimizer runs. [default: 1]"),
        Option(
            "--quantize",
            "FORMAT",
            "Weights of linear layers in generation: {names}. [default: none]",
            "memmodel.models.quantization:FORMATS",
        ),
        Option(
            "--kv-cache",
            "FORMAT",
            "Keys and values: {names}. [default: auto, as --dtype]",
            "memmodel.models.kv_cache:NAMES",
        ),
        Option("--capacity", NUMBER, "Of an expert, over its even share of tokens; more are dropped. [default: none]"),
        Option("--clip", bool, "Clip gradients by their norm."),
        Option("--fused-norms", bool, "RMS norms by PyTorch's one function."),
        Option("--compiled", bool, "Layers and loss after torch.compile: fused norms, rotary positions, activations."),
        Option("--eager-loss", bool, "Under --compiled: layers alone, not the loss (torchtitan in 2024)."),
        Option("--dropout", NUMBER, "Its probability on residual branches. [default: the configuration's]"),
        Option("--attention-dropout", NUMBER, "Its probability on the scores. [default: the configuration's]"),
        Option("--embedding-dropout", NUMBER, "Its probability on embeddings. [default: the configuration's]"),
        Option("--autocast", bool, "Weights in fp32, products in --dtype."),
        _TORCH,
    ),
    "layout": (
        _layout("--gpus", SIZE, "How many there are. [default: the product of these]"),
        _layout("--tp", SIZE, "Ranks that share each layer (tensor parallel). [default: 1]"),
        _layout("--sequence-parallel", bool, "With --tp: these share the tokens too."),
        _layout("--pp", SIZE, "Ranks that share the layers (pipeline stages). [default: 1]"),
        _layout("--dp", SIZE, "Replicas of the model (DDP). [default: 1]"),
        _layout("--dp-shard", SIZE, "Ranks of a replica that share its state (FSDP). [default: 1]"),
        _layout("--zero", SIZE, "What these share: 0 nothing, 1 optimizer, 2 gradients, 3 all. [default: 3]"),
        _layout("--reshard/--no-reshard", bool, "Zero 3: gather again in backward. [default: reshard]"),
        _layout("--cp", SIZE, "Ranks that share each sequence (context parallel). [default: 1]"),
        _layout("--ep", SIZE, "Ranks that share the experts, of dp, dp-shard and cp. [default: 1]"),
        _layout("--etp", SIZE, "Megatron-LM: ranks of tp that share an expert's width. [default: tp]"),
        _layout("--dispatcher", "NAME", "Megatron-LM: of tokens, alltoall or allgather. [default: alltoall]"),
        _layout("--schedule", "NAME", "Of stages: gpipe, 1f1b or interleaved. [default: 1f1b]"),
        _layout("--virtual-stages", SIZE, "Of a rank, in interleaved. [default: 2]"),
        _layout("--framework", "NAME", "huggingface, or megatron (Megatron-LM). [default: huggingface]"),
    ),
    "links": (
        _layout("--link", "LINKS", "Between GPUs and machines: pcie-5, 4xib-ndr or both. [default: usual ones]"),
        _layout("--gpus-per-node", SIZE, "GPUs that share a machine. [default: usual number]"),
    ),
    "allocator": (Option("--expandable-segments", bool, "As PYTORCH_ALLOC_CONF=expandable_segments:True."),),
    "rates": (
        Option(
            "--calibration",
            "FILE",
            "Rates measured by `memmodel calibrate`. [default: those of --gpu local, else shipped ones if any]",
        ),
    ),
    "serving": (
        Option(
            "--host",
            "TIME",
            "What an operation takes the host, such as 8us; 0s for a CUDA graph. [default: 9.9us, at most 32]",
        ),
        Option(
            "--kernel",
            "NAME",
            "Whose time is expected of flash and decode in inference: {names}. [default: vLLM's on the GPU]",
            "memmodel.timing.serving.stacks:RULES",
        ),
    ),
}
_CASE, MODEL_SETTINGS = (
    tuple(str(option.name) for group in groups for option in _GROUPS[group])
    for groups in (("case", "lengths"), ("setting", "layout"))
)
json_option = option("--json", "as_json", is_flag=True, help="JSON, with the keys of docs/json.md.")


def inputs(*groups: str) -> Decorator:
    """Give a command the options of the groups; it gets their values as its first argument, one `Inputs`.

    The groups are "gpu" (or "gpus", or "all gpus" where all are the default, or "any gpus" where none is a choice),
    "case" (with "lengths") or (with ranges of sizes) "ranges", "algorithms" (or "algorithm"), "allocator", "rates" and
    "serving"; of a whole model, "model", "setting", "layout" and "links".
    """

    def decorate(function: Function) -> Function:
        @wraps(function)
        def run(**given: Any) -> Any:
            return function(Inputs({name: given.pop(name) for name in names}), **given)

        options = [option for group in groups for option in _GROUPS[group]]
        names = [option.name for option in options]
        run.__dict__.setdefault("parameters", []).extend(reversed(options))  # decorators are applied from below
        return run

    return decorate


class Inputs:
    """The values of the shared options. Each is read when it is first used, and raises UsageError if it is wrong."""

    def __init__(self, given: dict[str, Any], needed: Sequence[str] = ()) -> None:
        self._needed = needed
        self.given = {name: value for name, value in given.items() if value is not None}
        if self.given.get("settings") and "model" not in self.given:
            raise UsageError(f"--set {self.given['settings'][0]}: it is of a whole model, give --model too")

    def needing(self, *quantities: str) -> "Inputs":
        """The same values, where `all` GPUs are those of which these quantities are known."""
        return Inputs(self.given, quantities)

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
        names = split_names(self.given.get("gpu", "A100")) or []
        return [one for name in names for one in (self._all_gpus() if name.casefold() == "all" else (name,))]

    def _all_gpus(self) -> list[str]:
        from memmodel.gpus import all_gpus, gpu_ids

        if not self._needed:
            return list(gpu_ids())
        return [gpu.id for gpu in all_gpus() if gpu.values.keys() >= set(self._needed)]

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
        return {name: self.given[name] for name in MODEL_SETTINGS if name in self.given}

    @property
    def model_case(self) -> "ModelCase":
        """The case of --model, with the sizes given and what --set says."""
        from memmodel.models.choices import model_case
        from memmodel.models.predict import named_architecture

        given = {name: self.given[name] for name in MODEL_SETTINGS if name in self.given}
        own = [name for name in (*_CASE, "algorithms") if name not in MODEL_SETTINGS]
        others = [name for name in own if self.given.get(name, False) is not False]
        if others:
            raise UsageError(f"--model and {_flag(others[0])}: a whole model has its own, leave one of them out")
        return model_case(named_architecture(self.given["model"]), **given, **_settings(self.given.get("settings", ())))

    def prediction_of_model(self) -> "ModelReport":
        """The prediction of the step of --model."""
        self.gpu  # noqa: B018 - raises for several
        (found,) = self.predictions_of_model()
        return found

    def predictions_of_model(self) -> "list[ModelReport]":
        """The prediction of the step of --model on each GPU."""
        from memmodel.models.predict import predict_model

        case, pairs = self.model_case, zip(self.gpus, self.calibrations, strict=True)
        return [predict_model(case, gpu, self.allocator, rates) for gpu, rates in pairs]

    def model_report(self) -> "ModelReport":
        """The prediction of a model's step."""
        from memmodel.models.predict import model

        return model(
            self.given.get("like"),
            self.gpu,
            config=self.given.get("config"),
            allocator=self.allocator,
            calibration=self.calibration,
            link=self.given.get("link"),
            gpus_per_node=self.given.get("gpus_per_node"),
            **self.setting,
        )

    def cases(self, gpu: "Gpu") -> "list[Case]":
        """The case of each algorithm, on a GPU."""
        from memmodel.cases import cases_of, on_gpu

        return on_gpu(cases_of(self.algorithms, **self.case), gpu)

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
    try:  # a size first: 16k is one, and what is neither a size nor a number is a name
        return parse_size(text)
    except UsageError:
        try:
            return finite(text)
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
        several = "predict, compare, max, sweep, timeline, roofline and frontier take several"
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
