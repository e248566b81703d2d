"""Python's expressions as JavaScript.

Numbers are JavaScript's, whole up to 2^53; lists and tuples are arrays. Where the two languages differ (equality,
truth, sums, dicts, slices, formats) the result calls a function of `python.js`. What has no JavaScript raises
TranslationError, with its line.
"""

import ast
import json
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any, Protocol

from memmodel.base.errors import UsageError

_TEMPLATES: dict[type, str] = {  # by the node's fields
    ast.Return: "return {value};",
    ast.Break: "break;",
    ast.Continue: "continue;",
    ast.If: "if ({test}) {{ {body} }} else {{ {orelse} }}",
    ast.While: "while ({test}) {{ {body} }}",
    ast.Tuple: "[{elts}]",
    ast.List: "[{elts}]",
    ast.Set: "new Set([{elts}])",
    ast.Starred: "...{value}",
    ast.IfExp: "({test} ? {body} : {orelse})",
    ast.Yield: "yield {value}",
    ast.YieldFrom: "yield* {value}",
    **dict.fromkeys((ast.Import, ast.ImportFrom, ast.Assert, ast.Nonlocal, ast.Pass), ""),
}
_CALLED: dict[type, str] = {ast.Add: "add", ast.Mult: "mul", ast.Mod: "mod", ast.FloorDiv: "floordiv"}
_CALLED |= {ast.LShift: "lshift", ast.RShift: "rshift", ast.BitOr: "union", ast.BitXor: "xor"}
_PLAIN: dict[type, str] = {ast.Sub: "-", ast.Div: "/", ast.Pow: "**", ast.Add: "+", ast.Mult: "*"}
_COMPARED: dict[type, str] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Is: "===", ast.IsNot: "!=="}
_OWN_METHODS = frozenset(["join", "pop", "replace", "split", "sort"])  # JavaScript has others of these names


class TranslationError(UsageError):
    """A rule of the model is written in a way that the explorer's page cannot run."""


class Names(Protocol):
    """The names outside of a function, as its translation needs them."""

    attributes: set[str]  # those that were met
    called: set[str]  # of these, those that were called

    def reference(self, name: str) -> str:
        """The JavaScript of a global name."""

    def target(self, name: str) -> Any:
        """The object behind a global name."""

    def constructs(self, name: str) -> bool:
        """Whether a global name is a class that JavaScript calls with `new`."""

    def is_method(self, name: str) -> bool:
        """Whether an attribute may be a method, which as a value stays bound to its object."""

    def parameters(self, name: str, of_method: bool) -> list[str] | None:
        """The parameters of one of the model's functions, in order; None for any other."""


