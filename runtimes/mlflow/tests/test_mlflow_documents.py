"""The page about this runtime and its example are what their reader will find."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import mlserver

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "runtimes" / "mlflow.md"
EXAMPLE = ROOT / "examples" / "mlflow"


def block(opening: str) -> str:
    found = re.search(rf"^```{re.escape(opening)}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found, opening
    return found[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the page's reader has trained the model."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "train.py").write_text(block("python file=train.py"))
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True, timeout=200)
    return folder


def test_a_model_of_the_environment(trained: Path) -> None:
    (command,) = re.findall(r"^\$ (MLSERVER_MODEL_.*)$", PAGE.read_text(), re.MULTILINE)
    *variables, program, start, folder = command.split()
    assert (program, start) == ("mlserver", "start")
    with mlserver(trained / folder, **dict(variable.split("=", 1) for variable in variables)) as server:
        assert server.get("/v2/models/wine/ready").status_code == 200


def test_the_page(trained: Path) -> None:
    (trained / "model-settings.json").write_text(block("json file=model-settings.json"))
    with mlserver(trained) as server:
        exec(block("python client"), {"server": server.url})


def test_the_example(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "example", ignore=shutil.ignore_patterns("model"))
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=tmp_path / "example",
        check=True,
        timeout=200,
        capture_output=True,
        text=True,
    )
    assert float(done.stdout.split("R2 on unseen flats: ")[1].split()[0]) > 0.9
    readme = (EXAMPLE / "README.md").read_text()
    (v2,) = re.findall(r"curl localhost:8080/v2/models/example/infer -d '(.*?)'", readme, re.DOTALL)
    (own,) = re.findall(r"curl localhost:8080/invocations .*? -d '(.*?)'", readme, re.DOTALL)
    # Somewhere else than where the code lies that it was saved from.
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("model", "model-settings.json"):
        shutil.move(tmp_path / "example" / name, moved / name)
    with mlserver(moved, workers=1) as server:
        rent, currency = server.infer("example", json.loads(v2)).json()["outputs"]
        assert (rent["name"], currency["data"]) == ("rent", ["NOK", "NOK"])
        assert rent["data"][0] > rent["data"][1] > 0
        answer = server.post("/invocations", json=json.loads(own)).json()
        assert [row["rent"] for row in answer["predictions"]] == rent["data"]
        unknown = {**json.loads(v2), "parameters": {"currency": 5}}
        assert "parameter 'currency'" in server.infer("example", unknown).json()["error"]
