"""The released mlserver-mlflow 1.7.1 loads and answers on this server as it is.

It is installed without its dependencies into an environment of its own, where `mlserver` is this one, and is
only ever asked from outside.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Server, mlserver
from saving import COLUMNS, X

import mlserver as ours

SOURCE = Path(ours.__file__).parents[1]
VERSION = "1.7.1"
WHERE = """
import mlserver, mlserver_mlflow
from mlserver_mlflow.version import __version__
print(__version__, mlserver_mlflow.__file__)
print(mlserver.__version__, mlserver.__file__)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the released package, and beside it all that this one has."""
    home = tmp_path_factory.mktemp("released")
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=120)
    python = home / "bin" / "python"
    package = f"mlserver-mlflow=={VERSION}"
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", package], check=True, timeout=240
    )
    (site,) = home.glob("lib/python*/site-packages")
    beside = [entry for entry in sys.path if entry.endswith("site-packages")]
    (site / "zz_beside.pth").write_text("".join(f"import site; site.addsitedir({p!r})\n" for p in beside))
    return python


@pytest.fixture(scope="module")
def server(saved: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("repository")
    for name in ("columns", "named"):
        (folder / name).mkdir()
        settings = {
            "name": name,
            "implementation": "mlserver_mlflow.MLflowRuntime",
            "parameters": {"uri": str(saved / name)},
        }
        (folder / name / "model-settings.json").write_text(json.dumps(settings))
    with mlserver(folder, str(python), PYTHONPATH=str(SOURCE)) as server:
        yield server


def test_this_is_the_released_package(python: Path) -> None:
    done = subprocess.run(
        [str(python), "-c", WHERE],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    runtime, core = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert runtime[0] == VERSION and Path(runtime[1]).is_relative_to(python.parents[1])
    assert core[0] != VERSION and Path(core[1]).is_relative_to(SOURCE)


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def test_it_answers_columns(server: Server) -> None:
    rows = X.iloc[[0, 60, 120]]
    inputs = [tensor(name, "FP64", [3, 1], rows[name].tolist()) for name in COLUMNS]
    answer = server.infer("columns", {"inputs": inputs})
    assert answer.status_code == 200, answer.text + server.log()
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["datatype"], output["data"]) == ("output-1", "INT64", [0, 1, 2])


def test_it_answers_named_tensors(server: Server) -> None:
    inputs = [tensor("a", "FP32", [2, 2], [1, 2, 3, 4]), tensor("b", "INT64", [2], [5, 6])]
    answer = server.infer("named", {"inputs": inputs}).json()
    assert {output["name"]: output["data"] for output in answer["outputs"]} == {
        "sum": [3.0, 7.0],
        "twice": [10, 12],
    }
    assert answer["parameters"] == {"content_type": "dict"}


def test_its_metadata_comes_from_the_signature(server: Server) -> None:
    metadata = server.get("/v2/models/named").json()
    assert [t["name"] for t in metadata["inputs"]] == ["a", "b"]


def test_its_routes_answer(server: Server) -> None:
    for path in ("/ping", "/health", "/version"):
        assert server.get(path).status_code == 200
    # Both models have the routes; now only one.
    assert server.post("/v2/repository/models/named/unload").status_code == 200
    answer = server.post("/invocations", json={"dataframe_records": X.head(2).to_dict(orient="records")})
    assert (answer.status_code, answer.json()) == (200, {"predictions": [0, 0]})
