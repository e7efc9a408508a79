"""What a file would run, found without running it: real artefacts, hostile ones, and a property."""

from __future__ import annotations

import _compat_pickle
import collections
import copyreg
import datetime
import decimal
import fractions
import gzip
import io
import json
import os
import pickle
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pytest
import torch
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from joblib.numpy_pickle import NumpyUnpickler
from safetensors.torch import save_file
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder
from skops import io as skops

from mlserver import ModelSettings, Settings
from mlserver.audit import files, pickles
from mlserver.audit.files import File
from mlserver.audit.pickles import HARMLESS, Contents, is_dangerous
from mlserver.audit.policy import Policy, UntrustedArtefact, check_artefact, policy_of
from tests.strategies import arrays, object_arrays, texts

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
LINEAR = "sklearn.linear_model._logistic.LogisticRegression"
EVIL = ("posix.system", "nt.system")
SKLEARN = Policy("refuse", classes=("sklearn.*", "numpy.random.*"))


@pytest.fixture(scope="module")
def linear() -> LogisticRegression:
    return LogisticRegression().fit(np.eye(4), [0, 1, 0, 1])


class Evil:
    """Unpickling it leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def inspected(path: Path, content: bytes) -> File:
    path.write_bytes(content)
    return files.inspect(str(path))


def scanned(content: bytes, joblib: bool = False) -> Contents:
    return pickles.scan(io.BytesIO(content), joblib=joblib)


def is_evil(file: File) -> bool:
    return any(name in EVIL for name in file.names) and SKLEARN.refusal(file) is not None


# Artefacts as people make them


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)])
def test_joblib(compress: Any, linear: LogisticRegression, tmp_path: Path) -> None:
    joblib.dump(linear, tmp_path / "model", compress=compress)
    file = files.inspect(str(tmp_path / "model"))
    assert not file.undecided and set(file.names) - HARMLESS == {LINEAR}
    assert file.format == ("pickle" if not compress else f"pickle, compressed with {compress[0]}")
    assert SKLEARN.refusal(file) is None
    assert Policy("refuse", classes=(LINEAR,)).refusal(file) is None
    assert LINEAR in (Policy("refuse").refusal(file) or "")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pickle_protocols(protocol: int, linear: LogisticRegression, tmp_path: Path) -> None:
    file = inspected(tmp_path / "model.pkl", pickle.dumps(linear, protocol))
    assert not file.undecided and set(file.names) - HARMLESS == {LINEAR}


def test_arrays_of_structures_and_of_objects_between_opcodes(tmp_path: Path) -> None:
    """joblib writes the nodes of trees as bytes, and labels that are objects as a pickle of their own."""
    x = np.random.default_rng(0).normal(size=(60, 2))
    y = np.where(x[:, 0] > 0, "yes", "no").astype(object)
    columns = ColumnTransformer([("codes", OrdinalEncoder(), [0])], remainder="passthrough")
    for model in (
        RandomForestClassifier(5).fit(x, y),
        HistGradientBoostingClassifier(max_iter=3).fit(x, y),
        make_pipeline(columns, LogisticRegression()).fit(np.round(x), y),
    ):
        joblib.dump(model, tmp_path / "model.joblib")
        file = files.inspect(str(tmp_path / "model.joblib"))
        assert not file.undecided and f"{type(model).__module__}.{type(model).__name__}" in file.names
        assert SKLEARN.refusal(file) is None


def test_functions_by_value(tmp_path: Path) -> None:
    file = inspected(tmp_path / "model.pkl", cloudpickle.dumps(lambda x: x + 1))
    assert "cloudpickle.cloudpickle._make_function" in file.names
    assert "cloudpickle.cloudpickle._make_function" in (SKLEARN.refusal(file) or "")


def test_a_function_within_an_estimator(tmp_path: Path) -> None:
    joblib.dump(FunctionTransformer(os.system), tmp_path / "model.joblib")
    assert is_evil(files.inspect(str(tmp_path / "model.joblib")))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pytorch(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 1)
    torch.save(module, tmp_path / "module.pt")
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    torch.save(module.state_dict(), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    torch.jit.script(module).save(tmp_path / "script.pt")  # type: ignore[no-untyped-call]
    torch.export.save(torch.export.export(module, (torch.zeros(1, 2),)), tmp_path / "model.pt2")
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    torch.save(Evil(tmp_path / "marker"), tmp_path / "evil.pt")
    found = {path.name: files.inspect(str(path)) for path in tmp_path.iterdir()}
    assert "torch.nn.modules.linear.Linear" in found["module.pt"].names
    assert Policy("refuse").refusal(found["module.pt"]) is not None
    for name in ("weights.pt", "old.bin", "script.pt", "model.pt2", "model.safetensors"):
        assert not found[name].undecided and Policy("refuse").refusal(found[name]) is None
    assert found["script.pt"].format == "TorchScript" and found["model.safetensors"].format == "safetensors"
    assert found["weights.pt"].names and not found["model.safetensors"].runs_code
    assert is_evil(found["evil.pt"])


def test_skops(linear: LogisticRegression, tmp_path: Path) -> None:
    skops.dump(linear, tmp_path / "plain.skops")
    skops.dump(make_pipeline(FunctionTransformer(os.getenv), linear), tmp_path / "function.skops")
    plain, function = (files.inspect(str(tmp_path / f"{name}.skops")) for name in ("plain", "function"))
    assert plain.format == "skops" and not plain.runs_code
    assert any("getenv" in name for name in function.names) and SKLEARN.refusal(function) is not None


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_xgboost(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{suffix}"
    xgboost.XGBClassifier(n_estimators=2).fit(np.eye(4), [0, 1, 0, 1]).save_model(path)
    file = files.inspect(str(path))
    assert not file.runs_code and file.is_model


@pytest.mark.parametrize("text", ["catboost\nnumpy\nscipy\n", "I am\n", "Some words\nand\n", "(dp0\n", ""])
def test_texts_are_no_pickles(text: str, tmp_path: Path) -> None:
    assert not inspected(tmp_path / "text", text.encode()).runs_code


def test_numpy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", np.eye(2))
    np.save(tmp_path / "evil.npy", np.array([Evil(tmp_path / "marker")], dtype=object))
    assert not files.inspect(str(tmp_path / "plain.npy")).runs_code
    assert is_evil(files.inspect(str(tmp_path / "evil.npy")))
    with zipfile.ZipFile(tmp_path / "evil.npz", "w") as archive:
        archive.write(tmp_path / "evil.npy", "x.npy")
    assert is_evil(files.inspect(str(tmp_path / "evil.npz")))


# Hostile ones


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["model.joblib", "model.json", "model.safetensors"])
def test_a_call_of_the_shell(protocol: int, name: str, tmp_path: Path) -> None:
    evil = pickle.dumps([1, {"a": Evil(tmp_path / "marker")}], protocol)
    assert is_evil(inspected(tmp_path / name, evil))
    assert is_evil(inspected(tmp_path / name, gzip.compress(evil)))
    pickle.loads(evil)
    assert (tmp_path / "marker").exists()  # it would have been run


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("lzma", 3)])
@pytest.mark.parametrize("hidden", ["beside", "within"])
def test_behind_an_array_of_joblib(compress: Any, hidden: str, tmp_path: Path) -> None:
    evil = Evil(tmp_path / "marker")
    value = [np.arange(1000.0), evil] if hidden == "beside" else [np.array([evil, 1], dtype=object)]
    joblib.dump(value, tmp_path / "model.joblib", compress=compress)
    assert is_evil(files.inspect(str(tmp_path / "model.joblib")))
    assert not (tmp_path / "marker").exists()


def test_opcodes_among_the_bytes_of_an_array(tmp_path: Path) -> None:
    """joblib passes over them; pickle, given the same file, would not."""
    code = b"cos\nsystem\n(S'true'\ntR."
    joblib.dump(np.frombuffer(code, np.uint8), tmp_path / "model.joblib")
    content = (tmp_path / "model.joblib").read_bytes()
    at = content.index(code)
    padded = content[at - 2 : at].rindex(b"\xff") if b"\xff" in content[at - 2 : at] else None
    assert padded is not None  # a length that is no opcode, so that even pickle stops there
    assert "os.system" not in files.inspect(str(tmp_path / "model.joblib")).names
    start = content.rindex(b"b", 0, at) + 1
    old = content[:start].replace(b"K\x10", b"N") + code + b"."
    file = inspected(tmp_path / "old.joblib", old)
    assert "os.system" in file.names or file.undecided


def test_names_through_the_memo() -> None:
    content = (
        b"\x80\x04\x8c\x06system\x94\x8c\x02os\x940"  # both kept in the memo, and gone from the stack
        b"0h\x01h\x00\x93\x8c\x04true\x85R."
    )
    assert scanned(content) == Contents({"os.system"}, [], 1)


def test_names_that_are_computed() -> None:
    content = b"\x80\x04cbuiltins\nstr\n\x8c\x02os\x85R\x8c\x06system\x93."
    assert scanned(content).undecided == ["STACK_GLOBAL of a name that is computed while unpickling"]


@pytest.mark.parametrize("opcode", [b"\x82\x07", b"\x83\x07\x00", b"\x84\x07\x00\x00\x00"])
def test_names_behind_codes_of_extensions(opcode: bytes, tmp_path: Path) -> None:
    copyreg.add_extension("os", "system", 7)
    try:
        file = inspected(tmp_path / "model.pkl", b"\x80\x02" + opcode + b".")
        assert pickle.loads(b"\x80\x02" + opcode + b".") is os.system
    finally:
        copyreg.remove_extension("os", "system", 7)
    assert "EXT" in file.undecided[0] and "EXT" in (SKLEARN.refusal(file) or "")


def test_names_of_python_2() -> None:
    assert scanned(b"c__builtin__\neval\n(S'1'\ntR.").names == {"builtins.eval"}
    assert scanned(b"\x80\x02ccommands\ngetoutput\n(S'1'\ntR.").names == {"subprocess.getoutput"}
    assert scanned(b"\x80\x04ccommands\ngetoutput\n(S'1'\ntR.").names == {"commands.getoutput"}


def test_names_within_names_of_a_trusted_package() -> None:
    for content in (b"\x80\x04csklearn.base\nos.system\n\x8c\x01x\x85R.", b"(S'x'\nisklearn.base\nsystem\n."):
        file = File("x", "pickle", "", sorted(scanned(content).names))
        assert file.names and SKLEARN.refusal(file) is not None


def test_one_pickle_after_another(tmp_path: Path) -> None:
    evil = pickle.dumps(Evil(tmp_path / "marker"))
    assert is_evil(inspected(tmp_path / "model.pkl", pickle.dumps([1]) + pickle.dumps({}) + evil))


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated(kept: float, linear: LogisticRegression, tmp_path: Path) -> None:
    """What breaks off has run all that came before."""
    for content in (pickle.dumps(linear), gzip.compress(pickle.dumps(linear), mtime=0)):
        file = inspected(tmp_path / "model.pkl", content[: int(len(content) * kept)])
        assert file.undecided and SKLEARN.refusal(file) is not None
    evil = pickle.dumps([Evil(tmp_path / "marker"), "x" * 500])[:-300]
    assert is_evil(inspected(tmp_path / "evil.pkl", evil))


def test_a_change_of_a_class_itself() -> None:
    contents = scanned(b"\x80\x04csklearn.base\nClone\nN}X\x01\x00\x00\x00aK\x01s\x86b.")
    assert contents.undecided == ["it changes sklearn.base.Clone itself"]


def test_numbers_that_readers_take_differently() -> None:
    """The unpickler in C stops at the zero and goes on."""
    assert scanned(b"I5\x00x\n0cos\nsystem\n.").undecided


def test_bare_numbers_are_no_pickles() -> None:
    for seed in range(500):
        assert not scanned(np.random.default_rng(seed).normal(size=200).astype("<f4").tobytes()).undecided


def test_an_archive_that_unpacks_to_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_UNPACKED", 1 << 20)
    blob = b"\x80\x04" + b"B" + struct.pack("<I", 8 << 20) + bytes(8 << 20) + b"0cos\nsystem\n(tR."
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", blob)
    assert (tmp_path / "bomb.pt").stat().st_size < 50_000
    for file in (
        files.inspect(str(tmp_path / "bomb.pt")),
        inspected(tmp_path / "bomb.gz", gzip.compress(blob)),
    ):
        assert "unpacks to more than 1,048,576 bytes" in file.undecided[0]


def test_an_archive_that_only_looks_like_a_script(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(Evil(tmp_path / "marker"), 2))
        archive.writestr("x/code/constants.pkl", b"")
        archive.writestr("x/y/constants.pkl", b"")
    assert is_evil(files.inspect(str(tmp_path / "model.pt")))


def test_an_archive_with_something_before_it(tmp_path: Path) -> None:
    torch.save(Evil(tmp_path / "marker"), tmp_path / "model.pt")
    content = b"something" + (tmp_path / "model.pt").read_bytes()
    assert is_evil(inspected(tmp_path / "model.pt", content))


def test_an_archive_in_an_archive_and_two_of_a_name(tmp_path: Path) -> None:
    inner = io.BytesIO()
    torch.save(Evil(tmp_path / "marker"), inner)
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/models/model.json", "{}")
        archive.writestr("m/data/weights/w", inner.getvalue())
    assert is_evil(files.inspect(str(tmp_path / "model.pt2")))
    with zipfile.ZipFile(tmp_path / "twice.pt", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("m/data.pkl", pickle.dumps([]))
        archive.writestr("m/data.pkl", pickle.dumps([]))
    assert files.inspect(str(tmp_path / "twice.pt")).undecided


def test_mlflow(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    form = "flavors:\n  python_function:\n    loader_module: {}\n    data: {}\n"
    good = inspected(tmp_path / "MLmodel", form.format("mlflow.sklearn", "model.pkl").encode())
    other = inspected(tmp_path / "MLmodel", form.format("antigravity", "model.pkl").encode())
    outside = inspected(tmp_path / "MLmodel", form.format("mlflow.sklearn", '"\\x2e./evil.pkl"').encode())
    assert not good.runs_code
    assert other.names == ["antigravity._load_pyfunc"]
    assert outside.undecided == ["it names what is not in its folder: ../evil.pkl"]
    # Of the path that code was saved from, MLflow reads the last part, beside the file.
    form += "    model_code_path: {}\n"
    for loader, code, runs in (
        ("mlflow.pyfunc.model", "/home/me/model.py", False),
        ("mlflow.pyfunc.loaders.code_model", "../model.py", False),
        ("mlflow.pyfunc.model", "/home/me/..", True),
        ("mlflow.langchain", "/home/me/model.py", True),
    ):
        text = form.format(loader, "model.pkl", code)
        assert inspected(tmp_path / "MLmodel", text.encode()).runs_code is runs


# Any objects


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


class Slots:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class WithArguments:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return WithArguments, (self.value,), {"more": self.value}


class Outer:
    class Inner(Plain):
        pass


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.binary(max_size=300)
    | st.sampled_from([len, os.path.join, dict, collections.OrderedDict, Outer.Inner, np.float32])
    | st.dates()
    | st.timedeltas()
    | st.fractions().map(lambda f: fractions.Fraction(f))
    | st.decimals(allow_nan=False).map(decimal.Decimal)
    | st.just(datetime.timezone.utc)
)
any_arrays = st.sampled_from(["FP32", "INT64", "BOOL"]).flatmap(arrays) | object_arrays()
objects = st.recursive(
    leaves | any_arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(texts, inner, max_size=4)
        | st.dictionaries(texts, inner, max_size=3).map(collections.OrderedDict)
        | st.builds(Plain, inner)
        | st.builds(WithArguments, inner)
        | st.builds(Outer.Inner, inner)
        | inner.map(lambda value: [value, value])
    ),
    max_leaves=12,
)


def watched(base: Any, seen: set[str], protocol: int, found: Any = None) -> Any:
    """An unpickler that notes what it imports, after names of Python 2 were translated."""

    class Watched(base):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            if protocol < 3:
                importable = _compat_pickle.IMPORT_MAPPING.get(module, module)
                module, name = _compat_pickle.NAME_MAPPING.get((module, name), (importable, name))
            seen.add(f"{module}:{name}" if "." in name else f"{module}.{name}")
            return found(module, name) if found is not None else super().find_class(module, name)

    return Watched


@given(objects, st.sampled_from(PROTOCOLS))
def test_all_that_unpickling_imports_is_found(value: Any, protocol: int) -> None:
    seen: set[str] = set()
    content = pickle.dumps(value, protocol)
    unpickler = watched(pickle.Unpickler, seen, protocol)
    unpickler(io.BytesIO(content)).load()
    assert scanned(content) == Contents(seen, [], 1)


@given(objects, st.sampled_from(PROTOCOLS))
def test_all_that_joblib_imports_is_found(value: Any, protocol: int) -> None:
    seen: set[str] = set()
    file = io.BytesIO()
    joblib.dump(value, file, protocol=protocol)
    unpickler = watched(NumpyUnpickler, seen, protocol)
    file.seek(0)
    unpickler("", file, ensure_native_byte_order=True).load()
    contents = scanned(file.getvalue(), joblib=True)
    assert seen <= contents.names and not contents.undecided and contents.whole == 1


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(content: bytes) -> None:
    for joblib_too in (False, True):
        scanned(content, joblib_too)
        scanned(b"\x80\x04" + content, joblib_too)


@given(objects, st.integers(0, 2000), st.integers(0, 255))
def test_a_changed_byte_hides_nothing(value: Any, at: int, byte: int) -> None:
    """What is imported from a damaged file is found, unless it broke off before anything was called."""
    content = bytearray(pickle.dumps(value, 4))
    content[at % len(content)] = byte
    seen: set[str] = set()
    called = []

    def stand_in(module: str, name: str) -> Any:
        return lambda *_: called.append(name)

    with suppress(Exception):
        watched(pickle.Unpickler, seen, content[1] if content[0] == 0x80 else 0, stand_in)(
            io.BytesIO(content)
        ).load()
    contents = scanned(bytes(content))
    if not contents.undecided and (called or contents.whole):
        assert seen <= contents.names


# Policies


def test_settings_of_models_and_of_the_server() -> None:
    pin, other = "sha256:" + "0" * 64, "sha256:" + "1" * 64
    server = Settings(unsafe_artefacts="refuse", trusted_digests=[pin], trusted_classes=["a.*"])
    model = ModelSettings(implementation="x.Y", unsafe_artefacts="allow", trusted_digests=[other])
    assert policy_of(model, server) == Policy("allow", frozenset([other]), frozenset([pin]), ("a.*",))
    closed = server.model_copy(update={"trust_model_settings": False})
    assert policy_of(model, closed) == Policy("refuse", frozenset(), frozenset([pin]), ("a.*",))
    with pytest.raises(ValueError, match="trusted_digests"):
        Settings(trusted_digests=["sha256:1234"])


def test_patterns_mean_classes_not_functions_or_what_modules_import() -> None:
    policy = Policy("refuse", classes=("sklearn.*", "joblib.*", "numpy.*", "numpy.log1p"))
    good = [
        "sklearn.a.B",
        "numpy.log1p",
        "numpy.random._pickle.__generator_ctor",
        "sklearn.neighbors._kd_tree.newObj",
    ]
    bad = [
        "joblib.os",
        "sklearn.x.Popen",
        "sklearn.x:os.system",
        "numpy.f2py.crackfortran.myeval",
        "numpy.exp",
    ]
    assert set(policy.distrusted([*good, *bad])) == set(bad)


def test_nothing_harmless_is_dangerous() -> None:
    assert not [name for name in HARMLESS if is_dangerous(name)]


def test_the_reason_names_file_digest_names_and_setting(tmp_path: Path) -> None:
    file = inspected(tmp_path / "model.pkl", pickle.dumps([Evil(tmp_path / "marker"), json.loads]))
    reason = Policy("refuse").refusal(file) or ""
    assert str(tmp_path / "model.pkl") in reason and file.sha256 in reason
    assert "json.loads" in reason and ".system" in reason
    assert "`trusted_digests`" in reason and "`trusted_classes`" in reason
    assert Policy("refuse", digests=frozenset([file.sha256])).refusal(file) is None


def test_code_and_pickles_in_a_folder_of_mlflow(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    (tmp_path / "code").mkdir()
    (tmp_path / "MLmodel").write_text(
        "flavors:\n  python_function: {loader_module: mlflow.sklearn, code: code}\n"
    )
    (tmp_path / "code" / "helpers.py").write_text("")
    (tmp_path / "python_model.pkl").write_bytes(cloudpickle.dumps(lambda x: x))
    model = ModelSettings(implementation="mlserver_mlflow.MLflowRuntime", unsafe_artefacts="refuse")
    pins: list[str] = []
    for name in ("code/helpers.py", "python_model.pkl"):
        for path in (tmp_path, tmp_path / "MLmodel"):
            with pytest.raises(UntrustedArtefact, match=r"python_model\.pkl|helpers\.py"):
                check_artefact(model, str(path))
        pins.append(files.inspect(str(tmp_path / name)).sha256)
        # All of them, or none: what is not pinned is refused.
        model.trusted_digests = [*pins, files.inspect(str(tmp_path / "MLmodel")).sha256]
    # What neither is a model nor runs need not be pinned, whichever of the two the settings name.
    (tmp_path / "conda.yaml").write_text("name: env\n")
    check_artefact(model, str(tmp_path / "MLmodel"))
    check_artefact(model, str(tmp_path))
