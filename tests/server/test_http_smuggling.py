"""Bytes that two servers could read in two ways are read in none; text of clients never becomes structure."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from tests.fuzz.fuzz_http import TOKENS
from tests.fuzz.mutate import Mutator, seeds
from tests.running import Served
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
    post,
)

# What an attacker would hide in another request.
HIDDEN = post(content=body(666))
FAST, SLOW = "/v2/models/echo/infer", "/v2/models/%65cho/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with http_server(tmp_path_factory.mktemp("models")) as running:
        yield running


@pytest.fixture(autouse=True)
def _everybody_else_is_served(server: Listening) -> Iterator[None]:
    yield
    assert_serves(server)


def assert_refused(server: Served, attack: bytes, *statuses: int) -> None:
    """Refused once, and the connection ended, however the bytes are cut, and when they come again."""
    for pieces in (
        [attack],
        [attack],
        [attack[i : i + 1] for i in range(len(attack))],
        [attack[:30], attack[30:]],
    ):
        with connected(server) as client:
            client.send(*pieces[:-1])
            try:
                client.send(pieces[-1] + HIDDEN)
            except ConnectionError:
                pass
            answer = client.answer()
            assert answer.status in statuses, (answer, pieces)
            assert answer.error and answer.headers["connection"] == "close"
            client.assert_ended()
    # Behind a good request, too.
    with connected(server) as client:
        client.send(post(content=body(1)) + attack + HIDDEN)
        assert client.answer().values == [1]
        assert client.answer().status in statuses
        client.assert_ended()


def request(
    *headers: bytes, content: bytes = b"", version: bytes = b"1.1", path: bytes = b"/v2/models/echo/infer"
) -> bytes:
    return b"\r\n".join([b"POST %b HTTP/%b" % (path, version), b"Host: test", *headers, b"", content])


SMUGGLED = chunked(body(1))


@pytest.mark.parametrize(
    "headers",
    [
        (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(SMUGGLED)),
        (b"Content-Length: 0", b"Transfer-Encoding: chunked"),
        (b"Content-Length: 5", b"Content-Length: 5"),
        (b"Content-Length: 5", b"Content-Length: 6"),
        (b"Content-Length: 5", b"content-length: 0"),
        *(
            (b"Content-Length: " + value,)
            for value in (
                b"+5", b"-5", b"-0", b"0x5", b"5, 5", b"5,6", b"5 5", b"5;", b"5_0", b"1e1", b"5.0", b"",
                b"\xb2", b'"5"', b"five",
                b"18446744073709551616", b"9" * 400, b"\t+5", b"5\x0b",
            )
        ),
    ],
)  # fmt: skip
def test_lengths(server: Listening, headers: tuple[bytes, ...]) -> None:
    assert_refused(server, request(*headers, content=SMUGGLED), 400)


@pytest.mark.parametrize("length", [b"999999999999999999", b"18446744073709551615"])
def test_huge_lengths(server: Listening, length: bytes) -> None:
    assert_refused(server, request(b"Content-Length: " + length), 413)


@pytest.mark.parametrize("length", [b"%d ", b" \t%d", b"0000%d"])
def test_lengths_that_are_one_number(server: Listening, length: bytes) -> None:
    content = body(1)
    with connected(server) as client:
        for _ in range(2):
            client.send(request(b"Content-Length:" + length % len(content), content=content) + HIDDEN)
            assert client.answer().values == [1]
            assert client.answer().values == [666]


@pytest.mark.parametrize(
    "headers",
    [
        *(
            (b"Transfer-Encoding: " + value,)
            for value in (
                b"xchunked", b"chunkedx", b"chunked, identity", b"identity", b"gzip, chunked",
                b"chunked, chunked", b"gzip",
                b"chunked;q=1", b'"chunked"', b"chunked,", b",chunked", b"", b"chun ked",
                b"identity, chunked", b"\x0bchunked",
            )
        ),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
        (b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"),
    ],
)  # fmt: skip
def test_transfer_codings(server: Listening, headers: tuple[bytes, ...]) -> None:
    assert_refused(server, request(*headers, content=SMUGGLED), 400, 501)


def test_chunks_in_http_1_0(server: Listening) -> None:
    assert_refused(server, request(b"Transfer-Encoding: chunked", content=SMUGGLED, version=b"1.0"), 400)


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length : 5", b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked",
        b" Content-Length: 5",
        b"\tTransfer-Encoding: chunked", b"A: b\r\n c", b"A: b\r\n\tTransfer-Encoding: chunked",
        b"Transfer-Encoding:\r\n chunked",
        b"Content-Length:\r\n 5", b"A: b\x00", b"A: \x01b", b"A\x00: b", b"A: b\x7f",
        b"A: b\rTransfer-Encoding: chunked", b"A: b\r",
        b"\rA: b", b"A: b\nTransfer-Encoding: chunked", b"A: b\r\r", b": b", b"A", b"A b: c", b"A(: b",
        b"A\xe9: b",
        b"Transfer\xadEncoding: chunked", b"[x]: y",
    ],
)  # fmt: skip
def test_headers(server: Listening, header: bytes) -> None:
    assert_refused(server, request(header, b"X: y", content=b"0\r\n\r\n"), 400)
    assert_refused(server, request(b"X: y", header, content=b"0\r\n\r\n"), 400)


def test_bare_line_feeds(server: Listening) -> None:
    good = request(b"Content-Length: 0", b"X: y")
    for at in [i for i in range(len(good)) if good[i : i + 2] == b"\r\n"]:
        attack = good[:at] + good[at + 1 :]
        if attack.endswith(b"\r\n\n"):
            continue  # see below
        assert_refused(server, attack, 400)
    assert_refused(server, good.replace(b"\r\n", b"\n"), 400)
    # The end of the head is no end: what seems to be behind it is a line without a colon at best.
    with connected(server) as client:
        assert client.ask(good[:-2] + b"\n" + HIDDEN).status == 400
        client.assert_ended()


@pytest.mark.parametrize(
    "line",
    [
        b"POST  /v2 HTTP/1.1",
        b"POST /v2  HTTP/1.1",
        b"POST\t/v2 HTTP/1.1",
        b"POST /v2 HTTP/1.1 ",
        b" POST /v2 HTTP/1.1",
        b"POST /v2 http/1.1",
        b"POST /v2 HTTP/1.1x",
        b"POST /v2 HTTP/01.1",
        b"POST /v2 HTTP/1.10",
        b"POST /v2 HTTP/1,1",
        b"POST /v2 RTSP/1.0",
        b"POST /v2 HTTP /1.1",
        b"POST /v2",
        b"POST",
        b"/v2 HTTP/1.1",
    ],
)
def test_request_lines(server: Listening, line: bytes) -> None:
    assert_refused(server, line + b"\r\nHost: test\r\nContent-Length: 0\r\n\r\n", 400)


@pytest.mark.parametrize(
    "hosts",
    [
        (),
        (b"a", b"a"),
        (b"a", b"b"),
        (b"a b",),
        (b"a/b",),
        (b"a@b",),
        (b"a\\b",),
        (b"a:b",),
        (b"a,b#",),
        (b"[::1",),
        (b"\xe9",),
    ],
)
def test_hosts(server: Listening, hosts: tuple[bytes, ...]) -> None:
    lines = b"".join(b"Host: %b\r\n" % host for host in hosts)
    assert_refused(server, b"GET /v2 HTTP/1.1\r\n" + lines + b"\r\n", 400)


@pytest.mark.parametrize("host", [b"a", b"a:80", b"[::1]:80", b"127.0.0.1", b"a_b.c-d", b"", b"a:"])
def test_good_hosts(server: Listening, host: bytes) -> None:
    with connected(server) as client:
        assert client.ask(b"GET /v2 HTTP/1.1\r\nHost: %b\r\n\r\n" % host).status == 200
        assert client.ask(b"GET /v2/models/echo/ HTTP/1.1\r\nHost: %b\r\n\r\n" % host).status == 307


# Responses


@pytest.mark.parametrize("name", ["Evil: x\r\nInjected", "a b", "", "a:", "\xe9", "a\0", "☃"])
def test_a_model_cannot_set_what_is_no_header(server: Listening, name: str) -> None:
    with connected(server) as client:
        for path in ("infer", "%69nfer"):
            content = body(parameters={"set": {name: "x"}})
            answer = client.ask(post(f"/v2/models/sets-headers/{path}", content))
            assert answer.status == 500 and "injected" not in answer.headers
        client.assert_open()


@pytest.mark.parametrize(
    "value", ["x\r\nInjected: y", "x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "\n", "\r", "\0", "x\x7f", "☃"]
)
def test_a_model_cannot_end_a_header(server: Listening, value: str) -> None:
    with connected(server) as client:
        for path in ("infer", "%69nfer"):
            content = body(parameters={"set": {"x-mine": value}})
            answer = client.ask(post(f"/v2/models/sets-headers/{path}", content))
            assert answer.status == 500 and "injected" not in answer.headers and answer.error
        client.assert_open()


@pytest.mark.parametrize("value", ["x", "", "a\tb".replace("\t", " "), "\xe9", 5, True, "q=1; p"])
def test_a_model_can_set_headers(server: Listening, value: object) -> None:
    with connected(server) as client:
        for path in ("infer", "%69nfer"):
            content = body(parameters={"set": {"X-Mine": value}})
            answer = client.ask(post(f"/v2/models/sets-headers/{path}", content))
            assert answer.status == 200 and answer.headers["x-mine"] == str(value)


@pytest.mark.parametrize("status", [0, 100, 101, 199, 600, 1000, -200, "418", None, 418.5, 409, 503])
def test_a_model_cannot_choose_what_is_no_status(server: Listening, status: object) -> None:
    with connected(server) as client:
        for path in ("infer", "%69nfer", "infer_stream"):
            content = body(parameters={"status": status})
            answer = client.ask(post(f"/v2/models/refuses/{path}", content))
            assert answer.status == (status if status in (409, 503) else 500) and answer.error
        client.assert_open()


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Connection", "CONTENT-LENGTH"])
def test_a_model_cannot_say_where_its_answer_ends(server: Listening, name: str) -> None:
    with connected(server) as client:
        for path in ("infer", "%69nfer"):
            content = body(parameters={"set": {name: "3"}})
            assert (
                client.ask(post(f"/v2/models/sets-headers/{path}", content)).json()["model_name"]
                == "sets-headers"
            )
        client.assert_open()


@pytest.mark.parametrize(
    "key",
    ["a\r\nInjected: y", "a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "\n", "é", "☃", "\0", "\x7f", "😀", " ", "a\tb"],
)
@pytest.mark.parametrize("path", [FAST, SLOW, FAST.replace("infer", "infer_stream")])
def test_ids_are_only_text(server: Listening, key: str, path: str) -> None:
    with connected(server) as client:
        answer = client.ask(post(path, body(1, id=key)))
        text = answer.body.removeprefix(b"data: ")
        assert answer.status == 200 and json.loads(text)["id"] == key and "injected" not in answer.headers
        assert answer.headers.get("ce-id", "") in ("", key)
        client.assert_open()


def test_ids_are_headers_where_they_can_be(server: Listening) -> None:
    with connected(server) as client:
        answer = client.ask(post(content=body(id="a-1 :;,")))
        assert answer.headers["ce-id"] == answer.headers["ce-requestid"] == "a-1 :;,"


# Remembered heads


def _outcome(client: Raw, data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Everything that the server says to `data` and nothing more."""
    try:
        client.send(data).end_sending()
    except ConnectionError:
        pass
    answers: list[tuple[int, dict[str, str], bytes]] = []
    while True:
        try:
            answer = client.answer()
        except (Ended, ConnectionError):
            return answers
        answer.headers.pop("date")
        for name in ("ce-id", "ce-requestid"):
            if len(answer.headers.get(name, "")) == 36:
                answer.headers[name] = "generated"
        # What a stream says to a client that has ended its side depends on who was quicker.
        text = answer.body.replace(b":\n\n", b"")
        if b'"id":"' in text and b'"id":"7"' not in text:
            text = b"generated"
        answers.append((answer.status, answer.headers, text))


