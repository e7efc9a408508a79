"""Methods of a runtime that become REST routes while the model is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["CustomHandler", "custom_handler", "get_custom_handlers"]

F = TypeVar("F", bound=Callable[..., Any])

_ATTRIBUTE = "__custom_handler__"


@dataclass(frozen=True)
class CustomHandler:
    """Where a handler is found: an absolute path, which may hold `{parameters}`, and a method."""

    rest_path: str
    rest_method: str = "POST"


def custom_handler(rest_path: str, rest_method: str = "POST") -> Callable[[F], F]:
    """Mark a method of a runtime as the handler of `rest_path`. The method itself stays as it is."""

    def mark(function: F) -> F:
        setattr(function, _ATTRIBUTE, CustomHandler(rest_path=rest_path, rest_method=rest_method))
        return function

    return mark


def get_custom_handlers(model: Any) -> list[tuple[CustomHandler, Callable[..., Any]]]:
    """The marked methods of a model, bound to it, by name."""
    found = []
    for name in sorted(dir(type(model))):
        handler = getattr(inspect.getattr_static(type(model), name), _ATTRIBUTE, None)
        if handler is not None:
            found.append((handler, getattr(model, name)))
    return found
