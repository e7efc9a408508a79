"""What a scrape shows, and the folder in which worker processes leave their metrics.

The request series live in the main process. Custom metrics live where the models run: without workers, in the
registries of this process; with workers, in files that all processes map into memory, which a scrape adds up.
"""

from __future__ import annotations

import atexit
import functools
import glob
import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from mlserver.logging import logger

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from prometheus_client import Metric

    from mlserver.settings import Settings

__all__ = ["configure_metrics", "process_stopped", "release_metrics", "scrape"]

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

# Held, and locked, for as long as this process uses the folder; by folder.
_locks: dict[str, int] = {}
# Every folder that this process ever kept metrics in.
_used: set[str] = set()


class Collector(Protocol):
    def collect(self) -> Iterable[Metric]: ...


def scrape(*collectors: Collector) -> tuple[bytes, str]:
    """All metrics as text for Prometheus, and the content type of that text.

    collectors: sources besides the registries, such as the server's `RequestMetrics`. Of metrics with the
    same name the first is shown: those of `collectors`, then those of users, in `prometheus_client.REGISTRY`
    and in ours.
    """
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    merged: Any = _Merged((*collectors, *_registries()))
    return generate_latest(merged), CONTENT_TYPE_LATEST


class _Merged:
    def __init__(self, sources: tuple[Collector, ...]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        seen: set[str] = set()
        for source in self._sources:
            for metric in source.collect():
                if metric.name not in seen:
                    seen.add(metric.name)
                    yield metric


def _registries() -> Iterator[Collector]:
    folder = os.environ.get(MULTIPROCESS_VARIABLE)
    if folder:
        yield _Files(folder)
    else:
        import prometheus_client

        from mlserver.metrics.registry import REGISTRY

        yield prometheus_client.REGISTRY
        yield REGISTRY


class _Files:
    """Metrics that processes left in a folder. A folder that is missing holds none."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        from prometheus_client import multiprocess

        merge: Any = multiprocess.MultiProcessCollector.merge
        files = glob.glob(os.path.join(glob.escape(self._folder), "*.db"))
        try:
            metrics = merge(files, accumulate=True)
        except Exception:  # one of them is damaged; the series of the others are still worth a scrape
            metrics = merge([path for path in files if _is_readable(path, merge)], accumulate=True)
        yield from metrics


def _is_readable(path: str, merge: Any) -> bool:
    try:
        merge([path])
    except Exception as exc:
        logger.warning("Metrics in %s cannot be read: %s", path, exc)
        return False
    return True


def configure_metrics(settings: Settings, *, worker: bool = False) -> None:
    """Choose where custom metrics live. Call it before models load, in the main process and in each worker.

    worker: this process is a worker, whose main process has prepared the folder.
    Raises OSError when the folder of the metrics cannot be made.
    """
    if settings.metrics_endpoint and settings.parallel_workers > 0:
        folder = os.path.abspath(settings.metrics_dir)
        os.makedirs(folder, exist_ok=True)
        if not worker:
            _clear_leftovers(folder)
        os.environ[MULTIPROCESS_VARIABLE] = folder
    else:
        os.environ.pop(MULTIPROCESS_VARIABLE, None)
    values: Any = sys.modules.get("prometheus_client.values")
    if values is not None:  # it made its choice when it was imported
        values.ValueClass = values.get_value_class()


def _clear_leftovers(folder: str) -> None:
    """Remove what an earlier run left, so that totals start at 0; not what another server here is using."""
    if folder in _locks:
        return
    alone = True
    descriptor = -1
    if sys.platform != "win32":
        descriptor = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            alone = False
    _locks[folder] = descriptor
    # A crashed run may have had our pid, as containers start with the same ones. But once this process used
    # the folder, the files are mapped, and metrics that outlive a server go on counting in them.
    keep = os.getpid() if folder in _used else None
    _remove_files(folder, lambda pid: pid != keep and (alone or not _is_running(pid)))
    if folder not in _used:
        _used.add(folder)
        atexit.register(_remove_files, folder, functools.partial(operator.eq, os.getpid()))
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            pass  # another server starts this very moment


def _remove_files(folder: str, belongs: Callable[[int], bool]) -> None:
    """Remove the metric files of those processes for whose ids `belongs` is true."""
    for path in glob.glob(os.path.join(glob.escape(folder), "*.db")):
        pid = path[: -len(".db")].rpartition("_")[2]
        if pid.isdigit() and belongs(int(pid)):
            try:
                os.remove(path)
            except OSError:
                pass


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def process_stopped(pid: int) -> None:
    """A worker is gone: its gauges that tell about live processes go as well, its totals stay."""
    folder = os.environ.get(MULTIPROCESS_VARIABLE)
    if folder and glob.glob(os.path.join(glob.escape(folder), f"*_{pid}.db")):
        from prometheus_client import multiprocess

        untyped: Any = multiprocess
        untyped.mark_process_dead(pid, folder)


def release_metrics() -> None:
    """The server has stopped, and its workers with it: remove their metric files, keep the folder."""
    for folder, descriptor in list(_locks.items()):
        _remove_files(folder, lambda pid: not _is_running(pid))
        if descriptor >= 0:
            os.close(descriptor)
        del _locks[folder]
