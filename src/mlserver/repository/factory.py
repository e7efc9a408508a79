"""From settings to the repository they ask for."""

from __future__ import annotations

from mlserver.errors import StartError
from mlserver.importing import import_class
from mlserver.repository.repository import ModelRepository
from mlserver.repository.schemaless import SchemalessModelRepository
from mlserver.settings import Settings

__all__ = ["ModelRepositoryFactory"]


class ModelRepositoryFactory:
    """Builds model repositories."""

    @staticmethod
    def resolve_model_repository(settings: Settings) -> ModelRepository:
        """The repository that `settings` name, or a folder of models.

        Raises StartError when the class cannot be imported or built.
        """
        cls = settings.model_repository_implementation or SchemalessModelRepository
        if isinstance(cls, str):
            try:
                cls = import_class(cls)
            except ImportError as exc:
                raise StartError(f"the model repository cannot be imported: {exc}") from exc
        try:
            repository: ModelRepository = cls(
                root=settings.model_repository_root, **settings.model_repository_implementation_args
            )
        except Exception as exc:
            name = getattr(cls, "__name__", repr(cls))
            cause = f"{type(exc).__name__}: {exc}"
            raise StartError(f"the model repository {name} cannot be built: {cause}") from exc
        return repository
