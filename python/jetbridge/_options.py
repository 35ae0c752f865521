"""How a client is told to behave: checked once, for both clients."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from jetbridge.errors import InvalidRequestError

DEFAULT_URI = "grpc://127.0.0.1:8815"

Wire = Literal["auto", "arrow", "lz4", "zstd", "raw"]
_WIRES = ("auto", "arrow", "lz4", "zstd", "raw")


@dataclass(frozen=True)
class Options:
    """Settings of a connection; what is not given is what suits most."""

    timeout: float | None = None
    connect_timeout: float = 5.0
    headers: tuple[tuple[str, str], ...] = ()
    buffer_bytes: int = 256 << 20
    streams_per_worker: int = 2
    local: bool = True
    wire: Wire = "auto"
    retries: int = 4
    check_values: bool = False

    def __post_init__(self) -> None:
        if self.timeout is not None:
            _seconds("timeout", self.timeout)
        _seconds("connect_timeout", self.connect_timeout)
        _whole("buffer_bytes", self.buffer_bytes, 1)
        _whole("streams_per_worker", self.streams_per_worker, 1)
        _whole("retries", self.retries, 0)
        if self.wire not in _WIRES:
            raise InvalidRequestError(f"wire is one of {', '.join(_WIRES)}, and not {self.wire!r}")
        for name, value in self.headers:
            if not isinstance(name, str) or not isinstance(value, str):
                raise InvalidRequestError(f"headers are texts, and {name!r} is not one of a text")

    def native(self) -> dict[str, object]:
        """As the extension module takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def uri_or_default(uri: str | None) -> str:
    """The address that was given, else that of the environment, else that of a server with its defaults."""
    return uri or os.environ.get("JETBRIDGE_URI") or DEFAULT_URI


def header_pairs(headers: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Headers as pairs that can be compared and hashed."""
    return tuple(sorted((headers or {}).items()))


def _seconds(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise InvalidRequestError(f"{name} is a number of seconds above 0, and not {value!r}")


def _whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidRequestError(f"{name} is a whole number, {least} or more, and not {value!r}")
