"""The released mlserver-huggingface 1.7.1, as it is, on this core.

Needs a Python that has it, without the server it was released for:

    pip install --only-binary :all: torch transformers==4.41.2 tensorflow-cpu==2.18.0 tf-keras==2.18.0
    pip install --no-deps optimum==1.21.4 coloredlogs humanfriendly onnxruntime 'onnx<1.18' 'datasets<3'
    pip install --no-deps mlserver-huggingface==1.7.1
    RELEASED_PYTHON=.../bin/python python -m pytest -m slow runtimes/huggingface

It imports TensorFlow and optimum whatever it serves, and `Conversation`, which transformers had up to 4.41.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import mlserver

TIMEOUT = 60
PYTHON = os.environ.get("RELEASED_PYTHON")
TESTS = Path(__file__).parent
TASKS = [
    "text-classification",
    "token-classification",
    "fill-mask",
    "question-answering",
    "zero-shot-classification",
    "text-generation",
    "summarization",
    "feature-extraction",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="RELEASED_PYTHON names no Python with the released runtime"),
]


def tensor(name: str, data: list[Any], datatype: str = "BYTES", content_type: str = "str") -> dict[str, Any]:
    parameters = {"content_type": content_type}
    return {"name": name, "shape": [len(data)], "datatype": datatype, "data": data, "parameters": parameters}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("released")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.upper().startswith("MLSERVER_")},
        "PYTHONPATH": str(Path(mlserver.__file__).parents[1]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    assert PYTHON is not None
    # Its transformers writes the models, too: it is older than ours.
    code = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r}); import huggingface_models as tiny, pathlib\n"
        f"for task in {TASKS!r}: tiny.save(task, pathlib.Path({str(folder)!r}) / task / 'model')"
    )
    subprocess.run([PYTHON, "-c", code], check=True, env=environment, capture_output=True, timeout=300)
    for task in TASKS:
        extra = {"task": task, "device": -1}
        values = {
            "name": task,
            "implementation": "mlserver_huggingface.HuggingFaceRuntime",
            "parameters": {"uri": str(folder / task / "model"), "extra": extra},
        }
        (folder / task / "model-settings.json").write_text(json.dumps(values))
    settings = {"host": "127.0.0.1", "http_port": 0, "grpc_port": 0, "metrics_endpoint": None}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0}))
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [PYTHON, "-m", "mlserver", "start", "."],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        url = None
        deadline = time.monotonic() + 120
        while url is None or not requests.get(f"{url}/v2/health/ready", timeout=TIMEOUT).ok:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not become ready"
            time.sleep(0.2)
            found = re.search(r"REST: (http://127.0.0.1:\d+)", log.read_text())
            url = found[1] if found else None
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize(
    ("task", "inputs", "shape", "keys"),
    [
        ("text-classification", [tensor("args", ["a film"])], [1, 1], {"label", "score"}),
        ("text-classification", [tensor("array_inputs", ["a film", "the dog"])], [2, 1], {"label", "score"}),
        (
            "text-classification",
            [tensor("args", ["a film"]), tensor("top_k", [2], "INT32", "raw")],
            [2, 1],
            {"label", "score"},
        ),
        (
            "fill-mask",
            [tensor("array_inputs", ["the [MASK]"])],
            [5, 1],
            {"score", "token", "token_str", "sequence"},
        ),
        (
            "question-answering",
            [tensor("question", ["the fox?"]), tensor("context", ["the quick brown fox"])],
            [1, 1],
            {"score", "start", "end", "answer"},
        ),
        (
            "zero-shot-classification",
            [tensor("array_inputs", ["a film"]), tensor("candidate_labels", ["sport", "films"])],
            [1, 1],
            {"sequence", "labels", "scores"},
        ),
        (
            "text-generation",
            [tensor("args", ["the fox"]), tensor("max_new_tokens", [5], "INT32", "raw")],
            [1, 1],
            {"generated_text"},
        ),
        (
            "summarization",
            [tensor("array_inputs", ["the fox"]), tensor("max_new_tokens", [5], "INT32", "raw")],
            [1, 1],
            {"summary_text"},
        ),
        ("feature-extraction", [tensor("args", ["a fox"])], [1, 1], None),
    ],
)
def test_it_loads_and_predicts(
    server: str, task: str, inputs: list[dict[str, Any]], shape: list[int], keys: set[str] | None
) -> None:
    answer = requests.post(f"{server}/v2/models/{task}/infer", json={"inputs": inputs}, timeout=TIMEOUT)
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["shape"]) == ("output", shape)
    assert output["parameters"] == {"content_type": "hg_jsonlist"}
    for element in map(json.loads, output["data"]):
        assert isinstance(element, list) if keys is None else element.keys() == keys
