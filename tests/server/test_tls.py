"""TLS on all ports: certificates, clients that must show theirs, files that change, peers that fit ill."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.settings
import numpy as np
import pytest
import requests
import trustme

import mlserver.tls
import mlserver.utils
from mlserver import MLModel
from mlserver.errors import StartError
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.settings import Settings
from mlserver.tls import Tls
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from tests.running import TIMEOUT, InThread, serving, wait_for, write_model

if sys.version_info < (3, 11):
    # asyncio says so there of every TLS connection that the client closed.
    pytestmark = pytest.mark.filterwarnings(
        "ignore:.*_SSLProtocolTransport.__del__:pytest.PytestUnraisableExceptionWarning"
    )

AUTHORITY = trustme.CA()
STRANGER = trustme.CA()
LEAF = AUTHORITY.issue_cert("localhost", "127.0.0.1", common_name="first")
MODELS = {
    "echo": "tests.server.raw.Echo",
    "waits": "tests.server.raw.Waits",
    "large": "tests.server.raw.Large",
    "sized": "tests.server.test_tls.Sized",
}
INFER = "/v2/models/echo/infer"


class Sized(MLModel):
    """Answers with as many bytes as its parameters ask for."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        assert payload.parameters is not None
        count = payload.parameters.count
        content: Any = np.zeros(count, dtype=np.uint8)
        output = ResponseOutput(name="y", shape=[count], datatype="UINT8", data=content)
        return InferenceResponse(model_name=self.name, outputs=[output])


@dataclass
class Files:
    """Certificates as Kubernetes mounts them: links into a folder that is swapped as a whole."""

    folder: Path
    version: int = 0

    def put(self, leaf: trustme.LeafCert, authorities: list[trustme.CA] = [], key: bytes = b"") -> None:  # noqa: B006
        self.put_bytes(
            b"".join(blob.bytes() for blob in leaf.cert_chain_pems),
            key or leaf.private_key_pem.bytes(),
            b"".join(authority.cert_pem.bytes() for authority in authorities),
        )

    def put_bytes(self, certificate: bytes, key: bytes, authorities: bytes = b"") -> None:
        self.version += 1
        version = self.folder / f"..{self.version}"
        version.mkdir(parents=True)
        for name, content in {"tls.crt": certificate, "tls.key": key, "ca.crt": authorities}.items():
            (version / name).write_bytes(content)
        link = self.folder / "..new"
        link.symlink_to(version.name)
        link.rename(self.folder / "..data")
        for name in ("tls.crt", "tls.key", "ca.crt"):
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")

    def settings(self, *, mutual: bool = False) -> dict[str, str]:
        names = {"tls_certificate": "tls.crt", "tls_private_key": "tls.key", "tls_client_ca": "ca.crt"}
        return {
            setting: str(self.folder / name)
            for setting, name in names.items()
            if mutual or setting != "tls_client_ca"
        }


class Complaints(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@dataclass
class Secure(InThread):
    """A server that speaks TLS, and its clients."""

    root: Path = field()
    complaints: list[str] = field()
    client: tuple[str, str] | None = None
    client_pems: tuple[bytes, bytes] | None = None

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return super().get(path, **{"verify": str(self.root), "cert": self.client, **kwargs})

    def post(self, path: str, body: Any = None, **kwargs: Any) -> requests.Response:
        return super().post(path, body, **{"verify": str(self.root), "cert": self.client, **kwargs})

    def tls(self, port: int | None = None, **kwargs: Any) -> ssl.SSLSocket:
        """A raw connection."""
        plain = socket.create_connection((self.host, port or self.port), timeout=TIMEOUT)
        return trusting(self.root, **kwargs).wrap_socket(plain, server_hostname="localhost")

    def channel(self, pems: tuple[bytes, bytes] | None = None) -> grpc.Channel:
        certificate, key = pems or self.client_pems or (None, None)
        credentials = grpc.ssl_channel_credentials(self.root.read_bytes(), key, certificate)
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        return grpc.secure_channel(f"localhost:{self.server.grpc_port}", credentials, options)

    def common_name(self) -> str:
        with closing(self.tls()) as connection:
            return dict(part[0] for part in connection.getpeercert()["subject"])["commonName"]  # type: ignore


def trusting(root: Path, protocols: list[str] | None = None, version: Any = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(root))
    if protocols:
        context.set_alpn_protocols(protocols)
    if version:
        context.minimum_version = context.maximum_version = version
    return context


@contextmanager
def secure(folder: Path, files: Files, *, mutual: bool = False, **settings: Any) -> Iterator[Secure]:
    root = folder / "root.pem"
    AUTHORITY.cert_pem.write_to_path(root)
    models = folder / "models"
    for name, implementation in MODELS.items():
        write_model(models, name, implementation)
    complaints = Complaints()
    loggers = [logging.getLogger("mlserver"), logging.getLogger("asyncio")]
    with serving(models, **{**files.settings(mutual=mutual), **settings}) as server:
        for logger in loggers:
            logger.addHandler(complaints)
        try:
            yield Secure(**vars(server), root=root, complaints=complaints.lines)
        finally:
            for logger in loggers:
                logger.removeHandler(complaints)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path / "secret")
    files.put(LEAF, [AUTHORITY])
    return files


