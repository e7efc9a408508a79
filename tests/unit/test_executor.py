"""What the executor makes of calls: ids, headers, errors, groups."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mlserver import MLModel, ModelSettings
from mlserver.context import model_name_var, model_version_var, request_id_var
from mlserver.errors import MLServerError
from mlserver.executor import Call, Executor, Reply
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput

EVENTS = {"Ce-Type": "request", "Ce-Source": "here"}


def tensor(*values: int, rows: int | None = None, **more: Any) -> dict[str, Any]:
    shape = [len(values) if rows is None else rows]
    return {"name": "x", "shape": shape, "datatype": "INT64", "data": list(values), **more}


def call(*values: int, headers: dict[str, str] | None = None, **more: Any) -> Call:
    body = {"inputs": [tensor(*(values or (1,)))], **more}
    return Call(json.dumps(body).encode(), dict(headers or {}))


class Recorder(MLModel):
    """Echoes its input, and remembers what it was shown."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self.seen: list[InferenceRequest] = []
        self.context: list[tuple[str, str, str]] = []

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        self.seen.append(payload)
        self.context.append((model_name_var.get(), model_version_var.get(), request_id_var.get()))
        values = list(payload.inputs[0].data)
        if 66 in values:
            raise ValueError("secret path /etc")
        return self.answer(values, payload)

    def answer(self, values: list[Any], payload: InferenceRequest) -> Any:
        output = ResponseOutput(name="y", shape=[len(values)], datatype="INT64", data=values)
        return InferenceResponse(model_name=self.name, id="the model's own", outputs=[output])

    @property
    def batches(self) -> list[list[int]]:
        return [list(request.inputs[0].data) for request in self.seen]


class Rowwise(Recorder):
    rows_independent = True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return await super().predict(payload)


class Answers(Recorder):
    """Answers with `result`, whatever it is."""

    result: Any = None

    def answer(self, values: list[Any], payload: InferenceRequest) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


class Headers(Recorder):
    def answer(self, values: list[Any], payload: InferenceRequest) -> Any:
        response = super().answer(values, payload)
        response.parameters = Parameters(headers={"x-own": "1", "Ce-Id": "mine", "ce-source": "mine"}, k=2)
        return response


class Streams(Recorder):
    async def predict_stream(
        self, payloads: AsyncIterator[InferenceRequest]
    ) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            for value in payload.inputs[0].data:
                if value == 66:
                    raise MLServerError("enough", 418)
                yield await self.predict(
                    InferenceRequest(
                        parameters=payload.parameters,
                        inputs=[RequestInput(name="x", shape=[1], datatype="INT64", data=[value])],
                    )
                )


def executor(cls: type[Recorder] = Recorder, **settings: Any) -> tuple[Executor, Any]:
    model = cls(ModelSettings(name="m", implementation=cls, **settings))
    return Executor(model, dict(EVENTS)), model


def run(runner: Executor, *calls: Call) -> list[Reply]:
    return asyncio.run(runner.run(calls))


def body(reply: Reply) -> Any:
    return json.loads(reply.body)


# Ids


def test_an_id_is_echoed_and_made_where_there_is_none() -> None:
    runner, model = executor()
    given, none, null, empty = run(runner, call(id="a"), call(), call(id=None), call(id=""))
    assert body(given)["id"] == given.id == "a"
    assert body(none)["id"] == none.id == model.seen[1].id
    assert len({none.id, null.id}) == 2
    assert none.id is not None and len(none.id) == 36
    assert empty.id == "" == body(empty)["id"]  # an empty id is an id


# Headers


def test_the_model_is_shown_headers_and_cloudevents() -> None:
    runner, model = executor()
    headers = {"host": "a"}
    run(runner, call(id="7", headers=headers))
    shown = model.seen[0].parameters.headers
    assert shown == {
        "host": "a",
        "Ce-Type": "request",
        "Ce-Source": "here",
        "Ce-Id": "7",
        "Ce-Requestid": "7",
    }


def test_each_request_has_headers_of_its_own() -> None:
    runner, model = executor()
    one = call(id="1", headers={"host": "a"})
    run(runner, one, Call(call(id="2").body, one.headers))
    model.seen[0].parameters.headers["x"] = "changed"
    assert one.headers == {"host": "a"}
    assert "x" not in model.seen[1].parameters.headers
    assert model.seen[1].parameters.headers["Ce-Id"] == "2"


