"""Imports point one way, and `import mlserver` stays light."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import mlserver

SOURCE = Path(__file__).parents[2] / "src" / "mlserver"

# Inner to outer. A module may import from its own layer and from those before it.
LAYERS = [
    {"version", "errors", "context", "importing", "cloudevents", "memory", "recognition"},
    {"parallel.launch"},
    {"tensor"},
    {"types"},
    {"codecs", "raw", "utils", "settings", "handlers", "logging", "parallel.errors", "kafka", "env"}
    | {"audit"},
    {"metrics", "model", "batching", "tls"},
    {"listening", "artefact"},
    {"tabular"},
    {"signature"},
    {"function"},
    {"grpc._define"},
    {"grpc.dataplane_pb2", "grpc.model_repository_pb2", "grpc.health_pb2"}
    | {"grpc.reflection_pb2", "grpc.reflection_v1alpha_pb2"},
    {"wire", "grpc.dataplane_pb2_grpc", "grpc.model_repository_pb2_grpc"},
    {"grpc.converters"},
    {"executor"},
    {"replica", "repository"},
    {"warmup"},
    {"replicas", "parallel"},
    {"audit.report"},
    {"rollout"},
    {"registry", "cache"},
    {"service"},
    {"rest", "grpc", "metrics.server"},
    {"parallel.host"},
    {"server"},
    {"cli", "__main__"},
]


def modules() -> list[str]:
    """Every module, as its path below the package with dots."""
    found = (path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.py"))
    return sorted(
        ".".join(path.parts).removesuffix(".__init__") for path in found if path != Path("__init__")
    )


def layer(module: str) -> int:
    for part in (module, module.partition(".")[0]):
        for index, names in enumerate(LAYERS):
            if part in names:
                return index
    raise AssertionError(f"{module} stands in no layer")


def imports_of(module: str) -> set[str]:
    """The modules of ours that importing `module` imports:

    not what only type checkers or function bodies import.
    """
    path = SOURCE.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()

    def visit(body: list[ast.stmt]) -> None:
        for statement in body:
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("mlserver"):
                base = (statement.module or "").removeprefix("mlserver").removeprefix(".")
                for alias in statement.names:
                    name = f"{base}.{alias.name}" if base else alias.name
                    found.add(name if name in ALL else base)
            elif isinstance(statement, ast.Import):
                found.update(
                    a.name.removeprefix("mlserver.")
                    for a in statement.names
                    if a.name.startswith("mlserver.")
                )
            elif isinstance(statement, ast.If):
                if "TYPE_CHECKING" not in ast.unparse(statement.test):
                    visit(statement.body)
                visit(statement.orelse)
            elif isinstance(statement, ast.Try):
                visit(statement.body)

    visit(ast.parse(source.read_text()).body)
    return found - {""}


ALL = set(modules())


@pytest.mark.parametrize("module", sorted(ALL - {"__init__"}))
def test_imports_point_inward(module: str) -> None:
    outward = {other for other in imports_of(module) if other in ALL and layer(other) > layer(module)}
    assert not outward


def test_every_layer_holds_something() -> None:
    tops = {module.partition(".")[0] for module in ALL}
    assert {name.partition(".")[0] for names in LAYERS for name in names} <= tops


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import mlserver",
        "from mlserver import MLModel, types",
        "import mlserver.codecs",
        "import mlserver.grpc, mlserver.raw, mlserver.wire.json",
    ],
)
def test_a_runtime_author_imports_little(statement: str) -> None:
    loaded = loaded_by(statement)
    heavy = {
        "pandas",
        "starlette",
        "fastapi",
        "uvicorn",
        "google.protobuf",
        "pydantic",
        "prometheus_client",
        "uvloop",
    }
    assert not heavy & loaded
    assert len(loaded) < 300


def test_messages_need_no_grpcio() -> None:
    loaded = loaded_by("import mlserver.wire.protobuf, mlserver.grpc.converters")
    assert "google.protobuf" in loaded and not {"grpc", "pydantic", "pandas"} & loaded


@pytest.mark.parametrize(
    "name",
    [
        "MLModel",
        "MLServer",
        "ModelSettings",
        "Settings",
        "__version__",
        "from_function",
        "log",
        "register",
        *sorted(mlserver._SUBMODULES),
    ],
)
def test_names_are_there_after_a_bare_import(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import mlserver; mlserver.{name}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path",
    [
        "batching.BatchedRequests",
        "cli.main",
        "cli.serve.DEFAULT_SETTINGS_FILENAME",
        "cli.serve.load_settings",
        "cloudevents.CLOUDEVENTS_HEADER_ID",
        "cloudevents.CloudEventsTypes",
        "grpc.converters.InferInputTensorConverter",
        "grpc.converters.ModelInferRequestConverter",
        "grpc.converters.ModelInferResponseConverter",
        "grpc.dataplane_pb2.ModelInferRequest",
        "grpc.dataplane_pb2_grpc.GRPCInferenceServiceServicer",
        "grpc.dataplane_pb2_grpc.GRPCInferenceServiceStub",
        "grpc.dataplane_pb2_grpc.add_GRPCInferenceServiceServicer_to_server",
        "grpc.model_repository_pb2.RepositoryIndexRequest",
        "grpc.model_repository_pb2_grpc.ModelRepositoryServiceStub",
        "handlers.custom_handler",
        "handlers.custom.CustomHandler",
        "handlers.custom.get_custom_handlers",
        "kafka.errors.InvalidMessageHeaders",
        "logging.ModelLoggerFormatter",
        "metrics.MetricsServer",
        "metrics.REGISTRY",
        "metrics.context.SELDON_MODEL_NAME_LABEL",
        "model.MLModel",
        "parallel.errors.WorkerStop",
        "registry.MultiModelRegistry",
        "repository.DEFAULT_MODEL_SETTINGS_FILENAME",
        "repository.ModelRepository",
        "repository.ModelRepositoryFactory",
        "repository.SchemalessModelRepository",
        "repository.load.load_model_settings",
        "rest.responses.Response",
        "types.base.BaseModel",
        "types.dataplane.InferenceRequest",
        "types.model_repository.State",
        "utils.get_model_uri",
    ],
)
def test_public_paths(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert hasattr(importlib.import_module(f"mlserver.{module}"), name)
