"""Load over gRPC: requests as bytes, one real call and its judgement, and `h2load` for some seconds.

`h2load` counts HTTP statuses and never reads `grpc-status`. A run therefore counts only if a real gRPC client
got the right value before it, in the middle of it and after it, and if the server's own counter of
successes, where it has one, went up by no less than what `h2load` counted.
"""

from __future__ import annotations

import math
import re
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import grpc
import harness
import numpy as np
import peers
from harness import Measured, Point, RunFailed, Server

from mlserver.grpc import dataplane_pb2 as pb

PATH = "/inference.GRPCInferenceService/ModelInfer"
HEADERS = ("content-type: application/grpc", "te: trailers")
SETTLED = 2.0
"""Seconds that a server may take to count the last of its successes."""

Ask = Callable[[], None]


def framed(message: bytes) -> bytes:
    """A message, not compressed, as it lies in the DATA of a gRPC call."""
    return struct.pack(">BI", 0, len(message)) + message


def raw_request(model: str, values: np.ndarray) -> bytes:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=values.shape)
    raw = values.astype("<f4", copy=False).tobytes()
    return framed(
        pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[raw]).SerializeToString()
    )


@dataclass(frozen=True)
class Call(harness.Workload):
    """One `ModelInfer` with a raw tensor; `body` is what follows the headers on the wire."""

    generator: ClassVar[str] = "h2load"
    grpc: ClassVar[bool] = True

    output: str = "predict"

    @property
    def path(self) -> str:
        return PATH

    @property
    def reply(self) -> bytes:
        tensor = pb.ModelInferResponse.InferOutputTensor(
            name=self.output, datatype=self.datatype, shape=[1, 1]
        )
        tensor.parameters["content_type"].string_param = "np"
        tensor.contents.SetInParent()
        form = "<q" if self.datatype == "INT64" else "<d"
        raw = struct.pack(form, int(self.expected) if form == "<q" else self.expected)
        message = pb.ModelInferResponse(
            model_name=self.model,
            id="0d90f4d4-214e-4bc5-9c2d-52b9af471a71",
            outputs=[tensor],
            raw_output_contents=[raw],
        )
        return framed(message.SerializeToString())

    def load(self, server: Server, point: Point, seconds: int) -> Measured:
        return load(server, self, point, seconds)


def value_of(response: pb.ModelInferResponse) -> float:
    """The one value, wherever the server put it: raw, or in the field of its datatype."""
    (output,) = response.outputs
    forms = {"INT64": ("<q", output.contents.int64_contents), "FP64": ("<d", output.contents.fp64_contents)}
    form, typed = forms[output.datatype]
    (value,) = struct.unpack(form, response.raw_output_contents[0]) if response.raw_output_contents else typed
    return float(value)


@contextmanager
def asking(server: Server, workload: Call) -> Iterator[Ask]:
    """A function that makes one real call, judged by its value, on a connection of its own."""
    if server.grpc_port is None:
        raise RunFailed("it speaks no gRPC")
    message = workload.body[5:]

    def ask() -> None:
        try:
            response = infer(message, timeout=60)
            value = value_of(response)
        except grpc.RpcError as error:
            raise RunFailed(f"answered {error.code().name}: {error.details()}") from error
        except (ValueError, LookupError, struct.error) as error:
            raise RunFailed(f"answered nonsense: {response!r}"[:300]) from error
        if not math.isclose(value, workload.expected, rel_tol=1e-4):
            raise RunFailed(f"answered {value}, not {workload.expected}")

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=30)
        except grpc.FutureTimeoutError as error:
            raise RunFailed(f"no gRPC on port {server.grpc_port}") from error
        infer = channel.unary_unary(PATH, response_deserializer=pb.ModelInferResponse.FromString)
        yield ask


def load(server: Server, workload: Call, point: Point, seconds: int) -> Measured:
    """`h2load` for some seconds; an error, or a wrong answer at any time, makes it a failed run."""
    with (
        asking(server, workload) as ask,
        tempfile.TemporaryDirectory(prefix="bench-h2load-") as folder,
    ):
        ask()
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(workload.body)
        # Its windows are 1 GiB wide unless told otherwise, so that they hold nobody back.
        command = [harness.tool("h2load"), "-t1", f"-c{point.connections}", f"-m{point.streams or 1}"]
        command += [f"-D{seconds}", f"--log-file={log}", "-d", str(body)]
        for header in HEADERS:
            command += ["-H", header]
        counted = server.successes.read() if server.successes else 0
        before = server.cpu_seconds()
        text = _run([*command, f"http://127.0.0.1:{server.grpc_port}{PATH}"], ask, seconds)
        cpu = server.cpu_seconds() - before
        resident = server.resident() / 1e6
        requests, speed = _judge(text)
        answered = requests + 1  # and the real one in the middle
        if server.successes:
            _counted(server.successes, counted + answered)
        ask()
        micros = np.loadtxt(log, dtype=np.int64, usecols=2, ndmin=1)
    p50, p99 = np.percentile(micros, (50, 99)) / 1e3
    return Measured(
        requests_per_second=speed,
        p50_ms=float(p50),
        p99_ms=float(p99),
        errors=0,
        cpu_seconds_per_1000=cpu / answered * 1e3,
        resident_mb=resident,
    )


def _run(command: Sequence[str], ask: Ask, seconds: int) -> str:
    """What `h2load` printed, after one real call in the middle of it."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={"PATH": peers.SEARCH}
    ) as process:
        try:
            time.sleep(seconds / 2)
            ask()
            text, _ = process.communicate(timeout=seconds + 60)
        except subprocess.TimeoutExpired as error:
            raise RunFailed(f"h2load did not end: {error}") from error
        finally:
            process.kill()
    if process.returncode:
        raise RunFailed(f"h2load failed with status {process.returncode}: {text[-300:]}")
    return text


def _judge(text: str) -> tuple[int, float]:
    """Requests and requests/s out of what `h2load` printed; raises RunFailed if any of them failed."""
    speed = re.search(r"^finished in .*?, ([\d.]+) req/s", text, re.MULTILINE)
    ended = re.search(
        r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout\n"
        r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx",
        text,
    )
    if speed is None or ended is None:
        raise RunFailed(f"h2load printed something else: {text[-300:]}")
    # A status is counted with the headers: at the end there are a few whose reply is not complete.
    done, succeeded, failed, errored, late, _, *wrong = map(int, ended.groups())
    if not done or done != succeeded or failed + errored + late + sum(wrong):
        raise RunFailed(f"errors in {done} requests: {ended[0]!r}")
    return done, float(speed[1])


def _counted(successes: harness.Counter, least: int) -> None:
    """The server itself must have counted as many successes, a moment later at the latest."""
    until = time.monotonic() + SETTLED
    while (found := successes.read()) < least:
        if time.monotonic() > until:
            raise RunFailed(f"{successes.metric} is {found} where {least} calls should have succeeded")
        time.sleep(0.05)
