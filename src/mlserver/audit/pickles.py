"""What a pickle would import, found without unpickling it.

The opcodes are run on a stack and a memo of stand-ins: texts, numbers, tuples and globals are known, what a
call returns is not. So the two operands of STACK_GLOBAL are found wherever they were put, and so are the
arrays that joblib writes as bare bytes between two opcodes. What the machine cannot follow is said to be
undecided, never passed over: code that runs before a pickle breaks has run.
"""

from __future__ import annotations

import _compat_pickle
import itertools
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["HARMLESS", "Contents", "Source", "Undecidable", "is_class", "is_dangerous", "scan", "shown"]

# Values above this many bytes are passed over: no name is that long.
_LONGEST_VALUE = 1 << 16
_BLOCK = 1 << 20
_PICKLES_IN_A_ROW = 10_000
_NESTED = 8


class Undecidable(Exception):
    """What a file would run cannot be told; the text says why."""


class _Broken(Undecidable):
    """The stream is no pickle from here on: whoever reads it stops here, too."""


class Source(Protocol):
    """A file, as far as it is needed here."""

    def read(self, size: int, /) -> bytes: ...

    def tell(self) -> int: ...


@dataclass(slots=True)
class Contents:
    """names: of everything that would be imported, as `module.name`, or `module:outer.name` for what lies
    within another thing. undecided: why that may not be all.

    whole: the number of complete pickles that were found. broken: why it ended before the first was.
    """

    names: set[str] = field(default_factory=set)
    undecided: list[str] = field(default_factory=list)
    whole: int = 0
    broken: str | None = None

    @property
    def any(self) -> bool:
        """Whether there is a pickle at all."""
        return bool(self.names or self.undecided or self.whole)

    def add(self, other: Contents) -> None:
        self.names |= other.names
        self.undecided += [reason for reason in other.undecided if reason not in self.undecided]
        self.whole += other.whole


def scan(source: Source, *, joblib: bool = False) -> Contents:
    """What unpickling `source` from here on would import: one pickle, and those that follow it.

    joblib: read the arrays that joblib puts between opcodes as joblib does. Who loads a file decides how it
    is read, so a file is to be scanned both ways. Text may begin like a pickle of old, and name something by
    chance; that counts once something is called, for what breaks off before has run nothing.
    """
    found = Contents()
    for _ in range(_PICKLES_IN_A_ROW):
        machine = _Machine(source, found.names, joblib)
        before = set(found.names)
        try:
            machine.run()
        except _Broken as exc:
            if not machine.calls and not machine.declared:
                found.names = before
                return found
            if not found.whole:
                found.broken = f"a pickle that breaks off: {exc}"
            found.undecided += machine.doubts
            return found
        except Undecidable as exc:
            found.undecided += [*machine.doubts, str(exc)]
            return found
        found.undecided += machine.doubts
        found.whole += 1
    found.undecided.append(f"more than {_PICKLES_IN_A_ROW} pickles in a row")
    return found


# Stand-ins


class _Unknown:
    """The result of a call, or a value that does not matter."""

    __slots__ = ()


class _Value:
    """A value that is neither text nor called: a list, a set, a number."""

    __slots__ = ()


class _Mark:
    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Global:
    name: str


@dataclass(slots=True, eq=False)
class _Made:
    """What a global made: called, or as a new object of a class. state: what BUILD gave it."""

    by: str
    arguments: Any
    is_object: bool = False
    state: Any = None


_UNKNOWN = _Unknown()
_VALUE = _Value()
_MARK = _Mark()

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
_COUNTED = {
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)


