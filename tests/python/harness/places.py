"""Objects that are written, cut, replaced and deleted while others read them: in a local folder, or in a bucket."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

from harness.weed import Weed


class Place(ABC):
    """Where objects lie, and what a mount of it is called."""

    uri: str
    options: dict[str, str]

    @abstractmethod
    def replace(self, name: str, content: bytes) -> None:
        """Puts an object in the place of what is there, at once."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Removes an object."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """All of an object."""

    @abstractmethod
    def close(self) -> None:
        """Removes what would be in the way of others."""

    def rewrite(self, name: str, content: bytes) -> bool:
        """Writes into the object itself, where that is something else than `replace`; whether it is."""
        self.replace(name, content)
        return False


class LocalPlace(Place):
    """A folder; what is not ready yet lies beside it."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "objects"
        self._new = root / "new"
        self.folder.mkdir(parents=True)
        self._new.mkdir()
        self.uri, self.options = f"file://{self.folder}", {}

    def close(self) -> None:
        pass  # The folder goes with the test that made it.

    def replace(self, name: str, content: bytes) -> None:
        target, new = self.folder / name, self._new / name
        for path in (target, new):
            path.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content)
        os.replace(new, target)

    def delete(self, name: str) -> None:
        (self.folder / name).unlink()

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def rewrite(self, name: str, content: bytes) -> bool:
        path = self.folder / name
        if path.stat().st_size == len(content):
            # Nothing but its times will tell it from what was there.
            with path.open("r+b", buffering=0) as file:
                file.write(content)
            return True
        with path.open("wb", buffering=0) as file:
            middle = len(content) // 2
            file.write(content[:middle])
            file.write(content[middle:])
        return True


class BucketPlace(Place):
    """A bucket of SeaweedFS, its objects without folders at the top, so that no markers of folders are made."""

    def __init__(self, weed: Weed, bucket: str) -> None:
        self._store = weed.filesystem()
        self._store.create_dir(bucket)
        self._bucket = bucket
        self.uri, self.options = f"s3://{bucket}", weed.options

    def close(self) -> None:
        # Each bucket takes volumes of the server, which has not many.
        self._store.delete_dir(self._bucket)

    def replace(self, name: str, content: bytes) -> None:
        with self._store.open_output_stream(f"{self._bucket}/{name}") as out:
            out.write(content)

    def delete(self, name: str) -> None:
        self._store.delete_file(f"{self._bucket}/{name}")

    def read(self, name: str) -> bytes:
        with self._store.open_input_stream(f"{self._bucket}/{name}") as file:
            return file.read()
