"""The other end of `programs.py`: reads a question a line, and writes an answer a line. Needs Python alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Until stdin closes. An exception is an answer too, and says what it was; its trace goes to stderr."""
    for line in sys.stdin:
        try:
            said = answer(json.loads(line))
        except Exception as error:
            sys.excepthook(*sys.exc_info())
            said = {"error": f"{type(error).__name__}: {error}"}
        # On a line of its own, whatever a library has printed before.
        print("\n" + json.dumps(said), flush=True)
