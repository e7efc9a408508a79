"""What a saved model is, told by its file names and bytes alone.

Nothing is unpickled and no framework is imported: recognising a model runs none of its code, and works where
its runtime is not installed.
"""

from mlserver.recognition.artefact import UNDERSTOOD, Artefact, Unrecognised
from mlserver.recognition.folders import artefact_at
from mlserver.recognition.names import name_of
from mlserver.recognition.versions import differences

__all__ = ["UNDERSTOOD", "Artefact", "Unrecognised", "artefact_at", "differences", "name_of"]
