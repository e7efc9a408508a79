"""Logging and metrics: failures that users of other servers met."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlserver.metrics import RequestMetrics

RUN = """
import asyncio, json, logging, sys
from mlserver.logging import configure_logger, logger
from mlserver.settings import Settings
configure_logger(Settings(use_structured_logging={structured}))
"""


def output(code: str, structured: bool = True, **environment: str) -> list[str]:
    """Lines that a process of its own prints to either stream."""
    return subprocess.run(
        [sys.executable, "-c", RUN.format(structured=structured) + code],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    ).stdout.splitlines()


def value(text: str, name: str) -> float:
    found = [s.value for f in text_string_to_metric_families(text) for s in f.samples if s.name == name]
    assert len(found) == 1, (name, found)
    return found[0]


CUSTOM = """
import subprocess
from prometheus_client import Counter
from mlserver.context import model_context
from mlserver.metrics import configure_metrics, log, register, scrape
from mlserver.settings import ModelSettings
configure_metrics(Settings(parallel_workers={workers}, metrics_dir={folder!r}), worker={worker})

def model(amount):
    predictions = Counter("predictions", "Counted by the runtime.")  # in load()
    register("latency_of_model", "Registered by the runtime.")
    with model_context(ModelSettings(implementation="a.B", name="m")):
        for _ in range(amount):  # in predict()
            predictions.inc()
            log(latency_of_model=0.5)
"""
IN_WORKERS = """
for amount in (2, 3):
    subprocess.run([sys.executable, "-c", {code!r} + f"model({{amount}})"], check=True)
"""


def test_r57_custom_metrics_with_and_without_workers(tmp_path: Path) -> None:
    folder = str(tmp_path / "metrics")
    of_worker = RUN.format(structured=True) + CUSTOM.format(workers=2, folder=folder, worker=True)
    shown = []
    for workers, count in [(0, "model(5)\n"), (2, IN_WORKERS.format(code=of_worker))]:
        server = CUSTOM.format(workers=workers, folder=folder, worker=False)
        text = "\n".join(output(server + count + "print(scrape()[0].decode())"))
        names = ("predictions_total", "latency_of_model_count", "latency_of_model_sum")
        shown.append({name: value(text, name) for name in names})
    expected = {"predictions_total": 5, "latency_of_model_count": 5, "latency_of_model_sum": 2.5}
    assert shown == [expected, expected]


@pytest.mark.parametrize("folder", ["missing", "removed", "unset"])
def test_r58_scrape_without_metrics_dir(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlserver.metrics import scrape

    path = tmp_path / "metrics"
    if folder == "unset":
        monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    else:
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(path))
    if folder == "removed":
        path.mkdir()
        shutil.rmtree(path)
    requests = RequestMetrics()
    requests.model("m", "v").observe(True, 0.1)
    body, _ = scrape(requests)
    assert value(body.decode(), "model_infer_request_success_total") == 1


def test_r61_records_name_model_version_and_request() -> None:
    code = """
from mlserver.context import model_context, request_id_var
from mlserver.settings import ModelSettings
async def predict(name, version, request):
    request_id_var.set(request)
    with model_context(ModelSettings(implementation="a.B", name=name, parameters={"version": version})):
        for step in range(20):
            logging.getLogger("mlserver.model").info(f"{name} {version} {request}")
            await asyncio.sleep(0)
async def main():
    await asyncio.gather(predict("one", "v1", "r1"), predict("two", "v2", "r2"))
asyncio.run(main())
"""
    records = [json.loads(line) for line in output(code)]
    assert len(records) == 40
    assert records[0]["model_name"] != records[1]["model_name"]  # they did run at once
    for record in records:
        assert record["message"].split() == [
            record["model_name"],
            record["model_version"],
            record["request_id"],
        ]


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize(
    "arguments", ["", "stream=sys.stdout", "force=True", "handlers=[logging.StreamHandler()]"]
)
def test_r77_user_logging_prints_no_line_twice(structured: bool, arguments: str) -> None:
    code = f"""
logging.basicConfig(level=logging.INFO{"," if arguments else ""}{arguments})
configure_logger()
logger.info("served")
logging.getLogger("mlserver.rest").info("served")
logging.getLogger("mine").info("mine")
"""
    printed = output(code, structured)
    assert [line.count("served") for line in printed] == [1, 1, 0]
    assert "mine" in printed[2]


CRASHES = """
import os, signal
from mlserver.metrics.exposition import process_stopped
for _ in range(2):
    worker = subprocess.Popen([sys.executable, "-c", {code!r}])
    assert worker.wait() == -signal.SIGKILL
    process_stopped(worker.pid)
print(scrape()[0].decode(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_c9_totals_survive_workers_but_not_a_restart(tmp_path: Path) -> None:
    """A worker that was killed still counts; what a crashed run left does not."""
    start = RUN.format(structured=True)
    of_worker = start + CUSTOM.format(workers=1, folder=str(tmp_path), worker=True)
    of_worker += "model(2)\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    code = start + CUSTOM.format(workers=1, folder=str(tmp_path), worker=False)
    code += CRASHES.format(code=of_worker)
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert run.returncode == -signal.SIGKILL
        assert list(tmp_path.glob("*.db"))
        assert value(run.stdout, "predictions_total") == 4


@pytest.mark.parametrize("level", ["info", "exception"])
def test_c13_structured_lines_always_parse(level: str) -> None:
    code = f"""
try:
    raise ValueError('a "quote"\\nand a line')
except ValueError:
    logger.{level}('said "%s"\\n\\tand left', "no")
logging.getLogger("mlserver.rest").info({{"a": "dict"}})
"""
    records = [json.loads(line) for line in output(code)]
    assert [record["message"] for record in records] == ['said "no"\n\tand left', "{'a': 'dict'}"]
    if level == "exception":
        assert 'ValueError: a "quote"\nand a line' in records[0]["exception"]
