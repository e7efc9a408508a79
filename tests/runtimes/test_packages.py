"""Every runtime is a distribution of its own that keeps step with the server."""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

import pytest

import mlserver
from mlserver import MLModel

tomllib = pytest.importorskip("tomllib")  # since Python 3.11

ROOT = Path(__file__).parents[2]
CLASSES = {
    "sklearn": "SKLearnModel",
    "xgboost": "XGBoostModel",
    "lightgbm": "LightGBMModel",
    "catboost": "CatboostModel",
    "onnx": "OnnxModel",
    "torch": "TorchModel",
}


@pytest.mark.parametrize(("name", "cls"), CLASSES.items())
def test_R56_names_and_versions(name: str, cls: str) -> None:
    home = ROOT / "runtimes" / name
    project: dict[str, Any] = tomllib.loads((home / "pyproject.toml").read_text())["project"]
    package = importlib.import_module(f"mlserver_{name}")
    module = importlib.import_module(f"mlserver_{name}.{name}")
    version = importlib.import_module(f"mlserver_{name}.version").__version__
    assert project["name"] == f"mlserver-{name}"
    assert project["version"] == version == package.__version__ == mlserver.__version__
    assert "mlserver>=1.8,<2" in project["dependencies"]
    assert issubclass(getattr(package, cls), MLModel) and getattr(module, cls) is getattr(package, cls)
    assert (home / f"mlserver_{name}" / "py.typed").exists() and (home / "LICENSE").exists()
    assert f"mlserver_{name}.{cls}" in (home / project["readme"]).read_text()


PUBLIC = {
    "mlserver",
    "mlserver.artefact",
    "mlserver.codecs",
    "mlserver.errors",
    "mlserver.logging",
    "mlserver.signature",
    "mlserver.tabular",
    "mlserver.types",
}


@pytest.mark.parametrize("name", CLASSES)
def test_they_use_nothing_private_of_the_server(name: str) -> None:
    for path in (ROOT / "runtimes" / name).glob("mlserver_*/*.py"):
        for statement in ast.walk(ast.parse(path.read_text())):
            module = getattr(statement, "module", None) or ""
            if module.partition(".")[0] == "mlserver":
                assert isinstance(statement, ast.ImportFrom) and module in PUBLIC, f"{path.name}: {module}"
                assert not [alias.name for alias in statement.names if alias.name.startswith("_")]
