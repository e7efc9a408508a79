"""What can go wrong between the server and its worker processes."""

from __future__ import annotations

import signal
from typing import Any

from mlserver.errors import MLServerError

__all__ = ["EnvironmentNotFound", "RemoteError", "WorkerError", "WorkerStop"]


class EnvironmentNotFound(MLServerError):
    """The environment that a model was to run in is gone.

    model: the settings of the model.
    """

    def __init__(self, model: Any, env_hash: str) -> None:
        version = getattr(model, "version", None)
        where = "" if version is None else f" with version '{version}'"
        super().__init__(
            f"Environment with hash '{env_hash}' was not found for model '{model.name}'{where}", 500
        )


class WorkerStop(MLServerError):
    """A worker ended that was not told to.

    exit_code: negative for the signal that ended it.
    """

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(f"Worker process stopped unexpectedly with exit code {_named(exit_code)}.", 500)


def _named(exit_code: int) -> str:
    try:
        return f"{exit_code} ({signal.Signals(-exit_code).name})" if exit_code < 0 else str(exit_code)
    except ValueError:
        return str(exit_code)


class WorkerError(MLServerError):
    """An error raised in a worker: its class and text, and its status if it has one."""

    def __init__(self, exc: BaseException) -> None:
        kind = type(exc)
        status_code = exc.status_code if isinstance(exc, MLServerError) else 500
        super().__init__(f"{kind.__module__}.{kind.__name__}: {exc}", status_code)


class RemoteError(Exception):
    """An error that code in a worker raised and that is none of ours.

    kind: name of its class. remote_traceback: where it was raised, as text.
    """

    def __init__(self, kind: str, text: str, remote_traceback: str) -> None:
        self.kind = kind
        self.remote_traceback = remote_traceback
        super().__init__(text)
