"""HTTP/1.1 as clients speak it, well or oddly: framing, connections, methods, targets, headers."""

from __future__ import annotations

import gzip
import json
import logging
import signal
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlserver.rest.protocol import HttpProtocol
from tests.running import TIMEOUT, process, wait_for, write_model
from tests.server.raw import (
    Ended,
    Listening,
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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with http_server(tmp_path_factory.mktemp("models")) as running:
        yield running


@pytest.fixture(autouse=True)
def _everybody_else_is_served(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        assert_serves(request.getfixturevalue("server"))


# Keep-alive and pipelining


def test_many_requests_on_one_connection(server: Listening) -> None:
    with connected(server) as client:
        for number in range(50):
            assert client.ask(post(content=body(number, id=str(number)))).values == [number]
            assert client.ask(get("/v2/models/echo")).json()["name"] == "echo"


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(),
        post(
            "/v2/models/echo/infer", chunked(body(1, 2), end=b"0;x=y\r\na: b\r\n\r\n"), CHUNKED, length=False
        ),
        post("/v2/models/%65cho/infer"),
    ],
    ids=["length", "chunks", "application"],
)
def test_byte_by_byte(server: Listening, request_bytes: bytes) -> None:
    with connected(server) as client:
        for _ in range(2):
            assert client.ask(*(request_bytes[i : i + 1] for i in range(len(request_bytes)))).values == [1, 2]


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(content=b'{"inputs":[]}'),
        post("/v2/models/echo/infer", chunked(b'{"inputs', b'":[]}'), CHUNKED, length=False),
        post("/v2/repository/index", b"{}"),
        get("/v2/health/live"),
    ],
    ids=["length", "chunks", "application", "get"],
)
def test_split_at_every_position(server: Listening, request_bytes: bytes) -> None:
    with connected(server) as client:
        for at in range(1, len(request_bytes)):
            assert client.ask(request_bytes[:at], request_bytes[at:]).status == 200, at


def test_pipelined_requests_are_answered_in_order(server: Listening) -> None:
    key = "pipelined"
    requests = [
        post(content=body(1)),
        get("/v2/models/echo"),
        post("/v2/models/waits/infer", body(id=key)),
        post(content=body(2)),
        post("/v2/models/nobody/infer"),
        post("/v2/models/echo/infer", chunked(body(3)), CHUNKED, length=False),
        get("/nowhere"),
        get("/v2", method="HEAD"),
        post(content=gzip.compress(body(4)), path="/v2/models/echo/infer").replace(
            b"Host: test", b"Host: test\r\nContent-Encoding: gzip"
        ),
    ]
    with connected(server) as client:
        for _ in range(2):  # the second time, their heads are remembered
            open_gates.discard(key)
            last = requests[0]
            client.send(b"".join(requests) + last[:20])
            assert client.answer().values == [1]
            assert client.answer().json()["name"] == "echo"
            wait_until_begun(key)
            open_gates.add(key)
            assert client.answer().json()["id"] == key
            assert client.answer().values == [2]
            assert client.answer().status == 404
            assert client.answer().values == [3]
            assert client.answer().status == 404
            assert client.answer("HEAD").headers["content-length"] != "0"
            assert client.answer().values == [4]
            assert client.ask(last[20:]).values == [1]


def test_a_thousand_pipelined_requests(server: Listening) -> None:
    with connected(server) as client:
        # More than is read ahead, in both directions.
        client.send(b"".join(post(content=body(n)) for n in range(1000)))
        assert [client.answer().values for _ in range(1000)] == [[n] for n in range(1000)]


def test_empty_lines_before_a_request_are_passed_over(server: Listening) -> None:
    with connected(server) as client:
        for lines in (b"\r\n", b"\r\n\r\n\r\n"):
            assert client.ask(lines + post()).values == [1, 2]
            assert client.ask(*(lines[i : i + 1] for i in range(len(lines))), post()).values == [1, 2]


# Ends of connections


@pytest.mark.parametrize("path", ["/v2/models/echo/infer", "/v2/repository/index"])
def test_connection_close(server: Listening, path: str) -> None:
    content = body(1) if "echo" in path else b"{}"
    with connected(server) as client:
        answer = client.ask(post(path, content, "Connection: close"))
        assert answer.status == 200 and answer.headers["connection"] == "close"
        client.assert_ended()


