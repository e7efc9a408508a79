"""What a codec is, and how one is found: by content type, by payload, or by type hint.

A codec turns a tensor, or a whole request, into a Python object and back. It is a class with class methods,
or an instance: what is registered is used as it is.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
import types as _types
import typing
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar, Union

from mlserver.errors import CodecError
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

__all__ = [
    "InputCodec",
    "InputCodecLike",
    "RequestCodec",
    "RequestCodecLike",
    "deprecated",
    "find_input_codec",
    "find_input_codec_by_payload",
    "find_input_codec_by_type_hint",
    "find_request_codec",
    "find_request_codec_by_payload",
    "find_request_codec_by_type_hint",
    "register_input_codec",
    "register_request_codec",
]

logger = logging.getLogger("mlserver")

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C")


def deprecated(reason: str) -> Callable[[F], F]:
    """Log a line with `DEPRECATED` and the reason at each call."""

    def decorator(function: F) -> F:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            logger.warning(f"DEPRECATED! {reason}")
            return function(*args, **kwargs)

        return typing.cast(F, wrapper)

    return decorator


class InputCodec:
    """Converts one tensor to a Python object and back.

    A subclass sets `ContentType` (and `TypeHint`, for signatures) and overrides `can_encode`, `encode_output`
    and `decode_input`; `encode_input` and `decode_output` follow from them.
    """

    ContentType: ClassVar[str] = ""
    TypeHint: ClassVar[Any] = type(None)

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """Whether this codec is meant for such objects. Decides when no content type was asked for."""
        return False

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        """A response tensor that holds the object."""
        raise NotImplementedError(f"{cls.__name__} does not implement encode_output")

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> Any:
        """The object that a response tensor holds."""
        return cls.decode_input(response_output)  # type: ignore[arg-type]  # the two have the same fields

    @classmethod
    def encode_input(cls, name: str, payload: Any, **kwargs: Any) -> RequestInput:
        """A request tensor that holds the object."""
        output = cls.encode_output(name, payload, **kwargs)
        return RequestInput.build(
            name=output.name,
            shape=output.shape,
            datatype=output.datatype,
            parameters=output.parameters,
            data=output.data,
        )

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """The object that a request tensor holds."""
        raise NotImplementedError(f"{cls.__name__} does not implement decode_input")

    @classmethod
    @deprecated("`encode` was replaced by `encode_output`")
    def encode(cls, name: str, payload: Any) -> ResponseOutput:
        return cls.encode_output(name, payload)

    @classmethod
    @deprecated("`decode` was replaced by `decode_input`")
    def decode(cls, request_input: RequestInput) -> Any:
        return cls.decode_input(request_input)


class RequestCodec:
    """Converts a whole request or response to a Python object and back."""

    ContentType: ClassVar[str] = ""
    TypeHint: ClassVar[Any] = type(None)

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """Whether this codec is meant for such objects."""
        return False

    @classmethod
    def encode_response(
        cls, model_name: str, payload: Any, model_version: str | None = None, **kwargs: Any
    ) -> InferenceResponse:
        """A response that holds the object."""
        raise NotImplementedError(f"{cls.__name__} does not implement encode_response")

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> Any:
        """The object that a response holds."""
        raise NotImplementedError(f"{cls.__name__} does not implement decode_response")

    @classmethod
    def encode_request(cls, payload: Any, **kwargs: Any) -> InferenceRequest:
        """A request that holds the object."""
        raise NotImplementedError(f"{cls.__name__} does not implement encode_request")

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        """The object that a request holds."""
        raise NotImplementedError(f"{cls.__name__} does not implement decode_request")

    @classmethod
    @deprecated("`encode` was replaced by `encode_response`")
    def encode(cls, model_name: str, payload: Any, model_version: str | None = None) -> InferenceResponse:
        return cls.encode_response(model_name, payload, model_version)

    @classmethod
    @deprecated("`decode` was replaced by `decode_request`")
    def decode(cls, request: InferenceRequest) -> Any:
        return cls.decode_request(request)


InputCodecLike = type[InputCodec] | InputCodec
RequestCodecLike = type[RequestCodec] | RequestCodec


class _Deferred:
    """A codec of ours whose module imports a library that not everybody has or wants loaded."""

    def __init__(self, module: str, name: str, needs: str) -> None:
        self.module, self.name, self.needs = module, name, needs

    @property
    def wanted(self) -> bool:
        """No object or type of the library can be around before the library is."""
        return self.needs in sys.modules

    def load(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)


class _Registry(Generic[C]):
    """Codecs by content type, in order of registration."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._codecs: dict[str, Any] = {}
        self._all: list[Any] | None = None  # once none is deferred any more

    def register(self, content_type: str, codec: Any) -> None:
        self._codecs[content_type] = codec
        self._all = None

    def by_content_type(self, content_type: str) -> C | None:
        codec: C | _Deferred | None = self._codecs.get(content_type)
        if not isinstance(codec, _Deferred):
            return codec
        try:
            loaded: C = codec.load()
        except ImportError as exc:
            raise CodecError(
                f"content type '{content_type}' needs '{codec.needs}', which is not installed"
            ) from exc
        self.register(content_type, loaded)
        return loaded

    def by_payload(self, payload: Any) -> Any:
        """The first codec that can encode `payload`; logs a warning when there are several, or none."""
        matching: list[Any] = [codec for codec in self._loaded() if codec.can_encode(payload)]
        if len(matching) == 1:
            return matching[0]
        if not matching:
            logger.warning(f"No {self._kind} codec can encode a payload of type {type(payload)}")
            return None
        names = ", ".join(f"'{codec.ContentType}'" for codec in matching)
        logger.warning(f"Several {self._kind} codecs can encode a {type(payload)}, using the first: {names}")
        return matching[0]

    def by_type_hint(self, type_hint: Any) -> Any:
        """The codec for values of this type.

        `Optional[T]` counts as `T`, `list[T]` as `List[T]`, `np.ndarray[...]` as `np.ndarray`. A list of T
        fits a codec for lists of a union with T, unless another codec fits better.
        """
        hint = canonical_hint(type_hint)
        if hint is type(None):
            return None
        known = [(canonical_hint(codec.TypeHint), codec) for codec in self._loaded()]
        for candidate, codec in known:
            if candidate == hint:
                return codec
        for candidate, codec in known:
            if _is_list_of_one_of(hint, candidate):
                return codec
        origin = typing.get_origin(without_none(type_hint))
        if isinstance(origin, type) and origin not in (list, dict, tuple, set):
            return self.by_type_hint(origin)
        return None

    def _loaded(self) -> list[Any]:
        if self._all is not None:
            return self._all
        loaded = [
            self.by_content_type(content_type)
            for content_type, codec in list(self._codecs.items())
            if type(codec) is not _Deferred or codec.wanted
        ]
        if len(loaded) == len(self._codecs):
            self._all = loaded
        return loaded


