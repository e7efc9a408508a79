"""What the documents show is run, and what they list is complete."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlserver.settings import CORSSettings, ModelParameters, ModelSettings, Settings
from tests.docs.pages import DOCS, ROOT, blocks, curl_bodies
from tests.running import process, serving, wait_for, write_model


@pytest.fixture
def iris(tmp_path: Path) -> Path:
    x, y = load_iris(return_X_y=True)
    home = write_model(tmp_path, "iris", "mlserver_sklearn.SKLearnModel")
    joblib.dump(LogisticRegression(max_iter=500).fit(x, y), home / "model.joblib")
    return tmp_path


def test_the_custom_runtime_of_the_guide(tmp_path: Path) -> None:
    guide = DOCS / "runtimes.md"
    for name in ("models.py", "model-settings.json"):
        language = "python" if name.endswith(".py") else "json"
        (tmp_path / name).write_text(blocks(guide, f"{language} file={name}")[0])
    np.save(tmp_path / "factors.npy", np.array([10, 100]))
    with serving(tmp_path) as server:
        exec(blocks(guide, "python client")[0], {"server": server.url})


def test_the_custom_runtime_of_the_readme(tmp_path: Path) -> None:
    write_model(tmp_path, "mine", "models.MyModel", blocks(ROOT / "README.md", "python")[0])
    with serving(tmp_path) as server:
        body = {"inputs": [{"name": "x", "shape": [2], "datatype": "INT64", "data": [1, 2]}]}
        assert server.infer("mine", body).json()["outputs"][0]["data"] == [2, 4]


@pytest.mark.parametrize("document", ["README.md", "docs/rest.md"])
def test_the_curl_commands(document: str, iris: Path) -> None:
    commands = [(path, body) for path, body in curl_bodies(ROOT / document) if "iris" in path]
    assert commands
    with serving(iris) as server:
        for path, body in commands:
            answer = server.post(path, json.loads(body))
            assert answer.status_code == 200, answer.text


def test_a_model_without_configuration(tmp_path: Path) -> None:
    guide = DOCS / "zero-configuration.md"
    (tmp_path / "train.py").write_text(blocks(guide, "python file=train.py")[0])
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True, timeout=60)
    shown = blocks(guide, "console")[0]
    with process(tmp_path / "iris.joblib") as server:
        wait_for(lambda: "\ncurl " in server.log(), "an example")
        printed = server.log().replace(f"127.0.0.1:{server.port}", "localhost:8080")
        assert printed.rpartition("Try it:\n")[2].splitlines()[0] == shown.splitlines()[-1]
        assert shown.splitlines()[2].removeprefix("... ") in printed
        path, body = curl_bodies(guide)[0]
        assert server.post(path, json.loads(body)).ok


def test_every_setting_is_documented() -> None:
    text = (DOCS / "settings.md").read_text()
    for cls in (Settings, CORSSettings, ModelSettings, ModelParameters):
        for name in cls.model_fields:
            assert f"| `{name.rstrip('_')}` |" in text, f"{cls.__name__}.{name} is not in docs/settings.md"


def test_links_between_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *DOCS.glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+\.md)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"
