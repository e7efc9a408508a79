"""Where values come from, what they are coerced to, and what the four classes promise to Python code."""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

import mlserver.settings
from mlserver.settings import CORSSettings, ModelParameters, ModelSettings, Settings, describe_invalid
from mlserver.types import MetadataTensor
from mlserver.version import __version__


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("MLSERVER_") or name.upper() == "IMPLEMENTATION":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


class Runtime:
    class Inner:
        pass


PATH = f"{__name__}.Runtime"


# Defaults

SERVER_DEFAULTS: dict[str, Any] = {
    "debug": False,
    "parallel_workers": 1,
    "parallel_workers_timeout": 5,
    "environments_dir": mlserver.settings.DEFAULT_ENVIRONMENTS_DIR,
    "model_repository_implementation": None,
    "model_repository_root": ".",
    "model_repository_implementation_args": {},
    "load_models_at_startup": True,
    "server_name": "mlserver",
    "server_version": __version__,
    "extensions": [],
    "host": "0.0.0.0",
    "http_port": 8080,
    "root_path": "",
    "grpc_port": 8081,
    "grpc_max_message_length": None,
    "cors_settings": None,
    "metrics_endpoint": "/metrics",
    "metrics_port": 8082,
    "metrics_rest_server_prefix": "rest_server",
    "metrics_dir": mlserver.settings.DEFAULT_METRICS_DIR,
    "use_structured_logging": False,
    "logging_settings": None,
    "kafka_enabled": False,
    "kafka_servers": "localhost:9092",
    "kafka_topic_input": "mlserver-input",
    "kafka_topic_output": "mlserver-output",
    "tracing_server": None,
    "cache_enabled": False,
    "cache_size": 100,
    "gzip_enabled": True,
    # Beyond the reference.
    "http_max_body_size": 268_435_456,
    "http_max_header_size": 65_536,
    "http_header_timeout": 20.0,
    "http_body_timeout": 30.0,
    "http_keep_alive": 5.0,
    "http_max_connections": None,
    "grpc_max_concurrent_streams": 1000,
    "grpc_keepalive_time": 300.0,
    "grpc_keepalive_timeout": 20.0,
    "grpc_max_connection_age": None,
    "tls_certificate": None,
    "tls_private_key": None,
    "tls_private_key_password": None,
    "tls_client_ca": None,
    "tls_ports": ["http", "grpc", "metrics"],
    "shutdown_timeout": 30.0,
    "max_queue_size": 0,
    "unsafe_artefacts": "allow",
    "trusted_digests": [],
    "trusted_classes": [],
    "trust_model_settings": True,
    "load_failure": "stop",
    "load_timeout": None,
    "retry_lost_calls": True,
    "trial_load": True,
    "worker_gpus": [],
    "cache_max_bytes": 268_435_456,
    "cache_ttl": None,
    "watch_repository": None,
    "memory_budget": None,
    "copy_on_write": False,
}


def test_server_defaults() -> None:
    assert Settings().model_dump() == SERVER_DEFAULTS


def test_cors_defaults() -> None:
    assert CORSSettings().model_dump() == {
        "allow_origins": [],
        "allow_origin_regex": None,
        "allow_credentials": False,
        "allow_methods": ["GET"],
        "allow_headers": [],
        "expose_headers": [],
        "max_age": 600,
    }


def test_model_defaults() -> None:
    assert ModelSettings(implementation=PATH).model_dump() == {
        "implementation_": PATH,
        "name": "",
        "platform": "",
        "versions": [],
        "inputs": [],
        "outputs": [],
        "parallel_workers": None,
        "warm_workers": False,
        "replicas": None,
        "pinned": False,
        "load_after": [],
        "latency_target_ms": None,
        "latency_percentile": 0.95,
        "warm_up": [],
        "predict_timeout": None,
        "max_queue_size": None,
        "unsafe_artefacts": None,
        "trusted_digests": [],
        "trusted_classes": [],
        "max_batch_size": 0,
        "max_batch_time": 0.0,
        "parameters": None,
        "cache_enabled": False,
    }
    assert ModelParameters().model_dump() == {
        "uri": None,
        "version": None,
        "environment_path": None,
        "environment_tarball": None,
        "inference_pool_gid": None,
        "autogenerate_inference_pool_gid": False,
        "build_environment": False,
        "format": None,
        "content_type": None,
        "extra": {},
    }


