"""The Hugging Face runtime: from requests to a pipeline of transformers and back."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import torch

from mlserver import MLModel
from mlserver.audit.policy import check_artefact
from mlserver.errors import InvalidModelURI, MLServerError
from mlserver.settings import ModelSettings
from mlserver.tensor import TensorData
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    Parameters,
    ResponseOutput,
)
from mlserver.utils import get_model_uri
from mlserver_huggingface import codecs  # noqa: F401 - which registers them
from mlserver_huggingface.arguments import Arguments
from mlserver_huggingface.batching import Batcher
from mlserver_huggingface.codecs import HuggingfaceListJSONCodec
from mlserver_huggingface.codecs.json import to_json
from mlserver_huggingface.common import describe_failure, load_pipeline_from_settings, unify_task
from mlserver_huggingface.metadata import inputs_of, outputs_of
from mlserver_huggingface.pipeline import LoadedPipeline
from mlserver_huggingface.settings import HuggingFaceSettings, get_huggingface_settings
from mlserver_huggingface.streaming import check_streams, stream_text

__all__ = ["HuggingFaceRuntime"]

OUTPUT_NAME = "output"

# Texts that are generated side by side for streams. More would make each of them slower, and wait instead.
_STREAMS_AT_A_TIME = 8
# Questions of one run, where `max_batch_size` does not say.
_MOST_ASKS = 256


_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

# Tasks that answer each text with one row, however they are asked.
_ROW_PER_TEXT = frozenset(("question-answering", "text-classification"))


def _is_place(uri: str) -> bool:
    """Whether a URI that is no path beside the settings is one seen from where the server was started, or a
    name on the hub: 1.x passed it on as it was.
    """
    return os.path.isdir(uri) or _HUB_NAME.fullmatch(uri) is not None


class HuggingFaceRuntime(MLModel):
    """Serves any pipeline of transformers.

    Requests that arrive while the pipeline computes are answered together. Where an answer has a row for each
    text, the core merges them, which is quickest. Of other tasks only this runtime knows which inputs are
    rows and how many rows of an answer are whose, so it merges them itself (see `batching`).

    Generated text can be streamed. The pipeline is `_model`.
    """

    rows_independent = True

    _model: Any
    _pipeline: LoadedPipeline
    _arguments: Arguments
    _batcher: Batcher
    _streams: ThreadPoolExecutor

    def __init__(self, settings: ModelSettings) -> None:
        self.hf_settings: HuggingFaceSettings = get_huggingface_settings(settings)
        self._most_asks = settings.max_batch_size if settings.max_batch_size > 1 else _MOST_ASKS
        self._task = unify_task(self.hf_settings.task_name)
        if self._task not in _ROW_PER_TEXT or self.hf_settings.batch_size == 1:
            self.rows_independent = False  # type: ignore[misc]  # how a model takes its promise back
            # The core would merge whatever the promise, if a size of batches were set.
            settings = settings.model_copy(update={"max_batch_size": 0})
        super().__init__(settings)

    async def load(self) -> bool:
        settings = self.hf_settings
        folder = await self._folder()
        self._check(folder)
        try:
            self._model = load_pipeline_from_settings(settings, folder)
        except MLServerError:
            raise
        except Exception as exc:
            raise describe_failure(self.name, settings, exc) from exc
        task = self._task
        self._arguments = Arguments(self._model, task, self._settings.inputs)
        self._pipeline = LoadedPipeline(self._model, task, settings.batch_size, self._arguments.keywords)
        if not self._pipeline.batches:
            self.rows_independent = False  # type: ignore[misc]
        self._batcher = Batcher(
            self._pipeline.answer, self._most_asks if self._pipeline.batches else 1, 2 * settings.batch_size
        )
        self._streams = ThreadPoolExecutor(_STREAMS_AT_A_TIME, thread_name_prefix="stream")
        self.inputs = [*self.inputs, *inputs_of(task)]
        self.outputs = [*self.outputs, *outputs_of(task)]
        return True

    async def _folder(self) -> str | None:
        """Where the model is, unless its settings name one of the hub; None for the default of its task."""
        parameters = self._settings.parameters
        if self.hf_settings.pretrained_model or parameters is None or not parameters.uri:
            return None
        try:
            return await get_model_uri(self._settings)
        except InvalidModelURI:
            if _is_place(parameters.uri):
                check_artefact(self._settings, parameters.uri)
                return parameters.uri
            raise

    def _check(self, folder: str | None) -> None:
        """Look at what else the pipeline is made of. Raises UntrustedArtefact."""
        settings = self.hf_settings
        code = bool((settings.model_kwargs or {}).get("trust_remote_code"))
        places = {settings.pretrained_model, settings.pretrained_tokenizer, folder if code else None}
        if not (settings.pretrained_model or folder):
            places.add(f"the default model of task '{self._task}'")
        for place in places - {None}:
            check_artefact(self._settings, str(place), code=code)

    async def metadata(self) -> MetadataModelResponse:
        metadata = await super().metadata()
        metadata.platform = metadata.platform or "huggingface"
        return metadata

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        ask = self._arguments.read(payload)
        return self._response(await self._batcher.ask(ask))

    async def predict_stream(
        self, payloads: AsyncIterator[InferenceRequest]
    ) -> AsyncIterator[InferenceResponse]:
        """A response for each piece of text as it is generated; for other tasks, one for each request."""
        async for payload in payloads:
            ask = self._arguments.read(payload)
            if not self._pipeline.generates:
                yield self._response(await self._batcher.ask(ask))
                continue
            check_streams(ask)
            async with aclosing(stream_text(self._pipeline, ask, self._streams)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    yield self._response([to_json({self._pipeline.text_key: piece})])

    def _response(self, rows: list[bytes]) -> InferenceResponse:
        output = ResponseOutput.build(
            name=OUTPUT_NAME,
            shape=[len(rows), 1],
            datatype="BYTES",
            parameters=Parameters.of_content_type(HuggingfaceListJSONCodec.ContentType),
            data=TensorData(rows),
        )
        return InferenceResponse.build(model_name=self.name, model_version=self.version, outputs=[output])

    async def unload(self) -> bool:
        if hasattr(self, "_batcher"):
            await asyncio.to_thread(self._batcher.close)
            await asyncio.to_thread(self._streams.shutdown)
        on_gpu = getattr(getattr(getattr(self, "_model", None), "device", None), "type", None) == "cuda"
        for name in ("_model", "_pipeline", "_arguments", "_batcher"):
            self.__dict__.pop(name, None)
        if on_gpu:
            torch.cuda.empty_cache()
        return True
