"""Released recordings, written here in small in their very layout, and read back against a plain reading."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import ModuleType

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import savemat

from brainlens.datasets import algonauts2023, nod, nsd, things_eeg2, things_meg
from brainlens.types import DataError, Surface, Volume

# --- NSD

GRID = (4, 5, 3)
AFFINE = np.diag([1.8, 1.8, 1.8, 1])


def write_nsd(folder: Path, sessions: int = 2, hdf5: bool = False) -> dict[str, np.ndarray]:
    """Subject 1 with a grid of 4 x 5 x 3 voxels; everything else as in the bucket."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(73000)[:10000] + 1
    shared = np.sort(ids[:1000])
    ids[:1000] = shared
    order = np.concatenate([rng.permutation(10000) + 1 for _ in range(3)])
    place = folder / "nsddata/experiments/nsd"
    place.mkdir(parents=True)
    content = {
        "masterordering": order[None].astype("u2"),
        "subjectim": np.tile(ids, (8, 1)).astype("u4"),
        "sharedix": shared[None],
    }
    savemat(place / "nsd_expdesign.mat", content)
    roi = folder / "nsddata/ppdata/subj01/func1pt8mm/roi"
    roi.mkdir(parents=True)
    general = (rng.random(GRID) > 0.4).astype("i2")
    prf = rng.integers(-1, 3, GRID).astype("i2")
    faces = rng.integers(0, 2, GRID).astype("i2")
    for name, values in {"nsdgeneral": general, "prf-visualrois": prf, "floc-faces": faces, "lh.nsdgeneral": general}.items():
        nib.save(nib.Nifti1Image(values, AFFINE), roi / f"{name}.nii.gz")
    label = folder / "nsddata/freesurfer/subj01/label"
    label.mkdir(parents=True)
    (label / "prf-visualrois.mgz.ctab").write_text("0 Unknown\n1 V1v\n2 V1d\n")
    (label / "floc-faces.mgz.ctab").write_text("0 Unknown\n1 OFA\n")
    source = folder / "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    source.mkdir(parents=True)
    betas = rng.integers(-3000, 3000, (sessions, *GRID, 750)).astype("i2")
    for i, block in enumerate(betas):
        if hdf5:
            with h5py.File(source / f"betas_session{i + 1:02d}.hdf5", "w") as f:
                f.create_dataset("betas", data=block.transpose(3, 2, 1, 0), chunks=(750, 1, 1, 1))
        else:
            nib.save(nib.Nifti1Image(block, AFFINE), source / f"betas_session{i + 1:02d}.nii.gz")
    ncsnr = rng.random(GRID).astype("f4")
    nib.save(nib.Nifti1Image(ncsnr, AFFINE), source / "ncsnr.nii.gz")
    return {"ids": ids, "order": order, "betas": betas, "mask": general > 0, "prf": prf, "faces": faces, "ncsnr": ncsnr}


@pytest.mark.parametrize("hdf5", [False, True], ids=["nifti", "hdf5"])
def test_nsd_betas_reach_their_images(tmp_path, hdf5):
    truth = write_nsd(tmp_path, hdf5=hdf5)
    recording = nsd.load(tmp_path, n_sessions=2, zscore="none")
    responses, stimuli = recording.responses, recording.stimuli
    assert responses.data.shape == (1500, truth["mask"].sum())
    expected = np.concatenate([b[truth["mask"]].T for b in truth["betas"]]) / 300.0
    np.testing.assert_allclose(responses.data, expected, rtol=1e-6)
    assert responses.measure == "psc"
    for t in (0, 749, 750, 1499):  # three layers that count from 1
        image = truth["ids"][truth["order"][t] - 1] - 1
        assert responses.trials["stimulus"][t] == f"nsd-{image:05d}"
        assert (responses.trials["split"][t] == "test") == (truth["order"][t] <= 1000)
    assert list(responses.trials["session"].unique()) == ["1", "2"]
    assert responses.trials.query("session == '1' and run == '1'").shape[0] == 63
    assert responses.trials["run"].nunique() == 12
    np.testing.assert_allclose(responses.units["ncsnr"], truth["ncsnr"][truth["mask"]], rtol=1e-6)
    names = {-1: "", 0: "", 1: "V1v", 2: "V1d"}
    assert list(responses.units["prf-visualrois"]) == [names[v] for v in truth["prf"][truth["mask"]]]
    roi = [names[v] or ("OFA" if f else "") for v, f in zip(truth["prf"][truth["mask"]], truth["faces"][truth["mask"]])]
    assert list(responses.units["roi"]) == roi
    assert isinstance(responses.space, Volume)
    assert set(stimuli.ids) == set(responses.trials["stimulus"])
    with pytest.raises(DataError, match=r"nsd_stimuli\.hdf5"):
        stimuli.images[0]


