"""Measured places of electrodes from BIDS, against places that are known, and what is wrong with such files."""

from __future__ import annotations

import json
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from brainlens.datasets.electrode_places import with_electrodes
from brainlens.types import DataError

NAMES = ["E1", "E2", "E3", "E4", "E5"]
HEAD = np.array([[-0.03, -0.09, 0.03], [0.0, -0.095, 0.03], [0.03, -0.09, 0.03], [0.0, 0.0, 0.1], [0.05, 0.05, 0.07]])  # m
LANDMARKS = {"NAS": [0.0, 0.1, 0.0], "LPA": [-0.08, 0.0, 0.0], "RPA": [0.08, 0.0, 0.0]}  # m, of the same head


def raw() -> mne.io.RawArray:
    return mne.io.RawArray(np.zeros((5, 10)), mne.create_info(NAMES, 100.0, "eeg"), verbose="error")


def beside(folder: Path, places: np.ndarray, scale: float, **facts: object) -> None:
    table = pd.DataFrame({"name": NAMES, **dict(zip("xyz", (places * scale).T.round(9), strict=True))})
    table.to_csv(folder / "sub-01_electrodes.tsv", sep="\t", index=False)
    (folder / "sub-01_coordsystem.json").write_text(json.dumps(facts))


def positions(found: mne.io.RawArray) -> np.ndarray:
    return np.stack([channel["loc"][:3] for channel in found.info["chs"]])


@pytest.mark.parametrize(("unit", "scale"), [("m", 1.0), ("cm", 100.0), ("mm", 1000.0)])
def test_places_in_the_frame_of_the_head(tmp_path: Path, unit: str, scale: float) -> None:
    beside(tmp_path, HEAD, scale, EEGCoordinateSystem="CapTrak", EEGCoordinateUnits=unit)
    np.testing.assert_allclose(positions(with_electrodes(raw(), tmp_path)), HEAD, atol=1e-6)


def test_places_in_another_frame_are_turned_by_its_landmarks(tmp_path: Path) -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    shift = np.array([0.02, -0.01, 0.3])
    landmarks = {name: ((rotation @ np.array(place) + shift) * 1000).tolist() for name, place in LANDMARKS.items()}
    beside(
        tmp_path, HEAD @ rotation.T + shift, 100.0, EEGCoordinateSystem="Other", EEGCoordinateUnits="cm",
        AnatomicalLandmarkCoordinates=landmarks, AnatomicalLandmarkCoordinateUnits="mm",
    )  # fmt: skip
    np.testing.assert_allclose(positions(with_electrodes(raw(), tmp_path)), HEAD, atol=1e-6)


def test_captrak_is_taken_of_several_frames(tmp_path: Path) -> None:
    beside(tmp_path, HEAD, 1.0, EEGCoordinateSystem="CapTrak", EEGCoordinateUnits="m")
    for kind in ("electrodes.tsv", "coordsystem.json"):
        (tmp_path / f"sub-01_{kind}").rename(tmp_path / f"sub-01_space-CapTrak_{kind}")
    beside(tmp_path, HEAD + 1, 1.0, EEGCoordinateSystem="ACPC", EEGCoordinateUnits="m")
    np.testing.assert_allclose(positions(with_electrodes(raw(), tmp_path)), HEAD, atol=1e-6)


def test_without_tables_nothing_changes(tmp_path: Path) -> None:
    assert not np.any(np.nan_to_num(positions(with_electrodes(raw(), tmp_path))))


def test_bad_channels_need_no_place(tmp_path: Path) -> None:
    places = HEAD.copy()
    places[2] = np.nan
    beside(tmp_path, places, 1.0, EEGCoordinateSystem="CapTrak", EEGCoordinateUnits="m")
    with pytest.warns(UserWarning, match=r"no places of 1 of 5 channels \(E3\)"):
        assert not np.any(np.nan_to_num(positions(with_electrodes(raw(), tmp_path))))
    data = raw()
    data.info["bads"] = ["E3"]
    found = positions(with_electrodes(data, tmp_path))
    np.testing.assert_allclose(np.delete(found, 2, axis=0), np.delete(HEAD, 2, axis=0), atol=1e-6)


def test_a_frame_without_landmarks_is_said_and_left_out(tmp_path: Path) -> None:
    beside(tmp_path, HEAD, 1.0, EEGCoordinateSystem="ACPC", EEGCoordinateUnits="m")
    with pytest.warns(UserWarning, match="'ACPC' without nasion and ears"):
        assert not np.any(np.nan_to_num(positions(with_electrodes(raw(), tmp_path))))


@pytest.mark.parametrize(
    ("facts", "scale", "match"),
    [
        ({"EEGCoordinateSystem": "CapTrak"}, 1.0, "EEGCoordinateUnits is ''"),
        ({"EEGCoordinateSystem": "CapTrak", "EEGCoordinateUnits": "m"}, 1000.0, "no head has"),
        ({"EEGCoordinateSystem": "CapTrak", "EEGCoordinateUnits": "mm"}, 1.0, "no head has"),
        (
            {"EEGCoordinateUnits": "m", "AnatomicalLandmarkCoordinates": {"NAS": [0, 1], "LPA": 0, "RPA": 0}}, 1.0,
            "three numbers for each",
        ),
    ],
)  # fmt: skip
def test_wrong_facts(tmp_path: Path, facts: dict[str, object], scale: float, match: str) -> None:
    beside(tmp_path, HEAD, scale, **facts)
    with pytest.raises(DataError, match=match):
        with_electrodes(raw(), tmp_path)


def test_a_cell_that_is_no_number_and_a_missing_file(tmp_path: Path) -> None:
    beside(tmp_path, HEAD, 1.0, EEGCoordinateSystem="CapTrak", EEGCoordinateUnits="m")
    table = tmp_path / "sub-01_electrodes.tsv"
    table.write_text(table.read_text().replace("0.07", "seven"))
    with pytest.raises(DataError, match="z of 'E5' is 'seven'"):
        with_electrodes(raw(), tmp_path)
    right = table.read_text().replace("seven", "0.07")
    table.write_text(right.replace("E4", "E5"))
    with pytest.raises(DataError, match="the electrode 'E5' comes twice"):
        with_electrodes(raw(), tmp_path)
    table.write_text(right)
    (tmp_path / "sub-01_coordsystem.json").unlink()
    with pytest.raises(DataError, match=r"needs sub-01_coordsystem.json"):
        with_electrodes(raw(), tmp_path)
