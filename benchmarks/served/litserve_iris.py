"""The classifier in LitServe: V2 JSON on the same path as everywhere, one worker."""

import os
import sys

import joblib
import litserve
import numpy as np


class Iris(litserve.LitAPI):
    def setup(self, device):
        self.model = joblib.load(os.environ["BENCH_ARTEFACT"])

    def decode_request(self, request):
        return np.array(request["inputs"][0]["data"], dtype=np.float32)

    def predict(self, x):
        return self.model.predict(x)

    def encode_response(self, output):
        outputs = [{"name": "predict", "shape": [1, 1], "datatype": "INT64", "data": [int(output)]}]
        return {"model_name": "iris", "outputs": outputs}


if __name__ == "__main__":
    api = Iris(max_batch_size=64, batch_timeout=0.001, api_path="/v2/models/iris/infer")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