def test_nsd_strict_scores_never_see_a_test_trial(tmp_path):
    truth = write_nsd(tmp_path)
    strict = nsd.load(tmp_path, n_sessions=2).responses
    loose = nsd.load(tmp_path, n_sessions=2, zscore="session").responses
    raw = truth["betas"][1][truth["mask"]].T / 300.0
    train = (strict.trials["split"] == "train").to_numpy()[750:]
    expected = (raw - raw[train].mean(axis=0)) / raw[train].std(axis=0)
    np.testing.assert_allclose(strict.data[750:], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loose.data[750:].mean(axis=0), 0, atol=1e-5)
    assert not np.allclose(strict.data, loose.data)


def test_nsd_betas_are_converted_once_and_kept(tmp_path, monkeypatch):
    write_nsd(tmp_path / "data")
    plain = nsd.load(tmp_path / "data", n_sessions=2).responses
    real = nsd._nifti
    read: list[Path] = []

    def stopping(path: Path, space: Volume) -> np.ndarray:
        if "session02" in path.name and not read:
            read.append(path)
            raise KeyboardInterrupt
        read.append(path)
        return real(path, space)

    monkeypatch.setattr(nsd, "_nifti", stopping)
    monkeypatch.setattr(nsd, "_missing", lambda data, count: 0)
    monkeypatch.setattr(nsd, "_nifti", real)
    kept = nsd.load(tmp_path / "data", n_sessions=2, cache=tmp_path / "cache").responses
    assert isinstance(kept.data, np.memmap)
    assert kept.data.dtype == np.float16
    np.testing.assert_allclose(kept.data, plain.data, rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(nsd, "_nifti", stopping)  # would raise or count, if it were called
    again = nsd.load(tmp_path / "data", n_sessions=2, cache=tmp_path / "cache").responses
    assert read == []
    np.testing.assert_array_equal(again.data, kept.data)


def test_nsd_images_open_one_at_a_time(tmp_path):
    write_nsd(tmp_path, sessions=1)
    place = tmp_path / "nsddata_stimuli/stimuli/nsd"
    place.mkdir(parents=True)
    with h5py.File(place / "nsd_stimuli.hdf5", "w") as f:
        brick = f.create_dataset("imgBrick", (73000, 2, 2, 3), "u1", chunks=(1000, 2, 2, 3))
        for start in range(0, 73000, 1000):
            numbers = np.arange(start, start + 1000)
            brick[start : start + 1000] = np.stack([numbers // 65536, numbers // 256 % 256, numbers % 256], -1)[
                :, None, None
            ].astype("u1")
    stimuli = nsd.load(tmp_path, n_sessions=1).stimuli
    for i in (0, 17, len(stimuli) - 1):
        image = stimuli.images[i]
        number = image[0, 0].astype(int) @ [65536, 256, 1]
        assert f"nsd-{number:05d}" == stimuli.ids[i]


def write_surface(folder: Path, bad: tuple[int, ...] = ()) -> np.ndarray:
    label = folder / "nsddata/freesurfer/fsaverage/label"
    source = folder / "nsddata_betas/ppdata/subj01/fsaverage/betas_fithrf_GLMdenoise_RR"
    for place in (label, source):
        place.mkdir(parents=True)
    inside = np.zeros(1000, "f4")
    inside[[5, 900, 999]] = 1
    betas = np.random.default_rng(0).normal(size=(2, 1000, 750)).astype("f4")
    betas[1, list(bad)] = np.nan
    for i, h in enumerate(("lh", "rh")):
        nib.save(nib.MGHImage(inside.reshape(-1, 1, 1), np.eye(4)), label / f"{h}.nsdgeneral.mgz")
        nib.save(nib.MGHImage(betas[i].reshape(-1, 1, 1, 750), np.eye(4)), source / f"{h}.betas_session01.mgh")
    return betas[:, inside > 0]


def test_nsd_surface_betas_with_missing_vertices_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(nsd, "VERTICES", 1000)  # the real mesh has 163,842: half a gigabyte a session and hemisphere
    write_nsd(tmp_path, sessions=1)
    betas = write_surface(tmp_path, bad=(900,))
    with pytest.warns(UserWarning, match="1 of 6 units"):
        responses = nsd.load(tmp_path, n_sessions=1, resolution="fsaverage", zscore="none").responses
    np.testing.assert_array_equal(responses.data, np.concatenate(list(betas)).T)  # already percent: not divided by 300
    assert isinstance(responses.space, Surface)
    assert list(responses.space.hemisphere) == ["left"] * 3 + ["right"] * 3
    assert list(responses.space.vertex) == [5, 900, 999] * 2
    kept, counts = responses.clean()
    assert counts["units_missing"] == 1
    assert kept.data.shape[1] == 5


def cut_session(folder: Path) -> None:
    (path,) = folder.rglob("betas_session02.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((*GRID, 700), "i2"), AFFINE), path)


def float_session(folder: Path) -> None:
    (path,) = folder.rglob("betas_session02.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((*GRID, 750), "f4"), AFFINE), path)


def moved_session(folder: Path) -> None:
    (path,) = folder.rglob("betas_session02.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((*GRID, 750), "i2"), np.eye(4)), path)


def turned_session(folder: Path) -> None:
    (path,) = folder.rglob("betas_session02.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((3, 5, 4, 750), "i2"), AFFINE), path)


def broken_design(folder: Path) -> None:
    (path,) = folder.rglob("nsd_expdesign.mat")
    path.write_bytes(path.read_bytes()[:500])


def other_design(folder: Path) -> None:
    (path,) = folder.rglob("nsd_expdesign.mat")
    order = np.arange(30000) % 10000 + 1
    content = {
        "masterordering": order[None],
        "subjectim": np.tile(np.arange(10000) + 1, (8, 1)),
        "sharedix": np.arange(5, 1005)[None],
    }
    savemat(path, content)


@pytest.mark.parametrize(
    "fault, options, match",
    [
        (cut_session, {}, "700 betas, 750"),
        (float_session, {}, "int16"),
        (moved_session, {}, "affine"),
        (turned_session, {}, "grid"),
        (broken_design, {}, r"nsd_expdesign\.mat"),
        (other_design, {}, "sharedix"),
        (lambda f: next(f.rglob("betas_session02.nii.gz")).unlink(), {}, "give --option n_sessions=1"),
        (lambda f: None, {"mask": "V9"}, "prf-visualrois"),
        (lambda f: None, {"subject": 9}, "1 to 8"),
        (lambda f: None, {"n_sessions": 41}, "1 to 40"),
        (lambda f: None, {"zscore": "yes"}, "strict"),
    ],
)
def test_bad_nsd_is_one_line(tmp_path, fault, options, match):
    write_nsd(tmp_path)
    fault(tmp_path)
    with pytest.raises(DataError, match=match) as caught:
        nsd.load(tmp_path, **{"n_sessions": 2, **options})
    assert len(str(caught.value).splitlines()) == 1


# --- Algonauts 2023


def write_algonauts(folder: Path, n: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    place = folder / "subj01"
    for part in ("training_split/training_fmri", "training_split/training_images", "test_split/test_images", "roi_masks"):
        (place / part).mkdir(parents=True)
    sides = []
    for h, count in (("lh", 7), ("rh", 9)):
        inside = np.zeros(163842, int)
        inside[rng.choice(163842, count, replace=False)] = 1
        np.save(place / f"roi_masks/{h}.all-vertices_fsaverage_space.npy", inside)
        np.save(place / f"roi_masks/{h}.prf-visualrois_challenge_space.npy", np.arange(count) % 3)
        np.save(place / f"roi_masks/{h}.floc-faces_challenge_space.npy", (np.arange(count) == 3).astype(int))
        data = rng.normal(size=(n, count)).astype("f4")
        np.save(place / f"training_split/training_fmri/{h}_training_fmri.npy", data)
        sides.append(data)
    np.save(place / "roi_masks/mapping_prf-visualrois.npy", {0: "Unknown", 1: "V1v", 2: "V1d"}, allow_pickle=True)
    np.save(place / "roi_masks/mapping_floc-faces.npy", {0: "Unknown", 1: "OFA"}, allow_pickle=True)
    for i in range(n):
        picture = Image.fromarray(np.full((4, 4, 3), i, "u1"))
        picture.save(place / f"training_split/training_images/train-{i + 1:04d}_nsd-{i * 13:05d}.png")
    Image.fromarray(np.zeros((4, 4, 3), "u1")).save(place / "test_split/test_images/test-0001_nsd-00845.png")
    return np.concatenate(sides, axis=1)


def test_algonauts_rows_vertices_and_regions(tmp_path):
    data = write_algonauts(tmp_path)
    with pytest.warns(UserWarning, match=r"no responses to its test images: 2 of 20 images are drawn for the test"):
        recording = algonauts2023.load(tmp_path)
    assert recording.responses.trials["split"].value_counts().to_dict() == {"train": 18, "test": 2}
    assert list(recording.stimuli.table["split"]) == list(recording.responses.trials["split"])
    responses, stimuli = recording.responses, recording.stimuli
    np.testing.assert_array_equal(responses.data, data)
    assert list(stimuli.ids) == [f"nsd-{i * 13:05d}" for i in range(20)]
    assert (stimuli.images[4] == 4).all()
    assert list(responses.units["roi"][:7]) == ["", "V1v", "V1d", "OFA", "V1v", "V1d", ""]
    inside = np.load(tmp_path / "subj01/roi_masks/rh.all-vertices_fsaverage_space.npy")
    assert isinstance(responses.space, Surface)
    np.testing.assert_array_equal(responses.space.vertex[7:], np.flatnonzero(inside))
    with pytest.warns(UserWarning, match="drawn"):
        part = algonauts2023.load(tmp_path, roi="V1d").responses
    np.testing.assert_array_equal(part.data, data[:, (responses.units["roi"] == "V1d").to_numpy()])
    with pytest.warns(UserWarning, match="6 of 20 images"):
        kept = algonauts2023.load(tmp_path, test=0.3, draw=1, cache=tmp_path / "cache").responses
    np.testing.assert_allclose(kept.data, data, rtol=1e-3, atol=1e-3)
    assert list(algonauts2023.withheld_images(tmp_path).ids) == ["nsd-00845"]


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil-was-here",)


@pytest.mark.parametrize(
    "fault, match",
    [
        (lambda p: np.save(p / "training_split/training_fmri/lh_training_fmri.npy", np.ones((5, 7), "f4")), "20 images"),
        (lambda p: np.save(p / "training_split/training_fmri/lh_training_fmri.npy", np.ones((7, 6), "f4")), "7 vertices"),
        (lambda p: np.save(p / "roi_masks/lh.floc-faces_challenge_space.npy", np.full(7, 5)), "no label 5"),
        (lambda p: np.save(p / "roi_masks/lh.floc-faces_challenge_space.npy", np.zeros(8)), "8 vertices"),
        (lambda p: np.save(p / "roi_masks/mapping_floc-faces.npy", {1: Evil()}, allow_pickle=True), "blocked"),
        (lambda p: (p / "training_split/training_images/train-0003_nsd-00026.png").unlink(), "images are missing"),
        (lambda p: os.truncate(p / "training_split/training_fmri/rh_training_fmri.npy", 150), "cut short"),
    ],
)
def test_bad_algonauts_is_one_line(tmp_path, monkeypatch, fault, match):
    monkeypatch.chdir(tmp_path)
    write_algonauts(tmp_path)
    fault(tmp_path / "subj01")
    with pytest.raises(DataError, match=match):
        algonauts2023.load(tmp_path)
    assert not (tmp_path / "evil-was-here").exists()


def test_unknown_algonauts_regions_list_the_known(tmp_path):
    write_algonauts(tmp_path)
    with pytest.raises(DataError, match="V1d"):
        algonauts2023.load(tmp_path, roi="V9")
    with pytest.raises(DataError, match="subj01"):
        algonauts2023.load(tmp_path, subject=2)


# --- THINGS-EEG2

NAMES = ["Pz", "Oz", "PO7", "P1"]


def write_eeg2(folder: Path, style: str = "gifford", extra_times: int = 0, scale: float = 1.0, names: list[str] | None = None):
    rng = np.random.default_rng(0)
    place = folder / "sub-01"
    place.mkdir(parents=True, exist_ok=True)
    out = {}
    for part, shape in (("training", (6, 4, 4, 20)), ("test", (2, 8, 4, 20))):
        data = rng.normal(size=shape) * scale
        times = np.round(np.arange(20 + extra_times) * 0.01 - 0.01 * extra_times, 3)
        content = {"preprocessed_eeg_data": data, "ch_names": names or NAMES, "times": times}
        path = place / f"preprocessed_eeg_{part}.npy"
        if style == "gifford":
            np.save(path, content, allow_pickle=True)
        else:
            with open(path, "wb") as handle:
                pickle.dump(content, handle, protocol=4)
        out[part] = data
    return out


def write_image_set(folder: Path, numbered: str = "concepts") -> None:
    """Images in folders numbered as the set is (`concepts`, as released), or as all of THINGS (`concepts_THINGS`)."""
    place = folder / "image_set"
    place.mkdir()
    meta: dict[str, list[str]] = {}
    for short, part, n in (("train", "training", 6), ("test", "test", 2)):
        concepts = [f"{i // 2 + 1:05d}_c{short}{i // 2}" for i in range(n)]
        files = [f"c{short}{i // 2}_{i:02d}b.jpg" for i in range(n)]
        meta |= {
            f"{short}_img_concepts": concepts,
            f"{short}_img_concepts_THINGS": [f"{3 * int(c[:5]):05d}{c[5:]}" for c in concepts],
            f"{short}_img_files": files,
        }
        for i, (concept, file) in enumerate(zip(meta[f"{short}_img_{numbered}"], files)):
            (place / f"{part}_images" / concept).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4, 3), 40 * i, "u1")).save(place / f"{part}_images" / concept / file)
    np.save(place / "image_metadata.npy", meta, allow_pickle=True)


@pytest.mark.parametrize("style", ["gifford", "pickle"])
@pytest.mark.parametrize("cache", [False, True])
def test_eeg2_of_both_releases_becomes_trials(tmp_path, style, cache):
    data = write_eeg2(tmp_path, style)
    write_image_set(tmp_path, "concepts_THINGS" if style == "pickle" else "concepts")
    recording = things_eeg2.load(tmp_path, cache=tmp_path / "cache" if cache else None)
    responses, stimuli = recording.responses, recording.stimuli
    assert responses.data.shape == (6 * 4 + 2 * 8, 4, 20)
    assert responses.data.dtype == np.float16
    assert isinstance(responses.data, np.memmap) == cache
    expected = np.concatenate([data[p].reshape(-1, 4, 20) for p in ("training", "test")])
    np.testing.assert_allclose(responses.data, expected, atol=2e-3, rtol=1e-3)
    assert list(responses.trials["stimulus"][:5]) == ["ctrain0_00b"] * 4 + ["ctrain0_01b"]
    assert list(responses.trials["repeat"][:5]) == [1, 2, 3, 4, 1]
    assert (responses.trials["split"] == "test").sum() == 16
    assert (stimuli.images[3] > 100).all()
    assert list(stimuli.table["concept"][-3:]) == ["ctrain2", "ctest0", "ctest0"]
    assert responses.space is not None
    if cache:
        (tmp_path / "sub-01" / "preprocessed_eeg_training.npy").touch()
        again = things_eeg2.load(tmp_path, cache=tmp_path / "cache").responses
        np.testing.assert_array_equal(again.data, responses.data)


def test_eeg2_channels_are_matched_by_name(tmp_path):
    data = write_eeg2(tmp_path)
    responses = things_eeg2.load(tmp_path, channels=("Oz", "P1"), dtype="float32").responses
    np.testing.assert_allclose(responses.data[:24], data["training"].reshape(-1, 4, 20)[:, [1, 3]], rtol=1e-6)
    assert list(responses.units["channel"]) == ["Oz", "P1"]
    with pytest.raises(DataError, match=r"\['Cz', 'Fz'\]"):
        things_eeg2.load(tmp_path, channels=("Cz", "Oz", "Fz"))


def test_eeg2_times_longer_than_the_data_lose_their_beginning(tmp_path):
    write_eeg2(tmp_path, extra_times=5)
    with pytest.warns(UserWarning, match="25 times for 20 samples"):
        responses = things_eeg2.load(tmp_path).responses
    assert responses.times is not None
    np.testing.assert_allclose(responses.times, np.arange(20) * 0.01, atol=1e-9)


def test_eeg2_in_volts_is_noticed(tmp_path):
    write_eeg2(tmp_path, scale=1e-5)
    with pytest.raises(DataError, match=r"looks like volts, .* say so by --option unit=V"):
        things_eeg2.load(tmp_path, dtype="float32")
    found = things_eeg2.load(tmp_path, unit="V", dtype="float32").responses
    assert found.measure == "uV"
    write_eeg2(tmp_path, scale=10.0)
    np.testing.assert_allclose(found.data, things_eeg2.load(tmp_path, dtype="float32").responses.data, rtol=1e-5)


def test_eeg2_too_large_for_memory_asks_for_a_cache(tmp_path, monkeypatch):
    write_eeg2(tmp_path)
    monkeypatch.setattr(things_eeg2, "MEMORY", 1000)
    with pytest.raises(DataError, match="cache="):
        things_eeg2.load(tmp_path)


def test_eeg2_values_beyond_float16_are_an_error_not_infinity(tmp_path):
    write_eeg2(tmp_path, scale=1e6)
    with pytest.raises(DataError, match="float32"):
        things_eeg2.load(tmp_path, cache=tmp_path / "cache")
    with pytest.raises(DataError, match="float32"):
        things_eeg2.load(tmp_path)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"ch_names": ["Pz"]}, "1 channel names but 4"),
        ({"times": np.arange(5.0)}, "5 times"),
        ({"preprocessed_eeg_data": np.ones((2, 3))}, "image, repeat, channel, time"),
        ({"preprocessed_eeg_data": "x"}, "image, repeat, channel, time"),
        ({"times": np.arange(20.0) + 7}, "other times"),
        ({"ch_names": Evil()}, "blocked"),
    ],
)
def test_bad_eeg2_is_one_line(tmp_path, monkeypatch, change, match):
    monkeypatch.chdir(tmp_path)
    data = write_eeg2(tmp_path)
    content = {"preprocessed_eeg_data": data["test"], "ch_names": NAMES, "times": np.round(np.arange(20) * 0.01, 3)} | change
    (tmp_path / "sub-01" / "preprocessed_eeg_test.npy").write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(DataError, match=match):
        things_eeg2.load(tmp_path)
    assert not (tmp_path / "evil-was-here").exists()


