"""What workers cost and bring, and what batching costs a lone caller and brings to many: ours against ours.

Both sides of a pair are alive at the same time and asked in turn, so that a noisy machine troubles both.
"""

import argparse
import contextlib
import functools
import http.client
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import harness
import numpy as np

from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

HERE = pathlib.Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "sentiment"

MODELS = '''
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Sum(MLModel):
    async def predict(self, payload):
        values = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        total = values.reshape(len(values), -1).sum(axis=1, dtype=np.float64).reshape(-1, 1)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("sum", total)])


class Counts(Sum):
    """About 5 ms of Python a call."""

    async def predict(self, payload):
        turns = 0
        for number in range(160_000):
            turns += number & 1
        return await super().predict(payload)
'''


class Server:
    def __init__(self, http_port: int, grpc_port: int) -> None:
        self.http_port = http_port
        self.grpc_port = grpc_port

    def connect(self) -> contextlib.closing[http.client.HTTPConnection]:
        return contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=60))


@contextlib.contextmanager
def serving(folder: pathlib.Path, **environment: str) -> Iterator[Server]:
    ports = {f"MLSERVER_{name}_PORT": "0" for name in ("HTTP", "GRPC", "METRICS")}
    values = {**os.environ, **ports, "MLSERVER_HOST": "127.0.0.1", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "mlserver", "start", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=values, cwd=tempfile.gettempdir(),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        seen = ""
        for line in process.stdout:
            seen += line
            if "Loaded model" in line:
                break
        else:
            raise SystemExit(f"the server ended:\n{seen}")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        ports_found = re.search(r"REST: http://[^:]+:(\d+).*gRPC: [^:]+:(\d+)", seen, re.DOTALL)
        assert ports_found
        yield Server(int(ports_found[1]), int(ports_found[2]))
    finally:
        process.terminate()
        process.wait(30)


def write(folder: pathlib.Path, name: str, **settings: Any) -> pathlib.Path:
    folder.mkdir(parents=True)
    (folder / "models.py").write_text(MODELS)
    (folder / "model-settings.json").write_text(
        json.dumps({"name": "m", "implementation": f"models.{name}", **settings})
    )
    return folder


def body(*values: float) -> bytes:
    tensor = {"name": "x", "shape": [1, len(values)], "datatype": "FP32", "data": list(values)}
    return json.dumps({"inputs": [tensor]}).encode()


def ask(connection: http.client.HTTPConnection, request: bytes, model: str = "m") -> float:
    """Seconds until the answer."""
    started = time.perf_counter()
    connection.request("POST", f"/v2/models/{model}/infer", request)
    reply = connection.getresponse()
    answer = reply.read()
    if reply.status != 200:
        raise SystemExit(f"{reply.status}: {answer.decode()}")
    return time.perf_counter() - started


def per_second(
    server: Server, requests: list[bytes], callers: int, seconds: float, model: str = "m"
) -> float:
    """Requests per second of as many callers, each with one request under way."""
    url = f"http://127.0.0.1:{server.http_port}/v2/models/{model}/infer"
    return harness.post_in_turn(url, requests, callers, seconds)[0]


def in_turn(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """The median of each, asked one after the other in each round, each round beginning with another one."""
    found: list[list[float]] = [[] for _ in sides]
    for round_ in range(rounds):
        for step in range(len(sides)):
            number = (round_ + step) % len(sides)
            found[number].append(sides[number]())
    return [statistics.median(values) for values in found]


def lone_caller(home: pathlib.Path, rounds: int) -> str:
    plain = write(home / "plain", "Sum")
    batched = write(home / "batched", "Sum", max_batch_size=64, max_batch_time=0.5)
    with serving(plain) as one, serving(batched) as other, one.connect() as first, other.connect() as second:

        def median(connection: http.client.HTTPConnection) -> float:
            return statistics.median(ask(connection, body(1.0)) for _ in range(400))

        off, on = in_turn(rounds, lambda: median(first), lambda: median(second))
    values = f"off {off * 1e3:.3f} ms, on {on * 1e3:.3f} ms, ratio {on / off:.2f}"
    return f"lone caller, median latency: batching {values}"


def two_workers(home: pathlib.Path, rounds: int, seconds: float) -> str:
    folder = write(home / "counts", "Counts")
    with (
        serving(folder, MLSERVER_PARALLEL_WORKERS="1") as one,
        serving(folder, MLSERVER_PARALLEL_WORKERS="2") as two,
    ):
        single, double = in_turn(
            rounds,
            lambda: per_second(one, [body(1.0)], 8, seconds),
            lambda: per_second(two, [body(1.0)], 8, seconds),
        )
    values = f"1 worker {single:.0f}/s, 2 workers {double:.0f}/s, ratio {double / single:.2f}"
    return f"5 ms of Python a call, 8 callers: {values}"


def large_tensor(home: pathlib.Path, rounds: int) -> str:
    folder = write(home / "large", "Sum")
    message = pb.ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype="FP32", shape=[1, 1_000_000])
    message.raw_input_contents.append(np.ones(1_000_000, "<f4").tobytes())
    with contextlib.ExitStack() as stack:
        stubs = []
        for workers in ("0", "1"):
            server = stack.enter_context(serving(folder, MLSERVER_PARALLEL_WORKERS=workers))
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}"))
            stubs.append(GRPCInferenceServiceStub(channel))

        def median(stub: Any) -> float:
            taken = []
            for _ in range(100):
                started = time.perf_counter()
                stub.ModelInfer(message)
                taken.append(time.perf_counter() - started)
            return statistics.median(taken)

        here, there = in_turn(rounds, lambda: median(stubs[0]), lambda: median(stubs[1]))
    values = f"in process {here * 1e3:.2f} ms, in a worker {there * 1e3:.2f} ms"
    return f"4 MB raw over gRPC: {values}, {(there - here) * 1e3:.2f} ms more"


