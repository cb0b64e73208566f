"""fMRI of one's own in BIDS, and files of MOSAIC: what is read is what was written, and every mistake is one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.cifti2.cifti2_axes import BrainModelAxis, ScalarAxis
from PIL import Image

from brainlens import datasets
from brainlens.types import DataError, Surface, Volume

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
IDS = [f"set/{i:02d}" for i in range(10)]
SESSIONS = ("01", "02")


def stem(session: str) -> str:
    return f"sub-01/ses-{session}/func/sub-01_ses-{session}_task-view_run-1"


def write(root: Path) -> dict[str, np.ndarray]:
    """Two sessions of 10 trials on a grid of 3 x 3 x 2; returns the betas (trial, voxel) under the mask."""
    rng = np.random.default_rng(0)
    (root / "stimuli/set").mkdir(parents=True)
    for name in IDS:
        Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(root / "stimuli" / f"{name}.png")
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    mask = np.zeros((3, 3, 2), np.uint8)
    mask.ravel()[[1, 4, 5, 9]] = 1
    place = root / "derivatives/glm/sub-01"
    (place / "anat").mkdir(parents=True)
    nib.save(nib.Nifti1Image(mask, AFFINE), place / "anat/sub-01_space-T1w_desc-brain_mask.nii.gz")
    betas = {}
    for session in SESSIONS:
        (root / stem(session)).parent.mkdir(parents=True)
        (root / "derivatives/glm" / stem(session)).parent.mkdir(parents=True)
        order = rng.permutation(IDS)
        events = pd.DataFrame({"onset": 5.0 * np.arange(11), "duration": 2.0, "stim_file": [*(f"{n}.png" for n in order), "n/a"]})
        events["split"] = ["test" if name in IDS[:3] else "train" for name in order] + ["n/a"]
        events.to_csv(root / f"{stem(session)}_events.tsv", sep="\t", index=False)
        betas[session] = rng.normal(size=(10, 4)).astype(np.float32)
        values = np.zeros((3, 3, 2, 10), np.float32)
        values[mask > 0] = betas[session].T
        nib.save(nib.Nifti1Image(values, AFFINE), root / "derivatives/glm" / f"{stem(session)}_space-T1w_betas.nii.gz")
    return betas


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    root = tmp_path_factory.mktemp("bids") / "data"
    return root, write(root)


@pytest.fixture
def own(written: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[0], tmp_path / "own"))


def shown(root: Path) -> list[str]:
    tables = [pd.read_csv(root / f"{stem(s)}_events.tsv", sep="\t", keep_default_na=False) for s in SESSIONS]
    return [name.removesuffix(".png") for table in tables for name in table["stim_file"] if name != "n/a"]


def test_betas_stand_beside_the_pictures_of_their_events(written: tuple[Path, dict[str, np.ndarray]]) -> None:
    root, betas = written
    responses, stimuli = datasets.load("bids", root)
    np.testing.assert_allclose(responses.data, np.concatenate(list(betas.values())))
    assert responses.trials["stimulus"].tolist() == shown(root)
    assert responses.trials["session"].tolist() == ["01"] * 10 + ["02"] * 10
    assert responses.where(split="test").trials["stimulus"].nunique() == 3
    assert isinstance(responses.space, Volume)
    assert responses.trials["run"].unique().tolist() == ["01-view-1", "02-view-1"]
    assert stimuli.images[0].shape == (6, 6, 3)
    assert datasets.recognised(root) == "bids"


def as_gifti(root: Path, session: str, data: np.ndarray) -> None:
    for hemi, part in (("L", data[:, :10_242]), ("R", data[:, 10_242:])):
        image = nib.GiftiImage(darrays=[nib.gifti.GiftiDataArray(row, intent="NIFTI_INTENT_NONE") for row in part])
        nib.save(image, root / "derivatives/glm" / f"{stem(session)}_hemi-{hemi}_space-fsaverage5_betas.func.gii")


def as_mgh(root: Path, session: str, data: np.ndarray) -> None:
    for hemi, part in (("L", data[:, :10_242]), ("R", data[:, 10_242:])):
        image = nib.MGHImage(part.T[:, None, None, :], np.eye(4))
        nib.save(image, root / "derivatives/glm" / f"{stem(session)}_hemi-{hemi}_space-fsaverage5_betas.mgh")


@pytest.mark.parametrize("store", [as_gifti, as_mgh])
def test_surfaces_are_pairs_of_files(own: Path, store: Callable[[Path, str, np.ndarray], None]) -> None:
    data = {session: np.random.default_rng(int(session)).normal(size=(10, 20_484)).astype(np.float32) for session in SESSIONS}
    for path in own.rglob("*_betas.nii.gz"):
        path.unlink()
    for session in SESSIONS:
        store(own, session, data[session])
    responses = datasets.load("bids", own).responses
    np.testing.assert_allclose(responses.data, np.concatenate(list(data.values())))
    assert isinstance(responses.space, Surface)
    assert responses.space.mesh == "fsaverage5"
    assert responses.units["vertex"].tolist()[10_240:10_244] == [10_240, 10_241, 0, 1]


def cifti(path: Path, data: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    axes = [
        BrainModelAxis.from_surface(rows, 32_492, "CortexLeft" if side else "CortexRight")
        for side, rows in ((1, left), (0, right))
    ]
    image = nib.Cifti2Image(data, header=(ScalarAxis([str(i) for i in range(len(data))]), axes[0] + axes[1]))
    nib.save(image, path)


def test_cifti_betas(own: Path) -> None:
    left, right = np.array([0, 5, 9]), np.array([2, 7])
    data = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    for path in own.rglob("*_betas.nii.gz"):
        path.unlink()
    for k, session in enumerate(SESSIONS):
        place = own / "derivatives/glm" / f"{stem(session)}_space-fsLR_betas.dscalar.nii"
        cifti(place, data[10 * k : 10 * k + 10], left, right)
    responses = datasets.load("bids", own).responses
    np.testing.assert_allclose(responses.data, data)
    assert responses.units["vertex"].tolist() == [0, 5, 9, 2, 7]


def test_runs_without_betas_are_read_some_seconds_after_each_onset(own: Path) -> None:
    """Each voxel rises by the trial's number 5 s after its onset, for one volume; the estimate is that volume in the run's z."""
    for path in own.rglob("*_betas.nii.gz"):
        path.unlink()
    rng = np.random.default_rng(0)
    inside = np.asarray(nib.load(next(own.rglob("*_mask.nii.gz"))).dataobj) > 0
    for session in SESSIONS:
        size = rng.normal(size=(10, 4))
        bold = np.zeros((60, 4))
        bold[5 + 5 * np.arange(10)] = size
        values = np.zeros((3, 3, 2, 60), np.float32)
        values[inside] = 100 + bold.T
        place = own / "derivatives/glm" / f"{stem(session)}_space-T1w_desc-preproc_bold"
        nib.save(nib.Nifti1Image(values, AFFINE), f"{place}.nii.gz")
        Path(f"{place}.json").write_text(json.dumps({"RepetitionTime": 1.0}))
        if session == "01":
            first = size
    responses = datasets.load("bids", own, delay=(4.5, 5.5)).responses
    for voxel in range(4):
        assert np.corrcoef(responses.data[:10, voxel], first[:, voxel])[0, 1] > 0.99
    with pytest.raises(DataError, match="no volume lies 400 to 500 s after"):
        datasets.load("bids", own, delay=(400.0, 500.0))


BAD: list[tuple[str, Callable[[Path], object], dict[str, object], str]] = [
    ("no description", lambda f: (f / "dataset_description.json").unlink(), {}, "dataset_description.json is missing"),
    ("no subject", lambda f: [shutil.rmtree(f / n) for n in ("sub-01", "derivatives")], {}, "has no folder sub-"),
    ("another subject", lambda f: None, {"subject": "7"}, "subject '7' is not found; .* has 01"),
    ("no derivatives", lambda f: shutil.rmtree(f / "derivatives"), {}, r"no betas .* and no preprocessed runs"),
    ("raw runs alone", lambda f: shutil.rmtree(f / "derivatives") or (f / f"{stem('01')}_bold.nii.gz").touch(), {},
     "raw runs are found: preprocess them first"),
    ("no events", lambda f: (f / f"{stem('02')}_events.tsv").unlink(), {}, "ses-02_task-view_run-1_events.tsv are not in"),
    ("another column", lambda f: (f / f"{stem('01')}_events.tsv").write_text("onset\timage\n1\ta\n"), {},
     "has no column 'stim_file'"),
    ("a column that is not there", lambda f: None, {"stimulus": "image"}, "no column 'image'; .*--option stimulus=COLUMN"),
    ("two pictures of one name", lambda f: Image.new("RGB", (4, 4)).save(f / "stimuli/set/00.jpg") or on_events(
        f, SESSIONS[:1], lambda t: t.replace("set/00.png", "set/00.jpg")), {}, "'set/00' is of set/00.jpg and of set/00.png"),
    ("two files of a run", lambda f: shutil.copytree(f / "derivatives/glm", f / "derivatives/other"), {},
     "derivatives/glm/.*_betas.nii.gz and derivatives/other/.* are of one run; choose by --option file=PART"),
    ("a part of no path", lambda f: None, {"file": "glmsingle/"}, "no path of 2 files holds file='glmsingle/'"),
    ("EEG", lambda f: shutil.rmtree(f / "derivatives") or (f / "sub-01/eeg").mkdir() or (f / "sub-01/eeg/sub-01_eeg.edf").touch(),
     {}, "has EEG or MEG, which is read by --dataset epochs --data .*sub-01/eeg"),
    ("no picture named", lambda f: pd.DataFrame({"onset": [1], "stim_file": ["n/a"]}).to_csv(
        f / f"{stem('01')}_events.tsv", sep="\t"), {}, "no line names a stim_file"),
    ("fewer events", lambda f: pd.read_csv(f / f"{stem('01')}_events.tsv", sep="\t").head(9).to_csv(
        f / f"{stem('01')}_events.tsv", sep="\t", index=False), {}, "has 10 betas, its events name 9 pictures"),
    ("a picture without a file", lambda f: (f / "stimuli/set/04.png").unlink(), {}, "1 of 10 stimuli have no file, first"),
    ("two spaces", lambda f: shutil.copy(next(f.rglob("*ses-01*_betas.nii.gz")), f / "derivatives/glm"
     / f"{stem('01')}_space-MNI_betas.nii.gz"), {}, "in the spaces MNI, T1w; choose one by --option space=NAME"),
    ("cut short", lambda f: (p := next(f.rglob("*_betas.nii.gz"))).write_bytes(p.read_bytes()[:200]), {}, "fetch it again"),
    ("another grid", lambda f: nib.save(nib.Nifti1Image(np.ones((2, 2, 2), "u1"), AFFINE), next(f.rglob("*_mask.nii.gz"))), {},
     "resample one of them"),
    ("no json", lambda f: (f / "dataset_description.json").write_text("{"), {}, "is not valid JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "options", "match"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_mistakes_are_one_line(own: Path, spoil: Callable[[Path], object], options: dict[str, object], match: str) -> None:
    spoil(own)
    with pytest.raises(DataError, match=match) as caught:
        datasets.load("bids", own, **options)
    assert len(str(caught.value).splitlines()) == 1


def on_events(root: Path, sessions: tuple[str, ...], change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    for session in sessions:
        path = root / f"{stem(session)}_events.tsv"
        change(pd.read_csv(path, sep="\t", keep_default_na=False)).to_csv(path, sep="\t", index=False)


def test_pictures_are_found_by_what_people_write_of_them(own: Path) -> None:
    usual = datasets.load("bids", own)
    for how in (lambda name: f"stimuli/{name}", lambda name: f"stimuli\\{name}".replace("/", "\\")):
        root = Path(shutil.copytree(own, own.parent / f"own{len(how(''))}{how('')[-1] == '/'}"))
        files = {f"{name}.png": how(f"{name}.png") for name in IDS}
        on_events(root, SESSIONS, lambda table, files=files: table.replace(files).rename(columns={"stim_file": "image"}))
        found = datasets.load("bids", root, stimulus="image")
        assert found.responses.trials["stimulus"].tolist() == [f"stimuli/{name}" for name in usual.responses.trials["stimulus"]]
        np.testing.assert_array_equal(found.responses.data, usual.responses.data)
        for one, other in zip(found.stimuli.images, usual.stimuli.images, strict=True):
            np.testing.assert_array_equal(one, other)


def test_of_several_files_of_a_run_one_is_chosen_by_its_path(own: Path) -> None:
    shutil.copytree(own / "derivatives/glm", own / "derivatives/other")
    for path in (own / "derivatives/other").rglob("*_betas.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(2 * image.get_fdata(), image.affine), path)
    one, other = (datasets.load("bids", own, file=part).responses.data for part in ("glm/", "other/"))
    np.testing.assert_allclose(other, 2 * one, rtol=1e-6)


def test_events_beside_the_betas_go_before_those_of_the_raw_runs(own: Path) -> None:
    """A GLM leaves trials out, whose events stand with its betas."""
    raw = own / f"{stem('01')}_events.tsv"
    table = pd.read_csv(raw, sep="\t", keep_default_na=False)
    shutil.copy(raw, own / "derivatives/glm" / f"{stem('01')}_events.tsv")
    pd.concat([table.head(3), table]).to_csv(raw, sep="\t", index=False)
    assert len(datasets.load("bids", own).responses) == 20


def test_the_mask_is_the_brain_on_the_grid_of_the_images(own: Path) -> None:
    """fMRIPrep writes a mask of the anatomy in finer voxels, and masks of tissue."""
    (path,) = own.rglob("*_mask.nii.gz")
    betas = datasets.load("bids", own).responses.data
    shutil.copy(path, own / "derivatives/glm" / f"{stem('01')}_space-T1w_desc-brain_mask.nii.gz")
    tissue = np.zeros((3, 3, 2), np.uint8)
    tissue[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(tissue, AFFINE), path.with_name("sub-01_space-T1w_desc-a_mask.nii.gz"))
    nib.save(nib.Nifti1Image(np.ones((9, 9, 6), np.uint8), AFFINE / 3), path)
    np.testing.assert_array_equal(datasets.load("bids", own).responses.data, betas)


def test_no_mask_is_said(own: Path) -> None:
    next(own.rglob("*_mask.nii.gz")).unlink()
    with pytest.warns(UserWarning, match="the 4 voxels that are not 0 are read"):
        assert datasets.load("bids", own).responses.data.shape == (20, 4)


# --- MOSAIC


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mosaic")
    with h5py.File(root / "sub-03_NSD.hdf5", "w") as file:
        group = file.create_group("betas")
        for i in range(6):
            shape = (91_282,) if i else (2, 91_282)
            group[f"image{i}"] = np.full(shape, i, np.float32)
    table = pd.DataFrame({"stimulus": [f"image{i}" for i in range(6)], "split": ["test", "test", *["train"] * 4]})
    table.to_csv(root / "stimuli.csv", index=False)
    return root


def test_a_file_of_mosaic_is_trials_by_cortex(mosaic: Path, tmp_path: Path) -> None:
    responses, stimuli = datasets.load("mosaic", mosaic)
    assert responses.data.shape == (7, 59_412)
    assert responses.trials["stimulus"].tolist() == ["image0", "image0", *(f"image{i}" for i in range(1, 6))]
    assert responses.data[:, 5].tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert responses.trials["split"].tolist() == ["test"] * 3 + ["train"] * 4
    assert (responses.units["hemisphere"] == "left").sum() == 29_696
    assert responses.space is None
    assert len(stimuli) == 6
    assert datasets.recognised(mosaic) == "mosaic"
    assert datasets.load("mosaic", mosaic, subject="3", source="nsd").responses.trials["subject"].iloc[0] == "03"
    other = Path(shutil.copytree(mosaic, tmp_path / "m"))
    cifti(other / "any.dscalar.nii", np.zeros((1, 59_412), np.float32), np.arange(29_696), np.arange(29_716))
    space = datasets.load("mosaic", other).responses.space
    assert isinstance(space, Surface)
    assert space.mesh == "fs_LR_32k"


@pytest.mark.parametrize(
    ("spoil", "options", "match"),
    [
        (lambda f: (f / "sub-03_NSD.hdf5").unlink(), {}, "holds no file sub-NAME_DATASET.hdf5"),
        (lambda f: (p := f / "sub-03_NSD.hdf5").write_bytes(p.read_bytes()[:100_000]), {}, "is cut short or damaged"),
        (lambda f: None, {"group": "beta"}, r"has no group 'beta'; it has \['betas'\]"),
        (lambda f: None, {"subject": "9"}, "subject '9' is not found; .* has 03"),
        (lambda f: None, {"source": "GOD"}, "source 'GOD' is not found; .* has NSD"),
        (lambda f: shutil.copy(f / "sub-03_NSD.hdf5", f / "sub-03_GOD.hdf5"), {}, "GOD, NSD; choose one by --option source=NAME"),
        (lambda f: (f / "stimuli.csv").write_text("stimulus,split\nimage0,test\n"), {}, "lacks 5 stimuli of .*first 'image1'"),
        (lambda f: h5py.File(f / "sub-03_NSD.hdf5", "a")["betas"].create_dataset("x", data=np.zeros(5)).file.close(), {},
         "91,282 grayordinates are expected"),
        (lambda f: h5py.File(f / "sub-03_NSD.hdf5", "w").create_group("betas").file.close(), {}, "holds no stimulus"),
    ],
)  # fmt: skip
def test_mistakes_of_mosaic_are_one_line(
    mosaic: Path, tmp_path: Path, spoil: Callable[[Path], object], options: dict[str, object], match: str
) -> None:
    own = Path(shutil.copytree(mosaic, tmp_path / "m"))
    spoil(own)
    with pytest.raises(DataError, match=match) as caught:
        datasets.load("mosaic", own, **options)
    assert len(str(caught.value).splitlines()) == 1
