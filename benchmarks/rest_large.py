"""One large float32 tensor of V2 JSON in, its sum out, by size of the body, all sides in turn."""

import argparse

import harness
import numpy as np

SIZES = (1_000, 10_000, 31_250, 150_528, 207_600)


def workload(count: int) -> harness.Workload:
    values = np.random.default_rng(0).random(count, dtype=np.float32)
    body = harness.v2_body([1, count], values.tolist())
    label = f"{count:,} floats, {len(body) / 1e6:.2f} MB of JSON"
    return harness.Workload("sum", body, float(values.sum(dtype=np.float64)), "FP64", label)


def workloads(chosen: argparse.Namespace) -> list[harness.Workload]:
    return [workload(count) for count in chosen.sizes]


if __name__ == "__main__":
    parser = harness.arguments(
        __doc__,
        sides=(harness.OURS, harness.REFERENCE, "triton", harness.FLOOR),
        points=tuple(map(harness.Point, (1, 4))),
        duration=6,
        rounds=3,
    )
    parser.add_argument(
        "--sizes",
        type=harness.several(int),
        default=list(SIZES),
        metavar="N,N",
        help="floats in a tensor",
    )
    harness.run(lambda: harness.load_benchmark(parser, workloads))