class _Machine:
    """Runs one pickle. names: what it imports is added. calls: how many it made. declared: it began as
    pickles of today do.
    """

    def __init__(self, source: Source, names: set[str], joblib: bool, depth: int = 0) -> None:
        self._source = source
        self._names = names
        self._joblib = joblib
        self._depth = depth
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._protocol = 0
        self._frame_end = 0
        self.declared = False
        self.calls = 0
        self.doubts: list[str] = []  # what was passed over

    def run(self) -> None:
        """Raises _Broken where the pickle ends before its STOP, Undecidable where it cannot be followed."""
        read = self._source.read
        for step in itertools.count():
            code = read(1)
            opcode = _OPCODES.get(code)
            if opcode is None:
                at = self._source.tell() - len(code)
                raise _Broken(f"no opcode at byte {at}" if code else "it is truncated")
            value: Any = self._argument(opcode) if opcode.arg is not None else None
            if step == 0:
                self.declared = opcode.name == "PROTO" and value <= 5
            if opcode.name == "STOP":
                if not self._stack:
                    raise _Broken("nothing on the stack at STOP")
                return
            _STEPS[opcode.name](self, opcode.name, value)

    # Arguments

    def _argument(self, opcode: Any) -> Any:
        argument = opcode.arg
        if argument is None:
            return None
        if argument.n in _COUNTED:
            size, signed = _COUNTED[argument.n]
            length = int.from_bytes(self._exactly(size), "little", signed=signed)
            if length < 0:
                raise _Broken("a negative length")
            if length > _LONGEST_VALUE:
                self._skip(length)
                return _UNKNOWN
            return self._decoded(opcode.name, self._exactly(length))
        if argument.n == pickletools.UP_TO_NEWLINE:
            lines = [self._line() for _ in range(2 if opcode.name in ("GLOBAL", "INST") else 1)]
            return self._of_lines(opcode.name, lines)
        if argument.name == "float8":
            self._exactly(8)
            return _VALUE
        signed = argument.name == "int4"
        return int.from_bytes(self._exactly(argument.n), "little", signed=signed)

    def _exactly(self, size: int) -> bytes:
        data = self._source.read(size)
        if len(data) < size:
            raise _Broken("it is truncated")
        return data

    def _skip(self, size: int) -> None:
        while size > 0:
            size -= len(self._exactly(min(size, _BLOCK)))

    def _line(self) -> bytes | None:
        """Up to the end of the line; None if it is longer than names and numbers are."""
        line = bytearray()
        while (byte := self._exactly(1)) != b"\n":
            if len(line) <= _LONGEST_VALUE:
                line += byte
        return bytes(line) if len(line) <= _LONGEST_VALUE else None

    def _decoded(self, name: str, data: bytes) -> Any:
        if name in ("LONG1", "LONG4"):
            return int.from_bytes(data, "little", signed=True)
        try:
            if "UNICODE" in name:
                return data.decode("utf-8", "surrogatepass")
            if "STRING" in name:
                return data.decode("ascii")
        except UnicodeDecodeError:
            return _UNKNOWN
        return data

    def _of_lines(self, name: str, lines: list[bytes | None]) -> Any:
        line = lines[0]
        if line is None or lines[-1] is None:
            if name in ("GLOBAL", "INST", "GET", "PUT", "INT"):
                raise _Broken(f"an endless {name}")
            return _UNKNOWN
        try:
            if name in ("GLOBAL", "INST"):
                return [each.decode("utf-8") for each in lines if each is not None]
            if name == "UNICODE":
                return str(line, "raw-unicode-escape")
            if name == "STRING":
                text = line.strip()
                if len(text) < 2 or text[0] != text[-1] or text[:1] not in (b"'", b'"'):
                    raise _Broken("a STRING without quotes")
                return text[1:-1].decode("unicode-escape")
            if name in ("GET", "PUT"):
                return int(line)
            if name == "INT":
                return line == b"01" if line in (b"00", b"01") else int(line, 0)
            if name == "LONG":
                return int(line.rstrip(b"L"), 0)
        except ValueError:
            # There the unpickler in C stops reading, and goes on.
            if b"\0" in line and name not in ("GLOBAL", "INST"):
                self.doubts.append(f"an unreadable {name}")
                return _UNKNOWN
            raise _Broken(f"an unreadable {name}") from None
        return _UNKNOWN  # FLOAT, PERSID

    # Opcodes

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise _Broken("the stack is empty")
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        items: list[Any] = []
        while self._stack:
            item = self._stack.pop()
            if item is _MARK:
                return items[::-1]
            items.append(item)
        raise _Broken("no mark on the stack")

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise _Broken("the stack is empty")
        return self._stack[-1]

    def _literal(self, name: str, value: Any) -> None:
        self._stack.append(value)

    def _constant(self, name: str, value: Any) -> None:
        self._stack.append(_CONSTANTS[name])

    def _memoize(self, name: str, value: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def _put(self, name: str, value: Any) -> None:
        self._memo[value] = self._top()

    def _get(self, name: str, value: Any) -> None:
        if value is not _UNKNOWN and value not in self._memo:
            raise _Broken(f"nothing in the memo at {value}")
        self._stack.append(self._memo.get(value, _UNKNOWN))

    def _proto(self, name: str, value: Any) -> None:
        if value > 5:
            raise _Broken(f"protocol {value}")
        self._protocol = value

    def _frame(self, name: str, value: Any) -> None:
        self._frame_end = self._source.tell() + value

    def _mark(self, name: str, value: Any) -> None:
        self._stack.append(_MARK)

    def _drop(self, name: str, value: Any) -> None:
        if not self._stack:
            raise _Broken("the stack is empty")
        self._stack.pop()  # maybe a mark

    def _drop_to_mark(self, name: str, value: Any) -> None:
        self._pop_mark()

    def _dup(self, name: str, value: Any) -> None:
        self._stack.append(self._top())

    # Containers: a dict is known, for it may be the state of an array; the others only if they are tuples.

    def _empty_tuple(self, name: str, value: Any) -> None:
        self._stack.append(())

    def _tuple1(self, name: str, value: Any) -> None:
        items = [self._pop() for _ in range(int(name[-1]))]
        self._stack.append(tuple(items[::-1]))

    _tuple2 = _tuple3 = _tuple1

    def _tuple(self, name: str, value: Any) -> None:
        self._stack.append(tuple(self._pop_mark()))

    def _empty_dict(self, name: str, value: Any) -> None:
        self._stack.append({})

    def _dict(self, name: str, value: Any) -> None:
        items = self._pop_mark()
        self._stack.append(_filled({}, items))

    def _setitem(self, name: str, value: Any) -> None:
        item, key = self._pop(), self._pop()
        _filled(self._top(), [key, item])

    def _setitems(self, name: str, value: Any) -> None:
        items = self._pop_mark()
        _filled(self._top(), items)

    def _empty_list(self, name: str, value: Any) -> None:
        self._stack.append(_VALUE)

    _empty_set = _empty_list

    def _list(self, name: str, value: Any) -> None:
        self._pop_mark()
        self._stack.append(_VALUE)

    _frozenset = _list

    def _append(self, name: str, value: Any) -> None:
        self._pop()
        self._top()

    def _appends(self, name: str, value: Any) -> None:
        self._pop_mark()
        self._top()

    _additems = _appends

    def _next_buffer(self, name: str, value: Any) -> None:
        self._stack.append(_UNKNOWN)

    def _readonly_buffer(self, name: str, value: Any) -> None:
        self._top()

    def _persid(self, name: str, value: Any) -> None:
        self._stack.append(_UNKNOWN)

    def _binpersid(self, name: str, value: Any) -> None:
        self._pop()
        self._stack.append(_UNKNOWN)

    # Globals

    def _import(self, module: str, name: str) -> _Global:
        if self._protocol < 3:  # names of Python 2, which the unpickler translates
            if (module, name) in _compat_pickle.NAME_MAPPING:
                module, name = _compat_pickle.NAME_MAPPING[module, name]
            elif module in _compat_pickle.IMPORT_MAPPING:
                module = _compat_pickle.IMPORT_MAPPING[module]
        found = _Global(f"{module}:{name}" if "." in name else f"{module}.{name}")
        self._names.add(found.name)
        return found

    def _global(self, name: str, value: Any) -> None:
        self._stack.append(self._import(*value))

    def _stack_global(self, name: str, value: Any) -> None:
        attribute, module = self._pop(), self._pop()
        for part in (module, attribute):
            if _may_be_text(part):
                raise Undecidable("STACK_GLOBAL of a name that is computed while unpickling")
            if not isinstance(part, str):
                raise _Broken("STACK_GLOBAL of what is no text")
        self._stack.append(self._import(module, attribute))

    def _inst(self, name: str, value: Any) -> None:
        arguments = tuple(self._pop_mark())
        self.calls += 1
        self._stack.append(_Made(self._import(*value).name, arguments))

    def _ext1(self, name: str, value: Any) -> None:
        self.doubts.append(f"{name} {value}, which stands for a name in the process's registry of extensions")
        self._stack.append(_UNKNOWN)

    _ext2 = _ext4 = _ext1

    def _obj(self, name: str, value: Any) -> None:
        items = self._pop_mark()
        if not items:
            raise _Broken("OBJ without a class")
        self._make(items[0], tuple(items[1:]))

    def _reduce(self, name: str, value: Any) -> None:
        arguments, call = self._pop(), self._pop()
        self._make(call, arguments)

    def _newobj(self, name: str, value: Any) -> None:
        arguments, cls = self._pop(), self._pop()
        self._make(cls, arguments, is_object=True)

    def _newobj_ex(self, name: str, value: Any) -> None:
        self._pop()
        arguments, cls = self._pop(), self._pop()
        self._make(cls, arguments, is_object=True)

    def _make(self, call: Any, arguments: Any, is_object: bool = False) -> None:
        self.calls += 1
        if not isinstance(call, _Global):
            self._stack.append(_UNKNOWN)
        elif call.name == "copyreg._reconstructor" and isinstance(arguments, tuple) and len(arguments) == 3:
            # How protocols 0 and 1 make an object of a class.
            cls = arguments[0]
            self._stack.append(_Made(cls.name, (), is_object=True) if isinstance(cls, _Global) else _UNKNOWN)
        else:
            self._stack.append(_Made(call.name, arguments, is_object))

    def _build(self, name: str, value: Any) -> None:
        state = self._pop()
        made = self._top()
        self.calls += 1
        if isinstance(made, _Global):
            raise Undecidable(f"it changes {made.name} itself")
        if not isinstance(made, _Made):
            return
        if made.by.endswith("NumpyArrayWrapper"):
            if made.by != _WRAPPER or made.arguments != () or not isinstance(state, dict):
                raise Undecidable("an array of joblib of an unknown form")
            made.state = {**(made.state or {}), **state}
            if self._joblib:
                self._read_array(made.state)
                self._stack[-1] = _UNKNOWN  # the array; in the memo, the wrapper stays
        else:
            made.state = state if made.state is None else _UNKNOWN

    # Arrays of joblib: NumpyArrayWrapper.read_array

    def _read_array(self, state: dict[str, Any]) -> None:
        if self._source.tell() < self._frame_end:
            raise Undecidable("an array of joblib within a frame")
        itemsize, has_objects = _layout(state.get("dtype"))
        if has_objects:
            if self._depth == _NESTED:
                raise Undecidable("arrays within arrays within arrays")
            inner = _Machine(self._source, self._names, joblib=False, depth=self._depth + 1)
            inner.doubts = self.doubts
            inner.run()
            return
        shape = state.get("shape")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise Undecidable("an array of joblib without a known shape")
        count = 1
        for n in shape:
            count *= n
            if max(n, count) >= 1 << 63:
                raise Undecidable("an array of joblib of an impossible size")
        if state.get("numpy_array_alignment_bytes") is not None:
            self._skip(self._exactly(1)[0])
        self._skip(count * itemsize)


_STEPS: dict[str, Callable[[_Machine, str, Any], None]] = {
    **dict.fromkeys(_LITERALS, _Machine._literal),
    **dict.fromkeys(_CONSTANTS, _Machine._constant),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._get),
    "POP": _Machine._drop,
    "POP_MARK": _Machine._drop_to_mark,
}
# All others have a method of their name.
for _opcode in pickletools.opcodes:
    if _opcode.name not in _STEPS and _opcode.name != "STOP":
        _STEPS[_opcode.name] = getattr(_Machine, f"_{_opcode.name.lower()}")


