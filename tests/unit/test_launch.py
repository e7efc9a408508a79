"""Workers that begin before their settings are known."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlserver.cli.early import ending_at_once, likely_workers
from mlserver.parallel.launch import end_unused, launch, launch_early, own_variables
from tests.running import children_of


@pytest.fixture(autouse=True)
def unused() -> Iterator[None]:
    yield
    end_unused()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("MLSERVER_"):
            monkeypatch.delenv(name)


def end(started: Any) -> int:
    process, link = started
    process.kill()
    link.close()
    process.wait(30)
    pid: int = process.pid
    return pid


def children() -> set[int]:
    return set(children_of(os.getpid()))


def test_one_that_began_early_is_taken_once() -> None:
    others = children()
    environment = own_variables()
    for _ in range(2):
        launch_early(sys.executable, environment)
    early = children() - others
    started = [launch(sys.executable, dict(environment)) for _ in range(3)]
    pids = [end(each) for each in started]
    assert set(pids[:2]) == early and pids[2] not in early


def test_another_environment_gets_a_worker_of_its_own() -> None:
    others = children()
    environment = own_variables()
    launch_early(sys.executable, {**environment, "OMP_NUM_THREADS": "7"})
    early = children() - others
    assert end(launch(sys.executable, environment)) not in early
    assert {end(launch(sys.executable, {**environment, "OMP_NUM_THREADS": "7"}))} == early


def test_another_working_directory_gets_a_worker_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = children()
    launch_early(sys.executable, own_variables())
    early = children() - others
    folder = tmp_path / "other"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert end(launch(sys.executable, own_variables())) not in early
    folder.rmdir()
    assert end(launch(sys.executable, own_variables())) not in early
    monkeypatch.chdir(tmp_path)
    assert {end(launch(sys.executable, own_variables()))} == early


def test_unused_ones_are_ended() -> None:
    others = children()
    launch_early(sys.executable, own_variables())
    (early,) = children() - others
    end_unused()
    with pytest.raises(ProcessLookupError):
        os.kill(early, 0)
    assert end(launch(sys.executable, own_variables())) != early


def test_an_interpreter_that_is_not_there_is_told_later() -> None:
    launch_early("/no/python", {})
    with pytest.raises(FileNotFoundError):
        launch("/no/python", {})


def test_the_folder_of_metrics_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/metrics")
    monkeypatch.setenv("OTHER", "1")
    assert own_variables() == {k: v for k, v in os.environ.items() if k != "PROMETHEUS_MULTIPROC_DIR"}


@pytest.mark.parametrize(
    ("content", "variables", "workers"),
    [
        (None, {}, 1),
        ({}, {}, 1),
        ({"parallel_workers": 3}, {}, 3),
        ({"parallel_workers": "3"}, {}, 3),
        ({"parallel_workers": 0}, {}, 0),
        (None, {"MLSERVER_PARALLEL_WORKERS": "2"}, 2),
        ({"parallel_workers": 3}, {"MLSERVER_PARALLEL_WORKERS": "2"}, 3),
        ({"parallel_workers": "many"}, {}, 0),
        ({"parallel_workers": None}, {}, 0),
        ({"copy_on_write": True}, {}, 0),
        ({"copy_on_write": False}, {}, 1),
        ({"worker_gpus": ["0"]}, {}, 0),
        (None, {"MLSERVER_COPY_ON_WRITE": "1"}, 0),
        (None, {"MLSERVER_WORKER_GPUS": "[]"}, 0),
        ({"parallel_workers": float("inf")}, {}, 0),
        ([], {}, 0),
    ],
)
def test_how_many_workers_are_likely(
    content: Any, variables: dict[str, str], workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "served"
    folder.mkdir()
    if content is not None:
        (folder / "settings.json").write_text(json.dumps(content), encoding="utf-8-sig")
    assert likely_workers(str(folder)) == workers
    artefact = folder / "model.joblib"
    artefact.touch()
    assert likely_workers(str(artefact)) == workers


def test_what_cannot_be_told_is_not_guessed(tmp_path: Path) -> None:
    assert likely_workers(str(tmp_path / "missing")) == 0
    (tmp_path / "settings.json").write_text("{")
    assert likely_workers(str(tmp_path)) == 0
    (tmp_path / "settings.json").unlink()
    os.mkfifo(tmp_path / "settings.json")  # who looks into it waits for ever
    assert likely_workers(str(tmp_path)) == 1
    (tmp_path / "settings.json").unlink()
    (tmp_path / ".env").touch()  # of the current folder
    assert likely_workers(str(tmp_path)) == 0


def test_signals_are_as_they_were() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with ending_at_once():
        assert all(callable(signal.getsignal(number)) for number in numbers)
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ending_at_once():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_only_the_main_thread_handles_signals() -> None:
    def enter() -> bool:
        with ending_at_once():
            return True

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(enter).result(10)
