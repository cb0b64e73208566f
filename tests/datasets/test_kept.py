"""What a cache keeps is never handed out for another file, region, window, channel list or dtype."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from brainlens.datasets import algonauts2023, nsd, things_eeg2, things_meg
from brainlens.datasets.kept import kept_folder
from brainlens.types import DataError


def test_every_part_of_the_key_changes_the_folder(tmp_path):
    one, two = tmp_path / "one.npy", tmp_path / "two.npy"
    one.write_bytes(b"abc")
    two.write_bytes(b"abc")
    base = kept_folder(tmp_path, "x", [one], {"mask": np.array([True, False]), "z": "strict"})
    assert base.parent == tmp_path
    assert base == kept_folder(tmp_path, "x", [one], {"z": "strict", "mask": np.array([True, False])})
    others = [
        kept_folder(tmp_path, "y", [one], {"mask": np.array([True, False]), "z": "strict"}),
        kept_folder(tmp_path, "x", [two], {"mask": np.array([True, False]), "z": "strict"}),
        kept_folder(tmp_path, "x", [one, two], {"mask": np.array([True, False]), "z": "strict"}),
        kept_folder(tmp_path, "x", [one], {"mask": np.array([False, True]), "z": "strict"}),
        kept_folder(tmp_path, "x", [one], {"mask": np.array([[True, False]]), "z": "strict"}),
        kept_folder(tmp_path, "x", [one], {"mask": np.array([1, 0], np.uint8), "z": "strict"}),
        kept_folder(tmp_path, "x", [one], {"mask": np.array([True, False]), "z": "none"}),
    ]
    os.utime(one, ns=(1, 1))
    others.append(kept_folder(tmp_path, "x", [one], {"mask": np.array([True, False]), "z": "strict"}))
    one.write_bytes(b"abcd")
    os.utime(one, ns=(1, 1))
    others.append(kept_folder(tmp_path, "x", [one], {"mask": np.array([True, False]), "z": "strict"}))
    assert len({base, *others}) == 1 + len(others)


# --- NSD: one session of a 3 x 3 x 2 grid

SOURCES = ("betas_fithrf_GLMdenoise_RR", "betas_assumehrf")


def write_nsd(folder: Path) -> np.ndarray:
    rng = np.random.default_rng(0)
    ids = rng.permutation(73000)[:10000] + 1
    ids[:1000].sort()
    place = folder / "nsddata/experiments/nsd"
    place.mkdir(parents=True)
    order = (rng.permutation(10000) + 1)[None].astype("u2")
    savemat(
        place / "nsd_expdesign.mat", {"masterordering": order, "subjectim": np.tile(ids, (8, 1)), "sharedix": ids[:1000][None]}
    )
    roi = folder / "nsddata/ppdata/subj01/func1pt8mm/roi"
    roi.mkdir(parents=True)
    masks = np.arange(18).reshape(3, 3, 2)
    for name, values in (("nsdgeneral", masks < 6), ("floc-faces", masks >= 12)):  # six voxels each
        nib.save(nib.Nifti1Image(values.astype("i2"), np.eye(4)), roi / f"{name}.nii.gz")
    for source in SOURCES:
        write_betas(folder, source, rng.integers(-3000, 3000, (3, 3, 2, 750)))
    return order


def write_betas(folder: Path, source: str, values: np.ndarray) -> None:
    place = folder / "nsddata_betas/ppdata/subj01/func1pt8mm" / source
    place.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype("i2"), np.eye(4)), place / "betas_session01.nii.gz")


def same_as_uncached(load, folder: Path, cache: Path, **options) -> np.ndarray:
    kept = load(folder, cache=cache, **options).responses
    plain = load(folder, **options).responses
    assert isinstance(kept.data, np.memmap)
    np.testing.assert_allclose(kept.data, plain.data, rtol=2e-3, atol=2e-3)
    return np.array(kept.data)


def test_nsd_never_hands_out_other_betas_masks_or_scores(tmp_path):
    write_nsd(tmp_path / "data")
    cache = tmp_path / "cache"
    asked = [{}, {"betas": SOURCES[1]}, {"mask": "floc-faces"}, {"zscore": "session"}, {"zscore": "none"}]
    found = [same_as_uncached(nsd.load, tmp_path / "data", cache, n_sessions=1, **options) for options in asked]
    assert all(not np.array_equal(found[0], other) for other in found[1:])
    folders = sorted(cache.iterdir())
    assert len(folders) == len(asked)
    again = same_as_uncached(nsd.load, tmp_path / "data", cache, n_sessions=1)
    assert sorted(cache.iterdir()) == folders  # asked for again, it is read and not made
    write_betas(tmp_path / "data", SOURCES[0], np.random.default_rng(7).integers(-3000, 3000, (3, 3, 2, 750)))
    assert not np.array_equal(same_as_uncached(nsd.load, tmp_path / "data", cache, n_sessions=1), again)
    other = tmp_path / "other"
    write_nsd(other)
    write_betas(other, SOURCES[0], np.random.default_rng(8).integers(-3000, 3000, (3, 3, 2, 750)))
    same_as_uncached(nsd.load, other, cache, n_sessions=1)


# --- Algonauts 2023


def write_algonauts(folder: Path, seed: int) -> None:
    place = folder / "subj01"
    for part in ("training_split/training_fmri", "training_split/training_images", "roi_masks"):
        (place / part).mkdir(parents=True, exist_ok=True)
    for i, h in enumerate(("lh", "rh")):
        inside = np.zeros(163842, int)
        inside[10 : 16 + i] = 1
        np.save(place / f"roi_masks/{h}.all-vertices_fsaverage_space.npy", inside)
        np.save(place / f"roi_masks/{h}.areas_challenge_space.npy", np.arange(6 + i) % 3)
        np.save(place / f"training_split/training_fmri/{h}_training_fmri.npy", made((4, 6 + i), seed + i).astype("f4"))
    np.save(place / "roi_masks/mapping_areas.npy", {1: "V1", 2: "V2"}, allow_pickle=True)
    for i in range(4):
        Image.fromarray(np.full((2, 2, 3), i, "u1")).save(
            place / f"training_split/training_images/train-{i + 1:04d}_nsd-{i:05d}.png"
        )


def made(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.filterwarnings("ignore:.*are drawn for the test")
def test_algonauts_never_hands_out_another_file_or_region(tmp_path):
    write_algonauts(tmp_path / "data", 0)
    cache = tmp_path / "cache"
    whole = same_as_uncached(algonauts2023.load, tmp_path / "data", cache, test=0.5)
    same_as_uncached(algonauts2023.load, tmp_path / "data", cache, roi="V1", test=0.5)
    np.save(tmp_path / "data/subj01/roi_masks/lh.areas_challenge_space.npy", (np.arange(6) + 1) % 3)  # as many vertices, others
    same_as_uncached(algonauts2023.load, tmp_path / "data", cache, roi="V1", test=0.5)
    write_algonauts(tmp_path / "data", 5)
    assert not np.array_equal(same_as_uncached(algonauts2023.load, tmp_path / "data", cache, test=0.5), whole)
    write_algonauts(tmp_path / "other", 9)
    same_as_uncached(algonauts2023.load, tmp_path / "other", cache, test=0.5)


# --- THINGS-EEG2


def write_eeg2(folder: Path, seed: int) -> None:
    (folder / "sub-01").mkdir(parents=True, exist_ok=True)
    for part, shape in (("training", (4, 2, 3, 5)), ("test", (2, 4, 3, 5))):
        content = {"preprocessed_eeg_data": made(shape, seed), "ch_names": ["Pz", "Oz", "P1"], "times": np.arange(5) * 0.01}
        np.save(folder / "sub-01" / f"preprocessed_eeg_{part}.npy", content, allow_pickle=True)


def test_eeg2_never_hands_out_other_channels_parts_or_files(tmp_path):
    write_eeg2(tmp_path / "data", 0)
    cache = tmp_path / "cache"
    asked = [{}, {"channels": ("Oz", "Pz")}, {"channels": ("Pz", "P1")}, {"dtype": "float32"}, {"parts": ("training",)}]
    found = [same_as_uncached(things_eeg2.load, tmp_path / "data", cache, **options) for options in asked]
    assert found[3].dtype == np.float32
    assert not np.array_equal(found[1], found[2])
    assert len(list(cache.iterdir())) == len(asked)
    write_eeg2(tmp_path / "data", 1)
    assert not np.array_equal(same_as_uncached(things_eeg2.load, tmp_path / "data", cache), found[0])
    write_eeg2(tmp_path / "other", 2)
    same_as_uncached(things_eeg2.load, tmp_path / "other", cache)


# --- THINGS-MEG


def test_meg_never_hands_out_another_window_choice_or_file(made_meg, tmp_path):
    table = made_meg.trials({"ant": 3, "cup": 3}, {"cup": 2})
    made_meg.write(tmp_path / "data", table, seed=0)
    cache = tmp_path / "cache"
    asked = [{"window": (0.0, 0.05)}, {"window": (0.05, 0.1)}, {"window": (0.0, 0.05), "dtype": "float32"}]
    found = [same_as_uncached(things_meg.load, tmp_path / "data", cache, **options) for options in asked]
    assert found[0].shape == found[1].shape
    assert not np.array_equal(found[0], found[1])
    made_meg.write(tmp_path / "data", table, seed=1)
    assert not np.array_equal(same_as_uncached(things_meg.load, tmp_path / "data", cache, **asked[0]), found[0])


def test_a_missing_source_is_named_also_with_a_cache(tmp_path):
    write_nsd(tmp_path)
    (tmp_path / "nsddata_betas/ppdata/subj01/func1pt8mm" / SOURCES[0] / "betas_session01.nii.gz").unlink()
    with pytest.raises(DataError, match=r"betas_session01\.nii\.gz"):
        nsd.load(tmp_path, n_sessions=1, cache=tmp_path / "cache")
