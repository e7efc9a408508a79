"""`mlserver start` with a saved model and no settings: recognised, served, and asked as it says."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import catboost
import joblib
import lightgbm
import numpy as np
import onnx
import pandas as pd
import pytest
import sklearn
import skops.io
import trustme
import xgboost
from skl2onnx import to_onnx
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.running import process, start_process, wait_for, write_model
from tests.trying import needs_curl, pasted, printed_line

X, Y = load_iris(return_X_y=True)
IRIS = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}


def save_sklearn(path: Path) -> None:
    joblib.dump(LogisticRegression(max_iter=500).fit(X, Y), path)


def save_sklearn_frame(path: Path) -> None:
    frame = pd.DataFrame({"city": ["Rome", "Oslo"] * 3, "rooms": [1, 2, 3] * 2, "m of it": [30.0] * 6})
    columns = make_column_transformer((OneHotEncoder(), ["city", "rooms"]), (StandardScaler(), ["m of it"]))
    joblib.dump(make_pipeline(columns, LogisticRegression()).fit(frame, ["it's", "not"] * 3), path)


def save_transformer(path: Path) -> None:
    joblib.dump(StandardScaler().fit(X), path)


def save_xgboost_categories(path: Path) -> None:
    frame = pd.DataFrame(
        {"city": pd.Categorical(["Rome", "Oslo"] * 9), "code": pd.Categorical([3, 7, 9] * 6)}
    )
    xgboost.XGBRegressor(n_estimators=2, enable_categorical=True).fit(frame, frame.code.cat.codes).save_model(
        path
    )


def save_xgboost(path: Path) -> None:
    xgboost.XGBClassifier(n_estimators=2).fit(X, Y).save_model(path)


def save_lightgbm(path: Path) -> None:
    lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(X, Y).booster_.save_model(path)


def save_catboost(path: Path) -> None:
    catboost.CatBoostClassifier(iterations=2, verbose=0, allow_writing_files=False).fit(X, Y).save_model(path)


def save_onnx(path: Path) -> None:
    graph = to_onnx(LogisticRegression(max_iter=500).fit(X, Y), X[:1].astype(np.float32))
    path.write_bytes(graph.SerializeToString())


def save_onnx_image(path: Path) -> None:
    """A graph whose example is longer than an argument of a command may be."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Add", ["image", "shift"], ["sum"]), helper.make_node("Relu", ["sum"], ["out"])],
        "g",
        [
            helper.make_tensor_value_info("image", kind, ["n", 3, 224, 224]),
            helper.make_tensor_value_info("shift", kind, [1]),
        ],
        [helper.make_tensor_value_info("out", kind, ["n", 3, 224, 224])],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="a test"), path)


@needs_curl
@pytest.mark.parametrize(
    ("name", "save", "output"),
    [
        ("iris.joblib", save_sklearn, "predict"),
        ("flats.pkl", save_sklearn_frame, "predict"),
        ("scaler.joblib", save_transformer, "transform"),
        ("trees.json", save_xgboost, "predict"),
        ("houses.json", save_xgboost_categories, "predict"),
        ("trees.txt", save_lightgbm, "predict"),
        ("trees.cbm", save_catboost, "predict"),
        ("graph.onnx", save_onnx, "output_label"),
        ("pixels.onnx", save_onnx_image, "out"),
    ],
)
def test_the_request_that_is_printed_works(
    tmp_path: Path, name: str, save: Callable[[Path], None], output: str
) -> None:
    save(tmp_path / name)
    with process(tmp_path / name) as server:
        status, answer = pasted(printed_line(server))
        assert status == 200, answer
        assert answer["model_name"] == Path(name).stem
        assert answer["outputs"][0]["name"] == output
        assert "was saved with" not in server.log()
        assert server.stop() == 0


