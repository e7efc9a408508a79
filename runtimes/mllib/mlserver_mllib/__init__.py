"""Models of Spark MLlib in MLServer."""

from mlserver_mllib.errors import InvalidMLlibFormat
from mlserver_mllib.mllib import MLlibModel
from mlserver_mllib.version import __version__

__all__ = ["InvalidMLlibFormat", "MLlibModel", "__version__"]
