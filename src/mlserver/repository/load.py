"""One settings file, with what it leaves out filled in."""

from __future__ import annotations

import os

from mlserver.settings import ModelParameters, ModelSettings

__all__ = ["load_model_settings"]


def load_model_settings(model_settings_path: str | os.PathLike[str]) -> ModelSettings:
    """The settings in a `model-settings.json`.

    The environment fills what the file leaves out; then the folder of the file gives its name to a model
    without one, and is the `uri` of a model without one. A `uri` that is given stays as it was written.
    Raises OSError, or ValueError for JSON that is broken or does not validate.
    """
    path = os.path.abspath(model_settings_path)
    folder = os.path.dirname(path)
    settings = ModelSettings.parse_file(path)
    if not settings.name:
        settings.name = os.path.basename(folder)
    with_parameters(settings)
    assert settings.parameters is not None
    if not settings.parameters.uri:
        settings.parameters.uri = folder
    return settings


def with_parameters(settings: ModelSettings) -> ModelSettings:
    """`settings`, whose `parameters` are taken from the environment when they are missing altogether."""
    if settings.parameters is None:
        settings.parameters = ModelParameters()
    return settings
