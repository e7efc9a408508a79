"""Message types: msgspec structs that answer to the pydantic names users call.

msgspec decodes JSON straight into these classes, without running Python for what is plain. Code that builds
them by keyword goes through `validate`, which coerces and refuses what pydantic's lax mode would, and raises
pydantic's own error class.
"""

from __future__ import annotations

import copy as _copy
import enum
import json
import math
import types as _types
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar, cast

import msgspec
import numpy as np
import orjson

from mlserver.tensor import TensorData

__all__ = ["BaseModel", "Parameters", "ValidationFault", "set_field", "validate"]

# Sets a field without the checks of `BaseModel.__setattr__`, for code that knows what it does.
set_field: Callable[[Any, str, Any], None] = cast(Any, msgspec.structs.force_setattr)

Loc = tuple[Any, ...]
Values = dict[str, Any]
M = TypeVar("M", bound="BaseModel")


# A message may have a fault in every one of a million numbers; after so many nobody looks for more.
ENOUGH_FAULTS = 100


class ValidationFault(typing.NamedTuple):
    """One fault of a message: pydantic's word for it, where it is, and the value found there."""

    type: str
    loc: Loc
    input: Any
    ctx: dict[str, Any] | None = None


if typing.TYPE_CHECKING:
    _StructMeta = msgspec.StructMeta

    class _Struct:
        """To type checkers no dataclass: any keyword is welcome there, and judged when it runs."""

        __struct_fields__: ClassVar[tuple[str, ...]]

else:
    _StructMeta = type(msgspec.Struct)
    _Struct = msgspec.Struct


class _ModelMeta(_StructMeta):
    """Calling a class validates; msgspec's decoder builds instances without calling it."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> Any:
        return super().__new__(mcls, name, bases, namespace, **{"kw_only": True, **kwargs})

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and issubclass(cls, RootModel):
            kwargs, args = {"root": args[0]}, ()
        if args:
            raise TypeError(f"{cls.__name__} takes keyword arguments only")
        return _validated(cls, kwargs)

    def build(cls, **kwargs: Any) -> Any:
        """An instance from values that are known to be right: nothing is checked, wrapped or copied."""
        return super().__call__(**kwargs)


class BaseModel(_Struct, metaclass=_ModelMeta, dict=True, omit_defaults=True):
    """What all messages have in common."""

    if typing.TYPE_CHECKING:

        def __init__(self, **kwargs: Any) -> None: ...

        @classmethod
        def build(cls: type[M], **kwargs: Any) -> M: ...

    def __setattr__(self, name: str, value: Any) -> None:
        if name[0] != "_" and name not in self.__struct_fields__:
            raise ValueError(f'"{type(self).__name__}" object has no field "{name}"')
        if value is None and name[0] != "_":
            self.__dict__.setdefault("_given_none", set()).add(name)
        msgspec.Struct.__setattr__(self, name, value)

    # Making one

    @classmethod
    def model_validate(cls: type[M], obj: Any, **kwargs: Any) -> M:
        """An instance from a mapping. Raises pydantic.ValidationError naming every fault."""
        return _validated(cls, obj)  # type: ignore[no-any-return]

    @classmethod
    def model_validate_json(cls: type[M], json_data: str | bytes | bytearray, **kwargs: Any) -> M:
        try:
            obj = msgspec.json.decode(json_data)
        except msgspec.DecodeError as exc:
            raise _validation_error(
                cls.__name__, [ValidationFault("json_invalid", (), json_data, {"error": str(exc)})]
            ) from exc
        return cls.model_validate(obj)

    parse_raw = model_validate_json

    @classmethod
    def parse_obj(cls: type[M], obj: Any) -> M:
        return cls.model_validate(obj)

    @classmethod
    def parse_file(cls: type[M], path: Any, **kwargs: Any) -> M:
        with open(path, "rb") as file:
            return cls.model_validate_json(file.read())

    @classmethod
    def model_construct(cls: type[M], _fields_set: set[str] | None = None, **values: Any) -> M:
        """An instance from values that are not checked; what is missing is None."""
        known = {name: values.get(name) for name in cls.__struct_fields__}
        return cls.build(**known)

    construct = model_construct

    # Copies

    def model_copy(self: M, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> M:
        copied = _copy.deepcopy(self) if deep else _copy.copy(self)
        for name, value in (update or {}).items():
            setattr(copied, name, value)
        return copied

    def copy(self: M, *, deep: bool = False, update: Mapping[str, Any] | None = None, **kwargs: Any) -> M:
        return self.model_copy(deep=deep, update=update)

    def __copy__(self: M) -> M:
        return _rebuild(type(self), self._values(), dict(self.__dict__))

    def __deepcopy__(self: M, memo: dict[int, Any]) -> M:
        return _rebuild(type(self), _copy.deepcopy(self._values(), memo), _copy.deepcopy(self.__dict__, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._values(), self.__dict__)

    def _values(self) -> Values:
        return {name: getattr(self, name) for name in self.__struct_fields__}

    # Taking it apart

    @property
    def model_fields_set(self) -> set[str]:
        given_none = self.__dict__.get("_given_none", ())
        return {n for n in self.__struct_fields__ if n in given_none or getattr(self, n) is not None}

    def model_dump(
        self,
        *,
        mode: str = "python",
        include: Any = None,
        exclude: Any = None,
        by_alias: bool = False,
        exclude_unset: bool = True,
        exclude_defaults: bool = False,
        exclude_none: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Plain dicts and lists. Fields that are unset or None are left out, unless asked for."""
        return _Dump(mode == "json", exclude_unset, exclude_none, exclude_defaults).model(
            self, include, exclude
        )

    def model_dump_json(self, *, indent: int | None = None, **kwargs: Any) -> str:
        """Compact JSON: NaN and infinities are null, bytes are UTF-8 text."""
        return _dump_json(self.model_dump(mode="json", **kwargs), indent)

    def dict(self, **kwargs: Any) -> Any:
        """pydantic's old name; keeps fields that are None or unset."""
        _deprecated("dict", "model_dump")
        return self.model_dump(**{"exclude_unset": False, "exclude_none": False, **kwargs})

    def json(self, **kwargs: Any) -> str:
        """pydantic's old name; keeps fields that are None or unset."""
        _deprecated("json", "model_dump_json")
        return self.model_dump_json(**{"exclude_unset": False, "exclude_none": False, **kwargs})

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Lets pydantic models, and handlers with typed arguments, use these classes as fields."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls.model_validate,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.model_dump()),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Values:
        return {"type": "object", "title": cls.__name__}


