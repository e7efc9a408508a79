"""From request bodies to reply bodies: decode -> group -> merge -> predict -> split -> encode.

The executor is where tensors are understood and where user code is called. It is the same wherever it runs: it takes the calls
of one model as the bytes that arrived and gives the bytes that go out, and knows nothing of sockets, queues or threads.

A call that fails, fails alone. A merged group that fails is run again in halves, so that the error finds the call it belongs to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlserver.batching.merge import fits, merge, rows_of, split
from mlserver.context import model_context, request_id_var
from mlserver.errors import InferenceError, InvalidRequest, MLServerError
from mlserver.logging import logger
from mlserver.model import MLModel, promises
from mlserver.types import InferenceRequest, InferenceResponse, Parameters
from mlserver.utils import generate_uuid
from mlserver.wire import json as wire

__all__ = ["Call", "Executor", "Reply", "Stages"]


@dataclass(slots=True)
class Call:
    """One inference request as it arrived: a V2 JSON body and the transport's headers, lower-case names."""

    body: bytes
    headers: dict[str, str]


@dataclass(slots=True)
class Reply:
    """What goes back: an HTTP-style status, a JSON body, and for a success the request's id and the model's own headers."""

    status: int
    body: bytes
    id: str | None = None
    headers: dict[str, Any] | None = None


@dataclass(slots=True)
class Stages:
    """Where the time of all batches so far went, in seconds, and how many there were."""

    batches: int = 0
    calls: int = 0
    decode: float = 0.0
    predict: float = 0.0
    encode: float = 0.0


@dataclass(slots=True)
class _Decoded:
    """A call on its way through the executor: its request, then its reply."""

    request: InferenceRequest
    reply: Reply | None = field(default=None)


class Executor:
    """Runs the calls of one loaded model.

    merges: whether calls that fit together may be answered by one `predict`.
    request_events: CloudEvents headers that every request shows to the model.
    """

    def __init__(self, model: MLModel, request_events: dict[str, str]) -> None:
        settings = model.settings
        self.model = model
        self.stages = Stages()
        batching = settings.max_batch_size > 1
        self.merges = promises(model, "rows_independent") or batching
        self.max_rows = settings.max_batch_size if batching else _UNLIMITED_ROWS
        # Rows that are independent do not care who asked; any other code may read the headers.
        self._merge_across_headers = promises(model, "rows_independent")
        self._events = request_events

    async def run(self, calls: Sequence[Call]) -> list[Reply]:
        """One reply for each call, in order. Never raises for what a caller or the model did wrong."""
        started = time.perf_counter()
        decoded = [self._decode(call) for call in calls]
        groups = self._group([d for d in decoded if d.reply is None])
        self.stages.decode += time.perf_counter() - started
        with model_context(self.model.settings):
            for group in groups:
                await self._answer(group)
        self.stages.batches += len(groups)
        self.stages.calls += len(calls)
        return [d.reply or _failure(MLServerError("no reply was made", 500)) for d in decoded]

    async def stream(self, call: Call) -> AsyncIterator[bytes]:
        """The model's responses to one request, each as JSON. Raises what decoding or the model raises."""
        request = self._request(call)

        async def requests() -> AsyncIterator[InferenceRequest]:
            yield request

        with model_context(self.model.settings):
            async for response in self.model.predict_stream(requests()):
                response.id = request.id
                yield wire.encode_response(_complete(response, keep_headers=True))

    # decode

    def _decode(self, call: Call) -> _Decoded:
        try:
            return _Decoded(self._request(call))
        except Exception as exc:
            return _Decoded(_NOTHING, _failure(exc))

    def _request(self, call: Call) -> InferenceRequest:
        request = wire.decode_request(call.body)
        if request.id is None:
            request.id = generate_uuid()
        headers = {**call.headers, **self._events}
        if request.id:
            headers["Ce-Id"] = headers["Ce-Requestid"] = request.id
        if request.parameters is None:
            request.parameters = Parameters(headers=headers)
        else:
            request.parameters.headers = headers
        return request

    # group and merge

    def _group(self, decoded: Sequence[_Decoded]) -> list[list[_Decoded]]:
        if not self.merges or len(decoded) == 1:
            return [[d] for d in decoded]
        groups: list[list[_Decoded]] = []
        filling: dict[tuple[Any, ...], tuple[list[_Decoded], int]] = {}
        for d in decoded:
            key = fits(d.request)
            if key is None:
                groups.append([d])
                continue
            if not self._merge_across_headers:
                key = (*key, _steering_headers(d.request))
            rows = rows_of(d.request)
            group, filled = filling.get(key, (None, 0))
            if group is None or filled + rows > self.max_rows:
                group, filled = [], 0
                groups.append(group)
            group.append(d)
            filling[key] = group, filled + rows
        return groups

    # predict, split and encode

    async def _answer(self, group: Sequence[_Decoded]) -> None:
        started = time.perf_counter()
        predicted = started
        try:
            merged = group[0].request if len(group) == 1 else merge([d.request for d in group])
            if len(group) == 1:
                request_id_var.set(merged.id)
            response = _checked(await self.model.predict(merged), self.model)
            predicted = time.perf_counter()
            if len(group) == 1:
                response.id = merged.id
                responses = [response]
            else:
                responses = split(response, [rows_of(d.request) for d in group], [d.request.id for d in group])
            replies = [_success(response) for response in responses]
        except Exception as exc:
            if len(group) > 1:
                half = len(group) // 2
                await self._answer(group[:half])
                await self._answer(group[half:])
                return
            replies = [_failure(exc)]
        for d, reply in zip(group, replies, strict=True):
            d.reply = reply
        self.stages.predict += predicted - started
        self.stages.encode += time.perf_counter() - predicted