def test_nothing_is_answered_behind_connection_close(server: Listening) -> None:
    for _ in range(2):
        with connected(server) as client:
            answer = client.ask(
                post("/v2/models/echo/infer", None, "Connection: keep-alive, Close") + post() * 20
            )
            assert answer.values == [1, 2]
            client.assert_ended()


@pytest.mark.parametrize("path", ["/v2/models/echo/infer", "/v2/models/nobody/infer", "/v2/repository/index"])
def test_http_1_0(server: Listening, path: str) -> None:
    with connected(server) as client:
        for _ in range(2):
            answer = client.ask(post(path, b'{"inputs":[]}', "Connection: keep-alive", version="1.0"))
            assert answer.headers["connection"] == "keep-alive" and "content-length" in answer.headers
        answer = client.ask(post(path, b'{"inputs":[]}', version="1.0"))
        assert answer.headers["connection"] == "close"
        client.assert_ended()


def test_http_1_0_needs_no_host_and_gets_no_chunks(server: Listening) -> None:
    with connected(server) as client:
        assert client.ask(b"GET /v2 HTTP/1.0\r\n\r\n").status == 200
        client.assert_ended()
    with connected(server) as client:
        answer = client.ask(post("/v2/models/echo/infer_stream", body(5), version="1.0"))
        assert answer.status == 200 and "transfer-encoding" not in answer.headers
        assert json.loads(answer.body.removeprefix(b"data: "))["outputs"][0]["data"] == [5]


def test_a_half_closed_client_gets_its_answers(server: Listening) -> None:
    with connected(server) as client:
        client.send(post(content=body(1)) + get("/v2") + post(content=body(2)) + post()[:30]).end_sending()
        assert client.answer().values == [1]
        assert client.answer().status == 200
        assert client.answer().values == [2]
        client.assert_ended()  # the last was no whole request


@pytest.mark.parametrize("model", ["waits", "echo"])
def test_a_half_closed_client_may_wait_long(server: Listening, model: str) -> None:
    key = f"half closed {model}"
    with connected(server) as client:
        client.send(post(f"/v2/models/{model}/infer", body(id=key))).end_sending()
        if model == "waits":
            wait_until_begun(key)
            sweeps: list[float] = []  # each of which looks whether the client still listens
            (connection,) = server.busy
            sweep = HttpProtocol.sweep

            def count(self: HttpProtocol, now: float) -> None:
                sweep(self, now)
                if self is connection:
                    sweeps.append(now)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(HttpProtocol, "sweep", count)
                wait_for(lambda: len(sweeps) > 3, "sweeps")
            open_gates.add(key)
        assert client.answer().json()["id"] == key
        client.assert_ended()


