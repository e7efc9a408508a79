"""The MLflow runtime: any model with the flavour `python_function`, over V2 and MLflow's own protocol."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response

from mlserver import MLModel
from mlserver.codecs.columns import misfit, repeated
from mlserver.codecs.utils import DefaultInputPrefix, DefaultOutputPrefix
from mlserver.errors import CodecError, InferenceError, InvalidModelURI, MLServerError
from mlserver.handlers import custom_handler
from mlserver.logging import logger
from mlserver.settings import ModelParameters
from mlserver.tabular import check_single
from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse, MetadataTensor
from mlserver.utils import get_model_uri
from mlserver_mlflow import refusals, results
from mlserver_mlflow.codecs import TensorDictCodec
from mlserver_mlflow.flavours import rows_are_independent
from mlserver_mlflow.metadata import content_type_of, tensors_of

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import PyFuncModel

__all__ = ["MLflowRuntime"]

_MLMODEL: Final = "MLmodel"
# What `mlflow models serve` puts the model's configuration into.
_SERVING_MODEL_CONFIG: Final = "SERVING_MODEL_CONFIG"
_EXTRA_INPUTS: Final = ("ignore", "refuse")

# Parameters of requests that are the protocol's, not the model's.
_OF_THE_PROTOCOL: Final = frozenset(
    (
        "binary_data_output",
        "priority",
        "sequence_end",
        "sequence_id",
        "sequence_start",
        "timeout",
        "triton_enable_empty_final_response",
    )
)


class MLflowRuntime(MLModel):
    """Serves what `mlflow.pyfunc.load_model` can load.

    The promise holds for libraries that are known to look at each row alone; `load` takes it back for all
    other models.
    """

    rows_independent = True

    _model: PyFuncModel
    _params: dict[str, Any]
    _refuse_extra_inputs: bool

    async def load(self) -> bool:
        extra = (self._settings.parameters.extra if self._settings.parameters is not None else None) or {}
        extra_inputs = extra.get("extra_inputs", _EXTRA_INPUTS[0])
        if extra_inputs not in _EXTRA_INPUTS:
            raise MLServerError(
                f"Model {self.name}: `extra_inputs` is 'ignore' or 'refuse', not {extra_inputs!r}", 422
            )
        self._refuse_extra_inputs = extra_inputs == "refuse"
        uri = self._folder(await get_model_uri(self._settings, wellknown_filenames=[_MLMODEL]))
        self._model = self._read(uri, extra.get("model_config"))
        self._params = {}
        signature = self._model.metadata.signature
        if signature is not None:
            self._describe(signature)
        if not rows_are_independent(self._model):
            self.rows_independent = False  # type: ignore[misc]  # taken back for this model
        return True

    async def unload(self) -> bool:
        self.__dict__.pop("_model", None)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        check_single(payload, self._settings, default=None)
        data = self.decode_request(payload)
        columns = hasattr(data, "columns")
        fault = misfit(payload.inputs, arrays=True) if columns else repeated(payload.inputs)
        if fault is not None:
            raise InferenceError(fault)
        if self._refuse_extra_inputs:
            self._check_names(data)
        params = self._params_of(payload)
        try:
            result = self._model.predict(data, params=params)
        except Exception as exc:
            refusal = refusals.find(exc, data, payload, self._model)
            if refusal is None:
                raise
            raise refusal from exc
        return self._respond(result)

    async def metadata(self) -> MetadataModelResponse:
        metadata = await super().metadata()
        metadata.platform = metadata.platform or "mlflow"
        params = getattr(self, "_params", None)
        if params and metadata.parameters is not None:
            # As in the MLmodel file: one text, which every transport can carry.
            specs = [spec.to_dict() for spec in params.values()]
            metadata.parameters.params = json.dumps(specs)
        return metadata

    # MLflow's own protocol

    @custom_handler(rest_path="/ping", rest_method="GET")
    async def ping(self) -> Response:
        return Response("\n", media_type="application/json")

    @custom_handler(rest_path="/health", rest_method="GET")
    async def health(self) -> Response:
        return await self.ping()

    @custom_handler(rest_path="/version", rest_method="GET")
    async def mlflow_version(self) -> Response:
        from mlflow.version import VERSION

        return Response(VERSION, media_type="application/json")

    @custom_handler(rest_path="/invocations", rest_method="POST")
    async def invocations(self, request: Request) -> Response:
        from mlserver_mlflow import scoring

        body = await request.body()
        return scoring.answer(self._model, body, request.headers.get("content-type", ""))

    # Loading

    def _folder(self, path: str) -> str:
        """The folder that holds the MLmodel file, or the URI of another place, as it is."""
        if os.path.isfile(path):
            if os.path.basename(path) == _MLMODEL:
                return os.path.dirname(path)
            raise InvalidModelURI(self.name, f"{path} is no folder with a file {_MLMODEL}")
        if not os.path.isdir(path):
            return path  # of a scheme that MLflow knows
        # Tools that copy a model often keep the name of its folder.
        below = [
            entry.path for entry in os.scandir(path) if os.path.isfile(os.path.join(entry.path, _MLMODEL))
        ]
        if len(below) != 1:
            found = f"{len(below)} folders with one" if below else "none below it either"
            raise InvalidModelURI(self.name, f"{path} holds no file {_MLMODEL}, and {found}")
        return below[0]

    def _read(self, uri: str, config: dict[str, Any] | None) -> PyFuncModel:
        import mlflow.pyfunc

        if config is None and os.environ.get(_SERVING_MODEL_CONFIG):
            config = json.loads(os.environ[_SERVING_MODEL_CONFIG])
        try:
            return mlflow.pyfunc.load_model(uri, model_config=config)
        except Exception as exc:
            missing = _missing_module(exc)
            where = "" if missing is None else f" ({missing}, in the environment of {sys.executable})"
            cause = " ".join(f"{type(exc).__name__}: {exc}".split())
            raise MLServerError(f"Model {self.name}: MLflow cannot load {uri}: {cause}{where}", 500) from exc

    def _describe(self, signature: ModelSignature) -> None:
        """Let inputs, outputs and content type be what the signature says."""
        if signature.inputs is not None:
            self.inputs = self._replaced(
                "inputs", self.inputs, tensors_of(signature.inputs, DefaultInputPrefix)
            )
            parameters = self._settings.parameters
            if parameters is None:
                parameters = self._settings.parameters = ModelParameters()
            content_type = content_type_of(signature.inputs)
            parameters.content_type = self._replaced("content type", parameters.content_type, content_type)
        outputs: list[MetadataTensor] = []
        if signature.outputs is not None:
            outputs = tensors_of(signature.outputs, DefaultOutputPrefix)
        self.outputs = self._replaced("outputs", self.outputs, outputs)
        if signature.params is not None:
            self._params = {spec.name: spec for spec in signature.params.params}

    def _replaced(self, what: str, old: Any, new: Any) -> Any:
        if old and old != new:
            logger.warning("Model '%s': its signature replaces the %s of its settings", self.name, what)
        return new

    # Requests and responses

    def _check_names(self, data: Any) -> None:
        schema = self._model.metadata.get_input_schema()
        unknown = None if schema is None else refusals.extra_inputs(data, schema)
        if unknown is not None:
            raise InferenceError(f"the request has {unknown}, which the model does not know")

    def _params_of(self, payload: InferenceRequest) -> dict[str, Any] | None:
        """Parameters of the request that are the model's; None without any.

        Raises InferenceError naming the one that is of another type than the signature says.
        """
        given = payload.parameters.model_extra if payload.parameters is not None else None
        params = {
            name: value
            for name, value in (given or {}).items()
            if name in self._params or not (name in _OF_THE_PROTOCOL or name.startswith("_"))
        }
        if not params:
            return None
        from mlflow.exceptions import MlflowException
        from mlflow.types import ParamSpec

        for name in params.keys() & self._params.keys():
            try:
                ParamSpec.validate_param_spec(params[name], self._params[name])
            except MlflowException as exc:
                raise InferenceError(f"parameter '{name}': {exc.message}") from exc
        return params

    def _respond(self, result: Any) -> InferenceResponse:
        tensors = results.as_tensors(result)
        if tensors is None:
            output = results.as_json(result, self.name)
            return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
        try:
            return self.encode_response(tensors, default_codec=TensorDictCodec)
        except CodecError as exc:
            raise MLServerError(f"Model {self.name}: its result cannot be sent: {exc.reason}", 500) from exc


def _missing_module(exc: BaseException | None) -> ModuleNotFoundError | None:
    """The missing module that an error goes back to, if it does."""
    while exc is not None and not isinstance(exc, ModuleNotFoundError):
        exc = exc.__cause__ or exc.__context__
    return exc