def test_constants() -> None:
    assert mlserver.settings.ENV_FILE_SETTINGS == ".env"
    assert mlserver.settings.ENV_PREFIX_SETTINGS == "MLSERVER_"
    assert mlserver.settings.ENV_PREFIX_MODEL_SETTINGS == "MLSERVER_MODEL_"
    assert mlserver.settings.DEFAULT_PARALLEL_WORKERS == 1


def test_mutable_defaults_are_not_shared() -> None:
    ModelSettings(implementation=PATH).inputs.append(MetadataTensor(name="x", datatype="FP32", shape=[1]))
    (ModelParameters().extra or {})["a"] = 1
    assert ModelSettings(implementation=PATH).inputs == []
    assert ModelParameters().extra == {}


# Precedence


@pytest.mark.parametrize(
    ("file", "environment", "dotenv", "expected"),
    [
        (9, 8, 7, 9),
        (None, 8, 7, 8),
        (None, None, 7, 7),
        (None, None, None, 100),
        (9, None, 7, 9),
    ],
)
def test_precedence(
    file: int | None,
    environment: int | None,
    dotenv: int | None,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values: dict[str, Any] = {} if file is None else {"cache_size": file}
    (tmp_path / "settings.json").write_text(json.dumps(values))
    if environment is not None:
        monkeypatch.setenv("MLSERVER_CACHE_SIZE", str(environment))
    if dotenv is not None:
        (tmp_path / ".env").write_text(f"MLSERVER_CACHE_SIZE={dotenv}\n")
    assert Settings.parse_file(tmp_path / "settings.json").cache_size == expected
    assert Settings.model_validate(values).cache_size == expected
    assert Settings(**values).cache_size == expected


def test_precedence_is_per_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_HTTP_PORT", "1")
    monkeypatch.setenv("MLSERVER_GRPC_PORT", "2")
    settings = Settings(http_port=9)
    assert (settings.http_port, settings.grpc_port, settings.metrics_port) == (9, 2, 8082)


def test_other_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MLSERVER_HTTP_PORT=1\n")
    (tmp_path / "other").write_text("MLSERVER_HTTP_PORT=2\n")
    assert Settings().http_port == 1
    assert Settings(_env_file=tmp_path / "other").http_port == 2  # type: ignore[call-arg]
    assert Settings(_env_file=None).http_port == 8080  # type: ignore[call-arg]
    assert ModelSettings(implementation=PATH, _env_file=None).name == ""


@pytest.mark.parametrize("name", ["MLSERVER_HTTP_PORT", "mlserver_http_port", "MLServer_Http_Port"])
def test_environment_ignores_case(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert Settings().http_port == 1


def test_unprefixed_variables_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PORT", "1")
    monkeypatch.setenv("URI", "x")
    (tmp_path / ".env").write_text("grpc_port=1\nname=x\n")
    assert (Settings().http_port, Settings().grpc_port) == (8080, 8081)
    assert ModelSettings(implementation=PATH).name == ""
    assert ModelParameters().uri is None


def test_unknown_keys_are_ignored() -> None:
    for cls in (Settings, CORSSettings, ModelSettings):
        assert not hasattr(cls.model_validate({"implementation": PATH, "unknown": 1}), "unknown")
    parameters: Any = ModelParameters.model_validate({"unknown": 1})
    assert parameters.unknown == 1


def test_prefixes_overlap_without_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_MODEL_REPOSITORY_ROOT", "/models")
    monkeypatch.setenv("MLSERVER_MODEL_REPOSITORY_IMPLEMENTATION", "json.JSONDecoder")
    monkeypatch.setenv("MLSERVER_MODEL_REPOSITORY_IMPLEMENTATION_ARGS", '{"a": 1}')
    settings = Settings()
    assert settings.model_repository_root == "/models"
    assert settings.model_repository_implementation is json.JSONDecoder
    assert settings.model_repository_implementation_args == {"a": 1}
    assert ModelParameters().model_extra == {}


@pytest.mark.parametrize("path", ["json.decoder.JSONDecoder", "json.decoder:JSONDecoder"])
def test_repository_implementation_is_imported(path: str) -> None:
    assert Settings(model_repository_implementation=path).model_repository_implementation is json.JSONDecoder


def test_private_settings_only_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER__CUSTOM_REST_SERVER_SETTINGS", '{"a": 1}')
    settings = Settings.model_validate({"_custom_grpc_server_settings": {"a": 1}})
    assert settings._custom_rest_server_settings is None
    assert settings._custom_grpc_server_settings is None
    settings._custom_rest_server_settings = {"http": "h11"}
    assert settings._custom_rest_server_settings == {"http": "h11"}


# Values


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("EXTENSIONS", '["a", "b"]', ["a", "b"]),
        ("MODEL_REPOSITORY_IMPLEMENTATION_ARGS", '{"a": [1]}', {"a": [1]}),
        ("LOGGING_SETTINGS", '{"version": 1}', {"version": 1}),
        ("LOGGING_SETTINGS", "logging.ini", "logging.ini"),
        ("METRICS_ENDPOINT", "", ""),
        ("METRICS_ENDPOINT", "null", "null"),
        ("HTTP_PORT", "7", 7),
        ("HTTP_PORT", "7.0", 7),
        ("GRPC_MAX_MESSAGE_LENGTH", "-1", -1),
        ("HTTP_MAX_BODY_SIZE", "1_000", 1000),
        ("SHUTDOWN_TIMEOUT", "1.5", 1.5),
        *(("DEBUG", text, True) for text in ("true", "1", "yes", "on", "t", "y", "TRUE", "Yes", "T")),
        *(("GZIP_ENABLED", text, False) for text in ("false", "0", "no", "off", "f", "n", "FALSE", "Off")),
    ],
)
def test_environment_values(name: str, text: str, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MLSERVER_{name}", text)
    value = getattr(Settings(), name.lower())
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("EXTENSIONS", "a,b"),
        ("MODEL_REPOSITORY_IMPLEMENTATION_ARGS", "a=1"),
        ("CORS_SETTINGS", "a"),
        ("DEBUG", ""),
        ("DEBUG", "2"),
        ("DEBUG", "maybe"),
        ("HTTP_PORT", ""),
        ("HTTP_PORT", "7.5"),
        ("HTTP_PORT", "abc"),
        ("GRPC_MAX_MESSAGE_LENGTH", ""),
        ("HTTP_MAX_CONNECTIONS", "null"),
        ("MODEL_REPOSITORY_IMPLEMENTATION", "no.such.Thing"),
    ],
)
def test_refused_environment_values(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MLSERVER_{name}", text)
    with pytest.raises((ValidationError, SettingsError)) as caught:
        Settings()
    line = describe_invalid(caught.value)
    assert name in line.upper()
    assert "\n" not in line


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"debug": "true"}, True),
        ({"debug": 0}, False),
        ({"http_port": "9000"}, 9000),
        ({"http_port": 9000.0}, 9000),
        ({"metrics_endpoint": None}, None),
        ({"grpc_max_message_length": None}, None),
        ({"cors_settings": None}, None),
        ({"logging_settings": None}, None),
        ({"tracing_server": None}, None),
        ({"model_repository_implementation": None}, None),
    ],
)
def test_file_values(values: dict[str, Any], expected: Any) -> None:
    assert getattr(Settings.model_validate(values), next(iter(values))) == expected


