"""Whether DataFusion's Python package is one that takes tables from this one.

It takes them in memory, as structs that each major version lays out anew: one that is read as another is a crash. The
package is never imported here; who calls has it.
"""

from __future__ import annotations

import sys

from jetbridge import _native
from jetbridge.errors import MissingExtraError


def codec_of(session: object) -> object:
    """The capsule by which a session, or the capsule that it sent instead of itself, is spoken to.

    Raises:
        MissingExtraError: the package is of another major version; the hint has the line that installs the right one.
    """
    found = getattr(sys.modules.get("datafusion"), "__version__", None)
    wanted = _native.DATAFUSION_MAJOR
    if str(found).partition(".")[0] != str(wanted):
        raise MissingExtraError(
            f"tables for DataFusion need its Python package of version {wanted}, and what is imported is {found}",
            hint=f"pip install 'datafusion=={wanted}.*' in place of {found}",
        )
    given = getattr(session, "__datafusion_logical_extension_codec__", None)
    return session if given is None else given()
