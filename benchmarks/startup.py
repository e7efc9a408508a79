"""What a start costs: seconds until ready, memory after 100 requests, and the import of the package alone."""

import json
import statistics
import subprocess
import tempfile
import time
from typing import Any

import harness

IMPORT = """
import sys, time
import numpy
known, began = set(sys.modules), time.perf_counter()
import mlserver
print(time.perf_counter() - began, len(set(sys.modules) - known))
"""

COLUMNS = (
    ("ready s", "ready_s", ".2f"),
    ("x mlserver", "ready_s_times_mlserver", ".2f"),
    ("rss MB", "resident_mb", ",.0f"),
    ("x mlserver", "resident_mb_times_mlserver", ".2f"),
    ("cpu s to ready", "cpu_s", ".2f"),
    ("import ms", "import_ms", ",.0f"),
    ("x mlserver", "import_ms_times_mlserver", ".2f"),
    ("modules", "import_modules", ",.0f"),
)


def imported(side: harness.Side) -> dict[str, float]:
    """`import mlserver` in a fresh interpreter that has numpy already."""
    if side.python is None or not side.name.startswith((harness.OURS, harness.REFERENCE)):
        return {}
    with tempfile.TemporaryDirectory(prefix="bench-import-") as elsewhere:
        python = side.python()
        done = subprocess.run(
            [str(python), "-c", IMPORT],
            cwd=elsewhere,
            env=harness.clean_environment(python),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    if done.returncode:
        raise harness.RunFailed(f"import failed: {done.stderr[-300:]}")
    seconds, modules = done.stdout.split()
    return {"import_ms": float(seconds) * 1e3, "import_modules": int(modules)}


def started(side: harness.Side) -> dict[str, float]:
    with harness.running(side, harness.IRIS.model) as server:
        figures = {"ready_s": server.ready_after, "cpu_s": server.cpu_seconds()}
        harness.check(server, harness.IRIS)
        with server.connect() as connection:
            for _ in range(100):
                harness.ask(connection, harness.IRIS)
        time.sleep(0.2)
        return figures | {"resident_mb": server.resident() / 1e6}


def summarise(found: dict[str, list[dict[str, float]]], failures: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, runs in found.items():
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]} if runs else {}
        rows.append({"side": name, "failed": failures.count(name), **medians})
    reference = next((row for row in rows if row["side"] == harness.REFERENCE), {})
    for row in rows:
        for key in ("ready_s", "resident_mb", "import_ms"):
            if key in row and key in reference:
                row[f"{key}_times_mlserver"] = row[key] / reference[key]
    return rows


def main() -> int:
    parser = harness.arguments(__doc__, sides=(harness.OURS, harness.REFERENCE), rounds=5)
    chosen = parser.parse_args()
    rounds = 1 if chosen.quick else chosen.rounds
    about = harness.machine()
    versions = harness.print_setting(about, chosen.sides, harness.IRIS)
    everybody = harness.sides(harness.IRIS)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
    failures: list[str] = []
    for round_ in range(rounds):
        for name in harness.turn_by_turn(list(versions), round_):
            try:
                figures = started(everybody[name]) | imported(everybody[name])
                found[name].append(figures)
                harness.progress(f"{name}, round {round_ + 1}: {json.dumps(figures)}")
            except harness.RunFailed as error:
                failures.append(name)
                harness.progress(f"{name}, round {round_ + 1}: FAILED, {error}")
    rows = summarise(found, failures)
    harness.print_table("Start with one scikit-learn model, medians", COLUMNS, rows)
    harness.write(chosen.json, {"machine": about, "versions": versions, "summary": rows, "runs": found})
    return 1 if failures else 0


if __name__ == "__main__":
    harness.run(main)
