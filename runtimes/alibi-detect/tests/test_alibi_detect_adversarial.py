"""Detectors of TensorFlow behind a real server answer as the bare library does, with Keras 2 and 3."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adversarial
import numpy as np
import pytest
import requests
from adversarial import ANSWERS, ASKED
from detectors import SHIFTED, X
from tests.running import AsProcess, process, write_model

_RUNTIME = "mlserver_alibi_detect.AlibiDetectRuntime"
_START = 300.0


def save_with(keras: str, folder: Path) -> Path:
    """A model's folder for each detector. keras: its version, 2 or 3."""
    subprocess.run(
        [sys.executable, adversarial.__file__, str(folder)],
        env={**os.environ, **legacy(keras)},
        check=True,
        timeout=_START,
    )
    for path in list(folder.iterdir()):
        if path.is_dir():
            write_model(folder, path.name, _RUNTIME, parameters={"uri": "."})
    return folder


def legacy(keras: str) -> dict[str, str]:
    return {"TF_USE_LEGACY_KERAS": "1" if keras == "2" else "0"}


@pytest.fixture(scope="module")
def of_keras_2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_with("2", tmp_path_factory.mktemp("keras-2"))


@pytest.fixture(scope="module", params=["2", "3"], ids=["Keras 2", "Keras 3"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[AsProcess, Path]]:
    if request.param == "2":
        folder = request.getfixturevalue("of_keras_2")
    else:
        folder = save_with("3", tmp_path_factory.mktemp("keras-3"))
    with process(folder, timeout=_START, **legacy(request.param)) as server:
        assert server.get("/v2/health/ready").status_code == 200, server.log()
        yield server, folder


def ask(server: AsProcess, model: str, values: Any, datatype: str = "FP64") -> Any:
    data = np.asarray(values)
    tensor = {"name": "x", "datatype": datatype, "shape": list(data.shape), "data": data.tolist()}
    return server.infer(model, {"inputs": [tensor]})


def outputs(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {o["name"]: np.reshape(o["data"], o["shape"]) for o in answer.json()["outputs"]}


def test_adversarial_rows(served: tuple[AsProcess, Path]) -> None:
    server, folder = served
    answers = np.load(folder / ANSWERS)
    names = {key.partition(".")[0] for key in answers}
    assert "distilled" in names
    for name in names:
        answer = ask(server, name, ASKED, "FP32")
        found = outputs(answer)
        assert set(found) == {"instance_score", "is_adversarial"}
        for key, values in found.items():
            np.testing.assert_allclose(values[0], answers[f"{name}.{key}"], rtol=1e-4, atol=1e-6)
        assert answer.headers["x-seldon-alibi-type"] == "adversarial"
        metadata = server.get(f"/v2/models/{name}").json()
        assert [tensor["shape"] for tensor in metadata["inputs"]] == [[-1, 3]]


def test_rows_that_do_not_fit(served: tuple[AsProcess, Path]) -> None:
    server, _ = served
    for values, datatype, words in [
        (X[:, :2], "FP64", "input 'x' has 2 features per row (shape [200, 2]), but the detector expects 3"),
        (X[0], "FP64", "input 'x' has shape [3], but the detector expects [rows, 3]"),
        ([["a", "b", "c"]], "BYTES", "input 'x' holds text, but the detector expects numbers"),
    ]:
        answer = ask(server, "distilled", values, datatype)
        assert answer.status_code == 400 and answer.json()["error"].startswith(words), answer.text


def test_a_kernel_that_is_learned(served: tuple[AsProcess, Path]) -> None:
    server, _ = served
    answer = ask(server, "learned", SHIFTED[:60] + 3)
    found = outputs(answer)
    assert set(found) == {"is_drift", "distance", "p_val", "threshold", "distance_threshold"}
    assert found["is_drift"].item() == 1
    assert answer.headers["x-seldon-alibi-method"] == "learned_kernel"


def test_a_checkpoint_for_the_other_keras(of_keras_2: Path, tmp_path: Path) -> None:
    write_model(tmp_path, "autoencoder", _RUNTIME, parameters={"uri": str(of_keras_2 / "autoencoder")})
    environment = {"MLSERVER_LOAD_MODELS_AT_STARTUP": "false", **legacy("3")}
    with process(tmp_path, timeout=_START, ready=False, **environment) as server:
        load = f"{server.url}/v2/repository/models/autoencoder/load"
        answer = requests.post(load, timeout=_START)
        assert answer.status_code == 400
        assert answer.json()["error"].endswith("start the server with TF_USE_LEGACY_KERAS=1")