def test_eeg2_images_of_another_release_are_refused(tmp_path):
    write_eeg2(tmp_path)
    write_image_set(tmp_path)
    meta = np.load(tmp_path / "image_set/image_metadata.npy", allow_pickle=True).item()
    meta["train_img_files"] = meta["train_img_files"][:-1]
    np.save(tmp_path / "image_set/image_metadata.npy", meta, allow_pickle=True)
    with pytest.raises(DataError, match="5 train images, the epochs have 6"):
        things_eeg2.load(tmp_path)


# --- THINGS-MEG


def few_trials(made_meg: ModuleType) -> pd.DataFrame:
    """Trials out of order, with test images that were not shown 12 times."""
    return made_meg.trials({"ant": 4, "bed": 4, "cup": 4}, {"cup": 3, "hat": 2}, catch=2, seed=0)


@pytest.mark.parametrize("cache", [False, True])
def test_meg_test_trials_are_those_named_so(made_meg, tmp_path, cache):
    meta = few_trials(made_meg)
    data = made_meg.write(tmp_path, meta)
    options = {"cache": tmp_path / "cache"} if cache else {}
    recording = things_meg.load(tmp_path, window=(0.0, 0.1), dtype="float32", **options)
    responses, stimuli = recording.responses, recording.stimuli
    keep = (meta["trial_type"] == "test") | ((meta["trial_type"] == "exp") & ~meta["image_path"].str.contains("cup"))
    assert len(responses) == keep.sum() == 8 + 5
    np.testing.assert_allclose(responses.data, data[keep.to_numpy()][:, :, 20:41], rtol=1e-5)
    assert responses.times is not None
    np.testing.assert_allclose(responses.times[[0, -1]], [0, 0.1], atol=1e-9)
    test = responses.trials.query("split == 'test'")
    assert test.groupby("stimulus").size().to_dict() == {"cup_13n": 3, "hat_13n": 2}
    assert sorted(test["repeat"]) == [1, 1, 2, 2, 3]
    assert set(responses.trials["concept"]) == {"ant", "bed", "cup", "hat"}
    assert list(stimuli.ids[-2:]) == ["cup_13n", "hat_13n"]  # training and then test by concept, in whatever order they came
    assert list(stimuli.ids) == [*sorted(set(responses.trials.query("split == 'train'")["stimulus"])), "cup_13n", "hat_13n"]
    everything = things_meg.load(tmp_path, window=(0.0, 0.1), drop_test_concepts=False).responses
    assert len(everything) == 12 + 5
    assert responses.space is not None
    np.testing.assert_allclose(responses.space.positions[:, 0], [0, 0.01, 0.02], atol=1e-6)


