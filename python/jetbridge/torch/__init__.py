"""PyTorch datasets over scans: batches of tensors, made in Rust threads.

.. code-block:: python

    scan = client.dataset("/lake/trips").select("fare", "distance", "vendor")
    data = jb.torch.IterableDataset(scan, batch_size=4096, shuffle=True, seed=1)
    for epoch in range(10):
        data.set_epoch(epoch)
        for batch in data:                       # {"fare": tensor, "distance": tensor, "vendor": [...]}
            ...

A batch is a dict of column name to tensor:

====================================  =====================================================================
column                                becomes
====================================  =====================================================================
int8 ... int64, uint8, float16 ...    a tensor of that type
uint16; uint32, uint64                ``torch.int32``; ``torch.int64`` (a value that does not fit is an error)
bool                                  ``torch.bool``
date, time, timestamp, duration       its number, in the column's unit: ``torch.int32`` (date32, time32) or ``int64``
decimal                               ``torch.float64``, the nearest
string, binary                        a list of ``str`` or ``bytes``; None for null
dictionary                            what its values become
fixed-size list                       one more dimension; ``arrow.fixed_shape_tensor`` has its own shape
list                                  a pair (values, offsets): list i is ``values[offsets[i]:offsets[i + 1]]``
struct                                an entry for each field, named ``struct.field``
====================================  =====================================================================

A null in a tensor is an error, unless ``nulls="fill"`` puts a value there (``fill={"column": value}``, else NaN, 0 and
False), or ``nulls="mask"`` does and adds ``"column_mask"``, which is True where there is a value.

**Order.** Each epoch's order follows from ``(seed, epoch)``, the same on every machine and any cluster: row groups are
permuted, then the rows of ``shuffle_buffer`` of them at a time. ``python/ORDER.md`` writes it down.

**Ranks.** Every rank makes equally many steps. Rank and world size come from arguments, else from
``torch.distributed``, else from ``RANK`` and ``WORLD_SIZE``.

**Processes.** ``num_workers=0``, or no DataLoader at all, is the way to go: the threads of the dataset decode and
gather without the interpreter's lock, and nothing is pickled or copied to another process. Where DataLoader workers
are wanted, :class:`DataLoader` has them send several batches at a time; with torch's own, say ``batch_size=None``,
since batches are whole already, and each tensor goes through torch's shared memory by itself. Each worker reads all row
groups that its batches touch.

**Resuming.** ``state_dict()`` counts what the training loop was handed, not what is read ahead. It is right wherever
the iteration runs in the calling process, and in StatefulDataLoader. A plain DataLoader with workers tells nobody how
far it is: :class:`DataLoader` counts, and has the same two methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jetbridge._extras import needed

if TYPE_CHECKING:
    from jetbridge.torch._dataset import IterableDataset
    from jetbridge.torch._loader import DataLoader
    from jetbridge.torch._map import MapDataset, collate
    from jetbridge.torch._state import latest_state

__all__ = ["DataLoader", "IterableDataset", "MapDataset", "collate", "latest_state"]

_HOMES = {
    "DataLoader": "_loader",
    "IterableDataset": "_dataset",
    "MapDataset": "_map",
    "collate": "_map",
    "latest_state": "_state",
}


def __getattr__(name: str) -> Any:
    # Torch is imported when it is needed, so that the package is there without it.
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    needed("torch", f"jetbridge.torch.{name}")
    module = __import__(f"{__name__}.{home}", fromlist=[name])
    return getattr(module, name)
