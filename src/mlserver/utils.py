"""Small helpers that runtimes and the server share."""

from __future__ import annotations

import asyncio
import enum
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlparse

from mlserver.errors import InvalidModelURI
from mlserver.types import InferenceRequest, InferenceResponse, Parameters

if TYPE_CHECKING:
    from mlserver.settings import ModelSettings

__all__ = [
    "AsyncManager",
    "EventLoopBackend",
    "extract_headers",
    "generate_uuid",
    "get_model_uri",
    "get_wrapped_method",
    "insert_headers",
    "install_uvloop_event_loop",
    "schedule_with_callback",
    "to_absolute_path",
]

T = TypeVar("T")
P = TypeVar("P", bound=Parameters)


# Artefacts


async def get_model_uri(settings: ModelSettings, wellknown_filenames: Sequence[str] = ()) -> str:
    """Path (or URI of a scheme other than `file`, as it is) of the artefact that `parameters.uri` names.

    wellknown_filenames: in a folder, the first of these files that exists is taken; without one, the folder
    is. Raises InvalidModelURI when there is no URI, or nothing where it points; UntrustedArtefact when the
    settings do not let it be loaded.
    """
    from mlserver.audit.policy import check_artefact

    path = _find_artefact(settings, wellknown_filenames)
    check_artefact(settings, path)
    return path


def _find_artefact(settings: ModelSettings, wellknown_filenames: Sequence[str]) -> str:
    uri = settings.parameters.uri if settings.parameters is not None else None
    if not uri:
        raise InvalidModelURI(settings.name)
    parsed = urlparse(uri)
    if parsed.scheme not in ("", "file"):
        return uri
    path = to_absolute_path(settings, parsed.path)
    if os.path.isfile(path):
        return path
    if os.path.isdir(path):
        for filename in wellknown_filenames:
            candidate = os.path.join(path, filename)
            if os.path.isfile(candidate):
                return candidate
        return path
    raise InvalidModelURI(settings.name, path)


def to_absolute_path(model_settings: ModelSettings, uri: str) -> str:
    """`uri` seen from the folder of the model's settings file; unchanged when there is no file."""
    source = model_settings._source
    if source is None:
        return uri
    return os.path.normpath(os.path.join(os.path.dirname(source), uri))


# Identifiers

_uuids: list[str] = []
_UUIDS_PER_REFILL = 256
# Where in the 36 characters the 32 digits go; number 12 tells the version, number 16 the variant.
_DIGITS = [at for at in range(36) if at not in (8, 13, 18, 23)]
_TO_VARIANT = bytes.maketrans(b"0123456789abcdef", b"89ab" * 4)


def generate_uuid() -> str:
    """A random UUID (version 4) as text."""
    try:
        return _uuids.pop()  # one call into C: safe between threads
    except IndexError:
        return _refill_uuids()


def _refill_uuids() -> str:
    digits = os.urandom(16 * _UUIDS_PER_REFILL).hex().encode()
    texts = bytearray(b"-" * 36 * _UUIDS_PER_REFILL)
    for number, at in enumerate(_DIGITS):  # one digit of all of them at a time
        texts[at::36] = digits[number::32]
    texts[14::36] = b"4" * _UUIDS_PER_REFILL
    texts[19::36] = texts[19::36].translate(_TO_VARIANT)
    text = texts.decode()
    first, *rest = [text[at : at + 36] for at in range(0, len(text), 36)]
    _uuids.extend(rest)
    return first


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_uuids.clear)  # parent and child must not hand out the same ones


# Headers


def insert_headers(request: InferenceRequest, headers: dict[str, str]) -> InferenceRequest:
    """Put transport headers into `parameters.headers` of the request, which is returned."""
    if request.parameters is None:
        request.parameters = Parameters(headers=headers)
        return request
    if request.parameters.headers is not None:
        from mlserver.logging import logger

        logger.warning("Headers of the transport replace the 'headers' parameter of the request.")
    request.parameters.headers = headers
    return request


def extract_headers(response: InferenceResponse) -> dict[str, str] | None:
    """Take `parameters.headers` out of the response. None when it has none."""
    if response.parameters is None or response.parameters.headers is None:
        return None
    headers = response.parameters.headers
    response.parameters.headers = None
    return headers


# Tasks and functions

_scheduled: set[asyncio.Task[Any]] = set()


def schedule_with_callback(
    coro: Coroutine[Any, Any, T], cb: Callable[[asyncio.Task[T]], object]
) -> asyncio.Task[T]:
    """Run a coroutine as a task of the running loop; `cb` gets the task when it is done."""
    task = asyncio.create_task(coro)
    _scheduled.add(task)  # the loop itself only knows tasks weakly
    task.add_done_callback(_scheduled.discard)
    task.add_done_callback(cb)
    return task


def get_wrapped_method(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function below all decorators that used `functools.wraps`."""
    while hasattr(f, "__wrapped__"):
        f = f.__wrapped__
    return f


# Event loops


class EventLoopBackend(enum.Enum):
    """Which event loop runs."""

    ASYNCIO_DEFAULT = 1
    UVLOOP = 2


def _uvloop() -> Any:
    """The module uvloop, None where it is missing (it does not exist for Windows)."""
    if sys.platform == "win32":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop


class AsyncManager:
    """Runs a coroutine to its end on an event loop of its own: uvloop's where there is one.

    signal_handle_config_fn: called without arguments in the running loop, before the coroutine starts.
    """

    def __init__(self, signal_handle_config_fn: Callable[[], object] | None = None) -> None:
        self._configure_signals = signal_handle_config_fn
        self._uvloop = _uvloop()

    @property
    def event_loop_backend(self) -> EventLoopBackend:
        return EventLoopBackend.ASYNCIO_DEFAULT if self._uvloop is None else EventLoopBackend.UVLOOP

    @property
    def event_loop_policy(self) -> asyncio.AbstractEventLoopPolicy:
        if self._uvloop is None:
            return asyncio.DefaultEventLoopPolicy()
        policy: asyncio.AbstractEventLoopPolicy = self._uvloop.EventLoopPolicy()
        return policy

    def run(self, coro: Coroutine[Any, Any, T], debug: bool | None = None) -> T:
        """The result of `coro`. Must not be called from a running loop."""
        main = self._main(coro)
        if sys.version_info >= (3, 11):
            loop_factory = None if self._uvloop is None else self._uvloop.new_event_loop
            with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
                return runner.run(main)
        else:
            before = asyncio.get_event_loop_policy()
            asyncio.set_event_loop_policy(self.event_loop_policy)
            try:
                return asyncio.run(main, debug=debug)
            finally:
                asyncio.set_event_loop_policy(before)

    async def _main(self, coro: Coroutine[Any, Any, T]) -> T:
        if self._configure_signals is not None:
            self._configure_signals()
        return await coro


def install_uvloop_event_loop() -> None:
    """Let event loops of this process be uvloop's; without uvloop, change nothing."""
    uvloop = _uvloop()
    if uvloop is not None:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
