"""Where models are found."""

from mlserver.repository.factory import ModelRepositoryFactory
from mlserver.repository.repository import ModelRepository
from mlserver.repository.schemaless import DEFAULT_MODEL_SETTINGS_FILENAME, SchemalessModelRepository

__all__ = [
    "DEFAULT_MODEL_SETTINGS_FILENAME",
    "ModelRepository",
    "ModelRepositoryFactory",
    "SchemalessModelRepository",
]
