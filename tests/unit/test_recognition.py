"""What saved models are, told without loading them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import catboost
import joblib
import lightgbm
import numpy as np
import pytest
import skops.io
import torch
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from mlserver.recognition import Unrecognised, artefact_at, differences, name_of
from mlserver.recognition.pickles import find_globals

X, Y = load_iris(return_X_y=True)
SKLEARN = "mlserver_sklearn.SKLearnModel"
XGBOOST = "mlserver_xgboost.XGBoostModel"
LIGHTGBM = "mlserver_lightgbm.LightGBMModel"
CATBOOST = "mlserver_catboost.CatboostModel"
ONNX = "mlserver_onnx.OnnxModel"
TORCH = "mlserver_torch.TorchModel"

RUNTIMES = {
    "linear.joblib": SKLEARN,
    "zlib.joblib": SKLEARN,
    "gzip.joblib": SKLEARN,
    "bz2.joblib": SKLEARN,
    "lzma.joblib": SKLEARN,
    "xz.joblib": SKLEARN,
    **{f"protocol{protocol}.pkl": SKLEARN for protocol in range(6)},
    "forest.pickle": SKLEARN,
    "pipeline-of-xgboost.joblib": SKLEARN,
    "linear.skops": SKLEARN,
    "trees.json": XGBOOST,
    "indented.json": XGBOOST,
    "trees.ubj": XGBOOST,
    "trees-of-xgboost.bst": XGBOOST,
    "xgboost.joblib": XGBOOST,
    "booster-of-xgboost.pkl": XGBOOST,
    "trees.txt": LIGHTGBM,
    "trees-of-lightgbm.bst": LIGHTGBM,
    "lightgbm.joblib": LIGHTGBM,
    "booster-of-lightgbm.pkl": LIGHTGBM,
    "trees.cbm": CATBOOST,
    "catboost.json": CATBOOST,
    "catboost.pkl": CATBOOST,
    "graph.onnx": ONNX,
    "script.pt": TORCH,
    "program.pt2": TORCH,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    linear = LogisticRegression(max_iter=500).fit(X, Y)
    joblib.dump(linear, folder / "linear.joblib")
    for method in ("zlib", "gzip", "bz2", "lzma", "xz"):
        joblib.dump(linear, folder / f"{method}.joblib", compress=(method, 3))
    for protocol in range(6):
        (folder / f"protocol{protocol}.pkl").write_bytes(pickle.dumps(linear, protocol))
    (folder / "forest.pickle").write_bytes(pickle.dumps(RandomForestClassifier(3).fit(X, Y)))
    skops.io.dump(linear, folder / "linear.skops")

    boosted = xgboost.XGBClassifier(n_estimators=2).fit(X, Y)
    for suffix in ("json", "ubj"):
        boosted.save_model(folder / f"trees.{suffix}")
    parsed = json.loads((folder / "trees.json").read_text())
    (folder / "indented.json").write_text(json.dumps(parsed, indent=2))
    (folder / "trees-of-xgboost.bst").write_bytes((folder / "trees.ubj").read_bytes())
    joblib.dump(boosted, folder / "xgboost.joblib")
    (folder / "booster-of-xgboost.pkl").write_bytes(pickle.dumps(boosted.get_booster()))
    joblib.dump(make_pipeline(boosted), folder / "pipeline-of-xgboost.joblib")

    light = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(X, Y)
    for name in ("trees.txt", "trees-of-lightgbm.bst"):
        light.booster_.save_model(folder / name)
    joblib.dump(light, folder / "lightgbm.joblib")
    (folder / "booster-of-lightgbm.pkl").write_bytes(pickle.dumps(light.booster_))

    cats = catboost.CatBoostClassifier(iterations=2, verbose=0, allow_writing_files=False).fit(X, Y)
    cats.save_model(folder / "trees.cbm")
    cats.save_model(folder / "catboost.json", format="json")
    (folder / "catboost.pkl").write_bytes(pickle.dumps(cats))

    graph = to_onnx(linear, X[:1].astype(np.float32))
    (folder / "graph.onnx").write_bytes(graph.SerializeToString())
    module = torch.nn.Linear(2, 1)
    with zipfile.ZipFile(folder / "script.pt", "w") as archive:  # as torch.jit.save lays it out
        for name in ("data.pkl", "code/__torch__/module.py", "constants.pkl", "version"):
            archive.writestr(f"script/{name}", b"")
    torch.save(module.state_dict(), folder / "weights.pt")
    torch.export.save(torch.export.export(module, (torch.zeros(1, 2),)), folder / "program.pt2")
    return folder


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_file_by_what_is_in_it(models: Path, name: str) -> None:
    artefact = artefact_at(str(models / name))
    assert artefact is not None
    assert (artefact.runtime, artefact.path) == (RUNTIMES[name], str(models / name))


@pytest.mark.parametrize(
    ("names", "library"),
    [
        (["linear.joblib", "zlib.joblib", "forest.pickle", "linear.skops", "protocol0.pkl"], "scikit-learn"),
        (["protocol2.pkl", "protocol4.pkl", "pipeline-of-xgboost.joblib"], "scikit-learn"),
        (["trees.json", "indented.json", "trees.ubj", "xgboost.joblib", "booster-of-xgboost.pkl"], "xgboost"),
        (["trees.cbm", "catboost.json", "catboost.pkl"], "catboost"),
    ],
)
def test_the_version_that_saved_it(models: Path, names: list[str], library: str) -> None:
    from importlib.metadata import version

    for name in names:
        artefact = artefact_at(str(models / name))
        assert artefact is not None and artefact.saved_with[library] == version(library), name
        assert differences(artefact.saved_with) == []


def test_lightgbm_tells_its_major_version(models: Path) -> None:
    for name in ("trees.txt", "lightgbm.joblib", "booster-of-lightgbm.pkl"):
        artefact = artefact_at(str(models / name))
        assert artefact is not None and artefact.saved_with["lightgbm"] == lightgbm.__version__[0]


def test_onnx_tells_who_made_it(models: Path) -> None:
    artefact = artefact_at(str(models / "graph.onnx"))
    assert artefact is not None and artefact.note.startswith("made by skl2onnx ")
    assert "opset ai.onnx " in artefact.note and "ai.onnx.ml 1" in artefact.note


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ({"numpy": "1.0.0"}, [f"numpy 1.0.0 ({np.__version__} is installed)"]),
        ({"numpy": np.__version__}, []),
        ({"numpy": np.__version__.rpartition(".")[0] + ".99"}, []),
        ({"numpy": np.__version__.partition(".")[0]}, []),
        ({"numpy": "0"}, [f"numpy 0 ({np.__version__} is installed)"]),
        ({"numpy": "unknown", "nothing-of-this-name": "1.0"}, []),
        ({"python": "2.7.18"}, [f"python 2.7.18 ({sys.version.split()[0]} is installed)"]),
    ],
)
def test_major_and_minor_versions_are_compared(saved: dict[str, str], said: list[str]) -> None:
    assert differences(saved) == said


def test_nothing_is_imported_and_nothing_is_run(models: Path, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return (exec, (f"open({str(tmp_path / 'run')!r}, 'w').close()",))

    (models / "harm.pkl").write_bytes(pickle.dumps([LogisticRegression(), Harm()]))
    code = (
        "import sys; from mlserver.recognition import artefact_at, Unrecognised\n"
        "for path in sys.argv[1:]:\n"
        "    try: artefact_at(path)\n"
        "    except Unrecognised: pass\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, *map(str, models.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    (models / "harm.pkl").unlink()
    frameworks = {"sklearn", "xgboost", "lightgbm", "catboost", "torch", "joblib", "skops", "onnx", "yaml"}
    assert not frameworks & set(done.stdout.split())
    assert not (tmp_path / "run").exists()


def test_the_globals_of_a_pickle() -> None:
    for protocol in range(6):
        content = pickle.dumps(
            [LogisticRegression(), RandomForestClassifier(), LogisticRegression()], protocol
        )
        found = [name for name in find_globals(content) if name.startswith("sklearn.")]
        assert found[:2] == [
            "sklearn.linear_model._logistic.LogisticRegression",
            "sklearn.ensemble._forest.RandomForestClassifier",
        ]


# What is refused


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("data.pkl", pickle.dumps({"a": 1}), "names no class"),
        ("date.pkl", pickle.dumps(__import__("datetime").date(2024, 1, 1)), "a pickle of datetime.date"),
        ("model.joblib", b"\x04\x22\x4d\x18 and more", "lz4"),
        ("model.pkl", b"", "by its content none"),
        ("package.json", b'{"name": "x", "version": "1.0"}', "no model of XGBoost"),
        ("requirements.txt", b"mlserver\n", "no model of XGBoost"),
        ("model.onnx", b"\x08\x07\x3a\xff\x01cut off", "none, or cut off"),
        ("model.skops", b"PK", "file of skops"),
        ("model.pt", b"PK", "neither TorchScript nor"),
        ("model.safetensors", b"", "weights alone"),
        ("model.h5", b"", "a file named *.h5"),
        ("model", b"", "without a suffix"),
        ("settings.json", b"{}", "served by their folder"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Unrecognised) as caught:
        artefact_at(str(tmp_path / name))
    assert text in str(caught.value) and str(tmp_path / name) in str(caught.value)


def test_weights_need_their_class(models: Path) -> None:
    with pytest.raises(Unrecognised, match=r"parameters\.extra\.module"):
        artefact_at(str(models / "weights.pt"))


SUFFIXES = ["joblib", "pkl", "skops", "json", "ubj", "txt", "bst", "cbm", "onnx", "pt", "pt2"]
STARTS = [
    b"",
    b"\x80\x04",
    b"\x1f\x8b",
    b"x\x9c",
    b"BZ",
    b"]\x00",
    b"PK\x03\x04",
    b"{L",
    b"tree\n",
    b"\x08\x07:",
]


@given(st.sampled_from(SUFFIXES), st.sampled_from(STARTS), st.binary(max_size=200))
def test_any_bytes_are_recognised_or_refused(suffix: str, start: bytes, rest: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=f".{suffix}") as file:
        file.write(start + rest)
        file.flush()
        try:
            artefact_at(file.name)
        except Unrecognised:  # and never another error
            pass


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_that_was_cut_off(tmp_path: Path, compress: Any) -> None:
    content = compress(pickle.dumps(LogisticRegression()))
    (tmp_path / "model.pkl").write_bytes(content[: len(content) // 2])
    with pytest.raises(Unrecognised):
        artefact_at(str(tmp_path / "model.pkl"))


# Folders


MLMODEL = """flavors:
  python_function:
    loader_module: mlflow.sklearn
    python_version: 3.1.4
  sklearn:
    pickled_model: model.pkl
    sklearn_version: 0.24.2
