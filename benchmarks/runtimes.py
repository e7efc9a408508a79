"""What a runtime adds to the library it serves: one call of `predict`, in process, for 1, 32 and 10,000 rows.

Beside the bare call of the library stand the runtime (a request in, a response out) and the whole way from
the bytes of a body to the bytes of a reply, as JSON and as a gRPC message with a raw tensor. No sockets, no
queue, no other process. Sides take turns, so that a noisy moment is noisy for all of them; medians are shown,
and overhead is the difference of two medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import catboost
import joblib
import lightgbm as lgb
import numpy as np
import xgboost as xgb
from mlserver_catboost import CatboostModel
from mlserver_lightgbm import LightGBMModel
from mlserver_sklearn import SKLearnModel
from mlserver_xgboost import XGBoostModel
from sklearn.linear_model import LogisticRegression

from mlserver import MLModel, ModelSettings
from mlserver.codecs import NumpyRequestCodec
from mlserver.executor import Call, Executor
from mlserver.grpc.converters import ModelInferRequestConverter
from mlserver.settings import ModelParameters

ROWS = (1, 32, 10_000)
FEATURES = 10
TREES = 50


def trained(folder: Path) -> list[tuple[str, type[MLModel], Path, Callable[[Any], Any]]]:
    """Name, runtime, artefact and bare call of a classifier of each library."""
    random = np.random.default_rng(0)
    x = random.random((2_000, FEATURES))
    y = np.digitize(x[:, 0] + x[:, 1], [0.7, 1.3])
    linear = LogisticRegression(max_iter=500).fit(x, y)
    joblib.dump(linear, folder / "model.joblib")
    extreme = xgb.XGBClassifier(n_estimators=TREES).fit(x, y)
    extreme.save_model(folder / "model.json")
    settings = {"objective": "multiclass", "num_class": 3, "verbose": -1}
    light = lgb.train(settings, lgb.Dataset(x, y), TREES)
    light.save_model(folder / "model.txt")
    cat = catboost.CatBoostClassifier(iterations=TREES, verbose=0, allow_writing_files=False).fit(x, y)
    cat.save_model(str(folder / "model.cbm"))
    return [
        ("scikit-learn", SKLearnModel, folder / "model.joblib", linear.predict),
        ("xgboost", XGBoostModel, folder / "model.json", extreme.predict),
        ("lightgbm", LightGBMModel, folder / "model.txt", light.predict),
        ("catboost", CatboostModel, folder / "model.cbm", cat.predict),
    ]


async def medians(sides: dict[str, Callable[[], Awaitable[Any]]], seconds: float) -> dict[str, float]:
    """Median time of each side in microseconds."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():  # the first call of a model is slow
        await side()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, side in sides.items():
            started = time.perf_counter()
            await side()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) * 1e6 for name, values in times.items()}


async def measure(
    runtime: type[MLModel], path: Path, bare: Callable[[Any], Any], rows: int, seconds: float
) -> dict[str, float]:
    model = runtime(
        ModelSettings(name="m", implementation=runtime, parameters=ModelParameters(uri=str(path)))
    )
    assert await model.load()
    executor = Executor(model, {})
    matrix = np.random.default_rng(1).random((rows, FEATURES))
    request = NumpyRequestCodec.encode_request(matrix)
    body = request.model_dump_json().encode()
    message = ModelInferRequestConverter.from_types(request, model_name="m", use_raw=True).SerializeToString()

    async def library() -> Any:
        return bare(matrix)

    async def in_process() -> Any:
        return await model.predict(NumpyRequestCodec.encode_request(matrix))

    async def run(call: Call) -> Any:
        (reply,) = await executor.run([call])
        assert reply.status == 200, reply.body
        return reply

    response = await in_process()
    got = np.reshape(response.outputs[0].data.to_array(response.outputs[0].datatype), np.shape(bare(matrix)))
    np.testing.assert_allclose(got, bare(matrix))
    return await medians(
        {
            "bare": library,
            "runtime": in_process,
            "json": lambda: run(Call(body, {}, "json")),
            "grpc": lambda: run(Call(bytearray(message), {}, "protobuf")),
        },
        seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="per library and number of rows")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    print(f"microseconds a call, medians; {FEATURES} features, 3 classes, {TREES} rounds of trees")
    print(f"{'library':<13}{'rows':>7}{'bare':>10}", end="")
    print("".join(f"{side:>10}{'added':>9}{'ratio':>7}" for side in ("runtime", "json", "grpc")))
    results = []
    with tempfile.TemporaryDirectory(prefix="bench-runtimes-") as folder:
        for name, runtime, path, bare in trained(Path(folder)):
            for rows in ROWS:
                figures = asyncio.run(measure(runtime, path, bare, rows, options.seconds))
                results.append({"library": name, "rows": rows, **figures})
                line = f"{name:<13}{rows:>7,}{figures['bare']:>10,.0f}"
                for side in ("runtime", "json", "grpc"):
                    added = figures[side] - figures["bare"]
                    line += f"{figures[side]:>10,.0f}{added:>9,.0f}{figures[side] / figures['bare']:>7.2f}"
                print(line)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
