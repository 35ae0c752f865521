"""`make demo`: makes TPC-H data, serves it, reads it by Arrow Flight cold and warm, and compares it with a direct read.

Everything between `--- from here on` and the table is what a user's own program would do.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq

from harness.compare import assert_same
from harness.server import Options, Server
from harness.tpch import LINEITEM_ROWS_SF1, lineitem

DATASET = "/lake/lineitem"
COLUMNS = ["l_orderkey", "l_extendedprice", "l_discount"]
WHERE = "l_shipdate >= DATE '1998-09-01'"


@dataclass(frozen=True)
class Read:
    """One line of the table."""

    what: str
    seconds: float
    rows: int
    arrow_bytes: int

    def line(self) -> str:
        rate = self.arrow_bytes / self.seconds / 1e6
        return f"{self.what:<44} {self.seconds:>8.2f} {self.rows:>12,} {rate:>10,.0f}"


def main() -> None:
    arguments = parse_arguments()
    work_dir: Path = arguments.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    say(f"TPC-H lineitem at scale {arguments.scale_factor:g} (made once, kept in {work_dir})")
    folder = lineitem(work_dir, arguments.scale_factor)
    shutil.rmtree(work_dir / "data", ignore_errors=True)
    say("jetbridge serve --mount /lake=file://" + str(folder.parent))
    server = Server(work_dir / "data", Options(mounts={"/lake": f"file://{folder.parent}"}))
    try:
        reads = compare_reads(server.flight_uri, folder, arguments.scale_factor)
    finally:
        code = server.stop()
    assert code == 0, server.log
    print(f"\n{'read':<44} {'seconds':>8} {'rows':>12} {'MB/s':>10}")
    print("\n".join(read.line() for read in reads))
    print(how_to_go_on(folder))


def compare_reads(uri: str, folder: Path, scale_factor: float) -> list[Read]:
    """The same rows cold, warm and directly; fails unless all are equal."""
    # --- from here on: plain pyarrow.flight, no library of ours
    client = flight.connect(uri)
    descriptor = flight.FlightDescriptor.for_path(*DATASET.strip("/").split("/"))
    cold, cold_table = timed("through Jetbridge, cold", lambda: read_all(client, descriptor))
    warm, warm_table = timed("through Jetbridge, warm", lambda: read_all(client, descriptor))
    part, _ = timed(f"through Jetbridge, {len(COLUMNS)} columns, filtered", lambda: read_all(client, scan()))
    client.close()
    direct, direct_table = timed("the files directly, by pyarrow.parquet", lambda: read_files(folder))
    say("comparing the three")
    for table in (cold_table, warm_table):
        assert_same(table, direct_table)
    rows = direct_table.num_rows
    assert rows > 0
    assert rows == LINEITEM_ROWS_SF1 or scale_factor != 1
    say(f"equal: {rows:,} rows, {direct_table.num_columns} columns, every value")
    return [direct, cold, warm, part]


def read_all(client: flight.FlightClient, descriptor: flight.FlightDescriptor) -> pa.Table:
    """Plans, then reads each endpoint; in order they give the files by path."""
    info = client.get_flight_info(descriptor)
    return pa.concat_tables(client.do_get(endpoint.ticket).read_all() for endpoint in info.endpoints)


def scan() -> flight.FlightDescriptor:
    """The same dataset as a JSON scan: some columns, some rows."""
    columns = ", ".join(f'"{column}"' for column in COLUMNS)
    return flight.FlightDescriptor.for_command(f'{{"path": "{DATASET}", "columns": [{columns}], "filter": "{WHERE}"}}')


def read_files(folder: Path) -> pa.Table:
    """What a program does without Jetbridge."""
    return pa.concat_tables(pq.ParquetFile(path).read() for path in sorted(folder.glob("*.parquet")))


def timed(what: str, read: object) -> tuple[Read, pa.Table]:
    """Runs a read and says how long it took."""
    assert callable(read)
    say(what)
    start = time.perf_counter()
    table = read()
    seconds = time.perf_counter() - start
    return Read(what, seconds, table.num_rows, table.get_total_buffer_size()), table


def how_to_go_on(folder: Path) -> str:
    """What to type next."""
    return f"""
Go on:
  make serve SERVE="--mount /lake=file://{folder.parent}"     a server on grpc://127.0.0.1:8815
  jetbridge ls /lake                                         (in another terminal)
  jetbridge stat {DATASET}
  jetbridge get {DATASET} --columns l_orderkey,l_shipdate --where "l_orderkey < 10"
The README's first ten minutes take it from there."""


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale-factor", type=float, default=1.0, help="TPC-H scale; 1 is 6,001,215 rows")
    parser.add_argument("--work-dir", type=Path, required=True, help="folder for the data, kept between runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