def test_bad_meg_is_one_line(made_meg, tmp_path):
    meta = few_trials(made_meg)
    made_meg.write(tmp_path / "a", meta)
    with pytest.raises(DataError, match="within the epochs"):
        things_meg.load(tmp_path / "a")  # 0 to 1 s, the epochs end at 0.1 s
    made_meg.write(tmp_path / "b", meta, hide=("trial_type",))
    with pytest.raises(DataError, match="trial_type"):
        things_meg.load(tmp_path / "b", window=(0, 0.1))
    (path,) = (tmp_path / "a").rglob("*.fif")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match="damaged"):
        things_meg.load(tmp_path / "a", window=(0, 0.1))
    with pytest.raises(DataError, match="P2"):
        things_meg.load(tmp_path / "a", subject=2)


# --- NOD


def write_nod(folder: Path, labels: int = 5) -> np.ndarray:
    rng = np.random.default_rng(0)
    left, right = np.zeros(50, bool), np.zeros(50, bool)
    left[[1, 4, 7]] = True
    right[[0, 9]] = True
    axis = nib.cifti2.BrainModelAxis.from_mask(left, "CortexLeft") + nib.cifti2.BrainModelAxis.from_mask(right, "CortexRight")
    axis = axis + nib.cifti2.BrainModelAxis.from_mask(np.ones((2, 1, 1), bool), "ThalamusLeft", affine=np.eye(4))
    runs = []
    for run in (1, 2, 10):
        name = f"ses-imagenet01_task-imagenet_run-{run}"
        place = folder / "derivatives/ciftify/sub-01/results" / name
        place.mkdir(parents=True)
        data = rng.normal(size=(5, 7)).astype("f4")
        names = nib.cifti2.ScalarAxis([f"b{i}" for i in range(5)])
        nib.save(nib.Cifti2Image(data, header=(names, axis)), place / f"{name}_beta.dscalar.nii")
        lines = [f"n{run:08d}/n{run:08d}_{i}.JPEG" for i in range(labels)]
        (place / f"{name}_label.txt").write_text("\n".join(lines) + "\n")
        runs.append(data[:, :5])
    return np.stack(runs)