class Expressions:
    """The translation of the expressions of one function."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.scopes: list[set[str]] = []

    def translated(self, node: ast.AST) -> str:
        """A statement or expression, by its method or its template. Raises TranslationError where there is neither."""
        if isinstance(node, ast.For | ast.While | ast.Try) and (node.orelse or getattr(node, "finalbody", None)):
            raise missing(node, " with else or finally")
        own: Callable[[Any], str] | None = getattr(self, f"_{type(node).__name__.lower()}", None)
        if own is not None:
            return own(node)
        if type(node) not in _TEMPLATES:
            raise missing(node)
        template = _TEMPLATES[type(node)]
        fields = ast.iter_fields(node) if template else ()
        return template.format(**{name: self._field(name, value) for name, value in fields})

    def _field(self, name: str, value: Any) -> str:
        if isinstance(value, list):
            return self.block(value) if name in ("body", "orelse") else ", ".join(map(self.translated, value))
        if not isinstance(value, ast.expr):
            return ""
        return self.truth(value) if name == "test" else self.translated(value)

    def block(self, body: list[ast.stmt]) -> str:
        """Statements, without those that do nothing."""
        return "\n".join(filter(None, map(self.translated, body)))

    def _local(self, name: str) -> bool:
        return any(name in scope for scope in self.scopes)

    def _constant(self, node: ast.Constant) -> str:
        return json.dumps(node.value, ensure_ascii=False)

    def _name(self, node: ast.Name) -> str:
        return own_name(node.id) if self._local(node.id) else self.names.reference(node.id)

    def _attribute(self, node: ast.Attribute) -> str:
        if isinstance(named := self._of_module(node), ast.Name):
            return self._name(named)
        self.names.attributes.add(node.attr)
        value = self.translated(node.value)
        return f'bound({value}, "{node.attr}")' if self.names.is_method(node.attr) else f"{value}.{node.attr}"

    def _of_module(self, node: ast.expr) -> ast.expr:
        """An attribute of one of the model's modules as a name."""
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and not self._local(node.value.id):
            module = self.names.target(node.value.id)
            if isinstance(module, ModuleType) and module.__name__.startswith("memmodel"):
                return ast.Name(f"{node.value.id}.{node.attr}")
        return node

    def _subscript(self, node: ast.Subscript) -> str:
        value = self.translated(node.value)
        if isinstance(self._global(node.value), type):
            return value  # dict[str, int]
        if isinstance(node.slice, ast.Slice):
            parts = (node.slice.lower, node.slice.upper, node.slice.step)
            ends = (self.translated(part) if part else "null" for part in parts)
            return f"sliced({value}, {', '.join(ends)})"
        return f"at({value}, {self.translated(node.slice)})"

    def _global(self, node: ast.expr) -> Any:
        return self.names.target(node.id) if isinstance(node, ast.Name) and not self._local(node.id) else None

    def _dict(self, node: ast.Dict) -> str:
        pairs = (
            f"[{self.translated(key)}, {self.translated(value)}]" if key else f"...{self.translated(value)}.items()"
            for key, value in zip(node.keys, node.values, strict=True)
        )
        return f"new Dict([{', '.join(pairs)}])"

    def _binop(self, node: ast.BinOp) -> str:
        return self.operation(node.op, node.left, node.right)

    def operation(self, op: ast.operator, left: ast.expr, right: ast.expr) -> str:
        """Two operands and what is between them; sums and products may be of lists."""
        a, b = self.translated(left), self.translated(right)
        sequences = (ast.Add, ast.Mult) if not _is_number(left) and not _is_number(right) else (ast.Mult,)
        if type(op) in _PLAIN and not isinstance(op, sequences):
            return f"({a} {_PLAIN[type(op)]} {b})"
        if type(op) not in _CALLED:
            raise missing(left, f" {type(op).__name__}")
        return f"{_CALLED[type(op)]}({a}, {b})"

    def _unaryop(self, node: ast.UnaryOp) -> str:
        if isinstance(node.op, ast.Not):
            return f"!{self.truth(node.operand)}"
        if not isinstance(node.op, ast.USub):
            raise missing(node)
        return f"(-{self.translated(node.operand)})"

    def _boolop(self, node: ast.BoolOp) -> str:
        if _is_bool(node):
            return self.truth(node)
        # The value is one of the operands, and && would take an empty list for true.
        first, *rest = node.values
        other = self.translated(ast.BoolOp(node.op, rest) if rest[1:] else rest[0])
        return f"{'both' if isinstance(node.op, ast.And) else 'either'}({self.translated(first)}, () => {other})"

    def truth(self, node: ast.expr) -> str:
        """A condition: what is not true or false itself is true as in Python, where empty things are false."""
        if isinstance(node, ast.BoolOp):
            return f"({(' && ' if isinstance(node.op, ast.And) else ' || ').join(map(self.truth, node.values))})"
        return self.translated(node) if _is_bool(node) else f"truth({self.translated(node)})"

    def _compare(self, node: ast.Compare) -> str:
        operands = [node.left, *node.comparators]
        return f"({' && '.join(map(self._compared, node.ops, operands, node.comparators))})"

    def _compared(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> str:
        a, b = self.translated(left), self.translated(right)
        if isinstance(op, ast.In | ast.NotIn):
            return f"{'!' * isinstance(op, ast.NotIn)}contains({b}, {a})"
        if isinstance(op, ast.Eq | ast.NotEq):
            return f"{'!' * isinstance(op, ast.NotEq)}equal({a}, {b})"
        if isinstance(left, ast.Set):
            return f"subset({a}, {b})"
        # JavaScript compares arrays as texts.
        if any(isinstance(side, ast.Tuple) or isinstance(self._global(side), tuple) for side in (left, right)):
            return f"compare({a}, {b}) {_COMPARED[type(op)]} 0"
        return f"{a} {_COMPARED[type(op)]} {b}"

    def _joinedstr(self, node: ast.JoinedStr) -> str:
        return f'[{", ".join(map(self.translated, node.values))}].join("")'

    def _formattedvalue(self, node: ast.FormattedValue) -> str:
        spec = self.translated(node.format_spec) if node.format_spec else '""'
        return f"format({'repr' * (node.conversion == ord('r'))}({self.translated(node.value)}), {spec})"

    def _call(self, node: ast.Call) -> str:
        function = self._of_module(node.func)
        if isinstance(function, ast.Attribute):
            name = function.attr
            self.names.attributes.add(name)
            self.names.called.add(method_name(name))
            callee = f"{self.translated(function.value)}.{method_name(name)}"
            return f"{callee}({self._arguments(node, self.names.parameters(name, True))})"
        if not isinstance(function, ast.Name):
            return f"called({', '.join(map(self.translated, (function, *node.args)))})"
        if self._local(function.id):
            return f"{own_name(function.id)}({self._arguments(node, None)})"
        callee = f"{'new ' * self.names.constructs(function.id)}{self.names.reference(function.id)}"
        return f"{callee}({self._arguments(node, self.names.parameters(function.id, False))})"

    def _arguments(self, node: ast.Call, parameters: list[str] | None) -> str:
        """Positional arguments, then keywords at their positions; for built-ins as one object."""
        found = list(map(self.translated, node.args))
        keywords = {keyword.arg or "": self.translated(keyword.value) for keyword in node.keywords}
        if not keywords:
            return ", ".join(found)
        options = (f"{name}: {value}" if name else f"...record({value})" for name, value in keywords.items())
        shown = f"{{{', '.join(options)}}}"
        if parameters is None:
            return ", ".join([*found, shown])
        if "" in keywords or any(isinstance(each, ast.Starred) for each in node.args):
            return f"...placed({json.dumps(parameters)}, [{', '.join(found)}], {shown})"
        if unknown := keywords.keys() - set(parameters):
            raise missing(node, f" with {', '.join(unknown)}")
        return ", ".join([*found, *(keywords.get(name, "undefined") for name in parameters[len(found) :])])

    def _lambda(self, node: ast.Lambda) -> str:
        names = [a.arg for a in node.args.args]
        with_body = self._within(names, lambda: self.translated(node.body))
        return f"(({', '.join(map(own_name, names))}) => {with_body})"

    def _within(self, names: Collection[str], translate: Callable[[], str]) -> str:
        self.scopes.append(set(names))
        found = translate()
        self.scopes.pop()
        return found

    def _generatorexp(self, node: Any) -> str:
        """A comprehension as a generator that is called at once."""
        names = {n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
        pair = isinstance(node, ast.DictComp)
        result = ast.Tuple([node.key, node.value]) if pair else node.elt
        body = self._within(
            names, lambda: f"{''.join(map(self._loop, node.generators))}yield {self.translated(result)};"
        )
        return f"(function* () {{ {body} }})()"

    def _listcomp(self, node: ast.ListComp) -> str:
        return f"[...{self._generatorexp(node)}]"

    def _setcomp(self, node: ast.SetComp) -> str:
        return f"new Set({self._generatorexp(node)})"

    def _dictcomp(self, node: ast.DictComp) -> str:
        return f"new Dict({self._generatorexp(node)})"

    def _loop(self, node: ast.comprehension) -> str:
        conditions = "".join(f"if ({self.truth(condition)}) " for condition in node.ifs)
        return f"for (let {self.each(node.target, node.iter)}) {conditions}"

    def pattern(self, target: ast.expr) -> str:
        """The target of an assignment; JavaScript unpacks tuples as Python does."""
        if isinstance(target, ast.Tuple):
            return f"[{', '.join(map(self.pattern, target.elts))}]"
        if isinstance(target, ast.Attribute):
            return f"{self.translated(target.value)}.{target.attr}"
        return self.translated(target)

    def each(self, target: ast.expr, iterable: ast.expr) -> str:
        """The head of a `for` loop."""
        source = self.translated(iterable)
        if isinstance(target, ast.Tuple) and isinstance(target.elts[0], ast.Starred):  # *_, last
            target, source = ast.Tuple(target.elts[1:]), f"ends({source}, {len(target.elts) - 1})"
        return f"{self.pattern(target)} of {source}"


def missing(node: ast.AST, what: str = "") -> TranslationError:
    """The error for what has no JavaScript."""
    return TranslationError(f"line {getattr(node, 'lineno', '?')}: no JavaScript for {type(node).__name__}{what}")


def own_name(name: str) -> str:
    """A function's own name, which is then none of JavaScript's words nor a name of something else."""
    return f"{name}$"


def method_name(name: str) -> str:
    """A method's name, other than that of a different method that JavaScript's arrays or strings have."""
    return f"{name}_" if name in _OWN_METHODS else name


def _is_bool(node: ast.expr) -> bool:
    """Whether an expression is true or false itself."""
    if isinstance(node, ast.BoolOp):
        return all(map(_is_bool, node.values))
    tests = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "hasattr")
    return tests or isinstance(node, ast.Compare) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))


def _is_number(node: ast.expr) -> bool:
    """Whether an expression is a number for certain: a literal, or a difference, a quotient or a power."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.Pow | ast.Mod)
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)
