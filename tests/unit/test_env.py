"""Environments of models: what the files beside them ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlserver.env import compute_hash_of_file, compute_hash_of_string, read_requirements

PYTHON_ENV = """
python: 3.11.7
build_dependencies: [pip==23.2.1]
dependencies: [-r requirements.txt]
"""
CONDA = """
name: m
channels: [conda-forge]
dependencies:
  - python=3.11
  - pip<=23
  - numpy=1.26=py311
  - scipy>=1.10
  - pip: [mlflow==2.22, "xgboost<3"]
"""


@pytest.mark.parametrize(
    ("name", "text", "python", "requirements"),
    [
        ("requirements.txt", "# a\nnumpy==1.26 # b\n\n-e ./here\n", None, ["numpy==1.26", "-e ./here"]),
        ("python_env.yaml", PYTHON_ENV, "3.11.7", ["pandas==2.2"]),
        ("conda.yaml", CONDA, "3.11", ["numpy==1.26", "scipy>=1.10", "mlflow==2.22", "xgboost<3"]),
    ],
)
def test_requirements(
    tmp_path: Path, name: str, text: str, python: str | None, requirements: list[str]
) -> None:
    (tmp_path / "requirements.txt").write_text("pandas==2.2\n")
    (tmp_path / name).write_text(text)
    assert read_requirements(str(tmp_path / name)) == (python, requirements)


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert compute_hash_of_string("abc") == compute_hash_of_file(str(tmp_path / "file")) == expected
