"""Models of rows and columns: what the runtimes of scikit-learn and of the tree libraries have in common.

A runtime of such a library extends `TabularModel` and says how an artefact is read (`_read`) and what it can
do (`_open`): the features it was fitted on, and a function for each output that a request may ask for. How
requests become arrays or frames, which columns are missing, how results become outputs and what the metadata
says is the same for all of them, and lives here.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np

from mlserver.artefact import ArtefactModel
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, StringCodec
from mlserver.codecs.columns import misfit as misfit_of_columns
from mlserver.errors import CodecError, InferenceError, MLServerError
from mlserver.settings import ModelSettings
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)

__all__ = [
    "PICKLES",
    "Features",
    "Fitted",
    "Method",
    "TabularModel",
    "check_single",
    "first_element",
    "is_known_code",
    "is_pickle",
    "quoted",
    "subject_of",
    "text_input",
]

# From decoded data (an array, a DataFrame, a list) to the values of one output.
Method = Callable[[Any], Any]

# A file is unpickled, which runs code that it names, only if its name says that it is a pickle.
PICKLES = ("model.joblib", "model.pickle", "model.pkl")

# Packages whose models are known to do nothing but compute.
_KNOWN_PACKAGES = frozenset(("catboost", "lightgbm", "numpy", "scipy", "sklearn", "xgboost"))
# So few rows are computed before other threads have woken up. On a busy machine, waiting for these takes
# milliseconds: they get their turn when the scheduler pleases.
_FEW_ROWS = 32
# Content types of requests that are one tensor.
_OF_ONE_TENSOR = (NumpyRequestCodec.ContentType, StringCodec.ContentType)
_MOST_CLASSES_LISTED = 1_000
_MOST_NAMES_LISTED = 20
_SHOWN = 60  # characters of a value in a message


class Features:
    """The features that a model was fitted on.

    names: of the columns, in order; empty where the model knows none. count: how many; None if unknown.
    datatype: of a column in the metadata; datatypes: of those columns that have another one. Columns of BYTES
    hold text. categories: those of the columns that the library wants as categories of pandas. examples: by
    column, a value that it may have, where not any will do; the metadata shows them.
    """

    def __init__(
        self,
        names: Iterable[str] = (),
        count: int | None = None,
        datatype: str = "FP64",
        datatypes: Mapping[str, str] | None = None,
        categories: Mapping[str, Sequence[Any]] | None = None,
        examples: Mapping[str, Any] | None = None,
    ) -> None:
        self.names = [str(name) for name in names]
        self.count = len(self.names) or None if count is None else int(count)
        self._names = frozenset(self.names)
        self._datatype = datatype
        self._datatypes = datatypes or {}
        self.categories = dict(categories or {})
        self._indices: dict[int, Any] = {}  # of pandas, by the identity of the categories
        self._examples = examples or {}
        self.texts = frozenset(name for name, kind in self._datatypes.items() if kind == "BYTES")

    # Requests

    def name_of(self, label: Any) -> str:
        """The feature that a label of a column means."""
        return str(label)

    def are_columns(self, inputs: Sequence[RequestInput]) -> bool:
        """Whether these are columns of the frame that the model was fitted on, rather than one matrix."""
        if not self.names:
            return False
        if not inputs:
            return True  # that lacks all of them
        if len(inputs) == 1:
            return self.count == 1 and self.name_of(inputs[0].name) in self._names
        return any(self.name_of(tensor.name) in self._names for tensor in inputs)

    def arrange(self, data: Any) -> Any:
        """The data with its columns in the order of the fit, where they are the same columns."""
        columns = getattr(data, "columns", None)
        if columns is None or not self.names:
            return data
        names = [self.name_of(label) for label in columns]
        if names != list(columns):
            data = data.set_axis(names, axis=1)
        if len(names) != len(self.names) or not self._names.issuperset(names):
            return data
        if names != self.names:
            data = data[self.names]
        categories = self._categories_in(data)
        if not categories:
            return data
        data = data.copy(deep=False)
        for name, values in categories.items():
            data[name] = self._categorical(data[name], values)
        return data

    def _categories_in(self, frame: Any) -> Mapping[str, Sequence[Any]]:
        """The categories of those columns of the frame that the library wants as such."""
        return self.categories

    def _categorical(self, column: Any, values: Sequence[Any]) -> Any:
        """A column as categories of the fit. Values that it did not know are missing: left to themselves,
        libraries may take them for their neighbours."""
        import pandas as pd

        index = self._indices.get(id(values))
        if index is None:
            index = self._indices[id(values)] = _without_booleans(pd.Index(values))
        column = _without_booleans(column)
        return pd.Categorical.from_codes(index.get_indexer(column), categories=index)

    def misfit(self, data: Any, strict: bool = True) -> str | None:
        """How the form of the data differs from that of the fit, in words that follow those for the request.

        strict: columns that the model does not know do matter, and so does text in place of numbers.
        """
        if getattr(data, "columns", None) is not None:
            return self._misfit_of_frame(data, strict)
        shape = _shape(data)
        if self.count is not None:
            if isinstance(data, list) and data and not self.texts:
                return f"holds text, but the model expects numbers{first_element(data)}"
            if len(shape) != 2:
                return f"has shape {list(shape)}, but the model expects [rows, {self.count}]"
            if shape[1] != self.count:
                return (
                    f"has {shape[1]} features per row (shape {list(shape)}), "
                    f"but the model expects {self.count}"
                )
        if strict and not self.texts and isinstance(data, np.ndarray) and data.dtype.kind not in "biuf":
            return f"holds text, but the model expects numbers{first_element(data)}"
        return _without_rows(shape)

    def _misfit_of_frame(self, frame: Any, strict: bool) -> str | None:
        given = [self.name_of(label) for label in frame.columns]
        if not self.names:
            if self.count is not None and len(given) != self.count:
                return f"has {len(given)} columns, but the model expects {self.count}"
        else:
            present = set(given)
            missing = [name for name in self.names if name not in present]
            unknown = [name for name in given if name not in self._names]
            faults = []
            if missing:
                faults.append(f"lacks column{_s(missing)} {quoted(missing)}")
            # Some estimators do not mind columns that they do not know.
            if unknown and (missing or strict):
                faults.append(f"has unknown column{_s(unknown)} {quoted(unknown)}")
            if faults:
                return f"{' and '.join(faults)}: the model expects {quoted(self.names)}"
        if strict:
            objects = {
                name: label
                for name, label, dtype in zip(given, frame.columns, frame.dtypes, strict=True)
                if getattr(dtype, "kind", "O") not in "biuf"
            }
            no_numbers = [name for name in objects if name not in self.texts]
            if no_numbers:
                return f"holds no numbers in column{_s(no_numbers)} {quoted(no_numbers)}"
            no_text = [
                name
                for name in self._categories_in(frame)
                if name in objects and not _holds_text(frame[objects[name]])
            ]
            if no_text:
                return f"holds values that are no text in column{_s(no_text)} {quoted(no_text)}"
        return _without_rows(frame.shape)

    def miscast(self, inputs: Sequence[RequestInput]) -> str | None:
        """Which columns of text came as numbers, in words like those above. Decoded they would be garbage."""
        if not self.texts:
            return None
        numbers = [
            name
            for tensor in inputs
            if tensor.datatype != "BYTES" and (name := self.name_of(tensor.name)) in self.texts
        ]
        return f"holds numbers, not text, in column{_s(numbers)} {quoted(numbers)}" if numbers else None

    # Metadata

    def inputs(self) -> list[MetadataTensor]:
        """The inputs it takes: its columns, or one matrix; empty where that is unknown."""
        if self.names:
            return [self._input(name, self._datatypes.get(name, self._datatype)) for name in self.names]
        if self.count is not None:
            return [MetadataTensor(name="input-0", datatype=self._datatype, shape=[-1, self.count])]
        return []

    def _input(self, name: str, datatype: str) -> MetadataTensor:
        if datatype == "BYTES":
            tensor = text_input(name)
        else:
            tensor = MetadataTensor(name=name, datatype=datatype, shape=[-1, 1])
        if name in self._examples:
            parameters = {} if tensor.parameters is None else {"content_type": tensor.parameters.content_type}
            tensor.parameters = Parameters(**parameters, example=self._examples[name])
        return tensor

    def samples(self) -> Iterator[Any]:
        """Single rows that mean nothing, but that the model may accept."""
        if self.count is not None and not self.texts:
            yield np.zeros((1, self.count))
        if self.names:
            try:
                import pandas as pd
            except ImportError:
                return
            values = {name: "" if name in self.texts else 0.0 for name in self.names}
            row = {name: [value] for name, value in {**values, **self._examples}.items()}
            yield self.arrange(pd.DataFrame(row))


class Fitted:
    """A loaded model: the features it was fitted on, the outputs it gives, and whose code it runs.

    methods: by the name of an output that may be asked for, the function that computes it.
    method: the output that answers a request which asks for none; default: its function, if it may not be
    asked for. classes: of a classifier.
    only_computes: whether it is all code that is known to do nothing else.
    rows_independent: whether an output row is known to depend on the same input row alone.
    openmp: whether it spreads rows over threads of OpenMP, which is not worth while for a few of them.
    """

    def __init__(
        self,
        model: Any,
        features: Features,
        methods: Mapping[str, Method],
        *,
        method: str = "predict",
        default: Method | None = None,
        classes: Any = None,
        only_computes: bool = True,
        rows_independent: bool = True,
        openmp: bool = False,
    ) -> None:
        self.model = model
        self.features = features
        self.methods = methods
        self.method = method
        self.default = methods.get(method) if default is None else default
        self.classes = classes
        self.only_computes = only_computes
        self.rows_independent = only_computes and rows_independent
        self._openmp = _openmp_libraries() if openmp else None
        # The first call of a model is slow: better now than for a client.
        self._sample = self._find_sample() if self.rows_independent else None

    def threads_for(self, data: Any) -> AbstractContextManager[Any]:
        """Inside of it, this thread computes the rows alone if they are few."""
        if self._openmp is None or len(data) > _FEW_ROWS:
            return nullcontext()
        limit: AbstractContextManager[Any] = self._openmp.limit(limits=1)
        return limit

    def outputs(self) -> list[MetadataTensor]:
        """The outputs it gives, the default one first; those that it cannot tell are left out.

        A model that answers no request without outputs, such as a transformer, shows one to ask for.
        """
        if self.default is None:
            output = self._output(next(iter(self.methods))) if self.methods else None
            if output is None:
                return []
            output.parameters = Parameters(on_request=True)
            return [output]
        names = [self.method]
        if self.method == "predict" and "predict_proba" in self.methods:
            names.append("predict_proba")
        described = [self._output(name) for name in names]
        return [output for output in described if output is not None]

    def _output(self, name: str) -> MetadataTensor | None:
        form = self._form_of_sample(name) or self._form_by_classes(name)
        if form is None:
            return None
        datatype, shape = form
        classes = _plain_values(self.classes) if name == "predict_proba" else None
        return MetadataTensor(
            name=name,
            datatype=datatype,
            shape=shape,
            parameters=None if classes is None else Parameters(classes=classes),
        )

    def _form_of_sample(self, name: str) -> tuple[str, list[int]] | None:
        if self._sample is None:
            return None
        try:
            call = self.default if name == self.method else self.methods[name]
            result: Any = None if call is None else call(self._sample)
            if hasattr(result, "toarray"):
                result = result.toarray()
            if not isinstance(result, np.ndarray) or not result.ndim:
                return None
            return _datatype(result.dtype), [-1, *(result.shape[1:] or (1,))]
        except Exception:
            return None

    def _form_by_classes(self, name: str) -> tuple[str, list[int]] | None:
        if not isinstance(self.classes, np.ndarray) or self.classes.ndim != 1:
            return None
        if name == "predict":
            return _datatype(self.classes.dtype), [-1, 1]
        return ("FP64", [-1, len(self.classes)]) if name == "predict_proba" else None

    def _find_sample(self) -> Any:
        """A row that the model accepts. None where none can be guessed."""
        call = self.default or next(iter(self.methods.values()), None)
        if call is None:
            return None
        for sample in self.features.samples():
            try:
                call(sample)
            except Exception:
                continue  # it wants something else, such as categories that it knows
            return sample
        return None


class TabularModel(ArtefactModel):
    """Serves a model of rows and columns, by one output per method of the model.

    A runtime sets `platform_name`, `filenames` (looked for in a folder, in this order) and `output_names`
    (all that its models may have), and overrides `_read` and `_open`; where the library knows better, also
    the other methods below. The library's object is `_model`.

    The two promises are kept for code that is known; `load` takes them back for any other.
    """

    inline = True
    rows_independent = True

    output_names: ClassVar[tuple[str, ...]] = ("predict", "predict_proba")

    _fitted: Fitted | None = None
    _default_outputs: list[RequestOutput]

    # For runtimes to override

    def _open(self, model: Any) -> Fitted:
        """What the library's object can do."""
        raise NotImplementedError

    def _kind(self) -> str:
        """What kind of model it is, for an error that says what such models do not do."""
        return type(self._model).__name__

    def _prepare(self, data: Any, payload: InferenceRequest) -> Any:
        """Decoded data as the library wants it. Raises InferenceError when it is not like that of the fit."""
        features = self._about().features
        fault = features.misfit(data)
        if fault is not None:
            raise InferenceError(f"{subject_of(payload)} {fault}")
        if features.names or not hasattr(data, "columns"):
            return features.arrange(data)
        return data.to_numpy()  # to a model that knows no names they mean nothing

    def _refusal(self, exc: Exception, data: Any, payload: InferenceRequest) -> MLServerError | None:
        """What was wrong with a request that the library refused, or None when the model is to blame."""
        return None

    def _unsupported(self, name: str) -> MLServerError:
        """The error for an output that was asked for and that the model does not have."""
        *others, last = [f"'{known}'" for known in self.output_names]
        if name not in self.output_names:
            listed = f"{', '.join(others)} and {last}"
            text = f"{type(self).__name__} only supports {listed} as outputs ({name} was received)"
            return InferenceError(text)
        has = quoted(self._about().methods)
        return InferenceError(f"{self._kind()} models do not support '{name}'; this one has {has}")

    # Load

    def _about(self) -> Fitted:
        fitted = self._fitted
        if fitted is not None and fitted.model is self._model:
            return fitted
        # Arrays for a model that was fitted on a DataFrame are fine; a warning per request is not.
        message = "X (does not have valid|has) feature names"
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
        self._fitted = fitted = self._open(self._model)
        self._default_outputs = [RequestOutput(name=fitted.method)]
        if not self.inputs:
            self.inputs = fitted.features.inputs()
        if not self.outputs:
            self.outputs = fitted.outputs()
        kept = {"inline": fitted.only_computes, "rows_independent": fitted.rows_independent}
        for promise, holds in kept.items():
            if not holds:
                setattr(self, promise, False)
        return fitted

    def _extra(self, name: str) -> Any:
        """A setting of `parameters.extra`; None where it is not given."""
        parameters = self._settings.parameters
        extra = None if parameters is None else parameters.extra
        return (extra or {}).get(name)

    async def metadata(self) -> MetadataModelResponse:
        metadata = await super().metadata()
        columns_listed = (
            self._fitted is not None and self._fitted.features.names and not self._settings.inputs
        )
        if columns_listed and metadata.parameters is not None and not metadata.parameters.content_type:
            # Said here only: as a default for decoding, it would take a matrix, as welcome, for one column.
            metadata.parameters.content_type = "pd"
        return metadata

    # Predict

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        fitted = self._fitted
        if fitted is None or fitted.model is not self._model:
            fitted = self._about()
        if asked := payload.outputs:
            found = [fitted.methods.get(output.name) for output in asked]
        else:
            asked, found = self._default_outputs, [fitted.default]
        methods = []
        for method, output in zip(found, asked, strict=True):
            if method is None:
                raise self._unsupported(output.name)
            methods.append(method)
        codec: Any = NumpyRequestCodec
        if fitted.features.are_columns(payload.inputs):
            codec = _pandas_codec()
        else:
            check_single(payload, self._settings)
        fault = fitted.features.miscast(payload.inputs)
        if fault is not None:
            raise InferenceError(f"{subject_of(payload)} {fault}")
        data = self.decode_request(payload, default_codec=codec)
        if _is_frame(data):
            fault = misfit_of_columns(payload.inputs)
            if fault is not None:
                raise InferenceError(fault)
        data = self._prepare(data, payload)
        results = []
        for method in methods:
            try:
                with fitted.threads_for(data):
                    results.append(method(data))
            except Exception as exc:
                refusal = self._refusal(exc, data, payload)
                if refusal is None:
                    raise
                raise refusal from exc
        outputs = self._encode(results, asked)
        return InferenceResponse.build(model_name=self.name, model_version=self.version, outputs=outputs)

    def _encode(self, results: list[Any], asked: list[RequestOutput]) -> list[ResponseOutput]:
        outputs: list[ResponseOutput] = []
        for result, output in zip(results, asked, strict=True):
            if not isinstance(result, np.ndarray):
                if _is_frame(result):
                    if len(asked) > 1:
                        raise InferenceError(
                            f"Cannot encode '{output.name}' together with other outputs: it is a DataFrame"
                        )
                    columns: list[ResponseOutput] = _pandas_codec().encode_outputs(result)
                    return columns
                result = _plain(result, output.name)
            elif result.dtype.kind == "S":
                result = result.astype(object)  # as one text per row, not as one buffer
            if type(result) is np.ndarray and not self._names_content_type(output):
                outputs.append(NumpyCodec.encode_output(output.name, result))
            else:
                outputs.append(self.encode(result, output, default_codec=NumpyCodec))
        return outputs

    def _names_content_type(self, output: RequestOutput) -> bool:
        """Whether the request or the metadata name a content type for the output."""
        tensors: list[RequestOutput | MetadataTensor] = [output, *self.outputs]
        for tensor in tensors:
            parameters = tensor.parameters
            if parameters is not None and parameters.content_type and tensor.name == output.name:
                return True
        return False