@pytest.fixture
def quick_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlserver.tls, "_LOOK_EVERY", 0.02)


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("tls")
    files = Files(folder / "secret")
    files.put(LEAF)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "asyncio":
            patch.setattr(mlserver.utils, "_uvloop", lambda: None)
        limits = {"http_max_body_size": 20_000_000, "http_keep_alive": 0.8, "http_body_timeout": 0.8}
        with secure(folder, files, http_header_timeout=1.0, **limits) as server:
            yield server


@pytest.fixture(autouse=True)
def no_complaints(request: pytest.FixtureRequest) -> Iterator[None]:
    server: Secure | None = request.getfixturevalue("server") if "server" in request.fixturenames else None
    yield
    if server is not None:
        assert not server.complaints


def body(count: int = 3) -> dict[str, Any]:
    data = list(range(count))
    return {"inputs": [{"name": "x", "shape": [count], "datatype": "INT64", "data": data}]}


def raw_request(count: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="echo")
    request.inputs.add(name="x", datatype="UINT8", shape=[count])
    request.raw_input_contents.append(np.arange(count, dtype=np.uint8).tobytes())
    return request


def read_all(connection: socket.socket) -> bytes:
    pieces = []
    try:
        while piece := connection.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def slow_to_read(server: Secure, port: int, **kwargs: Any) -> ssl.SSLSocket:
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    plain.settimeout(TIMEOUT)
    plain.connect((server.host, port))
    return trusting(server.root, **kwargs).wrap_socket(plain, server_hostname="localhost")


