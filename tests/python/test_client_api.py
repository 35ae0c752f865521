"""The Python package: what contract and README promise of its objects."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import jetbridge as jb
import pyarrow as pa
import pytest

from harness.trips import ROWS, trips


def test_a_scan_reads_what_the_files_hold(jb_client: jb.Client) -> None:
    dataset = jb_client.dataset("/lake/trips")
    assert dataset.to_arrow().equals(trips())
    assert dataset.count() == ROWS
    assert dataset.head(3).column("id").to_pylist() == [0, 1, 2]
    assert dataset.select("fare", "id").to_arrow().equals(trips().select(["fare", "id"]))
    assert dataset.select(["fare"], "id").to_arrow().column_names == ["fare", "id"]


def test_scans_are_lazy_and_immutable(jb_client: jb.Client) -> None:
    dataset = jb_client.dataset("/lake/trips")
    narrow = dataset.select("id", "fare").filter("fare > 1").filter("id < 500").limit(7).limit(3)
    assert dataset.schema.names == ["id", "vendor", "fare", "day"]
    assert narrow.to_arrow().to_pydict() == {"id": [11, 12, 13], "fare": [1.1, 1.2, 1.3]}
    # Nothing is asked before it is needed: neither of a server that is not there, nor of a path that does not exist.
    nowhere = jb.connect("grpc://127.0.0.1:1", check=False).dataset("/lake/none").select("a").filter("a > 1").limit(1)
    assert repr(nowhere) == "<Scan /lake/none | select a | filter a > 1 | limit 1>"
    assert nowhere._repr_html_()


def test_select_without_columns_gives_rows_without_columns(jb_client: jb.Client) -> None:
    stream = list(jb_client.dataset("/lake/trips").select())
    assert sum(batch.num_rows for batch in stream) == ROWS
    assert {batch.num_columns for batch in stream} == {0}


def test_counts_come_from_the_plan_or_from_reading(jb_client: jb.Client) -> None:
    dataset = jb_client.dataset("/lake/trips")
    expected = sum(1 for row in trips().to_pylist() if row["fare"] is not None and row["fare"] > 5)
    assert dataset.filter("fare > 5").count() == expected
    assert dataset.filter("fare > 5").select("vendor").count() == expected
    assert dataset.filter("fare > 5").limit(4).count() == 4
    assert dataset.limit(0).count() == 0
    assert dataset.limit(0).to_arrow().schema.equals(trips().schema)


def test_unordered_reads_have_the_same_rows(jb_client: jb.Client) -> None:
    table = jb_client.dataset("/lake/trips").unordered().to_arrow()
    assert table.sort_by("id").combine_chunks().equals(trips().combine_chunks())


def test_a_plan_tells_splits_owners_rows_bytes_and_what_is_cached(
    jb_client: jb.Client, local_cluster: jb.LocalCluster
) -> None:
    plan = jb_client.dataset("/lake/trips").plan()
    assert plan.rows == ROWS == sum(split.rows for split in plan)
    assert plan.bytes == sum(split.bytes for split in plan.splits) > 0
    owners = {worker.id for worker in jb_client.workers()}
    assert {split.owner for split in plan} <= owners
    assert {split.cached for split in plan} <= {"decoded", "raw", "none"}
    assert sum(plan.cached.values()) == plan.bytes
    addresses = {node.uri for node in local_cluster.workers}
    assert all(addresses & set(split.locations) for split in plan)
    assert jb_client.dataset("/lake/trips").filter("id > 3").plan().rows is None
    assert "splits" in repr(plan)
    assert "<table>" in plan._repr_html_()


def test_a_schema_compares_with_those_of_other_libraries(jb_client: jb.Client) -> None:
    schema = jb_client.dataset("/lake/trips").schema
    assert schema == trips().schema
    assert trips().schema == schema
    assert pa.schema(schema).equals(trips().schema)
    assert schema.field("day").type == pa.date32()
    assert schema.field("day").type != pa.date64()
    assert schema["id"] == pa.field("id", pa.int64())
    assert schema != pa.schema([pa.field("id", pa.int64())])
    assert schema != 7
    assert [field.name for field in schema] == schema.names
    assert "fare" in schema
    assert "fahre" not in schema
    with pytest.raises(KeyError):
        schema.field("fahre")
    assert hash(schema.field(0).type) == hash(schema.field(0).type)


def test_mounts_come_and_go(jb_client: jb.Client, trips_folder: Path) -> None:
    jb_client.mount("/beside", f"file://{trips_folder}", {"freshness": "immutable"})
    try:
        mounted = {mount.path: mount for mount in jb_client.mounts()}
        assert mounted["/beside"].options == {"freshness": "immutable"}
        assert mounted["/beside"]["uri"] == mounted["/beside"].uri == f"file://{trips_folder}"
        assert jb_client.check_mount("/beside").ok
        assert [entry.name for entry in jb_client.ls("/")] == ["beside", "lake"]
        assert {entry.kind for entry in jb_client.ls("/lake/trips")} == {"file"}
        assert jb_client.ls("/lake/trips", limit=2).truncated
        assert jb_client.dataset("/beside/trips").count() == ROWS
        assert jb_client.datasets() == ["/beside/trips", "/lake/trips"]
    finally:
        jb_client.unmount("/beside")
    assert [mount.path for mount in jb_client.mounts()] == ["/lake"]


def test_stat_pin_free_locate_and_refresh(jb_client: jb.Client, local_cluster: jb.LocalCluster) -> None:
    dataset = jb_client.dataset("/lake/trips")
    stat = dataset.stat()
    assert (stat.rows, stat.files, stat.kind) == (ROWS, 4, "folder")
    assert stat.cache is not None
    assert stat.cache.rows == ROWS
    assert "trips" in stat._repr_html_()
    by_column = dataset.cache_stat(by="column").by_column
    assert by_column is not None
    assert [entry["column"] for entry in by_column] == ["id", "vendor", "fare", "day"]
    assert dataset.pin(tier="raw").tier == "raw"
    assert [pin.path for pin in jb_client.pins()] == ["/lake/trips"]
    with pytest.raises(jb.FailedPreconditionError, match="pinned"):
        dataset.free()
    dataset.unpin()
    assert dataset.free().path == "/lake/trips"
    assert dataset.cache_stat().raw_bytes == 0
    ids = {worker.id for worker in jb_client.workers()}
    assert {owner["id"] for location in dataset.locate() for owner in location.owners} <= ids
    dataset.refresh()
    assert dataset.count() == ROWS
    assert len(jb_client.workers()) == len(local_cluster.workers) == 2
    assert len(jb_client.workers(coordinators=True)) == 3


def test_records_are_attributes_keys_and_tables(jb_client: jb.Client) -> None:
    worker = jb_client.workers()[0]
    assert dict(worker)["state"] == worker["state"] == worker.state == "serving"
    with pytest.raises(KeyError):
        worker["colour"]
    assert jb_client.workers().columns()["role"] == ["worker", "worker"]
    assert "serving" in repr(jb_client.workers())


def test_what_notebooks_show_is_escaped_and_bounded() -> None:
    entries = [jb.records.Entry(f"<script>{number}</script>", "file") for number in range(5_000)]
    html = jb.records.Listing(entries)._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "100 of 5000 rows" in html
    assert len(html) < 50_000
    wide = jb.records.Entry("x" * 100_000, "file")
    assert len(wide._repr_html_()) < 2_000
    job = jb.JobStatus("7", "RUNNING", path="<b>", workers=[{"id": "<i>", "state": "&"}] * 1_000)
    assert "<b>" not in job._repr_html_()
    assert len(job._repr_html_()) < 30_000


def test_clients_scans_jobs_and_plans_are_pickled(jb_client: jb.Client) -> None:
    scan = jb_client.dataset("/lake/trips").select("id").filter("id < 5")
    again = pickle.loads(pickle.dumps(scan))
    assert again == scan
    assert again.to_arrow().column("id").to_pylist() == list(range(5))
    assert pickle.loads(pickle.dumps(jb_client)).uri == jb_client.uri
    job = jb_client.dataset("/lake/trips").preload(columns=["id"])
    job.wait(timeout=60, progress=False)
    assert pickle.loads(pickle.dumps(job)).status == "SUCCEEDED"
    plan = scan.plan()._native
    assert [endpoint.path for endpoint in pickle.loads(pickle.dumps(plan)).endpoints] == [
        endpoint.path for endpoint in plan.endpoints
    ]


def test_errors_survive_a_pickle() -> None:
    error = jb.NotFoundError("no such thing", hint="look elsewhere")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.code, again.hint) == (type(error), str(error), error.code, error.hint)


def test_one_client_is_used_by_many_threads(jb_client: jb.Client) -> None:
    counts: list[int] = []

    def read() -> None:
        counts.extend(jb_client.dataset("/lake/trips").to_arrow().num_rows for _ in range(5))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [ROWS] * 40


def test_a_closed_client_says_so(local_cluster: jb.LocalCluster) -> None:
    client = local_cluster.connect()
    dataset = client.dataset("/lake/trips")
    batches = iter(dataset)
    next(batches)
    client.close()
    client.close()
    assert client.closed
    for use in (dataset.count, lambda: dataset.schema, client.mounts, lambda: list(batches)):
        with pytest.raises(jb.ClosedError, match="closed"):
            use()


def test_a_read_goes_on_when_nobody_has_its_client(local_cluster: jb.LocalCluster) -> None:
    reader = local_cluster.connect().dataset("/lake/trips").to_reader()
    gc.collect()
    assert reader.read_all().equals(trips())


def test_the_environment_names_the_server(local_cluster: jb.LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JETBRIDGE_URI", local_cluster.uri)
    with jb.connect() as client:
        assert client.uri == local_cluster.uri
        assert client.status().workers == 2


def test_importing_needs_no_other_package() -> None:
    blocked = ("pyarrow", "numpy", "pandas", "polars", "duckdb", "torch", "tqdm")
    program = f"""
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import jetbridge as jb
print(jb.__version__)
try:
    jb.connect("grpc://127.0.0.1:1", check=False).dataset("/x").to_pandas()
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    version, words = done.stdout.splitlines()
    assert version
    assert "pip install 'jetbridge[pandas]'" in words
