"""NSD-synthetic and NSD-Imagery as test sets for models of NSD's own pictures, in the layout of the bucket, in small."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from typer.testing import CliRunner

from brainlens import store
from brainlens.cli import app
from brainlens.datasets import nsd, nsd_further
from brainlens.datasets.source import standardised
from brainlens.types import DataError

SYNTHETIC, IMAGERY = 744, 720
LETTERS = tuple("LVHRUD")


@pytest.fixture(autouse=True)
def short_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsd, "TRIALS", 60)
    monkeypatch.setattr(nsd, "RUN_TRIALS", (5,) * 12)
    monkeypatch.setattr(nsd, "SESSIONS", (2,) * 8)


@pytest.fixture(scope="module")
def folder(made_recordings: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beta k of an experiment is k in every voxel, plus some noise that tells voxels apart."""
    place = tmp_path_factory.mktemp("nsd")
    made_recordings.write_nsd(place)
    rng = np.random.default_rng(0)
    for name, count in (("nsdsynthetic", SYNTHETIC), ("nsdimagery", IMAGERY)):
        betas = place / f"nsddata_betas/ppdata/subj01/func1pt8mm/{name}betas_fithrf_GLMdenoise_RR"
        betas.mkdir(parents=True)
        values = np.arange(count) + rng.integers(0, 2, (*made_recordings.GRID, count))
        nib.save(nib.Nifti1Image(values.astype("i2"), made_recordings.AFFINE), betas / f"betas_{name}.nii.gz")
    design = place / "nsddata/experiments/nsdsynthetic"
    design.mkdir(parents=True)
    savemat(design / "nsdsynthetic_expdesign.mat", {"masterordering": (np.arange(SYNTHETIC)[None] * 7) % 284 + 1})
    bricks = place / "nsddata_stimuli/stimuli/nsdsynthetic"
    bricks.mkdir(parents=True)
    for file, count, first in (("stimuli", 220, 0), ("colorstimuli_subj01", 64, 220)):
        with h5py.File(bricks / f"nsdsynthetic_{file}.hdf5", "w") as handle:
            numbers = (first + np.arange(count)) % 256
            handle["imgBrick"] = np.broadcast_to(numbers[:, None, None, None], (count, 8, 8, 3)).astype("u1")
    tables = place / "nsddata/bdata/nsdimagery"
    tables.mkdir(parents=True)
    targets = place / "nsddata/experiments/nsdimagery/rawtargetimages"
    for letter, names in (("A", LETTERS), ("B", [f"shared{k:04d}" for k in range(6)])):
        for run in (f"vis{letter}", f"img{letter}_1", f"img{letter}_2"):
            rows = "\n".join(f"{names[k % 6]}\t{k}" for k in range(48))
            (tables / f"nsdimagery_subj01_{run}.tsv").write_text(f"CONDITION\tTRIAL\n{rows}\n")
        (targets / f"set{letter}").mkdir(parents=True)
        for k, name in enumerate(names):
            file = f"{name}.png" if letter == "A" else f"{name}_nsd{k:05d}.png"
            Image.fromarray(np.full((8, 8, 3), 40 * k, np.uint8)).save(targets / f"set{letter}" / file)
    return place


@pytest.fixture
def opened(folder: Path):
    def load(tests: str, **more: object):
        with pytest.warns(UserWarning, match=f"trials of shared images are left out, the test is {tests}"):
            return nsd.load(folder, tests=tests, captions=None, **more)

    return load


def test_synthetic_pictures_are_the_test_of_a_model_of_photographs(opened) -> None:
    recording = opened("synthetic", zscore="none")
    trials = recording.responses.trials
    test = (trials["split"] == "test").to_numpy()
    assert test.sum() == SYNTHETIC
    assert not trials["stimulus"][~test].str.startswith("synthetic").any()
    assert trials["stimulus"][test].iloc[3] == "synthetic-021"
    assert np.abs(300 * recording.responses.data[test][3] - 3.5).max() <= 0.51  # beta 3
    names = list(recording.stimuli.ids)
    picture = recording.stimuli.images[names.index("synthetic-100")]
    assert set(np.unique(picture)) == {round(255 * (100 / 255) ** 0.5)}
    coloured = recording.stimuli.images[names.index("synthetic-225")]
    assert set(np.unique(coloured)) == {round(255 * (225 / 255) ** 0.5)}


