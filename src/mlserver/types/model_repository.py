"""Messages of the model repository extension."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Literal, Optional

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
    ready: Optional[bool] = None


class RepositoryIndexResponseItem(BaseModel):
    name: str
    version: Optional[str] = None
    state: StateName
    reason: str


class RepositoryIndexResponse(RootModel):
    root: list[RepositoryIndexResponseItem]


class RepositoryLoadErrorResponse(BaseModel):
    error: Optional[str] = None


class RepositoryUnloadErrorResponse(BaseModel):
    error: Optional[str] = None
