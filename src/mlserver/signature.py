"""Models whose tensors have names: what the runtimes of computation graphs have in common.

Such a model says once what it takes and gives (`Signature`). What a request gets wrong is then found here,
and named, before the library sees it; what is right reaches the library as it came, without a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlserver.artefact import ArtefactModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.codecs.numpy import datatype_name, view_of
from mlserver.errors import InferenceError, MLServerError
from mlserver.model import MLModel
from mlserver.tabular import quoted
from mlserver.tensor import reshape
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)

__all__ = ["Signature", "TensorModel", "TensorSpec"]

Dimension = int | str | None


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor of a model must be.

    datatype: a datatype of the protocol; None for any numbers.
    shape: a dimension is a number, None for any number, or a name, which stands for one number in all inputs
    of a request. The whole is None where not even the rank is known.
    required: whether an input may not be left out.
    """

    name: str
    datatype: str | None = None
    shape: tuple[Dimension, ...] | None = None
    required: bool = True

    @classmethod
    def declared(cls, tensor: MetadataTensor) -> TensorSpec:
        """The tensor that a model's settings describe."""
        shape = tuple(None if size < 0 else size for size in tensor.shape)
        return cls(tensor.name, datatype_name(tensor.datatype), shape)

    def described(self) -> MetadataTensor | None:
        """Its metadata; None where its datatype is not known. An unknown rank is shown as `[-1]`."""
        if self.datatype is None:
            return None
        shape = [-1] if self.shape is None else [d if isinstance(d, int) else -1 for d in self.shape]
        return MetadataTensor(name=self.name, datatype=self.datatype, shape=shape)

    def shown_shape(self) -> str:
        """The shape for a message, such as `[batch, 3, ?]`."""
        return f"[{', '.join('?' if d is None else str(d) for d in self.shape or ())}]"


class Signature:
    """The inputs that a model takes and the outputs that it gives, in its order."""

    def __init__(self, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec] = ()) -> None:
        self.inputs = {spec.name: spec for spec in inputs}
        self.outputs = {spec.name: spec for spec in outputs}
        self._all_outputs = [RequestOutput(name=name) for name in self.outputs]

    @property
    def rows_independent(self) -> bool:
        """Whether the first dimension of all tensors is of any size, and by its name the same one."""
        firsts = set()
        for spec in (*self.inputs.values(), *self.outputs.values()):
            if not spec.shape or isinstance(spec.shape[0], int):
                return False
            firsts.add(spec.shape[0])
        return bool(firsts) and len(firsts - {None}) <= 1

    def wanted(self, payload: InferenceRequest) -> list[RequestOutput]:
        """The outputs that a request asks for; all, if it names none.

        Raises InferenceError for those that the model does not give.
        """
        if not payload.outputs:
            return self._all_outputs
        for output in payload.outputs:
            if output.name not in self.outputs:
                raise InferenceError(
                    f"the model has no output '{output.name}': it gives {quoted(self.outputs)}"
                )
        return payload.outputs

    def arrays(self, payload: InferenceRequest, model: MLModel) -> dict[str, Any]:
        """The arrays of a request by the names of the inputs, text as objects of `str`.

        They are the memory that the request came in, where that holds such arrays: not to be written to, if
        their flags say so. Raises InferenceError or CodecError that names the input which does not fit.
        """
        self._check_names(payload.inputs)
        sizes: dict[str, tuple[str, int]] = {}
        return {
            tensor.name: _array_of(tensor, self.inputs[tensor.name], sizes, model)
            for tensor in payload.inputs
        }

    def _check_names(self, inputs: Sequence[RequestInput]) -> None:
        given: set[str] = set()
        unknown = []
        for tensor in inputs:
            if tensor.name in given:
                raise InferenceError(f"input '{tensor.name}' is given twice")
            given.add(tensor.name)
            if tensor.name not in self.inputs:
                unknown.append(tensor.name)
        missing = [spec.name for spec in self.inputs.values() if spec.required and spec.name not in given]
        faults = []
        if missing:
            faults.append(f"lacks input{_s(missing)} {quoted(missing)}")
        if unknown:
            faults.append(f"has unknown input{_s(unknown)} {quoted(unknown)}")
        if faults:
            raise InferenceError(
                f"the request {' and '.join(faults)}: the model expects {quoted(self.inputs) or 'no inputs'}"
            )


