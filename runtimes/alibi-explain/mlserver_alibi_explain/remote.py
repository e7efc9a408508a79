"""A model behind a V2 URL, as the function from rows to predictions that Alibi wants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import requests

from mlserver.types import MetadataModelResponse
from mlserver_alibi_explain.common import (
    AlibiExplainSettings,
    construct_metadata_url,
    remote_metadata,
    remote_predict,
    rows_of,
    to_v2_inference_request,
)
from mlserver_alibi_explain.errors import RemoteInferenceError

__all__ = ["RemoteModel"]

# An explainer may want hundreds of thousands of rows at once. In a call there are as many as a server takes
# without being told to: some megabytes of JSON.
_MOST_VALUES = 250_000
_MOST_TEXTS = 5_000
# A path of a Seldon pipeline, which has no metadata.
_PIPELINES = "/v2/pipelines/"


class RemoteModel:
    """Calls the model at `infer_uri`, each call with as many rows as fit.

    For one thread at a time.
    """

    def __init__(self, settings: AlibiExplainSettings) -> None:
        self._url = settings.infer_uri
        self._output = settings.infer_output
        self._ssl_verify_path = settings.ssl_verify_path
        self._session = requests.Session()
        self._metadata: MetadataModelResponse | None = None

    def close(self) -> None:
        self._session.close()

    def __call__(self, rows: Any) -> np.ndarray[Any, Any]:
        """Predictions, one for each row. Raises RemoteInferenceError."""
        if self._metadata is None and _PIPELINES not in self._url:
            url = construct_metadata_url(self._url)
            self._metadata = remote_metadata(url, self._ssl_verify_path, self._session)
        size = _MOST_TEXTS
        if isinstance(rows, np.ndarray):
            size = max(1, _MOST_VALUES // max(1, math.prod(rows.shape[1:])))
        answers = [self._predict(rows[at : at + size]) for at in range(0, len(rows), size)]
        return answers[0] if len(answers) == 1 else np.concatenate(answers)

    def _predict(self, rows: Any) -> np.ndarray[Any, Any]:
        request = to_v2_inference_request(rows, self._metadata, self._output)
        response = remote_predict(request, self._url, self._ssl_verify_path, self._session)
        if not response.outputs:
            raise RemoteInferenceError(self._url, "answered without outputs")
        output = response.outputs[0]
        answers = rows_of(output)
        if answers.ndim == 0 or len(answers) != len(rows):
            raise RemoteInferenceError(
                self._url, f"answered {len(rows)} rows with output '{output.name}' of shape {output.shape}"
            )
        return answers
