"""What a client may send, how long it may take, and what becomes of one that takes more than its share."""

from __future__ import annotations

import gzip
import json
import socket
import time
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from mlserver.rest.compression import DecompressionError, compress, decompress
from tests.fuzz.mutate import resident_mib
from tests.running import wait_for
from tests.server.raw import (
    Ended,
    Listening,
    Raw,
    assert_serves,
    body,
    chunked,
    connected,
    get,
    http_server,
    open_gates,
    post,
    seen,
    wait_until_begun,
)

CHUNKED = "Transfer-Encoding: chunked"
MAX_BODY = 20_000
MAX_HEAD = 4_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    folder = tmp_path_factory.mktemp("models")
    with http_server(folder, http_max_body_size=MAX_BODY, http_max_header_size=MAX_HEAD) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """A server without patience."""
    times = {"http_header_timeout": 0.6, "http_body_timeout": 0.6, "http_keep_alive": 0.6}
    with http_server(tmp_path_factory.mktemp("models"), **times) as running:
        yield running


@pytest.fixture(autouse=True)
def _everybody_else_is_served(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"server", "hasty"} & set(request.fixturenames):
        running: Listening = request.getfixturevalue(name)
        assert_serves(running)
        wait_for(partial(_at_rest, running), "the gauges to be at rest")


def _at_rest(server: Listening) -> bool:
    return not server.in_progress


def sized(size: int) -> bytes:
    """A request body of so many bytes."""
    content = body(1, 2)
    return content + b" " * (size - len(content))


# Sizes


@pytest.mark.parametrize("padding", ["target", "header", "headers"])
def test_heads_have_a_limit(server: Listening, padding: str) -> None:
    def request(size: int) -> bytes:
        empty = {
            "target": get("/v2?"),
            "header": get("/v2", "a: "),
            "headers": get("/v2", *["a: x"] * 500, "a: "),
        }
        at = empty[padding].rindex(b"? " if padding == "target" else b": ") + (
            1 if padding == "target" else 2
        )
        return empty[padding][:at] + b"x" * (size - len(empty[padding])) + empty[padding][at:]

    largest, larger = request(MAX_HEAD), request(MAX_HEAD + 1)
    assert (len(largest), len(larger)) == (MAX_HEAD, MAX_HEAD + 1)
    with connected(server) as client:
        assert client.ask(largest).status == 200
        assert client.ask(largest[:50], largest[50:]).status == 200
    for pieces in ([larger], [larger[:1000], larger[1000:]], [larger + post()]):
        with connected(server) as client:
            answer = client.ask(*pieces)
            assert answer.status == 431 and "`http_max_header_size` (4000 bytes)" in answer.error
            client.assert_ended()


def test_a_head_that_never_ends(server: Listening) -> None:
    with connected(server) as client:
        answer = client.ask(b"GET /v2 HTTP/1.1\r\nhost: a\r\n", *[b"a: " + b"b" * 97 + b"\r\n"] * 40)
        assert answer.status == 431
        client.assert_ended()


def test_a_limited_head_with_a_large_body(server: Listening) -> None:
    with connected(server) as client:
        assert client.ask(post(content=sized(MAX_BODY))).values == [1, 2]


