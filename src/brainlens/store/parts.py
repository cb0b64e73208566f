"""Half a download, kept for the next call: `X.part` with a note `X.json` of how many bytes are whole, and their SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from brainlens.store.files import BLOCK, FULL, full_disk, read_json, save_json, sync_folder
from brainlens.types import DataError

NOTED = 1 << 26  # bytes between two notes, which is what a process that is killed loses at most


class Part:
    """A file that grows at its end: `size` bytes are there, `digest` is their SHA-256 so far."""

    def __init__(self, path: Path) -> None:
        self._path, self._note = path, path.with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = open(path, "r+b" if path.is_file() else "w+b")  # noqa: SIM115, closed by `going_on`
        self.size, self.digest = self._whole()
        self._noted = self.size
        self._handle.seek(self.size)
        self._handle.truncate()

    def _whole(self) -> tuple[int, hashlib._Hash]:
        """Bytes and hash of what the note vouches for; nothing where it is missing, or the bytes are not those."""
        digest = hashlib.sha256()
        try:
            note = read_json(self._note)
            left = size = int(note["bytes"])
            while left > 0 and (block := self._handle.read(min(left, BLOCK))):
                digest.update(block)
                left -= len(block)
            if left == 0 and digest.hexdigest() == note["sha256"]:
                return size, digest
        except (DataError, KeyError, TypeError, ValueError):
            pass
        return 0, hashlib.sha256()

    def add(self, piece: bytes) -> None:
        """Appends bytes."""
        self._handle.write(piece)
        self.digest.update(piece)
        self.size += len(piece)
        if self.size - self._noted >= NOTED:
            self.keep()

    def keep(self) -> None:
        """Writes to disk what is there, and the note after it."""
        self._handle.flush()
        os.fsync(self._handle.fileno())
        save_json(self._note, {"bytes": self.size, "sha256": self.digest.hexdigest()})
        self._noted = self.size

    def place(self, path: Path) -> None:
        """Takes the place of `path`, whole."""
        self._handle.flush()
        os.fsync(self._handle.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self._path, path)
        sync_folder(path.parent)
        self._note.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file; bytes that do not reach the disk any more are not vouched for by the note."""
        with suppress(OSError):
            self._handle.close()

    def remove(self) -> None:
        """Removes the file and its note."""
        self.size = 0
        self._path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


@contextmanager
def going_on(part: Path, path: Path, *, anew: bool = False) -> Iterator[Part]:
    """What is there of a file that takes the place of `path` when the block ends well, and is kept when it does not.

    One writer at a time: the caller holds the folder. anew: without what is there. Raises DataError when the disk is full; then
    nothing of it is left.
    """
    if anew:
        part.unlink(missing_ok=True)
    found = Part(part)
    try:
        yield found
        found.place(path)
    except OSError as error:
        found.remove()
        if error.errno in FULL:
            raise full_disk(error, path) from error
        raise
    except BaseException:
        _leave(found)
        raise
    finally:
        found.close()


def _leave(part: Part) -> None:
    """Keeps what a block that was stopped has of a file, without an error of its own: what stopped the block is what is told."""
    try:
        if part.size:
            part.keep()
            return
    except (OSError, DataError):
        pass
    part.remove()


def keep_only(folder: Path, names: Collection[str]) -> None:
    """Removes from a folder of parts those that are of no file any more."""
    for path in folder.glob("*"):
        if path.with_suffix(".part").name not in names:
            path.unlink(missing_ok=True)
