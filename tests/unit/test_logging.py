from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlserver.context import model_context, request_id_var
from mlserver.logging import LoggerName, configure_logger, get_logger, logger
from mlserver.settings import ModelParameters, ModelSettings, Settings

PLAIN = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (.*)$")


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Each test starts with a logger that nobody configured, and leaves none that others would see."""
    root = logging.getLogger()
    before = (logger.handlers[:], logger.level, logger.parent, root.handlers[:], root.level)
    logger.handlers[:] = []
    logger.setLevel(logging.NOTSET)
    logger.parent = root
    logger.propagate = True
    yield
    for handler in logger.handlers + root.handlers:
        if handler not in before[0] + before[3]:
            handler.close()
    logger.handlers[:], level, logger.parent, root.handlers[:], root_level = before
    logger.setLevel(level)
    root.setLevel(root_level)
    logger.propagate, logger.disabled = True, False


def model(name: str, version: str | None = None) -> ModelSettings:
    return ModelSettings(implementation="a.B", name=name, parameters=ModelParameters(version=version))


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out.splitlines()


def test_the_logger() -> None:
    assert LoggerName == "mlserver"
    assert logger is get_logger() is logging.getLogger("mlserver")
    assert configure_logger() is logger


def test_configuring_twice_adds_one_handler() -> None:
    for settings in (None, Settings(), Settings(debug=True), None):
        configure_logger(settings)
    assert [handler.get_name() for handler in logger.handlers] == ["stdout_stream_handler"]
    assert logger.level == logging.DEBUG


@pytest.mark.parametrize(("debug", "level"), [(False, logging.INFO), (True, logging.DEBUG)])
def test_level(debug: bool, level: int, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logger(Settings(debug=debug))
    assert logger.level == level
    logger.debug("seen?")
    assert len(lines(capsys)) == int(debug)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("mlserver", None, "[mlserver] INFO - hello world"),
        ("mlserver", model("m"), "[mlserver][m] INFO - hello world"),
        ("mlserver", model("m", "v1"), "[mlserver][m:v1] INFO - hello world"),
        ("mlserver.rest", model("m", "v1"), "[mlserver.rest][m:v1] INFO - hello world"),
    ],
)
def test_plain_lines(
    name: str, settings: ModelSettings | None, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logger(Settings())
    if settings is None:
        logging.getLogger(name).info("hello %s", "world")
    else:
        with model_context(settings):
            logging.getLogger(name).info("hello %s", "world")
    (line,) = lines(capsys)
    match = PLAIN.match(line)
    assert match
    assert match[1] == expected


def test_plain_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logger(Settings())
    try:
        raise KeyError("x")
    except KeyError:
        logger.exception("failed")
    printed = lines(capsys)
    assert printed[0].endswith("[mlserver] ERROR - failed")
    assert printed[-1] == "KeyError: 'x'"


def test_structured_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logger(Settings(use_structured_logging=True))
    logger.info("outside")
    with model_context(model("m", "v1")):
        token = request_id_var.set("id-1")
        logging.getLogger("mlserver.rest").warning("inside")
        request_id_var.reset(token)
    with model_context(model("m")):
        logger.info("no version")
    outside, inside, no_version = map(json.loads, lines(capsys))
    assert list(outside) == ["time", "name", "level", "message"]
    assert PLAIN.match(outside.pop("time") + " ")
    assert outside == {"name": "mlserver", "level": "INFO", "message": "outside"}
    assert list(inside)[4:] == ["model_name", "model_version", "request_id"]
    del inside["time"]
    assert inside == {
        "name": "mlserver.rest",
        "level": "WARNING",
        "message": "inside",
        "model_name": "m",
        "model_version": "v1",
        "request_id": "id-1",
    }
    assert no_version["model_name"] == "m"
    assert "model_version" not in no_version


@pytest.mark.parametrize(
    "message",
    [
        'a "quote"',
        "two\nlines",
        "back\\slash",
        "tab\t",
        "\x00\x1b[31m",
        "größer 漢字",
        "\ud800",
        "{}",
        "100%",
    ],
)
def test_structured_lines_escape(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logger(Settings(use_structured_logging=True))
    logger.info(message)
    (line,) = lines(capsys)
    assert json.loads(line)["message"] == message


def test_structured_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logger(Settings(use_structured_logging=True))
    try:
        raise KeyError('a "quoted"\nkey')
    except KeyError:
        logger.exception("failed", stack_info=True)
    (line,) = lines(capsys)
    parsed = json.loads(line)
    assert parsed["message"] == "failed"
    assert parsed["exception"].startswith("Traceback (most recent call last):\n")
    assert "test_structured_tracebacks" in parsed["stack"]


def test_records_carry_their_context() -> None:
    configure_logger(Settings())
    handler = logger.handlers[0]
    seen: list[logging.LogRecord] = []
    handler.addFilter(lambda record: bool(seen.append(record)) or True)  # type: ignore[func-returns-value]
    with model_context(model("m", "v1")):
        logger.info("context")
        logger.info("own", extra={"model_name": "of-caller", "request_id": "r"})
    first, second = seen
    assert (first.model_name, first.model_version) == ("m", "v1")  # type: ignore[attr-defined]
    assert not hasattr(first, "request_id")
    assert (second.model_name, second.request_id) == ("of-caller", "r")  # type: ignore[attr-defined]


def test_the_format_can_change(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logger(Settings())
    configure_logger(Settings(use_structured_logging=True))
    configure_logger()
    logger.info("x")
    assert json.loads(lines(capsys)[0])["message"] == "x"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("first", [True, False])
def test_a_root_handler_on_the_console_doubles_nothing(
    stream: str, first: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if first:
        configure_logger(Settings())
    logging.basicConfig(level=logging.INFO, stream=getattr(sys, stream), force=True)
    if not first:
        configure_logger(Settings())
    logger.info("once")
    logging.getLogger("mlserver.rest").info("once")
    assert len(lines(capsys)) == 2


def test_other_handlers_get_every_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    configure_logger(Settings())
    file = logging.FileHandler(tmp_path / "log")
    file.setLevel(logging.WARNING)
    logging.getLogger().addHandler(file)
    logger.info("information")
    logging.getLogger("mlserver.rest").warning("warning")
    file.close()
    assert (tmp_path / "log").read_text() == "warning\n"
    assert len(lines(capsys)) == 2
    assert caplog.messages == ["information", "warning"]


def test_user_loggers_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logger(Settings())
    root = io.StringIO()
    logging.getLogger().addHandler(logging.StreamHandler(root))
    logging.getLogger("mine").warning("mine")
    assert root.getvalue() == "mine\n"
    assert lines(capsys) == []


# logging_settings

FORMATS: dict[str, Any] = {
    "version": 1,
    "formatters": {"short": {"format": "%(levelname)s:%(message)s"}},
    "handlers": {
        "out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "short"}
    },
}
INI = """
[loggers]
keys=root,mlserver
[handlers]
keys=out
[formatters]
keys=short
[logger_root]
handlers=
[logger_mlserver]
level=WARNING
qualname=mlserver
propagate=0
handlers=out
[handler_out]
class=StreamHandler
args=(sys.stdout,)
formatter=short
[formatter_short]
format=%(levelname)s:%(message)s
"""


@pytest.mark.parametrize("kind", ["dict", "json", "ini"])
def test_logging_settings(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    existing = logging.getLogger("existing")
    config = {
        **FORMATS,
        "loggers": {"mlserver": {"level": "WARNING", "handlers": ["out"], "propagate": False}},
    }
    (tmp_path / "log.json").write_text(json.dumps(config))
    (tmp_path / "log.ini").write_text(INI)
    value: Any = config if kind == "dict" else str(tmp_path / f"log.{kind}")
    configure_logger(Settings(logging_settings=value))
    logger.info("unseen")
    logging.getLogger("mlserver.rest").warning("seen")
    assert lines(capsys) == ["WARNING:seen"]
    assert not existing.disabled


def test_logging_settings_that_leave_the_server_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logger(Settings(logging_settings={**FORMATS, "root": {"handlers": ["out"], "level": "INFO"}}))
    logger.info("once")
    assert len(lines(capsys)) == 1
    logging.getLogger("other").warning("theirs")
    assert lines(capsys) == ["WARNING:theirs"]


def test_logging_settings_without_a_handler_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        **FORMATS,
        "root": {"handlers": ["out"], "level": "INFO"},
        "loggers": {"mlserver": {"level": "INFO"}},
    }
    configure_logger(Settings(logging_settings=config))
    logger.info("theirs")
    assert lines(capsys) == ["INFO:theirs"]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"version": 2}, ValueError),
        ({"handlers": {}}, ValueError),
        ("none.json", OSError),
        ("none.ini", OSError),
        ("broken.json", ValueError),
        ("broken.ini", Exception),
    ],
)
def test_unusable_logging_settings(
    value: Any, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.ini").write_text("[loggers]\nkeys=nothing\n")
    with pytest.raises(error):
        configure_logger(Settings.model_validate({"logging_settings": value}))
