"""A saved model, and the error for what is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["UNDERSTOOD", "Artefact", "Unrecognised"]

UNDERSTOOD = (
    "scikit-learn (.joblib, .pkl, .pickle, .skops), XGBoost (.json, .ubj, .bst), LightGBM (.txt, .bst), "
    "CatBoost (.cbm, .json), ONNX (.onnx), PyTorch (TorchScript in .pt, exported programs in .pt2), "
    "folders of MLflow (MLmodel) and Hugging Face (config.json)"
)


@dataclass(frozen=True)
class Artefact:
    """A file or a folder that a runtime can serve.

    kind: what it is, in words. runtime: import path of the class that serves it. needs: what else has to be
    importable, and the extra of the runtime's package that brings it.
    saved_with: versions of the distributions that saved it, as far as it tells; they may be as short as `4`.
    note: what else it tells of its origin. extra: `parameters.extra` that the runtime cannot do without.
    text: a text that it can answer, where not any will do.
    """

    path: str
    kind: str
    runtime: str
    needs: tuple[str, str] | None = None
    saved_with: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    text: str | None = None

    @property
    def package(self) -> str:
        """The package of the runtime."""
        return self.runtime.partition(".")[0]

    @property
    def distribution(self) -> str:
        """What pip installs to have it."""
        return self.package.replace("_", "-")


class Unrecognised(ValueError):
    """No runtime is known for what was found."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(f"'{path}' is no model that can be served without settings: {found}")
        self.found = found
