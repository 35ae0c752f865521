"""Jetbridge: tables from far storage, kept close, as Arrow.

>>> import jetbridge as jb
>>> client = jb.connect()                                         # doctest: +SKIP
>>> trips = client.dataset("/lake/trips")
>>> trips.select("id", "fare").filter("fare > 1").limit(10).to_pandas().shape
(10, 2)

The package carries the whole program: ``jb.LocalCluster`` and the command ``jetbridge`` (``python -m jetbridge``) need
nothing else. Reading needs no other package; data frames and tensors need the library that they are of, as extras:
``pip install 'jetbridge[pandas]'``, ``[arrow]``, ``[polars]``, ``[duckdb]``, ``[datafusion]``, ``[torch]``,
``[progress]``, ``[all]``.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

from jetbridge import _native, aio, errors, records
from jetbridge._native import Column, DataType, RecordBatch, __version__
from jetbridge._progress import Progress
from jetbridge.aio import AsyncClient, connect_async
from jetbridge.client import Client, connect
from jetbridge.cluster import LocalCluster
from jetbridge.errors import (
    AlreadyExistsError,
    ClosedError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidRequestError,
    JetbridgeError,
    JobCancelledError,
    JobFailedError,
    MissingExtraError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ResultTooLargeError,
    StaleError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from jetbridge.job import Job
from jetbridge.plan import Plan, Split
from jetbridge.records import JobStatus
from jetbridge.scan import Dataset, Scan
from jetbridge.schema import Field, Schema
from jetbridge.sql import Result

if TYPE_CHECKING:
    from jetbridge import torch as torch

__all__ = [
    "AlreadyExistsError",
    "AsyncClient",
    "Client",
    "ClosedError",
    "Column",
    "DataLossError",
    "DataType",
    "Dataset",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "Field",
    "InternalError",
    "InvalidRequestError",
    "JetbridgeError",
    "Job",
    "JobCancelledError",
    "JobFailedError",
    "JobStatus",
    "LocalCluster",
    "MissingExtraError",
    "NotFoundError",
    "PermissionDeniedError",
    "Plan",
    "Progress",
    "RecordBatch",
    "ResourceExhaustedError",
    "Result",
    "ResultTooLargeError",
    "Scan",
    "Schema",
    "Split",
    "StaleError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
    "__version__",
    "aio",
    "connect",
    "connect_async",
    "errors",
    "records",
]

# What is logged is for the program to show, or not.
logging.getLogger("jetbridge").addHandler(logging.NullHandler())

# A forked process has none of its parent's threads: what the parent's runtime held is left alone there.
os.register_at_fork(
    before=_native.before_fork,
    after_in_parent=_native.after_fork_in_parent,
    after_in_child=_native.after_fork_in_child,
)


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import, and most programs do not want it.
    if name == "torch":
        return importlib.import_module("jetbridge.torch")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
