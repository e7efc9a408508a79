"""Servers as processes: ours, MLflow's, and ours as MLflow starts it. All of them end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

STARTS_WITHIN = 180.0


@dataclass
class Server:
    """A server that has answered."""

    url: str
    grpc_port: int
    process: subprocess.Popen[str]
    lines: list[str]

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=60, **kwargs)

    def post(self, path: str, **kwargs: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=60, **kwargs)

    def infer(self, model: str, body: Any) -> requests.Response:
        return self.post(f"/v2/models/{model}/infer", json=body)

    def log(self) -> str:
        return "".join(self.lines)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str], port: int, ready: str, grpc_port: int = 0, cwd: Path | None = None, **env: str
) -> Iterator[Server]:
    """Run a server until the block ends. `ready`: the path that answers 200 once it is."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLSERVER_", "MLFLOW_"))}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**clean, "MLFLOW_DISABLE_TELEMETRY": "true", **env},
    )
    server = Server(f"http://127.0.0.1:{port}", grpc_port, process, [])

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            server.lines.extend(iter(process.stdout.readline, ""))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        _wait(server, ready)
        yield server
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(60)
        reader.join(60)


def _wait(server: Server, ready: str) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if server.get(ready).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"the server did not become ready:\n{server.log()}")


@contextmanager
def mlserver(folder: Path, python: str = sys.executable, workers: int = 0, **env: str) -> Iterator[Server]:
    """`mlserver start folder`."""
    port, grpc_port = free_port(), free_port()
    ports = {"HTTP": port, "GRPC": grpc_port, "METRICS": free_port()}
    settings = {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_PARALLEL_WORKERS": str(workers),
        **{f"MLSERVER_{name}_PORT": str(number) for name, number in ports.items()},
    }
    command = [python, "-m", "mlserver", "start", str(folder)]
    with running(
        command, port, "/v2/health/ready", grpc_port, cwd=folder.parent, **{**settings, **env}
    ) as server:
        yield server


@contextmanager
def scoring_server(model: Path, **env: str) -> Iterator[Server]:
    """MLflow's own server of a model."""
    port = free_port()
    application = "mlflow.pyfunc.scoring_server.app:app"
    command = [sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port), application]
    with running(command, port, "/ping", **{"__pyfunc_model_path__": str(model), **env}) as server:
        yield server
