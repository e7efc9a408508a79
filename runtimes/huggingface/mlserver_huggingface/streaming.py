"""Text as it is generated: from a thread that generates to the loop that sends it on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from typing import Any

import transformers

from mlserver.errors import InferenceError
from mlserver_huggingface.batching import Ask
from mlserver_huggingface.pipeline import LoadedPipeline, stop_when

__all__ = ["check_streams", "stream_text"]

_END = object()


class _Streamer(transformers.TextStreamer):  # type: ignore[misc]
    """Hands pieces of text to a queue of an event loop, instead of printing them."""

    def __init__(self, tokenizer: Any, loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Any]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._loop = loop
        self._queue = queue

    def __deepcopy__(self, memo: Any) -> Any:
        return self  # older pipelines copy their arguments, but this one belongs to whoever waits

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, text)


def check_streams(ask: Ask) -> None:
    """Raises InferenceError for what cannot be told token by token."""
    if len(ask.rows) != 1:
        raise InferenceError(f"{ask.names} has {len(ask.rows)} elements, a stream answers one")
    for name in ("num_beams", "num_return_sequences"):
        value = ask.kwargs.get(name)
        if isinstance(value, int) and value > 1:
            raise InferenceError(f"input '{name}': a stream follows one text, not {value} at a time")


async def stream_text(pipeline: LoadedPipeline, ask: Ask, threads: Executor) -> AsyncIterator[str]:
    """Pieces of the text that is generated, the prompt not among them.

    Raises what generating raises. Closing this ends the generation with the token that it is at.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Any] = asyncio.Queue()
    left = threading.Event()

    def generate() -> None:
        try:
            if not left.is_set():
                streamer = _Streamer(pipeline.pipe.tokenizer, loop, queue)
                kwargs = {**ask.kwargs, "streamer": streamer, "stopping_criteria": stop_when(left.is_set)}
                pipeline.call(ask.rows[0], kwargs)
        except Exception as exc:
            loop.call_soon_threadsafe(queue.put_nowait, pipeline.explain(exc, ask))
        finally:
            loop.call_soon_threadsafe(queue.put_nowait, _END)

    generating = loop.run_in_executor(threads, generate)
    try:
        while (item := await queue.get()) is not _END:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        left.set()
        await asyncio.shield(generating)