@pytest.mark.parametrize("path", ["/v2/models/echo/infer", "/v2/repository/index"])
def test_bodies_have_a_limit(server: Listening, path: str) -> None:
    content = sized(MAX_BODY) if "echo" in path else b"{}" + b" " * (MAX_BODY - 2)
    with connected(server) as client:
        for _ in range(2):
            assert client.ask(post(path, content)).status == 200
            assert (
                client.ask(post(path, chunked(content[:5], content[5:]), CHUNKED, length=False)).status == 200
            )
            assert client.ask(post(path, gzip.compress(content), "Content-Encoding: gzip")).status == 200
    for request in (
        post(path, content + b" "),
        post(path, content + b" ")[: len(post(path, content)) // 2],  # the length is enough to know
        post(path, chunked(content, b" "), CHUNKED, length=False),
        post(path, chunked(content[:5], content[5:] + b" "), CHUNKED, length=False),
        post(path, b"%x\r\n" % (MAX_BODY + 1), CHUNKED, length=False),
    ):
        with connected(server) as client:
            answer = client.ask(request)
            assert answer.status == 413 and f"`http_max_body_size` ({MAX_BODY} bytes)" in answer.error
            assert answer.headers["connection"] == "close"
            client.assert_ended()


def test_a_large_body_is_refused_before_it_is_sent(server: Listening) -> None:
    head = post(
        "/v2/models/echo/infer", b"", "Expect: 100-continue", f"Content-Length: {MAX_BODY + 1}", length=False
    )
    with connected(server) as client:
        answer = client.ask(head)
        assert answer.status == 413 and answer.continues == 0
        client.assert_ended()


def test_a_refusal_is_read_by_a_client_that_goes_on_sending(server: Listening) -> None:
    for _ in range(10):
        with connected(server) as client:
            client.send(post(content=sized(MAX_BODY + 1)))
            client.send(b"x" * 300_000)
            assert client.answer().status == 413
            client.end_sending().assert_ended()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_is_defused(server: Listening, coding: str) -> None:
    plain = body(1) + b" " * 10_000_000
    bomb = gzip.compress(plain) if coding == "gzip" else zlib.compress(plain)
    assert len(bomb) < MAX_BODY and len(plain) > 500 * len(bomb)
    before = resident_mib()
    with connected(server) as client:
        for _ in range(20):
            answer = client.ask(post("/v2/models/echo/infer", bomb, f"Content-Encoding: {coding}"))
            assert answer.status == 413 and "http_max_body_size" in answer.error
        client.assert_open()
    assert resident_mib() - before < 20


def test_decompression_stops_at_the_limit() -> None:
    packed = compress(b"x" * 1000)
    assert decompress("gzip", packed, 1000) == decompress("gzip", packed, float("inf")) == b"x" * 1000
    for limit in (999, 1, 0):
        with pytest.raises(DecompressionError) as caught:
            decompress("gzip", packed, limit)
        assert caught.value.too_large and caught.value.status == 413
    with pytest.raises(DecompressionError) as caught:
        decompress("gzip", packed * 2, 1999)
    assert caught.value.too_large
    with pytest.raises(DecompressionError):
        decompress("gzip", compress(b"") * 10_000, 10)


def test_no_limits(tmp_path: Path) -> None:
    with http_server(tmp_path, http_max_body_size=-1) as server, connected(server) as client:
        content = body(1, 2) + b" " * 3_000_000
        assert client.ask(post(content=content)).values == [1, 2]
        assert client.ask(post("/v2/models/echo/infer", chunked(content), CHUNKED, length=False)).values == [
            1,
            2,
        ]
        packed = gzip.compress(content)
        assert client.ask(post("/v2/models/echo/infer", packed, "Content-Encoding: gzip")).values == [1, 2]


# Times


def slowly(client: Raw, data: bytes) -> float:
    """Send byte by byte, forever if need be, until the server answers; how long that took."""
    started = time.monotonic()
    client.socket.settimeout(0.05)
    try:
        for i in range(10_000):
            try:
                client.socket.sendall(data[i % len(data) : i % len(data) + 1])
                client._read += client.socket.recv(65536)
                break
            except TimeoutError:
                continue
    finally:
        client.socket.settimeout(20)
    return time.monotonic() - started


@pytest.mark.parametrize("first", [b"", get(), post()], ids=["first", "second", "after a post"])
def test_a_head_has_to_arrive_in_time(hasty: Listening, first: bytes) -> None:
    with connected(hasty) as client:
        if first:
            assert client.ask(first).status == 200
        client.send(b"GET /v2 HTTP/1.1\r\na: ")
        assert 0.4 < slowly(client, b"b") < 3.0  # whatever else arrives
        answer = client.answer()
        assert answer.status == 408 and "`http_header_timeout`" in answer.error
        client.assert_ended()


@pytest.mark.parametrize(
    "request_bytes", [post()[:-1], post("/v2/models/echo/infer", b"5\r\nab", CHUNKED, length=False)]
)
def test_a_body_has_to_go_on(hasty: Listening, request_bytes: bytes) -> None:
    with connected(hasty) as client:
        answer = client.ask(request_bytes)
        assert answer.status == 408 and "`http_body_timeout`" in answer.error
        client.assert_ended()


def test_a_slow_body_is_waited_for(hasty: Listening) -> None:
    request = post()
    with connected(hasty) as client:
        client.send(request[:-40])
        for i in range(40, 0, -1):
            time.sleep(0.04)  # 1.6 s in all
            client.send(request[-i : len(request) - i + 1])
        assert client.answer().values == [1, 2]


@pytest.mark.parametrize("first", [b"", get(), post(), b"\r\n"], ids=["nothing", "get", "post", "empty line"])
def test_an_idle_connection_is_closed(hasty: Listening, first: bytes) -> None:
    with connected(hasty) as client:
        if first.strip():
            assert client.ask(first).status == 200
        elif first:
            client.send(first)
        started = time.monotonic()
        client.assert_ended()
        assert 0.4 < time.monotonic() - started < 3.0


def test_empty_lines_are_no_sign_of_life(hasty: Listening) -> None:
    with connected(hasty) as client:
        assert client.ask(post()).status == 200
        started = time.monotonic()
        try:
            while client.socket.recv(1, socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            pass
        assert slowly(client, b"\r\n") < 3.0
        assert time.monotonic() - started < 3.0


def test_a_slow_model_is_waited_for(hasty: Listening) -> None:
    with connected(hasty) as client:
        client.send(post("/v2/models/waits/infer", body(id="slow")))
        wait_until_begun("slow")
        time.sleep(1.5)  # longer than any of the times
        open_gates.add("slow")
        assert client.answer().json()["id"] == "slow"


# Clients that do not read


def _unread(server: Listening, *, size: int = 4096) -> Raw:
    """A connection with little room for what it is sent."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    connection.connect((server.host, server.port))
    return Raw(connection)


def _large(count: int, *headers: str) -> bytes:
    content = json.dumps({"inputs": [], "parameters": {"count": count}}).encode()
    return post("/v2/models/large/infer", content, *headers)


@pytest.mark.parametrize("headers", [(), ("Connection: close",)])
def test_a_client_that_never_reads_is_given_up(hasty: Listening, headers: tuple[str, ...]) -> None:
    client = _unread(hasty)
    with client.socket:
        client.send(_large(3_000_000, *headers))
        wait_for(lambda: any(c._unsent for c in list(hasty.http._connections)), "the server to notice")
        assert_serves(hasty)
        wait_for(
            lambda: not [c for c in list(hasty.http._connections) if c._unsent], "the connection to be ended"
        )
        with pytest.raises((Ended, ConnectionError)):
            client.answer()


def test_a_client_that_only_sends_is_not_read(hasty: Listening) -> None:
    """Pipelining without reading fills no memory: neither with requests nor with answers."""
    client = _unread(hasty)
    requests = _large(20_000) * 50
    before = resident_mib()
    sent = 0
    with client.socket:
        client.socket.settimeout(10)
        with pytest.raises(ConnectionError):
            while sent < 200_000_000:
                client.socket.sendall(requests)
                sent += len(requests)
        assert sent < 60_000_000  # what the kernel holds; answers to it would take gigabytes
        assert resident_mib() - before < 60


def test_a_client_that_reads_slowly_gets_everything(hasty: Listening) -> None:
    client = _unread(hasty, size=65_536)
    count = 6_000_000  # much more than the kernel holds
    with client.socket:
        client.send(_large(count) + get())
        started = time.monotonic()
        while time.monotonic() - started < 2.0:  # three times as long as any of the times
            client._read += client.socket.recv(40_000)
            time.sleep(0.02)
        assert len(client._read) < count * 2
        answer = client.answer()
        assert len(answer.body) > count * 2 and answer.body.endswith(b"]}]}")
        assert client.answer().json()["name"] == "mlserver"


def test_many_slow_clients_hold_nobody_up(hasty: Listening) -> None:
    slow = [_unread(hasty) for _ in range(50)]
    try:
        for number, client in enumerate(slow):
            client.send((b"GET /v2 HT", post()[:-3], _large(500_000), b"")[number % 4])
        for _ in range(20):
            started = time.monotonic()
            assert_serves(hasty)
            assert time.monotonic() - started < 2.0
        wait_for(lambda: not hasty.http._connections, "all of them to be ended")
    finally:
        for client in slow:
            client.socket.close()


# Numbers


def test_connections_have_a_limit(tmp_path: Path) -> None:
    with http_server(tmp_path, http_max_connections=3, http_keep_alive=60) as server:
        wait_for(lambda: not server.http._connections, "an idle server")
        with connected(server) as one, connected(server) as two, connected(server) as three:
            for client in (one, two, three):
                client.assert_open()
            for _ in range(10):
                with connected(server) as four:
                    answer = four.ask(post())
                    assert answer.status == 503 and "`http_max_connections`" in answer.error
                    four.assert_ended()
            for client in (one, two, three):
                client.assert_open()
            # Those that were turned away and stay take nobody's place.
            refused = [server.connect() for _ in range(5)]
            wait_for(lambda: len(server.http._turned_away) >= 5, "five to be turned away")
            three.socket.close()
            http = server.http
            wait_for(lambda: len(http._connections) - len(http._turned_away) == 2, "the place to be free")
            with connected(server) as four:
                four.assert_open()
            for connection in refused:
                connection.close()


def test_what_waits_for_a_model_is_dropped_with_its_client(server: Listening) -> None:
    replica = server.server.service.registry.find("waits").replicas
    clients = [Raw(server.connect()) for _ in range(20)]
    for number, client in enumerate(clients):
        client.send(post("/v2/models/waits/infer", body(id=f"dropped {number}")))
    wait_until_begun("dropped 0")
    for client in clients:
        client.reset()
    wait_for(lambda: not replica._in_flight and not replica.queue_length, "the model to be idle")
    assert all(seen[f"dropped {n}"] in ([], ["begun", "cancelled"]) for n in range(20))
