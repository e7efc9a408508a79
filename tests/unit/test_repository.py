"""Which models a folder holds: layouts, defaults, the environment, and folders that are not in order."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mlserver import ModelSettings, Settings
from mlserver.errors import ModelNotFound, StartError
from mlserver.logging import logger
from mlserver.repository import (
    DEFAULT_MODEL_SETTINGS_FILENAME,
    ModelRepository,
    ModelRepositoryFactory,
    SchemalessModelRepository,
)
from mlserver.repository.load import load_model_settings
from mlserver.repository.recognised import ArtefactRepository
from mlserver.utils import get_model_uri

IMPLEMENTATION = "tests.unit.test_repository.Runtime"


class Runtime:
    """Stands for a runtime: the repository never imports it."""


@pytest.fixture(autouse=True)
def clean(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("MLSERVER_") or name.upper() == "IMPLEMENTATION":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """What the server logs during the test."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Keep()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def write(folder: Path, **values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / DEFAULT_MODEL_SETTINGS_FILENAME
    path.write_text(json.dumps({"implementation": IMPLEMENTATION, **values}))
    return path


async def found(root: Path) -> list[tuple[str, str | None]]:
    return sorted((s.name, s.version) for s in await SchemalessModelRepository(root=str(root)).list())


# Layouts


async def test_a_single_model(tmp_path: Path) -> None:
    write(tmp_path, name="m")
    (settings,) = await SchemalessModelRepository(str(tmp_path)).list()
    assert settings.name == "m"
    assert settings.parameters is not None and settings.parameters.uri == str(tmp_path)
    assert settings._source == str(tmp_path / "model-settings.json")


async def test_several_models(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b" / "deep" / "er" / "c")
    write(tmp_path)
    assert await found(tmp_path) == [("a", None), ("c", None), (tmp_path.name, None)]


async def test_several_versions(tmp_path: Path) -> None:
    for version in ("1", "2"):
        write(tmp_path / "m" / version, name="m", parameters={"version": version})
    assert await found(tmp_path) == [("m", "1"), ("m", "2")]
    repository = SchemalessModelRepository(str(tmp_path))
    assert sorted(str(s.version) for s in await repository.find("m")) == ["1", "2"]


async def test_a_version_in_a_sidecars_layout(tmp_path: Path) -> None:
    write(tmp_path / "iris_3" / "3", name="iris_3", parameters={"version": "3", "uri": "./model.joblib"})
    (settings,) = await SchemalessModelRepository(str(tmp_path)).list()
    assert (settings.name, settings.version) == ("iris_3", "3")
    assert settings.parameters is not None and settings.parameters.uri == "./model.joblib"


async def test_a_saved_model_is_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    repository = ArtefactRepository(str(tmp_path))
    (settings,) = await repository.list()
    assert (settings.name, settings.implementation_) == ("tiny", "mlserver_huggingface.HuggingFaceRuntime")
    assert settings.parameters is not None
    assert (settings.parameters.uri, settings.parameters.extra) == (str(folder), {"task": "fill-mask"})
    # What the environment says comes first.
    monkeypatch.setenv("MLSERVER_MODEL_NAME", "mine")
    monkeypatch.setenv("MLSERVER_MODEL_EXTRA", '{"task": "feature-extraction", "batch_size": 4}')
    (settings,) = await repository.list()
    assert settings.parameters is not None
    assert (settings.name, settings.parameters.extra) == (
        "mine",
        {"task": "feature-extraction", "batch_size": 4},
    )
    monkeypatch.delenv("MLSERVER_MODEL_NAME")
    # It may go, and settings may come.
    (folder / "config.json").unlink()
    assert await repository.list() == []
    write(folder, name="other", implementation="somewhere.Runtime")
    assert [settings.name for settings in await repository.list()] == ["other"]


async def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert await found(tmp_path) == []
    assert await found(tmp_path / "missing") == []
    with pytest.raises(ModelNotFound, match="Model m not found"):
        await SchemalessModelRepository(str(tmp_path)).find("m")


async def test_the_same_model_twice_is_listed_twice(tmp_path: Path) -> None:
    write(tmp_path / "a", name="m")
    write(tmp_path / "b", name="m")
    assert await found(tmp_path) == [("m", None), ("m", None)]


async def test_folders_that_start_with_a_dot_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / ".hidden")
    write(tmp_path / "m" / ".git" / "x")
    write(tmp_path / "m")
    assert await found(tmp_path) == [("m", None)]


