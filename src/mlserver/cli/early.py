"""What `mlserver start` does before it imports what serving needs.

Reading settings takes imports that last as long as those of a worker do, so the workers that are likely to be
wanted begin first. What is looked at here decides nothing: a worker that begins on a wrong guess is ended,
see `mlserver.parallel.launch`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from mlserver.parallel.launch import launch_early, own_variables, thread_variables

__all__ = ["begin_workers", "ending_at_once", "likely_workers", "open_standard_streams"]


def open_standard_streams() -> None:
    """Let no socket get the number of a standard stream that is closed: what is printed would go there."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let signals end this process while it imports: exceptions may get lost there, and as the first process
    of a container it would not notice a signal that nobody handles. There is nothing to clean up yet.
    """

    def end(number: int, frame: object) -> NoReturn:
        os._exit(128 + number)  # as shells tell it

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def begin_workers(folder: str) -> None:
    """Begin with the workers that `mlserver start FOLDER` is likely to want."""
    count = likely_workers(folder)
    environment = {**own_variables(), **thread_variables(count)}
    for _ in range(count):
        launch_early(sys.executable, environment)


def likely_workers(path: str) -> int:
    """Workers of the default pool; 0 where that is not easily told."""
    if os.path.exists(".env") or not os.path.exists(path):
        return 0
    if any(name in os.environ for name in ("MLSERVER_COPY_ON_WRITE", "MLSERVER_WORKER_GPUS")):
        return 0
    content: Any = {}
    file = os.path.join(path if os.path.isdir(path) else os.path.dirname(path), "settings.json")
    try:
        if os.path.isfile(file):
            with open(file, encoding="utf-8-sig") as opened:
                content = json.load(opened)
        if content.get("copy_on_write") or content.get("worker_gpus"):
            return 0
        return int(content.get("parallel_workers", os.environ.get("MLSERVER_PARALLEL_WORKERS", 1)))
    except Exception:  # whatever it is, reading the settings will say it better
        return 0
