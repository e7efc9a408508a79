"""Ask the sentiment model that is served on this machine, over gRPC.

python test_local_grpc_endpoint.py [--host localhost] [--port 8081] [SENTENCE ...]
"""

from __future__ import annotations

import argparse
import json
import sys

import grpc
from test_local_http_endpoint import SENTENCES, show

from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub


def classify(address: str, sentences: list[str]) -> list[list[float]]:
    """Probabilities of negative and positive, a row for each sentence."""
    text = pb.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[1])
    text.contents.bytes_contents.append(json.dumps(sentences).encode())
    with grpc.insecure_channel(address) as channel:
        request = pb.ModelInferRequest(model_name="sentiment", inputs=[text])
        response = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    (output,) = response.outputs
    data, (rows, width) = list(output.contents.fp32_contents), output.shape
    return [data[row * width : (row + 1) * width] for row in range(rows)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask the sentiment model over gRPC.")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("sentences", nargs="*", default=SENTENCES)
    arguments = parser.parse_args()
    address = f"{arguments.host}:{arguments.port}"
    try:
        rows = classify(address, arguments.sentences)
    except grpc.RpcError as error:
        print(f"{address} answered {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    show(arguments.sentences, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
