"""Models that are read from a file: where it is looked for, and what is said when it cannot be read."""

from __future__ import annotations

import os
from typing import Any, ClassVar, TypeVar

import msgspec

from mlserver.audit.policy import check_code
from mlserver.errors import InvalidModelURI, MLServerError
from mlserver.importing import import_class
from mlserver.model import MLModel
from mlserver.settings import ModelSettings
from mlserver.types import MetadataModelResponse
from mlserver.utils import get_model_uri

__all__ = ["ArtefactModel", "import_beside", "options_of"]

T = TypeVar("T", bound=msgspec.Struct)


class ArtefactModel(MLModel):
    """A model that a library reads from one file.

    A runtime sets `platform_name` and `filenames` (looked for in a folder, in this order), and overrides
    `_read` and `_about`. The library's object is `_model`.
    """

    platform_name: ClassVar[str] = ""
    filenames: ClassVar[tuple[str, ...]] = ()

    _model: Any = None

    def _read(self, path: str) -> Any:
        """The library's object for the artefact at `path`. What it raises becomes an error of the load."""
        raise NotImplementedError

    def _about(self) -> Any:
        """What is known of the model, anew when somebody put another one in place."""
        raise NotImplementedError

    async def load(self) -> bool:
        path = await get_model_uri(self._settings, wellknown_filenames=list(self.filenames))
        self._model = self._read_or_explain(path)
        self._about()
        return True

    def _read_or_explain(self, path: str) -> Any:
        if os.path.isdir(path):
            raise InvalidModelURI(self.name, f"{path} holds none of {', '.join(self.filenames)}")
        try:
            return self._read(path)
        except MLServerError:
            raise
        except Exception as exc:
            cause = f"{type(exc).__name__}: {exc}".split("\nStack trace", 1)[0].strip()
            raise MLServerError(
                f"Model {self.name}: the artefact {path} cannot be read: {cause}", 500
            ) from exc

    async def metadata(self) -> MetadataModelResponse:
        metadata = await super().metadata()
        metadata.platform = metadata.platform or self.platform_name
        return metadata


def options_of(settings: ModelSettings, kind: type[T]) -> T:
    """`parameters.extra` of a model as a struct of the options that its runtime knows.

    Raises MLServerError (422) for options that it does not know, and values of the wrong type.
    """
    extra = None if settings.parameters is None else settings.parameters.extra
    names = kind.__struct_encode_fields__
    unknown = [name for name in extra or {} if name not in names]
    if unknown:
        raise MLServerError(
            f"Model {settings.name}: parameters.extra has unknown {_quoted(unknown)}; "
            f"known are {_quoted(names)}",
            422,
        )
    try:
        return msgspec.convert(extra or {}, kind)
    except msgspec.ValidationError as exc:
        raise MLServerError(f"Model {settings.name}: parameters.extra: {exc}", 422) from exc


def import_beside(settings: ModelSettings, path: str) -> Any:
    """The object at `module.name`, modules beside the settings file of a model first.

    Raises ImportError, UntrustedArtefact, or what the module raises.
    """
    return import_class(path, check_code(settings, path))


def _quoted(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)
