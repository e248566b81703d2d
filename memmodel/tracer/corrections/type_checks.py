"""Dtypes that PyTorch's kernels refuse but fake tensors accept: a trace refuses code that would not run."""

from typing import Any

import torch
from torch import Tensor

from memmodel.tracer.private.dispatch import name_of

_ALIKE = {  # operands that must have one type
    "mm": (0, 1), "bmm": (0, 1), "mv": (0, 1), "dot": (0, 1), "addmm": (0, 1, 2), "baddbmm": (0, 1, 2),
    "addmv": (0, 1, 2), "addr": (0, 1, 2), "index_add": (0, 3), "index_copy": (0, 3), "index_put": (0, 2),
    "binary_cross_entropy": (0, 1),
}  # fmt: skip
_FLOATING = ("_softmax", "_log_softmax", "multinomial")
_OF_CLASSES = ("nll_loss_forward", "nll_loss2d_forward")


def check_types(func: Any, args: Any) -> None:
    """Raises RuntimeError, as the operator would, for operands whose types it does not take."""
    op = name_of(func).removeprefix("aten::")
    together = _ALIKE.get(op.removesuffix("_"))
    if together:
        found = list(dict.fromkeys(args[i].dtype for i in together if i < len(args) and isinstance(args[i], Tensor)))
        if len(found) > 1:
            raise RuntimeError(f"operands of {op} must have one type, but got {' and '.join(map(str, found))}")
    elif op in _FLOATING and not (args[0].dtype.is_floating_point or args[0].dtype.is_complex):
        raise RuntimeError(f"{op.strip('_')} takes floating types, but got {args[0].dtype}")
    elif op in _OF_CLASSES and args[1].dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"a loss of classes takes them as torch.int64, but got {args[1].dtype}")
