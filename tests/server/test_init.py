"""`mlserver init`: what it writes starts, answers and passes its own tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlserver.cli.main import root
from mlserver.cli.scaffold import FILES
from tests.running import process


def init(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["init", *arguments])


def test_the_template_starts_and_answers(tmp_path: Path) -> None:
    folder = tmp_path / "my scaler"
    done = init(str(folder))
    assert done.exit_code == 0 and f"mlserver start '{folder}'" in done.output
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    body = re.search(r"infer -d '(.*)'", (folder / "README.md").read_text())
    assert body is not None
    with process(folder) as server:
        answer = server.infer("my-scaler", json.loads(body[1]))
        assert answer.json()["outputs"][0]["data"] == [2.0, 4.0]
        refused = json.loads(body[1])
        refused["inputs"][0]["shape"] = [1, 2, 1]
        assert server.infer("my-scaler", refused).json() == {
            "error": "expected rows of numbers, got shape [1, 2, 1]"
        }
        assert server.get("/v2/models/my-scaler/versions/v1").json()["inputs"][0]["name"] == "x"
        assert server.stop() == 0


def test_the_template_passes_its_own_tests(tmp_path: Path) -> None:
    assert init(str(tmp_path)).exit_code == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("mine")
    (tmp_path / "README.md").symlink_to(tmp_path / "nowhere")
    done = init(str(tmp_path))
    assert done.exit_code == 1
    assert done.output == f"Error: '{tmp_path}' has model.py, README.md already: nothing was written\n"
    assert (tmp_path / "model.py").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["README.md", "model.py"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = init(str(tmp_path / "file"))
    assert done.exit_code == 1 and "cannot be written" in done.output


# Without a folder, as ever


@pytest.fixture
def cookiecutter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, first on the path, which notes what it is asked for."""
    program = tmp_path / "cookiecutter"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path / "asked"}\nexit ${{CODE:-0}}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "asked"


def test_cookiecutter_gets_the_template(cookiecutter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert init().exit_code == 0
    assert cookiecutter.read_text() == "https://github.com/EthicalML/sml-security/\n"
    assert init("-t", "gh:me/mine").exit_code == 0
    assert cookiecutter.read_text() == "gh:me/mine\n"
    monkeypatch.setenv("CODE", "7")
    assert init("--template", "gh:me/none").exit_code == 7


def test_without_cookiecutter(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlserver", "init"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert done.returncode == 0
    assert " ERROR - " in done.stdout and "pip install cookiecutter" in done.stdout
    assert os.listdir(tmp_path) == []


def test_a_folder_and_a_template_are_one_too_many(tmp_path: Path) -> None:
    done = init(str(tmp_path / "x"), "-t", "gh:me/mine")
    assert done.exit_code == 2 and "either FOLDER or --template" in done.output
