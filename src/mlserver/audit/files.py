"""What a file of a model is, and what reading it as a model would run; found from its bytes alone.

A name says nothing: joblib unpickles `model.json` as well, if asked to. So every file is looked at as each
reader would that runs code: as a pickle, as a compressed one, as an archive of them.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any

from mlserver.audit import pickles
from mlserver.audit.pickles import Contents, Undecidable

__all__ = ["MLMODEL", "File", "files_of", "inspect", "inspect_code", "is_code", "sha256_of"]

# Bytes that a compressed file may become before nobody waits for its end.
MOST_UNPACKED = 4 << 30
_MOST_ENTRIES = 100_000
_LARGEST_SCHEMA = 64 << 20
_MOST_MEMORY = 512 << 20
_BLOCK = 1 << 20
_CODE_SUFFIXES = (".py", ".pyc", ".so", ".pyd", ".pth")
MLMODEL = "MLmodel"
_LOADERS_OF_CODE = ("mlflow.pyfunc.model", "mlflow.pyfunc.loaders.code_model")
_CODE_PATH = "model_code_path"


@dataclass(slots=True)
class File:
    """A file and what is known of it.

    format: for people. names: what it would import, as `module.name`. undecided: why more may run than that.
    is_model: holds weights or an object, so that it is pinned with the model. is_code: runs as it is.
    """

    path: str
    format: str
    sha256: str
    names: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    is_model: bool = True
    is_code: bool = False

    @property
    def runs_code(self) -> bool:
        """Whether reading it imports what it names, or may."""
        return bool(self.names or self.undecided or self.is_code)


def inspect(path: str) -> File:
    """What reading the file at `path` as a model would run. Raises OSError."""
    with open(path, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is no regular file")
        digest = f"sha256:{sha256_of(file)}"
        file.seek(0)
        kind, contents = (_mlflow if os.path.basename(path) == MLMODEL else _inspect)(file, path)
    return File(
        path,
        kind,
        digest,
        sorted(contents.names),
        contents.undecided,
        is_model=kind not in (_OTHER, _TEXT) or path.endswith((".bst", ".txt", ".cbm", ".model")),
    )


def inspect_code(path: str, kind: str = "Python code") -> File:
    """A file that is run as it is. Raises OSError."""
    with open(path, "rb") as file:
        return File(path, kind, f"sha256:{sha256_of(file)}", is_code=True)


def is_code(path: str) -> bool:
    """Whether Python would import it."""
    return path.endswith(_CODE_SUFFIXES)


def files_of(folder: str) -> Iterator[str]:
    """Every file below a folder, links followed: what is hidden from people is not hidden from a loader."""
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(folders):
            inner = os.path.join(place, name)
            real = os.path.realpath(inner)
            if real not in seen:
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        for name in sorted(names):
            path = os.path.join(place, name)
            if os.path.isfile(path):
                yield path


def sha256_of(file: IO[bytes]) -> str:
    """SHA-256 of what is left of a file, in hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


# Formats

_OTHER = "other"
_TEXT = "text"


def _inspect(file: IO[bytes], path: str = "", depth: int = 0) -> tuple[str, Contents]:
    start = file.read(16)
    file.seek(0)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _archive(file, depth)
    for magic, name, unpack in _COMPRESSIONS:
        if start.startswith(magic):
            contents = _both_ways(partial(_Unpacked, file, unpack))
            if contents.any or contents.broken:
                return f"pickle, compressed with {name}", _decided(contents)
            file.seek(0)
            break
    if start.startswith((b"ZF", b"\x04\x22\x4d\x18")):
        kind = "compressed with " + ("lz4" if start[:1] == b"\x04" else "joblib 0.9")
        return f"pickle, {kind}", Contents(undecided=[f"{kind}, which is not looked into"])
    if start.startswith(b"\x93NUMPY"):
        return _array(file)

    def rewound() -> IO[bytes]:
        file.seek(0)
        return file

    contents = _both_ways(rewound)
    if contents.any or contents.broken:
        return "pickle", _decided(contents)
    # Some readers take an archive with anything before it.
    if zipfile.is_zipfile(file):
        return _archive(file, depth)
    file.seek(0)
    return _inert(file, path)


def _both_ways(source: Callable[[], Any]) -> Contents:
    """As pickle reads it, and as joblib does. Only what both find broken is."""
    plain = pickles.scan(source())
    if plain.names and any(name.endswith("NumpyArrayWrapper") for name in plain.names):
        numpy = pickles.scan(source(), joblib=True)
        numpy.broken = None if plain.whole else numpy.broken
        numpy.add(plain)
        return numpy
    return plain


def _decided(contents: Contents) -> Contents:
    if contents.broken:
        contents.undecided.append(contents.broken)
    return contents


