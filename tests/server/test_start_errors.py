"""A server that cannot start: one clear line, an exit code, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.errors import StartError
from mlserver.metrics import exposition
from tests.running import children_of, wait_for

MODELS = """
import atexit
import os
import time
from mlserver import MLModel
from mlserver.errors import InvalidModelURI, MLServerError

class Good(MLModel):
    async def load(self):
        return True

class Bad(MLModel):
    async def load(self):
        return self.read_weights()

    def read_weights(self):
        raise ValueError("the weights are\\nmissing")

class SlowlyBad(MLModel):
    async def load(self):
        time.sleep(0.7)
        raise ValueError("the weights are missing")

class Misconfigured(MLModel):
    async def load(self):
        raise InvalidModelURI(self.name, "nowhere")

class Unfinished(MLModel):
    async def load(self):
        return False

class SlowToEnd(MLModel):
    async def load(self):
        atexit.register(self.end, os.path.join(os.path.dirname(__file__), "ending"))
        return True

    def end(self, path):
        open(path, "w").close()
        time.sleep(0.5)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@dataclass
class Ended:
    """A server process that came to its end."""

    code: int
    stdout: str
    stderr: str
    seconds: float  # that it took, or of processor time: the machine may be busy with other things

    @property
    def error(self) -> str:
        """Its last line, which must be the only one that says `Error`."""
        lines = self.stderr.splitlines()
        assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
        return lines[-1].removeprefix("Error: ")

    @property
    def traceback(self) -> str:
        return "\n".join(self.stderr.splitlines()[:-1])


class Repository:
    """A folder to be served: settings with free ports, and models of the classes above."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.settings: dict[str, Any] = {
            "host": "127.0.0.1",
            "http_port": self.port,
            "grpc_port": free_port(),
            "metrics_port": free_port(),
            "metrics_dir": str(folder / ".metrics"),
            "environments_dir": str(folder / ".envs"),
        }
        self.processes: list[subprocess.Popen[str]] = []

    def add(self, name: str, implementation: str) -> None:
        folder = self.folder / name
        folder.mkdir()
        (folder / "models.py").write_text(MODELS)
        settings = {"name": name, "implementation": f"models.{implementation}"}
        (folder / "model-settings.json").write_text(json.dumps(settings))

    def start(self, *, folder: str | None = None, **env: str) -> subprocess.Popen[str]:
        (self.folder / "settings.json").write_text(json.dumps(self.settings))
        return self.launch(folder or str(self.folder), **env)

    def launch(self, folder: str, **env: str) -> subprocess.Popen[str]:
        clean = {k: v for k, v in os.environ.items() if not k.upper().startswith("MLSERVER_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "mlserver", "start", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**clean, **env},
            start_new_session=True,  # its group is its own: whatever it leaves behind can be found
        )
        self.processes.append(process)
        return process

    def run(self, **kwargs: Any) -> Ended:
        return ended(self.start(**kwargs))

    def get(self, path: str) -> int | None:
        """Status of the answer, None without one."""
        try:
            return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=5).status_code
        except requests.ConnectionError:
            return None

    def wait_for(self, path: str, status: int = 200) -> None:
        deadline = time.monotonic() + 30
        while self.get(path) != status:
            assert time.monotonic() < deadline and self.processes[-1].poll() is None
            time.sleep(0.02)


def children_seconds() -> float:
    """Processor time of all children that ended, and that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ended(process: subprocess.Popen[str]) -> Ended:
    before, since = children_seconds(), time.monotonic()
    stdout, stderr = process.communicate(timeout=30)
    seconds = min(children_seconds() - before, time.monotonic() - since)
    result = Ended(process.returncode, stdout, stderr, seconds)
    with pytest.raises(ProcessLookupError):  # no child left
        os.killpg(process.pid, 0)
    return result


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    repository = Repository(tmp_path)
    yield repository
    for process in repository.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# Settings


def test_a_folder_that_does_not_exist(repository: Repository) -> None:
    result = ended(repository.launch("missing"))
    assert (result.code, result.error) == (1, "cannot serve models from 'missing': it does not exist")
    assert result.traceback == ""


