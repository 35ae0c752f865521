"""The same data read in several ways, through Jetbridge and without it: what a user's own program would do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import jetbridge as jb
import pandas as pd
import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq

DATASET = "/lake/lineitem"
COLUMNS = ["l_orderkey", "l_quantity", "l_extendedprice", "l_shipdate"]
GROUPED = """
    select l_returnflag, l_linestatus, count(*) as items, sum(l_quantity) as quantity, max(l_shipdate) as latest
    from {table} group by l_returnflag, l_linestatus order by l_returnflag, l_linestatus"""


@dataclass(frozen=True)
class Way:
    """One way to read; both give the same rows."""

    name: str
    #: Reads through the server of this address.
    through: Callable[[str], pa.Table]
    #: Reads this folder of Parquet files.
    directly: Callable[[Path], pa.Table]
    #: Engines of SQL type sums and texts as they like.
    is_typed_alike: bool = True


def by_flight(uri: str) -> pa.Table:
    """Plain pyarrow.flight: plans, then reads each endpoint; in order they give the files by path."""
    with flight.connect(uri) as client:
        info = client.get_flight_info(flight.FlightDescriptor.for_path(*DATASET.strip("/").split("/")))
        return pa.concat_tables(client.do_get(endpoint.ticket).read_all() for endpoint in info.endpoints)


def by_package_over_tcp(uri: str) -> pa.Table:
    """Our package, as from another host."""
    with jb.connect(uri, local=False) as client:
        return client.dataset(DATASET).to_arrow()


def by_package(uri: str) -> pa.Table:
    """Our package, which maps the server's memory where it is on the same host."""
    with jb.connect(uri) as client:
        return client.dataset(DATASET).to_arrow()


def into_pandas(uri: str) -> pa.Table:
    """Some columns as a data frame."""
    with jb.connect(uri) as client:
        return as_table(client.dataset(DATASET).select(*COLUMNS).to_pandas(dtype_backend="pyarrow"))


def by_sql(uri: str) -> pa.Table:
    """A query that the server runs."""
    with jb.connect(uri) as client:
        return client.sql(GROUPED.format(table="lake.lineitem")).to_arrow()


def files(folder: Path) -> pa.Table:
    """All files, by pyarrow."""
    return pa.concat_tables(pq.ParquetFile(path).read() for path in sorted(folder.glob("*.parquet")))


def files_into_pandas(folder: Path) -> pa.Table:
    """Some columns as a data frame, by pandas."""
    return as_table(pd.read_parquet(folder, columns=COLUMNS, dtype_backend="pyarrow"))


def files_by_sql(folder: Path) -> pa.Table:
    """The same query by DuckDB."""
    query = GROUPED.format(table=f"read_parquet('{folder}/*.parquet')")
    return duckdb.sql(query).to_arrow_table()


def as_table(frame: pd.DataFrame) -> pa.Table:
    """The frame's columns, by reference."""
    return pa.Table.from_pandas(frame, preserve_index=False)


WAYS = (
    Way("all of it, by pyarrow.flight", by_flight, files),
    Way("by the jetbridge package, over TCP", by_package_over_tcp, files),
    Way("by the jetbridge package, same host", by_package, files),
    Way(f"{len(COLUMNS)} columns into pandas", into_pandas, files_into_pandas),
    Way("SQL, sums by group", by_sql, files_by_sql, is_typed_alike=False),
)
