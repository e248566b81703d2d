"""Inductor's plan of one graph: the code that allocates, calls kernels and frees, and the meaning of its buffers."""

import ast
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

from memmodel.events.origin import origin
from memmodel.events.program import Site
from memmodel.tracer.compiled.places import site_of
from memmodel.tracer.compiled.summary import Graph
from memmodel.tracer.operators import is_view
from memmodel.tracer.private.dispatch import schema_of

_MOST_NAMED = 3


class Buffer(NamedTuple):
    """A buffer of the plan.

    Attributes:
        name: what it holds. op: the operator that it was made for. site: the user's line. nodes: fused to make it.
    """

    name: str
    op: str
    site: Site | None
    nodes: tuple[Any, ...]


class Plan:
    """One lowered graph.

    Attributes:
        title: "graph 0, forward". backward: whether it is a backward graph. source: the wrapper's code.
        constants: values that the code names.
    """

    def __init__(self, lowered: Any, source: str, number: int) -> None:
        self.kind = "backward" if lowered.is_backward else "inference" if lowered.is_inference else "forward"
        self.title = f"graph {number}, {self.kind}"
        self.backward = bool(lowered.is_backward)
        self.source = source
        # No two alike: the watcher knows the plan that runs by the file of a frame.
        self.file = f"<compiled {self.title}, {id(self):x}>"
        self.constants: dict[str, Any] = {**lowered.constants, **lowered.torchbind_constants}
        self.buffers = _buffers(lowered)

    @cached_property
    def tree(self) -> ast.Module:
        """The wrapper's code."""
        return ast.parse(self.source)

    @cached_property
    def _made(self) -> dict[int, str]:
        """Line -> name that it assigns."""
        return {
            node.lineno: node.targets[0].id
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }

    @cached_property
    def arguments(self) -> dict[int, tuple[str, ...]]:
        """Line -> names that its call is given, "" for what is no name."""
        calls = (n.value for n in ast.walk(self.tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call))
        return {c.lineno: tuple(a.id if isinstance(a, ast.Name) else "" for a in c.args) for c in calls}

    @cached_property
    def reused(self) -> dict[str, list[str]]:
        """Buffer -> the later ones that take over its storage."""
        found: dict[str, list[str]] = {}
        first: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                # `buf5 = buf0`, or a reinterpret_tensor of it (torch/_inductor/codegen/wrapper.py, make_buffer_reuse).
                source = node.value
                if isinstance(source, ast.Call) and _called(source) == "reinterpret_tensor":
                    source = source.args[0]
                if isinstance(source, ast.Name) and source.id.startswith("buf"):
                    # Of a chain of reuses, the first buffer is the one that was allocated.
                    kept = first[node.targets[0].id] = first.get(source.id, source.id)
                    found.setdefault(kept, []).append(node.targets[0].id)
        return found

    @cached_property
    def kernels(self) -> dict[str, str]:
        """Source of each fused kernel by name: `NAME = async_compile.triton(..., SOURCE, ...)`."""
        found = {}
        for statement in self.tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
                call, name = statement.value, statement.targets[0]
                # The name comes before the source.
                texts = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                if ast.unparse(call.func).startswith("async_compile.") and texts and isinstance(name, ast.Name):
                    found[name.id] = texts[-1]
        return found

    def summary(self) -> Graph:
        """Kernels, calls and buffers, counted in the code."""
        called = [ast.unparse(n.func) for n in ast.walk(self.tree) if isinstance(n, ast.Call)]
        kernels = sum(name.removesuffix(".run") in self.kernels for name in called)
        calls = sum(name.startswith(("extern_kernels.", "torch.ops.")) for name in called)
        born = sum(name.startswith("empty_strided_") for name in called)
        return Graph(self.kind, kernels, calls, born, sum(map(len, self.reused.values())))

    def born_at(self, line: int) -> tuple[str, Buffer | None]:
        """(name in the code, buffer) of what a line makes."""
        name = self._made.get(line, "")
        return name, self.buffers.get(name)


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _buffers(lowered: Any) -> dict[str, Buffer]:
    order = {node: i for i, node in enumerate(lowered.module.graph.nodes)}
    # The last operator of a line makes what the name on its left stands for.
    last = {_line(node): node for node in order if not _is_view(node)}
    found = {}
    for nodes, names in _kernels(lowered):
        fused = tuple(sorted(nodes & order.keys(), key=order.__getitem__))
        for name in names:
            buffer = lowered.name_to_buffer.get(name)
            if buffer is not None:
                made = [n for n in order if n in getattr(buffer, "origins", ()) and not _is_view(n)]
                found[name] = _buffer(made[-1] if made else None, fused, last, lowered.is_backward)
    return found


def _kernels(lowered: Any) -> Iterator[tuple[set[Any], list[str]]]:
    """(the graph's nodes, names of buffers) of each kernel."""
    for group in lowered.scheduler.nodes:
        parts = [part.node for part in group.get_nodes() if part.node is not None]
        yield {n for part in parts for n in getattr(part, "origins", ())}, list(group.get_buffer_names())


def _line(node: Any) -> Any:
    """The identity of a line of the user's code: the whole stack of frames."""
    return node.meta.get("stack_trace")


def _buffer(node: Any, fused: tuple[Any, ...], last: dict[Any, Any], backward: bool) -> Buffer:
    """The description of a buffer, from the last of the nodes that are computed into it."""
    ops = list(dict.fromkeys(_name(n) for n in fused if not _is_view(n)))
    if node is None:
        return Buffer(_fused(ops), _fused(ops), None, fused)
    site, op = site_of(_line(node)), _name(node)
    place = origin(site)
    if place is None or not place.name:
        return Buffer(op, _fused(ops), site, fused)
    if backward:
        return Buffer(f"{op} in backward of {place.name}", op, site, fused)
    return Buffer(place.name if last.get(_line(node)) is node else f"{op} of {place.name}", op, site, fused)


def _is_view(node: Any) -> bool:
    return node.op != "call_function" or (schema_of(node.target) is not None and is_view(node.target))


def _name(node: Any) -> str:
    schema = schema_of(node.target)
    return str(schema.name.partition("::")[2] if schema else getattr(node.target, "__name__", node.name))


def _fused(names: list[str]) -> str:
    shown = names[:_MOST_NAMED] + (["..."] if len(names) > _MOST_NAMED else [])
    return f"fused: {', '.join(shown)}" if len(names) > 1 else (names[0] if names else "buffer")
