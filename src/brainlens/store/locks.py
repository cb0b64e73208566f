"""One writer at a time: locks that die with their process, and what a killed writer left behind."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from brainlens.types import DataError

PAUSE = 0.05  # s between two tries
PATIENCE = 120.0  # s that a writer of a finished result waits for another one
PARTS = ".*.part"  # files that take the place of others when they are whole
STAGING = ".new-"  # folders beside the files of a run in which the next version is written
_held: set[tuple[str, int]] = set()  # folders that this process holds, by thread


@contextmanager
def lock(folder: str | Path, *, wait: float = 0.0, shared: bool = False) -> Iterator[Path]:
    """Holds a folder for one writer; the lock of a process that died is free at once, and what it left half written is removed.

    wait: seconds to wait for another writer. shared: a folder that this thread holds already is taken as held, for a writer
    that calls another one on its own folder.
    Raises DataError naming the process that holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    key = (str(folder.resolve()), threading.get_ident())
    if shared and key in _held:
        yield folder
        return
    path = folder / ".lock"
    handle = _take(path, folder, time.monotonic() + wait)
    _held.add(key)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        clean(folder)
        yield folder
    finally:
        _held.discard(key)
        with suppress(FileNotFoundError):
            path.unlink()
        os.close(handle)


def _take(path: Path, folder: Path, until: float) -> int:
    """The open lock file, held. Raises DataError where another process holds it until then."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the folder went away with the work of the writer before us
            folder.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 64).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise DataError(f"{folder}: this file system gives no locks ({error.strerror}); use a local disk") from error
            if time.monotonic() < until:
                time.sleep(PAUSE)
                continue
            raise DataError(f"{folder} is being written by process {holder}; wait for it or choose another folder") from None
        if is_at(handle, path):
            return handle
        os.close(handle)  # the holder before us removed the file between our open and our lock: we hold nothing


@contextmanager
def appearing(folder: str | Path) -> Iterator[Path]:
    """A folder to be filled which takes the name `folder` when the block ends well, whole at once, and vanishes when it does not.

    It is made in `.new` beside the folder, which one process at a time holds, so that what a killed one left is removed.
    Raises DataError where the folder is there and holds something, before the block and after it.
    """
    folder = Path(folder)
    taken = DataError(f"{folder} exists and is not empty; remove it, or name another folder")
    room = folder.parent / ".new"
    try:
        with lock(room, wait=PATIENCE):
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise taken
            stage = room / f"{STAGING}{os.getpid()}"
            stage.mkdir()
            try:
                yield stage
                os.replace(stage, folder)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and error.filename2 == str(folder):
                    raise taken from error
                raise
            finally:
                shutil.rmtree(stage, ignore_errors=True)
    finally:
        with suppress(OSError):  # another one waits in it
            room.rmdir()


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def folder_turn(folder: Path) -> Iterator[None]:
    """Waits for the folder's turn: two writers of one manifest do not lose each other's entries."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def claimed(path: Path) -> int:
    """A new file, open and held by its writer for as long as it is open; whoever can take it knows that its writer is gone."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        with suppress(OSError):  # a file system without locks has no cleaning either
            fcntl.flock(handle, fcntl.LOCK_EX)  # one that cleans holds it for a moment only, and removes the name meanwhile
        if is_at(handle, path):
            os.ftruncate(handle, 0)
            return handle
        os.close(handle)


def clean(folder: Path, pattern: str = PARTS) -> None:
    """Removes files that writers were killed within, and the staging folders of killed writers where the folder is held."""
    for path in folder.glob(pattern):
        with suppress(OSError):
            _remove_abandoned(path)
    if pattern == PARTS:
        for path in folder.glob(f"{STAGING}*"):
            shutil.rmtree(path, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError where its writer lives
        if is_at(handle, path):
            path.unlink()
    finally:
        os.close(handle)


def check_writable(folder: str | Path) -> Path:
    """The folder itself, made where it is missing; DataError where nothing can be written in it, before hours of work."""
    folder = Path(folder)
    trial = folder / f".try-{os.getpid()}-{threading.get_ident()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(trial, "wb") as handle:
            handle.write(b"\0" * 4096)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise DataError(
            f"{folder}: nothing can be written there ({error.strerror}); free some space, or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            trial.unlink()
    return folder
