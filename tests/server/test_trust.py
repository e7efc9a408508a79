"""Artefacts and code that are refused: at start-up, over the repository API, in workers and without."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

from mlserver import Settings
from mlserver.audit import policy
from mlserver.cli.main import root
from mlserver.errors import MLServerError
from tests.running import children_of, process, serving, start_process, write_model

LINEAR = "sklearn.linear_model._logistic.LogisticRegression"
BODY = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [1, 0, 0, 0]}]}
CODE = """
from pathlib import Path
from mlserver import MLModel
Path(__file__).with_name("imported").touch()

class Mine(MLModel):
    async def load(self):
        return True
"""


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Settings of trust are those of the process."""
    yield
    policy.configure(Settings())


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def linear(folder: Path, **settings: Any) -> Path:
    """A model with an artefact; the path of that."""
    home = write_model(folder, "linear", "mlserver_sklearn.SKLearnModel", **settings)
    joblib.dump(LogisticRegression().fit(np.eye(4), [0, 1, 0, 1]), home / "model.joblib")
    return home / "model.joblib"


def evil(folder: Path, **settings: Any) -> Path:
    """A model that would leave a file behind; the path of that."""
    home = write_model(folder, "evil", "mlserver_sklearn.SKLearnModel", **settings)
    (home / "model.pkl").write_bytes(pickle.dumps(Evil(folder / "marker")))
    return folder / "marker"


@pytest.mark.parametrize("workers", [0, 1])
def test_refused_over_the_api(workers: int, tmp_path: Path) -> None:
    marker, artefact = evil(tmp_path), linear(tmp_path)
    settings: dict[str, Any] = {"unsafe_artefacts": "refuse", "trusted_classes": [LINEAR]}
    with serving(tmp_path, load=False, parallel_workers=workers, **settings) as server:
        refused = server.post("/v2/repository/models/evil/load")
        assert refused.status_code == 422
        error = refused.json()["error"]
        path = tmp_path / "evil" / "model.pkl"
        assert str(path) in error and digest(path) in error and "posix.system" in error
        assert "`unsafe_artefacts`" in error and "`trusted_digests`" in error
        assert not marker.exists()
        assert server.get("/v2/models/evil/ready").status_code != 200
        assert server.post("/v2/repository/models/linear/load").status_code == 200
        assert server.infer("linear", BODY).status_code == 200
        # Another one takes its place.
        (artefact.parent / "model.joblib").write_bytes(path.read_bytes())
        assert server.post("/v2/repository/models/linear/load").status_code == 422
        assert server.infer("linear", BODY).status_code == 200
    assert not marker.exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_refused_at_start(workers: str, tmp_path: Path) -> None:
    marker = evil(tmp_path)
    variables = {"MLSERVER_UNSAFE_ARTEFACTS": "refuse", "MLSERVER_PARALLEL_WORKERS": workers}
    child, output = start_process(tmp_path, **variables)
    assert child.wait(60) == 1
    child.wait()
    assert "posix.system" in "".join(output) and "Traceback" not in "".join(output)
    assert not marker.exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_code_beside_the_settings(workers: str, tmp_path: Path) -> None:
    home = write_model(tmp_path, "mine", "models.Mine", CODE)
    variables = {
        "MLSERVER_UNSAFE_ARTEFACTS": "refuse",
        "MLSERVER_PARALLEL_WORKERS": workers,
        "MLSERVER_LOAD_FAILURE": "continue",
    }
    with process(tmp_path, ready=False, **variables) as server:
        refused = server.post("/v2/repository/models/mine/load")
        assert refused.status_code == 422 and "models.py" in refused.json()["error"]
        assert not (home / "imported").exists()
        settings = json.loads((home / "model-settings.json").read_text())
        settings["trusted_digests"] = [digest(home / "models.py")]
        (home / "model-settings.json").write_text(json.dumps(settings))
        loaded = server.post("/v2/repository/models/mine/load")
        assert loaded.status_code == 200, loaded.text
        assert (home / "imported").exists()
        (home / "helpers.py").write_text("")
        refused = server.post("/v2/repository/models/mine/load")
        assert refused.status_code == 422 and "helpers.py" in refused.json()["error"]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_nothing_is_imported_from_the_folder(workers: str, tmp_path: Path) -> None:
    """Modules beside a model that are named as those that server and workers import are left alone."""
    linear(tmp_path)
    trap = f"open({str(tmp_path / 'marker')!r}, 'a').write(__name__)"
    for name in {*sys.stdlib_module_names, *packages_distributions()}:
        if name.isidentifier():
            (tmp_path / f"{name}.py").write_text(trap)
    variables = {
        "MLSERVER_UNSAFE_ARTEFACTS": "refuse",
        "MLSERVER_TRUSTED_CLASSES": json.dumps([LINEAR]),
        "MLSERVER_PARALLEL_WORKERS": workers,
    }
    with process(tmp_path, command=[f"{sysconfig.get_path('scripts')}/mlserver"], **variables) as server:
        assert server.infer("linear", BODY).status_code == 200
        assert len(children_of(server.process.pid)) == int(workers)
    assert not (tmp_path / "marker").exists()