async def test_the_root_itself_may_start_with_a_dot(tmp_path: Path) -> None:
    write(tmp_path / ".models" / "m")
    assert await found(tmp_path / ".models") == [("m", None)]


async def test_only_files_of_the_exact_name_count(tmp_path: Path) -> None:
    write(tmp_path / "a").rename(tmp_path / "a" / "model-settings.json.bak")
    write(tmp_path / "b").rename(tmp_path / "b" / "Model-Settings.json.txt")
    (tmp_path / "c" / "model-settings.json").mkdir(parents=True)
    write(tmp_path / "c" / "model-settings.json" / "inner")
    assert await found(tmp_path) == [("inner", None)]


async def test_a_relative_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    (settings,) = await SchemalessModelRepository("models").list()
    assert settings.name == "models"
    assert settings.parameters is not None and settings.parameters.uri == str(tmp_path / "models")


# Links and permissions


async def test_linked_folders_are_models_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "store" / "v1")
    root = tmp_path / "root"
    root.mkdir()
    (root / "live").symlink_to(tmp_path / "store" / "v1")
    (root / "canary").symlink_to(tmp_path / "store" / "v1")
    assert await found(root) == [("canary", None), ("live", None)]
    (settings,) = await SchemalessModelRepository(str(root)).find("live")
    assert settings.parameters is not None and settings.parameters.uri == str(root / "live")


async def test_a_linked_root_keeps_its_path(tmp_path: Path) -> None:
    write(tmp_path / "store")
    (tmp_path / "models").symlink_to(tmp_path / "store")
    (settings,) = await SchemalessModelRepository(str(tmp_path / "models")).list()
    assert settings.parameters is not None and settings.parameters.uri == str(tmp_path / "models")


async def test_linked_files(tmp_path: Path) -> None:
    """As config maps are mounted: files are links into a folder whose name starts with dots."""
    write(tmp_path / "..2024")
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "model-settings.json").symlink_to("..data/model-settings.json")
    assert await found(tmp_path) == [(tmp_path.name, None)]


@pytest.mark.timeout(10)
async def test_links_in_a_circle_end(tmp_path: Path) -> None:
    write(tmp_path / "m")
    (tmp_path / "m" / "up").symlink_to(tmp_path)
    (tmp_path / "m" / "self").symlink_to(tmp_path / "m")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    assert await found(tmp_path) == [("m", None)]


async def test_a_repository_that_cannot_be_written(tmp_path: Path) -> None:
    write(tmp_path / "m")
    folders = [tmp_path / "m", tmp_path]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert await found(tmp_path) == [("m", None)]
        assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["model-settings.json"]
    finally:
        for folder in reversed(folders):
            folder.chmod(stat.S_IRWXU)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
async def test_a_folder_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    (tmp_path / "b").chmod(0)
    try:
        assert await found(tmp_path) == [("a", None)]
    finally:
        (tmp_path / "b").chmod(stat.S_IRWXU)


# Scanning again


async def test_each_call_sees_what_is_there_now(tmp_path: Path) -> None:
    repository = SchemalessModelRepository(str(tmp_path))
    path = write(tmp_path / "a", max_batch_size=1)
    assert [s.max_batch_size for s in await repository.find("a")] == [1]
    write(tmp_path / "a", max_batch_size=2)
    write(tmp_path / "b")
    assert [s.max_batch_size for s in await repository.find("a")] == [2]
    assert len(await repository.list()) == 2
    path.unlink()
    with pytest.raises(ModelNotFound):
        await repository.find("a")


async def test_a_model_that_vanishes_during_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / name)
    parse_file = ModelSettings.parse_file

    def parse_and_remove(path: Any) -> Any:
        (tmp_path / "b" / DEFAULT_MODEL_SETTINGS_FILENAME).unlink(missing_ok=True)
        return parse_file(path)

    monkeypatch.setattr(ModelSettings, "parse_file", parse_and_remove)
    assert await found(tmp_path) == [("a", None), ("c", None)]


async def test_folders_come_and_go_during_scans(tmp_path: Path) -> None:
    write(tmp_path / "stays")
    repository = SchemalessModelRepository(str(tmp_path))

    def churn() -> None:
        for index in range(200):
            path = write(tmp_path / f"m{index % 5}")
            path.unlink()
            path.parent.rmdir()

    churning = asyncio.create_task(asyncio.to_thread(churn))
    while not churning.done():
        assert "stays" in {settings.name for settings in await repository.list()}
    await churning


