"""Requests per second over REST: one row a request for a scikit-learn classifier, all sides in turn."""

from dataclasses import replace

import harness

if __name__ == "__main__":
    parser = harness.arguments(
        __doc__,
        sides=(harness.OURS, harness.REFERENCE, "triton", "mosec", "litserve", harness.FLOOR),
        points=tuple(map(harness.Point, (1, 32, 128))),
        duration=6,
        rounds=3,
    )
    iris = replace(harness.IRIS, label="iris, one row of V2 JSON")
    harness.run(lambda: harness.load_benchmark(parser, lambda _: [iris]))
