"""New copies of a model that prove themselves on real calls, and are promoted or taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from tests.running import InThread, serving, wait_for, write_model

CODE = """
import time
import numpy as np
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec
from mlserver.handlers import custom_handler

class Model(MLModel):
    async def predict(self, payload):
        values = NumpyCodec.decode_input(payload.inputs[0])
        {work}
        outputs = [NumpyCodec.encode_output("y", values * {factor})]
        return types.InferenceResponse(model_name=self.name, outputs=outputs)

    @custom_handler(rest_path="/which", rest_method="GET")
    async def which(self) -> int:
        return {factor}
"""
GOOD, SLOW = "pass", "time.sleep(0.02)"
FAILS = "raise ValueError('broken')"
LOAD = "/v2/repository/models/m/load"


def write(folder: Path, factor: int, work: str = GOOD) -> None:
    write_model(folder, "m", "models.Model", CODE.format(factor=factor, work=work))


def ask(server: InThread, count: int = 1) -> set[float]:
    """The factors with which calls were answered."""
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}]}
    replies = [server.infer("m", body) for _ in range(count)]
    assert all(reply.status_code == 200 for reply in replies)
    return {reply.json()["outputs"][0]["data"][0] for reply in replies}


def rollout(server: InThread) -> dict[str, Any]:
    told: dict[str, Any] = server.get("/v2/models/m/rollout").json()
    return told


@pytest.fixture(params=[0, 1], ids=["here", "worker"])
def workers(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def test_a_canary_that_does_well_is_promoted(tmp_path: Path, workers: int) -> None:
    write(tmp_path, 1)
    with serving(tmp_path, parallel_workers=workers, trial_load=False) as server:
        assert server.get("/v2/models/m/rollout").json() is None
        write(tmp_path, 2)
        plan = {"canary": 20, "promote_after": 10, "max_latency_ratio": 1000}
        assert server.post(LOAD, {"parameters": plan}).ok
        assert server.get("/which").json() == 1
        assert ask(server, 20) == {1.0, 2.0}
        told = rollout(server)
        assert (told["kind"], told["percent"], told["decision"]) == ("canary", 20, None)
        assert told["candidate"]["calls"] == 4 and told["serving"]["calls"] == 16
        ask(server, 30)
        wait_for(lambda: server.get("/which").json() == 2, "the new one to take over")
        assert ask(server, 10) == {2.0}
        assert rollout(server)["decision"] == "promoted: it answered 10 calls"


def test_a_canary_that_fails_is_taken_back_and_no_caller_notices(tmp_path: Path, workers: int) -> None:
    write(tmp_path, 1)
    with serving(tmp_path, parallel_workers=workers, trial_load=False) as server:
        write(tmp_path, 2, FAILS)
        assert server.post(LOAD, {"parameters": {"canary": 50}}).ok
        assert ask(server, 20) == {1.0}
        assert rollout(server)["decision"] == "rolled back: it failed 1 of 1 calls"
        assert server.get("/which").json() == 1 and server.get("/v2/health/ready").ok


def test_a_canary_that_is_slow_is_taken_back(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with serving(tmp_path) as server:
        write(tmp_path, 2, SLOW)
        assert server.post(LOAD, {"parameters": {"canary": 50, "promote_after": 5}}).ok
        ask(server, 20)
        assert rollout(server)["decision"].startswith("rolled back: it took 0.0")
        assert ask(server, 5) == {1.0}


@pytest.mark.parametrize(
    ("factor", "decision"), [(1, "promoted"), (2, "rolled back: 1 of its answers differed")]
)
def test_a_shadow_is_compared_and_never_seen(tmp_path: Path, factor: int, decision: str) -> None:
    write(tmp_path, 1)
    with serving(tmp_path) as server:
        write(tmp_path, factor)
        plan = {"shadow": 100, "promote_after": 10, "max_differences": 0, "max_latency_ratio": 1000}
        assert server.post(LOAD, {"parameters": plan}).ok
        assert ask(server, 15) == {1.0}
        wait_for(lambda: rollout(server)["decision"], "a decision")
        assert rollout(server)["decision"].startswith(decision)


def test_over_grpc_too(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with (
        serving(tmp_path) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.server.grpc_port}") as channel,
    ):
        stub: Any = GRPCInferenceServiceStub(channel)
        write(tmp_path, 2)
        parameters = {"canary": pb.ModelRepositoryParameter(int64_param=50)}
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m", parameters=parameters))
        assert ask(server, 10) == {1.0, 2.0}


@pytest.mark.parametrize(
    "plan",
    [
        {"canary": 0},
        {"canary": 101},
        {"canary": "10"},
        {"canary": 5, "shadow": 5},
        {"shadow": 5, "promote_after": 0.5},
    ],
)
def test_a_plan_that_makes_no_sense(tmp_path: Path, plan: dict[str, Any]) -> None:
    write(tmp_path, 1)
    with serving(tmp_path) as server:
        reply = server.post(LOAD, {"parameters": plan})
        assert reply.status_code == 400 and reply.json()["error"]
        assert ask(server) == {1.0}


def test_what_comes_in_between_ends_a_trial(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with serving(tmp_path, parallel_workers=1, trial_load=False) as server:
        write(tmp_path, 2)
        assert server.post(LOAD, {"parameters": {"canary": 1}}).ok
        assert server.post(LOAD).ok  # now, and for all
        assert ask(server, 5) == {2.0}
        for kind in ("shadow", "canary", "shadow"):  # the last is the one that counts
            assert server.post(LOAD, {"parameters": {kind: 1}}).ok
        assert server.post("/v2/repository/models/m/unload").ok
        assert server.get("/which").status_code == 404
        slots = server.server._pools.pools[0].slots  # type: ignore[union-attr]
        wait_for(lambda: not any(slot.replicas for slot in slots), "both to be gone")
