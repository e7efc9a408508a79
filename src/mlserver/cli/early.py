"""The workers that a start is likely to want, begun before its settings can be read.

Reading settings takes imports that last as long as those of a worker do. What is looked at here decides
nothing: a worker that begins on a wrong guess is ended, see `mlserver.parallel.launch`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from mlserver.parallel.launch import launch_early, own_variables, thread_variables

__all__ = ["begin_workers", "likely_workers"]


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
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    content: Any = {}
    try:
        with open(os.path.join(folder, "settings.json"), encoding="utf-8-sig") as file:
            content = json.load(file)
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        return 0
    if not isinstance(content, dict) or content.get("copy_on_write") or content.get("worker_gpus"):
        return 0
    workers = content.get("parallel_workers", os.environ.get("MLSERVER_PARALLEL_WORKERS", 1))
    try:
        return int(workers)
    except (TypeError, ValueError):
        return 0
