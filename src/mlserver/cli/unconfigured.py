"""Saved models without settings: from a path to what serves it, and to a request to try it with."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

import click

from mlserver.cli.example import curl_line
from mlserver.errors import MLServerError, StartError
from mlserver.logging import logger
from mlserver.recognition import UNDERSTOOD, Artefact, Unrecognised, artefact_at, differences
from mlserver.settings import Settings

if TYPE_CHECKING:
    from mlserver.server import MLServer

__all__ = ["find_artefact", "introduce", "show_example"]


def find_artefact(path: str) -> Artefact | None:
    """The saved model at `path`. Raises StartError when that is neither one nor a folder."""
    if not os.path.exists(path):
        raise StartError(f"cannot serve models from '{path}': it does not exist")
    if not os.path.isdir(path) and not os.path.isfile(path):
        raise StartError(f"cannot serve models from '{path}': it is not a folder")
    try:
        artefact = artefact_at(path)
    except OSError as exc:
        raise StartError(f"cannot serve models from '{path}': {exc.strerror}") from exc
    except Unrecognised as exc:
        if os.path.isdir(path):
            # Somebody may fill it later, and load what is there by then.
            logger.warning("No models to load: %s. Understood are %s", exc, UNDERSTOOD)
            return None
        text = f"it is not a folder, and no model that is understood: {exc.found}"
        raise StartError(f"cannot serve models from '{path}': {text}. Understood are {UNDERSTOOD}") from None
    if artefact is not None:
        _check_installed(artefact)
    return artefact


def _check_installed(artefact: Artefact) -> None:
    missing = None
    if importlib.util.find_spec(artefact.package) is None:
        missing = artefact.distribution
    elif artefact.needs is not None and importlib.util.find_spec(artefact.needs[0]) is None:
        missing = f"'{artefact.distribution}[{artefact.needs[1]}]'"
    if missing is not None:
        text = f"'{artefact.path}' is {artefact.kind}, and its runtime is not installed"
        raise StartError(f"{text}: pip install {missing}")


def introduce(artefact: Artefact, name: str) -> None:
    """Say what was recognised, and whether the libraries are those that it was saved with."""
    note = f" ({artefact.note})" if artefact.note else ""
    logger.info("Model '%s' is %s%s, served by %s", name, artefact.kind, note, artefact.runtime)
    others = differences(artefact.saved_with)
    if others:
        logger.warning(
            "Model '%s' was saved with %s: it may not load, or answer differently", name, ", ".join(others)
        )


async def show_example(server: MLServer, settings: Settings, name: str, text: str | None) -> None:
    """Print a request to try once the server can answer it."""
    await server.loaded.wait()
    try:
        metadata = await server.service.model_metadata(name)
    except MLServerError:
        return  # it is gone again
    secure = settings.tls_certificate is not None and "http" in settings.tls_ports
    host = "localhost" if settings.host in ("0.0.0.0", "::", "") else settings.host
    place = f"[{host}]" if ":" in host else host
    url = f"{'https' if secure else 'http'}://{place}:{server.http_port}"
    line = curl_line(metadata, url, "-k" if secure else "", text)
    if line is None:
        logger.info("Model '%s' does not tell its inputs, so there is no example of a request", name)
    elif settings.use_structured_logging:
        logger.info("Try it: %s", line)
    else:
        click.echo(f"Try it:\n{line}")