async def test_the_loop_runs_while_a_large_repository_is_read(tmp_path: Path) -> None:
    for index in range(100):
        write(tmp_path / f"m{index}")
    listing = asyncio.create_task(SchemalessModelRepository(str(tmp_path)).list())
    longest = 0.0
    while not listing.done():
        started = time.perf_counter()
        await asyncio.sleep(0)
        longest = max(longest, time.perf_counter() - started)
    assert len(await listing) == 100
    assert longest < 0.5


# Broken files


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "not valid JSON"),
        ("[]", "Skipped"),
        ('{"implementation": 3}', "implementation"),
        (json.dumps({"implementation": "x.Y", "name": None}), "name"),
        (
            json.dumps(
                {"implementation": "x.Y", "inputs": [{"name": "x", "datatype": "FP31", "shape": [1]}]}
            ),
            "datatype",
        ),
        ('{"name": "m"}', "implementation"),
    ],
)
async def test_a_broken_file_is_logged_and_skipped(
    tmp_path: Path, logged: list[logging.LogRecord], content: str, text: str
) -> None:
    write(tmp_path / "good")
    path = write(tmp_path / "bad")
    path.write_text(content)
    repository = SchemalessModelRepository(str(tmp_path))
    for _ in range(2):
        assert [settings.name for settings in await repository.list()] == ["good"]
    (record,) = logged  # once, though it was read twice
    assert record.levelno == logging.ERROR and record.exc_info is not None
    message = record.getMessage()
    assert str(path) in message and text in message and "\n" not in message


async def test_a_broken_file_that_was_mended_and_broken_again_is_logged_again(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    path = write(tmp_path / "m")
    good = path.read_text()
    repository = SchemalessModelRepository(str(tmp_path))
    for content, listed in (("{", 0), ("{", 0), (good, 1), ("{", 0), ("[", 0)):
        path.write_text(content)
        assert len(await repository.list()) == listed
    assert len(logged) == 3


async def test_a_name_that_differs_from_the_folder_is_only_a_warning(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    write(tmp_path / "folder", name="other", parameters={"version": "v1"})
    write(tmp_path / "v2", name="other", parameters={"version": "v2"})
    write(tmp_path / "same", name="same")
    repository = SchemalessModelRepository(str(tmp_path))
    for _ in range(2):
        assert len(await repository.list()) == 3
    (record,) = logged
    assert record.levelno == logging.WARNING
    assert "other" in record.getMessage() and "folder" in record.getMessage()


# Names, URIs and the environment


async def test_the_environment_fills_what_a_file_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "NAME": "envname",
        "URI": "/mnt/models",
        "VERSION": "v1",
        "EXTRA": '{"a": 1}',
        "MAX_BATCH_SIZE": "7",
        "IMPLEMENTATION": IMPLEMENTATION,
    }.items():
        monkeypatch.setenv(f"MLSERVER_MODEL_{name}", value)
    path = tmp_path / "sub" / DEFAULT_MODEL_SETTINGS_FILENAME
    path.parent.mkdir()
    path.write_text("{}")
    (settings,) = await SchemalessModelRepository(str(tmp_path)).list()
    assert settings.parameters is not None
    assert (settings.name, settings.version, settings.max_batch_size) == ("envname", "v1", 7)
    assert (settings.parameters.uri, settings.parameters.extra) == ("/mnt/models", {"a": 1})
    path.write_text('{"name": "fromfile", "parameters": {"version": "v9"}}')
    (settings,) = await SchemalessModelRepository(str(tmp_path)).list()
    assert settings.parameters is not None
    assert (settings.name, settings.version) == ("fromfile", "v9")
    assert settings.parameters.uri == "/mnt/models"
    assert settings.implementation_ == IMPLEMENTATION


async def test_a_relative_uri_is_kept_and_seen_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write(tmp_path / name)
        (tmp_path / name / "weights").touch()
    monkeypatch.setenv("MLSERVER_MODEL_URI", "./weights")
    for settings in await SchemalessModelRepository(str(tmp_path)).list():
        assert settings.parameters is not None and settings.parameters.uri == "./weights"
        assert await get_model_uri(settings) == str(tmp_path / settings.name / "weights")


async def test_a_model_described_by_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.joblib").touch()
    monkeypatch.setenv("MLSERVER_MODEL_NAME", "iris")
    assert await found(tmp_path) == []
    monkeypatch.setenv("MLSERVER_MODEL_IMPLEMENTATION", IMPLEMENTATION)
    (settings,) = await SchemalessModelRepository(str(tmp_path)).list()
    assert (settings.name, settings._source) == ("iris", None)
    assert settings.parameters is not None and settings.parameters.uri is None
    monkeypatch.setenv("MLSERVER_MODEL_URI", str(tmp_path))
    (settings,) = await SchemalessModelRepository(str(tmp_path)).list()
    assert settings.parameters is not None and settings.parameters.uri == str(tmp_path)
    (tmp_path / DEFAULT_MODEL_SETTINGS_FILENAME).write_text("{")  # broken ones do not count
    assert await found(tmp_path) == [("iris", None)]
    write(tmp_path / "m", name="m")  # usable ones do
    assert await found(tmp_path) == [("m", None)]


async def test_a_model_described_by_a_dot_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(
        f"MLSERVER_MODEL_IMPLEMENTATION={IMPLEMENTATION}\nMLSERVER_MODEL_VERSION=v2\n"
    )
    assert await found(tmp_path) == [("", "v2")]


async def test_an_environment_that_does_not_parse_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLSERVER_MODEL_IMPLEMENTATION", IMPLEMENTATION)
    monkeypatch.setenv("MLSERVER_MODEL_MAX_BATCH_SIZE", "many")
    with pytest.raises(ValidationError):
        await SchemalessModelRepository(str(tmp_path)).list()


def test_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / "m", parameters={"extra": {"k": "v"}})
    for given in (path, str(path)):
        settings = load_model_settings(given)
        assert settings.parameters is not None
        assert (settings.name, settings.parameters.uri) == ("m", str(tmp_path / "m"))
        assert settings.parameters.extra == {"k": "v"}


