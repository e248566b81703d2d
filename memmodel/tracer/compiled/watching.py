"""The watcher of compiled code: what is born while a plan's code runs is a buffer of that plan."""

import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator

from memmodel.program import Alloc, Program, Site
from memmodel.recording.device import Device
from memmodel.tracer.compiled.plan import Plan
from memmodel.tracer.watch import Watcher

_SAVES, _REPEATS = "run_and_save_rng_state", "run_with_rng_state"
_NEAR = 40  # frames between a birth and the plan's code


class PlanWatcher(Watcher):
    """Records what runs inside; blind while PyTorch compiles.

    Attributes:
        plans: by the name of their code. compiling: whether PyTorch compiles now.
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.plans: dict[str, Plan] = {}
        self.compiling = False
        self._called: dict[int, str] = {}  # storage -> what its buffer is called

    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """The mode is off while dynamo compiles, and on while the compiled code runs."""
        return True

    @property
    def program(self) -> Program:
        """What was seen so far. Gradients of inputs are called so, not as the buffer that held them."""
        found = super().program
        called = {key: name for key, name in self._called.items() if key not in found.gradients}
        return found._replace(names=called | found.names)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, HigherOrderOperator):
            with self:
                return _random(str(func), args, kwargs or {}) or func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def ran(self, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
        """A library call wrote into a tensor that is there already."""
        self._count()
        self._record(func, args, kwargs, out, "")

    def touched(self, tensors: list[Tensor]) -> None:
        """A kernel used these."""
        self.operators += 1
        self._used(tensors, {}, ())

    def born(self, tensor: Tensor, op: str, role: str = "tensor", at: int | None = None) -> int | None:
        """Record a birth, under the buffer's name where a plan's code makes it."""
        plan, line = self._plan()
        if plan is None:
            return super().born(tensor, op, role, at)
        name, buffer = plan.born_at(line)
        key = super().born(tensor, buffer.op if buffer else op, role, at)
        if key is not None and buffer is not None:
            self._called[key] = f"{buffer.name} ({', '.join((name, *plan.reused.get(name, ())))})"
            if plan.backward and buffer.site is not None:
                self.forward_of[key] = buffer.site
                self._without_site(key, f"backward of {buffer.op}")
        return key

    def _without_site(self, key: int, op: str) -> None:
        last = self.events[-1]
        if isinstance(last, Alloc) and last.key == key:
            self.events[-1] = last._replace(site=None, op=op)

    def _site(self) -> Site | None:
        plan, line = self._plan()
        if plan is None:
            return super()._site()
        _, buffer = plan.born_at(line)
        return buffer.site if buffer else None

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
