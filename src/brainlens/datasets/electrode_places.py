"""Places of EEG electrodes beside a recording as BIDS keeps them: `..._electrodes.tsv` and `..._coordsystem.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.datasets.text_tables import EMPTY, read_table
from brainlens.store import read_json
from brainlens.types import DataError
from brainlens.warned import warn

METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}
NEAR, FAR = 0.03, 0.3  # m, the median distance of a head's electrodes from their centroid
LANDMARKS = ("NAS", "LPA", "RPA")  # nasion, left and right ear


def with_electrodes(raw: Any, folder: Path) -> Any:
    """The mne recording with measured places, where BIDS files beside it give those of all its good EEG channels.

    Places are used in CapTrak's frame, which is that of the head, and in any frame whose three landmarks are given, from which
    MNE finds the head. Other frames, and tables that lack a channel, are said in a warning and left out.
    Raises DataError for a missing unit, cells that are no numbers, and places that no head has.
    """
    import mne

    tables = sorted(folder.glob("*_electrodes.tsv"))
    tables.sort(key=lambda path: "space-captrak" not in path.name.lower())
    bad, types = set(raw.info["bads"]), raw.get_channel_types()
    names = [name for name, kind in zip(raw.ch_names, types, strict=True) if kind == "eeg" and name not in bad]
    if not tables or not names:
        return raw
    path = tables[0]
    table = read_table(path, ("name", "x", "y", "z")).set_index("name")
    if table.index.has_duplicates:
        raise DataError(f"{path}: the electrode {table.index[table.index.duplicated()][0]!r} comes twice")
    cells = table[["x", "y", "z"]]
    cells = cells.mask(cells.isin(EMPTY))
    numbers = cells.apply(pd.to_numeric, errors="coerce")
    wrong = np.argwhere((numbers.isna() & cells.notna()).to_numpy())
    if len(wrong):
        row, column = wrong[0]
        raise DataError(f"{path}: {'xyz'[column]} of {table.index[row]!r} is {cells.iat[row, column]!r}, not a number nor n/a")
    without = [name for name in names if name not in numbers.index or numbers.loc[name].isna().any()]
    if without:
        few = ", ".join(without[:5])
        warn(f"{path}: no places of {len(without)} of {len(names)} channels ({few}); left out")
        return raw
    frame, scale, landmarks = _frame(path)
    at = numbers.loc[names].to_numpy(dtype=float) * scale
    spread = np.median(np.linalg.norm(at - at.mean(axis=0), axis=1))
    if len(names) > 3 and not NEAR <= spread <= FAR:
        raise DataError(
            f"{path}: the median distance of electrodes from their centroid is {spread:.3g} m, which no head has; check the units"
        )
    if landmarks is None and frame.lower() != "captrak":
        warn(f"{path}: places in {frame!r} without nasion and ears are not places on the head; left out")
        return raw
    places = dict(zip(names, at, strict=True))
    if landmarks is None:
        montage = mne.channels.make_dig_montage(places, coord_frame="head")
    else:
        montage = mne.channels.make_dig_montage(
            places, nasion=landmarks["NAS"], lpa=landmarks["LPA"], rpa=landmarks["RPA"], coord_frame="unknown"
        )
    return raw.set_montage(montage, on_missing="ignore", verbose="error")


def _frame(path: Path) -> tuple[str, float, dict[str, np.ndarray] | None]:
    """Frame of a table of electrodes, metres a unit, and the landmarks in m; of the coordsystem file that goes with it."""
    beside = path.with_name(path.name.removesuffix("_electrodes.tsv") + "_coordsystem.json")
    found = [beside] if beside.is_file() else sorted(path.parent.glob("*_coordsystem.json"))
    if len(found) != 1:
        raise DataError(f"{path} needs {beside.name} beside it, which says the unit of its places")
    facts = read_json(found[0])
    facts = facts if isinstance(facts, dict) else {}
    unit = str(facts.get("EEGCoordinateUnits", ""))
    if unit not in METRES:
        raise DataError(f"{found[0]}: EEGCoordinateUnits is {unit!r}; it is one of {', '.join(METRES)}")
    given = facts.get("AnatomicalLandmarkCoordinates")
    landmarks = None
    if isinstance(given, dict) and set(LANDMARKS) <= set(given):
        own = METRES.get(str(facts.get("AnatomicalLandmarkCoordinateUnits", unit)), METRES[unit])
        try:
            landmarks = {name: np.asarray(given[name], dtype=float).reshape(3) * own for name in LANDMARKS}
        except (TypeError, ValueError):
            raise DataError(
                f"{found[0]}: AnatomicalLandmarkCoordinates are three numbers for each of {', '.join(LANDMARKS)}"
            ) from None
    return str(facts.get("EEGCoordinateSystem", "")), METRES[unit], landmarks
