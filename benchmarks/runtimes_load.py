"""Requests per second over REST, one row a request: scikit-learn and three libraries of trees."""

from dataclasses import replace

import harness


def workloads(_: object) -> list[harness.Workload]:
    linear = replace(harness.IRIS, label="scikit-learn, logistic regression")
    trees = [
        replace(harness.IRIS, model=name, expected=answer, datatype="FP32", label=f"{name}, 100 trees")
        for name, answer in harness.trees()[1].items()
    ]
    return [linear, *trees]


if __name__ == "__main__":
    parser = harness.arguments(
        __doc__,
        sides=(harness.OURS, harness.REFERENCE),
        points=(harness.Point(32),),
        duration=5,
        rounds=3,
    )
    harness.run(lambda: harness.load_benchmark(parser, workloads))