def transformer(home: pathlib.Path, rounds: int, seconds: float) -> str:
    if not (EXAMPLE / "model").is_dir():
        return (
            "transformer: left out, the example has no model yet (examples/sentiment/get_models.sh makes it)"
        )
    rows = (EXAMPLE / "data" / "test.tsv").read_text().splitlines()[1:]
    sentences = [row.split("\t")[0] for row in rows]
    requests = []
    for number, sentence in enumerate(sentences[:200]):
        text = " ".join([sentence] * (1 + number % 4))  # of mixed length
        tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [json.dumps([text])]}
        requests.append(json.dumps({"inputs": [tensor]}).encode())
    batching = {"MLSERVER_MODEL_MAX_BATCH_SIZE": "32", "MLSERVER_MODEL_MAX_BATCH_TIME": "0.05"}
    # A replica that is free takes what is there; with a target, it may wait a moment for a fuller batch.
    aiming = {**batching, "MLSERVER_MODEL_LATENCY_TARGET_MS": "100"}
    # Without its settings.json, whose ports would win over those of `serving`.
    folder = home / "sentiment"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("settings.json", "data"))
    with serving(folder) as plain, serving(folder, **batching) as batched, serving(folder, **aiming) as aimed:
        off, on, target = in_turn(
            rounds,
            *(
                functools.partial(per_second, server, requests, 32, seconds, "sentiment")
                for server in (plain, batched, aimed)
            ),
        )
    values = f"unbatched {off:.0f}/s, batched {on:.0f}/s, ratio {on / off:.2f}"
    values += f", with a latency target of 100 ms {target:.0f}/s, ratio {target / off:.2f}"
    return f"transformer, 32 callers, mixed lengths: {values}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    rounds, seconds = (1, 1.0) if chosen.quick else (chosen.rounds, chosen.seconds)
    with tempfile.TemporaryDirectory() as home:
        folder = pathlib.Path(home)
        for line in (
            lambda: lone_caller(folder, rounds),
            lambda: two_workers(folder, rounds, seconds),
            lambda: large_tensor(folder, rounds),
            lambda: transformer(folder, rounds, seconds),
        ):
            print(line(), flush=True)


if __name__ == "__main__":
    main()