def _inert(file: IO[bytes], path: str) -> tuple[str, Contents]:
    """The name of a format that no reader here runs code for."""
    start = file.read(4096)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        # Keras keeps the code of Lambda layers in it.
        return "HDF5", Contents(
            undecided=["HDF5, which may hold code of Keras layers and is not looked into"]
        )
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length < 100 << 20:
        return "safetensors", Contents()
    if start.startswith(b"CBM1"):
        return "CatBoost", Contents()
    if start.startswith(b"GGUF"):
        return "GGUF", Contents()
    if start.startswith(b"tree\n"):
        return "LightGBM", Contents()
    if path.endswith(".onnx"):
        return "ONNX", Contents()
    if start.lstrip()[:1] in (b"{", b"["):
        head = start.lstrip()
        if head.startswith(b"{L\x00") or b"\x00" in head:
            return "UBJSON", Contents()
        return ("XGBoost JSON" if b'"learner"' in head else _TEXT), Contents()
    return (_TEXT if b"\x00" not in start else _OTHER), Contents()


def _mlflow(file: IO[bytes], path: str) -> tuple[str, Contents]:
    """What MLflow reads first: it names a module to load the model with, and files of the model."""
    found = Contents()
    try:
        import yaml

        flavours = yaml.safe_load(file.read(_LARGEST_SCHEMA)).get("flavors") or {}
        loader = (flavours.get("python_function") or {}).get("loader_module", "mlflow")
    except Exception as exc:
        return "MLflow", Contents(undecided=[f"it cannot be read: {type(exc).__name__}: {exc}"])
    if str(loader).partition(".")[0] != "mlflow":
        found.names.add(f"{loader}._load_pyfunc")
    elif loader in _LOADERS_OF_CODE and str(flavours["python_function"].get(_CODE_PATH)).endswith(".py"):
        # It keeps the path that the code had when it was saved, and loads the file of that name beside it.
        del flavours["python_function"][_CODE_PATH]
    waiting = [flavours]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            # Where artefacts once came from is noted, too, and not read.
            waiting += [inner for key, inner in value.items() if key != "uri"]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and (value.startswith("/") or ".." in value.split("/")):
            found.undecided.append(f"it names what is not in its folder: {value}")
    return "MLflow", found


def _array(file: IO[bytes]) -> tuple[str, Contents]:
    """An array of NumPy. One of objects holds a pickle, which whoever allows pickles loads."""
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        _, _, dtype = read(file)
    except Exception as exc:
        return "NumPy array", Contents(undecided=[f"an array whose head cannot be read: {exc}"])
    if not dtype.hasobject:
        return "NumPy array", Contents()
    return "NumPy array of objects", _decided(pickles.scan(file))


# Archives


def _archive(file: IO[bytes], depth: int) -> tuple[str, Contents]:
    try:
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
    except Exception as exc:
        return "zip", Contents(undecided=[f"an archive that cannot be read: {exc}"])
    names = [entry.filename for entry in entries]
    if len(entries) > _MOST_ENTRIES or depth > 1:
        return "zip", Contents(undecided=["an archive of too many entries, or of archives of archives"])
    if len(set(names)) < len(names):
        return "zip", Contents(undecided=["an archive with two entries of the same name"])
    last = {name.rpartition("/")[2] for name in names}
    if "schema.json" in last and "data.pkl" not in last:
        return "skops", _skops(archive)
    root = names[0].partition("/")[0] if names else ""
    if f"{root}/constants.pkl" in names and f"{root}/data.pkl" in names:
        # Read by a machine of PyTorch's own, which runs no Python.
        return "TorchScript", Contents()
    kind = "PyTorch" if "data.pkl" in last else "zip"
    if "archive_format" in last and any("/models/" in name for name in names):
        kind = "PyTorch exported program"
    if "keras_metadata.pb" in last or ("config.json" in last and "model.weights.h5" in last):
        return "Keras", Contents(undecided=["Keras, which may hold code of layers and is not looked into"])
    found = Contents()
    budget = _Budget(MOST_UNPACKED)
    for entry in entries:
        bare = kind == "PyTorch" and "/data/" in entry.filename
        if entry.is_dir() or bare:
            continue
        if entry.filename.endswith((".py", ".pyc", ".so")):
            found.undecided.append(f"it holds code: {entry.filename}")
            continue
        try:
            found.add(_entry(archive, entry, budget, depth, kind))
        except Undecidable as exc:
            found.undecided.append(str(exc))
            break
        except Exception as exc:
            found.undecided.append(f"its entry {entry.filename} cannot be read: {exc}")
    return kind, found


def _entry(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, budget: _Budget, depth: int, kind: str
) -> Contents:
    with archive.open(entry) as inner:
        magic = inner.read(4)
    with archive.open(entry) as inner:
        if magic == b"PK\x03\x04":
            if entry.compress_type != zipfile.ZIP_STORED and entry.file_size > _LARGEST_SCHEMA:
                return Contents(undecided=[f"its entry {entry.filename} is a large compressed archive"])
            return _archive(inner, depth + 1)[1]
        source = _Bounded(inner, budget)
        if magic == b"\x93NUM":
            return _array(source)[1]  # type: ignore[arg-type]
        # PyTorch keeps tensors outside of its pickles, so what joblib adds is not looked for.
        return _decided(pickles.scan(source))


