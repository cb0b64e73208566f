"""Files for other programs: plain arrays, tables and MNE recordings, each whole or absent."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.store.files import replacing, save_text
from brainlens.types import DataError


def save_npy(path: str | Path, array: np.ndarray) -> None:
    """Writes one array of numbers, of any shape, as a `.npy` file that any program reads. Raises DataError for objects."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path}: an array of numbers is expected, got {array.dtype}")
    with replacing(path) as handle:
        np.save(handle, np.ascontiguousarray(array), allow_pickle=False)


def save_table(path: str | Path, table: pd.DataFrame) -> None:
    """Writes a table as .csv, or with tabs as .tsv, one header line and no row numbers."""
    save_text(path, table.to_csv(index=False, sep="\t" if str(path).endswith(".tsv") else ",", lineterminator="\n"))


def save_recording(path: str | Path, recording: Any) -> None:
    """Writes an mne Raw or Epochs as a `.fif` file. Raises DataError where it would be split into several."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        recording.save(place / path.name, split_size="2GB", overwrite=True, verbose="error")
        if len(list(place.iterdir())) > 1:
            raise DataError(f"{path}: the recording needs more than 2 GB; save parts of it")
        os.replace(place / path.name, path)
    finally:
        shutil.rmtree(place, ignore_errors=True)
