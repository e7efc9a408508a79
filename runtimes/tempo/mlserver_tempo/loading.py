"""How a module is executed that was written for pydantic 1.

Such a module gets builtins of its own, whose `__import__` gives `pydantic.v1` for `pydantic`. Nothing else is
changed, neither `sys.modules` nor what other modules import, in whatever thread; but Tempo's runtime learns
to check its requests.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.abc
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["find_spec"]


# The module of Tempo's runtime, which leaves it to the functions of users to judge a request.
_RUNTIME = "tempo.mlserver"


def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    """Where a module of Tempo is; None where it is not."""
    spec = PathFinder.find_spec(name, path, target)
    if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
        spec.loader = _Loader(spec.loader)
    return spec


def _import(
    name: str, namespace: Any = None, local: Any = None, fromlist: Sequence[str] | None = (), level: int = 0
) -> Any:
    if level == 0 and (name == "pydantic" or name.startswith("pydantic.")):
        module = importlib.import_module("pydantic.v1" + name[len("pydantic") :])
        return module if fromlist else importlib.import_module("pydantic.v1")
    return builtins.__import__(name, namespace, local, fromlist or (), level)


_BUILTINS = {**vars(builtins), "__import__": _import}


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = _BUILTINS
        self._loader.exec_module(module)
        if module.__name__ == _RUNTIME:
            from mlserver_tempo.requests import guard

            guard(vars(module)["InferenceRuntime"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # get_source and the like, for tracebacks
