"""SQL engines that answer queries over the tables of TPC-H, each a program of its own in the environment that has it.

`python sql_engines.py NAME` with `jetbridge`, `datafusion` or `duckdb` answers lines of JSON:

* `{"open": {...}}` connects and names the tables: `tables` are folders by name, `s3` how to reach a bucket, if they lie
  in one; `file_cache` is false where DuckDB is not to keep in memory what it has read of them; `uri` is Jetbridge's
  address. Gives what it took, and the engine's version.
* `{"sql": "...", "out": FILE or null}` runs a query to its end, as an Arrow table in this process, and gives what it
  took. The rows go to FILE, if there is one, which is not measured.

Imports are left out of what is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

import answering
import usage

# Runs a query.
Run = Callable[[str], pa.Table]
# Connects to what is said, and gives how to run queries.
Open = Callable[[dict[str, Any]], Run]

SCHEMA_HEADER = "x-jetbridge-sql-schema"


def jetbridge() -> tuple[Open, str]:
    """The package's own client, as it is by default."""
    import jetbridge as jb

    def opened(said: dict[str, Any]) -> Run:
        client = jb.connect(said["uri"], headers={SCHEMA_HEADER: said["schema"]})
        return lambda sql: client.sql(sql).to_arrow()

    return opened, jb.__version__


def datafusion() -> tuple[Open, str]:
    """DataFusion's own wheel, as it is by default."""
    import datafusion as df
    from datafusion.object_store import AmazonS3

    def opened(said: dict[str, Any]) -> Run:
        context = df.SessionContext()
        if s3 := said.get("s3"):
            store = AmazonS3(
                bucket_name=s3["bucket"],
                region=s3["region"],
                access_key_id=s3["access_key"],
                secret_access_key=s3["secret_key"],
                endpoint=f"http://{s3['host']}",
                allow_http=True,
            )
            context.register_object_store("s3://", store, s3["bucket"])
        for name, place in said["tables"].items():
            context.register_parquet(name, f"{place}/")
        return lambda sql: context.sql(sql).to_arrow_table()

    return opened, df.__version__


def duckdb() -> tuple[Open, str]:
    """DuckDB, as it is by default; of S3 by its extension httpfs, which a wheel brings."""
    import duckdb as duck

    def opened(said: dict[str, Any]) -> Run:
        connection = duck.connect()
        if not said.get("file_cache", True):
            connection.execute("set enable_external_file_cache = false")
        if s3 := said.get("s3"):
            import duckdb_extension_httpfs as httpfs

            (extension,) = Path(httpfs.__file__).parent.rglob("httpfs.duckdb_extension")
            connection.execute(f"load '{extension}'")
            connection.execute(
                f"create secret (type s3, key_id '{s3['access_key']}', secret '{s3['secret_key']}', "
                f"region '{s3['region']}', endpoint '{s3['host']}', use_ssl false, url_style 'path')"
            )
        for name, place in said["tables"].items():
            connection.execute(f"create view {name} as select * from read_parquet('{place}/*.parquet')")
        return lambda sql: connection.execute(sql).to_arrow_table()

    return opened, duck.__version__


ENGINES = {"jetbridge": jetbridge, "datafusion": datafusion, "duckdb": duckdb}


def main() -> None:
    """Serves one engine."""
    open_engine, version = ENGINES[sys.argv[1]]()
    runs: list[Run] = []

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        if "open" in asked:
            run, took = usage.used(lambda: open_engine(asked["open"]))
            runs[:] = [run]
            return {**asdict(took), "version": version}
        table, took = usage.used(lambda: runs[0](asked["sql"]))
        if asked["out"]:
            with pa.ipc.new_file(asked["out"], table.schema) as out:
                out.write_table(table)
        return {**asdict(took), "rows": table.num_rows, "arrow_bytes": table.nbytes}

    answering.serve(answer)


if __name__ == "__main__":
    main()
