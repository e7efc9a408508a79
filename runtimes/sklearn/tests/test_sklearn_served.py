"""A scikit-learn model behind a real server, asked by many at once."""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pytest
import requests
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.utils import all_estimators
from tests.running import process

X, Y = load_iris(return_X_y=True)

Start = Callable[..., str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Serves an estimator as model `iris`; gives the URL of the model."""
    processes = []

    def start(estimator: Any, **settings: Any) -> str:
        (tmp_path / "model.pickle").write_bytes(cloudpickle.dumps(estimator))
        values = {"name": "iris", "implementation": "mlserver_sklearn.SKLearnModel", **settings}
        (tmp_path / "model-settings.json").write_text(json.dumps(values))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = {"host": "127.0.0.1", "http_port": port, "grpc_port": 0, "metrics_endpoint": None}
        (tmp_path / "settings.json").write_text(json.dumps(server))
        env = {k: v for k, v in os.environ.items() if not k.upper().startswith("MLSERVER_")}
        process = subprocess.Popen([sys.executable, "-m", "mlserver", "start", "."], cwd=tmp_path, env=env)
        processes.append(process)
        url = f"http://127.0.0.1:{port}/v2/models/iris"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if requests.get(f"{url}/ready", timeout=5).status_code == 200:
                    return url
            except requests.ConnectionError:
                pass
            time.sleep(0.02)
        raise AssertionError("the server did not become ready")

    yield start
    for child in processes:
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0


def request(rows: Any, *outputs: str) -> dict[str, Any]:
    tensor = {
        "name": "input-0",
        "shape": list(np.shape(rows)),
        "datatype": "FP64",
        "data": np.asarray(rows).tolist(),
    }
    return {"inputs": [tensor], "outputs": [{"name": name} for name in outputs]}


def infer(url: str, body: dict[str, Any]) -> dict[str, Any]:
    response = requests.post(f"{url}/infer", json=body, timeout=30)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_the_request_that_platforms_test_with(start: Start) -> None:
    url = start(LogisticRegression(max_iter=500).fit(X, Y))
    rows = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]
    tensor = {"name": "input-0", "shape": [2, 4], "datatype": "FP32", "data": rows}
    answer = infer(url, {"inputs": [tensor]})
    assert answer["outputs"][0]["data"] == [1, 1]
    metadata = requests.get(url, timeout=10).json()
    assert (metadata["platform"], metadata["inputs"][0]["shape"]) == ("sklearn", [-1, 4])
    bad = requests.post(f"{url}/infer", json=request([[1.0, 2.0]]), timeout=10)
    assert bad.status_code == 400
    assert bad.json()["error"].startswith("input 'input-0' has 2 features per row")


@pytest.mark.parametrize("settings", [{}, {"max_batch_size": 16, "max_batch_time": 0.05}])
def test_R19_every_caller_gets_the_outputs_it_asked_for(start: Start, settings: dict[str, Any]) -> None:
    estimator = LogisticRegression(max_iter=500).fit(X, Y)
    url = start(estimator, **settings)
    wishes: list[tuple[str, ...]] = [(), ("predict",), ("predict_proba",), ("predict_proba", "predict")]

    def ask(index: int) -> None:
        rows = X[index : index + 1 + index % 3]
        wish = wishes[index % 4]
        answer = infer(url, {**request(rows, *wish), "id": str(index)})
        assert answer["id"] == str(index)
        assert [output["name"] for output in answer["outputs"]] == list(wish or ("predict",))
        for output in answer["outputs"]:
            expected = getattr(estimator, output["name"])(rows)
            assert output["shape"][0] == len(rows)
            np.testing.assert_allclose(np.reshape(output["data"], expected.shape), expected)

    with ThreadPoolExecutor(16) as callers:
        list(callers.map(ask, range(120)))


def test_one_bad_request_among_many_fails_alone(start: Start) -> None:
    url = start(LogisticRegression(max_iter=500).fit(X, Y))

    def ask(index: int) -> int:
        row = [[float("nan") if index % 10 == 0 else 1.0, 2.0, 3.0, 4.0]]
        body = json.dumps(request(row)).replace("NaN", "null")
        return requests.post(f"{url}/infer", data=body, timeout=30).status_code

    with ThreadPoolExecutor(16) as callers:
        statuses = list(callers.map(ask, range(100)))
    assert statuses == [400 if index % 10 == 0 else 200 for index in range(100)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", ["0", "1"])
def test_many_models_load_at_once(workers: str, tmp_path: Path) -> None:
    """scikit-learn's packages import each other in circles: unpickled side by side, some fail."""
    names = []
    for name, kind in all_estimators("classifier"):
        try:
            estimator = kind().fit(X[::5], Y[::5])
        except Exception:  # it wants arguments
            continue
        home = tmp_path / name
        home.mkdir()
        joblib.dump(estimator, home / "model.joblib")
        settings = {"name": name, "implementation": "mlserver_sklearn.SKLearnModel"}
        (home / "model-settings.json").write_text(json.dumps(settings))
        names.append(name)
    assert len(names) > 20
    with process(tmp_path, MLSERVER_PARALLEL_WORKERS=workers) as server:
        index = server.post("/v2/repository/index").json()
        assert {entry["name"]: entry["state"] for entry in index} == dict.fromkeys(names, "READY")
