"""How long a liveness probe waits while a custom `predict` keeps a Python loop busy, without workers."""

import http.client
import statistics
import threading
import time
from typing import Any

import harness

COLUMNS = (
    ("probes", "probes", ",.0f"),
    ("p50 ms", "p50_ms", ".1f"),
    ("max ms", "max_ms", ",.1f"),
    ("predict s", "predict_s", ".2f"),
)


def busy(seconds: float) -> harness.Workload:
    return harness.Workload("busy", harness.v2_body([1, 1], [seconds]), 0, "INT64")


def probed(side: harness.Side, seconds: float) -> dict[str, float]:
    """Probe twenty times a second from before the call until after it."""
    with harness.running(side, "busy") as server:
        with server.connect() as connection:
            harness.ask(connection, busy(0.01))
        took: list[float] = []
        failed: list[BaseException] = []

        def call() -> None:
            began = time.perf_counter()
            try:
                with server.connect() as connection:
                    harness.ask(connection, busy(seconds))
            except (OSError, http.client.HTTPException, harness.RunFailed) as error:
                failed.append(error)
            took.append(time.perf_counter() - began)

        caller = threading.Timer(0.5, call)
        waits = []
        with server.connect() as connection:
            caller.start()
            try:
                while not took:
                    waits.append(probe(connection))
                    time.sleep(0.05)
                waits += [probe(connection) for _ in range(10)]
            except (OSError, http.client.HTTPException) as error:
                raise harness.RunFailed(f"a probe was not answered: {error!r}") from error
            finally:
                caller.cancel()
                caller.join()
        if failed or took[0] < seconds:
            raise harness.RunFailed(f"predict took {took[0]:.2f} s: {failed}")
    return {
        "probes": len(waits),
        "p50_ms": statistics.median(waits) * 1e3,
        "max_ms": max(waits) * 1e3,
        "predict_s": took[0],
    }


def probe(connection: http.client.HTTPConnection) -> float:
    began = time.perf_counter()
    connection.request("GET", "/v2/health/live")
    response = connection.getresponse()
    response.read()
    if response.status != http.HTTPStatus.OK:
        raise harness.RunFailed(f"a probe was answered {response.status}")
    return time.perf_counter() - began


def main() -> int:
    parser = harness.arguments(__doc__, sides=(harness.OURS, harness.REFERENCE), rounds=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long predict holds the processor")
    chosen = parser.parse_args()
    rounds = 1 if chosen.quick else chosen.rounds
    about = harness.machine()
    versions = harness.print_setting(about, chosen.sides, busy(0))
    everybody = harness.sides(busy(0))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
    failures: list[str] = []
    for round_ in range(rounds):
        for name in harness.turn_by_turn(list(versions), round_):
            try:
                found[name].append(probed(everybody[name], chosen.seconds))
            except harness.RunFailed as error:
                failures.append(name)
                harness.progress(f"{name}, round {round_ + 1}: FAILED, {error}")
    rows: list[dict[str, Any]] = []
    for name, runs in found.items():
        row: dict[str, Any] = {"side": name, "failed": failures.count(name)}
        if runs:
            row |= {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            row["max_ms"] = max(run["max_ms"] for run in runs)
        rows.append(row)
    title = f"GET /v2/health/live while predict is busy for {chosen.seconds:g} s, worst of {rounds}"
    harness.print_table(title, COLUMNS, rows)
    harness.write(chosen.json, {"machine": about, "versions": versions, "summary": rows, "runs": found})
    return 1 if failures else 0


if __name__ == "__main__":
    harness.run(main)
