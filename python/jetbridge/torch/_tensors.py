"""Tensors of what the extension module hands over."""

# Types are checked where torch is not installed.
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from jetbridge.errors import InvalidRequestError
from jetbridge.torch._core import Columns

#: A tensor; a list of texts or bytes; values and offsets of lists.
Value = Any
Batch = dict[str, Value]


def batch_of(columns: Columns) -> Batch:
    """A batch; masks stand behind their columns."""
    batch: Batch = {}
    for name, kind, content, mask in columns:
        _put(batch, name, _value(kind, content))
        if mask is not None:
            _put(batch, f"{name}_mask", _value("bool", mask))
    return batch


def _put(batch: Batch, name: str, value: Value) -> None:
    if name in batch:
        raise InvalidRequestError(f'a batch would have "{name}" twice: leave one of them out with select(...)')
    batch[name] = value


def _value(kind: str, content: Any) -> Value:
    if kind == "tensor":
        return from_dlpack(content)
    if kind == "bool":
        # DLPack has known booleans for a short time only: bytes that are 0 or 1 are the same.
        return from_dlpack(content).view(torch.bool)
    if kind == "lists":
        inner, values, offsets = content
        return _value(inner, values), from_dlpack(offsets)
    return content
