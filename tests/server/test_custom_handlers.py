"""Routes that models bring along."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.running import InThread, Served, serving, write_model
from tests.server.models import body, events, gates

CODE = """
import asyncio, dataclasses, datetime, threading, time
from typing import Annotated, Any, List, Optional

import numpy as np
from fastapi import Body, Depends, Header, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse, StreamingResponse

import mlserver
from mlserver import MLModel
from mlserver.context import model_name_var, model_version_var
from mlserver.errors import MLServerError
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput
from tests.server.models import events, gates, tensor

class Item(BaseModel):
    name: str
    count: int = 1
    note: Optional[str] = None

class Aliased(BaseModel):
    value: int = Field(alias="theValue")

@dataclasses.dataclass
class Point:
    x: int
    when: datetime.date

async def tenant(x_tenant: Annotated[str, Header()] = "nobody") -> str:
    return x_tenant

class Handlers(MLModel):
    async def load(self) -> bool:
        self.thread = threading.current_thread()
        mlserver.register("handled", "How many were handled")
        return True

    @custom_handler(rest_path="/request")
    async def request(self, request: Request) -> dict:
        data = await request.json()
        assert not await request.is_disconnected()
        own, query = request.headers.get("x-own"), dict(request.query_params)
        return {"json": data, "x": own, "query": query, "path": request.url.path}

    @custom_handler(rest_path="/raw", rest_method="PUT")
    async def raw(self, request: Request):
        return len(await request.body())

    @custom_handler(rest_path="/item")
    async def item(self, item: Item):
        return item

    @custom_handler(rest_path="/annotated")
    async def annotated(self, item: Item) -> Item:
        return item

    @custom_handler(rest_path="/filtered")
    async def filtered(self, what: str = "good") -> Item:
        return {"name": "n", "secret": 1} if what == "good" else {"secret": 1}

    @custom_handler(rest_path="/items")
    async def items(self, items: List[Item]) -> List[Item]:
        return items

    @custom_handler(rest_path="/aliased", rest_method="GET")
    async def aliased(self):
        return Aliased(theValue=3)

    @custom_handler(rest_path="/things/{kind}/{number}", rest_method="GET")
    async def thing(self, kind: str, number: int, q: int = 7, x_own: Optional[str] = Header(None)):
        return [kind, number, q, x_own]

    @custom_handler(rest_path="/embedded")
    async def embedded(self, a: Annotated[int, Body()], b: str = Body("b")):
        return {"a": a, "b": b}

    @custom_handler(rest_path="/depends", rest_method="GET")
    async def depends(self, who: str = Depends(tenant)):
        return who

    @custom_handler(rest_path="/returned", rest_method="GET")
    async def returned(self) -> Response:
        return PlainTextResponse("teapot", 418, {"x-own": "1"})

    @custom_handler(rest_path="/injected", rest_method="GET")
    async def injected(self, response: Response):
        response.status_code = 201
        response.headers["x-own"] = "1"
        response.set_cookie("a", "b")
        return {"ok": True}

    @custom_handler(rest_path="/plain", rest_method="GET")
    def plain(self, word: str = "w"):
        assert threading.current_thread() is self.thread
        return word

    @custom_handler(rest_path="/thread", rest_method="GET")
    async def of_thread(self):
        return threading.current_thread() is self.thread

    @custom_handler(rest_path="/context", rest_method="GET")
    async def context(self):
        mlserver.log(handled=1)
        return [model_name_var.get(), model_version_var.get()]

    @custom_handler(rest_path="/value/{kind}", rest_method="GET")
    async def value(self, kind: str) -> Any:
        return {
            "none": None,
            "text": "te\\u00e9xt",
            "bytes": "\\u00e9".encode(),
            "list": [b"a", None, 1.5],
            "number": 3,
            "nan": [float("nan")],
            "date": datetime.date(2020, 1, 2),
            "point": Point(1, datetime.date(2020, 1, 2)),
            "set": {1},
            "keys": {1: "a"},
            "scalar": np.float32(1.5),
            "int64": np.int64(1),
            "in a dict": {"a": np.float32(1)},
            "not utf-8": b"\\xff",
            "message": InferenceResponse(model_name="m", outputs=[]),
            "messages": {"all": [RequestInput(name="x", shape=[1], datatype="INT8", data=[1])]},
        }[kind]

    @custom_handler(rest_path="/infer")
    async def infer(self, payload: InferenceRequest) -> InferenceResponse:
        return await self.predict(payload)

    @custom_handler(rest_path="/maybe")
    async def maybe(self, payload: Optional[InferenceRequest] = None):
        return None if payload is None else [i.name for i in payload.inputs]

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(model_name=self.name, outputs=[])

    @custom_handler(rest_path="/fails/{how}", rest_method="GET")
    async def fails(self, how: str):
        if how == "mlserver":
            raise MLServerError("on purpose", 418)
        if how == "http":
            raise HTTPException(409, "conflict", headers={"x-own": "1"})
        if how == "exit":
            raise SystemExit(3)
        raise ValueError("a secret")

    @custom_handler(rest_path="/stream", rest_method="GET")
    async def stream(self, key: str = ""):
        async def chunks():
            for number in range(3):
                assert threading.current_thread() is self.thread
                assert model_name_var.get() == self.name
                if key and number:
                    await asyncio.to_thread(gates[key].acquire)
                events[key].append(str(number))
                yield f"{number}\\n"
        return StreamingResponse(chunks(), media_type="text/plain")

    @custom_handler(rest_path="/blocks", rest_method="GET")
    async def blocks(self):
        time.sleep(0.5)

    @custom_handler(rest_path="/waits", rest_method="GET")
    async def waits(self, key: str):
        events[key].append("begun")
        await asyncio.to_thread(gates[key].acquire)
        return key

    @custom_handler(rest_path="/v2/health/live", rest_method="GET")
    async def steals(self):
        return "stolen"

    @custom_handler(rest_path="/v2/models/{name}/infer")
    async def steals_inference(self, name: str):
        return "stolen"