@needs_curl
def test_over_tls_and_for_programs(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    save_sklearn(tmp_path / "iris.joblib")
    child, output = start_process(
        tmp_path / "iris.joblib",
        MLSERVER_TLS_CERTIFICATE=str(tmp_path / "cert.pem"),
        MLSERVER_TLS_PRIVATE_KEY=str(tmp_path / "key.pem"),
        MLSERVER_USE_STRUCTURED_LOGGING="true",
    )
    try:
        found = wait_for(lambda: re.search(r'Try it: (.+)"', "".join(output)), "an example")
        line = json.loads(f'"{found[1]}"')
        assert line.startswith("curl -sS -k https://127.0.0.1:")
        assert pasted(line)[0] == 200
    finally:
        child.terminate()
        assert child.wait(30) == 0
    for written in output:
        json.loads(written)  # nothing but JSON, as it was asked for


@pytest.mark.parametrize("place", ["model.joblib", "1/model.joblib"])
def test_a_folder_that_holds_one_model(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "iris"
    (folder / place).parent.mkdir(parents=True)
    save_sklearn(folder / place)
    with process(folder) as server:
        assert server.infer("iris", IRIS).json()["outputs"][0]["data"] == [0]
        metadata = server.get("/v2/models/iris").json()
        assert (metadata["platform"], metadata["inputs"][0]["shape"]) == ("sklearn", [-1, 4])


def test_the_repository_knows_it(tmp_path: Path) -> None:
    path = tmp_path / "iris.joblib"
    save_sklearn(path)
    with process(path, MLSERVER_MODEL_NAME="flowers", MLSERVER_MODEL_VERSION="v2") as server:
        index = server.post("/v2/repository/index", {}).json()
        assert [(item["name"], item["version"], item["state"]) for item in index] == [
            ("flowers", "v2", "READY")
        ]
        assert server.post("/v2/repository/models/flowers/unload").ok
        assert server.infer("flowers", IRIS).status_code == 404
        joblib.dump(LogisticRegression(max_iter=500).fit(X, Y + 10), path)
        assert server.post("/v2/repository/models/flowers/load").ok
        assert server.infer("flowers", IRIS).json()["outputs"][0]["data"] == [10]
        path.unlink()
        assert server.post("/v2/repository/index", {}).json() == []


def test_settings_that_are_put_beside_it_later_count(tmp_path: Path) -> None:
    save_sklearn(tmp_path / "iris.joblib")
    with process(tmp_path) as server:
        write_model(tmp_path, "other", "mlserver_sklearn.SKLearnModel", parameters={"uri": "../iris.joblib"})
        assert server.post("/v2/repository/models/other/load").ok
        assert server.infer("other", IRIS).json()["outputs"][0]["data"] == [0]


def test_it_is_watched(tmp_path: Path) -> None:
    path = tmp_path / "iris.joblib"
    save_sklearn(path)
    with process(path, MLSERVER_WATCH_REPOSITORY="0.1") as server:
        assert server.infer("iris", IRIS).json()["outputs"][0]["data"] == [0]
        joblib.dump(LogisticRegression(max_iter=500).fit(X, Y + 10), path)
        wait_for(lambda: server.infer("iris", IRIS).json()["outputs"][0]["data"] == [10], "the new model")


def test_a_file_that_is_loaded_later(tmp_path: Path) -> None:
    save_sklearn(tmp_path / "iris.joblib")
    with process(tmp_path / "iris.joblib", MLSERVER_LOAD_MODELS_AT_STARTUP="false") as server:
        assert server.infer("iris", IRIS).status_code == 404
        assert server.post("/v2/repository/models/iris/load").ok
        assert server.infer("iris", IRIS).ok


def test_settings_of_the_server_beside_a_file(tmp_path: Path) -> None:
    save_sklearn(tmp_path / "iris.joblib")
    (tmp_path / "settings.json").write_text('{"server_name": "garden", "parallel_workers": 0}')
    with process(tmp_path / "iris.joblib") as server:
        assert server.get("/v2").json()["name"] == "garden"
        assert server.infer("iris", IRIS).ok


# Other versions


def replaced(content: bytes, old: str, new: str) -> bytes:
    assert content.count(old.encode()) and len(old) == len(new)
    return content.replace(old.encode(), new.encode())


def other(version: str) -> str:
    """A version of another major number, as long."""
    return f"{(int(version[0]) + 1) % 10}{version[1:]}"


@pytest.mark.parametrize("library", ["scikit-learn", "xgboost", "lightgbm"])
def test_a_model_of_another_version_is_served_with_a_warning(tmp_path: Path, library: str) -> None:
    path = tmp_path / "model.joblib"
    if library == "scikit-learn":
        content = pickle.dumps(LogisticRegression(max_iter=500).fit(X, Y))
        saved = other(sklearn.__version__)
        path.write_bytes(replaced(content, sklearn.__version__, saved))
    elif library == "xgboost":
        path = path.with_suffix(".json")
        save_xgboost(path)
        saved = "1.7.6"
        text = re.sub(r'"version":\[[^]]*\]', '"version":[1,7,6]', path.read_text())
        path.write_text(text)
    else:
        path = path.with_suffix(".txt")
        save_lightgbm(path)
        saved = "3"
        path.write_text(path.read_text().replace("version=v4", "version=v3", 1))
    with process(path) as server:
        warnings = [line for line in server.log().splitlines() if "was saved with" in line]
        assert len(warnings) == 1 and " WARNING - " in warnings[0]
        assert f"{library} {saved} (" in warnings[0] and "is installed)" in warnings[0]


def test_onnx_says_where_it_comes_from(tmp_path: Path) -> None:
    save_onnx(tmp_path / "graph.onnx")
    with process(tmp_path / "graph.onnx") as server:
        assert re.search(r"INFO - Model 'graph' is an ONNX model \(made by skl2onnx [\d.]+, IR", server.log())


# What cannot be served


def ended(path: Path, without: str = "") -> tuple[int, list[str]]:
    """Exit code and lines on stderr of a server that does not start. without: a package to do without."""
    code = f"import sys; sys.modules[{without!r}] = None\nfrom mlserver.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, "start", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            "MLSERVER_HTTP_PORT": "0",
            "MLSERVER_GRPC_PORT": "0",
            "MLSERVER_METRICS_PORT": "0",
        },
    )
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_runtime_that_is_not_installed(tmp_path: Path, as_folder: bool) -> None:
    path = tmp_path / "graph.onnx"
    save_onnx(path)
    code, lines = ended(tmp_path if as_folder else path, without="mlserver_onnx")
    assert code == 1
    assert lines == [
        f"Error: '{path}' is an ONNX model, and its runtime is not installed: pip install mlserver-onnx"
    ]


