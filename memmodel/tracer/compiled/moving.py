"""Graphs on their way from dynamo to Inductor: moved to the GPU that is modelled before they are partitioned.

Dynamo and AOTAutograd trace on fake CPU tensors, since autograd on fake CUDA tensors needs a CUDA build. What the
graph holds is the same but for functions that look at the device, which `memmodel.tracer.watch.functions` serves as
CUDA would. The joint graph's tensors are then said to be CUDA's, so that Inductor's passes, the min-cut partitioner and
the lowering work for that GPU. Sources: torch/_inductor/compile_fx.py (partition_fn, compile_fx_forward),
torch/_inductor/fx_passes/{joint_graph,fuse_attention,pad_mm}.py.
"""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from memmodel.tracer.private.dispatch import tree_map
from memmodel.tracer.private.fake import FakeTensor
from memmodel.tracer.watch.functions import indexed

aten = torch.ops.aten
_CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def on_gpu(value: Any) -> Any:
    """A fake tensor's likeness on the GPU, without history; other values as they are."""
    if not isinstance(value, Tensor) or value.device.type != "cpu":
        return value
    mode = getattr(value, "fake_mode", None)
    if mode is None:
        return value
    offset = value.storage_offset()
    with mode, torch.no_grad():
        if not offset:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=GPU)
        # A view that begins later than its storage needs the storage around it.
        elements = value.untyped_storage().nbytes() // value.element_size()
        whole = torch.empty_strided((elements,), (1,), dtype=value.dtype, device=GPU)
        return aten.as_strided.default(whole, value.shape, value.stride(), offset)


def said_to_be_on_gpu(gm: Any) -> None:
    """Every value of the graph is the GPU's; where tensors are made stays as it is written."""
    for node in gm.graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = tree_map(on_gpu, node.meta["val"])


def moved(gm: Any) -> None:
    """Values and the places where tensors are made are the GPU's."""
    said_to_be_on_gpu(gm)
    for node in gm.graph.nodes:
        if node.op == "call_function":
            node.args = tree_map(_place_on_gpu, node.args)
            node.kwargs = tree_map(_place_on_gpu, node.kwargs)


def _place_on_gpu(value: Any) -> Any:
    return GPU if isinstance(value, torch.device) and value.type == "cpu" else value


def on_cpu(value: Any) -> Any:
    """A request for the GPU, served by the CPU's fake tensors while dynamo traces."""
    if isinstance(value, torch.device) and value.type == "cuda":
        return _CPU
    return "cpu" if isinstance(value, str) and (value == "cuda" or value.startswith("cuda:")) else value


def requests_on_cpu(create_proxy: Callable[..., Any]) -> Callable[..., Any]:
    """Dynamo's `create_proxy`, for code that asks for "cuda"."""

    def created(self: Any, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        # `x.cuda()`, which a build for the CPU refuses.
        if kind == "call_method" and target == "cuda":
            target, args, kwargs = "to", (args[0], "cpu"), {}
        return create_proxy(self, kind, target, tree_map(on_cpu, args), tree_map(on_cpu, kwargs), *rest, **more)

    return created


def joint_passes_for_gpu(passes: Callable[..., Any]) -> Callable[..., Any]:
    """Inductor's passes over the joint graph, as for the GPU: their patterns are traced and compared on the CPU."""

    def passed(gm: Any, *args: Any, **kwargs: Any) -> Any:
        # Passes ask where values are; what makes tensors moves after them, as their patterns are traced on the CPU.
        said_to_be_on_gpu(gm)
        gm = passes(gm, *args, **kwargs | ({"input_device": _CPU} if "input_device" in kwargs else {}))
        moved(gm)
        return gm

    return passed


def lowering_for_gpu(lowering: Callable[..., Any]) -> Callable[..., Any]:
    """Inductor's lowering of one graph, with its example inputs on the GPU."""

    def lowered(gm: Any, example_inputs: Any, *args: Any, **kwargs: Any) -> Any:
        moved(gm)
        return lowering(gm, [on_gpu(x) for x in example_inputs], *args, **kwargs)

    return lowered


class TorchOnCpu(ModuleType):
    """`torch` for the pattern matcher, which makes examples with gradients: they stay on the CPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def empty_strided(*args: Any, **kwargs: Any) -> Tensor:
        """`torch.empty_strided`, on the CPU."""
        return torch.empty_strided(*args, **kwargs | {"device": _CPU})


def _getitem(x: Tensor, index: Any) -> Tensor:
    return indexed(x, index)


def _setitem(x: Tensor, index: Any, value: Any) -> None:
    part = indexed(x, index)
    aten.copy_.default(part, value) if isinstance(value, Tensor) else aten.fill_.Scalar(part, value)


def _copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Any:
    return aten.copy_.default(x, source, non_blocking)


def _contiguous(x: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Any:
    return x if x.is_contiguous(memory_format=memory_format) else aten.clone.default(x, memory_format=memory_format)


def methods_of_gpu_tensors() -> Iterator[tuple[Any, str, Any]]:
    """(class, name, method) for fake tensors on the GPU: PyTorch's own, written in C++, ask the GPU's driver."""
    for name, method in (("__getitem__", _getitem), ("__setitem__", _setitem), ("copy_", _copy)):
        yield FakeTensor, name, _for_gpu(method, getattr(torch.Tensor, name))
    yield FakeTensor, "contiguous", _for_gpu(_contiguous, torch.Tensor.contiguous)


def _for_gpu(method: Callable[..., Any], usual: Callable[..., Any]) -> Callable[..., Any]:
    def called(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (method if x.device.type == "cuda" else usual)(x, *args, **kwargs)

    return called