def _skops(archive: zipfile.ZipFile) -> Contents:
    """skops names each type, and asks for the consent of whoever loads, but for those that it knows."""
    try:
        entry = archive.getinfo("schema.json")
        if entry.file_size > _LARGEST_SCHEMA:
            return Contents(undecided=["a schema.json that is too large to look at"])
        with archive.open(entry) as file:
            schema = json.loads(file.read(_LARGEST_SCHEMA))
        names: set[str] = set()
        waiting = [schema]
        while waiting:
            node = waiting.pop()
            if isinstance(node, dict):
                name = node.get("__class__", node.get("function"))
                module = node.get("__module__", node.get("module_path"))
                if isinstance(module, str) and isinstance(name, str) and not _known_to_skops(module, name):
                    names.add(f"{module}:{name}" if "." in name else f"{module}.{name}")
                waiting += node.values()
            elif isinstance(node, list):
                waiting += node
    except Exception as exc:
        return Contents(undecided=[f"a schema.json that cannot be read: {exc}"])
    return Contents(names)


def _known_to_skops(module: str, name: str) -> bool:
    known = f"{module}.{name}" in pickles.HARMLESS or (module, name) in (("builtins", "NoneType"),)
    package = module.partition(".")[0]
    return known or (
        package in ("sklearn", "numpy", "scipy")
        and not pickles.is_dangerous(f"{module}.{name}")
        and "." not in name
    )


# Sources


class _Budget:
    """Bytes that all entries of an archive may become together."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Undecidable(f"it unpacks to more than {MOST_UNPACKED:,} bytes")


class _Bounded:
    def __init__(self, file: IO[bytes], budget: _Budget) -> None:
        self._file = file
        self._budget = budget
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, _BLOCK) if size >= 0 else _BLOCK)
        self._budget.spend(len(data))
        self._at += len(data)
        return data

    def tell(self) -> int:
        return self._at


class _Unpacked:
    """What a compressed file holds, a block at a time."""

    def __init__(self, file: IO[bytes], unpack: Callable[[], Any]) -> None:
        file.seek(0)
        self._file = file
        self._new = unpack
        self._unpacker = unpack()
        self._budget = _Budget(MOST_UNPACKED)
        self._waiting = b""  # compressed
        self._ready = b""
        self._from = 0  # in `_ready`
        self._at = 0

    def read(self, size: int) -> bytes:
        if len(self._ready) - self._from < size:
            self._fill(size)
        data = self._ready[self._from : self._from + size]
        self._from += len(data)
        self._at += len(data)
        return data

    def tell(self) -> int:
        return self._at

    def _fill(self, size: int) -> None:
        parts = [self._ready[self._from :]]
        have = len(parts[0])
        while have < size:
            block = self._more()
            if not block:
                break
            self._budget.spend(len(block))
            parts.append(block)
            have += len(block)
        self._ready, self._from = b"".join(parts), 0

    def _more(self) -> bytes:
        """The next block, empty at the end. What follows the first stream is a stream, too, or nothing."""
        while True:
            if self._unpacker.eof:
                self._waiting = self._unpacker.unused_data or self._file.read(_BLOCK)
                if not self._waiting:
                    return b""
                self._unpacker = self._new()
            self._waiting = self._waiting or self._file.read(_BLOCK)
            ended = not self._waiting
            try:
                block: bytes = self._unpacker.decompress(self._waiting, _BLOCK)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as exc:
                if self._at or "emory" in str(exc):
                    raise Undecidable(f"it cannot be unpacked: {exc}") from None
                return b""  # it only begins as such a file does
            self._waiting = getattr(self._unpacker, "unconsumed_tail", b"")
            if block:
                return block
            if ended:
                return b""


class _Zlib:
    """zlib behind the interface of bz2 and lzma."""

    def __init__(self, bits: int) -> None:
        self._object = zlib.decompressobj(bits)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    @property
    def unconsumed_tail(self) -> bytes:
        return self._object.unconsumed_tail

    def decompress(self, data: bytes, size: int) -> bytes:
        return self._object.decompress(data, size)


_COMPRESSIONS: tuple[tuple[bytes, str, Callable[[], Any]], ...] = (
    (b"\x78", "zlib", lambda: _Zlib(zlib.MAX_WBITS)),
    (b"\x1f\x8b", "gzip", lambda: _Zlib(zlib.MAX_WBITS | 16)),
    (b"BZ", "bz2", bz2.BZ2Decompressor),
    (b"\xfd7zXZ", "xz", lambda: lzma.LZMADecompressor(memlimit=_MOST_MEMORY)),
    (b"\x5d\x00", "lzma", lambda: lzma.LZMADecompressor(memlimit=_MOST_MEMORY)),
)
