"""What can be configured, for the server and for each model, and where a value may come from.

Per field, the first of these that has a value wins: constructor keywords (which is what a JSON file becomes),
the process environment, `.env` in the working directory, the default. Objects given by several sources are
merged key by key, in the same order. Nested objects (`cors_settings`, `parameters`) read the environment
themselves, for whatever they lack.
"""

from __future__ import annotations

import inspect
import json
import os
import typing
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    ImportString,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from mlserver.importing import import_class
from mlserver.types import MetadataTensor
from mlserver.version import __version__

if typing.TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from mlserver.model import MLModel

__all__ = [
    "DEFAULT_ENVIRONMENTS_DIR",
    "DEFAULT_METRICS_DIR",
    "DEFAULT_PARALLEL_WORKERS",
    "ENV_FILE_SETTINGS",
    "ENV_PREFIX_MODEL_SETTINGS",
    "ENV_PREFIX_SETTINGS",
    "CORSSettings",
    "ModelParameters",
    "ModelSettings",
    "Settings",
    "describe_invalid",
    "list_faults",
]

ENV_FILE_SETTINGS = ".env"
ENV_PREFIX_SETTINGS = "MLSERVER_"
ENV_PREFIX_MODEL_SETTINGS = "MLSERVER_MODEL_"

DEFAULT_PARALLEL_WORKERS = 1
DEFAULT_ENVIRONMENTS_DIR = os.path.join(os.getcwd(), ".envs")
DEFAULT_METRICS_DIR = os.path.join(os.getcwd(), ".metrics")

S = TypeVar("S", bound="_Base")
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]

_LEGACY_DUMP: dict[str, Any] = {"by_alias": True, "exclude_unset": True, "exclude_none": True}


class _Base(BaseSettings):
    """What the four classes share; `dict` is defined here so that annotations there mean the builtin."""

    @classmethod
    def parse_file(cls: type[S], path: Any, **kwargs: Any) -> S:
        """Settings from a JSON file. Raises OSError, json.JSONDecodeError or pydantic.ValidationError."""
        return cls.model_validate(_read_json(path))

    def dict(self, **kwargs: Any) -> Any:
        """As `model_dump`, but under aliases and without what is unset or None."""
        return self.model_dump(**{**_LEGACY_DUMP, **kwargs})

    def json(self, **kwargs: Any) -> str:
        """As `model_dump_json`, but under aliases and without what is unset or None."""
        return self.model_dump_json(**{**_LEGACY_DUMP, **kwargs})


def _read_json(path: Any) -> Any:
    with open(path, encoding="utf-8-sig") as file:  # files made on Windows may start with a byte order mark
        return json.load(file)