@pytest.mark.parametrize("leave", ["reset", "close"])
@pytest.mark.parametrize("path", ["infer", "generate"])
def test_a_client_that_vanishes_abandons_its_request(
    server: Listening, leave: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = f"vanished {leave} {path}"
    replica = server.server.service.registry.find("waits").replicas
    with caplog.at_level(logging.DEBUG), connected(server) as client:
        client.send(post(f"/v2/models/waits/{path}", body(id=key)))
        wait_until_begun(key)
        if leave == "reset":
            client.reset()
        else:
            client.socket.close()
        wait_for(lambda: seen[key] == ["begun", "cancelled"], "the request to be abandoned")
        wait_for(lambda: not replica._in_flight, "the model to be idle")
        wait_for(lambda: not server.in_progress, "the gauges to be at rest")
        assert not replica.queue_length
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_client_that_vanishes_while_others_wait(server: Listening) -> None:
    keys = [f"one of {n}" for n in range(4)]
    with connected(server) as a, connected(server) as b, connected(server) as c, connected(server) as d:
        clients = (a, b, c, d)
        for client, key in zip(clients, keys, strict=True):
            client.send(post("/v2/models/waits/infer", body(id=key)))
            wait_until_begun(key)
        b.reset()
        wait_for(lambda: "cancelled" in seen[keys[1]], "the request to be abandoned")
        open_gates.update(keys)
        assert [client.answer().json()["id"] for client in (a, c, d)] == [keys[0], keys[2], keys[3]]


# Chunked bodies


@pytest.mark.parametrize(
    "content",
    [
        chunked(body(1, 2)),
        chunked(body(1, 2)[:10], body(1, 2)[10:]),
        chunked(*(body(1, 2)[i : i + 1] for i in range(len(body(1, 2))))),
        chunked(body(1, 2), end=b"0;last\r\n\r\n"),
        chunked(body(1, 2), end=b"0\r\nX-Sum: 5\r\nEmpty:\r\n\r\n"),
        chunked(body(1, 2), end=b"000\r\n\r\n"),
        b"%X;name=value;quoted=\"a;b\" \r\n%b\r\n0\r\n\r\n" % (len(body(1, 2)), body(1, 2)),
        b"000%x \t; x\r\n%b\r\n0\r\n\r\n" % (len(body(1, 2)), body(1, 2)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED "])
def test_chunks(server: Listening, content: bytes, coding: str) -> None:
    with connected(server) as client:
        for path in ("/v2/models/echo/infer", "/v2/models/%65cho/infer"):
            assert client.ask(post(path, content, f"Transfer-Encoding: {coding}", length=False)).values == [
                1,
                2,
            ]
        client.assert_open()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"g\r\n", b"0x5\r\n", b"+5\r\n", b"-5\r\n", b" 5\r\n", b"5 \r\nabcde\r\n", b"5,5\r\n",
        b"5_0\r\n", b"5\nabcde\r\n",
        b"5\rabcde\r\n", b"5\r\nabcdef\r\n", b"5\r\nabcde0\r\n\r\n", b"5\r\nabcde\n0\r\n\r\n", b";\r\n",
        b"\r\n",
        b"0\r\nbad trailer\r\n\r\n", b"0\r\na : b\r\n\r\n", b"0\r\n a: b\r\n\r\n", b"0\r\na: \0\r\n\r\n",
        b"0\r\n\n",
        b"5;a\0\r\nabcde\r\n", b"1;" + b"x" * 5000 + b"\r\n",
    ],
)  # fmt: skip
def test_bad_chunks(server: Listening, content: bytes) -> None:
    if not content:
        return
    with connected(server) as client:
        answer = client.ask(post("/v2/models/echo/infer", content, CHUNKED, length=False))
        assert answer.status in (400, 431) and answer.error and answer.headers["connection"] == "close"
        client.assert_ended()


@pytest.mark.parametrize("content", [b"1;" + b"x" * 1000 + b"\r\n.\r\n", b"0\r\n" + b"a: b\r\n" * 20_000])
def test_what_surrounds_chunks_has_a_limit(server: Listening, content: bytes) -> None:
    with connected(server) as client:
        request = post(
            "/v2/models/echo/infer", content * (1 if content[:1] == b"0" else 80), CHUNKED, length=False
        )
        assert client.ask(request).status == 431
        client.assert_ended()


@pytest.mark.parametrize("size", ["fffffffffffffff", "ffffffffffffffff", "1" + "0" * 40])
def test_huge_chunks(server: Listening, size: str) -> None:
    with connected(server) as client:
        answer = client.ask(post("/v2/models/echo/infer", f"{size}\r\n".encode(), CHUNKED, length=False))
        assert answer.status in (400, 413) and answer.error
        client.assert_ended()


# Expectations


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
def test_the_body_is_asked_for_when_the_client_waits_for_that(server: Listening, expect: str) -> None:
    request = post("/v2/models/echo/infer", None, f"Expect: {expect}")
    head, _, content = request.partition(b"\r\n\r\n")
    with connected(server) as client:
        for _ in range(2):
            client.send(head + b"\r\n\r\n")
            assert client.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert client.ask(content).values == [1, 2]
        client.send(head.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nX") + b"\r\n\r\n")
        assert client.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.ask(chunked(content)).values == [1, 2]


def test_nobody_waits_where_the_body_is_here(server: Listening) -> None:
    with connected(server) as client:
        answer = client.ask(post("/v2/models/echo/infer", None, "Expect: 100-continue"))
        assert answer.values == [1, 2] and answer.continues == 0
        assert client.ask(get("/v2", "Expect: 100-continue")).continues == 0


def test_continue_comes_after_the_answers_before_it(server: Listening) -> None:
    waiting = post("/v2/models/echo/infer", None, "Expect: 100-continue")
    head, _, content = waiting.partition(b"\r\n\r\n")
    with connected(server) as client:
        client.send(get("/v2") + head + b"\r\n\r\n")
        answer = client.answer()
        assert answer.status == 200 and answer.continues == 0
        assert client.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.ask(content).values == [1, 2]


@pytest.mark.parametrize(
    ("expect", "version"), [("something-else", "1.1"), ("", "1.1"), ("100-continue", "1.0")]
)
def test_other_expectations_are_passed_over(server: Listening, expect: str, version: str) -> None:
    head, _, content = post("/v2/models/echo/infer", None, f"Expect: {expect}", version=version).partition(
        b"\r\n\r\n"
    )
    with connected(server) as client:
        answer = client.ask(head + b"\r\n\r\n", content)
        assert answer.values == [1, 2] and answer.continues == 0


# Methods and targets


@pytest.mark.parametrize("header", [(), ("Accept-Encoding: gzip",)])
def test_head_is_get_without_the_body(tmp_path: Path, header: tuple[str, ...]) -> None:
    with http_server(tmp_path, metrics_endpoint="/metrics") as server, connected(server) as client:
        told = client.ask(get("/metrics", *header, method="HEAD"), method="HEAD")
        shown = client.ask(get("/metrics", *header))
        assert told.status == shown.status == 200 and shown.body
        varying = {"date": "", "content-length": ""}
        assert told.headers | varying == shown.headers | varying
        assert int(told.headers["content-length"]) > 0
        client.assert_open()


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/health/live", "/v2/models/echo", "/v2/models/nobody", "/nowhere"]
)
def test_head_never_has_a_body(server: Listening, path: str) -> None:
    with connected(server) as client:
        answer = client.ask(get(path, method="HEAD"), method="HEAD")
        assert int(answer.headers["content-length"]) > 0
        client.assert_open()


@pytest.mark.parametrize("path", ["/v2/models/echo/infer", "/v2/repository/index"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE", "M-SEARCH"])
def test_another_method(server: Listening, path: str, method: str) -> None:
    with connected(server) as client:
        answer = client.ask(get(path, method=method), method=method)
        assert answer.status == 405 and answer.headers["allow"] == "POST"
        if method != "HEAD":
            assert answer.json() == {"error": "Method Not Allowed", "detail": "Method Not Allowed"}
        client.assert_open()


def test_an_unknown_path(server: Listening) -> None:
    with connected(server) as client:
        answer = client.ask(get("/nowhere"))
        assert answer.status == 404 and answer.json() == {"error": "Not Found", "detail": "Not Found"}
        assert client.ask(get("*", method="OPTIONS")).status in (200, 204, 404)
        client.assert_open()


@pytest.mark.parametrize("method", ["FOO", "get", "G@T", "CONNECT", "X" * 40, ""])
def test_no_method(server: Listening, method: str) -> None:
    with connected(server) as client:
        answer = client.ask(get("/v2", method=method))
        assert answer.status == (501 if method in ("FOO", "CONNECT") else 400) and answer.error
        client.assert_ended()


@pytest.mark.parametrize(
    ("name", "model"),
    [("a%20b", "a b"), ("%61%20b", "a b"), ("%c3%a9", "é"), ("%C3%A9", "é"), ("ech%6F", "echo")],
)
def test_encoded_names(server: Listening, name: str, model: str) -> None:
    with connected(server) as client:
        assert client.ask(post(f"/v2/models/{name}/infer")).json()["model_name"] == model
        assert client.ask(get(f"/v2/models/{name}")).json()["name"] == model


@pytest.mark.parametrize(
    "name", ["a%2Fb", "%zz", "%", "%E9", "%00", "%0d%0aX-Injected:%20yes", "..", "%2e%2e"]
)
def test_names_of_nobody(server: Listening, name: str) -> None:
    with connected(server) as client:
        for request in (post(f"/v2/models/{name}/infer"), get(f"/v2/models/{name}")):
            answer = client.ask(request)
            assert answer.status == 404 and answer.error and "x-injected" not in answer.headers
        client.assert_open()


@pytest.mark.parametrize(
    "path", ["/v2/models/echo/infer?", "/v2/models/echo/infer?a=b&c=%zz/../?x", "/v2/models/echo/generate?a"]
)
def test_queries_are_passed_over(server: Listening, path: str) -> None:
    with connected(server) as client:
        assert client.ask(post(path)).values == [1, 2]
        assert client.ask(get("/v2/models/echo?a=/infer")).json()["name"] == "echo"


@pytest.mark.parametrize("start", ["http://test", "http://other:80", "https://test"])
def test_absolute_targets(server: Listening, start: str) -> None:
    with connected(server) as client:
        assert client.ask(post(f"{start}/v2/models/a%20b/infer?x=y")).json()["model_name"] == "a b"
        assert client.ask(get(f"{start}/v2/health/live")).status == 200
        assert client.ask(get(start)).status == 404


@pytest.mark.parametrize(
    "target", ["v2", "ftp://test/v2", "*", "test:80", "/a b", "/\xe9", "", "/v2\x7f", "/v2\t"]
)
def test_no_target(server: Listening, target: str) -> None:
    with connected(server) as client:
        answer = client.ask(get(target))
        assert answer.status == 400 and answer.error
        client.assert_ended()


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "3.0"])
def test_another_version(server: Listening, version: str) -> None:
    with connected(server) as client:
        answer = client.ask(get("/v2", version=version))
        assert answer.status == 505 and "HTTP/1.1" in answer.error
        client.assert_ended()


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"SSH-2.0-x\r\n",
        b"{}",
        b"GET /v2\r\n\r\n",
    ],
)
def test_another_protocol_is_answered_at_once(server: Listening, data: bytes) -> None:
    with connected(server) as client:
        assert client.ask(data).status in (400, 505)
        client.assert_ended()


