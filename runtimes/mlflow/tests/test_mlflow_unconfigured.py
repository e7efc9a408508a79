"""Folders of MLflow without settings: recognised, served, and asked as the server says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from tests.running import process
from tests.trying import needs_curl, pasted, printed_line


@needs_curl
@pytest.mark.parametrize("name", ["columns", "matrix", "named", "local", "echo"])
def test_the_request_that_is_printed_works(name: str, saved: Path) -> None:
    with process(saved / name) as server:
        status, answer = pasted(printed_line(server))
        assert status == 200, answer
        assert answer["model_name"] == name
        assert "was saved with" not in server.log()


def test_versions_of_the_flavours_are_compared(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "iris"
    shutil.copytree(saved / "columns", folder)
    text = re.sub(r"sklearn_version: \S+", "sklearn_version: 0.24.2", (folder / "MLmodel").read_text())
    (folder / "MLmodel").write_text(re.sub(r"mlflow_version: \S+", "mlflow_version: 1.30.1", text))
    with process(folder) as server:
        warnings = [line for line in server.log().splitlines() if "was saved with" in line]
        assert len(warnings) == 1
        assert "scikit-learn 0.24.2 (" in warnings[0] and "mlflow 1.30.1 (" in warnings[0]
