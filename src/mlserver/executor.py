"""From request bodies to reply bodies: decode -> group -> merge -> predict -> split -> encode.

The executor is where tensors are understood and where user code is called. It is the same wherever it runs:
it takes the calls of one model as the bytes that arrived and gives the bytes that go out, and knows nothing
of sockets, queues or threads.

A call that fails, fails alone. A merged group that fails is run again in halves, so that the error finds
the call it belongs to.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlserver.batching.merge import Padding, fits, merge, merge_values, rows_of
from mlserver.cloudevents import CLOUDEVENTS_HEADER_TYPE, CLOUDEVENTS_HEADERS, CloudEventsTypes
from mlserver.context import model_context, request_id_var
from mlserver.errors import InferenceError, InvalidRequest, MLServerError
from mlserver.logging import logger
from mlserver.model import MLModel, promises
from mlserver.types import InferenceRequest, InferenceResponse, Parameters
from mlserver.types.base import set_field
from mlserver.utils import generate_uuid
from mlserver.wire.formats import Body, Format, Payload, WireName, wire_of
from mlserver.wire.forms import Form

__all__ = ["Call", "Executor", "Fault", "Reply", "Stages", "describe", "failure", "retry_headers"]


@dataclass(slots=True)
class Call:
    """One inference request as it arrived: a body, the transport's headers (lower-case names), and what
    format the body has.
    """

    body: Body
    headers: dict[str, Any]
    wire: WireName = "json"


@dataclass(slots=True)
class Reply:
    """What goes back: an HTTP-style status, a body in the format of the call, headers such as the model set,
    and for a success the request's id.
    """

    status: int
    body: Payload
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

    def totals(self) -> tuple[int, int, float, float, float]:
        return self.batches, self.calls, self.decode, self.predict, self.encode

    def add(self, other: Stages) -> None:
        self.batches += other.batches
        self.calls += other.calls
        self.decode += other.decode
        self.predict += other.predict
        self.encode += other.encode


class _Work:
    """A call on its way through the executor: understood as a whole, or as a known form and its values."""

    __slots__ = ("_request", "call", "form", "format", "id", "reply", "rows", "values")

    _request: InferenceRequest
    form: Form | None
    format: Format
    id: str
    reply: Reply
    values: Any

    def __init__(self, call: Call) -> None:
        self.call = call
        self.rows = 1
        self.form = None

    @property
    def request(self) -> InferenceRequest:
        """Raises InvalidRequest."""
        if self.form is not None:
            self.decode()
        return self._request

    def decode(self) -> None:
        """Understand it as a whole. Raises InvalidRequest."""
        self._request, self.format = wire_of(self.call.wire).decode(self.call.body)
        self.form = None


class Executor:
    """Runs the calls of one loaded model.

    merges: whether calls that fit together may be answered by one `predict`.
    request_events: CloudEvents headers that every request shows to the model.
    """

    def __init__(self, model: MLModel, request_events: dict[str, str]) -> None:
        settings = model.settings
        self.model = model
        self.stages = Stages()
        limited = settings.max_batch_size > 1
        asked_for = limited and (settings.max_batch_time > 0 or settings.latency_target_ms is not None)
        self.merges = promises(model, "rows_independent") or asked_for
        self.max_rows = settings.max_batch_size if limited else _MOST_ROWS
        # Rows that are independent do not care who asked; any other code may read the headers.
        self._merge_across_headers = promises(model, "rows_independent")
        self._events = request_events
        self._response_events = {**request_events, CLOUDEVENTS_HEADER_TYPE: CloudEventsTypes.Response.value}

    async def run(self, calls: Sequence[Call]) -> list[Reply]:
        """One reply for each call, in order. Never raises for what a caller or the model did wrong."""
        started = time.perf_counter()
        works = [_Work(call) for call in calls]
        if self.merges and len(works) > 1:
            known = not self.model.padding  # a form has one shape
            groups = self._group(
                [work for work in works if (known and self._recognise(work)) or self._decode(work)]
            )
        else:
            groups = [[work] for work in works if self._decode(work)]
        self.stages.decode += time.perf_counter() - started
        with model_context(self.model.settings):
            for group in groups:
                await self._answer(group)
        self.stages.batches += len(groups)
        self.stages.calls += len(calls)
        return [work.reply for work in works]

    async def stream(self, calls: AsyncIterator[Call]) -> AsyncIterator[Reply]:
        """The model's responses to a stream of requests, in the format of the first, whose id all have.

        Raises what decoding or the model raises.
        """
        first = await anext(calls, None)
        if first is None:
            raise InvalidRequest("a stream has at least one request", status_code=400)
        request, format = wire_of(first.wire).decode(first.body)
        request_id = generate_uuid() if request.id is None else request.id

        def shown(request: InferenceRequest, call: Call) -> InferenceRequest:
            set_field(request, "id", request_id)
            self._show_headers(request, {**call.headers, **self._events}, request_id)
            return request

        async def requests() -> AsyncIterator[InferenceRequest]:
            yield shown(request, first)
            async for call in calls:
                yield shown(wire_of(call.wire).decode(call.body)[0], call)

        request_id_var.set(request_id)
        with model_context(self.model.settings):
            items = self.model.predict_stream(requests())
            try:
                async for item in items:
                    response = _checked(item, self.model)
                    response.id = request_id
                    headers = response.parameters.headers if response.parameters is not None else None
                    if first.wire == "json":
                        # There is no other place for headers: those of HTTP have long been sent.
                        self._show_headers(response, {**(headers or {}), **self._response_events}, request_id)
                    yield Reply(200, format.encode(response), request_id, headers)
            finally:
                # Whoever closes this stream waits for what the model has in its own `finally`.
                if isinstance(items, AsyncGenerator):
                    await items.aclose()

    # decode

    def _decode(self, work: _Work) -> bool:
        """Whether there is a request to answer; where not, the reply says why."""
        try:
            work.decode()
        except Exception as exc:
            work.reply = failure(work.call, exc)
            return False
        given = work.request.id
        work.id = generate_uuid() if given is None else given
        return True

    def _recognise(self, work: _Work) -> bool:
        """Whether the request has a form that is known."""
        call = work.call
        known = wire_of(call.wire).recognise(call.body)
        if known is None:
            return False
        work.form, work.values, given, work.format = known
        work.id = generate_uuid() if given is None else given
        return True

    def _show_headers(
        self, message: InferenceRequest | InferenceResponse, headers: dict[str, Any], request_id: str | None
    ) -> None:
        """The transport's headers, and those of CloudEvents, in place of any that the message brought."""
        if request_id:
            headers["Ce-Id"] = headers["Ce-Requestid"] = request_id
        if message.parameters is None:
            set_field(message, "parameters", Parameters(headers=headers))
        else:
            message.parameters.headers = headers

    # group and merge

    def _group(self, works: Sequence[_Work]) -> list[list[_Work]]:
        groups: list[list[_Work]] = []
        filling: dict[tuple[Any, ...], list[_Work]] = {}
        filled: dict[tuple[Any, ...], int] = {}
        for work in works:
            key = self._key_of(work)
            if key is None:
                groups.append([work])
                continue
            key = (work.format, *key)
            if not self._merge_across_headers:
                key = (*key, _steering_headers(work.call))
            group = filling.get(key)
            rows = filled.get(key, 0) + work.rows
            if group is None or rows > self.max_rows:
                group = filling[key] = []
                groups.append(group)
                rows = work.rows
            group.append(work)
            filled[key] = rows
        return groups

    def _key_of(self, work: _Work) -> tuple[Any, ...] | None:
        """What `fits` says of a request. Notes how many rows it has."""
        if work.form is not None:
            work.rows = work.form.rows
            return work.form.key
        key = fits(work.request, self.model.padding)
        if key is not None:
            work.rows = rows_of(work.request)
            wire_of(work.call.wire).learn(work.call.body, work.request, key)
        return key

    # predict, split and encode

    async def _answer(self, group: Sequence[_Work]) -> None:
        started = predicted = time.perf_counter()
        fault: BaseException | None = None
        try:
            last = group[-1]
            if len(group) == 1:
                request = last.request
                set_field(request, "id", last.id)
                request_id_var.set(last.id)
                self._show_headers(request, {**last.call.headers, **self._events}, last.id)
            else:
                request_id_var.set("")  # of nobody alone, least of all of the group before
                request = _merge(group, self.model.padding)
                self._show_headers(request, {**last.call.headers, **self._events}, None)
            response = _checked(await self.model.predict(request), self.model)
            predicted = time.perf_counter()
            self._encode(group, response)
        except (Exception, SystemExit, KeyboardInterrupt) as exc:
            fault = exc
        if fault is not None and len(group) == 1:
            group[0].reply = failure(group[0].call, fault)
        elif fault is not None:
            half = len(group) // 2
            await self._answer(group[:half])
            await self._answer(group[half:])
            return
        self.stages.predict += predicted - started
        self.stages.encode += time.perf_counter() - predicted

    def _encode(self, group: Sequence[_Work], response: InferenceResponse) -> None:
        headers = _take_headers(response)
        ids = [work.id for work in group]
        format = group[0].format
        bodies: Sequence[Payload]
        if len(group) == 1:
            set_field(response, "id", ids[0])
            bodies = [format.encode(response)]
        else:
            bodies = format.encode_split(response, [work.rows for work in group], ids)
        for work, body in zip(group, bodies, strict=True):
            work.reply = Reply(200, body, work.id, headers)


