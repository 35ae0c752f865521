"""Reading with the Python package's own client, in processes that have imported it before anything is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jetbridge as jb
import pyarrow as pa

from clients import PATH, Columns

if TYPE_CHECKING:
    # Not in processes that make no frames, whose memory is measured.
    import pandas as pd


def over_tcp(uri: str, columns: Columns = None, path: str = PATH) -> pa.Table:
    """A new client that takes nothing of the same host's ways."""
    return read(uri, columns, path, local=False)


def by_shared_memory(uri: str, columns: Columns = None, path: str = PATH) -> pa.Table:
    """A new client as it is by default: on the server's host, it maps the server's memory."""
    return read(uri, columns, path, local=True)


def read(uri: str, columns: Columns, path: str, local: bool) -> pa.Table:
    """Connects, plans, and reads it all."""
    with jb.connect(uri, local=local) as client:
        scan = client.dataset(path)
        return (scan.select(columns) if columns else scan).to_arrow()


def to_pandas(uri: str, dtype_backend: str, local: bool) -> pd.DataFrame:
    """The same as a data frame."""
    with jb.connect(uri, local=local) as client:
        return client.dataset(PATH).to_pandas(dtype_backend=dtype_backend)
