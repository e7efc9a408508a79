"""The ONNX runtime: a graph, run by a session of ONNX Runtime.

Requests reach the session as arrays over the memory that they came in, and answers leave from the arrays that
the session made. What the graph declares is compared with a request before it runs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from mlserver.errors import MLServerError
from mlserver.signature import Signature, TensorModel, TensorSpec
from mlserver_onnx.options import Options, options_of_session

__all__ = ["OnnxModel"]

WELLKNOWN_MODEL_FILENAMES = ("model.onnx",)

_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}
_TENSOR = re.compile(r"tensor\((\w+)\)")
# What classifiers of scikit-learn give once converted: a dictionary a row, from class to probability.
_MAPS = frozenset(f"seq(map({key},tensor(float)))" for key in ("string", "int64"))

_ERROR = re.compile(r"while running (\w+) node\..*?Status Message: (.*)", re.DOTALL)
_PLACE = re.compile(r"^\S+:\d+ (?:.*?\(.*?\) )?(?:.* was false\. )?")
# Kernels that refuse what they are given speak of these. Memory and devices are the server's own affair.
_OF_INPUTS = re.compile(
    r"dimension|shape|broadcast|\brank\b|out of (data )?bounds|must be within|invalid index", re.I
)
_NO_ERRORS = 4  # severity: those of a run are raised, and need not be logged as well


class OnnxModel(TensorModel):
    """Serves an ONNX graph. `_model` is the `onnxruntime.InferenceSession`."""

    platform_name = "onnx"
    filenames = WELLKNOWN_MODEL_FILENAMES

    _model: ort.InferenceSession

    async def load(self) -> bool:
        self._options = Options.of(self.settings)
        self._quiet = ort.RunOptions()
        self._quiet.log_severity_level = _NO_ERRORS
        return await super().load()

    def _read(self, path: str) -> Any:
        # Bytes, because native code refuses some paths that can be read, such as links out of a mount.
        content = Path(path).read_bytes()
        options = options_of_session(self._options, folder=os.path.dirname(path))
        return ort.InferenceSession(content, options, providers=self._options.chosen_providers())

    def _open(self, model: Any) -> Signature:
        inputs = [self._input(node, required=True) for node in model.get_inputs()]
        inputs += [self._input(node, required=False) for node in model.get_overridable_initializers()]
        outputs = [spec for node in model.get_outputs() if (spec := _output(node)) is not None]
        if not outputs:
            raise MLServerError(f"Model {self.name}: none of the graph's outputs is a tensor", 500)
        signature = Signature(inputs, outputs)
        wish = self._options.rows_independent
        self.rows_independent = signature.rows_independent if wish is None else wish  # type: ignore[misc]
        return signature

    def _input(self, node: Any, required: bool) -> TensorSpec:
        datatype = _datatype(node.type)
        if datatype is None:
            raise MLServerError(
                f"Model {self.name}: the graph's input '{node.name}' is of type {node.type}, "
                "for which the protocol has no datatype",
                500,
            )
        return TensorSpec(node.name, datatype, _shape(node), required)

    def _run(self, arrays: dict[str, Any], names: list[str]) -> dict[str, Any]:
        results = self._model.run(names, arrays, self._quiet)
        results = [_matrix(result) if type(result) is list else result for result in results]
        return dict(zip(names, results, strict=True))

    def _refusal(self, exc: Exception) -> str | None:
        match = _ERROR.search(str(exc))
        if match is None or not _OF_INPUTS.search(match[2]):
            return None
        operator, text = match.groups()
        return f"{operator}: {_PLACE.sub('', text.strip())}"


def _datatype(kind: str) -> str | None:
    match = _TENSOR.fullmatch(kind)
    return None if match is None else _DATATYPES.get(match[1])


def _shape(node: Any) -> tuple[int | str | None, ...] | None:
    # ONNX Runtime shows scalars and tensors of unknown rank alike.
    return tuple(node.shape) or None


def _output(node: Any) -> TensorSpec | None:
    """None for what is no tensor: it is not offered."""
    if (datatype := _datatype(node.type)) is not None:
        return TensorSpec(node.name, datatype, _shape(node))
    return TensorSpec(node.name, "FP32", (None, None)) if node.type in _MAPS else None


def _matrix(maps: list[dict[Any, float]]) -> Any:
    """The values of the dictionaries, one row each, in the order that all of them have."""
    return np.array([list(row.values()) for row in maps], dtype=np.float32)
