"""Which of a function's results backward starts from: the loss, where there is one."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from memmodel.base.errors import UsageError, unknown
from memmodel.tracer.private.dispatch import tensors_in, tree_leaves

ALL = "all"  # asks for every result that needs a gradient


def leaves_of(out: Any) -> list[Any]:
    """The leaves of a result, also of a dataclass."""
    if dataclasses.is_dataclass(out) and not isinstance(out, type):
        out = list(vars(out).values())
    return tree_leaves(out)


def roots_of(out: Any, asked: str = "") -> tuple[list[Tensor], str]:
    """The tensors that backward starts from, and a note where these are not all that need a gradient.

    Training scripts return the loss beside the logits and call `loss.backward()`. So: the result of the name (or place)
    that was asked for; else the one called "loss"; else the scalars; else everything. Raises UsageError where nothing
    needs a gradient or no result has that name.
    """
    everything = [x for x in tensors_in(leaves_of(out)) if x.requires_grad]
    if not everything:
        raise UsageError(
            "a training step of a function whose result needs no gradient: return the output or loss with its "
            "history (in tuples, lists, dicts or a dataclass), or trace it without --train (step inference)"
        )
    named = {name: [x for x in tensors_in(leaves_of(value)) if x.requires_grad] for name, value in _named(out)}
    named = {name: found for name, found in named.items() if found}
    if asked == ALL:
        return everything, ""
    if asked:
        if asked not in named:
            raise unknown("result that needs a gradient", asked, (*named, ALL))
        roots, what = named[asked], asked
    elif "loss" in named:
        roots, what = named["loss"], "loss"
    else:
        scalars = [x for x in everything if not x.dim()]
        roots, what = scalars or everything, "the scalar result" if len(scalars) == 1 else "the scalar results"
    if len(roots) == len(everything):
        return roots, ""
    return roots, f"backward from {what} alone; --loss NAME (loss=) takes another result, --loss {ALL} all of them"


def _named(out: Any) -> Iterator[tuple[str, Any]]:
    """Results by key, field or place."""
    if isinstance(out, Mapping):
        yield from ((str(key), value) for key, value in out.items())
    elif dataclasses.is_dataclass(out) and not isinstance(out, type):
        yield from vars(out).items()
    elif isinstance(out, list | tuple):
        yield from zip(getattr(out, "_fields", map(str, range(len(out)))), out, strict=True)
