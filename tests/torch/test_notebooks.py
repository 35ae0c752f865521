"""The notebooks that train run from clean kernels against the installed package."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import notebooks


@pytest.mark.parametrize("path", notebooks.notebooks(torch=True), ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    done = notebooks.run(path, tmp_path)
    shown = "".join(cell.source for cell in done.cells if cell.cell_type == "code")
    assert shown.count("assert ") >= 2, "it ends in assertions"
    assert len(notebooks.pictures(done)) == shown.count("plt.show()")
