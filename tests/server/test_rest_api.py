"""The REST API, route by route, as its clients see it."""

from __future__ import annotations

import gzip
import json
import re
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.running import InThread, Served, serving, wait_for, write_model
from tests.server.models import body, events, gates, tensor

MODELS = "tests.server.models"
UNARY = ["infer", "generate"]
STREAMING = ["infer_stream", "generate_stream"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    metadata = [{"name": "x", "datatype": "FP32", "shape": [-1, 4], "parameters": {"content_type": "np"}}]
    write_model(folder, "echo", f"{MODELS}.Echo", inputs=metadata, platform="none", versions=["a/1"])
    for version in ("3", "10"):
        write_model(folder, "many", f"{MODELS}.Echo", home=f"many/{version}", parameters={"version": version})
    write_model(folder, "typed", f"{MODELS}.Echo", parameters={"content_type": "np", "secret": 1})
    for name in (
        "Told",
        "Numpy",
        "Constant",
        "SetsHeaders",
        "EchoesParameters",
        "Fails",
        "Unfinished",
        "Streams",
    ):
        write_model(folder, name.lower(), f"{MODELS}.{name}")
    write_model(folder, "forever", f"{MODELS}.StreamsForever")
    write_model(folder, "a b é", f"{MODELS}.Told", home="spaces")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[InThread]:
    with serving(folder, server_name="tests", extensions=["one"]) as server:
        yield server


def told(answer: requests.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = json.loads(answer.json()["outputs"][0]["data"][0])
    return result


def is_error(answer: requests.Response, status: int, text: str | None = None) -> bool:
    """Whether this is an error in the one shape that errors have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert isinstance(error, str) and error
    if text is not None:
        assert error == text
    return True


# Health and metadata


@pytest.mark.parametrize(("path", "key"), [("live", "live"), ("ready", "ready")])
def test_health(server: Served, path: str, key: str) -> None:
    answer = server.get(f"/v2/health/{path}")
    assert (answer.status_code, answer.json()) == (200, {key: True})
    assert answer.headers["content-type"] == "application/json"


def test_server_metadata(server: Served) -> None:
    answer = server.get("/v2")
    assert answer.status_code == 200
    assert answer.json() == {"name": "tests", "version": answer.json()["version"], "extensions": ["one"]}


def test_models(server: Served) -> None:
    answer = server.get("/v2/models")
    assert answer.status_code == 200
    assert {"echo", "many", "told"} <= set(answer.json()["models"])


def test_model_metadata(server: Served) -> None:
    answer = server.get("/v2/models/echo")
    assert answer.status_code == 200
    assert answer.json() == {
        "name": "echo",
        "versions": ["a/1"],
        "platform": "none",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4], "parameters": {"content_type": "np"}}],
        "outputs": [],
        "parameters": {},
    }


def test_model_metadata_tells_nothing_but_the_content_type(server: Served) -> None:
    assert server.get("/v2/models/typed").json()["parameters"] == {"content_type": "np"}


def test_model_metadata_of_a_version(server: Served) -> None:
    assert server.get("/v2/models/many/versions/3").json() == server.get("/v2/models/many").json()


@pytest.mark.parametrize("path", ["echo", "many", "many/versions/3", "a%20b%20%C3%A9"])
def test_model_ready(server: Served, path: str) -> None:
    answer = server.get(f"/v2/models/{path}/ready")
    assert answer.status_code == 200 and answer.json()["ready"] is True


@pytest.mark.parametrize("path", ["", "/ready", "/infer", "/infer_stream", "/generate", "/generate_stream"])
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("nobody", "Model nobody not found"),
        ("echo/versions/9", "Model echo with version 9 not found"),
        ("many/versions/03", "Model many with version 03 not found"),
    ],
)
def test_an_unknown_model(server: Served, path: str, model: str, text: str) -> None:
    ask = server.get if path in ("", "/ready") else lambda where: server.post(where, body())
    assert is_error(ask(f"/v2/models/{model}{path}"), 404, text)


# Inference


@pytest.mark.parametrize("action", UNARY)
def test_infer(server: Served, action: str) -> None:
    answer = server.post(f"/v2/models/echo/{action}", body(id="a"))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.text == (
        '{"model_name":"echo","id":"a","parameters":{},'
        '"outputs":[{"name":"x","shape":[1],"datatype":"INT64","data":[1]}]}'
    )


@pytest.mark.parametrize("action", UNARY + STREAMING)
def test_binary_tensors_are_refused(server: Served, action: str) -> None:
    text = b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT64","parameters":{"binary_data_size":8}}]}'
    headers = {"Inference-Header-Content-Length": str(len(text))}
    answer = server.post(f"/v2/models/echo/{action}", data=text + bytes(8), headers=headers)
    assert is_error(
        answer,
        415,
        "binary tensors over HTTP (`Inference-Header-Content-Length`) are not supported: send the tensors "
        "as JSON, with `binary_data=False` in clients of Triton, or use gRPC",
    )
    plain = json.dumps(body(id="a")).encode()
    headers = {"Inference-Header-Content-Length": str(len(plain))}
    assert server.post(f"/v2/models/echo/{action}", data=plain, headers=headers).status_code == 200


@pytest.mark.parametrize("action", UNARY)
def test_infer_by_version(server: Served, action: str) -> None:
    for path, version in (("many", "10"), ("many/versions/3", "3"), ("many/versions/10", "10")):
        answer = server.post(f"/v2/models/{path}/{action}", body())
        assert answer.status_code == 200
        assert list(answer.json()) == ["model_name", "model_version", "id", "parameters", "outputs"]
        assert answer.json()["model_version"] == version


@pytest.mark.parametrize("given", [{}, {"id": None}])
def test_a_missing_id_is_made(server: Served, given: dict[str, Any]) -> None:
    answer = server.infer("told", body(**given))
    made = answer.json()["id"]
    assert uuid.UUID(made).version == 4
    assert told(answer)["id"] == made
    assert answer.headers["ce-id"] == answer.headers["ce-requestid"] == made


def test_an_empty_id_stays(server: Served) -> None:
    answer = server.infer("told", body(id=""))
    assert answer.json()["id"] == ""
    assert "ce-id" not in answer.headers and "Ce-Id" not in told(answer)["headers"]


def test_names_are_decoded(server: Served) -> None:
    answer = server.infer("a%20b%20%C3%A9", body())
    assert answer.json()["model_name"] == "a b é"


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/json"]
)
def test_json_is_json_whatever_its_content_type(server: Served, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    answer = requests.post(
        f"{server.url}/v2/models/echo/infer", data=json.dumps(body()), headers=headers, timeout=10
    )
    assert answer.status_code == 200


def test_unknown_keys_are_passed_over(server: Served) -> None:
    # As clients of neighbouring servers send them.
    assert server.infer("echo", body(model_name="other", raw=[1])).status_code == 200


def test_gzip_bodies(server: Served) -> None:
    data = gzip.compress(json.dumps(body()).encode())
    url = f"{server.url}/v2/models/echo/infer"
    answer = requests.post(url, data=data, headers={"content-encoding": "gzip"}, timeout=10)
    assert answer.status_code == 200


@pytest.mark.parametrize("action", [*UNARY, *STREAMING])
@pytest.mark.parametrize(
    ("text", "kind", "loc"),
    [
        ("", "missing", ["body"]),
        ("null", "missing", ["body"]),
        ("{", "json_invalid", None),
        ('{"inputs": [NaN]}', "json_invalid", None),
        ('{"inputs": 1}', "list_type", ["body", "inputs"]),
        (
            '{"inputs": [], "parameters": {"content_type": 1}}',
            "string_type",
            ["body", "parameters", "content_type"],
        ),
    ],
)
def test_a_body_that_is_no_request(
    server: Served, action: str, text: str, kind: str, loc: list[Any] | None
) -> None:
    answer = server.post(f"/v2/models/echo/{action}", data=text)
    assert is_error(answer, 422)
    (detail,) = answer.json()["detail"]
    assert detail["type"] == kind
    assert loc is None or detail["loc"] == loc
    assert {"type", "loc", "msg", "input"} <= detail.keys()


def test_a_bad_datatype_names_the_good_ones(server: Served) -> None:
    answer = server.infer("echo", body(tensor("x", "fp32", [1])))
    assert is_error(answer, 422)
    assert all(name in answer.json()["detail"][0]["msg"] for name in ("BOOL", "UINT8", "FP64", "BYTES"))


# Errors of models


@pytest.mark.parametrize(
    ("how", "status", "text"),
    [
        ("mlserver", 418, "on purpose"),
        ("other", 500, "Internal Server Error"),
        ("nothing", 400, "Model 'fails' returned no predictions after inference"),
        ("rubbish", 500, "Internal Server Error"),
        ("exit", 500, "Internal Server Error"),
        ("cancelled", 500, "Internal Server Error"),
    ],
)
def test_an_error_of_a_model(server: Served, how: str, status: int, text: str) -> None:
    for _ in range(2):
        assert is_error(server.infer("fails", body(parameters={"how": how})), status, text)


def test_a_model_without_predict(server: Served) -> None:
    assert is_error(server.infer("unfinished", body()), 500)


# Values


def test_values_are_echoed_with_their_json_types(server: Served) -> None:
    inputs = [
        tensor("ints", "FP32", [1, 2]),
        tensor("floats", "FP32", [1.0, 0.1, 1e300]),
        tensor("bools", "BOOL", [1, 0]),
        tensor("nulls", "FP64", [None, 1]),
        tensor("texts", "BYTES", ["é", "\u0000", ""]),
        tensor("one", "BYTES", "abc", [1]),
        tensor("scalar", "INT64", 7, [1]),
        tensor("nested", "INT64", [[1], [2]], [2, 1]),
        tensor("object", "BYTES", {"a": [None]}, [1]),
        tensor("null", "BYTES", None, [1]),
        tensor("large", "UINT64", [2**63, 2**64 - 1, -(2**63)]),
    ]
    answer = server.infer("echo", body(*inputs))
    assert answer.status_code == 200
    for given, got in zip(inputs, answer.json()["outputs"], strict=True):
        assert json.dumps(got.get("data")) == json.dumps(given["data"]), given["name"]


def test_large_values_are_echoed_as_small_ones_are(server: Served) -> None:
    inputs = [
        tensor("ints", "FP32", [1, 2.5, 3] * 5000),
        tensor("wide", "INT64", [2**53 + 1] * 5000),
        tensor("nested", "FP64", [[0.1, 1]] * 5000, [5000, 2]),
    ]
    answer = server.infer("echo", body(*inputs))
    for given, got in zip(inputs, answer.json()["outputs"], strict=True):
        assert json.dumps(got["data"]) == json.dumps(given["data"]), given["name"]


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ("nan", [None, 1.5]),
        ("infinite", [None, None, 2.0]),
        ("plain nan", [None, None, 1]),
        ("fp32", [0.10000000149011612]),
        ("fp16", [0.0999755859375]),
        ("bytes", ["é", "a"]),
        ("one string", "abc"),
        ("array as data", [1, 2]),
        ("bool", [True, False]),
        ("large", [2**63, -(2**63), 2**64 - 1]),
        ("object", [{"a": None}]),
    ],
)
def test_values_of_models(server: Served, value: str, data: Any) -> None:
    answer = server.infer("constant", body(parameters={"value": value}))
    assert answer.status_code == 200, answer.text
    assert json.dumps(answer.json()["outputs"][0]["data"]) == json.dumps(data)


@pytest.mark.parametrize("value", ["not utf-8", "unknown"])
def test_values_that_json_cannot_hold(server: Served, value: str) -> None:
    answer = server.infer("constant", body(parameters={"value": value}))
    assert answer.status_code in (400, 500)
    assert is_error(answer, answer.status_code)


@pytest.mark.parametrize("n", [3, 9000])
@pytest.mark.parametrize(
    ("datatype", "value", "result"),
    [
        ("FP32", 0.1, 0.10000000149011612),
        ("FP64", 1, 1.0),
        ("FP64", None, None),
        ("FP16", None, None),
        ("INT8", -128, -128),
        ("UINT64", 2**64 - 1, 2**64 - 1),
        ("INT64", -(2**63), -(2**63)),
        ("BOOL", 1, True),
        ("BOOL", False, False),
        ("FP32", "1.5", 1.5),
        ("BYTES", "é", "é"),
    ],
)
def test_values_through_numpy(server: Served, n: int, datatype: str, value: Any, result: Any) -> None:
    answer = server.infer("numpy", body(tensor("x", datatype, [value] * n)))
    assert answer.status_code == 200, answer.text
    (got,) = answer.json()["outputs"]
    assert (got["datatype"], got["shape"]) == (datatype, [n, 1])
    assert json.dumps(got["data"]) == json.dumps([result] * n)


@pytest.mark.parametrize("n", [3, 9000])
@pytest.mark.parametrize(
    ("datatype", "value"), [("INT64", None), ("UINT8", 300), ("UINT8", -1), ("INT32", "x"), ("UINT64", 2**64)]
)
def test_values_that_do_not_fit_are_the_clients_fault(
    server: Served, n: int, datatype: str, value: Any
) -> None:
    assert is_error(server.infer("numpy", body(tensor("x", datatype, [value] * n))), 400)


@pytest.mark.parametrize("n", [3, 9000])
def test_a_shape_that_does_not_fit_is_the_clients_fault(server: Served, n: int) -> None:
    assert is_error(server.infer("numpy", body(tensor("x", "FP32", [1.0] * n, [n + 1]))), 400)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e", "01"])
@pytest.mark.parametrize("n", [1, 9000])
def test_what_is_no_json_number_is_refused(server: Served, literal: str, n: int) -> None:
    data = ",".join(["1"] * n + [literal])
    text = f'{{"inputs":[{{"name":"x","shape":[{n + 1}],"datatype":"FP32","data":[{data}]}}]}}'
    for model in ("echo", "numpy"):
        assert is_error(server.post(f"/v2/models/{model}/infer", data=text), 422)


def test_flat_and_nested_are_the_same_to_numpy(server: Served) -> None:
    flat = server.infer("numpy", body(tensor("x", "FP32", [1, 2, 3, 4], [2, 2]), id="a"))
    nested = server.infer("numpy", body(tensor("x", "FP32", [[1, 2], [3, 4]], [2, 2]), id="a"))
    assert flat.text == nested.text
    assert flat.json()["outputs"][0]["data"] == [1.0, 2.0, 3.0, 4.0]


# Headers


def test_the_model_sees_the_requests_headers(server: Served) -> None:
    headers = {"X-Own": "Value", "ce-id": "theirs", "x-request-id": "r"}
    answer = server.infer("told", body(id="a", parameters={"x": 1}), headers=headers)
    seen = told(answer)
    assert seen["headers"]["x-own"] == "Value"
    assert seen["headers"]["ce-id"] == "theirs" and seen["headers"]["Ce-Id"] == "a"
    assert seen["parameters"] == {"x": 1}
    assert answer.headers["ce-id"] == "a"
    assert "x-request-id" not in answer.headers and "x-own" not in answer.headers


def test_headers_in_the_body_are_not_believed(server: Served) -> None:
    seen = told(server.infer("told", body(parameters={"headers": {"x-own": "forged"}})))
    assert "x-own" not in seen["headers"]


def test_the_first_of_repeated_headers_counts(server: Served) -> None:
    text = json.dumps(body()).encode()
    with server.connect() as connection:
        connection.sendall(
            b"POST /v2/models/told/infer HTTP/1.1\r\nhost: x\r\nX-Own: first\r\nx-own: second\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text)
        )
        raw = read_all(connection)
    assert b"first" in raw and b"second" not in raw


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("action", UNARY)
def test_cloudevents(server: Served, action: str) -> None:
    answer = server.post(f"/v2/models/told/{action}", body(id="a"))
    shared = {
        "Ce-Specversion": "0.3",
        "Ce-Source": "io.seldon.serving.deployment.tests",
        "Ce-Modelid": "told",
        "Ce-Endpoint": "told",
        "Ce-Inferenceservicename": "tests",
        "Ce-Id": "a",
        "Ce-Requestid": "a",
    }
    request = {**shared, "Ce-Type": "io.seldon.serving.inference.request"}
    reply = {**shared, "Ce-Type": "io.seldon.serving.inference.response"}
    assert {key: value for key, value in told(answer)["headers"].items() if key[:3] == "Ce-"} == request
    assert {key: answer.headers.get(key) for key in reply} == reply


def test_cloudevents_go_with_successes_only(server: Served) -> None:
    for answer in (server.infer("nobody", body()), server.infer("fails", body(parameters={"how": "other"}))):
        assert not [key for key in answer.headers if key.lower().startswith("ce-")]


def test_headers_that_a_model_sets(server: Served) -> None:
    answer = server.infer("setsheaders", body(parameters={"set": {"X-Own": "1", "x-number": 2}}))
    assert answer.headers["x-own"] == "1" and answer.headers["x-number"] == "2"
    assert answer.json()["parameters"] == {"note": "kept"}
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("name", ["content-length", "transfer-encoding", "connection", "content-type"])
def test_a_model_cannot_break_the_framing(server: Served, name: str) -> None:
    answer = server.infer("setsheaders", body(parameters={"set": {name: "7"}}))
    assert answer.status_code == 200 and answer.json()["parameters"] == {"note": "kept"}


@pytest.mark.parametrize("headers", [{"x": "a\r\nb: c"}, {"x y": "1"}, {"": "1"}, {"x": "\u20ac"}])
def test_a_model_cannot_smuggle_headers(server: Served, headers: dict[str, str]) -> None:
    answer = server.infer("setsheaders", body(parameters={"set": headers}))
    assert is_error(answer, 500) and "b" not in answer.headers


def test_a_model_that_hands_the_requests_headers_back(server: Served) -> None:
    with server.connect() as connection:
        text = json.dumps(body(id="a")).encode()
        connection.sendall(
            b"POST /v2/models/echoesparameters/infer HTTP/1.1\r\nhost: x\r\nx-own: 1\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(text), text)
        )
        head = read_all(connection).partition(b"\r\n\r\n")[0].decode().lower()
    names = [line.partition(":")[0] for line in head.splitlines()[1:]]
    assert len(names) == len(set(names)), names
    assert "x-own: 1" in head
    assert "ce-type: io.seldon.serving.inference.response" in head


# Streams


def sse(answer: requests.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines(chunk_size=1):
        if line:
            assert line.startswith(b"data: ")
            yield json.loads(line[6:])


@pytest.mark.parametrize("action", STREAMING)
@pytest.mark.parametrize("model", ["streams", "streams/"])
def test_stream(server: Served, action: str, model: str) -> None:
    if model.endswith("/"):
        model = "many/versions/10"  # no stream of its own: one event
    headers = {"accept-encoding": "gzip"}
    answer = server.post(
        f"/v2/models/{model}/{action}", body(parameters={"count": 3}, id="a"), headers=headers
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "content-encoding" not in answer.headers and "ce-id" not in answer.headers
    events = answer.text.split("\n\n")
    assert events.pop() == ""
    replies = [json.loads(event.removeprefix("data: ")) for event in events]
    assert [reply["id"] for reply in replies] == ["a"] * len(replies)
    expected = [[1]] if "many" in model else [["0"], ["1"], ["2"]]
    assert [reply["outputs"][0]["data"] for reply in replies] == expected
    assert {reply["parameters"]["headers"]["Ce-Id"] for reply in replies} == {"a"}


def test_a_stream_makes_one_id_for_all_events(server: Served) -> None:
    with server.post("/v2/models/streams/infer_stream", body(parameters={"count": 3}), stream=True) as answer:
        ids = [event["id"] for event in sse(answer)]
    assert len(ids) == 3 and len(set(ids)) == 1 and uuid.UUID(ids[0])


def test_an_empty_stream(server: Served) -> None:
    answer = server.post("/v2/models/streams/infer_stream", body(parameters={"count": 0}))
    assert (answer.status_code, answer.text) == (200, "")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


@pytest.mark.parametrize(
    ("how", "status", "text"), [("mlserver", 418, "on purpose"), ("other", 500, "Internal Server Error")]
)
def test_an_error_before_the_first_event_has_its_status(
    server: Served, how: str, status: int, text: str
) -> None:
    parameters = {"count": 3, "fail_at": 0, "how": how}
    answer = server.post("/v2/models/streams/infer_stream", body(parameters=parameters))
    assert is_error(answer, status, text)


@pytest.mark.parametrize("action", STREAMING)
def test_a_stream_without_predictions(server: Served, action: str) -> None:
    answer = server.post(f"/v2/models/fails/{action}", body(parameters={"how": "nothing"}))
    assert is_error(answer, 400, "Model 'fails' returned no predictions after inference")


@pytest.mark.parametrize("how", ["exit", "cancelled"])
def test_a_stream_that_ends_oddly(server: Served, how: str) -> None:
    assert is_error(server.post("/v2/models/fails/infer_stream", body(parameters={"how": how})), 500)


@pytest.mark.parametrize(("how", "text"), [("mlserver", "on purpose"), ("other", "Internal Server Error")])
def test_an_error_in_mid_stream_is_told_and_cuts_it_off(server: Served, how: str, text: str) -> None:
    parameters = {"count": 3, "fail_at": 1, "how": how}
    with server.post("/v2/models/streams/infer_stream", body(parameters=parameters), stream=True) as answer:
        assert answer.status_code == 200
        events = sse(answer)
        assert next(events)["outputs"][0]["data"] == ["0"]
        assert next(events) == {"error": text}
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            next(events)


def test_a_client_that_leaves_ends_the_stream(server: Served) -> None:
    answer = server.post(
        "/v2/models/streams/infer_stream", body(parameters={"count": 9, "key": "left"}), stream=True
    )
    assert next(sse(answer))["outputs"][0]["data"] == ["0"]
    answer.close()
    for _ in range(8):
        gates["left"].release()
        if wait_for(lambda: events["left"][-1] in ("cancelled", "made 1"), "an event"):
            break
    wait_for(lambda: "cancelled" in events["left"], "cancellation")
    assert "finished" not in events["left"]


@pytest.mark.parametrize("first", [True, False])
def test_a_client_that_leaves_cancels_what_the_model_waits_for(server: Served, first: bool) -> None:
    key = f"forever {first}"
    text = json.dumps(body(parameters={"key": key, "first": first})).encode()
    with server.connect() as connection:
        connection.sendall(
            b"POST /v2/models/forever/infer_stream HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
            % (len(text), text)
        )
        if first:
            assert b"200 OK" in connection.recv(65536)
        wait_for(lambda: events[key], "the model to begin")
    wait_for(lambda: events[key][-1] == "cancelled", "cancellation")


# Repository


def index(server: Served, **kwargs: Any) -> dict[tuple[str, str | None], dict[str, Any]]:
    answer = server.post("/v2/repository/index", **kwargs)
    assert answer.status_code == 200, answer.text
    return {(item["name"], item.get("version")): item for item in answer.json()}


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"data": ""},
        {"data": "null"},
        {"data": "{}"},
        {"data": "{}", "headers": {"content-type": "text/plain"}},
        {"json": {"ready": None, "other": 1}},
        {"json": {"ready": False}},
    ],
)
def test_index(server: Served, kwargs: dict[str, Any]) -> None:
    items = index(server, **kwargs)
    assert items["echo", None] == {"name": "echo", "state": "READY", "reason": ""}
    assert items["many", "3"] == {"name": "many", "version": "3", "state": "READY", "reason": ""}
    assert ("many", "10") in items


@pytest.mark.parametrize("text", ["[]", "1", '"x"', '{"ready": 7}', "{", b"\xff"])
def test_index_with_another_body(server: Served, text: str | bytes) -> None:
    answer = server.post("/v2/repository/index", data=text)
    assert is_error(answer, 422)
    assert answer.json()["detail"][0]["loc"][0] == "body"


def test_index_of_what_is_ready(server: Served, folder: Path) -> None:
    write_model(folder, "new", f"{MODELS}.Echo")
    assert index(server)["new", None]["state"] == "UNAVAILABLE"
    assert ("new", None) not in index(server, json={"ready": True})
    assert ("new", None) not in index(server, json={"ready": "yes"})
    assert ("echo", None) in index(server, json={"ready": True})


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"json": {}},
        {"data": "rubbish"},
        {"data": b"\xff", "headers": {"content-type": "application/json"}},
    ],
)
def test_load_and_unload(server: Served, folder: Path, kwargs: dict[str, Any]) -> None:
    write_model(folder, "dynamic", f"{MODELS}.Echo")
    answer = server.post("/v2/repository/models/dynamic/load", **kwargs)
    assert (answer.status_code, answer.content) == (200, b"")
    assert server.infer("dynamic", body()).status_code == 200
    assert server.get("/v2/models/dynamic/ready").status_code == 200
    answer = server.post("/v2/repository/models/dynamic/unload", **kwargs)
    assert (answer.status_code, answer.content) == (200, b"")
    assert is_error(server.infer("dynamic", body()), 404)
    assert is_error(
        server.post("/v2/repository/models/dynamic/unload", **kwargs), 404, "Model dynamic not found"
    )


def test_load_of_what_is_not_there(server: Served, folder: Path) -> None:
    assert is_error(server.post("/v2/repository/models/nobody/load"), 404, "Model nobody not found")
    (folder / "broken").mkdir()
    (folder / "broken" / "model-settings.json").write_text('{"name": "broken"')
    assert is_error(server.post("/v2/repository/models/broken/load"), 404, "Model broken not found")


def test_unload_of_what_is_gone_from_disk(server: Served, folder: Path) -> None:
    """The calls that the puller of a multi-model server makes: it deletes the folder first."""
    home = write_model(folder, "pulled", f"{MODELS}.Echo")
    for action in ("load", "unload"):
        answer = server.post(f"/v2/repository/models/pulled/{action}", {})
        assert answer.status_code == 200
        if action == "load":
            (home / "model-settings.json").unlink()
            home.rmdir()
            assert server.get("/v2/models/pulled/ready").status_code == 200
            assert ("pulled", None) not in index(server)
    assert server.get("/v2/models/pulled/ready").status_code == 404


# Metrics


def test_metrics_on_both_ports(server: Served) -> None:
    server.infer("echo", body())
    for port in (server.port, server.metrics_port):
        url = f"http://{server.host}:{port}/metrics"
        answer = requests.get(url, timeout=10)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert 'model_infer_request_success_total{model="echo",version="None"}' in answer.text
        assert requests.head(url, timeout=10).status_code == 200


def test_the_metrics_port_serves_nothing_else(server: Served) -> None:
    url = f"http://{server.host}:{server.metrics_port}"
    assert requests.post(f"{url}/metrics", timeout=10).status_code == 405
    assert requests.get(f"{url}/metrics/", timeout=10, allow_redirects=False).status_code == 307
    assert requests.get(f"{url}/v2", timeout=10).status_code == 404
    answer = requests.get(f"{url}/metrics", headers={"accept-encoding": "gzip"}, timeout=10)
    assert "content-encoding" not in answer.headers


def test_metrics_name_route_templates(server: Served) -> None:
    server.get("/v2/models/echo")
    server.infer("echo", body())
    server.post("/v2/models/streams/infer_stream", body(parameters={"count": 1}))
    server.post("/v2/models/many/versions/3/infer", body())
    text = server.metrics()
    for method, path in (
        ("GET", "/v2/models/{model_name}"),
        ("POST", "/v2/models/{model_name}/infer"),
        ("POST", "/v2/models/{model_name}/infer_stream"),
        ("POST", "/v2/models/{model_name}/versions/{model_version}/infer"),
    ):
        labels = re.findall(r"^rest_server_requests_total\{(.*)\}", text, re.MULTILINE)
        wanted = {f'method="{method}"', f'path="{path}"', 'status_code="200"', 'app_name="mlserver"'}
        assert any(wanted == set(one.split(",")) for one in labels), path
    assert "/v2/health" not in text
    server.get("/nowhere")
    server.get("/v2/models/echo/infer")
    assert "nowhere" not in server.metrics() and 'status_code="405"' not in server.metrics()


# Paths and methods


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/models/echo/infer", "/v2/repository/index"])
def test_a_trailing_slash(server: Served, method: str, path: str) -> None:
    url = f"{server.url}{path}"
    answer = requests.request(method, f"{url}/?a=b", timeout=10, allow_redirects=False)
    assert (answer.status_code, answer.content) == (307, b"")
    assert answer.headers["location"] == f"{url}?a=b"


def test_a_trailing_slash_keeps_encoded_names(server: Served) -> None:
    url = f"{server.url}/v2/models/a%20b%20%C3%A9/ready"
    answer = requests.get(f"{url}/", timeout=10, allow_redirects=False)
    assert requests.get(answer.headers["location"], timeout=10).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/nowhere", "/nowhere/", "/v2/", "/v2/models/echo/nothing", "/v2/health", "//v2"]
)
def test_an_unknown_path(server: Served, path: str) -> None:
    if path == "/v2/":
        return  # a known path
    answer = server.get(path, allow_redirects=False)
    assert is_error(answer, 404)
    assert answer.json() == {"error": "Not Found", "detail": "Not Found"}


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v2", "GET"),
        ("HEAD", "/v2/health/live", "GET"),
        ("DELETE", "/v2/models/echo", "GET"),
        ("GET", "/v2/models/echo/infer", "POST"),
        ("OPTIONS", "/v2/models/echo/infer", "POST"),
        ("PUT", "/v2/models/echo/infer", "POST"),
        ("GET", "/v2/repository/index", "POST"),
    ],
)
def test_another_method(server: Served, method: str, path: str, allow: str) -> None:
    answer = requests.request(method, server.url + path, timeout=10)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allow
    if method != "HEAD":
        assert answer.json() == {"error": "Method Not Allowed", "detail": "Method Not Allowed"}


# CORS and proxies


ORIGIN = {"origin": "https://pages.example"}


@pytest.fixture(scope="module")
def cors(folder: Path) -> Iterator[InThread]:
    cors_settings = {
        "allow_origins": ["https://pages.example"],
        "allow_origin_regex": r"https://.*\.test",
        "allow_credentials": True,
        "allow_methods": ["GET", "POST"],
        "allow_headers": ["x-own"],
        "expose_headers": ["ce-id", "x-own"],
    }
    with serving(folder, cors_settings=cors_settings, root_path="/behind") as server:
        yield server


def test_no_cors_unless_configured(server: Served) -> None:
    answer = server.get("/v2", headers=ORIGIN)
    assert not [key for key in answer.headers if key.lower().startswith("access-control")]


@pytest.mark.parametrize("origin", ["https://pages.example", "https://any.test"])
def test_cors_of_an_allowed_page(cors: Served, origin: str) -> None:
    for answer in (
        cors.get("/v2", headers={"origin": origin}),
        cors.infer("echo", body(id="a"), headers={"origin": origin}),
        cors.infer("fails", body(parameters={"how": "other"}), headers={"origin": origin}),
        cors.infer("nobody", body(), headers={"origin": origin}),
        cors.get("/nowhere", headers={"origin": origin}),
    ):
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert answer.headers["vary"] == "Origin"


def test_c6_cors_exposes_headers(cors: Served) -> None:
    answer = cors.infer("setsheaders", body(id="a", parameters={"set": {"x-own": "1"}}), headers=ORIGIN)
    exposed = re.split(r",\s*", answer.headers["access-control-expose-headers"])
    assert sorted(exposed) == ["ce-id", "x-own"]
    assert (answer.headers["ce-id"], answer.headers["x-own"]) == ("a", "1")


def test_inference_is_the_same_under_cors(cors: Served) -> None:
    plain = cors.infer("echo", body(id="a"))
    page = cors.infer("echo", body(id="a"), headers=ORIGIN)
    assert page.content == plain.content
    own = {key: value for key, value in page.headers.items() if key.lower().startswith("ce-")}
    assert own == {key: value for key, value in plain.headers.items() if key.lower().startswith("ce-")} != {}
    smuggled = cors.infer("setsheaders", body(parameters={"set": {"x": "a\r\nb: c"}}), headers=ORIGIN)
    assert is_error(smuggled, 500)


def test_cors_of_another_page(cors: Served) -> None:
    answer = cors.get("/v2", headers={"origin": "https://other.example"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_cors_preflight(cors: Served) -> None:
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "x-own"}
    url = f"{cors.url}/v2/models/echo/infer"
    answer = requests.options(url, headers={**ORIGIN, **wanted}, timeout=10)
    assert (answer.status_code, answer.text) == (200, "OK")
    assert answer.headers["access-control-allow-methods"] == "GET, POST"
    assert answer.headers["access-control-max-age"] == "600"
    allowed = set(answer.headers["access-control-allow-headers"].split(", "))
    assert {"Accept", "Accept-Language", "Content-Language", "Content-Type", "x-own"} == allowed
    wanted["access-control-request-method"] = "DELETE"
    refused = requests.options(url, headers={"origin": "https://other.example", **wanted}, timeout=10)
    assert (refused.status_code, refused.text) == (400, "Disallowed CORS origin, method")
    assert requests.options(url, timeout=10).status_code == 405


def test_r70_redirects_honour_what_proxies_strip(server: Served, cors: Served) -> None:
    answer = cors.get("/v2/", allow_redirects=False)
    assert answer.headers["location"] == f"{cors.url}/behind/v2"
    assert cors.get("/v2").status_code == 200 and cors.get("/behind/v2").status_code == 404
    headers = {"x-forwarded-prefix": "/outside/", "host": "models.example"}
    answer = server.get("/v2/", headers=headers, allow_redirects=False)
    assert answer.headers["location"] == "http://models.example/outside/v2"
