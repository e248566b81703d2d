"""A step of a Hugging Face model, built from its configuration on the meta device: no weights, no downloads."""

import inspect
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn, optim

from memmodel.base.errors import UsageError, choice, unknown

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
# Of models whose classes for causal language models are rarely meant.
_HEADS = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "modernbert"), "MASKED_LM"),
    **dict.fromkeys(("t5", "mt5"), "SEQ_TO_SEQ_CAUSAL_LM"),
    **{"whisper": "SPEECH_SEQ_2_SEQ", "vit": "IMAGE_CLASSIFICATION"},
}
OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "adamw": optim.AdamW,
    "adamw-fused": partial(optim.AdamW, fused=True),
    "adam": optim.Adam,
    "sgd": partial(optim.SGD, lr=0.01),
    "sgd-momentum": partial(optim.SGD, lr=0.01, momentum=0.9),
    "adafactor": optim.Adafactor,
}


class HfStep(NamedTuple):
    """The arguments with which `memmodel.trace` traces a step of a Hugging Face model.

    Attributes:
        function: of the inputs; with an optimizer it runs the whole step.
        inputs: name -> sizes and type, in the letters B (sequences or images), N (tokens) and, bare, M (of an encoder
            before a decoder).
        step: of `memmodel.trace`: "inference", "train" or "own".
        notes: what was chosen for the user.
    """

    function: Callable[..., Any]
    inputs: dict[str, str]
    step: str
    notes: tuple[str, ...]


def hf_step(
    source: str,
    *,
    train: bool = False,
    optimizer: str | None = None,
    checkpointing: bool = False,
    dtype: torch.dtype | None = None,
    attention: str | None = None,
    bare: bool = False,
) -> HfStep:
    """A step of the model that a config.json describes, or of a class with its default configuration.

    Args:
        source: a config.json, its folder, or a class of transformers such as LlamaForCausalLM.
        train: whether it is trained: forward and backward, from the loss on its own inputs.
        optimizer: a key of `OPTIMIZERS`, which then runs too.
        checkpointing: whether layers are recomputed in backward (`gradient_checkpointing_enable`).
        dtype: of the weights; as the configuration says unless given, else float32.
        attention: "sdpa" or "eager"; what the class takes by itself unless given.
        bare: without dropout, and in training without a cache of keys and values (Trainer turns that off too).

    Raises UsageError for what transformers does not know or refuses, and where it is not installed.
    """
    if optimizer is not None and not train:
        raise UsageError(f"--optimizer {optimizer}: an optimizer runs in training, add --train")
    if checkpointing and not train:
        raise UsageError("--checkpointing: layers are recomputed in backward, add --train")
    with _offline():
        model, notes = _built(source, dtype, attention)
    if bare:
        _strip(model, train)
    if checkpointing:
        _checkpoint(model)
    model.train(train)
    forward, inputs = _forward(model, train, last=bare and not train), _inputs(model, train, apart=bare)
    if optimizer is None:
        return HfStep(_named(forward, model), inputs, "train" if train else "inference", notes)
    made = OPTIMIZERS[choice("optimizer", optimizer, OPTIMIZERS)](model.parameters())

    def step(**given: Tensor) -> None:
        forward(**given).backward()
        made.step()
        made.zero_grad()

    return HfStep(_named(step, model), inputs, "own", notes)


def _named(function: Callable[..., Any], model: nn.Module) -> Callable[..., Any]:
    function.__qualname__ = type(model).__name__
    return function


@contextmanager
def _offline() -> Iterator[None]:
    """Within, Hugging Face's libraries fetch nothing, and what they raise becomes one sentence."""
    with mock.patch.dict(os.environ, _OFFLINE):
        try:
            import huggingface_hub.constants as settings
            import transformers  # noqa: F401
        except ModuleNotFoundError as error:
            raise UsageError(
                f"a Hugging Face model needs {error.name}, which is not installed: pip install memmodel[hf]"
            ) from None
        # The variables are read at import, which may have been before.
        with mock.patch.object(settings, "HF_HUB_OFFLINE", True):
            yield


def _built(source: str, dtype: torch.dtype | None, attention: str | None) -> tuple[Any, tuple[str, ...]]:
    """The model, and what was chosen for the user."""
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    if path.is_file():
        kind, config, notes = _read(path)
    elif "/" in source or source.endswith(".json"):
        raise UsageError(
            f"--hf {source}: there is no such file, and models are not fetched: give the path of its config.json, or a "
            "class of transformers such as LlamaForCausalLM"
        )
    else:
        kind = _class(source.removeprefix("transformers.").removeprefix("transformers:"))
        config, notes = _with_sentence(source, kind.config_class), ["the class's default configuration"]
    dtype = dtype or getattr(config, "dtype", None) or torch.float32
    chosen = {} if attention is None else {"attn_implementation": attention}
    with torch.device("meta"):
        model = _with_sentence(source, lambda: kind._from_config(config, dtype=dtype, **chosen))  # noqa: SLF001 (from_config of its Auto classes)
    return model, (*notes, f"weights in {str(dtype).removeprefix('torch.')}")


