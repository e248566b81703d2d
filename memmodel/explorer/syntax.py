"""Python's functions and statements as JavaScript: the subset that the model's rules are written in."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache

from memmodel.explorer.expressions import Expressions, own_name

_FUNCTIONS = (ast.FunctionDef, ast.Lambda, ast.GeneratorExp, ast.ListComp, ast.SetComp, ast.DictComp)


class Syntax(Expressions):
    """The translation of one function."""

    def function(self, node: ast.FunctionDef, head: str, own: str = "") -> str:
        """A function after its `head` ("function name", a method's name); `own` is a method's first parameter."""
        scope, names = _locals(node)
        self.scopes.append(scope)
        parameters = ", ".join(self._parameters(node.args, own))
        lines = ["super();"] if head == "constructor" else []
        lines += [f"const {own_name(own)} = this;"] if own else []
        lines += [f"let {', '.join(map(own_name, names))};"] if names else []
        body = "\n".join([*lines, self.block(node.body)])
        self.scopes.pop()
        return f"{head}({parameters}) {{\n{body}\n}}"

    def _parameters(self, args: ast.arguments, own: str) -> Iterator[str]:
        positional = dict(zip([a.arg for a in args.args][::-1], args.defaults[::-1], strict=False))
        defaults = positional | {a.arg: d for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True) if d}
        for name in (a.arg for a in (*args.args, *args.kwonlyargs) if a.arg != own):
            yield f"{own_name(name)} = {self.translated(defaults[name])}" if name in defaults else own_name(name)
        if args.vararg:
            yield f"...{own_name(args.vararg.arg)}"

    def _functiondef(self, node: ast.FunctionDef) -> str:
        return self.function(node, f"function{star(node)} {own_name(node.name)}")

    def _expr(self, node: ast.Expr) -> str:
        return "" if isinstance(node.value, ast.Constant) else f"{self.translated(node.value)};"

    def _assign(self, node: ast.Assign) -> str:
        value, target = self.translated(node.value), node.targets[0]
        if isinstance(target, ast.Tuple) and any(isinstance(part, ast.Subscript) for part in target.elts):
            # a, b[i] = x, y: the right side is evaluated before anything is written.
            parts = (self._assigned(part, f"given[{i}]") for i, part in enumerate(target.elts))
            return f"{{ const given = {value}; {'; '.join(parts)}; }}"
        for target in reversed(node.targets):
            value = self._assigned(target, value)
        return f"{value};"

    def _annassign(self, node: ast.AnnAssign) -> str:
        return f"{self._assigned(node.target, self.translated(node.value))};" if node.value else ""

    def _augassign(self, node: ast.AugAssign) -> str:
        return f"{self._assigned(node.target, self.operation(node.op, node.target, node.value))};"

    def _assigned(self, target: ast.expr, value: str) -> str:
        if isinstance(target, ast.Subscript):
            return f"put({self.translated(target.value)}, {self.translated(target.slice)}, {value})"
        return f"{self.pattern(target)} = {value}"

    def _delete(self, node: ast.Delete) -> str:
        # `del name` is for recordings, where it ends a tensor's life.
        gone = (target for target in node.targets if isinstance(target, ast.Subscript))
        return " ".join(f"drop({self.translated(target.value)}, {self.translated(target.slice)});" for target in gone)

    def _for(self, node: ast.For) -> str:
        return f"for ({self.each(node.target, node.iter)}) {{ {self.block(node.body)} }}"

    def _raise(self, node: ast.Raise) -> str:
        return f"throw {self.translated(node.exc) if node.exc else 'caught'};"

    def _try(self, node: ast.Try) -> str:
        handlers = " else ".join(map(self.translated, node.handlers))
        return f"try {{ {self.block(node.body)} }} catch (caught) {{ {handlers} else throw caught; }}"

    def _excepthandler(self, node: ast.ExceptHandler) -> str:
        named = f"{own_name(node.name)} = caught;" if node.name else ""
        kinds = self.translated(node.type) if node.type else "Error"
        return f"if (isinstance(caught, {kinds})) {{ {named} {self.block(node.body)} }}"


def star(node: ast.FunctionDef) -> str:
    """JavaScript's sign of a generator, for one."""
    return "*" * any(isinstance(n, ast.Yield | ast.YieldFrom) for n in _nodes(node))


@cache
def _nodes(function: ast.FunctionDef) -> tuple[ast.AST, ...]:
    """The nodes of a function without those of functions in it."""
    return tuple(_below(function.body))


def _below(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    for node in nodes:
        yield node
        if not isinstance(node, _FUNCTIONS):
            yield from _below(ast.iter_child_nodes(node))


@cache
def _locals(function: ast.FunctionDef) -> tuple[set[str], list[str]]:
    """All local names of a function, and those to declare at its top: Python's are not those of a block."""
    inner = {n.name for n in _nodes(function) if isinstance(n, ast.FunctionDef)}
    given = {a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)}
    own = set(_assigned(function))
    return own | given | inner, sorted(own - given - inner)


def _assigned(function: ast.FunctionDef) -> Iterator[str]:
    """The names that a function makes its own; functions in it declare themselves."""
    nodes = _nodes(function)
    outer = {name for node in nodes if isinstance(node, ast.Nonlocal) for name in node.names}
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id not in outer:
            yield node.id
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