mlflow_version: 2.9.2
"""


def test_a_folder_of_mlflow(tmp_path: Path) -> None:
    folder = tmp_path / "churn"
    folder.mkdir()
    (folder / "MLmodel").write_text(MLMODEL)
    for path in (folder, folder / "MLmodel"):
        artefact = artefact_at(str(path))
        assert artefact is not None and artefact.runtime == "mlserver_mlflow.MLflowRuntime"
        assert artefact.path == str(folder)
    assert artefact.saved_with == {"python": "3.1.4", "scikit-learn": "0.24.2", "mlflow": "2.9.2"}
    (folder / "MLmodel").write_text("flavors:\n  mleap: {}\n")
    with pytest.raises(Unrecognised, match="python_function"):
        artefact_at(str(folder))


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("DistilBertForSequenceClassification", "text-classification"),
        ("Wav2Vec2ForSequenceClassification", "audio-classification"),
        ("BertForTokenClassification", "token-classification"),
        ("BertForQuestionAnswering", "question-answering"),
        ("TapasForQuestionAnswering", "table-question-answering"),
        ("RobertaForMaskedLM", "fill-mask"),
        ("GPT2LMHeadModel", "text-generation"),
        ("LlamaForCausalLM", "text-generation"),
        ("T5ForConditionalGeneration", "text2text-generation"),
        ("MarianMTModel", "text2text-generation"),
        ("WhisperForConditionalGeneration", "automatic-speech-recognition"),
        ("Wav2Vec2ForCTC", "automatic-speech-recognition"),
        ("ViTForImageClassification", "image-classification"),
        ("BertModel", "feature-extraction"),
    ],
)
def test_a_folder_of_hugging_face(tmp_path: Path, architecture: str, task: str) -> None:
    config = {"architectures": [architecture], "model_type": "x", "transformers_version": "4.0.1"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    artefact = artefact_at(str(tmp_path))
    assert artefact is not None and artefact.runtime == "mlserver_huggingface.HuggingFaceRuntime"
    assert (artefact.extra, artefact.saved_with) == ({"task": task}, {"transformers": "4.0.1"})


def test_a_mask_is_asked_for_as_the_tokenizer_has_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["RobertaForMaskedLM"]}')
    for token in ("<mask>", {"content": "<mask>"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"mask_token": token}))
        artefact = artefact_at(str(tmp_path))
        assert artefact is not None and artefact.text == "The fox is <mask>."


@pytest.mark.parametrize("config", [{"model_type": "bert"}, {"architectures": ["EncoderDecoderOf"]}])
def test_a_task_that_nobody_tells(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Unrecognised, match=r"parameters\.extra\.task"):
        artefact_at(str(tmp_path))


def test_the_only_model_of_a_folder(models: Path, tmp_path: Path) -> None:
    deep = tmp_path / "iris" / "1"
    deep.mkdir(parents=True)
    (deep / "model.joblib").write_bytes((models / "linear.joblib").read_bytes())
    for name in ("README.md", "requirements.txt", "package.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "old.joblib").write_bytes((models / "linear.joblib").read_bytes())
    artefact = artefact_at(str(tmp_path))
    assert artefact is not None and artefact.path == str(deep / "model.joblib")
    assert name_of(artefact.path) == "iris"
    (tmp_path / "other.ubj").write_bytes((models / "trees.ubj").read_bytes())
    with pytest.raises(Unrecognised, match=r"holds 2 models \(other\.ubj, iris/1/model\.joblib\)"):
        artefact_at(str(tmp_path))


def test_a_model_folder_below_counts_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts" / "churn"
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text(MLMODEL)
    (folder / "model.pkl").write_bytes(pickle.dumps(LogisticRegression()))
    artefact = artefact_at(str(tmp_path))
    assert artefact is not None and (artefact.path, name_of(artefact.path)) == (str(folder), "churn")


@pytest.mark.parametrize("settings", ["settings.json", "model-settings.json", "deep/er/model-settings.json"])
def test_settings_anywhere_come_first(models: Path, tmp_path: Path, settings: str) -> None:
    (tmp_path / "model.joblib").write_bytes((models / "linear.joblib").read_bytes())
    (tmp_path / settings).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / settings).write_text("broken")
    assert artefact_at(str(tmp_path)) is None


def test_folders_without_a_model(tmp_path: Path) -> None:
    assert artefact_at(str(tmp_path)) is None
    (tmp_path / "data.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(Unrecognised, match=r"holds data\.pkl alone: a pickle that names no class"):
        artefact_at(str(tmp_path))
    (tmp_path / "gone.joblib").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Unrecognised, match=r"holds no model, but data\.pkl, gone\.joblib"):
        artefact_at(str(tmp_path))


# Names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("iris.joblib", "iris"),
        ("iris/model.joblib", "iris"),
        ("iris/Model.joblib", "iris"),
        ("iris/1/model.onnx", "iris"),
        ("iris/v1.2/artifacts/model.txt", "iris"),
        ("my iris (new).joblib", "my-iris-new"),
        ("año.pkl", "a-o"),
        (
            "models--acme--sentiment/snapshots/0123456789abcdef0123456789abcdef01234567/model.onnx",
            "sentiment",
        ),
    ],
)
def test_a_name_says_something(tmp_path: Path, path: str, name: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    assert name_of(str(file)) == name


def test_a_folder_keeps_what_looks_like_a_suffix(tmp_path: Path) -> None:
    (tmp_path / "churn.v2").mkdir()
    assert name_of(str(tmp_path / "churn.v2")) == "churn.v2"
    assert name_of("/") == "model"


# Files that are not what they seem


@pytest.mark.parametrize("name", ["model.pkl", "MLmodel", "config.json"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert artefact_at(str(tmp_path)) is None


def test_archives_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", "{}")
    whole = path.read_bytes()
    central = whole.index(b"PK\x01\x02")
    for local, offset, value in ((6, 8, 1), (8, 10, 99), (8, 10, 8)):  # encrypted, unknown, broken
        content = bytearray(whole)
        content[local] = content[central + offset] = value
        path.write_bytes(content)
        with pytest.raises(Unrecognised, match="by its name a file of skops, by its content none"):
            artefact_at(str(path))


def test_configurations_of_another_form(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"architectures": "BertForSequenceClassification"}')
    found = artefact_at(str(tmp_path))
    assert found is not None and found.extra == {"task": "text-classification"}
    config.write_text('{"architectures": 5}')
    with pytest.raises(Unrecognised, match=r"a Hugging Face model \(5\) that does not tell its task"):
        artefact_at(str(tmp_path))
    config.write_text("[" * 200_000)
    with pytest.raises(Unrecognised, match=r"config\.json alone"):
        artefact_at(str(tmp_path))


def test_a_file_of_zeros_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(50 << 30)  # it takes no room
    with pytest.raises(Unrecognised, match="by its content none"):
        artefact_at(str(path))