def without_none(type_hint: Any) -> Any:
    """`T` for `Optional[T]`, `T | None`, `Annotated[T, ...]` and an alias of T; any other hint as it is."""
    type_hint = _unwrapped(type_hint)
    if typing.get_origin(type_hint) in _UNIONS:
        members = tuple(member for member in typing.get_args(type_hint) if member is not type(None))
        if len(members) == 1:
            return without_none(members[0])
        return Union[members]  # noqa: UP007 - members are known at run time only
    return type_hint


def allows_none(type_hint: Any) -> bool:
    """Whether None is a value of the hint."""
    type_hint = _unwrapped(type_hint)
    if typing.get_origin(type_hint) in _UNIONS:
        return any(map(allows_none, typing.get_args(type_hint)))
    return type_hint is None or type_hint is type(None)


def _unwrapped(type_hint: Any) -> Any:
    """The hint that an alias, or one that is annotated, stands for."""
    alias_of = getattr(type_hint, "__value__", None)
    if alias_of is not None:
        arguments = typing.get_args(type_hint) if getattr(alias_of, "__parameters__", ()) else ()
        return _unwrapped(alias_of[arguments] if arguments else alias_of)
    if typing.get_origin(type_hint) is typing.Annotated:
        return _unwrapped(typing.get_args(type_hint)[0])
    return type_hint


