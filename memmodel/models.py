"""Attention shapes of well-known models."""

from typing import Any

from memmodel.errors import unknown


def models() -> dict[str, dict[str, Any]]:
    """Every model's shape by name: heads, kv_heads, head_dim, mask, window (None without one) and its source."""
    from memmodel.files import DATA, read_toml

    read = read_toml(DATA, "models.toml")
    return {name: {"kv_heads": shape["heads"], "window": None, **shape} for name, shape in read.items()}


def model_shape(name: str) -> dict[str, Any]:
    """The shape of a model as arguments of `predict`. Raises UsageError for a name that is not there."""
    known = models()
    shape = known.get(str(name).strip().casefold())
    if shape is None:
        raise unknown("model", name, known, "`memmodel models` lists them")
    return {key: value for key, value in shape.items() if key != "source"}
