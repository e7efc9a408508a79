"""Folders of MLflow without settings: recognised, served, and asked as the server says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.running import process, wait_for


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("name", ["columns", "matrix", "named", "local", "echo"])
def test_the_request_that_is_printed_works(name: str, saved: Path) -> None:
    with process(saved / name) as server:
        found = wait_for(lambda: re.search(r"^Try it:\n(.+)\n", server.log(), re.MULTILINE), "an example")
        done = subprocess.run(
            ["bash", "-c", f"{found[1]} -w '\\n%{{http_code}}'"], capture_output=True, text=True, check=True
        )
        body, _, status = done.stdout.rpartition("\n")
        assert status == "200", body
        assert json.loads(body)["model_name"] == name
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
