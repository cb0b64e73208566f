"""Plain `.npz` archives of numpy arrays: the entries that are wanted, and one line for what is missing or damaged."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from brainlens.types import DataError, check_expansion, reading


def read_npz(folder: str | Path, file: str, keys: Iterable[str]) -> tuple[Path, dict[str, np.ndarray]]:
    """The path of `folder/file` (or of the file itself) and its entries `keys`, of any shape; nothing in it is run.

    Raises DataError for a file that is missing, damaged or no plain `.npz`, and for an entry that is not found.
    """
    path = Path(folder) / file if Path(folder).is_dir() else Path(folder)
    wanted = list(keys)
    if not path.is_file():
        raise DataError(f"{path} is missing; put {file} there")
    with reading(path, f"fetch {file} again", fault="is damaged or not a plain .npz"):
        with zipfile.ZipFile(path) as archive:
            packed = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            check_expansion(path, sum(packed[key].file_size for key in wanted if key in packed))
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as opened:
            missing = [key for key in wanted if key not in opened]
            if missing:
                raise DataError(f"{path} has no {missing[0]!r}; it has {sorted(opened)}")
            return path, {key: opened[key] for key in wanted}
