"""HDF5 datasets opened only when they lie in the file itself, whole, and within a budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from brainlens.types import DataError, check_expansion, reading
from brainlens.warned import warn

BUDGET = 64e9
TEXTS = 10e6  # bytes of a dataset of texts


@contextmanager
def open_dataset(path: str | Path, name: str, *, max_bytes: float = BUDGET) -> Iterator[Any]:
    """The h5py dataset `name` of a file, for reading slices.

    Raises DataError for a missing, truncated or locked file, for links to other files, and for a dataset that claims
    more than `max_bytes` or of which a chunk is missing (the library would fill in zeros).
    """
    import h5py

    with _opened(path) as handle:
        place = _at(handle, Path(path), name)
        if not isinstance(place, h5py.Dataset):
            raise DataError(f"{path}: {name!r} is a group; it holds {sorted(place)[:20]}")
        check_dataset(place, Path(path), name, max_bytes)
        yield place


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    import h5py

    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} is missing")
    try:
        handle = h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({str(error).splitlines()[0]}); it is cut short or being written") from None
    with handle, reading(path):
        yield handle


def _at(handle: Any, path: Path, name: str) -> Any:
    """The group or dataset `name` of an open file, which lies in the file itself."""
    import h5py

    place = handle
    for part in [p for p in name.split("/") if p]:
        link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
        if link is None:
            raise DataError(f"{path} has no dataset {name!r}; it has {sorted(handle)[:20]}")
        if not isinstance(link, h5py.HardLink):
            raise DataError(f"{path}: {part!r} is a link to elsewhere, which is not followed; copy the data into the file")
        place = place[part]
    return place


def names_in(path: str | Path, group: str = "") -> list[str]:
    """What a file, or a group of it, holds, in the order of the file; empty where there is no such group."""
    import h5py

    with _opened(path) as handle:
        there = not group or group in handle
        place = _at(handle, Path(path), group) if there else None
        return [str(name) for name in place] if isinstance(place, h5py.Group) else []


def read_texts(path: str | Path, name: str) -> list[str]:
    """The texts of a dataset, at most 10 MB of them. Raises DataError for what holds none."""
    with _opened(path) as handle:
        return _texts(_at(handle, Path(path), name), Path(path), name)


def read_named_texts(path: str | Path, group: str) -> dict[str, str]:
    """The single text of each dataset of a group, by its name; empty where there is no such group."""
    with _opened(path) as handle:
        if group.split("/")[0] not in handle or group not in handle:
            return {}
        place = _at(handle, Path(path), group)
        return {str(name): _texts(_at(place, Path(path), name), Path(path), f"{group}/{name}")[0] for name in place}


def _texts(data: Any, path: Path, name: str) -> list[str]:
    import h5py

    fits = isinstance(data, h5py.Dataset) and not data.is_virtual and not data.external
    if not fits or h5py.check_string_dtype(data.dtype) is None or data.size == 0:
        raise DataError(f"{path}: {name!r} holds no texts in the file itself; fetch it again")
    if data.size * max(data.dtype.itemsize, 1) > TEXTS:
        raise DataError(f"{path}: {name!r} claims {data.size:,} texts; it is damaged, fetch it again")
    values = np.atleast_1d(np.asarray(data[()], dtype=object))
    return [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in values.ravel()]


def check_dataset(data: Any, path: Path, name: str, max_bytes: float) -> None:
    """Raises DataError for values in other files, of another kind, over the budget, or of which a part was never written."""
    if data.is_virtual or data.external:
        raise DataError(f"{path}: {name!r} keeps its values in other files, which are not opened; copy the data into the file")
    if data.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name!r} holds {data.dtype}, numbers are expected")
    claim = math.prod(data.shape) * data.dtype.itemsize
    if claim > max_bytes:
        raise DataError(
            f"{path}: {name!r} claims {data.shape} {data.dtype}, {claim / 1e9:.3g} GB; the limit is {max_bytes / 1e9:.3g} GB"
        )
    check_expansion(path, claim, data.id.get_storage_size())
    if data.chunks is None:
        if claim and data.id.get_storage_size() < claim:
            raise DataError(f"{path}: {name!r} was never written in full; fetch it again")
        return
    expected = math.prod(-(-n // c) for n, c in zip(data.shape, data.chunks))
    if data.id.get_num_chunks() != expected:
        raise DataError(f"{path}: {name!r} lacks {expected - data.id.get_num_chunks()} of {expected} chunks; fetch it again")
    _check_chunks(data, path, name)


def _check_chunks(data: Any, path: Path, name: str) -> None:
    """Raises DataError for an index of chunks that the library would follow out of its memory: it ends the process."""
    end, seen, wrong = path.stat().st_size, set(), []
    whole = math.prod(data.chunks) * data.dtype.itemsize
    packed = data.id.get_create_plist().get_nfilters() > 0

    def look(info: Any) -> None:
        fits = info.size > 0 and info.byte_offset + info.size <= end and (packed or info.size == whole)
        if not fits or info.chunk_offset in seen or any(at % side for at, side in zip(info.chunk_offset, data.chunks)):
            wrong.append(info.chunk_offset)
        seen.add(info.chunk_offset)

    data.id.chunk_iter(look)
    if wrong:
        raise DataError(f"{path}: the chunk of {name!r} at {wrong[0]} is not where the file says; it is damaged, fetch it again")


def slow_rows(data: Any) -> bool:
    """Whether reading one row decompresses many: chunks span rows and do not span the rest."""
    return bool(data.chunks and data.compression and data.chunks[0] > 1 and data.chunks[1:] != data.shape[1:])


def warn_if_slow(data: Any, path: str | Path) -> None:
    """A warning with the way out for compressed files whose chunks cut across rows."""
    if slow_rows(data):
        row = "x".join(map(str, (1, *data.shape[1:])))
        warn(
            f"{path}: chunks {data.chunks} make random rows slow, each unpacks {data.chunks[0]}; store one row a chunk "
            f"(h5repack -l CHUNK={row}), or as .npy, which is not unpacked at all",
        )


class Hdf5Images(Sequence[np.ndarray]):
    """Rows of an HDF5 image brick (n, h, w, 3) uint8, one read at a time; the file is opened at each access."""

    def __init__(self, path: str | Path, name: str, rows: np.ndarray) -> None:
        self.path, self.name, self.rows = Path(path), name, np.asarray(rows)
        with open_dataset(self.path, name, max_bytes=1e12) as data:
            if data.ndim != 4 or data.shape[3] != 3 or data.dtype != np.uint8:
                raise DataError(f"{path}: {name!r} is {data.dtype} {data.shape}, images (n, h, w, 3) uint8 are expected")
            warn_if_slow(data, self.path)
            if len(self.rows) and int(self.rows.max()) >= data.shape[0]:
                raise DataError(f"{path}: image {int(self.rows.max())} is asked for, the file has {data.shape[0]}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Hdf5Images(self.path, self.name, self.rows[index])
        with open_dataset(self.path, self.name, max_bytes=1e12) as data:
            return data[int(self.rows[index])]
