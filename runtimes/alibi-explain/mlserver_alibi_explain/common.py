"""What is configured for an explainer, and how a model elsewhere is asked over V2.

Per setting, the first of these that has a value wins: `parameters.extra` of the model's settings, the
environment (`MLSERVER_MODEL_ALIBI_EXPLAIN_` and the name in upper case), the default.
"""

from __future__ import annotations

import importlib
import json
from typing import Annotated, Any

import numpy as np
import requests
from pydantic import BeforeValidator, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from mlserver.codecs import NumpyCodec, NumpyRequestCodec, StringCodec, StringRequestCodec
from mlserver.settings import ModelSettings, list_faults
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    RequestOutput,
    ResponseOutput,
)
from mlserver_alibi_explain.errors import InvalidExplainerSettings, RemoteInferenceError

__all__ = [
    "ENV_PREFIX_ALIBI_EXPLAIN_SETTINGS",
    "SELDON_SKIP_LOGGING_HEADER",
    "AlibiExplainSettings",
    "construct_metadata_url",
    "convert_from_bytes",
    "get_alibi_explain_settings",
    "import_and_get_class",
    "remote_metadata",
    "remote_predict",
    "to_v2_inference_request",
]

ENV_PREFIX_ALIBI_EXPLAIN_SETTINGS = "MLSERVER_MODEL_ALIBI_EXPLAIN_"
# Asks whoever logs payloads to leave those out that an explainer made up.
SELDON_SKIP_LOGGING_HEADER = "Seldon-Skip-Logging"

# Seconds to connect, and between two bytes of an answer: a call may hold hundreds of thousands of rows.
_TIMEOUT = (10.0, 600.0)
_MOST_OF_A_TEXT = 500


def _from_text(value: Any) -> Any:
    # Orchestrators put parameters of a model into `extra` as text.
    return json.loads(value) if isinstance(value, str) else value


class AlibiExplainSettings(BaseSettings):
    """Settings of one explainer."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX_ALIBI_EXPLAIN_SETTINGS, extra="ignore")

    infer_uri: str
    """Where the model is that is explained: the URL of its V2 `infer`, or the path of its file."""

    explainer_type: str
    """Which explainer: a name in `mlserver_alibi_explain.explainers.EXPLAINERS`."""

    explainer_batch: bool | None = False
    """Explain all rows of a request rather than the first."""

    infer_output: str | None = None
    """Output to ask of the model; null takes the first that its metadata names."""

    init_parameters: Annotated[dict[str, Any] | None, BeforeValidator(_from_text)] = None
    """Arguments to make the explainer of, in place of reading it from `parameters.uri`."""

    ssl_verify_path: str | None = None
    """Certificates of authorities that vouch for the model's server; null takes the usual ones."""


def get_alibi_explain_settings(model_settings: ModelSettings) -> AlibiExplainSettings:
    """The settings of a model's explainer.

    Raises InvalidExplainerSettings naming those that cannot be used.
    """
    parameters = model_settings.parameters
    extra = (parameters.extra if parameters is not None else None) or {}
    try:
        return AlibiExplainSettings(**extra)
    except ValidationError as exc:
        text = f"parameters.extra: {list_faults(exc)}"
        raise InvalidExplainerSettings(model_settings.name, text) from exc


def import_and_get_class(class_path: str) -> Any:
    """The class at `module.Class`. Raises ImportError."""
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as exc:
        raise ImportError(f"module {module} has no {name}") from exc


# Asking


def construct_metadata_url(infer_url: str) -> str:
    """Where a model tells of itself, seen from where it is asked."""
    return infer_url.removesuffix("/").removesuffix("/infer")


def remote_metadata(
    url: str, ssl_verify_path: str | None = None, session: requests.Session | None = None
) -> MetadataModelResponse:
    """What a model tells of itself. Raises RemoteInferenceError."""
    body = _ask("GET", url, None, ssl_verify_path, session)
    try:
        return MetadataModelResponse.model_validate_json(body)
    except ValidationError as exc:
        raise RemoteInferenceError(url, f"answered no metadata of V2: {_start_of(body)}") from exc


def remote_predict(
    v2_payload: InferenceRequest,
    predictor_url: str,
    ssl_verify_path: str | None = None,
    session: requests.Session | None = None,
) -> InferenceResponse:
    """What a model answers. Raises RemoteInferenceError."""
    body = _ask("POST", predictor_url, v2_payload.model_dump_json().encode(), ssl_verify_path, session)
    try:
        return InferenceResponse.model_validate_json(body)
    except ValidationError as exc:
        raise RemoteInferenceError(predictor_url, f"answered no response of V2: {_start_of(body)}") from exc


def _ask(
    method: str, url: str, body: bytes | None, ssl_verify_path: str | None, session: requests.Session | None
) -> bytes:
    headers = {SELDON_SKIP_LOGGING_HEADER: "true", "Content-Type": "application/json"}
    try:
        answer = (session or requests).request(
            method, url, data=body, headers=headers, verify=ssl_verify_path or True, timeout=_TIMEOUT
        )
    except (requests.RequestException, OSError) as exc:  # OSError: certificates that are not there
        raise RemoteInferenceError(url, f"cannot be reached: {exc}", 503) from exc
    if answer.status_code != 200:
        raise RemoteInferenceError(url, f"answered {answer.status_code}: {_start_of(answer.content)}")
    return answer.content


def _start_of(body: bytes) -> str:
    return body.decode(errors="replace")[:_MOST_OF_A_TEXT].strip()


# Rows to requests, answers to rows


def to_v2_inference_request(
    input_data: Any, metadata: MetadataModelResponse | None = None, output: str | None = None
) -> InferenceRequest:
    """A request of rows, an array or a list of texts, under the name of the model's first input.

    output: the output to ask for; None takes the model's first, or asks for none where it names none.
    """
    if isinstance(input_data, np.ndarray) and input_data.dtype.kind not in "OUS":
        request = NumpyRequestCodec.encode_request(input_data)
    else:
        request = StringRequestCodec.encode_request([str(text) for text in input_data])
    if metadata is not None and metadata.inputs:
        request.inputs[0].name = metadata.inputs[0].name
    if output is None and metadata is not None and metadata.outputs:
        output = metadata.outputs[0].name
    if output is not None:
        request.outputs = [RequestOutput(name=output)]
    return request


def convert_from_bytes(output: ResponseOutput, ty: type | None = None) -> Any:
    """The one text that an output holds, or what its JSON says where `ty` is another type than str."""
    (text,) = StringCodec.decode_output(output)
    return text if ty in (None, str) else json.loads(text)


def rows_of(output: ResponseOutput) -> np.ndarray[Any, Any]:
    """The rows of an output, numbers or texts; without a trailing axis of 1."""
    if output.datatype == "BYTES":
        array: np.ndarray[Any, Any] = np.array(StringCodec.decode_output(output)).reshape(output.shape)
    else:
        array = NumpyCodec.decode_output(output)
    return array.squeeze(-1) if array.ndim > 1 and array.shape[-1] == 1 else array
