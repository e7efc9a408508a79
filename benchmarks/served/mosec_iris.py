"""The classifier in mosec: V2 JSON on the same path as everywhere, one worker."""

import os

import joblib
import numpy as np
from mosec import Runtime, Server, Worker


class Iris(Worker):
    def __init__(self):
        super().__init__()
        self.model = joblib.load(os.environ["BENCH_ARTEFACT"])

    def forward(self, data):
        rows = np.array([request["inputs"][0]["data"] for request in data], dtype=np.float32)
        return [
            {
                "model_name": "iris",
                "outputs": [{"name": "predict", "shape": [1, 1], "datatype": "INT64", "data": [int(one)]}],
            }
            for one in self.model.predict(rows)
        ]


if __name__ == "__main__":
    server = Server()
    runtime = Runtime(Iris, num=1, max_batch_size=64, max_wait_time=1)
    server.register_runtime({"/v2/models/iris/infer": [runtime]})
    server.run()
