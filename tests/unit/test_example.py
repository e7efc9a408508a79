"""The request that a server shows: what is asked of a shell is what the metadata says."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import Any

import pytest

from mlserver.cli.example import curl_line
from mlserver.codecs import Base64Codec, DatetimeCodec
from mlserver.types import InferenceRequest, MetadataModelResponse, MetadataTensor, Parameters

URL = "http://localhost:8080"


def tensor(name: str, datatype: str, shape: list[int], **parameters: Any) -> MetadataTensor:
    told = Parameters(**parameters) if parameters else None
    return MetadataTensor(name=name, datatype=datatype, shape=shape, parameters=told)


def line_for(*inputs: MetadataTensor, name: str = "m", **options: Any) -> str | None:
    metadata = MetadataModelResponse(name=name, platform="", inputs=list(inputs), outputs=[])
    return curl_line(metadata, URL, **options)


def asked(*inputs: MetadataTensor, **options: Any) -> list[dict[str, Any]]:
    """The inputs that the line sends: a shell runs it, with the last word in place of curl."""
    line = line_for(*inputs, **options)
    assert line is not None
    curl = 'curl() { [ "${!#}" = @- ] && cat || printf %s "${!#}"; }'
    done = subprocess.run(["bash", "-c", f"{curl}\n{line}"], capture_output=True, text=True, check=True)
    body = json.loads(done.stdout)
    InferenceRequest(**body)
    found: list[dict[str, Any]] = body["inputs"]
    return found


def test_without_inputs_there_is_none() -> None:
    assert line_for() is None
    assert line_for(tensor("x", "FP32", [1], required=False)) is None


@pytest.mark.parametrize(
    ("datatype", "value"), [("FP32", 0.0), ("FP64", 0.0), ("INT64", 0), ("UINT8", 0), ("BOOL", False)]
)
def test_numbers_are_zero(datatype: str, value: Any) -> None:
    (found,) = asked(tensor("x", datatype, [-1, 3]))
    assert found == {"name": "x", "shape": [1, 3], "datatype": datatype, "data": [value] * 3}


def test_text_is_what_its_content_type_takes() -> None:
    inputs = [tensor(kind, "BYTES", [-1], content_type=kind) for kind in ("str", "base64", "datetime")]
    found = {given["name"]: given["data"] for given in asked(tensor("none", "BYTES", [1, 1]), *inputs)}
    assert found["none"] == found["str"] == ["a text to try"]
    assert Base64Codec.decode_input(InferenceRequest(inputs=asked(inputs[1])).inputs[0])[0][1:4] == b"PNG"
    assert DatetimeCodec.decode_input(InferenceRequest(inputs=asked(inputs[2])).inputs[0])
    assert asked(inputs[0], text="The fox is [MASK].")[0]["data"] == ["The fox is [MASK]."]


def test_what_the_metadata_suggests_comes_first() -> None:
    found = asked(tensor("city", "BYTES", [-1, 1], example="Rome"), tensor("n", "INT32", [-1, 1], example=3))
    assert [given["data"] for given in found] == [["Rome"], [3]]


def test_an_output_is_named_where_it_has_to_be() -> None:
    for outputs, expected in (
        ([tensor("transform", "FP64", [-1, 3], on_request=True)], [{"name": "transform"}]),
        ([tensor("predict", "FP64", [-1, 1])], None),
    ):
        metadata = MetadataModelResponse(
            name="m", platform="", inputs=[tensor("x", "FP64", [-1, 3])], outputs=outputs
        )
        line = curl_line(metadata, URL)
        assert line is not None
        assert json.loads(shlex.split(line)[-1]).get("outputs") == expected


def test_of_alternatives_one_is_taken() -> None:
    text = tensor("image", "BYTES", [-1], content_type="str")
    encoded = tensor("image", "BYTES", [-1], content_type="base64")
    assert asked(text, encoded, tensor("x", "FP32", [1])) == asked(encoded, tensor("x", "FP32", [1]))
    assert asked(text, tensor("image", "FP32", [-1])) == asked(text)


def test_any_name_survives_the_shell() -> None:
    name = 'it\'s $HOME `id` "quoted" \\ é\n'
    assert asked(tensor(name, "BYTES", [1], example=name))[0] == {
        "name": name,
        "shape": [1],
        "datatype": "BYTES",
        "data": [name],
    }
    line = line_for(tensor("x", "FP32", [1]), name="a b/ü", options="-k")
    assert line is not None
    assert shlex.split(line)[:4] == ["curl", "-sS", "-k", f"{URL}/v2/models/a%20b%2F%C3%BC/infer"]


def test_data_that_no_argument_could_hold() -> None:
    small, large = tensor("x", "INT64", [2]), tensor("im'age", "FP32", [-1, 3, -1, 224])
    texts = tensor("texts", "BYTES", [2000], example="it's")
    line = line_for(small, large, texts, large)
    assert line is not None and len(line) < 1_000
    first, second, third = asked(small, large, texts)
    assert first["data"] == [0, 0]
    assert second["shape"] == [1, 3, 64, 224] and second["data"] == [0.0] * (3 * 64 * 224)
    assert third["data"] == ["it's"] * 2000
    assert asked(large, small)[1] == first