def test_an_extra_that_is_not_installed(tmp_path: Path) -> None:
    skops.io.dump(LogisticRegression(), tmp_path / "iris.skops")
    code, lines = ended(tmp_path / "iris.skops", without="skops")
    assert code == 1 and len(lines) == 1
    assert lines[0].endswith("pip install 'mlserver-sklearn[skops]'")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b")
    code, lines = ended(tmp_path / "data.csv")
    assert code == 1 and len(lines) == 1
    assert "a file named *.csv. Understood are scikit-learn (.joblib" in lines[0]


@pytest.mark.parametrize("content", [{}, {"load_models_at_startup": True}])
def test_a_folder_with_settings_of_the_server_is_served_as_before(tmp_path: Path, content: Any) -> None:
    save_sklearn(tmp_path / "model.joblib")
    (tmp_path / "settings.json").write_text(json.dumps(content))
    with process(tmp_path) as server:
        assert server.post("/v2/repository/index", {}).json() == []
        assert "Try it" not in server.log()


def test_a_folder_that_is_described_by_the_environment_is_served_as_before(tmp_path: Path) -> None:
    save_sklearn(tmp_path / "model.joblib")
    environment = {
        "MLSERVER_MODEL_NAME": "mine",
        "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_sklearn.SKLearnModel",
        "MLSERVER_MODEL_URI": str(tmp_path),
    }
    with process(tmp_path, **environment) as server:
        assert server.infer("mine", IRIS).ok
        assert "Try it" not in server.log()


def test_a_folder_that_is_filled_later_is_served_as_before(tmp_path: Path) -> None:
    save_sklearn(tmp_path / "model.joblib")
    with process(tmp_path, MLSERVER_LOAD_MODELS_AT_STARTUP="false") as server:
        assert server.post("/v2/repository/index", {}).json() == []


def test_a_folder_with_several_models_starts_empty(tmp_path: Path) -> None:
    save_sklearn(tmp_path / "one.joblib")
    save_sklearn(tmp_path / "two.joblib")
    with process(tmp_path) as server:
        assert server.post("/v2/repository/index", {}).json() == []
        warnings = [line for line in server.log().splitlines() if " WARNING - " in line]
        assert len(warnings) == 1 and "it holds 2 models (one.joblib, two.joblib)" in warnings[0]
        assert "Understood are" in warnings[0]
