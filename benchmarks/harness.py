"""What every benchmark here shares: servers started and stopped, load, measurements, tables."""

from __future__ import annotations

import argparse
import functools
import http.client
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, TypeVar

import peers
from peers import Unavailable

T = TypeVar("T")

OURS = "ours"
REFERENCE = "mlserver"
FLOOR = "floor"
ECHO = Path("/usr/lib/nginx/modules/ngx_http_echo_module.so")
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class RunFailed(Exception):
    """A server did not start, answered wrongly, or failed requests under load."""


# --- what is asked, and what must come back -------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """How much is asked at a time."""

    connections: int
    streams: int | None = None
    """Calls in flight on each connection; None where the protocol has no streams and the answer is one."""

    @classmethod
    def parse(cls, text: str) -> Point:
        """`32` is connections, `1x32` is connections x streams."""
        return cls(*map(int, text.split("x")))

    @property
    def in_flight(self) -> int:
        return self.connections * (self.streams or 1)

    def __str__(self) -> str:
        text = f"{self.connections} connection{'s' * (self.connections != 1)}"
        return text if self.streams is None else f"{text} x {self.streams} stream{'s' * (self.streams != 1)}"


@dataclass(frozen=True)
class Workload:
    """One request body for one model, and the one value the right answer holds: over REST, unless a subclass
    says otherwise."""

    generator: ClassVar[str] = "wrk"
    grpc: ClassVar[bool] = False

    model: str
    body: bytes = field(repr=False)
    expected: float
    datatype: str
    label: str = ""

    @property
    def path(self) -> str:
        return f"/v2/models/{self.model}/infer"

    @property
    def reply(self) -> bytes:
        """What a right answer looks like on the wire: the floor sends it without looking at the request."""
        value: float = int(self.expected) if self.datatype.startswith("INT") else self.expected
        output = {
            "name": "predict",
            "shape": [1, 1],
            "datatype": self.datatype,
            "parameters": {"content_type": "np"},
            "data": [value],
        }
        reply = {
            "model_name": self.model,
            "id": "0d90f4d4-214e-4bc5-9c2d-52b9af471a71",
            "parameters": {},
            "outputs": [output],
        }
        return json.dumps(reply, separators=(",", ":")).encode()

    def load(self, server: Server, point: Point, seconds: int) -> Measured:
        return load(server, self, point.connections, seconds)


def v2_body(shape: list[int], data: list[float], datatype: str = "FP32") -> bytes:
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "data": data}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


IRIS = Workload("iris", v2_body([1, 4], [5.1, 3.5, 1.4, 0.2]), expected=0, datatype="INT64")


# --- processes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """How a server is started and how it is known to be ready."""

    command: Sequence[str]
    http_port: int
    ready: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    hard_stop: bool = False
    grpc_port: int | None = None
    successes: Counter | None = None


@dataclass(frozen=True)
class Counter:
    """Where a server itself says how many inferences succeeded: a metric in the format of Prometheus."""

    port: int
    metric: str

    def read(self) -> int:
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
                connection.request("GET", "/metrics")
                lines = connection.getresponse().read().decode().splitlines()
        except (OSError, http.client.HTTPException) as error:
            raise RunFailed(f"its metrics did not answer: {error!r}") from error
        return sum(int(float(line.split()[-1])) for line in lines if line.startswith(f"{self.metric}{{"))