def _with_sentence(source: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"--hf {source}: transformers refuses it: {text[:300]}") from error


def _read(path: Path) -> tuple[Any, Any, list[str]]:
    """(class, configuration, notes) of a config.json."""
    from transformers import CONFIG_MAPPING

    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a JSON file that can be read: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("model_type"), str):
        raise UsageError(f"{path}: it has no model_type, expected a config.json in Hugging Face's format")
    known = list(CONFIG_MAPPING.keys())
    if data["model_type"] not in known and "auto_map" in data:
        raise UsageError(
            f"{path}: model_type {data['model_type']} is code of the model's own (auto_map), which is not fetched: "
            "write a function that builds the model and trace that"
        )
    if data["model_type"] not in known:
        raise unknown("model_type", data["model_type"], known)
    notes = []
    if data.pop("quantization_config", None) is not None:
        notes.append("quantization_config is left out: no weight is quantized")
    config = _with_sentence(str(path), lambda: CONFIG_MAPPING[data["model_type"]].from_dict(data))
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id or 0  # as T5's class advises; any number will do here
    return _class_of(data), config, notes


def _class_of(data: dict[str, Any]) -> Any:
    import transformers
    from transformers.models.auto import modeling_auto

    names = [*(data.get("architectures") or ())]
    own = _HEADS.get(data["model_type"], "CAUSAL_LM")
    for mapping in (f"MODEL_FOR_{own}_MAPPING_NAMES", "MODEL_MAPPING_NAMES"):
        names.append(getattr(modeling_auto, mapping).get(data["model_type"]))
    # First the class that the weights were saved from, then that of its kind, then the model without a head.
    found = next((name for name in names if isinstance(name, str) and hasattr(transformers, name)), None)
    if found is None:
        raise UsageError(f"transformers has no class for model_type {data['model_type']}")
    return getattr(transformers, found)


def _class(name: str) -> Any:
    import transformers

    kind = getattr(transformers, name, None) if name.isidentifier() else None
    if inspect.isclass(kind) and issubclass(kind, nn.Module) and getattr(kind, "config_class", None):
        return kind
    if kind is not None:
        raise UsageError(f"--hf {name}: not a model with a configuration, expected one such as LlamaForCausalLM")
    raise unknown("class of transformers", name, [x for x in dir(transformers) if "For" in x or x.endswith("Model")])


def _checkpoint(model: Any) -> None:
    """Recompute layers in backward; the method has its new name since transformers 5."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable()
    except (AttributeError, ValueError) as error:
        raise UsageError(f"--checkpointing: {type(model).__name__} has none: {error}") from error


def _strip(model: Any, train: bool) -> None:
    """Leave out dropout, of modules and of attention, and what only generation needs."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or (name == "p" and isinstance(module, nn.Dropout))):
                setattr(module, name, 0.0)
    if train:
        model.config.use_cache = False


def _inputs(model: Any, train: bool, apart: bool) -> dict[str, str]:
    """The model's main input with its sizes, and the labels that are no input of the model's own.

    `apart`: behind an encoder, the decoder's tokens too, which otherwise are the class's choice.
    """
    name, config = model.main_input_name, model.config
    if apart and config.is_encoder_decoder:
        source = {name: "B,M:int64"} if name == "input_ids" else _inputs(model, False, apart=False)
        return {**source, "labels" if train else "decoder_input_ids": "B,N:int64"}
    dtype = f":{str(model.dtype).removeprefix('torch.')}:nograd"
    try:
        if name == "input_ids":
            return {name: "B,N:int64"}
        if name == "pixel_values":
            return {name: f"B,{config.num_channels},{config.image_size},{config.image_size}{dtype}"}
        if name == "input_features":
            labels = {"labels": "B,N:int64"} if train else {}
            return {name: f"B,{config.num_mel_bins},{2 * config.max_source_positions}{dtype}", **labels}
    except AttributeError:  # the size has another name, or is one for each part of the model
        pass
    raise UsageError(
        f"{type(model).__name__} takes {name}, whose sizes its configuration does not say: write a function that makes "
        "its inputs and calls it, and trace that"
    )


def _forward(model: Any, train: bool, last: bool) -> Callable[..., Any]:
    """The call of a model; in training it returns the loss, where the model computes one.

    `last`: whether logits are those of the last token alone, as generation asks for them.
    """
    options = {"logits_to_keep": 1} if last and "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    labelled = train and "labels" in inspect.signature(model.forward).parameters
    # One label for an image or a whole sequence, else one for each token.
    of_whole = model.main_input_name == "pixel_values" or "SequenceClassification" in type(model).__name__

    def forward(**given: Tensor) -> Any:
        if labelled and "labels" not in given:
            (x,) = given.values()
            given["labels"] = x.new_zeros(x.shape[:1], dtype=torch.int64) if of_whole else x
        out = model(**given, **options)
        return out.loss if labelled else out

    return forward
