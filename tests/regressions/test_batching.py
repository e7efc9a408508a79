"""Faults that users of servers like this one met when requests are merged."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.running import InThread, serving, wait_for, write_model
from tests.server.models import Batches, body, tensor

HOLD = body(tensor("x", "INT64", [0]), parameters={"hold": True})


@contextmanager
def batched(folder: Path, **settings: Any) -> Iterator[InThread]:
    """A model that holds its first call back, so that the calls after it are there together."""
    defaults = {"max_batch_size": 100, "max_batch_time": 0.01}
    write_model(folder, "m", "tests.server.models.Batches", **{**defaults, **settings})
    Batches.reset()
    with serving(folder) as server:
        yield server


def together(server: InThread, requests: list[dict[str, Any]]) -> list[requests.Response]:
    """The answers to requests that wait for the model at the same time."""
    with ThreadPoolExecutor(len(requests) + 1) as pool:
        first = pool.submit(server.infer, "m", HOLD)
        wait_for(Batches.holding.is_set, "the first call")
        calls = []
        for request in requests:
            calls.append(pool.submit(server.infer, "m", request))
            wait_for(lambda: waiting(server) == len(calls), "the next call")
        Batches.gate.release()
        assert first.result().status_code == 200
        return [call.result() for call in calls]


def waiting(server: InThread) -> int:
    length: int = server.server._model_registry.find("m").replicas.queue_length
    return length


def rows(n: int, value: float = 1.0, datatype: str = "FP32", width: int = 1, **fields: Any) -> dict[str, Any]:
    return tensor("x", datatype, [value] * (n * width), [n, width], **fields)


def test_requests_are_merged_at_all(tmp_path: Path) -> None:
    with batched(tmp_path) as server:
        answers = together(server, [body(rows(n, value=n), id=str(n)) for n in (1, 2, 3)])
    assert Batches.sizes == [1, 6]
    for n, answer in zip((1, 2, 3), answers, strict=True):
        (output,) = answer.json()["outputs"]
        assert answer.json()["id"] == answer.headers["ce-id"] == str(n)
        assert (output["shape"], output["data"]) == ([n, 1], [2.0 * n] * n)


@pytest.mark.parametrize("wrong", ["few", "many"])
def test_r15_a_wrong_number_of_rows_is_never_handed_out(tmp_path: Path, wrong: str) -> None:
    with batched(tmp_path, parameters={"wrong": wrong}) as server:
        answers = together(server, [body(rows(1, value=n)) for n in range(3)])
    for n, answer in enumerate(answers):
        # Alone, each request is answered as the model likes; merged, it would be an error or a neighbour's.
        assert answer.status_code in (200, 500)
        if answer.status_code == 200:
            assert answer.json()["outputs"][0]["data"][0] == 2.0 * n


def test_r18_parameters_stay_with_whom_they_belong_to(tmp_path: Path) -> None:
    with batched(tmp_path) as server:
        asked = [body(rows(1, value=n, parameters={"threshold": n})) for n in range(3)]
        asked += [body(rows(1, value=n), parameters={"threshold": n}) for n in range(3, 6)]
        answers = together(server, asked)
    assert [answer.json()["outputs"][0]["parameters"]["threshold"] for answer in answers] == list(range(6))
    assert [answer.json()["outputs"][0]["data"] for answer in answers] == [[2.0 * n] for n in range(6)]


def test_r19_outputs_that_differ_are_given_to_who_asked(tmp_path: Path) -> None:
    with batched(tmp_path) as server:
        names = ["y", "z", "y", None]
        asked = [body(rows(1), outputs=[{"name": name}]) if name else body(rows(1)) for name in names]
        answers = together(server, asked)
    assert [[o["name"] for o in answer.json()["outputs"]] for answer in answers] == [
        [n or "y"] for n in names
    ]


def test_r25_no_call_has_more_rows_than_may_be_merged(tmp_path: Path) -> None:
    with batched(tmp_path, max_batch_size=10) as server:
        answers = together(server, [body(rows(n, value=n)) for n in (7, 7, 3, 12, 1)])
    assert [len(answer.json()["outputs"][0]["data"]) for answer in answers] == [7, 7, 3, 12, 1]
    assert max(size for size in Batches.sizes if size != 12) <= 10
    assert sum(Batches.sizes) == 1 + 30


def test_c1_one_caller_that_leaves_takes_no_answer_from_others(tmp_path: Path) -> None:
    with batched(tmp_path) as server, ThreadPoolExecutor(8) as pool:
        first = pool.submit(server.infer, "m", HOLD)
        wait_for(Batches.holding.is_set, "the first call")
        calls = [pool.submit(server.infer, "m", body(rows(1, value=n), parameters=None)) for n in range(7)]
        wait_for(lambda: waiting(server) == 7, "their calls")
        leaver = leave(server)
        wait_for(lambda: waiting(server) == 8, "the call of the one that leaves")
        leaver.close()
        Batches.gate.release()
        assert first.result().status_code == 200
        assert [call.result().json()["outputs"][0]["data"] for call in calls] == [[2.0 * n] for n in range(7)]


def leave(server: InThread) -> socket.socket:
    text = requests.models.complexjson.dumps(body(rows(1))).encode()  # type: ignore[attr-defined]
    connection = server.connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # closing resets
    connection.sendall(
        b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text)
    )
    return connection


def test_c3_tensors_of_other_kinds_are_not_merged(tmp_path: Path) -> None:
    with batched(tmp_path) as server:
        kinds = [("FP32", 3), ("FP32", 4), ("FP64", 3), ("FP32", 3)]
        answers = together(server, [body(rows(1, 0.1, datatype, width)) for datatype, width in kinds])
    for (datatype, width), answer in zip(kinds, answers, strict=True):
        (output,) = answer.json()["outputs"]
        assert (output["datatype"], output["shape"]) == (datatype, [1, width])
        assert output["data"] == [0.2 if datatype == "FP64" else 0.20000000298023224] * width
    assert Batches.sizes == [1, 2, 1, 1]


def test_a_bad_request_fails_alone(tmp_path: Path) -> None:
    with batched(tmp_path) as server:
        bad = body(tensor("x", "FP32", ["no number"], [1, 1]))
        short = body(tensor("x", "FP32", [1.0], [2, 1]))
        answers = together(server, [body(rows(1)), bad, body(rows(1)), short])
    assert [answer.status_code for answer in answers] == [200, 400, 200, 400]


def test_requests_that_cannot_be_merged_run_alone(tmp_path: Path) -> None:
    with batched(tmp_path) as server:
        answers = together(
            server, [body(rows(1)), {"inputs": []}, body(tensor("x", "FP32", [1], [])), body(rows(1))]
        )
    assert [answer.status_code for answer in answers] == [200] * 4
    assert answers[1].json()["outputs"] == []
