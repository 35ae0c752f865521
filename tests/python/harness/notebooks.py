"""Runs the notebooks: each from a clean kernel, every cell, an error is one."""

from __future__ import annotations

import asyncio
import os
import warnings
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[3] / "notebooks"
CELL_TIMEOUT_S = 180
KERNEL_TIMEOUT_S = 180
# The notebooks' data: 60,000 rows of lineitem are enough to show that they run.
SCALE = "0.01"


def notebooks(*, torch: bool) -> list[Path]:
    """Those that need torch, or those that do not."""
    found = sorted(FOLDER.glob("*.ipynb"))
    assert len(found) >= 5, f"too few notebooks in {FOLDER}"
    return [path for path in found if ("import torch" in path.read_text(encoding="utf-8")) == torch]


def run(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Runs a notebook in an empty folder; gives it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with warnings.catch_warnings():
        # Its own event loop, and what its kernel's start says of it, is not what is tested here.
        warnings.simplefilter("ignore")
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT_S,
            startup_timeout=KERNEL_TIMEOUT_S,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
        )
        environment = {
            **os.environ,
            "JETBRIDGE_NOTEBOOK_SCALE": SCALE,
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }
        return asyncio.run(client.async_execute(env=environment))


def pictures(notebook: nbformat.NotebookNode) -> list[bytes]:
    """The PNG pictures that its cells show, in base64."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