def test_code_cannot_hide_behind_other_settings(tmp_path: Path) -> None:
    home = write_model(tmp_path, "mine", "inner.models.Mine", unsafe_artefacts="refuse")
    (home / "pinned.py").write_text("")
    write_model(home, "inner", "inner.models.Mine", CODE)
    settings = json.loads((home / "model-settings.json").read_text())
    settings["trusted_digests"] = [digest(home / "pinned.py")]
    (home / "model-settings.json").write_text(json.dumps(settings))
    with serving(tmp_path, load=False) as server:
        refused = server.post("/v2/repository/models/mine/load")
        assert refused.status_code == 422 and "models.py" in refused.json()["error"]
    assert not (home / "inner" / "imported").exists()


def test_a_file_cannot_take_the_place_of_an_installed_module(tmp_path: Path) -> None:
    artefact = linear(tmp_path)
    shadow = f"open({str(tmp_path / 'marker')!r}, 'w').close()\nraise ImportError\n"
    for place in (tmp_path, artefact.parent):
        for name in ("joblib", "mlserver_sklearn"):
            (place / f"{name}.py").write_text(shadow)
    # Beside the settings, the class itself would be that file's.
    (artefact.parent / "mlserver_sklearn.py").unlink()
    variables = {"MLSERVER_UNSAFE_ARTEFACTS": "refuse", "MLSERVER_TRUSTED_CLASSES": json.dumps([LINEAR])}
    code = "import sys; sys.path.pop(0); from mlserver.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[1:] = ['audit', {str(tmp_path)!r}]; {code}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **variables},
        timeout=60,
        check=False,
    )
    assert "mlserver_sklearn.py" in done.stdout and done.returncode == 1, done.stderr
    assert not (tmp_path / "marker").exists()
    (tmp_path / "mlserver_sklearn.py").unlink()
    with serving(tmp_path, unsafe_artefacts="refuse", trusted_classes=[LINEAR]) as server:
        assert server.infer("linear", BODY).status_code == 200
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("mode", ["allow", "warn", "refuse"])
def test_pins(mode: str, tmp_path: Path) -> None:
    artefact = linear(tmp_path)
    pinned: dict[str, Any] = {"trusted_digests": [digest(artefact)], "unsafe_artefacts": mode}
    write_model(tmp_path, "linear", "mlserver_sklearn.SKLearnModel", **pinned)
    with serving(tmp_path) as server:
        assert server.infer("linear", BODY).status_code == 200
        with artefact.open("ab") as file:
            file.write(b"\0")
        refused = server.post("/v2/repository/models/linear/load")
        assert refused.status_code == 422 and "`trusted_digests`" in refused.json()["error"]
        assert server.infer("linear", BODY).status_code == 200


def test_warned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    linear(tmp_path)
    with serving(tmp_path, unsafe_artefacts="warn") as server:
        assert server.infer("linear", BODY).status_code == 200
    assert any("would refuse" in record.message and LINEAR in record.message for record in caplog.records)


def test_the_server_may_keep_the_decision(tmp_path: Path) -> None:
    marker = evil(tmp_path, unsafe_artefacts="allow")
    settings: dict[str, Any] = {"unsafe_artefacts": "refuse", "trust_model_settings": False}
    with serving(tmp_path, load=False, **settings) as server:
        assert server.post("/v2/repository/models/evil/load").status_code == 422
    assert not marker.exists()