def _int_to_str(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _config(env_prefix: str, extra: Literal["allow", "ignore"]) -> SettingsConfigDict:
    # The prefix is matched in any case; older pydantic-settings cut it off names in `.env` only when in lower
    # case. Protected namespaces: many fields start with `model_`, none hides a method.
    return SettingsConfigDict(
        env_file=ENV_FILE_SETTINGS, env_prefix=env_prefix.lower(), extra=extra, protected_namespaces=()
    )


class CORSSettings(_Base):
    """Which web pages of other origins may call the HTTP API."""

    model_config = _config(ENV_PREFIX_SETTINGS, extra="ignore")

    allow_origins: list[str] = []
    """Origins that may call; `*` allows all."""

    allow_origin_regex: str | None = None
    """Regular expression; origins that it matches as a whole may call as well."""

    allow_credentials: bool = False
    """Whether browsers may send cookies and authorisation headers."""

    allow_methods: list[str] = ["GET"]
    """HTTP methods that may be used; `*` allows the usual ones."""

    allow_headers: list[str] = []
    """Request headers that may be sent besides the safelisted ones; `*` allows all."""

    expose_headers: list[str] = []
    """Response headers that scripts may read."""

    max_age: int = 600
    """Seconds for which browsers may remember the answer to a preflight."""


class Settings(_Base):
    """Settings of the server. Environment variables: `MLSERVER_` and the name in upper case."""

    model_config = _config(ENV_PREFIX_SETTINGS, extra="ignore")

    debug: bool = False
    """Log at level DEBUG, write an access log."""

    # Workers

    parallel_workers: int = DEFAULT_PARALLEL_WORKERS
    """Worker processes per inference pool; 0 runs models in the main process."""

    parallel_workers_timeout: int = 5
    """Seconds to wait for each worker to exit before it is killed."""

    retry_lost_calls: bool = True
    """Try a call once more in another worker when the one that had it ended before it answered."""

    trial_load: bool = True
    """Load a model in a process of its own first when its pool serves others: its crash hurts nobody."""

    copy_on_write: bool = False
    """Load models once, in a process that workers are forked from: saves memory, where load() allows it."""

    load_timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds that a load() in a worker, or any warm-up, may take; null is unlimited."""

    worker_gpus: list[str] = []
    """Value of `CUDA_VISIBLE_DEVICES` for each worker of a pool, in turn; empty leaves it as it is."""

    environments_dir: str = DEFAULT_ENVIRONMENTS_DIR
    """Folder into which environment tarballs are unpacked."""

    # Models

    model_repository_implementation: ImportString[Any] | None = None
    """Class of the model repository, as `pkg.mod.Cls` or `pkg.mod:Cls`; null for folders on disk."""

    model_repository_root: str = "."
    """Where the repository looks for models. `mlserver start FOLDER` puts FOLDER here."""

    model_repository_implementation_args: dict[str, Any] = {}
    """Further keyword arguments of the repository class."""

    load_models_at_startup: bool = True
    """Load every model that the repository lists before the server reports ready."""

    watch_repository: Annotated[float, Field(gt=0)] | None = None
    """Seconds between looks at the models' files, to load what is new, unload what is gone; null is none."""

    memory_budget: Annotated[int, Field(gt=0)] | None = None
    """Bytes that server and workers may take; beyond, models sleep until asked, the longest idle first."""

    load_failure: Literal["stop", "continue"] = "stop"
    """When a model cannot be loaded at start-up: stop the server, or go on, not ready, with the others."""

    max_queue_size: int = 0
    """Requests that may wait for one model before more are refused with 429; 0 is unlimited."""

    # Trust

    unsafe_artefacts: Literal["allow", "warn", "refuse"] = "allow"
    """What to do with files that run code when a model is loaded, and are not trusted by the next two."""

    trusted_digests: list[Digest] = []
    """Files that may run code, as `sha256:` and 64 hexadecimal digits; `mlserver audit --pin` prints them."""

    trusted_classes: list[str] = []
    """What pickles may import, as `package.module.Name`, or patterns for classes, such as `sklearn.*`."""

    trust_model_settings: bool = True
    """Let the settings of a model say the three above for itself; false takes the server's alone."""

    # Metadata

    server_name: str = "mlserver"
    """Name in the server metadata, CloudEvents and traces."""

    server_version: str = __version__
    """Version in the server metadata and traces."""

    extensions: list[str] = []
    """Protocol extensions to name in the server metadata."""

    # Where to listen

    host: str = "0.0.0.0"
    """Address to bind for HTTP, gRPC and metrics."""

    http_port: int = 8080
    """Port of the REST API."""

    root_path: str = ""
    """Path under which a proxy, which strips it, offers the REST API."""

    grpc_port: int = 8081
    """Port of the gRPC API."""

    grpc_max_message_length: int | None = None
    """Largest gRPC message in bytes, in and out; -1 is unlimited, null is 100 MiB."""

    grpc_max_concurrent_streams: Annotated[int, Field(ge=1, le=2**31 - 1)] = 1000
    """Calls at a time on one gRPC connection; more are refused, and clients wait with them."""

    grpc_keepalive_time: Annotated[float, Field(gt=0)] = 300.0
    """Seconds without a byte after which a gRPC client is asked for a sign of life."""

    grpc_keepalive_timeout: Annotated[float, Field(gt=0)] = 20.0
    """Seconds that it has for that before its connection is closed."""

    grpc_max_connection_age: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which a gRPC connection is asked to come back as a new one; null is never."""

    # TLS

    tls_certificate: str | None = None
    """PEM file with the server's certificate, and those between it and its authority; null is no TLS."""

    tls_private_key: str | None = None
    """PEM file with the key of the certificate."""

    tls_private_key_password: SecretStr | None = None
    """What the key is encrypted with; null if it is not."""

    tls_client_ca: str | None = None
    """PEM file of authorities. If set, clients must show a certificate that one of them has signed."""

    tls_ports: list[Literal["http", "grpc", "metrics"]] = ["http", "grpc", "metrics"]
    """Ports that speak TLS, once there is a certificate; the others stay in clear."""

    # Limits of HTTP

    http_max_body_size: int = 268_435_456
    """Largest request body in bytes, after decompression too; -1 is unlimited."""

    http_max_header_size: int = 65_536
    """Largest head of a request (request line and headers) in bytes."""

    http_header_timeout: float = 20.0
    """Seconds within which the whole head of a request has to arrive."""

    http_body_timeout: float = 30.0
    """Seconds without one byte of a request body after which the connection is closed."""

    http_keep_alive: float = 5.0
    """Seconds for which an idle connection is kept."""

    http_max_connections: int | None = None
    """Open HTTP connections at a time; null is unlimited."""

    shutdown_timeout: float = 30.0
    """Seconds that requests which were accepted before a shutdown get to finish."""

    cors_settings: CORSSettings | None = None
    """CORS answers; null sends no CORS headers."""

    gzip_enabled: bool = True
    """Compress HTTP responses for clients that ask for it."""

    # Metrics

    metrics_endpoint: str | None = "/metrics"
    """Path of the Prometheus metrics; null or empty switches them off."""

    metrics_port: int = 8082
    """Port of the Prometheus metrics."""

    metrics_rest_server_prefix: str = "rest_server"
    """First part of the names of the REST metrics."""

    metrics_dir: str = DEFAULT_METRICS_DIR
    """Folder for metrics shared between processes, with `parallel_workers` > 0."""

    # Logging, tracing

    use_structured_logging: bool = False
    """Log one JSON object per line."""

    logging_settings: str | dict[str, Any] | None = None
    """Logging configuration: a dict, the path of a JSON file with one, or the path of an ini file."""

    tracing_server: str | None = None
    """OpenTelemetry collector (OTLP over gRPC, insecure) to send traces to."""

    # Kafka

    kafka_enabled: bool = False
    """Serve requests that arrive over Kafka, too."""

    kafka_servers: str = "localhost:9092"
    """Kafka brokers to connect to first."""

    kafka_topic_input: str = "mlserver-input"
    """Topic that requests are read from."""

    kafka_topic_output: str = "mlserver-output"
    """Topic that responses are written to."""

    # Response cache

    cache_enabled: bool = False
    """Cache responses of the models whose settings ask for it, too."""

    cache_size: int = 100
    """Responses that the cache holds, of all models together."""

    cache_max_bytes: Annotated[int, Field(ge=0)] = 268_435_456
    """Bytes of response bodies that the cache holds."""

    cache_ttl: Annotated[float, Field(gt=0)] | None = None
    """Seconds for which a cached response is good; null is until it is pushed out."""

    # For programs that embed a server; neither files nor the environment can set these.
    _custom_rest_server_settings: dict[str, Any] | None = PrivateAttr(default=None)
    _custom_metrics_server_settings: dict[str, Any] | None = PrivateAttr(default=None)
    _custom_grpc_server_settings: dict[str, Any] | None = PrivateAttr(default=None)


class ModelParameters(_Base):
    """Parameters of a model; further keys are kept, as attributes.

    Environment variables: `MLSERVER_MODEL_` and the name in upper case.
    """

    model_config = _config(ENV_PREFIX_MODEL_SETTINGS, extra="allow")

    uri: str | None = None
    """Artefact: file or folder, relative to the folder of the model's settings file."""

    version: Annotated[str | None, BeforeValidator(_int_to_str)] = None
    """Version of the model."""

    environment_path: str | None = None
    """Existing Python environment to run the model in."""

    environment_tarball: str | None = None
    """Packed Python environment to unpack and run the model in."""

    inference_pool_gid: str | None = None
    """Models that name the same group share a worker pool of their own."""

    autogenerate_inference_pool_gid: bool = False
    """Give the model a group, and so a worker pool, of its own."""

    build_environment: bool = False
    """Run the model in an environment with what `requirements.txt`, `python_env.yaml` or `conda.yaml` has."""

    format: str | None = None
    """Format of the artefact, for runtimes that know several."""

    content_type: str | None = None
    """Default content type of requests."""

    extra: dict[str, Any] | None = {}
    """Settings that only the runtime understands."""

    @model_validator(mode="after")
    def _generate_gid(self) -> ModelParameters:
        if self.autogenerate_inference_pool_gid and self.inference_pool_gid is None:
            from mlserver.utils import generate_uuid

            self.inference_pool_gid = generate_uuid()
        return self


class ModelSettings(_Base):
    """Settings of one model. Environment variables: `MLSERVER_MODEL_` and the name in upper case."""

    model_config = _config(ENV_PREFIX_MODEL_SETTINGS, extra="ignore")

    # The variable without prefix comes first: existing deployments rely on the order.
    implementation_: str = Field(
        validation_alias=AliasChoices("implementation", "MLSERVER_MODEL_IMPLEMENTATION"),
        serialization_alias="implementation",
    )
    """Import path of the runtime class; see `implementation`."""

    name: str = ""
    """Name of the model; where empty, the loader takes the name of the folder."""

    platform: str = ""
    """Framework of the model, for its metadata."""

    versions: list[str] = []
    """Versions to name in the metadata of the model."""

    inputs: list[MetadataTensor] = []
    """Inputs for the metadata, and content types of inputs by name."""

    outputs: list[MetadataTensor] = []
    """Outputs for the metadata, and content types of outputs by name."""

    parallel_workers: int | None = None
    """Deprecated. 0 or less runs this model in the main process; else without effect."""

    warm_workers: bool = False
    """Deprecated, without effect."""

    replicas: Annotated[int, Field(ge=1)] | None = None
    """Workers of its pool that load this model; null is all, more than there are adds workers."""

    load_after: list[str] = []
    """Models that have to be loaded before this one is, when the server starts."""

    pinned: bool = False
    """Keep this model loaded when others have to sleep for the memory budget."""

    predict_timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds that a predict() may take before its callers get 504 and its worker ends; null is unlimited."""

    max_queue_size: Annotated[int, Field(ge=0)] | None = None
    """Requests that may wait for this model before more are refused; null is as for the server."""

    max_batch_size: int = 0
    """Requests that may run as one batch; 1 or less switches batching off."""

    max_batch_time: float = 0.0
    """Most seconds to hold a request for others to join its batch; 0 or less switches batching off."""

    latency_target_ms: Annotated[float, Field(gt=0)] | None = None
    """Milliseconds within which requests are to be answered; batches are held for company meanwhile."""

    latency_percentile: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the requests that the latency target is meant for."""

    warm_up: list[dict[str, Any]] | str = []
    """Requests that each copy answers before it is ready: V2 JSON, or the path of a file with a list."""

    parameters: ModelParameters | None = None
    """Artefact, version, environment and runtime specific settings."""

    unsafe_artefacts: Literal["allow", "warn", "refuse"] | None = None
    """What to do with files of this model that run code and are not trusted; null is as for the server."""

    trusted_digests: list[Digest] = []
    """If any are given, what is loaded for this model must have one of these digests, whatever it runs."""

    trusted_classes: list[str] = []
    """What pickles of this model may import, besides what the server's settings list."""

    cache_enabled: bool = False
    """Let the response cache, where the server has one, hold responses of this model."""

    _source: str | None = PrivateAttr(default=None)

    def __init__(self, *, _source: str | None = None, **values: Any) -> None:
        super().__init__(**values)
        self._source = _source

    @field_validator("implementation_", mode="before")
    @classmethod
    def _path_of_class(cls, value: Any) -> Any:
        return _import_path(value) if inspect.isclass(value) else value

    @classmethod
    def parse_file(cls: type[S], path: Any, **kwargs: Any) -> S:
        """Settings from a JSON file, whose path is kept in `_source`.

        Raises OSError, json.JSONDecodeError or pydantic.ValidationError.
        """
        values = _read_json(path)
        if isinstance(values, dict):
            values["_source"] = os.fspath(path)
        return cls.model_validate(values)

    @property
    def implementation(self) -> type[MLModel]:
        """The runtime class, imported now. Modules beside the settings file come first.

        What changed since it was imported is imported anew. Raises ImportError, UntrustedArtefact, or what
        the module raises.
        """
        from mlserver.audit.policy import check_code

        directory = check_code(self, self.implementation_)
        runtime: type[MLModel] = import_class(self.implementation_, directory)
        return runtime

    @implementation.setter
    def implementation(self, value: type[MLModel]) -> None:
        self.implementation_ = _import_path(value)

    @property
    def version(self) -> str | None:
        """Version of the model, None when it has none."""
        return None if self.parameters is None else self.parameters.version


def _import_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# One line about settings that cannot be used


_CLASSES: dict[str, type[BaseSettings]] = {
    cls.__name__: cls for cls in (Settings, CORSSettings, ModelSettings, ModelParameters)
}


def list_faults(exc: ValidationError) -> str:
    """What pydantic found wrong, in one line: `batch_size: Input should be ...; ...`."""
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in exc.errors())


