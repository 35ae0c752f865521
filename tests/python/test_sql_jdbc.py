"""Flight SQL as Arrow's JDBC driver speaks it. Needs Java 17, Maven, and what Maven fetches; else it is skipped."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import Lake
from harness import files

JDBC = Path(__file__).parents[1] / "jdbc"
MAVEN_TIMEOUT_S = 200
JAVA_TIMEOUT_S = 120
# The driver reaches into the JDK's memory, which has to be allowed.
OPEN = "--add-opens=java.base/java.nio=org.apache.arrow.memory.core,ALL-UNNAMED"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the driver's jar."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed, so JDBC is not tested")
    folder = tmp_path_factory.mktemp("jdbc")
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
    command = ["mvn", "--batch-mode", "--quiet", "--file", str(JDBC / "pom.xml"), *goal]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=MAVEN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"Maven did not fetch the driver within {MAVEN_TIMEOUT_S} s, so JDBC is not tested")
    except subprocess.CalledProcessError as failed:
        pytest.skip(f"Maven cannot fetch the driver, so JDBC is not tested: {failed.stdout.strip()[:300]}")
    assert list(folder.glob("flight-sql-jdbc-driver-*.jar"))
    return folder


@pytest.fixture
def told(lake: Lake, driver: Path) -> dict[str, str]:
    """What Check.java tells of a table of 1,000 rows."""
    lake.write("t/1.parquet", files.numbers(1_000), row_group_size=100)
    address = lake.server.flight_uri.removeprefix("grpc://")
    command = ["java", OPEN, "-cp", f"{driver}/*", str(JDBC / "Check.java"), address, lake.path.strip("/"), "t"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=JAVA_TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line]
    return dict(lines)


def test_jdbc(told: dict[str, str], lake: Lake) -> None:
    schema = lake.path.strip("/")
    words = {name: told.pop(name) for name in ("bad sql", "no table", "insert")}
    assert told == {
        "product": "Jetbridge",
        "read only": "true",
        "transactions": "false",
        "catalogs": "[jetbridge]",
        "schemas": f"[{schema}]",
        "tables": "[t]",
        "views": "[]",
        "columns": "[n, text, maybe]",
        "column types": "[BIGINT, VARCHAR, DOUBLE]",
        "table types": "[TABLE]",
        "primary keys": "[]",
        "imported keys": "[]",
        "exported keys": "[]",
        "cross reference": "[]",
        "simple questions": "many",
        "failed questions": "[]",
        "column count": "2",
        "column names": "n,text",
        "rows": "[2=row 2, 1=row 1, 0=row 0]",
        "count": "1000",
        "whole table": "1000",
        "parameters": "2",
        "prepared 4": "row 4",
        "prepared 7": "row 7",
        "after refusals": "1",
        "closed": "yes",
    }
    assert "line 1" in words["bad sql"]
    assert "no_such_table" in words["no table"]
    assert words["insert"] != "none"
