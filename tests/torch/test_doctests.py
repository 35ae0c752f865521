"""The examples in the docstrings of `jetbridge.torch` run, and every public class has one."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import jetbridge as jb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jetbridge.client import Client

MODULES = ("_dataset", "_map", "_loader")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_run(client: Client, folder: Path, name: str) -> None:
    (folder / "trips").mkdir(exist_ok=True)
    for part in range(4):
        ids = range(part * 250, part * 250 + 250)
        table = pa.table({"id": pa.array(ids, pa.int64()), "fare": pa.array([number / 4 for number in ids])})
        pq.write_table(table, folder / "trips" / f"part-{part}.parquet")
    client.refresh("/lake")
    module = importlib.import_module(f"jetbridge.torch.{name}")
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    tests = [test for test in finder.find(module, extraglobs={"jb": jb, "client": client}) if test.examples]
    assert tests, f"{name} has no example"
    for test in tests:
        said: list[str] = []
        runner.run(test, out=said.append)
        assert not runner.summarize(verbose=False).failed, "".join(said)
