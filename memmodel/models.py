"""Shapes of well-known models, for `--like`."""

from typing import Any

from memmodel.errors import unknown

_KEYS = {"heads", "kv_heads", "head_dim", "mask", "window", "dtype"}


def models() -> dict[str, dict[str, Any]]:
    """All model shapes by name, each with its source."""
    from memmodel.files import DATA, read_toml

    return read_toml(DATA, "models.toml")


def model_shape(name: str) -> dict[str, Any]:
    """The attention shape of a model as arguments of `predict`. Raises UsageError for a name that is not there."""
    known = models()
    shape = known.get(name.casefold())
    if shape is None:
        raise unknown("model", name, known)
    return {key: value for key, value in shape.items() if key in _KEYS}