def _merge(group: Sequence[_Work], padding: Padding) -> InferenceRequest:
    form = group[0].form
    if form is None or any(work.form is None for work in group):
        return merge([work.request for work in group], padding)
    data = form.join([work.values for work in group])
    return merge_values(form.request, sum(work.rows for work in group), data)


_EVENTS = frozenset(name.lower() for name in CLOUDEVENTS_HEADERS)
# Beyond this many rows company saves nothing, and the first would wait for the last.
_MOST_ROWS = 1024
# Headers that differ between requests of one client and steer no model.
_INCIDENTAL = frozenset(("content-length", "x-request-id", "traceparent", "tracestate"))


def _steering_headers(call: Call) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(item for item in call.headers.items() if item[0] not in _INCIDENTAL))


def _checked(response: Any, model: MLModel) -> InferenceResponse:
    if response is None:
        raise InferenceError(f"Model '{model.name}' returned no predictions after inference")
    if not isinstance(response, InferenceResponse):
        raise TypeError(f"predict() must return an InferenceResponse, not {type(response).__name__}")
    return response


def _take_headers(response: InferenceResponse) -> dict[str, Any] | None:
    """The headers that the model set: they are no part of the body, where `parameters` always is."""
    parameters = response.parameters
    if parameters is None:
        set_field(response, "parameters", Parameters())
        return None
    headers, parameters.headers = parameters.headers, None
    if headers:
        # A model may hand back the headers that it was shown; these are for the server to set.
        headers = {key: value for key, value in headers.items() if str(key).lower() not in _EVENTS}
    return headers


