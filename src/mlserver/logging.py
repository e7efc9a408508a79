"""Log lines of the server and of models: one logger, one handler, one format.

The logger `mlserver` writes to standard output. Where code of a user configures logging as well, its handlers
get the same records, except those that write to the console: each line is printed once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

from mlserver.context import model_name_var, model_version_var, request_id_var

if TYPE_CHECKING:
    from mlserver.settings import Settings

__all__ = [
    "LoggerName",
    "ModelLoggerFormatter",
    "apply_logging_file",
    "configure_logger",
    "get_logger",
    "logger",
]

LoggerName = "mlserver"
STREAM_HANDLER_NAME = "stdout_stream_handler"

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:
    _StreamHandler = logging.StreamHandler

_CONTEXT: tuple[tuple[str, ContextVar[str]], ...] = (
    ("model_name", model_name_var),
    ("model_version", model_version_var),
    ("request_id", request_id_var),
)


def _of_record(record: logging.LogRecord) -> dict[str, str]:
    """Model, version and request of a record: what it says itself, else what the running code belongs to."""
    found = {}
    for name, var in _CONTEXT:
        value = getattr(record, name, None) or var.get("")
        if value:
            found[name] = str(value)
    return found


def _add_context(record: logging.LogRecord) -> bool:
    # On the record, for formatters of users. Not by a record factory: `extra={"model_name": ...}` would then
    # be an error.
    record.__dict__.update(_of_record(record))
    return True


class ModelLoggerFormatter(logging.Formatter):
    """`<time> [<logger>][<model>:<version>] <LEVEL> - <message>`; with structured logging, JSON objects.

    The model is left out of records that belong to none, the version where the model has none.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__()
        self.structured = settings is not None and settings.use_structured_logging

    def format(self, record: logging.LogRecord) -> str:
        return self._format_json(record) if self.structured else super().format(record)

    def usesTime(self) -> bool:  # noqa: N802
        return True

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line without traceback, which `logging.Formatter` appends."""
        context = _of_record(record)
        model = context.get("model_name", "")
        if model:
            version = context.get("model_version", "")
            model = f"[{model}:{version}]" if version else f"[{model}]"
        return f"{record.asctime} [{record.name}]{model} {record.levelname} - {record.message}"

    def _format_json(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record),
            "name": record.name,
            "level": record.levelname,
            "message": record.getMessage(),
            **_of_record(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line)


class _StdoutHandler(_StreamHandler):
    """Writes to what `sys.stdout` is when a record comes, not to what it was when logging was configured."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout


class _Relay(logging.Handler):
    """Passes records on to the root logger's handlers; not to the console, where they are already."""

    def emit(self, record: logging.LogRecord) -> None:
        printed = any(isinstance(handler, _StdoutHandler) for handler in logger.handlers)
        for handler in logging.root.handlers:
            if record.levelno >= handler.level and not (printed and _is_console(handler)):
                handler.handle(record)


def _is_console(handler: logging.Handler) -> bool:
    if not isinstance(handler, logging.StreamHandler):
        return False
    if handler.stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        return True
    try:
        return handler.stream.fileno() in (1, 2)
    except (AttributeError, OSError, ValueError):
        return False


def get_logger() -> logging.Logger:
    """The logger `mlserver`. Loggers below it, such as `mlserver.rest`, print through its handler."""
    return logging.getLogger(LoggerName)


logger = get_logger()


def configure_logger(settings: Settings | None = None) -> logging.Logger:
    """Let `mlserver` log to standard output, at level INFO, or DEBUG when `settings.debug`.

    May be called again. Raises what `apply_logging_file` raises.
    """
    handler = next((h for h in logger.handlers if h.get_name() == STREAM_HANDLER_NAME), None)
    if handler is not None and settings is None:
        return logger
    if handler is None:
        handler = _StdoutHandler()
        handler.set_name(STREAM_HANDLER_NAME)
        handler.addFilter(_add_context)
        logger.addHandler(handler)
    handler.setFormatter(ModelLoggerFormatter(settings))
    logger.setLevel(logging.DEBUG if settings is not None and settings.debug else logging.INFO)
    logger.parent = _relay
    if settings is not None and settings.logging_settings:
        apply_logging_file(settings.logging_settings)
    return logger


# Stands between `mlserver` and the root logger. Plain `propagate = False` would also cut off the handlers of
# users that do something other than printing: files, collectors of errors, tests.
_relay = logging.Logger("mlserver-relay")
_relay.propagate = False
_relay.addHandler(_Relay())


def apply_logging_file(logging_settings: str | dict[str, Any]) -> None:
    """Configure logging from a dict, the path of a JSON file that holds one, or the path of an ini file.

    Raises OSError for a file that cannot be read, and ValueError (or another error of `logging.config`) for
    content that is no logging configuration.
    """
    import logging.config

    if isinstance(logging_settings, dict):
        config = logging_settings
    else:
        with open(logging_settings, encoding="utf-8") as file:
            if os.path.splitext(logging_settings)[1] != ".json":
                logging.config.fileConfig(file, disable_existing_loggers=False)
                return
            config = json.load(file)
    # Python's own default would silence the server wherever the configuration does not name its loggers.
    logging.config.dictConfig({"disable_existing_loggers": False, **config})
