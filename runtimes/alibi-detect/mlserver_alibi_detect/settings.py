"""What can be configured for a detector.

Per field, the first of these that has a value wins: `parameters.extra` of the model's settings, the
environment (`MLSERVER_MODEL_ALIBI_DETECT_` and the name in upper case), the default.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from mlserver.errors import MLServerError
from mlserver.settings import ModelSettings, list_faults

__all__ = ["ENV_PREFIX_ALIBI_DETECT_SETTINGS", "AlibiDetectSettings", "get_alibi_detect_settings"]

ENV_PREFIX_ALIBI_DETECT_SETTINGS = "MLSERVER_MODEL_ALIBI_DETECT_"


def _from_text(value: Any) -> Any:
    # Orchestrators put parameters of a model into `extra` as text.
    return json.loads(value) if isinstance(value, str) else value


class AlibiDetectSettings(BaseSettings):
    """Settings of one detector."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX_ALIBI_DETECT_SETTINGS, extra="forbid")

    predict_parameters: Annotated[dict[str, Any], BeforeValidator(_from_text)] = {}
    """Keyword arguments of the detector's `predict`."""

    batch_size: Annotated[int, Field(gt=0)] | None = None
    """Requests that are collected before a detector that keeps no state looks at all of them together."""

    state_save_freq: Annotated[int, Field(gt=0)] = 100
    """Steps after which an online detector saves its state."""


def get_alibi_detect_settings(model_settings: ModelSettings) -> AlibiDetectSettings:
    """The settings of a model's detector. Raises MLServerError (422) naming those that cannot be used."""
    parameters = model_settings.parameters
    extra = (parameters.extra if parameters is not None else None) or {}
    try:
        return AlibiDetectSettings(**extra)
    except ValidationError as exc:
        text = f"Model {model_settings.name}: parameters.extra: {list_faults(exc)}"
        raise MLServerError(text, 422) from exc