def test_a_session_of_its_own_is_z_scored_by_its_own_trials(opened) -> None:
    responses = opened("synthetic").responses
    test = (responses.trials["split"] == "test").to_numpy()
    np.testing.assert_allclose(responses.data[test].mean(axis=0), 0, atol=1e-4)
    with pytest.warns(UserWarning, match="1 of 3 sessions hold fewer than 2 training trials"):
        found = standardised(responses)
    np.testing.assert_allclose(found.data[test], responses.data[test], atol=1e-4)


@pytest.mark.parametrize(
    ("tests", "runs"),
    [("vision", {"visA": 0, "visB": 192}), ("imagery", {"imgA_1": 144, "imgA_2": 576, "imgB_1": 336, "imgB_2": 624})],
)
def test_imagery_finds_the_betas_of_its_runs(opened, tests: str, runs: dict[str, int]) -> None:
    """The order of the runs is that of the experiment, and each trial of an attention run has two betas."""
    recording = opened(tests, zscore="none")
    trials = recording.responses.trials
    test = (trials["split"] == "test").to_numpy()
    assert test.sum() == 48 * len(runs)
    for run, first in runs.items():
        rows = np.flatnonzero(test & (trials["run"] == run).to_numpy())
        assert np.abs(300 * recording.responses.data[rows].mean(axis=1) - first - np.arange(48) - 0.5).max() < 0.3
        assert trials["stimulus"][rows[1]] == ("imagery-A-V" if "A" in run else "imagery-B-shared0001")
    names = list(recording.stimuli.ids)
    assert recording.stimuli.images[names.index("imagery-A-H")].max() == 80
    assert recording.stimuli.images[names.index("imagery-B-shared0003")].max() == 120


@pytest.mark.filterwarnings("default")
def test_verbs_run_on_pictures_of_another_experiment(folder: Path, tmp_path: Path) -> None:
    given = ["--dataset", "nsd", "--data", str(folder), "--runs", str(tmp_path), "--option", "tests=vision"]
    for verb in (["encode", *given], ["align", *given, "--encoder", "ridge", "--captions", "none"]):
        found = CliRunner().invoke(app, verb)
        if found.exception is not None:
            raise found.exception
    (encoded,), (aligned,) = tmp_path.glob("encode-*"), tmp_path.glob("align-*")
    assert store.load_result(encoded).metrics["encoding/images_test"] == 12
    assert len(store.load_result(aligned).arrays["ids"]) == 12
    with pytest.raises(DataError, match=r"have none that is not empty.*--captions none"):
        raise CliRunner().invoke(app, ["align", *given, "--encoder", "ridge"]).exception or AssertionError("it ran")


def test_what_lacks_is_one_line(folder: Path, opened, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tests='imagined' is not one of shared, synthetic, vision, imagery"):
        nsd.load(folder, tests="imagined")
    with pytest.raises(DataError, match=r"nsdsynthetic_expdesign.mat is missing"):
        nsd_further.further_trials(tmp_path, 1, "synthetic")
    with pytest.raises(DataError, match=r"nsdimagery_subj02_visA.tsv is missing"):
        nsd_further.further_trials(folder, 2, "vision")
    with pytest.raises(DataError, match="holds 700 betas, nsdimagery has 720"):
        nsd_further.check_betas(folder, 700, "imagery")
    picture = folder / "nsddata/experiments/nsdimagery/rawtargetimages/setA/L.png"
    picture.rename(picture.with_name("left.png"))
    with pytest.raises(DataError, match=r"condition 'L' of set A has 0 pictures among .*; write pictures.csv"):
        opened("vision").stimuli.images[-1]
    (picture.parents[2] / "pictures.csv").write_text("condition,file\nL,rawtargetimages/setA/left.png\n")
    assert opened("vision").stimuli.images[-1].shape == (8, 8, 3)
