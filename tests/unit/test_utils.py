from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from mlserver.errors import InvalidModelURI
from mlserver.settings import ModelParameters, ModelSettings
from mlserver.types import InferenceRequest, InferenceResponse, Parameters
from mlserver.utils import (
    AsyncManager,
    EventLoopBackend,
    extract_headers,
    generate_uuid,
    get_model_uri,
    get_wrapped_method,
    insert_headers,
    install_uvloop_event_loop,
    schedule_with_callback,
    to_absolute_path,
)


def settings_of(uri: str | None, source: Path | None = None) -> ModelSettings:
    parameters = None if uri is None else ModelParameters(uri=uri)
    return ModelSettings(
        implementation="a.B",
        name="m",
        parameters=parameters,
        _source=None if source is None else str(source / "model-settings.json"),
    )


# Artefacts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.joblib").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "artefacts").mkdir()
    (tmp_path / "artefacts" / "model.json").write_text("")
    (tmp_path / "artefacts" / "model.bst").write_text("")
    (tmp_path / "artefacts" / "model.dir").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "wellknown", "expected"),
    [
        ("model.joblib", [], "{}/model.joblib"),
        ("./model.joblib", [], "{}/model.joblib"),
        ("empty/../model.joblib", [], "{}/model.joblib"),
        ("{}/model.joblib", [], "{}/model.joblib"),
        ("file:model.joblib", [], "{}/model.joblib"),
        ("file://{}/model.joblib", [], "{}/model.joblib"),
        ("model.joblib#fragment", [], "{}/model.joblib"),
        ("model.joblib?query", [], "{}/model.joblib"),
        (".", [], "{}"),
        ("empty", ["model.bst"], "{}/empty"),
        ("empty/", ["model.bst"], "{}/empty"),
        ("artefacts", ["model.bst", "model.json"], "{}/artefacts/model.bst"),
        ("artefacts", ["model.json", "model.bst"], "{}/artefacts/model.json"),
        ("artefacts", ["model.dir"], "{}/artefacts"),
        ("artefacts", [], "{}/artefacts"),
        ("artefacts/model.json", ["model.bst"], "{}/artefacts/model.json"),
        ("s3://bucket/{}", [], "s3://bucket/{}"),
        ("models:/m/1", ["model.bst"], "models:/m/1"),
        (r"C:\models\m", [], r"C:\models\m"),
    ],
)
async def test_model_uri(uri: str, wellknown: list[str], expected: str, folder: Path) -> None:
    settings = settings_of(uri.replace("{}", str(folder)), folder)
    assert await get_model_uri(settings, wellknown_filenames=wellknown) == expected.replace("{}", str(folder))


async def test_model_uri_of_settings_without_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert await get_model_uri(settings_of("model.joblib")) == "model.joblib"
    assert await get_model_uri(settings_of(f"{folder}/artefacts/")) == f"{folder}/artefacts/"
    assert await get_model_uri(settings_of("artefacts"), ["model.bst"]) == "artefacts/model.bst"


async def test_model_uri_that_is_nowhere(folder: Path) -> None:
    with pytest.raises(InvalidModelURI) as caught:
        await get_model_uri(settings_of("none.joblib", folder))
    assert str(caught.value) == f"Invalid URI specified for model m ({folder}/none.joblib)"
    assert caught.value.status_code == 422


@pytest.mark.parametrize("uri", [None, ""])
async def test_model_uri_that_is_not_given(uri: str | None) -> None:
    with pytest.raises(InvalidModelURI, match=r"^Invalid URI specified for model m$"):
        await get_model_uri(settings_of(uri))


@pytest.mark.parametrize(
    ("uri", "source", "expected"),
    [
        ("a/../b", None, "a/../b"),
        ("a/../b", Path("/x/y"), "/x/y/b"),
        ("../b", Path("/x/y"), "/x/b"),
        ("/b/", Path("/x/y"), "/b"),
        ("", Path("/x/y"), "/x/y"),
    ],
)
def test_to_absolute_path(uri: str, source: Path | None, expected: str) -> None:
    assert to_absolute_path(settings_of(None, source), uri) == expected


