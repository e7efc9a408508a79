"""The Spark runtime: models that pyspark.mllib or pyspark.ml saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError, MLServerError
from mlserver.model import MLModel
from mlserver.settings import ModelParameters
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
    ResponseOutput,
    TensorData,
)
from mlserver.utils import get_model_uri
from mlserver_mllib.artefact import FORMATS, Artefact, is_remote, read_local, read_remote
from mlserver_mllib.errors import InvalidMLlibFormat

__all__ = ["MLlibModel"]

_PREDICT = "predict"


class MLlibModel(MLModel):
    """Serves a folder that Spark saved; `_model` is what Spark loaded from it.

    A model of pyspark.mllib takes one tensor of vectors [rows, features] and gives `predict`, FP32 [rows]. A
    model of pyspark.ml takes a tensor for each column and gives one for each column that is asked for. Rows
    of both are known to be independent, but for some stages of pipelines, with which `load` takes that back.
    """

    rows_independent = True

    _model: Any = None
    _acquired = False
    _vectors: Any = None  # VectorModel
    _frames: Any = None  # FrameModel

    async def load(self) -> bool:
        parameters = self._settings.parameters
        model_format = None if parameters is None else parameters.format
        if model_format is not None and model_format not in FORMATS:
            raise InvalidMLlibFormat(self.name, model_format, f"expected one of {', '.join(FORMATS)}")
        path = await get_model_uri(self._settings)
        artefact = None if is_remote(path) else read_local(self.name, path)
        if artefact is not None:
            artefact.check_format(self.name, model_format)
        # Imported late: pyspark takes seconds, which a folder without a model need not wait for.
        from mlserver_mllib import session

        spark = session.acquire(self._spark_settings(parameters))
        self._acquired = True
        try:
            if artefact is None:
                artefact = read_remote(self.name, path, spark)
                artefact.check_format(self.name, model_format)
            self._open(artefact, spark)
        except BaseException:
            await self.unload()
            raise
        return True

    async def unload(self) -> bool:
        self._model = self._vectors = self._frames = None
        if self._acquired:
            from mlserver_mllib import session

            self._acquired = False
            session.release()
        return True

    def _spark_settings(self, parameters: ModelParameters | None) -> Mapping[str, Any]:
        extra = (parameters.extra if parameters is not None else None) or {}
        conf = extra.get("spark") or {}
        if not isinstance(conf, Mapping):
            raise MLServerError(
                f"Model {self.name}: parameters.extra.spark must map names to values, got {conf!r}"
            )
        return conf

    def _open(self, artefact: Artefact, spark: Any) -> None:
        try:
            if artefact.rdd_based:
                from mlserver_mllib.vectors import VectorModel, load_vector_model

                self._model = load_vector_model(artefact, spark)
                self._vectors = VectorModel(self._model, spark)
            else:
                from mlserver_mllib.frames import FrameModel, load_frame_model

                self._model = load_frame_model(artefact, spark)
                self._frames = FrameModel(self._model, spark)
        except Exception as exc:
            cause = f"{type(exc).__name__}: {exc}".split("\n", 1)[0].strip()
            raise MLServerError(f"Model {self.name}: Spark cannot load {artefact.uri}: {cause}", 500) from exc
        self._describe()

    def _describe(self) -> None:
        """Says of inputs and outputs what the settings leave out."""
        if self._vectors is not None:
            self.inputs = self.inputs or self._vectors.inputs()
            self.outputs = self.outputs or [MetadataTensor(name=_PREDICT, datatype="FP32", shape=[-1])]
            return
        self.inputs = self.inputs or [column.describe() for column in self._frames.needed]
        if not self._frames.rows_independent:
            self.rows_independent = False  # type: ignore[misc]  # taken back for this model alone

    async def metadata(self) -> MetadataModelResponse:
        metadata = await super().metadata()
        metadata.platform = metadata.platform or "spark"
        return metadata

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        if self._frames is not None:
            return self._predict_columns(payload)
        if len(payload.inputs) != 1:
            names = ", ".join(f"'{tensor.name}'" for tensor in payload.inputs)
            raise InferenceError(f"the model takes exactly one input, but got {names or 'none'}")
        (tensor,) = payload.inputs
        matrix = self._vectors.arrange(tensor.name, self.decode(tensor, default_codec=NumpyCodec))
        return self._response([_encode(self._vectors.predict(matrix))])

    def _predict_columns(self, payload: InferenceRequest) -> InferenceResponse:
        columns = self._frames.table(payload, self.decode)
        asked = [output.name for output in payload.outputs or self._settings.outputs]
        response = self._response(self._frames.answer(columns, asked))
        parameters = payload.parameters
        if parameters is not None and parameters.content_type == "pd":
            response.parameters = Parameters(content_type="pd")
        return response

    def _response(self, outputs: list[ResponseOutput]) -> InferenceResponse:
        return InferenceResponse.build(model_name=self.name, model_version=self.version, outputs=outputs)


def _encode(values: np.ndarray[Any, Any]) -> ResponseOutput:
    """One value a row, in one dimension: clients of these models know no other shape."""
    return ResponseOutput(name=_PREDICT, datatype="FP32", shape=[len(values)], data=TensorData(values))