@pytest.mark.parametrize("content", ["length", "chunks", "none"])
def test_an_offer_to_upgrade_is_passed_over(server: Listening, content: str) -> None:
    offer = (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    )
    requests = {
        "length": post("/v2/models/echo/infer", body(1, 2), *offer),
        "chunks": post("/v2/models/echo/infer", chunked(body(1, 2)), *offer, CHUNKED, length=False),
        "none": get("/v2/models/echo", *offer),
    }
    request = requests[content]
    with connected(server) as client:
        for pieces in (
            [request],
            [request[:100], request[100:]],
            [request[i : i + 1] for i in range(len(request))],
        ):
            answer = client.ask(*pieces)
            assert answer.status == 200 and "upgrade" not in answer.headers
            assert content == "none" or answer.values == [1, 2]
        client.send(request + post(content=body(9)))
        assert client.answer().status == 200
        assert client.answer().values == [9]


# Compression


def _deflate(data: bytes) -> bytes:
    return zlib.compress(data)


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", _deflate),
        ("identity", bytes),
    ],
)
@pytest.mark.parametrize("size", [2, 5000])
def test_compressed_requests(server: Listening, coding: str, packed: Any, size: int) -> None:
    values = list(range(size))
    with connected(server) as client:
        header = f"Content-Encoding: {coding}"
        content = packed(body(*values))
        for path in ("/v2/models/echo/infer", "/v2/models/%65cho/infer"):
            assert client.ask(post(path, content, header)).values == values
        request = post("/v2/models/echo/infer", chunked(content), header, CHUNKED, length=False)
        assert client.ask(request).values == values
        assert client.ask(post("/v2/repository/index", packed(b"{}"), header)).status == 200


