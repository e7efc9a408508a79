"""Faults that users of servers like this one met over REST."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.running import Served, serving, write_model
from tests.server.models import body, events, gates, tensor

MODELS = "tests.server.models"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("repository")
    for name in ("Streams", "Numpy", "Constant", "Fails", "SetsHeaders"):
        write_model(folder, name.lower(), f"{MODELS}.{name}")
    cors = {"allow_origins": ["*"], "allow_methods": ["POST"], "expose_headers": ["x-own"]}
    with serving(folder, cors_settings=cors) as server:
        yield server


def test_r32_null_and_nan_over_rest(server: Served) -> None:
    answer = server.infer("numpy", body(tensor("x", "FP32", [None, 1.0])))
    assert answer.json()["outputs"][0]["data"] == [None, 1.0]
    answer = server.infer("constant", body(parameters={"value": "infinite"}))
    assert answer.json()["outputs"][0]["data"] == [None, None, 2.0]


@pytest.mark.parametrize("headers", [{}, {"accept-encoding": "gzip"}, {"origin": "https://pages.example"}])
def test_r75_the_first_event_arrives_before_the_second_is_made(
    server: Served, headers: dict[str, str]
) -> None:
    key = f"r75 {headers}"
    parameters = {"count": 3, "key": key}
    url = f"{server.url}/v2/models/streams/infer_stream"
    with requests.post(
        url, json=body(parameters=parameters), headers=headers, stream=True, timeout=30
    ) as answer:
        arriving = (line for line in answer.iter_lines(chunk_size=1) if line)
        for number in range(3):
            event = json.loads(next(arriving).removeprefix(b"data: "))
            assert event["outputs"][0]["data"] == [str(number)]
            assert f"made {number}" in events[key] and f"made {number + 1}" not in events[key]
            gates[key].release()
        assert list(arriving) == []


def test_c6_exposed_headers_are_exposed(server: Served) -> None:
    asked = body(parameters={"set": {"x-own": "1"}})
    answer = server.infer("setsheaders", asked, headers={"origin": "https://pages.example"})
    assert answer.headers["access-control-expose-headers"] == "x-own"


HANDLER = """
from mlserver import MLModel
from mlserver.errors import MLServerError
from mlserver.handlers import custom_handler

class Secret(Exception):
    pass

class Fails(MLModel):
    async def predict(self, payload):
        raise self.error(payload.parameters.how)

    @custom_handler(rest_path="/fail/{how}", rest_method="GET")
    async def fail(self, how: str):
        raise self.error(how)

    def error(self, how):
        return MLServerError("on purpose", 409) if how == "own" else Secret("password")
"""


@pytest.mark.parametrize(
    ("how", "status", "text"), [("own", 409, "on purpose"), ("other", 500, "Internal Server Error")]
)
def test_c7_errors_look_alike_everywhere(tmp_path: Path, how: str, status: int, text: str) -> None:
    write_model(tmp_path, "m", "models.Fails", HANDLER)
    with serving(tmp_path) as server:
        answers: list[Any] = [
            server.infer("m", body(parameters={"how": how})),
            server.post("/v2/models/m/infer_stream", body(parameters={"how": how})),
            server.get(f"/fail/{how}"),
        ]
    for answer in answers:
        assert (answer.status_code, answer.json()) == (status, {"error": text})
        assert answer.headers["content-type"] == "application/json"
