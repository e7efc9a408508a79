"""XGBoost models in MLServer."""

from mlserver_xgboost.version import __version__
from mlserver_xgboost.xgboost import XGBoostModel

__all__ = ["XGBoostModel", "__version__"]
