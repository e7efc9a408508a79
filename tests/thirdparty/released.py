"""Released runtimes that were written for MLServer 1.7.1 load and answer on this server as they are.

They are installed without their dependencies into an environment of their own, where `mlserver` is this one,
and are only ever asked from outside. Needs a package index, so no plain run of the tests collects it; run by
`make test-thirdparty`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import catboost
import joblib
import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb
from sklearn.linear_model import LogisticRegression

from tests.running import AsProcess, process, write_model
from tests.tabular import THREE, X

pytestmark = pytest.mark.timeout(600)

SOURCE = Path(__file__).parents[2] / "src"
VERSION = "1.7.1"
RUNTIMES = {
    "sklearn": "mlserver_sklearn.SKLearnModel",
    "xgboost": "mlserver_xgboost.XGBoostModel",
    "lightgbm": "mlserver_lightgbm.LightGBMModel",
    "catboost": "mlserver_catboost.CatboostModel",
}
WHERE = """
import importlib, mlserver
for name in {names}:
    package = importlib.import_module(f"mlserver_{{name}}")
    version = importlib.import_module(f"mlserver_{{name}}.version").__version__
    print(version, package.__file__)
print(mlserver.__version__, mlserver.__file__)
"""


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the released runtimes, and beside them all that this one has."""
    home = tmp_path_factory.mktemp("released")
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=120)
    python = home / "bin" / "python"
    packages = [f"mlserver-{name}=={VERSION}" for name in RUNTIMES]
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *packages], check=True, timeout=300
    )
    (site,) = home.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    # After its own packages, and with what is installed in place.
    lines = [f"import site; site.addsitedir({path!r})\n" for path in ours]
    (site / "zz_beside.pth").write_text("".join(lines))
    return python


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    yield {"PYTHONPATH": str(SOURCE)}


def test_these_are_the_released_packages(interpreter: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [str(interpreter), "-c", WHERE.format(names=list(RUNTIMES))],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    *runtimes, core = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert len(runtimes) == len(RUNTIMES)
    for version, path in runtimes:
        assert version == VERSION
        assert Path(path).is_relative_to(interpreter.parents[1])
    assert core[0] != VERSION and Path(core[1]).is_relative_to(SOURCE)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A repository with a model of each library, and what the library itself answers, by output."""
    folder = tmp_path_factory.mktemp("models")
    home = {
        name: write_model(folder, name, implementation, parameters={"uri": "."})
        for name, implementation in RUNTIMES.items()
    }
    linear = LogisticRegression().fit(X, THREE)
    joblib.dump(linear, home["sklearn"] / "model.joblib")
    extreme = xgb.XGBClassifier(n_estimators=5).fit(X, THREE)
    extreme.save_model(home["xgboost"] / "model.json")
    light = lgb.train({"objective": "multiclass", "num_class": 3, "verbose": -1}, lgb.Dataset(X, THREE), 5)
    light.save_model(home["lightgbm"] / "model.bst")
    cat = catboost.CatBoostClassifier(iterations=5, verbose=0, allow_writing_files=False).fit(X, THREE)
    cat.save_model(home["catboost"] / "model.cbm")
    rows = X[:7]
    return folder, {
        "sklearn": {"predict": linear.predict(rows), "predict_proba": linear.predict_proba(rows)},
        "xgboost": {"predict": extreme.predict(rows), "predict_proba": extreme.predict_proba(rows)},
        "lightgbm": {"predict": light.predict(rows)},
        "catboost": {"predict": cat.predict(rows)},
    }


@pytest.fixture(scope="module")
def server(interpreter: Path, environment: dict[str, str], models: tuple[Path, Any]) -> Iterator[AsProcess]:
    with process(models[0], command=[str(interpreter), "-m", "mlserver"], **environment) as server:
        yield server


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_released_runtime_answers(name: str, server: AsProcess, models: tuple[Path, Any]) -> None:
    assert server.get(f"/v2/models/{name}/ready").status_code == 200
    tensor = {"name": "x", "shape": [7, 3], "datatype": "FP32", "data": X[:7].ravel().tolist()}
    for output, expected in models[1][name].items():
        asked = [] if output == "predict" else [{"name": output}]
        answer = server.infer(name, {"inputs": [tensor], "outputs": asked})
        assert answer.status_code == 200, answer.text + server.log()
        (got,) = answer.json()["outputs"]
        assert got["name"] == output
        assert got["shape"] == list(expected.shape if expected.ndim == 2 else (7, 1))
        np.testing.assert_allclose(np.reshape(got["data"], expected.shape), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["sklearn", "xgboost"])
def test_a_released_runtime_refuses(name: str, server: AsProcess) -> None:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    answer = server.infer(name, {"inputs": [tensor], "outputs": [{"name": "explain"}]})
    assert answer.status_code == 400
    assert "(explain was received)" in answer.json()["error"]