def _may_be_text(part: Any) -> bool:
    """Whether a stand-in may be one for a text. Objects are none, but for those of class `str` itself."""
    if isinstance(part, _Made) and part.by != "builtins.str":
        return not part.is_object and (part.by not in HARMLESS or part.by in _MAKE_ANYTHING)
    return part is _UNKNOWN or isinstance(part, _Made)


def _filled(container: Any, items: list[Any]) -> Any:
    if isinstance(container, dict):
        for key, item in zip(items[::2], items[1::2], strict=False):
            if isinstance(key, str):
                container[key] = item
    return container


# NPY_ITEM_HASOBJECT
_HAS_OBJECTS = 1


def _layout(dtype: Any, depth: int = 0) -> tuple[int, bool]:
    """Size of an item in bytes, and whether it holds objects. dtype: the stand-in of a numpy.dtype.

    Raises Undecidable where it is none, or says two things.
    """
    unclear = Undecidable("an array of joblib of an unknown datatype")
    if not isinstance(dtype, _Made) or dtype.by != "numpy.dtype" or depth > _NESTED:
        raise unclear
    code = dtype.arguments[0] if isinstance(dtype.arguments, tuple) and dtype.arguments else None
    if not isinstance(code, str):
        raise unclear
    kind, digits = code.lstrip("<>=|")[:1], code.lstrip("<>=|")[1:]
    if kind not in "biufcmMSUVO" or not kind or not digits.isdecimal():
        raise unclear
    itemsize = int(digits) * (4 if kind == "U" else 1)
    has_objects = kind == "O"
    state = dtype.state
    if state is None:
        return itemsize, has_objects
    if not isinstance(state, tuple) or len(state) < 8:
        raise unclear
    inner, fields, size, flags = state[2], state[4], state[5], state[7]
    if type(size) is not int or type(flags) is not int:
        raise unclear
    # Only the state of these changes the size that the code tells.
    if kind in "SUV" and size >= 0:
        itemsize = size
    if kind == "V":
        if isinstance(inner, tuple) and inner:
            has_objects = _layout(inner[0], depth + 1)[1]
        elif isinstance(fields, dict):
            parts = [value[0] if isinstance(value, tuple) and value else None for value in fields.values()]
            has_objects = any(has for _, has in [_layout(part, depth + 1) for part in parts])
        elif inner is not None or fields is not None:
            raise unclear
    if bool(flags & _HAS_OBJECTS) != has_objects:
        raise unclear
    return itemsize, has_objects


