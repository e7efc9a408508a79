"""The Alibi Detect runtime: drift, outlier and adversarial detectors that the library saved."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

import mlserver
from mlserver.codecs import NumpyCodec, NumpyRequestCodec
from mlserver.errors import InferenceError, MLServerError
from mlserver.logging import logger
from mlserver.model import MLModel
from mlserver.tabular import check_single, subject_of
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
    ResponseOutput,
)
from mlserver.utils import get_model_uri
from mlserver_alibi_detect.detector import (
    CONTEXT,
    Rows,
    Window,
    hint_at,
    join,
    kind_of,
    look,
    method_of,
    save_state,
    unfit,
)
from mlserver_alibi_detect.settings import AlibiDetectSettings, get_alibi_detect_settings

__all__ = ["AlibiDetectRuntime"]

HEADER_TYPE = "x-seldon-alibi-type"
HEADER_METHOD = "x-seldon-alibi-method"
DRIFT_METRIC = "seldon_model_drift"

_DRIFT = "is_drift"
_MISFITS: tuple[type[Exception], ...] = (TypeError, ValueError, IndexError, RuntimeError, AttributeError)


class AlibiDetectRuntime(MLModel):
    """Serves a folder that `alibi_detect.saving.save_detector` wrote. `_model` is the detector.

    An answer has one output for each value that the detector gave, with one element of the leading axis for
    each time that it looked: once for a request, or once for each row where it is an online detector.
    """

    _model: Any = None

    async def load(self) -> bool:
        self._detect_settings: AlibiDetectSettings = get_alibi_detect_settings(self._settings)
        self._waiting: list[Window] = []
        self._steps = 0
        self._folder = await get_model_uri(self._settings)
        self._model = self._read(self._folder)
        self._online = hasattr(self._model, "save_state")
        self._rows = Rows.of(self._model)
        self._contexts = Rows.of_contexts(self._model)
        if kind_of(self._model) == "drift":
            mlserver.register(
                DRIFT_METRIC, "Whether there was drift, 0 or 1, for each time it was looked for."
            )
        self._describe()
        return True

    async def unload(self) -> bool:
        self._model = None
        self._waiting = []
        return True

    def _read(self, path: str) -> Any:
        try:
            # Imported late: the library takes seconds, which a folder that is not there need not wait for.
            from alibi_detect.saving import load_detector

            detector = load_detector(path)
        except Exception as exc:
            cause = " ".join(f"{type(exc).__name__}: {exc}".split()) + hint_at(path)
            raise MLServerError(f"Model {self.name}: no detector can be read from {path}: {cause}") from exc
        fault = unfit(detector)
        if fault is not None:
            raise MLServerError(f"Model {self.name}: the detector in {path} cannot be served: {fault}")
        return detector

    def _describe(self) -> None:
        """Says of the input what the settings leave out."""
        shape = self._rows.inputs_shape()
        if not self.inputs and shape is not None:
            datatype = "FP64" if self._rows.numeric else "BYTES"
            self.inputs = [MetadataTensor(name="input-0", datatype=datatype, shape=shape)]
            contexts = None if self._contexts is None else self._contexts.inputs_shape()
            if contexts is not None:
                self.inputs = [*self.inputs, MetadataTensor(name=CONTEXT, datatype="FP64", shape=contexts)]

    async def metadata(self) -> MetadataModelResponse:
        metadata = await super().metadata()
        metadata.platform = metadata.platform or "alibi-detect"
        return metadata

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        window = self._window_of(payload)
        if self._online:
            return self._respond([self._step(row, payload) for row in window.rows])
        size = self._detect_settings.batch_size
        if size is None:
            return self._respond([self._detect(window, payload)])
        self._check_company(window, payload)
        self._waiting.append(window)
        if len(self._waiting) < size:
            return self._respond([])
        windows, self._waiting = self._waiting, []
        return self._respond([self._detect(join(windows), payload)])

    # Requests

    def _window_of(self, payload: InferenceRequest) -> Window:
        """What a request holds. Raises InferenceError when it is not like the data of the fit."""
        if self._contexts is None:
            check_single(payload, self._settings)
            data = self.decode_request(payload, default_codec=NumpyRequestCodec)
            return Window(_checked(data, self._rows, subject_of(payload)))
        inputs = {tensor.name: tensor for tensor in payload.inputs}
        context = inputs.pop(CONTEXT, None)
        if context is None or len(payload.inputs) != 2 or len(inputs) != 1:
            raise InferenceError(
                f"the detector compares rows in their contexts: it takes two inputs, '{CONTEXT}' with the "
                f"contexts and one with the rows, not {[tensor.name for tensor in payload.inputs]}"
            )
        ((name, tensor),) = inputs.items()
        rows = _checked(self.decode(tensor, default_codec=NumpyCodec), self._rows, f"input '{name}'")
        data = self.decode(context, default_codec=NumpyCodec)
        contexts = _checked(data, self._contexts, f"input '{CONTEXT}'")
        if len(rows) != len(contexts):
            raise InferenceError(
                f"input '{CONTEXT}' holds {len(contexts)} contexts, but input '{name}' has {len(rows)} rows"
            )
        return Window(rows, contexts)

    def _check_company(self, window: Window, payload: InferenceRequest) -> None:
        """Raises InferenceError when the rows cannot be joined with those that wait for company."""
        if not self._waiting:
            return
        row, others = _row_shape(window.rows), _row_shape(self._waiting[0].rows)
        if row != others:
            raise InferenceError(
                f"{subject_of(payload)} has rows of shape {row}, "
                f"but those of the requests that it is to be batched with have shape {others}"
            )

    # Detection

    def _detect(self, window: Window, payload: InferenceRequest) -> Mapping[str, Any]:
        """What the detector says of a window. Raises InferenceError for what it cannot use."""
        parameters = self._detect_settings.predict_parameters
        try:
            result = look(self._model, window, parameters)
        except (*_MISFITS, *_tensorflow_errors()) as exc:
            if isinstance(exc, AttributeError) and not isinstance(window.rows, list):
                raise
            # What is known of the rows was compared before; the detector is fixed. What is left is what the
            # request holds (texts where an array is wanted have none of its attributes), and how the settings
            # want it to be looked at.
            what = f"{subject_of(payload)} does not suit the detector"
            if parameters:
                what += f" with predict_parameters {parameters}"
            raise InferenceError(f"{what}: {_last_line(exc)}") from exc
        if _DRIFT in result:
            for value in np.ravel(result[_DRIFT]):
                mlserver.log(**{DRIFT_METRIC: float(value)})
        return result

    def _step(self, row: Any, payload: InferenceRequest) -> Mapping[str, Any]:
        result = self._detect(Window(row), payload)
        self._steps += 1
        if self._steps % self._detect_settings.state_save_freq == 0:
            try:
                save_state(self._model, self._folder)
            except OSError as exc:  # such as a volume that is mounted for reading
                logger.warning("Model %s: the state of the detector cannot be saved: %s", self.name, exc)
        # Once its state was restored, a detector counts steps in an array, which it goes on to change.
        return copy.deepcopy(result)

    # Responses

    def _respond(self, results: list[Mapping[str, Any]]) -> InferenceResponse:
        headers = {HEADER_TYPE: kind_of(self._model), HEADER_METHOD: method_of(self._model)}
        outputs = [
            output
            for name in (results[0] if results else ())
            if (output := _encode(name, [result[name] for result in results])) is not None
        ]
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=outputs,
            parameters=Parameters(**self._model.meta, headers=headers),
        )


def _encode(name: str, values: list[Any]) -> ResponseOutput | None:
    """The values of all runs as one tensor; None for what is no tensor, such as a model that was trained."""
    if any(value is None for value in values):
        return None
    try:
        stacked = np.stack([np.asarray(value) for value in values])
    except ValueError:  # of different shapes
        return None
    return NumpyCodec.encode_output(name, stacked) if stacked.dtype.kind in "biufU" else None


def _checked(data: Any, expected: Rows, subject: str) -> Any:
    """Data as the detector takes it. Raises InferenceError when it is not what is expected."""
    if hasattr(data, "to_numpy"):
        data = data.to_numpy()
    if not isinstance(data, (list, np.ndarray)):
        raise InferenceError(
            f"{subject} is decoded to {type(data).__name__}: "
            "a detector takes one tensor, a list of texts or a data frame"
        )
    fault = expected.misfit(data)
    if fault is not None:
        raise InferenceError(f"{subject} {fault}")
    return expected.arrange(data)


def _tensorflow_errors() -> tuple[type[Exception], ...]:
    """What TensorFlow says of tensors that do not fit, where a detector has imported it."""
    errors = getattr(sys.modules.get("tensorflow"), "errors", None)
    return () if errors is None else (errors.InvalidArgumentError, errors.UnimplementedError)


def _row_shape(data: Any) -> list[int] | None:
    return None if isinstance(data, list) else list(data.shape[1:])


def _last_line(exc: Exception) -> str:
    """Libraries that compile code put its traceback in front of what went wrong."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__
