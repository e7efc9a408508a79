"""What the server asks of a place where models are kept."""

from __future__ import annotations

import builtins
from abc import ABC, abstractmethod
from typing import Any

from mlserver.errors import ModelNotFound
from mlserver.settings import ModelSettings

__all__ = ["ModelRepository"]


class ModelRepository(ABC):
    """Lists the models that could be loaded. Asked anew each time, so models may come and go meanwhile.

    A class of your own is named in the server's settings (`model_repository_implementation`) and built as
    `Cls(root=<folder>, **model_repository_implementation_args)`, maybe more than once.
    """

    def __init__(self, root: str = ".", **kwargs: Any) -> None:
        self._root = root

    @abstractmethod
    async def list(self) -> builtins.list[ModelSettings]:
        """Settings of every model, one entry for each version."""

    async def find(self, name: str) -> builtins.list[ModelSettings]:
        """Every version of one model. Raises ModelNotFound when there is none."""
        found = [settings for settings in await self.list() if settings.name == name]
        if not found:
            raise ModelNotFound(name)
        return found
