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

import numpy as np
from subjects import BUILDERS, FEATURES, Subject

from mlserver.context import model_context
from mlserver.executor import Call, Executor
from mlserver.grpc.converters import ModelInferRequestConverter

ROWS = (1, 32, 10_000)


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


async def measure(subject: Subject, rows: int, seconds: float) -> dict[str, float]:
    model = subject.model()
    assert await model.load()
    executor = Executor(model, {})
    values = subject.values(rows)
    request = subject.encode(values)
    body = request.model_dump_json().encode()
    message = ModelInferRequestConverter.from_types(request, model_name="m", use_raw=True).SerializeToString()

    async def library() -> Any:
        return subject.bare(values)

    async def in_process() -> Any:
        with model_context(model.settings):
            return await model.predict(subject.encode(values))

    async def run(call: Call) -> Any:
        (reply,) = await executor.run([call])
        assert reply.status == 200, reply.body
        return reply

    output, expected = (await in_process()).outputs[0], await library()
    if subject.comparable:
        got = np.reshape(output.data.to_array(output.datatype), np.shape(expected))
        np.testing.assert_allclose(got, expected, rtol=1e-5)
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
    names = [builder.__name__ for builder in BUILDERS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("libraries", nargs="*", default=names, help=f"of {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=2.0, help="per library and number of rows")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    print(f"microseconds a call, medians; {FEATURES} features")
    print(f"{'library':<13}{'rows':>7}{'bare':>10}", end="")
    print("".join(f"{side:>10}{'added':>9}{'ratio':>7}" for side in ("runtime", "json", "grpc")))
    results = []
    for builder in BUILDERS:
        name = builder.__name__
        if name not in options.libraries:
            continue
        with tempfile.TemporaryDirectory(prefix="bench-runtimes-") as folder:
            try:
                subject = builder(Path(folder))
            except ImportError as exc:
                print(f"{name:<13}left out: {exc}")
                continue
            for rows in ROWS:
                figures = asyncio.run(measure(subject, rows, options.seconds))
                results.append({"library": name, "rows": rows, **figures})
                line = f"{name:<13}{rows:>7,}{figures['bare']:>10,.0f}"
                for side in ("runtime", "json", "grpc"):
                    added = figures[side] - figures["bare"]
                    line += f"{figures[side]:>10,.0f}{added:>9,.0f}{figures[side] / figures['bare']:>7.2f}"
                print(line, flush=True)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
