"""Requests per second over gRPC: one raw row a call for a scikit-learn classifier, all sides in turn."""

import h2load
import harness
import numpy as np

ROW = np.array([[5.1, 3.5, 1.4, 0.2]], dtype=np.float32)
IRIS = h2load.Call("iris", h2load.raw_request("iris", ROW), 0, "INT64", "iris, one row of raw FP32 over gRPC")

if __name__ == "__main__":
    parser = harness.arguments(
        __doc__,
        sides=(harness.OURS, harness.REFERENCE, "triton", harness.FLOOR),
        points=[harness.Point.parse(each) for each in ("1x1", "1x32", "1x128", "32x1")],
        duration=6,
        rounds=3,
    )
    harness.run(lambda: harness.load_benchmark(parser, lambda _: [IRIS]))