class Parameters:
    """Open parameters of a request, tensor or model: `content_type`, `headers`, any other key, as attributes.

    Names that start with an underscore belong to the server (`_decoded_payload`): they are kept, but never
    dumped nor compared.
    """

    __slots__ = ("__dict__", "content_type", "headers", "model_extra")

    content_type: str | None
    headers: dict[str, Any] | None
    model_extra: dict[str, Any]

    model_fields: ClassVar[tuple[str, ...]] = ("content_type", "headers")

    def __init__(self, /, **kwargs: Any) -> None:
        faults: list[ValidationFault] = []
        content_type = kwargs.pop("content_type", None)
        if content_type is not None and not isinstance(content_type, str):
            faults.append(ValidationFault("string_type", ("content_type",), content_type))
        headers = kwargs.pop("headers", None)
        if headers is not None and not isinstance(headers, Mapping):
            faults.append(ValidationFault("dict_type", ("headers",), headers))
        if faults:
            raise _validation_error("Parameters", faults)
        set_slot = object.__setattr__
        set_slot(self, "content_type", content_type)
        set_slot(self, "headers", headers)
        set_slot(self, "model_extra", kwargs)

    @classmethod
    def of_content_type(cls, content_type: str) -> Parameters:
        """Nothing but a content type, which is not checked."""
        self = cls.__new__(cls)
        set_slot = object.__setattr__
        set_slot(self, "content_type", content_type)
        set_slot(self, "headers", None)
        set_slot(self, "model_extra", {})
        return self

    def __getattr__(self, name: str) -> Any:
        if name in (
            "model_extra",
            "content_type",
            "headers",
        ):  # an instance that copy or pickle is still filling
            raise AttributeError(name)
        try:
            return self.model_extra[name]
        except KeyError:
            raise AttributeError(f"'Parameters' object has no attribute '{name}'") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("content_type", "headers", "model_extra") or name[0] == "_":
            object.__setattr__(self, name, value)
        else:
            self.model_extra[name] = value

    def __delattr__(self, name: str) -> None:
        if name in self.model_extra:
            del self.model_extra[name]
        else:
            object.__delattr__(self, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Parameters):
            return NotImplemented
        return (self.content_type, self.headers, self.model_extra) == (
            other.content_type,
            other.headers,
            other.model_extra,
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Parameters({', '.join(f'{key}={value!r}' for key, value in self.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        state = (self.content_type, self.headers, self.model_extra, self.__dict__)
        return _rebuild_parameters, state

    def __copy__(self) -> Parameters:
        return _rebuild_parameters(
            self.content_type, self.headers, dict(self.model_extra), dict(self.__dict__)
        )

    def items(self) -> Iterable[tuple[str, Any]]:
        """Every key that is set to something, `content_type` and `headers` first."""
        if self.content_type is not None:
            yield "content_type", self.content_type
        if self.headers is not None:
            yield "headers", self.headers
        yield from self.model_extra.items()

    @property
    def model_fields_set(self) -> set[str]:
        return {key for key, _ in self.items()}

    @classmethod
    def model_validate(cls, obj: Any, **kwargs: Any) -> Parameters:
        return _validated(cls, obj)  # type: ignore[no-any-return]

    @classmethod
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Parameters:
        return _rebuild_parameters(values.pop("content_type", None), values.pop("headers", None), values, {})

    construct = model_construct

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Parameters:
        copied = _copy.deepcopy(self) if deep else _copy.copy(self)
        for name, value in (update or {}).items():
            setattr(copied, name, value)
        return copied

    def copy(
        self, *, deep: bool = False, update: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Parameters:
        return self.model_copy(deep=deep, update=update)

    model_dump: Any = BaseModel.model_dump
    model_dump_json: Any = BaseModel.model_dump_json
    dict: Any = BaseModel.dict
    json: Any = BaseModel.json

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls.model_validate,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.model_dump()),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        return {"type": "object", "title": "Parameters", "additionalProperties": True}


def _rebuild(cls: type[M], values: dict[str, Any], private: dict[str, Any]) -> M:
    instance = cls.build(**values)
    instance.__dict__.update(private)
    return instance


def _rebuild_parameters(content_type: Any, headers: Any, extra: Any, private: Any) -> Parameters:
    instance = Parameters.__new__(Parameters)
    set_slot = object.__setattr__
    set_slot(instance, "content_type", content_type)
    set_slot(instance, "headers", headers)
    set_slot(instance, "model_extra", extra)
    instance.__dict__.update(private)
    return instance


def _deprecated(old: str, new: str) -> None:
    warnings.warn(f"`{old}` is deprecated, use `{new}`", DeprecationWarning, stacklevel=3)


# --- dumping ----------------------------------------------------------------------------------------------


class _Dump:
    """One walk over a message.

    `include` and `exclude` are pydantic's: sets, or mappings of field or index to the same.
    """

    def __init__(
        self, as_json: bool, exclude_unset: bool, exclude_none: bool, exclude_defaults: bool
    ) -> None:
        self.as_json = as_json
        self.exclude_unset = exclude_unset
        self.exclude_none = exclude_none or exclude_defaults  # every default is None

    def model(self, model: Any, include: Any, exclude: Any) -> Any:
        if isinstance(model, Parameters):
            fields: Iterable[tuple[str, Any]] = model.items() if self.exclude_unset else _all_items(model)
        elif isinstance(model, RootModel):
            return [_Dump(self.as_json, False, False, False).value(item, None, None) for item in model.root]
        else:
            names = model.__struct_fields__
            if self.exclude_unset:
                given = model.model_fields_set
                names = tuple(name for name in names if name in given)
            fields = ((name, getattr(model, name)) for name in names)
        dumped = {}
        for name, value in fields:
            if value is None and self.exclude_none and not (name == "data" and isinstance(model, BaseModel)):
                continue
            inner_include, inner_exclude = _narrow(include, name), _narrow(exclude, name)
            if (include is not None and inner_include is _ABSENT) or inner_exclude is _WHOLE:
                continue
            dumped[name] = self.value(
                value,
                None if inner_include in (_WHOLE, _ABSENT) else inner_include,
                None if inner_exclude is _ABSENT else inner_exclude,
            )
        return dumped

    def value(self, value: Any, include: Any, exclude: Any) -> Any:
        if isinstance(value, (BaseModel, Parameters)):
            return self.model(value, include, exclude)
        if isinstance(value, TensorData):
            return value.root
        if isinstance(value, list):
            kept = []
            for index, item in enumerate(value):
                inner_exclude = _narrow(exclude, index)
                inner_include = _narrow(include, index)
                if inner_exclude is _WHOLE or (include is not None and inner_include is _ABSENT):
                    continue
                kept.append(
                    self.value(
                        item,
                        None if inner_include in (_WHOLE, _ABSENT) else inner_include,
                        None if inner_exclude is _ABSENT else inner_exclude,
                    )
                )
            return kept
        if isinstance(value, enum.Enum) and self.as_json:
            return value.value
        return value


def _dump_json(value: Any, indent: int | None) -> str:
    from pydantic_core import PydanticSerializationError

    try:
        text = orjson.dumps(value, default=_json_default).decode()
    except TypeError as exc:
        raise PydanticSerializationError(f"Error serializing to JSON: {exc.__cause__ or exc}") from exc
    if indent is None:
        return text
    return json.dumps(json.loads(text), indent=indent, ensure_ascii=False)


def _json_default(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"Unable to serialize unknown type: {type(value)}")


class RootModel(BaseModel):
    """A message that is a list at its root."""

    root: list[Any]

    def __iter__(self) -> Any:
        return iter(self.root)

    def __getitem__(self, index: Any) -> Any:
        return self.root[index]

    def __len__(self) -> int:
        return len(self.root)


_ABSENT: Any = object()
_WHOLE: Any = object()


def _narrow(selection: Any, key: Any) -> Any:
    """What a pydantic selection says of `key`: absent, the whole of it, or an inner selection."""
    if selection is None:
        return _ABSENT
    if isinstance(selection, (set, frozenset, list, tuple)):
        return _WHOLE if key in selection or (isinstance(key, int) and "__all__" in selection) else _ABSENT
    inner = selection.get(key, selection.get("__all__", _ABSENT) if isinstance(key, int) else _ABSENT)
    return _WHOLE if inner is True or inner is ... else inner


def _all_items(parameters: Parameters) -> Iterable[tuple[str, Any]]:
    yield "content_type", parameters.content_type
    yield "headers", parameters.headers
    yield from parameters.model_extra.items()


# --- validation -------------------------------------------------------------------------------------------

Validator = Callable[[Any, Loc, "list[ValidationFault]"], Any]


def validate(cls: type, obj: Any, loc: Loc, faults: list[ValidationFault]) -> Any:
    """`obj` as an instance of `cls`, a BaseModel or Parameters; what is wrong is added to `faults`.

    Unknown keys are ignored (Parameters keeps them); values are coerced as pydantic's lax mode does.
    """
    if isinstance(obj, cls):
        return obj
    if isinstance(obj, (BaseModel, Parameters)):
        obj = obj.model_dump()
    if issubclass(cls, RootModel) and not isinstance(obj, Mapping):
        obj = {"root": obj}
    if not isinstance(obj, Mapping):
        faults.append(ValidationFault("model_attributes_type", loc, obj))
        return None
    if cls is Parameters:
        try:
            return Parameters(**obj)
        except ValueError as exc:
            faults.extend(
                ValidationFault(error["type"], loc + tuple(error["loc"]), error["input"])
                for error in exc.errors()  # type: ignore[attr-defined]
            )
            return None
    root = issubclass(cls, RootModel)
    values: dict[str, Any] = {}
    given_none: set[str] = set()
    before = len(faults)
    for name, (validator, required) in _fields(cls).items():
        if name in obj:
            value = obj[name]
            values[name] = validator(value, loc if root else (*loc, name), faults)
            if value is None:
                given_none.add(name)
        elif required:
            faults.append(ValidationFault("missing", (*loc, name), obj))
        else:
            values[name] = None
    if len(faults) > before:
        return None
    instance = cls.build(**values)  # type: ignore[attr-defined]
    if given_none:
        instance.__dict__["_given_none"] = given_none
    return instance


def _validated(cls: type, obj: Any) -> Any:
    faults: list[ValidationFault] = []
    value = validate(cls, obj, (), faults)
    if faults:
        raise _validation_error(cls.__name__, faults)
    return value


def _validation_error(title: str, faults: list[ValidationFault]) -> Exception:
    from pydantic_core import ValidationError

    details: list[Any] = [to_error_details(fault) for fault in faults]
    return ValidationError.from_exception_data(title, details)


def to_error_details(fault: ValidationFault) -> dict[str, Any]:
    """A fault as pydantic-core takes it."""
    details: dict[str, Any] = {"type": fault.type, "loc": fault.loc, "input": fault.input}
    if fault.ctx:
        details["ctx"] = fault.ctx
    return details


_validators: dict[type, dict[str, tuple[Validator, bool]]] = {}


def _fields(cls: type) -> dict[str, tuple[Validator, bool]]:
    fields = _validators.get(cls)
    if fields is None:
        hints = typing.get_type_hints(cls)
        fields = _validators[cls] = {
            field.name: (_validator_for(hints[field.name]), field.required)
            for field in msgspec.structs.fields(cls)
        }
    return fields


def _validator_for(hint: Any) -> Validator:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, _types.UnionType):
        inner = _validator_for(next(arg for arg in args if arg is not type(None)))
        return lambda value, loc, faults: None if value is None else inner(value, loc, faults)
    if origin is typing.Literal:
        return _one_of(args)
    if origin is list:
        return _list_of(_validator_for(args[0]))
    if hint in _SCALARS:
        return _SCALARS[hint]
    if isinstance(hint, type) and issubclass(hint, (BaseModel, Parameters)):
        return lambda value, loc, faults: validate(hint, value, loc, faults)
    raise TypeError(f"no validator for {hint!r}")


def _string(value: Any, loc: Loc, faults: list[ValidationFault]) -> Any:
    if isinstance(value, str):
        return value
    faults.append(ValidationFault("string_type", loc, value))
    return None


def _integer(value: Any, loc: Loc, faults: list[ValidationFault]) -> Any:
    if isinstance(value, (bool, int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        if math.isfinite(value) and value == int(value):
            return int(value)
        faults.append(ValidationFault("int_from_float", loc, value))
        return None
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            faults.append(ValidationFault("int_parsing", loc, value))
            return None
    faults.append(ValidationFault("int_type", loc, value))
    return None


_TRUE = {"true", "1", "yes", "on", "t", "y"}
_FALSE = {"false", "0", "no", "off", "f", "n"}


def _boolean(value: Any, loc: Loc, faults: list[ValidationFault]) -> Any:
    if isinstance(value, bool):
        return value
    text = str(value).lower() if isinstance(value, (str, int)) else ""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    faults.append(
        ValidationFault("bool_parsing" if isinstance(value, (str, int)) else "bool_type", loc, value)
    )
    return None


def _tensor_data(value: Any, loc: Loc, faults: list[ValidationFault]) -> TensorData:
    if type(value) is TensorData:
        return value
    return TensorData(list(value) if type(value) is list else value)


def _list_of(inner: Validator) -> Validator:
    def validator(value: Any, loc: Loc, faults: list[ValidationFault]) -> Any:
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            faults.append(ValidationFault("list_type", loc, value))
            return None
        return [
            inner(item, (*loc, index), faults)
            for index, item in enumerate(value)
            if len(faults) < ENOUGH_FAULTS
        ]

    return validator


def _one_of(names: tuple[str, ...]) -> Validator:
    expected = ", ".join(repr(name) for name in names[:-1]) + f" or {names[-1]!r}"

    def validator(value: Any, loc: Loc, faults: list[ValidationFault]) -> Any:
        if isinstance(value, enum.Enum):
            value = value.value
        if isinstance(value, str) and value in names:
            return value
        faults.append(ValidationFault("enum", loc, value, {"expected": expected}))
        return None

    return validator


_SCALARS: dict[Any, Validator] = {
    str: _string,
    int: _integer,
    bool: _boolean,
    msgspec.Raw: _tensor_data,
    TensorData: _tensor_data,
    Any: lambda value, loc, faults: value,
}
