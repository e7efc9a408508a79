"""The one Spark session of a process: started with the first model, ended with the last."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyspark import SparkContext
from pyspark.sql import SparkSession

from mlserver.errors import MLServerError
from mlserver.logging import logger

__all__ = ["acquire", "release"]

_LOG_SETTINGS = Path(__file__).with_name("log4j2.properties")
_LOCALHOST = "127.0.0.1"
# All of Spark in this process's own JVM, reachable by nobody else, and quiet. Small plans on small data:
# neither shuffles nor code generation for single queries pay.
_DEFAULTS = {
    "spark.master": "local[*]",
    "spark.app.name": "mlserver",
    "spark.driver.host": _LOCALHOST,
    "spark.driver.bindAddress": _LOCALHOST,
    "spark.driver.memory": "1g",
    "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={_LOG_SETTINGS.as_uri()}",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}

_lock = threading.Lock()
_users = 0
_started: Any = None  # the session, where it is ours to end


def acquire(conf: Mapping[str, Any]) -> SparkSession:
    """The session, for a model that calls `release` in the end. conf: settings of Spark, if it starts now."""
    global _users, _started
    with _lock:
        session = SparkSession.getActiveSession() or _running()
        if session is None:
            session = _started = _start(conf)
        else:
            _say_what_is_ignored(session, conf)
        _users += 1
        return session


def release() -> None:
    """A model needs the session no longer. The last one ends it and its JVM, whose memory goes back."""
    global _users, _started
    with _lock:
        _users -= 1
        if _users or _started is None:
            return
        _started.stop()
        _started = None
        _end_jvm()


def _running() -> SparkSession | None:
    running = SparkContext._active_spark_context is not None
    return SparkSession.builder.getOrCreate() if running else None


def _start(conf: Mapping[str, Any]) -> SparkSession:
    os.environ.setdefault("SPARK_LOCAL_IP", _LOCALHOST)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    # pyspark says so for each frame; what is used here does not go through pandas.
    warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas")
    builder = SparkSession.builder
    for key, value in {**_DEFAULTS, **conf}.items():
        builder = builder.config(key, _text(value))
    try:
        return builder.getOrCreate()
    except Exception as exc:
        raise MLServerError(f"Spark cannot be started, which needs Java 17 or later: {exc}", 500) from exc


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _say_what_is_ignored(session: SparkSession, conf: Mapping[str, Any]) -> None:
    for key, value in conf.items():
        if session.conf.get(key, None) != _text(value):
            logger.warning("%s=%s is ignored: Spark runs in this process already", key, value)


def _end_jvm() -> None:
    """`stop` leaves the JVM, for a next session; here it is the larger part of what a model takes."""
    gateway: Any = SparkContext._gateway
    if gateway is None:
        return
    SparkContext._gateway = SparkContext._jvm = None
    gateway.shutdown()
    process = getattr(gateway, "proc", None)
    if process is not None:
        process.stdin.close()  # what it takes as the end of its parent
        process.wait()