def test_a_remembered_head_is_treated_as_one_that_is_parsed(server: Listening) -> None:
    """With many more streams, and cut in all ways, in tests/fuzz."""
    streams = [data for data in seeds("http") if not data.startswith(b"HEAD") and b"gzip" not in data.lower()]
    tokens = [token for token in TOKENS if b"gzip" not in token and token != b"HEAD"]
    make = Mutator(random.Random(5), streams, tokens, joins=True)
    for _ in range(300):
        data = make.make()
        if b"HEAD" in data or b"gzip" in data.lower():
            continue
        server.http.heads.clear()
        with connected(server) as client:
            cold = _outcome(client, data)
        remembered = dict(server.http.heads)
        with connected(server) as client:
            assert _outcome(client, data) == cold, data
        assert server.http.heads == remembered


def test_only_good_heads_are_remembered(server: Listening) -> None:
    server.http.heads.clear()
    for attack in (
        request(b"Content-Length: +5"),
        request(b"Content-Length: 99999999999"),
        get("/v2", "A : b"),
    ):
        with connected(server) as client:
            assert client.ask(attack).status >= 400
    assert not server.http.heads
    with connected(server) as client:
        client.ask(post())
    assert len(server.http.heads) == 1


def test_remembered_heads_are_few_and_small(server: Listening) -> None:
    with connected(server) as client:
        for number in range(1500):
            assert client.ask(post(f"{FAST}?{number}")).status == 200
            assert client.ask(get("/v2", "a: " + "x" * 5000)).status == 200 if number % 100 == 0 else True
    assert len(server.http.heads) <= 1024
    assert max(map(len, server.http.heads)) <= 4096


def test_what_is_remembered_cannot_be_changed(server: Listening) -> None:
    """The model and the application get the headers of a head, and may change what they got."""
    with connected(server) as client:
        for path in (FAST, SLOW):
            for _ in range(2):
                client.ask(post(path, None, "X-A: b"))
    for whole, head in server.http.heads.items():
        lines = [line for line in whole.split(b"\r\n")[1:] if line]
        assert [name for name, _ in head.raw_headers] == [line.partition(b":")[0].lower() for line in lines]
        assert set(head.headers) == {name.decode() for name, _ in head.raw_headers}
