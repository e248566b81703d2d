"""Modules and optimizers that the function holds: their tensors become fake for the length of a trace.

They are found as the function itself, as what it is bound to, and among the names that its code uses.
"""

import dis
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from memmodel.tracer.private.autocast import renewed
from memmodel.tracer.private.dispatch import tables_of
from memmodel.tracer.private.fake import is_fake
from memmodel.tracer.watch.known import has_value
from memmodel.tracer.watch.watcher import Watcher


@contextmanager
def made_fake(function: Any, watcher: Watcher) -> Iterator[None]:
    """Within, every parameter and buffer that the function reaches is fake, and optimizers start afresh.

    Tensors that are found only as the code uses them stay the user's own, and get their gradients back.
    """
    reached = list(held(function))
    fakes: dict[int, Tensor] = {}
    with ExitStack() as stack:
        stack.callback(watcher.give_back)
        for name, module in reached:
            if isinstance(module, torch.nn.Module):
                _swap_module(module, "" if module is function else f"{name}.", fakes, watcher, stack)
        # After all modules: an optimizer's parameters are found among those that were swapped.
        for _, each in reached:
            if isinstance(each, torch.optim.Optimizer):
                _swap_optimizer(each, fakes, stack)
            elif isinstance(each, torch.amp.GradScaler):
                _renew_scaler(each, watcher, stack)
        yield


def name_held(function: Any, watcher: Watcher) -> None:
    """Call the parameters of modules that were made within the trace by their names."""
    for name, module in held(function):
        if isinstance(module, torch.nn.Module) and module is not function:
            for path, tensor in (*module.named_parameters(), *module.named_buffers()):
                watcher.name_input(tensor, f"{name}.{path}")
                if tensor.requires_grad:
                    watcher.leaves.append(tensor)


def note_cpu(function: Any, watcher: Watcher) -> None:
    """Say which of the code's names is the CPU: what it decides by them is decided as on a machine without a GPU."""
    for name, value in in_reach(function, (str, torch.device)):
        if str(value) == "cpu" and watcher.device.name == "cuda":
            watcher.note(
                f"{name} in the code is the CPU, and what it decides by that is as on the CPU: set it to 'cuda', or "
                "name the function by its file, whose import then finds the GPU"
            )


def held(function: Any) -> Iterator[tuple[str, Any]]:
    """(name, object) of the modules and optimizers in reach."""
    if isinstance(function, torch.nn.Module):
        yield "", function
        return
    yield from in_reach(function, (torch.nn.Module, torch.optim.Optimizer, torch.amp.GradScaler))


def in_reach(function: Any, kinds: tuple[type, ...], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(name, object) of what a function reaches of these types: its owner and its parts, its closure, its globals."""
    owner = getattr(function, "__self__", None)
    if owner is not None:
        yield from (
            ((n, x) for n, x in vars(owner).items() if isinstance(x, kinds)) if hasattr(owner, "__dict__") else ()
        )
        if isinstance(owner, kinds):
            yield "", owner
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return
    cells = getattr(function, "__closure__", None) or ()
    names = dict(zip(code.co_freevars, (_content(cell) for cell in cells), strict=False))
    scope = getattr(function, "__globals__", {})
    names |= {name: scope[name] for name in _globals_of(code) if name in scope}
    for name, held in names.items():
        for value in held if isinstance(held, tuple) else (held,):
            if isinstance(value, kinds):
                yield name, value
            elif depth < 2 and hasattr(value, "__code__"):
                yield from in_reach(value, kinds, depth + 1)


def _globals_of(code: CodeType) -> Iterator[str]:
    """The globals that code reads, also in functions and comprehensions inside; `co_names` has attributes too."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _globals_of(inner)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _swap_module(
    module: torch.nn.Module, prefix: str, fakes: dict[int, Tensor], watcher: Watcher, stack: ExitStack
) -> None:
    for path, part in module.named_modules():
        for table in tables_of(part):
            for name, tensor in list(table.items()):
                if tensor is not None and not is_fake(tensor):
                    fake = fakes.get(id(tensor))
                    if fake is None:
                        fake = fakes[id(tensor)] = _fake(tensor, f"{prefix}{path}{'.' if path else ''}{name}", watcher)
                    stack.callback(table.__setitem__, name, tensor)
                    table[name] = fake


def _fake(tensor: Tensor, name: str, watcher: Watcher) -> Tensor:
    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    if isinstance(tensor, torch.nn.Parameter):
        fake = torch.nn.Parameter(fake, requires_grad=tensor.requires_grad)
        watcher.leaves.append(fake)
    else:
        has_value(fake, tensor)
    watcher.name_input(fake, name)
    watcher.belonging.parameter(fake)
    return fake


def _swap_optimizer(optimizer: torch.optim.Optimizer, fakes: dict[int, Tensor], stack: ExitStack) -> None:
    for group in optimizer.param_groups:
        given = group["params"]
        stack.callback(group.__setitem__, "params", given)
        group["params"] = [fakes.get(id(parameter), parameter) for parameter in given]
    stack.callback(setattr, optimizer, "state", optimizer.state)
    # As `Optimizer.__init__` makes it.
    optimizer.state = defaultdict(dict)


def _renew_scaler(scaler: torch.amp.GradScaler, watcher: Watcher, stack: ExitStack) -> None:
    """A scaler as it is before its first step; one that PyTorch turned off for want of a GPU is on."""
    if not (scaler.is_enabled() or torch.cuda.is_available()):
        watcher.note("a GradScaler made before the trace is taken as enabled: without a GPU PyTorch turns it off")
    elif not scaler.is_enabled():
        return
    stack.enter_context(renewed(scaler))
