"""Large bodies, which are read into one block by a protocol of their own."""

from __future__ import annotations

import gzip
import random
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlserver import utils
from mlserver.rest.large import LARGE_BODY
from tests.running import wait_for
from tests.server.raw import Listening, assert_serves, body, chunked, connected, http_server, post

MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "asyncio":
            patch.setattr(utils, "_uvloop", lambda: None)
        with http_server(tmp_path_factory.mktemp("models"), http_body_timeout=1.0) as running:
            assert type(running.loop).__module__.partition(".")[0] == request.param
            yield running


@pytest.fixture(autouse=True)
def _everybody_else_is_served(server: Listening) -> Iterator[None]:
    yield
    assert_serves(server)


def large(size: int, *values: float) -> bytes:
    """A body of `size` bytes; blanks before it, so that its end has to arrive."""
    content = body(*values)
    return b" " * (size - len(content)) + content


@pytest.mark.parametrize(
    "size",
    [LARGE_BODY - 1, LARGE_BODY, LARGE_BODY + 1, 4 * MEGABYTE, 4 * MEGABYTE + 1, 17 * MEGABYTE],
)
def test_a_large_body_arrives_whole(server: Listening, size: int) -> None:
    with connected(server) as client:
        for number in range(3):
            assert client.ask(post(content=large(size, number, 7))).values == [number, 7]


def test_however_it_is_cut(server: Listening) -> None:
    choose = random.Random(0)
    request = post(content=large(LARGE_BODY + 1000, 3, 4)) + post() + post(content=large(LARGE_BODY, 5))
    with connected(server) as client:
        for _ in range(5):
            cuts = sorted(choose.randrange(len(request)) for _ in range(6))
            client.send(*(request[a:b] for a, b in zip([0, *cuts], [*cuts, len(request)], strict=True)))
            assert [client.answer().values for _ in range(3)] == [[3, 4], [1, 2], [5]]


def test_behind_a_request_that_is_being_answered(server: Listening) -> None:
    with connected(server) as client:
        sending = threading.Thread(
            target=client.send, args=[post() * 50 + post(content=large(MEGABYTE, 9)) * 3]
        )
        sending.start()
        assert [client.answer().values for _ in range(53)] == [[1, 2]] * 50 + [[9]] * 3
        sending.join()


def test_a_client_that_waits_to_be_asked_for_it(server: Listening) -> None:
    request = post("/v2/models/echo/infer", large(LARGE_BODY, 8), "Expect: 100-continue")
    with connected(server) as client:
        client.send(request[:-LARGE_BODY])
        assert client.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.ask(request[-LARGE_BODY:]).values == [8]


def test_compressed(server: Listening) -> None:
    noise = random.Random(0).randbytes(MEGABYTE).hex()
    packed = gzip.compress(body(6, name=noise))
    assert len(packed) > LARGE_BODY
    with connected(server) as client:
        assert client.ask(post("/v2/models/echo/infer", packed, "Content-Encoding: gzip")).values == [6]


def test_in_chunks(server: Listening) -> None:
    content = chunked(*[b" " * 100_000] * 10, body(5))
    with connected(server) as client:
        answer = client.ask(
            post("/v2/models/echo/infer", content, "Transfer-Encoding: chunked", length=False)
        )
        assert answer.values == [5]


def test_to_something_else_than_a_model(server: Listening) -> None:
    with connected(server) as client:
        assert client.ask(post("/v2/repository/index", large(MEGABYTE))).status in (200, 422)
        client.assert_open()


def test_one_that_is_no_request(server: Listening) -> None:
    with connected(server) as client:
        assert "not valid JSON" in client.ask(post(content=b"{" * MEGABYTE)).error
        client.assert_open()


@pytest.mark.parametrize("sent", [0, 1, LARGE_BODY - 1])
def test_a_client_that_vanishes_in_the_middle(server: Listening, sent: int) -> None:
    request = post(content=large(LARGE_BODY, 8))
    with connected(server) as client:
        client.send(request[: len(request) - LARGE_BODY + sent])
        wait_for(lambda: server.busy, "the body to be read")
        client.reset()
    wait_for(lambda: not server.busy, "the connection to be let go")


def test_a_client_that_sends_no_more_in_the_middle(server: Listening) -> None:
    with connected(server) as client:
        client.send(post(content=large(LARGE_BODY, 8))[:-1])
        client.end_sending()
        client.assert_ended()


def test_one_that_stops_coming_is_given_up(server: Listening) -> None:
    request = post(content=large(MEGABYTE, 8))
    with connected(server) as client:
        client.send(request[: -MEGABYTE // 2])
        answer = client.answer()
        assert answer.status == 408 and "`http_body_timeout`" in answer.error
        client.send(request[-MEGABYTE // 2 :])  # too late, and nobody's request
        client.assert_ended()


def test_one_that_comes_slowly_is_waited_for(server: Listening) -> None:
    request = post(content=large(LARGE_BODY, 8))
    with connected(server) as client:
        client.send(request[:1000])
        for start in range(1000, len(request), 40_000):
            time.sleep(0.3)  # in all longer than the timeout
            client.send(request[start : start + 40_000])
        assert client.answer().values == [8]


def test_what_is_only_announced_takes_little_memory(tmp_path: Path) -> None:
    with http_server(tmp_path, http_max_body_size=-1) as server:
        tracemalloc.start()
        try:
            clients = [server.connect() for _ in range(10)]
            for client in clients:
                head = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
                client.sendall(head % (1 << 40) + b"{")
            wait_for(lambda: len(server.busy) == 10, "the bodies to be read")
            assert tracemalloc.get_traced_memory()[1] < 60 * MEGABYTE
        finally:
            tracemalloc.stop()
            for client in clients:
                client.close()
        wait_for(lambda: not server.busy, "the connections to be let go")
        assert_serves(server)
