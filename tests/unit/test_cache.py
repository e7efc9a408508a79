"""What the response cache takes for equal, keeps, throws away, and shares."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from mlserver.cache import ResponseCache, fingerprint
from mlserver.executor import Call, Reply
from mlserver.types import InferenceRequest, RequestInput
from mlserver.wire.protobuf import decode_response, encode_request
from tests.strategies import requests as any_request


class Running:
    abandoned = False

    def abandon(self) -> None:
        self.abandoned = True


def body(*values: Any, datatype: str = "FP32", **fields: Any) -> bytes:
    tensor = {"name": "x", "shape": [len(values)], "datatype": datatype, "data": list(values)}
    return json.dumps({"inputs": [tensor], **fields}).encode()


def as_protobuf(request: bytes) -> bytes:
    return encode_request(InferenceRequest.model_validate_json(request), "m", None, True)


def reply(*values: Any, datatype: str = "FP32") -> Reply:
    output = {"name": "y", "shape": [len(values)], "datatype": datatype, "data": list(values)}
    answer = {"model_name": "m", "id": "first", "parameters": {}, "outputs": [output]}
    return Reply(200, json.dumps(answer, separators=(",", ":")).encode(), "first", {"x-model": "m"})


def ask(
    cache: ResponseCache, request: bytes, owner: Any = "m", wire: Any = "json"
) -> tuple[Any, Any, list[Reply]]:
    got: list[Reply] = []
    found = cache.ask(owner, Call(request, {}, wire), got.append)
    assert found is not None
    return (*found, got)


def learn(cache: ResponseCache, request: bytes, answer: Reply, owner: Any = "m") -> Reply:
    key, asked, got = ask(cache, request, owner)
    assert cache.find(key, asked) is None and not cache.join(key, asked)
    cache.begin(key, asked, Running())
    cache.landed(key, answer)
    return got[0]


def recall(cache: ResponseCache, request: bytes, owner: Any = "m", wire: Any = "json") -> Reply | None:
    key, asked, _ = ask(cache, request, owner, wire)
    return cache.find(key, asked)


@given(any_request())
def test_equal_requests_are_equal_and_others_are_not(request: InferenceRequest) -> None:
    def changed(change: Callable[[InferenceRequest], None]) -> bytes | None:
        other = InferenceRequest.model_validate(request.model_dump())
        change(other)
        return fingerprint(other)

    known = fingerprint(request)
    assert known is not None
    assert changed(lambda other: None) == known
    assert changed(lambda other: setattr(other, "id", "another")) == known
    assert (
        changed(
            lambda other: other.inputs.append(RequestInput(name="z", shape=[0], datatype="FP32", data=[]))
        )
        != known
    )
    if request.inputs:
        assert changed(lambda other: setattr(other.inputs[0], "name", other.inputs[0].name + "!")) != known
        assert changed(lambda other: setattr(other.inputs[0], "shape", [*other.inputs[0].shape, 1])) != known


@pytest.mark.parametrize("change", [{"values": (1.0, 2.5)}, {"datatype": "FP64"}, {"parameters": {"k": 1}}])
def test_what_makes_a_difference(change: dict[str, Any]) -> None:
    cache = ResponseCache(10, 10_000)
    learn(cache, body(1.0, 2.0), reply(3.0))
    values = change.pop("values", (1.0, 2.0))
    assert recall(cache, body(*values, **change)) is None
    assert recall(cache, body(1.0, 2.0), owner="n") is None
    assert recall(cache, body(1.0, 2.0, id="mine")) is not None


def test_a_hit_has_the_id_of_its_own_request_and_is_else_byte_for_byte_the_answer() -> None:
    cache = ResponseCache(10, 10_000)
    first = learn(cache, body(1.0, 2.0, id="first"), reply(0.1, 2.0))
    hit = recall(cache, body(1, 2, id="second"))
    assert hit is not None and hit.id == "second" and hit.headers == {"x-model": "m"}
    assert bytes(hit.body) == bytes(first.body).replace(b'"first"', b'"second"')  # type: ignore[arg-type]


def test_one_wire_finds_what_the_other_left() -> None:
    cache = ResponseCache(10, 10_000)
    learn(cache, body(1.0, 2.0), reply(0.5, 2.0))
    hit = recall(cache, as_protobuf(body(1.0, 2.0, id="g")), wire="protobuf")
    assert hit is not None
    pieces = hit.body if isinstance(hit.body, list) else [hit.body]
    response = decode_response(b"".join(pieces))
    assert response.id == "g" and np.asarray(response.outputs[0].data).tolist() == [0.5, 2.0]


def test_what_json_could_not_tell_is_not_told_to_grpc() -> None:
    cache = ResponseCache(10, 10_000)
    learn(cache, body(1.0), reply(None))
    assert recall(cache, body(1.0)) is not None
    assert recall(cache, as_protobuf(body(1.0)), wire="protobuf") is None


def test_the_longest_unused_goes_first() -> None:
    cache = ResponseCache(2, 10_000)
    learn(cache, body(1.0), reply(1.0))
    learn(cache, body(2.0), reply(2.0))
    assert recall(cache, body(1.0)) is not None
    learn(cache, body(3.0), reply(3.0))
    assert [recall(cache, body(v)) is not None for v in (1.0, 2.0, 3.0)] == [True, False, True]


def test_bytes_are_bounded_too() -> None:
    size = len(bytes(reply(1.0).body))  # type: ignore[arg-type]
    cache = ResponseCache(100, 3 * size)
    for value in range(10):
        learn(cache, body(float(value)), reply(1.0))
    assert len(cache) == 3 and cache.size == 3 * size
    learn(cache, body(99.0), reply(*range(1000)))  # alone too large
    assert len(cache) == 3


def test_what_is_too_old_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("mlserver.cache.time.monotonic", lambda: now)
    cache = ResponseCache(10, 10_000, lifetime=5.0)
    learn(cache, body(1.0), reply(1.0))
    now = 104.9
    assert recall(cache, body(1.0)) is not None
    now = 105.1
    assert recall(cache, body(1.0)) is None and len(cache) == 0 and cache.size == 0


def test_errors_are_told_and_not_remembered() -> None:
    cache = ResponseCache(10, 10_000)
    got = learn(cache, body(1.0), Reply(422, b'{"error":"no"}'))
    assert got.status == 422
    assert recall(cache, body(1.0)) is None


def test_a_model_that_is_gone_takes_its_answers_along() -> None:
    cache = ResponseCache(10, 10_000)
    learn(cache, body(1.0), reply(1.0), owner="a")
    learn(cache, body(1.0), reply(2.0), owner="b")
    cache.forget("a")
    assert recall(cache, body(1.0), owner="a") is None and recall(cache, body(1.0), owner="b") is not None


def test_equal_requests_under_way_share_one_run() -> None:
    cache = ResponseCache(10, 10_000)
    run = Running()
    key, first, got_first = ask(cache, body(1.0, id="1"))
    assert not cache.join(key, first)
    cache.begin(key, first, run)
    _, second, got_second = ask(cache, body(1.0, id="2"))
    _, third, got_third = ask(cache, body(1.0, id="3"))
    assert cache.join(key, second) and cache.join(key, third)
    cache.leave(key, first)  # the one who started it
    assert not run.abandoned
    cache.landed(key, reply(7.0))
    assert not got_first and [r[0].id for r in (got_second, got_third)] == ["2", "3"]


def test_a_run_that_nobody_wants_any_more_is_broken_off() -> None:
    cache = ResponseCache(10, 10_000)
    run = Running()
    key, first, _ = ask(cache, body(1.0))
    cache.begin(key, first, run)
    _, second, _ = ask(cache, body(1.0))
    cache.join(key, second)
    cache.leave(key, first)
    cache.leave(key, second)
    assert run.abandoned
    assert not cache.join(key, second)


def test_what_cannot_be_understood_is_left_to_the_model() -> None:
    cache = ResponseCache(10, 10_000)
    for bad in (b"{", body(1.0, datatype="FP31"), body("a", datatype="FP32")):
        assert cache.ask("m", Call(bad, {}, "json"), print) is None


def test_an_answer_that_is_no_v2_goes_to_who_asked_for_it_and_is_not_remembered() -> None:
    cache = ResponseCache(10, 10_000)
    key, first, got_first = ask(cache, body(1.0, id="1"))
    cache.begin(key, first, Running())
    _, second, got_second = ask(cache, body(1.0, id="2"))
    assert cache.join(key, second)
    strange = reply(1.0, datatype="WEIRD")
    cache.landed(key, strange)
    assert got_first == [strange] and got_second[0].status == 500
    assert len(cache) == 0 and not cache.join(key, second)


def test_what_is_said_by_a_model_that_is_gone_is_not_remembered() -> None:
    cache = ResponseCache(10, 10_000)
    key, first, got = ask(cache, body(1.0))
    cache.begin(key, first, Running())
    cache.landed(key, reply(1.0), keep=False)
    assert got[0].status == 200 and len(cache) == 0


def test_parameters_of_any_size_are_left_to_the_model() -> None:
    assert ResponseCache(10, 10_000).ask("m", Call(body(1.0, parameters={"k": 2**70}), {}), print) is None
