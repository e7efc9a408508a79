"""The explainers that can be served: their classes, what they are asked with, and what they know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["EXPLAINERS", "Explainer", "from_json", "row_shape"]


@dataclass(frozen=True)
class Explainer:
    """One `explainer_type`.

    name: of the class in alibi.explainers. black_box: whether all it needs of the model is its predictions.
    alone: whether it explains one row at a time. texts: whether a row is a text rather than numbers.
    fitted: whether it has to be fitted, which needs data. saved: whether it can be read from a folder.
    defaults: keyword arguments of `explain` that a request may change.
    """

    name: str
    black_box: bool = False
    alone: bool = False
    texts: bool = False
    fitted: bool = False
    saved: bool = True
    defaults: Mapping[str, Any] = field(default_factory=dict)


EXPLAINERS = {
    "anchor_image": Explainer("AnchorImage", black_box=True, alone=True),
    "anchor_tabular": Explainer("AnchorTabular", black_box=True, alone=True, fitted=True),
    "anchor_text": Explainer("AnchorText", black_box=True, alone=True, texts=True),
    # A bar of its progress has no place in a server's log.
    "kernel_shap": Explainer("KernelShap", black_box=True, fitted=True, defaults={"silent": True}),
    "integrated_gradients": Explainer("IntegratedGradients"),
    "tree_shap": Explainer("TreeShap"),
    "tree_partial_dependence": Explainer("TreePartialDependence"),
    "tree_partial_dependence_variance": Explainer("PartialDependenceVariance", saved=False),
}


def from_json(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of Alibi with what JSON cannot say: numbers of columns as keys, pairs of columns."""
    arguments = dict(parameters)
    for name in ("categorical_names", "grid_points"):
        if isinstance(arguments.get(name), Mapping):
            arguments[name] = {_number(key): value for key, value in arguments[name].items()}
    features = arguments.get("features")
    if isinstance(features, list):
        arguments["features"] = [tuple(item) if isinstance(item, list) else item for item in features]
    return arguments


def _number(key: Any) -> Any:
    return int(key) if isinstance(key, str) and key.isdecimal() else key


def row_shape(explainer: Any, predictor: Any) -> tuple[int, ...] | None:
    """The shape of a row that the explainer takes; None where it does not tell."""
    name = type(explainer).__name__
    if name == "AnchorImage":
        return tuple(map(int, explainer.image_shape))
    if name == "AnchorTabular":
        # Columns of a one-hot encoding are more than the features that have names.
        return None if explainer.ohe else (len(explainer.feature_names),)
    if name == "KernelShap":
        background = getattr(getattr(explainer._explainer, "data", None), "data", None)
        return None if background is None else (int(np.shape(background)[1]),)
    if name == "IntegratedGradients":
        shape = getattr(predictor, "input_shape", None)
        if not isinstance(shape, tuple) or any(size is None for size in shape[1:]):
            return None  # several inputs, or sizes that vary
        return tuple(map(int, shape[1:]))
    count = getattr(predictor, "n_features_in_", None)
    return None if count is None else (int(count),)
