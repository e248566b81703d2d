"""Sympy expressions as JavaScript: whole powers as products, which stay exact below 2^53 where Math.pow need not."""

from typing import Any

import sympy
from sympy.printing.jscode import JavascriptCodePrinter
from sympy.printing.precedence import PRECEDENCE


class _Printer(JavascriptCodePrinter):  # type: ignore[misc]
    def _print_Pow(self, expr: Any) -> str:  # noqa: N802 - sympy's name
        if expr.exp.is_Integer and expr.exp > 1:
            return "*".join([self.parenthesize(expr.base, PRECEDENCE["Mul"])] * int(expr.exp))
        return str(super()._print_Pow(expr))


_printer = _Printer({"allow_unknown_functions": True})


def function(expression: Any) -> str:
    """A JavaScript function of the letters in an expression: ({b,h,n})=>2*b*h*n*n."""
    found = sympy.sympify(expression)
    letters = ",".join(sorted(symbol.name for symbol in found.free_symbols))
    code = _printer.doprint(found).replace(" ", "")
    return f"({{{letters}}})=>{code}"
