"""The wheel, as `make wheel` builds it: what users get, in an environment that has nothing else."""

from __future__ import annotations

import os
import subprocess
import venv
import zipfile
from pathlib import Path

import abi3info
import jetbridge as jb
import pytest
from abi3info.models import PyVersion, Symbol

from harness.process import clean_environment

OLDEST = PyVersion(3, 10)
FIRST_READ = """
import sys
import jetbridge as jb

with jb.LocalCluster(workers=1, mounts={"/lake": sys.argv[1]}) as cluster, cluster.connect() as client:
    dataset = client.dataset("/lake/trips")
    batches = list(dataset.select("id").filter("id < 10"))
    print(dataset.count(), sum(batch.num_rows for batch in batches), dataset.schema.names)
    assert not {"pyarrow", "numpy", "pandas", "torch"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The wheel that the Makefile has built: the folder is `JETBRIDGE_TEST_WHEELS`."""
    folder = os.environ.get("JETBRIDGE_TEST_WHEELS")
    if folder is None:
        pytest.skip("JETBRIDGE_TEST_WHEELS is not set: `make wheel` builds the wheel")
    (found,) = Path(folder).glob("jetbridge-*.whl")
    return found


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", str(wheel)]
    subprocess.run(install, check=True, env=clean_environment())
    return python


def test_the_wheel_is_for_every_python_from_the_oldest_on(wheel: Path) -> None:
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
    for name in ("py.typed", "_native.pyi", "_native.abi3.so", "__main__.py", "aio/client.py"):
        assert f"jetbridge/{name}" in names
    assert not [name for name in names if name.endswith(".pyc")]


def test_the_module_uses_the_stable_abi_alone() -> None:
    assert jb._native.__file__ is not None
    listed = subprocess.run(
        ["nm", "--dynamic", "--undefined-only", jb._native.__file__], capture_output=True, text=True, check=True
    )
    names = [line.split()[-1].partition("@")[0] for line in listed.stdout.splitlines()]
    python = [Symbol(name) for name in names if name.startswith(("Py", "_Py"))]
    assert len(python) > 50
    for symbol in python:
        known = abi3info.FUNCTIONS.get(symbol) or abi3info.DATAS.get(symbol)
        assert known is not None, f"{symbol.name} is not of the stable ABI"
        assert known.added <= OLDEST, f"{symbol.name} came with {known.added}"


def test_a_first_read_needs_nothing_but_the_wheel(clean_python: Path, trips_folder: Path) -> None:
    # Not where the sources are.
    done = subprocess.run(
        [str(clean_python), "-c", FIRST_READ, str(trips_folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=clean_python.parent,
        env={key: value for key, value in clean_environment().items() if key != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1000 10 ['id', 'vendor', 'fare', 'day']"


def test_the_wheel_brings_the_command(clean_python: Path) -> None:
    command = clean_python.with_name("jetbridge")
    done = subprocess.run([str(command), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"jetbridge {jb.__version__}"
    wrong = subprocess.run([str(command), "nonsense"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
