"""The sentiment example, as its reader runs it: fetch or train the model, serve the folder, ask it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running import AsProcess, process, serving, write_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "sentiment"

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model() -> Path:
    """The model's folder. Without a hub it is trained, which ends with an error below an accuracy of 0.80."""
    done = subprocess.run(
        ["bash", str(EXAMPLE / "get_models.sh")],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return EXAMPLE / "model"


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[AsProcess]:
    with process(EXAMPLE) as server:
        yield server


def ask(server: Any, text: Any, name: str = "text") -> Any:
    body = {"inputs": [{"name": name, "shape": [1], "datatype": "BYTES", "data": [text]}]}
    return server.infer("sentiment", body)


@pytest.mark.timeout(1000)
def test_sentences_get_their_sentiment(server: AsProcess) -> None:
    sentences = [
        "I loved every minute of it, wonderful.",
        "A dull and terrible waste of money.",
        "The food was not good and the service was awful.",
        "Not bad at all, I would happily come back.",
    ]
    answer = ask(server, json.dumps(sentences)).json()
    output = answer["outputs"][0]
    assert (output["name"], output["datatype"], output["shape"]) == ("predictions", "FP32", [4, 2])
    rows = [output["data"][i : i + 2] for i in range(0, 8, 2)]
    assert all(abs(sum(row) - 1) < 1e-5 for row in rows)
    assert [row.index(max(row)) for row in rows] == [1, 0, 0, 1]


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_the_client_script(server: AsProcess, transport: str) -> None:
    port = server.port if transport == "http" else server.grpc_port
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / f"test_local_{transport}_endpoint.py"), "--port", str(port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "positive" in done.stdout
    assert "negative" in done.stdout


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        ('["fine"]', "words", "input 'text' is missing"),
        ("no JSON", "text", "JSON list of strings"),
        ("[1]", "text", "JSON list of strings"),
        ("[]", "text", "holds no sentence"),
        (7, "text", "JSON list of strings"),
    ],
)
def test_what_is_no_list_of_sentences_is_refused(
    server: AsProcess, text: Any, name: str, reason: str
) -> None:
    answer = ask(server, text, name)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


@pytest.mark.timeout(1000)
def test_the_seeds_own_runtime_runs_as_it_is_written(model: Path, tmp_path: Path) -> None:
    code = (EXAMPLE / "seed_runtime.py").read_text()
    write_model(tmp_path, "sentiment", "models.SentimentModel", code, parameters={"uri": str(model)})
    with serving(tmp_path) as server:
        output = ask(server, '["I loved every minute of it, wonderful."]').json()["outputs"][0]
    assert (output["name"], output["shape"]) == ("predictions", [2])
    assert output["data"][1] > 0.5
