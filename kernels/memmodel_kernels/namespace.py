"""Which library a tensor belongs to: algorithms ask for it instead of importing torch."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any


def namespace(x: Any) -> Any:
    """`torch` for a torch tensor, `memmodel.recording` for a recording tensor."""
    if type(x).__module__.startswith("memmodel."):
        from memmodel import recording

        return recording
    import torch

    return torch


def checkpoint(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function(*args)`, keeping only `args` for backward and running it again there."""
    xp = namespace(args[0])
    if xp.__name__ == "torch":
        from torch.utils.checkpoint import checkpoint as torch_checkpoint

        return torch_checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    return xp.checkpoint(function, *args)


def functional(x: Any) -> Any:
    """The library's functions of neural networks: `torch.nn.functional`, or `memmodel.recording` itself."""
    xp = namespace(x)
    return xp.nn.functional if xp.__name__ == "torch" else xp


def same_scope(x: Any) -> AbstractContextManager[Any]:
    """Name what runs inside after the layer that made a tensor."""
    xp = namespace(x)
    return nullcontext() if xp.__name__ == "torch" else xp.scope_of(x.storage.key)


def scope(x: Any, *, layer: int | None = None, part: str = "") -> AbstractContextManager[Any]:
    """Name what runs inside: a layer of a model, or a part of one. Recordings remember it; torch does not look."""
    xp = namespace(x)
    return nullcontext() if xp.__name__ == "torch" else xp.scope(layer=layer, part=part)
