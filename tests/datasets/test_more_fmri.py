"""THINGS-fMRI, BOLD5000, Generic Object Decoding and Deep Image Reconstruction, each in its layout, against a plain reading."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainlens import datasets
from brainlens.datasets import bold5000, deeprecon, god, lattice, things_fmri
from brainlens.types import DataError, Volume


def at(space: Volume, place: np.ndarray) -> int:
    """The unit of a space that lies at a place in mm."""
    return int(np.abs(space.coordinates() - place).sum(axis=1).argmin())


# --- voxels on a grid


def test_places_become_the_grid_that_they_were_cut_from() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((4, 5, 3)) > 0.4
    affine = np.diag([3.0, 2.0, 4.0, 1.0])
    affine[:3, 3] = (-7, 5, 0.5)
    truth = Volume(mask, affine).coordinates()
    mixed = rng.permutation(len(truth))
    found = lattice.on_lattice(truth[mixed])
    assert found is not None
    space, order = found
    np.testing.assert_allclose(space.coordinates(), truth[mixed][order])
    np.testing.assert_allclose(truth[mixed][order], truth)  # and in the order of a mask


@pytest.mark.parametrize(
    "places",
    [[[0, 0, 0]], [[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [1, 0, np.nan]], [[0, 0, 0], [1, 0, 0], [1.5, 0, 0], [2.7, 0, 0]],
     [[0, 0, 0], [0.01, 0, 0], [900, 900, 900]]],
)  # fmt: skip
def test_places_that_are_no_grid_stay_a_list(places: list[list[float]]) -> None:
    assert lattice.on_lattice(np.array(places, float)) is None


# --- Generic Object Decoding


@pytest.mark.parametrize("old", [True, False])
def test_god_responses_reach_their_pictures(
    tmp_path: Path, made_recordings: ModuleType, made_fmri: ModuleType, old: bool
) -> None:
    data = made_fmri.write_god(made_recordings, tmp_path, old=old)
    with pytest.warns(UserWarning, match="6 of 102 trials are of imagery and are left out"):
        recording = god.load(tmp_path)
    responses, stimuli = recording.responses, recording.stimuli
    assert responses.data.shape == (96, 60)
    assert isinstance(responses.space, Volume)
    places = made_fmri.places() * 3.0 - 20
    for trial, voxel in ((0, 0), (50, 7), (95, 59)):
        assert responses.data[trial, at(responses.space, places[voxel])] == pytest.approx(data[trial, voxel], abs=1e-6)
        assert responses.units["roi"][at(responses.space, places[voxel])] == made_fmri.REGIONS[voxel % 4]  # and not VC
    assert list(responses.trials["stimulus"][[0, 50]]) == ["n01500000_1000", "n01500050_1050"]
    assert responses.trials.groupby("split")["stimulus"].nunique().to_dict() == {"train": 48, "test": 12}
    np.testing.assert_array_equal(stimuli.images[50], made_recordings.picture(50))
    assert sorted(responses.trials["run"].unique())[0] == "1-1"


def test_a_session_of_test_pictures_alone_is_scaled_by_itself(
    tmp_path: Path, made_recordings: ModuleType, made_fmri: ModuleType
) -> None:
    from brainlens.datasets.source import standardised

    data = made_fmri.write_god(made_recordings, tmp_path)
    with pytest.warns(UserWarning, match="imagery"):
        responses = god.load(tmp_path).responses
    with pytest.warns(UserWarning, match="1 of 2 sessions hold fewer than 2 training trials"):
        found = standardised(responses).data
    unit = at(responses.space, made_fmri.places()[7] * 3.0 - 20)
    for rows in (slice(0, 48), slice(48, 96)):
        expected = (data[rows, 7] - data[rows, 7].mean()) / data[rows, 7].std()
        np.testing.assert_allclose(found[rows, unit], expected, atol=1e-4)


# --- Deep Image Reconstruction


def test_deeprecon_joins_training_and_test(tmp_path: Path, made_recordings: ModuleType, made_fmri: ModuleType) -> None:
    made_fmri.write_deeprecon(made_recordings, tmp_path)
    responses = deeprecon.load(tmp_path).responses
    assert responses.data.shape == (80 + 36, 60)
    assert responses.trials["stimulus"][0] == "n00000000_7"
    assert responses.trials["stimulus"][80] == "n00000040_7"
    assert sorted(responses.trials["session"].unique()) == ["test-1", "train-1", "train-2"]
    assert list(responses.trials["concept"][[0, 80]]) == ["n00000000", "n00000040"]
    with pytest.raises(DataError, match="no file of subject 1 for 'letter'"):
        deeprecon.load(tmp_path, test="letter")
    with pytest.raises(DataError, match="'letters' is not one of natural, artificial, letter"):
        deeprecon.load(tmp_path, test="letters")


def test_deeprecon_keeps_trained_and_tested_categories_apart(
    tmp_path: Path, made_recordings: ModuleType, made_fmri: ModuleType
) -> None:
    made_fmri.write_deeprecon(made_recordings, tmp_path, shared=2)  # other pictures: no image is in both
    with pytest.raises(DataError, match="2 of 12 categories of the test are trained on too, first 'n00000000'"):
        deeprecon.load(tmp_path)
    test = tmp_path / "sub-01_perceptionNaturalImageTest_original_VC.h5"
    test.rename(tmp_path / "sub-01_perceptionArtificialImage_original_VC.h5")
    with h5py.File(tmp_path / "sub-01_perceptionArtificialImage_original_VC.h5", "r+") as file:
        for number in range(41, 53):
            del file[f"vmap/stimulus_name/{number}"]
            file[f"vmap/stimulus_name/{number}"] = f"shape{number}.png".encode()
            made_fmri._save(made_recordings, tmp_path / "images" / f"shape{number}.png", number)
    shapes = deeprecon.load(tmp_path, test="artificial").responses.trials
    assert "concept" not in shapes.columns  # a shape is of no category
    assert shapes["stimulus"][80] == "shape41"


def test_deeprecon_finds_names_in_a_table_and_says_what_lacks(
    tmp_path: Path, made_recordings: ModuleType, made_fmri: ModuleType
) -> None:
    made_fmri.write_deeprecon(made_recordings, tmp_path)
    for part in ("Training", "Test"):
        with h5py.File(tmp_path / f"sub-01_perceptionNaturalImage{part}_original_VC.h5", "r+") as file:
            del file["vmap"]
    with pytest.raises(DataError, match=r"stimuli have no file .* first 'train-0001'"):
        deeprecon.load(tmp_path)
    table = tmp_path / "stimulus_NaturalImageTraining.tsv"
    table.write_text("".join(f"n{k:08d}_7.JPEG\t{k + 1}\n" for k in range(40)))
    (tmp_path / "stimulus_NaturalImageTest.tsv").write_text("".join(f"{k + 1}\tn{k:08d}_7\n" for k in range(40, 52)))
    assert deeprecon.load(tmp_path).responses.trials["stimulus"][80] == "n00000040_7"
    table.write_text("n00000000_7.JPEG\t1\n")
    with pytest.raises(DataError, match="nothing names its picture number 2; it has names of 1 numbers"):
        deeprecon.load(tmp_path)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: f.pop("metadata"), "has no 'metadata', so bdpy did not write it"),
        (lambda f: f["metadata"].pop("key"), "no dataset 'metadata/key'"),
        (lambda f: (f["metadata"].pop("value"), f["metadata"].create_dataset("value", data=np.ones((3, 3)))), "do not fit"),
        (lambda f: f["metadata/value"].__setitem__(0, np.nan), "no column is of VoxelData"),
        (lambda f: (f.pop("dataset"), f.create_dataset("dataset", data=np.ones((80, 5)))), r"the table is \(80, 5\)"),
        (lambda f: f["vmap/stimulus_name"].create_dataset("x", data=b"y"), "has the number 'x'"),
    ],
)  # fmt: skip
def test_a_wrong_file_of_bdpy_is_one_line(tmp_path, made_recordings, made_fmri, spoil, message) -> None:
    made_fmri.write_deeprecon(made_recordings, tmp_path)
    with h5py.File(tmp_path / "sub-01_perceptionNaturalImageTraining_original_VC.h5", "r+") as file:
        spoil(file)
    with pytest.raises(DataError, match=message) as caught:
        deeprecon.load(tmp_path)
    assert "\n" not in str(caught.value)


# --- THINGS-fMRI


def test_things_fmri_is_turned_and_reaches_its_pictures(
    tmp_path: Path, made_recordings: ModuleType, made_fmri: ModuleType
) -> None:
    data = made_fmri.write_things_fmri(made_recordings, tmp_path)
    responses = things_fmri.load(tmp_path).responses
    assert responses.data.shape == (96, 50)
    assert isinstance(responses.space, Volume)
    index = made_fmri.places()
    for trial, voxel in ((0, 0), (30, 12), (95, 49)):
        unit = at(responses.space, index[voxel] * 2.0 + made_fmri.AFFINE[:3, 3])
        assert responses.data[trial, unit] == pytest.approx(data[trial, voxel], abs=1e-6)
        assert responses.units["roi"][unit] == ("V1", "V2", "EBA", "EBA", "FFA")[voxel % 5]
    ncsnr = responses.units["ncsnr"][0]
    assert 100 * ncsnr**2 / (ncsnr**2 + 1 / 12) == pytest.approx(40)  # the noise ceiling of a mean over 12 trials, in percent
    whole = things_fmri.load(tmp_path, mask="brain")
    assert whole.responses.data.shape == (96, 60)
    assert whole.responses.trials["split"].value_counts().to_dict() == {"train": 48, "test": 48}
    np.testing.assert_array_equal(np.asarray(whole.stimuli.images[0]).shape, (24, 24, 3))
    assert list(whole.stimuli.table["concept"][:3]) == ["thing0", "thing0", "thing1"]
    (tmp_path / "sub-01_space-T1w_brainmask.nii.gz").unlink()
    assert things_fmri.load(tmp_path).responses.space.mask.sum() == 50  # a grid of 2 mm that lies nowhere in particular


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: f / "betas_csv/sub-01_VoxelMetadata.csv", "sub-01_VoxelMetadata.csv is missing"),
        (lambda f: f / "betas_csv/sub-01_StimulusMetadata.csv", "sub-01_StimulusMetadata.csv is missing"),
        (lambda f: f / "betas_csv/sub-01_ResponseData.h5", "has no subject, see"),
        (lambda f: f / "things_images/thing0/thing0_00s.jpg", "1 of 60 stimuli have no file"),
    ],
)
def test_a_missing_file_of_things_fmri_is_one_line(tmp_path, made_recordings, made_fmri, change, message) -> None:
    made_fmri.write_things_fmri(made_recordings, tmp_path)
    change(tmp_path).unlink()
    with pytest.raises(DataError, match=message) as caught:
        things_fmri.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_tables_of_things_fmri_that_do_not_fit_are_one_line(tmp_path, made_recordings, made_fmri) -> None:
    made_fmri.write_things_fmri(made_recordings, tmp_path)
    path = tmp_path / "betas_csv/sub-01_StimulusMetadata.csv"
    whole = pd.read_csv(path)
    whole.iloc[:-1].to_csv(path, index=False)
    with pytest.raises(DataError, match="no block of 'ResponseData' is 60 voxels by 95 trials"):
        things_fmri.load(tmp_path)
    whole.sample(frac=1, random_state=0).to_csv(path, index=False)
    with pytest.raises(DataError, match="trial_id does not count from 0"):
        things_fmri.load(tmp_path)


# --- BOLD5000


def test_bold5000_betas_reach_their_pictures(tmp_path: Path, made_recordings: ModuleType, made_fmri: ModuleType) -> None:
    blocks = made_fmri.write_bold5000(made_recordings, tmp_path)
    recording = bold5000.load(tmp_path)
    responses = recording.responses
    assert responses.data.shape == (80, 60)
    np.testing.assert_allclose(responses.space.affine, made_fmri.AFFINE)  # of the brain mask: that of the betas is wrong
    index = made_fmri.places()
    for trial, voxel in ((0, 0), (45, 25), (79, 59)):
        unit = at(responses.space, index[voxel] * 2.0 + made_fmri.AFFINE[:3, 3])
        assert responses.data[trial, unit] == pytest.approx(blocks[trial // 40][(*index[voxel], trial % 40)], abs=1e-6)
        assert responses.units["roi"][unit] == ("PPA" if voxel < 40 else "")
    assert responses.trials.groupby("split")["stimulus"].nunique().to_dict() == {"train": 56, "test": 12}
    assert (responses.trials["repeat"][40 + 28 :] == 2).all()  # rep_ before a name is the same picture
    with pytest.warns(UserWarning, match=r"repeats no picture: 8 of 40 images are drawn for the test \(--option test=, draw=\)"):
        one = bold5000.load(tmp_path, n_sessions=1, test=0.2, draw=1)
    assert len(one.responses) == 40
    assert list(one.responses.trials["session"].unique()) == ["1"]


@pytest.mark.filterwarnings("ignore:.*are drawn for the test")
def test_bold5000_by_region_without_volumes(tmp_path: Path, made_recordings: ModuleType, made_fmri: ModuleType) -> None:
    made_fmri.write_bold5000(made_recordings, tmp_path)
    for path in tmp_path.glob("*.nii.gz"):
        path.unlink()
    rng = np.random.default_rng(0)
    parts = {name: rng.normal(size=(80, 4)) for name in ("LHPPA", "RHLOC")}
    for name, values in parts.items():
        np.save(tmp_path / f"CSI1_{bold5000.BETAS}_allses_{name}.npy", values)
    responses = bold5000.load(tmp_path).responses
    np.testing.assert_allclose(responses.data, np.concatenate(list(parts.values()), axis=1), rtol=1e-6)
    assert list(responses.units["roi"]) == ["PPA"] * 4 + ["LOC"] * 4
    assert list(responses.units["hemisphere"].unique()) == ["left", "right"]
    np.save(tmp_path / f"CSI1_{bold5000.BETAS}_allses_LHPPA.npy", parts["LHPPA"][:70])
    with pytest.raises(DataError, match="70"):
        bold5000.load(tmp_path)


def test_bold5000_says_what_lacks(tmp_path: Path, made_recordings: ModuleType, made_fmri: ModuleType) -> None:
    (tmp_path / "a").mkdir()
    made_fmri.write_bold5000(made_recordings, tmp_path / "a")
    first = tmp_path / f"a/CSI1_{bold5000.BETAS}_ses-01.nii.gz"
    cases = {
        "session 1 is missing of CSI1; it has 2": lambda f: (f / first.name).unlink(),
        r"imgnames.txt is missing": lambda f: (f / "CSI1_imgnames.txt").unlink(),
        "has 40 lines, the betas 80 trials": lambda f: (f / "CSI1_imgnames.txt").write_text("x\n" * 40),
        "the betas' own affine is wrong": lambda f: (f / "CSI1_brainmask.nii.gz").unlink(),
        "cut short|ended before": lambda f: (f / first.name).write_bytes(first.read_bytes()[:-900]),
        "lacks 1 pictures": lambda f: next((f / "BOLD5000_Stimuli").rglob("*.jpg")).unlink(),
    }
    for number, (message, spoil) in enumerate(cases.items()):
        folder = Path(shutil.copytree(tmp_path / "a", tmp_path / str(number)))
        spoil(folder)
        if "affine" in message:
            with pytest.warns(UserWarning, match=message):
                bold5000.load(folder)
            continue
        with pytest.raises(DataError, match=message) as caught:
            bold5000.load(folder)
        assert "\n" not in str(caught.value)
    shifted = np.zeros(made_fmri.SIDE, np.uint8)
    shifted[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(shifted, made_fmri.AFFINE), tmp_path / "a/CSI1_brainmask.nii.gz")
    with pytest.warns(UserWarning, match="% of the voxels that have betas lie in the brain mask"):
        bold5000.load(tmp_path / "a")


@pytest.mark.filterwarnings("ignore:.*imagery")
@pytest.mark.parametrize("name", ["god", "deeprecon", "things_fmri", "bold5000"])
def test_facts_say_what_is_offered(tmp_path: Path, made_recordings: ModuleType, made_fmri: ModuleType, name: str) -> None:
    getattr(made_fmri, f"write_{name}")(made_recordings, tmp_path)
    recording = datasets.load(name, tmp_path)
    trials, offers = recording.responses.trials, set(datasets.facts(name)["offers"])
    assert {"train", "test"} == set(trials["split"])
    assert ("runs" in offers) == ("run" in trials.columns)
    assert ("coordinates" in offers) == ({"x", "y", "z"} <= set(recording.responses.units.columns))
    assert np.asarray(recording.stimuli.images[0]).shape == (24, 24, 3)
