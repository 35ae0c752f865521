"""The ``jetbridge`` command, run inside this interpreter's process."""

from __future__ import annotations

import signal
import sys

from jetbridge import _native


def main() -> int:
    """Run the command with this process's arguments and return its exit code."""
    # The server handles SIGINT itself; Python's handler would only note it and wait for the interpreter's lock.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # A server that starts workers starts this program again, which the interpreter alone is not.
    program = [sys.executable, "-m", "jetbridge"]
    return _native.main(["jetbridge", *sys.argv[1:]], program)


if __name__ == "__main__":
    sys.exit(main())
