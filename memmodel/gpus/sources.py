"""Sources: values name them by a short key, `gpu_sources.toml` spells them out once."""

from functools import cache

from memmodel.gpus.toml import DATA, read_toml


@cache
def known_sources() -> dict[str, str]:
    """Load the table of source keys and their texts."""
    return read_toml(DATA, "gpu_sources.toml")


def source_text(source: str) -> str:
    """Return the text of a source key such as `ds-a100` or `xla:h100_sxm`. Other text stands for itself."""
    key, _, detail = source.partition(":")
    text = known_sources().get(key)
    if text is None:
        return source
    return f"{text} ({detail})" if detail else text