def test_settings_that_are_no_json(repository: Repository) -> None:
    (repository.folder / "settings.json").write_text('{"http_port": 1,}')
    result = ended(repository.launch(str(repository.folder)))
    assert result.code == 1 and result.traceback == ""
    assert result.error.startswith(f"{repository.folder}/settings.json: not valid JSON")


def test_settings_that_do_not_validate(repository: Repository) -> None:
    repository.settings |= {"http_port": "many", "debug": 3}
    result = repository.run()
    assert result.code == 1 and result.traceback == ""
    assert "settings.json" in result.error and "http_port" in result.error and "debug" in result.error


def test_a_variable_that_does_not_parse(repository: Repository) -> None:
    del repository.settings["http_port"]
    result = repository.run(MLSERVER_HTTP_PORT="many")
    assert result.code == 1 and result.traceback == ""
    assert result.error.startswith("MLSERVER_HTTP_PORT: ") and "'many'" in result.error


def test_a_list_in_a_variable_that_is_no_json(repository: Repository) -> None:
    result = repository.run(MLSERVER_EXTENSIONS="a,b")
    assert result.code == 1 and result.traceback == ""
    assert "extensions" in result.error.lower()


def test_a_repository_class_that_cannot_be_imported(repository: Repository) -> None:
    repository.settings["model_repository_implementation"] = "nowhere.Repository"
    result = repository.run()
    assert result.code == 1 and result.traceback == ""
    assert "nowhere" in result.error


def test_a_repository_class_that_cannot_be_built(repository: Repository) -> None:
    (repository.folder / "own.py").write_text(
        "class Repository:\n    def __init__(self, root):\n        raise KeyError('bucket')\n"
    )
    repository.settings["model_repository_implementation"] = "own.Repository"
    result = repository.run()
    assert (result.code, result.error) == (
        1,
        "the model repository Repository cannot be built: KeyError: 'bucket'",
    )
    assert 'own.py", line 3, in __init__' in result.traceback  # the user's code, and only that
    assert "mlserver" not in result.traceback.replace(str(repository.folder), "")


def test_everything_is_shown_when_debugging(repository: Repository) -> None:
    repository.settings["http_port"] = "many"
    result = repository.run(MLSERVER_DEBUG="1")
    assert result.code == 1 and "http_port" in result.error
    assert "Traceback (most recent call last):" in result.traceback and "serve.py" in result.traceback


# Ports


@pytest.mark.parametrize(
    ("setting", "label", "code"),
    [("http_port", "HTTP", 3), ("grpc_port", "gRPC", 1), ("metrics_port", "metrics", 3)],
)
def test_a_port_that_is_taken(repository: Repository, setting: str, label: str, code: int) -> None:
    repository.add("good", "Good")
    with taken_port() as port:
        repository.settings[setting] = port
        results = [repository.run() for _ in range(3)]
    for result in results:
        assert result.code == code and result.traceback == ""
        assert result.error == f"{label} port {port} is in use on 127.0.0.1"
        assert "Loaded" not in result.stdout
    assert min(result.seconds for result in results) < 3.0  # it waited for nothing


# Models


@pytest.mark.parametrize("workers", [0, 1])
def test_a_model_that_fails_to_load(repository: Repository, workers: int) -> None:
    repository.add("good", "Good")
    repository.add("bad", "Bad")
    repository.settings["parallel_workers"] = workers
    result = repository.run()
    assert result.code == 1
    assert "'bad'" in result.error and result.error.endswith("ValueError: the weights are missing")
    assert "read_weights" in result.traceback and "asyncio" not in result.traceback


def test_a_model_whose_class_cannot_be_imported(repository: Repository) -> None:
    repository.add("bad", "Missing")
    result = repository.run()
    assert result.code == 1
    assert "'bad'" in result.error and "models.Missing" in result.error


def test_a_model_whose_module_is_broken(repository: Repository) -> None:
    repository.add("bad", "Good")
    (repository.folder / "bad" / "models.py").write_text("import a_module_that_is_not_there\n")
    result = repository.run()
    assert result.code == 1
    assert "'bad'" in result.error and "No module named 'a_module_that_is_not_there'" in result.error
    assert 'models.py", line 1' in result.traceback


