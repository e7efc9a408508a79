"""The examples of computation graphs: made, served and asked as their readers do it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.examples.test_tabular import ask, quality


def test_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask("torch", tmp_path)
    assert quality(capsys.readouterr().out) > 0.9
    assert answer["label"].tolist() == [0]
    assert answer["scores"].shape == (1, 10) and answer["scores"].argmax() == 0


def test_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask("onnx", tmp_path)
    assert quality(capsys.readouterr().out) > 0.9
    assert answer["label"].tolist() == [0]
    np.testing.assert_allclose(answer["probabilities"].sum(), 1, rtol=1e-5)