# Names

# What pickles of arrays and plain values name. Each of these was looked at: whatever it is called with, it
# makes a value and runs nothing else.
HARMLESS = frozenset(
    (
        *(f"builtins.{name}" for name in ("bool", "bytearray", "bytes", "complex", "dict", "float")),
        *(f"builtins.{name}" for name in ("frozenset", "int", "list", "object", "range", "set", "slice")),
        *("builtins.str", "builtins.tuple", "_codecs.encode", "copyreg._reconstructor"),
        *("collections.OrderedDict", "collections.Counter", "collections.defaultdict", "collections.deque"),
        *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
        *("decimal.Decimal", "fractions.Fraction", "uuid.UUID"),
        *("numpy.ndarray", "numpy.dtype", _WRAPPER),
        *(
            f"numpy.{core}.multiarray.{name}"
            for core in ("core", "_core")
            for name in ("_reconstruct", "scalar")
        ),
        *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
        *(f"numpy.{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
        *("numpy.bool", "numpy.bool_", "numpy.float16", "numpy.float32", "numpy.float64", "numpy.str_"),
        *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"),
        *("torch._utils._rebuild_parameter", "torch.Size", "torch.device", "torch.Tensor"),
        *(
            f"torch.{kind}Storage"
            for kind in (
                "Float",
                "Double",
                "Half",
                "BFloat16",
                "Long",
                "Int",
                "Short",
                "Char",
                "Byte",
                "Bool",
            )
        ),
        *(f"torch.{name}" for name in ("float16", "float32", "float64", "bfloat16", "int8", "int16")),
        *(f"torch.{name}" for name in ("int32", "int64", "uint8", "bool")),
        *("torch.storage.UntypedStorage", "torch.storage.TypedStorage", "torch.nn.parameter.Parameter"),
    )
)

# Those of them that may give a text.
_MAKE_ANYTHING = frozenset(
    (
        *("builtins.str", "_codecs.encode", "copyreg._reconstructor"),
        *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    )
)

_DANGEROUS_MODULES = frozenset(
    (
        *(
            "os",
            "posix",
            "nt",
            "subprocess",
            "sys",
            "importlib",
            "imp",
            "runpy",
            "pty",
            "commands",
            "builtins",
        ),
        *(
            "code",
            "codeop",
            "types",
            "marshal",
            "pickle",
            "_pickle",
            "cloudpickle",
            "dill",
            "ctypes",
            "shutil",
        ),
        *("socket", "webbrowser", "pip", "asyncio", "multiprocessing", "threading", "signal", "operator"),
        *("functools", "inspect", "pdb", "bdb", "timeit", "trace", "cProfile", "profile", "urllib", "http"),
        *("ftplib", "smtplib", "telnetlib", "pkgutil", "zipimport", "tempfile", "pathlib", "io", "_io"),
        *("platform", "doctest", "unittest", "idlelib", "lib2to3", "logging", "gc", "weakref", "copyreg"),
        *(
            "distutils",
            "setuptools",
            "pkg_resources",
            "concurrent",
            "sqlite3",
            "venv",
            "ensurepip",
            "_codecs",
        ),
    )
)
# Parts of packages that do not compute, and compile, run or fetch instead.
_TOOLS = frozenset(("f2py", "testing", "tests", "distutils", "conftest", "externals", "hub", "cpp_extension"))
# Names that mean the same wherever they are found: modules that other modules import, and what runs code.
_DANGEROUS_NAMES = frozenset(
    (
        *("os", "sys", "subprocess", "importlib", "builtins", "pickle", "shutil", "ctypes", "socket"),
        *("system", "popen", "Popen", "call", "check_call", "check_output", "run", "spawn", "fork", "execv"),
        *("eval", "exec", "execfile", "compile", "open", "getattr", "setattr", "delattr", "globals", "vars"),
        *(
            "__import__",
            "import_module",
            "import_string",
            "runstring",
            "run_path",
            "run_module",
            "exec_command",
        ),
        *("load", "loads", "read_pickle", "load_library", "load_module", "Unpickler", "partial"),
        *("NDArrayWrapper", "ZNDArrayWrapper", "attrgetter", "itemgetter", "methodcaller", "reload"),
        *("save", "savetxt", "dump", "to_pickle", "memmap", "fromfile", "urlopen", "urlretrieve", "download"),
    )
)


def shown(name: str) -> str:
    """A name for people, who know `os.system` under that name."""
    module, _, attribute = name.replace(":", ".").rpartition(".")
    also = f" (os.{attribute})" if module in ("posix", "nt") else ""
    return f"{module}.{attribute}{also}"


def is_class(name: str) -> bool:
    """Whether a name is written as those of classes are, or as of what Cython and NumPy make objects with."""
    attribute = name.rpartition(".")[2]
    made_by = attribute.startswith("__pyx_unpickle_") or attribute.endswith("_ctor") or attribute == "newObj"
    return made_by or attribute.lstrip("_")[:1].isupper()


def is_dangerous(name: str) -> bool:
    """Whether a name is known to let a pickle run anything, or may hide what does."""
    if name in HARMLESS:
        return False
    if ":" in name:
        return True
    module, _, attribute = name.rpartition(".")
    if not _TOOLS.isdisjoint(module.split(".")):
        return True
    return module.partition(".")[0] in _DANGEROUS_MODULES or attribute in _DANGEROUS_NAMES
