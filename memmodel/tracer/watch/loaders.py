"""Data loaders: they run on the host beside the trace, without workers; what they give becomes tensors of the trace."""

import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from memmodel.tracer.private.dispatch import tree_map_only
from memmodel.tracer.private.fake import is_fake
from memmodel.tracer.watch.known import computed_value, has_value

_DONE = object()


def loading(beside: Callable[[], AbstractContextManager[None]]) -> Iterator[tuple[Any, str, Any]]:
    """The replacement of `DataLoader.__iter__`; within `beside` code is not traced."""
    data = sys.modules.get("torch.utils.data")
    if data is None:
        return
    loader: Any = data.DataLoader
    really = loader.__iter__

    def batches(self: Any) -> Iterator[Any]:
        # Workers would be other processes; a loader without them takes no timeout (torch/utils/data/dataloader.py).
        with beside(), mock.patch.multiple(self, num_workers=0, timeout=0, pin_memory=False):
            iterator = really(self)
        while True:
            with beside():
                batch = next(iterator, _DONE)
            if batch is _DONE:
                return
            # The code alone is to hold the batch, so that it dies when the code lets it go.
            batch = _traced(batch)
            yield batch
            del batch

    yield loader, "__iter__", batches


def _traced(batch: Any) -> Any:
    """The batch with tensors of the trace in place of its own."""
    # Such as transformers' BatchEncoding, which PyTorch's trees take for a leaf.
    if isinstance(batch, MutableMapping) and not isinstance(batch, dict):
        for name, value in batch.items():
            batch[name] = _traced(value)
        return batch
    return tree_map_only(Tensor, _alike, batch)


def _alike(x: Tensor) -> Tensor:
    made = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    value = computed_value(x) if is_fake(x) else x
    if value is not None:
        has_value(made, value)
    return made
