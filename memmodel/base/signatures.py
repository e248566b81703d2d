"""Signatures of functions that hand keywords on, as `help` and editors show them."""

from collections.abc import Callable, Iterable
from inspect import Parameter, signature
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def keywords_of(function: Callable[..., Any]) -> list[Parameter]:
    """The parameters of a function that are given by name alone."""
    return [one for one in signature(function).parameters.values() if one.kind is Parameter.KEYWORD_ONLY]


def taking(keywords: Iterable[Parameter]) -> Callable[[F], F]:
    """Decorates a function whose last parameter, `**given`, stands for these keywords: its signature names them."""

    def named(function: F) -> F:
        *own, _ = signature(function).parameters.values()
        found = {one.name: one for one in own}
        for one in keywords:
            found.setdefault(one.name, one)
        function.__signature__ = signature(function).replace(parameters=list(found.values()))  # type: ignore[attr-defined]
        return function

    return named
