"""The Alibi Explain runtime: why a model answered as it did.

Black boxes are asked over V2, wherever they are served; white boxes are read from their files. Explanations
are made one at a time, since explainers keep what they are working on in themselves. Those of black boxes
wait for another model most of the time, and do so in a thread of their own.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from typing import Annotated, Any

import numpy as np
from fastapi import Body
from starlette.responses import Response

from mlserver.codecs import NumpyRequestCodec, StringCodec, StringRequestCodec
from mlserver.errors import InferenceError, InvalidModelURI, MLServerError
from mlserver.handlers import custom_handler
from mlserver.logging import logger
from mlserver.model import MLModel
from mlserver.settings import ModelSettings
from mlserver.tabular import Features, check_single, first_element, subject_of, text_input
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
)
from mlserver.utils import get_model_uri
from mlserver_alibi_explain.common import get_alibi_explain_settings, import_and_get_class
from mlserver_alibi_explain.errors import InvalidExplainerSettings, RemoteInferenceError, remote_fault
from mlserver_alibi_explain.explainers import EXPLAINERS, Explainer, from_json, row_shape
from mlserver_alibi_explain.models import find_model, read_keras_model, read_tree_model
from mlserver_alibi_explain.remote import RemoteModel

__all__ = ["AlibiExplainRuntime", "BlackBoxRuntime", "WhiteBoxRuntime"]

HEADER_TYPE = "x-seldon-alibi-type"
HEADER_METHOD = "x-seldon-alibi-method"

_OUTPUT = "explanation"
_PARAMETERS = "explain_parameters"
_FILES = ("meta.dill", "explainer.dill")


class AlibiExplainRuntime(MLModel):
    """Serves an explainer; `_model` is the object of Alibi. Makes the kind that the settings ask for."""

    _model: Any = None

    def __new__(cls, settings: ModelSettings) -> AlibiExplainRuntime:
        if cls is AlibiExplainRuntime:
            cls = BlackBoxRuntime if _kind_of(settings).black_box else WhiteBoxRuntime
        return super().__new__(cls)

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._explain_settings = get_alibi_explain_settings(settings)
        self._kind = _kind_of(settings)
        self._busy = threading.Lock()
        self._predictor: Any = None
        self._shape: tuple[int, ...] | None = None

    # For the two kinds

    def _find_predictor(self) -> Any:
        """The model, as the explainer wants it."""
        raise NotImplementedError

    def _arguments(self, rows: Any) -> dict[str, Any]:
        """Keyword arguments of `explain` that a request may change."""
        return dict(self._kind.defaults)

    # Load

    async def load(self) -> bool:
        init = self._explain_settings.init_parameters
        path = None
        if init is None:
            if not self._kind.saved:
                raise InvalidExplainerSettings(
                    self.name, f"Alibi cannot save a {self._kind.name}: give init_parameters, such as {{}}"
                )
            path = await get_model_uri(self._settings)
            self._check_folder(path)
        elif self._kind.fitted:
            raise InvalidExplainerSettings(
                self.name,
                f"a {self._kind.name} has to be fitted: save one that is, and name its folder in "
                "parameters.uri instead of giving init_parameters",
            )
        self._path = path
        self._predictor = self._find_predictor()
        await asyncio.to_thread(self._try_to_open)
        return True

    async def unload(self) -> bool:
        self._model = self._predictor = None
        return True

    def _check_folder(self, path: str) -> None:
        missing = [name for name in _FILES if not os.path.isfile(os.path.join(path, name))]
        if missing:
            raise InvalidModelURI(self.name, f"{path} holds no explainer: there is no {missing[0]}")

    def _try_to_open(self) -> None:
        self._open()

    def _open(self) -> None:
        """Read or make the explainer. Raises MLServerError."""
        try:
            explainer = self._make() if self._path is None else self._read(self._path)
        except Exception as exc:
            fault = remote_fault(exc)
            if fault is not None:
                raise fault from exc
            cause = " ".join(f"{type(exc).__name__}: {exc}".split())
            if self._path is None:
                raise InvalidExplainerSettings(
                    self.name, f"no {self._kind.name} can be made of init_parameters: {cause}"
                ) from exc
            raise MLServerError(
                f"Model {self.name}: the explainer {self._path} cannot be read: {cause}", 500
            ) from exc
        found = type(explainer).__name__
        if found != self._kind.name:
            asked = self._explain_settings.explainer_type
            raise InvalidExplainerSettings(
                self.name, f"{self._path} holds a {found}, but explainer_type is {asked}"
            )
        if not getattr(explainer, "_fitted", True):
            raise InvalidExplainerSettings(self.name, f"{self._path} holds a {found} that was not fitted")
        self._shape = row_shape(explainer, self._predictor)
        self._describe()
        self._model = explainer

    def _make(self) -> Any:
        cls = import_and_get_class(f"alibi.explainers.{self._kind.name}")
        explainer = cls(self._predictor, **from_json(self._explain_settings.init_parameters or {}))
        if self._kind.name == "TreeShap":
            explainer.fit()  # needs no data: it follows the paths of the trees
        return explainer

    def _read(self, path: str) -> Any:
        return import_and_get_class("alibi.saving.load_explainer")(path, self._predictor)

    def _describe(self) -> None:
        """Says of inputs and outputs what the settings leave out."""
        if not self.inputs:
            if self._kind.texts:
                self.inputs = [text_input("input-0")]
            elif self._shape is not None:
                self.inputs = [MetadataTensor(name="input-0", datatype="FP64", shape=[-1, *self._shape])]
        if not self.outputs:
            parameters = Parameters(content_type=StringCodec.ContentType)
            self.outputs = [
                MetadataTensor(name=_OUTPUT, datatype="BYTES", shape=[1, 1], parameters=parameters)
            ]

    async def metadata(self) -> MetadataModelResponse:
        metadata = await super().metadata()
        metadata.platform = metadata.platform or "alibi"
        return metadata

    # Requests

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        text = await self._explain(payload)
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[StringCodec.encode_output(_OUTPUT, [text])],
            parameters=Parameters(headers=self._headers()),
        )

    @custom_handler(rest_path="/explain")
    async def explain(self, payload: Annotated[InferenceRequest, Body()]) -> Response:
        """The bare explanation, as explain servers before V2 gave it."""
        text = await self._explain(payload)
        return Response(text, media_type="application/json", headers=self._headers())

    def _headers(self) -> dict[str, str]:
        module = type(self._model).__module__.rpartition(".")[2]
        return {HEADER_TYPE: "explanation", HEADER_METHOD: module}

    async def _explain(self, payload: InferenceRequest) -> str:
        """The explanation of a request, as JSON."""
        parameters = self._parameters_of(payload)
        data = self._decode(payload)
        if self._kind.black_box:
            return await asyncio.to_thread(self._explain_alone, payload, data, parameters)
        return self._explain_alone(payload, data, parameters)

    def _explain_alone(self, payload: InferenceRequest, data: Any, parameters: dict[str, Any]) -> str:
        with self._busy:
            if self._model is None:
                self._open()
            rows = self._rows_of(payload, data)
            arguments = {**self._arguments(rows), **from_json(parameters)}
            try:
                explanation = self._model.explain(rows, **arguments)
            except Exception as exc:
                fault = remote_fault(exc)
                if fault is not None:
                    raise fault from exc
                if not isinstance(exc, (TypeError, ValueError, LookupError)):
                    raise
                # The explainer and its model are fixed, the form of the rows was compared: what is left is
                # what the request holds.
                what = f"{subject_of(payload)} does not suit the explainer"
                if parameters:
                    what += f" with {_PARAMETERS} {parameters}"
                raise InferenceError(f"{what}: {' '.join(str(exc).split())}") from exc
            text: str = explanation.to_json()
            return text

    def _parameters_of(self, payload: InferenceRequest) -> dict[str, Any]:
        given = getattr(payload.parameters, _PARAMETERS, None)
        if isinstance(given, str):  # over gRPC, where parameters have no parts
            try:
                given = json.loads(given)
            except ValueError as exc:
                raise InferenceError(f"{_PARAMETERS} is no JSON: {exc}") from exc
        if given is None:
            return {}
        if not isinstance(given, dict):
            raise InferenceError(f"{_PARAMETERS} must map names to values, got {type(given).__name__}")
        return given

    def _decode(self, payload: InferenceRequest) -> Any:
        """All rows of a request: a list of texts, or an array. Raises InferenceError."""
        codec: Any = StringRequestCodec if self._kind.texts else NumpyRequestCodec
        check_single(payload, self._settings)
        data: Any = self.decode_request(payload, default_codec=codec)
        if hasattr(data, "to_numpy"):
            data = data.to_numpy()
        what = subject_of(payload)
        if self._kind.texts:
            data = data.ravel().tolist() if isinstance(data, np.ndarray) else data
            if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
                raise InferenceError(f"{what} holds no texts, which is what the explainer expects")
            return data
        if isinstance(data, list):
            data = np.asarray(data)
        if not isinstance(data, np.ndarray):
            raise InferenceError(f"{what} is decoded to {type(data).__name__}: an explainer takes one tensor")
        return data

    def _rows_of(self, payload: InferenceRequest, data: Any) -> Any:
        """What the explainer is to explain. Raises InferenceError where it is not what it takes."""
        what = subject_of(payload)
        whole = bool(self._explain_settings.explainer_batch)
        if self._kind.alone and whole and not self._kind.texts and self._shape is not None:
            data = data[None] if data.ndim == len(self._shape) else data
        fault = None if self._kind.texts else self._misfit(data)
        if fault is not None:
            raise InferenceError(f"{what} {fault}")
        if not len(data):
            shape = [0] if self._kind.texts else list(data.shape)
            raise InferenceError(f"{what} has no rows (shape {shape})")
        if self._kind.alone and whole and len(data) > 1:
            raise InferenceError(f"{what} has {len(data)} rows, but {self._kind.name} explains one at a time")
        if self._kind.alone:
            return data[0]
        return data if whole else data[:1]

    def _misfit(self, data: np.ndarray[Any, Any]) -> str | None:
        """How an array differs from what the explainer takes, in words that follow those for the request."""
        if data.dtype.kind not in "biuf":
            return f"holds text, but the explainer expects numbers{first_element(data)}"
        if data.ndim < 2:
            return f"has shape {list(data.shape)}, but the explainer expects rows"
        if self._shape is None or data.shape[1:] == self._shape:
            return None
        if len(self._shape) == 1:
            fault = Features(count=self._shape[0]).misfit(data)
            return None if fault is None else fault.replace("the model expects", "the explainer expects")
        expected = ", ".join(map(str, self._shape))
        return f"has shape {list(data.shape)}, but the explainer expects [rows, {expected}]"


class BlackBoxRuntime(AlibiExplainRuntime):
    """Explains a model of which nothing but its answers is known."""

    def _find_predictor(self) -> Any:
        url = self._explain_settings.infer_uri
        if not url.startswith(("http://", "https://")):
            raise InvalidExplainerSettings(
                self.name, f"infer_uri of a {self._kind.name} is the URL where its model is asked, not {url}"
            )
        return RemoteModel(self._explain_settings)

    def _try_to_open(self) -> None:
        try:
            self._open()
        except RemoteInferenceError as exc:
            # It may be served by this very server, which is loading it just now: a request will tell.
            logger.warning(
                "Model %s: %s; it is asked again when there is something to explain", self.name, exc
            )

    async def unload(self) -> bool:
        if self._predictor is not None:
            self._predictor.close()
        return await super().unload()


class WhiteBoxRuntime(AlibiExplainRuntime):
    """Explains a model that it has at hand."""

    def _find_predictor(self) -> Any:
        path = find_model(self._settings, self._explain_settings.infer_uri)
        read = read_keras_model if self._differentiable else read_tree_model
        try:
            return read(path)
        except MLServerError:
            raise
        except Exception as exc:
            cause = " ".join(f"{type(exc).__name__}: {exc}".split())
            raise MLServerError(f"Model {self.name}: the model {path} cannot be read: {cause}", 500) from exc

    @property
    def _differentiable(self) -> bool:
        return self._kind.name == "IntegratedGradients"

    def _arguments(self, rows: Any) -> dict[str, Any]:
        arguments = super()._arguments(rows)
        if self._differentiable:
            answers = np.asarray(self._predictor(rows))
            if answers.ndim > 1 and answers.shape[-1] > 1:
                arguments["target"] = answers.argmax(axis=-1)  # the class that each row was taken for
        return arguments


def _kind_of(settings: ModelSettings) -> Explainer:
    """What kind of explainer the settings ask for. Raises InvalidExplainerSettings for none that is known."""
    asked = get_alibi_explain_settings(settings).explainer_type
    if asked not in EXPLAINERS:
        raise InvalidExplainerSettings(
            settings.name, f"explainer_type '{asked}' is not known; known are {', '.join(EXPLAINERS)}"
        )
    return EXPLAINERS[asked]
