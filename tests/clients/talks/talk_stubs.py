"""Run by an interpreter that has `mlserver[grpc]`: its own stubs with the oldest grpcio that they allow."""

import sys

import grpc
import numpy as np

from mlserver.codecs import NumpyCodec
from mlserver.grpc import converters
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest

assert grpc.__version__.startswith("1.60."), grpc.__version__
with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = GRPCInferenceServiceStub(channel)
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert stub.ModelConfig(pb.ModelConfigRequest(name="counts")).config.model_transaction_policy.decoupled
    array = np.array([[1.5, -2.5]])
    request = InferenceRequest(inputs=[NumpyCodec.encode_input("x", array)])
    for use_raw in (True, False):
        sent = converters.ModelInferRequestConverter.from_types(request, "echo", use_raw=use_raw)
        answer = converters.ModelInferResponseConverter.to_types(stub.ModelInfer(sent, timeout=30))
        assert (NumpyCodec.decode_output(answer.outputs[0]) == array).all()
    counted = converters.ModelInferRequestConverter.from_types(request, "counts", use_raw=True)
    counted.parameters["count"].int64_param = 4
    assert len(list(stub.ModelStreamInfer(iter([counted]), timeout=30))) == 4
    try:
        stub.ModelReady(pb.ModelReadyRequest(name="nobody"))
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND
    else:
        raise AssertionError("a model that is not there was ready")
print("all well")