def test_gzip_with_several_members(server: Listening) -> None:
    content = gzip.compress(body(1, 2)[:9]) + gzip.compress(body(1, 2)[9:])
    with connected(server) as client:
        assert client.ask(post("/v2/models/echo/infer", content, "Content-Encoding: gzip")).values == [1, 2]


@pytest.mark.parametrize("size", [1, 5000])
@pytest.mark.parametrize("fault", ["noise", "cut", "nothing", "flipped", "junk", "raw", "second"])
@pytest.mark.parametrize(("coding", "packed"), [("gzip", gzip.compress), ("deflate", _deflate)])
def test_broken_compression(server: Listening, size: int, fault: str, coding: str, packed: Any) -> None:
    good = packed(body(*range(size)))
    content = {
        "noise": b"\x99" * 2000,
        "cut": good[:-5],
        "nothing": b"",
        "flipped": good[:-4] + bytes([good[-4] ^ 1]) + good[-3:],
        "junk": good + b"junk",
        "raw": body(1),
        "second": good + packed(body(2))[:12],
    }[fault]
    with connected(server) as client:
        answer = client.ask(post("/v2/models/echo/infer", content, f"Content-Encoding: {coding}"))
        assert answer.status == 400 and coding in answer.error
        client.assert_open()


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress", "*"])
def test_an_unknown_coding(server: Listening, coding: str) -> None:
    with connected(server) as client:
        answer = client.ask(post("/v2/models/echo/infer", None, f"Content-Encoding: {coding}"))
        assert answer.status == 415 and coding in answer.error
        client.assert_open()


_MANY = {"id": "many", "parameters": {"count": 50_000}}


