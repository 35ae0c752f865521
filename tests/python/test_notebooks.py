"""The notebooks run from clean kernels against the installed package; those that need torch do so beside its tests."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from harness import notebooks


@pytest.mark.parametrize("path", notebooks.notebooks(torch=False), ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    done = notebooks.run(path, tmp_path)
    shown = "".join(cell.source for cell in done.cells if cell.cell_type == "code")
    assert shown.count("assert ") >= 3, "it ends in assertions"
    assert len(notebooks.pictures(done)) == shown.count("plt.show()")


@pytest.mark.parametrize("path", sorted(notebooks.FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)
