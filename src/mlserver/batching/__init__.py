"""How requests are joined into batches, and their answers taken apart again."""

from __future__ import annotations

from collections.abc import Mapping

from mlserver.batching.merge import fits, merge, rows_of, split
from mlserver.types import InferenceRequest, InferenceResponse

__all__ = ["BatchedRequests", "fits", "merge", "rows_of", "split"]


class BatchedRequests:
    """Several requests as one, keyed by whatever the caller tells them apart with."""

    def __init__(self, inference_requests: Mapping[str, InferenceRequest]) -> None:
        self.inference_requests = dict(inference_requests)
        self.merged_request = merge(list(self.inference_requests.values()))

    def split_response(self, batched_response: InferenceResponse) -> dict[str, InferenceResponse]:
        """Each request's own part of the response, with its own id; nothing where the response has no
        outputs.
        """
        if not batched_response.outputs:
            return {}
        requests = list(self.inference_requests.values())
        parts = split(batched_response, [rows_of(r) for r in requests], [r.id for r in requests])
        return dict(zip(self.inference_requests, parts, strict=True))