def describe_invalid(exc: BaseException, source: Any = None) -> str:
    """One line about settings that cannot be used: `settings.json: http_port: Input should be ...`.

    exc: what reading the settings raised. source: path of the file they came from, None when there was none.
    A value that came from the environment is named by its variable instead.
    """
    where = [] if source is None else [os.fspath(source)]
    if isinstance(exc, ValidationError):
        cls = _CLASSES.get(exc.title)
        prefix = None if cls is None else cls.model_config["env_prefix"].upper()
        faults = [_describe_fault(fault, prefix) for fault in exc.errors(include_url=False)]
        if prefix and all(fault.startswith(prefix) for fault in faults):
            where = []
        return ": ".join([*where, "; ".join(faults)])
    if isinstance(exc, json.JSONDecodeError):
        return ": ".join([*where, f"not valid JSON: {exc.msg} (line {exc.lineno}, column {exc.colno})"])
    if isinstance(exc, SettingsError):
        return _one_line(str(exc) if exc.__cause__ is None else f"{exc}: {exc.__cause__}")
    if isinstance(exc, OSError) and exc.strerror:
        return ": ".join([*(where or [str(exc.filename)]), exc.strerror])
    return ": ".join([*where, _one_line(str(exc)) or type(exc).__name__])


def _describe_fault(fault: ErrorDetails, prefix: str | None) -> str:
    where = ".".join(str(step) for step in fault["loc"])
    got = fault["input"]
    if prefix and fault["loc"] and isinstance(got, str):
        variable = f"{prefix}{fault['loc'][0]}".upper()
        if os.environ.get(variable) == got:
            where = variable
    text = f"{where}: {fault['msg']}" if where else fault["msg"]
    return _one_line(text if fault["type"] == "missing" else f"{text} (got {_short(got)})")


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _one_line(text: str) -> str:
    return " ".join(text.split())