def test_nod_runs_are_in_order_and_on_the_surface(tmp_path):
    data = write_nod(tmp_path)
    with pytest.warns(UserWarning, match="2 of 15 images are drawn for the test"):
        recording = nod.load(tmp_path, zscore=False)
    responses, stimuli = recording.responses, recording.stimuli
    np.testing.assert_array_equal(responses.data, data.reshape(15, 5))
    assert list(responses.trials["run"].unique()) == ["1", "2", "10"]
    assert isinstance(responses.space, Surface)
    assert list(responses.space.hemisphere) == ["left"] * 3 + ["right"] * 2
    assert list(responses.space.vertex) == [1, 4, 7, 0, 9]
    assert responses.trials["stimulus"][5] == "n00000002_0"
    assert len(stimuli) == 15
    with pytest.warns(UserWarning, match="drawn"):
        scored = nod.load(tmp_path).responses
    np.testing.assert_allclose(scored.data[:5], (data[0] - data[0].mean(0)) / data[0].std(0), rtol=1e-4, atol=1e-5)


def test_bad_nod_is_one_line(tmp_path):
    write_nod(tmp_path / "a", labels=4)
    with pytest.raises(DataError, match="5 betas but its label file 4"):
        nod.load(tmp_path / "a")
    write_nod(tmp_path / "b")
    with pytest.raises(DataError, match="imagenet01"):
        nod.load(tmp_path / "b", sessions=("imagenet07",))
    path = sorted((tmp_path / "b").rglob("*.dscalar.nii"))[0]
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match="damaged"):
        nod.load(tmp_path / "b")
