"""Messages of the model repository extension."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Literal

from mlserver.types.base import BaseModel, RootModel

__all__ = [
    "RepositoryIndexRequest",
    "RepositoryIndexResponse",
    "RepositoryIndexResponseItem",
    "RepositoryLoadErrorResponse",
    "RepositoryUnloadErrorResponse",
    "State",
]


class State(enum.Enum):
    """What a model in the repository is doing. Messages hold the names as plain strings."""

    UNKNOWN = "UNKNOWN"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"


if TYPE_CHECKING:
    StateName = Any
else:
    StateName = Literal[tuple(member.value for member in State)]


class RepositoryIndexRequest(BaseModel):
    ready: bool | None = None


class RepositoryIndexResponseItem(BaseModel):
    name: str
    version: str | None = None
    state: StateName
    reason: str


class RepositoryIndexResponse(RootModel):
    root: list[RepositoryIndexResponseItem]


class RepositoryLoadErrorResponse(BaseModel):
    error: str | None = None


class RepositoryUnloadErrorResponse(BaseModel):
    error: str | None = None
