"""A server process with `models.py`, and what is installed to talk to it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlserver.grpc import dataplane_pb2 as pb
from tests.running import AsProcess, process, write_model

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PREPARED = Path(os.environ.get("MLSERVER_TEST_CLIENTS", HERE / ".prepared"))
TIMEOUT = 60

INFER = "/inference.GRPCInferenceService/ModelInfer"
X = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}


@dataclass
class Serving:
    """Where the server listens."""

    process: AsProcess

    @property
    def port(self) -> int:
        return self.process.grpc_port

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def succeeded(self, method: str = "ModelInfer") -> int:
        """How many calls of a method the server has ended with OK."""
        pattern = rf'^grpc_server_handled_total{{.*grpc_code="OK".*grpc_method="{method}".*}} (\S+)$'
        return sum(int(float(count)) for count in re.findall(pattern, self.process.metrics(), re.MULTILINE))


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[Serving]:
    code = (HERE / "models.py").read_text()
    write_model(folder, "echo", "models.Echo", code, inputs=[X], outputs=[X])
    write_model(folder, "counts", "models.Counts", code, inputs=[X])
    with process(folder, **environment) as running:
        yield Serving(running)


def program(name: str, package: str) -> str:
    """The path of a program of the system; skips where it is not installed."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return path


def prepared(*parts: str) -> Path:
    """A path below what `prepare.py` installs; skips where it is not there."""
    path = PREPARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not there: python -m tests.clients.prepare {parts[0]}")
    return path


def run(*command: str | Path, **environment: str) -> str:
    """The output of a client that has to end well."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def request(**parameters: int | bool | str) -> pb.ModelInferRequest:
    """One row of raw numbers for `echo`."""
    message = pb.ModelInferRequest(model_name="echo", id="one")
    message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    message.raw_input_contents.append(bytes(range(16)))
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(message.parameters[name], kind, value)
    return message


def framed(message: pb.ModelInferRequest) -> bytes:
    """A message as it stands in DATA."""
    content = message.SerializeToString()
    return b"\0" + len(content).to_bytes(4, "big") + content