def test_headers_in_the_body_are_discarded_other_parameters_stay() -> None:
    runner, model = executor()
    run(runner, call(id="1", parameters={"headers": {"authorization": "forged"}, "k": 1}))
    assert "authorization" not in model.seen[0].parameters.headers
    assert model.seen[0].parameters.k == 1


def test_headers_of_the_model_leave_the_body_those_of_cloudevents_are_dropped() -> None:
    (reply,) = run(executor(Headers)[0], call())
    assert reply.headers == {"x-own": "1"}
    assert body(reply)["parameters"] == {"k": 2}


def test_a_response_always_has_parameters() -> None:
    (reply,) = run(executor()[0], call())
    assert (body(reply)["parameters"], reply.headers) == ({}, None)


# Errors


@pytest.mark.parametrize(
    ("result", "status", "text"),
    [
        (None, 400, "Model 'm' returned no predictions after inference"),
        ({"a": "dict"}, 500, "Internal Server Error"),
        (MLServerError("try the other door", 409), 409, "try the other door"),
        (RuntimeError("secret"), 500, "Internal Server Error"),
        (SystemExit(3), 500, "Internal Server Error"),
    ],
)
def test_what_goes_wrong_has_a_status_and_a_text(
    result: Any, status: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    runner, model = executor(Answers)
    model.result = result
    with caplog.at_level(logging.ERROR):
        (reply,) = run(runner, call(id="a"))
    assert (reply.status, body(reply)) == (status, {"error": text})
    assert len(caplog.records) == (status == 500)
    if status == 500:
        assert caplog.records[0].exc_info is not None  # what happened is in the log alone


def test_a_body_that_is_no_request_fails_alone() -> None:
    runner, model = executor(Rowwise)
    good, bad, also_good = run(runner, call(1), Call(b'{"inputs": 3}', {}), call(2))
    assert [reply.status for reply in (good, bad, also_good)] == [200, 422, 200]
    assert body(bad)["detail"][0]["loc"] == ["body", "inputs"]
    assert model.batches == [[1, 2]]


# Groups


def test_rows_that_are_independent_go_together_whoever_asks() -> None:
    runner, model = executor(Rowwise)
    replies = run(runner, call(1, id="a", headers={"user": "1"}), call(2, 3, id="b", headers={"user": "2"}))
    assert model.batches == [[1, 2, 3]]
    assert [(body(r)["id"], body(r)["outputs"][0]["data"]) for r in replies] == [("a", [1]), ("b", [2, 3])]


def test_other_models_are_asked_one_by_one() -> None:
    runner, model = executor()
    run(runner, call(1), call(2))
    assert model.batches == [[1], [2]]


def test_a_model_with_a_batch_size_is_not_merged_across_headers() -> None:
    runner, model = executor(max_batch_size=10, max_batch_time=1.0)
    mine, yours = {"user": "1", "x-request-id": "a"}, {"user": "2"}
    run(
        runner,
        call(1, headers=mine),
        call(2, headers=yours),
        call(3, headers={"user": "1", "x-request-id": "b", "content-length": "9"}),
    )
    assert model.batches == [[1, 3], [2]]


def test_the_batch_size_limits_rows() -> None:
    runner, model = executor(max_batch_size=3, max_batch_time=1.0)
    replies = run(runner, call(1), call(2, 3), call(4), call(5, 6, 7, 8), call(9))
    assert model.batches == [[1, 2, 3], [4], [5, 6, 7, 8], [9]]
    assert [body(reply)["outputs"][0]["data"] for reply in replies] == [[1], [2, 3], [4], [5, 6, 7, 8], [9]]


@pytest.mark.parametrize(
    "other",
    [
        {"parameters": {"threshold": 1}},
        {"outputs": [{"name": "y"}]},
        {"inputs": [tensor(2, datatype="INT32")]},
        {"inputs": [tensor(2, parameters={"own": 1})]},
        {"inputs": [tensor(2, rows=1, shape=[1, 1])]},
    ],
)
def test_what_does_not_fit_goes_alone(other: dict[str, Any]) -> None:
    runner, model = executor(Rowwise)
    replies = run(runner, call(1), call(2, **other), call(3))
    assert sorted(model.batches) == [[1, 3], [2]]
    assert [body(reply)["outputs"][0]["data"] for reply in replies] == [[1], [2], [3]]


def test_a_failing_group_is_halved_until_the_bad_call_is_found(caplog: pytest.LogCaptureFixture) -> None:
    runner, model = executor(Rowwise)
    calls = [call(value, id=str(value)) for value in (1, 2, 66, 4)]
    with caplog.at_level(logging.ERROR):
        replies = run(runner, *calls)
    assert model.batches == [[1, 2, 66, 4], [1, 2], [66, 4], [66], [4]]
    assert [reply.status for reply in replies] == [200, 200, 500, 200]
    assert body(replies[3])["outputs"][0]["data"] == [4]
    assert b"secret" not in replies[2].body
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["secret path /etc"]


def test_replies_come_in_the_order_of_calls() -> None:
    runner, _ = executor(Rowwise)
    lone = {"parameters": {"own": 1}}
    calls = [call(i, id=str(i), **(lone if i % 3 else {})) for i in range(10)]
    assert [reply.id for reply in run(runner, *calls)] == [str(i) for i in range(10)]


# Context and stages


def test_code_of_the_model_knows_model_and_request() -> None:
    runner, model = executor(parameters=ModelParameters(version="v2"))
    run(runner, call(id="a"), call(id="b"))
    assert model.context == [("m", "v2", "a"), ("m", "v2", "b")]


def test_a_merged_call_does_not_go_by_the_id_of_the_one_before() -> None:
    runner, model = executor(Rowwise)
    run(runner, call(1, id="a", parameters={"own": 1}), call(2, id="b"), call(3, id="c"))
    assert sorted(model.context) == [("m", "", ""), ("m", "", "a")]


def test_the_context_ends_with_the_run() -> None:
    async def main() -> None:
        await executor()[0].run([call()])
        assert model_name_var.get(None) is None

    asyncio.run(main())


def test_stages_add_up() -> None:
    runner, _ = executor(Rowwise)
    for expected in ((1, 3), (3, 5)):
        if expected == (1, 3):
            run(runner, call(1), call(2), call(3))
        else:
            run(runner, call(1), call(2, parameters={"own": 1}))
        assert (runner.stages.batches, runner.stages.calls) == expected
        assert min(runner.stages.decode, runner.stages.predict, runner.stages.encode) > 0
    decoded = runner.stages.decode
    run(runner, call(1))
    assert runner.stages.decode > decoded


# Streams


async def calls(*items: Call) -> AsyncIterator[Call]:
    for item in items:
        yield item


def stream(runner: Executor, one: Call) -> list[Any]:
    async def collect() -> list[Any]:
        return [json.loads(item.body) async for item in runner.stream(calls(one))]

    return asyncio.run(collect())


def test_a_stream_answers_with_the_id_headers_and_context_of_its_request() -> None:
    runner, model = executor(Streams)
    items = stream(runner, call(1, 2, id="s", headers={"host": "a"}))
    assert [(item["id"], item["outputs"][0]["data"]) for item in items] == [("s", [1]), ("s", [2])]
    assert items[0]["parameters"]["headers"] == {
        "Ce-Id": "s",
        "Ce-Requestid": "s",
        "Ce-Source": "here",
        "Ce-Type": "io.seldon.serving.inference.response",
    }
    assert model.seen[0].parameters.headers["host"] == "a"
    assert model.context == [("m", "", "s")] * 2


def test_a_stream_makes_one_id_and_falls_back_to_predict() -> None:
    runner, model = executor()
    (item,) = stream(runner, call(1, 2))
    assert item["outputs"][0]["data"] == [1, 2]
    assert len(item["id"]) == 36
    assert item["id"] == model.seen[0].id


def test_a_stream_raises_what_the_model_raises_after_what_it_gave() -> None:
    runner, _ = executor(Streams)

    async def main() -> None:
        items = runner.stream(calls(call(1, 66)))
        assert json.loads((await anext(items)).body)["outputs"][0]["data"] == [1]
        with pytest.raises(MLServerError, match="enough"):
            await anext(items)

    asyncio.run(main())