_UNLIMITED_ROWS = 1 << 62
_NOTHING: InferenceRequest = InferenceRequest.build(inputs=[])
# Headers that differ between requests of one client and steer no model.
_INCIDENTAL = frozenset(("content-length", "x-request-id", "traceparent", "tracestate", "Ce-Id", "Ce-Requestid"))


def _steering_headers(request: InferenceRequest) -> tuple[tuple[str, Any], ...]:
    headers = request.parameters.headers if request.parameters is not None else None
    return tuple(sorted((k, v) for k, v in (headers or {}).items() if k not in _INCIDENTAL))


def _checked(response: Any, model: MLModel) -> InferenceResponse:
    if response is None:
        raise InferenceError(f"Model '{model.name}' returned no predictions after inference")
    if not isinstance(response, InferenceResponse):
        raise TypeError(f"predict() must return an InferenceResponse, not {type(response).__name__}")
    return response


def _complete(response: InferenceResponse, keep_headers: bool = False) -> InferenceResponse:
    """`parameters` is always there, and headers are not part of the body."""
    if response.parameters is None:
        response.parameters = Parameters()
    elif not keep_headers:
        response.parameters.headers = None
    return response


def _success(response: InferenceResponse) -> Reply:
    headers = response.parameters.headers if response.parameters is not None else None
    return Reply(200, wire.encode_response(_complete(response)), response.id, headers)


def _failure(exc: BaseException) -> Reply:
    return Reply(*describe(exc))


def describe(exc: BaseException) -> tuple[int, bytes]:
    """Status and body for an error. What is nobody's business outside is logged here and not told."""
    if isinstance(exc, InvalidRequest):
        return exc.status_code, wire.encode_error(str(exc), exc.details)
    if isinstance(exc, MLServerError):
        return exc.status_code, wire.encode_error(str(exc))
    if isinstance(exc, asyncio.CancelledError):
        return 499, wire.encode_error("the request was cancelled")
    logger.error("the model failed to answer a request", exc_info=exc)
    return 500, wire.encode_error("Internal Server Error")
