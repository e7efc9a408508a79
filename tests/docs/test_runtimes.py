"""The pages about runtimes: their models are trained, served and asked as the pages say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.docs.pages import DOCS, blocks, train_serve_ask
from tests.running import serving, write_model

PAGES = DOCS / "runtimes"


@pytest.mark.parametrize("library", ["sklearn", "xgboost", "lightgbm", "catboost", "onnx", "torch"])
def test_train_serve_ask(library: str, tmp_path: Path) -> None:
    train_serve_ask(PAGES / f"{library}.md", tmp_path)


def test_a_runtime_of_ones_own(tmp_path: Path) -> None:
    code = blocks(PAGES / "rows.md", "python file=models.py")[0]
    home = write_model(tmp_path, "mine", "models.Linear", code)
    np.save(home / "model.npy", np.array([1.0, -1.0]))
    tensor = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [3, 1, 1, 3]}
    with serving(tmp_path) as server:
        answer = server.infer("mine", {"inputs": [tensor]}).json()
        asked = server.infer("mine", {"inputs": [tensor], "outputs": [{"name": "decision_function"}]}).json()
        unknown = server.infer("mine", {"inputs": [tensor], "outputs": [{"name": "explain"}]})
        metadata = server.get("/v2/models/mine").json()
    assert answer["outputs"][0]["data"] == [1, 0]
    assert asked["outputs"][0]["data"] == [2, -2]
    assert unknown.json()["error"].endswith("as outputs (explain was received)")
    assert metadata["platform"] == "linear" and metadata["inputs"][0]["shape"] == [-1, 2]


def test_links_lead_somewhere() -> None:
    for page in PAGES.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+\.md)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
