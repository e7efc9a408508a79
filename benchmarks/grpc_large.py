"""One large float32 tensor of raw bytes in, its sum out, over gRPC, by size, all sides in turn."""

import argparse

import h2load
import harness
import numpy as np

SIZES = (150_528, 1_048_576)


def workload(count: int) -> h2load.Call:
    values = np.random.default_rng(0).random((1, count), dtype=np.float32)
    label = f"{count:,} floats, {values.nbytes / 1e6:.2f} MB raw over gRPC"
    total = float(values.sum(dtype=np.float64))
    return h2load.Call("sum", h2load.raw_request("sum", values), total, "FP64", label, "sum")


def workloads(chosen: argparse.Namespace) -> list[harness.Workload]:
    return [workload(count) for count in chosen.sizes]


if __name__ == "__main__":
    parser = harness.arguments(
        __doc__,
        sides=(harness.OURS, harness.REFERENCE, "triton", harness.FLOOR),
        points=[harness.Point.parse(each) for each in ("1x1", "1x4")],
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
