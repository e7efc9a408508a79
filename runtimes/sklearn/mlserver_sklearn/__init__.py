"""scikit-learn models in MLServer."""

from mlserver_sklearn.sklearn import SKLearnModel
from mlserver_sklearn.version import __version__

__all__ = ["SKLearnModel", "__version__"]