@pytest.mark.parametrize(
    "values",
    [
        {"http_port": None},
        {"http_port": 7.5},
        {"http_port": ""},
        {"debug": ""},
        {"debug": 2},
        {"host": 1},
        {"host": None},
        {"extensions": "a"},
        {"extensions": None},
        {"cors_settings": {"max_age": "soon"}},
    ],
)
def test_refused_file_values(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(values)


@pytest.mark.parametrize(
    "values",
    [
        {"name": None},
        {"name": 1},
        {"inputs": None},
        {"max_batch_size": None},
        {"max_batch_size": 1.5},
        {"versions": [1]},
        {"inputs": [{"name": "x", "datatype": "float", "shape": [1]}]},
        {"inputs": [{"name": "x", "datatype": "FP32"}]},
        {"parameters": {"uri": 1}},
        {"parameters": {"version": 1.5}},
        {"parameters": {"version": True}},
        {"parameters": []},
        {"implementation": None},
    ],
)
def test_refused_model_values(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelSettings.model_validate({"implementation": PATH, **values})


@pytest.mark.parametrize(
    ("version", "expected"), [("1", "1"), ("v1", "v1"), (1, "1"), (None, None), ("", "")]
)
def test_version(version: Any, expected: str | None) -> None:
    settings = ModelSettings(implementation=PATH, parameters={"version": version})
    assert settings.version == expected


def test_version_without_parameters() -> None:
    assert ModelSettings(implementation=PATH).version is None


def test_extra_may_be_null() -> None:
    assert ModelParameters.model_validate({"extra": None}).extra is None


def test_declared_tensors() -> None:
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [-1, 3],
        "parameters": {"content_type": "np", "unit": "m"},
    }
    settings = ModelSettings(implementation=PATH, inputs=[{**tensor, "tags": ["old"]}], outputs=[tensor])
    assert isinstance(settings.inputs[0], MetadataTensor)
    assert settings.inputs == settings.outputs
    assert settings.inputs[0].shape == [-1, 3]
    assert settings.inputs[0].parameters is not None
    assert settings.inputs[0].parameters.content_type == "np"
    assert settings.dict()["inputs"] == [tensor]
    assert json.loads(settings.json())["inputs"] == [tensor]


# Objects from several sources


def test_objects_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_CORS_SETTINGS", '{"allow_origins": ["a"], "max_age": 1}')
    monkeypatch.setenv("MLSERVER_MODEL_REPOSITORY_IMPLEMENTATION_ARGS", '{"a": {"b": 1, "c": 1}}')
    settings = Settings.model_validate(
        {"cors_settings": {"max_age": 2}, "model_repository_implementation_args": {"a": {"c": 2}}}
    )
    assert settings.cors_settings is not None
    assert settings.cors_settings.allow_origins == ["a"]
    assert settings.cors_settings.max_age == 2
    assert settings.model_repository_implementation_args == {"a": {"b": 1, "c": 2}}


def test_null_in_the_file_beats_an_object_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_CORS_SETTINGS", '{"max_age": 1}')
    assert Settings.model_validate({"cors_settings": None}).cors_settings is None


def test_cors_reads_the_environment_where_present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_ALLOW_ORIGINS", '["a"]')
    monkeypatch.setenv("MLSERVER_MAX_AGE", "5")
    assert Settings().cors_settings is None
    cors = Settings.model_validate({"cors_settings": {"max_age": 6}}).cors_settings
    assert cors is not None
    assert (cors.allow_origins, cors.max_age) == (["a"], 6)


def test_there_is_no_nested_delimiter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_CORS_SETTINGS__MAX_AGE", "5")
    assert Settings().cors_settings is None


def test_parameters_fill_their_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_MODEL_URI", "uri-of-variable")
    monkeypatch.setenv("MLSERVER_MODEL_VERSION", "3")
    monkeypatch.setenv("MLSERVER_MODEL_FORMAT", "format-of-variable")
    monkeypatch.setenv("MLSERVER_MODEL_EXTRA", '{"a": 1, "b": 1}')
    assert ModelSettings(implementation=PATH).parameters is None

    empty = ModelSettings.model_validate({"implementation": PATH, "parameters": {}}).parameters
    assert empty is not None
    assert (empty.uri, empty.version, empty.extra) == ("uri-of-variable", "3", {"a": 1, "b": 1})
    assert ModelParameters().uri == "uri-of-variable"

    monkeypatch.setenv("MLSERVER_MODEL_PARAMETERS", '{"uri": "uri-of-object", "version": "4"}')
    merged = ModelSettings.model_validate(
        {"implementation": PATH, "parameters": {"version": "5", "extra": {"b": 2}}}
    ).parameters
    assert merged is not None
    assert (merged.uri, merged.version, merged.format) == ("uri-of-object", "5", "format-of-variable")
    assert merged.extra == {"a": 1, "b": 2}
    of_environment = ModelSettings(implementation=PATH).parameters
    assert of_environment is not None
    assert of_environment.version == "4"


def test_parameters_keep_other_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("MLSERVER_HTTP_PORT=1\nMLSERVER_MODEL_COLOUR=red\nname=x\n")
    monkeypatch.setenv("MLSERVER_MODEL_SIZE", "1")
    parameters: Any = ModelParameters.model_validate({"shade": {"deep": 1}})
    assert parameters.shade == {"deep": 1}
    assert parameters.model_extra == {
        "shade": {"deep": 1},
        "mlserver_http_port": "1",
        "colour": "red",
        "name": "x",
    }
    parameters.later = 2
    assert parameters.later == 2
    assert parameters.model_dump()["later"] == 2


def test_generated_gid() -> None:
    one = ModelParameters(autogenerate_inference_pool_gid=True)
    assert one.inference_pool_gid
    assert one.inference_pool_gid != ModelParameters(autogenerate_inference_pool_gid=True).inference_pool_gid
    assert one.dict()["inference_pool_gid"] == one.inference_pool_gid
    given = ModelParameters(autogenerate_inference_pool_gid=True, inference_pool_gid="g")
    assert given.inference_pool_gid == "g"
    assert ModelParameters().inference_pool_gid is None


# The implementation


@pytest.mark.parametrize(
    ("keys", "environment", "expected"),
    [
        ({"implementation": "a.A"}, {}, "a.A"),
        ({"MLSERVER_MODEL_IMPLEMENTATION": "a.A"}, {}, "a.A"),
        ({}, {"IMPLEMENTATION": "b.B"}, "b.B"),
        ({}, {"MLSERVER_MODEL_IMPLEMENTATION": "c.C"}, "c.C"),
        ({}, {"mlserver_model_implementation": "c.C"}, "c.C"),
        ({}, {"IMPLEMENTATION": "b.B", "MLSERVER_MODEL_IMPLEMENTATION": "c.C"}, "b.B"),
        ({"implementation": "a.A"}, {"IMPLEMENTATION": "b.B", "MLSERVER_MODEL_IMPLEMENTATION": "c.C"}, "a.A"),
        ({"MLSERVER_MODEL_IMPLEMENTATION": "a.A"}, {"IMPLEMENTATION": "b.B"}, "a.A"),
        ({"implementation_": "a.A"}, {}, None),
        ({}, {}, None),
    ],
)
def test_names_of_the_implementation(
    keys: dict[str, str], environment: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if expected is None:
        with pytest.raises(ValidationError, match="implementation"):
            ModelSettings.model_validate(keys)
    else:
        assert ModelSettings.model_validate(keys).implementation_ == expected


def test_implementation_as_a_class() -> None:
    settings = ModelSettings(implementation=Runtime)
    assert settings.implementation_ == PATH
    implementation: Any = settings.implementation
    assert implementation is Runtime
    nested = ModelSettings(implementation=Runtime.Inner)
    assert nested.implementation is Runtime.Inner  # type: ignore[comparison-overlap]


def test_implementation_can_be_set() -> None:
    settings = ModelSettings(implementation="a.A")
    settings.implementation = Runtime  # type: ignore[assignment]
    assert settings.implementation_ == PATH


def test_implementation_is_imported_when_asked_for() -> None:
    settings = ModelSettings(implementation="no_such_module.A")
    with pytest.raises(ModuleNotFoundError):
        _ = settings.implementation


def write_model(folder: Path, **files: str) -> ModelSettings:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    settings = folder / "model-settings.json"
    settings.write_text(json.dumps({"name": folder.name, "implementation": "models.Model"}))
    return ModelSettings.parse_file(str(settings))


@pytest.fixture
def restored_modules() -> Any:
    modules, path = dict(sys.modules), list(sys.path)
    yield
    assert sys.path == path
    for name in sys.modules.keys() - modules.keys():
        del sys.modules[name]


@pytest.mark.usefixtures("restored_modules")
def test_two_models_with_modules_of_the_same_names(tmp_path: Path) -> None:
    text = "from helpers import NAME\nclass Model:\n    name = NAME\n    other = lambda self: Other()\n"
    one = write_model(tmp_path / "one", models=text + "class Other: n = 1\n", helpers="NAME = 'one'\n")
    two = write_model(tmp_path / "two", models=text + "class Other: n = 2\n", helpers="NAME = 'two'\n")
    first: Any = one.implementation
    second: Any = two.implementation
    assert (first.name, second.name) == ("one", "two")
    assert (first().other().n, second().other().n) == (1, 2)
    assert one.implementation is first
    assert two.implementation is second
    assert sys.modules["models"].Model is second
    assert pickle.loads(pickle.dumps(second)) is second
    assert one.implementation is first
    assert pickle.loads(pickle.dumps(first)) is first


@pytest.mark.usefixtures("restored_modules")
def test_helpers_of_one_model_are_not_those_of_another(tmp_path: Path) -> None:
    one = write_model(tmp_path / "one", models="import helpers\nclass Model: pass\n", helpers="")
    two = write_model(tmp_path / "two", models="import helpers\nclass Model: pass\n")
    _ = one.implementation
    with pytest.raises(ModuleNotFoundError, match="helpers"):
        _ = two.implementation
    assert "helpers" in sys.modules  # what the first model imported stays where it was


@pytest.mark.usefixtures("restored_modules")
def test_packages_beside_the_settings(tmp_path: Path) -> None:
    for name in ("one", "two"):
        package = tmp_path / name / "code_of_model"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("from .runtime import Model\n")
        (package / "runtime.py").write_text(f"from . import names\nclass Model:\n    name = names.{name}\n")
        (package / "names.py").write_text(f"{name} = '{name}'\n")
    found: list[Any] = [
        ModelSettings(
            implementation=f"code_of_model{path}", _source=str(tmp_path / name / "model-settings.json")
        ).implementation
        for name, path in [("one", ".Model"), ("two", ".runtime.Model"), ("one", ":Model")]
    ]
    assert [implementation.name for implementation in found] == ["one", "two", "one"]
    assert found[0] is found[2]


@pytest.mark.usefixtures("restored_modules")
def test_changed_code_is_imported_anew(tmp_path: Path) -> None:
    settings = write_model(
        tmp_path, models="from helpers import N\nclass Model:\n    n = N\n", helpers="N = 1"
    )
    assert settings.implementation.n == 1  # type: ignore[attr-defined]
    (tmp_path / "helpers.py").write_text("N = 2")  # as long as before, and within the same second
    assert settings.implementation.n == 2  # type: ignore[attr-defined]
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.usefixtures("restored_modules")
def test_a_module_that_failed_can_be_mended(tmp_path: Path) -> None:
    settings = write_model(tmp_path, models="1 / 0\n")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            _ = settings.implementation
    (tmp_path / "models.py").write_text("class Other: pass\n")
    with pytest.raises(ImportError, match=r"models\.Model.*no 'Model'"):
        _ = settings.implementation
    (tmp_path / "models.py").write_text("class Model: pass\n")
    assert settings.implementation.__name__ == "Model"


@pytest.mark.usefixtures("restored_modules")
def test_a_missing_dependency_is_named(tmp_path: Path) -> None:
    settings = write_model(tmp_path, models="import no_such_dependency\nclass Model: pass\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        _ = settings.implementation


@pytest.mark.usefixtures("restored_modules")
def test_modules_elsewhere_on_the_path_are_imported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared_runtime.py").write_text("class Model: pass\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        found = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            source = str(tmp_path / name / "model-settings.json")
            settings = ModelSettings(implementation="shared_runtime.Model", _source=source)
            found.append(settings.implementation)
    assert found[0] is found[1]


@pytest.mark.usefixtures("restored_modules")
def test_modules_of_the_standard_library_are_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise AssertionError")
    settings = write_model(tmp_path, models="import json\nclass Model:\n    dumps = json.dumps\n")
    assert settings.implementation.dumps is json.dumps  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["", "nothing", ".x", "x."])
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises((ImportError, ValueError, TypeError)):
        _ = ModelSettings(implementation=path).implementation


# Where they came from, and what they turn into


def test_source(tmp_path: Path) -> None:
    file = tmp_path / "model-settings.json"
    file.write_text(json.dumps({"implementation": PATH, "name": "m"}))
    settings = ModelSettings.parse_file(file)
    assert settings._source == str(file)
    assert ModelSettings(implementation=PATH)._source is None
    validated = ModelSettings.model_validate({"implementation": PATH, "_source": "/x/model-settings.json"})
    assert validated._source == "/x/model-settings.json"
    for clone in (settings.model_copy(), copy.deepcopy(settings), pickle.loads(pickle.dumps(settings))):
        assert clone._source == str(file)
        assert clone == settings
    assert "_source" not in settings.model_dump()


def test_files_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"server_name": "größer"}', encoding="utf-8-sig")
    assert Settings.parse_file(tmp_path / "settings.json").server_name == "größer"


def test_dumps() -> None:
    settings = ModelSettings(
        implementation=PATH, name="m", parallel_workers=None, parameters={"uri": "u", "colour": "red"}
    )
    short = {"implementation": PATH, "name": "m", "parameters": {"uri": "u", "colour": "red"}}
    assert settings.dict() == short
    assert json.loads(settings.json()) == short
    assert settings.dict(by_alias=False)["implementation_"] == PATH
    assert settings.dict(exclude_none=False)["parallel_workers"] is None
    assert settings.dict(exclude_unset=False)["max_batch_size"] == 0
    full = settings.model_dump()
    assert full["implementation_"] == PATH
    assert full["parameters"]["version"] is None
    assert settings.model_dump(by_alias=True)["implementation"] == PATH
    assert json.loads(settings.model_dump_json())["max_batch_time"] == 0.0
    assert Settings(http_port=1).dict() == {"http_port": 1}
    assert json.loads(Settings(http_port=1).json()) == {"http_port": 1}
    assert CORSSettings(max_age=1).dict() == {"max_age": 1}
    assert ModelParameters(uri="u").dict() == {"uri": "u"}


def test_a_dump_makes_the_same_settings_again() -> None:
    settings = ModelSettings(
        implementation=PATH,
        name="m",
        inputs=[{"name": "x", "datatype": "BYTES", "shape": [1]}],
        parameters={"version": "1", "extra": {"a": 1}},
    )
    assert ModelSettings.model_validate(settings.dict()) == settings
    assert ModelSettings.model_validate_json(settings.json()) == settings


@pytest.mark.parametrize("settings", [Settings(), CORSSettings(), ModelSettings(implementation=PATH)])
def test_unknown_attributes_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match="no_such_field"):
        settings.no_such_field = 1


# Errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"http_port": "abc"}',
            "settings.json: http_port: Input should be a valid integer, "
            "unable to parse string as an integer (got 'abc')",
        ),
        ('{"debug": }', "settings.json: not valid JSON: Expecting value (line 1, column 11)"),
        ("[]", "settings.json: Input should be a valid dictionary or instance of Settings (got [])"),
        (
            '{"cors_settings": {"max_age": null}, "host": 1}',
            "settings.json: host: Input should be a valid string (got 1); "
            "cors_settings.max_age: Input should be a valid integer (got None)",
        ),
    ],
)
def test_one_line_about_a_broken_file(text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(text)
    with pytest.raises(ValueError) as caught:
        Settings.parse_file(file)
    assert describe_invalid(caught.value, "settings.json") == expected


def test_one_line_about_other_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError) as missing:
        Settings.parse_file(tmp_path / "none.json")
    assert describe_invalid(missing.value) == f"{tmp_path / 'none.json'}: No such file or directory"

    with pytest.raises(ValidationError) as incomplete:
        ModelSettings.model_validate({})
    assert describe_invalid(incomplete.value, "m.json") == "m.json: implementation: Field required"

    with pytest.raises(ValidationError) as long:
        Settings.model_validate({"http_port": "x" * 1000})
    assert len(describe_invalid(long.value)) < 250

    monkeypatch.setenv("MLSERVER_HTTP_PORT", "abc")
    with pytest.raises(ValidationError) as of_environment:
        Settings.model_validate({})
    line = describe_invalid(of_environment.value, "settings.json")
    assert line.startswith("MLSERVER_HTTP_PORT: Input should be a valid integer")
    assert describe_invalid(RuntimeError("a\nb"), Path("f")) == "f: a b"