def test_environments(tmp_path: Path) -> None:
    from mlserver.env import environment_of
    from mlserver.repository.load import load_model_settings

    artefact = linear(tmp_path, parameters={"build_environment": True}, unsafe_artefacts="refuse")
    (artefact.parent / "requirements.txt").write_text("evil-package\n")
    model = load_model_settings(artefact.parent / "model-settings.json")
    with pytest.raises(MLServerError, match=r"requirements\.txt"):
        environment_of(model, Settings(environments_dir=str(tmp_path / "environments")))
    assert not (tmp_path / "environments").exists()


def test_an_artefact_elsewhere(tmp_path: Path) -> None:
    write_model(
        tmp_path,
        "linear",
        "mlserver_sklearn.SKLearnModel",
        parameters={"uri": "s3://bucket/model.joblib"},
        unsafe_artefacts="refuse",
    )
    with serving(tmp_path, load=False) as server:
        refused = server.post("/v2/repository/models/linear/load")
        assert refused.status_code == 422 and "not on this machine" in refused.json()["error"]


# mlserver audit


def test_audit_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    marker, artefact = evil(tmp_path), linear(tmp_path)
    home = write_model(tmp_path, "mine", "models.Mine", CODE, parameters={"build_environment": True})
    (home / "requirements.txt").write_text("numpy\n")
    done = CliRunner().invoke(root, ["audit", str(tmp_path)])
    assert done.exit_code == 1, done.output
    assert "imports, dangerous: posix.system (os.system)" in done.output
    assert f"imports, other: {LINEAR}" in done.output and digest(artefact) in done.output
    assert "models.Mine" in done.output and "models.py: Python code, runs code" in done.output
    assert "installs what" in done.output
    pinned = CliRunner().invoke(root, ["audit", "--pin", str(tmp_path)])
    assert "model.pkl before you trust it: it may run posix.system (os.system)" in pinned.stderr
    assert not marker.exists() and not (home / "imported").exists()


def test_audit_for_machines_and_pins(tmp_path: Path) -> None:
    artefact = linear(tmp_path)
    done = CliRunner().invoke(root, ["audit", "--json", str(tmp_path)])
    (model,) = json.loads(done.output)["models"]
    (file,) = model["files"]
    assert done.exit_code == 1 and model["name"] == "linear" and len(model["refusals"]) == 1
    assert file["runs_code"] and file["sha256"] == digest(artefact)
    assert file["imports"]["other"] == [LINEAR] and "installed" in model["origin"]
    done = CliRunner().invoke(root, ["audit", "--pin", str(tmp_path)])
    (source, pins), *others = json.loads(done.output).items()
    assert pins == {"unsafe_artefacts": "refuse", "trusted_digests": [digest(artefact)]} and not others
    settings = json.loads(Path(source).read_text())
    Path(source).write_text(json.dumps({**settings, **pins}))
    assert CliRunner().invoke(root, ["audit", str(tmp_path)]).exit_code == 0
    with serving(tmp_path) as server:
        assert server.infer("linear", BODY).status_code == 200


def test_audit_of_code_from_a_hub(tmp_path: Path) -> None:
    extra = {
        "task": "text-generation",
        "pretrained_model": "a/b",
        "model_kwargs": {"trust_remote_code": True},
    }
    write_model(tmp_path, "hub", "mlserver_huggingface.HuggingFaceRuntime", parameters={"extra": extra})
    done = CliRunner().invoke(root, ["audit", "--json", str(tmp_path)])
    (model,) = json.loads(done.output)["models"]
    assert done.exit_code == 1 and model["trust_remote_code"] and "a/b" in model["refusals"][0]


def test_audit_imports_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    linear(tmp_path, trusted_classes=[LINEAR])
    (tmp_path / "places.py").write_text("raise SystemExit('imported')")
    (tmp_path / "settings.json").write_text('{"model_repository_implementation": "places.Place"}')
    done = CliRunner().invoke(root, ["audit", str(tmp_path)])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("content", [None, "{}", "{"])
def test_audit_of_bad_folders(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / ("settings.json" if content == "{}" else "model-settings.json")).write_text(
            content
        )
    done = CliRunner().invoke(root, ["audit", str(tmp_path / "folder")])
    assert done.exit_code == 2 and done.stderr.startswith("Error: ")
