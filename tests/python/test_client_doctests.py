"""Every public thing of the Python package has a docstring whose example runs."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import jetbridge as jb
import pyarrow as pa
import pytest

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def modules() -> list[ModuleType]:
    """All modules of the package but the command and what needs PyTorch."""
    found = [jb]
    for info in pkgutil.walk_packages(jb.__path__, "jetbridge."):
        if info.name.split(".")[1] not in ("torch", "__main__", "_native"):
            found.append(importlib.import_module(info.name))
    assert len(found) > 15
    return found


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_the_examples_of_docstrings_run(
    module: ModuleType, jb_client: jb.Client, local_cluster: jb.LocalCluster, trips_folder: Path
) -> None:
    jb_client.preload("/lake/trips").wait(timeout=60, progress=False)
    names = {
        "jb": jb,
        "pa": pa,
        "asyncio": asyncio,
        "client": jb_client,
        "cluster": local_cluster,
        "folder": trips_folder,
    }
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=names):
        said: list[str] = []
        runner.run(test, out=said.append)
        assert not runner.summarize(verbose=False).failed, "".join(said)


def test_every_public_thing_has_an_example() -> None:
    seen = 0
    for name in jb.__all__:
        thing = getattr(jb, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)) or thing.__module__ == "jetbridge._native":
            continue
        seen += 1
        assert thing.__doc__, name
        assert ">>>" in thing.__doc__, f"{name} has no example"
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            if member.startswith("_") or name.startswith("Async"):
                continue
            value = value.fget if isinstance(value, property) else value
            if inspect.isfunction(value) and value.__module__.startswith("jetbridge"):
                documented = inspect.getdoc(getattr(thing, member)) or ""
                assert ">>>" in documented, f"{name}.{member} has no example"
                seen += 1
    assert seen > 100
