"""Golden gRPC cases, as far as messages decide them: bytes in, the model's answer, bytes out.

Which version is served, and what a code is called, is the server's part.
"""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from mlserver import MLModel, ModelSettings
from mlserver.errors import MLServerError
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.types import Parameters
from mlserver.wire.protobuf import decode_request, encode_response, read_head
from tests.contract.values import Case, case_id, cases, load

NEEDS_A_SERVER = {"grpc-version-unknown"}
STATUS = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "UNKNOWN": 418, "FAILED_PRECONDITION": 422}


@pytest.fixture(scope="module")
def models() -> dict[str, MLModel]:
    vectors = load()["models"]
    source: dict[str, Any] = {}
    exec(vectors["source"], source)
    made = {}
    for name, settings in vectors["settings"].items():
        cls = source[settings["implementation"].removeprefix("vec_models.")]
        made[name] = cls(ModelSettings(**{**settings, "name": name, "implementation": cls}))
    return made


def message(cls: Any, fields: dict[str, Any]) -> Any:
    return json_format.ParseDict(fields, cls())


@pytest.mark.parametrize(
    "case", [case for case in cases("grpc") if case["id"] not in NEEDS_A_SERVER], ids=case_id
)
async def test_grpc(case: Case, models: dict[str, MLModel]) -> None:
    body = message(pb.ModelInferRequest, case["request"]).SerializeToString()
    model = models[read_head(body).model_name]
    request, raw = decode_request(body)
    if request.parameters is None:
        request.parameters = Parameters()
    if case["code"] != "OK":
        with pytest.raises(MLServerError) as caught:
            await model.predict(request)
        assert (caught.value.status_code, str(caught.value)) == (STATUS[case["code"]], case["details"])
        return
    response = await model.predict(request)
    response.id = request.id
    answer = pb.ModelInferResponse.FromString(encode_response(response, raw))
    assert answer == message(pb.ModelInferResponse, case["response"])
