"""CatBoost models in MLServer."""

from mlserver_catboost.catboost import CatboostModel
from mlserver_catboost.version import __version__

__all__ = ["CatboostModel", "__version__"]
