"""One tensor in, its sum out, for Triton's python backend."""

import os
import sys

sys.path.insert(0, os.environ["BENCH_SITE_PACKAGES"])

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        sums = [
            triton.get_input_tensor_by_name(request, "x").as_numpy().sum(dtype=np.float64)
            for request in requests
        ]
        return [triton.InferenceResponse([triton.Tensor("sum", np.array([[total]]))]) for total in sums]
