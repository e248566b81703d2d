"""Modules and optimizers that the function holds: their tensors become fake for the length of a trace.

They are found as the function itself, as what it is bound to, and among the names that its code uses, or that hooks of
these modules use.
"""

import dis
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import getattr_static
from operator import is_
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import Tensor

from memmodel.events.origin import is_library
from memmodel.tracer.private.autocast import renewed
from memmodel.tracer.private.dispatch import hook_tables, hooks_of, tables_of
from memmodel.tracer.private.fake import is_fake
from memmodel.tracer.watch.known import has_value
from memmodel.tracer.watch.watcher import Watcher

_KINDS: tuple[type, ...] = (torch.nn.Module, torch.optim.Optimizer, torch.amp.GradScaler)
_DEPTH = 3  # of lists, dicts and objects in one another, in which modules are looked for


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
        for each in (function, *_users_hooks(module for _, module in reached)):
            _swap_names(each, fakes, stack)
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
        listed = name.rpartition(".")[2].isdigit()  # one of several, not what the code goes by
        if str(value) == "cpu" and watcher.device.name == "cuda" and not listed:
            watcher.note(
                f"{name} in the code is the CPU, and what it decides by that is as on the CPU: set it to 'cuda', or "
                "name the function by its file, whose import then finds the GPU"
            )


def held(function: Any) -> Iterator[tuple[str, Any]]:
    """(name, object) of the modules and optimizers in reach."""
    if isinstance(function, torch.nn.Module):
        yield "", function
        yield from _behind_hooks(function, 0)
        return
    yield from in_reach(function, _KINDS)


def in_reach(function: Any, kinds: tuple[type, ...], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(name, object) of what a function reaches of these types: its owner and its parts, its closure, its globals."""
    owner = getattr(function, "__self__", None)
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
    names |= getattr(owner, "__dict__", {})
    for name, value in names.items():
        for path, part in _parts(name, value, frozenset(_names_in(code)), kinds):
            if isinstance(part, kinds):
                yield path, part
                yield from _behind_hooks(part, depth)
            elif depth < 2:
                yield from in_reach(part, kinds, depth + 1)


def _behind_hooks(part: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """(name, object) of what the hooks of a module reach."""
    for hook in _users_hooks([part]) if depth < 2 else ():
        yield from in_reach(hook, _KINDS, depth + 1)


def _users_hooks(reached: Iterable[Any]) -> Iterator[Any]:
    """The hooks, of those of these that are modules, that the user wrote; a partial function's own."""
    for module in reached:
        for hook in hooks_of(module) if isinstance(module, torch.nn.Module) else ():
            written = getattr(hook, "func", hook)
            code = getattr(getattr(written, "__func__", written), "__code__", None)
            if code is not None and not is_library(code.co_filename):
                yield written


def _parts(
    path: str, value: Any, used: frozenset[str], kinds: tuple[type, ...], depth: int = 0
) -> Iterator[tuple[str, Any]]:
    """(path, object) of a value: itself, where it is of these types or a function, or what is in it.

    In lists, tuples and dicts that is every item; in other objects, such as settings and trainers, the attributes and
    methods that the code has a name of (`used`).
    """
    if isinstance(value, kinds) or hasattr(value, "__code__"):
        yield path, value
        return
    if depth == _DEPTH or isinstance(value, type | torch.Tensor | torch.nn.Module) or _is_librarys(value):
        return
    parts: Iterable[tuple[Any, Any]] = ()
    if type(value) in (list, tuple):
        parts = enumerate(value)
    elif type(value) is dict:
        parts = value.items()
    elif hasattr(value, "__dict__"):
        # No properties: these would run.
        methods = {name for name in used if hasattr(getattr_static(type(value), name, None), "__code__")}
        parts = [(name, getattr(value, name)) for name in sorted(used & vars(value).keys() | methods)]
    for name, part in parts:
        yield from _parts(f"{path}.{name}", part, used, kinds, depth + 1)


def _is_librarys(value: Any) -> bool:
    """Whether an object is a module of a library, or of one of its classes."""
    if isinstance(value, ModuleType):
        return is_library(getattr(value, "__file__", None) or "<")
    return type(value).__module__.partition(".")[0] in ("torch", "numpy")


def _names_in(code: CodeType) -> Iterator[str]:
    """The names of globals and attributes in code, also in functions and comprehensions inside."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names_in(inner)


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
        on_gradient, after_it = hook_tables(tensor)
        for hook in on_gradient.values():
            fake.register_hook(hook)  # type: ignore[no-untyped-call]
        for hook in after_it.values():
            fake.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
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


def _swap_names(function: Any, fakes: dict[int, Tensor], stack: ExitStack, depth: int = 0) -> None:
    """Names by which the code holds parameters of these modules itself, such as a list of them, hold the fake ones."""
    own = getattr(getattr(function, "__self__", None), "__dict__", None)
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return
    scope = getattr(function, "__globals__", {})
    places: list[tuple[Any, Any]] = [(scope, name) for name in _globals_of(code) if name in scope]
    places += [(own, name) for name in own] if isinstance(own, dict) else []
    places += [(_Cell(cell), None) for cell in getattr(function, "__closure__", None) or ()]
    for where, name in places:
        value = where[name]
        swapped = _with_fakes(value, fakes)
        if swapped is not value:
            stack.callback(where.__setitem__, name, value)
            where[name] = swapped
        elif depth < 2 and hasattr(value, "__code__"):
            _swap_names(value, fakes, stack, depth + 1)


class _Cell:
    """A variable of an enclosing function, read and set as an item."""

    def __init__(self, cell: Any) -> None:
        self.cell = cell

    def __getitem__(self, _: None) -> Any:
        return _content(self.cell)

    def __setitem__(self, _: None, value: Any) -> None:
        self.cell.cell_contents = value


def _with_fakes(value: Any, fakes: dict[int, Tensor]) -> Any:
    """A tensor's fake one, a list, tuple or dict with those of its items; the value itself where it has none."""
    if isinstance(value, Tensor):
        return fakes.get(id(value), value)
    if type(value) is dict:
        items = {_with_fakes(key, fakes): _with_fakes(each, fakes) for key, each in value.items()}
        return value if all(map(is_, (*items, *items.values()), (*value, *value.values()))) else items
    if type(value) not in (list, tuple):
        return value
    swapped = [fakes.get(id(each), each) for each in value]
    return value if all(map(is_, swapped, value)) else type(value)(swapped)


def _renew_scaler(scaler: torch.amp.GradScaler, watcher: Watcher, stack: ExitStack) -> None:
    """A scaler as it is before its first step; one that PyTorch turned off for want of a GPU is on."""
    if not (scaler.is_enabled() or torch.cuda.is_available()):
        watcher.note("a GradScaler made before the trace is taken as enabled: without a GPU PyTorch turns it off")
    elif not scaler.is_enabled():
        return
    stack.enter_context(renewed(scaler))