def _array_of(
    tensor: RequestInput, spec: TensorSpec, sizes: dict[str, tuple[str, int]], model: MLModel
) -> Any:
    datatype = datatype_name(tensor.datatype)
    if datatype != spec.datatype and (spec.datatype is not None or datatype == "BYTES"):
        expected = spec.datatype or "numbers"
        raise InferenceError(
            f"input '{tensor.name}' has datatype {datatype}, but the model expects {expected}"
        )
    array = _texts(tensor, model) if datatype == "BYTES" else view_of(tensor)
    if spec.shape is None:
        return array
    rank = len(spec.shape)
    if rank < 2 and array.ndim == rank + 1 and array.shape[-1] == 1:
        array = array[..., 0]  # codecs give scalars and vectors a last dimension of 1
    fits = array.ndim == rank and all(
        size == expected or not isinstance(expected, int)
        for size, expected in zip(array.shape, spec.shape, strict=True)
    )
    if not fits:
        raise InferenceError(
            f"input '{tensor.name}' has shape {list(array.shape)}, but the model expects {spec.shown_shape()}"
        )
    if rank and array.shape[0] == 0:
        raise InferenceError(f"input '{tensor.name}' is empty (shape {list(array.shape)})")
    for size, dimension in zip(array.shape, spec.shape, strict=True):
        if isinstance(dimension, str):
            other, known = sizes.setdefault(dimension, (tensor.name, size))
            if known != size:
                raise InferenceError(
                    f"input '{tensor.name}' has shape {list(array.shape)}, where {spec.shown_shape()} is "
                    f"expected, but '{dimension}' is {known} in input '{other}'"
                )
    return array


def _texts(tensor: RequestInput, model: MLModel) -> Any:
    values = model.decode(tensor, default_codec=StringCodec)
    if not isinstance(values, np.ndarray):
        objects = np.empty(len(values), dtype=object)
        objects[:] = values
        values = objects
    return reshape(values.astype(object), tensor.shape, f"input '{tensor.name}'")


class TensorModel(ArtefactModel):
    """Serves a model of named tensors.

    A runtime overrides `_read`, `_open` and `_run`; where the library tells whose fault an error is, also
    `_refusal`. Both promises are for graphs that only compute; `_open` takes them back for others.
    """

    inline = True
    rows_independent = True

    _signature: Signature | None = None
    _opened: Any = None

    # For runtimes to override

    def _open(self, model: Any) -> Signature:
        """What the library's object takes and gives."""
        raise NotImplementedError

    def _run(self, arrays: dict[str, Any], names: list[str]) -> list[Any]:
        """The values of the outputs of these names, as numpy arrays or what numpy makes arrays of."""
        raise NotImplementedError

    def _refusal(self, exc: Exception) -> str | None:
        """What the library found wrong with the inputs, or None when the model is to blame."""
        return None

    def _about(self) -> Signature:
        if self._signature is not None and self._opened is self._model:
            return self._signature
        self._signature = signature = self._open(self._model)
        self._opened = self._model
        if not self.inputs:
            self.inputs = [t for spec in signature.inputs.values() if (t := spec.described()) is not None]
        if not self.outputs:
            self.outputs = [t for spec in signature.outputs.values() if (t := spec.described()) is not None]
        return signature

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        signature = self._about()
        wanted = signature.wanted(payload)
        arrays = signature.arrays(payload, self)
        try:
            results = self._run(arrays, [output.name for output in wanted])
        except MLServerError:
            raise
        except Exception as exc:
            refusal = self._refusal(exc)
            if refusal is None:
                raise
            shapes = ", ".join(f"'{name}' {list(array.shape)}" for name, array in arrays.items())
            raise InferenceError(f"the inputs ({shapes}) do not suit the model: {refusal}") from exc
        outputs = [self._encode(result, output) for result, output in zip(results, wanted, strict=True)]
        return InferenceResponse.build(model_name=self.name, model_version=self.version, outputs=outputs)

    def _encode(self, result: Any, output: RequestOutput) -> ResponseOutput:
        array = np.asarray(result)
        declared = next((tensor for tensor in self.outputs if tensor.name == output.name), None)
        for tensor in (output, declared):
            if tensor is not None and tensor.parameters is not None and tensor.parameters.content_type:
                return self.encode(array, output, default_codec=NumpyCodec)
        if array.dtype.kind == "S":
            array = array.astype(object)  # as one text per element, not as one buffer
        encoded: ResponseOutput = NumpyCodec.encode_output(output.name, array)
        encoded.shape = list(array.shape)  # as the model has it, also for scalars and vectors
        return encoded


def _s(names: Sequence[str]) -> str:
    return "s" if len(names) > 1 else ""
