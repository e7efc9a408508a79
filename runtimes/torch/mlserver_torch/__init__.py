"""PyTorch models in MLServer."""

from mlserver_torch.torch import TorchModel
from mlserver_torch.version import __version__

__all__ = ["TorchModel", "__version__"]