@dataclass(frozen=True)
class Server:
    port: int
    pid: int
    ready_after: float
    """Seconds from the start of the process to the first moment it said that it is ready."""
    grpc_port: int | None = None
    successes: Counter | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, timeout: float = 60) -> closing[http.client.HTTPConnection]:
        return closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout))

    def pids(self) -> set[int]:
        """The process and everything that it started, whoever is the parent by now."""
        rows = dict(_processes())
        found = {pid for pid, (_, session) in rows.items() if self.pid in (pid, session)}
        while more := {pid for pid, (parent, _) in rows.items() if parent in found} - found:
            found |= more
        return found

    def cpu_seconds(self) -> float:
        ticks = 0
        for pid in self.pids():
            with suppress(OSError):
                ticks += sum(map(int, _stat(pid)[11:13]))
        return ticks / TICKS

    def resident(self) -> int:
        """Bytes, added over the processes; pages that they share are counted in each."""
        pages = 0
        for pid in self.pids():
            with suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * PAGE


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third, `state`, on; the second may itself hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _processes() -> Iterator[tuple[int, tuple[int, int]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = _stat(int(entry.name))
                yield int(entry.name), (int(fields[1]), int(fields[3]))


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _answers(port: int, path: str) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False


def _stop(process: subprocess.Popen[bytes], *, hard: bool) -> None:
    """End the process group that was started here, politely first, and leave nobody behind."""
    try:
        if not hard and process.poll() is None:
            process.terminate()
            process.wait(15)
    except subprocess.TimeoutExpired:
        print(f"note: {process.args!r} was still there 15 s after SIGTERM: killed", file=sys.stderr)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def clean_environment(program: Path) -> dict[str, str]:
    """The same for everybody: nothing of what the caller's shell says about Python or the servers."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {"PATH": f"{program.parent}:{peers.SEARCH}"}


@contextmanager
def running(side: Side, model: str, *, timeout: float = 60) -> Iterator[Server]:
    """A server that has said that it is ready; stopped in any case at the end."""
    with tempfile.TemporaryDirectory(prefix=f"bench-{side.name}-", ignore_cleanup_errors=True) as folder:
        launch = side.prepare(Path(folder), model)
        log = Path(folder) / "log"
        environment = clean_environment(Path(launch.command[0])) | launch.environment
        with log.open("wb") as output:
            began = time.perf_counter()
            process = subprocess.Popen(
                launch.command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            for path in launch.ready:
                while not _answers(launch.http_port, path):
                    if process.poll() is not None:
                        raise RunFailed(f"{side.name} ended with status {process.returncode}: {_tail(log)}")
                    if time.perf_counter() - began > timeout:
                        raise RunFailed(f"{side.name} was not ready after {timeout:.0f} s: {_tail(log)}")
                    time.sleep(0.01)
            took = time.perf_counter() - began
            try:
                yield Server(launch.http_port, process.pid, took, launch.grpc_port, launch.successes)
            except RunFailed as error:
                if process.poll() is None:
                    raise
                ended = f"ended with status {process.returncode}: {_tail(log)}"
                raise RunFailed(f"{error}; {side.name} {ended}") from error
        finally:
            _stop(process, hard=launch.hard_stop)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return (
        "\n".join(line for line in lines if not line.startswith(("|", "+")))[-1500:].strip() or "(no output)"
    )


# --- sides ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    name: str
    about: str
    prepare: Callable[[Path, str], Launch]
    """Writes what the server reads into a folder and says how to start it; may raise Unavailable."""
    python: Callable[[], Path] | None = None
    packages: tuple[str, ...] = ()

    def versions(self) -> dict[str, str]:
        if self.python is None:
            return {}
        code = (
            "import importlib.metadata as m, json, sys\n"
            "found = {d.metadata['name'].lower(): d.version for d in m.distributions()}\n"
            "print(json.dumps({n: found[n] for n in sys.argv[1:] if n in found}))"
        )
        command = [str(self.python()), "-c", code, *self.packages, "numpy", "scikit-learn", "uvloop"]
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        return dict(json.loads(done.stdout))


@functools.cache
def artefact(python: Path) -> Path:
    """The classifier as this interpreter's own scikit-learn writes it."""
    peers.PEERS.mkdir(exist_ok=True)
    file = peers.PEERS / f"iris-{'-'.join(python.parts[-4:-2])}.joblib"
    command = [str(python), str(peers.SERVED / "train_iris.py"), str(file)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    if done.returncode:
        raise Unavailable(f"{python} could not train the model: {done.stderr.decode()[-300:].strip()}")
    return file


TREES = {
    "xgboost": ("mlserver_xgboost.XGBoostModel", "model.json"),
    "lightgbm": ("mlserver_lightgbm.LightGBMModel", "model.bst"),
    "catboost": ("mlserver_catboost.CatboostModel", "model.cbm"),
}


@functools.cache
def trees() -> tuple[Path, dict[str, float]]:
    """Where the models of `TREES` are, which the older libraries have written, and what they answer."""
    folder = peers.PEERS / "trees"
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(_peer("mlserver-trees").python), str(peers.SERVED / "train_trees.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)
    if done.returncode:
        raise Unavailable(f"the trees could not be trained: {done.stderr.decode()[-300:].strip()}")
    return folder, json.loads(done.stdout.splitlines()[-1])


def _peer(name: str) -> peers.Peer:
    peer = peers.ALL[name]
    peer.ensure()
    return peer


def _our_python() -> Path:
    return _peer(OURS).python


def _reference_python() -> Path:
    return _peer(REFERENCE).python


def _mlserver(python: Callable[[], Path], workers: int, *, hard_stop: bool) -> Callable[[Path, str], Launch]:
    """This project and MLServer start alike: `mlserver start FOLDER`."""

    def prepare(folder: Path, model: str) -> Launch:
        interpreter = python()
        if model in TREES:
            interpreter = _peer(f"{interpreter.parts[-3]}-trees").python
        http_port, grpc_port, metrics_port = free_ports(3)
        settings = {
            "debug": False,
            "host": "127.0.0.1",
            "http_port": http_port,
            "grpc_port": grpc_port,
            "metrics_port": metrics_port,
            "parallel_workers": workers,
        }
        if model == "sum":
            # What we take anyway; MLServer takes no more than grpcio does, 4 MiB.
            settings["grpc_max_message_length"] = 100 * 2**20
        home = folder / model
        home.mkdir()
        if model == IRIS.model:
            shutil.copy(artefact(interpreter), home / "model.joblib")
            parameters = {"uri": "./model.joblib"}
            implementation = "mlserver_sklearn.SKLearnModel"
        elif model in TREES:
            implementation, filename = TREES[model]
            shutil.copy(trees()[0] / filename, home / filename)
            parameters = {"uri": f"./{filename}"}
        else:
            shutil.copy(peers.SERVED / "mlserver_models.py", home / "models.py")
            parameters = {}
            implementation = {"sum": "models.SumModel", "busy": "models.BusyModel"}[model]
        model_settings = {"name": model, "implementation": implementation, "parameters": parameters}
        (folder / "settings.json").write_text(json.dumps(settings))
        (home / "model-settings.json").write_text(json.dumps(model_settings))
        command = [str(interpreter.with_name("mlserver")), "start", str(folder)]
        ready = ("/v2/health/ready", f"/v2/models/{model}/ready")
        successes = Counter(metrics_port, "model_infer_request_success_total")
        return Launch(
            command, http_port, ready, hard_stop=hard_stop, grpc_port=grpc_port, successes=successes
        )

    return prepare


def _triton(folder: Path, model: str) -> Launch:
    peer = _peer("triton")
    carried = peer.site_packages / "pytriton" / "tritonserver"
    backend = folder / "backends" / "python"
    shutil.copytree(carried / "backends" / "python", backend)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    stub = carried / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise Unavailable(f"this Triton has no python backend for Python {version}")
    server = carried / "bin" / "tritonserver"
    for binary in (server, Path(shutil.copy(stub, backend))):
        binary.chmod(0o755)
    shapes = {
        "iris": ("max_batch_size: 64\ndynamic_batching { }\n", "[4]", "predict", "TYPE_INT64", "[1]"),
        "sum": ("max_batch_size: 0\n", "[-1, -1]", "sum", "TYPE_FP64", "[1, 1]"),
    }
    if model not in shapes:
        raise Unavailable(f"no {model} model for Triton")
    batching, x_dims, y_name, y_type, y_dims = shapes[model]
    version_folder = folder / "models" / model / "1"
    version_folder.mkdir(parents=True)
    (version_folder.parent / "config.pbtxt").write_text(
        f'name: "{model}"\nbackend: "python"\n{batching}'
        f'input [ {{ name: "x" data_type: TYPE_FP32 dims: {x_dims} }} ]\n'
        f'output [ {{ name: "{y_name}" data_type: {y_type} dims: {y_dims} }} ]\n'
        "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
    )
    shutil.copy(peers.SERVED / f"triton_{model}.py", version_folder / "model.py")
    http_port, grpc_port, metrics_port = free_ports(3)
    options = {
        "model-repository": folder / "models",
        "backend-directory": folder / "backends",
        "http-address": "127.0.0.1",
        "http-port": http_port,
        "grpc-address": "127.0.0.1",
        "grpc-port": grpc_port,
        "metrics-address": "127.0.0.1",
        "metrics-port": metrics_port,
    }
    environment = {
        "LD_LIBRARY_PATH": f"{peer.site_packages / 'nvidia_pytriton.libs'}:{Path(sys.base_prefix) / 'lib'}",
        # The interpreter in the backend is lost unless its own `python3` is the first on the path.
        "PATH": f"{Path(sys.base_prefix) / 'bin'}:{peers.SEARCH}",
        "PYTHONHOME": sys.base_prefix,
        "BENCH_SITE_PACKAGES": str(peer.site_packages),
        "BENCH_ARTEFACT": str(artefact(peer.python)),
    }
    command = [str(server), *(f"--{name}={value}" for name, value in options.items())]
    ready = ("/v2/health/ready", f"/v2/models/{model}/ready")
    successes = Counter(metrics_port, "nv_inference_request_success")
    return Launch(command, http_port, ready, environment, grpc_port=grpc_port, successes=successes)


def _script(name: str, ready: str, arguments: Callable[[int], list[str]]) -> Callable[[Path, str], Launch]:
    def prepare(folder: Path, model: str) -> Launch:
        if model != IRIS.model:
            raise Unavailable(f"no {model} model for {name}")
        peer = _peer(name)
        (port,) = free_ports(1)
        command = [str(peer.python), str(peers.SERVED / f"{name}_iris.py"), *arguments(port)]
        return Launch(command, port, (ready,), {"BENCH_ARTEFACT": str(artefact(peer.python))})

    return prepare


def tool(name: str) -> str:
    found = shutil.which(name, path=peers.SEARCH)
    if found is None:
        raise Unavailable(f"no {name} here: {peers.DEBIAN}")
    return found


def _nginx(workload: Workload) -> Callable[[Path, str], Launch]:
    def prepare(folder: Path, model: str) -> Launch:
        nginx = tool("nginx")
        # A `$` begins a variable and cannot be escaped: one stands in a variable for itself.
        text = re.sub(rb"([\\'])", rb"\\\1", workload.reply).replace(b"$", b"${dollar}")
        reply, module = b"return 200 '%s';" % text, ""
        if len(workload.body) > 4096:
            # `return` answers before it has read the body, which no client expects of a large one.
            if not ECHO.is_file():
                raise Unavailable("no echo module for nginx here: apt-get install libnginx-mod-http-echo")
            reply = b"echo_read_request_body; echo -n '%s';" % text
            module = f"load_module {ECHO};"
        mime = "application/json"
        if workload.grpc:
            mime = "application/grpc"
            reply += b" add_trailer grpc-status 0;"
        # In clear text it speaks either HTTP/1.1, in which it is asked whether it is ready, or HTTP/2.
        port, grpc_port = free_ports(2)
        paths = "\n".join(
            f"    {kind}_temp_path {folder / kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        head = f"""
{module}
worker_processes 1;
daemon off;
pid {folder / "nginx.pid"};
error_log {folder / "log"} error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type {mime};
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_buffer_size 16m;
{paths}
    geo $dollar {{ default "$"; }}
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{grpc_port} http2;
        location = /ready {{ return 200 ''; }}
        location = {workload.path} {{ """
        file = folder / "nginx.conf"
        file.write_bytes(head.encode() + reply + b" }\n    }\n}\n")
        command = [nginx, "-p", str(folder), "-c", str(file)]
        return Launch(command, port, ("/ready",), grpc_port=grpc_port)

    return prepare


def sides(workload: Workload) -> dict[str, Side]:
    """Everybody who can be asked for this workload, the floor included."""
    ours, theirs = _our_python, _reference_python
    both = ("mlserver", "mlserver-sklearn", "msgspec", "orjson")
    every = (
        Side(OURS, "this project, no workers", _mlserver(ours, 0, hard_stop=False), ours, both),
        Side("ours-1w", "this project, one worker", _mlserver(ours, 1, hard_stop=False), ours, both),
        Side("ours-2w", "this project, two workers", _mlserver(ours, 2, hard_stop=False), ours, both),
        # After load it was seen not to leave on SIGTERM.
        Side(REFERENCE, "MLServer, no workers", _mlserver(theirs, 0, hard_stop=True), theirs, both),
        Side("mlserver-1w", "MLServer, one worker", _mlserver(theirs, 1, hard_stop=True), theirs, both),
        Side("mlserver-2w", "MLServer, two workers", _mlserver(theirs, 2, hard_stop=True), theirs, both),
        Side(
            "triton", "Triton, python backend", _triton, lambda: _peer("triton").python, ("nvidia-pytriton",)
        ),
        Side(
            "mosec",
            "mosec, one worker",
            _script(
                "mosec", "/", lambda port: ["--address=127.0.0.1", f"--port={port}", "--log-level=warning"]
            ),
            lambda: _peer("mosec").python,
            ("mosec",),
        ),
        Side(
            "litserve",
            "LitServe, one worker",
            _script("litserve", "/health", lambda port: [str(port)]),
            lambda: _peer("litserve").python,
            ("litserve",),
        ),
        Side(FLOOR, "nginx, fixed reply", _nginx(workload)),
    )
    return {side.name: side for side in every}


# --- asking and measuring -------------------------------------------------------------------------------


def ask(connection: http.client.HTTPConnection, workload: Workload) -> float:
    connection.request("POST", workload.path, workload.body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read()
    if response.status != http.HTTPStatus.OK:
        raise RunFailed(f"answered {response.status}: {text[:300].decode(errors='replace')}")
    try:
        data: Any = json.loads(text)["outputs"][0]["data"]
        while isinstance(data, list):
            (data,) = data
        return float(data)
    except (ValueError, LookupError, TypeError) as error:
        raise RunFailed(f"answered nonsense: {text[:300].decode(errors='replace')}") from error


def post_in_turn(
    url: str, bodies: Sequence[bytes], connections: int, seconds: float
) -> tuple[float, float, float]:
    """Load of different bodies, none with a line break in it, one after the other: requests per second, and
    the latency in ms that half of them and 99 of 100 keep below.
    """
    with tempfile.NamedTemporaryFile("wb", prefix="bench-bodies-") as file:
        file.write(b"\n".join(bodies))
        file.flush()
        command = [tool("wrk"), "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "--timeout", "10s"]
        command += ["-s", str(peers.SERVED / "texts.lua"), url]
        environment = {"BENCH_BODIES": file.name, "PATH": peers.SEARCH}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds + 60, env=environment
        )
    result = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if done.returncode or result is None:
        raise RunFailed(f"wrk failed: {(done.stdout + done.stderr)[-300:]}")
    requests, micros, failed, p50, p99 = map(int, result.split()[1:])
    if failed or not requests:
        raise RunFailed(f"{failed} errors in {requests} requests")
    return requests / micros * 1e6, p50 / 1e3, p99 / 1e3


def check(server: Server, workload: Workload) -> None:
    """One real request, judged by its value."""
    with server.connect() as connection:
        try:
            value = ask(connection, workload)
        except (OSError, http.client.HTTPException) as error:
            raise RunFailed(f"did not answer: {error!r}") from error
    if not math.isclose(value, workload.expected, rel_tol=1e-4):
        raise RunFailed(f"answered {value}, not {workload.expected}")


@dataclass(frozen=True)
class Measured:
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_seconds_per_1000: float
    resident_mb: float


def load(server: Server, workload: Workload, connections: int, seconds: int) -> Measured:
    """`wrk` for some seconds; an error, or a wrong answer before or after, makes it a failed run."""
    check(server, workload)
    with tempfile.NamedTemporaryFile(prefix="bench-body-") as body:
        body.write(workload.body)
        body.flush()
        command = [tool("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency"]
        command += ["-s", str(peers.SERVED / "post.lua"), server.url + workload.path]
        before = server.cpu_seconds()
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds + 60,
                env={"BENCH_BODY": body.name, "PATH": peers.SEARCH},
            )
        except subprocess.TimeoutExpired as error:
            raise RunFailed(f"wrk did not end: {error}") from error
        cpu = server.cpu_seconds() - before
    result = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if done.returncode or result is None:
        raise RunFailed(f"wrk failed with status {done.returncode}: {(done.stdout + done.stderr)[-300:]}")
    requests, micros, _, *failures, p50, p99 = map(int, result.split()[1:])
    if sum(failures) or not requests:
        kinds = dict(zip(("connect", "read", "write", "status", "timeout"), failures, strict=True))
        raise RunFailed(f"errors in {requests} requests: {kinds}")
    resident = server.resident() / 1e6
    check(server, workload)
    return Measured(
        requests_per_second=requests / micros * 1e6,
        p50_ms=p50 / 1e3,
        p99_ms=p99 / 1e3,
        errors=sum(failures),
        cpu_seconds_per_1000=cpu / requests * 1e3,
        resident_mb=resident,
    )


@dataclass(frozen=True)
class Run:
    side: str
    workload: str
    connections: int
    streams: int | None
    round: int
    measured: Measured | None
    failure: str | None = None

    @property
    def point(self) -> Point:
        return Point(self.connections, self.streams)


def available(names: Iterable[str], workload: Workload) -> list[Side]:
    """Those of the named sides that can run here; the others are named with the reason."""
    found = []
    every = sides(workload)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="bench-probe-") as folder:
            try:
                launch = every[name].prepare(Path(folder), workload.model)
                if workload.grpc and launch.grpc_port is None:
                    raise Unavailable("it speaks no gRPC")
                found.append(every[name])
            except Unavailable as error:
                print(f"left out: {name}, {error}", file=sys.stderr)
    return found


def turn_by_turn(items: Sequence[T], round_: int) -> list[T]:
    """Everybody gets to be first."""
    start = round_ % len(items) if items else 0
    return [*items[start:], *items[:start]]


def compare(
    workloads: Sequence[Workload], names: Sequence[str], points: Sequence[Point], seconds: int, rounds: int
) -> list[Run]:
    """Every side on every workload, one after another, again and again; one server alive at a time."""
    runs: list[Run] = []
    for round_ in range(rounds):
        for workload in workloads:
            everybody = sides(workload)
            for name in turn_by_turn(names, round_):
                runs += _one(everybody[name], workload, points, seconds, round_)
    return runs


def _one(side: Side, workload: Workload, points: Sequence[Point], seconds: int, round_: int) -> Iterator[Run]:
    left = list(points)
    busiest = max(points, key=lambda point: point.in_flight)
    try:
        with running(side, workload.model) as server:
            workload.load(server, replace(busiest, connections=min(8, busiest.connections)), 1)
            while left:
                measured = workload.load(server, left[0], seconds)
                speed = f"{measured.requests_per_second:,.0f} requests/s with {left[0]}"
                progress(f"{side.name}, {workload.label}, round {round_ + 1}: {speed}")
                yield Run(side.name, workload.label, **asdict(left.pop(0)), round=round_, measured=measured)
    except RunFailed as error:
        progress(f"{side.name}, {workload.label}, round {round_ + 1}: FAILED, {error}")
        for point in left:
            yield Run(
                side.name, workload.label, **asdict(point), round=round_, measured=None, failure=str(error)
            )


def progress(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


# --- reports --------------------------------------------------------------------------------------------


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Medians over the rounds for each side, workload and point, and ratios to the peers."""
    rows = []
    for workload, point in dict.fromkeys((run.workload, run.point) for run in runs):
        here = [run for run in runs if (run.workload, run.point) == (workload, point)]
        medians: dict[str, dict[str, Any]] = {}
        for name in dict.fromkeys(run.side for run in here):
            good = [asdict(run.measured) for run in here if run.side == name and run.measured]
            row: dict[str, Any] = {"side": name, "workload": workload, **asdict(point)}
            row["failed"] = sum(run.side == name and run.measured is None for run in here)
            if good:
                row |= {key: statistics.median(each[key] for each in good) for key in good[0]}
                speeds = [each["requests_per_second"] for each in good]
                row["spread"] = (max(speeds) - min(speeds)) / row["requests_per_second"]
            medians[name] = row
        for row in medians.values():
            for other in (REFERENCE, FLOOR):
                with suppress(KeyError):
                    ratio = row["requests_per_second"] / medians[other]["requests_per_second"]
                    row[f"times_{other}"] = ratio
        rows += list(medians.values())
    return rows


COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("requests/s", "requests_per_second", ",.0f"),
    ("spread", "spread", ".0%"),
    ("x mlserver", "times_mlserver", ".2f"),
    ("of floor", "times_floor", ".1%"),
    ("p50 ms", "p50_ms", ".2f"),
    ("p99 ms", "p99_ms", ".2f"),
    ("errors", "errors", ".0f"),
    ("cpu s/1000", "cpu_seconds_per_1000", ".3f"),
    ("rss MB", "resident_mb", ",.0f"),
)


def print_summary(rows: Sequence[dict[str, Any]]) -> None:
    def place(row: dict[str, Any]) -> tuple[str, Point]:
        return row["workload"], Point(row["connections"], row["streams"])

    for workload, point in dict.fromkeys(map(place, rows)):
        here = [row for row in rows if place(row) == (workload, point)]
        ranked = sorted(here, key=lambda row: -row.get("requests_per_second", 0))
        print_table(f"{workload}, {point}", COLUMNS, ranked)


def print_table(
    title: str, columns: Sequence[tuple[str, str, str]], rows: Sequence[dict[str, Any]], key: str = "side"
) -> None:
    """Markdown, so that it can be pasted into a document as it is."""
    lines = [[key, *(head for head, _, _ in columns)]]
    for row in rows:
        note = f" ({row['failed']} FAILED)" if row.get("failed") else ""
        lines.append([row[key] + note, *(_cell(row.get(name), form) for _, name, form in columns)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    print(f"\n{title}\n")
    for line in (lines[0], rule, *lines[1:]):
        first, *rest = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print(f"| {' | '.join([first.strip().ljust(widths[0]), *rest])} |")


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def machine() -> dict[str, Any]:
    model = "unknown processor"
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model
        )
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE / 2**30
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_at_start": os.getloadavg()[0],
        "project": _project_version(),
    }


def _project_version() -> str:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("mlserver")
    return "not installed"


def print_setting(
    about: dict[str, Any], names: Sequence[str], workload: Workload
) -> dict[str, dict[str, str]]:
    """Beside the figures: the machine, and who took part in which version."""
    print(
        f"{about['processor']}, {about['cores']} cores shared by the server and the load generator, "
        f"{about['memory_gib']} GiB, Linux {about['kernel']}, Python {about['python']}"
    )
    if about["load_average_at_start"] > 0.5 * about["cores"]:
        print(f"NOT QUIET: load average {about['load_average_at_start']:.1f} before the first run")
    versions = {}
    for side in available(names, workload):
        versions[side.name] = side.versions()
        listed = ", ".join(f"{name} {version}" for name, version in versions[side.name].items())
        print(f"{side.name}: {side.about}{'; ' * bool(listed)}{listed}", flush=True)
    return versions


# --- command line ---------------------------------------------------------------------------------------


def several(kind: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Argument type of a list with commas."""
    return lambda text: [kind(each) for each in text.split(",")]


def arguments(
    about: str | None,
    *,
    sides: Sequence[str],
    rounds: int,
    points: Sequence[Point] = (),
    duration: int = 0,
) -> argparse.ArgumentParser:
    def side(text: str) -> str:
        if text not in KNOWN:
            raise argparse.ArgumentTypeError(f"no side {text}; there are {', '.join(KNOWN)}")
        return text

    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(
        "--sides", type=several(side), default=list(sides), metavar="A,B", help=f"of {', '.join(KNOWN)}"
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure there")
    parser.add_argument("--quick", action="store_true", help="one short round: does it work?")
    if points:
        streams = points[0].streams is not None
        parser.add_argument(
            "--points" if streams else "--connections",
            dest="points",
            type=several(Point.parse),
            default=list(points),
            metavar="CxS,CxS" if streams else "N,N",
            help="connections x streams on each" if streams else "how many at a time",
        )
        parser.add_argument("--duration", type=int, default=duration, metavar="SECONDS")
    return parser


KNOWN = tuple(sides(IRIS))


def load_benchmark(
    parser: argparse.ArgumentParser, workloads: Callable[[argparse.Namespace], list[Workload]]
) -> int:
    """The whole of a benchmark under load: set up, compare, report."""
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.duration = 1, 2
    asked = workloads(chosen)
    about = machine()
    tool(asked[0].generator)
    versions = print_setting(about, chosen.sides, asked[0])
    runs = compare(asked, list(versions), chosen.points, chosen.duration, chosen.rounds)
    rows = summarise(runs)
    print_summary(rows)
    points = [asdict(point) for point in chosen.points]
    method = {"rounds": chosen.rounds, "seconds": chosen.duration, "points": points}
    record = {"machine": about, "versions": versions, "method": method}
    write(chosen.json, record | {"summary": rows, "runs": [asdict(run) for run in runs]})
    return 1 if any(run.measured is None for run in runs) else 0


def write(file: Path | None, record: dict[str, Any]) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=1) + "\n")


def run(main: Callable[[], int]) -> None:
    """Call `main` so that Ctrl-C and SIGTERM stop the servers too."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    signal.signal(signal.SIGTERM, interrupt)
    try:
        status = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except Unavailable as error:
        print(error, file=sys.stderr)
        status = 2
    except Exception:
        traceback.print_exc()
        status = 1
    sys.exit(status)
