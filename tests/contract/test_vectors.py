"""Golden cases of the public API, recorded from the server whose place this one takes."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from pydantic import ValidationError

import mlserver.codecs
import mlserver.types
from mlserver import raw
from mlserver.codecs.json import encode_to_json_bytes
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput
from tests.contract.values import Case, case_id, cases, decode, matches

CODECS_THAT_JUDGE = [
    "StringCodec",
    "NumpyCodec",
    "Base64Codec",
    "DatetimeCodec",
    "StringRequestCodec",
    "NumpyRequestCodec",
    "PandasCodec",
]


def codec_of(case: Case) -> Any:
    return getattr(mlserver.codecs, case["codec"])


def class_at(path: str) -> Any:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("case", cases("input_codec"), ids=case_id)
def test_input_codec(case: Case) -> None:
    codec, method = codec_of(case), case["method"]
    if method.startswith("encode"):
        tensor = getattr(codec, method)(case["name"], decode(case["payload"]), **case["kwargs"])
        result = tensor.model_dump()
    else:
        cls = RequestInput if method == "decode_input" else ResponseOutput
        result = getattr(codec, method)(cls(**decode(case["tensor"])))
    assert matches(case["result"], result), result


@pytest.mark.parametrize("case", cases("request_codec"), ids=case_id)
def test_request_codec(case: Case) -> None:
    if "error" in case:
        with pytest.raises(class_at(case["error"]["class"])) as caught:
            run_request_codec(case)
        assert caught.value.status_code == case["error"]["status"]
        assert str(caught.value) == case["error"]["text"]
    else:
        result = run_request_codec(case)
        assert matches(case["result"], result), result


def run_request_codec(case: Case) -> Any:
    codec, method = codec_of(case), case["method"]
    if method == "encode_request":
        return codec.encode_request(decode(case["payload"]), **case["kwargs"]).model_dump()
    if method == "encode_response":
        response = codec.encode_response(
            case["model_name"], decode(case["payload"]), case["model_version"], **case["kwargs"]
        )
        return response.model_dump()
    tensors = [decode(tensor) for tensor in case["tensors"]]
    if method == "decode_request":
        return codec.decode_request(InferenceRequest(inputs=tensors))
    return codec.decode_response(InferenceResponse(model_name="m", outputs=tensors))


@pytest.mark.parametrize("case", cases("can_encode"), ids=case_id)
def test_can_encode(case: Case) -> None:
    payload = decode(case["payload"])
    able = [name for name in CODECS_THAT_JUDGE if getattr(mlserver.codecs, name).can_encode(payload)]
    assert able == case["result"]


@pytest.mark.parametrize("case", cases("types"), ids=case_id)
def test_types(case: Case) -> None:
    cls = getattr(mlserver.types, case["type"])
    if "invalid" in case:
        with pytest.raises(ValidationError) as caught:
            cls.model_validate(decode(case["object"]))
        faults = [{"type": error["type"], "loc": list(error["loc"])} for error in caught.value.errors()]
        assert faults == case["invalid"]
    else:
        result = cls.model_validate(decode(case["object"])).model_dump()
        assert matches(case["result"], result), result


@pytest.mark.parametrize("case", cases("error"), ids=case_id)
def test_error(case: Case) -> None:
    error = class_at(case["class"])(*case["args"])
    assert isinstance(error, MLServerError)
    assert error.status_code == case["status"]
    assert str(error) == case["text"]


@pytest.mark.parametrize("case", cases("encode_to_json_bytes"), ids=case_id)
def test_encode_to_json_bytes(case: Case) -> None:
    assert encode_to_json_bytes(decode(case["value"])) == case["text"].encode()


@pytest.mark.parametrize("case", cases("raw_pack"), ids=case_id)
def test_raw_pack(case: Case) -> None:
    assert raw.pack(RequestInput(**decode(case["tensor"]))).hex() == case["hex"]


@pytest.mark.parametrize("case", cases("raw_unpack"), ids=case_id)
def test_raw_unpack(case: Case) -> None:
    result = raw.unpack(RequestInput(**decode(case["tensor"])), bytes.fromhex(case["hex"]))
    assert matches(case["result"], result), result
