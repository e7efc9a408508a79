"""What MLflow saved, looked at by `mlserver audit`, refused, and served with the digests that it prints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import saving
from processes import mlserver
from saving import REQUIREMENTS
from xgboost import XGBClassifier

ROW = [5.1, 3.5, 1.4, 0.2]
Repository = Callable[[str], Path]


@pytest.fixture(scope="module")
def models(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by the kind of their model."""
    folder = tmp_path_factory.mktemp("models")
    boosted = XGBClassifier(n_estimators=2, max_depth=2).fit(saving.X.to_numpy(), saving.Y)
    mlflow.xgboost.save_model(boosted, str(folder / "xgboost"), pip_requirements=REQUIREMENTS)

    class Doubled(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        """Within a function, so that it is pickled with all of its code."""

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return model_input * 2

    data = folder / "data.bin"
    data.write_bytes(b"\x00\x01")
    mlflow.pyfunc.save_model(
        str(folder / "pickled"),
        python_model=Doubled(),
        artifacts={"data": str(data)},
        pip_requirements=REQUIREMENTS,
    )
    return {
        "sklearn": saved / "plain",
        "xgboost": folder / "xgboost",
        "code": saved / "local",
        "pickled": folder / "pickled",
    }


@pytest.fixture
def repository(models: dict[str, Path], tmp_path: Path) -> Repository:
    def repository(kind: str) -> Path:
        folder = tmp_path / "repository"
        shutil.copytree(models[kind], folder / "model")
        settings = {
            "name": "m",
            "implementation": "mlserver_mlflow.MLflowRuntime",
            "parameters": {"uri": "./model"},
        }
        (folder / "model-settings.json").write_text(json.dumps(settings))
        return folder

    return repository


def audit(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlserver", "audit", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def refused(folder: Path) -> str:
    """What a server says that does not start."""
    start = mlserver(folder, MLSERVER_UNSAFE_ARTEFACTS="refuse")
    with pytest.raises(AssertionError, match="UntrustedArtefact") as caught, start:
        pass
    return str(caught.value)


def answers(folder: Path, kind: str) -> list[Any]:
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 4], "data": ROW}
    parameters = {"content_type": "np"}
    if kind == "code":
        tensor, parameters = {**tensor, "shape": [4, 1]}, {"content_type": "pd"}
    with mlserver(folder, MLSERVER_UNSAFE_ARTEFACTS="refuse") as server:
        answer = server.infer("m", {"inputs": [tensor], "parameters": parameters})
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    return list(output["data"])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("sklearn", "model.pkl (sha256:"),
        ("code", "is Python code, which runs when the model is loaded"),
        ("pickled", "python_model.pkl (sha256:"),
    ],
)
def test_refused_and_pinned(repository: Repository, kind: str, reason: str) -> None:
    folder = repository(kind)
    told = audit(folder)
    assert told.returncode == 1 and reason in told.stdout, told.stderr
    # Where its code once lay is written into the model, and not read.
    assert "not in its folder" not in told.stdout
    assert reason in refused(folder)

    pin(folder)
    assert audit(folder).returncode == 0
    expected = np.multiply(ROW, 2) if kind == "pickled" else ROW if kind == "code" else [0]
    np.testing.assert_allclose(answers(folder, kind), expected)

    changed = next(path for path in (folder / "model").rglob("*") if path.suffix in (".pkl", ".py"))
    changed.write_bytes(changed.read_bytes() + b"\n")
    assert f"{changed} (sha256:" in refused(folder)


def test_trees_run_no_code(repository: Repository) -> None:
    folder = repository("xgboost")
    told = audit(folder)
    assert told.returncode == 0 and "loads under `unsafe_artefacts: refuse`" in told.stdout
    assert answers(folder, "xgboost") == [0]
    pin(folder)
    assert answers(folder, "xgboost") == [0]


def pin(folder: Path) -> None:
    """Add to the settings what the audit says."""
    told = audit(folder, "--pin")
    ((path, pins),) = json.loads(told.stdout).items()
    settings = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps({**settings, **pins}))
