"""A model's configuration in Hugging Face's format (config.json), read key by key with checks."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from memmodel.attention.case import check_size
from memmodel.base.errors import UsageError, choice, shortened
from memmodel.models.architecture import Architecture

MOST_LAYERS = 10_000
MOST_PARAMETERS = 10**15
_REQUIRED = object()

# transformers' names of activations (activations.py, ACT2FN) and ours.
_ACTIVATIONS = {
    **{"silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu", "relu2": "relu2"},
    **{"gelu_pytorch_tanh": "gelu-tanh", "gelu_new": "gelu-new", "gelu_fast": "gelu-new"},
}
_LETTERS = {"full_attention": "F", "sliding_attention": "S", "chunked_attention": "C"}


class ConfigJson:
    """The keys of a config.json. A reader method raises UsageError that names the key, the value and what is expected.

    Without a default a key is required: transformers writes it into every file that it saves.
    """

    def __init__(self, document: Mapping[str, Any], where: str, spelled: Mapping[str, str] | None = None) -> None:
        """`spelled`: how the file spells keys that are read by another name, for its errors."""
        self.document = document
        self.where = where
        self.spelled = spelled or {}

    def error(self, message: str) -> UsageError:
        """An error that begins with the file's name."""
        return UsageError(f"{self.where}: {message}")

    def value(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of a key, or its default where it is missing."""
        found = self.document.get(key, default)
        if found is _REQUIRED:
            name = self.spelled.get(key, key)
            raise self.error(f"there is no {name}, which the configuration of a model needs: add it")
        return found

    def size(self, key: str, default: Any = _REQUIRED) -> int:
        """A size from 1 to 2^31. null takes the default."""
        found = self.value(key, default)
        if found is None and default not in (None, _REQUIRED):
            found = default
        try:
            return check_size(key, found)
        except UsageError as problem:
            # `check_size` names options, with hyphens; this is a key of the file.
            raise self.error(str(problem).replace(key.replace("_", "-"), self.spelled.get(key, key), 1)) from None

    def optional_size(self, key: str, default: int | None = None) -> int:
        """A size, or 0 for null and for 0."""
        return 0 if self.value(key, default) in (None, 0) else self.size(key, default)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false; null is false."""
        found = self.value(key, default)
        if not isinstance(found, bool | None):
            raise self.error(f"{key} is {shortened(found)}, expected true or false")
        return bool(found)

    def number(self, key: str, default: float = 0.0) -> float:
        """A finite number; null is 0."""
        found = self.value(key, default)
        if found is None:
            return 0.0
        if isinstance(found, bool) or not isinstance(found, int | float) or not isfinite(found):
            raise self.error(f"{key} is {shortened(found)}, expected a number")
        return float(found)

    def probability(self, default: float, *keys: str) -> float:
        """A probability from 0 to below 1, under the first of the keys that is there; null is 0."""
        key = next((key for key in keys if key in self.document), keys[0])
        found = self.number(key, default)
        if not 0 <= found < 1:
            raise self.error(f"{key} is {found:g}, expected a probability from 0 to below 1")
        return found

    def activation(self, gated: bool, *keys: str, default: str = "silu") -> str:
        """The activation's name of `memmodel.models.architecture`, from the first of the keys that is given."""
        found = next((self.document[key] for key in keys if self.document.get(key) is not None), default)
        try:
            name = _ACTIVATIONS[choice("activation", found, _ACTIVATIONS)]
        except UsageError as problem:
            raise self.error(str(problem)) from None
        return f"{name}-glu" if gated else name

    def pattern(self, default: str) -> str:
        """A letter a layer from `layer_types`; `default` where it is not given."""
        types = self.value("layer_types", None)
        if types is None:
            return default
        layers = self.size("num_hidden_layers")
        if not isinstance(types, Sequence) or isinstance(types, str) or len(types) != layers:
            raise self.error(f"layer_types is {shortened(types)}, expected a list of {layers} (num_hidden_layers)")
        for one in types:
            if one not in _LETTERS:
                raise self.error(
                    f"layer_types has {shortened(one)}, which is not modelled: expected {', '.join(_LETTERS)}"
                )
        return _shortest("".join(_LETTERS[one] for one in types))

    def turning(self, head_dim: int, default: float = 1.0, key: str = "partial_rotary_factor") -> int:
        """Channels of a head with rotary positions."""
        # transformers 5 moved the factor into the table of rotary positions, and older files have it outside.
        tables = [self.document.get(name) for name in ("rope_parameters", "rope_scaling")]
        inner = [table["partial_rotary_factor"] for table in tables if isinstance(table, dict) and key in table]
        part = self.number(key, inner[0] if inner and isinstance(inner[0], int | float) else default)
        if not 0 < part <= 1:
            raise self.error(f"{key} is {part:g}, expected a part of the head from above 0 to 1")
        return int(head_dim * part)


def _shortest(pattern: str) -> str:
    """The shortest pattern whose repetition gives `pattern`: SSFSSF is SSF."""
    for size in range(1, len(pattern)):
        if (pattern[:size] * (len(pattern) // size + 1)).startswith(pattern):
            return pattern[:size]
    return pattern


def check_architecture(arch: Architecture, where: str, count: int) -> None:
    """Raise UsageError for sizes that contradict each other or that no model has. `count`: its parameters."""
    problem = ""
    if arch.layers > MOST_LAYERS:
        problem = f"{arch.layers} layers: above {MOST_LAYERS:,} is taken for a mistake"
    elif arch.heads % arch.kv_heads:
        problem = f"{arch.heads} heads do not divide among {arch.kv_heads} kv heads: expected a divisor of heads"
    elif arch.moe and arch.moe.top_k > arch.moe.experts:
        problem = f"a token goes to {arch.moe.top_k} of {arch.moe.experts} experts: expected at most {arch.moe.experts}"
    elif arch.moe and arch.moe.groups and arch.moe.experts % arch.moe.groups:
        problem = f"{arch.moe.experts} experts do not divide into {arch.moe.groups} groups: expected a divisor"
    elif arch.qk_norm not in ("none", "head", "all", "l2"):
        problem = f"a norm of queries and keys that is not modelled ({arch.qk_norm})"
    elif count > MOST_PARAMETERS:
        problem = f"{count:.3g} parameters: above {MOST_PARAMETERS:.0e} is taken for a mistake"
    if problem:
        raise UsageError(f"{where}: {problem}")
