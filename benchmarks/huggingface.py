"""A small DistilBERT asked by many callers at once: each text by itself (`batch_size` 1), and those that came
together in one call of the model. One text a request, of some words. Both sides are this project.
"""

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import peers

WORDS = (
    *("the", "a", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "good", "bad", "film"),
    *("with", "end", "old", "friend", "lives", "in", "small", "house"),
)
SIDES = {"alone": 1, "together": 32}
MODEL = "texts"
PATH = f"/v2/models/{MODEL}/infer"
COLUMNS = (
    ("texts/s", "texts_per_second", ",.0f"),
    ("p50 ms", "p50_ms", ".1f"),
    ("p99 ms", "p99_ms", ".1f"),
    ("failed", "failed", ".0f"),
)


def texts(count: int, words: tuple[int, int]) -> list[str]:
    """words: fewest and most of a text."""
    chance = random.Random(0)
    return [" ".join(chance.choices(WORDS, k=chance.randint(*words))) for _ in range(count)]


def body(text: str) -> bytes:
    tensor = {"name": "args", "shape": [1], "datatype": "BYTES", "data": [text]}
    return json.dumps({"inputs": [tensor]}).encode()


def side(name: str, artefact: Path, threads: int) -> harness.Side:
    def prepare(folder: Path, _: str) -> harness.Launch:
        http_port, grpc_port, metrics_port = harness.free_ports(3)
        server = {"host": "127.0.0.1", "http_port": http_port, "grpc_port": grpc_port}
        (folder / "settings.json").write_text(json.dumps({**server, "metrics_port": metrics_port}))
        extra = {
            "task": "text-classification",
            "batch_size": SIDES[name],
            "intra_op_threads": threads,
            "device": "cpu",
        }
        model = {
            "name": MODEL,
            "implementation": "mlserver_huggingface.HuggingFaceRuntime",
            "parameters": {"uri": str(artefact), "extra": extra},
        }
        (folder / "model-settings.json").write_text(json.dumps(model))
        # A checkout that is not installed is found by PYTHONPATH.
        kept = {key: os.environ[key] for key in ("PYTHONPATH",) if key in os.environ}
        command = [sys.executable, "-m", "mlserver", "start", str(folder)]
        return harness.Launch(command, http_port, ("/v2/health/ready",), environment=kept)

    return harness.Side(name, f"batch_size {SIDES[name]}", prepare)


def ask(server: harness.Server, text: str) -> Any:
    with server.connect() as connection:
        connection.request("POST", PATH, body(text), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status != http.HTTPStatus.OK:
            raise harness.RunFailed(f"{response.status}: {answer}")
        return json.loads(answer["outputs"][0]["data"][0])


def load(server: harness.Server, connections: int, seconds: int, words: tuple[int, int]) -> dict[str, float]:
    bodies = list(map(body, texts(200, words)))
    per_second, p50, p99 = harness.post_in_turn(server.url + PATH, bodies, connections, seconds)
    return {"texts_per_second": per_second, "p50_ms": p50, "p99_ms": p99}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--duration", type=int, default=5, metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dim", type=int, default=64, help="width of the model, a multiple of 32")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--words", default="3-12", metavar="A-B", help="fewest and most words of a text")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--quick", action="store_true", help="one short round: does it work?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure there")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.duration = 1, 2
    words = tuple(map(int, chosen.words.split("-")))
    if len(words) != 2:
        parser.error("--words is two numbers, such as 3-12")
    about = harness.machine()
    print(json.dumps(about))
    with tempfile.TemporaryDirectory(prefix="bench-distilbert-") as artefact:
        make = [sys.executable, str(peers.SERVED / "make_distilbert.py"), artefact]
        make += [str(chosen.dim), str(chosen.layers), " ".join(WORDS)]
        subprocess.run(make, check=True, stderr=subprocess.DEVNULL)
        sides = {name: side(name, Path(artefact), chosen.threads) for name in SIDES}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        answers: dict[str, Any] = {}
        for round_ in range(chosen.rounds):
            for name in harness.turn_by_turn(list(sides), round_):
                with harness.running(sides[name], MODEL, timeout=120) as server:
                    answers[name] = ask(server, WORDS[-1])
                    load(server, chosen.connections, 1, words)  # until everything is warm
                    found[name].append(load(server, chosen.connections, chosen.duration, words))
                harness.progress(f"{name}, round {round_ + 1}: {found[name][-1]['texts_per_second']:,.0f}/s")
    first, *others = answers.values()
    if any(abs(first["score"] - other["score"]) > 1e-4 for other in others):
        raise harness.RunFailed(f"the sides answer differently: {answers}")
    rows: list[dict[str, Any]] = [
        {"side": name, "failed": 0} | {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    ]
    title = (
        f"DistilBERT {chosen.dim} x {chosen.layers}, {chosen.connections} callers, {chosen.words} words each"
    )
    harness.print_table(title, COLUMNS, rows)
    alone, together = (row["texts_per_second"] for row in rows)
    print(f"together / alone: {together / alone:.1f}")
    harness.write(chosen.json, {"machine": about, "summary": rows, "runs": found})
    return 0


if __name__ == "__main__":
    harness.run(main)
