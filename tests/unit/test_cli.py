"""The command line as far as it answers without a server, and how a folder becomes settings."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import mlserver
from mlserver.cli.main import root
from mlserver.cli.serve import DEFAULT_SETTINGS_FILENAME, load_settings
from mlserver.errors import StartError

MODEL = json.dumps({"implementation": "somewhere.Runtime"})


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.upper().startswith("MLSERVER_") or name.upper() == "IMPLEMENTATION":
            monkeypatch.delenv(name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = sys.path[:]
    yield
    sys.path[:] = before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


# The group


def test_version() -> None:
    result = CliRunner().invoke(root, ["--version"], prog_name="mlserver")
    assert (result.exit_code, result.stdout) == (0, f"mlserver, version {mlserver.__version__}\n")


def test_help() -> None:
    result = CliRunner().invoke(root, ["--help"])
    assert result.exit_code == 0
    assert "start" in result.stdout
    result = CliRunner().invoke(root, ["start", "--help"])
    assert result.exit_code == 0
    assert "FOLDER" in result.stdout


@pytest.mark.parametrize(
    "args", [["begin"], ["start"], ["start", "a", "b"], ["start", "--fast", "a"], ["--fast"]]
)
def test_usage_errors(args: list[str]) -> None:
    result = CliRunner().invoke(root, args)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr and result.stdout == ""


def test_the_entry_point_and_the_group_share_a_name() -> None:
    package = importlib.import_module("mlserver.cli")
    assert callable(package.main)
    assert package.main.root is root


@pytest.mark.parametrize("command", [["-m", "mlserver"], ["-c", "from mlserver.cli import main; main()"]])
def test_version_needs_nothing_but_click(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command, "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith(f", version {mlserver.__version__}\n")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"asyncio", "fastapi", "msgspec", "numpy", "pydantic", "uvloop"}


# Settings of a folder


async def test_settings_come_from_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / DEFAULT_SETTINGS_FILENAME).write_text('{"http_port": 9000, "model_repository_root": "other"}')
    (folder / "model-settings.json").write_text(MODEL)
    working_directory = folder.parent / "elsewhere"
    (working_directory / DEFAULT_SETTINGS_FILENAME).write_text('{"grpc_port": 1}')  # not read
    monkeypatch.setenv("MLSERVER_HTTP_PORT", "1")
    monkeypatch.setenv("MLSERVER_METRICS_PORT", "9002")
    monkeypatch.setenv("MLSERVER_MODEL_REPOSITORY_ROOT", "another")
    settings, models = await load_settings(str(folder))
    assert (settings.http_port, settings.grpc_port, settings.metrics_port) == (9000, 8081, 9002)
    assert settings.model_repository_root == str(folder)
    assert [model.name for model in models] == ["folder"]


async def test_settings_without_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_HTTP_PORT", "9001")
    settings, models = await load_settings(str(folder))
    assert (settings.http_port, models) == (9001, [])


async def test_no_models_are_listed_when_none_are_to_be_loaded(folder: Path) -> None:
    (folder / DEFAULT_SETTINGS_FILENAME).write_text('{"load_models_at_startup": false}')
    (folder / "model-settings.json").write_text(MODEL)
    assert (await load_settings(str(folder)))[1] == []
    assert (folder / DEFAULT_SETTINGS_FILENAME).exists()


async def test_the_folder_and_the_working_directory_come_first(folder: Path) -> None:
    for _ in range(2):
        await load_settings(f"{folder}/")
        assert sys.path[:2] == [str(folder), "."]
    assert sys.path.count(str(folder)) == 1


async def test_a_repository_class_beside_the_settings(folder: Path) -> None:
    (folder / "fixed_repository_.py").write_text(
        "from mlserver import ModelSettings\n"
        "from mlserver.repository import ModelRepository\n"
        "class Fixed(ModelRepository):\n"
        "    def __init__(self, root, names):\n"
        "        self.names = names\n"
        "    async def list(self):\n"
        "        return [ModelSettings(name=n, implementation='x.Y') for n in self.names]\n"
    )
    values = {
        "model_repository_implementation": "fixed_repository_.Fixed",
        "model_repository_implementation_args": {"names": ["a", "b"]},
    }
    (folder / DEFAULT_SETTINGS_FILENAME).write_text(json.dumps(values))
    _, models = await load_settings(str(folder))
    assert [model.name for model in models] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "settings.json: not valid JSON"),
        ('{"http_port": "many"}', "settings.json: http_port: Input should be a valid integer"),
        ('{"model_repository_implementation": "nowhere.Repository"}', "nowhere"),
        ('{"model_repository_implementation": "json.Missing"}', "Missing"),
    ],
)
async def test_settings_that_cannot_be_used(folder: Path, content: str, text: str) -> None:
    (folder / DEFAULT_SETTINGS_FILENAME).write_text(content)
    with pytest.raises(StartError) as caught:
        await load_settings(str(folder))
    assert caught.value.exit_code == 1
    assert text in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLSERVER_HTTP_PORT", "many"),
        ("MLSERVER_EXTENSIONS", "a,b"),
        ("MLSERVER_DEBUG", ""),
        ("MLSERVER_MODEL_MAX_BATCH_SIZE", "many"),
        ("MLSERVER_MODEL_INPUTS", "x"),
    ],
)
async def test_an_environment_that_cannot_be_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("MLSERVER_MODEL_IMPLEMENTATION", "somewhere.Runtime")
    monkeypatch.setenv(name, value)
    with pytest.raises(StartError) as caught:
        await load_settings(str(folder))
    field = name.lower().removeprefix("mlserver_").removeprefix("model_")
    assert field in str(caught.value).lower() and "\n" not in str(caught.value)


async def test_a_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(StartError, match="missing': it does not exist"):
        await load_settings(missing)
    (tmp_path / "model-settings.json").write_text(MODEL)
    with pytest.raises(StartError, match="it is not a folder"):
        await load_settings(str(tmp_path / "model-settings.json"))
    # It may come later, or not matter.
    monkeypatch.setenv("MLSERVER_MODEL_IMPLEMENTATION", "somewhere.Runtime")
    assert len((await load_settings(missing))[1]) == 1
    monkeypatch.delenv("MLSERVER_MODEL_IMPLEMENTATION")
    monkeypatch.setenv("MLSERVER_LOAD_MODELS_AT_STARTUP", "false")
    assert (await load_settings(missing))[1] == []
