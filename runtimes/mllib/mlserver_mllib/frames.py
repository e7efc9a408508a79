"""Models of pyspark.ml: a tensor for each column in, a tensor for each column out.

Small data never becomes a job of Spark: it is a local relation, over which Spark's optimizer computes the
model's expressions itself when the result is collected. Larger data is one job.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.codecs.json import decode_json_input_or_output
from mlserver.errors import CodecError, InferenceError
from mlserver.tabular import first_element, quoted
from mlserver.types import InferenceRequest, RequestInput, ResponseOutput
from mlserver_mllib.artefact import Artefact
from mlserver_mllib.columns import (
    NUMBER,
    TEXT,
    UNKNOWN,
    VECTOR,
    Column,
    last_outputs,
    needed,
    rows_independent,
)

__all__ = ["FrameModel", "load_frame_model"]

Decode = Callable[[RequestInput, Any], Any]

# Counts the rows through stages that may change their order.
_ROW = "__mlserver_row"
_MOST_SCHEMAS = 64
# Words by which Spark blames a value rather than itself.
_REFUSALS = (
    "Unseen label",
    "handleInvalid",
    "requirement failed",
    "Encountered null",
    "Encountered NaN",
    "cannot be null",
    "CAST_INVALID_INPUT",
)


def _no_column(tensor: RequestInput) -> InferenceError:
    return InferenceError(
        f"input '{tensor.name}' has shape {list(tensor.shape)}, but the model expects [rows, 1]"
    )


def load_frame_model(artefact: Artefact, spark: Any) -> Any:
    """The model of pyspark.ml, a pipeline or any other, that a folder holds."""
    util = importlib.import_module("pyspark.ml.util")
    return util.DefaultParamsReader.loadParamsInstance(artefact.uri, spark)


class _Values(NamedTuple):
    """A column as Spark gets it. vector: rows of numbers that stand for a vector each."""

    name: str
    values: pa.Array
    vector: bool


class _Plan(NamedTuple):
    """What is the same for all requests of one form, so that Spark is asked for it once.

    schema, columns: of the frame that the model is given. made: the columns that come out, and their types.
    """

    schema: Any
    columns: list[Any]
    made: dict[str, str]

    def selection(self, names: list[str]) -> list[Any]:
        """Columns that come out, vectors as arrays."""
        from pyspark.ml.functions import vector_to_array
        from pyspark.sql.functions import col

        columns = [(name, col(_quote(name))) for name in names]
        return [vector_to_array(c) if self.made[name].startswith("vector") else c for name, c in columns]


class FrameModel:
    """What a loaded model of pyspark.ml takes, and what it makes of it."""

    def __init__(self, model: Any, spark: Any) -> None:
        self._spark = spark
        self.needed, self._complete = needed(model)
        self._by_name = {column.name: column for column in self.needed}
        self.rows_independent = rows_independent(model)
        self._last = last_outputs(model)
        self._transform = _transform_of(model, spark)
        self._plans: dict[Any, _Plan] = {}

    # Requests

    def table(self, payload: InferenceRequest, decode: Decode) -> list[_Values]:
        """The columns of a request. Raises InferenceError naming the input that does not suit."""
        if not payload.inputs:
            raise InferenceError(f"the request has no inputs: {self._expected()}")
        columns = self._matrix(payload.inputs) or self._columns(payload.inputs, decode)
        rows = {column.name: len(column.values) for column in columns}
        first, count = next(iter(rows.items()))
        for name, other in rows.items():
            if other != count:
                raise InferenceError(f"input '{name}' has {other} rows, but input '{first}' has {count}")
        if not count:
            tensor = payload.inputs[0]
            raise InferenceError(f"input '{tensor.name}' has no rows (shape {list(tensor.shape)})")
        return columns

    def _expected(self) -> str:
        return f"the model expects {quoted(self._by_name)}" if self.needed else "the model expects columns"

    def _matrix(self, inputs: Sequence[RequestInput]) -> list[_Values] | None:
        """One tensor of numbers under any name, for a model of one vector or of nothing but numbers."""
        if len(inputs) != 1 or inputs[0].name in self._by_name or not self._complete or not self.needed:
            return None
        tensor = inputs[0]
        if tensor.datatype == "BYTES" or len(tensor.shape) != 2:
            return None
        if [column.kind for column in self.needed] == [VECTOR]:
            return [self._vector(tensor, self.needed[0])]
        if any(column.kind != NUMBER for column in self.needed):
            return None
        matrix = _numbers(tensor)
        if matrix.shape[1] != len(self.needed):
            raise InferenceError(
                f"input '{tensor.name}' has {matrix.shape[1]} features per row (shape {list(matrix.shape)}), "
                f"but {self._expected()}"
            )
        return [_Values(column.name, pa.array(matrix[:, at]), False) for at, column in enumerate(self.needed)]

    def _columns(self, inputs: Sequence[RequestInput], decode: Decode) -> list[_Values]:
        names = [tensor.name for tensor in inputs]
        twice = {name for name in names if names.count(name) > 1}
        missing = [name for name in self._by_name if name not in names]
        unknown = [name for name in names if name not in self._by_name] if self._complete else []
        faults = [
            f"{words} {quoted(found)}"
            for words, found in (
                ("lacks", missing),
                ("has unknown", unknown),
                ("has more than one", sorted(twice)),
            )
            if found
        ]
        if faults:
            raise InferenceError(f"of columns, the request {' and '.join(faults)}: {self._expected()}")
        return [
            self._column(tensor, self._by_name.get(tensor.name) or Column(tensor.name, UNKNOWN), decode)
            for tensor in inputs
        ]

    def _column(self, tensor: RequestInput, column: Column, decode: Decode) -> _Values:
        if column.kind == VECTOR:
            return self._vector(tensor, column)
        if tensor.datatype == "BYTES":
            if column.kind == NUMBER:
                raise InferenceError(f"input '{tensor.name}' holds text, but the model expects numbers")
            if list(tensor.shape[1:]) not in ([], [1]):
                raise _no_column(tensor)
            return _Values(column.name, _elements(tensor, decode), False)
        array = _numbers(tensor)
        if array.ndim == 2 and array.shape[1] > 1 and column.kind != TEXT:
            return self._vector(tensor, column)
        if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] != 1):
            raise _no_column(tensor)
        flat = array.ravel()
        if column.kind == TEXT:
            raise InferenceError(
                f"input '{tensor.name}' has datatype {tensor.datatype}, but the model expects text"
            )
        if column.kind == NUMBER or flat.dtype == np.float16:
            flat = flat.astype(np.float64)
        elif flat.dtype.kind == "u":
            flat = flat.astype(np.int64)  # Spark knows no unsigned numbers
        return _Values(column.name, pa.array(flat), False)

    def _vector(self, tensor: RequestInput, column: Column) -> _Values:
        matrix = _numbers(tensor)
        if matrix.ndim != 2:
            raise InferenceError(
                f"input '{tensor.name}' has shape {list(matrix.shape)}, "
                f"but the model expects [rows, {column.size or 'features'}]"
            )
        if column.size is not None and matrix.shape[1] != column.size:
            raise InferenceError(
                f"input '{tensor.name}' has {matrix.shape[1]} features per row "
                f"(shape {list(matrix.shape)}), but the model expects {column.size}"
            )
        offsets = np.arange(0, matrix.size + 1, matrix.shape[1] or 1, dtype=np.int32)[: len(matrix) + 1]
        values = pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.astype(np.float64).ravel()))
        return _Values(column.name, values, True)

    # Answers

    def answer(self, columns: list[_Values], asked: Sequence[str]) -> list[ResponseOutput]:
        """The columns that are asked for, or those that the last stage adds.

        Raises InferenceError for a column that there is not, and for values that Spark refuses.
        """
        if not self.rows_independent:
            columns = [*columns, _Values(_ROW, pa.array(np.arange(len(columns[0].values))), False)]
        try:
            plan, frame = self._frame(columns)
            frame = self._transform(frame)
            if not plan.made:
                plan.made.update((field.name, field.dataType.typeName()) for field in frame.schema.fields)
        except (PySparkException, Py4JJavaError) as exc:
            # What is refused before there is data is the form of the request: the model is the same for all.
            raise self._misfit(columns, _first_line(exc)) from exc
        given = {column.name for column in columns}
        there = [name for name in plan.made if name != _ROW]
        names = list(asked) or [name for name in self._last if name in there]
        names = names or [name for name in there if name not in given]
        for name in names:
            if name not in there:
                raise InferenceError(f"the model has no output '{name}': there are {quoted(there)}")
        ordered = _ROW in plan.made
        try:
            rows = frame.select(*plan.selection([*names, _ROW] if ordered else names)).collect()
        except (PySparkException, Py4JJavaError) as exc:
            text = _refusal(str(exc))
            if text is None:
                raise
            raise self._misfit(columns, text) from exc
        if ordered:
            rows.sort(key=lambda row: row[-1])
        return [_encode(name, [row[at] for row in rows]) for at, name in enumerate(names)]

    def _misfit(self, columns: list[_Values], text: str) -> InferenceError:
        """What Spark says of a request; beside it the inputs that are most likely meant."""
        numbers = {column.name for column in self.needed if column.kind == NUMBER}
        wide = [column.name for column in columns if column.vector and column.name in numbers]
        several = f"{quoted(wide)} with several numbers a row, where the model expects one: " if wide else ""
        return InferenceError(f"the request does not suit the model: {several}{text}")

    def _frame(self, columns: list[_Values]) -> tuple[_Plan, Any]:
        key = tuple((column.name, str(column.values.type), column.vector) for column in columns)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MOST_SCHEMAS:
                self._plans.clear()
            plan = self._plans[key] = _plan(columns)
        table = pa.table([column.values for column in columns], names=[column.name for column in columns])
        frame = self._spark.createDataFrame(table, plan.schema)
        return plan, frame.select(*plan.columns) if plan.columns else frame


def _plan(columns: list[_Values]) -> _Plan:
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql.functions import col
    from pyspark.sql.pandas.types import from_arrow_schema

    schema = pa.schema([(column.name, column.values.type) for column in columns])
    made: list[Any] = []
    if any(column.vector for column in columns):
        made = [
            array_to_vector(col(_quote(column.name))).alias(column.name)
            if column.vector
            else col(_quote(column.name))
            for column in columns
        ]
    return _Plan(from_arrow_schema(schema, prefer_timestamp_ntz=True), made, {})


def _transform_of(model: Any, spark: Any) -> Callable[[Any], Any]:
    """From a frame to that with the model's columns: one call into the JVM, where all stages live there."""
    from pyspark.sql import DataFrame

    try:
        java = model._to_java()
    except Exception:  # a stage in Python
        transform: Callable[[Any], Any] = model.transform
        return transform
    return lambda frame: DataFrame(java.transform(frame._jdf), spark)