def canonical_hint(type_hint: Any) -> Any:
    """A form of the hint that is the same for `List[str]` and `list[str]`, and for unions in any order."""
    if isinstance(type_hint, (list, tuple)):
        return tuple(map(canonical_hint, type_hint))
    type_hint = without_none(type_hint)
    origin, args = typing.get_origin(type_hint), typing.get_args(type_hint)
    if origin is None or not args:
        return origin or type_hint
    inner = canonical_hint(args)
    return (Union, frozenset(inner)) if origin in _UNIONS else (origin, *inner)


_UNIONS = (Union, _types.UnionType)


def _is_list_of_one_of(hint: Any, candidate: Any) -> bool:
    if not (isinstance(hint, tuple) and isinstance(candidate, tuple) and hint[0] is candidate[0] is list):
        return False
    element, union = hint[1], candidate[1]
    return isinstance(union, tuple) and union[0] is Union and element in union[1]


_inputs: _Registry[InputCodecLike] = _Registry("input")
_requests: _Registry[RequestCodecLike] = _Registry("request")


def register_input_codec(codec: C) -> C:
    """Make a codec known under its `ContentType`; the last one of a content type wins. A class decorator."""
    _inputs.register(codec.ContentType, codec)  # type: ignore[attr-defined]
    return codec


def register_request_codec(codec: C) -> C:
    """Make a codec known under its `ContentType`; the last one of a content type wins. A class decorator."""
    _requests.register(codec.ContentType, codec)  # type: ignore[attr-defined]
    return codec


def register_deferred_request_codec(content_type: str, module: str, name: str, needs: str) -> None:
    """Make a codec known whose module is imported once it is asked for, or its library is loaded anyway."""
    _requests.register(content_type, _Deferred(module, name, needs))


def find_input_codec(
    content_type: str | None = None, payload: Any = None, type_hint: Any = None
) -> InputCodecLike | None:
    """The input codec for a content type, a payload or a type hint, whichever is given first."""
    return _find(_inputs, content_type, payload, type_hint)


def find_input_codec_by_payload(payload: Any) -> InputCodecLike | None:
    codec: InputCodecLike | None = _inputs.by_payload(payload)
    return codec


def find_input_codec_by_type_hint(type_hint: Any) -> InputCodecLike | None:
    codec: InputCodecLike | None = _inputs.by_type_hint(type_hint)
    return codec


def find_request_codec(
    content_type: str | None = None, payload: Any = None, type_hint: Any = None
) -> RequestCodecLike | None:
    """The request codec for a content type, a payload or a type hint, whichever is given first."""
    return _find(_requests, content_type, payload, type_hint)


def find_request_codec_by_payload(payload: Any) -> RequestCodecLike | None:
    codec: RequestCodecLike | None = _requests.by_payload(payload)
    return codec


def find_request_codec_by_type_hint(type_hint: Any) -> RequestCodecLike | None:
    codec: RequestCodecLike | None = _requests.by_type_hint(type_hint)
    return codec


def _find(registry: _Registry[C], content_type: str | None, payload: Any, type_hint: Any) -> C | None:
    found: C | None = None
    if content_type:
        found = registry.by_content_type(content_type)
    elif payload is not None:
        found = registry.by_payload(payload)
    elif type_hint is not None:
        found = registry.by_type_hint(type_hint)
    return found
