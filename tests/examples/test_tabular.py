"""The examples of models of rows and columns: trained, served and asked as their readers do it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.docs.pages import curl_bodies
from tests.running import process

EXAMPLES = Path(__file__).parents[2] / "examples"


def ask(example: str, folder: Path) -> dict[str, Any]:
    """What the example answers to the request in its README: values by the name of the output."""
    shutil.copytree(EXAMPLES / example, folder, dirs_exist_ok=True)
    if (folder / "train.py").exists():
        done = subprocess.run(
            [sys.executable, "train.py"], cwd=folder, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        print(done.stdout)
    ((path, body),) = curl_bodies(folder / "README.md")
    with process(folder) as server:
        answer = server.post(path, json.loads(body))
        assert answer.status_code == 200, answer.text
    return {
        output["name"]: np.reshape(output["data"], output["shape"]) for output in answer.json()["outputs"]
    }


def quality(text: str) -> float:
    """The first number that training printed."""
    match = re.search(r": (\d+(\.\d+)?)", text)
    assert match, text
    return float(match[1])


def test_sklearn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask("sklearn", tmp_path)
    assert quality(capsys.readouterr().out) > 0.85
    assert answer["predict"].ravel().tolist() == ["yes", "no"]
    np.testing.assert_allclose(answer["predict_proba"].sum(axis=1), 1)


def test_xgboost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask("xgboost", tmp_path)
    assert quality(capsys.readouterr().out) > 0.9
    assert answer["predict"].tolist() == [[0]]
    assert answer["predict_proba"].shape == (1, 10) and answer["predict_proba"].argmax() == 0


def test_lightgbm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask("lightgbm", tmp_path)
    assert quality(capsys.readouterr().out) < 70
    assert answer["pred_contribs"].shape == (1, 11)
    np.testing.assert_allclose(answer["pred_contribs"].sum(), answer["predict"].item())


def test_catboost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask("catboost", tmp_path)
    assert quality(capsys.readouterr().out) > 0.9
    first, second = answer["predict"].ravel()
    assert first > second


def test_function(tmp_path: Path) -> None:
    (distances,) = ask("function", tmp_path).values()
    np.testing.assert_allclose(distances.ravel(), [2007, 1067], atol=20)
