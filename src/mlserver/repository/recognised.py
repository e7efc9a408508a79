"""A saved model without settings, as a repository of its own."""

from __future__ import annotations

import asyncio
import builtins

from mlserver.recognition import Artefact, Unrecognised, artefact_at, name_of
from mlserver.repository.load import with_parameters
from mlserver.repository.schemaless import SchemalessModelRepository
from mlserver.settings import ModelSettings

__all__ = ["ArtefactRepository", "settings_of"]


class ArtefactRepository(SchemalessModelRepository):
    """The saved model that `root` is or holds, until settings are put there: from then on, those count."""

    async def list(self) -> builtins.list[ModelSettings]:
        return await super().list() or await asyncio.to_thread(self._recognised)

    def _recognised(self) -> builtins.list[ModelSettings]:
        try:
            artefact = artefact_at(self._root)
        except (OSError, Unrecognised) as exc:
            self._complain(self._root, str(exc))  # it is gone, or about to be replaced
            return []
        self._complaints.pop(self._root, None)
        return [] if artefact is None else [settings_of(artefact)]


def settings_of(artefact: Artefact) -> ModelSettings:
    """The settings of a saved model. The environment may give it another name, version or the like."""
    settings = with_parameters(ModelSettings(implementation=artefact.runtime))
    assert settings.parameters is not None
    settings.name = settings.name or name_of(artefact.path)
    settings.parameters.uri = artefact.path
    if artefact.extra:
        settings.parameters.extra = {**artefact.extra, **(settings.parameters.extra or {})}
    return settings
