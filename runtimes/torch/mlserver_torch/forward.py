"""What a module of PyTorch takes and gives, and how it is called with tensors by name.

Three kinds of modules know three different things: an exported program knows all, TorchScript the names and
which of them may be left out, a class written in Python what its `forward` says.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument
from torch.utils import _pytree as pytree

from mlserver.signature import TensorSpec

__all__ = ["ExportedForward", "Forward", "named", "of_module", "of_script"]

_DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "FP32",  # the protocol has none of its own; converted on the way in and out
    torch.float32: "FP32",
    torch.float64: "FP64",
}
OUTPUT_PREFIX = "output-"


class Forward:
    """A module that is called with tensors by the names of its arguments.

    outputs: None where they are known only once it was called.
    bounds: the least and the greatest size of dimensions that have a name.
    """

    outputs: list[TensorSpec] | None = None
    bounds: Mapping[str, tuple[int, int]] = MappingProxyType({})

    def __init__(self, inputs: Iterable[TensorSpec]) -> None:
        self.inputs = list(inputs)

    def dtype_of(self, name: str) -> torch.dtype | None:
        """What the tensor of this name has to be converted to; None if it may stay what it is."""
        return None

    def __call__(self, module: Any, tensors: dict[str, torch.Tensor]) -> Any:
        return module(**tensors)


def of_script(module: Any) -> Forward:
    """A module of TorchScript. Raises TypeError for arguments that are no tensors and have no default."""
    specs = []
    for argument in module.forward.schema.arguments[1:]:
        kind = str(argument.type)
        if kind in ("Tensor", "Optional[Tensor]"):
            specs.append(TensorSpec(argument.name, required=not argument.has_default_value()))
        elif not argument.has_default_value():
            raise TypeError(f"forward() takes '{argument.name}' of type {kind}, which is no tensor")
    return Forward(specs)


def of_module(module: torch.nn.Module) -> Forward:
    """A module that is written in Python. Raises TypeError if its forward() takes arguments without names."""
    specs = []
    for name, parameter in inspect.signature(module.forward).parameters.items():
        required = parameter.default is parameter.empty
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            specs.append(TensorSpec(name, required=required))
        elif parameter.kind is parameter.POSITIONAL_ONLY and required:
            raise TypeError(f"forward() takes '{name}' by position alone")
    return Forward(specs)


class ExportedForward(Forward):
    """A program that `torch.export` made: names, datatypes and shapes are in it.

    Inputs in tuples, lists and dictionaries have the names that the export gave them. Raises TypeError for
    inputs that are neither tensors nor constants.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        names = _names_of_arguments(program)
        self._in_spec = program.call_spec.in_spec
        self._leaves: list[tuple[str | None, Any]] = []  # the name of a tensor, or None and a constant
        self._dtypes: dict[str, torch.dtype] = {}
        specs = []
        for given in program.graph_signature.input_specs:
            if given.kind is not InputKind.USER_INPUT:
                continue
            argument = given.arg
            if isinstance(argument, TensorArgument):
                name, value = names.get(argument.name, argument.name), values[argument.name]
                self._leaves.append((name, None))
                self._dtypes[name] = value.dtype
                specs.append(_spec(name, value))
            elif isinstance(argument, ConstantArgument):
                self._leaves.append((None, argument.value))
            else:
                raise TypeError(f"it takes '{argument.name}', which is neither a tensor nor a constant")
        super().__init__(specs)
        self.outputs = _outputs(program, values)
        # The module checks most that the export assumed, but not these.
        self.bounds = {
            str(symbol): (int(limits.lower), int(limits.upper))
            for symbol, limits in program.range_constraints.items()
            if limits.upper.is_Integer
        }

    def dtype_of(self, name: str) -> torch.dtype | None:
        return self._dtypes[name]

    def __call__(self, module: Any, tensors: dict[str, torch.Tensor]) -> Any:
        leaves = [value if name is None else tensors[name] for name, value in self._leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._in_spec)
        return module(*args, **kwargs)


def named(result: Any, names: list[str] | None = None) -> dict[str, Any]:
    """What `forward` returned, by name: of dictionaries and named tuples their own, of others by position.

    names: those that the model's settings declare for outputs without names.
    """
    if isinstance(result, Mapping):
        values = {str(name): value for name, value in result.items()}
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        values = dict(zip(result._fields, result, strict=True))
    else:
        several = result if isinstance(result, (tuple, list)) else (result,)
        if names is None or len(names) != len(several):
            names = [f"{OUTPUT_PREFIX}{index}" for index in range(len(several))]
        values = dict(zip(names, several, strict=True))
    return {name: value for name, value in values.items() if value is not None}


def to_numpy(value: Any) -> Any:
    """A tensor as an array over its memory, if a CPU can see that. Raises TypeError for other objects."""
    if isinstance(value, (bool, int, float)):
        return np.asarray(value)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"forward() returned a {type(value).__name__} where a tensor was expected")
    if value.dtype is torch.bfloat16:
        value = value.float()
    return value.detach().cpu().resolve_conj().resolve_neg().numpy()


def _names_of_arguments(program: torch.export.ExportedProgram) -> dict[str, str]:
    """The arguments of forward() that are plain tensors, by the names that the export made of theirs."""
    inputs = [spec.arg for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    args, kwargs = pytree.tree_unflatten(
        [getattr(arg, "name", None) for arg in inputs], program.call_spec.in_spec
    )
    called = program.module_call_graph[0].signature
    names = (called is not None and called.forward_arg_names) or []
    pairs = [*zip(names, args, strict=False), *kwargs.items()]
    return {made: name for name, made in pairs if isinstance(made, str)}


def _outputs(program: torch.export.ExportedProgram, values: dict[str, Any]) -> list[TensorSpec]:
    leaves = [
        output.arg for output in program.graph_signature.output_specs if output.kind.name == "USER_OUTPUT"
    ]
    result = pytree.tree_unflatten(leaves, program.call_spec.out_spec)
    specs = []
    for name, argument in named(result).items():
        if isinstance(argument, (Mapping, tuple, list)):
            raise TypeError(
                f"its output '{name}' is a {type(argument).__name__}, where a tensor was expected"
            )
        value = values.get(getattr(argument, "name", ""))
        specs.append(_spec(name, value) if isinstance(value, torch.Tensor) else TensorSpec(name))
    return specs


def _spec(name: str, value: Any) -> TensorSpec:
    if value.dtype not in _DATATYPES:
        raise TypeError(f"'{name}' is a tensor of {value.dtype}, for which the protocol has no datatype")
    return TensorSpec(name, _DATATYPES[value.dtype], tuple(map(_dimension, value.shape)))


def _dimension(size: Any) -> int | str | None:
    if isinstance(size, int):
        return size
    expression = size.node.expr  # a symbol, or a term of symbols
    return str(expression) if expression.is_Symbol else None
