"""Worker processes as they begin, some of them early.

`mlserver start` imports for a while before it knows its settings, and a worker imports for as long before it
can use any. So a start begins with the workers that it is likely to want, and a pool takes those that began
just as its own would have: the same interpreter, the same environment. Importing this is cheap.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

__all__ = [
    "ARENA_SIZE",
    "Link",
    "cpu_limit",
    "end_unused",
    "end_with_the_front",
    "launch",
    "launch_early",
    "nameless_file",
    "own_variables",
    "run",
    "spawn",
    "thread_variables",
]

# Bytes of address space that each side can share with the other; memory is used as blocks are.
ARENA_SIZE = 1 << 30
# Set for a process that is not to import from the current folder.
_SAFE_PATH = "PYTHONSAFEPATH"
# The folder that this package is in.
_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# From <sys/prctl.h>
_PR_SET_PDEATHSIG = 1
# What a terminal, or who stops a container, sends to all processes.
_OF_TERMINALS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGQUIT") if hasattr(signal, name)}
# What math libraries read to know how many threads they may start.
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


class Link:
    """What the front and a worker talk through, as the front has it: one end of a socket, shared memory.

    requests, replies: descriptors of the memory that the front, and the worker, writes; -1 where there is
    none, `failure` says why.
    """

    def __init__(self) -> None:
        self.failure: OSError | None = None
        self.requests = self.replies = -1
        self.socket, self._theirs = socket.socketpair()
        try:
            self.requests = nameless_file()
            self.replies = nameless_file()
        except OSError as exc:
            self.failure = exc

    @property
    def theirs(self) -> tuple[int, int, int]:
        """Descriptors for the worker: as the arguments of `mlserver.parallel.host`."""
        return self._theirs.fileno(), self.replies, self.requests

    def close_theirs(self) -> None:
        """Once the worker has it."""
        self._theirs.close()

    def close(self) -> None:
        self.socket.close()
        self._theirs.close()
        for descriptor in (self.requests, self.replies):
            if descriptor >= 0:
                os.close(descriptor)


Started = tuple[subprocess.Popen[bytes], Link]

# By what has to be the same: interpreter, environment, working directory.
_early: list[tuple[tuple[str, dict[str, str], str], Started]] = []


def launch(python: str, environment: dict[str, str]) -> Started:
    """A worker process: one that began early, if there is one like that, or a new one. Raises OSError.

    A worker ends when the thread ends that called this.
    """
    wanted = (python, environment, _here())
    for candidate in _early:
        if candidate[0] == wanted:
            _early.remove(candidate)
            return candidate[1]
    return _start(python, environment)


def launch_early(python: str, environment: dict[str, str]) -> None:
    """Begin with a worker that `launch` may want soon."""
    try:
        _early.append(((python, environment, _here()), _start(python, environment)))
    except OSError:
        pass  # whoever really wants one is told


def _here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed
        return ""


def end_unused() -> None:
    """End the workers that were started early and not asked for: there will be no use for them."""
    unused = [started for _, started in _early]
    _early.clear()
    for process, link in unused:
        process.kill()
        link.close()
    for process, _ in unused:
        process.wait()


def _start(python: str, environment: dict[str, str]) -> Started:
    link = Link()
    try:
        process = spawn(python, "mlserver.parallel.host", link.theirs, environment)
    except BaseException:
        link.close()
        raise
    link.close_theirs()
    return process, link


def spawn(
    python: str, module: str, descriptors: Sequence[int], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Run the function `main` of a module of ours in a process that ends with this thread. Raises OSError.

    descriptors: what it inherits, and is told as arguments. Unlike `python -m` it imports nothing from the
    current folder, where the model of a stranger may lie, unless it is told to later.
    """
    # Python 3.13 imports before it runs this, and 3.10 does not know the variable.
    code = "import os, sys; sys.path = [entry for entry in sys.path if entry]; "
    if _SAFE_PATH not in environment:
        environment = {**environment, _SAFE_PATH: "1"}
        code += f"del os.environ[{_SAFE_PATH!r}]; "  # processes that a model starts are its own business
    if python == sys.executable:
        # This very package, also where it is not installed.
        code += f"{_PACKAGES!r} in sys.path or sys.path.insert(0, {_PACKAGES!r}); "
    code += f"from mlserver.parallel.launch import run; run({module!r})"
    # What a terminal sends waits until the process ignores it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_TERMINALS)
    try:
        return subprocess.Popen(
            [python, "-c", code, *map(str, descriptors)],
            pass_fds=[descriptor for descriptor in descriptors if descriptor >= 0],
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run(module: str) -> None:
    """What `spawn` wants the process to do."""
    end_with_the_front()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_TERMINALS)
    importlib.import_module(module).main()


def end_with_the_front() -> None:
    """Signals of a terminal are for the front, and whoever started this process takes it along."""
    for number in _OF_TERMINALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        import ctypes

        # The socket tells as well, but only a process that listens.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def nameless_file(size: int = ARENA_SIZE) -> int:
    """A descriptor of a file of zeros that is nowhere to be found. Raises OSError."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("mlserver", os.MFD_CLOEXEC)
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def own_variables() -> dict[str, str]:
    """The environment variables of this process for its workers, which are told later where metrics go."""
    return {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}


def thread_variables(workers: int) -> dict[str, str]:
    """Threads of math libraries, unless somebody set them: the processors that there are, shared out."""
    threads = max(1, int(cpu_limit() // max(1, workers)))
    return {name: str(threads) for name in _THREADS if name not in os.environ}


def cpu_limit() -> float:
    """Processors that this process may use: by its affinity, and by the limit of its container."""
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count, float(quota) / float(period))
    except (OSError, ValueError):
        pass
    return count