def _quote(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _numbers(tensor: RequestInput) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = NumpyCodec.decode_input(tensor)
    if array.dtype.kind not in "biuf":
        said = first_element(array)
        raise InferenceError(f"input '{tensor.name}' holds text, but the model expects numbers{said}")
    return array


def _elements(tensor: RequestInput, decode: Decode) -> pa.Array:
    """The elements of a tensor of BYTES: texts, or what its content type makes of them."""
    content_type = None if tensor.parameters is None else tensor.parameters.content_type
    if content_type == "pd_json":
        values: Any = decode_json_input_or_output(tensor)
    elif content_type in (None, "np", "pd"):
        values = StringCodec.decode_input(tensor)
    else:
        values = decode(tensor, StringCodec)
    try:
        return pa.array(list(values))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as exc:
        raise CodecError(f"'{tensor.name}': its elements have no type in common ({exc})") from exc


def _encode(name: str, values: list[Any]) -> ResponseOutput:
    first = next((value for value in values if value is not None), None)
    if isinstance(first, list) and (not first or isinstance(first[0], (int, float))):
        if len({len(value or ()) for value in values}) == 1:
            return NumpyCodec.encode_output(name, np.array(values))
    elif isinstance(first, (bool, int, float)):
        if None not in values:
            return NumpyCodec.encode_output(name, np.array(values))
        numbers = [float("nan") if value is None else value for value in values]
        return NumpyCodec.encode_output(name, np.array(numbers, dtype=np.float64))
    elif first is None or isinstance(first, str):
        return StringCodec.encode_output(name, values)
    return _encode_objects(name, values)


def _encode_objects(name: str, values: list[Any]) -> ResponseOutput:
    """Tokens, points in time, rows: what a data frame would make of them."""
    import pandas as pd

    from mlserver.codecs import PandasCodec

    plain = [value.asDict(recursive=True) if hasattr(value, "asDict") else value for value in values]
    (output,) = PandasCodec.encode_outputs(pd.DataFrame({name: pd.Series(plain, dtype=object)}))
    return output


def _first_line(exc: Exception) -> str:
    return str(exc).strip().split("\n", 1)[0].strip()


def _refusal(text: str) -> str | None:
    """What Spark found wrong with a value, where it blames that; the last cause says it best."""
    lines = [line for line in text.splitlines() if any(words in line for words in _REFUSALS)]
    if not lines:
        return None
    return re.sub(r"^.*(?:Exception|Error): ", "", lines[-1].strip())