def call(request: pb.ModelInferRequest) -> bytes:
    """All that a gRPC client sends to make one call, with room for any reply."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    connection.initiate_connection()
    connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
    connection.increment_flow_control_window(2**31 - 1 - 65535)
    fields = {":method": "POST", ":scheme": "https", ":authority": "x", "te": "trailers"}
    fields |= {":path": "/inference.GRPCInferenceService/ModelInfer", "content-type": "application/grpc"}
    connection.send_headers(1, sorted(fields.items()))
    message: bytes = request.SerializeToString()
    connection.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
    return connection.data_to_send()


def pem_files(folder: Path, leaf: trustme.LeafCert) -> tuple[str, str]:
    folder.mkdir(exist_ok=True)
    leaf.cert_chain_pems[0].write_to_path(folder / "client.crt")
    leaf.private_key_pem.write_to_path(folder / "client.key")
    return str(folder / "client.crt"), str(folder / "client.key")


# Clients


def test_rest(server: Secure) -> None:
    assert server.get("/v2/health/ready").ok
    with requests.Session() as session:
        session.verify, session.trust_env = str(server.root), False
        for _ in range(3):
            answer = session.post(server.url + INFER, json=body(), timeout=TIMEOUT)
            assert answer.json()["outputs"][0]["data"] == [0, 1, 2]


def test_rest_with_http_client(server: Secure) -> None:
    connection = http.client.HTTPSConnection(
        "localhost", server.port, timeout=TIMEOUT, context=trusting(server.root)
    )
    with closing(connection):
        connection.request("POST", INFER, json.dumps(body()))
        assert connection.getresponse().status == 200


@pytest.mark.parametrize("count", [40_000, 1_000_000])
def test_large_bodies(server: Secure, count: int) -> None:
    answer = server.post(INFER, body(count))
    assert answer.json()["outputs"][0]["data"] == list(range(count))


def test_a_body_in_chunks(server: Secure) -> None:
    text = json.dumps(body(100_000)).encode()
    pieces = (text[at : at + 10_000] for at in range(0, len(text), 10_000))
    assert server.post(INFER, data=pieces).json()["outputs"][0]["shape"] == [100_000]


def test_links_are_https(server: Secure) -> None:
    answer = server.get("/v2/health/ready/", allow_redirects=False)
    assert answer.headers["location"].startswith("https://")


def test_grpc(server: Secure) -> None:
    with server.channel() as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT).ready
        for count in (3, 8_000_000):
            request = raw_request(count)
            reply = stub.ModelInfer(request, timeout=TIMEOUT)
            assert list(reply.raw_output_contents) == list(request.raw_input_contents)
        calls = [stub.ModelInfer.future(raw_request(n), timeout=TIMEOUT) for n in range(1, 50)]
        assert [len(call.result().raw_output_contents[0]) for call in calls] == list(range(1, 50))


def test_metrics(server: Secure) -> None:
    url = f"https://{server.host}:{server.metrics_port}/metrics"
    assert "rest_server" in requests.get(url, verify=str(server.root), timeout=TIMEOUT).text


# Versions and protocols


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(server: Secure, version: ssl.TLSVersion) -> None:
    with closing(server.tls(version=version)) as connection:
        assert connection.version() == version.name.replace("_", ".")


def test_tls_1_1_is_refused(server: Secure) -> None:
    context = trusting(server.root)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((server.host, server.port), timeout=TIMEOUT) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize(
    ("port", "offered", "chosen"),
    [
        ("http", ["h2", "http/1.1"], "http/1.1"),
        ("http", None, None),
        ("grpc", ["http/1.1", "h2"], "h2"),
        ("grpc", ["http/1.1"], None),
        ("metrics", ["h2", "http/1.1"], "http/1.1"),
    ],
)
def test_alpn(server: Secure, port: str, offered: list[str] | None, chosen: str | None) -> None:
    with closing(server.tls(getattr(server.server, f"{port}_port"), protocols=offered)) as connection:
        assert connection.selected_alpn_protocol() == chosen


# Connections that end


def test_http_on_the_grpc_port_ends(server: Secure) -> None:
    with closing(server.tls(server.server.grpc_port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        read_all(connection)


@pytest.mark.parametrize("port", ["http", "grpc", "metrics"])
def test_a_plain_client_is_turned_away(server: Secure, port: str) -> None:
    address = server.host, getattr(server.server, f"{port}_port")
    with socket.create_connection(address, timeout=TIMEOUT) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"HTTP/1.1" not in read_all(connection)
    assert server.get("/v2").ok


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"])
def test_a_handshake_that_never_ends_is_ended(server: Secure, sent: bytes) -> None:
    with socket.create_connection((server.host, server.port), timeout=TIMEOUT) as connection:
        connection.sendall(sent)
        began = time.monotonic()
        assert read_all(connection) == b""
        assert time.monotonic() - began < 5


def test_a_connection_that_closes_says_so(server: Secure) -> None:
    with closing(server.tls()) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200")  # an end without close_notify would raise


def test_an_idle_connection_closes(server: Secure) -> None:
    with closing(server.tls()) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200")


def test_a_refused_client_that_still_sends_reads_the_answer(server: Secure) -> None:
    with closing(server.tls()) as connection:
        connection.sendall(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n" % INFER.encode()
        )
        for _ in range(20):
            connection.sendall(bytes(100_000))
        assert read_all(connection).startswith(b"HTTP/1.1 413")
    wait_for(lambda: server.get("/v2").ok, "the next answer")


def test_a_client_that_leaves_frees_the_model(server: Secure) -> None:
    from tests.server.raw import seen

    key = f"leaves {server.port}"
    text = json.dumps({"id": key, **body()}).encode()
    with closing(server.tls()) as connection:
        connection.sendall(
            b"POST /v2/models/waits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
            % (len(text), text)
        )
        wait_for(lambda: seen[key])
    wait_for(lambda: seen[key] == ["begun", "cancelled"], "cancellation")


def test_a_client_that_ends_its_side_has_left(server: Secure) -> None:
    from tests.server.raw import seen

    key = f"ends {server.port}"
    text = json.dumps({"id": key, **body()}).encode()
    with closing(server.tls()) as connection:
        connection.sendall(
            b"POST /v2/models/waits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
            % (len(text), text)
        )
        wait_for(lambda: seen[key])
        with suppress(ssl.SSLEOFError):  # asyncio of Python 3.10 does not say good-bye
            connection.unwrap().close()
    wait_for(lambda: seen[key] == ["begun", "cancelled"], "cancellation")

    key += " grpc"
    with closing(server.tls(server.server.grpc_port, protocols=["h2"])) as connection:
        connection.sendall(call(pb.ModelInferRequest(model_name="waits", id=key)))
        wait_for(lambda: seen[key])
        for _ in range(20):  # what the server has to say comes before its end
            try:
                connection.unwrap().close()
                break
            except ssl.SSLError:
                continue
    wait_for(lambda: seen[key] == ["begun", "cancelled"], "cancellation")


def test_a_large_body_that_stops(server: Secure) -> None:
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000\r\n\r\n" % INFER.encode()
    with closing(server.tls()) as connection:
        connection.sendall(head + bytes(400_000))
    with closing(server.tls()) as connection:
        connection.sendall(head + bytes(400_000))
        assert read_all(connection).startswith(b"HTTP/1.1 408")


def test_a_slow_reader_of_grpc_gets_all(server: Secure) -> None:
    request = pb.ModelInferRequest(model_name="sized")
    request.parameters["count"].int64_param = size = 40_000_000
    with closing(slow_to_read(server, server.server.grpc_port, protocols=["h2"])) as connection:
        connection.sendall(call(request))
        total, began = 0, time.monotonic()
        while total < size and (piece := connection.recv(65536)):
            total += len(piece)
            if time.monotonic() - began < 2.0:
                time.sleep(0.1)
    assert total >= size and time.monotonic() - began > 1.9


def test_a_slow_reader_gets_all(server: Secure) -> None:
    """It takes longer than every timeout; that it goes on reading is enough."""
    text = json.dumps({**body(), "parameters": {"count": 10_000_000}}).encode()
    with closing(slow_to_read(server, server.port)) as connection:
        connection.sendall(
            b"POST /v2/models/large/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(text), text)
        )
        total, began = 0, time.monotonic()
        while piece := connection.recv(65536):
            total += len(piece)
            if time.monotonic() - began < 2.0:
                time.sleep(0.02)
    assert total > 20_000_000 and time.monotonic() - began > 1.9


@pytest.mark.parametrize("port", ["http", "grpc"])
def test_a_client_that_never_reads_is_let_go(server: Secure, port: str) -> None:
    if port == "http":
        text = json.dumps({**body(), "parameters": {"count": 10_000_000}}).encode()
        head = b"POST /v2/models/large/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(text)
        sent = head + text
    else:
        request = pb.ModelInferRequest(model_name="sized")
        request.parameters["count"].int64_param = 20_000_000
        sent = call(request)
    protocols = ["http/1.1", "h2"]
    with closing(server.tls(getattr(server.server, f"{port}_port"), protocols=protocols)) as connection:
        connection.sendall(sent)
        time.sleep(2.4)
        total = 0
        with pytest.raises((ssl.SSLError, ConnectionError)):
            while piece := connection.recv(1 << 20):
                total += len(piece)
            raise ConnectionError
        assert total < 20_000_000


def test_a_tls_client_on_a_plain_port_ends(tmp_path: Path, files: Files) -> None:
    with secure(tmp_path, files, tls_ports=["metrics"]) as server:
        for port in (server.port, server.server.grpc_port):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                server.tls(port)
        assert requests.get(f"http://{server.host}:{server.port}/v2", timeout=TIMEOUT).ok
        url = f"https://{server.host}:{server.metrics_port}/metrics"
        assert requests.get(url, verify=str(server.root), timeout=TIMEOUT).ok
        assert not server.complaints


def test_metrics_left_in_clear(tmp_path: Path, files: Files) -> None:
    with secure(tmp_path, files, mutual=True, tls_ports=["http", "grpc"]) as server:
        assert "rest_server" in server.metrics()


# Clients that must show who they are


def test_mutual_tls(tmp_path: Path, files: Files) -> None:
    good, bad = AUTHORITY.issue_cert("client"), STRANGER.issue_cert("client")
    with secure(tmp_path, files, mutual=True) as server:
        assert server.get("/v2", cert=pem_files(tmp_path / "good", good)).ok
        for cert in (None, pem_files(tmp_path / "bad", bad)):
            with pytest.raises(requests.ConnectionError):
                server.get("/v2", cert=cert)
        pems = {leaf: (leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes()) for leaf in (good, bad)}
        with server.channel(pems[good]) as channel:
            assert GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT).live
        for unwelcome in (pems[bad], None):
            with server.channel(unwelcome) as channel, pytest.raises(grpc.RpcError) as refused:
                GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not server.complaints


# Files that change


@pytest.mark.usefixtures("quick_look")
def test_a_new_certificate_under_load(tmp_path: Path, files: Files) -> None:
    failures: list[BaseException] = []
    counts = [0, 0, 0]
    done = threading.Event()

    def rest(keep: bool) -> None:
        try:
            with requests.Session() as session:
                session.verify, session.trust_env = str(server.root), False
                headers = {} if keep else {"connection": "close"}
                while not done.is_set():
                    assert session.post(server.url + INFER, json=body(), headers=headers, timeout=TIMEOUT).ok
                    counts[keep] += 1
        except BaseException as exc:
            failures.append(exc)

    def over_grpc() -> None:
        try:
            with server.channel() as channel:
                stub = GRPCInferenceServiceStub(channel)
                while not done.is_set():
                    stub.ModelInfer(raw_request(100), timeout=TIMEOUT)
                    counts[2] += 1
        except BaseException as exc:
            failures.append(exc)

    with secure(tmp_path, files) as server, closing(server.tls()) as old:
        threads = [threading.Thread(target=rest, args=(keep,)) for keep in (True, False)]
        threads.append(threading.Thread(target=over_grpc))
        for thread in threads:
            thread.start()
        try:
            assert server.common_name() == "first"
            for number in range(3):
                name = f"number {number}"
                files.put(AUTHORITY.issue_cert("localhost", "127.0.0.1", common_name=name))
                wait_for(lambda name=name: server.common_name() == name, "the new certificate")
                before = list(counts)
                wait_for(lambda before=before: all(n > b for n, b in zip(counts, before, strict=True)))
        finally:
            done.set()
            for thread in threads:
                thread.join(TIMEOUT)
        assert not failures
        old.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert old.recv(100).startswith(b"HTTP/1.1 200")
        assert not server.complaints


@pytest.mark.usefixtures("quick_look")
def test_a_broken_certificate_changes_nothing(tmp_path: Path, files: Files) -> None:
    other = AUTHORITY.issue_cert("localhost", "127.0.0.1", common_name="other")
    with secure(tmp_path, files) as server:
        files.put_bytes(b"rubbish", LEAF.private_key_pem.bytes())
        wait_for(lambda: server.complaints, "a complaint")
        files.put(LEAF, key=other.private_key_pem.bytes())
        wait_for(lambda: len(server.complaints) == 2, "another complaint")
        (files.folder / "tls.key").unlink()
        wait_for(lambda: len(server.complaints) == 3, "a third complaint")
        assert server.common_name() == "first"
        time.sleep(0.2)  # ten looks
        assert [line.partition("stays: ")[2].partition(":")[0] for line in server.complaints] == [
            "tls_certificate",
            "tls_private_key",
            "tls_private_key",
        ]
        files.put(other)
        wait_for(lambda: server.common_name() == "other", "the new certificate")


@pytest.mark.usefixtures("quick_look")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_authority_that_goes_is_trusted_no_longer(
    tmp_path: Path, files: Files, version: ssl.TLSVersion
) -> None:
    def get(context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSession | None:
        plain = socket.create_connection((server.host, server.port), timeout=TIMEOUT)
        with closing(context.wrap_socket(plain, server_hostname="localhost", session=session)) as connection:
            connection.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
            if not connection.recv(100).startswith(b"HTTP/1.1 200"):
                raise ConnectionError
            return connection.session

    with secure(tmp_path, files, mutual=True) as server:
        old, new = (trusting(server.root, version=version) for _ in range(2))
        AUTHORITY.issue_cert("client").configure_cert(old)
        STRANGER.issue_cert("client").configure_cert(new)
        session = get(old)
        get(old, session)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            get(new)
        files.put(LEAF, [STRANGER])

        def new_gets_in() -> bool:
            try:
                get(new)
            except (ssl.SSLError, ConnectionError):
                return False
            return True

        wait_for(new_gets_in)
        for remembered in (None, session):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                get(old, remembered)
        assert not server.complaints


# Settings


def encrypted(leaf: trustme.LeafCert, password: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password),
    )


def test_a_key_with_a_password(tmp_path: Path, files: Files) -> None:
    files.put(LEAF, key=encrypted(LEAF, b"secret"))
    settings = {**files.settings(), "tls_private_key_password": "secret"}
    with secure(tmp_path, files, **settings) as server:
        assert server.get("/v2").ok
        assert server.common_name() == "first"
    assert "secret" not in repr(Settings(tls_private_key_password="secret"))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"tls_private_key": None}, "tls_certificate is set, tls_private_key is not"),
        ({"tls_certificate": None}, "tls_private_key is set, tls_certificate is not"),
        ({"tls_certificate": None, "tls_private_key": "", "tls_client_ca": "x"}, "tls_client_ca is set"),
        ({"tls_certificate": "/nowhere"}, "tls_certificate: /nowhere: No such file"),
        ({"tls_private_key": "/nowhere"}, "tls_private_key: /nowhere: No such file"),
        ({"tls_client_ca": "/nowhere"}, "tls_client_ca: /nowhere: No such file"),
        ({"tls_certificate": "/"}, "tls_certificate: /: Is a directory"),
        ({"tls_certificate": "rubbish"}, "tls_certificate: rubbish holds no certificate in PEM"),
        ({"tls_certificate": "tls.key"}, "tls_certificate: tls.key holds no certificate in PEM"),
        ({"tls_client_ca": "rubbish"}, "tls_client_ca: rubbish holds no certificate in PEM"),
        ({"tls_private_key": "rubbish"}, "tls_private_key: rubbish holds no private key in PEM"),
        ({"tls_private_key": "tls.crt"}, "tls_private_key: tls.crt holds no private key in PEM"),
        ({"tls_private_key": "other.key"}, "tls_private_key: other.key is not the key of the certificate"),
        ({"tls_private_key": "encrypted"}, "tls_private_key: encrypted is encrypted, and"),
        (
            {"tls_private_key": "encrypted", "tls_private_key_password": "wrong"},
            "tls_private_key_password: it does not open encrypted",
        ),
    ],
)
def test_settings_that_cannot_be_used(
    files: Files, change: dict[str, Any], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files.folder)
    (files.folder / "rubbish").write_bytes(b"\x00rubbish")
    (files.folder / "encrypted").write_bytes(encrypted(LEAF, b"secret"))
    (files.folder / "other.key").write_bytes(STRANGER.issue_cert("x").private_key_pem.bytes())
    settings = Settings(**{"tls_certificate": "tls.crt", "tls_private_key": "tls.key", **change})
    with pytest.raises(StartError) as refused:
        Tls(settings)
    assert str(refused.value).startswith(error)
    assert refused.value.exit_code == 1


def test_a_server_that_cannot_start_says_why_in_one_line(tmp_path: Path, files: Files) -> None:
    write_model(tmp_path / "models", "echo", "mlserver.MLModel")
    environment = {
        **os.environ,
        "MLSERVER_TLS_CERTIFICATE": str(files.folder / "tls.crt"),
        "MLSERVER_TLS_PRIVATE_KEY": str(files.folder / "no.key"),
        "MLSERVER_TLS_PORTS": '["http"]',
        "MLSERVER_HTTP_PORT": "0",
    }
    done = subprocess.run(
        [sys.executable, "-m", "mlserver", "start", str(tmp_path / "models")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: tls_private_key: ")
    assert "Traceback" not in done.stderr + done.stdout
