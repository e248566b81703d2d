"""What an operator allocates on real tensors: every new storage, in order."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Allocations(TorchDispatchMode):
    """Records (op, shape, dtype) of every new storage that an operator makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, tuple[int, ...], torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {x.untyped_storage().data_ptr() for x in torch.utils._pytree.tree_leaves(args) if isinstance(x, Tensor)}
        for x in torch.utils._pytree.tree_leaves(out):
            # The interpreter makes empty tensors to hold its views of the arguments.
            if isinstance(x, Tensor) and x.numel() and x.untyped_storage().data_ptr() not in known:
                self.made.append((func.name().removeprefix("aten::"), tuple(x.shape), x.dtype))
        return out
