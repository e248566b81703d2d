"""The watcher of compiled code: what is born while a plan's code runs is a buffer of that plan."""

import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from memmodel.base.device import Device
from memmodel.events.program import Program, Site
from memmodel.tracer.compiled.moving import on_cpu
from memmodel.tracer.compiled.plan import Buffer, Plan
from memmodel.tracer.private.dispatch import HigherOrderOperator, tensors_in
from memmodel.tracer.watch.flex import Masks
from memmodel.tracer.watch.watcher import Watcher

_SAVES, _REPEATS = "run_and_save_rng_state", "run_with_rng_state"
_NODE = "CompiledFunctionBackward"
_NEAR = 40  # frames between a birth and the plan's code


class PlanWatcher(Watcher):  # type: ignore[no-untyped-call]
    """Records what runs inside; blind while PyTorch compiles.

    Attributes:
        plans: by the name of their code. compiling: whether PyTorch compiles now. masks: counts of block masks.
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.plans: dict[str, Plan] = {}
        self.compiling = False
        self.masks = Masks(self.note)
        self._called: dict[int, str] = {}  # storage -> what its buffer is called

    # Else PyTorch refuses operators that run others, such as a repeated dropout's (torch/_ops.py).
    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """The mode is off while dynamo compiles, and on while the compiled code runs."""
        return True

    @property
    def program(self) -> Program:
        """The events so far. Gradients of inputs have that name, not the name of the buffer that held them."""
        found = super().program
        called = {key: name for key, name in self._called.items() if key not in found.gradients}
        return found._replace(names=called | found.names)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, HigherOrderOperator):
            with self:
                return _random(str(func), args, kwargs or {}) or func(*args, **(kwargs or {}))
        if self.device.name == "cuda" and kwargs and "device" in kwargs:  # of eager code between graphs
            kwargs = kwargs | {"device": on_cpu(kwargs["device"])}
        return super().__torch_dispatch__(func, types, args, kwargs)

    def ran(self, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
        """A library call wrote into a tensor that is there already."""
        self._count()
        self._record(func, args, kwargs, out, "")
        self._used(tensors_in((args, kwargs, out)))

    def touched(self, tensors: list[Tensor]) -> None:
        """A kernel used these."""
        self.operators += 1
        self._used(tensors)

    def born(
        self, tensor: Tensor, op: str, role: str = "tensor", at: int | None = None, nbytes: Any = None
    ) -> int | None:
        """Record a birth, under the buffer's name where a plan's code makes it."""
        plan, name, buffer = self._buffer()
        if plan is None or buffer is None:
            return super().born(tensor, op, role, at, nbytes)
        label = f"backward of {buffer.op}" if plan.backward else buffer.op
        key = super().born(tensor, label, role, at, nbytes)
        if key is not None:
            self._called[key] = f"{buffer.name} ({', '.join((name, *plan.reused.get(name, ())))})"
        return key

    def allocated(self, tensor: Tensor) -> None:
        """The plan's code allocates a buffer."""
        before = self.last_key
        self.born(tensor, "empty_strided")
        self._credit(before)

    def _credit(self, before: int) -> None:
        """Attribute the latest storages of a backward graph to the forward line whose gradient they compute."""
        plan, _, buffer = self._buffer()
        if plan is not None and plan.backward and buffer is not None and buffer.site is not None:
            self.forward_of |= dict.fromkeys(range(before + 1, self.last_key + 1), buffer.site)

    def _record(self, func: Any, args: Any, kwargs: Any, out: Any, node: str) -> None:
        before = self.last_key
        # A compiled backward is one node: its kernels have the names of their operators.
        super()._record(func, args, kwargs, out, "" if node == _NODE else node)
        self._credit(before)

    def _attribute(self, node: Any, out: Any, born: range) -> None:
        if self._plan()[0] is None:
            super()._attribute(node, out, born)

    def site(self) -> Site | None:
        """The line that the buffer under way comes from; the user's frames where no plan runs."""
        plan, _, buffer = self._buffer()
        if plan is None:
            return super().site()
        # What a backward graph makes gets its line from `_credit`.
        return None if plan.backward or buffer is None else buffer.site

    def _buffer(self) -> tuple[Plan | None, str, Buffer | None]:
        """The plan whose code runs now, and the buffer that its line makes."""
        plan, line = self._plan()
        return (plan, *plan.born_at(line)) if plan else (None, "", None)

    def _plan(self) -> tuple[Plan | None, int]:
        """The plan whose code runs now, and its line."""
        frame: FrameType | None = sys._getframe(1)
        for _ in range(_NEAR if self.plans else 0):
            if frame is None:
                break
            plan = self.plans.get(frame.f_code.co_filename)
            if plan is not None:
                return plan, frame.f_lineno
            frame = frame.f_back
        return None, 0


def _random(name: str, args: Any, kwargs: Any) -> Any:
    """An operator between states of the random generator, which live on the host; None for other operators."""
    if name.endswith(_SAVES):
        return torch.empty(0, dtype=torch.uint8), args[0](*args[1:], **kwargs)
    return args[1](*args[2:], **kwargs) if name.endswith(_REPEATS) else None
