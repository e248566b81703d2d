"""PyTorch's functions whose choice of operators depends on the device: taken as on the device that is modelled.

Traced tensors are the CPU's without data, so what looks at the device in Python or in a composite operator would
choose the CPU's way. Requests for "cuda" are served by such a tensor too.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from memmodel.tracer.attention import CUDNN_UNKNOWN, EFFICIENT_UNKNOWN, Backends, Call, chosen, run
from memmodel.tracer.watch import Watcher

_PLACES: dict[Any, Any] = {  # what Python code sees when it asks where a tensor is
    vars(torch._C.TensorBase)["is_cuda"].__get__: True,
    vars(torch._C.TensorBase)["is_cpu"].__get__: False,
}
_SDPA = torch.nn.functional.scaled_dot_product_attention


class Functions(TorchFunctionMode):
    """Reroutes calls for a CUDA device; for the CPU, only notes where attention adds its mask."""

    def __init__(self, watcher: Watcher, backends: Backends) -> None:
        super().__init__()
        self.watcher = watcher
        self.backends = backends
        self.cuda = watcher.device.name == "cuda"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if self.cuda:
            if func is torch.Tensor.cuda:
                return args[0]
            if func in _PLACES:
                return _PLACES[func]
            args, kwargs = _on_cpu(args), _on_cpu_named(kwargs)
            if func is torch.dropout and _drops(*args, **kwargs):
                return torch.native_dropout(*_dropout_arguments(*args, **kwargs))[0]
            if func in (torch.softmax, torch.Tensor.softmax) and _upcasts(args, kwargs):
                return torch._softmax(args[0], _dim(args, kwargs), True)
        if func is _SDPA:
            return self._attention(func, args, kwargs)
        return func(*args, **kwargs)

    def _attention(self, func: Any, args: Any, kwargs: Any) -> Any:
        call = Call(*args, **kwargs)
        kernel = chosen(call, self.backends) if self.cuda else "math"
        if kernel == "cudnn":
            self.watcher.unknown["aten::_scaled_dot_product_cudnn_attention"] = CUDNN_UNKNOWN
        elif kernel == "efficient":
            self.watcher.unknown["aten::_scaled_dot_product_efficient_attention_backward"] = EFFICIENT_UNKNOWN
        if kernel != "math":
            return run(call, kernel)
        self.watcher.adds_in_place = True
        try:
            with sdpa_kernel(SDPBackend.MATH) if self.cuda else nullcontext():
                return func(*args, **kwargs)
        finally:
            self.watcher.adds_in_place = False


def _is_cuda(value: Any) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and (value == "cuda" or value.startswith("cuda:"))


def _on_cpu(args: Any) -> Any:
    return tuple("cpu" if _is_cuda(x) else x for x in args)


def _on_cpu_named(kwargs: dict[str, Any]) -> dict[str, Any]:
    if _is_cuda(kwargs.get("device")):
        kwargs["device"] = "cpu"
    return kwargs


def _dropout_arguments(input: Tensor, p: float = 0.5, train: bool = True) -> tuple[Tensor, float, bool]:
    return input, p, train


def _drops(input: Tensor, p: float = 0.5, train: bool = True) -> bool:
    return train and 0 < p < 1


def _upcasts(args: Any, kwargs: dict[str, Any]) -> bool:
    wanted = kwargs.get("dtype", args[2] if len(args) > 2 else None)
    return wanted is torch.float32 and args[0].dtype is torch.float16


def _dim(args: Any, kwargs: dict[str, Any]) -> int:
    dim: int = kwargs["dim"] if "dim" in kwargs else args[1]
    return dim
