"""The classifier for Triton's python backend; a call carries the requests that were batched."""

import os
import sys

sys.path.insert(0, os.environ["BENCH_SITE_PACKAGES"])

import joblib
import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        self.model = joblib.load(os.environ["BENCH_ARTEFACT"])

    def execute(self, requests):
        rows = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        classes = self.model.predict(np.concatenate(rows)).astype(np.int64).reshape(-1, 1)
        responses, start = [], 0
        for part in rows:
            reply = triton.Tensor("predict", classes[start : start + len(part)])
            responses.append(triton.InferenceResponse([reply]))
            start += len(part)
        return responses