# Identifiers


def test_uuids_are_random_and_of_version_4() -> None:
    texts = [generate_uuid() for _ in range(2000)]
    assert len(set(texts)) == len(texts)
    for text in texts:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)
    assert {text[19] for text in texts} == set("89ab")


def test_uuids_between_threads() -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.extend([generate_uuid() for _ in range(3000)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 12_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_uuids_after_a_fork() -> None:
    generate_uuid()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, generate_uuid().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        of_child = pipe.read().decode()
    assert len(of_child) == 36
    assert of_child not in {generate_uuid() for _ in range(1000)}


# Headers


def request_with(parameters: Parameters | None) -> InferenceRequest:
    return InferenceRequest(inputs=[], parameters=parameters)


def test_headers_are_inserted(caplog: pytest.LogCaptureFixture) -> None:
    for parameters in (None, Parameters(content_type="np")):
        request = request_with(parameters)
        assert insert_headers(request, {"a": "1"}) is request
        assert request.parameters is not None
        assert request.parameters.headers == {"a": "1"}
    assert request.parameters is not None
    assert request.parameters.content_type == "np"
    assert not caplog.records


def test_headers_replace_those_of_the_client(caplog: pytest.LogCaptureFixture) -> None:
    request = request_with(Parameters(headers={"b": "2"}))
    insert_headers(request, {"a": "1"})
    assert request.parameters is not None
    assert request.parameters.headers == {"a": "1"}
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_headers_are_extracted() -> None:
    response = InferenceResponse(
        model_name="m", outputs=[], parameters=Parameters(headers={"a": "1"}, content_type="np")
    )
    assert extract_headers(response) == {"a": "1"}
    assert response.parameters is not None
    assert response.parameters.headers is None
    assert response.parameters.content_type == "np"
    assert extract_headers(response) is None
    assert extract_headers(InferenceResponse(model_name="m", outputs=[])) is None


# Tasks and functions


async def test_schedule_with_callback() -> None:
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def answer() -> int:
        return 42

    task = schedule_with_callback(answer(), lambda task: done.set_result(task.result()))
    assert isinstance(task, asyncio.Task)
    assert await done == 42


def test_get_wrapped_method() -> None:
    def decorated(f: Any) -> Any:
        @functools.wraps(f)
        def wrapper() -> Any:
            return f()

        return wrapper

    def plain() -> None: ...

    assert get_wrapped_method(plain) is plain
    assert get_wrapped_method(decorated(decorated(plain))) is plain


# Event loops


def test_event_loop_backends() -> None:
    assert EventLoopBackend.ASYNCIO_DEFAULT.value == 1
    assert EventLoopBackend.UVLOOP.value == 2


def test_async_manager_runs_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    configured: list[Any] = []
    manager = AsyncManager(lambda: configured.append(asyncio.get_running_loop()))

    async def main() -> Any:
        assert len(configured) == 1
        return asyncio.get_running_loop()

    loop = manager.run(main())
    assert isinstance(loop, uvloop.Loop)
    assert configured == [loop]
    assert loop.is_closed()
    assert manager.event_loop_backend is EventLoopBackend.UVLOOP


def test_async_manager_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    manager = AsyncManager()
    assert manager.event_loop_backend is EventLoopBackend.ASYNCIO_DEFAULT
    assert isinstance(manager.event_loop_policy, asyncio.AbstractEventLoopPolicy)

    async def main() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert manager.run(main(), debug=True) is True
    assert manager.run(main()) is False


def test_async_manager_raises_what_the_coroutine_raises() -> None:
    async def main() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        AsyncManager().run(main())


def test_async_manager_lets_signals_be_configured() -> None:
    stopped = asyncio.Event()

    def configure() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)

    async def main() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stopped.wait()

    AsyncManager(configure).run(main())
    assert stopped.is_set()


def test_install_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    before = asyncio.get_event_loop_policy()
    try:
        install_uvloop_event_loop()
        loop = asyncio.new_event_loop()
        loop.close()
        assert isinstance(loop, uvloop.Loop)
    finally:
        asyncio.set_event_loop_policy(before)