def failure(call: Call, exc: BaseException) -> Reply:
    """The reply to a call that failed."""
    status, text, details = describe(exc)
    return Reply(status, wire_of(call.wire).encode_error(text, details), headers=retry_headers(exc))


def retry_headers(exc: BaseException) -> dict[str, Any] | None:
    """The header that says when it is worth while to try again, where it is."""
    seconds = exc.retry_after if isinstance(exc, MLServerError) else None
    return None if seconds is None else {"retry-after": str(max(1, math.ceil(seconds)))}


class Fault(NamedTuple):
    """What a caller is told of an error: an HTTP-style status, a text, and where in its request it is."""

    status: int
    text: str
    details: list[dict[str, Any]] | None = None


def describe(exc: BaseException) -> Fault:
    """What to tell of an error. What is nobody's business outside is logged here and not told."""
    if isinstance(exc, InvalidRequest):
        return Fault(exc.status_code, _sendable(exc), exc.details)
    if isinstance(exc, MLServerError):
        status: Any = exc.status_code  # user code may put anything there
        final = isinstance(status, int) and 200 <= status <= 599
        return Fault(status if final else 500, _sendable(exc))
    if isinstance(exc, asyncio.CancelledError):
        return Fault(499, "the request was cancelled")
    logger.error("the model failed to answer a request", exc_info=exc)
    return Fault(500, "Internal Server Error")


def _sendable(exc: Exception) -> str:
    """The text of an error, without what UTF-8 cannot hold, such as file names that are no text."""
    return str(exc).encode(errors="replace").decode()
