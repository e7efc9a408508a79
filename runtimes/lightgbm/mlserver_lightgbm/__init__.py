"""LightGBM models in MLServer."""

from mlserver_lightgbm.lightgbm import LightGBMModel
from mlserver_lightgbm.version import __version__

__all__ = ["LightGBMModel", "__version__"]
