"""Faults that users of servers like this one met where HTTP is spoken."""
# ruff: noqa: N802 - functions are named after the ids of the faults

from __future__ import annotations

import gzip
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import TIMEOUT, process, wait_for, write_model
from tests.server.raw import Listening, assert_serves, body, connected, get, http_server, post

GZIP = "Content-Encoding: gzip"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Listening]:
    with http_server(tmp_path) as running:
        yield running


def test_R36_an_eleven_megabyte_tensor_with_the_default_settings(server: Listening) -> None:
    values = list(range(1_000_000, 2_400_000))
    content = body(*values)
    assert len(content) > 11_000_000
    with connected(server) as client:
        answer = client.ask(post(content=content))
        assert answer.status == 200 and answer.values == values


def test_R36_a_body_over_the_limit_is_told_the_name_of_the_setting(tmp_path: Path) -> None:
    with http_server(tmp_path, http_max_body_size=1_000_000) as server:
        for request in (post(content=b" " * 1_000_001), post("/v2/repository/index", b" " * 1_000_001)):
            with connected(server) as client:
                answer = client.ask(request)
                assert answer.status == 413 and "`http_max_body_size`" in answer.error
        assert_serves(server)


def test_R73_a_compressed_request(server: Listening) -> None:
    with connected(server) as client:
        assert client.ask(
            post(content=gzip.compress(body(1, 2))).replace(b"Host", GZIP.encode() + b"\r\nHost")
        ).values == [1, 2]


def test_R73_a_compressed_request_that_is_broken(server: Listening) -> None:
    good = gzip.compress(body(1, 2))
    with connected(server) as client:
        for content in (b"not gzip at all", good[:-9], good[:20] + b"\xff\xff" + good[22:]):
            answer = client.ask(post("/v2/models/echo/infer", content, GZIP))
            assert answer.status == 400 and answer.error
        client.assert_open()


def test_R73_a_bomb(tmp_path: Path) -> None:
    with http_server(tmp_path, http_max_body_size=1_000_000) as server, connected(server) as client:
        bomb = gzip.compress(b" " * 100_000_000)
        assert len(bomb) < 1_000_000
        started = time.monotonic()
        answer = client.ask(post("/v2/models/echo/infer", bomb, GZIP))
        assert answer.status == 413 and "`http_max_body_size`" in answer.error
        assert time.monotonic() - started < 5.0
        client.assert_open()


_SLOW = """
import asyncio
from mlserver import MLModel
from mlserver.types import InferenceResponse

class Slow(MLModel):
    async def predict(self, payload):
        print("predict begins", flush=True)
        await asyncio.sleep(2)
        return InferenceResponse(model_name=self.name, outputs=[])
"""


def test_c5_a_call_in_flight_is_answered_when_the_server_is_told_to_stop(tmp_path: Path) -> None:
    write_model(tmp_path, "slow", "models.Slow", _SLOW)
    content = json.dumps({"inputs": [], "id": "c5"}).encode()
    with process(tmp_path) as server, connected(server) as client:
        client.send(post("/v2/models/slow/infer", content))
        wait_for(lambda: "predict begins" in server.log(), "the request to reach its model")
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "Stopping" in server.log(), "the server to take notice")

        def refused() -> bool:
            try:
                with connected(server) as another:
                    another.ask(get())
            except ConnectionRefusedError:
                return True
            except Exception:  # it was let in before the server took notice, and is let go
                return False
            return False

        wait_for(refused, "new connections to be refused")
        answer = client.answer()
        assert (
            answer.status == 200 and answer.json()["id"] == "c5" and answer.headers["connection"] == "close"
        )
        client.assert_ended()
        assert server.process.wait(TIMEOUT) == 0
        assert "Traceback" not in server.log() and "ERROR" not in server.log()
