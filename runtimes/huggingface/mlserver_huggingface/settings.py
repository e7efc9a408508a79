"""What can be configured: the pipeline, where it computes, how many rows at a time.

Per field, the first of these that has a value wins: PREDICTIVE_UNIT_PARAMETERS, `parameters.extra` of the
model's settings, the environment (`MLSERVER_MODEL_HUGGINGFACE_` and the name in upper case), the default.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from mlserver.settings import ModelSettings, list_faults
from mlserver_huggingface.errors import (
    InvalidHuggingFaceSettings,
    InvalidModelParameter,
    InvalidModelParameterType,
    MissingHuggingFaceSettings,
)

__all__ = [
    "ENV_PREFIX_HUGGINGFACE_SETTINGS",
    "PARAMETERS_ENV_NAME",
    "HuggingFaceSettings",
    "get_huggingface_settings",
    "parse_parameters_from_env",
]

ENV_PREFIX_HUGGINGFACE_SETTINGS = "MLSERVER_MODEL_HUGGINGFACE_"
PARAMETERS_ENV_NAME = "PREDICTIVE_UNIT_PARAMETERS"


class HuggingFaceSettings(BaseSettings):
    """Settings of one pipeline."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX_HUGGINGFACE_SETTINGS, extra="ignore", protected_namespaces=()
    )

    task: str = ""
    """Task of the pipeline, as transformers calls it."""

    task_suffix: str = ""
    """What follows `translation`: `_en_to_fr`."""

    pretrained_model: str | None = None
    """Model on the hub, or a folder. Null takes the folder that `parameters.uri` names."""

    pretrained_tokenizer: str | None = None
    """Tokenizer on the hub, or a folder; null takes that of the model."""

    model_kwargs: dict[str, Any] | None = None
    """Further keyword arguments of the model's `from_pretrained`."""

    framework: str | None = None
    """`pt`, or `tf` with releases of transformers that know it."""

    optimum_model: bool = False
    """Run the model with ONNX Runtime, through optimum."""

    device: int | str | None = None
    """`cpu` or -1, a number of a GPU, `cuda:1`, `mps`; null takes the first GPU if there is one."""

    dtype: str | None = None
    """Type of the weights, `float32`, `float16`, `bfloat16`, `auto`; null leaves it to transformers."""

    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows that go through the model at a time. 1 computes each row by itself."""

    inter_op_threads: Annotated[int, Field(ge=1)] | None = None
    """Operations of the model that run side by side; null leaves it to the framework."""

    intra_op_threads: Annotated[int, Field(ge=1)] | None = None
    """Threads that share one operation; null leaves it to the framework."""

    @field_validator("device")
    @classmethod
    def _number(cls, value: Any) -> Any:
        # From the environment everything is text.
        if isinstance(value, str) and value.strip().lstrip("-").isdigit():
            return int(value)
        return value

    @property
    def task_name(self) -> str:
        """The task, with its suffix where it has one."""
        return f"{self.task}{self.task_suffix}" if self.task == "translation" else self.task


def get_huggingface_settings(model_settings: ModelSettings) -> HuggingFaceSettings:
    """The settings of a model's pipeline.

    Raises MissingHuggingFaceSettings when there are none, InvalidHuggingFaceSettings naming the setting that
    cannot be used, and what `parse_parameters_from_env` raises.
    """
    parameters = parse_parameters_from_env()
    extra = model_settings.parameters.extra if model_settings.parameters is not None else {}
    if extra is None and not parameters:
        raise MissingHuggingFaceSettings()
    values = {**(extra or {}), **parameters}
    try:
        return HuggingFaceSettings(**values)
    except ValidationError as exc:
        raise InvalidHuggingFaceSettings(list_faults(exc)) from exc


def parse_parameters_from_env() -> dict[str, Any]:
    """What PREDICTIVE_UNIT_PARAMETERS holds, a JSON list of `{"name", "value", "type"}`, by name.

    Raises InvalidModelParameter, InvalidModelParameterType, or InvalidHuggingFaceSettings for other text.
    """
    text = os.environ.get(PARAMETERS_ENV_NAME) or "[]"
    try:
        parameters = json.loads(text)
        named = [(p["name"], p["value"], p.get("type", "STRING")) for p in parameters]
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        expected = "a JSON list of objects with name, value and type"
        raise InvalidHuggingFaceSettings(f"{PARAMETERS_ENV_NAME} is not {expected}") from exc
    return {name: _parse(name, value, kind) for name, value, kind in named}


def _parse(name: str, value: Any, kind: str) -> Any:
    if kind == "STRING":
        return str(value)
    parsers: dict[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "DOUBLE": float, "BOOL": _bool}
    parse = parsers.get(kind)
    if parse is None:
        raise InvalidModelParameterType(kind)
    try:
        return parse(value)
    except (ValueError, TypeError) as exc:
        raise InvalidModelParameter(name, str(value), kind) from exc


def _bool(value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in ("true", "false", "1", "0"):
        raise ValueError(text)
    return text in ("true", "1")
