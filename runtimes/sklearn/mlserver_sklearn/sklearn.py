"""The scikit-learn runtime: from a request to the estimator's methods and back.

What an estimator accepts, only the estimator knows: it is asked first. When it refuses, `refusals` finds out
whether the request was to blame, so that a good request pays nothing for the text that a bad one gets.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import joblib
import numpy as np

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, NumpyRequestCodec
from mlserver.errors import InferenceError, InvalidModelURI, MLServerError
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    RequestOutput,
    ResponseOutput,
)
from mlserver.utils import get_model_uri
from mlserver_sklearn import refusals
from mlserver_sklearn.artefact import Artefact

__all__ = ["SKLearnModel"]

PREDICT_OUTPUT = "predict"
PREDICT_PROBA_OUTPUT = "predict_proba"
TRANSFORM_OUTPUT = "transform"
VALID_OUTPUTS = (PREDICT_OUTPUT, PREDICT_PROBA_OUTPUT, TRANSFORM_OUTPUT)

WELLKNOWN_MODEL_FILENAMES = ("model.joblib", "model.pickle", "model.pkl")


class SKLearnModel(MLModel):
    """Serves an estimator, or a pipeline, that joblib can load.

    The two promises hold for scikit-learn's own estimators; `load` takes them back where an artefact holds
    other code, or where a method was chosen that looks at several rows at once.
    """

    inline = True
    rows_independent = True

    _model: Any
    _artefact: Artefact
    _default_outputs: list[RequestOutput]

    async def load(self) -> bool:
        path = await get_model_uri(self._settings, wellknown_filenames=list(WELLKNOWN_MODEL_FILENAMES))
        self._model = self._read(path)
        self._get_to_know()
        return True

    def _read(self, path: str) -> Any:
        if os.path.isdir(path):
            known = ", ".join(WELLKNOWN_MODEL_FILENAMES)
            raise InvalidModelURI(self.name, f"{path} holds none of {known}")
        try:
            return joblib.load(path)
        except Exception as exc:
            cause = f"{type(exc).__name__}: {exc}"
            raise MLServerError(
                f"Model {self.name}: the artefact {path} cannot be read: {cause}", 500
            ) from exc

    def _get_to_know(self) -> None:
        parameters = self._settings.parameters
        extra = (parameters.extra if parameters is not None else None) or {}
        method = extra.get("predict_fn") or PREDICT_OUTPUT
        self._default_outputs = [RequestOutput(name=method)]
        self._artefact = artefact = Artefact(self._model, method)
        if not self.inputs:
            self.inputs = artefact.inputs()
        if not self.outputs:
            self.outputs = artefact.outputs()
        kept = {"inline": artefact.only_computes, "rows_independent": artefact.rows_independent}
        for promise, holds in kept.items():
            if not holds:
                setattr(self, promise, False)

    async def metadata(self) -> MetadataModelResponse:
        metadata = await super().metadata()
        metadata.platform = metadata.platform or "sklearn"
        artefact = getattr(self, "_artefact", None)
        columns_listed = artefact is not None and artefact.columns and not self._settings.inputs
        if columns_listed and metadata.parameters is not None and not metadata.parameters.content_type:
            # Said here only: as a default for decoding, it would take a matrix, as welcome, for one column.
            metadata.parameters.content_type = "pd"
        return metadata

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        if self._model is not self._artefact.estimator:
            self._get_to_know()  # somebody put another estimator in place
        asked = payload.outputs
        if asked:
            for output in asked:
                if output.name not in VALID_OUTPUTS:
                    raise InferenceError(
                        "SKLearnModel only supports 'predict', 'predict_proba' and 'transform' as outputs "
                        f"({output.name} was received)"
                    )
        else:
            asked = self._default_outputs
        methods = [self._method(output.name) for output in asked]

        data = self._decode(payload)
        results = []
        for method in methods:
            try:
                results.append(method(data))
            except Exception as exc:
                refusal = refusals.find(exc, data, payload, self._artefact)
                if refusal is None:
                    raise
                raise refusal from exc

        outputs = self._encode(results, asked)
        return InferenceResponse.build(model_name=self.name, model_version=self.version, outputs=outputs)

    def _method(self, name: str) -> Any:
        method = self._artefact.methods.get(name)
        if method is not None:
            return method
        if name in VALID_OUTPUTS:
            # Clients know this text without the quote that is missing at its end.
            raise InferenceError(f"{self._artefact.final_type} models do not support '{name}")
        return getattr(self._model, name)

    def _decode(self, payload: InferenceRequest) -> Any:
        artefact = self._artefact
        codec: Any = NumpyRequestCodec
        if artefact.columns and artefact.are_columns(payload.inputs):
            codec = _pandas_codec()
        data = self.decode_request(payload, default_codec=codec)
        return artefact.arrange(data) if artefact.arranges else data

    def _encode(self, results: list[Any], asked: list[RequestOutput]) -> list[ResponseOutput]:
        outputs: list[ResponseOutput] = []
        for result, output in zip(results, asked, strict=True):
            if not isinstance(result, np.ndarray):
                if _is_frame(result):
                    if len(asked) > 1:
                        raise InferenceError(
                            f"Cannot encode '{output.name}' together with other outputs: it is a DataFrame"
                        )
                    columns: list[ResponseOutput] = _pandas_codec().encode_outputs(result)
                    return columns
                result = _plain(result, output.name)
            elif result.dtype.kind == "S":
                result = result.astype(object)  # as one text per row, not as one buffer
            if type(result) is np.ndarray and not self._names_content_type(output):
                outputs.append(NumpyCodec.encode_output(output.name, result))
            else:
                outputs.append(self.encode(result, output, default_codec=NumpyCodec))
        return outputs

    def _names_content_type(self, output: RequestOutput) -> bool:
        """Whether the request or the metadata name a content type for the output."""
        tensors: list[RequestOutput | MetadataTensor] = [output, *self.outputs]
        for tensor in tensors:
            parameters = tensor.parameters
            if parameters is not None and parameters.content_type and tensor.name == output.name:
                return True
        return False


def _pandas_codec() -> Any:
    """Imports pandas, which most models do without."""
    from mlserver.codecs import PandasCodec

    return PandasCodec


def _is_frame(value: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def _plain(result: Any, name: str) -> Any:
    """What estimators return besides arrays, as something that can be encoded."""
    if hasattr(result, "toarray"):
        return result.toarray()
    if isinstance(result, list):
        if result and isinstance(result[0], np.ndarray):
            raise MLServerError(
                f"'{name}' of a model with {len(result)} targets is a list of arrays, which is no tensor", 500
            )
        if all(isinstance(value, str) for value in result):
            return result
    return np.asarray(result)