def test_an_error_that_says_it_all_needs_no_traceback(repository: Repository) -> None:
    repository.add("m", "Misconfigured")
    result = repository.run()
    assert result.code == 1 and result.traceback == ""
    assert "Invalid URI specified for model m (nowhere)" in result.error


def test_a_settings_file_that_is_broken_does_not_stop_the_others(repository: Repository) -> None:
    repository.add("good", "Good")
    repository.add("broken", "Good")
    (repository.folder / "broken" / "model-settings.json").write_text("{")
    process = repository.start()
    repository.wait_for("/v2/health/ready")
    assert repository.get("/v2/models/good/ready") == 200
    assert repository.get("/v2/models/broken/ready") == 404
    process.send_signal(signal.SIGTERM)
    result = ended(process)
    assert result.code == 0
    assert "broken/model-settings.json: not valid JSON" in result.stdout


def test_a_load_that_answers_false_does_not_stop_the_server(repository: Repository) -> None:
    repository.add("m", "Unfinished")
    process = repository.start()
    repository.wait_for("/v2/health/live")
    repository.wait_for("/v2/models/m/ready", 400)
    assert repository.get("/v2/health/ready") == 400
    process.send_signal(signal.SIGTERM)
    assert ended(process).code == 0


# Stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_signals_end_it_well(repository: Repository, number: signal.Signals) -> None:
    repository.add("good", "Good")
    process = repository.start()
    repository.wait_for("/v2/health/ready")
    process.send_signal(number)
    result = ended(process)
    assert result.code == 0 and "Traceback" not in result.stderr


@pytest.mark.parametrize("after", [0.0, 0.03, 0.1, 0.2, 0.3])
def test_an_interrupt_while_it_begins(repository: Repository, after: float) -> None:
    """Whatever it has come to, so long after it began with a worker. A terminal interrupts that, too."""
    repository.add("good", "Good")
    process = repository.start()
    wait_for(lambda: children_of(process.pid), "its worker")
    time.sleep(after)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)  # its workers write there, too
    assert (process.returncode, stderr) in [(0, ""), (128 + signal.SIGINT, ""), (1, "\nAborted!\n")]

    def nobody_is_left() -> bool:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(nobody_is_left, "its workers to be gone")


def test_a_signal_at_the_very_end(repository: Repository) -> None:
    repository.add("slow", "SlowToEnd")
    process = repository.start()
    repository.wait_for("/v2/health/ready")
    process.send_signal(signal.SIGTERM)
    while not (repository.folder / "slow" / "ending").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert ended(process).code == 0


def test_a_signal_while_models_load(repository: Repository) -> None:
    repository.add("bad", "SlowlyBad")
    process = repository.start()
    repository.wait_for("/v2/health/live")
    process.send_signal(signal.SIGTERM)
    assert ended(process).code == 0


def test_an_empty_folder_is_served(repository: Repository) -> None:
    process = repository.start()
    repository.wait_for("/v2/health/live")
    process.send_signal(signal.SIGTERM)
    assert ended(process).code == 0


# As a library


def settings_of(folder: Path, **more: Any) -> Settings:
    return Settings(
        host="127.0.0.1",
        metrics_dir=str(folder),
        parallel_workers=1,
        **{"http_port": 0, "grpc_port": 0, "metrics_port": 0, **more},
    )


ANY_MODEL = ModelSettings(name="any", implementation=MLModel)


@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.2])
async def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path, after: float) -> None:
    others = children_of(os.getpid())
    starting = asyncio.ensure_future(MLServer(settings_of(tmp_path)).start([ANY_MODEL]))
    await asyncio.sleep(after)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await asyncio.to_thread(wait_for, lambda: children_of(os.getpid()) == others, "its worker to be gone")
    assert str(tmp_path) not in exposition._locks


async def test_a_port_that_is_taken_leaves_nothing(tmp_path: Path) -> None:
    others = children_of(os.getpid())
    with taken_port() as port, pytest.raises(StartError, match=f"gRPC port {port}"):
        await MLServer(settings_of(tmp_path, grpc_port=port)).start([ANY_MODEL])
    assert children_of(os.getpid()) == others
    assert str(tmp_path) not in exposition._locks
