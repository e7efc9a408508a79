"""Servers for tests: one in a thread of this process, one as a real process. Both always stop."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from mlserver.server import MLServer
from mlserver.settings import Settings
from mlserver.utils import AsyncManager

TIMEOUT = 30.0
COMMAND = (sys.executable, "-m", "mlserver")


def wait_for(condition: Callable[[], Any], what: str = "condition", timeout: float = TIMEOUT) -> Any:
    """Poll until `condition()` is true, and return what it gave."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.01)
    raise TimeoutError(f"{what} did not come true within {timeout} s")


def write_model(
    folder: Path,
    name: str,
    implementation: str,
    code: str | None = None,
    *,
    home: str | None = None,
    **settings: Any,
) -> Path:
    """A model's folder below `folder`:

    its settings, and `models.py` with `code`. `home`: where it is, if not at `name`.
    """
    path = folder / (home or name)
    path.mkdir(parents=True, exist_ok=True)
    if code is not None:
        (path / "models.py").write_text(code)
    (path / "model-settings.json").write_text(
        json.dumps({"name": name, "implementation": implementation, **settings})
    )
    return path


@dataclass
class Served:
    """A server that listens: where, and how to ask it."""

    host: str
    port: int
    metrics_port: int | None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=TIMEOUT, **kwargs)

    def post(self, path: str, body: Any = None, **kwargs: Any) -> requests.Response:
        if body is not None:
            kwargs["json"] = body
        return requests.post(self.url + path, timeout=TIMEOUT, **kwargs)

    def infer(self, model: str, body: Any, **kwargs: Any) -> requests.Response:
        return self.post(f"/v2/models/{model}/infer", body, **kwargs)

    def metrics(self) -> str:
        return requests.get(f"http://{self.host}:{self.metrics_port}/metrics", timeout=TIMEOUT).text

    def connect(self) -> socket.socket:
        """A raw connection, for tests that speak bytes."""
        return socket.create_connection((self.host, self.port), timeout=TIMEOUT)


@dataclass
class InThread(Served):
    """A server on an event loop of its own, in a thread of this process."""

    server: MLServer
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    failures: list[BaseException]

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.server._request_stop)
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive(), "the server did not stop"


@contextmanager
def serving(folder: Path | None = None, *, load: bool = True, **settings: Any) -> Iterator[InThread]:
    """Serve the models below `folder`, ready when this yields. `load`: whether to load them at start-up."""
    values = {
        "host": "127.0.0.1",
        "http_port": 0,
        "grpc_port": 0,
        "metrics_port": 0,
        "parallel_workers": 0,
        **settings,
    }
    values["model_repository_root"] = str(folder or Path(__file__).parent / "nowhere")
    values["load_models_at_startup"] = load
    ready = threading.Event()
    failures: list[BaseException] = []
    box: list[Any] = []

    async def main() -> None:
        server = MLServer(Settings(**values))
        models = await server.service.repository.list() if load and folder is not None else []
        box.extend((server, asyncio.get_running_loop()))
        run = asyncio.ensure_future(server.start(models))
        listening = asyncio.ensure_future(server.listening.wait())
        await asyncio.wait({run, listening}, return_when=asyncio.FIRST_COMPLETED)
        while not run.done() and server.service.starting:  # noqa: ASYNC110 - a fact to look up, no event
            await asyncio.sleep(0.005)
        listening.cancel()
        ready.set()
        await run

    def target() -> None:
        try:
            AsyncManager().run(main())
        except BaseException as exc:
            failures.append(exc)
        finally:
            ready.set()

    thread = threading.Thread(target=target, name="server", daemon=True)
    thread.start()
    assert ready.wait(TIMEOUT), "the server did not become ready"
    if failures:
        raise failures[0]
    server, loop = box
    running = InThread("127.0.0.1", server.http_port, server.metrics_port, server, loop, thread, failures)
    try:
        yield running
    finally:
        if thread.is_alive():
            running.stop()
        if failures:
            raise failures[0]


@dataclass
class AsProcess(Served):
    """A server as its users run it: `mlserver start FOLDER`."""

    process: subprocess.Popen[str]
    output: list[str]

    def log(self) -> str:
        return "".join(self.output)

    @property
    def grpc_port(self) -> int:
        match = re.search(r"gRPC: [^:]+:(\d+)", self.log())
        assert match, self.log()
        return int(match[1])

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Signal it, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(TIMEOUT)


def children_of(pid: int) -> list[int]:
    """Ids of the processes that a process started."""
    command = ["ps", "-o", "pid=", "--ppid", str(pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
        listed, _ = asking.communicate(timeout=10)
    return [int(line) for line in listed.split() if int(line) != asking.pid]


def start_process(
    folder: Path, command: Sequence[str] = COMMAND, **environment: str
) -> tuple[subprocess.Popen[str], list[str]]:
    """`mlserver start folder` on free ports, and the list that its output lines are added to.

    command: what stands for `mlserver`.
    """
    ports = {f"MLSERVER_{name}_PORT": "0" for name in ("HTTP", "GRPC", "METRICS")}
    values = {"MLSERVER_HOST": "127.0.0.1", **ports}
    process = subprocess.Popen(
        [*command, "start", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **values, **environment},
        cwd=folder if folder.is_dir() else None,
    )
    output: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            output.extend(iter(process.stdout.readline, ""))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return process, output


@contextmanager
def process(
    folder: Path,
    *,
    ready: bool = True,
    command: Sequence[str] = COMMAND,
    timeout: float = TIMEOUT,
    **environment: str,
) -> Iterator[AsProcess]:
    """A server process; waits until it listens, and with `ready` until it is ready.

    timeout: seconds that each of the two may take.
    """
    child, output = start_process(folder, command, **environment)

    def find_port(what: str) -> int | None:
        match = re.search(rf"{what}: http://[^:]+:(\d+)", "".join(output))
        return int(match[1]) if match else None

    def listens() -> bool:
        if child.poll() is not None:
            raise RuntimeError(f"the server ended with {child.returncode}:\n{''.join(output)}")
        return find_port("REST") is not None

    try:
        wait_for(listens, "listening", timeout)
        port = find_port("REST")
        assert port is not None
        served = AsProcess("127.0.0.1", port, find_port("metrics"), child, output)
        if ready:
            wait_for(
                lambda: child.poll() is not None or served.get("/v2/health/ready").ok, "readiness", timeout
            )
            served.metrics_port = find_port("metrics")  # told after the other
        yield served
    finally:
        if child.poll() is None:
            child.kill()
        child.wait(TIMEOUT)
