"""Requests into one request, and its response back into theirs. Pure: no clock, no queue, no model.

Rows are joined and cut along axis 0. `fits` tells which requests may be joined at all; `merge` joins them;
`split` undoes it: split(f(merge(requests))) gives each request what f(request) would have given, for any f
that treats rows alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from mlserver.errors import InvalidTensor, MLServerError
from mlserver.tensor import DTYPES, TensorData, flatten, reshape
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput

__all__ = ["Padding", "cuts_plainly", "fits", "merge", "merge_values", "rows_of", "split"]

_OWN = ("content_type", "headers")


Padding = Mapping[str, float]
"""Names of inputs that may be padded, and the value to do it with."""


def fits(request: InferenceRequest, padding: Padding = MappingProxyType({})) -> tuple[Any, ...] | None:
    """A key that is equal for requests which may be merged; None for one that has to go alone.

    Equal keys mean equal input names, datatypes, trailing dimensions, content types and requested outputs;
    of an input that may be padded, as many trailing dimensions.
    A request without inputs, with a tensor that has no first dimension, or with parameters of its own goes
    alone.
    """
    inputs = request.inputs
    if not inputs or _has_extra(request.parameters):
        return None
    rows = None
    key: list[Any] = [request.parameters and request.parameters.content_type]
    for tensor in inputs:
        shape, parameters = tensor.shape, tensor.parameters
        if (
            not shape
            or min(shape) < 0
            or shape[0] != (shape[0] if rows is None else rows)
            or _has_extra(parameters)
        ):
            return None
        rows = shape[0]
        trailing = shape[1:] if tensor.name not in padding else (len(shape),)
        key += (tensor.name, tensor.datatype, parameters and parameters.content_type, *trailing)
    for output in request.outputs or ():
        if _has_extra(output.parameters):
            return None
        key += (output.name, output.parameters and output.parameters.content_type)
    return tuple(key)


def _has_extra(parameters: Parameters | None) -> bool:
    return parameters is not None and bool(parameters.model_extra)


def rows_of(request: InferenceRequest) -> int:
    """How many rows a request brings: the first dimension of its last input; 1 where it has none."""
    shape = request.inputs[-1].shape if request.inputs else ()
    return int(shape[0]) if shape else 1


def merge(requests: Sequence[InferenceRequest], padding: Padding = MappingProxyType({})) -> InferenceRequest:
    """One request with the rows of all, in order. Inputs go by name; parameters of the requests are
    overlaid, the last wins. Inputs that may be padded are, behind, to the longest of each dimension.

    Raises InvalidTensor or CodecError when a tensor's values do not fill its shape; the message does not
    say whose it was, so a caller who needs to know asks one by one.
    """
    names: dict[str, list[RequestInput]] = {}
    for request in requests:
        for tensor in request.inputs:
            names.setdefault(tensor.name, []).append(tensor)
    outputs: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    for request in requests:
        outputs.update((output.name, output) for output in request.outputs or ())
        parameters.update(request.parameters.items() if request.parameters is not None else ())
    merged: InferenceRequest = InferenceRequest.build(
        inputs=[_merge_tensors(tensors, padding.get(name)) for name, tensors in names.items()],
        outputs=list(outputs.values()) or None,
        parameters=Parameters(**parameters) if parameters else None,
    )
    return merged


def merge_values(request: InferenceRequest, rows: int, data: TensorData) -> InferenceRequest:
    """What `merge` makes of requests that equal `request` but for their rows and values.

    request: has one input, and `fits`. rows: of all together. data: of all, as many values as they need.
    """
    tensor = request.inputs[0]
    merged: InferenceRequest = InferenceRequest.build(
        inputs=[
            RequestInput.build(
                name=tensor.name,
                shape=[rows, *tensor.shape[1:]],
                datatype=tensor.datatype,
                parameters=copy.copy(tensor.parameters),
                data=data,
            )
        ],
        outputs=copy.deepcopy(request.outputs) or None,
        parameters=copy.copy(request.parameters),
    )
    return merged


def _merge_tensors(tensors: Sequence[RequestInput], pad: float | None) -> RequestInput:
    first = tensors[0]
    if pad is not None and any(tensor.shape[1:] != first.shape[1:] for tensor in tensors):
        tensors = _padded(tensors, pad)
        first = tensors[0]
    rows = sum(int(tensor.shape[0]) if tensor.shape else 1 for tensor in tensors)
    merged: RequestInput = RequestInput.build(
        name=first.name,
        shape=[rows, *first.shape[1:]],
        datatype=first.datatype,
        parameters=_merge_parameters([tensor.parameters for tensor in tensors]),
        data=_merge_data(tensors, [rows, *first.shape[1:]]),
    )
    return merged


def _padded(tensors: Sequence[RequestInput], pad: float) -> list[RequestInput]:
    """Equal trailing dimensions for all: each as long as the longest, the new elements behind."""
    longest = [max(dims) for dims in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        data = tensor.data if isinstance(tensor.data, TensorData) else TensorData(tensor.data)
        array = reshape(data.to_array(tensor.datatype), tensor.shape, f"input '{tensor.name}'")
        widths = [(0, 0), *((0, most - dim) for most, dim in zip(longest, array.shape[1:], strict=True))]
        filled = np.pad(array, widths, constant_values=pad)
        padded.append(
            RequestInput.build(
                name=tensor.name,
                shape=list(filled.shape),
                datatype=tensor.datatype,
                parameters=tensor.parameters,
                data=TensorData.from_binary(filled),
            )
        )
    return padded


def _merge_data(tensors: Sequence[RequestInput], shape: list[int]) -> Any:
    datas = [data if isinstance(data := t.data, TensorData) else TensorData(data) for t in tensors]
    dtype = DTYPES.get(tensors[0].datatype)
    if dtype is not None:
        joined = _merge_numbers(tensors, datas, dtype).reshape(shape)
        return (
            TensorData.from_binary(joined)
            if all(data.keeps_nan for data in datas)
            else TensorData.from_array(joined)
        )
    roots = [data.root for data in datas]
    if all(isinstance(root, str) for root in roots):
        return TensorData("".join(roots))
    if all(isinstance(root, bytes) for root in roots):
        return TensorData(b"".join(roots))
    elements: list[Any] = []
    for tensor, root in zip(tensors, roots, strict=True):
        values = flatten(root.tolist() if isinstance(root, np.ndarray) else root)
        if len(values) != math.prod(tensor.shape):
            raise _wrong_size(tensor, len(values))
        elements += values
    return TensorData(elements)


def _merge_numbers(tensors: Sequence[RequestInput], datas: Sequence[TensorData], dtype: np.dtype[Any]) -> Any:
    # Short lists of JSON numbers, the common case, become one array at once.
    values: list[Any] = []
    for tensor, data in zip(tensors, datas, strict=True):
        some = data.short_list()
        if some is None:
            break
        if len(some) != math.prod(tensor.shape):
            break
        values += some
    else:
        return TensorData(values).to_array(tensors[0].datatype)
    arrays = [array for data in datas if (array := data.array) is not None and array.dtype == dtype]
    if len(arrays) == len(datas):
        # Bytes to bytes: for many small arrays quicker than `concatenate`.
        for tensor, array in zip(tensors, arrays, strict=True):
            if array.size != math.prod(tensor.shape):
                raise _wrong_size(tensor, array.size)
        joined = bytearray().join(arrays)  # type: ignore[arg-type] # buffers, which Python 3.10 has no type for
        return np.ndarray((len(joined) // dtype.itemsize,), dtype, joined)
    arrays = []
    for tensor, data in zip(tensors, datas, strict=True):
        array = data.to_array(tensor.datatype)
        if array.size != math.prod(tensor.shape):
            raise _wrong_size(tensor, array.size)
        arrays.append(array.ravel())
    return np.concatenate(arrays)


def _wrong_size(tensor: RequestInput, got: int) -> InvalidTensor:
    need = math.prod(tensor.shape)
    return InvalidTensor(
        f"input '{tensor.name}' has shape {list(tensor.shape)}, which has {need} elements, "
        f"but {got} values were given"
    )


def _merge_parameters(all_parameters: Sequence[Parameters | None]) -> Parameters | None:
    """Union of the keys. One that several members give becomes the list of their values, in order."""
    merged: dict[str, list[Any]] = {}
    for parameters in all_parameters:
        for key, value in parameters.items() if parameters is not None else ():
            merged.setdefault(key, []).append(value)
    if not merged:
        return None
    return Parameters(
        **{key: values[-1] if key in _OWN or len(values) == 1 else values for key, values in merged.items()}
    )


def split(
    response: InferenceResponse, rows: Sequence[int], ids: Sequence[str | None]
) -> list[InferenceResponse]:
    """The response to a merged request, cut into one per member: `rows[i]` rows and id `ids[i]` for the i-th.

    Raises MLServerError (500) when an output does not have as many rows as were asked about.
    """
    total = sum(rows)
    pieces = [_split_output(output, rows, total) for output in response.outputs]
    return [
        InferenceResponse.build(
            model_name=response.model_name,
            model_version=response.model_version,
            id=ids[member],
            parameters=copy.copy(response.parameters),
            outputs=[piece[member] for piece in pieces],
        )
        for member in range(len(rows))
    ]


def cuts_plainly(output: ResponseOutput, total: int) -> bool:
    """Whether an output is an array of `total` rows, whose parameters are the same for all members.

    Formats write the parts of such outputs without making the messages that `split` makes.
    """
    array = output.data.array if isinstance(output.data, TensorData) else None
    shape = output.shape
    if array is None or not shape or shape[0] != total or array.size != math.prod(shape):
        return False
    return output.parameters is None or not output.parameters.model_extra


def _split_output(output: ResponseOutput, rows: Sequence[int], total: int) -> list[ResponseOutput]:
    returned = output.shape[0] if output.shape else 1
    if returned != total:
        raise MLServerError(
            f"model returned {returned} rows for {total} in output '{output.name}' "
            f"of a batch of {len(rows)} requests",
            500,
        )
    trailing = list(output.shape[1:])
    datas = _split_data(output, rows, total)
    parameters = _split_parameters(output.parameters, rows)
    return [
        ResponseOutput.build(
            name=output.name,
            shape=[count, *trailing],
            datatype=output.datatype,
            parameters=parameters[member],
            data=datas[member],
        )
        for member, count in enumerate(rows)
    ]


def _split_data(output: ResponseOutput, rows: Sequence[int], total: int) -> list[TensorData]:
    data = output.data if isinstance(output.data, TensorData) else TensorData(output.data)
    array = data.array
    if array is None and isinstance(data.root, np.ndarray):
        array = data.root
    width = math.prod(output.shape[1:])
    values: Any = array.reshape(-1) if array is not None else data.root
    if array is None and isinstance(values, (list, tuple)) and len(values) == total != total * width:
        width = 1  # nested rows
    if len(values) != total * width:
        raise MLServerError(
            f"model returned {len(values)} values for output '{output.name}' of shape {list(output.shape)}",
            500,
        )
    cut: list[TensorData] = []
    start = 0
    for count in rows:
        piece = values[start : start + count * width]
        cut.append(
            TensorData.from_array(piece)
            if array is not None and array.dtype.kind in "biuf"
            else TensorData(piece)
        )
        start += count * width
    return cut


def _split_parameters(parameters: Parameters | None, rows: Sequence[int]) -> list[Parameters | None]:
    """A list is dealt out by row, the rest is everybody's."""
    if parameters is None:
        return [None] * len(rows)
    if not parameters.model_extra:
        return (
            [parameters] * len(rows) if parameters.headers is None else [copy.copy(parameters) for _ in rows]
        )
    dealt: list[Parameters | None] = []
    row = 0
    for count in rows:
        own: dict[str, Any] = {}
        for key, value in parameters.items():
            if key in _OWN or not isinstance(value, list):
                own[key] = value
            elif row < len(value):
                own[key] = str(value[row])
        dealt.append(Parameters(**own) if own else None)
        row += count
    return dealt
