"""Models whose tensors have names: what the runtimes of computation graphs have in common.

Such a model says once what it takes and gives (`Signature`). What a request gets wrong is then found here,
and named, before the library sees it; what is right reaches the library as it came, without a copy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
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
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)

__all__ = ["Signature", "TensorModel", "TensorSpec", "check_outputs"]

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
        """Its metadata; None where its datatype is not known.

        An unknown rank is shown as `[-1]`, and that an input may be left out by `"required": false`.
        """
        if self.datatype is None:
            return None
        shape = [-1] if self.shape is None else [d if isinstance(d, int) else -1 for d in self.shape]
        parameters = None if self.required else Parameters(required=False)
        return MetadataTensor(name=self.name, datatype=self.datatype, shape=shape, parameters=parameters)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape has the right rank, and the right size in dimensions of a fixed one."""
        return self.shape is None or (
            len(shape) == len(self.shape)
            and all(
                size == expected or not isinstance(expected, int)
                for size, expected in zip(shape, self.shape, strict=True)
            )
        )

    def arranged(self, array: Any) -> Any:
        """The array, without the last dimension of 1 that codecs give scalars and vectors, if it is one."""
        rank = 2 if self.shape is None else len(self.shape)
        return array[..., 0] if rank < 2 and array.ndim == rank + 1 and array.shape[-1] == 1 else array

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """What is wrong with a shape, in words that follow the name of the tensor; None where it fits."""
        if self.fits(shape):
            return None
        return f"has shape {list(shape)}, but the model expects {self.shown_shape()}"

    def shown_shape(self) -> str:
        """The shape for a message, such as `[batch, 3, ?]`."""
        return f"[{', '.join('?' if d is None else str(d) for d in self.shape or ())}]"


class Signature:
    """The inputs that a model takes and the outputs that it gives, in its order.

    outputs: empty where they are known only once the model was run.
    by_position: whether the only input of a request may have any name if the model needs just one.
    bounds: the least and the greatest number that the name of a dimension may stand for.
    """

    def __init__(
        self,
        inputs: Iterable[TensorSpec],
        outputs: Iterable[TensorSpec] = (),
        by_position: bool = False,
        bounds: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    ) -> None:
        self.inputs = {spec.name: spec for spec in inputs}
        self.outputs = {spec.name: spec for spec in outputs}
        self._all_outputs = [RequestOutput(name=name) for name in self.outputs]
        needed = [spec for spec in self.inputs.values() if spec.required]
        self._bounds = bounds
        self._only_input = needed[0] if by_position and len(needed) == 1 else None

    @property
    def rows_independent(self) -> bool:
        """Whether the first dimension of all tensors is of any size, and by its name the same one."""
        if not self.outputs:
            return False
        firsts = set()
        for spec in (*self.inputs.values(), *self.outputs.values()):
            if not spec.shape or isinstance(spec.shape[0], int):
                return False
            firsts.add(spec.shape[0])
        return len(firsts - {None}) <= 1

    def wanted(self, payload: InferenceRequest) -> list[RequestOutput]:
        """The outputs that a request asks for; all that are known, if it names none.

        Raises InferenceError for those that the model is known not to give.
        """
        if not payload.outputs:
            return self._all_outputs
        if self.outputs:
            check_outputs([output.name for output in payload.outputs], self.outputs)
        return payload.outputs

    def arrays(self, payload: InferenceRequest, model: MLModel) -> dict[str, Any]:
        """The arrays of a request by the names of the inputs, text as objects of `str`.

        They are the memory that the request came in, where that holds such arrays: not to be written to, if
        their flags say so. Raises InferenceError or CodecError that names the input which does not fit.
        """
        inputs, only = payload.inputs, self._only_input
        if only is not None and len(inputs) == 1 and inputs[0].name not in self.inputs:
            return {only.name: self._array_of(inputs[0], only, {}, model)}
        self._check_names(inputs)
        sizes: dict[str, tuple[str, int]] = {}
        return {
            tensor.name: self._array_of(tensor, self.inputs[tensor.name], sizes, model) for tensor in inputs
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
        self, tensor: RequestInput, spec: TensorSpec, sizes: dict[str, tuple[str, int]], model: MLModel
    ) -> Any:
        datatype = datatype_name(tensor.datatype)
        if datatype != spec.datatype and (spec.datatype is not None or datatype == "BYTES"):
            expected = spec.datatype or "numbers"
            raise InferenceError(
                f"input '{tensor.name}' has datatype {datatype}, but the model expects {expected}"
            )
        array = _texts(tensor, model) if datatype == "BYTES" else view_of(tensor)
        array = spec.arranged(array)
        fault = self._misfit(tensor.name, array.shape, spec, sizes)
        if fault is not None:
            raise InferenceError(f"input '{tensor.name}' {fault}")
        return array

    def _misfit(
        self, name: str, shape: tuple[int, ...], spec: TensorSpec, sizes: dict[str, tuple[str, int]]
    ) -> str | None:
        """What is wrong with a shape, in words that follow the name of the input.

        sizes: for names of dimensions that were met, the input that told their size, and that.
        """
        fault = spec.misfit(shape)
        if fault is not None:
            return fault
        if shape and shape[0] == 0:
            return f"is empty (shape {list(shape)})"
        for size, dimension in zip(shape, spec.shape or (), strict=False):
            if isinstance(dimension, str):
                least, most = self._bounds.get(dimension, (0, size))
                other, known = sizes.setdefault(dimension, (name, size))
                where = f"has shape {list(shape)}, where {spec.shown_shape()} is expected, but '{dimension}'"
                if not least <= size <= most:
                    return f"{where} may be {least} to {most}"
                if known != size:
                    return f"{where} is {known} in input '{other}'"
        return None


def check_outputs(wanted: Iterable[str], given: Collection[str]) -> None:
    """Raises InferenceError that names an output which is wanted, but not given."""
    for name in wanted:
        if name not in given:
            raise InferenceError(f"the model has no output '{name}': it gives {quoted(given)}")


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

    def _run(self, arrays: dict[str, Any], names: list[str]) -> dict[str, Any]:
        """The arrays of the outputs of these names, or of all where none is named, by name.

        Uses `check_outputs` if only now is known which outputs there are.
        """
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
        wanted = wanted or [RequestOutput(name=name) for name in results]
        outputs = [self._encode(results[output.name], output) for output in wanted]
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