"""

SHARED = """
from mlserver import MLModel
from mlserver.handlers import custom_handler

class Shared(MLModel):
    @custom_handler(rest_path="/shared", rest_method="GET")
    async def shared(self):
        return [self.name, WHICH]
"""

FUTURE = "from __future__ import annotations\n" + CODE


@pytest.fixture(scope="module", params=[CODE, FUTURE], ids=["annotations", "texts"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InThread]:
    folder = tmp_path_factory.mktemp("repository")
    write_model(folder, "own", "models.Handlers", request.param, parameters={"version": "7"})
    write_model(folder, "told", "tests.server.models.Told")
    with serving(folder) as server:
        yield server


def is_error(answer: requests.Response, status: int, text: str) -> bool:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"] == text
    assert "detail" not in answer.json() or status in (404, 405, 409)
    return True


def test_a_request_argument(server: Served) -> None:
    answer = server.post("/request?a=b", {"c": [1]}, headers={"x-own": "1"})
    assert answer.json() == {"json": {"c": [1]}, "x": "1", "query": {"a": "b"}, "path": "/request"}
    assert requests.put(f"{server.url}/raw", data=b"x" * 1_000_000, timeout=10).json() == 1_000_000


def test_a_pydantic_body_keeps_its_nulls(server: Served) -> None:
    for path in ("/item", "/annotated"):
        assert server.post(path, {"name": "n"}).json() == {"name": "n", "count": 1, "note": None}
    assert server.post("/items", [{"name": "n"}]).json() == [{"name": "n", "count": 1, "note": None}]
    assert server.get("/aliased").json() == {"theValue": 3}


def test_a_return_annotation_shapes_the_result(server: Served) -> None:
    assert server.post("/filtered").json() == {"name": "n", "count": 1, "note": None}
    assert is_error(server.post("/filtered?what=bad"), 500, "Internal Server Error")


def test_parameters_of_path_query_and_header(server: Served) -> None:
    assert server.get("/things/a/3").json() == ["a", 3, 7, None]
    assert server.get("/things/a%20b/3?q=4", headers={"x-own": "h"}).json() == ["a b", 3, 4, "h"]
    assert server.post("/embedded", {"a": 1}).json() == {"a": 1, "b": "b"}
    assert server.get("/depends", headers={"x-tenant": "t"}).json() == "t"


@pytest.mark.parametrize(
    ("send", "loc"),
    [
        (lambda server: server.get("/things/a/b"), ["path", "number"]),
        (lambda server: server.get("/things/a/1?q=x"), ["query", "q"]),
        (lambda server: server.post("/item", {"count": 1}), ["body", "name"]),
        (lambda server: server.post("/item"), ["body"]),
        (lambda server: server.post("/item", data="{", headers={"content-type": "application/json"}), None),
        (lambda server: server.post("/infer", {"inputs": 1}), None),
    ],
)
def test_arguments_that_do_not_validate(server: Served, send: Any, loc: list[str] | None) -> None:
    answer = send(server)
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert loc is None or detail["loc"] == loc
    assert answer.json()["error"].startswith("invalid request: ")


def test_responses(server: Served) -> None:
    answer = server.get("/returned")
    assert (answer.status_code, answer.text, answer.headers["x-own"]) == (418, "teapot", "1")
    assert answer.headers["content-type"].startswith("text/plain")
    answer = server.get("/injected")
    assert (answer.status_code, answer.json(), answer.headers["x-own"]) == (201, {"ok": True}, "1")
    assert answer.cookies["a"] == "b"


def test_a_plain_function(server: Served) -> None:
    assert server.get("/plain").json() == "w"


def test_handlers_run_where_their_model_runs(server: Served) -> None:
    assert server.get("/thread").json() is True


def test_the_model_context_is_there(server: Served) -> None:
    assert server.get("/context").json() == ["own", "7"]
    assert 'handled_count{model_name="own",model_version="7"}' in server.metrics()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("none", "null"),
        ("text", '"te\u00e9xt"'),
        ("bytes", '"\u00e9"'),
        ("list", '["a",null,1.5]'),
        ("number", "3"),
        ("nan", "[null]"),
        ("date", '"2020-01-02"'),
        ("point", '{"x":1,"when":"2020-01-02"}'),
        ("set", "[1]"),
        ("keys", '{"1":"a"}'),
        ("message", '{"model_name":"m","model_version":null,"id":null,"parameters":null,"outputs":[]}'),
        ("messages", '{"all":[{"name":"x","shape":[1],"datatype":"INT8","parameters":null,"data":[1]}]}'),
    ],
)
def test_values(server: Served, kind: str, text: str) -> None:
    answer = server.get(f"/value/{kind}")
    assert (answer.status_code, answer.text) == (200, text)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("kind", ["scalar", "int64", "in a dict", "not utf-8"])
def test_values_that_json_cannot_hold(server: Served, kind: str) -> None:
    assert is_error(server.get(f"/value/{kind}"), 500, "Internal Server Error")


def test_messages_as_arguments(server: Served) -> None:
    assert server.post("/infer", body()).json()["model_name"] == "own"
    assert server.post("/maybe", body()).json() == ["x"]
    assert server.post("/maybe").json() is None


@pytest.mark.parametrize(
    ("how", "status", "text"),
    [
        ("mlserver", 418, "on purpose"),
        ("http", 409, "conflict"),
        ("other", 500, "Internal Server Error"),
        ("exit", 500, "Internal Server Error"),
    ],
)
def test_c7_errors_have_the_one_shape(server: Served, how: str, status: int, text: str) -> None:
    answer = server.get(f"/fails/{how}")
    assert is_error(answer, status, text)
    assert "ValueError" not in answer.text and "Traceback" not in answer.text
    assert answer.headers.get("x-own") == ("1" if how == "http" else None)


def test_methods_and_slashes(server: Served) -> None:
    answer = server.get("/item")
    assert is_error(answer, 405, "Method Not Allowed") and answer.headers["allow"] == "POST"
    answer = server.get("/plain/?word=x", allow_redirects=False)
    assert (answer.status_code, answer.content) == (307, b"")
    assert answer.headers["location"] == f"{server.url}/plain?word=x"
    assert is_error(server.get("/nowhere"), 404, "Not Found")


def test_a_streaming_response_streams(server: Served) -> None:
    assert server.get("/stream").text == "0\n1\n2\n"
    with server.get("/stream?key=handler", stream=True) as answer:
        lines = answer.iter_lines(chunk_size=1)
        assert next(lines) == b"0" and events["handler"] == ["0"]
        gates["handler"].release(2)
        assert list(lines) == [b"1", b"2"]
    gates["handler"] = type(gates["handler"])(0)
    events["handler"].clear()


def test_what_the_server_has_cannot_be_taken_over(server: Served) -> None:
    assert server.get("/v2/health/live").json() == {"live": True}
    assert server.infer("told", body()).json()["model_name"] == "told"


def test_a_handler_that_blocks_holds_up_nobody_else(server: Served) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /blocks HTTP/1.1\r\nhost: x\r\n\r\n")
        started = time.monotonic()
        while time.monotonic() < started + 0.3:
            before = time.monotonic()
            assert server.get("/v2/health/live").status_code == 200
            assert time.monotonic() - before < 0.3
        assert connection.recv(65536).endswith(b"null")


def test_routes_are_counted_by_template_and_not_as_inference(server: Served) -> None:
    server.get("/things/a/3")
    text = server.metrics()
    assert 'path="/things/{kind}/{number}"' in text and "things/a" not in text
    assert 'model_infer_request_success_total{model="own"' not in text


def test_openapi_shows_the_routes(server: Served) -> None:
    answer = server.get("/openapi.json")
    assert answer.status_code == 200
    assert {"/item", "/infer", "/things/{kind}/{number}"} <= answer.json()["paths"].keys()


# Coming and going


def shared(folder: Path, name: str, which: int) -> None:
    write_model(folder, name, "models.Shared", SHARED.replace("WHICH", str(which)))


def load(server: Served, name: str, action: str = "load") -> int:
    return server.post(f"/v2/repository/models/{name}/{action}").status_code


def test_routes_come_and_go_with_their_model(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert server.get("/shared").status_code == 404
        shared(tmp_path, "a", 1)
        assert load(server, "a") == 200
        assert server.get("/shared").json() == ["a", 1]
        shared(tmp_path, "a", 2)
        assert load(server, "a") == 200
        assert server.get("/shared").json() == ["a", 2]
        assert load(server, "a", "unload") == 200
        assert server.get("/shared").status_code == 404


def test_of_equal_paths_the_first_answers_until_it_goes(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for name in ("b", "a"):
            shared(tmp_path, name, 1)
            assert load(server, name) == 200
        assert server.get("/shared").json() == ["b", 1]
        assert load(server, "b") == 200  # a reload keeps its place
        assert server.get("/shared").json() == ["b", 1]
        assert load(server, "b", "unload") == 200
        assert server.get("/shared").json() == ["a", 1]


def test_a_reload_that_brings_other_routes(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        shared(tmp_path, "a", 1)
        assert load(server, "a") == 200
        write_model(tmp_path, "a", "models.Shared", SHARED.replace("WHICH", "1").replace("/shared", "/other"))
        assert load(server, "a") == 200
        assert server.get("/shared").status_code == 404 and server.get("/other").status_code == 200
        write_model(tmp_path, "a", "models.Shared", "from mlserver import MLModel as Shared")
        assert load(server, "a") == 200
        assert server.get("/other").status_code == 404


def test_a_handler_that_fastapi_refuses_fails_its_load_and_no_other(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        shared(tmp_path, "a", 1)
        assert load(server, "a") == 200
        code = "import threading\n" + SHARED.replace("shared(self)", "shared(self, what: threading.Thread)")
        write_model(tmp_path, "b", "models.Shared", code)
        assert load(server, "b") == 500
        assert server.get("/v2/models/b/ready").status_code == 404
        assert server.get("/shared").json() == ["a", 1]
        shared(tmp_path, "a", 3)
        assert load(server, "a") == 200
        assert server.get("/shared").json() == ["a", 3]


def test_a_call_under_way_outlives_a_reload(tmp_path: Path) -> None:
    write_model(tmp_path, "own", "models.Handlers", CODE)
    with serving(tmp_path) as server, server.connect() as connection:
        connection.sendall(b"GET /waits?key=reload HTTP/1.1\r\nhost: x\r\n\r\n")
        while not events["reload"]:
            time.sleep(0.01)
        with server.connect() as other:
            other.sendall(b"POST /v2/repository/models/own/load HTTP/1.1\r\nhost: x\r\n\r\n")
            old = server.server._model_registry.find("own").replicas
            while server.server._model_registry.find("own").replicas is old:
                time.sleep(0.01)
            gates["reload"].release()
            assert connection.recv(65536).endswith(b'"reload"')
            assert b"200 OK" in other.recv(65536)


def test_json_of_handlers_is_compact(server: Served) -> None:
    assert server.post("/item", {"name": "n"}).text == json.dumps(
        {"name": "n", "count": 1, "note": None}, separators=(",", ":")
    )