def is_pickle(path: str) -> bool:
    """Whether the name of a file says that it is to be unpickled."""
    return os.path.splitext(path)[1].lower() in (".joblib", ".pickle", ".pkl")


def is_known_code(part: Any) -> bool:
    """Whether an object, or all objects in a list, run code of packages that do nothing but compute."""
    if isinstance(part, (list, tuple)):
        return all(map(is_known_code, part))
    if callable(part):
        code = part
    elif hasattr(part, "get_params") or hasattr(part, "predict"):
        code = type(part)
    else:
        return True  # a value
    module = getattr(code, "__module__", None) or type(code).__module__
    return module.partition(".")[0] in _KNOWN_PACKAGES


def subject_of(payload: InferenceRequest) -> str:
    """What an error about a request's data speaks of: its input, where it has just one."""
    return f"input '{payload.inputs[0].name}'" if len(payload.inputs) == 1 else "the request"


def check_single(
    payload: InferenceRequest, settings: ModelSettings, default: str | None = NumpyRequestCodec.ContentType
) -> None:
    """Raises CodecError that names the inputs where the content type wants one, and there is not one.

    default: the content type of requests where neither they nor the settings name one.
    """
    count = len(payload.inputs)
    if count == 1:
        return
    named = (each and each.content_type for each in (payload.parameters, settings.parameters))
    content_type = next(filter(None, named), default)
    if content_type in _OF_ONE_TENSOR:
        # The codec's own words, which clients know, and the names.
        words = f"The '{content_type}' codec only supports a single input tensor ({count} were received)"
        names = quoted(tensor.name for tensor in payload.inputs)
        raise CodecError(f"{words}: {names}" if names else words)


