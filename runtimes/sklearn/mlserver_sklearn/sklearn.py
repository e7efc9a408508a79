"""The scikit-learn runtime: from a request to the estimator's methods and back.

What an estimator accepts, only the estimator knows: it is asked first. When it refuses, `refusals` finds out
whether the request was to blame, so that a good request pays nothing for the text that a bad one gets.
"""

from __future__ import annotations

from typing import Any

import joblib

from mlserver.errors import InferenceError, MLServerError
from mlserver.logging import logger
from mlserver.tabular import PICKLES, Fitted, TabularModel
from mlserver.types import InferenceRequest
from mlserver_sklearn import refusals
from mlserver_sklearn.artefact import OUTPUTS, final_type, open_estimator

__all__ = ["SKLearnModel"]

PREDICT_OUTPUT = "predict"
PREDICT_PROBA_OUTPUT = "predict_proba"
TRANSFORM_OUTPUT = "transform"

WELLKNOWN_MODEL_FILENAMES = (*PICKLES, "model.skops")


class SKLearnModel(TabularModel):
    """Serves an estimator, or a pipeline, that joblib or skops can load.

    The promises of `TabularModel` hold for scikit-learn's own estimators; `load` takes them back where an
    artefact holds other code, or where a method was chosen that looks at several rows at once.
    """

    platform_name = "sklearn"
    filenames = WELLKNOWN_MODEL_FILENAMES
    output_names = OUTPUTS

    def _read(self, path: str) -> Any:
        return self._read_skops(path) if path.endswith(".skops") else joblib.load(path)

    def _read_skops(self, path: str) -> Any:
        """Unlike a pickle, such a file names the types that it needs, and runs no code of others."""
        from skops import io

        trusted = self._extra("trusted") or []
        unknown = [name for name in io.get_untrusted_types(file=path) if name not in trusted]
        if unknown:
            raise TypeError(
                f"it holds objects of types that are not trusted: {', '.join(unknown)}; "
                "list in the setting parameters.extra.trusted those that you trust"
            )
        return io.load(path, trusted=list(trusted))

    def _open(self, model: Any) -> Fitted:
        method = self._extra("predict_fn")
        if method and not callable(getattr(model, method, None)):
            # Requests that name their outputs are answered all the same.
            logger.warning(
                "Model '%s': parameters.extra.predict_fn is '%s', which is no method of %s",
                self.name,
                method,
                final_type(model),
            )
        return open_estimator(model, method or PREDICT_OUTPUT)

    def _prepare(self, data: Any, payload: InferenceRequest) -> Any:
        return self._about().features.arrange(data)

    def _refusal(self, exc: Exception, data: Any, payload: InferenceRequest) -> MLServerError | None:
        return refusals.find(exc, data, payload, self._about().features)

    def _unsupported(self, name: str) -> MLServerError:
        # Clients know these texts: the first without its later names, the second without its last quote.
        if name not in self.output_names:
            return InferenceError(
                "SKLearnModel only supports 'predict', 'predict_proba' and 'transform' as outputs "
                f"({name} was received)"
            )
        if name == PREDICT_PROBA_OUTPUT:
            return InferenceError(f"{self._kind()} models do not support '{name}")
        return super()._unsupported(name)

    def _kind(self) -> str:
        return str(final_type(self._model))