# Repositories of other kinds


class Fixed(ModelRepository):
    """Lists what it is told to."""

    def __init__(self, root: str, names: list[str]) -> None:
        super().__init__(root)
        self.root = root
        self.names = names

    async def list(self) -> list[ModelSettings]:
        return [ModelSettings(name=name, implementation=Runtime) for name in self.names]


class Bare:
    """Does not inherit anything."""

    def __init__(self, root: str) -> None:
        self.root = root


async def test_a_repository_of_ones_own() -> None:
    settings = Settings(
        model_repository_implementation=f"{__name__}.Fixed",
        model_repository_root="s3://bucket",
        model_repository_implementation_args={"names": ["a", "b", "a"]},
    )
    repository = ModelRepositoryFactory.resolve_model_repository(settings)
    assert isinstance(repository, Fixed) and repository.root == "s3://bucket"
    assert [s.name for s in await repository.find("a")] == ["a", "a"]
    with pytest.raises(ModelNotFound):
        await repository.find("c")


@pytest.mark.parametrize("path", [f"{__name__}.Bare", f"{__name__}:Bare", Bare])
def test_ways_to_name_a_repository(path: Any) -> None:
    settings = Settings(model_repository_root="r")
    settings.model_repository_implementation = path
    repository = ModelRepositoryFactory.resolve_model_repository(settings)
    assert type(repository).__name__ == "Bare"
    assert Settings(model_repository_implementation=path).model_repository_implementation is not None


def test_the_default_repository() -> None:
    repository = ModelRepositoryFactory.resolve_model_repository(Settings())
    assert isinstance(repository, SchemalessModelRepository)


@pytest.mark.parametrize("path", ["nowhere.to.Find", f"{__name__}.Missing", "word"])
def test_a_repository_that_cannot_be_imported(path: str) -> None:
    settings = Settings()
    settings.model_repository_implementation = path
    with pytest.raises(StartError, match="the model repository cannot be imported: ") as caught:
        ModelRepositoryFactory.resolve_model_repository(settings)
    assert caught.value.exit_code == 1


def test_a_repository_that_cannot_be_built() -> None:
    settings = Settings(
        model_repository_implementation=f"{__name__}.Bare", model_repository_implementation_args={"size": 3}
    )
    with pytest.raises(StartError, match=r"the model repository Bare cannot be built: TypeError: .*'size'"):
        ModelRepositoryFactory.resolve_model_repository(settings)


def test_a_repository_must_list() -> None:
    with pytest.raises(TypeError):
        ModelRepository()  # type: ignore[abstract]