def first_element(values: Any) -> str:
    """The first of some texts as an addition to a message; empty where there is none."""
    if not len(values):
        return ""
    first = values[0] if isinstance(values, list) else values.flat[0]
    text = bytes(first).decode(errors="replace") if isinstance(first, bytes) else str(first)
    return f" (the first element is {text[:_SHOWN]!r})"


def text_input(name: str) -> MetadataTensor:
    """The metadata of an input of one text per row."""
    # Also the default for decoding: over gRPC, texts arrive as bytes, which are equal to no category.
    parameters = Parameters(content_type=StringCodec.ContentType)
    return MetadataTensor(name=name, datatype="BYTES", shape=[-1, 1], parameters=parameters)


def quoted(names: Iterable[str]) -> str:
    """Names for a message, not too many of them."""
    listed = [f"'{name}'" for name in names]
    more = len(listed) - _MOST_NAMES_LISTED
    return ", ".join(listed[:_MOST_NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")


def _shape(data: Any) -> tuple[int, ...]:
    return (len(data),) if isinstance(data, list) else tuple(getattr(data, "shape", ()))


def _without_rows(shape: tuple[int, ...]) -> str | None:
    return f"has no rows (shape {list(shape)})" if shape and shape[0] == 0 else None


def _s(names: list[str]) -> str:
    return "s" if len(names) > 1 else ""


def _openmp_libraries() -> Any:
    """What limits the threads of the OpenMP libraries that are loaded; None where that cannot be done."""
    try:
        threadpoolctl = importlib.import_module("threadpoolctl")
    except ImportError:
        return None
    libraries = threadpoolctl.ThreadpoolController().select(user_api="openmp")
    return libraries if libraries.info() else None


def _pandas_codec() -> Any:
    """Imports pandas, which most models do without."""
    from mlserver.codecs import PandasCodec

    return PandasCodec


def _without_booleans(values: Any) -> Any:
    """Values of pandas, booleans as 0 and 1, which pandas takes for others."""
    return values.astype("int8") if values.dtype == bool else values


def _holds_text(column: Any) -> bool:
    """Whether all values of a column are text, or missing."""
    import pandas as pd

    return pd.api.types.infer_dtype(column, skipna=True) in ("string", "empty")


def _is_frame(value: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def _datatype(dtype: np.dtype[Any]) -> str:
    return str(NumpyCodec.encode_output("", np.zeros((0, 1), dtype=dtype)).datatype)


def _plain_values(classes: Any) -> list[Any] | None:
    """Classes as values that JSON can hold, if they are such and not too many."""
    if not isinstance(classes, np.ndarray) or classes.ndim != 1 or len(classes) > _MOST_CLASSES_LISTED:
        return None
    values: list[Any] = classes.tolist()
    return values if all(isinstance(value, (bool, int, float, str)) for value in values) else None


def _plain(result: Any, name: str) -> Any:
    """What models return besides arrays, as something that can be encoded."""
    if hasattr(result, "toarray"):
        return result.toarray()
    if isinstance(result, list):
        if result and isinstance(result[0], np.ndarray):
            raise InferenceError(
                f"'{name}' of a model with {len(result)} targets is a list of arrays, which is no tensor"
            )
        if all(isinstance(value, str) for value in result):
            return result
    return np.asarray(result)
