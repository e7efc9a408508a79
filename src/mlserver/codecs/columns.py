"""Tensors as columns of one frame: what keeps them from being that.

The codec of frames takes tensors of any shape and fills up the shorter ones, as it always did. A model would
compute nonsense from that, so those that know they want columns ask here before.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlserver.tensor import TensorData
from mlserver.types import RequestInput

__all__ = ["misfit", "repeated"]


def repeated(inputs: Sequence[RequestInput]) -> str | None:
    """Which name two of the tensors have, of which one would be lost; None where all are different."""
    names: set[str] = set()
    for tensor in inputs:
        if tensor.name in names:
            return f"input '{tensor.name}' is given twice"
        names.add(tensor.name)
    return None


def misfit(inputs: Sequence[RequestInput], arrays: bool = False) -> str | None:
    """What is wrong with tensors as columns, naming the one that is; None where all are.

    A column is [rows] or [rows, 1], has as many rows as the others, and is the only one of its name.
    arrays: whether rows may be lists, which have to be nested.
    """
    fault = repeated(inputs)
    if fault is not None:
        return fault
    rows: dict[str, int] = {}
    for tensor in inputs:
        name, shape = tensor.name, list(tensor.shape)
        plain = len(shape) in (1, 2) and shape[1:] in ([], [1])
        if not plain and not (arrays and shape and _is_nested(tensor.data)):
            return f"input '{name}' has shape {shape}, but a column has [rows, 1]"
        rows[name] = shape[0]
        first = next(iter(rows))
        if rows[name] != rows[first]:
            return f"input '{name}' has {rows[name]} rows, but input '{first}' has {rows[first]}"
    return None


def _is_nested(data: object) -> bool:
    values = data.root if isinstance(data, TensorData) else data
    return isinstance(values, list) and bool(values) and isinstance(values[0], (list, tuple))
