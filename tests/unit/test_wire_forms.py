"""Requests that differ in their values alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.batching import fits
from mlserver.errors import InvalidRequest
from mlserver.wire.forms import Forms
from mlserver.wire.json import decode_request
from tests.strategies import json_values

BODY = b'{"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2.5, 3]}]}'


def having_learned(*bodies: bytes) -> Forms:
    forms = Forms()
    for body in bodies:
        request = decode_request(body)
        key = fits(request)
        assert key is not None
        forms.learn(body, request, key)
    return forms


def with_values(values: bytes, body: bytes = BODY) -> bytes:
    start = body.rindex(b'"data":') + len(b'"data":')
    return body[:start] + values + body[body.index(b"]", start) + 1 :]


@pytest.mark.parametrize(
    "values", ["[4,5,6]", " [ 4 , 5 , 6 ] ", "[null, true, 7e300]", '["a", {"b": []}, "]}"]']
)
def test_a_body_of_a_known_form_gives_its_values(values: str) -> None:
    known = having_learned(BODY).read(with_values(values.encode()))
    assert known is not None
    form, read = known
    assert read == json.loads(values)
    assert (form.rows, form.size, form.key) == (1, 3, fits(decode_request(BODY)))
    assert form.request.inputs[0].name == "x"


@pytest.mark.parametrize(
    "values",
    [
        "",
        "[1,2]",
        "[1,2,3,4]",
        "[[1,2,3]]",
        "7",
        "[1,2,",
        "[1,2,3],[4]",
        '[1,2,3],"name":"y"',
        "[1,2,NaN]",
        "[1,2,\xff]",
    ],
)
def test_what_does_not_fill_the_form_is_for_others_to_judge(values: str) -> None:
    assert having_learned(BODY).read(with_values(values.encode("latin-1"))) is None


def test_keys_may_stand_in_any_order() -> None:
    tensor = b'{"data":[1,2,3],"datatype":"INT32","name":"x","shape":[3]}'
    body = b'{"inputs":[%b],"parameters":{"content_type":"np"}}' % tensor
    known = having_learned(body).read(with_values(b"[7,8,9]", body))
    assert known is not None and known[1] == [7, 8, 9]


@pytest.mark.parametrize(
    "body",
    [
        # The first `"data":` is not the tensor's.
        b'{"outputs":[{"name":"y","data":[1]}],"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}',
        rb'{"outputs":[{"name":"y","data":[1]}],"inputs":[{"name":"x","shape":[1],"datatype":"INT8","d\u0061ta":[1]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1],"data":[1]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[2],"data":[1]}]}',
        # It is nobody's.
        rb'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","d\u0061ta":[1]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data" :[1]}]}',
        # An id of its own, or two tensors.
        b'{"id":"a","inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]},'
        b'{"name":"z","shape":[1],"datatype":"INT8","data":[1]}]}',
    ],
)
def test_a_body_whose_values_cannot_be_told_from_the_rest_has_no_form(body: bytes) -> None:
    assert having_learned(body).read(body) is None


def test_forms_do_not_pile_up() -> None:
    forms = Forms()
    for index in range(2000):
        body = BODY.replace(b'"x"', b'"x%d"' % index)
        request = decode_request(body)
        forms.learn(body, request, fits(request) or ())
    assert len(forms._by_start) <= 256
    assert forms.read(body) is not None


@given(st.data())
def test_what_is_read_is_what_decoding_gives(data: st.DataObject) -> None:
    """Whatever stands where the values did: a form reads what the decoder would, or nothing."""
    tensor: dict[str, Any] = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}
    message: dict[str, Any] = {"inputs": [dict(data.draw(st.permutations(list(tensor.items()))))]}
    if data.draw(st.booleans()):
        message["parameters"] = {"content_type": "np"}
    message = dict(data.draw(st.permutations(list(message.items()))))
    body = json.dumps(message, separators=data.draw(st.sampled_from([(",", ":"), (", ", ": ")]))).encode()
    values = data.draw(
        st.lists(json_values, min_size=2, max_size=2).map(lambda v: json.dumps(v).encode())
        | json_values.map(lambda v: json.dumps(v).encode())
        | st.text('[]{}",:12dat \\', max_size=20).map(str.encode)
        | st.binary(max_size=6)
    )
    changed = with_values(values, body)
    known = having_learned(body).read(changed)
    try:
        decoded = decode_request(changed)
    except InvalidRequest:
        assert known is None
        return
    if known is not None:
        form, read = known
        assert repr(read) == repr(decoded.inputs[0].data.root)
        assert form.key == fits(decoded)
        decoded.inputs[0].data = form.request.inputs[0].data
        assert form.request == decoded
