"""Runs a plan's code on tensors without data: it allocates and frees as written, and its kernels do nothing.

Matrix products and other library calls count as the operators that they are; a fused kernel reads and writes each of
its tensors once, and its arithmetic is that of the graph's nodes which it holds.
"""

import ast
import math
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from memmodel.events.program import Launch
from memmodel.events.work import Work
from memmodel.tracer.compiled.flex import attention_of, attention_work
from memmodel.tracer.compiled.plan import Buffer, Plan
from memmodel.tracer.corrections.torch_types import count, kind_of
from memmodel.tracer.operators import work_of
from memmodel.tracer.private.compiler import names_in_wrappers
from memmodel.tracer.private.dispatch import OpOverload, tree_map

if TYPE_CHECKING:
    from memmodel.tracer.compiled.watching import PlanWatcher

_ALIGNMENT = 16  # bytes, of a kernel's operands: torch/_inductor/utils.py, ALIGNMENT
_PARAMETER = re.compile(r"\b(in_out_ptr|in_ptr|out_ptr|ws_ptr)\d*\b")


def callable_of(plan: Plan, watcher: "PlanWatcher") -> Callable[[list[Any]], Any]:
    """The graph as a function of a list of tensors, which it empties."""
    scope = _scope(plan, watcher)
    # Imports and kernels' sources are left out: the scope has what stands for their names.
    body = [s for s in plan.tree.body if isinstance(s, ast.FunctionDef | ast.ClassDef) or _is_plain(s)]
    exec(compile(ast.Module(body, []), plan.file, "exec"), scope)
    call: Callable[[list[Any]], Any] = scope["call"]
    return call


def _is_plain(statement: ast.stmt) -> bool:
    """Whether it sets up the code's own names: `runner = Runner(...)`, `call = runner.call`."""
    return isinstance(statement, ast.Assign) and "unner" in ast.unparse(statement.value)


def _scope(plan: Plan, watcher: "PlanWatcher") -> dict[str, Any]:
    def allocated(size: Any, stride: Any, dtype: torch.dtype) -> Tensor:
        with watcher.unseen():
            x = torch.empty_strided(size, stride, dtype=dtype)
        watcher.allocated(x)
        return x

    def viewed(x: Tensor, size: Any, stride: Any, offset: int) -> Tensor:
        with watcher.unseen():
            # The offset counts from that of x (torch/csrc/inductor/inductor_ops.cpp, _reinterpret_tensor).
            return torch.as_strided(x, size, stride, x.storage_offset() + offset).data  # no view of x to autograd

    scope = {
        "__name__": "memmodel.tracer.compiled.generated",
        "torch": _Torch(),
        "aten": torch.ops.aten,
        "inductor_ops": torch.ops.inductor,
        "math": math,
        "inf": math.inf,
        "nan": math.nan,
        "device": torch.device,
        # Tensors without data have no address.
        "assert_alignment": lambda *_: None,
        "copy_if_misaligned": copy_if_misaligned,
        "get_raw_stream": lambda *_: 0,
        "extern_kernels": _Library(watcher),
        "reinterpret_tensor": viewed,
        **dict.fromkeys(("empty_strided_cuda", "empty_strided_cpu", "empty_strided_cpu_pinned"), allocated),
        **names_in_wrappers(),
        **plan.constants,
    }
    return scope | {name: _Kernel(name, source, plan, watcher) for name, source in plan.kernels.items()}


def copy_if_misaligned(x: Tensor) -> Tensor:
    """A copy of an input that does not begin where kernels are compiled for, as Inductor makes it."""
    return x.clone() if int(x.storage_offset()) * x.element_size() % _ALIGNMENT else x


class _Nothing:
    """Stands for `torch.cuda`: every call is allowed, and a context."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class _Torch:
    """`torch` without the GPU's own functions."""

    cuda = _Nothing()

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class _Library:
    """Inductor's `extern_kernels`: matrix products and the like that write into a buffer of the plan."""

    def __init__(self, watcher: "PlanWatcher") -> None:
        self._watcher = watcher

    def __getattr__(self, name: str) -> Any:
        # Inductor's bias_addmm is addmm by another kernel of cuBLAS (torch/_inductor/kernel/mm.py).
        operator = getattr(torch.ops.aten, name.removeprefix("bias_")).default

        def call(*args: Any, out: Tensor | None = None, **kwargs: Any) -> Any:
            if out is None:
                return operator(*args, **kwargs)
            self._watcher.ran(operator, args, kwargs, out)
            return out

        return call


class _Kernel:
    """A fused kernel: it does nothing but be counted."""

    def __init__(self, name: str, source: str, plan: Plan, watcher: "PlanWatcher") -> None:
        self.name = name
        self.plan = plan
        self.watcher = watcher
        self.roles = _roles(name, source)

    def __call__(self, *args: Any, **_: Any) -> None:
        names = self.plan.arguments.get(sys._getframe(1).f_lineno, ())
        self._count(args, names)

    def run(self, *args: Any, **_: Any) -> None:
        """Launch the kernel as Triton's are launched."""
        self._count(args, self.plan.arguments.get(sys._getframe(1).f_lineno, ()))

    def _count(self, args: tuple[Any, ...], names: tuple[str, ...]) -> None:
        tensors = [(i, x) for i, x in enumerate(args) if isinstance(x, Tensor)]
        roles = dict(zip((i for i, _ in tensors), self.roles, strict=False))
        # in_out_ptr is among both: such a kernel writes over what it reads.
        read = sum(count(x) * x.element_size() for i, x in tensors if not roles.get(i, "in").startswith("out"))
        made = [(i, x) for i, x in tensors if "out" in roles.get(i, "in")]
        written = sum(count(x) * x.element_size() for _, x in made)
        buffers = [self.plan.buffers[names[i]] for i, _ in made if i < len(names) and names[i] in self.plan.buffers]
        vector, exponentials = _arithmetic(buffers, self.watcher)
        work: Work = Work(0, vector, exponentials, read, written)
        needed: Work | None = None
        attention = attention_of(self.name, self.plan.buffers.get(names[tensors[-1][0]]) if tensors and names else None)
        if attention is not None:
            work, needed = attention_work(attention, self.watcher)
        largest: Any = max((x for _, x in made or tensors), key=lambda x: x.numel(), default=None)
        if largest is not None:
            thread = "autograd" if self.watcher.backward else "main"
            self.watcher.events.append(Launch(self.name, work, kind_of(largest.dtype), thread=thread, needed=needed))
        self.watcher.touched([x for _, x in tensors])


def _roles(name: str, source: str) -> list[str]:
    """in_ptr, out_ptr or in_out_ptr of the kernel's tensors, in order."""
    signature = re.search(rf"(?:def {re.escape(name)}|\bkernel)\((?P<all>[^)]*)\)", source)
    return _PARAMETER.findall(signature["all"]) if signature else []


def _arithmetic(buffers: list[Buffer], watcher: "PlanWatcher") -> tuple[Any, Any]:
    """Arithmetic and exponentials of the nodes fused into these buffers, each once."""
    vector: Any = 0
    exponentials: Any = 0
    for node in dict.fromkeys(n for buffer in buffers for n in buffer.nodes):
        if not isinstance(node.target, OpOverload):
            continue
        args, kwargs = (tree_map(_value, x) for x in (node.args, node.kwargs))
        work = work_of(node.target, args, kwargs, node.meta.get("val"), watcher.device)
        vector, exponentials = vector + work.vector, exponentials + work.exp
    return vector, exponentials


def _value(x: Any) -> Any:
    return x.meta.get("val") if isinstance(x, torch.fx.Node) else x
