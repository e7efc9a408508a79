"""Codecs one by one, how they are found, and which one is chosen."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timezone
from typing import Any, Dict, List, Optional, Union  # noqa: UP035 - as users write hints

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

import mlserver.codecs
from mlserver.codecs import (
    Base64Codec,
    DatetimeCodec,
    InputCodec,
    NumpyCodec,
    NumpyRequestCodec,
    PandasCodec,
    RequestCodec,
    StringCodec,
    StringRequestCodec,
    base,
    decode_inference_request,
    decode_request_input,
    encode_inference_response,
    encode_response_output,
    get_decoded,
    get_decoded_or_raw,
    has_decoded,
    negotiation,
    register_input_codec,
    register_request_codec,
)
from mlserver.codecs import pandas as pandas_codec
from mlserver.codecs.json import (
    JSONEncoderWithArray,
    decode_from_bytelike_json_to_dict,
    decode_json_input_or_output,
    encode_to_json,
    encode_to_json_bytes,
)
from mlserver.codecs.lists import as_list, is_list_of
from mlserver.codecs.numpy import _encode_data, _to_ndarray, convert_nan, to_datatype, to_dtype
from mlserver.codecs.string import decode_str, encode_str
from mlserver.codecs.utils import (
    DecodedParameterName,
    DefaultInputPrefix,
    DefaultOutputPrefix,
    SingleInputRequestCodec,
    _save_decoded,
    inject_batch_dimension,
)
from mlserver.errors import CodecError, CodecNotFound, InvalidTensor
from mlserver.settings import ModelParameters, ModelSettings
from mlserver.tensor import TensorData
from mlserver.types import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)


def tensor(
    data: Any, shape: Any = None, datatype: Any = "BYTES", content_type: str | None = None
) -> RequestInput:
    return RequestInput(
        name="x",
        shape=[len(data)] if shape is None else shape,
        datatype=datatype,
        data=data,
        parameters=None if content_type is None else Parameters(content_type=content_type),
    )


def bare(data: Any, shape: Any, datatype: Any = "BYTES", content_type: str | None = None) -> RequestInput:
    """A tensor whose data was assigned later, and so is not wrapped."""
    message = tensor([], shape, datatype, content_type)
    message.data = data
    return message


def request(*inputs: RequestInput, content_type: str | None = None) -> InferenceRequest:
    parameters = None if content_type is None else Parameters(content_type=content_type)
    return InferenceRequest(inputs=list(inputs), parameters=parameters)


def columns(**data: Any) -> InferenceRequest:
    return PandasCodec.encode_request(pd.DataFrame(data))


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """The codecs of the core alone; puts back what a test registers, and what runtimes did before it."""
    saved = [(registry, dict(registry._codecs)) for registry in (base._inputs, base._requests)]
    for registry, codecs in saved:
        registry._codecs = {name: codec for name, codec in codecs.items() if of_the_core(codec)}
        registry._all = None
    yield
    for registry, codecs in saved:
        registry._codecs = codecs
        registry._all = None


def of_the_core(codec: Any) -> bool:
    return isinstance(codec, base._Deferred) or codec.__module__.startswith("mlserver.")


class Upper(InputCodec):
    ContentType = "upper"
    TypeHint = str

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, str)

    @classmethod
    def encode_output(cls, name: str, payload: Any) -> ResponseOutput:  # type: ignore[override]
        return ResponseOutput(name=name, shape=[1], datatype="BYTES", data=[payload.lower()])

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        return request_input.data[0].upper()


# Imports


def test_codecs_are_light_to_import() -> None:
    code = (
        "import sys, mlserver.codecs as codecs\n"
        "heavy = {'pandas', 'asyncio', 'pydantic', 'uvloop', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert codecs.base.find_request_codec_by_payload([1]) is None\n"
        "assert 'pandas' not in sys.modules\n"
        "assert codecs.base.find_request_codec('pd').ContentType == 'pd'\n"
        "assert 'pandas' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_frame_is_found_by_payload_without_asking_for_its_codec() -> None:
    code = (
        "import mlserver.codecs as codecs, pandas as pd\n"
        "frame = pd.DataFrame({'a': [1]})\n"
        "assert codecs.base.find_request_codec_by_payload(frame) is codecs.PandasCodec\n"
        "assert codecs.base.find_request_codec_by_type_hint(pd.DataFrame) is codecs.PandasCodec\n"
        "assert list(codecs.base._requests._codecs) == ['str', 'np', 'pd']\n"
        "assert list(codecs.base._inputs._codecs) == ['str', 'np', 'base64', 'datetime']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_pandas_its_content_type_says_what_is_missing() -> None:
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "import mlserver.codecs as codecs\n"
        "from mlserver.errors import CodecError\n"
        "try: codecs.base.find_request_codec('pd')\n"
        "except CodecError as exc: assert 'pandas' in str(exc), exc\n"
        "else: raise SystemExit('no error')\n"
        "assert not hasattr(codecs, 'no_such_name')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_exported_names() -> None:
    for name in mlserver.codecs.__all__:
        assert getattr(mlserver.codecs, name) is not None
    from mlserver.codecs import errors

    assert errors.CodecError is mlserver.codecs.CodecError
    assert (DefaultInputPrefix, DefaultOutputPrefix) == ("input-", "output-")
    assert DecodedParameterName == "_decoded_payload"


# Registration and lookup


def test_by_content_type() -> None:
    assert base.find_input_codec("np") is NumpyCodec
    assert base.find_input_codec("str") is StringCodec
    assert base.find_input_codec("base64") is Base64Codec
    assert base.find_input_codec("datetime") is DatetimeCodec
    assert base.find_input_codec("pd") is None
    assert base.find_request_codec("pd") is PandasCodec
    assert base.find_request_codec("np") is NumpyRequestCodec
    assert base.find_request_codec("str") is StringRequestCodec
    assert base.find_request_codec("base64") is None
    assert base.find_input_codec("NP", payload=np.zeros(1)) is None
    assert base.find_input_codec() is None


@pytest.mark.parametrize(
    ("payload", "codec"),
    [
        (np.zeros(3), NumpyCodec),
        (["a"], StringCodec),
        ([b"a"], Base64Codec),
        ([datetime.now()], DatetimeCodec),
        ([pd.Timestamp(0)], DatetimeCodec),
        ([], StringCodec),
        ([date.today()], None),
        ([1], None),
        ("a", None),
        (("a",), None),
        (None, None),
    ],
)
def test_by_payload(payload: Any, codec: Any) -> None:
    assert base.find_input_codec_by_payload(payload) is codec
    assert base.find_input_codec(payload=payload) is codec


def test_by_payload_warns_of_several_and_of_none(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("mlserver").propagate = True
    base.find_input_codec_by_payload([])
    assert "'str', 'base64', 'datetime'" in caplog.text
    caplog.clear()
    base.find_request_codec_by_payload(object())
    assert "No request codec" in caplog.text


@pytest.mark.parametrize(
    ("hint", "codec"),
    [
        (np.ndarray, NumpyCodec),
        (npt.NDArray[np.float32], NumpyCodec),
        (Optional[np.ndarray], NumpyCodec),  # noqa: UP045
        (np.ndarray | None, NumpyCodec),
        (Optional[npt.NDArray[np.float32]], NumpyCodec),  # noqa: UP045
        (List[str], StringCodec),  # noqa: UP006
        (list[str], StringCodec),
        (Optional[List[str]], StringCodec),  # noqa: UP006, UP045
        (list[str] | None, StringCodec),
        (list[bytes], Base64Codec),
        (List[Union[str, datetime]], DatetimeCodec),  # noqa: UP006, UP007
        (list[datetime | str], DatetimeCodec),
        (list[datetime], DatetimeCodec),
        (list[int], None),
        (list, None),
        (str, None),
        (Any, None),
        (None, None),
        (type(None), None),
        (Union[int, str], None),  # noqa: UP007
        (dict[str, np.ndarray], None),
    ],
)
def test_by_type_hint(hint: Any, codec: Any) -> None:
    assert base.find_input_codec_by_type_hint(hint) is codec
    assert base.find_input_codec(type_hint=hint) is codec


def test_request_codecs_by_type_hint() -> None:
    assert base.find_request_codec(type_hint=pd.DataFrame) is PandasCodec
    assert base.find_request_codec_by_type_hint(Optional[pd.DataFrame]) is PandasCodec  # noqa: UP045
    assert base.find_request_codec_by_type_hint(list[str]) is StringRequestCodec
    assert base.find_request_codec_by_type_hint(np.ndarray) is None


def test_type_hints_as_users_compare_them() -> None:
    assert StringCodec.TypeHint == List[str]  # noqa: UP006
    assert DatetimeCodec.TypeHint == List[Union[str, datetime]]  # noqa: UP006, UP007
    assert NumpyRequestCodec.TypeHint is type(None)


def test_registration() -> None:
    assert register_input_codec(Upper) is Upper
    assert base.find_input_codec("upper") is Upper
    assert base.find_input_codec(payload="abc") is Upper
    assert base.find_input_codec(type_hint=str) is Upper

    class Later(Upper):
        pass

    register_input_codec(Later)
    assert base.find_input_codec("upper") is Later


def test_instances_are_codecs_too() -> None:
    class Scaled(InputCodec):
        ContentType = "scaled"

        def __init__(self, factor: float) -> None:
            self.factor = factor

        def decode_input(self, request_input: RequestInput) -> Any:  # type: ignore[override]
            return NumpyCodec.decode_input(request_input) * self.factor

    register_input_codec(Scaled(2.0))  # type: ignore[type-var]
    decoded = negotiation.decode_input(tensor([1, 2], datatype="FP32", content_type="scaled"))
    assert decoded.tolist() == [2.0, 4.0]


def test_a_hint_of_a_dict_is_found_once_a_codec_has_it() -> None:
    @register_request_codec
    class DictCodec(RequestCodec):
        ContentType = "dict"
        TypeHint = Dict[str, np.ndarray]  # noqa: UP006

    assert base.find_request_codec_by_type_hint(dict[str, np.ndarray]) is DictCodec


def test_interfaces_are_not_implemented() -> None:
    for call in (
        lambda: InputCodec.encode_output("x", 1),
        lambda: InputCodec.encode_input("x", 1),
        lambda: InputCodec.decode_input(tensor([1])),
        lambda: InputCodec.decode_output(ResponseOutput(name="x", shape=[1], datatype="FP32", data=[1])),
        lambda: RequestCodec.encode_request(1),
        lambda: RequestCodec.encode_response("m", 1),
        lambda: RequestCodec.decode_request(request()),
        lambda: RequestCodec.decode_response(InferenceResponse(model_name="m", outputs=[])),
        lambda: SingleInputRequestCodec.encode_request(1),
        lambda: SingleInputRequestCodec.encode_response("m", 1),
    ):
        with pytest.raises(NotImplementedError):
            call()
    assert not InputCodec.can_encode(1)
    assert not RequestCodec.can_encode(1)
    assert not SingleInputRequestCodec.can_encode(1)


def test_old_names_warn_and_delegate(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("mlserver").propagate = True
    assert NumpyCodec.encode("x", np.zeros(1)) == NumpyCodec.encode_output("x", np.zeros(1))
    assert NumpyCodec.decode(tensor([1], datatype="FP32")).tolist() == [1]
    assert NumpyRequestCodec.encode("m", np.zeros(1)).model_name == "m"
    assert NumpyRequestCodec.decode(request(tensor([1], datatype="FP32"))).tolist() == [1]
    assert caplog.text.count("DEPRECATED") == 4


def test_a_codec_needs_no_keyword_arguments() -> None:
    class Whole(SingleInputRequestCodec):
        InputCodec = Upper
        ContentType = "upper"

    assert Whole.encode_request("ABC").inputs[0].data[0] == "abc"
    assert Whole.decode_request(Whole.encode_request("ABC")) == "ABC"
    assert Upper.decode_output(Upper.encode_output("x", "ABC")) == "ABC"


# numpy


@pytest.mark.parametrize(
    ("dtype", "datatype"),
    [
        ("?", "BOOL"),
        ("u1", "UINT8"),
        ("<u2", "UINT16"),
        (">u4", "UINT32"),
        (">i8", "INT64"),
        ("f2", "FP16"),
        (">f8", "FP64"),
        ("longlong", "INT64"),
        ("S3", "BYTES"),
        ("U3", "BYTES"),
        ("O", "BYTES"),
    ],
)
def test_to_datatype(dtype: str, datatype: str) -> None:
    assert to_datatype(np.dtype(dtype)) is Datatype[datatype]


@pytest.mark.parametrize("dtype", ["c8", "M8[ns]", "m8[ns]", [("a", "i4")], "V4"])
def test_dtypes_that_no_datatype_has(dtype: Any) -> None:
    with pytest.raises(CodecError, match="dtype"):
        NumpyCodec.encode_output("x", np.zeros(1, dtype=dtype))


def test_to_dtype() -> None:
    assert to_dtype(tensor([1], datatype="FP32")) == np.float32
    assert to_dtype(MetadataTensor(name="x", shape=[-1], datatype="INT8")) == np.int8
    assert to_dtype(tensor(["a", "bc"])) == np.dtype(str)
    assert to_dtype(tensor([b"ab"], [1, 2])) == np.dtype("S2")
    assert to_dtype(MetadataTensor(name="x", shape=[-1, 3], datatype="BYTES")) == np.dtype("S3")
    assert to_dtype(MetadataTensor(name="x", shape=[-1], datatype="BYTES")) == np.dtype("S")


def test_convert_nan() -> None:
    assert convert_nan(float("nan")) is None
    assert convert_nan(np.float32(1.5)) == 1.5
    assert convert_nan(3) == 3
    for value in (None, "a"):
        with pytest.raises(TypeError):
            convert_nan(value)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i2", "u4", "i8", "f2", "f4", "f8"])
def test_byte_order_does_not_matter(byte_order: str, kind: str) -> None:
    array = np.array([[1, 2], [3, 4]], dtype=byte_order + kind)
    message = NumpyCodec.encode_input("x", array)
    np.testing.assert_array_equal(NumpyCodec.decode_input(message), array)
    assert message.data.root == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("array", "data"),
    [
        (np.ma.array([1.0, np.nan, 3.0], mask=[0, 0, 1]), [1.0, None, None]),
        (np.ma.array([[1, 2]], mask=[[0, 1]]), [1, None]),
        (np.ma.array([1, 2], mask=[0, 0]), [1, 2]),
        (np.ma.array([1, 2]), [1, 2]),
        (np.ma.array(["a", "b"], mask=[0, 1]), [b"a", None]),
    ],
)
def test_masked_elements_are_null(array: Any, data: list[Any]) -> None:
    assert NumpyCodec.encode_output("x", array).data.root == data


def test_other_things_with_a_dtype() -> None:
    assert NumpyCodec.encode_output("x", np.float32(1.5)).model_dump()["data"] == [1.5]
    series = NumpyCodec.encode_output("x", pd.Series([1, 2]))
    assert (series.shape, series.datatype, series.data.root) == ([2, 1], "INT64", [1, 2])
    with pytest.raises(AttributeError):
        NumpyCodec.encode_output("x", [1, 2])


@pytest.mark.skipif(not hasattr(np, "dtypes") or not hasattr(np.dtypes, "StringDType"), reason="numpy 2 only")
def test_variable_width_strings() -> None:
    array = np.array(["a", "é"], dtype=np.dtypes.StringDType())
    assert NumpyCodec.encode_output("x", array).data.root == [b"a", "é".encode()]


@pytest.mark.parametrize(
    ("data", "shape", "expected"),
    [
        (["a", "bcd"], [2], np.array(["a", "bcd"])),
        ([b"a", b"bcd"], [2], np.array([b"a", b"bcd"])),
        ([b"a", b"bcd"], [2, 1], np.array([[b"a"], [b"bcd"]])),
        ([b"abcd"], [1], np.array([b"abcd"])),
        ([b"abcdefgh"], [2, 2], np.array([[b"ab", b"cd"], [b"ef", b"gh"]])),
        ([b"abcd", b"efgh"], [2, 2], np.array([[b"ab", b"cd"], [b"ef", b"gh"]])),
        ([b"ab", b"cd"], [-1], np.array([b"ab", b"cd"])),
        ([b"a\0", b"b"], [2], np.array([b"a\0", b"b"], dtype=object)),
        (["a\0", "b"], [2], np.array(["a\0", "b"], dtype=object)),
        (["a", None, 1, b"b"], [4], np.array(["a", None, 1, b"b"], dtype=object)),
        ([["a"], ["b"]], [2, 1], np.array([["a"], ["b"]], dtype=object)),
        ("abc", [1], np.array(["abc"], dtype=object)),
        ([], [0], np.array([], dtype=str)),
        ([], [0, 3], np.zeros((0, 3), dtype=str)),
        ([b""], [0, 1], np.zeros((0, 1), dtype="S1")),
        ([b""], [1], np.array([b""])),
        (["a"] * 999 + ["b" * 2**20], [1000], np.array(["a"] * 999 + ["b" * 2**20], dtype=object)),
    ],
)
def test_bytes_to_arrays(data: Any, shape: list[int], expected: Any) -> None:
    decoded = NumpyCodec.decode_input(tensor(data, shape))
    assert decoded.dtype == expected.dtype
    assert decoded.shape == expected.shape
    assert decoded.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("data", "shape"),
    [(["a"], [2]), ([b"ab"], [3]), ([b"ab", b"cd"], [3]), ([b"abc"], [0]), ([b""], [10**12]), ([], [1])],
)
def test_bytes_that_do_not_fill_their_shape(data: Any, shape: list[int]) -> None:
    with pytest.raises(InvalidTensor, match=rf"{shape[0]} elements, but {len(data)} values were given"):
        NumpyCodec.decode_input(tensor(data, shape))


DATE = "2026-11-26T10:00:00"


@pytest.mark.parametrize("codec", [StringCodec, Base64Codec, DatetimeCodec])
def test_lists_fill_their_shape(codec: type[InputCodec]) -> None:
    """A single element may have any: clients of 1.x give the length of a text as the shape."""
    for data, shape in ([DATE], [7, 7]), ([DATE] * 2, [-1]), ([DATE] * 2, [2, 1]), ([], [0, 4]), (DATE, [10]):
        assert len(codec.decode_input(tensor(data, shape))) == (1 if data == DATE else len(data))
    for data, shape in ([DATE] * 3, [2]), ([DATE] * 2, [3, 1]), ([], [1]), ([DATE] * 2, []):
        with pytest.raises(InvalidTensor, match=rf"'x' has shape .*, but {len(data)} values were given"):
            codec.decode_input(tensor(data, shape))


def test_errors_name_the_tensor_and_both_numbers() -> None:
    with pytest.raises(CodecError, match=r"'x': .*\[2, 3\], which has 6 elements, but 3 values were given"):
        NumpyCodec.decode_input(tensor([1, 2, 3], [2, 3], "FP32"))
    with pytest.raises(CodecError, match=r"'x': element 1 is 'b', which is no INT32"):
        NumpyCodec.decode_input(tensor([1, "b"], [2], "INT32"))


def test_decoded_arrays_are_the_callers_own() -> None:
    array = np.zeros(3)
    message = NumpyCodec.encode_input("x", array)
    decoded = NumpyCodec.decode_input(message)
    decoded += 1
    assert array.tolist() == [0, 0, 0]
    assert NumpyCodec.decode_input(message).tolist() == [[0], [0], [0]]
    assigned = bare(array, [3], "FP64")
    NumpyCodec.decode_input(assigned)[0] = 5
    assert array.tolist() == [0, 0, 0]


def test_bare_data_and_enum_members() -> None:
    for data in ([1, 2], (1, 2), np.array([1, 2]), range(1, 3)):
        assert NumpyCodec.decode_input(bare(data, (2,), Datatype.FP32)).tolist() == [1, 2]
    assert NumpyCodec.decode_input(bare(np.array(["a", "b"]), [2, 1])).tolist() == [["a"], ["b"]]
    assert NumpyCodec.decode_input(bare(("a", 1), [2])).tolist() == ["a", 1]


def test_helpers_of_the_numpy_codec() -> None:
    assert _encode_data(np.array([1.0, np.nan]), "FP64") == [1.0, None]
    assert _encode_data(np.array(["a"]), "BYTES") == [b"a"]
    assert _to_ndarray(tensor([1, 2], [2], "INT8")).tolist() == [1, 2]


def test_text_that_utf8_cannot_hold() -> None:
    with pytest.raises(CodecError, match="UTF-8"):
        NumpyCodec.encode_output("x", np.array(["\ud800"]))
    with pytest.raises(CodecError, match="UTF-8"):
        StringCodec.encode_output("x", ["\ud800"])
    column = pd.Series(["\ud800", None], dtype=object)  # where pyarrow is, pandas would make its text of it
    with pytest.raises(CodecError, match="UTF-8"):
        PandasCodec.encode_outputs(pd.DataFrame({"a": column}))


# Lists: text, base64, points in time


def test_null_among_strings() -> None:
    output = StringCodec.encode_output("x", ["a", None], use_bytes=False)
    assert output.data.root == ["a", None]
    assert StringCodec.encode_output("x", ["a", None]).data.root == [b"a", None]


@pytest.mark.parametrize("payload", [[1], [b"a"], [["a"]], "abc", np.array(["a"]), ("a",)])
def test_what_is_no_list_of_strings(payload: Any) -> None:
    if isinstance(payload, list):
        with pytest.raises(CodecError, match=r"element 0 is .*, expected str"):
            StringCodec.encode_output("x", payload)
    else:
        assert StringCodec.decode_output(StringCodec.encode_output("x", payload)) in (["a"], ["abc"])


def test_bytes_that_are_not_utf8() -> None:
    with pytest.raises(CodecError, match=r"'x': .*UTF-8"):
        StringCodec.decode_input(tensor([b"\xff"]))


def test_strings_of_bare_data() -> None:
    assert StringCodec.decode_input(bare(["a", b"b"], [2])) == ["a", "b"]
    assert StringCodec.decode_input(bare("a", [1])) == ["a"]
    assert StringCodec.decode_input(bare(np.array([["a"], ["b"]]), [2, 1])) == ["a", "b"]
    assert StringCodec.decode_input(tensor([1], datatype="INT8")) == [""]


@pytest.mark.parametrize(("codec", "texts"), [(StringCodec, ["a", "b"]), (Base64Codec, ["YQ==", "Yg=="])])
def test_nested_text_is_flattened(codec: Any, texts: list[str]) -> None:
    flat = codec.decode_input(bare(texts, [2]))
    assert len(flat) == 2
    for nested, shape in (
        ([[t] for t in texts], [2, 1]),
        ([texts], [1, 2]),
        ([[[t] for t in texts]], [1, 2, 1]),
    ):
        assert codec.decode_input(bare(nested, shape)) == flat
    with pytest.raises(InvalidTensor, match=r"\[2, 2\].*4.*2"):
        codec.decode_input(bare([texts], [2, 2]))


def test_nested_points_in_time() -> None:
    assert DatetimeCodec.decode_input(bare([["2021-01-01"]], [1, 1])) == [datetime(2021, 1, 1)]


def test_string_helpers() -> None:
    assert encode_str("é") == "é".encode()
    assert decode_str("é".encode()) == decode_str("é") == "é"
    assert decode_str(None) is None
    assert decode_str(5) == decode_str(["a"]) == ""


def test_decoding_does_not_share_the_list() -> None:
    message = tensor(["a"])
    StringCodec.decode_input(message).append("b")
    assert message.data.root == ["a"]


@pytest.mark.parametrize("data", [[None], [5], ["é"], [["YQ=="], "YQ=="]])
def test_what_is_no_base64(data: Any) -> None:
    with pytest.raises(CodecError, match="'x': element 0 is"):
        Base64Codec.decode_input(tensor(data))
    with pytest.raises(CodecError, match="'x': element 0 is"):
        Base64Codec.encode_output("x", data)


def test_base64_is_strict() -> None:
    taken_as_they_are = [b"YQ", b"YQ=", b"YQ==\n", b"Y Q=", b"_-__", b"\xff\xfe\xfd\xfc", b"YQ==YQ=="]
    assert Base64Codec.decode_input(tensor(taken_as_they_are)) == taken_as_they_are
    assert Base64Codec.decode_input(bare("YQ==", [1])) == [b"a"]
    assert Base64Codec.decode_input(bare(["YQ==", b"Yg=="], [2])) == [b"a", b"b"]


@pytest.mark.parametrize(
    "element", ["tomorrow", "", "2021-13-01", 5, 48_043_576_383, {"day": 1}, b"\xff", "é"]
)
def test_what_is_no_point_in_time(element: Any) -> None:
    with pytest.raises(CodecError, match=r"'x': element 1 is .*, expected ISO 8601 text"):
        DatetimeCodec.decode_input(tensor(["2021-01-01", element]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2021-08-24", datetime(2021, 8, 24)),
        ("2021-08-24T15:01:19Z", datetime(2021, 8, 24, 15, 1, 19, tzinfo=timezone.utc)),
        ("2021-08-24T15:01:19.123456789", datetime(2021, 8, 24, 15, 1, 19, 123456)),
    ],
)
def test_points_in_time(text: str, expected: datetime) -> None:
    assert DatetimeCodec.decode_input(tensor([text, None])) == [expected, None]
    assert DatetimeCodec.decode_input(bare(text.encode(), [1])) == [expected]


def test_encoding_points_in_time() -> None:
    payload = [datetime(2021, 1, 1), "2021-01-01", date(2021, 1, 1), None, pd.Timestamp("2021-01-01")]
    assert DatetimeCodec.encode_output("x", payload, use_bytes=False).data.root == [
        "2021-01-01T00:00:00",
        "2021-01-01",
        "2021-01-01",
        None,
        "2021-01-01T00:00:00",
    ]
    with pytest.raises(CodecError, match="element 0 is int"):
        DatetimeCodec.encode_output("x", [5])


def test_list_helpers() -> None:
    assert is_list_of(["a"], str)
    assert is_list_of([], str)
    assert not is_list_of(("a",), str)
    assert not is_list_of(["a", 1], str)
    assert not is_list_of("a", str)
    assert list(as_list(["a", "b"])) == ["a", "b"]
    assert list(as_list(("a", "b"))) == [("a", "b")]
    assert list(as_list(None)) == [None]
    assert list(as_list("ab")) == ["ab"]
    assert list(as_list(TensorData(["a", "b"]))) == ["a", "b"]
    assert list(as_list(TensorData("ab"))) == ["ab"]


# JSON


def test_json_helpers() -> None:
    assert encode_to_json_bytes({"a": float("nan"), "b": b"x", "c": date(2021, 1, 1)}) == (
        b'{"a":null,"b":"x","c":"2021-01-01"}'
    )
    for value in (b"\xff", np.zeros(1), np.float32(1), tensor([1]), {1: 2}, 2**64):
        with pytest.raises(TypeError):
            encode_to_json_bytes([value])
    assert decode_from_bytelike_json_to_dict(b'{"a": 1}') == {"a": 1}
    assert decode_from_bytelike_json_to_dict("[1]") == [1]
    assert decode_from_bytelike_json_to_dict(memoryview(b"1")) == 1
    with pytest.raises(ValueError, match="unexpected end"):
        decode_from_bytelike_json_to_dict("{")
    value = {"a": np.array([[1, 2]]), "b": np.float32(0.5), "c": np.int8(3), "d": "é"}
    assert encode_to_json(value) == '{"a":[[1,2]],"b":0.5,"c":3,"d":"é"}'.encode()
    assert encode_to_json("é", use_bytes=False) == '"é"'
    with pytest.raises(ValueError, match="JSON compliant"):
        encode_to_json(float("nan"))
    for value in (b"a", np.bool_(True), datetime.now()):
        with pytest.raises(TypeError):
            encode_to_json(value)
    assert json.dumps({"a": np.arange(2)}, cls=JSONEncoderWithArray) == '{"a": [0, 1]}'
    assert decode_json_input_or_output(tensor(['{"a":1}', b"[1]", None])) == [{"a": 1}, [1], None]
    with pytest.raises(CodecError, match="'x': element 1 is no JSON"):
        decode_json_input_or_output(tensor(["1", "{"]))
    with pytest.raises(CodecError, match="'x': element 0 is no JSON"):
        decode_json_input_or_output(tensor([5]))


# Whole requests


@pytest.mark.parametrize(("shape", "expected"), [((), [1]), ((3,), [3, 1]), ((0,), [0, 1]), ((2, 3), [2, 3])])
def test_inject_batch_dimension(shape: tuple[int, ...], expected: list[int]) -> None:
    assert inject_batch_dimension(shape) == expected
    assert inject_batch_dimension(list(shape)) == expected


def test_a_single_input_is_decoded_once() -> None:
    message = request(tensor([1, 2], datatype="FP32"))
    decoded = NumpyRequestCodec.decode_request(message)
    assert NumpyRequestCodec.decode_request(message) is decoded
    assert get_decoded(message.inputs[0]) is decoded


def test_what_was_decoded_by_another_codec_is_taken() -> None:
    message = request(tensor(["YQ=="], content_type="base64"))
    assert negotiation.decode_request(message, default_codec=NumpyRequestCodec) == [b"a"]


def test_responses_of_several_outputs() -> None:
    outputs = [ResponseOutput(name=name, shape=[1], datatype="FP32", data=[1]) for name in "ab"]
    with pytest.raises(CodecError, match=r"only supports a single output tensor \(2 were received\)"):
        NumpyRequestCodec.decode_response(InferenceResponse(model_name="m", outputs=outputs))


def test_without_an_input_codec_the_data_is_raw() -> None:
    message = request(tensor([1, 2], datatype="FP32"))
    assert SingleInputRequestCodec.decode_request(message) is message.inputs[0].data


# Data frames


def frame_of(*inputs: RequestInput) -> pd.DataFrame:
    return PandasCodec.decode_request(request(*inputs))


def named(name: str, message: RequestInput) -> RequestInput:
    message.name = name
    return message


@pytest.mark.parametrize(
    ("series", "datatype", "content_type", "data"),
    [
        (pd.Series([1, 2], dtype="Int64"), "INT64", None, [1, 2]),
        (pd.Series([1, None], dtype="Int8"), "FP64", None, [1.0, None]),
        (pd.Series([2**60, None], dtype="Int64"), "BYTES", "pd_json", [str(2**60), None]),
        (pd.Series([None, None], dtype="UInt16"), "FP64", None, [None, None]),
        (pd.Series([1.5, None], dtype="Float32"), "FP32", None, [1.5, None]),
        (pd.Series([True, False], dtype="boolean"), "BOOL", None, [True, False]),
        (pd.Series([True, None], dtype="boolean"), "BYTES", "pd_json", ["true", None]),
        (pd.Series(["a", None], dtype="string"), "BYTES", "str", ["a", None]),
        (pd.Series(["a", "b"]), "BYTES", "str", ["a", "b"]),
        (pd.Series(["a", None, float("nan"), pd.NA], dtype=object), "BYTES", "str", ["a", None, None, None]),
        (pd.Series([{"a": 1}, None], dtype=object), "BYTES", "pd_json", ['{"a":1}', None]),
        (pd.Series([1, None, "a"], dtype=object), "BYTES", "pd_json", ["1", None, '"a"']),
        (pd.Series([np.bool_(True), None], dtype=object), "BYTES", "pd_json", ["true", None]),
        (pd.Series([[1.0, float("nan")]], dtype=object), "BYTES", "pd_json", ["[1.0,null]"]),
        (pd.Series([{"a": {"b": [float("inf")]}}], dtype=object), "BYTES", "pd_json", ['{"a":{"b":[null]}}']),
        (pd.Series([np.arange(2)], dtype=object), "BYTES", "pd_json", ["[0,1]"]),
        (pd.Series(["a", "b", "a"], dtype="category"), "BYTES", "str", ["a", "b", "a"]),
        (pd.Series([1, 2, 1], dtype="category"), "INT64", None, [1, 2, 1]),
        (pd.Series([1, None], dtype=pd.CategoricalDtype([1, 2])), "FP64", None, [1.0, None]),
        (pd.Series([b"a", b"b"], dtype=object), "BYTES", "str", [b"a", b"b"]),
        (pd.Series([b"a", b"\xff"], dtype=object), "BYTES", "base64", ["YQ==", "/w=="]),
        (pd.Series(["é", b"\xff"], dtype=object), "BYTES", "base64", ["w6k=", "/w=="]),
        (pd.Series(pd.to_datetime(["2021-01-01", None])), "BYTES", "datetime", ["2021-01-01T00:00:00", None]),
        (
            pd.Series(pd.to_datetime(["2021-01-01"]).tz_localize("UTC")),
            "BYTES",
            "datetime",
            ["2021-01-01T00:00:00+00:00"],
        ),
        (
            pd.Series([datetime(2021, 1, 1), None], dtype=object),
            "BYTES",
            "datetime",
            ["2021-01-01T00:00:00", None],
        ),
        (pd.Series([0, 1], dtype=pd.SparseDtype("int64")), "INT64", None, [0, 1]),
        (pd.Series(np.array([1, 2], dtype=">i4")), "INT32", None, [1, 2]),
        (pd.Series([], dtype=object), "BYTES", "str", []),
        (pd.Series([], dtype="float32"), "FP32", None, []),
    ],
)
def test_columns(series: Any, datatype: str, content_type: str | None, data: list[Any]) -> None:
    (output,) = PandasCodec.encode_outputs(pd.DataFrame({"c": series}), use_bytes=False)
    assert output.datatype == datatype
    assert output.shape == [len(data), 1]
    assert output.data.root == data
    assert (output.parameters and output.parameters.content_type) == content_type


@pytest.mark.parametrize(
    "series",
    [
        pd.Series([1j]),
        pd.Series(pd.to_timedelta([1])),
        pd.Series([object()], dtype=object),
        pd.Series([b"a", 1], dtype=object),
        pd.Series([date(2021, 1, 1)], dtype=object),
        pd.Series([b"\xff", None], dtype=object),
        pd.Series(pd.period_range("2021-01", periods=1)),
    ],
    ids=lambda series: str(series.dtype),
)
def test_columns_that_cannot_be_encoded_are_named(series: Any) -> None:
    with pytest.raises(CodecError, match="'colour'"):
        PandasCodec.encode_outputs(pd.DataFrame({"colour": series}))


def test_frames_share_nothing() -> None:
    """Labels are made once for all requests that name the same columns."""
    request = PandasCodec.encode_request(pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}))
    first = PandasCodec.decode_request(request)
    first.columns.name = "mine"
    first["c"] = first.pop("a")
    second = PandasCodec.decode_request(request)
    assert (list(second.columns), second.columns.name) == (["a", "b"], None)
    assert second.to_numpy().tolist() == [[1.0, 3.0], [2.0, 4.0]]


@pytest.mark.parametrize("declared", [True, False], ids=["by the model", "by the request"])
@pytest.mark.parametrize(
    ("content_type", "value"),
    [(None, "a"), ("str", "a"), ("np", "a"), ("datetime", "2021-01-01"), ("base64", "YQ==")],
)
def test_columns_without_values_are_like_others(content_type: str | None, value: str, declared: bool) -> None:
    """A row becomes the same, whatever rows come with it."""

    def column(values: list[Any]) -> Any:
        tensor = RequestInput(name="c", shape=[len(values), 1], datatype="BYTES", data=values)
        parameters = Parameters(content_type=content_type)
        if declared and content_type:
            metadata = MetadataTensor(name="c", datatype="BYTES", shape=[-1, 1], parameters=parameters)
            return negotiation.decode_request(request(tensor), None, {"c": metadata}, PandasCodec)["c"]
        tensor.parameters = parameters
        return PandasCodec.decode_request(request(tensor))["c"]

    if content_type == "base64":  # has no null
        assert column([]).dtype == column([value]).dtype
        return
    beside = column([value, None])
    assert column([]).dtype == column([value]).dtype == beside.dtype
    for alone in (column([None]), column([None, None])):
        assert alone.dtype == beside.dtype and len(alone) in (1, 2)
        assert alone[0] is beside[1] or (alone[0] != alone[0] and beside[1] != beside[1])
    echoed = PandasCodec.encode_outputs(pd.DataFrame({"c": column([])}))[0]
    assert (echoed.datatype, echoed.shape) == ("BYTES", [0, 1])


def test_long_labels_are_not_remembered() -> None:
    """Clients choose them."""
    frame = pd.DataFrame({"a" * 5000: [1.0], "b": [2.0]})
    before = pandas_codec._remembered.cache_info().misses
    assert PandasCodec.decode_request(PandasCodec.encode_request(frame)).equals(frame)
    assert pandas_codec._remembered.cache_info().misses == before


def test_labels_become_text() -> None:
    frame = pd.DataFrame([[1, 2]])
    assert [output.name for output in PandasCodec.encode_outputs(frame)] == ["0", "1"]
    frame.columns = pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])
    assert [output.name for output in PandasCodec.encode_outputs(frame)] == ["('a', 1)", "('a', 2)"]
    for labels in (["a", "a"], [1, "1"]):
        frame.columns = pd.Index(labels, dtype=object)
        with pytest.raises(CodecError, match="two columns"):
            PandasCodec.encode_outputs(frame)


def test_index_and_empty_frames() -> None:
    frame = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    assert PandasCodec.decode_request(PandasCodec.encode_request(frame)).index.tolist() == [0, 1]
    assert PandasCodec.encode_outputs(pd.DataFrame()) == []
    assert PandasCodec.decode_request(request()).empty


def test_frames_do_not_share_memory_with_messages() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0]})
    message = PandasCodec.encode_request(frame)
    decoded = PandasCodec.decode_request(message)
    decoded.loc[0, "a"] = 5.0
    assert frame["a"].tolist() == [1.0, 2.0]
    assert PandasCodec.decode_request(message)["a"].tolist() == [1.0, 2.0]


def test_content_type_of_columns() -> None:
    frame = frame_of(
        named("text", tensor([b"a", None], content_type="str")),
        named("raw", tensor([b"a", "b"])),
        named("json", tensor(["[1]", None], content_type="pd_json")),
        named("binary", tensor(["YQ==", "Yg=="], content_type="base64")),
        named("when", tensor(["2021-01-01", "2022-01-01"], content_type="datetime")),
        named("strange", tensor(["a", "b"], content_type="nobody-knows")),
    )
    assert frame["text"].tolist()[0] == "a"
    assert frame["text"].isna().tolist() == [False, True]
    assert frame["raw"].tolist() == [b"a", "b"]
    assert frame["json"].tolist()[0] == [1]
    assert frame["binary"].tolist() == [b"a", b"b"]
    assert frame["when"].tolist() == [pd.Timestamp("2021-01-01"), pd.Timestamp("2022-01-01")]
    assert frame["strange"].tolist() == ["a", "b"]


def test_columns_that_were_decoded() -> None:
    message = request(
        named("a", tensor([1, 2], [2, 1], "INT8", "np")),
        named("b", tensor(["x", "y"], [2, 1], content_type="np")),
        named("c", tensor(["x", "y"], [2], content_type="np")),
        named("d", tensor([3.5, 4.5], [2], "FP32", "np")),
        content_type="pd",
    )
    frame = negotiation.decode_request(message)
    assert frame.dtypes.astype(str).tolist()[0] == "int8"
    assert frame["b"].tolist() == frame["c"].tolist() == ["x", "y"]
    assert frame["d"].dtype == np.float32


def test_a_decoded_matrix_is_no_column() -> None:
    message = request(named("a", tensor([1, 2, 3, 4], [2, 2], "INT8", "np")), content_type="pd")
    with pytest.raises(CodecError, match=r"'a': shape \[2, 2\] has 4 values in 2 rows"):
        negotiation.decode_request(message)


def test_rows_of_raw_data() -> None:
    assert frame_of(tensor([1, 2, 3, 4], [2, 2], "FP32"))["x"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert frame_of(tensor([[1], [2]], [2, 1], "FP32"))["x"].tolist() == [1.0, 2.0]
    assert frame_of(tensor([[1, 2], [3, 4]], [2, 2], "FP32"))["x"].tolist() == [(1, 2), (3, 4)]
    assert frame_of(tensor([["a"], ["b"]], [2, 1]))["x"].tolist() == ["a", "b"]
    assert frame_of(tensor([["a", "b"]], [1, 2]))["x"].tolist() == [("a", "b")]
    assert frame_of(tensor("abc", [1]))["x"].tolist() == ["a", "b", "c"]
    assert frame_of(tensor(1.5, [1], "FP32"))["x"].tolist() == [1.5]
    array = TensorData.from_array(np.arange(4.0).reshape(2, 2))
    assert frame_of(tensor(array, [2, 2], "FP64"))["x"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert frame_of(bare([1, 2], [2], Datatype.INT8))["x"].dtype == np.int8


def test_columns_of_different_length_are_padded() -> None:
    frame = frame_of(named("a", tensor([1, 2], datatype="INT8")), named("b", tensor([1], datatype="INT8")))
    assert frame["a"].tolist() == [1, 2]
    assert frame["b"].tolist()[0] == 1
    assert frame["b"].isna().tolist() == [False, True]


def test_columns_that_do_not_fit_are_named() -> None:
    with pytest.raises(CodecError, match="'x': element 1 is None, which is no INT32"):
        frame_of(tensor([1, None], datatype="INT32"))
    with pytest.raises(CodecError, match="'x': element 0 is no JSON"):
        frame_of(tensor(["{"], content_type="pd_json"))


def test_large_integers_with_holes_stay_what_they_are() -> None:
    frame = pd.DataFrame({"a": pd.Series([2**60 + 1, None], dtype="Int64")})
    assert PandasCodec.decode_request(PandasCodec.encode_request(frame))["a"].tolist() == [2**60 + 1, None]


# The decoded form


def test_decoded_forms() -> None:
    message = tensor(["a"])
    assert not has_decoded(message)
    assert get_decoded(message) is None
    assert get_decoded_or_raw(message) is message.data
    whole = request(message)
    assert get_decoded_or_raw(whole) is whole
    _save_decoded(message, None)
    assert has_decoded(message)
    assert get_decoded_or_raw(message) is None
    _save_decoded(whole, [1])
    assert get_decoded(whole) == [1]
    assert "_decoded_payload" not in whole.model_dump_json()


# Choice


class Settings:
    """What negotiation asks of model settings."""

    def __init__(self, content_type: str | None = None) -> None:
        self.name, self.version = "m", "v"
        self.parameters = None if content_type is None else Parameters(content_type=content_type)


def declared(name: str, content_type: str | None) -> dict[str, MetadataTensor]:
    parameters = Parameters(content_type=content_type)
    return {name: MetadataTensor(name=name, shape=[-1], datatype="BYTES", parameters=parameters)}


@pytest.mark.parametrize(
    ("own", "metadata", "default", "expected"),
    [
        ("base64", "str", StringCodec, [b"a"]),
        (None, "base64", StringCodec, [b"a"]),
        ("", "base64", StringCodec, [b"a"]),
        (None, None, StringCodec, ["YQ=="]),
        (None, "", StringCodec, ["YQ=="]),
        ("strange", "base64", StringCodec, ["YQ=="]),
        (None, "strange", StringCodec, ["YQ=="]),
        ("pd", None, StringCodec, ["YQ=="]),
        ("strange", None, None, "raw"),
        (None, None, None, "raw"),
    ],
)
def test_decoding_an_input(own: Any, metadata: Any, default: Any, expected: Any) -> None:
    message = tensor(["YQ=="], content_type=own)
    metadata_inputs = {} if metadata is None else declared("x", metadata)
    decoded = negotiation.decode_input(message, metadata_inputs, default)
    assert decoded is message.data if expected == "raw" else decoded == expected


def test_what_was_decoded_wins_over_the_default() -> None:
    message = tensor(["a"])
    _save_decoded(message, "decoded")
    assert negotiation.decode_input(message, {}, StringCodec) == "decoded"
    message.parameters = Parameters(content_type="str", _decoded_payload="decoded")
    assert negotiation.decode_input(message, {}, None) == ["a"]


def test_decoding_by_content_type_is_done_afresh() -> None:
    message = tensor(["a"], content_type="str")
    assert decode_request_input(message) == ["a"]
    message.data = ["b"]
    assert decode_request_input(message) == ["b"]
    assert get_decoded(message) == ["b"]


def test_decoding_by_default_keeps_nothing() -> None:
    message = tensor(["a"])
    negotiation.decode_input(message, {}, StringCodec)
    assert not has_decoded(message)
    assert decode_request_input(message) is None
    assert decode_request_input(tensor(["a"], content_type="strange")) is None


@pytest.mark.parametrize(
    ("own", "model", "default", "expected"),
    [
        ("str", "np", NumpyRequestCodec, list),
        (None, "str", NumpyRequestCodec, list),
        ("", "str", NumpyRequestCodec, list),
        (None, None, NumpyRequestCodec, np.ndarray),
        ("strange", "str", NumpyRequestCodec, np.ndarray),
        (None, "strange", NumpyRequestCodec, np.ndarray),
        ("base64", "str", NumpyRequestCodec, np.ndarray),
        ("pd", None, None, pd.DataFrame),
        ("strange", "str", None, InferenceRequest),
        (None, None, None, InferenceRequest),
    ],
)
def test_decoding_a_request(own: Any, model: Any, default: Any, expected: type) -> None:
    message = request(tensor(["a"]), content_type=own)
    decoded = negotiation.decode_request(message, Settings(model), {}, default)
    assert type(decoded) is expected
    if expected is InferenceRequest:
        assert decoded is message


def test_requests_without_a_codec_have_their_inputs_decoded() -> None:
    message = request(tensor(["YQ=="], content_type="base64"), tensor(["YQ=="]))
    assert decode_inference_request(message) is message
    assert get_decoded(message.inputs[0]) == [b"a"]
    assert not has_decoded(message.inputs[1])


def test_requests_keep_their_decoded_form() -> None:
    message = request(tensor(["a"]), content_type="str")
    assert decode_inference_request(message, Settings(), {}) == ["a"]
    assert get_decoded(message) == ["a"]


def test_metadata_may_say_that_a_column_is_json() -> None:
    message = request(tensor(["[1]", "[2, 3]"]), content_type="pd")
    frame = negotiation.decode_request(message, None, declared("x", "pd_json"))
    assert frame["x"].tolist() == [[1], [2, 3]]


@pytest.mark.parametrize(
    ("asked", "metadata", "default", "payload", "content_type"),
    [
        ("base64", "str", None, ["a"], "base64"),
        (None, "base64", None, ["a"], "base64"),
        ("", "base64", None, ["a"], "base64"),
        (None, None, StringCodec, np.zeros(1), "np"),
        (None, None, None, [b"a"], "base64"),
        (None, None, NumpyCodec, np.float32(1), "np"),
        ("strange", "base64", StringCodec, ["a"], "str"),
    ],
)
def test_encoding_an_output(asked: Any, metadata: Any, default: Any, payload: Any, content_type: str) -> None:
    wanted = RequestOutput(name="x", parameters=Parameters(content_type=asked, other=1))
    metadata_outputs = {} if metadata is None else declared("x", metadata)
    output = negotiation.encode_output(payload, wanted, metadata_outputs, default)
    assert output.name == "x"
    assert output.parameters.model_dump() == {"content_type": content_type}


@pytest.mark.parametrize(("asked", "payload"), [("strange", ["a"]), (None, object()), ("pd", ["a"])])
def test_outputs_that_nothing_encodes(asked: str | None, payload: Any) -> None:
    wanted = RequestOutput(name="x", parameters=Parameters(content_type=asked))
    with pytest.raises(CodecNotFound, match="Codec not found for output field with name 'x' and type"):
        negotiation.encode_output(payload, wanted)
    assert encode_response_output(payload, wanted) is None


def test_free_helpers_encode() -> None:
    output = encode_response_output(np.zeros(2), RequestOutput(name="x"))
    assert output is not None
    assert output.shape == [2, 1]


def test_encoding_a_response() -> None:
    response = negotiation.encode_response(np.zeros(2), "m", "v")
    assert (response.model_name, response.model_version) == ("m", "v")
    assert negotiation.encode_response(pd.DataFrame({"a": [1]}), "m").parameters.content_type == "pd"
    assert negotiation.encode_response(np.float32(1), "m", None, NumpyRequestCodec).outputs[0].data[0] == 1
    with pytest.raises(CodecNotFound, match="Codec not found for output response with type"):
        negotiation.encode_response(object(), "m")
    settings = ModelSettings(
        name="m", implementation="mlserver.MLModel", parameters=ModelParameters(version="v")
    )
    encoded = encode_inference_response(["a"], settings)
    assert encoded is not None
    assert (encoded.model_name, encoded.model_version) == ("m", "v")
    assert encode_inference_response(object(), settings) is None
