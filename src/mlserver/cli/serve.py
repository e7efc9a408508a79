"""`mlserver start`: from a folder to a running server, or to one line that says why not."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback

import click
from pydantic import ValidationError
from pydantic_settings import SettingsError

from mlserver.audit.policy import close_path
from mlserver.cli.unconfigured import find_artefact, introduce, show_example
from mlserver.errors import StartError, user_traceback
from mlserver.logging import configure_logger, logger
from mlserver.memory import calm_collector
from mlserver.parallel.errors import RemoteError
from mlserver.recognition import Artefact
from mlserver.repository import ModelRepositoryFactory
from mlserver.repository.recognised import ArtefactRepository, settings_of
from mlserver.server import MLServer
from mlserver.settings import ModelSettings, Settings, describe_invalid
from mlserver.utils import AsyncManager, EventLoopBackend

__all__ = ["DEFAULT_SETTINGS_FILENAME", "load_settings", "start_server"]

DEFAULT_SETTINGS_FILENAME = "settings.json"


async def load_settings(folder: str) -> tuple[Settings, list[ModelSettings]]:
    """Settings of the server that serves `folder`, and of the models to load at once.

    folder: with settings in it, or a saved model without any, be it a file. The folder and `.` are put at the
    front of `sys.path`: modules there are importable from here on, unless unsafe artefacts are refused.

    Raises StartError naming the file or environment variable that cannot be used, or what is missing to serve
    a saved model.
    """
    settings, models, _ = await _load_settings(folder)
    return settings, models


async def _load_settings(path: str) -> tuple[Settings, list[ModelSettings], Artefact | None]:
    """As `load_settings`; last the saved model, if that is what is served."""
    settings = _server_settings(path)
    custom = settings.model_repository_implementation is not None
    if not settings.load_models_at_startup:
        if not custom and _is_file(path):
            settings.model_repository_implementation = ArtefactRepository
        return settings, [], None
    repository = ModelRepositoryFactory.resolve_model_repository(settings)
    try:
        models = await repository.list()
        if models or custom:
            return settings, models, None
        artefact = find_artefact(path)
        if artefact is None:
            return settings, [], None
        settings.model_repository_implementation = ArtefactRepository
        return settings, [settings_of(artefact)], artefact
    except (SettingsError, ValidationError) as exc:
        raise StartError(describe_invalid(exc)) from exc


def _make_importable(folder: str) -> None:
    for entry in (".", os.path.abspath(folder)):
        if entry in sys.path:
            sys.path.remove(entry)
        sys.path.insert(0, entry)


def _server_settings(path: str) -> Settings:
    folder = os.path.dirname(path) or "." if _is_file(path) else path
    _make_importable(folder)
    file = os.path.join(folder, DEFAULT_SETTINGS_FILENAME)
    source = file if _is_file(file) else None
    try:
        settings = Settings() if source is None else Settings.parse_file(source)
    except (OSError, ValueError) as exc:  # what is not JSON, and what does not validate, is a ValueError
        raise StartError(describe_invalid(exc, source)) from exc
    settings.model_repository_root = path
    if settings.unsafe_artefacts == "refuse":
        close_path(folder)
    return settings


def _is_file(path: str) -> bool:
    return os.path.isfile(path)


def start_server(folder: str) -> None:
    """Serve `folder` until a signal ends it. Ends the process with an error line when it cannot start."""
    configure_logger()
    calm_collector()
    debug = os.environ.get("MLSERVER_DEBUG", "").lower() in ("1", "true", "t", "yes", "y", "on")

    async def serve() -> None:
        nonlocal debug
        settings, models, artefact = await _load_settings(folder)
        debug = settings.debug
        server = MLServer(settings)
        example = None
        if artefact is not None:
            name = models[0].name
            introduce(artefact, name)
            example = asyncio.ensure_future(show_example(server, settings, name, artefact.text))
        try:
            await server.start(models)
        finally:
            if example is not None:
                example.cancel()
        # All is stopped; another signal must not make a failure of that.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    manager = AsyncManager()
    if manager.event_loop_backend is EventLoopBackend.ASYNCIO_DEFAULT:
        logger.warning("uvloop is not installed: running on asyncio's event loop, which is slower")
    try:
        manager.run(serve())
    except StartError as exc:
        click.echo(_explain(exc, debug), err=True)
        sys.exit(exc.exit_code)


def _explain(error: StartError, debug: bool) -> str:
    """One line; before it the traceback of user code that is to blame, or of everything when debugging."""
    cause = error.__cause__
    lines: list[str] = []
    if debug:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
    elif isinstance(cause, RemoteError):
        lines = [cause.remote_traceback]
    elif cause is not None:
        lines = user_traceback(cause)
    return "".join([*lines, "Error: ", " ".join(str(error).split())])