@pytest.mark.parametrize(
    ("accept", "compressed"),
    [
        ("gzip", True), ("GZip", True), ("deflate, gzip;q=0.5, br", True), ("gzip;q=1.0", True),
        ("gzip;q=0.001", True),
        ("gzip;q=0", False), ("gzip;q=0.000", False), ("gzip; q=0", False), ("gzip ; Q=0.0", False),
        ("gzip;q=0.", False),
        ("br, deflate", False), ("identity", False), ("", False), ("gzipped", False), ("x-gzip", False),
    ],
)  # fmt: skip
def test_compressed_answers(server: Listening, accept: str, compressed: bool) -> None:
    large = post(
        "/v2/models/large/infer", json.dumps({"inputs": [], **_MANY}).encode(), f"Accept-Encoding: {accept}"
    )
    requests = [large, post("/v2/models/echo/infer", body(*range(300)), f"Accept-Encoding: {accept}")]
    # Errors as well.
    requests.append(
        post("/v2/models/echo/infer", b'{"inputs": [1, 2, 3, 4, 5, 6, 7]}', f"Accept-Encoding: {accept}")
    )
    with connected(server) as client:
        for request in requests * 2:
            answer = client.ask(request)
            assert (answer.headers.get("content-encoding") == "gzip") is compressed
            assert (answer.headers.get("vary") == "Accept-Encoding") is compressed
            assert answer.json()
        assert len(client.ask(large).json()["outputs"][0]["data"]) == 50_000


def test_small_answers_and_streams_are_not_compressed(server: Listening) -> None:
    header = "Accept-Encoding: gzip"
    with connected(server) as client:
        assert "content-encoding" not in client.ask(post("/v2/models/echo/infer", None, header)).headers
        answer = client.ask(post("/v2/models/echo/infer_stream", body(*range(2000)), header))
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in answer.headers and answer.body.startswith(b"data: {")


def test_nothing_is_compressed_where_that_is_switched_off(tmp_path: Path) -> None:
    with http_server(tmp_path, gzip_enabled=False) as server, connected(server) as client:
        for path in ("/v2/models/echo/infer", "/v2/models/%65cho/infer"):
            answer = client.ask(post(path, body(*range(1000)), "Accept-Encoding: gzip"))
            assert answer.values == list(range(1000)) and "content-encoding" not in answer.headers
            # What comes in is another matter.
            assert client.ask(post(path, gzip.compress(body(1)), "Content-Encoding: gzip")).values == [1]


# Stopping


_SLOW = """
import asyncio
from mlserver import MLModel
from mlserver.types import InferenceResponse

class Slow(MLModel):
    async def predict(self, payload):
        print("predict begins", flush=True)
        await asyncio.sleep(payload.parameters.seconds)
        return InferenceResponse(model_name=self.name, outputs=[])
"""


def test_what_was_accepted_is_answered_when_the_server_stops(tmp_path: Path) -> None:
    write_model(tmp_path, "slow", "models.Slow", _SLOW)
    content = json.dumps({"inputs": [], "parameters": {"seconds": 1.0}}).encode()
    request = post("/v2/models/slow/infer", content)
    with (
        process(tmp_path) as server,
        connected(server) as idle,
        connected(server) as busy,
        connected(server) as late,
    ):
        idle.assert_open()
        late.send(request[:-5])  # its body is on its way
        busy.send(request)
        wait_for(lambda: "predict begins" in server.log(), "the request to reach its model")
        server.process.send_signal(signal.SIGTERM)
        idle.assert_ended()
        with pytest.raises(OSError):
            with connected(server) as another:
                another.ask(get())
            raise ConnectionError
        late.send(request[-5:])
        for client in (busy, late):
            answer = client.answer()
            assert answer.status == 200 and answer.headers["connection"] == "close"
            client.assert_ended()
        assert server.process.wait(TIMEOUT) == 0
        assert "Traceback" not in server.log()


def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    write_model(tmp_path, "slow", "models.Slow", _SLOW)
    content = json.dumps({"inputs": [], "parameters": {"seconds": 60}}).encode()
    with process(tmp_path, MLSERVER_SHUTDOWN_TIMEOUT="0.5") as server, connected(server) as client:
        client.send(post("/v2/models/slow/infer", content))
        wait_for(lambda: "predict begins" in server.log(), "the request to reach its model")
        assert server.stop() == 0
        with pytest.raises((Ended, ConnectionError)):
            client.answer()
