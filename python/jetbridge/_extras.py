"""Packages that some calls need and the package itself does not: nothing but the interpreter is required to read.

Rows leave by the Arrow PyCapsule protocol, for which no Arrow library is needed on this side. So there is no hard
dependency; whoever wants a pyarrow table or a data frame has the library that it is a type of.
"""

from __future__ import annotations

import importlib
from typing import Any

from jetbridge.errors import MissingExtraError

# What to install for a module, as an extra of this package.
_EXTRAS = {
    "pyarrow": "arrow",
    "pyarrow.types": "arrow",
    "pandas": "pandas",
    "polars": "polars",
    "duckdb": "duckdb",
    "numpy": "numpy",
    "torch": "torch",
    "tqdm.auto": "progress",
}


def needed(module: str, what: str) -> Any:
    """A module of an extra.

    Raises:
        MissingExtraError: it is not installed; the message has the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name not in (package, module):
            # It is there, and something that it needs is not: its own message says what.
            raise
        line = f"pip install 'jetbridge[{_EXTRAS[module]}]'"
        raise MissingExtraError(f"{what} needs {package}, which is not installed: {line}") from error
