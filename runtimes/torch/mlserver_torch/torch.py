"""The PyTorch runtime: a module, called in inference mode with the tensors of a request."""

from __future__ import annotations

import re
import threading
import warnings
import zipfile
from typing import Any, Literal

import msgspec
import torch
from safetensors.torch import load_file

from mlserver.artefact import import_beside, options_of
from mlserver.errors import MLServerError
from mlserver.signature import Signature, TensorModel, TensorSpec, check_outputs
from mlserver_torch.forward import ExportedForward, Forward, named, of_module, of_script, to_numpy

__all__ = ["TorchModel"]

WELLKNOWN_MODEL_FILENAMES = ("model.pt2", "model.pt", "model.safetensors")

# What PyTorch says of tensors that do not fit. Memory and devices are the server's own affair.
_OF_INPUTS = re.compile(
    r"guard failed|\bshapes?\b|\bsizes?\b|must match|\bdimensions?\b|\bdtypes?\b|\branks?\b|scalar type"
    r"|out of range|out of bounds|\b\dD\b|should contain|to unpack|elements in a list"
    r"|expected .*\b(input|tensor)",
    re.IGNORECASE,
)
_ERROR_NAMES = re.compile(r"^(\s*(builtins\.)?\w+(Error|Exception): )+")
# PyTorch keeps what it is reading in a global: programs are read one after the other.
_READING = threading.Lock()
# What `torch.save` of long ago began with.
_PICKLE = b"\x80"
_OF_MACHINE = re.compile(r"\bcuda\b|out of memory|allocate|\bdevice", re.IGNORECASE)


class Options(msgspec.Struct, kw_only=True):
    """What `parameters.extra` may say; see docs/runtimes/torch.md."""

    device: str | None = None
    dtype: Literal["float16", "bfloat16", "float32", "float64"] | None = None
    module: str | None = None
    module_args: dict[str, Any] = {}
    rows_independent: bool | None = None


class TorchModel(TensorModel):
    """Serves an exported program, a TorchScript file, or weights for a class. `_model` is the module."""

    platform_name = "pytorch"
    filenames = WELLKNOWN_MODEL_FILENAMES

    _model: Any
    _forward: Forward

    async def load(self) -> bool:
        self._options = options_of(self.settings, Options)
        self._device = self._find_device()
        self._dtype = None if self._options.dtype is None else getattr(torch, self._options.dtype)
        self._output_names = [tensor.name for tensor in self.settings.outputs] or None
        return await super().load()

    async def unload(self) -> bool:
        self._model = self._opened = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return True

    # Load

    def _find_device(self) -> torch.device:
        if self._options.device is None:
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self._options.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as exc:
            text = str(exc).split("\n", 1)[0]
            raise self._unusable("device", f"'{self._options.device}' cannot be used: {text}") from exc
        return device

    def _unusable(self, option: str, why: str) -> MLServerError:
        return MLServerError(f"Model {self.name}: parameters.extra.{option}: {why}", 422)

    def _read(self, path: str) -> Any:
        if path.endswith(".pt2"):
            return self._read_program(path)
        if self._options.module is not None:
            return self._read_weights(path, self._options.module)
        if path.endswith(".safetensors"):
            raise self._unusable("module", f"is needed to load the weights in {path}: the path of a class")
        return self._read_script(path)

    def _read_program(self, path: str) -> Any:
        if self._dtype is not None:
            raise self._unusable("dtype", "an exported program keeps the one that it was exported with")
        with open(path, "rb") as file, _READING:
            program = torch.export.load(file)
        if self._device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, self._device)
        self._forward = ExportedForward(program)
        return program.module()

    def _read_script(self, path: str) -> Any:
        if not _is_script(path):
            raise MLServerError(
                f"Model {self.name}: {path} holds weights or a pickled module of PyTorch, which need their "
                "class: save a `state_dict` and name the class in parameters.extra.module, or save "
                "TorchScript or an exported program",
                422,
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the file is what it is
            with open(path, "rb") as file:
                module = torch.jit.load(file, map_location=self._device)  # type: ignore[no-untyped-call]
        module = self._placed(module)
        self._forward = of_script(module)
        return module

    def _read_weights(self, path: str, name: str) -> Any:
        try:
            cls = import_beside(self.settings, name)
        except ImportError as exc:
            raise self._unusable("module", f"'{name}' cannot be imported: {exc}") from exc
        if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
            raise self._unusable("module", f"'{name}' is no class that extends torch.nn.Module")
        module = cls(**self._options.module_args)
        if path.endswith(".safetensors"):
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(weights)
        module = self._placed(module)
        self._forward = of_module(module)
        return module

    def _placed(self, module: Any) -> Any:
        return module.to(device=self._device, dtype=self._dtype).eval()

    def _open(self, model: Any) -> Signature:
        declared = {tensor.name: TensorSpec.declared(tensor) for tensor in self.settings.inputs}
        specs = [
            spec if spec.datatype is not None else declared.get(spec.name, spec)
            for spec in self._forward.inputs
        ]
        signature = Signature(specs, self._named_outputs(), by_position=True, bounds=self._forward.bounds)
        wish = self._options.rows_independent
        self.rows_independent = signature.rows_independent if wish is None else wish  # type: ignore[misc]
        self.inline = self._options.module is None  # type: ignore[misc]
        return signature

    def _named_outputs(self) -> list[TensorSpec]:
        """The outputs as far as they are known, under the names that settings give to those without."""
        specs = self._forward.outputs or []
        names = named([spec.name for spec in specs], self._output_names)
        if specs and all(spec.name == f"output-{index}" for index, spec in enumerate(specs)):
            return [
                TensorSpec(name, spec.datatype, spec.shape) for name, spec in zip(names, specs, strict=True)
            ]
        return specs

    # Predict

    def _run(self, arrays: dict[str, Any], names: list[str]) -> dict[str, Any]:
        with torch.inference_mode():
            tensors = {name: self._tensor(name, array) for name, array in arrays.items()}
            results = named(self._forward(self._model, tensors), self._output_names)
            check_outputs(names, results)
            return {name: to_numpy(results[name]) for name in names or results}

    def _tensor(self, name: str, array: Any) -> torch.Tensor:
        # PyTorch knows no tensors that may not be written to.
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        dtype = self._forward.dtype_of(name)
        if dtype is None and tensor.is_floating_point():
            dtype = self._dtype
        return tensor.to(device=self._device, dtype=dtype)

    def _refusal(self, exc: Exception) -> str | None:
        # A script that raises by itself says so of its inputs: all else about it is fixed.
        raised = isinstance(exc, torch.jit.Error)
        if not raised and not isinstance(exc, (RuntimeError, IndexError, AssertionError, ValueError)):
            return None
        # TorchScript tells the way to the error first, and what it was in the last line.
        lines = [line for line in str(exc).strip().splitlines() if line.strip()]
        text = _ERROR_NAMES.sub("", lines[-1]) if lines else type(exc).__name__
        return text if (raised or _OF_INPUTS.search(text)) and not _OF_MACHINE.search(text) else None


def _is_script(path: str) -> bool:
    """Whether a file may be TorchScript: not one of those that `torch.save` writes, which hold no code."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            return file.read(1) != _PICKLE  # anything else is for PyTorch to judge
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
    return "data.pkl" not in names or "constants.pkl" in names
