"""The models that `--like` takes: their configurations, sizes and sources."""

from typing import Any, NamedTuple

from memmodel.base.errors import unknown
from memmodel.models.architecture import Architecture


class Listed(NamedTuple):
    """One model of the list.

    Attributes:
        name: as the list has it.
        config: in Hugging Face's format.
        parameters: counted with transformers' classes. published: as its card or paper rounds it.
        source: of the values. note: what differs. verified: whether all of them were seen in a file.
    """

    name: str
    config: dict[str, Any]
    parameters: int
    published: str
    source: str
    note: str
    verified: bool

    @property
    def architecture(self) -> Architecture:
        """The architecture."""
        from memmodel.models.families import architecture_of

        return architecture_of(self.config, self.name, self.name)

    @property
    def shape(self) -> dict[str, Any]:
        """Attention as arguments of `predict`: heads, kv_heads, head_dim, mask, window, and value_dim if it differs.

        The mask is that of the layers that see most: "window" where all have one, else "causal"; an encoder's "none",
        also where a decoder follows it.
        """
        arch = self.architecture
        names = ("heads", "kv_heads", "head_dim", *(("value_dim",) if arch.value_dim != arch.head_dim else ()))
        window = arch.window if set(arch.pattern) == {"S"} else None
        causal = arch.causal and not arch.encoder
        mask = "window" if window else "causal" if causal else "none"
        return {**{name: getattr(arch, name) for name in names}, "mask": mask, "window": window}

    @property
    def softcap(self) -> float | None:
        """c in the c tanh(scores / c) of its attention; None where it caps no scores."""
        return self.architecture.attention_cap or None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the keys of docs/json.md."""
        kept = {key: getattr(self, key) for key in ("parameters", "published", "source", "note", "verified")}
        arch = self.architecture
        sizes = {key: getattr(arch, key) for key in ("vocab", "layers", "hidden", "ffn", "max_pos")}
        return {"name": self.name, **self.shape, **sizes, **kept}


def models() -> dict[str, Listed]:
    """Every model by name, in the order of the file; names in `also` are not among them."""
    return {name: _listed(name, row) for name, row in _rows().items()}


def _rows() -> dict[str, dict[str, Any]]:
    from memmodel.base.files import read_table

    return read_table("models.toml")


def listed(name: str) -> Listed:
    """The model of that name, in any case. Raises UsageError for a name that is not there."""
    rows = _rows()
    wanted = str(name).strip().casefold()
    found = next((key for key, row in rows.items() if wanted in (key, *row.get("also", ()))), None)
    if found is None:
        names = [one for key, row in rows.items() for one in (key, *row.get("also", ()))]
        raise unknown("model", name, names, "`memmodel models` lists them")
    return _listed(found, rows[found])


def model_shape(name: str) -> dict[str, Any]:
    """The attention of a model as arguments of `predict`. Raises UsageError for a name that is not there."""
    return listed(name).shape


def _listed(name: str, row: dict[str, Any]) -> Listed:
    return Listed(
        name,
        _whole(row["config"]),
        row["parameters"],
        row["published"],
        row["source"],
        row.get("note", ""),
        row.get("verified", True),
    )


def _whole(config: dict[str, Any]) -> dict[str, Any]:
    """A row's configuration as config.json has it: null for 0, and a type for each layer."""
    # TOML has no null, for which 0 stands here, and layer_types hold one period.
    found = {key: None if value == 0 and not isinstance(value, bool) else value for key, value in config.items()}
    if types := found.get("layer_types"):
        layers = found["num_hidden_layers"]
        found["layer_types"] = (types * layers)[:layers]
    return found
